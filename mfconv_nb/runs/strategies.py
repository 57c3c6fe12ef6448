"""Pipeline stages of a run from its strategy files: the ranks of each, and how every tensor is cut over them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from mfconv_nb.core.errors import InputError, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.formats.strategy_file import StrategyFile, StrategyLayout
from mfconv_nb.runs.slices import Slicing, boxes_of

HINT_STRATEGY = "Give the strategy files of this run with --strategy."


@dataclass(frozen=True)
class Stage:
    """A pipeline stage: its first rank, how many it has, and the layout of each of its tensors."""

    number: int
    first: int
    devices: int
    layouts: Mapping[str, StrategyLayout]
    path: Path

    @property
    def ranks(self) -> range:
        return range(self.first, self.first + self.devices)


def stages_of(files: Sequence[StrategyFile], ranks: Sequence[int]) -> tuple[Stage, ...]:
    """The stages that strategy files describe, in order, with their ranks.

    Args:
        ranks: all that have a folder. Their number gives the devices of a stage where no device matrix does.

    Raises:
        InputError: MFC114 where two files contradict each other; MFC111 where a stage has none.
    """
    found: dict[int, tuple[Mapping[str, StrategyLayout], Path]] = {}
    for file in files:
        for stage, layouts in file.stages.items():
            number = _stage_by_name(file, layouts) if stage is None else stage
            if number in found and found[number][0] != layouts:
                _refuse_contradiction(number, *found[number], layouts, file.path)
            found.setdefault(number, (layouts, file.path))
    missing = sorted(set(range(max(found, default=0))) - set(found))
    if missing:
        listed = ", ".join(str(n) for n in missing[:12])
        expected = f"strategy files of the stages 0 to {max(found)}"
        raise InputError("MFC111", files[0].path.parent, found=f"none of stage {listed}", expected=expected, hint=HINT_STRATEGY)
    counts = {
        number: max((math.prod(lay.devices) for lay in layouts.values() if lay.devices), default=0)
        for number, (layouts, _) in found.items()
    }
    default = max(counts.values(), default=0) or max(1, len(ranks) // max(1, len(found)))
    stages, first = [], 0
    for number in sorted(found):
        devices = counts[number] or default
        stages.append(Stage(number, first, devices, *found[number]))
        first += devices
    return tuple(stages)


def _stage_by_name(file: StrategyFile, layouts: Mapping[str, StrategyLayout]) -> int:
    """The stage of a file that does not give one: from the rank in its name, else 0."""
    match = re.search(r"rank_(\d{1,6})", file.path.name)
    devices = max((math.prod(lay.devices) for lay in layouts.values()), default=1)
    return int(match[1]) // devices if match else 0


def _refuse_contradiction(
    stage: int, first: Mapping[str, StrategyLayout], path: Path, second: Mapping[str, StrategyLayout], other: Path
) -> None:
    name = next(n for n in (*first, *second) if first.get(n) != second.get(n))
    found = f"{quoted(path.name)} and {quoted(other.name)}, which differ at {quoted(name)}"
    hint = "They are of two runs: give those of this run with --strategy."
    raise InputError("MFC114", path.parent, found=found, expected=f"one strategy for stage {stage}", hint=hint)


def slicing_of(layout: StrategyLayout, axes: int, devices: int, where: object) -> Slicing:
    """How a tensor of ``axes`` axes is cut over the ``devices`` of its stage.

    Raises:
        InputError: MFC114 where the layout does not fit such a tensor, or is of an unknown kind.
    """

    def refuse(found: str, expected: str) -> InputError:
        return InputError("MFC114", where, found=found, expected=expected, hint=HINT_STRATEGY)

    if layout.field:
        raise refuse(f"an embedding of {how_many(layout.field, 'field')}", "tensors that are cut along their axes")
    if len(set(layout.split)) > 1:
        raise refuse(f"uneven slices, {list(layout.split[:8])}", "slices of one size")
    maps = _maps_of(layout, axes)
    if maps is None:
        given = len(layout.maps[0]) if len(layout.maps) == 1 else len(layout.maps)
        raise refuse(f"a tensor map for {how_many(given, 'axis', 'axes')}, and slices of {axes}", "one entry an axis")
    matrix = layout.devices or (1,)
    repeats, rest = divmod(devices, math.prod(matrix))
    if rest:
        raise refuse(f"a device matrix {list(matrix)}", f"one that fits the {how_many(devices, 'device')} of the stage")
    if repeats > 1:
        matrix = (repeats, *matrix)
    slicing = Slicing(matrix, tuple(tuple(len(matrix) - 1 - k for k in m if k != -1) for m in maps))
    return _with_shards(slicing, layout, refuse)


def _maps_of(layout: StrategyLayout, axes: int) -> tuple[tuple[int, ...], ...] | None:
    """For every axis the dimensions that cut it; None where their number is wrong.

    One map of several entries gives one dimension for each axis, or all dimensions of the only axis.
    """
    if len(layout.maps) > 1:
        return layout.maps if len(layout.maps) == axes else None
    flat = layout.maps[0] if layout.maps else ()
    if axes == len(flat):
        return tuple((k,) for k in flat)
    return (flat,) if axes == 1 and flat else None


def _with_shards(slicing: Slicing, layout: StrategyLayout, refuse: Callable[[str, str], InputError]) -> Slicing:
    copies = slicing.device_count // math.prod(slicing.parts)
    size = copies if layout.shard_size == -1 else layout.shard_size
    if size in (0, 1) or not slicing.cuts or (layout.shard_step == 0 and layout.shard_size == -1):
        return slicing
    used = {d for cut in slicing.cuts for d in cut}
    free = [d for d, n in enumerate(slicing.devices) if d not in used and n > 1]
    uncut = copies == slicing.device_count  # then no dimension of the matrix matters
    if copies % size or not (uncut or _fits_dimensions(size, [slicing.devices[d] for d in free])):
        raise refuse(
            f"{size} optimizer shards", f"whole dimensions, or a part of one, of the {how_many(copies, 'copy', 'copies')} of each slice"
        )
    step = math.prod(slicing.devices[free[0] + 1 :])
    if len(free) == 1 and layout.shard_step != step:  # over several dimensions MindSpore writes a mean distance
        raise refuse(
            f"optimizer shards {how_many(layout.shard_step, 'rank')} apart", f"{step}, as the device matrix {list(slicing.devices)} says"
        )
    return replace(slicing, optimizer_shards=size)


def _fits_dimensions(size: int, free: Sequence[int]) -> bool:
    """Whether the shards lie along the innermost free device dimensions; MindSpore uses no others."""
    for n in reversed(free):
        if size % n and n % size:
            return False
        size = max(1, size // n)
    return size == 1


@lru_cache(maxsize=4096)
def copy_groups(slicing: Slicing) -> tuple[tuple[int, ...], ...]:
    """Which devices of a stage hold the same slice, by their places."""
    whole = tuple(n * (slicing.optimizer_shards if axis == 0 else 1) for axis, n in enumerate(slicing.parts))
    groups: dict[object, list[int]] = {}
    for place, box in enumerate(boxes_of(slicing, whole)):
        groups.setdefault(box, []).append(place)
    return tuple(tuple(g) for g in groups.values())


def layout_of(slicing: Slicing) -> StrategyLayout:
    """What a strategy file says of a tensor that is cut like this: the inverse of ``slicing_of``."""
    last = len(slicing.devices) - 1
    maps = tuple(tuple(last - d for d in cut) or (-1,) for cut in slicing.cuts)
    if all(len(m) == 1 for m in maps):
        maps = (tuple(k for (k,) in maps),)
    if slicing.optimizer_shards == 1:
        return StrategyLayout(slicing.devices, maps)
    first, second, *_ = copy_groups(replace(slicing, optimizer_shards=1))[0]
    return StrategyLayout(slicing.devices, maps, shard_step=second - first, shard_size=slicing.optimizer_shards)


def needed_groups(stages: Sequence[Stage], names: Iterable[str] | None = None) -> tuple[tuple[int, ...], ...]:
    """Groups of ranks that hold the same slice of one of these tensors (of any, where left out): one rank of each is needed."""
    wanted = None if names is None else set(names)
    found: dict[tuple[int, ...], None] = {}
    for stage in stages:
        kinds: dict[tuple[StrategyLayout, int], str] = {}
        for name, layout in stage.layouts.items():
            if wanted is None or name in wanted:
                kinds.setdefault((layout, stage.devices), name)
        for (layout, devices), name in kinds.items():
            axes = len(layout.maps) if len(layout.maps) > 1 else len(layout.maps[0]) if layout.maps else 0
            slicing = slicing_of(layout, axes, devices, f"{quoted(name)} in {stage.path}")
            for group in copy_groups(slicing):
                found.setdefault(tuple(stage.first + place for place in group))
    return tuple(sorted(found))
