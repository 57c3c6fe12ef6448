"""Blocks: a box of numbers, and its place on the source and on the target side. How boxes are cut, joined and moved. numpy only.

A sentence of the layout notation (``layout.py``) becomes blocks; a stored tensor is one, or one a slice. Everything that is copied,
compared or hashed is a block in the end. Axes move only here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from mfconv_nb.core.dtypes import cast_into

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A box of numbers, with its place on the source and on the target side. Offsets and strides count elements.

    Axes stand in the order of falling target strides; axes of size one are left out and neighbours that run on are merged,
    so a plain copy has exactly one axis with both strides 1 (a single element has none).
    """

    sizes: Shape
    source_offset: int
    source_strides: Shape
    target_offset: int
    target_strides: Shape

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def is_contiguous(self) -> bool:
        """True when the box is one contiguous run on both sides."""
        return self.elements <= 1 or (self.source_strides == (1,) and self.target_strides == (1,))

    def swap_sides(self) -> Block:
        """The same box for the other direction."""
        return make_block(self.sizes, self.target_offset, self.target_strides, self.source_offset, self.source_strides)


def c_strides(shape: Sequence[int]) -> Shape:
    """Strides, in elements, of a tensor in C order."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


@lru_cache(maxsize=4096)
def whole(elements: int) -> Block:
    """The plain copy of a whole tensor."""
    return Block(() if elements == 1 else (elements,), 0, () if elements == 1 else (1,), 0, () if elements == 1 else (1,))


def make_block(
    sizes: Sequence[int],
    source_offset: int,
    source_strides: Sequence[int],
    target_offset: int,
    target_strides: Sequence[int],
) -> Block:
    """A block in its one normal form (see ``Block``), so that equal boxes compare equal."""
    axes = sorted(((t, s, n) for n, s, t in zip(sizes, source_strides, target_strides, strict=True) if n != 1), reverse=True)
    merged: list[tuple[int, int, int]] = []
    for target, source, size in axes:
        if merged and merged[-1][0] == target * size and merged[-1][1] == source * size:
            size *= merged.pop()[2]
        merged.append((target, source, size))
    return Block(
        tuple(m[2] for m in merged),
        source_offset,
        tuple(m[1] for m in merged),
        target_offset,
        tuple(m[0] for m in merged),
    )


# ---- cutting and joining blocks --------------------------------------------------------------------------------------


def _span(sizes: Shape, strides: Shape) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))


def source_range(block: Block) -> tuple[int, int]:
    """From the first element of the source that a block reads to one past the last; it need not read all of them."""
    return block.source_offset, block.source_offset + _span(block.sizes, block.source_strides)


def target_range(block: Block) -> tuple[int, int]:
    """From the first element of the target that a block fills to one past the last; it need not fill all of them."""
    return block.target_offset, block.target_offset + _span(block.sizes, block.target_strides)


def clip_target(block: Block, start: int, stop: int) -> list[Block]:
    """The parts of ``block`` whose target elements lie in ``[start, stop)``; at most two a level of nesting."""
    if block.elements == 0:
        return []
    low = block.target_offset
    if low >= stop or low + _span(block.sizes, block.target_strides) <= start:
        return []
    if low >= start and low + _span(block.sizes, block.target_strides) <= stop:
        return [block]
    size, stride = block.sizes[0], block.target_strides[0]
    inner = _span(block.sizes[1:], block.target_strides[1:])
    first = max(0, -((low - start) // stride))  # the first index that begins at or after start
    last = min(size, (stop - inner - low) // stride + 1)  # one past the last index that ends before stop
    cut = {max(0, (start - low) // stride), min(size - 1, (stop - 1 - low) // stride)}
    parts = [_take(block, first, last)] if first < last else []
    for index in sorted(i for i in cut if not first <= i < last):
        parts += clip_target(_take(block, index, index + 1), start, stop)
    return parts


def _take(block: Block, first: int, last: int) -> Block:
    """The indices [first, last) of the outermost axis."""
    return make_block(
        (last - first, *block.sizes[1:]),
        block.source_offset + first * block.source_strides[0],
        block.source_strides,
        block.target_offset + first * block.target_strides[0],
        block.target_strides,
    )


def shift(block: Block, *, source: int = 0, target: int = 0) -> Block:
    """The same box, shifted on either side."""
    return Block(
        block.sizes,
        block.source_offset + source,
        block.source_strides,
        block.target_offset + target,
        block.target_strides,
    )


def compose(outer: Block, inner: Block) -> list[Block] | None:
    """See through a tensor in the middle: ``inner`` fills it from the source, ``outer`` reads it into the target.

    Returns:
        The blocks that lead from source to target directly, none when the two do not meet in the middle; or None when the
        result is no box (then the tensor in the middle has to be made).
    """
    if inner.elements <= 1 or inner.target_strides == (1,) == inner.source_strides:
        offset = inner.source_offset - inner.target_offset
        first = outer.source_offset - inner.target_offset
        if first >= 0 and first + _span(outer.sizes, outer.source_strides) <= inner.elements and outer.elements:
            return [shift(outer, source=offset)]  # all of it lies in this run: the usual case, and the quick one
        met = clip_target(outer.swap_sides(), inner.target_offset, inner.target_offset + inner.elements)
        return [shift(b.swap_sides(), source=offset) for b in met]
    if outer.elements <= 1 or outer.source_strides == (1,) == outer.target_strides:
        met = clip_target(inner, outer.source_offset, outer.source_offset + outer.elements)
        return [shift(b, target=outer.target_offset - outer.source_offset) for b in met]
    return _meet(outer, inner)


def _meet(outer: Block, inner: Block) -> list[Block] | None:
    """Two boxes over the same tensor, met digit by digit in the mixed radix system that their strides span."""
    outer_axes = list(zip(outer.source_strides, outer.sizes, outer.target_strides, strict=True))
    inner_axes = list(zip(inner.target_strides, inner.sizes, inner.source_strides, strict=True))
    levels = sorted({a[0] for a in outer_axes} | {a[0] for a in inner_axes} | {1}, reverse=True)
    if any(high % low for high, low in pairwise(levels)):
        return None
    outer_digits = _digits(outer_axes, outer.source_offset, levels)
    inner_digits = _digits(inner_axes, inner.target_offset, levels)
    if outer_digits is None or inner_digits is None:
        return None
    sizes, source_strides, target_strides = [], [], []
    source_offset, target_offset = inner.source_offset, outer.target_offset
    for (o_first, o_size, o_stride), (i_first, i_size, i_stride) in zip(outer_digits, inner_digits, strict=True):
        first, last = max(o_first, i_first), min(o_first + o_size, i_first + i_size)
        if first >= last:
            return []
        sizes.append(last - first)
        source_strides.append(i_stride)
        target_strides.append(o_stride)
        source_offset += (first - i_first) * i_stride
        target_offset += (first - o_first) * o_stride
    return [make_block(sizes, source_offset, source_strides, target_offset, target_strides)]


def _digits(axes: list[tuple[int, int, int]], offset: int, levels: list[int]) -> list[tuple[int, int, int]] | None:
    """For each level: first digit, number of digits, stride on the far side. None where an axis does not split evenly."""
    pieces: dict[int, tuple[int, int]] = {}
    for stride, size, far in axes:
        for level in [v for v in levels if stride < v < stride * size]:
            if size % (level // stride):
                return None
        bounds = sorted([v for v in levels if stride < v < stride * size], reverse=True)
        top = stride * size
        for level in [*bounds, stride]:
            pieces[level] = (top // level, far * (level // stride))
            top = level
    digits = []
    for place, level in enumerate(levels):
        size, far = pieces.get(level, (1, 0))
        first, offset = divmod(offset, level)
        radix = levels[place - 1] // level if place else None
        if radix is not None and first + size > radix:
            return None
        digits.append((first, size, far))
    return digits


# ---- blocks of tiles -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tiling:
    """Matrices of a stack, each cut into tiles; those at its lower and right edge may be smaller."""

    rows: int
    columns: int
    tile: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """How many tiles a matrix has down and across."""
        return -(-self.rows // self.tile[0]), -(-self.columns // self.tile[1])

    def axis_of(self, stride: int) -> tuple[int, int] | None:
        """Which axis a stride runs along (2: columns, 1: rows, 0: the stack), and by how many steps; None for one that runs askew."""
        for axis, unit in ((0, self.rows * self.columns), (1, self.columns), (2, 1)):
            if stride >= unit and stride % unit == 0:
                return axis, stride // unit
        return None

    def place_of(self, offset: int) -> tuple[int, int, int]:
        """Matrix, row and column of an element."""
        matrix, rest = divmod(offset, self.rows * self.columns)
        return matrix, *divmod(rest, self.columns)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Steps along each axis that lead out of a tile; every matrix of a stack is one of its own."""
        return 1, *self.tile

    @property
    def strides(self) -> tuple[int, int, int]:
        """Strides of the tiles, in tiles."""
        down, across = self.grid
        return down * across, across, 1


def block_of_tiles(block: Block, source: Tiling, target: Tiling) -> Block | None:
    """The box that moves whole tiles as ``block`` moves numbers; None where it cuts a tile, or takes one apart.

    Tiles that are exchanged in rows and columns (a transpose) have exchanged sizes in ``target``.
    """
    at, to = source.place_of(block.source_offset), target.place_of(block.target_offset)
    if any(place % size for place, size in zip((*at, *to), (*source.sizes, *target.sizes), strict=True)):
        return None
    sizes, source_strides, target_strides = [], [], []
    is_whole = [[t.sizes[n] == 1 or (1, t.rows, t.columns)[n] == 1 for n in range(3)] for t in (source, target)]
    for size, from_, to_ in _axes_of_one_kind(block, source, target):
        mine, theirs = source.axis_of(from_), target.axis_of(to_)
        if mine is None or theirs is None:
            return None
        (a, step), (b, step_to) = mine, theirs
        tile, tile_to = source.sizes[a], target.sizes[b]
        if step % tile == 0 and step_to % tile_to == 0:
            count, step, step_to = size, step // tile, step_to // tile_to
        elif step == step_to == 1 and tile == tile_to:
            ends = (at[a] + size == (source.rows, source.columns)[a - 1], to[b] + size == (target.rows, target.columns)[b - 1])
            if size % tile and ends != (True, True):
                return None
            count = -(-size // tile)
            is_whole[0][a] = is_whole[1][b] = True
        else:
            return None
        sizes.append(count)
        source_strides.append(step * source.strides[a])
        target_strides.append(step_to * target.strides[b])
    if not all(map(all, is_whole)):
        return None
    first = sum(p // s * stride for p, s, stride in zip(at, source.sizes, source.strides, strict=True))
    first_to = sum(p // s * stride for p, s, stride in zip(to, target.sizes, target.strides, strict=True))
    return make_block(sizes, first, source_strides, first_to, target_strides)


def _axes_of_one_kind(block: Block, source: Tiling, target: Tiling) -> list[tuple[int, int, int]]:
    """The axes of a block as (size, source stride, target stride), cut where they run on into the next row or the next matrix."""
    waiting = list(zip(block.sizes, block.source_strides, block.target_strides, strict=True))
    done = []
    while waiting:
        size, from_, to_ = waiting.pop()
        cuts = {
            unit // stride
            for stride, tiling in ((from_, source), (to_, target))
            for unit in (tiling.columns, tiling.rows * tiling.columns)
            if stride < unit < stride * size and unit % stride == 0 and size % (unit // stride) == 0
        }
        if cuts:
            cut = min(cuts)
            waiting += [(cut, from_, to_), (size // cut, from_ * cut, to_ * cut)]
        else:
            done.append((size, from_, to_))
    return done


# ---- moving numbers --------------------------------------------------------------------------------------------------

TILE = 128  # columns of a tile; with 64 and with 512 a transpose was a tenth slower
UNIT_BYTES = 8  # what a transpose moves at a time: 0.6 GB/s with single 16-bit elements, 1.6 with four of them


def move_block(target: Array, source: Array, block: Block) -> int:
    """``target[box] = source[box]`` for one block, cast when the dtypes differ.

    Args:
        target, source: one-dimensional arrays of elements; ``block`` counts from their first element.
    Returns:
        How many finite numbers the cast made infinite.
    """
    to = _box(target, block.sizes, block.target_offset, block.target_strides)
    return _move(to, _box(source, block.sizes, block.source_offset, block.source_strides))


def _box(array: Array, sizes: Shape, offset: int, strides: Shape) -> Array:
    """A strided view of a one-dimensional array; numpy itself refuses one that leaves it."""
    size = array.itemsize
    return np.ndarray(sizes, array.dtype, array.view(np.uint8).data, offset * size, [s * size for s in strides])


def _move(target: Array, source: Array) -> int:
    """Assign, in tiles where the two sides run along different axes; the numbers that became infinite."""
    if target.ndim < 2 or abs(source.strides[-1]) <= min(abs(s) for s in source.strides):
        return cast_into(target, source)
    fast = int(np.argmin([abs(s) for s in source.strides]))  # the axis along which the source runs
    target, source = (np.moveaxis(a, fast, -2) for a in (target, source))
    return sum(_transpose(target[index], source[index]) for index in np.ndindex(target.shape[:-2]))


def _transpose(target: Array, source: Array) -> int:
    """``target[...] = source`` for two matrices, where the source runs down the columns and the target along the rows."""
    rows, size = target.shape[0], target.itemsize
    unit = UNIT_BYTES // size
    same = target.dtype == source.dtype and source.strides[0] == size
    whole_units = rows // unit * unit if same and unit > 1 else 0
    infinite = 0
    for column in range(0, target.shape[1], TILE):
        here = np.s_[column : column + TILE]
        if whole_units:
            _transpose_units(target[:whole_units, here], source[:whole_units, here], unit)
        if whole_units < rows:
            infinite += cast_into(target[whole_units:, here], source[whole_units:, here])
    return infinite


def _transpose_units(target: Array, source: Array, unit: int) -> None:
    """Transpose a tile by moving ``unit`` elements of a source column at once, then sorting them into their rows."""
    bits = np.dtype(f"u{target.itemsize}")
    words = source.T.view(np.dtype(f"u{unit * target.itemsize}"))  # columns x (rows / unit)
    turned = np.ascontiguousarray(words.T).view(bits).reshape(words.shape[1], words.shape[0], unit)
    target.view(bits).reshape(-1, unit, target.shape[1])[...] = turned.transpose(0, 2, 1)
