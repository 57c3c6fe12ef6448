"""What the numbers of a tensor look like: counts, moments and histograms, added up panel by panel and merged across threads.

Numbers of 8 and 16 bits are counted by their codes (65,536 counters), so every statistic and every histogram is exact. Wider ones
have moments, and counters of narrow bins that are fixed by sign, exponent and leading mantissa bits, whatever the data. Nothing
depends on the order of panels or threads, to the last bit. Reads no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mfconv_nb.dtypes import CASTABLE, DTYPES, itemsize, numpy_dtype, ordered_bits

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 100
CHUNK = 1 << 17  # elements counted at once: half is 10 % slower, and temporaries of 2 MiB may be mapped anew each time (2 x slower)
PAIR_CHUNK = 1 << 16
MANTISSA_BITS = {"F32": 7, "F64": 6}  # of a bin; 65,536 and 262,144 counters
ULP_BINS = 66  # 0, 1, 2, 3-4, 5-8 and so on up to 2**64


class Histogram(NamedTuple):
    """As ``numpy.histogram`` gives it: a bin holds its lower edge, the last one its upper edge too."""

    edges: Array
    counts: Array


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How many finite numbers lie in each of many narrow bins, ascending; empty bins are left out.

    Attributes:
        low, high: bounds of a bin, float64; the same where a bin is a single number.
        counts: int64.
    """

    low: Array
    high: Array
    counts: Array

    def histogram(self, edges: Array) -> Histogram:
        """The same numbers over other edges. Exact for single numbers; a wider bin is spread evenly over what it overlaps."""
        edges = np.asarray(edges, np.float64)
        single = self.high <= self.low
        counts = _count_points(self.low[single], self.counts[single], edges)
        return Histogram(edges, counts + _count_spread(self.low[~single], self.high[~single], self.counts[~single], edges))


def _count_points(values: Array, counts: Array, edges: Array) -> Array:
    inside = (values >= edges[0]) & (values <= edges[-1])
    place = np.minimum(np.searchsorted(edges, values[inside], "right") - 1, edges.size - 2)
    return np.bincount(place, counts[inside], edges.size - 1).astype(np.int64)


def _count_spread(low: Array, high: Array, counts: Array, edges: Array) -> Array:
    if not counts.size:
        return np.zeros(edges.size - 1, np.int64)
    below = np.cumsum(counts)
    places = np.stack((low, high), 1).reshape(-1)
    numbers = np.stack((below - counts, below), 1).reshape(-1)
    # rounded as running totals, so that the sum stays exact
    return np.diff(np.rint(np.interp(edges, places, numbers)).astype(np.int64))


def edges_between(low: float, high: float, bins: int = BINS) -> Array:
    """``bins + 1`` equally spaced edges from ``low`` to ``high``; around a single number, half of it to both sides."""
    low, high = float(low), float(high)
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    step = np.arange(bins + 1) / bins
    edges = np.maximum.accumulate(np.clip(low * (1 - step) + high * step, low, high))  # high - low may be too large for float64
    edges[0], edges[-1] = low, high
    return edges


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of one tensor. Of complex numbers: of their magnitudes.

    Attributes:
        elements: numbers seen; all of the tensor unless ``sampled``.
        zeros: +0.0 and -0.0.
        minimum, maximum: of the finite numbers, exact; int for integers; NaN where nothing is finite. So are mean and std.
        std: standard deviation, divided by the number of finite elements.
        exact: whether ``counted`` holds single numbers, so that any histogram is exact; else bins under 1.6 % wide.
        sampled: (elements seen, elements of the tensor) when only a part was seen.
        counted: the finite numbers in narrow bins.
    """

    dtype: str
    elements: int
    finite: int
    nan: int
    positive_infinity: int
    negative_infinity: int
    zeros: int
    minimum: float
    maximum: float
    mean: float
    std: float
    exact: bool
    sampled: tuple[int, int] | None = None
    counted: Counts = field(default_factory=lambda: _no_counts(), compare=False, repr=False)

    def histogram(self, bins: int = BINS, low: float | None = None, high: float | None = None) -> Histogram:
        """Counts of the finite numbers over equal bins from ``low`` to ``high``; left out, over all of them."""
        first, last = (self.minimum, self.maximum) if self.finite else (0.0, 1.0)
        return self.counted.histogram(edges_between(first if low is None else low, last if high is None else high, bins))


def _no_counts() -> Counts:
    return Counts(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))


# ---- one tensor ------------------------------------------------------------------------------------------------------


class Accumulator:
    """Takes the numbers of one tensor in any portions and any order. One a thread; merged at the end."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.elements = dtype, 0

    def add(self, values: Array) -> None:
        """Count a flat, contiguous array of this dtype.

        Raises:
            ValueError: another dtype.
        """
        if values.dtype != numpy_dtype(self.dtype):
            raise ValueError(f"an array of {self.dtype} was expected, not of {values.dtype}")
        self.elements += values.size
        for chunk in _chunks(values.reshape(-1), CHUNK):
            self._count(chunk)

    def merge(self, other: Accumulator) -> None:
        """Take over what another one has counted.

        Raises:
            ValueError: another dtype.
        """
        if other.dtype != self.dtype:
            raise ValueError(f"{self.dtype} cannot take over {other.dtype}")
        self.elements += other.elements

    def result(self, total: int | None = None) -> Statistics:
        """The statistics so far; ``total``: elements of the whole tensor, where only a part was to be seen."""
        raise NotImplementedError

    def _count(self, chunk: Array) -> None:
        raise NotImplementedError

    def _sampled(self, total: int | None) -> tuple[int, int] | None:
        return None if total is None or total == self.elements else (self.elements, total)


def accumulator(dtype: str) -> Accumulator:
    """Exact counters for 8 and 16 bits, moments and bins for wider numbers. At most 2 MiB of counters."""
    return _CodeAccumulator(dtype) if itemsize(dtype) <= 2 else _WideAccumulator(dtype)


def _chunks(values: Array, size: int) -> Iterator[Array]:
    for start in range(0, values.size, size):
        yield values[start : start + size]


@lru_cache(maxsize=32)
def _numbers_of_codes(dtype: str) -> Array:
    """The number that each bit pattern of an 8 or 16 bit dtype stands for, as float64."""
    size = itemsize(dtype)
    codes = np.arange(1 << 8 * size).astype(f"u{size}")
    if dtype == "BOOL":  # any byte but 0 is true
        return (codes != 0).astype(np.float64)
    with np.errstate(all="ignore"):
        return codes.view(numpy_dtype(dtype)).astype(np.float64)


class _CodeAccumulator(Accumulator):
    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self._codes = np.dtype(f"u{itemsize(dtype)}")
        self._counts = np.zeros(_numbers_of_codes(dtype).size, np.int64)

    def _count(self, chunk: Array) -> None:
        self._counts += np.bincount(chunk.view(self._codes), minlength=self._counts.size)

    def merge(self, other: Accumulator) -> None:
        super().merge(other)
        assert isinstance(other, _CodeAccumulator)  # one dtype, one class
        self._counts += other._counts

    def result(self, total: int | None = None) -> Statistics:
        numbers, counts = _numbers_of_codes(self.dtype), self._counts
        finite = np.flatnonzero((counts > 0) & np.isfinite(numbers))
        finite = finite[np.argsort(numbers[finite], kind="stable")]
        seen = Counts(numbers[finite], numbers[finite], counts[finite])
        number = int(seen.counts.sum())
        mean = std = math.nan
        if number:
            mean = math.fsum(seen.low * seen.counts) / number
            std = math.sqrt(math.fsum((seen.low - mean) ** 2 * seen.counts) / number)
        kind: Any = float if DTYPES[self.dtype].floating else int
        low, high = (kind(seen.low[0]), kind(seen.low[-1])) if number else (math.nan, math.nan)
        special = np.isnan(numbers), numbers == np.inf, numbers == -np.inf, numbers == 0
        nan, positive, negative, zeros = (int(counts[codes].sum()) for codes in special)
        others, moments = (nan, positive, negative, zeros), (low, high, mean, std)
        return Statistics(self.dtype, self.elements, number, *others, *moments, True, self._sampled(total), seen)


@lru_cache(maxsize=4)
def _bin_bounds(dtype: str, integers: bool) -> tuple[Array, Array, Array]:
    """Codes of the finite bins in the order of their numbers, and the bounds of each: sign, exponent, leading mantissa bits."""
    size, shift = itemsize(dtype), _shift(dtype)
    bits = np.arange((_infinity(dtype) >> shift) + 1).astype(f"u{size}") << np.dtype(f"u{size}").type(shift)
    magnitudes = bits.view(numpy_dtype(dtype)).astype(np.float64)
    magnitudes[-1] = 2.0**128 if dtype == "F32" else np.finfo(np.float64).max
    low, high = magnitudes[:-1], magnitudes[1:]
    if integers:
        high = np.where(high - low <= 1, low, high)  # holds one integer only
    codes = np.arange(low.size)
    half = 1 << 8 * size - shift - 1
    return np.concatenate((codes[::-1] + half, codes)), np.concatenate((-high[::-1], low)), np.concatenate((-low[::-1], high))


def _shift(dtype: str) -> int:
    """Mantissa bits that a bin leaves open."""
    return {"F32": 23, "F64": 52}[dtype] - MANTISSA_BITS[dtype]


def _infinity(dtype: str) -> int:
    return {"F32": 0x7F800000, "F64": 0x7FF0000000000000}[dtype]


class _Bins:
    """Counters of float32 or float64 numbers by sign, exponent and leading mantissa bits. -0.0 counts as +0.0."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._bits, self._shift = np.dtype(f"u{itemsize(dtype)}"), _shift(dtype)
        self.half = 1 << 8 * itemsize(dtype) - self._shift - 1
        self._infinity = _infinity(dtype) >> self._shift
        self.counts = np.zeros(2 * self.half, np.int64)

    def add(self, chunk: Array) -> tuple[int, bool]:
        """Count finite numbers. Returns how many were zeros, and whether all were finite; the others are not counted."""
        bits = chunk.view(self._bits)
        counts = np.bincount((bits >> self._bits.type(self._shift)).astype(np.intp), minlength=self.counts.size)
        special = (slice(self._infinity, self.half), slice(self.half + self._infinity, None))
        finite = not any(counts[s].any() for s in special)
        for s in special:
            counts[s] = 0
        zeros = chunk.size - np.count_nonzero(chunk) if counts[0] or counts[self.half] else 0
        if counts[self.half]:
            negative = int(np.count_nonzero(bits == self._bits.type(1 << 8 * self._bits.itemsize - 1)))
            counts[0] += negative
            counts[self.half] -= negative
        self.counts += counts
        return int(zeros), finite

    def result(self, minimum: float, maximum: float, integers: bool = False) -> Counts:
        """The bins that hold something, cut to the range of what they hold."""
        codes, low, high = _bin_bounds(self.dtype, integers)
        counts = self.counts[codes]
        held = counts > 0
        return Counts(np.maximum(low[held], minimum), np.minimum(high[held], maximum), counts[held])


class _WideAccumulator(Accumulator):
    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self._integers = numpy_dtype(dtype).kind in "iu"
        self._bins = _Bins("F32" if dtype in ("F32", "C64") else "F64")
        self._parts: list[tuple[int, float, float]] = []  # elements, mean and sum of squares around it, of each chunk
        self._nan = self._positive = self._negative = self._zeros = 0
        self._minimum: float = math.inf
        self._maximum: float = -math.inf

    def _count(self, chunk: Array) -> None:
        with np.errstate(all="ignore"):
            if self.dtype == "C64":
                chunk = np.abs(chunk)
            wide = chunk.astype(np.float64)  # a copy: the moments are made in it
            zeros, all_finite = self._bins.add(wide if self._integers else chunk)
            self._zeros += zeros
            if not all_finite:
                self._nan += int(np.count_nonzero(np.isnan(chunk)))
                self._positive += int(np.count_nonzero(chunk == np.inf))
                self._negative += int(np.count_nonzero(chunk == -np.inf))
                chunk = chunk[np.isfinite(chunk)]
                wide = chunk.astype(np.float64)
            if chunk.size:
                self._minimum = min(self._minimum, chunk.min().item())
                self._maximum = max(self._maximum, chunk.max().item())
                self._parts.append(_moments(wide))

    def merge(self, other: Accumulator) -> None:
        super().merge(other)
        assert isinstance(other, _WideAccumulator)  # one dtype, one class
        self._bins.counts += other._bins.counts
        self._parts += other._parts
        self._nan, self._zeros = self._nan + other._nan, self._zeros + other._zeros
        self._positive, self._negative = self._positive + other._positive, self._negative + other._negative
        self._minimum, self._maximum = min(self._minimum, other._minimum), max(self._maximum, other._maximum)

    def result(self, total: int | None = None) -> Statistics:
        finite = sum(n for n, _, _ in self._parts)
        low, high = (self._minimum, self._maximum) if finite else (math.nan, math.nan)
        mean, std = (float(low), 0.0) if low == high else _mean_and_std(self._parts)
        counted = self._bins.result(float(low), float(high), self._integers) if finite else _no_counts()
        others, moments = (self._nan, self._positive, self._negative, self._zeros), (low, high, mean, std)
        return Statistics(self.dtype, self.elements, finite, *others, *moments, False, self._sampled(total), counted)


def _moments(wide: Array) -> tuple[int, float, float]:
    """Elements, mean, and sum of squares around the mean. Overwrites ``wide``."""
    mean = float(wide.sum()) / wide.size
    if not math.isfinite(mean):
        mean = float((wide / wide.size).sum())  # the sum was too large for float64
    wide -= mean
    np.multiply(wide, wide, out=wide)
    return wide.size, mean, float(wide.sum())


def _mean_and_std(parts: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Of all parts together. ``fsum`` rounds once, so their order does not matter. std is inf past the largest float64."""
    if not parts:
        return math.nan, math.nan
    numbers, means, squares = (np.array(column, np.float64) for column in zip(*parts, strict=True))
    share = numbers / numbers.sum()
    with np.errstate(over="ignore"):
        mean = math.fsum(means * share)
        terms = [*(squares / numbers.sum()), *((means - mean) ** 2 * share)]
    try:
        return mean, math.sqrt(math.fsum(terms))
    except OverflowError:
        return mean, math.inf


# ---- two tensors -----------------------------------------------------------------------------------------------------


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
    differences: Counts = field(default_factory=_no_counts, compare=False, repr=False)

    @property
    def equal_bytes(self) -> bool:
        """Whether all bytes that were seen are equal."""
        return self.differing == 0

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
        self._bins = _Bins("F64")
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
            for x, y in zip(_chunks(first.view(bits), PAIR_CHUNK), _chunks(second.view(bits), PAIR_CHUNK), strict=True):
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
        p, q = _ordered(x, self.dtype), _ordered(y, self.dtype)
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
        bins = _Bins("F64")
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
        numbers, codes = _numbers_of_codes(dtype), np.dtype(f"u{itemsize(dtype)}")
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


def _ordered(a: Array, dtype: str) -> Array:
    return _ordered_codes(dtype)[a.view(np.uint16)] if itemsize(dtype) == 2 else ordered_bits(a)


def _ulp_places(distance: Array, largest: int) -> Array:
    """0 for 0, 1 for 1, then one more than the bits of distance - 1: the binary exponent of distance - 0.5 tells."""
    if largest >> 52:  # float64 cannot hold the half: leave out what the exponent does not need
        below = distance - np.minimum(distance, np.uint64(1))
        distance = np.where(below >> np.uint64(52), (below & ~np.uint64(0xFFF)) | np.uint64(0x800), distance)
    exponents = (distance.astype(np.float64) - 0.5).view(np.int64) >> 52
    return np.maximum(exponents - 1021, 0)
