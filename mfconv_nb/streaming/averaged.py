"""The averages of PMA as a source of bytes: computed panel by panel when they are read."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mfconv_nb.core.averages import divide_sums
from mfconv_nb.core.checkpoint import LazyTensor, TensorSpec, sources_of, stored_tensor
from mfconv_nb.core.dtypes import itemsize, numpy_dtype
from mfconv_nb.core.sources import ByteSource
from mfconv_nb.streaming.gather import PANEL_BYTES, Gatherer, fill_from_rows


class AveragedSource:
    """The bytes of ``sums / total``, in C order.

    Attributes:
        made_of: the sources it is computed from.
        computed: the formula, in words; the manifest gives it for every tensor with numbers from here.
    """

    def __init__(self, sums: LazyTensor, total: float, dtype: str) -> None:
        self._sums, self._total, self._dtype = sums, total, dtype
        self.size = sums.spec.elements * itemsize(dtype)
        self.computed = f"{sums.name} / {total!r}"
        self.label = self.computed
        self.made_of: tuple[ByteSource, ...] = sources_of((sums,))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        step = max(1, PANEL_BYTES // itemsize(self._sums.dtype))
        fill_from_rows(buffer, offset, itemsize(self._dtype), step, partial(self._numbers, Gatherer()))

    def view(self) -> None:
        """It is computed where it is read, never as a whole."""

    def check_unchanged(self) -> None:
        for source in self.made_of:
            source.check_unchanged()

    def identity(self) -> list[Any] | None:
        parts = self._sums.identity()
        return None if parts is None else [self.computed, self._dtype, parts]

    def _numbers(self, gatherer: Gatherer, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        sums = np.empty((stop - start) * itemsize(self._sums.dtype), np.uint8)
        gatherer.fill(self._sums, self._sums.dtype, start, stop, sums)
        return divide_sums(sums.view(numpy_dtype(self._sums.dtype)), self._total, self._dtype).view(np.uint8)


def averaged_tensor(weight: TensorSpec, sums: LazyTensor, total: float) -> LazyTensor:
    """The average of a weight, lazily, with the weight's name, shape and dtype."""
    return stored_tensor(weight, AveragedSource(sums, total, weight.dtype), ((0, weight.nbytes),))
