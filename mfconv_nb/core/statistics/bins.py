"""Numbers counted in narrow bins that are the same whatever the data, and histograms over any edges made from them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mfconv_nb.core.dtypes import itemsize, numpy_dtype

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 100
MANTISSA_BITS = {"F32": 7, "F64": 6}  # of a bin; 65,536 and 262,144 counters


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


def no_counts() -> Counts:
    return Counts(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))


def chunks(values: Array, size: int) -> Iterator[Array]:
    for start in range(0, values.size, size):
        yield values[start : start + size]


@lru_cache(maxsize=32)
def numbers_of_codes(dtype: str) -> Array:
    """The number that each bit pattern of an 8 or 16 bit dtype stands for, as float64."""
    size = itemsize(dtype)
    codes = np.arange(1 << 8 * size).astype(f"u{size}")
    if dtype == "BOOL":  # any byte but 0 is true
        return (codes != 0).astype(np.float64)
    with np.errstate(all="ignore"):
        return codes.view(numpy_dtype(dtype)).astype(np.float64)


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


class NarrowBins:
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
