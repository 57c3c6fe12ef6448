"""LoRA adapters that were trained in MindFormers, on the way to Hugging Face: under PEFT's names, or refused with the reason.

The reference's own way back is no example here: it forgets a dot (Llama), leaves the module's name (Qwen), or concatenates the adapters
of q, k and v as if they were weights (Baichuan2). So the expected names stand in this file.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from tests.goldens.recipe import case_names, load_case, made_of
from tests.support import Raw, raw_of, raws_in

WORDS = {
    "llama": {
        "tok_embeddings.embedding_weight": "embed_tokens.weight",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "norm_out": "norm",
    },
    "glm-n": {"embedding.embedding_weight": "embedding.word_embeddings.weight"},
    "qwen": {
        "wte.embedding_weight": "wte.weight",
        "transformer.layers": "transformer.h",
        "attention_norm": "ln_1",
        "ffn_norm": "ln_2",
        "attention.wo": "attn.c_proj",
        "feed_forward.w1": "mlp.w1",
        "feed_forward.w2": "mlp.c_proj",
        "feed_forward.w3": "mlp.w2",
    },
}
WORDS["baichuan2"] = WORDS["llama"]
ADAPTER = {kind + end: f"lora_{end.upper()}.weight" for kind in ("tk_delta_lora_", "mindpet_delta_lora_") for end in "ab"}

APART = ["lora-glm-tk-fp16", "lora-llama-mindpet-fp16", "lora-llama-tk-fp16"]
FUSED = {"lora-baichuan2-mindpet-fp16": "W_pack", "lora-baichuan2-tk-fp16": "W_pack", "lora-qwen-mindpet-fp16": "c_attn"}


def written(name: str, folder: Path) -> Path:
    """The MindFormers file of a case, alone, as training leaves it: no config and no manifest beside it."""
    case = load_case(name)
    mc.save(mc.load({n: raw.array() for n, raw in inputs_of(name).items()}), folder / "model.ckpt")
    shutil.rmtree(folder / "model.ckpt.mfconv")
    assert {n: (raw.dtype, raw.shape) for n, raw in raws_in(folder / "model.ckpt").items()} == {
        t.name: ("F16", t.shape) for t in case.ms_input
    }
    return folder / "model.ckpt"


def inputs_of(name: str) -> dict[str, Raw]:
    case = load_case(name)
    return made_of(case.ms_input, case.seed)


def hf_name(name: str, key: str) -> str:
    """The name of a tensor or an adapter on the Hugging Face side, where it is one tensor on both."""
    prefix = "base_model.model." if "_lora_" in name else ""
    for ours, theirs in (WORDS[key] | ADAPTER).items():
        name = name.replace(ours, theirs)
    return prefix + name


def joined(tensors: dict[str, Raw], key: str, fused: str) -> dict[str, Raw]:
    """Tensors under their Hugging Face names, with the weights (and biases) of q, k and v in one."""
    found: dict[str, Raw] = {}
    for name, raw in tensors.items():
        if ".attention.wq." in name:
            whole = np.concatenate([tensors[name.replace(".wq.", part)].array() for part in (".wq.", ".wk.", ".wv.")])
            module = "self_attn" if key == "baichuan2" else "attn"
            found[hf_name(name.replace("attention.wq", f"{module}.{fused}"), key)] = raw_of(whole)
        elif ".attention.wk." not in name and ".attention.wv." not in name:
            found[hf_name(name, key)] = raw
    return found


def test_every_case_with_adapters_is_used() -> None:
    assert sorted([*APART, *FUSED]) == [n for n in case_names() if load_case(n).files is None]
    assert all(any("_lora_" in n for n in inputs_of(name)) for name in [*APART, *FUSED])


@pytest.mark.parametrize("name", APART)
def test_adapters_of_layers_that_are_one_on_both_sides_get_the_names_of_peft_and_keep_their_bytes(name: str, tmp_path: Path) -> None:
    key, tensors = load_case(name).key, inputs_of(name)
    mc.save(mc.map(mc.load(written(name, tmp_path)), key, to="hf"), tmp_path / "back.safetensors")
    back = raws_in(tmp_path / "back.safetensors")
    assert back == {hf_name(n, key): raw for n, raw in tensors.items()}
    adapters = {n for n in back if "lora" in n}
    assert len(adapters) == sum("_lora_" in n for n in tensors)
    for adapter in adapters:
        module, _, end = adapter.partition(".lora_")
        assert end in ("A.weight", "B.weight")
        assert f"{module.removeprefix('base_model.model.')}.weight" in back


@pytest.mark.parametrize("name", APART)
def test_of_an_adapter_the_first_is_rank_by_in_and_the_second_out_by_rank(name: str, tmp_path: Path) -> None:
    shapes = {s.name: s.shape for s in mc.map(mc.load(written(name, tmp_path)), load_case(name).key, to="hf").specs}
    for adapter, shape in shapes.items():
        if ".lora_A." in adapter:
            out, into = shapes[adapter.replace("lora_A.", "").removeprefix("base_model.model.")]
            assert (shape, shapes[adapter.replace("lora_A", "lora_B")]) == ((4, into), (out, 4))


@pytest.mark.parametrize("name, fused", FUSED.items())
def test_adapters_of_parts_of_a_fused_layer_are_refused_with_the_reason_and_a_way_out(name: str, fused: str, tmp_path: Path) -> None:
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(written(name, tmp_path)), load_case(name).key, to="hf")
    text = str(refused.value)
    assert refused.value.code == "MFC303"
    assert fused in text
    assert "merge" in text.partition("hint")[2]
    assert "leave_out" in text.partition("hint")[2]
    problems = getattr(refused.value, "problems", ())
    assert {p.name for p in problems} == {n for n in inputs_of(name) if "_lora_" in n}
    assert {p.kind for p in problems} == {"adapter"}


@pytest.mark.parametrize("name, fused", FUSED.items())
def test_without_its_adapters_a_fused_model_is_carried_and_the_report_lists_what_was_left_out(
    name: str, fused: str, tmp_path: Path
) -> None:
    key, tensors = load_case(name).key, inputs_of(name)
    mapped = mc.map(mc.load(written(name, tmp_path)), key, to="hf", leave_out="*_lora_*")
    adapters = {n for n in tensors if "_lora_" in n}
    left_out = {spec.name for row in mapped.report.plan.rows if row.status == "left out" for spec in row.sources}
    assert left_out == adapters
    assert mapped.report.counts["left out"] == len(adapters)
    assert "left out" in repr(mapped.report)
    mc.save(mapped, tmp_path / "back")
    assert raws_in(tmp_path / "back") == joined({n: raw for n, raw in tensors.items() if n not in adapters}, key, fused)
