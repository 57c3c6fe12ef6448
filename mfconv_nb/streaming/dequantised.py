"""Codes with scales as a source of numbers: computed where they are read, in constant memory.

A source gives float32, unrounded; who reads it in another dtype rounds once. Any box of a matrix can be read alone, so that a transpose or
a fused layout decodes each code once, and not a whole row for a few of its columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfconv_nb.core.blocks import c_strides, make_block, whole
from mfconv_nb.core.checkpoint import LazyTensor, Piece, TensorSpec, sources_of
from mfconv_nb.core.dtypes import Array, itemsize
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.scaled_codes import CODE_KINDS, dequantise, holds_exactly, scale_values, tells_codes_apart, unusable_scale
from mfconv_nb.core.sources import ByteSource, FileSource
from mfconv_nb.streaming.gather import Bytes, Gatherer

PANEL = 1 << 18  # numbers that are computed at once
HINT_SCALE = "Fetch the file again; if it was published so, ask who published it."


@dataclass(frozen=True, slots=True)
class CodedMatrix:
    """Codes and scales, opened, with the geometry of one matrix of their stack.

    Attributes:
        codes: of two e2m1 in a byte, half as wide as the matrix.
        block: rows and columns that one scale is for.
    """

    name: str
    codes: LazyTensor
    scales: LazyTensor
    kind: str
    rows: int
    columns: int
    block: tuple[int, int]

    @property
    def elements(self) -> int:
        return self.codes.spec.elements * CODE_KINDS[self.kind]

    @property
    def grid(self) -> tuple[int, int]:
        """How many scales one matrix has down and across."""
        return -(-self.rows // self.block[0]), -(-self.columns // self.block[1])

    def rows_of_scales(self, rows: Array) -> Array:
        """Which row of scales each row belongs to, both counted through the stack."""
        return rows // self.rows * self.grid[0] + rows % self.rows // self.block[0]

    def read_stored_scales(self, gatherer: Gatherer, first: int, last: int) -> Bytes:
        """Some rows of scales, counted through the stack, as they are stored."""
        width, dtype = self.grid[1], self.scales.dtype
        raw = np.empty((last - first) * width * itemsize(dtype), np.uint8)
        gatherer.fill(self.scales, dtype, first * width, last * width, raw)
        return raw

    def read_scales(self, gatherer: Gatherer, first: int, last: int) -> Array:
        """As ``read_stored_scales``, as float32. Raises MappingError (MFC321) for a scale that is no positive number."""
        return self.check_scales(self.read_stored_scales(gatherer, first, last), first)

    def scales_of_rows(self, gatherer: Gatherer, rows: Array) -> Array:
        """A row of scales for each row, both counted through the stack."""
        of_rows = self.rows_of_scales(rows)
        low = int(of_rows.min())
        return self.read_scales(gatherer, low, int(of_rows.max()) + 1)[of_rows - low]

    def check_scales(self, raw: Bytes, first: int) -> Array:
        """Stored rows of scales, from row ``first`` on, as float32.

        Raises:
            MappingError: MFC321 for a scale that is no positive number.
        """
        width = self.grid[1]
        found = scale_values(raw, self.scales.dtype).reshape(-1, width)
        if (bad := unusable_scale(found)) is not None:
            at = first + bad // width
            place = [*([at // self.grid[0]] if self.elements > self.rows * self.columns else []), at % self.grid[0], bad % width]
            where = f"scale {place} of {quote(self.scales.name)}"
            what = f"{found.reshape(-1)[bad]:g}, for codes of {quote(self.name)}"
            raise MappingError("MFC321", where, found=what, expected="a number above zero", hint=HINT_SCALE)
        return found

    def scale_panels(self) -> Iterator[Array]:
        """All scales, in panels of rows."""
        gatherer, rows = Gatherer(), self.scales.spec.elements // self.grid[1]
        step = max(1, PANEL // self.grid[1])
        for first in range(0, rows, step):
            yield self.read_scales(gatherer, first, min(rows, first + step))


class DequantisedSource:
    """The float32 numbers of codes and scales, in C order of the stored matrix.

    Attributes:
        made_of: the sources it is computed from.
        computed: the formula, in words; the manifest gives it for every tensor with numbers from here.
        rounds_when_read: its numbers are rounded to the dtype of a tensor only where they are read.
        exact: the same numbers as float64, in which nothing is rounded.
    """

    rounds_when_read = True

    def __init__(self, matrix: CodedMatrix, dtype: str = "F32") -> None:
        self.matrix, self._dtype = matrix, dtype
        self.size = matrix.elements * itemsize(dtype)
        self.computed = f"{matrix.codes.name} * {matrix.scales.name}, blocks of {matrix.block[0]} x {matrix.block[1]}"
        self.label = self.computed
        self.made_of: tuple[ByteSource, ...] = sources_of((matrix.codes, matrix.scales))

    @property
    def exact(self) -> DequantisedSource:
        return DequantisedSource(self.matrix, "F64")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.read_spans((offset,), len(buffer), buffer)

    def read_spans(self, offsets: Sequence[int], nbytes: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with runs of ``nbytes``, one after the other; those of the same columns in one go."""
        size, width = itemsize(self._dtype), self.matrix.columns
        out = np.frombuffer(buffer, np.float64 if self._dtype == "F64" else np.float32)
        starts, count, gatherer = np.asarray(offsets, np.int64) // size, nbytes // size, Gatherer()
        column = int(starts[0] % width) if starts.size else 0
        if starts.size > 1 and column + count <= width and bool(np.all(starts % width == column)):
            self._fill(gatherer, out.reshape(starts.size, count), starts // width, column)
            return
        for n, start in enumerate(starts.tolist()):
            self._fill_run(gatherer, out[n * count : (n + 1) * count], start)

    def view(self) -> None:
        """It is computed where it is read, never as a whole."""

    def check_unchanged(self) -> None:
        for source in self.made_of:
            source.check_unchanged()

    def identity(self) -> list[Any] | None:
        parts = [self.matrix.codes.identity(), self.matrix.scales.identity()]
        return None if None in parts else [self.computed, self.matrix.kind, *parts]

    def _fill_run(self, gatherer: Gatherer, out: Array, start: int) -> None:
        """Numbers that lie one after the other: the rest of a row, whole rows, the beginning of a row."""
        width, stop = self.matrix.columns, start + out.size
        row, column = divmod(start, width)
        at = 0
        if column:
            at = min(width - column, out.size)
            self._fill(gatherer, out[:at].reshape(1, at), np.array([row]), column)
            row += 1
        rows = (stop - row * width) // width if stop > row * width else 0
        if rows:
            self._fill(gatherer, out[at : at + rows * width].reshape(rows, width), np.arange(row, row + rows), 0)
            at += rows * width
        if at < out.size:
            self._fill(gatherer, out[at:].reshape(1, -1), np.array([row + rows]), 0)

    def _fill(self, gatherer: Gatherer, out: Array, rows: Array, column: int) -> None:
        """Some rows, counted through the stack, of the columns from ``column`` on."""
        step = max(1, PANEL // max(1, out.shape[1]))
        for first in range(0, len(rows), step):
            self._fill_panel(gatherer, out[first : first + step], rows[first : first + step], column)

    def _fill_panel(self, gatherer: Gatherer, out: Array, rows: Array, column: int) -> None:
        matrix, packed = self.matrix, CODE_KINDS[self.matrix.kind]
        first = column // packed * packed  # a byte holds two columns: one more is computed on either side
        last = -(-(column + out.shape[1]) // packed) * packed
        whole_bytes = out if (first, last) == (column, column + out.shape[1]) else np.empty((len(rows), last - first), out.dtype)
        codes = _read_codes(gatherer, matrix, rows, first // packed, last // packed)
        dequantise(whole_bytes, codes, matrix.kind, self._scales(gatherer, rows, first, last), first, matrix.block[1])
        if whole_bytes is not out:
            out[...] = whole_bytes[:, column - first : column - first + out.shape[1]]

    def _scales(self, gatherer: Gatherer, rows: Array, column: int, stop: int) -> Array:
        """A row of scales for each row, from the block of ``column`` to that of the last one before ``stop``."""
        width = self.matrix.block[1]
        return self.matrix.scales_of_rows(gatherer, rows)[:, column // width : -(-stop // width)]


def _read_codes(gatherer: Gatherer, matrix: CodedMatrix, rows: Array, first: int, last: int) -> Bytes:
    """The bytes [first, last) of some rows of codes."""
    width, stored = matrix.columns // CODE_KINDS[matrix.kind], matrix.codes
    codes, dtype = np.empty((len(rows), last - first), np.uint8), stored.dtype
    starts = rows * width + first
    if first == 0 and last == width and bool(np.all(np.diff(rows) == 1)):
        gatherer.fill(stored, dtype, int(starts[0]), int(starts[-1]) + width, codes.reshape(-1))
        return codes
    piece = stored.pieces[0]
    if len(stored.pieces) == 1 and piece.block.is_contiguous and isinstance(piece.source, FileSource):
        base = piece.start + piece.block.source_offset
        piece.source.read_spans((starts + base).tolist(), last - first, codes.data.cast("B"))
        return codes
    for row, start in zip(codes, starts.tolist(), strict=True):
        gatherer.fill(stored, dtype, start, start + last - first, row)
    return codes


def dequantised_tensor(spec: TensorSpec, matrix: CodedMatrix, *, turned: bool = False) -> LazyTensor:
    """A weight with the numbers of codes and scales, lazily, in the dtype of ``spec``.

    Args:
        turned: the last two axes of ``spec`` are those of the codes, exchanged.
    """
    source, block = DequantisedSource(matrix), whole(spec.elements)
    if turned:
        *stack, rows, columns = spec.shape
        strides = c_strides((*stack, columns, rows))
        block = make_block(spec.shape, 0, (*strides[:-2], strides[-1], strides[-2]), 0, c_strides(spec.shape))
    return LazyTensor(spec, (Piece(source, 0, "F32", block),))


def dequantised_sources(tensors: Iterable[LazyTensor]) -> list[DequantisedSource]:
    """Everything that is computed from codes for these tensors, each once."""
    return list({id(p.source): p.source for t in tensors for p in t.pieces if isinstance(p.source, DequantisedSource)}.values())


def is_dequantised(tensor: LazyTensor) -> bool:
    """Whether some of its numbers are computed from codes."""
    return any(isinstance(p.source, DequantisedSource) for p in tensor.pieces)


def with_exact_numbers(tensor: LazyTensor) -> LazyTensor:
    """The same tensor, with its computed numbers before the product was rounded to float32."""
    pieces = tuple(Piece(p.source.exact, p.start, "F64", p.block) if isinstance(p.source, DequantisedSource) else p for p in tensor.pieces)
    return LazyTensor(TensorSpec(tensor.name, tensor.shape, "F64"), pieces)


@dataclass(frozen=True, slots=True)
class Fitness:
    """What a dtype can hold of a weight, by its scales alone: every number exactly; every code so that it can be told again."""

    exact: bool
    reversible: bool


def fitness_of(source: DequantisedSource, dtype: str) -> Fitness:
    """Read all scales of a weight. Raises MappingError (MFC321) for one that is no positive number."""
    kind, exact, reversible = source.matrix.kind, True, True
    for scales in source.matrix.scale_panels():
        exact = exact and holds_exactly(scales, kind, dtype)
        reversible = reversible and tells_codes_apart(scales, kind, dtype)
    return Fitness(exact, reversible)
