"""From codes to numbers with a count of what rounding did, and back to the published bytes; what was trained never passes as untouched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from tests.quantised import E5M2, FP8, as_raws, by_blocks, fp4, fp8, llama_fp8, rounded, spread
from tests.support import Array, Raw, raws_in, write_hf, write_safetensors
from tests.toys import arrays_of, raws_of, refused_with

BF16 = ml_dtypes.bfloat16
RNG = np.random.default_rng(5)


def there(folder: Path, target: Path, **how: Any) -> Any:
    return mc.save(mc.map(mc.load(folder)), target, progress=False, **how)


def back(source: Path, target: Path, config: Path, **how: Any) -> Any:
    return mc.save(mc.map(mc.load(source), to="hf", config=config), target, assets=config, progress=False, **how)


def note_of(report: Any, words: str) -> str:
    return next((note for note in report.notes if words in note), "")


def said_config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text()).get("quantization_config")


@pytest.mark.parametrize("other", [{}, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, by_blocks(64), None])
@pytest.mark.parametrize("dtype", ["keep", None])
def test_the_config_beside_codes_says_how_they_were_published_whatever_config_is_given(
    other: dict[str, Any] | None, dtype: str | None, tmp_path: Path
) -> None:
    more = {"modules_to_not_convert": ["lm_head"]}
    config = by_blocks(32, **more)
    folder, stored, _ = llama_fp8(tmp_path / "q", config=config)
    there(folder, tmp_path / "mf.safetensors", dtype=dtype)
    plain = json.loads((folder / "config.json").read_text())
    del plain["quantization_config"]
    given = tmp_path / "given"
    given.mkdir()
    edited = by_blocks(32, modules_to_not_convert=["lm_head", "model.embed_tokens"])
    (given / "config.json").write_text(json.dumps({**plain, **(edited if other is None else other)}))
    mapped = mc.map(mc.load(tmp_path / "mf.safetensors"), to="hf")
    report = mc.save(mapped, tmp_path / "back", assets=given, progress=False)
    assert raws_in(tmp_path / "back") == stored
    assert said_config(tmp_path / "back") == (edited if other is None else config)["quantization_config"]
    assert bool(note_of(report, "as it was published")) is (other is not None)
    assert mc.doctor(tmp_path / "back")


# ---- the way back gives the published bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["mf.ckpt", "mf.safetensors", "mf"])
@pytest.mark.parametrize("how", [{}, {"powers_of_two": True}, {"kind": E5M2}, {"suffix": "scale"}, {"block": 128}])
def test_codes_and_scales_come_back_byte_for_byte(how: dict[str, Any], target: str, tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q", **how)
    report = there(folder, tmp_path / target)
    assert report.way_back == "exact"
    again = back(tmp_path / target, tmp_path / "back", folder)
    assert raws_in(tmp_path / "back") == stored
    assert said_config(tmp_path / "back") == said_config(folder)
    assert "checksums of what was published: 56 tensors" in note_of(again, "checksums")
    assert again.way_back == "exact"
    seen = mc.verify(folder, tmp_path / target, progress=False)
    assert seen.equal
    assert any(c.seen.startswith("fp8 bits equal: 56 tensors") for c in seen.conditions)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_they_come_back_from_every_dtype(dtype: str, tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.safetensors", dtype=dtype)
    back(tmp_path / "mf.safetensors", tmp_path / "back", folder)
    codes = {n for n in stored if n.endswith("_proj.weight") or "_scale" in n}
    assert {n: t for n, t in raws_in(tmp_path / "back").items() if n in codes} == {n: t for n, t in stored.items() if n in codes}


def odd(folder: Path, kind: Any) -> tuple[Path, dict[str, Raw]]:
    """Codes of every kind: NaN, zeros of both signs, blocks of zeros; scales that are subnormal, tiny, huge; edges that are cut."""
    codes = RNG.integers(0, 256, (70, 90)).astype(np.uint8)
    codes[:32, :32] = 0
    codes[32:64, :32] = 128
    scales = np.array([[1e-2, 1e-40, 1.0], [1.0, 3e-5, 2.0**-127], [1e-3, 1e-45, 1e34]], np.float32)
    plain = fp8((RNG.standard_normal((64, 64)) * 0.02).astype(np.float32), (32, 32))
    tensors: dict[str, Any] = {
        "a.weight": codes.view(kind),
        "a.weight_scale_inv": scales,
        "b.weight": plain[0],
        "b.weight_scale_inv": plain[1],
    }
    packed, e8m0, _ = fp4((RNG.standard_normal((6, 64)) * 3).astype(np.float32))
    tensors |= {"c.weight": packed.view(np.int8), "c.scale": e8m0, "b.input_scale": np.ones((), np.float32)}
    stored = as_raws(tensors)
    return write_hf(folder, stored, {"model_type": "own", **by_blocks(32)}), stored


OWN = mc.rules.Family(
    "own",
    "",
    (
        mc.rules.Rule("a.weight", "x.weight", "out in -> in out"),
        mc.rules.Rule(("b.weight", "c.weight"), ("y1", "y2"), "b k, six k -> k b, k six"),
    ),
    sizes={},
)


@pytest.mark.parametrize("kind", [FP8, E5M2])
@pytest.mark.parametrize("dtype", [None, "fp16", "fp32"])
def test_nan_zeros_subnormal_and_huge_scales_and_cut_edges_come_back(dtype: str | None, kind: Any, tmp_path: Path) -> None:
    folder, stored = odd(tmp_path / "q", kind)
    mc.save(mc.map(mc.load(folder), OWN), tmp_path / "mf.safetensors", dtype=dtype, progress=False)
    kept = raws_in(tmp_path / "mf.safetensors.mfconv" / "codes.safetensors")
    assert kept["a.weight"] == stored["a.weight"]  # its numbers do not tell all its codes apart
    if dtype is None:
        assert "b.weight" not in kept
        assert "c.weight" not in kept
    mapped = mc.map(mc.load(tmp_path / "mf.safetensors"), OWN, to="hf")
    mc.save(mapped, tmp_path / "back", progress=False)
    assert raws_in(tmp_path / "back") == stored


def test_a_mapping_there_and_back_in_memory_keeps_the_codes(tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    mc.save(mc.map(mc.map(mc.load(folder)), to="hf"), tmp_path / "back.safetensors", progress=False)
    assert raws_in(tmp_path / "back.safetensors") == stored


def test_another_form_of_the_same_folder_keeps_the_codes_and_a_dtype_gives_numbers(tmp_path: Path) -> None:
    folder, stored, numbers = llama_fp8(tmp_path / "q")
    assert mc.save(mc.load(folder), tmp_path / "same.safetensors", progress=False).way_back == "exact"
    assert raws_in(tmp_path / "same.safetensors") == stored
    report = mc.save(mc.load(folder), tmp_path / "bf", dtype="bf16", progress=False)
    assert raws_in(tmp_path / "bf") == numbers
    assert said_config(tmp_path / "bf") is None
    assert report.way_back == "the codes of 28 weights would not come back"


# ---- without the scales, and with numbers that were trained ------------------------------------------------------------------------


def test_without_the_side_folder_numbers_come_back_and_the_config_says_so(tmp_path: Path) -> None:
    folder, _, numbers = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.ckpt")
    shutil.rmtree(tmp_path / "mf.ckpt.mfconv")
    report = back(tmp_path / "mf.ckpt", tmp_path / "back", folder)
    assert raws_in(tmp_path / "back") == numbers
    assert said_config(tmp_path / "back") is None
    assert note_of(report, "not quantised")
    mapped = mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf", config=folder)
    assert any("numbers are written" in note for note in mapped.report.notes)


def trained(checkpoint: Checkpoint, name: str, change: Callable[[Array], Array]) -> Checkpoint:
    """A checkpoint of which one tensor was changed."""
    changed = mc.load({name: change(mc.read(checkpoint, name))})
    return replace(checkpoint, tensors={**checkpoint.tensors, name: changed[name]})


NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("how", [{}, {"powers_of_two": True}])
def test_what_was_trained_is_refused_by_name_or_quantised_anew_by_the_recipe(how: dict[str, Any], tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q", **how)
    there(folder, tmp_path / "mf.ckpt")
    mapped = trained(
        mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf", config=folder), NAME, lambda w: (w.astype(np.float32) * 1.3).astype(BF16)
    )
    error = refused_with("MFC308", lambda: mc.save(mapped, tmp_path / "back", assets=folder, progress=False))
    assert NAME in str(error)
    assert "--requantise" in str(error)
    assert not (tmp_path / "back").exists()
    report = mc.save(mapped, tmp_path / "back", assets=folder, requantise=True, progress=False)
    found = raws_in(tmp_path / "back")
    rest = {n for n in stored if not n.startswith(NAME)}
    assert {n: found[n] for n in rest} == {n: stored[n] for n in rest}
    weight = mc.read(mapped, NAME).astype(np.float32)
    codes, scales, product = fp8(weight, (32, 32), **how)
    assert {n: found[n] for n in (NAME, f"{NAME}_scale_inv")} == as_raws({NAME: codes, f"{NAME}_scale_inv": scales})
    counted = report.computed.rounding[NAME]
    error_of = np.abs(product - weight)[weight != 0] / np.abs(weight[weight != 0])
    assert (counted.numbers, counted.inexact) == (weight.size, int(np.count_nonzero(product != weight)))
    assert counted.largest == pytest.approx(error_of.max(), rel=1e-5)
    assert counted.mean == pytest.approx(error_of.sum() / weight.size, rel=1e-4)
    assert "amax" in note_of(report, "anew") or "largest magnitude" in note_of(report, "anew")
    assert ("power of two" in note_of(report, "largest magnitude")) == bool(how)
    assert "untouched: 27" in note_of(report, "untouched")
    numbers = mc.save(mapped, tmp_path / "bf", assets=folder, dtype="bf16", progress=False)
    assert said_config(tmp_path / "bf") is None
    assert note_of(numbers, "not quantised")
    assert raws_in(tmp_path / "bf")[NAME] == raws_of(mapped)[NAME]


def test_a_number_changed_by_one_bit_is_noticed(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.ckpt")

    def flip(weight: Array) -> Array:
        changed = weight.copy()
        changed.view(np.uint16)[-1, -1] ^= 1
        return changed

    mapped = trained(mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf", config=folder), NAME, flip)
    assert NAME in str(refused_with("MFC308", lambda: mc.save(mapped, tmp_path / "back", progress=False)))


def test_a_run_without_side_folder_is_quantised_by_the_folder_that_was_published(tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.ckpt")
    shutil.rmtree(tmp_path / "mf.ckpt.mfconv")
    back(tmp_path / "mf.ckpt", tmp_path / "back", folder, requantise=True)
    assert raws_in(tmp_path / "back") == stored  # nothing was trained
    error = refused_with("MFC501", lambda: back(tmp_path / "mf.ckpt", tmp_path / "b2", folder, requantise=True, dtype="bf16"))
    assert "--config" in str(error.hint)
    refused_with("MFC501", lambda: there(folder, tmp_path / "m2.ckpt", requantise=True))
    config = json.loads((folder / "config.json").read_text())
    mapped = mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf", config=config)
    refused_with("MFC501", lambda: mc.save(mapped, tmp_path / "b3", requantise=True, progress=False))


def test_nan_in_a_trained_weight_is_not_quantised(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.ckpt")

    def spoil(weight: Array) -> Array:
        changed = weight.copy()
        changed[0, 0] = np.nan
        return changed

    mapped = trained(mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf", config=folder), NAME, spoil)
    assert NAME in str(refused_with("MFC321", lambda: mc.save(mapped, tmp_path / "back", requantise=True, progress=False)))


def test_a_block_of_zeros_gets_a_scale_that_is_a_number(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.ckpt")
    mapped = trained(mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf", config=folder), NAME, lambda w: np.zeros_like(w))
    mc.save(mapped, tmp_path / "back", assets=folder, requantise=True, progress=False)
    assert not mc.read(mc.load(tmp_path / "back"), NAME).astype(np.float32).any()


def test_kept_scales_of_another_model_are_refused(tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q", powers_of_two=True)
    there(folder, tmp_path / "mf.ckpt")
    kept = tmp_path / "mf.ckpt.mfconv" / "codes.safetensors"
    scales = raws_in(kept)
    name = f"{NAME}_scale_inv"
    other = as_raws({name: scales[name].array() * np.float32(1.1)})
    write_safetensors(kept, {**scales, **other})
    error = refused_with("MFC308", lambda: back(tmp_path / "mf.ckpt", tmp_path / "back", folder))
    assert NAME in str(error)
    assert not (tmp_path / "back").exists()
    seen = mc.verify(folder, tmp_path / "mf.ckpt", progress=False)
    assert not seen.equal
    write_safetensors(kept, {n: t for n, t in scales.items() if n != name})
    refused_with("MFC110", lambda: mc.load(tmp_path / "mf.ckpt"))
    assert stored


@pytest.mark.parametrize(
    "change",
    [
        {"codes": {"name": "lm_head.weight"}},
        {"codes": {"shape": [1]}},
        {"codes": {"dtype": "F8_E5M2"}},
        {"scales": {"name": "model.norm.weight_scale_inv"}},
        {"block": [0, 0]},
        {"block": [16, 64]},
        {"kind": "F8_E5M2"},
        {"shape": [96, 96]},
        {"name": "lm_head.weight"},
        {"turned": True},
    ],
)
def test_a_manifest_whose_codes_cannot_be_those_of_its_weights_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.safetensors")
    file = tmp_path / "mf.safetensors.mfconv" / "manifest.json"
    manifest = json.loads(file.read_text())
    entry = manifest["published"]["weights"][0]
    entry |= {key: {**entry[key], **value} if isinstance(value, dict) else value for key, value in change.items()}
    file.write_text(json.dumps(manifest))
    error = refused_with("MFC110", lambda: mc.load(tmp_path / "mf.safetensors"))
    assert "Remove mf.safetensors.mfconv" in str(error)


@pytest.mark.parametrize("left", [0, 40, None])
def test_kept_scales_that_are_gone_or_cut_short_are_named_with_what_helps(left: int | None, tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.safetensors")
    kept = tmp_path / "mf.safetensors.mfconv" / "codes.safetensors"
    kept.unlink() if left is None else kept.write_bytes(kept.read_bytes()[:left])
    error = refused_with("MFC110", lambda: mc.load(tmp_path / "mf.safetensors"))
    assert "codes.safetensors" in str(error)
    assert "Remove mf.safetensors.mfconv" in str(error)
    shutil.rmtree(kept.parent)
    assert mc.verify(folder, tmp_path / "mf.safetensors", progress=False).equal


@pytest.mark.parametrize(
    ("number", "way_back", "note"), [(0.7321, "quantised anew", "quantised anew: 1 weight"), (None, "exact", "changed, and exact")]
)
def test_the_way_back_of_weights_quantised_anew_is_not_called_exact(number: float | None, way_back: str, note: str, tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.safetensors")
    arrays = {n: t.array() for n, t in raws_in(tmp_path / "mf.safetensors").items()}
    weight = arrays["model.layers.1.attention.wo.weight"] = arrays["model.layers.1.attention.wo.weight"].copy()
    weight[0, 0] = -weight[0, 0] if number is None else number  # the negative one has a code too
    write_safetensors(tmp_path / "mf.safetensors", as_raws(arrays))
    report = back(tmp_path / "mf.safetensors", tmp_path / "back", folder, requantise=True)
    assert way_back in report.way_back
    assert (report.way_back == "exact") is (number is None)
    assert "model.layers.1.self_attn.o_proj.weight" in note_of(report, note)
    assert "untouched: 27" in note_of(report, note)
    changed = [n for n, t in raws_in(tmp_path / "back").items() if t != stored[n]]
    assert all(n.startswith("model.layers.1.self_attn.o_proj.weight") for n in changed)


def test_other_codes_for_the_same_numbers_are_not_what_was_published(tmp_path: Path) -> None:
    stored = as_raws(
        {"a.weight": RNG.integers(64, 100, (32, 32)).astype(np.uint8).view(FP8), "a.weight_scale_inv": np.ones((1, 1), np.float32)}
    )
    folder = write_hf(tmp_path / "q", stored, {"model_type": "own", **by_blocks(32)})
    own = mc.rules.Family("own", "", (mc.rules.Rule("a.weight", "x.weight", "out in -> in out"),), sizes={})
    mc.save(mc.map(mc.load(folder), own), tmp_path / "mf.ckpt", progress=False)
    twice = as_raws({"a.weight_scale_inv": np.full((1, 1), 2, np.float32)})  # each number has a code with it, but another
    write_safetensors(tmp_path / "mf.ckpt.mfconv" / "codes.safetensors", twice)
    error = refused_with("MFC321", lambda: mc.save(mc.map(mc.load(tmp_path / "mf.ckpt"), own, to="hf"), tmp_path / "back", progress=False))
    assert "a.weight" in str(error)
    assert not (tmp_path / "back").exists()


def test_verify_sees_codes_that_are_not_those_that_were_published(tmp_path: Path) -> None:
    codes = RNG.integers(64, 100, (32, 32)).astype(np.uint8).view(FP8)
    tensors = {"a.weight": codes, "a.weight_scale_inv": np.ones((1, 1), np.float32)}
    folder = write_hf(tmp_path / "q", as_raws(tensors), {"model_type": "own", **by_blocks(32)})
    own = mc.rules.Family("own", "", (mc.rules.Rule("a.weight", "x.weight", "out in -> in out"),), sizes={})
    mc.save(mc.map(mc.load(folder), own), tmp_path / "mf.ckpt", progress=False)
    assert mc.verify(folder, tmp_path / "mf.ckpt", own, progress=False).equal
    twice = as_raws({"a.weight_scale_inv": np.full((1, 1), 2, np.float32)})
    write_safetensors(tmp_path / "mf.ckpt.mfconv" / "codes.safetensors", twice)
    seen = mc.verify(folder, tmp_path / "mf.ckpt", own, progress=False)
    assert not seen.equal
    assert any("2 tensors changed; first a.weight" in c.seen for c in seen.conditions)


def test_adapters_merged_into_codes_give_numbers_or_codes_on_request(tmp_path: Path) -> None:
    folder, stored, numbers = llama_fp8(tmp_path / "q")
    rank, weight = 2, numbers[NAME]
    halves = {
        f"base_model.model.{NAME.removesuffix('weight')}lora_A.weight": RNG.standard_normal((rank, weight.shape[1])).astype(np.float32)
    }
    halves |= {
        f"base_model.model.{NAME.removesuffix('weight')}lora_B.weight": RNG.standard_normal((weight.shape[0], rank)).astype(np.float32)
    }
    adapter = tmp_path / "adapter"
    write_safetensors(adapter / "adapter_model.safetensors", halves)
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["down_proj"]})
    )
    merged = mc.merge_adapters(folder, adapter)
    report = mc.save(merged, tmp_path / "bf", assets=folder, progress=False)
    assert note_of(report, "adapters were merged")
    assert said_config(tmp_path / "bf") is None
    assert {n for n, t in raws_in(tmp_path / "bf").items() if t != numbers[n]} == {NAME}
    mc.save(merged, tmp_path / "fp8", assets=folder, requantise=True, progress=False)
    assert {n for n, t in raws_in(tmp_path / "fp8").items() if t != stored[n]} == {NAME, f"{NAME}_scale_inv"}


# ---- what rounding did ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_rounding_is_counted_for_every_tensor_and_said_in_report_and_manifest(dtype: str, tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    report = there(folder, tmp_path / "mf.safetensors", dtype=dtype)
    target = {"bf16": BF16, "fp16": np.float16, "fp32": np.float32}[dtype]
    codes, scales = stored[NAME].array(), stored[f"{NAME}_scale_inv"].array()
    wide = spread(scales, (32, 32), codes.shape)
    exact = codes.astype(np.float64) * wide if dtype == "fp32" else (codes.astype(np.float32) * wide).astype(np.float64)
    kept = (codes.astype(np.float32) * wide).astype(target).astype(np.float64)
    relative = np.abs(kept - exact) / np.where(exact == 0, 1, np.abs(exact))
    counted = report.computed.rounding["model.layers.1.feed_forward.w2.weight"]
    assert (counted.numbers, counted.inexact) == (codes.size, int(np.count_nonzero(relative)))
    assert counted.largest == pytest.approx(relative.max(), rel=1e-5)
    assert counted.mean == pytest.approx(relative.mean(), rel=1e-4)
    manifest = json.loads((tmp_path / "mf.safetensors.mfconv" / "manifest.json").read_text())
    entry = next(t for t in manifest["tensors"] if t["name"] == "model.layers.1.feed_forward.w2.weight")
    assert entry["rounding"] == {"inexact": counted.inexact, "of": counted.numbers, "largest": counted.largest, "mean": counted.mean}
    assert entry["computed"] == f"{NAME} * {NAME}_scale_inv, blocks of 32 x 32"
    assert "rounded" in str(report)
    assert "model.layers.1.feed_forward.w2.weight" in repr(report.computed)


def test_powers_of_two_are_exact_and_the_plan_knows_it(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q", powers_of_two=True)
    plan = there(folder, tmp_path / "mf.safetensors", dry_run=True)
    assert plan.computed.names_rounded == []
    assert "28 exact, 0 rounded" in str(plan)
    done = there(folder, tmp_path / "mf.safetensors")
    assert done.computed.total.inexact == 0
    assert not (tmp_path / "o.safetensors").exists()
    other, _, _ = llama_fp8(tmp_path / "r")
    assert "0 exact, 28 rounded" in str(there(other, tmp_path / "o.safetensors", dry_run=True))


def test_what_becomes_infinite_is_counted(tmp_path: Path) -> None:
    weight = (RNG.standard_normal((32, 32))).astype(np.float32)
    codes, _, _ = fp8(weight, (32, 32))
    tensors = as_raws({"a.weight": codes, "a.weight_scale_inv": np.array([[1e4]], np.float32)})
    write_hf(tmp_path / "q", tensors, {"model_type": "own", **by_blocks(32)})
    report = mc.save(mc.load(tmp_path / "q"), tmp_path / "o.safetensors", dtype="fp16", progress=False)
    expected = int(np.count_nonzero(np.isinf(rounded(codes.astype(np.float32) * np.float32(1e4), np.float16))))
    assert dict(report.infinite) == {"a.weight": expected}
    assert expected > 0
    assert str(report).startswith("! Converted")


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("kind", "scale"), [(FP8, 1e36), (E5M2, 2e34)])
def test_a_product_that_is_too_large_for_float32_already_is_counted(kind: Any, scale: float, dtype: str, tmp_path: Path) -> None:
    codes, _, _ = fp8(RNG.standard_normal((32, 32)).astype(np.float32), (32, 32), kind)
    codes[:2, :3] = np.array([0x7F if kind is FP8 else 0x7C], np.uint8).view(kind)  # NaN, or infinite as a code: nothing became so
    tensors = as_raws({"a.weight": codes, "a.weight_scale_inv": np.array([[scale]], np.float32)})
    write_hf(tmp_path / "q", tensors, {"model_type": "own", **by_blocks(32)})
    report = mc.save(mc.load(tmp_path / "q"), tmp_path / "o.safetensors", dtype=dtype, progress=False)
    target = {"bf16": BF16, "fp16": np.float16, "fp32": np.float32}[dtype]
    with np.errstate(all="ignore"):
        found = rounded(codes.astype(np.float32) * np.float32(scale), target).astype(np.float64)
        expected = int(np.count_nonzero(np.isinf(found) & np.isfinite(codes.astype(np.float64))))
    assert dict(report.infinite) == {"a.weight": expected}
    assert expected > 0
    assert str(report).startswith("! Converted")


def test_the_number_of_threads_changes_no_byte_and_no_count(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    counts = [there(folder, tmp_path / f"{n}.safetensors", threads=n).computed.rounding for n in (1, 4)]
    assert counts[0] == counts[1]
    names = [(tmp_path / f"{n}.safetensors.mfconv" / "manifest.json").read_text().replace(f"{n}.safetensors", "x") for n in (1, 4)]
    assert names[0] == names[1]


# ---- codes kept for MindFormers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"suffix": "scale"}, {"powers_of_two": True}])
def test_codes_are_kept_for_mindformers_with_scales_as_its_reader_wants_them(how: dict[str, Any], tmp_path: Path) -> None:
    folder, stored, numbers = llama_fp8(tmp_path / "q", **how)
    mapped = mc.map(mc.load(folder))
    report = mc.save(mapped, tmp_path / "mf.safetensors", dtype="keep", progress=False)
    assert report.way_back == "exact"
    found = raws_in(tmp_path / "mf.safetensors")
    suffix = how.get("suffix", "weight_scale_inv")
    assert found["model.layers.1.feed_forward.w2.weight"] == stored[NAME]
    assert found["model.layers.1.feed_forward.w2.scale"] == stored[NAME.removesuffix("weight") + suffix]
    assert raws_of(tmp_path / "mf.safetensors") == raws_of(mapped)  # read as numbers again
    seen = mc.verify(folder, tmp_path / "mf.safetensors", progress=False)
    assert seen.equal
    assert any(c.seen.startswith("fp8 bits equal: 56 tensors") for c in seen.conditions)
    again = back(tmp_path / "mf.safetensors", tmp_path / "back", folder)
    assert raws_in(tmp_path / "back") == stored  # under the names that were published
    assert "checksums of what was published: 56 tensors" in note_of(again, "checksums")
    assert raws_of(tmp_path / "back") == numbers


def test_kept_codes_with_nothing_beside_them_come_back_under_names_that_are_said(tmp_path: Path) -> None:
    folder, stored, numbers = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.safetensors", dtype="keep")
    shutil.rmtree(tmp_path / "mf.safetensors.mfconv")
    report = back(tmp_path / "mf.safetensors", tmp_path / "back", folder)
    assert "called X.scale" in note_of(report, "X.scale")
    assert raws_in(tmp_path / "back")[f"{NAME.removesuffix('weight')}scale"] == stored[f"{NAME}_scale_inv"]
    assert raws_of(tmp_path / "back") == numbers


@pytest.mark.parametrize("what", ["scale", "weight"])
def test_kept_codes_that_were_changed_are_not_what_was_published(what: str, tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    there(folder, tmp_path / "mf.safetensors", dtype="keep")
    kept = raws_in(tmp_path / "mf.safetensors")
    name = f"model.layers.1.feed_forward.w2.{what}"
    data = bytearray(kept[name].data)
    data[-1 if what == "weight" else -2] ^= 0x02
    write_safetensors(tmp_path / "mf.safetensors", {**kept, name: kept[name]._replace(data=bytes(data))})
    assert not mc.verify(folder, tmp_path / "mf.safetensors", progress=False).equal
    error = refused_with("MFC321" if what == "weight" else "MFC308", lambda: back(tmp_path / "mf.safetensors", tmp_path / "back", folder))
    assert NAME in str(error)
    report = back(tmp_path / "mf.safetensors", tmp_path / "back", folder, requantise=True)
    changed = {n for n, t in raws_in(tmp_path / "back").items() if t != stored[n]}
    assert changed <= {NAME, f"{NAME}_scale_inv"}
    assert changed
    assert "untouched: 27" in note_of(report, "untouched")


def stacked(folder: Path, rows: int) -> tuple[Path, list[tuple[Array, Array, Array]]]:
    parts = [fp8((RNG.standard_normal((rows, 64)) * 0.02).astype(np.float32), (32, 32)) for _ in range(4)]
    tensors = {f"e.{n}.{end}": p[k] for n, p in enumerate(parts) for k, end in ((0, "weight"), (1, "weight_scale_inv"))}
    return write_hf(folder, as_raws(tensors), {"model_type": "own", **by_blocks(32)}), parts


@pytest.mark.parametrize(
    ("layout", "join"),
    [
        ("out in -> e out in", lambda p, k: np.stack([x[k] for x in p])),
        ("out in -> (e out) in", lambda p, k: np.concatenate([x[k] for x in p])),
        ("out in -> out (e in)", lambda p, k: np.concatenate([x[k] for x in p], axis=1)),
        ("out in -> e in out", lambda p, k: np.stack([x[k].T for x in p])),
    ],
)
def test_scales_follow_the_layout_of_their_weights(layout: str, join: Callable[..., Array], tmp_path: Path) -> None:
    folder, parts = stacked(tmp_path / "q", 64)
    own = mc.rules.Family("own", "", (mc.rules.Rule("e.{e}.weight", "x", layout),), sizes={"e": "4"})
    mc.save(mc.map(mc.load(folder), own), tmp_path / "mf.safetensors", dtype="keep", progress=False)
    assert raws_in(tmp_path / "mf.safetensors") == as_raws({"x": join(parts, 0), "x_scale": join(parts, 1)})
    numbers = np.ascontiguousarray(join([(rounded(p[2]),) for p in parts], 0))
    np.testing.assert_array_equal(arrays_of(tmp_path / "mf.safetensors")["x"].view(np.uint16), numbers.view(np.uint16))


def test_a_layout_that_takes_blocks_apart_is_refused_by_name(tmp_path: Path) -> None:
    folder, _ = stacked(tmp_path / "q", 48)  # the second of them begins inside a block
    own = mc.rules.Family("own", "", (mc.rules.Rule("e.{e}.weight", "x", "out in -> (e out) in"),), sizes={"e": "4"})
    error = refused_with("MFC321", lambda: mc.save(mc.map(mc.load(folder), own), tmp_path / "mf.safetensors", dtype="keep", progress=False))
    assert "'x'" in str(error)
    assert "blocks of 32 x 32 apart" in str(error)
    stack = mc.rules.Family("own", "", (mc.rules.Rule("e.{e}.weight", "x", "out in -> e out in"),), sizes={"e": "4"})
    mc.save(mc.map(mc.load(folder), stack), tmp_path / "mf.safetensors", dtype="keep", progress=False)


def test_blocks_that_are_not_square_are_not_turned(tmp_path: Path) -> None:
    codes, scales, _ = fp8((RNG.standard_normal((64, 64)) * 0.02).astype(np.float32), (16, 32))
    said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 32]}}
    folder = write_hf(tmp_path / "q", as_raws({"a.weight": codes, "a.weight_scale_inv": scales}), {"model_type": "own", **said})
    own = mc.rules.Family("own", "", (mc.rules.Rule("a.weight", "x.weight", "out in -> in out"),), sizes={})
    error = refused_with("MFC321", lambda: mc.save(mc.map(mc.load(folder), own), tmp_path / "o.safetensors", dtype="keep", progress=False))
    assert "blocks of 16 x 32, turned" in str(error)


def test_a_scale_that_is_no_number_is_not_kept_either(tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    scales = stored[f"{NAME}_scale_inv"].array().copy()
    scales[0, 1] = 0
    write_hf(folder, {**stored, **as_raws({f"{NAME}_scale_inv": scales})}, json.loads((folder / "config.json").read_text()))
    for call in (
        lambda: there(folder, tmp_path / "mf.safetensors", dtype="keep"),
        lambda: mc.save(mc.load(folder), tmp_path / "same.safetensors", progress=False),
    ):
        assert f"{NAME}_scale_inv" in str(refused_with("MFC321", call))


def test_codes_are_not_kept_where_mindspore_could_not_load_them_or_there_are_none(tmp_path: Path) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q")
    error = refused_with("MFC405", lambda: there(folder, tmp_path / "mf.ckpt", dtype="keep"))
    assert "_proj" in str(error) or "feed_forward" in str(error) or "attention" in str(error)
    plain = mc.map(mc.toy("llama", dtype="bf16"), "llama")
    refused_with("MFC501", lambda: mc.save(plain, tmp_path / "p.safetensors", dtype="keep", progress=False))
