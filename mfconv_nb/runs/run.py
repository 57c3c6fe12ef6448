"""A training run as data: which rank has which steps, how every tensor lies in slices, and what is wrong.

``rank_folders`` and ``iteration_folders`` open the two kinds of folder; both return a ``TrainedRun``. Refusals have one style: a file or an
argument that cannot be used raises at once; what makes the run no whole checkpoint is listed in its ``problems``, and raised in one place,
``opening.join_slices``. Functions named ``…_error`` make an error for either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from mfconv_nb.core.blocks import Shape, compose
from mfconv_nb.core.checkpoint import Equality, LazyTensor, OtherEntry, TensorSpec
from mfconv_nb.core.errors import InputError, MappingError, MfconvError, UsageError, as_flags, did_you_mean, quote
from mfconv_nb.core.report import Column, Result, Table, how_many
from mfconv_nb.mapping.kinds import Kind, kinds_by_company
from mfconv_nb.runs.slice_map import SliceMap
from mfconv_nb.runs.slices import Box, Slicing, tiling_of

MAX_ROWS_OF_RANKS = 16  # of more ranks neighbours with the same steps share a row
MAX_STEPS = 12


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """When a checkpoint was written. In data sink mode MindFormers counts steps within an epoch; Checkpoint 2.0 has no epoch."""

    epoch: int | None
    step: int

    def __str__(self) -> str:
        return f"{self.step}" if self.epoch is None else f"{self.epoch}_{self.step}"


@dataclass(frozen=True, slots=True)
class Slice:
    """What one rank holds of a tensor: a box of it, as it lies in that rank's file."""

    rank: int
    box: Box
    tensor: LazyTensor


@dataclass(frozen=True, slots=True)
class SlicedTensor:
    """A tensor in slices.

    Attributes:
        shape: of the whole tensor.
        slices: every slice that was found, by rank.
        slicing: how the run cut it; None where the metadata list the boxes one by one.
        stage: the pipeline stage that has it; the first one where several have it.
    """

    name: str
    shape: Shape
    dtype: str
    slices: tuple[Slice, ...]
    slicing: Slicing | None = None
    stage: int = 0

    @property
    def boxes(self) -> dict[Box, tuple[Slice, ...]]:
        """The distinct boxes, each with all copies of it."""
        ordered = sorted(self.slices, key=lambda s: (s.box, s.rank))
        return {box: tuple(copies) for box, copies in groupby(ordered, key=lambda s: s.box)}

    def whole(self) -> LazyTensor:
        """One lazy tensor over the first copy of every box. The boxes must tile it."""
        pieces = []
        for box, (first, *_) in self.boxes.items():
            place = box.block(self.shape)
            for piece in first.tensor.pieces:
                blocks = compose(place, piece.block)
                assert blocks is not None, "a slice in a file is made of spans, and a box meets a span in boxes"
                pieces += [replace(piece, block=block) for block in blocks]
        return LazyTensor(TensorSpec(self.name, self.shape, self.dtype), tuple(pieces))

    def copies(self) -> Iterator[Equality]:
        """What must be equal, byte by byte: each further copy of a box and the first one."""
        for box, (first, *others) in self.boxes.items():
            for other in others:
                why = f"ranks {first.rank} and {other.rank} hold the same slice {box.text()}"
                hint = "One of them was written by another run or at another step."
                yield Equality(first.tensor.renamed(self.name), other.tensor.renamed(self.name), why, hint)

    def problem(self) -> MfconvError | None:
        """MFC113 where the slices do not make up the tensor, else None."""
        tiling = tiling_of(self.shape, self.boxes)
        if tiling.is_exact:
            return None
        if tiling.gaps:
            found = f"nothing for {tiling.gaps[0].text()}"
        elif tiling.overlaps:
            a, b = tiling.overlaps[0]
            found = f"{a.text()} and {b.text()}, which overlap"
        else:
            found = f"{tiling.outside[0].text()}, which leaves it"
        expected = f"slices that make up {list(self.shape)} exactly once"
        return InputError("MFC113", quote(self.name), found=found, expected=expected, hint=HINT_SLICES)


def check_prefix(prefix: str, known: Iterable[str], folder: Path) -> None:
    """Raises UsageError (MFC501) for a prefix that no file has."""
    names = sorted(set(known))
    if prefix not in names:
        found, expected = f"no file of {quote(prefix)} in {folder}", ", ".join(quote(p) for p in names[:8]) or "none: no file has one"
        raise UsageError("MFC501", "file_prefix", found=found, expected=expected, hint=did_you_mean(prefix, names) or HINT_PREFIX)


def several_prefixes_error(code: str, folder: Path, prefixes: Iterable[str], *, found: str, expected: str) -> InputError:
    """The error where the files of several checkpoints lie in one folder; its choices are the prefixes."""
    choices = prefix_choices(prefixes)
    said = " or ".join(map(as_flags, choices))
    error = InputError(code, folder, found=found, expected=expected, hint=f"Say which: {said} (file_prefix= in Python).")
    error.choices = choices
    return error


def prefix_choices(prefixes: Iterable[str]) -> tuple[Mapping[str, str], ...]:
    """For each prefix the argument that chooses it."""
    return tuple({"file_prefix": prefix} for prefix in sorted(prefixes))


HINT_PREFIX = "Give one of these, or leave --file_prefix out (file_prefix= in Python)."
HINT_SLICES = "A rank's file is missing, or the strategy files are those of another run."


@dataclass(frozen=True, repr=False)
class TrainedRun(Result):
    """A training run, opened at one step: headers only.

    Attributes:
        kind: "Checkpoint 2.0" or "rank folders (Checkpoint 1.0)".
        steps: for every rank the steps it has.
        chosen: the step that is read.
        tensors: every tensor of that step, weights and run state alike, by name.
        files: the files that are read.
        others: entries that are no tensors.
        of_optimizer: tensors that only files of the optimizer hold.
        absent: tensors that the run's metadata or strategy name and no file holds.
        problems: what makes it no whole checkpoint; while there are any, it is not merged.
        assumed: sentences on what no file says and the reader concluded.
        notes: sentences a reader should see.
        state: numbers of the run: epoch_num, global_step, loss_scale.
    """

    folder: Path
    kind: str
    steps: Mapping[int, tuple[Step, ...]]
    chosen: Step | None
    tensors: Mapping[str, SlicedTensor]
    files: tuple[Path, ...] = ()
    others: tuple[OtherEntry, ...] = ()
    of_optimizer: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()
    problems: tuple[MfconvError, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def told(self) -> Mapping[str, Kind]:
        """The kinds of tensors that only the other tensors of the run, or its files, tell."""
        return kinds_by_company(self.tensors, self.of_optimizer)

    def slice_map(self, name: str) -> SliceMap:
        """A picture of one tensor: which rank holds which box of it.

        Raises:
            MappingError: MFC309 for a name that the run does not have, with the nearest one.
        """
        if name not in self.tensors:
            expected, hint = "a tensor of this run", did_you_mean(name, self.tensors)
            raise MappingError("MFC309", quote(name), found="no tensor of this name", expected=expected, hint=hint)
        tensor = self.tensors[name]
        boxes = {box: tuple(s.rank for s in copies) for box, copies in tensor.boxes.items()}
        stage = tensor.stage if self.has_stages else None
        return SliceMap(name, tensor.shape, tensor.dtype, boxes, stage)

    def slices_in(self, folder: Path) -> Iterator[tuple[str, str, LazyTensor]]:
        """Every slice: the name of its tensor, its file as seen from ``folder``, and its numbers."""
        for tensor in self.tensors.values():
            for part in tensor.slices:
                source: Any = part.tensor.pieces[0].source
                yield tensor.name, Path(os.path.relpath(source.path, folder)).as_posix(), part.tensor

    @property
    def has_stages(self) -> bool:
        """True when the run has several pipeline stages."""
        return any(tensor.stage for tensor in self.tensors.values())

    def table(self, most_ranks: int = MAX_ROWS_OF_RANKS) -> Table:
        """Which rank has which step: a row per rank, a column per step, the chosen one marked.

        Of more than ``most_ranks``, neighbours with the same steps share a row; of many steps the newest are shown.
        """
        steps = _shown_steps(self)
        columns = (Column("rank", numeric=True), *(Column(f"{step}{' ←' * (step == self.chosen)}") for step in steps))
        rows = [(ranks, *("✓" if step in had else "–" for step in steps)) for ranks, had in _rank_rows(self.steps, most_ranks)]
        verdict = "✗ Not a whole checkpoint." if self.problems else ""
        chosen = f" · step {self.chosen}" if self.chosen is not None else ""
        headline = f"{self.kind} · {how_many(len(self.steps), 'rank')} · {how_many(len(self.tensors), 'tensor')}{chosen} · {self.folder}"
        facts = tuple(str(p).replace("\n", " ") for p in self.problems[:6]) + tuple(f"assumed: {a}" for a in self.assumed) + self.notes
        noun = "ranks" if len(rows) == len(self.steps) else "groups of ranks"
        return Table(verdict, headline, columns, rows, facts, row_noun=noun)


def _shown_steps(run: TrainedRun) -> list[Step]:
    steps = sorted({step for had in run.steps.values() for step in had})
    shown = steps[-MAX_STEPS:]
    return shown if run.chosen is None or run.chosen in shown else [run.chosen, *shown[1:]]


def _rank_rows(steps: Mapping[int, tuple[Step, ...]], most: int) -> list[tuple[int | str, tuple[Step, ...]]]:
    """A row per rank; of many ranks a row for neighbours with the same steps."""
    if len(steps) <= most:
        return [(rank, had) for rank, had in sorted(steps.items())]
    rows: list[tuple[int | str, tuple[Step, ...]]] = []
    for (_, had), group in groupby(enumerate(sorted(steps.items())), key=lambda item: (item[1][0] - item[0], item[1][1])):
        ranks = [rank for _, (rank, _) in group]  # a rank that is absent ends the group
        rows.append((ranks[0] if len(ranks) == 1 else f"{ranks[0]}‥{ranks[-1]}", had))
    return rows
