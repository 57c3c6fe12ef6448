"""Slices: which box of a whole tensor each device of a training run holds, and whether given boxes make up the whole.

A box is a range of rows, columns and so on: where it begins in the whole tensor, and its shape. Pure; reads nothing.
Source: the sharding of MindSpore 2.10 (`dev_matrix`, `tensor_map`, `opt_weight_shard_step`, `opt_weight_shard_size`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from mfconv_nb.core.blocks import Block, Shape, c_strides, make_block


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A part of a whole tensor: the index of its first element, and its shape."""

    offset: Shape
    shape: Shape

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def block(self, whole: Shape) -> Block:
        """The block from a slice that is the box (the source) to the whole tensor (the target)."""
        strides = c_strides(whole)
        start = sum(first * step for first, step in zip(self.offset, strides, strict=True))
        return make_block(self.shape, 0, c_strides(self.shape), start, strides)

    def text(self) -> str:
        """``[0:4, 8:16]``"""
        return f"[{', '.join(f'{a}:{a + n}' for a, n in zip(self.offset, self.shape, strict=True))}]"


@dataclass(frozen=True, slots=True)
class Slicing:
    """How one tensor is cut over the devices of a pipeline stage.

    Attributes:
        devices: the device matrix; its product is the number of devices, the last dimension counts fastest.
        cuts: for every axis of the tensor the device dimensions that cut it, counted from the left, the coarsest first; empty for none.
        optimizer_shards: into how many parts the first axis of each slice is cut again, over the devices that would hold equal slices.
    """

    devices: Shape
    cuts: tuple[tuple[int, ...], ...]
    optimizer_shards: int = 1

    @property
    def device_count(self) -> int:
        return math.prod(self.devices)

    @property
    def parts(self) -> Shape:
        """Into how many parts each axis is cut, without optimizer shards."""
        return tuple(math.prod(self.devices[d] for d in cut) for cut in self.cuts)

    @property
    def is_whole(self) -> bool:
        """True when every device holds the whole tensor."""
        return self.optimizer_shards == 1 and all(n == 1 for n in self.parts)


def whole_shape(slicing: Slicing, slice_shape: Shape) -> Shape:
    """The shape of a whole tensor whose slices have the shape ``slice_shape``."""
    whole = [n * parts for n, parts in zip(slice_shape, slicing.parts, strict=True)]
    if whole:
        whole[0] *= slicing.optimizer_shards
    return tuple(whole)


@lru_cache(maxsize=4096)
def boxes_of(slicing: Slicing, whole: Shape) -> tuple[Box, ...]:
    """The box of each device of the stage, by its place in the device matrix.

    Raises:
        ValueError: when an axis does not divide; ``args`` are the axis, its size and the number of parts.
    """
    parts = [n * (slicing.optimizer_shards if axis == 0 else 1) for axis, n in enumerate(slicing.parts)]
    for axis, (size, count) in enumerate(zip(whole, parts, strict=True)):
        if size % count:
            raise ValueError(axis, size, count)
    shape = tuple(size // count for size, count in zip(whole, parts, strict=True))
    seen: dict[Shape, int] = {}  # how many devices had the same place so far: optimizer shards cut among them
    boxes = []
    for device in product(*(range(n) for n in slicing.devices)):
        place = tuple(_place(slicing, cut, device) for cut in slicing.cuts)
        copy = seen.get(place, 0)
        seen[place] = copy + 1
        offset = [index * size for index, size in zip(place, shape, strict=True)]
        if offset:
            offset[0] = (place[0] * slicing.optimizer_shards + copy % slicing.optimizer_shards) * shape[0]
        boxes.append(Box(tuple(offset), shape))
    return tuple(boxes)


def _place(slicing: Slicing, cut: Sequence[int], device: Sequence[int]) -> int:
    """Which part of an axis a device holds: its coordinates in the dimensions that cut the axis, read as the digits of one number."""
    place = 0
    for dimension in cut:
        place = place * slicing.devices[dimension] + device[dimension]
    return place


# ---- whether boxes make up a whole -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tiling:
    """What is wrong with a set of boxes: elements in no box, pairs that overlap, boxes that leave the tensor. Empty where they tile it."""

    gaps: tuple[Box, ...] = ()
    overlaps: tuple[tuple[Box, Box], ...] = ()
    outside: tuple[Box, ...] = ()

    @property
    def is_exact(self) -> bool:
        return not (self.gaps or self.overlaps or self.outside)


def tiling_of(whole: Shape, boxes: Iterable[Box]) -> Tiling:
    """Whether distinct boxes cover every element of a tensor exactly once; where not, the first few mistakes."""
    return _tiling_of(whole, frozenset(boxes))


@lru_cache(maxsize=4096)  # the tensors of all layers are cut alike
def _tiling_of(whole: Shape, boxes: frozenset[Box]) -> Tiling:
    outside = tuple(sorted(b for b in boxes if any(o < 0 or o + n > w for o, n, w in zip(b.offset, b.shape, whole, strict=True))))
    if outside:
        return Tiling(outside=outside)
    # The edges of all boxes cut the tensor into cells; a box holds a cell as a whole or not at all.
    edges = [sorted({0, size, *(b.offset[a] for b in boxes), *(b.offset[a] + b.shape[a] for b in boxes)}) for a, size in enumerate(whole)]
    index = [{edge: n for n, edge in enumerate(axis)} for axis in edges]
    holder: dict[Shape, Box] = {}
    overlaps = []
    for box in sorted(boxes):
        if box.elements == 0:
            continue
        spans = [range(i[o], i[o + n]) for i, o, n in zip(index, box.offset, box.shape, strict=True)]
        for cell in product(*spans):
            other = holder.setdefault(cell, box)
            if other is not box:
                overlaps.append((other, box))
                break
    if overlaps:
        return Tiling(overlaps=tuple(overlaps[:4]))
    cells = product(*(range(len(axis) - 1) for axis in edges))
    missing = (c for c in cells if c not in holder)
    gaps = [_cell_box(cell, edges) for cell, _ in zip(missing, range(4), strict=False)]
    return Tiling(gaps=tuple(g for g in gaps if g.elements))


def _cell_box(cell: Shape, edges: Sequence[Sequence[int]]) -> Box:
    offset = tuple(axis[n] for n, axis in zip(cell, edges, strict=True))
    return Box(offset, tuple(axis[n + 1] - axis[n] for n, axis in zip(cell, edges, strict=True)))
