"""What a notebook's view of a diff shows: per row its tensors, per tensor both sides, and how their values differ."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from typing import Any

from mfconv_nb.core.checkpoint import LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.folding import fold
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Table, bytes_text, how_many, name_html, prose_html, shape_text
from mfconv_nb.steps.comparing.diff_rows import EQUAL, Differences, DiffRow
from mfconv_nb.streaming.compare import differences_in_words
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.values import bytes_to_read, heatmap_html, values_html


class DifferenceExploration(Exploration):
    """The names of two checkpoints by status. With both at hand, the values of every pair can be looked at."""

    def __init__(self, differences: Differences, table: Table) -> None:
        """``table`` has one row for each of the groups of ``differences``."""
        self.differences, self.table = differences, table
        self.counts, self.groups = differences.counts, differences.groups
        self.statuses = [rows[0].status for rows in self.groups]
        self.sort_keys = [_sort_key(line, rows) for line, rows in zip(table.rows, self.groups, strict=True)]

    @cached_property
    def _rows(self) -> Mapping[str, DiffRow]:
        return {row.name: row for row in self.differences.entries}

    def members(self, row: int) -> Sequence[str]:
        return [each.name for each in self.groups[row]]

    def overview(self) -> str:
        if self.differences.equal and self.differences.values:
            return f"<div>{how_many(len(self.differences.entries), 'tensor')} bitwise equal: there is no difference to draw.</div>"
        return difference_map(self.differences)

    def inspect(self, row: int, member: str) -> str:
        here = self._rows[member]
        parts = [f"<div>{name_html(here.name)}</div>"]
        sides = ((self.differences.first, here.first), (self.differences.second, here.second))
        parts += [f"<div class='mfconv-f'>{prose_html(side)}</div><div>{_spec_html(spec, here)}</div>" for side, spec in sides]
        note = here.hint or str(self.table.rows[row][-1])
        if note:
            parts.append(f"<div class='mfconv-f'>{prose_html(note)}</div>")
        if here.comparison is not None:
            parts.append(f"<div>{_values_line(here)}</div>")
        return "".join(parts)

    def nbytes(self, member: str, sample: bool) -> int:
        return bytes_to_read(self._tensors(member), sample)

    def measure(self, member: str, sample: bool, progress: OnProgress, stop: threading.Event) -> str:
        compared = not sample and self._rows[member].comparison is not None  # and said by ``inspect``
        return values_html(self._tensors(member), sample, progress, stop, compared=compared)

    def _tensors(self, member: str) -> list[LazyTensor]:
        """The tensor on both sides where the two can be compared; else the one that is there."""
        here = self._rows.get(member)
        if here is None or self.differences.sides is None or (here.first and here.second and here.first.shape != here.second.shape):
            return []
        return [side.tensors[member] for side in self.differences.sides if member in side.tensors]

    def code(self, row: int, member: str) -> str:
        return f"report.to_frame().set_index('name').loc[{member!r}]" if member else "report.to_frame()"


def _sort_key(line: tuple[Any, ...], rows: list[DiffRow]) -> list[Any]:
    """The cells; shapes by their elements, differences by their size."""
    elements = max(spec.elements for row in rows for spec in (row.first, row.second) if spec)
    worst = max((math.inf if row.comparison.spoilt else row.comparison.max_abs for row in rows if row.comparison), default=0.0)
    return [*line[:3], elements, line[4], worst, line[6]]


def _spec_html(spec: TensorSpec | None, row: DiffRow) -> str:
    """A side; axes that disagree with the other side are marked."""
    if spec is None:
        return "-"
    other = row.second if spec is row.first else row.first
    shape = shape_text(spec.shape)
    if other is not None and len(other.shape) == len(spec.shape):
        axes = [escape(str(n)) if n == m else f"<b class='mfconv-bad'>{n}</b>" for n, m in zip(spec.shape, other.shape, strict=True)]
        shape = " × ".join(axes) or "()"
    return f"{shape} · {short_name(spec.dtype)} · {bytes_text(spec.nbytes)}"


def _values_line(row: DiffRow) -> str:
    assert row.comparison is not None
    if row.comparison.equal_bytes or row.status == EQUAL:
        return "Bitwise equal."
    c = row.comparison
    return f"{c.differing:,} of {c.elements:,} numbers differ: {', '.join(differences_in_words([c], 'at most {}'))}."


def difference_map(differences: Differences) -> str:
    """The largest difference of every layer and kind of tensor as a picture; empty where nothing differs or nothing was compared.

    A tensor with NaN or infinity on one side only is at the top of the scale.
    """
    cells: dict[tuple[str, str], float] = {}
    for row in differences.entries:
        if row.comparison is not None:
            template, numbers = fold(row.name)
            key = (template.replace("\\#", "#"), str(numbers[0]) if numbers else "-")
            cells[key] = max(cells.get(key, 0.0), math.inf if row.comparison.spoilt else row.comparison.max_abs)
    return heatmap_html(cells) if any(cells.values()) else ""
