"""What rounding does to numbers that are computed, counted while they are written."""

from __future__ import annotations

import numpy as np

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.dtypes import CASTABLE, Array, cast_into, itemsize, numpy_dtype
from mfconv_nb.core.rounding import Rounding, measure_rounding
from mfconv_nb.streaming.dequantised import is_dequantised, with_exact_numbers
from mfconv_nb.streaming.gather import Bytes, Gatherer
from mfconv_nb.streaming.recoded import RecodedSource


class RoundingMeter:
    """Fills panels of a tensor that is computed from codes, and counts what rounding does to it.

    The numbers are compared with the product in float32; float32 itself with the product before it was rounded.

    Attributes:
        rounding: of everything that was filled so far.
    """

    def __init__(self, tensor: LazyTensor, dtype: str) -> None:
        self._tensor, self._dtype, self.rounding = tensor, dtype, Rounding()
        self._exact = with_exact_numbers(tensor)
        self._compared = self._exact if dtype == "F32" else tensor
        self._wide_dtype = "F64" if dtype == "F32" else "F32"
        self._wide = np.empty(0, np.uint8)

    @property
    def counted(self) -> tuple[float, ...]:
        """The fields of ``rounding``, as a journal holds them."""
        r = self.rounding
        return (r.numbers, r.inexact, r.largest, r.total)

    def fill(self, gatherer: Gatherer, first: int, last: int, panel: Bytes) -> None:
        """Write the elements [first, last) into ``panel``."""
        size = itemsize(self._wide_dtype)
        if self._wide.size < (last - first) * size:
            self._wide = np.empty((last - first) * size, np.uint8)
        wide_bytes = self._wide[: (last - first) * size]
        gatherer.fill(self._compared, self._wide_dtype, first, last, wide_bytes)
        wide, rounded = wide_bytes.view(numpy_dtype(self._wide_dtype)), panel.view(numpy_dtype(self._dtype))
        if self._dtype == "F32":
            gatherer.fill(self._tensor, self._dtype, first, last, panel)  # a NaN keeps its bits
            cast = 0
        else:
            cast = cast_into(rounded, wide)
        gatherer.infinite += (
            cast if _is_finite(rounded if self._dtype == "F32" else wide) else self._count_infinite(gatherer, first, rounded)
        )
        self.rounding += measure_rounding(rounded, wide)

    def _count_infinite(self, gatherer: Gatherer, first: int, rounded: Array) -> int:
        """How many numbers are infinite whose code times scale is not: a product may be too large for float32 already."""
        exact = np.empty(rounded.size * itemsize("F64"), np.uint8)
        gatherer.fill(self._exact, "F64", first, first + rounded.size, exact)
        with np.errstate(all="ignore"):
            return int(np.count_nonzero(np.isinf(rounded.astype(np.float32)) & np.isfinite(exact.view(np.float64))))


def _is_finite(numbers: Array) -> bool:
    """Whether no number is infinite, or NaN."""
    return bool(np.isfinite(numbers.max(initial=0)) and np.isfinite(numbers.min(initial=0)))


class RecodingMeter:
    """Fills panels of codes that are computed from numbers, and counts what quantising does to those that are quantised anew."""

    def __init__(self, tensor: LazyTensor, source: RecodedSource) -> None:
        self._tensor, self._source = tensor, source
        self.rounding: Rounding | None = None

    @property
    def counted(self) -> tuple[float, ...]:
        """The fields of ``rounding``, as a journal holds them; none where nothing was quantised anew."""
        r = self.rounding
        return () if r is None else (r.numbers, r.inexact, r.largest, r.total)

    def fill(self, gatherer: Gatherer, first: int, last: int, panel: Bytes) -> None:
        """Write the elements [first, last) into ``panel``."""
        gatherer.fill(self._tensor, self._tensor.dtype, first, last, panel)
        found = self._source.rounding(first, last)
        if found is not None:
            self.rounding = (self.rounding or Rounding()) + found


Meter = RoundingMeter | RecodingMeter


def meter_of(tensor: LazyTensor, dtype: str) -> Meter | None:
    """What counts the rounding of a tensor; None where nothing of it is computed from codes, or is codes that are computed."""
    if dtype in CASTABLE:
        return RoundingMeter(tensor, dtype) if is_dequantised(tensor) else None
    source = tensor.pieces[0].source if len(tensor.pieces) == 1 else None
    return RecodingMeter(tensor, source) if isinstance(source, RecodedSource) and source.of_codes else None
