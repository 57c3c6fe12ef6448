"""No config.json claims what its files do not hold, over all families, read by safetensors itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import mfconv_nb as mc
from tests.support import change_config
from tests.toys import arrays_of

Header = dict[str, tuple[tuple[int, ...], str]]
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def headers(folder: Path) -> Header:
    """Shape and dtype of every tensor of a folder, as the safetensors library reads them."""
    found: Header = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "np") as opened:
            found |= {n: (tuple((part := opened.get_slice(n)).get_shape()), part.get_dtype()) for n in opened.keys()}  # noqa: SIM118
    return found


def lies_of(config: dict[str, Any], tensors: Header) -> list[str]:
    """What a config claims that the headers contradict. On its own: nothing of the package is asked."""
    found, names = [], list(tensors)
    numbers = Counter[str]()
    for shape, dtype in tensors.values():
        numbers[dtype] += int(np.prod(shape))
    most = next((TORCH[dtype] for dtype, _ in numbers.most_common() if dtype in TORCH), None)
    found += [key for key in ("dtype", "torch_dtype") if key in config and most and config[key] != most]
    found += [key for key in ("quantization_config", "compression_config") if key in config]
    layers, further = config.get("num_hidden_layers"), config.get("num_nextn_predict_layers")
    counted = {int(n) for name in names for n in re.findall(r"^model\.layers\.(\d+)\.", name)}
    if counted and layers is not None and len(counted) - layers not in (0, further or 0):
        found.append("num_hidden_layers")
    behind = {n for n in counted if n >= layers} | {int(n) for name in names for n in re.findall(r"^mtp\.(\d+)\.", name)}
    if further is not None and further != len(behind):
        found.append("num_nextn_predict_layers")
    for key in ("layer_types", "mlp_layer_types"):
        found += [key] if isinstance(config.get(key), list) and len(config[key]) != layers else []
    vocabulary = config.get("vocab_size")
    embedding = tensors.get("model.embed_tokens.weight")
    if vocabulary is not None and embedding is not None and embedding[0][0] != vocabulary:
        found.append("vocab_size")
    return found


@pytest.mark.parametrize("family", [f.key for f in mc.known_families()])
def test_what_is_written_holds_what_its_config_claims_with_a_config_of_lies_beside_it(family: str, tmp_path: Path) -> None:
    mc.toy(family, tmp_path / "hf", dtype="bf16")
    true = json.loads((tmp_path / "hf" / "config.json").read_text())
    lies = true | {"quantization_config": {"quant_method": "fp8"}, "torch_dtype": "float16"}
    lies |= {"num_nextn_predict_layers": true.get("num_nextn_predict_layers", 0) + 2} if "num_nextn_predict_layers" in true else {}
    (tmp_path / "lies").mkdir()
    (tmp_path / "lies" / "config.json").write_text(json.dumps(lies))
    back = mc.map(mc.map(mc.load(tmp_path / "hf"), family), to="hf")
    mc.save(back, tmp_path / "back", assets=tmp_path / "lies", dtype="fp32")
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    assert lies_of(lies, headers(tmp_path / "back"))
    assert lies_of(said, headers(tmp_path / "back")) == []


CUT = [
    ("llama", {"layer_types": ["full_attention"] * 4}, {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}),
    ("deepseekv3", {}, {"num_hidden_layers": 2, "num_nextn_predict_layers": 0}),
    ("glm4-moe", {}, {"num_hidden_layers": 2, "num_nextn_predict_layers": 0}),
]


@pytest.mark.parametrize(("family", "more", "right"), CUT, ids=[family for family, *_ in CUT])
def test_of_the_first_layers_every_count_and_list_of_the_original_is_cut(
    family: str, more: dict[str, Any], right: dict[str, Any], tmp_path: Path
) -> None:
    mc.toy(family, tmp_path / "hf", dtype="bf16")
    change_config(tmp_path / "hf", **more)
    first = mc.map(mc.load(tmp_path / "hf"), family, layers=2)
    mc.save(mc.map(first, family, to="hf"), tmp_path / "back", assets=tmp_path / "hf")
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: said[key] for key in right} == right
    assert lies_of(said, headers(tmp_path / "back")) == []


def test_layers_that_are_left_out_are_not_promised(tmp_path: Path) -> None:
    mc.toy("deepseekv3", tmp_path / "hf")
    mapped = mc.map(mc.load(tmp_path / "hf"), "deepseekv3", leave_out="model.layers.3.*")
    report = mc.save(mc.map(mapped, to="hf"), tmp_path / "back", assets=tmp_path / "hf")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["num_nextn_predict_layers"] == 0
    assert any("num_nextn_predict_layers 1" in note for note in report.notes)


def test_a_config_that_is_true_of_further_layers_is_not_spoken_of(tmp_path: Path) -> None:
    mc.toy("deepseekv3", tmp_path / "hf")
    report = mc.save(mc.map(mc.map(mc.load(tmp_path / "hf"), "deepseekv3"), to="hf"), tmp_path / "back", assets=tmp_path / "hf")
    assert report.notes == ()
    assert (tmp_path / "back" / "config.json").read_bytes() == (tmp_path / "hf" / "config.json").read_bytes()


def test_tensors_that_the_config_promises_and_the_caller_left_out_are_named(tmp_path: Path) -> None:
    mapped = mc.map(mc.toy("llama", tmp_path / "hf"))
    back = mc.map(mapped, to="hf", leave_out=("*layers.3.feed_forward.w1.weight", "lm_head.weight"))
    report = mc.save(back, tmp_path / "back", assets=tmp_path / "hf")
    assert "config.json promises 2 tensors that are not written; first model.layers.3.mlp.gate_proj.weight" in report.notes


OTHER_MODELS = [
    {"vocab_size": 400},
    {"hidden_size": 128},
    {"num_attention_heads": 12, "head_dim": 10},
    {"num_hidden_layers": 3, "vocab_size": 330},
    {"num_hidden_layers": 3},
]


@pytest.mark.parametrize("knows", [True, False], ids=["sizes known", "sizes from the shapes"])
@pytest.mark.parametrize("other", OTHER_MODELS, ids=str)
def test_the_config_of_another_model_is_refused(other: dict[str, Any], knows: bool, tmp_path: Path) -> None:
    made = mc.toy("llama", tmp_path / "hf")
    mc.save(mc.map(made), tmp_path / "mf.safetensors")
    for file in (tmp_path / "mf.safetensors.mfconv").iterdir():
        file.unlink()
    (tmp_path / "mf.safetensors.mfconv").rmdir()
    mapped = mc.map(mc.load(tmp_path / "mf.safetensors", config=made.config if knows else None), "llama", to="hf")
    change_config(tmp_path / "hf", **other)
    with pytest.raises(mc.MfconvError) as error:
        mc.save(mapped, tmp_path / "back", assets=tmp_path / "hf")
    said = str(error.value)
    if other == {"num_hidden_layers": 3}:
        assert "layer below 3, from num_hidden_layers" in said
    assert said.startswith(f"MFC304 what was given contradicts the config: {tmp_path / 'hf' / 'config.json'}")
    assert "assets=" in said
    assert not (tmp_path / "back").exists()


def test_rows_that_were_added_to_the_vocabulary_are_cut_off_by_the_call_that_the_refusal_names(tmp_path: Path) -> None:
    mc.toy("qwen3", tmp_path / "hf")
    network = dict(arrays_of(mc.map(mc.load(tmp_path / "hf"), "qwen3")))
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        network[name] = np.concatenate([network[name], np.zeros((9, network[name].shape[1]), network[name].dtype)])
    padded = mc.map(mc.load(network, config={**mc.toy("qwen3").config, "vocab_size": 340}), "qwen3", to="hf")
    with pytest.raises(mc.MfconvError) as error:
        mc.save(padded, tmp_path / "back", assets=tmp_path / "hf")
    assert error.value.code == "MFC304"
    assert "--config HF_DIR --cut_vocabulary (config='HF_DIR', cut_vocabulary=True in Python)" in (error.value.hint or "")
    cut = mc.map(mc.load(network, config=tmp_path / "hf"), "qwen3", to="hf", cut_vocabulary=True)
    mc.save(cut, tmp_path / "back", assets=tmp_path / "hf")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["vocab_size"] == 331


def test_a_head_of_its_own_is_not_called_tied_where_no_rule_of_the_family_says_so(tmp_path: Path) -> None:
    mc.toy("deepseek3", tmp_path / "hf")
    change_config(tmp_path / "hf", tie_word_embeddings=True)
    report = mc.save(mc.map(mc.map(mc.load(tmp_path / "hf"), "deepseek3"), to="hf"), tmp_path / "back", assets=tmp_path / "hf")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("'lm_head.weight' and 'model.embed_tokens.weight' differ" in note for note in report.notes)
