"""Cut a checkpoint for the devices of a run: which rank gets which box of every tensor. Pure; ``save`` writes the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.errors import InputError, MappingError, UsageError, did_you_mean, quoted
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.report import how_many
from mfconv_nb.formats.strategy_file import read_strategies, strategy_files
from mfconv_nb.runs.rank_layout import RankLayout, dimensions_of
from mfconv_nb.runs.slices import Box, Slicing, boxes_of
from mfconv_nb.runs.strategies import slicing_of, stages_of

HINT_ONE_RUN = "These are the strategy files of several runs, or of other stages: give a folder with those of one run."


@dataclass(frozen=True)
class CutTensor:
    """A tensor, its slicing, the names of the dimensions of its device matrix, and its stages."""

    spec: TensorSpec
    slicing: Slicing
    names: tuple[str, ...]
    stages: tuple[int, ...]


@dataclass(frozen=True)
class Cutting:
    """Every tensor of a checkpoint, cut: ``stages`` pipeline stages of ``devices`` ranks each."""

    tensors: tuple[CutTensor, ...]
    devices: int
    stages: int

    @property
    def ranks(self) -> int:
        return self.devices * self.stages

    def boxes(self, tensor: CutTensor) -> dict[int, Box]:
        """The box of every rank that has a tensor."""
        found = boxes_of(tensor.slicing, tensor.spec.shape)
        return {stage * self.devices + place: box for stage in tensor.stages for place, box in enumerate(found)}


def cut_tensors(specs: Sequence[TensorSpec], layout: RankLayout) -> Cutting:
    """Cut every tensor as the layout says.

    Raises:
        UsageError: MFC501 for a pattern that fits no tensor, and a tensor that no stage has. MappingError: MFC307 for an axis that does
            not divide, or a pattern with another number of axes than its tensor. InputError: MFC114 for strategy files of another
            model.
    """
    if layout.strategy:
        return _cut_by_strategy(specs, local_path(layout.strategy))
    _check_patterns("cuts", layout.cuts, specs)
    _check_patterns("stages", [p for stage in layout.stages for p in stage], specs)
    names, stages = tuple(layout.devices), max(1, len(layout.stages))
    tensors = tuple(CutTensor(spec, _slicing_by_cuts(spec, layout), names, _stages_by_patterns(spec, layout)) for spec in specs)
    return Cutting(tensors, layout.ranks // stages, stages)


def _cut_by_strategy(specs: Sequence[TensorSpec], path: Path) -> Cutting:
    """Cut as the strategy files of another run say. Tensors that they do not name are whole on every rank."""
    files = strategy_files(path)
    if not files:
        hint = "Let strategy in the layout of the ranks name the folder in which they lie."
        raise InputError("MFC114", path, found="no strategy file", expected="files such as ckpt_strategy_rank_0.ckpt", hint=hint)
    stages = stages_of(read_strategies(files), ())
    known = {name for stage in stages for name in stage.layouts}
    if len({stage.devices for stage in stages}) != 1:
        found = ", ".join(str(stage.devices) for stage in stages)
        raise InputError("MFC114", path, found=f"stages of {found} devices", expected="stages of one size", hint=HINT_ONE_RUN)
    unknown = sorted(known - {s.name for s in specs})
    if unknown:
        found, expected = f"{how_many(len(unknown), 'tensor')} not there; first {quoted(unknown[0])}", "the tensors of this checkpoint"
        hint = did_you_mean(unknown[0], [s.name for s in specs]) or "They are of another model, or of its other form."
        raise InputError("MFC114", path, found=found, expected=expected, hint=hint)
    devices = stages[0].devices
    everywhere = tuple(range(len(stages)))
    tensors = []
    for spec in specs:
        having = [stage for stage in stages if spec.name in stage.layouts]
        axes = len(spec.shape)
        slicings = {slicing_of(s.layouts[spec.name], axes, devices, f"{quoted(spec.name)} in {s.path}") for s in having}
        if len(slicings) > 1:
            raise InputError("MFC114", quoted(spec.name), found="cut differently in two stages", expected="one way", hint=HINT_ONE_RUN)
        slicing = slicings.pop() if slicings else Slicing((devices,), ((),) * axes)
        _check_divides(spec, slicing)
        names = tuple(f"d{n}" for n in range(len(slicing.devices)))
        tensors.append(CutTensor(spec, slicing, names, tuple(s.number for s in having) or everywhere))
    return Cutting(tuple(tensors), devices, len(stages))


def _check_patterns(where: str, patterns: Mapping[str, Any] | Sequence[str], specs: Sequence[TensorSpec]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(s.name, pattern) for s in specs):
            hint = did_you_mean(pattern, [s.name for s in specs]) or "Take it out: the names are those of the checkpoint that is saved."
            raise UsageError("MFC501", where, found=f"{quoted(pattern)}, which fits no tensor", expected="a pattern of names", hint=hint)


def _stages_by_patterns(spec: TensorSpec, layout: RankLayout) -> tuple[int, ...]:
    if not layout.stages:
        return (0,)
    found = tuple(n for n, patterns in enumerate(layout.stages) if any(fnmatchcase(spec.name, p) for p in patterns))
    if not found:
        hint = "Add one to the stage that shall hold it: '*' in a stage takes every tensor."
        raise UsageError("MFC501", "stages", found=f"none that has {quoted(spec.name)}", expected="a pattern that fits it", hint=hint)
    return found


def _slicing_by_cuts(spec: TensorSpec, layout: RankLayout) -> Slicing:
    pattern = next((p for p in layout.cuts if fnmatchcase(spec.name, p)), None)
    axes = tuple(layout.cuts[pattern]) if pattern is not None else (None,) * len(spec.shape)
    if len(axes) != len(spec.shape):
        found = f"{how_many(len(axes), 'axis', 'axes')} in {quoted(pattern or '')}"
        expected = f"{len(spec.shape)}, one for each of {list(spec.shape)}"
        hint = "Change cuts: null (None in Python) for an axis that stays whole."
        raise MappingError("MFC307", quoted(spec.name), found=found, expected=expected, hint=hint)
    names = list(layout.devices)
    cuts = tuple(tuple(names.index(n) for n in dimensions_of(cut)) for cut in axes)
    used = [n for cut in cuts for n in cut]
    if len(used) != len(set(used)):
        found, hint = "a device dimension that cuts twice", "Change cuts: let each dimension of devices cut one axis of a tensor."
        raise MappingError("MFC307", quoted(spec.name), found=found, expected="each at most once", hint=hint)
    slicing = Slicing(tuple(layout.devices.values()), cuts)
    slicing = _with_optimizer_shards(slicing, spec.shape, layout.optimizer_shards)
    _check_divides(spec, slicing)
    return slicing


def _check_divides(spec: TensorSpec, slicing: Slicing) -> None:
    """Raises MappingError (MFC307) where an axis does not divide."""
    try:
        boxes_of(slicing, spec.shape)
    except ValueError as error:
        axis, size, parts = error.args
        found, expected = f"{size} in {parts} parts", f"an axis {axis} that divides"
        raise MappingError(
            "MFC307", quoted(spec.name), found=found, expected=expected, hint="Cut another axis, or leave it whole."
        ) from None


def _with_optimizer_shards(slicing: Slicing, shape: Shape, shards: int) -> Slicing:
    """Cut the first axis again where there are enough equal slices and it divides, as MindSpore's optimizer parallel does."""
    used, left = {d for cut in slicing.cuts for d in cut}, shards
    for dimension in reversed([d for d in range(len(slicing.devices)) if d not in used]):
        taken = _shards_along(slicing.devices[dimension], left)
        if left > 1 and slicing.devices[dimension] > 1 and taken == 1:
            return slicing  # the shards would not be a box of devices
        left //= taken
    if shards == 1 or not shape or left > 1 or shape[0] % (slicing.parts[0] * shards):
        return slicing
    return Slicing(slicing.devices, slicing.cuts, shards)


def _shards_along(size: int, shards: int) -> int:
    """How many of the shards that are left lie along a device dimension of this size: all, or as many as it has devices; else 1."""
    return shards if size % shards == 0 else size if shards % size == 0 else 1


def as_plain_cuts(slicing: Slicing, names: Sequence[str]) -> tuple[Slicing, tuple[str, ...]]:
    """The same boxes without optimizer shards: the device dimensions that the shards use cut the first axis, after its other cuts.

    A dimension that they use in part becomes two. Returns the names of the dimensions too.
    """
    shards, used = slicing.optimizer_shards, {d for cut in slicing.cuts for d in cut}
    devices: list[tuple[str, int, bool]] = []  # of every new dimension its name, its size, and whether shards lie along it
    places: dict[int, int] = {}  # of every old dimension its place, counted from the last one
    for old in reversed(range(len(slicing.devices))):
        size = slicing.devices[old]
        taken = 1 if old in used else _shards_along(size, shards)
        shards //= taken
        if taken > 1:
            devices.append((names[old], taken, True))
        if taken == 1 or size > taken:
            places[old] = len(devices)
            devices.append((f"{names[old]}_outer" if taken > 1 else names[old], size // taken, False))
    assert shards == 1, "cut_tensors takes only as many shards as there are copies"
    last = len(devices) - 1
    cuts = [tuple(last - places[d] for d in cut) for cut in slicing.cuts]
    by_optimizer = tuple(last - place for place in reversed(range(len(devices))) if devices[place][2])
    if by_optimizer:  # never for a single number, which has no first axis
        cuts[0] += by_optimizer
    in_order = devices[::-1]
    return Slicing(tuple(size for _, size, _ in in_order), tuple(cuts)), tuple(name for name, _, _ in in_order)
