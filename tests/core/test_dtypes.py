"""Casts and distances: the only place where values change."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfconv_nb.core.dtypes import (
    BY_MINDSPORE,
    BY_NUMPY,
    BY_TORCH,
    CASTABLE,
    DTYPES,
    cast_into,
    dtype_after_cast,
    dtype_named,
    itemsize,
    max_ulp_distance,
    numpy_dtype,
    ordered_bits,
    requested_dtype,
    short_name,
)
from mfconv_nb.core.errors import FormatError, UsageError
from tests.support import wide

BF16 = ml_dtypes.bfloat16
FLOATS = {"F16": np.float16, "BF16": BF16, "F32": np.float32, "F64": np.float64}


def one(value: Any, dtype: Any) -> np.ndarray[Any, Any]:
    return np.array([value], dtype)


def from_bits(bits: int, dtype: Any) -> np.ndarray[Any, Any]:
    size = np.dtype(dtype).itemsize
    return np.array([bits], f"u{size}").view(dtype)


# ---- distances -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, dtype, distance",
    [
        (-np.inf, np.inf, np.float32, 4_278_190_080),
        (-np.inf, np.inf, np.float16, 2 * 0x7C00),
        (-np.inf, np.inf, BF16, 2 * 0x7F80),
        (-np.inf, np.inf, np.float64, 2 * 0x7FF0_0000_0000_0000),
        (-np.finfo(np.float64).max, np.finfo(np.float64).max, np.float64, 2 * 0x7FEF_FFFF_FFFF_FFFF),
        (1.0, np.nextafter(np.float32(1), np.float32(2)), np.float32, 1),
        (1.0, np.nextafter(1.0, 0.0), np.float64, 1),
        (0.0, -0.0, np.float32, 0),
        (0.0, -0.0, np.float64, 0),
        (-5e-324, 5e-324, np.float64, 2),
        (0.0, 5e-324, np.float64, 1),
        (1.0, 1.0, BF16, 0),
        (1.0, 1.0078125, BF16, 1),
        (65504.0, np.inf, np.float16, 1),
    ],
)
def test_the_distance_counts_representable_numbers(a: float, b: float, dtype: Any, distance: int) -> None:
    assert max_ulp_distance(one(a, dtype), one(b, dtype)) == distance
    assert max_ulp_distance(one(b, dtype), one(a, dtype)) == distance


def test_the_distance_of_two_arrays_is_the_largest_and_of_none_zero() -> None:
    a, b = np.array([1, 2, 3], np.float32), np.array([1, np.nextafter(np.float32(2), np.float32(3)), 3], np.float32)
    assert max_ulp_distance(a, b) == 1
    assert max_ulp_distance(a[:0], b[:0]) == 0


def test_the_distance_of_different_shapes_or_dtypes_is_refused() -> None:
    with pytest.raises(ValueError, match="must agree"):
        max_ulp_distance(np.zeros(2, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="must agree"):
        max_ulp_distance(np.zeros(2, np.float32), np.zeros(2, np.float16))


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_the_order_of_bits_is_the_order_of_values_without_holes(dtype: Any) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    values = values[~np.isnan(wide(values))]
    ordered = np.sort(ordered_bits(values))
    assert ordered.tolist() == sorted([*range(int(ordered[0]), int(ordered[-1]) + 1), 0])  # zero stands twice: +0.0 and -0.0
    by_value = values[np.argsort(wide(values), kind="stable")]
    assert (np.diff(ordered_bits(by_value)) >= 0).all()


# ---- casts ---------------------------------------------------------------------------------------------------------------


def nearest_even(value: float, dtype: Any) -> float:
    """The number of a narrow dtype that is nearest to a finite one, ties to the even pattern, by exact fractions."""
    patterns = np.arange(1 << 15, dtype=np.uint16)
    numbers = wide(patterns.view(dtype))
    finite = numbers[np.isfinite(numbers)]
    top = finite[-1]
    step = Fraction(top) - Fraction(finite[-2])
    if abs(Fraction(value)) >= Fraction(top) + step / 2:
        return float(np.copysign(np.inf, value))
    place = int(np.searchsorted(finite, abs(value)))
    candidates = [n for n in (place - 1, place) if 0 <= n < len(finite)]
    best = min(candidates, key=lambda n: (abs(Fraction(float(finite[n])) - abs(Fraction(value))), n % 2))
    return float(np.copysign(finite[best], value))


TIE = 1 + 2**-8  # half way between two bfloat16 numbers


@pytest.mark.parametrize("narrow", [BF16, np.float16])
@pytest.mark.parametrize(
    "value",
    [
        TIE,
        TIE + 2**-30,  # float32 rounds it to the tie; rounded twice it would go down
        TIE - 2**-40,
        -TIE - 2**-35,
        1 + 2**-11 + 2**-40,
        1 + 3 * 2**-8 - 2**-40,
        3.3895313892515355e38,
        3.4e38,
        -1e300,
        65519.999999999,
        65520.0,
        5e-324,
        -1e-50,
        2**-25 + 2**-60,
        2**-134 + 2**-170,
    ],
)
def test_float64_is_rounded_once_to_the_narrow_dtype(value: float, narrow: Any) -> None:
    made = np.zeros(1, narrow)
    cast_into(made, one(value, np.float64))
    assert float(made[0]) == nearest_even(value, narrow)
    assert np.signbit(made[0]) == np.signbit(value)


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([BF16, np.float16]))
def test_any_float64_is_rounded_once_to_the_narrow_dtype(value: float, narrow: Any) -> None:
    made = np.zeros(1, narrow)
    cast_into(made, one(value, np.float64))
    assert float(made[0]) == nearest_even(value, narrow)


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from([BF16, np.float16]))
def test_any_float32_is_rounded_to_nearest_even(value: float, narrow: Any) -> None:
    made = np.zeros(1, narrow)
    cast_into(made, one(value, np.float32))
    assert float(made[0]) == nearest_even(value, narrow)


@pytest.mark.parametrize("source", FLOATS.values(), ids=FLOATS)
@pytest.mark.parametrize("target", FLOATS.values(), ids=FLOATS)
def test_every_cast_keeps_nan_infinity_and_the_sign_of_zero(source: Any, target: Any) -> None:
    made = np.zeros(5, target)
    cast_into(made, np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], source))
    numbers = wide(made)
    assert np.isnan(numbers[0])
    assert numbers[1:3].tolist() == [np.inf, -np.inf]
    assert np.signbit(numbers[3:]).tolist() == [True, False]


@pytest.mark.parametrize(
    "narrow, wider", [("F16", "F32"), ("BF16", "F32"), ("F16", "F64"), ("BF16", "F64"), ("F32", "F64")], ids=lambda n: n
)
def test_a_wider_dtype_and_back_gives_every_code_again_nan_included(narrow: str, wider: str) -> None:
    size = itemsize(narrow)
    bits = np.arange(1 << 16, dtype=np.uint16) if size == 2 else np.arange(0, 1 << 32, 65521, dtype=np.uint32)
    if size == 4:
        nans = np.array([0x7F80_0001, 0xFF80_0001, 0x7FBF_FFFF, 0x7FC0_0000, 0xFFFF_FFFF, 0x7FA0_BEEF], np.uint32)
        bits = np.concatenate([bits, nans])
    values = bits.view(FLOATS[narrow])
    there, back = np.zeros(values.size, FLOATS[wider]), np.zeros(values.size, FLOATS[narrow])
    assert cast_into(there, values) == 0
    assert cast_into(back, there) == 0
    assert (back.view(bits.dtype) == bits).all()
    assert (np.isnan(wide(there)) == np.isnan(wide(values))).all()


@pytest.mark.parametrize(
    "source, bits, target, expected",
    [
        (np.float32, 0x7FA1_2345, BF16, 0x7FA1),  # the top bits of the payload, signalling as it was
        (np.float32, 0xFFC0_0000, BF16, 0xFFC0),
        (np.float32, 0x7F80_0001, BF16, 0x7FC0),  # nothing of the payload is left: quiet, and no infinity
        (np.float32, 0xFF80_FFFF, BF16, 0xFFC0),
        (np.float32, 0x7F80_2000, np.float16, 0x7C01),
        (np.float32, 0xFF80_1FFF, np.float16, 0xFE00),
        (np.float64, 0x7FF4_0000_0000_0000, np.float32, 0x7FA0_0000),
        (np.float64, 0xFFF0_0000_0000_0001, np.float32, 0xFFC0_0000),
        (np.float64, 0x7FF2_0000_0000_0000, BF16, 0x7F90),
        (BF16, 0xFF81, np.float16, 0xFC08),
        (np.float16, 0x7C07, BF16, 0x7FC0),
        (np.float16, 0x7C08, BF16, 0x7F81),
        (np.float32, 0x7F80_0001, np.float64, 0x7FF0_0000_2000_0000),
    ],
)
def test_a_nan_keeps_its_sign_and_the_top_of_its_payload(source: Any, bits: int, target: Any, expected: int) -> None:
    made = np.zeros(1, target)
    cast_into(made, from_bits(bits, source))
    assert int(made.view(f"u{made.itemsize}")[0]) == expected


def test_nan_are_kept_in_every_place_of_a_strided_array() -> None:
    values = np.ones((6, 8), np.float32)
    values.view(np.uint32)[::2, 1::3] = 0xFFA1_0000
    made = np.zeros((8, 6), BF16).T
    assert cast_into(made, values) == 0
    expected = np.full((6, 8), 0x3F80, np.uint16)
    expected[::2, 1::3] = 0xFFA1
    assert np.array_equal(made.view(np.uint16), expected)


@pytest.mark.parametrize(
    "source, values, target, infinite",
    [
        (np.float32, [65519.9, 65520.0, -65520.0, np.inf, -np.inf, np.nan, 1e-30], np.float16, 2),
        (np.float32, [3.3895e38, 3.4e38, -3.4e38, 3e38], BF16, 2),
        (np.float64, [1e39, -3.5e38, 3.4e38, np.inf], np.float32, 2),
        (np.float64, [3.4e38, 1e300, 3e38], BF16, 2),
        (BF16, [1e5, -1e5, 65504.0, np.nan], np.float16, 3),  # in bf16 65,504 is 65,536
        (np.float16, [65504.0, np.inf], BF16, 0),
        (BF16, [1.0, 1e5, -3e38], np.float16, 2),  # both have 16 bits
        (np.float16, [-65504.0], np.float32, 0),
        (np.float32, [], np.float16, 0),
        (np.float32, [-1e30], np.float16, 1),
    ],
)
def test_a_cast_counts_the_numbers_that_it_makes_infinite(source: Any, values: list[float], target: Any, infinite: int) -> None:
    given = np.array(values, np.float64).astype(source)
    assert cast_into(np.zeros(len(values), target), given) == infinite


def test_a_cast_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    cast_into(np.zeros(3, np.float16), np.array([1e30, np.nan, 1e-30], np.float32))
    cast_into(np.zeros(3, BF16), np.array([1e300, np.nan, 1e-300], np.float64))
    assert not recwarn.list


# ---- names ---------------------------------------------------------------------------------------------------------------


def test_every_dtype_has_one_name_on_each_side() -> None:
    assert len(BY_TORCH) == len(BY_NUMPY) == len(DTYPES) == len({d.short for d in DTYPES.values()})
    assert {DTYPES[name].mindspore for name in BY_MINDSPORE.values()} == set(BY_MINDSPORE)
    for name, dtype in DTYPES.items():
        assert dtype.name == name
        assert (BY_TORCH[dtype.torch], BY_NUMPY[dtype.numpy]) == (name, name)
        assert itemsize(name) == numpy_dtype(name).itemsize


@pytest.mark.real_frameworks
def test_the_names_are_those_of_torch_and_mindspore() -> None:
    import mindspore
    import torch

    for dtype in DTYPES.values():
        assert getattr(torch, dtype.torch).itemsize == dtype.itemsize
    for spelled in BY_MINDSPORE:
        assert str(getattr(mindspore, spelled.lower().replace("bool", "bool_"))) == spelled


@pytest.mark.parametrize(
    "asked, name",
    [(None, None), ("fp32", "F32"), ("bf16", "BF16"), ("fp16", "F16"), ("bfloat16", "BF16"), ("F32", "F32"), ("F64", "F64")],
)
def test_the_short_and_the_long_spellings_of_a_cast_are_taken(asked: str | None, name: str | None) -> None:
    assert requested_dtype(asked) == name


@pytest.mark.parametrize("asked, hint", [("bf61", "bf16"), ("int8", "Leave it out"), ("F8_E4M3", "Leave it out"), ("", "Leave it out")])
def test_any_other_cast_is_refused_with_what_to_do(asked: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        requested_dtype(asked)
    assert refused.value.code == "MFC501"
    assert hint in str(refused.value)


@pytest.mark.parametrize("stored", DTYPES)
def test_a_cast_changes_floating_tensors_only(stored: str) -> None:
    assert dtype_after_cast(stored, "BF16") == ("BF16" if stored in FLOATS else stored)
    assert dtype_after_cast(stored, None) == stored
    assert frozenset(FLOATS) == CASTABLE


def test_an_unknown_dtype_is_refused_with_the_tensor_and_the_known_ones() -> None:
    assert dtype_named("F32", "w", "x") == "F32"
    for wrong in ("F33", "f32", "F4"):
        with pytest.raises(FormatError) as refused:
            dtype_named(wrong, "model.norm", "a.safetensors")
        assert refused.value.code == "MFC205"
        assert all(part in str(refused.value) for part in (wrong, "model.norm", "a.safetensors", "BF16"))


def test_short_names_are_those_of_the_command_line() -> None:
    assert [short_name(n) for n in ("F32", "BF16", "F16", "I64")] == ["fp32", "bf16", "fp16", "int64"]
