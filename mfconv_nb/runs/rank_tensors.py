"""Join the slices of rank folders to whole tensors, as the strategy files say, over all ranks and pipeline stages.

Raises nothing for what one tensor lacks: problems are collected in ``Found``, so that a reader sees all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import InputError, MfconvError, on_one_line, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.kinds import is_run_state, weight_of
from mfconv_nb.runs.message_text import groups_text, names_text
from mfconv_nb.runs.run import HINT_SLICES, Slice, SlicedTensor
from mfconv_nb.runs.slices import Box, boxes_of, whole_shape
from mfconv_nb.runs.strategies import Stage, slicing_of

Held = Mapping[int, LazyTensor]  # by rank
Groups = Sequence[tuple[int, ...]]  # groups of ranks: a checkpoint needs one rank of each
Stages = Sequence[Stage]


@dataclass
class Found:
    """Collects what is found while the tensors of a step are joined.

    Attributes:
        absent: groups of ranks without a rank that is there.
        left_out: optimizer state that is not all there, with the ranks that would have it.
        as_weights, unexplained: state that no strategy names: taken as cut like its weight; or left out.
        foreign: by rank the tensors that the strategy gives to other stages.
        unknown: weights that no strategy names.
        stages_differ: tensors that two stages cut differently.
        opened: the ranks whose files are read.
    """

    tensors: dict[str, SlicedTensor] = field(default_factory=dict)
    problems: list[MfconvError] = field(default_factory=list)
    absent: dict[tuple[int, ...], None] = field(default_factory=dict)
    left_out: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    as_weights: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    foreign: dict[int, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    stages_differ: list[str] = field(default_factory=list)
    opened: frozenset[int] = frozenset()

    def add_contradiction(self, name: str, found: str, expected: str, code: str = "MFC113") -> None:
        """Add a problem of one tensor."""
        self.problems.append(InputError(code, quoted(name), found=found, expected=expected, hint=HINT_SLICES))


def join_by_strategy(home: Path, stages: Stages, held: Mapping[str, Held], found: Found, shapes: Mapping[str, Shape]) -> None:
    """Join every tensor that some rank holds, as the strategy files say, into ``found``.

    Raises:
        InputError: MFC114 where they name none of these tensors. What else does not fit is in ``found.problems``.
    """
    known = {name for stage in stages for name in stage.layouts}
    if not known & held.keys():
        hint = "They are of another run: give the right ones with --strategy."
        expected = f"tensors such as {quoted(next(iter(held), ''))}"
        some = names_text(sorted(known), 3) or "no tensor"
        raise InputError("MFC114", stages[0].path, found=some, expected=expected, hint=hint)
    for name, ranks in held.items():
        if name in known:
            _join_named(stages, name, ranks, found)
        elif (weight := weight_of(name)) in known:
            _join_as_weight(stages, name, weight, ranks, held.get(weight, {}), found)
        elif not _two_that_differ(ranks):
            found.tensors[name] = whole_on_ranks(name, ranks)
            if not is_run_state(name):
                found.unknown.append(name)
        elif is_run_state(name):
            found.unexplained.append(name)
        else:
            found.problems.append(_unnamed_slices_error(home, name, ranks))
    for name, tensor in found.tensors.items():
        if name in shapes and tuple(shapes[name]) != tensor.shape:
            said = f"as {on_one_line(str(stages[0].path))} says, from slices of {list(tensor.slices[0].tensor.shape)}"
            found.add_contradiction(name, f"{list(tensor.shape)}, {said}", f"{list(shapes[name])}, as the config says")


# ---- optimizer state and other tensors that no strategy names --------------------------------------------------------------------


def _join_as_weight(stages: Stages, name: str, weight: str, ranks: Held, of_weight: Held, found: Found) -> None:
    """Join optimizer state that no strategy names: cut as its weight where it has the weight's shape on every rank; else left out."""
    if all(r in of_weight and of_weight[r].shape == t.shape for r, t in ranks.items()):
        joined = Found(opened=found.opened)
        alike = tuple(replace(s, layouts={name: s.layouts[weight]}) for s in stages if weight in s.layouts)
        _join_named(alike, name, ranks, joined)
        if name in joined.tensors:
            found.tensors[name] = joined.tensors[name]
            found.as_weights += [name] if len(joined.tensors[name].boxes) > 1 else []
            return
    found.unexplained.append(name)


def _unnamed_slices_error(home: Path, name: str, ranks: Held) -> InputError:
    shown = f"{' and '.join(_two_that_differ(ranks))}, and no strategy file names it"
    expected = "a strategy file that says how it was cut"
    return InputError("MFC114", f"{quoted(name)} in {home}", found=shown, expected=expected, hint="Give the strategy files of this run.")


def _two_that_differ(ranks: Held) -> list[str]:
    """The first slice and the first one of another shape or dtype, as text: ``[4, 8] of F32 on rank 0``; empty where all are alike."""
    (a, first), *others = ranks.items()
    other = next(((r, t) for r, t in others if (t.shape, t.dtype) != (first.shape, first.dtype)), None)
    return [f"{list(t.shape)} of {t.dtype} on rank {rank}" for rank, t in ((a, first), other)] if other is not None else []


def whole_on_ranks(name: str, ranks: Held) -> SlicedTensor:
    """A tensor that is whole on every rank that has it."""
    first = next(iter(ranks.values()))
    box = Box((0,) * len(first.shape), first.shape)
    return SlicedTensor(name, first.shape, first.dtype, tuple(Slice(r, box, t) for r, t in sorted(ranks.items())))


# ---- tensors of the strategy -------------------------------------------------------------------------------------------------


def _join_named(stages: Stages, name: str, ranks: Held, found: Found) -> None:
    """Join a tensor that the strategy names, from the slices of all stages that have it."""
    having = [s for s in stages if name in s.layouts]
    if len(having) == 1 and (differing := _two_that_differ(ranks)):
        found.add_contradiction(name, ", ".join(differing), "slices of one shape")
        return
    for rank in ranks:
        if not any(rank in stage.ranks for stage in having):
            found.foreign.setdefault(rank, []).append(name)
    parts: list[tuple[Stage, SlicedTensor, tuple[Box, ...]]] = []
    for stage in having:
        mine = {r: t for r, t in ranks.items() if r in stage.ranks}
        if mine:
            sliced = _join_in_stage(stage, name, mine, found)
            if sliced is None:
                return
            parts.append((stage, *sliced))
    if parts:
        _join_stages(name, parts, found)
        return
    expected = f"on the ranks of stage {', '.join(str(s.number) for s in having)}, as {quoted(having[0].path.name)} says"
    found.add_contradiction(name, f"on rank {next(iter(ranks))}", expected, "MFC114")


def _join_in_stage(stage: Stage, name: str, ranks: Held, found: Found) -> tuple[SlicedTensor, tuple[Box, ...]] | None:
    """The slices of one stage, and the box of each of its ranks; None, and a problem, where they contradict the strategy."""
    if differing := _two_that_differ(ranks):
        found.add_contradiction(name, ", ".join(differing), "slices of one shape")
        return None
    layout = stage.layouts[name]
    a, first = next(iter(ranks.items()))
    slicing = slicing_of(layout, len(first.shape), stage.devices, f"{quoted(name)} in {stage.path}")
    if layout.split and first.shape[:1] != layout.split[:1]:
        shown = f"slices of {list(first.shape)} in the file of rank {a}"
        found.add_contradiction(name, shown, f"{how_many(layout.split[0], 'row')}, as {quoted(stage.path.name)} says")
        return None
    whole = whole_shape(slicing, first.shape)
    boxes = boxes_of(slicing, whole)
    slices = tuple(Slice(rank, boxes[rank - stage.first], tensor) for rank, tensor in ranks.items())
    return SlicedTensor(name, whole, first.dtype, slices, slicing, stage.number), boxes


def _join_stages(name: str, parts: Sequence[tuple[Stage, SlicedTensor, tuple[Box, ...]]], found: Found) -> None:
    """Join one tensor from its stages: all copies where they cut it alike, else those of the first complete stage."""
    _, tensor, boxes = parts[0]
    if any(p[1].shape != tensor.shape or p[1].dtype != tensor.dtype for p in parts):
        shown = " and ".join(f"{list(t.shape)} of {t.dtype} in stage {s.number}" for s, t, _ in parts[:4])
        found.add_contradiction(name, shown, "the same in all stages")
        return
    if any(set(p[2]) != set(boxes) for p in parts):
        found.stages_differ.append(name)
        parts = [p for p in parts if _boxes_held(p[1]) == set(p[2])][:1] or parts[:1]
        _, tensor, boxes = parts[0]
    slices = tuple(s for _, t, _ in parts for s in t.slices)
    joined = SlicedTensor(name, tensor.shape, tensor.dtype, slices, tensor.slicing, tensor.stage)
    lacking = set(boxes) - _boxes_held(joined)
    if lacking:
        holders = [tuple(s.first + n for s, _, bs in parts for n, b in enumerate(bs) if b == box) for box in sorted(lacking)]
        groups = [tuple(rank for rank in group if rank not in found.opened) for group in holders]
        if not all(groups):
            box, ranks = next((b, h) for b, h, g in zip(sorted(lacking), holders, groups, strict=True) if not g)
            found.add_contradiction(name, f"nothing for {box.text()}", f"a slice of it on {groups_text([ranks])}")
            return
        if is_run_state(name):
            found.left_out += [(name, g) for g in groups]
            return
        found.absent.update(dict.fromkeys(groups))
    found.tensors[name] = joined


def _boxes_held(tensor: SlicedTensor) -> set[Box]:
    return {s.box for s in tensor.slices}
