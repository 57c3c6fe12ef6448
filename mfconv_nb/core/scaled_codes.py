"""Codes with scales, as quantised checkpoints hold weights: what numbers they stand for, and which codes stand for given numbers.

    number = code x scale of its block, in float32, rounded once to the dtype that is asked for, to nearest even

Codes are e4m3 or e5m2 (one in a byte), or e2m1 (two in a byte, the low four bits first). Scales are float32, float16, bfloat16 or e8m0 (a
power of two in a byte: the exponent + 127, 255 is NaN).

Sources: OCP 8-bit Floating Point (e4m3 has no infinities, NaN is S.1111.111) and OCP Microscaling Formats 1.0 (e2m1, e8m0). A NaN has the
bits that torch 2.13 gives it, but one of e5m2 keeps its payload, so that its code can be told from it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mfconv_nb.core.dtypes import DTYPES, Array, cast_into, numpy_dtype

ROUNDING = "code x scale in float32, rounded once, to nearest even"
E2M1 = "E2M1"  # two in a byte; no dtype of safetensors, which stores them as I8 or U8
CODE_KINDS = {"F8_E4M3": 1, "F8_E5M2": 1, E2M1: 2}  # codes in a byte
SCALE_DTYPES = ("F32", "BF16", "F16", "F8_E8M0", "U8")
LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0, E2M1: 6.0}
_SMALLEST = {"F8_E4M3": 2.0**-9, "F8_E5M2": 2.0**-16, E2M1: 0.5}  # step between the codes nearest to zero
_SIGNIFICANT = {"F8_E4M3": 4, "F8_E5M2": 3, E2M1: 2}  # bits, with the hidden one
_OF_TARGET = {"F32": (24, 2.0**-149, 3.4028234663852886e38), "BF16": (8, 2.0**-133, 3.3895313892515355e38), "F16": (11, 2.0**-24, 65504.0)}
_E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1_MIDDLES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
EXACT_BITS = 20  # a scale of so many significant bits times a code of four fits into float32

# ---- from codes to numbers -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def code_values(kind: str) -> Array:
    """The float32 that a byte stands for, by byte: one column, or the two numbers of two codes."""
    byte = np.arange(256, dtype=np.uint8)
    if kind == E2M1:
        signed = np.array([*_E2M1_VALUES, *(-v for v in _E2M1_VALUES)], np.float32)
        return np.stack([signed[byte & 15], signed[byte >> 4]], axis=1)
    with np.errstate(all="ignore"):
        values = byte.view(numpy_dtype(kind)).astype(np.float32)
    bits, nan = values.view(np.uint32), np.isnan(values)
    payload = byte.astype(np.uint32) << (20 if kind == "F8_E4M3" else 21) & np.uint32((1 << 23) - 1)
    bits[nan] = (byte.astype(np.uint32) & 128)[nan] << 24 | np.uint32(0x7F800000) | payload[nan]
    return values[:, None]


@lru_cache(maxsize=8)
def _values_by_two_bytes(kind: str) -> Array:
    """As ``code_values``, for two bytes at once: half the look-ups (1.3 ns a code against 0.7)."""
    pair = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
    return np.ascontiguousarray(code_values(kind)[pair].reshape(1 << 16, -1))


def scale_values(scales: Array, dtype: str) -> Array:
    """Stored scales, as bytes or in their dtype, as float32; ``dtype`` is how they are stored (U8 counts as e8m0)."""
    if dtype in ("F8_E8M0", "U8"):
        exponent = scales.view(np.uint8).astype(np.uint32)
        bits = np.where(exponent == 0, np.uint32(1 << 22), exponent << np.uint32(23))  # 2^-127 is subnormal in float32
        bits[exponent == 255] = 0x7FC00000
        return bits.astype(np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        return scales.view(numpy_dtype(dtype)).astype(np.float32)


def unusable_scale(scales: Array) -> int | None:
    """The index of the first scale that is no positive number: zero, negative, NaN or infinite."""
    good = (scales > 0) & (scales < np.inf)
    return None if good.all() else int(np.argmin(good))


def dequantise(out: Array, codes: Array, kind: str, scales: Array, first: int, width: int) -> None:
    """Fill ``out`` (float32 or float64, rows x columns) with the numbers that codes stand for.

    Args:
        codes: uint8, a row for each of ``out``; two codes of e2m1 in a byte, so ``out`` has an even number of columns then.
        scales: float32, a row for each of ``out``, from the block that its first column lies in.
        first: the column of the tensor that ``out`` begins with.
        width: columns of a block.
    """
    wide = out if out.dtype == np.float32 else np.empty(out.shape, np.float32)
    _look_up(wide, codes, kind)
    with np.errstate(all="ignore"):
        if wide is not out:
            np.copyto(out, wide)
        nan = np.isnan(wide) if kind != E2M1 and np.isnan(wide.max(initial=0)) else None
        kept = wide[nan] if nan is not None else None
        _apply_to_blocks(np.multiply, out, scales, first, width)
        if nan is not None and out.dtype == np.float32:
            out[nan] = kept  # a processor would make all NaN of e5m2 alike


def _look_up(out: Array, codes: Array, kind: str) -> None:
    table = code_values(kind)
    if codes.size % 2 == 0 and codes.flags.c_contiguous and out.flags.c_contiguous and codes.ctypes.data % 2 == 0:
        table, codes = _values_by_two_bytes(kind), codes.reshape(-1).view(np.uint16)
    if out.flags.c_contiguous:
        unit = np.dtype(f"V{4 * table.shape[1]}") if table.shape[1] > 2 else np.dtype("u8" if table.shape[1] == 2 else "u4")
        np.take(table.view(unit).reshape(-1), codes.reshape(-1), out=out.reshape(-1).view(unit), mode="clip")
    else:
        out[...] = table[codes].reshape(out.shape)


def _column_blocks(columns: int, first: int, width: int) -> Sequence[tuple[slice, slice]]:
    """Columns in as few runs as can be multiplied at once, each with its blocks: a block that is cut, whole ones, a block that is cut."""
    head = min(columns, -first % width)
    whole = (columns - head) // width * width
    runs = ((0, head), (head, head + whole), (head + whole, columns))
    base = first // width
    return [(slice(a, b), slice((first + a) // width - base, -(-(first + b) // width) - base)) for a, b in runs if a < b]


def _apply_to_blocks(operation: np.ufunc, out: Array, scales: Array, first: int, width: int) -> None:
    """Multiply or divide every row of ``out``, which begins with column ``first``, by its scales."""
    for columns, block in _column_blocks(out.shape[1], first, width):
        part, of_part = out[:, columns], scales[:, block]
        if of_part.shape[1] == 1:
            operation(part, of_part, out=part)
        else:
            blocks = _as_blocks(part, of_part.shape[1])
            operation(blocks, of_part[:, :, None], out=blocks)


def _as_blocks(out: Array, count: int) -> Array:
    rows, step = out.strides
    width = out.shape[1] // count
    return np.lib.stride_tricks.as_strided(out, (out.shape[0], count, width), (rows, step * width, step))


# ---- what a dtype can hold of them -----------------------------------------------------------------------------------------


def holds_exactly(scales: Array, kind: str, dtype: str) -> bool:
    """Whether every code times each of these scales (float32, positive) is a number of ``dtype``: then nothing is rounded."""
    bits, step, largest = _OF_TARGET[dtype]
    left = bits - _SIGNIFICANT[kind]
    trimmed = scales.view(np.uint32) & np.uint32((1 << max(0, 24 - left)) - 1)
    low, high = float(scales.min(initial=1)), float(scales.max(initial=1))
    normal = low >= 2.0**-126
    return bool(normal and not trimmed.any() and _lowest_bit(low, left) * _SMALLEST[kind] >= step and high * LARGEST[kind] <= largest)


def _lowest_bit(scale: float, bits: int) -> float:
    """The value of the last of so many significant bits of a scale."""
    return float(2.0 ** (np.frexp(scale)[1] - bits))


def tells_codes_apart(scales: Array, kind: str, dtype: str) -> bool:
    """Whether different codes, times each of these scales, are different numbers of ``dtype``: then codes come back from numbers.

    Where a block is so small that its numbers come near the smallest of ``dtype``, or so large that some become infinite, they are not.
    """
    _, step, largest = _OF_TARGET[dtype]
    low, high = float(scales.min(initial=1)), float(scales.max(initial=1))
    return low * _SMALLEST[kind] >= 2 * step and high * LARGEST[kind] <= largest


# ---- from numbers to codes -------------------------------------------------------------------------------------------------


def quantise(numbers: Array, kind: str, scales: Array, width: int) -> Array:
    """The codes nearest to numbers / scale, as uint8, a row for each row; what is too large becomes the largest code.

    Args:
        numbers: float32, whole rows. scales: float32, a row for each. width: columns of a block.
    """
    with np.errstate(all="ignore"):
        scaled = numbers.copy()
        _apply_to_blocks(np.divide, scaled, scales, 0, width)
        endless = np.isinf(numbers) if kind == "F8_E5M2" else None
        np.clip(scaled, -LARGEST[kind], LARGEST[kind], out=scaled)
        if endless is not None and endless.any():
            scaled[endless] = numbers[endless]
        if kind == E2M1:
            return _packed_e2m1(scaled)
        codes = scaled.astype(numpy_dtype(kind)).view(np.uint8)
    return _with_nan(codes, numbers, kind)


def _with_nan(codes: Array, numbers: Array, kind: str) -> Array:
    """Codes with those of NaN as the numbers have them: dividing by a scale may change their bits."""
    nan = np.isnan(numbers)
    if nan.any():
        bits = numbers.view(np.uint32)[nan]
        sign = (bits >> np.uint32(24) & np.uint32(128)).astype(np.uint8)
        codes[nan] = sign | (0x7F if kind == "F8_E4M3" else (0x7C | (bits >> np.uint32(21) & np.uint32(3)).astype(np.uint8)))
    return codes


def recover_codes(numbers: Array, kind: str, scales: Array, width: int) -> Array:
    """As ``quantise``, for numbers that were made of codes: three times as fast, since these are so near that 16 bits tell the code."""
    if kind == E2M1:
        return quantise(numbers, kind, scales, width)
    with np.errstate(all="ignore"):
        scaled = numbers.copy()
        _apply_to_blocks(np.divide, scaled, scales, 0, width)
    upper = scaled.view(np.uint16).reshape(*scaled.shape, 2)[..., 1 if sys.byteorder == "little" else 0]
    return _with_nan(np.take(_codes_by_upper_bits(kind), upper, mode="clip"), numbers, kind)


@lru_cache(maxsize=4)
def _codes_by_upper_bits(kind: str) -> Array:
    """The nearest code for the upper 16 bits of a float32; in the middle of the numbers that have them."""
    middles = (np.arange(1 << 16, dtype=np.uint32) << 16 | np.uint32(0x8000)).view(np.float32).reshape(1, -1)
    exact = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32).reshape(1, -1)
    numbers = np.where(np.isfinite(exact) & (exact != 0), middles, exact)
    return quantise(numbers, kind, np.ones((1, 1), np.float32), 1 << 16).reshape(-1)


def _packed_e2m1(scaled: Array) -> Array:
    """Ties go to the code with an even last bit, which is the one with an even index."""
    size = np.abs(scaled)
    index = np.searchsorted(_E2M1_MIDDLES, size, side="left").astype(np.uint8)
    tie = np.isin(size, _E2M1_MIDDLES) & (index % 2 == 1)
    codes = (index + tie).astype(np.uint8) | np.signbit(scaled).astype(np.uint8) << 3
    return codes[:, 0::2] | codes[:, 1::2] << 4


def choose_scales(amax: Array, kind: str, dtype: str) -> Array:
    """Scales for blocks whose largest magnitudes are ``amax`` (float32), as they are stored in ``dtype``: amax / the largest code.

    A power of two (e8m0) is rounded up before anything is divided by it. A block of zeros gets 1: a scale of zero would be none.
    Source of the order: transformers issue 46763.
    """
    with np.errstate(all="ignore"):
        scales = np.where(amax > 0, amax / np.float32(LARGEST[kind]), np.float32(1)).astype(np.float32)
    if dtype in ("F8_E8M0", "U8"):
        fraction, exponent = np.frexp(scales)
        power = np.clip(exponent - (fraction == 0.5), -127, 127)
        return (power + 127).astype(np.uint8)
    scales = np.maximum(scales, np.float32(2.0**-126))
    out = np.empty(scales.shape, numpy_dtype(dtype))
    cast_into(out, scales)
    return out


def as_powers_of_two(scales: Array) -> Array:
    """Scales rounded up to powers of two, still as float32 (`scale_fmt: ue8m0`)."""
    fraction, exponent = np.frexp(scales)
    return np.ldexp(np.float32(1), exponent - (fraction == 0.5)).astype(np.float32)


def same_numbers(codes: Array, kind: str, scales: Array, width: int, numbers: Array, dtype: str) -> bool:
    """Whether codes stand for exactly these numbers (``dtype``, whole rows), bit for bit."""
    wide: Array = np.empty(numbers.shape, np.float32)
    dequantise(wide, codes, kind, scales, 0, width)
    if dtype == "F32":
        return bool(np.array_equal(wide.view(np.uint32), numbers.view(np.uint32)))
    again = np.empty(numbers.shape, numpy_dtype(dtype))
    cast_into(again, wide)
    bits = f"u{DTYPES[dtype].itemsize}"
    return bool(np.array_equal(again.view(bits), numbers.view(bits)))
