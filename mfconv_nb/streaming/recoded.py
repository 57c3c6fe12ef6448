"""Numbers as codes and scales again: computed where they are read, a few rows at a time.

With the scales that were published, a number that was made of a code gives that code again; every number is checked. What was trained since
then gives none. It gets new scales and codes on request: amax / the largest code of each block, a power of two rounded up before anything
is divided by it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mfconv_nb.core.checkpoint import LazyTensor, TensorSpec, sources_of, stored_tensor
from mfconv_nb.core.dtypes import Array, cast_into, itemsize, numpy_dtype
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.rounding import Rounding, measure_rounding
from mfconv_nb.core.scaled_codes import (
    CODE_KINDS,
    LARGEST,
    as_powers_of_two,
    choose_scales,
    dequantise,
    quantise,
    recover_codes,
    same_numbers,
    scale_values,
)
from mfconv_nb.core.sources import ByteSource
from mfconv_nb.streaming.dequantised import CodedMatrix
from mfconv_nb.streaming.gather import Bytes, Gatherer, fill_from_rows

PANEL = 1 << 17  # numbers that are computed at once
ROWS_AT_ONCE = 1 << 21  # bytes of codes whose numbers are read at once: of a transpose, few rows are as slow to read as many
HINT_TRAINED = (
    "It was changed since it was read from codes. To quantise what was changed anew: --requantise (requantise=True in Python). "
    "For numbers instead of codes: --dtype bf16 (dtype= in Python)."
)
RECIPE = "changed weights quantised anew: scale = largest magnitude of a block / {largest:g}{rounded}, code = nearest to number / scale"


@dataclass(frozen=True, eq=False)
class Recoding:
    """A weight of numbers that becomes codes and scales.

    Attributes:
        numbers: of the shape of the matrix or stack.
        matrix: its geometry, with codes and scales as they were published.
        has_codes: whether the published codes are there to be read, as numbers alone do not tell them apart.
        requantise: whether numbers that no code stands for get new scales; else they are refused.
        in_powers_of_two: whether new scales in a wide dtype are powers of two.
    """

    numbers: LazyTensor
    matrix: CodedMatrix
    has_codes: bool
    requantise: bool
    in_powers_of_two: bool
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def kept_codes(self) -> tuple[LazyTensor, ...]:
        return (self.matrix.codes,) if self.has_codes else ()

    @property
    def computed(self) -> str:
        return f"codes of {self.numbers.name} by {self.matrix.scales.name}"

    @cached_property
    def _is_untouched(self) -> bool:
        gatherer = Gatherer()
        return all(self._fits(gatherer, first, last) for first, last in self.row_panels())

    @property
    def is_untouched(self) -> bool:
        """Whether each of its numbers is what some code stands for, with the published scales. Reads them, the first time it is asked."""
        with self._lock:
            return self._is_untouched

    @cached_property
    def _new_scales(self) -> Array:
        """Stored scales of the numbers as they are, a row for each row of blocks; in memory, as they are a small part of the weight."""
        matrix, gatherer = self.matrix, Gatherer()
        stack, (down, across) = matrix.elements // (matrix.rows * matrix.columns), matrix.grid
        amax = np.zeros((stack * down, across), np.float32)
        starts = np.arange(0, matrix.columns, matrix.block[1])
        for first, last in self.row_panels():
            numbers = self.read_rows(gatherer, first, last)
            if not np.isfinite(numbers).all():
                hint = "Look for what went wrong in its training, or write numbers: --dtype bf16 (dtype= in Python)."
                raise MappingError("MFC321", quote(self.numbers.name), found="NaN or infinite numbers", expected="finite ones", hint=hint)
            of_rows = matrix.rows_of_scales(np.arange(first, last))
            np.maximum.at(amax, of_rows, np.maximum.reduceat(np.abs(numbers), starts, axis=1))
        stored = choose_scales(amax, matrix.kind, matrix.scales.dtype)
        if self.in_powers_of_two and matrix.scales.dtype not in ("F8_E8M0", "U8"):
            stored = as_powers_of_two(scale_values(stored, matrix.scales.dtype)).astype(numpy_dtype(matrix.scales.dtype))
        return stored

    def stored_scales(self, gatherer: Gatherer, first: int, last: int) -> Bytes:
        """Some rows of scales, as they are stored."""
        if self.requantise and not self.is_untouched:
            with self._lock:
                return np.ascontiguousarray(self._new_scales[first:last]).reshape(-1).view(np.uint8)
        raw = self.matrix.read_stored_scales(gatherer, first, last)
        self.matrix.check_scales(raw, first)
        return raw

    def codes_of_rows(self, gatherer: Gatherer, first: int, last: int) -> Bytes:
        """The codes of some rows, counted through the stack.

        Raises:
            MappingError: MFC308 for numbers that no code stands for.
        """
        stored, scales = self._read_stored(gatherer, first, last), self._scales_of_rows(gatherer, first, last)
        is_new = self.requantise and not self.is_untouched
        codes = np.empty((last - first, self.matrix.columns // CODE_KINDS[self.matrix.kind]), np.uint8)
        step = max(1, PANEL // self.matrix.columns)
        for row in range(0, last - first, step):
            part = slice(row, min(row + step, last - first))
            if is_new:
                codes[part] = quantise(_as_float32(stored[part]), self.matrix.kind, scales[part], self.matrix.block[1])
            elif not self._recover(gatherer, codes[part], stored[part], scales[part], first + row):
                raise self._changed_error()
        return codes

    def _changed_error(self) -> MappingError:
        found = f"numbers that no code stands for, with the scales of {quote(self.matrix.scales.name)}"
        expected = "the numbers that were read from the published codes"
        return MappingError("MFC308", quote(self.numbers.name), found=found, expected=expected, hint=HINT_TRAINED)

    def _recover(self, gatherer: Gatherer, codes: Array, stored: Array, scales: Array, first: int) -> bool:
        """Fill in the codes of some rows, computed, or read where they were kept. False where they do not stand for these numbers."""
        matrix = self.matrix
        if self.has_codes:
            width = codes.shape[1]
            gatherer.fill(matrix.codes, matrix.codes.dtype, first * width, (first + len(codes)) * width, codes.reshape(-1))
        else:
            codes[...] = recover_codes(_as_float32(stored), matrix.kind, scales, matrix.block[1])
        return same_numbers(codes, matrix.kind, scales, matrix.block[1], stored, self.numbers.dtype)

    def rounding_of_rows(self, first: int, last: int) -> Rounding:
        """What quantising did to some rows."""
        gatherer = Gatherer()
        numbers, scales = self.read_rows(gatherer, first, last), self._scales_of_rows(gatherer, first, last)
        codes = quantise(numbers, self.matrix.kind, scales, self.matrix.block[1])
        again = np.empty(numbers.shape, np.float32)
        dequantise(again, codes, self.matrix.kind, scales, 0, self.matrix.block[1])
        return measure_rounding(again, numbers)

    def row_panels(self) -> Iterator[tuple[int, int]]:
        rows, step = self.matrix.elements // self.matrix.columns, max(1, ROWS_AT_ONCE // self.matrix.columns)
        for first in range(0, rows, step):
            yield first, min(rows, first + step)

    def read_rows(self, gatherer: Gatherer, first: int, last: int) -> Array:
        """Some rows of numbers as float32."""
        return _as_float32(self._read_stored(gatherer, first, last))

    def _read_stored(self, gatherer: Gatherer, first: int, last: int) -> Array:
        """Some rows of numbers, in their dtype."""
        width, dtype = self.matrix.columns, self.numbers.dtype
        out = np.empty((last - first) * width * itemsize(dtype), np.uint8)
        gatherer.fill(self.numbers, dtype, first * width, last * width, out)
        return out.view(numpy_dtype(dtype)).reshape(last - first, width)

    def _fits(self, gatherer: Gatherer, first: int, last: int) -> bool:
        scales = self.matrix.scales_of_rows(gatherer, np.arange(first, last))
        codes = np.empty((last - first, self.matrix.columns // CODE_KINDS[self.matrix.kind]), np.uint8)
        return self._recover(gatherer, codes, self._read_stored(gatherer, first, last), scales, first)

    def _scales_of_rows(self, gatherer: Gatherer, first: int, last: int) -> Array:
        of_rows = self.matrix.rows_of_scales(np.arange(first, last))
        low, high = int(of_rows[0]), int(of_rows[-1]) + 1
        raw = self.stored_scales(gatherer, low, high)
        return scale_values(raw, self.matrix.scales.dtype).reshape(high - low, -1)[of_rows - low]


def _as_float32(stored: Array) -> Array:
    """Numbers as float32; a NaN keeps its bits."""
    wide = np.empty(stored.shape, np.float32)
    cast_into(wide, stored)
    return wide


class RecodedSource:
    """The bytes of the codes, or of the scales, of a recoding, in C order.

    Attributes:
        made_of: the sources it is computed from.
        computed: how, in words; the manifest gives it for every tensor with numbers from here.
    """

    def __init__(self, recoding: Recoding, nbytes: int, row_bytes: int, *, of_codes: bool) -> None:
        self.recoding, self.of_codes, self._row_bytes = recoding, of_codes, row_bytes
        self.size, self.computed, self.label = nbytes, recoding.computed, recoding.computed
        self.made_of: tuple[ByteSource, ...] = sources_of((recoding.numbers, recoding.matrix.scales, *recoding.kept_codes))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        make, gatherer = self.recoding.codes_of_rows if self.of_codes else self.recoding.stored_scales, Gatherer()
        step = max(1, ROWS_AT_ONCE // self._row_bytes)
        fill_from_rows(buffer, offset, self._row_bytes, step, lambda row, stop: make(gatherer, row, stop).reshape(-1))

    def view(self) -> None:
        """It is computed where it is read, never as a whole."""

    def check_unchanged(self) -> None:
        for source in self.made_of:
            source.check_unchanged()

    def identity(self) -> list[Any] | None:
        parts = [t.identity() for t in (self.recoding.numbers, self.recoding.matrix.scales, *self.recoding.kept_codes)]
        return None if None in parts else [self.computed, self.of_codes, self.recoding.requantise, *parts]

    def rounding(self, first: int, last: int) -> Rounding | None:
        """What quantising did to the rows whose codes begin in [first, last), where they were quantised anew."""
        if not self.of_codes or not self.recoding.requantise or self.recoding.is_untouched:
            return None
        width = self._row_bytes
        rows = -(-first // width), -(-last // width)
        return self.recoding.rounding_of_rows(*rows) if rows[0] < rows[1] else Rounding()


def recoded_tensors(recoding: Recoding, codes: TensorSpec, scales: TensorSpec) -> tuple[LazyTensor, LazyTensor]:
    """Codes and scales of a weight, lazily, under their names and shapes."""
    row = recoding.matrix.columns // CODE_KINDS[recoding.matrix.kind]
    of_codes = RecodedSource(recoding, codes.nbytes, row, of_codes=True)
    of_scales = RecodedSource(recoding, scales.nbytes, recoding.matrix.grid[1] * itemsize(scales.dtype), of_codes=False)
    return stored_tensor(codes, of_codes, ((0, codes.nbytes),)), stored_tensor(scales, of_scales, ((0, scales.nbytes),))


def recipe(kind: str, *, in_powers_of_two: bool) -> str:
    """How changed weights are quantised, in words."""
    rounded = ", rounded up to a power of two before dividing" if in_powers_of_two else ""
    return RECIPE.format(largest=LARGEST[kind], rounded=rounded)
