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
from tests.real_frameworks.support import llama_config, logits
from tests.support import Raw, raws_in, write_safetensors
from tests.toys import raws_of

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
    transformers.LlamaForCausalLM(llama_config()).save_pretrained(tmp_path / "hf")
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


# ---- what PEFT trains besides the pairs ------------------------------------------------------------------------------------


def trained_by_peft(hf: Path, folder: Path, *, save_embedding_layers: bool | str = "auto", **settings: Any) -> Any:
    """A PEFT model whose trainable numbers were moved, saved; and the model that PEFT merges from that folder."""
    torch.manual_seed(9)
    config = peft.LoraConfig(
        **{"r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    )
    wrapped = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(hf), config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 9)
        if save_embedding_layers is True:
            wrapped.get_input_embeddings().weight.mul_(1.25)
    wrapped.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    plain = transformers.AutoModelForCausalLM.from_pretrained(hf)
    return peft.PeftModel.from_pretrained(plain, folder).merge_and_unload()


SETTINGS: dict[str, dict[str, Any]] = {
    "an embedding saved whole": {"save_embedding_layers": True},
    "an embedding as target": {"target_modules": ["q_proj", "embed_tokens"]},
    "head and embedding as targets": {"target_modules": ["embed_tokens", "lm_head"]},
    "embedding and head trained whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a norm trained whole": {"modules_to_save": ["norm", "input_layernorm"]},
    "rsLoRA": {"use_rslora": True},
    "ranks by pattern": {"rank_pattern": {"v_proj": 2, r"layers\.0\.self_attn\.q_proj": 6}},
    "alphas by pattern": {"alpha_pattern": {"^model.layers.1.self_attn.q_proj": 3, "q_proj": 7.5}},
    "both, and rsLoRA": {"rank_pattern": {".*v_proj": 2}, "alpha_pattern": {"(q|k)_proj": 5}, "use_rslora": True},
    "a pattern that is no layer's end": {"alpha_pattern": {"self_attn": 3, "q": 3, "v_proj": 5}},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "velora": {"velora_config": {"num_groups": 4, "init_type": "random"}},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_whatever_peft_trained_is_merged_as_peft_merges_it(settings: dict[str, Any], hf: Path, tmp_path: Path) -> None:
    expected = trained_by_peft(hf, tmp_path / "peft", **settings).state_dict()
    merged = mc.merge_adapters(hf, tmp_path / "peft")
    before = raws_of(mc.load(hf))
    assert raws_of(merged).keys() == before.keys()
    for name in before:
        np.testing.assert_allclose(mc.read(merged, name), expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
        whole = name in merged.history.merged.replaced and not any(s.adapter.weight == name for s in merged.history.merged.adapters)
        assert not whole or mc.read(merged, name).tobytes() == expected[name].numpy().tobytes()  # no arithmetic: every bit
    changed = {name for name, raw in raws_of(merged).items() if raw != before[name]}
    assert changed == {n for n, t in expected.items() if t.numpy().tobytes() != before[n].data}


def test_a_module_that_the_model_does_not_have_is_passed_over_as_peft_does(hf: Path, tmp_path: Path) -> None:
    """For a classifier PEFT names `classifier` and `score`, and the model has one of them."""
    kept = {"modules_to_save": ["classifier", "lm_head"]}
    expected = trained_by_peft(hf, tmp_path / "peft", **kept).state_dict()
    merged = mc.merge_adapters(hf, tmp_path / "peft")
    assert merged.history.merged.replaced == ("lm_head.weight",)
    assert mc.read(merged, "lm_head.weight").tobytes() == expected["lm_head.weight"].numpy().tobytes()
    for named in (["lm_head", "norm"], ["classifier"]):
        other = tmp_path / "-".join(named)
        trained_by_peft(hf, other, **({"modules_to_save": ["lm_head"]} if "norm" in named else {}))
        config = json.loads((other / "adapter_config.json").read_text(encoding="utf-8")) | {"modules_to_save": named}
        (other / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(mc.MfconvError, match=f"modules_to_save names '{named[-1]}'"):
            mc.merge_adapters(hf, other)


def test_biases_that_were_trained_take_the_place_of_those_of_the_base(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = transformers.Qwen2Config(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path / "hf")
    expected = trained_by_peft(tmp_path / "hf", tmp_path / "peft", bias="all").state_dict()
    merged = mc.merge_adapters(tmp_path / "hf", tmp_path / "peft")
    assert [n for n in merged.history.merged.replaced if n.endswith("q_proj.bias")] == [
        f"model.layers.{n}.self_attn.q_proj.bias" for n in (0, 1)
    ]
    for name in merged.tensors:
        np.testing.assert_allclose(mc.read(merged, name), expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_embedding_trained_whole_in_fp32_is_rounded_once_into_a_base_in_bf16(hf: Path, tmp_path: Path) -> None:
    trained_by_peft(hf, tmp_path / "peft", modules_to_save=["embed_tokens", "lm_head"])
    mc.save(mc.load(hf), tmp_path / "bf16", dtype="bf16", assets=hf)
    expected = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "bf16", dtype="bfloat16")
    expected = peft.PeftModel.from_pretrained(expected, tmp_path / "peft").merge_and_unload().state_dict()
    report = mc.save(mc.merge_adapters(tmp_path / "bf16", tmp_path / "peft"), tmp_path / "out", assets=tmp_path / "bf16")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert raws_in(tmp_path / "out")[name].data == expected[name].view(torch.int16).numpy().tobytes()
    assert "2 taken from the adapters' folder" in report.way_back


INITS = {"pissa": {}, "pissa_niter_2": {}, "olora": {}}


@pytest.mark.parametrize("init", INITS)
def test_an_adapter_that_changed_its_base_is_refused_and_merged_once_peft_made_it_plain(init: str, hf: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=init)
    wrapped = peft.get_peft_model(model_in(hf), config)
    wrapped.peft_config["default"].init_lora_weights = True  # as PEFT's own guide saves the beginning
    wrapped.save_pretrained(tmp_path / "begun")
    wrapped.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) / 9)
    wrapped.save_pretrained(tmp_path / "changed")
    with pytest.raises(mc.MfconvError, match=f"init_lora_weights: {init}") as refused:
        mc.merge_adapters(hf, tmp_path / "changed")
    assert "path_initial_model_for_weight_conversion" in str(refused.value)
    wrapped.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "begun"))
    merged = mc.merge_adapters(hf, tmp_path / "plain")
    expected = wrapped.merge_and_unload().state_dict()
    for name in merged.tensors:
        np.testing.assert_allclose(mc.read(merged, name), expected[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_eva_chooses_ranks_and_beginnings_and_leaves_the_base_as_it_is(hf: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=2.0, use_label_mask=False),
    )  # fmt: skip
    wrapped = peft.get_peft_model(model_in(hf), config)
    batches = [{"input_ids": torch.randint(0, 211, (4, 24)), "attention_mask": torch.ones(4, 24, dtype=torch.long)} for _ in range(8)]
    peft.initialize_lora_eva_weights(wrapped, batches, show_progress_bar=False)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) / 9)
    wrapped.save_pretrained(tmp_path / "peft")
    expected = peft.PeftModel.from_pretrained(model_in(hf), tmp_path / "peft").merge_and_unload().state_dict()
    merged = mc.merge_adapters(hf, tmp_path / "peft")
    assert len({s.adapter.rank for s in merged.history.merged.adapters}) > 1  # EVA gave them ranks of their own, so patterns are in use
    for name in merged.tensors:
        np.testing.assert_allclose(mc.read(merged, name), expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_dump_of_the_whole_peft_model_is_merged_by_itself(hf: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model_in(hf), config)
    with torch.no_grad():
        wrapped.get_parameter("base_model.model.lm_head.modules_to_save.default.weight").mul_(1.5)
    state = wrapped.state_dict()
    torch.save(state, tmp_path / "dump.bin")
    merged = mc.merge_adapters(tmp_path / "dump.bin", alpha=ALPHA)
    expected = wrapped.merge_and_unload().state_dict()
    assert set(merged.tensors) == set(expected)
    for name in merged.tensors:
        np.testing.assert_allclose(mc.read(merged, name), expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    q_proj = "base_model.model.model.layers.0.self_attn.q_proj."
    for more in ("lora_magnitude_vector.default.weight", "lora_A.second.weight", "lora_B.default.bias"):
        with pytest.raises(mc.MfconvError, match="neither of its halves") as refused:
            mc.merge_adapters(state | {q_proj + more: torch.ones(4)}, alpha=ALPHA)
        assert refused.value.code == "MFC319"


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """A small Llama whose head is its embedding."""
    torch.manual_seed(6)
    config = transformers.LlamaConfig(
        vocab_size=67, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


def test_an_embedding_that_is_the_head_too_is_replaced_where_both_were_saved_equal(tied: Path, tmp_path: Path) -> None:
    expected = trained_by_peft(tied, tmp_path / "peft", save_embedding_layers=True).state_dict()
    merged = mc.merge_adapters(tied, tmp_path / "peft")
    mc.save(merged, tmp_path / "out", assets=tied)
    assert "lm_head.weight" not in merged
    assert raws_in(tmp_path / "out")["model.embed_tokens.weight"].data == expected["model.embed_tokens.weight"].numpy().tobytes()


@pytest.mark.parametrize("settings", [{"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_one_of_two_tied_tensors_is_not_changed_alone(settings: dict[str, Any], tied: Path, tmp_path: Path) -> None:
    trained_by_peft(tied, tmp_path / "peft", **settings)
    with pytest.raises(mc.MfconvError, match="embedding and head are one tensor") as refused:
        mc.merge_adapters(tied, tmp_path / "peft")
    assert refused.value.code == "MFC319"


@pytest.mark.parametrize("command", ["merge into MindFormers", "only adapters", "convert"])
def test_a_step_that_cannot_take_what_was_trained_whole_says_its_name(command: str, hf: Path, tmp_path: Path) -> None:
    trained_by_peft(hf, tmp_path / "peft", save_embedding_layers=True)
    calls = {
        "merge into MindFormers": lambda: mc.merge_adapters(mc.map(mc.load(hf), "llama"), tmp_path / "peft"),
        "only adapters": lambda: mc.only_adapters(mc.load(tmp_path / "peft")),
        "convert": lambda: mc.map(mc.load(tmp_path / "peft", config=hf), "llama"),
    }
    with pytest.raises(mc.MfconvError, match=r"base_model\.model\.(lm_head|model\.embed_tokens)\.weight") as refused:
        calls[command]()
    assert refused.value.code == ("MFC303" if command == "convert" else "MFC319")


def test_a_trained_tensor_without_a_place_or_with_another_shape_is_refused(hf: Path, tmp_path: Path) -> None:
    trained_by_peft(hf, tmp_path / "peft", save_embedding_layers=True)
    tensors = {n: raw.array() for n, raw in raws_in(tmp_path / "peft").items()}
    for name, array in {
        "base_model.model.score.weight": np.ones((2, 48), np.float32),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": np.ones(60, np.float32),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias": np.ones(60, np.float32),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_diag": np.ones(RANK, np.float32),
        "base_model.model.lm_head.weight": np.ones((213, 48), np.float32),
    }.items():
        write_safetensors(tmp_path / "peft" / "adapter_model.safetensors", tensors | {name: array})
        with pytest.raises(mc.MfconvError) as refused:
            mc.merge_adapters(hf, tmp_path / "peft")
        assert refused.value.code == "MFC319"
        assert name.removeprefix("base_model.model.").rpartition(".")[0] in str(refused.value)
