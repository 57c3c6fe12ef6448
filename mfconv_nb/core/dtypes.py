"""Dtype names on each side, casts and ULP distance. Values change only here, and in `low_rank.py` where adapters are merged.

A dtype is known here by its safetensors spelling ("BF16", "F32", "F8_E4M3"). Casts round to nearest even. Where no cast is
asked for, nothing here runs: bytes stay opaque, so NaN payloads, -0.0 and subnormals survive.

Sources: the dtype list of the safetensors README; MindSpore's type strings as its checkpoints spell them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from mfconv_nb.core.errors import FormatError, UsageError, did_you_mean, quote

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Dtype:
    """One dtype under its four names. ``mindspore`` is None where MindSpore cannot load it."""

    name: str  # safetensors
    short: str  # as tables show it
    numpy: np.dtype[Any]
    torch: str
    mindspore: str | None
    floating: bool = False

    @property
    def itemsize(self) -> int:
        return self.numpy.itemsize


def _dtypes() -> dict[str, Dtype]:
    rows: tuple[tuple[str, str, Any, str, str | None, bool], ...] = (
        ("BOOL", "bool", np.bool_, "bool", "Bool", False),
        ("U8", "uint8", np.uint8, "uint8", "UInt8", False),
        ("I8", "int8", np.int8, "int8", "Int8", False),
        ("U16", "uint16", np.uint16, "uint16", "UInt16", False),
        ("I16", "int16", np.int16, "int16", "Int16", False),
        ("U32", "uint32", np.uint32, "uint32", "UInt32", False),
        ("I32", "int32", np.int32, "int32", "Int32", False),
        ("U64", "uint64", np.uint64, "uint64", "UInt64", False),
        ("I64", "int64", np.int64, "int64", "Int64", False),
        ("F16", "fp16", np.float16, "float16", "Float16", True),
        ("BF16", "bf16", ml_dtypes.bfloat16, "bfloat16", "BFloat16", True),
        ("F32", "fp32", np.float32, "float32", "Float32", True),
        ("F64", "fp64", np.float64, "float64", "Float64", True),
        ("F8_E4M3", "fp8_e4m3", ml_dtypes.float8_e4m3fn, "float8_e4m3fn", None, True),
        ("F8_E5M2", "fp8_e5m2", ml_dtypes.float8_e5m2, "float8_e5m2", None, True),
        ("F8_E8M0", "fp8_e8m0", ml_dtypes.float8_e8m0fnu, "float8_e8m0fnu", None, True),
        ("C64", "complex64", np.complex64, "complex64", None, False),
    )
    return {r[0]: Dtype(r[0], r[1], np.dtype(r[2]), r[3], r[4], r[5]) for r in rows}


DTYPES = _dtypes()
BY_MINDSPORE = {d.mindspore: d.name for d in DTYPES.values() if d.mindspore is not None}
BY_TORCH = {d.torch: d.name for d in DTYPES.values()}
BY_NUMPY = {d.numpy: d.name for d in DTYPES.values()}
# What --dtype and dtype= take: MindFormers' short spelling first, then the long ones people type.
CAST_NAMES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
CASTABLE = frozenset({"F16", "BF16", "F32", "F64"})  # what a requested dtype changes; fp8 needs its scales


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return DTYPES[name].itemsize


def short_name(name: str) -> str:
    """The spelling of tables and command lines: ``bf16``."""
    return DTYPES[name].short


def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype for a safetensors dtype name; bfloat16 and float8 come from ml_dtypes."""
    return DTYPES[name].numpy


def dtype_named(name: str, tensor: str, file: object) -> str:
    """``name`` itself when it is a known safetensors dtype.

    Raises:
        FormatError: MFC205, naming the tensor.
    """
    if not isinstance(name, str) or name not in DTYPES:
        raise FormatError("MFC205", f"{quote(tensor)} in {file}", found=f"dtype {quote(str(name))}", expected=", ".join(DTYPES))
    return name


def requested_dtype(name: str | None) -> str | None:
    """The safetensors name of a dtype that a user gave as ``fp32``, ``bf16``, ``fp16`` or spelled out.

    Raises:
        UsageError: MFC501 with the nearest spelling.
    """
    if name is None or name in CASTABLE:
        return name
    if name not in CAST_NAMES:
        hint = did_you_mean(name, CAST_NAMES) or "Leave it out to keep every tensor's own dtype."
        raise UsageError("MFC501", "dtype", found=quote(name), expected="fp32, bf16 or fp16", hint=hint)
    return CAST_NAMES[name]


def dtype_after_cast(stored: str, asked: str | None) -> str:
    """The dtype of a tensor after a cast: floating tensors take the new one; integers, booleans and fp8 keep theirs."""
    return asked if asked is not None and stored in CASTABLE else stored


# of the dtypes that casts are asked for: the unsigned integer of its size, and its bits of mantissa
_BITS = {DTYPES[name].numpy: (np.dtype(f"u{DTYPES[name].itemsize}"), n) for name, n in (("F16", 10), ("BF16", 7), ("F32", 23), ("F64", 52))}


def cast_into(target: Array, source: Array) -> int:
    """Write ``source`` into ``target`` (same shape), rounding to nearest even where the dtype is narrower.

    A NaN keeps its sign and as many bits of its payload, from the top, as the target has: a wider dtype and back gives the same bits,
    whatever the processor does with a signalling one. Where none of the payload is left it becomes the quiet NaN, not an infinity.

    Returns:
        How many finite numbers became infinite, since they are too large for the dtype of ``target``.
    """
    with np.errstate(all="ignore"):
        if source.dtype == np.float64 and target.dtype == DTYPES["BF16"].numpy:
            np.copyto(target, _rounded_to_odd(source), casting="unsafe")
        else:
            np.copyto(target, source, casting="unsafe")
    if source.dtype == target.dtype or source.dtype not in _BITS or target.dtype not in _BITS:
        return 0
    if not _has_endless(min(target, source, key=lambda a: a.itemsize)):  # the quicker to look at; of equal ones that which may overflow
        return 0
    end, size = _magnitudes(source)
    _keep_payloads(target, source, size > end)
    new_end, new_size = _magnitudes(target)
    return int(np.count_nonzero(new_size == new_end) - np.count_nonzero(size == end))


def _endless(dtype: np.dtype[Any]) -> int:
    """The bits of +infinity; those of NaN, without their sign, are larger, and those of finite numbers smaller."""
    bits, mantissa = _BITS[dtype]
    return ((1 << (8 * bits.itemsize - 1 - mantissa)) - 1) << mantissa


def _has_endless(a: Array) -> bool:
    """Whether there is an infinity or a NaN: as signed integers the positive ones are the largest, as unsigned ones the negative ones."""
    end, bits = _endless(a.dtype), 8 * a.itemsize
    return bool(a.view(f"i{a.itemsize}").max(initial=0) >= end or a.view(f"u{a.itemsize}").max(initial=0) >= end | 1 << (bits - 1))


def _magnitudes(a: Array) -> tuple[int, Array]:
    """The bits of an infinity, and those of every number without its sign."""
    bits = _BITS[a.dtype][0]
    return _endless(a.dtype), a.view(bits) & bits.type((1 << (8 * a.itemsize - 1)) - 1)


def _keep_payloads(target: Array, source: Array, nan: Array) -> None:
    """Give every NaN of ``target`` the sign and the payload that it has in ``source``; ``nan`` says where they are."""
    (bits, mantissa), (new_bits, new_mantissa) = _BITS[source.dtype], _BITS[target.dtype]
    found = source.view(bits)[nan].astype(np.uint64)
    payload = found & np.uint64((1 << mantissa) - 1)
    kept = payload << np.uint64(max(0, new_mantissa - mantissa)) >> np.uint64(max(0, mantissa - new_mantissa))
    kept[kept == 0] = 1 << (new_mantissa - 1)
    sign = found >> np.uint64(8 * source.itemsize - 1) << np.uint64(8 * target.itemsize - 1)
    target.view(new_bits)[nan] = (sign | np.uint64(_endless(target.dtype)) | kept).astype(new_bits)


def _rounded_to_odd(x: Array) -> Array:
    """float64 to float32 with the last bit kept sticky, so that a second rounding to bfloat16 cannot round twice."""
    nearest = x.astype(np.float32)
    bits = nearest.view(np.uint32).copy()
    exact = (nearest.astype(np.float64) == x) | np.isnan(x)
    too_far = ~exact & (np.abs(nearest.astype(np.float64)) > np.abs(x))
    bits[too_far] -= 1
    bits[~exact] |= 1
    return bits.view(np.float32)


def ordered_bits(a: Array) -> Array:
    """Floating numbers as int64 that count up with the value: neighbours are 1 apart, -0.0 and +0.0 are both 0."""
    size = a.dtype.itemsize
    signed = np.ascontiguousarray(a).view(np.dtype(f"i{size}")).astype(np.int64)
    low = np.int64(-(1 << (8 * size - 1))) if size < 8 else np.iinfo(np.int64).min
    return np.where(signed < 0, low - signed, signed)


def max_ulp_distance(a: Array, b: Array) -> int:
    """Largest distance between two arrays, counted in representable numbers of their dtype (ULP).

    0 does not mean "same bytes": +0.0 and -0.0 are 0 apart. For bytes, compare bytes.

    Args:
        a, b: same shape, same dtype (float16, bfloat16, float32 or float64), no NaN (count those first).
    Returns:
        A distance in ULP; 1 means neighbours. From -inf to +inf in float32 it is 4,278,190,080.
    Raises:
        ValueError: shapes or dtypes differ.
    Source: IEEE 754 orders the bits of same-signed numbers as integers; negative ones are mirrored to join the two halves.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"shapes and dtypes must agree: {a.shape} {a.dtype}, {b.shape} {b.dtype}")
    if a.size == 0:
        return 0
    x, y = ordered_bits(a), ordered_bits(b)
    # float64 distances may pass 2**63: unsigned subtraction of the larger and the smaller is exact modulo 2**64
    return int((np.maximum(x, y).view(np.uint64) - np.minimum(x, y).view(np.uint64)).max())
