"""Codes with scales against torch: every code, special scales, edges that are cut, boxes of columns; and the way back to codes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from mfconv_nb.core.dtypes import cast_into, numpy_dtype
from mfconv_nb.core.rounding import Rounding, measure_rounding
from mfconv_nb.core.scaled_codes import (
    E2M1,
    as_powers_of_two,
    choose_scales,
    dequantise,
    holds_exactly,
    quantise,
    recover_codes,
    same_numbers,
    scale_values,
    tells_codes_apart,
    unusable_scale,
)
from tests.support import Array

TORCH = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
SCALES = [1.0, 0.75, 3.7e-5, 2.0**-14, 1e-40, 2.0**-127, 1e-45, 1e38, 3.4e38, 1.1754944e-38]


def by_torch(codes: Array, kind: str, wide: Array) -> torch.Tensor:
    """code x scale in float32, as torch does it; ``wide`` is a scale for each number."""
    if kind == E2M1:
        bytes_ = torch.from_numpy(codes.astype(np.int64))
        values = FP4[torch.stack([bytes_ & 15, bytes_ >> 4], -1).flatten(-2)]
    else:
        values = torch.from_numpy(codes.copy()).view(TORCH[kind]).float()
    return values * torch.from_numpy(wide)


def numbers_of(codes: Array, kind: str, scales: Array, width: int, first: int = 0) -> Array:
    out = np.empty((codes.shape[0], codes.shape[1] * (2 if kind == E2M1 else 1)), np.float32)
    dequantise(out, codes, kind, scales, first, width)
    return out


def assert_same_bits(ours: Array, theirs: torch.Tensor, dtype: str) -> None:
    """Of a NaN only its sign and its place are compared: torch gives it other bits on other processors."""
    with np.errstate(all="ignore"):
        target: Array = np.empty(ours.shape, numpy_dtype(dtype))
        cast_into(target, ours)
    kind: Any = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[dtype]
    bits, integer = (torch.int32, np.int32) if dtype == "F32" else (torch.int16, np.int16)
    expected = theirs.to(kind).view(bits).numpy()
    is_number = ~np.isnan(theirs.numpy())
    np.testing.assert_array_equal(target.view(integer)[is_number], expected[is_number])
    assert np.isnan(target[~is_number].astype(np.float32)).all()


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", E2M1])
def test_every_code_with_special_scales_is_what_torch_makes_of_it(kind: str, dtype: str) -> None:
    codes = np.tile(np.arange(256, dtype=np.uint8), (len(SCALES), 1))
    columns = 512 if kind == E2M1 else 256
    scales = np.array([[s, s * 0.5] for s in SCALES], np.float32)
    wide = scales.repeat(columns // 2, 1)
    assert_same_bits(numbers_of(codes, kind, scales, columns // 2), by_torch(codes, kind, wide), dtype)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", E2M1])
@pytest.mark.parametrize(("first", "columns", "width"), [(0, 70, 32), (7, 90, 32), (31, 2, 32), (32, 64, 32), (5, 3, 128), (0, 64, 100)])
def test_any_box_of_columns_is_that_part_of_the_whole(kind: str, first: int, columns: int, width: int) -> None:
    first, columns = (first // 2 * 2, columns // 2 * 2) if kind == E2M1 else (first, columns)
    packed = 2 if kind == E2M1 else 1
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 120, (5, 200 // packed)).astype(np.uint8)
    scales = rng.random((5, -(-200 // width))).astype(np.float32) + 0.1
    whole = numbers_of(codes, kind, scales, width)
    of_box = scales[:, first // width : -(-(first + columns) // width)]
    part = numbers_of(codes[:, first // packed : (first + columns) // packed], kind, of_box, width, first)
    np.testing.assert_array_equal(part, whole[:, first : first + columns])
    np.testing.assert_array_equal(whole, by_torch(codes, kind, scales.repeat(width, 1)[:, :200].copy()).numpy())


def test_scales_of_every_dtype_are_what_torch_reads() -> None:
    exponents = np.arange(256, dtype=np.uint8)
    ours, theirs = scale_values(exponents, "F8_E8M0"), torch.from_numpy(exponents.copy()).view(torch.float8_e8m0fnu).float().numpy()
    np.testing.assert_array_equal(ours[:255], theirs[:255])
    assert np.isnan(ours[255])
    assert ours[0] == 2.0**-127
    np.testing.assert_array_equal(scale_values(exponents, "U8")[:255], ours[:255])
    for dtype in ("F32", "BF16", "F16"):
        stored = np.array([1.5, 2.0**-14, 3.0], numpy_dtype(dtype))
        np.testing.assert_array_equal(scale_values(stored, dtype), [1.5, 2.0**-14, 3.0])


@pytest.mark.parametrize(("bad", "at"), [(0.0, 2), (-0.0, 2), (-1.0, 2), (np.nan, 2), (np.inf, 2), (-np.inf, 2)])
def test_a_scale_that_is_no_positive_number_is_found(bad: float, at: int) -> None:
    assert unusable_scale(np.array([1, 1e-45, bad, 5], np.float32)) == at
    assert unusable_scale(np.array([1, 1e-45, 3e38, 5], np.float32)) is None


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", E2M1])
def test_where_scales_tell_codes_apart_every_code_comes_back_from_its_number(kind: str, dtype: str) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 256)
    columns, told = (512 if kind == E2M1 else 256), 0
    for scale in [*SCALES, *(2.0**-n for n in range(0, 140, 3)), *np.geomspace(1e-40, 1e35, 50)]:
        scales = np.full((1, 1), scale, np.float32)
        if not np.isfinite(scales).all() or not tells_codes_apart(scales, kind, dtype):
            continue
        told += 1
        wide = numbers_of(codes, kind, scales, columns)
        stored: Array = np.empty(wide.shape, numpy_dtype(dtype))
        cast_into(stored, wide)
        back: Array = np.empty(wide.shape, np.float32)
        cast_into(back, stored)
        np.testing.assert_array_equal(quantise(back, kind, scales, columns), codes)
        np.testing.assert_array_equal(recover_codes(back, kind, scales, columns), codes)
        assert same_numbers(codes, kind, scales, columns, stored, dtype)
    assert told > 5


def test_numbers_that_no_code_stands_for_are_not_the_same() -> None:
    scales = np.ones((1, 1), np.float32)
    numbers = np.array([[1.0, 1.0625]], ml_dtypes.bfloat16)  # half way between two codes of e4m3
    codes = quantise(numbers.astype(np.float32), "F8_E4M3", scales, 2)
    assert not same_numbers(codes, "F8_E4M3", scales, 2, numbers, "BF16")
    zero = quantise(np.array([[0.0, -0.0]], np.float32), "F8_E4M3", scales, 2)
    assert zero.tolist() == [[0, 128]]
    assert not same_numbers(zero, "F8_E4M3", scales, 2, np.array([[0.0, 0.0]], ml_dtypes.bfloat16), "BF16")


def test_too_small_or_too_large_scales_do_not_tell_codes_apart() -> None:
    for scale, dtype, apart in [
        (1e-40, "BF16", False),
        (1e-40, "F32", True),
        (1e-5, "F16", False),
        (1e-3, "F16", True),
        (1e3, "F16", False),
    ]:
        assert tells_codes_apart(np.array([scale], np.float32), "F8_E4M3", dtype) is apart


def test_numbers_are_held_exactly_by_what_has_the_bits_for_them() -> None:
    for scale, dtype, exact in [
        (0.5, "BF16", True), (1.125, "BF16", True), (1.0625, "BF16", False), (1.03125, "F16", True), (1.1, "F32", False),
        (1.0625, "F32", True), (2.0**-130, "BF16", False), (2.0**10, "F16", False), (2.0**-20, "F16", False),
    ]:  # fmt: skip
        assert holds_exactly(np.array([scale], np.float32), "F8_E4M3", dtype) is exact, (scale, dtype)


def test_scales_are_chosen_by_the_declared_recipe() -> None:
    amax = np.array([448.0, 224.0, 300.0, 0.0, 1e-42], np.float32)
    assert choose_scales(amax, "F8_E4M3", "F32").tolist() == [1.0, 0.5, np.float32(300) / np.float32(448), 1.0, 2.0**-126]
    assert choose_scales(amax, "F8_E4M3", "F8_E8M0").tolist() == [127, 126, 127, 127, 0]  # 300 / 448 is rounded up to 1
    assert choose_scales(np.array([6.0, 7.0], np.float32), E2M1, "F8_E8M0").tolist() == [127, 128]
    assert as_powers_of_two(np.array([0.5, 0.50001, 3.0], np.float32)).tolist() == [0.5, 1.0, 4.0]


def test_four_bit_codes_are_those_of_ml_dtypes_with_ties_to_even() -> None:
    numbers = np.linspace(-7, 7, 141, dtype=np.float32)[:140].reshape(2, 70)
    codes = quantise(numbers, E2M1, np.ones((2, 1), np.float32), 70)
    expected = np.clip(numbers, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    np.testing.assert_array_equal(np.stack([codes & 15, codes >> 4], -1).reshape(2, 70), expected)


def test_rounding_is_counted_with_the_largest_and_the_mean_error() -> None:
    exact = np.array([1.0, 1.001953125, 0.0, np.nan, np.inf, 3e38, -2.0, 1e-44], np.float32)
    bf16 = exact.astype(ml_dtypes.bfloat16)
    counted = measure_rounding(bf16, exact)
    changed = [abs(float(bf16[1]) - float(exact[1])) / float(exact[1]), abs(float(bf16[5]) - float(exact[5])) / float(exact[5]), 1.0]
    assert (counted.numbers, counted.inexact) == (8, 3)
    assert counted.largest == 1.0
    assert counted.mean == pytest.approx(sum(changed) / 8, rel=1e-5)
    assert measure_rounding(exact[:3].astype(np.float64).astype(np.float32), exact[:3].astype(np.float64)).is_exact
    assert Rounding(2, 1, 0.5, 0.5) + Rounding(2, 1, 0.25, 0.25) == Rounding(4, 2, 0.5, 0.75)
