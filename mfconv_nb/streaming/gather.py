"""Reading part of a lazy tensor: any run of its elements, from all the places they lie in, into one buffer.

Where a run is contiguous in the source it is one `preadv` into the caller's buffer. Where short runs lie side by side (rows of a slice that
was cut along its last axis) all of them are one `preadv` into scratch memory, and moved from there. Where they are scattered (a
transpose) the source is mapped and its numbers are moved in tiles. Nothing is ever read as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mfconv_nb.blocks import Block, clip_target, move_block, moved
from mfconv_nb.checkpoint import FileSource, LazyTensor, Piece, stored_tensor
from mfconv_nb.dtypes import itemsize, numpy_dtype
from mfconv_nb.errors import MappingError, quoted

PANEL_BYTES = 2 << 20  # one read and one write; 1 thread: 1.07 x cp, with 512 KiB 1.24, with 256 KiB 1.49 (2 GB, quiet machine)
MAX_PANEL_BYTES = 4 << 20  # where rows are scattered in the source, a panel has at least 128 of them, up to this
PANEL_ROWS = 128
SHORTEST_RUN = 2 << 10  # contiguous runs shorter than this are moved through a map, not read one by one
SHORTEST_READ = 64 << 10  # shorter runs that lie side by side are read at once, then moved: with 2 KiB 13 times as fast, with 64 KiB 1.3

SHORTEST_COPY = 64 << 10  # shorter runs are not worth a call of their own
MOST_PIECES = 64  # of a tensor that is looked through for runs

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def panels(tensor: LazyTensor, dtype: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut the elements [start, stop) into runs of about ``PANEL_BYTES``, at row boundaries where the source is scattered."""
    widest = max([itemsize(dtype), *(itemsize(p.dtype) for p in tensor.pieces)])
    size = max(1, PANEL_BYTES // widest)
    rows = [s for p in tensor.pieces if not p.block.is_run for s in p.block.target_strides if s > 1]
    if rows:
        most = MAX_PANEL_BYTES // widest
        row = max((s for s in rows if s * PANEL_ROWS <= most), default=0) or max((s for s in rows if s <= most), default=1)
        size = min(most, max(size, row * PANEL_ROWS)) // row * row
    first = start
    while first < stop:
        last = min(stop, (first // size + 1) * size)
        yield first, last
        first = last


class Run(NamedTuple):
    """Bytes side by side in a file, and where they go, counted from the first that is wanted."""

    source: FileSource
    offset: int
    at: int
    nbytes: int


class Gatherer:
    """Fills buffers with parts of lazy tensors. One a thread: it owns a scratch buffer for casts.

    Attributes:
        infinite: how many finite numbers casts have made infinite so far.
    """

    def __init__(self) -> None:
        self._scratch, self.infinite = np.empty(0, np.uint8), 0

    def fill(self, tensor: LazyTensor, dtype: str, start: int, stop: int, buffer: Bytes) -> None:
        """Write the elements [start, stop) of ``tensor``, as ``dtype``, into the first bytes of ``buffer``."""
        if not tensor.pieces and start < stop:
            raise MappingError("MFC310", quoted(tensor.name), found="a name and a shape only", expected="a tensor with values")
        target = buffer[: (stop - start) * itemsize(dtype)]
        for piece in tensor.pieces:
            for block in clip_target(piece.block, start, stop):
                self._fill_block(piece, moved(block, target=-start), dtype, target)

    def runs(self, tensor: LazyTensor, dtype: str, start: int, stop: int) -> list[Run] | None:
        """Where the elements [start, stop) lie, if they lie in files as they are wanted, in a few long runs; None if not."""
        if not 0 < len(tensor.pieces) <= MOST_PIECES:
            return None
        found, size = [], itemsize(dtype)
        for piece in tensor.pieces:
            for block in clip_target(piece.block, start, stop):
                nbytes = block.elements * size
                if piece.dtype != dtype or not block.is_run or nbytes < SHORTEST_COPY or not isinstance(piece.source, FileSource):
                    return None
                at = (block.target_offset - start) * size
                found.append(Run(piece.source, piece.start + block.source_offset * size, at, nbytes))
        return found

    def _fill_block(self, piece: Piece, block: Block, dtype: str, target: Bytes) -> None:
        size = itemsize(piece.dtype)
        span = 1 + sum((n - 1) * s for n, s in zip(block.sizes, block.source_strides, strict=True))
        is_dense = span <= 2 * block.elements
        if piece.dtype == dtype:
            run = _run_length(block)
            if block.is_run or run * size >= (SHORTEST_READ if is_dense else SHORTEST_RUN):
                for first, at in _runs(block):
                    place = target[at * size : (at + run) * size]
                    piece.source.read_into(piece.start + first * size, place.data)
                return
        if is_dense:
            source = self._read_span(piece, block.source_offset, span)
            block = moved(block, source=-block.source_offset)
        else:
            view = piece.source.view()
            count = (view.size - piece.start) // size
            source = np.ndarray((count,), numpy_dtype(piece.dtype), view.data, piece.start)
        self.infinite += move_block(target.view(numpy_dtype(dtype)), source, block)

    def _read_span(self, piece: Piece, first: int, count: int) -> np.ndarray[Any, Any]:
        """A contiguous run of the source, read into scratch memory, which is aligned whatever the file's offsets are."""
        size = itemsize(piece.dtype)
        if self._scratch.size < count * size:
            self._scratch = np.empty(count * size, np.uint8)
        place = self._scratch[: count * size]
        piece.source.read_into(piece.start + first * size, place.data)
        return place.view(numpy_dtype(piece.dtype))


def _run_length(block: Block) -> int:
    """Elements that lie side by side in source and target."""
    if block.is_run:
        return block.elements
    return block.sizes[-1] if block.source_strides[-1] == block.target_strides[-1] == 1 else 1


def _runs(block: Block) -> Iterator[tuple[int, int]]:
    """Source and target offset of every contiguous run."""
    if block.is_run:
        yield block.source_offset, block.target_offset
        return
    for index in np.ndindex(*block.sizes[:-1]):
        source = sum(i * s for i, s in zip(index, block.source_strides, strict=False))
        target = sum(i * s for i, s in zip(index, block.target_strides, strict=False))
        yield block.source_offset + source, block.target_offset + target


class _MadeSource:
    """The bytes of a tensor that cannot be seen through, made in memory when they are first asked for."""

    def __init__(self, tensor: LazyTensor) -> None:
        self.label, self.size, self._tensor = "a tensor made in memory", tensor.spec.nbytes, tensor
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
        for piece in self._tensor.pieces:
            piece.source.check_unchanged()


def made_whole(tensor: LazyTensor) -> LazyTensor:
    """The same tensor as one contiguous piece, which is made in memory (the size of this tensor) when it is first read.

    For the rare mappings of mappings whose boxes do not meet in a box.
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
