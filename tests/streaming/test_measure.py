"""Statistics of lazy tensors: the same as of arrays, from files, through layouts and casts, bounded and stoppable."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path
from typing import TypeVar

import ml_dtypes
import numpy as np
import pytest

from mfconv_nb.core.checkpoint import LazyTensor, TensorSpec, stored_tensor, strided_tensor
from mfconv_nb.core.dtypes import BY_NUMPY
from mfconv_nb.core.errors import MappingError, UsageError
from mfconv_nb.core.sources import ArraySource, FileSource
from mfconv_nb.core.statistics.one_tensor import Statistics
from mfconv_nb.core.statistics.two_tensors import PairStatistics
from mfconv_nb.streaming.measure import measure, measure_pair, sampled_elements

MIB = 1 << 20
Found = TypeVar("Found", Statistics, PairStatistics)


def lazy(values: np.ndarray, name: str = "w") -> LazyTensor:
    spec = TensorSpec(name, values.shape, BY_NUMPY[values.dtype])
    return stored_tensor(spec, ArraySource(np.ascontiguousarray(values).reshape(-1).view(np.uint8), "array"), ((0, values.nbytes),))


def transposed(values: np.ndarray) -> LazyTensor:
    """The transpose of what lies in memory, scattered."""
    spec = TensorSpec("w", values.shape[::-1], BY_NUMPY[values.dtype])
    return strided_tensor(spec, ArraySource(values.reshape(-1).view(np.uint8), "array"), 0, 0, (1, values.shape[1]))


def seen(found: Found | None) -> Found:
    assert found is not None
    return found


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape, np.float32) * 0.02).astype(dtype)  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_streamed_tensor_measures_as_the_array(dtype: object, threads: int) -> None:
    values = normal(3000, 700, dtype=dtype)
    found = seen(measure(lazy(values), threads=threads))
    wide = values.astype(np.float64)
    assert (found.elements, found.sampled) == (values.size, None)
    assert (found.minimum, found.maximum) == (wide.min(), wide.max())
    assert found.mean == pytest.approx(wide.mean(), abs=1e-12)
    assert found.std == pytest.approx(wide.std(), rel=1e-12)


def test_the_number_of_threads_changes_no_bit() -> None:
    values = normal(1500, 1024)
    assert len({repr(measure(lazy(values), threads=n)) for n in (1, 2, 5)}) == 1


def test_empty_tensors_and_scalars_are_measured() -> None:
    assert seen(measure(lazy(np.zeros((0, 4), np.float32)))).elements == 0
    found = seen(measure(lazy(np.array(2.5, np.float32))))
    assert (found.elements, found.minimum, found.std) == (1, 2.5, 0.0)
    pair = seen(measure_pair(lazy(np.zeros((0, 4), np.float32)), lazy(np.zeros((0, 4), np.float16))))
    assert pair.equal_bytes


def test_a_transposed_tensor_has_the_same_statistics() -> None:
    values = normal(900, 1100)
    straight, turned = seen(measure(lazy(values))), seen(measure(transposed(values)))
    assert (straight.minimum, straight.maximum, straight.finite) == (turned.minimum, turned.maximum, turned.finite)
    assert turned.std == pytest.approx(straight.std, rel=1e-12)
    assert seen(measure_pair(transposed(values), lazy(values.T))).equal_bytes


def test_the_first_of_a_pair_is_cast_to_the_dtype_of_the_second() -> None:
    values = normal(500, 300)
    cast = values.astype(ml_dtypes.bfloat16)
    assert seen(measure_pair(lazy(values), lazy(cast))).equal_bytes
    back = seen(measure_pair(lazy(cast), lazy(values)))
    assert back.dtype == "F32"
    assert back.max_abs == np.abs(values.astype(np.float64) - cast.astype(np.float64)).max()


def test_a_single_changed_number_is_found() -> None:
    values = normal(2000, 700)
    other = values.copy()
    other[1234, 56] = np.nextafter(other[1234, 56], np.float32(1))
    found = seen(measure_pair(lazy(values), lazy(other)))
    assert (found.differing, found.max_ulp, found.ulp) == (1, 1, (values.size - 1, 1))


@pytest.mark.parametrize("sample", [1, 5, 1000, 100_000, 2_000_000, 4_999_999])
def test_a_sample_is_labelled_repeatable_and_no_larger_than_asked(sample: int) -> None:
    tensor = lazy(normal(5000, 1000))
    found = seen(measure(tensor, sample=sample))
    assert found.sampled == (found.elements, 5_000_000)
    assert 0.4 * sample <= found.elements <= sample
    assert found.elements == sampled_elements(tensor, sample)
    assert repr(seen(measure(tensor, sample=sample, threads=1))) == repr(found)


def test_a_sample_is_spread_over_the_whole_tensor() -> None:
    values = np.arange(8 << 20, dtype=np.float32)
    found = seen(measure(lazy(values), sample=80_000))
    assert found.minimum < 0.1 * values.size
    assert found.maximum > 0.85 * values.size


def test_a_sample_as_large_as_the_tensor_is_the_tensor() -> None:
    found = seen(measure(lazy(normal(100, 10)), sample=1000))
    assert (found.elements, found.sampled) == (1000, None)


def test_a_sampled_pair_says_so() -> None:
    values = normal(5000, 1000)
    assert seen(measure_pair(lazy(values), lazy(values), sample=10_000)).sampled == (10_000, 5_000_000)


def test_progress_ends_at_the_bytes_that_were_to_be_seen() -> None:
    tensor, said = lazy(normal(3000, 1000)), []
    measure(tensor, on_progress=said.append)
    assert said[-1] == tensor.spec.nbytes
    measure(tensor, on_progress=said.append, sample=100_000)
    assert said[-1] == 4 * sampled_elements(tensor, 100_000)


class StoppingSource(ArraySource):
    """Sets ``stop`` while its fifth read is under way."""

    def __init__(self, data: np.ndarray, stop: threading.Event) -> None:
        super().__init__(data, "stopping")
        self.stop, self.reads = stop, 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads += 1
        if self.reads == 5:
            self.stop.set()
        super().read_into(offset, buffer)


@pytest.mark.parametrize("pair", [False, True])
def test_stop_ends_it_within_a_panel_and_gives_none(pair: bool) -> None:
    stop = threading.Event()
    source = StoppingSource(np.zeros(64 * MIB, np.uint8), stop)  # 32 panels or more
    tensor = stored_tensor(TensorSpec("w", (16 * MIB,), "F32"), source, ((0, 64 * MIB),))
    found = measure_pair(tensor, tensor, stop=stop) if pair else measure(tensor, stop=stop)
    assert found is None
    assert source.reads <= 8  # two threads end the panel they are in, of two tensors each


def test_a_stop_that_was_never_set_changes_nothing() -> None:
    assert seen(measure(lazy(normal(10, 10)), stop=threading.Event())).elements == 100


def test_memory_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    normal(16 * MIB).tofile(path)
    tensor = stored_tensor(TensorSpec("w", (16 * MIB,), "F32"), FileSource(path), ((0, 64 * MIB),))
    half = lazy(np.zeros(16 * MIB, np.float32))
    tracemalloc.start()
    measure(tensor)
    assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    measure_pair(tensor, half)
    assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    tracemalloc.stop()


def test_what_cannot_be_measured_is_refused() -> None:
    tensor = lazy(normal(10, 10))
    with pytest.raises(MappingError, match="MFC310"):
        measure(LazyTensor(tensor.spec, ()))
    with pytest.raises(MappingError, match="MFC310"):
        measure_pair(tensor, lazy(normal(100)))
    with pytest.raises(UsageError, match="MFC501"):
        measure(tensor, sample=0)
