"""Of a checkpoint the first layers: what they become is a checkpoint of its own, which maps back and which transformers opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.steps.converting.first_layers import config_of_first_layers

WITH_TOYS = [f.key for f in mc.known_families() if f.toy]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("key", WITH_TOYS)
def test_the_first_layers_of_every_family_map_back(key: str, layers: int) -> None:
    toy = mc.toy(key)
    there = mc.map(toy, key, to="mf", layers=layers)
    back = mc.map(there, key, to="hf")
    assert back.tensors.keys() <= toy.tensors.keys()
    assert all(back[name].spec == toy[name].spec for name in back.tensors)
    whole = mc.map(toy, key, to="mf")
    again = mc.map(mc.map(whole, key, to="hf", layers=layers), key, to="mf")
    assert again.tensors.keys() == there.tensors.keys()
    assert mc.map(again, key, to="hf").tensors.keys() == back.tensors.keys()


@pytest.mark.parametrize("key", ["deepseek3", "deepseekv3", "glm4-moe", "telechat3-moe"])
@pytest.mark.parametrize("layers, left", [(1, 0), (3, 0), (4, 1), (50, 1)])
def test_a_layer_behind_the_last_one_counts_only_where_it_is_among_the_first(key: str, layers: int, left: int) -> None:
    there = mc.map(mc.toy(key), key, to="mf", layers=layers)
    config = there.config or {}
    assert config["num_nextn_predict_layers"] == left
    assert config["num_hidden_layers"] == min(3, layers)
    assert any("mtp" in name for name in there.tensors) == bool(left)


def cut(layers: int, **config: Any) -> dict[str, Any]:
    full = {"num_hidden_layers": 4, "inner": {"depth": 3, "layer_types": ["a", "b", "c"]}, **config}
    sentences = {
        "layer": "num_hidden_layers",
        "inner_layer": "inner.depth",
        "next_layers": "more | 0",
        "all_layer": "num_hidden_layers + 1",
    }
    return config_of_first_layers(full, read_sizes(full, sentences), layers)


@pytest.mark.parametrize(
    "key, before, after",
    [
        ("num_hidden_layers", 4, 2),
        ("n_layer", 4, 2),  # another name of the same count
        ("num_layers", 9, 9),  # a count of something else
        ("more", 2, 0),
        ("layer_types", ["x", "y", "x", "y"], ["x", "y"]),
        ("mlp_layer_types", ["dense", "sparse", "sparse", "sparse"], ["dense", "sparse"]),
        ("no_rope_layers", [1, 1, 1, 0], [1, 1]),
        ("mlp_only_layers", [0, 3], [0]),
        ("mlp_only_layers", [], []),
        ("layer_types", ["x"], ["x"]),  # no list that goes by the layers
        ("intermediate_size", [8, 8, 16, 16], [8, 8]),
        ("eos_token_id", [1, 2, 3, 4], [1, 2, 3, 4]),
        ("architectures", ["A", "B", "C", "D"], ["A", "B", "C", "D"]),
        ("vocab_size", 4, 4),
        ("inner", {"depth": 3, "layer_types": ["a", "b", "c"]}, {"depth": 2, "layer_types": ["a", "b"]}),
    ],
)
def test_what_goes_by_the_layers_fits_them(key: str, before: Any, after: Any) -> None:
    assert cut(2, **{key: before})[key] == after


def test_more_layers_than_there_are_change_nothing() -> None:
    config = {"layer_types": ["x", "y", "x", "y"], "mlp_only_layers": [3], "more": 1}
    assert cut(9, **config) == {"num_hidden_layers": 4, "inner": {"depth": 3, "layer_types": ["a", "b", "c"]}, **config}


@pytest.mark.real_frameworks
@pytest.mark.parametrize("key", ["qwen3", "qwen3-moe", "glm4-moe", "deepseek3"])
def test_transformers_opens_the_first_layers(key: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    toy = mc.toy(key)
    kind = type(
        AutoConfig.for_model((toy.config or {})["model_type"], **{k: v for k, v in (toy.config or {}).items() if k != "model_type"})
    )
    full = {**(toy.config or {}), "layer_types": ["full_attention"] * (toy.config or {})["num_hidden_layers"]}
    there = mc.map(toy, key, to="mf", config=full)
    mc.save(mc.map(there, key, to="hf", layers=2), tmp_path / "two", progress=False)
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "two"), kind)
    model, told = AutoModelForCausalLM.from_pretrained(tmp_path / "two", output_loading_info=True, dtype=torch.float32)
    assert model.config.num_hidden_layers == 2
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
