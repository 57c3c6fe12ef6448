"""How two checkpoints differ: statuses, counts, numbers, hints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import MappingError
from mfconv_nb.families import llama
from mfconv_nb.mapping.rules import Rule
from mfconv_nb.steps.comparing.diff import shape_hint
from mfconv_nb.streaming import compare
from tests.support import Array, numbered

BF16 = ml_dtypes.bfloat16


def compared(a: Array, b: Array, **more: Any) -> dict[str, Any]:
    (row,) = mc.diff({"w": a}, {"w": b}, values=True, **more).rows()
    return row


def test_every_status_is_told_and_counted() -> None:
    a = {"same": numbered(3), "other": numbered(3), "gone": numbered(3), "shape": numbered(2, 3), "dtype": numbered(3)}
    b = {"same": numbered(3), "other": numbered(3, first=1), "new": numbered(3), "shape": numbered(3, 2), "dtype": numbered(3, dtype=BF16)}
    headers, values = mc.diff(a, b), mc.diff(a, b, values=True)
    assert {r.name: r.status for r in headers.entries} == {
        "same": "agree",
        "other": "agree",
        "gone": "missing",
        "shape": "shape",
        "dtype": "dtype",
        "new": "unexpected",
    }
    assert {r.name: r.status for r in values.entries} == {
        "same": "equal",
        "other": "differ",
        "gone": "missing",
        "shape": "shape",
        "dtype": "dtype",
        "new": "unexpected",
    }
    assert values.counts == {"differ": 1, "missing": 1, "unexpected": 1, "shape": 1, "dtype": 1, "agree": 0, "equal": 1}
    assert not values.equal
    assert repr(values).startswith("✗ Not equal.")
    assert [row[0] for row in values.table().rows] == ["differ", "missing", "unexpected", "shape", "dtype", "equal"]  # failures first


@pytest.mark.parametrize("name", ["other", "gone", "shape", "dtype", "new"])
def test_any_single_difference_makes_the_whole_unequal(name: str) -> None:
    a = {"w": numbered(4), **({} if name == "new" else {name: numbered(2, 2)})}
    changed = {"other": numbered(2, 2, first=1), "shape": numbered(4), "dtype": numbered(2, 2, dtype=np.float64), "new": numbered(2)}
    b = {"w": numbered(4), **({name: changed[name]} if name in changed else {})}
    assert not mc.diff(a, b, values=True).equal
    assert mc.diff(a, a, values=True).equal


def test_headers_that_agree_are_not_called_equal() -> None:
    report = mc.diff({"w": numbered(3)}, {"w": numbered(3, first=1)})
    assert report.equal
    assert repr(report).startswith("✓ Headers agree. 1 of 1 tensor of the same name, shape and dtype")
    assert "Equal" not in repr(report)
    assert "values were not" in repr(report)
    assert repr(mc.diff({"w": numbered(3)}, {"w": numbered(4)})).startswith("✗ Not equal.")
    assert repr(mc.diff({"w": numbered(3)}, {"w": numbered(3)}, values=True)).startswith("✓ Equal.")


# ---- numbers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, BF16, np.float32, np.float64])
def test_a_difference_is_measured_in_its_largest_number_and_in_ulp(dtype: Any) -> None:
    a = np.linspace(1, 2, 1000).astype(dtype)
    b = a.copy()
    bits = b.view(f"i{b.itemsize}")
    bits[[400, 900]] += np.array([3, 1], bits.dtype)
    row = compared(a, b)
    assert (row["status"], row["equal_bytes"], row["differing"], row["max_ulp"], row["first_difference"]) == ("differ", False, 2, 3, 400)
    assert row["max_abs"] == float(b[400]) - float(a[400]) > 0


def test_equal_bytes_count_even_where_numbers_cannot_be_equal() -> None:
    nan = np.array([np.nan, 1], np.float32)
    row = compared(nan, nan.copy())
    assert (row["status"], row["equal_bytes"], row["differing"]) == ("equal", True, 0)


def test_a_nan_with_another_payload_is_a_difference_of_no_size() -> None:
    a = np.array([0x7FC00000, 0x3F800000], np.uint32).view(np.float32)
    b = np.array([0x7FC00001, 0x3F800000], np.uint32).view(np.float32)
    row = compared(a, b)
    assert (row["status"], row["differing"], row["max_abs"], row["max_ulp"], row["nan_first"], row["nan_second"]) == (
        "differ",
        1,
        0.0,
        0,
        1,
        1,
    )


def test_zeros_of_both_signs_are_a_difference_of_no_size() -> None:
    row = compared(np.array([0.0, -0.0], np.float32), np.array([0.0, 0.0], np.float32))
    assert (row["status"], row["differing"], row["max_abs"], row["max_ulp"], row["first_difference"]) == ("differ", 1, 0.0, 0, 1)


def test_nan_and_infinity_are_counted_on_each_side() -> None:
    a = np.array([np.nan, np.inf, 1, 2, -np.inf], BF16)
    b = np.array([1, np.inf, np.nan, 2.5, 3], BF16)
    row = compared(a, b)
    assert (row["nan_first"], row["nan_second"], row["inf_first"], row["inf_second"]) == (1, 1, 2, 1)
    assert row["max_abs"] == 0.5  # over numbers that are finite on both sides
    assert row["max_ulp"] == 0x7F80 + 0x4040  # from -inf to 3.0: a NaN on one side is no number of ULP away


def test_a_nan_on_one_side_has_no_distance() -> None:
    a = np.array([np.nan, 1, 2], np.float32)
    b = np.array([0, 1, np.nextafter(np.float32(2), np.float32(3))], np.float32)
    for row in (compared(a, b), compared(b, a)):
        assert (row["differing"], row["max_ulp"]) == (2, 1)


F8 = ml_dtypes.float8_e4m3fn
NAN_PAYLOADS = np.array([0x7FC00000, 0x7FC00003], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    "a, b, difference, note",
    [
        (np.array([5, 7], np.int32), np.array([5, 4], np.int32), "3", ""),
        (np.array([False]), np.array([True]), "1", ""),
        (np.array([2.0], F8), np.array([4.0], F8), "2", ""),
        (np.array([2j], np.complex64), np.array([2j + 1], np.complex64), "1", ""),
        (np.array([1.0, 2.0], np.float32), np.array([1.0, 2.5], np.float32), "0.5 (2,097,152 ULP)", ""),
        (np.array([1, 2], BF16), np.array([1, np.nan], BF16), "1 became NaN", "NaN 0 / 1"),
        (np.array([1, np.nan], np.float16), np.array([1, 3], np.float16), "1 was NaN", "NaN 1 / 0"),
        (np.array([3.0], F8), np.array([np.nan], F8), "1 became NaN", "NaN 0 / 1"),
        (np.array([1j], np.complex64), np.array([complex(np.nan, 1)], np.complex64), "1 became NaN", "NaN 0 / 1"),
        (np.array([1.0, 2.0], np.float64), np.array([-np.inf, 2.0], np.float64), "1 became infinite", "inf 0 / 1"),
        (np.array([np.inf], np.float32), np.array([1], np.float32), "1 was infinite", "inf 1 / 0"),
        (np.array([np.inf], np.float32), np.array([np.nan], np.float32), "1 became NaN", "NaN 0 / 1, inf 1 / 0"),
        (np.array([np.nan], np.float32), np.array([np.inf], np.float32), "1 was NaN", "NaN 1 / 0, inf 0 / 1"),
        (np.array([np.inf], np.float32), np.array([-np.inf], np.float32), "infinities of the other sign", "inf 1 / 1"),
        (np.array([1, 2, 3], BF16), np.array([np.nan, np.inf, 4], BF16), "1 became NaN", "1 became infinite, 1, NaN 0 / 1, inf 0 / 1"),
        (np.array([0.0, 1.0], np.float32), np.array([-0.0, 1.0], np.float32), "only signs of zero", ""),
        (NAN_PAYLOADS[:1], NAN_PAYLOADS[1:], "only signs of zero or NaN payloads", "NaN 1 / 1"),
    ],
)
def test_what_became_no_number_is_said_before_how_far_numbers_are_apart(a: Array, b: Array, difference: str, note: str) -> None:
    (row,) = mc.diff({"w": a}, {"w": b}, values=True).table().rows
    assert row[5:] == (difference, note)


def test_tensors_that_hold_new_nan_stand_first_and_the_difference_is_the_last_column_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    ones = {name: np.ones(4, np.float32) for name in ("model.first.weight", "model.second.weight", "model.third.weight")}
    worse = {name: array.copy() for name, array in ones.items()}
    worse["model.first.weight"][0], worse["model.second.weight"][0], worse["model.third.weight"][0] = 9, np.inf, np.nan
    lines = repr(mc.diff(ones, worse, values=True)).splitlines()[3:]
    assert [line.split()[1:2] for line in lines] == [["model.third.weight"], ["model.second.weight"], ["model.first.weight"]]
    assert ["became NaN" in lines[0], "became infinite" in lines[1], "8 (26,214,400 ULP)" in lines[2]] == [True] * 3


@pytest.mark.parametrize(
    "a, b, distance",
    [
        (np.array([1, 2, 3], np.int64), np.array([1, 2, 10], np.int64), 7.0),
        (np.array([-(2**63)], np.int64), np.array([2**63 - 1], np.int64), float(2**64 - 1)),
        (np.array([0], np.uint8), np.array([255], np.uint8), 255.0),
        (np.array([-128], np.int8), np.array([127], np.int8), 255.0),
        (np.array([True, False]), np.array([True, True]), 1.0),
        (np.array([2**53], np.int64), np.array([2**53 + 1], np.int64), 1.0),
    ],
)
def test_integers_and_booleans_are_compared_as_what_they_are(a: Array, b: Array, distance: float) -> None:
    row = compared(a, b)
    assert (row["status"], row["max_abs"], row["max_ulp"]) == ("differ", distance, None)


def test_where_dtypes_differ_the_first_is_cast_to_the_second() -> None:
    a = np.array([1.0, 1 + 2**-8, 3.0], np.float32)
    rounded = compared(a, a.astype(BF16))
    assert (rounded["status"], rounded["equal_bytes"]) == ("dtype", True)
    wide = compared(a.astype(BF16), a)
    assert (wide["status"], wide["equal_bytes"], wide["max_abs"]) == ("dtype", False, 2**-8)


@pytest.mark.parametrize("place", [0, 1, 4095, 4096, 99_998, 99_999])
def test_one_changed_number_is_found_wherever_it_is(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SEGMENT_BYTES", 16_384)  # many segments, as in tensors over 64 MiB
    a = numbered(100_000)
    b = a.copy()
    b[place] += 1
    row = compared(a, b, threads=3)
    assert (row["differing"], row["first_difference"], row["max_abs"]) == (1, place, 1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 9])
def test_a_difference_in_the_last_bytes_is_found_whatever_the_length(count: int) -> None:
    a = np.zeros(count, np.uint8)
    b = a.copy()
    b[-1] = 1
    assert compared(a, b)["first_difference"] == count - 1


def test_the_largest_difference_of_all_tensors_is_that_of_the_report() -> None:
    report = mc.diff({"a": numbered(3), "b": numbered(3)}, {"a": numbered(3), "b": numbered(3, first=4)}, values=True)
    assert (report.max_abs, report.max_ulp) == (4.0, 0x40800000)


# ---- hints -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, hint",
    [
        ((3, 5), (5, 3), "transposed?"),
        ((3, 5), (3, 1, 5), "an extra axis of size 1?"),
        ((4096, 512), (1024, 512), "axis 0: 4 parts in one?"),
        ((32000, 8), (32064, 8), "axis 0: a vocabulary padded by 64?"),
        ((3, 5), (4, 6), ""),
        ((3, 5), (3, 7), ""),
        ((0, 5), (3, 5), ""),
    ],
)
def test_a_shape_that_differs_gets_a_hint_where_one_is_plausible(a: tuple[int, ...], b: tuple[int, ...], hint: str) -> None:
    assert shape_hint(a, b) == hint


def test_a_missing_name_is_shown_with_the_most_similar_unexpected_one() -> None:
    report = mc.diff({"model.layers.0.w_q": numbered(2)}, {"model.layers.0.wq": numbered(2)})
    notes = {row[0]: row[-1] for row in report.table().rows}
    assert notes == {"missing": "nearest: model.layers.0.wq", "unexpected": "nearest: model.layers.0.w_q"}


def test_layers_are_folded_and_rows_are_not() -> None:
    a = {f"layers.{n}.w": numbered(2) for n in range(30)}
    b = {**a, "layers.7.w": numbered(2, first=1)}
    report = mc.diff(a, b, values=True)
    assert [(row[0], row[1], row[2]) for row in report.table().rows] == [("differ", "layers.7.w", 1), ("equal", "layers.{0‥6, 8‥29}.w", 29)]
    assert len(report.rows()) == 30
    assert len(json.loads(report.to_json())["rows"]) == 30


# ---- what only values can tell ----------------------------------------------------------------------------------------------


def swapped(rules: tuple[Any, ...], first: str, second: str) -> tuple[Any, ...]:
    """The rules with two MindFormers names exchanged."""
    other = {first: second, second: first}

    def mf(rule: Rule) -> str:
        names = str(rule.mf)
        part = next((p for p in other if f".{p}." in names), None)
        return names if part is None else names.replace(f".{part}.", f".{other[part]}.")

    return tuple(replace(r, mf=mf(r)) if isinstance(r, Rule) else r for r in rules)


@pytest.mark.parametrize("first, second", [("w1", "w3"), ("wk", "wv"), ("attention_norm", "ffn_norm")])
def test_two_rules_whose_targets_are_swapped_are_noticed_by_values_only(first: str, second: str) -> None:
    toy = mc.toy("llama")
    wrong = mc.map(toy, llama.FAMILY.with_rules(swapped(llama.FAMILY.rules, first, second)))
    right = mc.map(toy, llama.FAMILY)
    assert mc.diff(wrong, right).equal
    report = mc.diff(wrong, right, values=True)
    assert not report.equal
    assert report.counts["differ"] == 8


def test_a_checkpoint_is_compared_with_what_its_config_promises_without_values() -> None:
    mapped = mc.map(mc.toy("llama"))
    promised = mc.expected("llama", llama.FAMILY.toy, dtype="bf16")
    assert mc.diff(mapped, promised).equal
    with pytest.raises(MappingError) as refused:
        mc.diff(mapped, promised, values=True)
    assert refused.value.code == "MFC310"


def test_progress_counts_up_to_every_byte() -> None:
    seen: list[int] = []
    mc.diff({"w": numbered(50_000)}, {"w": numbered(50_000)}, values=True, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 200_000
