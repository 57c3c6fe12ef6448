"""LoRA runs: adapters to a PEFT folder and back, and merged into their weights. What is not said is asked for, never assumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Equality
from mfconv_nb.streaming.merged import MergedSource
from tests.support import raw_of, raws_in, write_hf, write_safetensors
from tests.toys import arrays_of, raws_of, refused_with

RANK, ALPHA = 8, 12
LAYERS = 4
STYLES = {"mindpet": "mindpet_delta_lora_{}", "tk": "tk_delta_lora_{}", "lora": "lora_{}"}
MODULES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w2": "mlp.down_proj",
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A small Llama in fp32, where all sizes differ."""
    mc.toy("llama", tmp_path / "hf", dtype="fp32")
    return tmp_path / "hf"


def run_yaml(path: Path, config: dict[str, Any], **pet: object) -> Path:
    """The YAML of a LoRA run, with the names that MindFormers' own run files have."""
    lora = {
        "pet_type": "lora",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.05,
        "target_modules": "'.*wq|.*wk|.*wv|.*wo'",
    } | pet
    lines = "".join(f"      {key}: {value}\n" for key, value in lora.items() if value is not None)
    path.write_text(
        "seed: 0\ntrain_dataset: &train_dataset\n  batch_size: 4\ntrain_dataset_task:\n  dataset_config: *train_dataset\n"
        "model:\n  model_config:\n    type: LlamaConfig\n"
        f"    hidden_size: {config['hidden_size']}\n    num_layers: {config['num_hidden_layers']}\n"
        f"    num_heads: {config['num_attention_heads']}\n    n_kv_heads: {config['num_key_value_heads']}\n"
        f"    head_dim: {config['head_dim']}\n    vocab_size: {config['vocab_size']}\n"
        f'    intermediate_size: {config["intermediate_size"]}\n    extend_method: "None"\n    pet_config:\n{lines}'
        "  arch:\n    type: LlamaForCausalLM\n"
    )
    return path


def trained(base: Path, style: str = "mindpet", modules: tuple[str, ...] = tuple(MODULES), rank: int = RANK) -> dict[str, np.ndarray]:
    """The adapters that a run would have trained, under MindFormers' names: A is rank x in, B is out x rank, as MindPet has them."""
    rng = np.random.default_rng(11)
    found = {}
    for layer in range(LAYERS):
        for module in modules:
            name = f"model.layers.{layer}.{module}"
            out, into = mc.map(mc.load(base), "llama")[f"{name}.weight"].shape
            found[f"{name}.{STYLES[style].format('a')}"] = rng.normal(size=(rank, into)).astype(np.float32)
            found[f"{name}.{STYLES[style].format('b')}"] = rng.normal(size=(out, rank)).astype(np.float32)
    return found


def saved_run(base: Path, path: Path, **more: Any) -> Path:
    """What a LoRA run saves: a MindSpore file with adapters only, and no folder of ours beside it."""
    mc.save(mc.load(trained(base, **more)), path)
    shutil.rmtree(path.with_name(path.name + ".mfconv"))
    return path


def config_in(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


# ---- to PEFT and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_a_run_becomes_a_peft_folder_and_comes_back_to_the_byte(style: str, base: Path, tmp_path: Path) -> None:
    source = saved_run(base, tmp_path / "run.ckpt", style=style)
    yaml = run_yaml(tmp_path / "run.yaml", config_in(base))
    mc.save(mc.map(mc.load(source, config=yaml), "llama", to="hf"), tmp_path / "peft")
    assert sorted(p.name for p in (tmp_path / "peft").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = raws_in(tmp_path / "peft")
    for name, raw in raws_in(source).items():
        for ours, theirs in MODULES.items():
            name = name.replace(ours, theirs)
        for half in "ab":
            name = name.replace(STYLES[style].format(half), f"lora_{half.upper()}.weight")
        assert tensors.pop("base_model.model." + name) == raw
    assert not tensors
    shutil.rmtree(tmp_path / "peft.mfconv")  # as a folder from elsewhere: nothing of ours beside it
    back = mc.map(mc.load(tmp_path / "peft", config=base), "llama", adapters=style)
    mc.save(back, tmp_path / "back.ckpt")
    assert raws_in(tmp_path / "back.ckpt") == raws_in(source)


def test_the_config_says_what_the_tensors_and_the_run_say(base: Path, tmp_path: Path) -> None:
    source = saved_run(base, tmp_path / "run.ckpt")
    yaml = run_yaml(tmp_path / "run.yaml", config_in(base))
    mc.save(mc.map(mc.load(source, config=yaml), "llama", to="hf"), tmp_path / "peft")
    said = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (said["peft_type"], said["r"], said["lora_alpha"], said["lora_dropout"]) == ("LORA", RANK, ALPHA, 0.05)
    assert said["target_modules"] == sorted(f"model.layers.{n}.{module}" for n in range(LAYERS) for module in MODULES.values())
    assert said["base_model_name_or_path"] is None


def test_the_manifest_remembers_alpha_and_how_the_run_named_its_adapters(base: Path, tmp_path: Path) -> None:
    source = saved_run(base, tmp_path / "run.ckpt", style="tk")
    mapped = mc.map(mc.load(source, config=base, lora_alpha=ALPHA), "llama", to="hf")
    mc.save(mapped, tmp_path / "peft.safetensors")
    again = mc.load(tmp_path / "peft.safetensors")
    assert (again.history.lora.alpha, again.history.lora.origin) == (ALPHA, "the manifest")
    assert "LoRA: alpha 12, from the manifest" in repr(again)
    assert set(mc.map(again, "llama").tensors) == set(trained(base, "tk"))
    assert mc.verify(source, tmp_path / "peft.safetensors").equal


def test_what_peft_wrote_keeps_its_other_settings_on_the_way_through(base: Path, tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(saved_run(base, tmp_path / "run.ckpt"), config=base, lora_alpha=ALPHA), "llama", to="hf"), tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "some/base", "revision": "main"}))
    mc.save(mc.load(tmp_path / "peft"), tmp_path / "copy")
    said = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["revision"], said["lora_alpha"]) == ("some/base", "main", ALPHA)


def test_mindformers_names_for_nothing_are_no_names(base: Path, tmp_path: Path) -> None:
    source = saved_run(base, tmp_path / "run.ckpt")
    beside = {
        "base_model_name_or_path": "none",
        "bias": "none",
        "lora_alpha": 24,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": [".*wq"],
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(beside))  # as MindFormers 2.1.0 writes it beside a run
    mc.save(mc.map(mc.load(source, config=base), "llama", to="hf"), tmp_path / "peft")
    said = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (said["lora_alpha"], said["base_model_name_or_path"], said["bias"]) == (24, None, "none")
    assert ".*wq" not in said["target_modules"]


# ---- what is refused -----------------------------------------------------------------------------------------------------


def refusal(call: Callable[[], Any]) -> str:
    return str(refused_with("MFC319", call))


def test_without_alpha_no_folder_is_written_and_the_message_says_where_it_stands(base: Path, tmp_path: Path) -> None:
    mapped = mc.map(mc.load(saved_run(base, tmp_path / "run.ckpt"), config=base), "llama", to="hf")
    text = refusal(lambda: mc.save(mapped, tmp_path / "peft"))
    assert "no lora_alpha" in text
    assert "pet_config.lora_alpha" in text
    assert "--lora_alpha" in text
    assert not (tmp_path / "peft").exists()


def test_a_run_file_without_alpha_is_not_completed_by_a_default(base: Path, tmp_path: Path) -> None:
    yaml = run_yaml(tmp_path / "run.yaml", config_in(base), lora_alpha=None)
    mapped = mc.map(mc.load(saved_run(base, tmp_path / "run.ckpt"), config=yaml), "llama", to="hf")
    assert "no lora_alpha" in refusal(lambda: mc.save(mapped, tmp_path / "peft"))


def test_a_rank_that_the_tensors_do_not_have_is_refused(base: Path, tmp_path: Path) -> None:
    yaml = run_yaml(tmp_path / "run.yaml", config_in(base), lora_rank=16)
    source = saved_run(base, tmp_path / "run.ckpt")
    mapped = mc.map(mc.load(source, config=yaml), "llama", to="hf")
    text = refusal(lambda: mc.save(mapped, tmp_path / "peft"))
    assert "8 in the tensors" in text
    assert "16, as the config says" in text
    assert "8 in the tensors" in refusal(lambda: mc.merge_adapters(base, source, config=yaml))


def test_two_alphas_are_refused(base: Path, tmp_path: Path) -> None:
    source, yaml = saved_run(base, tmp_path / "run.ckpt"), run_yaml(tmp_path / "run.yaml", config_in(base))
    text = refusal(lambda: mc.load(source, config=yaml, lora_alpha=16))
    assert "12 in run.yaml" in text
    assert "16 in the call" in text


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), "16", True])
def test_an_alpha_that_is_no_number_above_zero_is_refused(alpha: Any, base: Path, tmp_path: Path) -> None:
    source = saved_run(base, tmp_path / "run.ckpt")
    assert "a number above 0" in refusal(lambda: mc.load(source, lora_alpha=alpha))


def peft_folder(base: Path, tmp_path: Path, **said: Any) -> Path:
    """A PEFT folder of ``trained`` whose config says more."""
    mc.save(mc.map(mc.load(saved_run(base, tmp_path / "run.ckpt"), config=base, lora_alpha=ALPHA), "llama", to="hf"), tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    return tmp_path / "peft"


ONLY_MERGED = [
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 4}},
    {"alpha_pattern": {"q_proj": 4}},
    {"bias": "all"},
    {"modules_to_save": ["lm_head"]},
]
NEVER = [
    {"use_dora": True},
    {"peft_type": "IA3"},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_16"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "loftq"},
    {"init_lora_weights": "corda"},
    {"init_lora_weights": "lora_ga"},
    {"init_lora_weights": 1},
    {"lora_bias": True},
    {"target_parameters": ["experts.down_proj"]},
    {"trainable_token_indices": [3]},
    {"layer_replication": [[0, 2], [1, 3]]},
    {"kasa_config": {"beta": 0.1}},
    {"ensure_weight_tying": True},
    {"a_setting_of_tomorrow": "on"},
    {"a_number_of_tomorrow": 0},
]


@pytest.mark.parametrize("said", [*ONLY_MERGED, *NEVER], ids=lambda said: "-".join(map(str, next(iter(said.items())))))
def test_what_plain_lora_cannot_say_is_refused_and_not_taken_for_it(said: dict[str, Any], base: Path, tmp_path: Path) -> None:
    peft_folder(base, tmp_path, **said)
    if said in NEVER:
        assert next(iter(said)) in refusal(lambda: mc.merge_adapters(base, tmp_path / "peft"))
    looked_at = mc.load(tmp_path / "peft", config=base)
    assert len(looked_at) == len(trained(base))  # a folder can be looked at, whatever it holds
    assert f"no plain LoRA: {next(iter(said))}" in repr(looked_at)
    assert next(iter(said)) in refusal(lambda: mc.map(looked_at, "llama"))
    assert next(iter(said)) in refusal(lambda: mc.save(looked_at, tmp_path / "copy"))


@pytest.mark.parametrize(
    "said",
    [
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"init_lora_weights": "mica"},
        {"init_lora_weights": False},
        {"velora_config": {"num_groups": 4}},
        {"revision": "main", "task_type": "CAUSAL_LM", "peft_version": "0.21.2"},
        {"a_setting_of_tomorrow": None, "another": False, "a_list": [], "a_mapping": {}},
    ],
    ids=lambda said: str(next(iter(said.values()))),
)
def test_settings_that_leave_base_and_scale_as_they_are_change_nothing(said: dict[str, Any], base: Path, tmp_path: Path) -> None:
    folder = peft_folder(base, tmp_path, **said)
    assert raws_of(mc.merge_adapters(base, folder)) == raws_of(mc.merge_adapters(base, tmp_path / "run.ckpt", alpha=ALPHA))


HOSTILE = {
    "patterns that are a list": '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "alpha_pattern": ["q_proj"]}',
    "a pattern that never ends": '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "alpha_pattern": {"(.*)*(.*)*(.*)*x": 2}}',
    "a pattern without a number": '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "alpha_pattern": {"q_proj": "2"}}',
    "a rank by pattern that is no rank": '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": -8}}',
    "modules that are numbers": '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "modules_to_save": [3]}',
    "modules that are a number": '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "modules_to_save": 3}',
    "a list": "[]",
    "broken": '{"r": ',
    "deep": "[" * 100_000,
    "a rank that is text": '{"peft_type": "LORA", "r": "8", "lora_alpha": 16}',
    "a huge rank": '{"peft_type": "LORA", "r": 1e400, "lora_alpha": 16}',
    "no alpha": '{"peft_type": "LORA", "r": 8}',
    "an alpha of nothing": '{"peft_type": "LORA", "r": 8, "lora_alpha": 0}',
    "an alpha that is no number": '{"peft_type": "LORA", "r": 8, "lora_alpha": NaN}',
    "a method that is a list": '{"peft_type": ["LORA"], "r": 8, "lora_alpha": 16}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_config_that_cannot_be_is_refused_and_nothing_is_merged(text: str, base: Path, tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(saved_run(base, tmp_path / "run.ckpt"), config=base, lora_alpha=ALPHA), "llama", to="hf"), tmp_path / "peft")
    shutil.rmtree(tmp_path / "peft.mfconv")
    (tmp_path / "peft" / "adapter_config.json").write_text(text)
    with pytest.raises(mc.MfconvError) as refused:
        mc.merge_adapters(base, tmp_path / "peft")
    assert refused.value.code in ("MFC106", "MFC319")


def test_a_folder_of_torch_is_opened_too(base: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    mc.save(mc.map(mc.load(saved_run(base, tmp_path / "run.ckpt"), config=base, lora_alpha=ALPHA), "llama", to="hf"), tmp_path / "peft")
    (tmp_path / "old").mkdir()
    held = {n: torch.from_numpy(raw.array().copy()) for n, raw in raws_in(tmp_path / "peft").items()}
    torch.save(held, tmp_path / "old" / "adapter_model.bin")
    shutil.copy(tmp_path / "peft" / "adapter_config.json", tmp_path / "old")
    assert raws_of(mc.merge_adapters(base, tmp_path / "old")) == raws_of(mc.merge_adapters(base, tmp_path / "peft"))


@pytest.mark.parametrize("half", "ab")
def test_half_an_adapter_is_refused(half: str, base: Path) -> None:
    tensors = trained(base)
    name = f"model.layers.1.attention.wq.mindpet_delta_lora_{half}"
    del tensors[name]
    assert "model.layers.1.attention.wq" in refusal(lambda: mc.merge_adapters(base, tensors, alpha=ALPHA))


def test_adapters_of_another_model_are_refused(base: Path) -> None:
    tensors = trained(base)
    wrong = {n: a[:, :-1] if "attention.wq" in n and n.endswith("_a") else a for n, a in tensors.items()}
    with pytest.raises(mc.MfconvError, match=r"MFC303|MFC319"):
        mc.merge_adapters(base, wrong, alpha=ALPHA)


def test_a_folder_of_hugging_face_holds_a_model_or_adapters(base: Path, tmp_path: Path) -> None:
    both = arrays_of(mc.map(mc.load(base), "llama")) | trained(base)
    mapped = mc.map(mc.load(both, config=base, lora_alpha=ALPHA), "llama", to="hf")
    text = refusal(lambda: mc.save(mapped, tmp_path / "out"))
    assert "39 tensors of the model" in text
    mc.save(mc.only_adapters(mapped), tmp_path / "adapters")
    assert len(raws_in(tmp_path / "adapters")) == len(trained(base))
    model = mc.map(mc.load(both, config=base), "llama", to="hf", leave_out="*_lora_*")
    mc.save(model, tmp_path / "model")
    assert raws_in(tmp_path / "model") == raws_in(base)


# ---- layers that are joined on one side ----------------------------------------------------------------------------------


def joined(base: Path, form: Any) -> dict[str, np.ndarray]:
    """Adapters of the joined matrix of q, k and v, as a run on a concatenated model trains them."""
    rng = np.random.default_rng(5)
    shape = mc.map(mc.load(base), "llama", qkv_concat=form)["model.layers.0.attention.w_qkv.weight"].shape
    name = "model.layers.{}.attention.w_qkv.mindpet_delta_lora_{}"
    found = {}
    for layer in range(LAYERS):
        found[name.format(layer, "a")] = rng.normal(size=(RANK, shape[1])).astype(np.float32)
        found[name.format(layer, "b")] = rng.normal(size=(shape[0], RANK)).astype(np.float32)
    return found


@pytest.mark.parametrize("form", [True, "grouped"])
def test_an_adapter_of_joined_rows_is_cut_by_rows_and_adds_the_same(form: Any, base: Path, tmp_path: Path) -> None:
    tensors = joined(base, form)
    mapped = mc.map(mc.load(tensors, config=base, lora_alpha=ALPHA), "llama", to="hf", qkv_concat=form)
    mc.save(mapped, tmp_path / "peft")
    a = "base_model.model.model.layers.2.self_attn.{}_proj.lora_A.weight"
    assert len({raws_in(tmp_path / "peft")[a.format(part)].data for part in "qkv"}) == 1
    there = mc.map(mc.merge_adapters(mc.map(mc.load(base), "llama", qkv_concat=form), tensors, alpha=ALPHA), to="hf")
    assert raws_of(there) == raws_of(mc.merge_adapters(base, tmp_path / "peft"))
    shutil.rmtree(tmp_path / "peft.mfconv")
    back = mc.map(mc.load(tmp_path / "peft", config=base), "llama", qkv_concat=form)
    assert raws_of(back) == {n: raw_of(t) for n, t in tensors.items()}


def test_adapters_with_an_a_of_their_own_are_not_joined(base: Path, tmp_path: Path) -> None:
    modules = ("attention.wq", "attention.wk", "attention.wv")
    tensors = trained(base, modules=modules)
    peft = mc.map(mc.load(tensors, config=base, lora_alpha=ALPHA), "llama", to="hf")
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(mc.map(peft, "llama", to="mf", qkv_concat=True), tmp_path / "joined.ckpt")
    assert refused.value.code == "MFC308"


# ---- merging -------------------------------------------------------------------------------------------------------------


def by_hand(weight: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """The definition, a step a line, in float32."""
    total = np.zeros(weight.shape, np.float32)
    for k in range(a.shape[0]):
        total = total + np.outer(b[:, k].astype(np.float32), a[k].astype(np.float32))
    return (weight.astype(np.float32) + np.float32(scale) * total).astype(weight.dtype)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_merged_weights_are_those_of_the_definition_and_the_others_keep_their_bytes(dtype: str, tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "hf", dtype=dtype)
    tensors = trained(tmp_path / "hf")
    weights = mc.map(mc.load(tmp_path / "hf"), "llama")
    merged = mc.merge_adapters(weights, tensors, alpha=ALPHA)
    mc.save(merged, tmp_path / "merged.ckpt")
    after, changed = raws_in(tmp_path / "merged.ckpt"), 0
    for name, before in raws_of(weights).items():
        stem = name.removesuffix("weight") + "mindpet_delta_lora_"
        if stem + "a" in tensors:
            expected = by_hand(before.array(), tensors[stem + "a"], tensors[stem + "b"], ALPHA / RANK)
            assert after[name] == raw_of(expected), name
            assert after[name] != before
            changed += 1
        else:
            assert after[name] == before, name
    assert changed == LAYERS * len(MODULES) == len(merged.history.merged.adapters)
    assert after.keys() == raws_of(weights).keys()


def test_the_report_and_the_manifest_say_what_was_changed_and_do_not_call_it_exact(base: Path, tmp_path: Path) -> None:
    source, yaml = saved_run(base, tmp_path / "run.ckpt"), run_yaml(tmp_path / "run.yaml", config_in(base))
    merged = mc.merge_adapters(base, source, config=yaml)
    report = mc.save(merged, tmp_path / "merged", assets=base)
    assert (merged.history.merged.scale, merged.history.merged.read_from) == (1.5, "run.yaml")
    assert "16 weights changed by 1.5 * B A (alpha 12 from run.yaml, rank 8 from the tensors)" in repr(report)
    assert "exact" not in report.way_back
    manifest = json.loads(report.manifest.read_text())
    assert manifest["merged"]["scale"] == 1.5
    assert manifest["merged"]["read_from"] == "run.yaml"
    computed = {t["name"]: t.get("computed") for t in manifest["tensors"]}
    assert {n for n, how in computed.items() if how} == {f"model.layers.{n}.{m}.weight" for n in range(LAYERS) for m in MODULES.values()}
    assert "run.ckpt" in {s["file"] for s in manifest["sources"]}
    assert mc.verify(tmp_path / "merged").equal  # its bytes are what was written
    assert not mc.verify(base, mc.map(mc.load(tmp_path / "merged"), "llama", to="mf")).equal  # and not those of the base


def test_a_run_that_saved_weights_and_adapters_is_merged_by_itself(base: Path, tmp_path: Path) -> None:
    weights = mc.map(mc.load(base), "llama")
    both = arrays_of(weights) | trained(base)
    alone = mc.merge_adapters(both, alpha=ALPHA)
    assert raws_of(alone) == raws_of(mc.merge_adapters(weights, trained(base), alpha=ALPHA))
    assert not any("lora" in n for n in alone.tensors)


@pytest.mark.parametrize("side", ["hf", "mf"])
def test_the_frozen_weights_of_a_run_must_be_those_of_the_base(side: str, base: Path, tmp_path: Path) -> None:
    weights = mc.map(mc.load(base), "llama")
    run = arrays_of(weights) | trained(base) | {"adam_m.x": np.ones(3, np.float32)}
    onto = base if side == "hf" else weights
    same = mc.merge_adapters(onto, run, alpha=ALPHA, family="llama")
    assert raws_of(same) == raws_of(mc.merge_adapters(onto, trained(base), alpha=ALPHA, family="llama"))
    mc.save(same, tmp_path / "same.safetensors")
    name = "model.layers.1.attention.wk.weight"
    moved = mc.merge_adapters(onto, run | {name: run[name] + 1}, alpha=ALPHA, family="llama")
    with pytest.raises(mc.MfconvError, match="merge it by itself") as refused:
        mc.save(moved, tmp_path / "moved.safetensors")
    assert refused.value.code == "MFC308"
    narrow = run | {name: run[name].astype(np.float16)}
    assert name.replace("attention.wk", "self_attn.k_proj" if side == "hf" else "attention.wk") in refusal(
        lambda: mc.merge_adapters(onto, narrow, alpha=ALPHA, family="llama")
    )


def test_copies_of_an_adapter_that_a_run_must_hold_equal_are_compared_before_it_is_merged(base: Path, tmp_path: Path) -> None:
    run = mc.load(trained(base))
    one, other = (run[f"model.layers.{n}.attention.wq.mindpet_delta_lora_a"] for n in (0, 1))
    copies = replace(run, history=replace(run.history, equalities=(Equality(one, other, "two ranks hold it"),)))
    with pytest.raises(mc.MfconvError, match="two ranks hold it") as refused:
        mc.save(mc.merge_adapters(base, copies, alpha=ALPHA, family="llama"), tmp_path / "out.safetensors")
    assert refused.value.code == "MFC308"


def test_only_adapters_says_what_it_leaves_out(base: Path) -> None:
    weights = mc.map(mc.load(base), "llama")
    run = arrays_of(weights) | trained(base) | {"adam_m.x": np.ones(3, np.float32)}
    (note,) = mc.only_adapters(mc.load(run)).notes
    assert note.startswith("only adapters are taken; left out: 39 other tensors, first ")
    assert mc.only_adapters(mc.load(trained(base))).notes == ()


def test_a_linear_layer_is_out_by_in_whatever_the_config_of_its_adapter_says(base: Path, tmp_path: Path) -> None:
    folder = peft_folder(base, tmp_path, fan_in_fan_out=True)  # PEFT warns, and takes it for false too
    assert raws_of(mc.merge_adapters(base, folder)) == raws_of(mc.merge_adapters(base, tmp_path / "run.ckpt", alpha=ALPHA))


def test_a_rank_by_pattern_that_the_tensors_do_not_have_is_refused(base: Path, tmp_path: Path) -> None:
    text = refusal(lambda: mc.merge_adapters(base, peft_folder(base, tmp_path, rank_pattern={"v_proj": 4})))
    assert "8 in the tensors" in text
    assert "4, as rank_pattern says" in text


def test_both_sides_merge_to_the_same_bytes(base: Path) -> None:
    here = mc.merge_adapters(base, trained(base), alpha=ALPHA, family="llama")
    there = mc.merge_adapters(mc.map(mc.load(base), "llama"), trained(base), alpha=ALPHA)
    assert raws_of(here) == raws_of(mc.map(there, to="hf"))


def test_adapters_of_a_layer_that_hugging_face_joins_are_merged_on_their_own_side(tmp_path: Path) -> None:
    mc.toy("baichuan2", tmp_path / "hf", dtype="fp32")
    weights = mc.map(mc.load(tmp_path / "hf"))
    name = "model.layers.0.attention.wk."
    shape, rng = weights[name + "weight"].shape, np.random.default_rng(3)
    a, b = rng.normal(size=(4, shape[1])).astype(np.float32), rng.normal(size=(shape[0], 4)).astype(np.float32)
    tensors = {name + "mindpet_delta_lora_a": a, name + "mindpet_delta_lora_b": b}
    with pytest.raises(mc.MfconvError, match="W_pack") as refused:
        mc.map(mc.load(tensors, config=tmp_path / "hf"), "baichuan2", to="hf")
    assert "mfconv merge" in str(refused.value)
    back = mc.map(mc.merge_adapters(weights, tensors, alpha=8), to="hf")
    rows = mc.read(weights, "model.layers.0.attention.wq.weight").shape[0]
    whole, before = (mc.read(c, "model.layers.0.self_attn.W_pack.weight") for c in (back, mc.load(tmp_path / "hf")))
    expected = before.copy()
    expected[rows : rows + shape[0]] = by_hand(before[rows : rows + shape[0]], a, b, 2.0)
    np.testing.assert_array_equal(whole, expected)


def test_rows_are_computed_a_panel_at_a_time_and_any_range_of_bytes_is_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight, a, b = (rng.normal(size=s).astype(np.float32) for s in ((701, 1025), (3, 1025), (701, 3)))
    merged = mc.merge_adapters({"x.weight": weight}, {"x.lora_a": a, "x.lora_b": b}, alpha=6)
    source = merged["x.weight"].pieces[0].source
    assert isinstance(source, MergedSource)
    whole = by_hand(weight, a, b, 2.0).tobytes()
    for start, size in ((0, len(whole)), (1, 5), (4099, 4102), (len(whole) - 3, 3), (700_001, 2_100_001)):
        size = min(size, len(whole) - start)
        buffer = bytearray(size)
        source.read_into(start, memoryview(buffer))
        assert bytes(buffer) == whole[start : start + size], (start, size)


@pytest.mark.parametrize("form", ["transposed", "cast"])
def test_a_merged_weight_may_be_transposed_and_cast_on_its_way(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight, a, b = (rng.normal(size=s).astype(np.float32) for s in ((37, 53), (3, 53), (37, 3)))
    merged = mc.merge_adapters({"x.weight": weight}, {"x.lora_a": a, "x.lora_b": b}, alpha=6)
    turned = mc.rules.Family(
        "turned", "", (mc.rules.Rule("x.weight", "x.weight", "out in -> in out" if form == "transposed" else None),), sizes={}
    )
    mc.save(mc.map(merged, turned, to="mf"), tmp_path / "x.safetensors", dtype="fp16" if form == "cast" else None)
    expected = by_hand(weight, a, b, 2.0)
    found = raws_in(tmp_path / "x.safetensors")["x.weight"]
    assert found == raw_of(expected.T if form == "transposed" else expected.astype(np.float16))


def test_a_model_that_holds_its_weights_as_in_by_out_gets_the_transpose_of_the_product(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight, a, b = (rng.normal(size=s).astype(np.float32) for s in ((53, 53), (3, 53), (53, 3)))  # square: a shape tells nothing
    write_hf(tmp_path / "hf", {"h.0.attn.c_proj.weight": weight}, {"model_type": "gpt2"})
    peft = "base_model.model.h.0.attn.c_proj.lora_{}.weight"
    write_safetensors(tmp_path / "peft" / "adapter_model.safetensors", {peft.format("A"): a, peft.format("B"): b})
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}))
    merged = mc.read(mc.merge_adapters(tmp_path / "hf", tmp_path / "peft"), "h.0.attn.c_proj.weight")
    np.testing.assert_array_equal(merged, by_hand(weight.T, a, b, 2.0).T)


def test_numbers_that_are_none_stay_so(tmp_path: Path) -> None:
    weight = np.array([[np.nan, np.inf], [-0.0, 1.0]], np.float32)
    zeros = {"x.lora_a": np.zeros((1, 2), np.float32), "x.lora_b": np.zeros((2, 1), np.float32)}
    found = mc.read(mc.merge_adapters({"x.weight": weight}, zeros, alpha=1), "x.weight")
    assert np.isnan(found[0, 0])
    assert found[0, 1] == np.inf
    assert found[1, 1] == 1.0


def test_a_source_that_changes_is_noticed_before_anything_is_published(base: Path, tmp_path: Path) -> None:
    source = saved_run(base, tmp_path / "run.ckpt")
    merged = mc.merge_adapters(base, source, alpha=ALPHA)
    saved_run(base, tmp_path / "other.ckpt", rank=4)
    mc.read(merged, "model.layers.0.self_attn.q_proj.weight")  # opens the file
    source.write_bytes((tmp_path / "other.ckpt").read_bytes())
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(merged, tmp_path / "merged")
    assert refused.value.code == "MFC108"
    assert not (tmp_path / "merged").exists()


def test_the_adapters_are_never_overwritten_by_what_is_made_of_them(base: Path, tmp_path: Path) -> None:
    source = saved_run(base, tmp_path / "run.ckpt")
    merged = mc.map(mc.merge_adapters(base, source, alpha=ALPHA), "llama")
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(merged, source, overwrite=True)
    assert refused.value.code == "MFC402"
