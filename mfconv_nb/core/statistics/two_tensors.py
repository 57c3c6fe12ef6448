"""How two tensors of one shape and dtype differ, element by element: added up panel by panel and merged across threads, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from mfconv_nb.core.dtypes import CASTABLE, itemsize, numpy_dtype, ordered_bits
from mfconv_nb.core.report import difference_text
from mfconv_nb.core.statistics.bins import BINS, Array, Counts, Histogram, NarrowBins, chunks, edges_between, no_counts, numbers_of_codes

PAIR_CHUNK = 1 << 16
ULP_BINS = 66  # 0, 1, 2, 3-4, 5-8 and so on up to 2**64


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """How two tensors of one shape and dtype differ, second minus first. An element with equal bytes differs by 0, NaN or not.

    Attributes:
        elements: elements seen; all of them unless ``sampled``.
        differing: elements whose bytes differ.
        not_finite: of these, the ones that are NaN or infinite on a side; they are not in ``differences``.
        max_abs: largest absolute difference; of complex numbers, largest magnitude of it. What float64 cannot hold is cut to its largest.
        max_ulp: largest distance in representable numbers, infinities included, NaN left out; None but for floating numbers from 16 bits.
        ulp: elements at a distance of 0, 1, 2, 3-4, 5-8 and so on in powers of two (``ulp_label``), up to the largest; or None.
        differences: the differences in narrow bins.
        sampled: (elements seen, elements of the tensor) when only a part was seen.
    """

    dtype: str
    elements: int
    differing: int
    not_finite: int
    max_abs: float
    max_ulp: int | None
    ulp: tuple[int, ...] | None
    sampled: tuple[int, int] | None = None
    differences: Counts = field(default_factory=no_counts, compare=False, repr=False)

    @property
    def equal_bytes(self) -> bool:
        """Whether all bytes that were seen are equal."""
        return self.differing == 0

    @property
    def in_words(self) -> str:
        """How far the numbers are apart, and how many are none on a side: ``at most 0.5 (16 ULP), 1 NaN or infinite on a side``."""
        said = [f"{self.not_finite:,} NaN or infinite on a side"] if self.not_finite else []
        if self.max_abs > 0:
            return ", ".join([f"at most {difference_text(self.max_abs, None if said else self.max_ulp)}", *said])
        return said[0] if said else "only signs of zero"

    def histogram(self, bins: int = BINS + 1) -> Histogram:
        """Counts of the differences over equal bins around 0; with an odd number of bins the middle one is around 0."""
        return self.differences.histogram(edges_between(-self.max_abs, self.max_abs, bins))


def ulp_label(place: int) -> str:
    """What the bin at this place of ``PairStatistics.ulp`` holds: ``0``, ``1``, ``2``, ``3-4``, ``5-8``."""
    return str(place) if place < 3 else f"{(1 << place - 2) + 1}-{1 << place - 1}"


class PairAccumulator:
    """Takes two tensors in any portions and any order. One a thread; merged at the end."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.elements = dtype, 0
        self._differing = self._not_finite = self._max_ulp = 0
        self._bins = NarrowBins("F64")
        self._lowest = self._highest = 0.0
        self._ulp = np.zeros(ULP_BINS, np.int64)

    def add(self, first: Array, second: Array) -> None:
        """Count two flat, contiguous arrays of this dtype and of one size.

        Raises:
            ValueError: another dtype, or two sizes.
        """
        dtype = numpy_dtype(self.dtype)
        if first.dtype != dtype or second.dtype != dtype or first.shape != second.shape:
            raise ValueError(f"two arrays of {self.dtype} of one size were expected")
        self.elements += first.size
        a, b = first.view(np.uint8), second.view(np.uint8)
        words = a.size // 8 * 8  # as 64-bit words: 14 GB/s, where bytes compare at 1
        if not (np.array_equal(a[:words].view(np.uint64), b[:words].view(np.uint64)) and np.array_equal(a[words:], b[words:])):
            bits = np.dtype(f"u{dtype.itemsize}")
            for x, y in zip(chunks(first.view(bits), PAIR_CHUNK), chunks(second.view(bits), PAIR_CHUNK), strict=True):
                differ = np.flatnonzero(x != y)
                if not differ.size:
                    continue
                with np.errstate(all="ignore"):
                    self._count(x[differ].view(dtype), y[differ].view(dtype))

    def _count(self, x: Array, y: Array) -> None:
        """Numbers that differ in their bytes."""
        self._differing += x.size
        difference = _difference(x, y, self.dtype)
        # only of float64 numbers can a difference of finite ones be too large
        finite = np.isfinite(x) & np.isfinite(y) if self.dtype == "F64" else np.isfinite(difference)
        number = int(np.count_nonzero(finite))
        self._not_finite += x.size - number
        self._count_differences(difference if number == x.size else difference[finite])
        if self.dtype in CASTABLE:
            if number < x.size:
                ordered = ~(np.isnan(x) | np.isnan(y))
                x, y = x[ordered], y[ordered]
            self._count_ulp(x, y)

    def _count_differences(self, difference: Array) -> None:
        if self.dtype == "F64":
            largest = np.finfo(np.float64).max
            difference = np.clip(difference, -largest, largest)
        self._bins.add(difference)
        self._lowest = min(self._lowest, float(difference.min(initial=0.0)))
        self._highest = max(self._highest, float(difference.max(initial=0.0)))

    def _count_ulp(self, x: Array, y: Array) -> None:
        p, q = _order_numbers(x, self.dtype), _order_numbers(y, self.dtype)
        distance = np.maximum(p, q).view(np.uint64) - np.minimum(p, q).view(np.uint64)
        largest = int(distance.max(initial=0))
        self._max_ulp = max(self._max_ulp, largest)
        self._ulp += np.bincount(_ulp_places(distance, largest), minlength=ULP_BINS)

    def merge(self, other: PairAccumulator) -> None:
        """Take over what another one has counted.

        Raises:
            ValueError: another dtype.
        """
        if other.dtype != self.dtype:
            raise ValueError(f"{self.dtype} cannot take over {other.dtype}")
        self.elements += other.elements
        self._differing += other._differing
        self._not_finite += other._not_finite
        self._max_ulp = max(self._max_ulp, other._max_ulp)
        self._bins.counts += other._bins.counts
        self._ulp += other._ulp
        self._lowest, self._highest = min(self._lowest, other._lowest), max(self._highest, other._highest)

    def result(self, total: int | None = None) -> PairStatistics:
        """The statistics so far; ``total``: elements of the whole tensors, where only a part was to be seen."""
        equal = self.elements - self._differing
        bins = NarrowBins("F64")
        bins.counts += self._bins.counts
        bins.counts[0] += equal
        ulp = None
        if self.dtype in CASTABLE:
            counts = self._ulp.copy()
            counts[0] += equal
            ulp = tuple(int(n) for n in np.trim_zeros(counts, "b"))
        max_ulp = None if ulp is None else self._max_ulp
        largest = max(-self._lowest, self._highest)
        sampled = None if total is None or total == self.elements else (self.elements, total)
        held = bins.result(self._lowest, self._highest)
        return PairStatistics(self.dtype, self.elements, self._differing, self._not_finite, largest, max_ulp, ulp, sampled, held)


def _difference(x: Array, y: Array, dtype: str) -> Array:
    """Second minus first, as float64: of integers exactly and then rounded, of complex numbers its magnitude."""
    if itemsize(dtype) <= 2:
        numbers, codes = numbers_of_codes(dtype), np.dtype(f"u{itemsize(dtype)}")
        return numbers[y.view(codes)] - numbers[x.view(codes)]
    if x.dtype.kind == "c":
        return np.abs(y.astype(np.complex128) - x.astype(np.complex128))
    if x.dtype.kind == "f":
        return y.astype(np.float64) - x.astype(np.float64)
    unsigned = np.dtype(f"u{x.dtype.itemsize}")  # the distance modulo 2**bits is exact, whatever the signs
    distance = (np.maximum(x, y).astype(unsigned) - np.minimum(x, y).astype(unsigned)).astype(np.float64)
    return np.where(y < x, -distance, distance)


@lru_cache(maxsize=2)
def _ordered_codes(dtype: str) -> Array:
    return ordered_bits(np.arange(1 << 16).astype(np.uint16).view(numpy_dtype(dtype)))


def _order_numbers(a: Array, dtype: str) -> Array:
    return _ordered_codes(dtype)[a.view(np.uint16)] if itemsize(dtype) == 2 else ordered_bits(a)


def _ulp_places(distance: Array, largest: int) -> Array:
    """0 for 0, 1 for 1, then one more than the bits of distance - 1: the binary exponent of distance - 0.5 tells."""
    if largest >> 52:  # float64 cannot hold the half: leave out what the exponent does not need
        below = distance - np.minimum(distance, np.uint64(1))
        distance = np.where(below >> np.uint64(52), (below & ~np.uint64(0xFFF)) | np.uint64(0x800), distance)
    exponents = (distance.astype(np.float64) - 0.5).view(np.int64) >> 52
    return np.maximum(exponents - 1021, 0)
