"""Reading part of a lazy tensor: some of its elements, from every place they lie in, into one buffer.

A span is a row of bytes that lie side by side in the source. How elements are read depends on their spans:

- A long span is one `preadv` into the caller's buffer.
- Short spans close together (rows of a slice that was cut along its last axis) are read with one `preadv` into scratch memory, and moved
  from there.
- Short spans far apart (a transpose) are read one by one, or together over small gaps, into scratch memory, and moved in tiles.

No file is mapped into memory: a map of a file that another program shortens ends the process.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mfconv_nb.core.blocks import Block, clip_target, make_block, move_block, shift
from mfconv_nb.core.checkpoint import LazyTensor, Piece, sources_of, stored_tensor
from mfconv_nb.core.dtypes import itemsize, numpy_dtype
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.sources import ByteSource, FileSource

PANEL_BYTES = 2 << 20  # one read and one write; 1 thread: 1.07 x cp, with 512 KiB 1.24, with 256 KiB 1.49 (2 GB, quiet machine)
MAX_PANEL_BYTES = 8 << 20  # where rows are scattered in the source, a panel has at least 1024 of them, up to this
PANEL_ROWS = 1024  # a span of so many numbers is long enough to be read by a call of its own
SHORTEST_SPAN = 2 << 10  # shorter spans are read into scratch memory, and moved from there
WIDEST_GAP = 8 << 10  # a wider gap between two short spans costs more to read than a second call
SCRATCH_BYTES = 8 << 20  # of short spans, read before they are moved
SHORTEST_READ = 64 << 10  # shorter spans close together are read at once, then moved: 13 times as fast with spans of 2 KiB, 1.3 with 64 KiB
SHORTEST_COPY = 64 << 10  # the system copies no span shorter than this: a call costs more
MOST_PIECES = 64  # a tensor of more pieces is not searched for spans to copy

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def panels(tensor: LazyTensor, dtype: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut the elements [start, stop) into panels of about ``PANEL_BYTES``, at row boundaries where the source is scattered."""
    widest = max([itemsize(dtype), *(itemsize(p.dtype) for p in tensor.pieces)])
    size = max(1, PANEL_BYTES // widest)
    rows = [s for p in tensor.pieces if not p.block.is_contiguous for s in p.block.target_strides if s > 1]
    if rows:
        most = MAX_PANEL_BYTES // widest
        row = max((s for s in rows if s * PANEL_ROWS <= most), default=0) or max((s for s in rows if s <= most), default=1)
        size = min(most, max(size, row * PANEL_ROWS)) // row * row
    first = start
    while first < stop:
        last = min(stop, (first // size + 1) * size)
        yield first, last
        first = last


def more_scattered(first: LazyTensor, second: LazyTensor) -> LazyTensor:
    """Of two tensors that are read side by side, the one whose rows decide where panels end."""
    return first if any(not p.block.is_contiguous for p in first.pieces) else second


class Span(NamedTuple):
    """Bytes side by side in a file. ``at`` is where they go, counted from the first byte that is wanted."""

    source: FileSource
    offset: int
    at: int
    nbytes: int


def find_spans(tensor: LazyTensor, dtype: str, start: int, stop: int) -> list[Span] | None:
    """Where the elements [start, stop) lie in files, if they are there in the wanted order and dtype, in a few long spans; else None."""
    if not 0 < len(tensor.pieces) <= MOST_PIECES:
        return None
    found, size = [], itemsize(dtype)
    for piece in tensor.pieces:
        for block in clip_target(piece.block, start, stop):
            nbytes = block.elements * size
            if piece.dtype != dtype or not block.is_contiguous or nbytes < SHORTEST_COPY or not isinstance(piece.source, FileSource):
                return None
            at = (block.target_offset - start) * size
            found.append(Span(piece.source, piece.start + block.source_offset * size, at, nbytes))
    return found


class Gatherer:
    """Fills buffers with parts of lazy tensors. One a thread: it owns scratch memory.

    Attributes:
        infinite: how many finite numbers became infinite in casts so far.
    """

    def __init__(self) -> None:
        self._scratch, self.infinite = np.empty(0, np.uint8), 0

    def fill(self, tensor: LazyTensor, dtype: str, start: int, stop: int, buffer: Bytes) -> None:
        """Write the elements [start, stop) of ``tensor``, as ``dtype``, into the first bytes of ``buffer``."""
        if not tensor.pieces and start < stop:
            raise MappingError("MFC310", quote(tensor.name), found="a name and a shape only", expected="a tensor with values")
        target = buffer[: (stop - start) * itemsize(dtype)]
        for piece in tensor.pieces:
            for block in clip_target(piece.block, start, stop):
                self._fill_block(piece, shift(block, target=-start), dtype, target)

    def _fill_block(self, piece: Piece, block: Block, dtype: str, target: Bytes) -> None:
        size = itemsize(piece.dtype)
        reach = 1 + sum((n - 1) * s for n, s in zip(block.sizes, block.source_strides, strict=True))
        is_dense = reach <= (1 if getattr(piece.source, "rounds_when_read", False) else 2) * block.elements  # codes are decoded once
        if piece.dtype == dtype:
            length = _span_length(block)
            if block.is_contiguous or length * size >= (SHORTEST_READ if is_dense else SHORTEST_SPAN):
                for first, at in _span_offsets(block):
                    place = target[at * size : (at + length) * size]
                    piece.source.read_into(piece.start + first * size, place.data)
                return
        numbers = target.view(numpy_dtype(dtype))
        if is_dense:
            self._move_stripes(piece, block, 0, numbers)
            return
        view = piece.source.view()
        if view is None:
            gap = WIDEST_GAP if isinstance(piece.source, FileSource) else 0  # what is computed costs more than a call
            for part, axes in _stripes(block, size, gap):
                self._move_stripes(piece, part, axes, numbers)
            return
        source: np.ndarray[Any, Any] = np.ndarray(((view.size - piece.start) // size,), numpy_dtype(piece.dtype), view.data, piece.start)
        self.infinite += move_block(numbers, source, block)

    def _move_stripes(self, piece: Piece, block: Block, axes: int, target: np.ndarray[Any, Any]) -> None:
        """Read the bytes that lie together in the source, once for every index of the ``axes`` that step widest there; then move them.

        Numbers can be moved from scratch memory because it is aligned, whatever the offsets in the file are.
        """
        order, size = _axes_by_source_step(block), itemsize(piece.dtype)
        outer, inner = order[:axes], order[axes:]
        reach = 1 + sum((block.sizes[n] - 1) * block.source_strides[n] for n in inner)
        count = math.prod(block.sizes[n] for n in outer)
        if self._scratch.size < count * reach * size:
            self._scratch = np.empty(count * reach * size, np.uint8)
        scratch = self._scratch[: count * reach * size]
        first = piece.start + block.source_offset * size
        if outer:
            _read_spans(piece.source, [first + step * size for step in _source_steps(block, outer)], reach * size, scratch)
        else:
            piece.source.read_into(first, scratch.data)
        strides, packed = list(block.source_strides), reach  # where the elements lie in scratch memory
        for n in reversed(outer):
            strides[n], packed = packed, packed * block.sizes[n]
        compact = replace(block, source_offset=0, source_strides=tuple(strides))
        self.infinite += move_block(target, scratch.view(numpy_dtype(piece.dtype)), compact)


class PanelReader:
    """Reads panels into one buffer, which the next panel overwrites. One a thread."""

    def __init__(self) -> None:
        self.gatherer, self._buffer = Gatherer(), np.empty(PANEL_BYTES, np.uint8)

    def room(self, nbytes: int) -> Bytes:
        """So many bytes of the buffer, which grows where panels are wide."""
        if nbytes > self._buffer.size:
            self._buffer = np.empty(max(nbytes, MAX_PANEL_BYTES), np.uint8)
        return self._buffer[:nbytes]

    def read(self, tensor: LazyTensor, dtype: str, start: int, stop: int) -> Bytes:
        """The elements [start, stop) as ``dtype``, in C order."""
        panel = self.room((stop - start) * itemsize(dtype))
        self.gatherer.fill(tensor, dtype, start, stop, panel)
        return panel


def _read_spans(source: ByteSource, offsets: Sequence[int], nbytes: int, buffer: Bytes) -> None:
    """Fill ``buffer`` with runs of ``nbytes``, one after the other; in one call where the source has one for it."""
    if (read := getattr(source, "read_spans", None)) is not None:
        read(offsets, nbytes, buffer.data)
        return
    for n, offset in enumerate(offsets):
        source.read_into(offset, buffer[n * nbytes : (n + 1) * nbytes].data)


def _axes_by_source_step(block: Block) -> list[int]:
    """The axes of a block; first the one that steps widest in the source."""
    return sorted(range(len(block.sizes)), key=lambda n: -block.source_strides[n])


def _source_steps(block: Block, axes: Sequence[int]) -> list[int]:
    """For every index of some axes: how far from the first element of the block it lies in the source."""
    steps = np.zeros(1, np.int64)
    for n in axes:
        steps = (steps[:, None] + np.arange(block.sizes[n]) * block.source_strides[n]).reshape(-1)
    return list(steps.tolist())


def _stripes(block: Block, size: int, gap: int) -> Iterator[tuple[Block, int]]:
    """Parts of a scattered block that fit into scratch memory, each with how many of its axes are read index by index.

    Args:
        size: bytes of an element.
        gap: bytes between two runs that are read together with them.
    """
    order, reach, axes = _axes_by_source_step(block), 1, len(block.sizes)
    for n in reversed(order):
        if (block.source_strides[n] - reach) * size > gap:
            break
        reach += (block.sizes[n] - 1) * block.source_strides[n]
        axes -= 1
    count = math.prod(block.sizes[n] for n in order[:axes])
    if count * reach * size <= SCRATCH_BYTES:
        yield block, axes
        return
    widest, most = order[0], block.sizes[order[0]]
    step = max(1, most * SCRATCH_BYTES // (count * reach * size)) if most > 1 else 1
    for first in range(0, most, step):
        yield from _stripes(_cut_axis(block, widest, first, min(first + step, most)), size, gap)


def _cut_axis(block: Block, axis: int, first: int, last: int) -> Block:
    """The part of a block with the indices [first, last) of one axis."""
    sizes = (*block.sizes[:axis], last - first, *block.sizes[axis + 1 :])
    source, target = first * block.source_strides[axis], first * block.target_strides[axis]
    return make_block(sizes, block.source_offset + source, block.source_strides, block.target_offset + target, block.target_strides)


def _span_length(block: Block) -> int:
    """How many elements lie side by side in source and target alike."""
    if block.is_contiguous:
        return block.elements
    return block.sizes[-1] if block.source_strides[-1] == block.target_strides[-1] == 1 else 1


def _span_offsets(block: Block) -> Iterator[tuple[int, int]]:
    """Source and target offset of every span."""
    if block.is_contiguous:
        yield block.source_offset, block.target_offset
        return
    for index in np.ndindex(*block.sizes[:-1]):
        source = sum(i * s for i, s in zip(index, block.source_strides, strict=False))
        target = sum(i * s for i, s in zip(index, block.target_strides, strict=False))
        yield block.source_offset + source, block.target_offset + target


class _MadeSource:
    """The bytes of a tensor that pieces cannot describe: made in memory when they are first read.

    Attributes:
        made_of: the sources it is made from.
    """

    def __init__(self, tensor: LazyTensor) -> None:
        self.label, self.size, self._tensor = "a tensor made in memory", tensor.spec.nbytes, tensor
        self.made_of = sources_of((tensor,))
        self._lock = threading.Lock()
        self._bytes: Bytes | None = None

    def view(self) -> Bytes:
        with self._lock:
            if self._bytes is None:
                self._bytes = read_tensor(self._tensor).reshape(-1).view(np.uint8)
            return self._bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        np.frombuffer(buffer, np.uint8)[:] = self.view()[offset : offset + len(buffer)]

    def check_unchanged(self) -> None:
        for source in self.made_of:
            source.check_unchanged()

    def identity(self) -> list[Any] | None:
        return self._tensor.identity()


def fill_from_rows(buffer: memoryview, offset: int, row_bytes: int, rows_at_once: int, make: Callable[[int, int], Bytes]) -> None:
    """Fill ``buffer`` with the bytes from ``offset`` on of a tensor that is computed row by row.

    Args:
        make: the bytes of the rows [first, last), which are ``rows_at_once`` at most.
    """
    target, stop = np.frombuffer(buffer, np.uint8), -(-(offset + len(buffer)) // row_bytes)
    for first in range(offset // row_bytes, stop, rows_at_once):
        data = make(first, min(first + rows_at_once, stop))
        at = first * row_bytes - offset
        begin, end = max(at, 0), min(at + data.size, target.size)
        target[begin:end] = data[begin - at : end - at]


def made_whole(tensor: LazyTensor) -> LazyTensor:
    """The same tensor as one contiguous piece, made in memory (the size of this tensor) when it is first read.

    For the rare tensors that are mapped twice with boxes that do not meet in a box.
    """
    return stored_tensor(tensor.spec, _MadeSource(tensor), ((0, tensor.spec.nbytes),))


def read_tensor(tensor: LazyTensor) -> np.ndarray[Any, Any]:
    """A whole tensor as an array; bfloat16 and float8 have the dtypes of ``ml_dtypes``."""
    out = np.empty(tensor.spec.nbytes, np.uint8)
    read_whole(tensor, tensor.dtype, out)
    return out.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)


def read_whole(tensor: LazyTensor, dtype: str, out: Bytes, progress: Callable[[int], None] = lambda _: None) -> None:
    """A whole tensor, as ``dtype``, into a buffer of its size; ``progress`` is called with the bytes filled so far."""
    gatherer, size = Gatherer(), itemsize(dtype)
    for first, last in panels(tensor, dtype, 0, tensor.spec.elements):
        gatherer.fill(tensor, dtype, first, last, out[first * size :])
        progress(last * size)
