"""NaN payloads, infinities, -0.0, subnormals and rounding ties, bit by bit.

`special_values.json` holds what MindFormers 1.3.2 made of each pattern. Where nothing is cast, every bit survives here (there, NaN
payloads do not). Where something is cast, the bits are the recorded ones, and a NaN stays some NaN.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.goldens.recipe import HERE, NUMPY
from tests.support import TORCH, Array, raws_in, wide, write_safetensors

TABLES: list[dict[str, Any]] = json.loads((HERE / "special_values.json").read_text(encoding="utf-8"))["tables"]
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def bits(patterns: Sequence[str], dtype: str) -> Array:
    return np.array([int(p, 16) for p in patterns], f"u{NUMPY[dtype].itemsize}").view(NUMPY[dtype])


def hex_of(values: Array) -> list[str]:
    return [f"{n:0{2 * values.itemsize}x}" for n in values.view(f"u{values.itemsize}").tolist()]


def saved_as(values: Array, dtype: str, folder: Path, ending: str) -> Array:
    """The values after a save with a cast, read by a reader of our own."""
    source = write_safetensors(folder / "in.safetensors", {"x": values})
    mc.save(mc.load(source), folder / f"out.{ending}", dtype=SHORT[dtype], overwrite=True)
    raw = raws_in(folder / f"out.{ending}")["x"]
    assert raw.dtype == TORCH[dtype]
    return raw.array()


def expected_patterns(before: Array, recorded: Sequence[str], dtype: str) -> list[str]:
    """The recorded patterns; "nan" where the number was a NaN and the dtype changed."""
    changed = before.dtype != NUMPY[dtype]
    nan = np.isnan(wide(before))
    own = recorded if changed else hex_of(before)
    return ["nan" if changed and n else pattern for pattern, n in zip(own, nan, strict=True)]


def found_patterns(values: Array, before: Array) -> list[str]:
    nan = np.isnan(wide(values))
    return ["nan" if n and values.dtype != before.dtype else p for p, n in zip(hex_of(values), nan, strict=True)]


def test_the_tables_cover_all_pairs_of_dtypes_and_all_kinds_of_numbers() -> None:
    assert {(t["source"], t["ms_dtype"]) for t in TABLES} == {(a, b) for a in SHORT for b in ("Float32", "BFloat16", "Float16")}
    for source in SHORT:
        values = bits(next(t["in"] for t in TABLES if t["source"] == source), source)
        numbers = wide(values)
        assert np.isnan(numbers).sum() >= 2
        assert np.isinf(numbers).sum() == 2
        assert np.signbit(numbers[numbers == 0]).any()
        assert (np.abs(numbers[numbers != 0]) < smallest_normal(source)).any()


def smallest_normal(dtype: str) -> float:
    """The smallest normal number."""
    return {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}[dtype]


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t['source']}-{t['loaded_as']}-{t['ms_dtype_arg']}")
def test_special_numbers_have_the_recorded_bits(table: dict[str, Any], ending: str, tmp_path: Path) -> None:
    before = bits(table["in"], table["source"])
    dtype = table["ms_dtype"].lower()
    there = saved_as(before, dtype, tmp_path, ending)
    assert found_patterns(there, before) == expected_patterns(before, table["ms"], dtype)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t['source']}-{t['loaded_as']}-{t['ms_dtype_arg']}")
def test_special_numbers_have_the_recorded_bits_on_the_way_back(table: dict[str, Any], tmp_path: Path) -> None:
    there = bits(table["ms"], table["ms_dtype"].lower())
    for dtype, recorded in table["back"].items():
        if dtype != "None":
            back = saved_as(there, dtype, tmp_path, "safetensors")
            assert found_patterns(back, there) == expected_patterns(there, recorded, dtype), dtype


@pytest.mark.parametrize("dtype", SHORT)
def test_every_bit_pattern_of_a_dtype_survives_where_nothing_is_cast(dtype: str, tmp_path: Path) -> None:
    size = NUMPY[dtype].itemsize
    step = 1 if size == 2 else 65521  # all of the 16-bit ones, a sixty-five-thousandth of the others
    values = np.arange(0, 1 << (8 * size), step, dtype=f"u{size}").view(NUMPY[dtype])
    source = write_safetensors(tmp_path / "in.safetensors", {"x": values})
    mc.save(mc.load(source), tmp_path / "out.ckpt")
    mc.save(mc.load(tmp_path / "out.ckpt"), tmp_path / "back.safetensors", dtype=SHORT[dtype])
    assert raws_in(tmp_path / "out.ckpt") == raws_in(tmp_path / "back.safetensors") == raws_in(source)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_every_code_of_a_narrow_dtype_survives_the_wide_one(narrow: str, tmp_path: Path) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(NUMPY[narrow])
    there = saved_as(values, "float32", tmp_path, "safetensors")
    back = saved_as(there, narrow, tmp_path, "safetensors")
    assert hex_of(back) == hex_of(values)
