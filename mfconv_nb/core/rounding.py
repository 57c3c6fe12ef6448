"""What rounding did to numbers: how many were changed, and by how much of themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfconv_nb.core.dtypes import Array
from mfconv_nb.core.report import how_many

CHUNK = 1 << 16  # numbers that are compared at once: they stay in the cache


@dataclass(frozen=True, slots=True)
class Rounding:
    """Counts over some numbers. Those that are NaN, infinite, or became infinite, have no error and count as numbers only.

    Attributes:
        inexact: those that were changed.
        largest: the largest error of a number, as a part of it.
        total: the sum of these errors.
    """

    numbers: int = 0
    inexact: int = 0
    largest: float = 0.0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """The mean error of a number, as a part of it, over all numbers."""
        return self.total / self.numbers if self.numbers else 0.0

    @property
    def is_exact(self) -> bool:
        return not self.inexact

    @property
    def in_words(self) -> str:
        """``12 of 64 numbers inexact, relative error at most 0.0039, 0.0011 in the mean``."""
        counted = f"{self.inexact:,} of {how_many(self.numbers, 'number')} inexact"
        return f"{counted}, relative error at most {self.largest:.3g}, {self.mean:.3g} in the mean"

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(
            self.numbers + other.numbers, self.inexact + other.inexact, max(self.largest, other.largest), self.total + other.total
        )


def measure_rounding(rounded: Array, exact: Array) -> Rounding:
    """Compare numbers with what they were rounded from.

    Args:
        exact: float32, or float64 where ``rounded`` is float32. Both have one axis.
    """
    found = Rounding()
    with np.errstate(all="ignore"):
        for first in range(0, exact.size, CHUNK):
            found += _measure_chunk(rounded[first : first + CHUNK], exact[first : first + CHUNK])
    return found


def _measure_chunk(rounded: Array, exact: Array) -> Rounding:
    wide = _changes(rounded, exact)
    inexact = int(np.count_nonzero(wide))
    if not inexact:
        return Rounding(exact.size)
    _as_parts(wide, exact)
    largest = float(wide.max())
    if not np.isfinite(largest):
        wide = np.where(np.isfinite(wide), wide, 0)
        inexact, largest = int(np.count_nonzero(wide)), float(wide.max())
    return Rounding(exact.size, inexact, largest, float(wide.sum()))


def relative_errors(rounded: Array, exact: Array) -> Array:
    """The error of each number, as a part of it; 0 of those that have none: NaN, infinite, or became infinite.

    Args:
        rounded, exact: as for ``measure_rounding``, of any one shape.
    """
    with np.errstate(all="ignore"):
        wide = _changes(rounded, exact)
        _as_parts(wide, exact)
    wide[~np.isfinite(wide)] = 0
    return wide


def _changes(rounded: Array, exact: Array) -> Array:
    wide = rounded.astype(exact.dtype)
    np.subtract(wide, exact, out=wide)
    return wide


def _as_parts(wide: Array, exact: Array) -> None:
    """Differences from ``exact`` become parts of it, without a sign."""
    size = np.abs(exact)
    np.maximum(size, np.finfo(exact.dtype).smallest_subnormal, out=size)  # zero stays zero: it has no error
    np.divide(wide, size, out=wide)
    np.abs(wide, out=wide)
