"""Adapters of a MindFormers run in the hands of PEFT, and merged weights against what PEFT and MindFormers' own tool compute."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.mindformers_package import mindformers_modules
from tests.support import Raw, raws_in, raws_of, write_safetensors

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.real_frameworks

RANK, ALPHA = 4, 10
MODULES = {
    "attention.wq": (60, 48),
    "attention.wk": (20, 48),
    "attention.wo": (48, 60),
    "feed_forward.w1": (104, 48),
    "feed_forward.w2": (48, 104),
}


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """A small Llama that transformers saved, in fp32."""
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=211, hidden_size=48, intermediate_size=104, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=10, max_position_embeddings=64,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a LoRA run of MindFormers saves, under MindPet's names."""
    rng = np.random.default_rng(1)
    tensors = {}
    for layer in range(3):
        for module, (out, into) in MODULES.items():
            name = f"model.layers.{layer}.{module}.mindpet_delta_lora_"
            tensors[name + "a"] = (rng.normal(size=(RANK, into)) / 7).astype(np.float32)
            tensors[name + "b"] = (rng.normal(size=(out, RANK)) / 7).astype(np.float32)
    mc.save(mc.load(tensors), tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


@pytest.fixture
def adapters(hf: Path, run: Path, tmp_path: Path) -> Path:
    mc.save(mc.map(mc.load(run, config=hf, lora_alpha=ALPHA), "llama", to="hf"), tmp_path / "peft")
    return tmp_path / "peft"


def model_in(folder: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(folder).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.arange(1, 30).reshape(1, -1)).logits


def test_peft_opens_the_folder_and_gives_the_logits_of_the_merged_weights(hf: Path, adapters: Path, tmp_path: Path) -> None:
    plain = logits(model_in(hf))
    wrapped = peft.PeftModel.from_pretrained(model_in(hf), adapters).eval()
    mc.save(mc.merge_adapters(hf, adapters), tmp_path / "merged", assets=hf)
    merged = logits(model_in(tmp_path / "merged"))
    torch.testing.assert_close(merged, logits(wrapped), rtol=1e-4, atol=1e-5)
    assert (logits(wrapped) - plain).abs().max() > 1e-2  # the adapters do something: a folder that is not read would pass too


def test_peft_wraps_exactly_the_layers_that_were_trained_and_leaves_no_half_untouched(hf: Path, adapters: Path) -> None:
    wrapped = peft.PeftModel.from_pretrained(model_in(hf), adapters)
    held = {n.replace(".default", ""): t.detach().numpy() for n, t in wrapped.state_dict().items() if "lora_" in n}
    assert {n: Raw("F32", t.shape, t.tobytes()) for n, t in held.items()} == raws_in(adapters)


def test_merging_is_what_peft_computes_up_to_the_last_bits(hf: Path, adapters: Path) -> None:
    unloaded = peft.PeftModel.from_pretrained(model_in(hf), adapters).merge_and_unload().state_dict()
    merged = mc.merge_adapters(hf, adapters)
    for name in raws_of(mc.load(hf)):
        np.testing.assert_allclose(mc.read(merged, name), unloaded[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_peft_trains_and_saves_becomes_a_file_of_mindformers_and_comes_back_to_the_byte(hf: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    wrapped = peft.get_peft_model(model_in(hf), config)
    wrapped.save_pretrained(tmp_path / "theirs")
    mc.save(mc.map(mc.load(tmp_path / "theirs", config=hf), "llama"), tmp_path / "mf.ckpt")
    names = set(raws_in(tmp_path / "mf.ckpt"))
    assert {n for n in names if "layers.1." in n} == {f"model.layers.1.attention.w{m}.mindpet_delta_lora_{h}" for m in "qv" for h in "ab"}
    mc.save(mc.map(mc.load(tmp_path / "mf.ckpt"), to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws_in(tmp_path / "theirs")
    again = peft.PeftModel.from_pretrained(model_in(hf), tmp_path / "back").eval()
    assert torch.equal(logits(again), logits(wrapped.eval()))


def test_gpt2_whose_weights_are_in_by_out_is_merged_as_peft_does(tmp_path: Path) -> None:
    torch.manual_seed(3)
    base = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=97, n_positions=32, n_embd=24, n_layer=2, n_head=4))
    base.save_pretrained(tmp_path / "hf")
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["c_attn", "c_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(base, config)
    wrapped.save_pretrained(tmp_path / "peft")
    merged = mc.merge_adapters(tmp_path / "hf", tmp_path / "peft")
    expected = wrapped.merge_and_unload().state_dict()
    changed = 0
    for name, raw in raws_of(mc.load(tmp_path / "hf")).items():
        np.testing.assert_allclose(mc.read(merged, name), expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
        changed += raw != raws_of(merged)[name]
    assert changed == 6


def test_merging_is_what_the_tool_of_mindformers_computes_up_to_the_last_bits(hf: Path, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mindspore", reason="mindspore is not installed")
    weights = raws_of(mc.map(mc.load(hf), "llama"))
    write_safetensors(tmp_path / "both.safetensors", weights | raws_in(run), {"format": "ms"})
    stand_ins = {
        "mindformers.tools.logger": {"logger": logging.getLogger(__name__)},
        "mindformers.checkpoint.checkpoint": {"get_checkpoint_path": str},
        "mindformers.checkpoint.metadata": {"get_metadata_of_checkpoint": None},
        "mindformers.checkpoint.reshard": {"ReshardLoader": None},
        "mindformers.checkpoint.sharded_tensor": {"build_sharded_tensor": None},
    }
    with mindformers_modules("mindformers.tools.transform_safetensors_lora", stand_ins=stand_ins) as (tool,):
        theirs = raws_in(Path(tool.merge_lora(str(tmp_path / "both.safetensors"), str(tmp_path / "theirs"), ALPHA)))
    ours = raws_of(mc.merge_adapters(tmp_path / "both.safetensors", alpha=ALPHA))
    assert ours.keys() == theirs.keys()
    for name, raw in theirs.items():
        np.testing.assert_allclose(ours[name].array(), raw.array(), rtol=1e-5, atol=1e-6, err_msg=name)
    assert sum(theirs[name] != weights[name] for name in weights) == 3 * len(MODULES)


def test_a_folder_without_its_alpha_would_give_other_logits(hf: Path, adapters: Path) -> None:
    """Why alpha is asked for: half of it opens as well, and computes something else."""
    right = logits(peft.PeftModel.from_pretrained(model_in(hf), adapters).eval())
    path = adapters / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": ALPHA // 2}))
    wrong = logits(peft.PeftModel.from_pretrained(model_in(hf), adapters).eval())
    assert (right - wrong).abs().max() > 1e-2
