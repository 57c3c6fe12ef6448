"""The outcome of a diff as text, table and view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import NearNames
from mfconv_nb.core.folding import fold, folded_name
from mfconv_nb.core.report import Column, Table, how_many, shape_text
from mfconv_nb.steps.comparing.diff_rows import MISSING, UNEXPECTED, Differences, DiffRow
from mfconv_nb.steps.comparing.diff_view import DifferenceExploration
from mfconv_nb.streaming.compare import Comparison, differences_in_words
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable


@dataclass(frozen=True, repr=False)
class DiffReport(Differences, Explorable):
    """The outcome of a diff; ``equal`` is true only when every name, shape, dtype and, if compared, every byte agrees."""

    def table(self) -> Table:
        counts = self.counts
        if not self.equal:
            verdict = "✗ Not equal."
        else:
            verdict = "✓ Equal." if self.values else "✓ Headers agree." if self.entries else "! Incomplete."
        said = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n) or "nothing to compare"
        facts: tuple[str, ...] = () if self.values else ("Names, shapes and dtypes were compared, values were not: values=True, --values.",)
        if self.values and self.sides is not None and all(c.history.published is not None and c.side != MF for c in self.sides):
            facts += ("Of codes and scales the numbers that they stand for count, not their bytes; scales of activations do not.",)
        if self.equal and self.entries:
            what = "bitwise equal" if self.values else "of the same name, shape and dtype"
            said = f"{len(self.entries):,} of {how_many(len(self.entries), 'tensor')} {what}"
        columns = (
            Column("status"),
            Column("name"),
            Column("tensors", True),
            Column("shape", True, optional=self.values),  # how far apart they are was asked for: the last column to go
            Column("dtype", optional=self.values),
            Column("difference", True, optional=not self.values),
            Column("note", optional=True),
        )
        return Table(verdict, f"{said} · {self.first} against {self.second}", columns, self._lines, facts, row_noun="rows")

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict a tensor."""
        return [_plain_row(r) for r in self.entries]

    def exploration(self) -> Exploration:
        """What a notebook's view of the diff shows."""
        return DifferenceExploration(self, self.table())

    @cached_property
    def _lines(self) -> list[tuple[Any, ...]]:
        """The rows of the table: kept, since a notebook shows view, HTML and text (0.4 s each for 92,000 names)."""
        hints = _NearNames(self.entries)
        return [_folded_line(rows, hints) for rows in self.groups]


class _NearNames:
    """For a missing name the most similar unexpected one, and the reverse; by template, so that many names stay quick."""

    def __init__(self, rows: tuple[DiffRow, ...]) -> None:
        self._other = {
            status: {fold(r.name)[0]: r.name for r in rows if r.status == other}
            for status, other in ((MISSING, UNEXPECTED), (UNEXPECTED, MISSING))
        }
        self._near = {status: NearNames(known) for status, known in self._other.items()}

    def hint(self, row: DiffRow) -> str:
        best = self._near[row.status].nearest(fold(row.name)[0]) if row.status in self._near else None
        return f"nearest: {self._other[row.status][best]}" if best else ""


def _both(a: Any, b: Any) -> str:
    return str(a) if a == b or b is None else str(b) if a is None else f"{a} / {b}"


def _folded_line(rows: list[DiffRow], hints: _NearNames) -> tuple[Any, ...]:
    first = rows[0]
    shape = _both(*(s and shape_text(s.shape) for s in (first.first, first.second)))
    dtype = _both(*(s and short_name(s.dtype) for s in (first.first, first.second)))
    worst = [r.comparison for r in rows if r.comparison and not r.comparison.equal_bytes]
    difference, *others = differences_in_words(worst) or [""]
    note = first.hint or hints.hint(first) or ", ".join(part for part in (*others, _special_values(worst)) if part)
    return (first.status, folded_name([r.name for r in rows]), len(rows), shape, dtype, difference, note)


def _special_values(worst: list[Comparison]) -> str:
    nan, inf = (tuple(sum(getattr(c, what)[side] for c in worst) for side in (0, 1)) for what in ("nan", "inf"))
    parts = [f"NaN {nan[0]:,} / {nan[1]:,}" if any(nan) else "", f"inf {inf[0]:,} / {inf[1]:,}" if any(inf) else ""]
    return ", ".join(p for p in parts if p)


def _plain_row(r: DiffRow) -> dict[str, Any]:
    c = r.comparison
    return {
        "name": r.name,
        "status": r.status,
        "shape_first": r.first.shape if r.first else None,
        "shape_second": r.second.shape if r.second else None,
        "dtype_first": r.first.dtype if r.first else None,
        "dtype_second": r.second.dtype if r.second else None,
        "equal_bytes": c.equal_bytes if c else None,
        "differing": c.differing if c else None,
        "max_abs": c.max_abs if c else None,
        "max_ulp": c.max_ulp if c else None,
        "nan_first": c.nan[0] if c else None,
        "nan_second": c.nan[1] if c else None,
        "inf_first": c.inf[0] if c else None,
        "inf_second": c.inf[1] if c else None,
        "first_difference": c.first_difference if c else None,
        "hint": r.hint,
    }
