"""Quantised weights that are not read are refused by every sign that there is; codes are never written as weights, whatever is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import OutputError
from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.names import parse_pattern
from mfconv_nb.mapping.quantised import ENDINGS, SUFFIXES, codes_among
from mfconv_nb.mapping.rules import Drop, patterns
from tests.quantised import as_raws, llama_fp8
from tests.support import Array, write_hf
from tests.toys import arrays_of, raws_of, refused_with

FP8 = ml_dtypes.float8_e4m3fn


@pytest.fixture(scope="module")
def toy() -> tuple[dict[str, Array], dict[str, Any]]:
    made = mc.toy("llama", dtype="fp16")
    return arrays_of(made), dict(made.config)


def scaled(dtype: Any, **beside: tuple[Any, Any]) -> Callable[[str, Array], Mapping[str, Array]]:
    """A linear weight as codes of ``dtype``, and beside it what its scheme keeps: suffix to (dtype, shape)."""
    return lambda name, w: {
        name: (w * 8).astype(dtype),
        **{f"{name.removesuffix('weight')}{suffix}": np.ones(shape, of) for suffix, (of, shape) in beside.items()},
    }


COMPRESSED = {"quant_method": "compressed-tensors"}


def packed(name: str, weight: Array) -> Mapping[str, Array]:
    codes = np.ones((weight.shape[0], weight.shape[1] // 8), np.int32)
    return {name + "_packed": codes, name + "_scale": weight[:, :2], name + "_shape": np.ones(2, np.int64)}


def by_codebooks(name: str, weight: Array) -> Mapping[str, Array]:
    return {
        name.replace("weight", "codes"): np.ones((4, 4, 1), np.int16),
        name.replace("weight", "codebooks"): np.ones((1, 256, 1, 8), np.float16),
    }


def nf4(name: str, weight: Array) -> Mapping[str, Array]:
    codes = np.ones((weight.size // 2, 1), np.uint8)
    return {name: codes, name + ".absmax": np.ones(4, np.float32), name + ".quant_map": np.ones(16, np.float32)}


SCHEMES: dict[str, tuple[Callable[[str, Array], Mapping[str, Array]], dict[str, Any]]] = {
    "compressed-tensors int8": (scaled(np.int8, weight_scale=(np.float16, (1,))), COMPRESSED),
    "compressed-tensors int8 by groups": (scaled(np.int8, weight_scale=(ml_dtypes.bfloat16, (4, 4))), COMPRESSED),
    "compressed-tensors int4": (packed, COMPRESSED),
    "NVFP4": (
        scaled(np.uint8, **{"weight_scale": (FP8, (4, 4)), "input_scale": (np.float32, (1,))}, weight_scale_2=(np.float32, (1,))),
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    ),
    "FBGEMM": (scaled(FP8, weight_scale=(np.float32, (4, 1)), input_scale_ub=(np.float32, (1,))), {"quant_method": "fbgemm_fp8"}),
    "EETQ": (scaled(np.int8, weight_scales=(np.float16, (4,))), {"quant_method": "eetq"}),
    "HQQ": (lambda n, w: {n.replace("weight", "W_q"): w.astype(np.uint8), n.replace("weight", "meta"): w[:1]}, {"quant_method": "hqq"}),
    "AQLM": (by_codebooks, {"quant_method": "aqlm"}),
    "quanto": (lambda n, w: {n + "._data": w.astype(np.int8), n + "._scale": w[:, :1]}, {"quant_method": "quanto"}),
    "bitsandbytes int8": (scaled(np.int8, SCB=(np.float32, (4,))), {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "bitsandbytes nf4": (nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "a scheme of tomorrow": (scaled(np.int8, delta=(np.float16, (4,))), {"quant_method": "tomorrow"}),
}  # fmt: skip


def quantised(toy: tuple[dict[str, Array], dict[str, Any]], scheme: str, folder: Path, config: dict[str, Any]) -> Path:
    tensors: dict[str, Array] = {}
    for name, weight in toy[0].items():
        tensors |= SCHEMES[scheme][0](name, weight) if name.endswith("_proj.weight") else {name: weight}
    return write_hf(folder, tensors, toy[1] | config)


def refusal(call: Callable[[], Any]) -> str:
    return str(refused_with("MFC312", call).found)


@pytest.mark.parametrize("said", ["config", "nothing"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_told_with_and_without_its_config_and_with_everything_unknown_left_out(
    scheme: str, said: str, toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path
) -> None:
    folder = quantised(toy, scheme, tmp_path / "q", {"quantization_config": SCHEMES[scheme][1]} if said == "config" else {})
    strangers = [n for n in mc.load(folder).tensors if n not in toy[0]]
    for told in (None, "llama"):
        found = refusal(lambda told=told: mc.map(mc.load(folder), told))
        assert refusal(lambda told=told: mc.map(mc.load(folder), told, leave_out=strangers))
    if said == "config":
        spelled = {"fbgemm_fp8": "FBGEMM", "eetq": "EETQ", "hqq": "HQQ", "aqlm": "AQLM"}
        method = SCHEMES[scheme][1]["quant_method"]
        assert found.startswith(spelled.get(method, method))
    assert "quantised checkpoint" in mc.doctor(folder).what


@pytest.mark.parametrize("dtype", [FP8, np.int16])
def test_codes_whose_scales_are_nowhere_are_codes_where_the_config_says_so(
    dtype: Any, toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path
) -> None:
    tensors = {n: (w * 8).astype(dtype) if n.endswith("_proj.weight") else w for n, w in toy[0].items()}
    write_hf(tmp_path / "q", tensors, toy[1] | {"quantization_config": {"quant_method": "tomorrow"}})
    assert refusal(lambda: mc.map(mc.load(tmp_path / "q"), "llama")).startswith("tomorrow: model.layers.0.")


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "text_config"])
def test_the_scheme_may_stand_under_other_keys(key: str, toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path) -> None:
    method = {"quant_method": "tomorrow"}
    folder = quantised(
        toy, "a scheme of tomorrow", tmp_path / "q", {key: {"quantization_config": method} if key == "text_config" else method}
    )
    assert refusal(lambda: mc.map(mc.load(folder), "llama")).startswith("tomorrow: ")


def test_ascends_own_scheme_is_named_by_the_file_beside_the_weights(toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path) -> None:
    folder = quantised(toy, "a scheme of tomorrow", tmp_path / "q", {})
    (folder / "quant_model_description_w8a8.json").write_text(json.dumps({"model_quant_type": "W8A8"}))
    assert refusal(lambda: mc.map(mc.load(folder), "llama", leave_out="*.delta")).startswith("Ascend's msModelSlim: ")


@pytest.mark.parametrize("beside", [("deq_scale", "quant_bias"), ("w_scale", "input_scale", "input_offset"), ("w_scale", "gmm_bias")])
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_what_mindformers_quantises_for_ascend_is_refused_under_its_own_names(beside: tuple[str, ...], ending: str, tmp_path: Path) -> None:
    toy = mc.toy("qwen3", dtype="fp32")
    tensors = {t.name: mc.read(mapped, t.name) for mapped in [mc.map(toy, "qwen3")] for t in mapped}
    for name in [n for n in tensors if ".linear_" in n]:
        tensors[name] = (tensors[name] * 8).astype(np.int8)
        tensors |= {name.replace("weight", suffix): np.ones(tensors[name].shape[0], np.float32) for suffix in beside}
    mc.save(mc.load(tensors), tmp_path / f"q.{ending}", progress=False)
    strangers = [f"*.{suffix}" for suffix in beside]
    for family in (None, "qwen3"):
        for left_out in ([], strangers):
            assert refusal(
                lambda family=family, left_out=left_out: mc.map(
                    mc.load(tmp_path / f"q.{ending}"), family, to="hf", config=toy.config, leave_out=left_out
                )
            )


@pytest.mark.parametrize("side", ["hf", "mf"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_whole_numbers_under_the_name_of_a_weight_are_no_weights(
    dtype: Any, side: str, toy: tuple[dict[str, Array], dict[str, Any]]
) -> None:
    tensors = toy[0] if side == "hf" else arrays_of(mc.map(mc.load(toy[0], config=toy[1]), "llama"))
    name = next(n for n in tensors if n.endswith(("q_proj.weight", "wq.weight")))
    spoiled = mc.load(tensors | {name: tensors[name].astype(dtype)}, config=toy[1])
    assert name in refusal(lambda: mc.map(spoiled, "llama", to="mf" if side == "hf" else "hf"))


def test_a_leftover_config_beside_plain_weights_is_noted_and_does_not_stop(
    toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path
) -> None:
    write_hf(tmp_path / "hf", toy[0], toy[1] | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    mapped = mc.map(mc.load(tmp_path / "hf"))
    assert any("GPTQ" in note for note in mapped.report.notes)
    assert raws_of(mc.map(mapped, to="hf")) == raws_of(mc.load(tmp_path / "hf"))


def test_fp8_without_scales_that_nothing_calls_quantised_stays_and_is_noted_and_is_no_other_dtype_by_a_word(
    toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path
) -> None:
    tensors = {n: w.astype(FP8) if w.ndim == 2 else w for n, w in toy[0].items()}
    mapped = mc.map(mc.load(tensors, config=toy[1]), "llama", to="mf")
    assert any("fp8 without scales" in note for note in mapped.report.notes)
    with pytest.raises(OutputError, match="MFC405"):  # MindSpore's own reader stumbles on the whole file
        mc.save(mapped, tmp_path / "kept.safetensors")
    mc.save(mc.map(mapped, "llama", to="hf"), tmp_path / "kept.safetensors")
    assert {s.dtype for s in mc.load(tmp_path / "kept.safetensors").specs} == {"F8_E4M3", "F16"}
    assert "fp8" in refusal(lambda: mc.save(mapped, tmp_path / "cast.safetensors", dtype="bf16"))
    assert not (tmp_path / "cast.safetensors").exists()


@pytest.mark.parametrize("ending", [".weight.scale", "_scale", ".s_inv", ".dequant_factor", ".weight_amax", "._extra_state"])
def test_fp8_with_anything_beside_it_is_codes_whatever_that_is_called_or_left_out(
    ending: str, toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path
) -> None:
    tensors = {n: w.astype(FP8) if n.endswith("_proj.weight") else w for n, w in toy[0].items()}
    tensors |= {f"{n.removesuffix('.weight')}{ending}": np.ones(1, np.float32) for n, w in tensors.items() if w.dtype == FP8}
    loaded = mc.load(tensors, config=toy[1])
    for leave_out in ((), (f"*{ending}",)):
        assert "codes with scales" in refusal(lambda leave_out=leave_out: mc.map(loaded, "llama", to="mf", leave_out=leave_out))


def test_weights_and_biases_are_no_scales_of_fp8(toy: tuple[dict[str, Array], dict[str, Any]]) -> None:
    names = ("mlp.gate.weight", "mlp.gate_up.weight", "mlp.gate.e_score_correction_bias", "experts.down_proj", "experts.down_proj_bias")
    specs = [mc.load({n: np.ones((4, 4), FP8 if k in (0, 3) else np.float32)}).specs[0] for k, n in enumerate(names)]
    assert codes_among(specs, "") is None


def test_codes_are_not_cast_beside_their_scales(toy: tuple[dict[str, Array], dict[str, Any]], tmp_path: Path) -> None:
    folder = quantised(toy, "compressed-tensors int8", tmp_path / "q", {})
    assert "int8" in refusal(lambda: mc.save(mc.load(folder), tmp_path / "cast.safetensors", dtype="fp32"))
    mc.save(mc.load(folder), tmp_path / "same.safetensors")
    assert raws_of(mc.load(tmp_path / "same.safetensors")) == raws_of(mc.load(folder))


def test_a_network_in_plain_numbers_may_have_words_of_a_scheme(tmp_path: Path) -> None:
    names = ("attention.W_q", "quantizer.codebooks", "cluster.centroids", "rel_blocks", "x._data")
    plain = write_hf(tmp_path / "hf", {n: np.ones((4, 4), np.float32) for n in names}, {"model_type": "mine"})
    assert "quantised" not in mc.doctor(plain).what
    own = mc.rules.Family("own", "", tuple(mc.rules.Rule(n, f"{n}.mf") for n in names), sizes={})
    assert len(mc.map(mc.load(plain), own)) == len(names)


def test_no_family_has_a_name_that_stands_for_codes() -> None:
    for family in known_families():
        for rule in family.rules:
            sides = (rule.pattern,) if isinstance(rule, Drop) else (rule.hf, rule.mf)
            for text in (p.text for side in sides for p in patterns(side)):
                last = parse_pattern(text).text.rpartition(".")[2]
                assert last not in SUFFIXES, (family.key, text)
                assert not last.endswith(tuple(ENDINGS)), (family.key, text)


def test_what_another_scheme_has_beside_fp8_is_what_the_refusal_names(tmp_path: Path) -> None:
    folder, stored, _ = llama_fp8(tmp_path / "q")
    shifted = "model.layers.1.self_attn.q_proj.weight_zero_point"
    write_hf(
        tmp_path / "z", {**stored, **as_raws({shifted: np.zeros((4, 3), np.float32)})}, json.loads((folder / "config.json").read_text())
    )
    error = refused_with("MFC312", lambda: mc.map(mc.load(tmp_path / "z")))
    assert f"it has {shifted}" in str(error)
