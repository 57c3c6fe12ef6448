"""A weight with an adapter added, as a source of bytes: rows are computed when they are read, never all at once.

In memory: the half A of the adapter (rank x in) while the weight is in use, and a panel of rows of the weight and of B. If the weight is
stored as in x out, both halves are in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from mfconv_nb.core.checkpoint import LazyTensor, sources_of, stored_tensor
from mfconv_nb.core.dtypes import Array, itemsize, numpy_dtype
from mfconv_nb.core.low_rank import merged_rows
from mfconv_nb.core.sources import ByteSource
from mfconv_nb.streaming.gather import PANEL_BYTES, Bytes, Gatherer, fill_from_rows, read_tensor

Made = TypeVar("Made")


class _Recent(Generic[Made]):
    """A cache with one entry for each of the last few sources; entries vanish with their sources."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._made: WeakKeyDictionary[MergedSource, Made] = WeakKeyDictionary()

    def get(self, source: MergedSource, make: Callable[[], Made]) -> Made:
        with self._lock:
            if source in self._made:
                return self._made[source]
        made = make()
        with self._lock:
            for oldest in list(self._made)[: max(0, len(self._made) + 1 - self._most)]:
                del self._made[oldest]
            self._made[source] = made
        return made


_HALVES: _Recent[tuple[Array, ...]] = _Recent(8)  # a few a thread: every panel of a weight needs them
_WHOLE: _Recent[Bytes] = _Recent(2)  # one a thread: a transpose reads the whole tensor again and again


class MergedSource:
    """The bytes of ``weight + scale * b a``, in C order and in the dtype of the weight.

    Attributes:
        made_of: the sources it is computed from.
        computed: the formula, in words; the manifest gives it for every tensor with numbers from here.
    """

    def __init__(self, weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, *, transposed: bool) -> None:
        self._weight, self._a, self._b, self._scale, self._transposed = weight, a, b, scale, transposed
        self.size = weight.spec.nbytes
        self.computed = f"{weight.name} + {scale!r} * {b.name} {a.name}{', transposed' if transposed else ''}"
        self.label = self.computed
        self.made_of: tuple[ByteSource, ...] = sources_of((weight, a, b))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        gatherer, width = Gatherer(), itemsize(self._weight.dtype) * self._weight.shape[1]
        step = max(1, PANEL_BYTES // width)
        fill_from_rows(buffer, offset, width, step, lambda row, stop: self._rows(gatherer, row, stop).reshape(-1).view(np.uint8))

    def view(self) -> Bytes:
        return _WHOLE.get(self, self._read_whole)

    def check_unchanged(self) -> None:
        for source in self.made_of:
            source.check_unchanged()

    def identity(self) -> list[Any] | None:
        parts = [tensor.identity() for tensor in (self._weight, self._a, self._b)]
        return None if None in parts else [self.computed, *parts]

    def _rows(self, gatherer: Gatherer, row: int, stop: int) -> Array:
        """Some rows of the result. If the weight is stored as in x out, they are columns of the product."""
        weight = _some_rows(gatherer, self._weight, row, stop)
        a, *b = _HALVES.get(self, self._read_halves)
        if self._transposed:
            return merged_rows(weight, a[:, row:stop].T, b[0].T, self._scale)
        return merged_rows(weight, _some_rows(gatherer, self._b, row, stop), a, self._scale)

    def _read_halves(self) -> tuple[Array, ...]:
        return tuple(read_tensor(half) for half in ((self._a, self._b) if self._transposed else (self._a,)))

    def _read_whole(self) -> Bytes:
        out = np.empty(self.size, np.uint8)
        self.read_into(0, out.data)
        return out


def _some_rows(gatherer: Gatherer, tensor: LazyTensor, row: int, stop: int) -> Array:
    width = tensor.shape[1]
    out = np.empty((stop - row) * width * itemsize(tensor.dtype), np.uint8)
    gatherer.fill(tensor, tensor.dtype, row * width, stop * width, out)
    return out.view(numpy_dtype(tensor.dtype)).reshape(stop - row, width)


def merged_tensor(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, *, transposed: bool = False) -> LazyTensor:
    """A weight with an adapter added, lazily."""
    return stored_tensor(weight.spec, MergedSource(weight, a, b, scale, transposed=transposed), ((0, weight.spec.nbytes),))
