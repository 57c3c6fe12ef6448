"""Statistics against numpy, whatever the numbers, the portions and the order of merging."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mfconv_nb.core.dtypes import DTYPES, max_ulp_distance, numpy_dtype
from mfconv_nb.core.statistics.bins import edges_between
from mfconv_nb.core.statistics.one_tensor import Accumulator, Statistics, accumulator
from mfconv_nb.core.statistics.two_tensors import PairAccumulator, PairStatistics, ulp_label
from tests.toys import compared, measured

FLOATING = ["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"]
INTEGERS = ["BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"]
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 6e-8, -6e-8, 1e-39, -1e-39, 1e-45]


def random_bits(dtype: str, size: int, seed: int = 0) -> np.ndarray:
    """Every kind of number the dtype has: NaN, infinities, subnormals, both zeros."""
    data = np.random.default_rng(seed).integers(0, 256, size * DTYPES[dtype].itemsize, np.uint8)
    return (data & 1).view(np.bool_) if dtype == "BOOL" else data.view(numpy_dtype(dtype))


def assert_agrees_with_numpy(found: Statistics, values: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        wide = values.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        assert (found.elements, found.finite) == (values.size, finite.size)
        assert found.nan == np.isnan(wide).sum()
        assert (found.positive_infinity, found.negative_infinity) == ((wide == np.inf).sum(), (wide == -np.inf).sum())
        assert found.zeros == (wide == 0).sum()
        if not finite.size:
            assert all(math.isnan(v) for v in (found.minimum, found.maximum, found.mean, found.std))
            return
        exact = values[np.isfinite(wide)]
        assert (found.minimum, found.maximum) == (exact.min(), exact.max())
        size = np.abs(finite).max()
        scale = 2.0 ** -max(0, math.frexp(size)[1] - 400)  # keeps the squares of huge numbers within float64
        assert found.mean == pytest.approx(math.fsum(finite * scale) / finite.size / scale, rel=1e-9, abs=size * 1e-14)
        if found.std != math.inf:
            assert found.std * scale == pytest.approx((finite * scale).std(), rel=1e-9, abs=size * scale * 1e-14)


@pytest.mark.parametrize("dtype", FLOATING + INTEGERS)
@pytest.mark.parametrize("size", [0, 1, 2, 1000, 300_001])
def test_statistics_agree_with_numpy_for_random_bits(dtype: str, size: int) -> None:
    values = random_bits(dtype, size)
    assert_agrees_with_numpy(measured(values, dtype), values)


@settings(max_examples=60)
@given(values=arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32) | st.sampled_from(SPECIAL).map(np.float32).map(float)))
def test_statistics_agree_with_numpy_for_any_fp32(values: np.ndarray) -> None:
    assert_agrees_with_numpy(measured(values, "F32"), values)
    with np.errstate(all="ignore"):
        half = values.astype(np.float16)
    assert_agrees_with_numpy(measured(half, "F16"), half)


@settings(max_examples=40)
@given(values=arrays(np.int64, st.integers(0, 40)))
def test_integers_keep_exact_extremes(values: np.ndarray) -> None:
    assert_agrees_with_numpy(measured(values, "I64"), values)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "U8", "I16", "F8_E4M3"])
def test_any_histogram_of_narrow_numbers_is_numpys(dtype: str) -> None:
    values = random_bits(dtype, 20_000)
    found = measured(values, dtype)
    with np.errstate(all="ignore"):
        wide = values.astype(np.float64)
    wide = wide[np.isfinite(wide)]
    assert found.exact
    for edges in (edges_between(found.minimum, found.maximum, 37), np.linspace(-2, 3, 11), np.array([-1e9, -0.5, 0.0, 7.0, 1e9])):
        np.testing.assert_array_equal(found.counted.histogram(edges).counts, np.histogram(wide, edges)[0])


@pytest.mark.parametrize("dtype", ["F32", "F64", "I32", "I64"])
def test_a_histogram_of_wide_numbers_is_close_to_numpys_and_loses_none(dtype: str) -> None:
    values = (np.random.default_rng(1).standard_normal(200_000) * 1000).astype(numpy_dtype(dtype))
    found = measured(values, dtype)
    edges, counts = found.histogram(50)
    true = np.histogram(values.astype(np.float64), edges)[0]
    assert counts.sum() == values.size
    assert counts.min() >= 0
    assert np.abs(np.cumsum(counts) - np.cumsum(true)).max() < 0.002 * values.size


def test_small_integers_and_zeros_fall_in_their_own_bins() -> None:
    values = np.repeat(np.arange(-5, 6), np.arange(1, 12))
    counts = measured(values, "I64").histogram(11, -5.5, 5.5).counts
    np.testing.assert_array_equal(counts, np.arange(1, 12))
    sparse = np.array([0.0, -0.0, 0.0, 1.0, -1.0], np.float32)
    np.testing.assert_array_equal(measured(sparse, "F32").histogram(2).counts, [1, 4])


def test_a_constant_tensor_has_no_spread_and_one_bin() -> None:
    found = measured(np.full(1001, 0.1, np.float32), "F32")
    assert (found.mean, found.std) == (float(np.float32(0.1)), 0.0)
    assert sorted(found.histogram().counts)[-2:] == [0, 1001]


@pytest.mark.parametrize("low, high", [(-1.7e308, 1.7e308), (0.0, 5e-324), (1.0, 1.0), (0, 0), (-3, 2**64)])
def test_edges_ascend_from_the_smallest_to_the_largest_number(low: float, high: float) -> None:
    edges = edges_between(low, high, 100)
    assert edges.size == 101
    assert np.all(np.diff(edges) >= 0)
    assert edges[0] <= low <= high <= edges[-1]
    assert np.isfinite(edges).all()


def test_huge_numbers_do_not_overflow_the_mean() -> None:
    values = np.array([1.7e308, 1.7e308, -1.7e308, 1.6e308])
    found = measured(values, "F64")
    assert found.mean == pytest.approx(0.825e308)
    assert found.std == math.inf  # as in numpy
    assert found.histogram(10).counts.sum() == 4


def test_complex_numbers_are_measured_by_their_magnitude() -> None:
    found = measured(np.array([3 + 4j, 0, 1j], np.complex64), "C64")
    assert (found.minimum, found.maximum, found.zeros, found.elements) == (0.0, 5.0, 1, 3)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64", "I64", "BOOL"])
def test_portions_merged_in_any_order_give_the_same_to_the_last_bit(dtype: str) -> None:
    values = random_bits(dtype, 4000)
    parts = [values[a:b] for a, b in ((0, 10), (10, 1500), (1500, 1500), (1500, 4000))]

    def merged(order: tuple[int, ...]) -> Statistics:
        whole = accumulator(dtype)
        for number in order:
            part = accumulator(dtype)
            part.add(parts[number])
            whole.merge(part)
        return whole.result()

    first, *others = [merged(order) for order in itertools.permutations(range(4))]
    for other in others:
        assert repr(other) == repr(first)  # NaN included
        np.testing.assert_array_equal(other.counted.counts, first.counted.counts)


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError):
        accumulator("F32").add(np.zeros(3))
    with pytest.raises(ValueError):
        accumulator("F32").merge(accumulator("F64"))
    with pytest.raises(ValueError):
        PairAccumulator("F32").add(np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(ValueError):
        PairAccumulator("F32").merge(PairAccumulator("F16"))
    with pytest.raises(NotImplementedError):
        Accumulator("F32").result()


# ---- pairs -----------------------------------------------------------------------------------------------------------


def assert_pair_agrees_with_numpy(found: PairStatistics, a: np.ndarray, b: np.ndarray, dtype: str) -> None:
    bits = np.dtype(f"u{a.dtype.itemsize}")
    differ = a.view(bits) != b.view(bits)
    with np.errstate(all="ignore"):
        x, y = a[differ].astype(np.float64), b[differ].astype(np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        assert found.differing == differ.sum()
        assert found.not_finite == (~finite).sum()
        largest = np.abs(y - x)[finite].max(initial=0.0)
        assert found.max_abs == min(largest, np.finfo(np.float64).max)
        assert found.differences.counts.sum() == a.size - found.not_finite
        assert found.histogram(9).counts.sum() == a.size - found.not_finite
        numbers = ~(np.isnan(x) | np.isnan(y))
    p, q = a[differ][numbers], b[differ][numbers]
    assert found.max_ulp == max_ulp_distance(p, q)
    expected = np.zeros(66, int)
    expected[0] = a.size - differ.sum()
    for one, other in zip(p, q, strict=True):
        distance = max_ulp_distance(np.array([one]), np.array([other]))
        expected[0 if distance == 0 else 1 + (distance - 1).bit_length()] += 1
    assert found.ulp is not None
    assert found.ulp == tuple(expected[: len(found.ulp)])
    assert not expected[len(found.ulp) :].any()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_pairs_agree_with_numpy_for_random_bits(dtype: str) -> None:
    a, b = random_bits(dtype, 700, 1), random_bits(dtype, 700, 2)
    b[::3] = a[::3]
    near = a.copy()
    near.view(f"u{a.dtype.itemsize}")[:] ^= np.arange(700).astype(f"u{a.dtype.itemsize}") % 9
    assert_pair_agrees_with_numpy(compared(a, b, dtype), a, b, dtype)
    assert_pair_agrees_with_numpy(compared(a, near, dtype), a, near, dtype)


@settings(max_examples=60)
@given(bits=arrays(np.uint64, (2, 8), elements=st.integers(0, 2**64 - 1)))
def test_pairs_of_any_fp64_agree_with_numpy(bits: np.ndarray) -> None:
    a, b = (np.ascontiguousarray(half).view(np.float64) for half in bits)
    assert_pair_agrees_with_numpy(compared(a, b, "F64"), a, b, "F64")


def test_ulp_bins_hold_powers_of_two_to_the_last_number() -> None:
    for k in (0, 1, 10, 51, 52, 53, 60, 62):
        zero = np.zeros(3)
        other = (np.array([2**k, 2**k + 1, 2**k - 1], np.uint64)).view(np.float64).copy()
        found = compared(zero[: 3 if k < 62 else 1], other[: 3 if k < 62 else 1], "F64")
        distances = [2**k, 2**k + 1, 2**k - 1][: 3 if k < 62 else 1]
        expected = [0] * 66
        for d in distances:
            expected[0 if d == 0 else 1 + (d - 1).bit_length()] += 1
        assert found.ulp == tuple(expected[: len(found.ulp or ())])
    assert [ulp_label(n) for n in range(6)] == ["0", "1", "2", "3-4", "5-8", "9-16"]


def test_equal_bytes_are_equal_even_where_they_are_nan() -> None:
    values = random_bits("F32", 1001)
    found = compared(values, values.copy(), "F32")
    assert found.equal_bytes
    assert (found.max_abs, found.max_ulp, found.ulp, found.not_finite) == (0.0, 0, (1001,), 0)


def test_zeros_of_two_signs_differ_in_bytes_and_by_no_distance() -> None:
    found = compared(np.array([0.0, -0.0, 1.0], np.float32), np.array([-0.0, 0.0, 1.0], np.float32), "F32")
    assert (found.differing, found.max_abs, found.max_ulp, found.ulp) == (2, 0.0, 0, (3,))
    assert not found.equal_bytes


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_differ_by_their_exact_distance(dtype: str) -> None:
    a, b = random_bits(dtype, 501, 1), random_bits(dtype, 501, 2)
    found = compared(a, b, dtype)
    true = [int(y) - int(x) for x, y in zip(a, b, strict=True)]
    assert found.max_abs == float(max(map(abs, true)))
    assert found.differing == sum(d != 0 for d in true)
    assert found.ulp is found.max_ulp is None
    counts = found.differences.histogram(np.array([-(2.0**65), -0.5, 0.5, 2.0**65])).counts
    assert list(counts) == [sum(d < 0 for d in true), sum(d == 0 for d in true), sum(d > 0 for d in true)]


def test_pairs_merged_in_any_order_give_the_same() -> None:
    a, b = random_bits("BF16", 3000, 1), random_bits("BF16", 3000, 2)
    results = []
    for order in itertools.permutations(range(3)):
        whole = PairAccumulator("BF16")
        for number in order:
            part = PairAccumulator("BF16")
            part.add(a[number * 1000 :][:1000], b[number * 1000 :][:1000])
            whole.merge(part)
        results.append(whole.result())
    assert all(r == results[0] == compared(a, b, "BF16") for r in results)
    assert results[0].elements == 3000
