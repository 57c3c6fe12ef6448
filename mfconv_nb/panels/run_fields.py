"""The converter's fields for a training run: which of several checkpoints in a folder, which step, and where its strategy files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as W

from mfconv_nb.core.report import table_html
from mfconv_nb.runs.run import TrainedRun
from mfconv_nb.steps.inspecting.diagnosis import Diagnosis

NEWEST = ("the newest that is whole", "")
ONE_OF = ("several lie here: choose one", "/")  # no file name holds a slash, and "" is a prefix too
FIELD = W.Layout(width="auto")
LABEL = {"description_width": "140px"}  # "num_routed_experts"
UNDER = W.Layout(width="auto", margin="2px 2px 2px 150px")  # in line with the fields


class RunFields(W.VBox):
    """The fields of a run, hidden for anything else. ``on_change`` is called when the user changes one."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._is_filling = False  # the values come from ``fill`` and not from the user
        self.file_prefix = W.Dropdown(description="file prefix", options=[ONE_OF], style=LABEL, layout=W.Layout(width="auto"))
        self.step = W.Dropdown(description="step", style=LABEL, layout=W.Layout(width="auto"))
        self.strategy = text_field("strategy", "the folder of the strategy files, where they are not beside the ranks")
        self.steps = W.HTML(layout=UNDER)
        super().__init__([self.file_prefix, self.step, self.strategy, self.steps])
        self.file_prefix.observe(lambda _: self._choose_prefix(), "value")
        for field in (self.strategy, self.step):
            field.observe(lambda _: self._tell_change(), "value")

    def arguments(self) -> dict[str, Any]:
        """The values as arguments of ``load``."""
        values = {"step": self.step.value, "strategy": self.strategy.value.strip()}
        prefix = {} if self.file_prefix.value == ONE_OF[1] else {"file_prefix": self.file_prefix.value}
        return {name: value for name, value in values.items() if value} | prefix

    def clear(self) -> None:
        """Forget everything about the last run."""
        with self._filling():
            self.strategy.value = ""
            self.step.options, self.file_prefix.options = [NEWEST], [ONE_OF]
        self.fill(None)

    def fill(self, found: Diagnosis | None) -> None:
        """Offer the steps of a run, and choose the one that is read."""
        run, steps = (found.run, found.steps_table()) if found is not None else (None, None)
        with self._filling():
            prefixes = [choice["file_prefix"] for choice in found.choices if "file_prefix" in choice] if found is not None else []
            if prefixes:
                self.file_prefix.options = [ONE_OF, *((prefix or "(none)", prefix) for prefix in prefixes)]
            if run is not None:
                wanted, choices = self.step.value, _step_choices(run)
                read = str(run.chosen) if run.chosen is not None else wanted or ""
                self.step.options = choices if read in dict(choices).values() else [NEWEST, *choices]
                self.step.value = read
        self.steps.value = table_html(steps) if steps is not None else ""
        has_prefixes = len(self.file_prefix.options) > 1
        self.file_prefix.layout.display = None if has_prefixes else "none"
        self.step.layout.display = None if run is not None else "none"
        self.layout.display = None if run is not None or has_prefixes or self.strategy.value.strip() else "none"

    def _choose_prefix(self) -> None:
        """Open another one of the checkpoints in a folder, which has steps of its own."""
        if not self._is_filling:
            with self._filling():
                self.step.options = [NEWEST]
            self._on_change()

    def _tell_change(self) -> None:
        if not self._is_filling:
            self._on_change()

    @contextmanager
    def _filling(self) -> Iterator[None]:
        self._is_filling = True
        try:
            yield
        finally:
            self._is_filling = False


def text_field(label: str, hint: str) -> Any:
    return W.Text(description=label, placeholder=hint, continuous_update=False, style=LABEL, layout=FIELD)


def _step_choices(run: TrainedRun) -> list[tuple[str, str]]:
    """Every step, the newest first, and on how many ranks it is if some lack it."""
    steps = sorted({step for had in run.steps.values() for step in had}, reverse=True)
    counts = {step: sum(step in had for had in run.steps.values()) for step in steps}
    return [(f"{s}" + (f" (on {counts[s]:,} of {len(run.steps):,} ranks)" if counts[s] < len(run.steps) else ""), str(s)) for s in steps]
