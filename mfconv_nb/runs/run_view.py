"""The view of a training run in a notebook: which rank has which step, how every kind of tensor is cut, and its slice map."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.folding import fold, folded_name, index_ranges
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Column, grid_html, note_html, shape_text
from mfconv_nb.mapping.kinds import CATEGORIES, Kind, category_of
from mfconv_nb.runs.run import SlicedTensor, TrainedRun
from mfconv_nb.runs.slices import Box
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.values import bytes_to_read, values_html

MOST_RANKS = 12  # rows of the table of ranks and steps


class RunExploration(Exploration):
    """The tensors of a run; those of all layers that are cut alike and lie on the same ranks share a row."""

    def __init__(self, run: TrainedRun, asked: Mapping[str, str]) -> None:
        self.run, self.asked = run, asked
        kinds: dict[tuple[object, ...], list[SlicedTensor]] = {}
        for tensor in run.tensors.values():
            kinds.setdefault(_row_key(tensor, run.told), []).append(tensor)
        self.kinds = sorted(kinds.values(), key=lambda found: CATEGORIES.index(category_of(found[0].name, run.told)))
        columns = [Column("tensor"), Column("whole shape"), Column("cut into"), Column("ranks")]
        columns += [*[Column("stage", numeric=True)] * run.has_stages, Column("category", optional=True)]
        lines = [_row_cells(found, run.has_stages, run.told) for found in self.kinds]
        self.table = replace(run.table(), columns=tuple(columns), rows=lines, row_noun="kinds of tensors")
        self.statuses = [category_of(found[0].name, run.told) for found in self.kinds]
        had = Counter(category_of(name, run.told) for name in run.tensors)
        self.counts = {category: had[category] for category in CATEGORIES if had[category]}
        self.sort_keys = [
            [line[0], found[0].shape, len(found[0].boxes), _ranks_of(found[0]), *line[4:]]
            for line, found in zip(lines, self.kinds, strict=True)
        ]

    @cached_property
    def _names(self) -> list[list[str]]:
        return [[tensor.name for tensor in found] for found in self.kinds]

    def members(self, row: int) -> Sequence[str]:
        return self._names[row]

    def above(self) -> str:
        return grid_html(self.run.table(MOST_RANKS), MOST_RANKS)

    def overview(self) -> str:
        return note_html("Choose a row to see which rank holds which part of a tensor.")

    def inspect(self, row: int, member: str) -> str:
        problem = self.run.tensors[member].problem()
        said = note_html(f"✗ {problem.found}; expected {problem.expected}") if problem is not None else ""
        return said + self.run.slice_map(member)._repr_html_()

    def nbytes(self, member: str, sample: bool) -> int:
        return bytes_to_read(self._wholes(member), sample)

    def measure(self, member: str, sample: bool, progress: OnProgress, stop: threading.Event) -> str:
        return values_html(self._wholes(member), sample, progress, stop)

    def _wholes(self, member: str) -> list[LazyTensor]:
        """The whole tensor; nothing where its slices do not make it up."""
        tensor = self.run.tensors[member]
        return [tensor.whole()] if not self.run.problems and tensor.problem() is None else []

    def code(self, row: int, member: str) -> str:
        words = ", ".join([repr(str(self.run.folder)), *(f"{name}={value!r}" for name, value in self.asked.items())])
        return f"mc.load({words}).run.slice_map({member!r})" if member else self.table.code


def _row_key(tensor: SlicedTensor, told: Mapping[str, Kind]) -> tuple[object, ...]:
    """What the tensors of a row share."""
    return (
        fold(tensor.name)[0],
        category_of(tensor.name, told),
        tensor.shape,
        tensor.dtype,
        tensor.stage,
        _ranks_of(tensor),
        _boxes_of(tensor),
    )


def _boxes_of(tensor: SlicedTensor) -> frozenset[tuple[int, Box]]:
    return frozenset((s.rank, s.box) for s in tensor.slices)


def _ranks_of(tensor: SlicedTensor) -> tuple[int, ...]:
    return tuple(sorted({s.rank for s in tensor.slices}))


def _row_cells(found: Sequence[SlicedTensor], with_stage: bool, told: Mapping[str, Kind]) -> tuple[object, ...]:
    first = found[0]
    name, ranks = folded_name(t.name for t in found), index_ranges(_ranks_of(first))
    return name, shape_text(first.shape), _cut_text(first), ranks, *([first.stage] * with_stage), category_of(first.name, told)


def _cut_text(tensor: SlicedTensor) -> str:
    """``4 of 1024 × 4096``; ``whole``"""
    boxes = tensor.boxes
    shapes = {box.shape for box in boxes}
    if len(boxes) == 1 and shapes == {tensor.shape}:
        return "whole"
    return f"{len(boxes):,}" + (f" of {shape_text(shapes.pop())}" if len(shapes) == 1 else "")
