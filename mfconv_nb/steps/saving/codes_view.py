"""What a notebook's view of weights from codes shows: per tensor what rounding did, its values, and scale and error of its blocks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Table, name_html, note_html
from mfconv_nb.core.rounding import Rounding
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.values import bytes_to_read, values_html


class CodesExploration(Exploration):
    """The tensors that are computed from codes. Where they are at hand, their values and blocks can be looked at."""

    def __init__(self, table: Table, rounding: Mapping[str, Rounding], tensors: Mapping[str, LazyTensor]) -> None:
        """``table`` has one row for each tensor: its name, its dtype, its status, and what was counted."""
        self.table, self.rounding, self.tensors = table, rounding, tensors
        self.names = [str(row[0]) for row in table.rows]
        self.statuses = [str(row[2]) for row in table.rows]
        self.counts = Counter(self.statuses)
        self.sort_keys = [[*row[:3], *self._counts_of(name)] for row, name in zip(table.rows, self.names, strict=True)]

    def _counts_of(self, name: str) -> tuple[float, ...]:
        found = self.rounding.get(name, Rounding())
        return found.inexact, found.largest, found.mean

    def members(self, row: int) -> Sequence[str]:
        return [self.names[row]]

    def overview(self) -> str:
        return note_html("Choose a row to see scale and error of its blocks.") if self.tensors else ""

    def inspect(self, row: int, member: str) -> str:
        found = self.rounding.get(member)
        return f"<div>{name_html(member)}</div>" + (note_html(found.in_words) if found is not None else "")

    def nbytes(self, member: str, sample: bool) -> int:
        return bytes_to_read(self._tensors(member), sample)

    def measure(self, member: str, sample: bool, progress: OnProgress, stop: threading.Event) -> str:
        return values_html(self._tensors(member), sample, progress, stop)

    def _tensors(self, member: str) -> list[LazyTensor]:
        return [self.tensors[member]] if member in self.tensors else []

    def code(self, row: int, member: str) -> str:
        return f"report.computed.blocks({member!r})" if member in self.tensors else "report.computed.to_frame()"
