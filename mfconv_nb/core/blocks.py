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
