"""Adapters of layers that are one in MindFormers (q, k, v; gate, up): stacked, so that they add the same, and taken apart again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.adapters import default_style, half_of
from tests.support import raws_in, write_safetensors
from tests.toys import raws_of

RANK, ALPHA = 3, 6
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYER = "decoder.layers.{}."


@pytest.fixture
def base(tmp_path: Path) -> Path:
    mc.toy("qwen3", tmp_path / "hf", dtype="fp32")
    return tmp_path / "hf"


def halves_of(base: Path, modules: tuple[str, ...], rank: int = RANK) -> dict[str, np.ndarray]:
    """What PEFT trains: an A and a B of its own for every layer."""
    rng = np.random.default_rng(3)
    found = {}
    for tensor in mc.load(base):
        module = tensor.name.removesuffix(".weight")
        if module.rpartition(".")[2] in modules:
            out, into = tensor.shape
            found[f"base_model.model.{module}.lora_A.weight"] = rng.normal(size=(rank, into)).astype(np.float32)
            found[f"base_model.model.{module}.lora_B.weight"] = rng.normal(size=(out, rank)).astype(np.float32)
    return found


def peft_folder(path: Path, halves: dict[str, np.ndarray], rank: int = RANK, **said: Any) -> Path:
    write_safetensors(path / "adapter_model.safetensors", halves)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, **said}))
    return path


def product(tensors: mc.Checkpoint | dict[str, np.ndarray], layer: str, a: str = ".lora_A.weight", b: str = ".lora_B.weight") -> Any:
    read = (lambda n: mc.read(tensors, n)) if isinstance(tensors, mc.Checkpoint) else tensors.__getitem__
    return read(layer + b).astype(np.float64) @ read(layer + a).astype(np.float64)


@pytest.mark.parametrize(
    ("modules", "whole"),
    [(ALL, 9), (("q_proj", "v_proj"), 6), (("k_proj",), 3), (("up_proj", "o_proj"), 3), (("gate_proj", "up_proj", "down_proj"), 6)],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_what_peft_trained_adds_the_same_in_mindformers_and_comes_back_to_the_byte(
    modules: tuple[str, ...], whole: int, base: Path, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "peft", halves_of(base, modules))
    mapped = mc.map(mc.load(folder, config=base), "qwen3")
    report = mc.save(mapped, tmp_path / "run.ckpt")
    assert report.way_back == "exact"
    lora = mc.load(tmp_path / "run.ckpt").history.lora
    assert (lora.rank, lora.alpha, lora.alpha / lora.rank) == (whole, ALPHA * whole // RANK, ALPHA / RANK)
    assert {t.shape[0] for t in mapped if t.name.endswith("lora_A.weight")} == {whole}
    mc.save(mc.map(mc.load(base), "qwen3"), tmp_path / "base.ckpt")
    merged = mc.merge_adapters(tmp_path / "base.ckpt", tmp_path / "run.ckpt")
    assert raws_of(mc.map(merged, "qwen3", to="hf")) == raws_of(mc.merge_adapters(base, folder))
    mc.save(mc.map(mc.load(tmp_path / "run.ckpt"), "qwen3", to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws_in(folder)
    said = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"]) == (RANK, ALPHA)
    assert mc.verify(folder, tmp_path / "run.ckpt").equal


@pytest.mark.parametrize("contiguous", [False, True])
def test_rows_and_columns_of_a_stack_are_where_they_are_said_to_be(contiguous: bool, base: Path) -> None:
    halves = halves_of(base, ("q_proj", "v_proj"))
    mapped = mc.map(mc.load(halves, config=base), "qwen3", use_contiguous_weight_layout_attention=contiguous)
    a, b = (mc.read(mapped, LAYER.format(1) + f"self_attention.linear_qkv.lora_{half}.weight") for half in "AB")
    name = "base_model.model.model.layers.1.self_attn.{}_proj.lora_{}.weight"
    np.testing.assert_array_equal(a, np.concatenate([halves[name.format(part, "A")] for part in "qv"]))
    q, v = (halves[name.format(part, "B")] for part in "qv")  # 6 heads and 2 groups of 20
    blocks = np.zeros((2, 100, 6), np.float32)
    blocks[:, :60, :3], blocks[:, 80:, 3:] = q.reshape(2, 60, 3), v.reshape(2, 20, 3)
    ends = np.zeros((200, 6), np.float32)
    ends[:120, :3], ends[160:, 3:] = q, v
    np.testing.assert_array_equal(b, ends if contiguous else blocks.reshape(200, 6))


def test_without_a_manifest_every_layer_gets_the_whole_stack_and_adds_the_same(base: Path, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", halves_of(base, ALL))
    mc.save(mc.map(mc.load(folder, config=base), "qwen3"), tmp_path / "run.ckpt")
    shutil.rmtree(tmp_path / "run.ckpt.mfconv")
    mc.save(mc.map(mc.load(tmp_path / "run.ckpt", config=base, lora_alpha=3 * ALPHA), "qwen3", to="hf"), tmp_path / "wide")
    assert json.loads((tmp_path / "wide" / "adapter_config.json").read_text())["r"] == 3 * RANK
    assert raws_of(mc.merge_adapters(base, tmp_path / "wide")) == raws_of(mc.merge_adapters(base, folder))
    shutil.rmtree(tmp_path / "wide.mfconv")
    again = mc.map(mc.load(tmp_path / "wide", config=base), "qwen3")  # equal A: one is enough, the rank stays
    assert raws_of(again) == raws_in(tmp_path / "run.ckpt")
    assert (again.history.lora.alpha, again.history.lora.part_rank) == (3 * ALPHA, None)


def test_a_stack_that_was_trained_further_is_not_taken_apart(base: Path, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", halves_of(base, ALL))
    mc.save(mc.map(mc.load(folder, config=base), "qwen3"), tmp_path / "run.ckpt")
    trained = {t.name: mc.read(mc.load(tmp_path / "run.ckpt"), t.name) + np.float32(0.5) for t in mc.load(tmp_path / "run.ckpt")}
    shutil.move(tmp_path / "run.ckpt.mfconv", tmp_path / "kept")
    mc.save(mc.load(trained), tmp_path / "run.ckpt", overwrite=True)
    shutil.rmtree(tmp_path / "run.ckpt.mfconv", ignore_errors=True)
    shutil.move(tmp_path / "kept", tmp_path / "run.ckpt.mfconv")
    back = mc.map(mc.load(tmp_path / "run.ckpt", config=base, lora_alpha=3 * ALPHA), "qwen3", to="hf")
    name = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"
    np.testing.assert_array_equal(mc.read(back, name), trained[LAYER.format(0) + "self_attention.linear_qkv.lora_A.weight"])


@pytest.mark.parametrize("part", [2, 4, 9, 1000, 0, -1, "3", None, 1.5], ids=str)
def test_a_manifest_that_says_another_rank_of_the_parts_ends_in_no_wrong_adapter(part: Any, base: Path, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", halves_of(base, ALL))
    mc.save(mc.map(mc.load(folder, config=base), "qwen3"), tmp_path / "run.ckpt")
    path = tmp_path / "run.ckpt.mfconv" / "manifest.json"
    said = json.loads(path.read_text())
    assert said["lora"] == {"lora_alpha": 18, "read_from": "adapter_config.json, times 3", "rank": 9, "part_rank": 3}
    path.write_text(json.dumps(said | {"lora": said["lora"] | {"part_rank": part}}))
    try:
        mc.save(mc.map(mc.load(tmp_path / "run.ckpt", config=base), "qwen3", to="hf"), tmp_path / "back")
    except mc.MfconvError:
        return
    assert raws_of(mc.merge_adapters(base, tmp_path / "back")) == raws_of(mc.merge_adapters(base, folder))


@pytest.mark.parametrize("shape", [(0, 96), (96,), (3, 0), ()], ids=str)
def test_halves_of_odd_shapes_are_refused(shape: tuple[int, ...], base: Path) -> None:
    halves = halves_of(base, ALL) | {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros(shape, np.float32)}
    with pytest.raises(mc.MfconvError):
        mc.map(mc.load(halves, config=base, lora_alpha=ALPHA), "qwen3")


def test_what_is_done_is_said(base: Path) -> None:
    mapped = mc.map(mc.load(halves_of(base, ALL), config=base, lora_alpha=ALPHA), "qwen3")
    assert "rank 3 became 9, lora_alpha 6 became 18" in repr(mapped.report)
    unknown = mc.map(mc.load(halves_of(base, ALL), config=base), "qwen3")
    assert "lora_alpha must be 3 times as large" in repr(unknown.report)


def test_adapters_of_several_ranks_are_refused_on_the_way_to_mindformers(base: Path) -> None:
    halves = halves_of(base, ("o_proj",)) | halves_of(base, ("down_proj",), rank=2)
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(halves, config=base, lora_alpha=ALPHA), "qwen3")
    assert refused.value.code == "MFC319"
    assert "one lora_rank for all layers" in str(refused.value)


def test_layers_that_have_different_parts_are_refused_by_name(base: Path) -> None:
    halves = {n: a for n, a in halves_of(base, ("q_proj", "v_proj")).items() if "layers.1.self_attn.v_proj" not in n}
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(halves, config=base, lora_alpha=ALPHA), "qwen3")
    assert "layers.1.self_attn.v_proj.lora_A.weight" in str(refused.value)


@pytest.mark.parametrize("style", ["mindpet", "tk", "mcore", "lora"])
def test_a_conversion_of_adapters_is_proved_whatever_their_style(style: str, base: Path, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", halves_of(base, ALL))
    mapped = mc.map(mc.load(folder, config=base), "qwen3", adapters=style)
    assert {half.style for name in mapped.tensors if (half := half_of(name)) is not None} == {style}
    mc.save(mapped, tmp_path / "run.ckpt")
    assert mc.verify(folder, tmp_path / "run.ckpt").equal


def test_layers_without_any_adapter_stay_without(base: Path) -> None:
    halves = {n: a for n, a in halves_of(base, ALL).items() if ".layers.2." in n}
    mapped = mc.map(mc.load(halves, config=base, lora_alpha=ALPHA), "qwen3")
    layers = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    assert set(mapped.tensors) == {f"decoder.layers.2.{layer}.lora_{half}.weight" for layer in layers for half in "AB"}


def test_a_head_dimension_that_nothing_says_is_asked_for(base: Path) -> None:
    halves = halves_of(base, ("q_proj",))
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(halves), "qwen3")
    assert refused.value.code == "MFC303"
    assert "--config" in str(refused.value)


def test_adapters_of_an_older_joined_layout_are_stacked_too(tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "hf", dtype="fp32")
    folder = peft_folder(tmp_path / "peft", halves_of(tmp_path / "hf", ("q_proj", "k_proj", "v_proj")))
    mc.save(mc.map(mc.load(folder, config=tmp_path / "hf"), "llama", qkv_concat=True), tmp_path / "run.ckpt")
    name = "model.layers.0.attention.w_qkv.mindpet_delta_lora_"
    found = mc.load(tmp_path / "run.ckpt")
    assert [found[name + half].shape for half in "ab"] == [(9, 96), (200, 9)]
    mc.save(mc.map(found, "llama", to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws_in(folder)


OF_EXPERTS_OR_NONE = (".experts.", "embed_tokens", ".gate.", "norm", "eh_proj", "shared_head", "lm_head")


@pytest.mark.parametrize("key", ["deepseekv3", "glm4-mcore", "glm4-moe", "qwen2-mcore", "qwen3-moe", "telechat3", "telechat3-moe"])
def test_adapters_of_every_linear_layer_add_the_same_in_every_mcore_family(key: str, tmp_path: Path) -> None:
    mc.toy(key, tmp_path / "hf", dtype="fp32")
    names = [s.name for s in mc.load(tmp_path / "hf").specs if len(s.shape) == 2]
    modules = {n.removesuffix(".weight").rpartition(".")[2] for n in names if not any(word in n for word in OF_EXPERTS_OR_NONE)}
    halves = {n: a for n, a in halves_of(tmp_path / "hf", tuple(modules)).items() if not any(word in n for word in OF_EXPERTS_OR_NONE)}
    folder = peft_folder(tmp_path / "peft", halves)
    mapped = mc.map(mc.load(folder, config=tmp_path / "hf"), key)
    assert mc.save(mapped, tmp_path / "run.ckpt").way_back == "exact"
    assert len(mapped) < len(halves)  # gate and up are one in all of them
    mc.save(mc.map(mc.load(tmp_path / "hf"), key), tmp_path / "base.ckpt")
    merged = mc.merge_adapters(tmp_path / "base.ckpt", tmp_path / "run.ckpt")
    expected = mc.map(mc.merge_adapters(tmp_path / "hf", folder), key)
    assert raws_of(merged) == {name: raws_of(expected)[name] for name in merged.tensors}
    mc.save(mc.map(mc.load(tmp_path / "run.ckpt"), key, to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws_in(folder)


def test_an_adapter_of_a_head_that_has_copies_is_refused_with_the_reason(tmp_path: Path) -> None:
    mc.toy("deepseekv3", tmp_path / "hf", dtype="fp32")
    halves = halves_of(tmp_path / "hf", ("lm_head", "o_proj"))  # o_proj of the layer that predicts a further token too
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(halves, config=tmp_path / "hf", lora_alpha=ALPHA), "deepseekv3")
    assert "its weight has copies in other layers" in str(refused.value)


MCORE = {
    "deepseekv3",
    "deepseekv32",
    "glm4-mcore",
    "glm4-moe",
    "qwen2-mcore",
    "qwen3",
    "qwen3-moe",
    "telechat2-mcore",
    "telechat3",
    "telechat3-moe",
}
DYNAMIC = {"deepseek4", "glm5"}  # whose networks are of the dynamic graph alone


@pytest.mark.parametrize("key", sorted(f.key for f in known_families()))
def test_adapters_are_named_as_the_networks_of_a_family_name_them(key: str) -> None:
    (family,) = (f for f in known_families() if f.key == key)
    expected = "lora" if key in DYNAMIC else "mcore" if key in MCORE else "mindpet"
    assert default_style(family) == expected


@pytest.mark.parametrize(
    ("name", "style", "module"),
    [
        ("decoder.layers.0.mlp.linear_fc1.lora_A.weight", "mcore", "decoder.layers.0.mlp.linear_fc1"),
        ("decoder.layers.0.mlp.linear_fc1.lora_b", "lora", "decoder.layers.0.mlp.linear_fc1"),
        ("model.layers.0.attention.wq.mindpet_delta_lora_a", "mindpet", "model.layers.0.attention.wq"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "peft", "model.layers.0.self_attn.q_proj"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "peft", "model.embed_tokens"),
    ],
)
def test_the_style_of_a_name_is_told(name: str, style: str, module: str) -> None:
    half = half_of(name)
    assert half is not None
    assert (half.style, half.module) == (style, module)


# ---- what lies beside the adapters of a run ---------------------------------------------------------------------------------------


def config_of_run(path: Path, **settings: Any) -> Path:
    """`mindformers_adapter_config.json` with the keys that MindFormers 2.1.0 writes."""
    lora = {"target_modules": ".*linear_proj", "exclude_layers": None, "lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.1}
    content = {"format": "mindformers_pynative_lora_adapter_v1", "base_load_path": "/base", "base_fingerprint": "0" * 64}
    said = {**content, "lora_config": {**lora, **settings}, "global_step": 4, "consumed_samples": 32}
    path.write_text(json.dumps({**said, **{key: settings[key] for key in settings.keys() & content.keys()}}))
    return path


@pytest.fixture
def run_of_layers(base: Path, tmp_path: Path) -> Path:
    """A Checkpoint 2.0 of adapters alone, named as the dynamic graph names them."""
    mapped = mc.map(mc.load(halves_of(base, ("o_proj",)), config=base), "qwen3", adapters="lora")
    layout = mc.RankLayout({"tp": 2}, {"*.linear_proj.lora_a": (None, "tp")}, form="checkpoint 2.0", step=4)
    mc.save(mapped, tmp_path / "run", layout_of_ranks=layout)
    shutil.rmtree(tmp_path / "run.mfconv", ignore_errors=True)
    return tmp_path / "run"


@pytest.mark.parametrize("place", [".", "iteration_00000004"])
def test_a_run_of_the_dynamic_graph_says_its_alpha_itself(place: str, run_of_layers: Path, base: Path, tmp_path: Path) -> None:
    config_of_run(run_of_layers / place / "mindformers_adapter_config.json")
    found = mc.load(run_of_layers, config=base)
    assert (found.history.lora.alpha, found.history.lora.rank, found.history.lora.origin) == (
        ALPHA,
        RANK,
        "mindformers_adapter_config.json",
    )
    mc.save(mc.map(found, "qwen3", to="hf"), tmp_path / "peft")
    said = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["lora_dropout"]) == (RANK, ALPHA, 0.1)
    merged = mc.merge_adapters(base, run_of_layers, family="qwen3")
    assert merged.history.merged.scale == ALPHA / RANK


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lora_rank": 8}, "3 in the tensors"),
        ({"lora_alpha": 6.5}, "a whole number"),
        ({"lora_alpha": 0}, "a number above 0"),
        ({"format": "of tomorrow"}, "mindformers_pynative_lora_adapter_v1"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"target_modules": ".*linear_qkv|.*linear_fc2"}, "layers that target_modules"),
    ],
    ids=str,
)
def test_a_config_of_a_run_that_cannot_be_is_refused(settings: dict[str, Any], told: str, run_of_layers: Path, base: Path) -> None:
    config_of_run(run_of_layers / "mindformers_adapter_config.json", **settings)
    with pytest.raises(mc.MfconvError) as refused:
        mc.merge_adapters(base, run_of_layers, family="qwen3")
    assert refused.value.code == "MFC319"
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "targets", [r"linear_pro", r".*\.linear_proj$", r"decoder\.layers\.\d+\.self_attention", "(a+)+$|b", 3, None], ids=str
)
def test_patterns_that_name_the_layers_or_cannot_be_read_are_no_obstacle(targets: Any, run_of_layers: Path, base: Path) -> None:
    config_of_run(run_of_layers / "mindformers_adapter_config.json", target_modules=targets)
    assert len(mc.map(mc.load(run_of_layers, config=base), "qwen3", to="hf")) == 6


def test_the_config_of_a_run_can_be_given(run_of_layers: Path, base: Path, tmp_path: Path) -> None:
    given = config_of_run(tmp_path / "mindformers_adapter_config.json", lora_alpha=24)
    assert mc.load(run_of_layers, config=given).history.lora.alpha == 24


def test_two_configs_that_say_different_alphas_are_refused(run_of_layers: Path) -> None:
    config_of_run(run_of_layers / "mindformers_adapter_config.json")
    (run_of_layers / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 24}))
    with pytest.raises(mc.MfconvError) as refused:
        mc.load(run_of_layers)
    assert refused.value.code == "MFC319"


def test_a_checkpoint_2_of_adapters_says_rank_alpha_and_layers_as_mindformers_writes_them(base: Path, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", halves_of(base, ALL))
    mapped = mc.map(mc.load(folder, config=base), "qwen3", adapters="lora")
    layout = mc.RankLayout({"tp": 2}, {"*.linear_qkv.lora_b": ("tp", None)}, form="checkpoint 2.0", step=4)
    mc.save(mapped, tmp_path / "run", layout_of_ranks=layout)
    for place in (".", "iteration_00000004"):
        said = json.loads((tmp_path / "run" / place / "mindformers_adapter_config.json").read_text())
        layers = (r".*self_attention\.linear_qkv", r".*self_attention\.linear_proj", r".*mlp\.linear_fc1", r".*mlp\.linear_fc2")
        assert set(said["lora_config"].pop("target_modules").split("|")) == set(layers)
        assert said == {
            "format": "mindformers_pynative_lora_adapter_v1",
            "base_load_path": "",
            "base_fingerprint": None,
            "lora_config": {"exclude_layers": None, "lora_rank": 9, "lora_alpha": 18, "lora_dropout": 0.0},
            "global_step": 4,
            "consumed_samples": 0,
        }
    mc.save(mc.map(mc.load(tmp_path / "run", config=base), "qwen3", to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws_in(folder)  # the manifest beside it says how they are stacked


def test_a_folder_of_adapters_has_the_config_that_mindformers_own_tool_reads(base: Path, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", halves_of(base, ("gate_proj", "up_proj")))
    mc.save(mc.map(mc.load(folder, config=base), "qwen3"), tmp_path / "run")
    said = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["target_modules"]) == (6, 12, [r".*mlp\.linear_fc1"])
    assert not (tmp_path / "run" / "mindformers_adapter_config.json").exists()
    mc.save(mc.map(mc.load(tmp_path / "run", config=base), "qwen3", to="hf"), tmp_path / "back")
    assert raws_in(tmp_path / "back") == raws_in(folder)
    shutil.rmtree(tmp_path / "run.mfconv")
    assert mc.load(tmp_path / "run").history.lora.alpha == 12


def test_weights_beside_adapters_get_no_config_of_adapters_alone(base: Path, tmp_path: Path) -> None:
    weights = mc.map(mc.load(base), "qwen3")
    adapters = mc.map(mc.load(halves_of(base, ("o_proj",)), config=base), "qwen3", adapters="lora")
    both = mc.load({t.name: mc.read(c, t.name) for c in (weights, adapters) for t in c}, lora_alpha=ALPHA)
    mc.save(both, tmp_path / "run", layout_of_ranks=mc.RankLayout({"dp": 1}, {}, form="checkpoint 2.0", step=4))
    assert not (tmp_path / "run" / "mindformers_adapter_config.json").exists()
