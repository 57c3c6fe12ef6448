"""What ``doctor`` says: what a path holds, what was seen of it, and what to run next. Data, and its pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.report import Column, Result, Table, json_text, table_html
from mfconv_nb.runs.run import TrainedRun

FINE, DECIDE, STOP, TOLD = "✓", "!", "✗", ""
VERDICTS = {STOP: "✗ Cannot be converted as it is.", DECIDE: "! Something is to be decided.", FINE: "✓ Ready."}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was seen: how it stands ("✓", "!" to be decided, "✗" in the way, or nothing), what it is about, and what was seen."""

    mark: str
    topic: str
    seen: str


@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """What a path holds, and what to do with it.

    Attributes:
        path: what was looked at.
        what: what it is, in a clause.
        findings: what was seen.
        commands: what to run next, in order. `OUT` stands for a name of your choice, `HF_DIR` for the folder of the original,
            `RUN.yaml` for the YAML of the run.
        run: the training run, where it is one: its table shows ranks and steps.
        loaded: the checkpoint, where it could be opened: what ``load`` gives.
        choices: where it could not, as the caller has to choose: for each choice the options that say it, and their values.
    """

    path: str
    what: str
    findings: tuple[Finding, ...]
    commands: tuple[str, ...]
    run: TrainedRun | None = None
    loaded: Checkpoint | None = None
    choices: tuple[Mapping[str, str], ...] = ()

    @property
    def ready(self) -> bool:
        """True when nothing stands in the way of a conversion, and nothing has to be decided."""
        return self.verdict == VERDICTS[FINE]

    @property
    def verdict(self) -> str:
        """The worst of what was seen, in a sentence."""
        marks = {f.mark for f in self.findings}
        return VERDICTS[next((mark for mark in (STOP, DECIDE) if mark in marks), FINE)]

    def table(self) -> Table:
        columns = (Column(""), Column("about"), Column("seen"))
        rows = [(f.mark, f.topic, f.seen) for f in self.findings]
        facts = tuple(f"next: {command}" for command in self.commands)
        return Table(self.verdict, f"{self.what} · {self.path}", columns, rows, facts, row_noun="findings")

    def steps_table(self) -> Table | None:
        """Which rank has which step, without what the findings say already; None where it is no training run."""
        if self.run is None or not self.run.steps:
            return None
        return replace(self.run.table(), verdict="", headline="Which rank has which step:", facts=())

    def to_json(self) -> str:
        """What it is, whether it is ready, the findings, the next commands; of a run the steps of every rank."""
        content: dict[str, Any] = {"path": self.path, "what": self.what, "ready": self.ready, "verdict": self.verdict}
        content |= {"next": self.commands, "findings": self.rows()}
        if self.run is not None:
            content["steps"] = {str(rank): [str(step) for step in had] for rank, had in self.run.steps.items()}
            content["step"] = None if self.run.chosen is None else str(self.run.chosen)
        return json_text(content)

    def _repr_html_(self) -> str:
        steps = self.steps_table()
        return super()._repr_html_() + (table_html(steps) if steps is not None else "")

    def _page_body(self) -> str:
        return self._repr_html_()
