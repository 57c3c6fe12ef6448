"""The numbers of one tensor: counts, moments and histograms, added up panel by panel and merged across threads.

Numbers of 8 and 16 bits are counted by their codes (65,536 counters), so every statistic and every histogram is exact. Wider ones
have moments, and counters of narrow bins that are fixed by sign, exponent and leading mantissa bits, whatever the data. Nothing
depends on the order of panels or threads, to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mfconv_nb.core.dtypes import DTYPES, itemsize, numpy_dtype
from mfconv_nb.core.statistics.bins import BINS, Array, Counts, Histogram, NarrowBins, chunks, edges_between, no_counts, numbers_of_codes

CHUNK = 1 << 17  # elements counted at once: half is 10 % slower, and temporaries of 2 MiB may be mapped anew each time (2 x slower)


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
    counted: Counts = field(default_factory=no_counts, compare=False, repr=False)

    def histogram(self, bins: int = BINS, low: float | None = None, high: float | None = None) -> Histogram:
        """Counts of the finite numbers over equal bins from ``low`` to ``high``; left out, over all of them."""
        first, last = (self.minimum, self.maximum) if self.finite else (0.0, 1.0)
        return self.counted.histogram(edges_between(first if low is None else low, last if high is None else high, bins))


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
        for chunk in chunks(values.reshape(-1), CHUNK):
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

    def _sample_note(self, total: int | None) -> tuple[int, int] | None:
        return None if total is None or total == self.elements else (self.elements, total)


def accumulator(dtype: str) -> Accumulator:
    """Exact counters for 8 and 16 bits, moments and bins for wider numbers. At most 2 MiB of counters."""
    return _CodeAccumulator(dtype) if itemsize(dtype) <= 2 else _WideAccumulator(dtype)


class _CodeAccumulator(Accumulator):
    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self._codes = np.dtype(f"u{itemsize(dtype)}")
        self._counts = np.zeros(numbers_of_codes(dtype).size, np.int64)

    def _count(self, chunk: Array) -> None:
        self._counts += np.bincount(chunk.view(self._codes), minlength=self._counts.size)

    def merge(self, other: Accumulator) -> None:
        super().merge(other)
        assert isinstance(other, _CodeAccumulator)  # one dtype, one class
        self._counts += other._counts

    def result(self, total: int | None = None) -> Statistics:
        numbers, counts = numbers_of_codes(self.dtype), self._counts
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
        return Statistics(self.dtype, self.elements, number, *others, *moments, True, self._sample_note(total), seen)


class _WideAccumulator(Accumulator):
    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self._integers = numpy_dtype(dtype).kind in "iu"
        self._bins = NarrowBins("F32" if dtype in ("F32", "C64") else "F64")
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
        counted = self._bins.result(float(low), float(high), self._integers) if finite else no_counts()
        others, moments = (self._nan, self._positive, self._negative, self._zeros), (low, high, mean, std)
        return Statistics(self.dtype, self.elements, finite, *others, *moments, False, self._sample_note(total), counted)


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
