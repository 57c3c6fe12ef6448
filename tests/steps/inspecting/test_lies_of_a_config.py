"""What doctor finds of a config.json that is not true of the files beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.mapping.claims import find_false_claims
from tests.support import change_config, write_hf
from tests.toys import arrays_of

LIES = {
    "quantised": ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config 'fp8'; the weights are not quantised"),
    "dtype": ("llama", {"dtype": "float32"}, "dtype 'float32'; most numbers are bfloat16"),
    "dtype of a few": ("deepseekv3", {"torch_dtype": "float32"}, "torch_dtype 'float32'; most numbers are bfloat16"),
    "more layers": ("llama", {"num_hidden_layers": 6}, "4 in the names; the config says 6"),
    "fewer layers": ("qwen3", {"num_hidden_layers": 1}, "the config says 1"),
    "further layers": ("deepseekv3", {"num_nextn_predict_layers": 2}, "num_nextn_predict_layers '2'; there is 1 such layer"),
    "no further layer": ("deepseekv3", {"num_nextn_predict_layers": 0}, "num_nextn_predict_layers '0'; there is 1 such layer"),
    "tied": ("llama", {"tie_word_embeddings": True}, "ties lm_head.weight to model.embed_tokens.weight, and they hold different numbers"),
    "tied, no rule": ("deepseek3", {"tie_word_embeddings": True}, "ties lm_head.weight to model.embed_tokens.weight"),
    "vocabulary": ("llama", {"vocab_size": 400}, "vocab 400 from vocab_size"),
    "width": ("qwen3", {"hidden_size": 64}, "hidden 64 from hidden_size"),
    "groups": ("llama", {"num_key_value_heads": 1}, "groups 1 from num_key_value_heads"),
    "experts": ("qwen3-moe", {"num_experts": 2}, "from num_experts"),
    "biases": ("llama", {"attention_bias": True}, "self_attn.q_proj.bias: not in the checkpoint"),
    "class": ("llama", {"architectures": ["Qwen2ForCausalLM"]}, "the class 'Qwen2ForCausalLM', which llama does not list"),
    "token": ("llama", {"eos_token_id": [2, 331]}, "eos_token_id '331'; the vocabulary has 331 tokens"),
    "list": ("llama", {"layer_types": ["full_attention"] * 5}, "layer_types '5 entries'; num_hidden_layers is 4"),
}


@pytest.mark.parametrize(("family", "lie", "said"), LIES.values(), ids=LIES.keys())
def test_doctor_finds_what_a_config_says_that_is_not_true(family: str, lie: dict[str, Any], said: str, tmp_path: Path) -> None:
    mc.toy(family, tmp_path / "hf", dtype="bf16")
    shutil.rmtree(tmp_path / "hf.mfconv")  # as a folder that somebody else wrote
    honest = mc.doctor(tmp_path / "hf")
    change_config(tmp_path / "hf", **lie)
    lying = mc.doctor(tmp_path / "hf")
    assert [f.seen for f in lying.findings if f.mark in ("!", "✗") and said in f.seen]
    assert not lying.ready
    assert not [f for f in honest.findings if said in f.seen]


NAMES_OF_MTP = {
    "behind the last layer": "model.layers.4.eh_proj.weight",
    "DeepSeek-V4": "mtp.0.e_proj.weight",
    "MiMo": "model.mtp_layers.0.input_proj.weight",
    "ERNIE 4.5": "model.mtp_block.0.input_layernorm.weight",
    "Qwen3-Next": "mtp.layers.0.input_layernorm.weight",
    "Step 3": "model.mtp.layers.0.norm.weight",
}


def further_layers(claimed: int, *names: str) -> list[str]:
    """What is said of a config that claims a number of layers that predict further tokens, beside four others."""
    specs = [TensorSpec(name, (8, 8), "BF16") for name in (*(f"model.layers.{n}.mlp.up_proj.weight" for n in range(4)), *names)]
    return [claim.held for claim in find_false_claims({"num_hidden_layers": 4, "num_nextn_predict_layers": claimed}, specs)]


@pytest.mark.parametrize("name", NAMES_OF_MTP.values(), ids=NAMES_OF_MTP.keys())
def test_a_layer_that_predicts_further_tokens_is_known_by_each_of_its_names(name: str) -> None:
    assert further_layers(1, name) == []
    assert further_layers(0, name) == further_layers(2, name) == ["there is 1 such layer"]


def test_of_layers_that_cannot_be_counted_nothing_is_claimed() -> None:
    assert further_layers(1, "mtp.fc.weight") == []
    assert further_layers(0, "vision_tower.vision_model.encoder.layers.6.mlp.fc1.weight") == []
    assert further_layers(1, "vision_tower.vision_model.encoder.layers.6.mlp.fc1.weight") == ["there are 0 such layers"]


def test_doctor_says_that_codes_lie_beside_a_config_that_is_silent(tmp_path: Path) -> None:
    made = mc.toy("llama", dtype="bf16")
    tensors = arrays_of(made)
    name = "model.layers.0.mlp.up_proj.weight"
    codes = {name: np.ones(tensors[name].shape, np.int8), name + "_scale": np.ones((tensors[name].shape[0], 1), np.float32)}
    write_hf(tmp_path / "hf", tensors | codes, dict(made.config or {}))
    found = mc.doctor(tmp_path / "hf").findings
    assert [f for f in found if f.mark == "✗" and f.topic == "quantised"]
