"""What verify found: the conditions, the worst of them as the verdict, and every tensor that came back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mfconv_nb.core.report import Column, Table, seconds_text
from mfconv_nb.steps.comparing.conditions import CLOSE, FAIL, PASS, UNSURE, Condition
from mfconv_nb.steps.comparing.diff_report import DiffReport
from mfconv_nb.steps.comparing.diff_rows import DTYPE, EQUAL
from mfconv_nb.steps.comparing.diff_view import DifferenceExploration
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable

VERDICTS: dict[str, str] = {FAIL: "✗ Not equal.", UNSURE: "! Incomplete.", CLOSE: "≈ Close.", PASS: "✓ Equal."}
MARK: Callable[[str], str] = {PASS: "✓", CLOSE: "≈", FAIL: "✗", UNSURE: "!"}.__getitem__


@dataclass(frozen=True, repr=False)
class VerifyReport(Explorable):
    """What was checked, and the verdict: the worst outcome of all conditions.

    Attributes:
        conditions: what was checked, and what was seen.
        differences: every tensor that came back, against the original; None when only checksums were compared.
        changes: what the conversion dropped, tied, restored or cast, a line each.
    """

    conditions: tuple[Condition, ...]
    differences: DiffReport | None
    origin: str
    seconds: float
    changes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """The worst outcome: fail, unsure, close or pass."""
        return next(o for o in VERDICTS if any(c.outcome == o for c in self.conditions))

    @property
    def equal(self) -> bool:
        """True when every condition passed, bit for bit."""
        return self.outcome == PASS

    @property
    def passed(self) -> bool:
        """True when every condition passed, or is close because a cast rounded the numbers."""
        return self.outcome in (PASS, CLOSE)

    def exploration(self) -> Exploration:
        """What a notebook's view of the round trip shows: the conditions, and every tensor that came back.

        Raises:
            NotImplementedError: when only checksums were compared; then the conditions are all there is.
        """
        if self.differences is None:
            raise NotImplementedError
        table, compared = self.table(), self.differences.table()
        facts = tuple(f"{MARK(c.outcome)} {c.sentence} {c.seen}" for c in self.conditions) + table.facts
        return DifferenceExploration(self.differences, replace(compared, verdict=table.verdict, headline=table.headline, facts=facts))

    def _page_body(self) -> str:
        return super()._page_body() + (self.differences._page_body() if self.differences is not None else "")

    def table(self) -> Table:
        rows = [(MARK(c.outcome), c.sentence, c.seen) for c in self.conditions]
        columns = (Column(""), Column("condition"), Column("seen"))
        headline = f"{self.conditions[-1].seen} · {self.origin} · {seconds_text(self.seconds)}"
        if self.outcome in (FAIL, UNSURE):
            headline = f"{self.origin} · {seconds_text(self.seconds)}"
        facts = self.changes
        if self.differences is not None:
            bad = [r for r in self.differences.entries if r.status not in (EQUAL, DTYPE)]
            facts += tuple(f"{r.status}: {r.name}" for r in bad[:6])
            facts += (f"and {len(bad) - 6:,} more: .differences",) if len(bad) > 6 else ()
        return Table(VERDICTS[self.outcome], headline, columns, rows, facts, row_noun="conditions")
