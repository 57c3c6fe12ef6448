"""What a save says of the way back is planned, and numbers that a cast makes infinite are counted as they pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import MappingError
from mfconv_nb.rules import Drop, Family, Rule
from mfconv_nb.streaming import fill
from mfconv_nb.streaming.journal import Journal
from tests.support import NUMPY, numbered, write_safetensors

BF16 = ml_dtypes.bfloat16


def family(*rules: Rule | Drop, **sizes: str) -> Family:
    return Family("small", "nothing that exists", rules, sizes)


def saved(tensors: dict[str, Any], made: Family, target: Path, **more: Any) -> str:
    return mc.save(mc.map(mc.load(tensors), made, to="mf"), target, progress=False, **more).way_back


# ---- planned ---------------------------------------------------------------------------------------------------------------------


def test_a_joined_tensor_whose_parts_no_size_tells_apart_is_refused_before_it_is_read(tmp_path: Path) -> None:
    joined = Rule(("a.gate", "a.up"), "a.both", "gate hidden, up hidden -> (gate + up) hidden")
    tensors = {"a.gate": numbered(2, 3), "a.up": numbered(5, 3)}
    with pytest.raises(MappingError) as refused:
        saved(tensors, family(joined), tmp_path / "out.ckpt")
    assert refused.value.code == "MFC311"
    assert "no size for gate, up on the way to Hugging Face" in str(refused.value)
    with_size = Rule(joined.hf, joined.mf, joined.layout, sizes={"gate": 2})
    assert saved(tensors, family(with_size), tmp_path / "out.ckpt") == "exact"
    equal = Rule(joined.hf, joined.mf, joined.layout, sizes={"up": "gate"})
    assert saved({**tensors, "a.up": numbered(2, 3)}, family(equal), tmp_path / "equal.ckpt") == "exact"


def test_a_size_that_this_config_does_not_give_is_said_when_the_way_back_needs_it(tmp_path: Path) -> None:
    joined = Rule(("a.gate", "a.up"), "a.both", "gate hidden, up hidden -> (gate + up) hidden")
    told = saved({"a.gate": numbered(2, 3), "a.up": numbered(5, 3)}, family(joined, gate="gate_size | ?"), tmp_path / "out.ckpt")
    assert told.startswith("refused: shape a.both: (7, 3): no size for ")
    with pytest.raises(MappingError):
        mc.map(mc.load(tmp_path / "out.ckpt"), family(joined, gate="gate_size | ?"), to="hf")


def test_what_was_left_out_does_not_come_back(tmp_path: Path) -> None:
    made = family(Rule("a.{layer}", "b.{layer}"), Rule("c", "d", optional="anywhere"))
    checkpoint = mc.map(mc.load({"a.0": numbered(2), "c": numbered(3)}), made, to="mf", leave_out="c")
    assert mc.save(checkpoint, tmp_path / "out.ckpt", progress=False).way_back == "exact, but for 1 tensor left out"


def test_what_the_config_promises_and_was_left_out_makes_the_way_back_a_refusal(tmp_path: Path) -> None:
    checkpoint = mc.map(mc.toy("llama"), to="mf", leave_out="model.norm.weight")
    report = mc.save(checkpoint, tmp_path / "out.ckpt", progress=False)
    assert report.way_back == "refused: missing model.norm_out.weight: not in the checkpoint"
    with pytest.raises(MappingError):
        mc.map(mc.load(tmp_path / "out.ckpt"))


def test_tensors_that_are_kept_beside_the_output_count_as_coming_back(tmp_path: Path) -> None:
    made = family(Rule("a", "b"), Drop("buffer", "computed"))
    assert saved({"a": numbered(2), "buffer": numbered(4)}, made, tmp_path / "out.ckpt") == "exact"


def test_the_way_back_of_the_first_layers_is_exact_but_for_the_others(tmp_path: Path) -> None:
    report = mc.save(mc.map(mc.toy("llama"), to="mf", layers=1), tmp_path / "out.ckpt", progress=False)
    assert report.way_back.startswith("exact, but for ")
    assert len(mc.map(mc.load(tmp_path / "out.ckpt"))) > 0


@pytest.mark.parametrize("key", ["deepseek3", "deepseekv3", "glm4-moe", "telechat3-moe"])
def test_layers_behind_the_last_one_are_not_missed_on_the_way_back_of_the_first(key: str, tmp_path: Path) -> None:
    toy = mc.toy(key)
    report = mc.save(mc.map(toy, key, layers=1), tmp_path / "out.ckpt", progress=False)
    back = mc.map(mc.load(tmp_path / "out.ckpt"))
    counts = mc.diff(back, toy, values=True).counts
    assert counts["equal"] == len(back)
    assert report.way_back == f"exact, but for {len(toy) - len(back)} tensors left out"


def test_no_one_dtype_gives_back_two(tmp_path: Path) -> None:
    report = mc.save(mc.load({"a": numbered(2, dtype=BF16), "b": numbered(2)}), tmp_path / "a.ckpt", dtype="fp32", progress=False)
    assert report.way_back == "every number, not every dtype: bf16 and fp32 became one"
    report = mc.save(mc.load({"a": numbered(2, dtype=BF16), "n": numbered(2, dtype=np.int32)}), tmp_path / "b.ckpt", dtype="fp32")
    assert report.way_back == "exact, with --dtype bf16"


# ---- a dtype that is remembered ------------------------------------------------------------------------------------------------


FIXED = family(Rule("a", "b", dtype="F32"))


def test_a_remembered_dtype_comes_back_without_a_loss(tmp_path: Path) -> None:
    values = np.array([1.5, -3.0, np.inf], BF16)
    assert saved({"a": values}, FIXED, tmp_path / "out.ckpt") == "exact"
    back = mc.map(mc.load(tmp_path / "out.ckpt"), FIXED, to="hf")
    assert mc.save(back, tmp_path / "back.safetensors", progress=False).way_back == "exact"
    assert mc.read(mc.load(tmp_path / "back.safetensors"), "a").tobytes() == values.tobytes()


def test_a_remembered_dtype_that_cannot_hold_the_numbers_is_refused(tmp_path: Path) -> None:
    """Somebody changed the manifest: it says fp16 where bf16 was."""
    saved({"a": np.array([1.5, 1e30], BF16)}, FIXED, tmp_path / "out.ckpt")
    manifest = tmp_path / "out.ckpt.mfconv" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"cast_from": "BF16"', '"cast_from": "F16"'))
    with pytest.raises(MappingError) as refused:
        mc.save(mc.map(mc.load(tmp_path / "out.ckpt"), FIXED, to="hf"), tmp_path / "back.safetensors")
    assert refused.value.code == "MFC308"
    assert not (tmp_path / "back.safetensors").exists()


def test_integers_keep_their_dtype_where_a_rule_fixes_a_floating_one() -> None:
    assert mc.map(mc.load({"a": numbered(3, dtype=np.int64)}), FIXED, to="mf")["b"].dtype == "I64"


# ---- numbers that become infinite ----------------------------------------------------------------------------------------------


LARGE = {
    "a": np.array([1, 65520, -1e9, np.inf, np.nan, 65519], np.float32),
    "b": np.array([[1e30, 2], [-1e30, 4]], np.float32),
    "c": np.array([1e30], np.float64),
    "n": np.array([1 << 40], np.int64),
    "small": np.array([1e-30], np.float32),
}


@pytest.mark.parametrize("target", ["out.ckpt", "out.safetensors", "out"])
def test_numbers_that_a_cast_makes_infinite_are_counted_and_said(target: str, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "in.safetensors", LARGE)
    report = mc.save(mc.load(tmp_path / "in.safetensors"), tmp_path / target, dtype="fp16", progress=False)
    assert dict(report.infinite) == {"a": 2, "b": 2, "c": 1}
    assert report.way_back.startswith("5 numbers in 3 tensors became infinite; ")
    assert report.table().verdict == "! Converted."
    assert "5 numbers in 3 tensors became infinite, too large for the dtype that was asked for; first in a" in repr(report)


def test_a_cast_that_fits_and_infinities_that_were_there_are_no_warning(tmp_path: Path) -> None:
    there = {"a": np.array([65504, np.inf, np.nan], np.float32)}
    report = mc.save(mc.load(there), tmp_path / "out.ckpt", dtype="fp16", progress=False)
    assert report.infinite == {}
    assert report.table().verdict == "✓ Converted."


@pytest.mark.parametrize("segment", [128, 1 << 20])
def test_infinities_are_counted_in_transposed_tensors_and_in_many_segments(
    segment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "SEGMENT_BYTES", segment)
    values = np.zeros((37, 23), np.float32)
    values[::3, ::5] = 1e6
    write_safetensors(tmp_path / "in.safetensors", {"a": values})
    mapped = mc.map(mc.load(tmp_path / "in.safetensors"), family(Rule("a", "b", "x y -> y x")), to="mf")
    assert dict(mc.save(mapped, tmp_path / "out.safetensors", dtype="fp16", progress=False).infinite) == {"b": 13 * 5}


def test_a_stopped_run_that_goes_on_counts_what_it_had_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "SEGMENT_BYTES", 128)
    write_safetensors(tmp_path / "in.safetensors", {f"t{n}": np.full(100, 1e6, np.float32) for n in range(8)})
    record, left = Journal.add, [9]

    def stopping(self: Journal, done: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        record(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            mc.save(mc.load(tmp_path / "in.safetensors"), tmp_path / "out.ckpt", dtype="fp16", threads=1, progress=False)
    report = mc.save(mc.load(tmp_path / "in.safetensors"), tmp_path / "out.ckpt", dtype="fp16", progress=False)
    assert report.resumed
    assert sum(report.infinite.values()) == 800


def test_the_manifest_and_the_files_are_the_same_with_and_without_infinities(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "in.safetensors", LARGE)
    mc.save(mc.load(tmp_path / "in.safetensors"), tmp_path / "out.safetensors", dtype="fp16", progress=False)
    assert mc.verify(tmp_path / "out.safetensors").equal
    entries = json.loads((tmp_path / "out.safetensors.mfconv" / "manifest.json").read_text())["tensors"]
    assert {t["name"]: t.get("cast_from") for t in entries} == {"a": "F32", "b": "F32", "c": "F64", "n": None, "small": "F32"}
    assert mc.read(mc.load(tmp_path / "out.safetensors"), "small").astype(NUMPY["F32"]).tolist() == [0.0]
