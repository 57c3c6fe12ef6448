"""The forms of latent attention, and the networks of MindFormers that hold them: static graph, dynamic graph, inference."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import MF, Checkpoint
from mfconv_nb.mapping.kinds import kind_of
from tests.families.networks import IS_THERE, read_network
from tests.mindformers_package import mindformers_modules
from tests.networks_table import LISTED_LATENT, PARAMETERS, SAVED
from tests.support import write_hf
from tests.toys import raws_of

Arrays = dict[str, np.ndarray[Any, Any]]
V3, TELECHAT, V4, QWEN3 = (
    {"model_type": "deepseek_v3"},
    {"model_type": "telechat3_moe"},
    {"model_type": "deepseek_v4"},
    {"model_type": "qwen3"},
)
ONES = (".rms_weight", ".q_rms_gamma")
JOINED = {"mla_qkv_concat": True}
FORMS: dict[str, dict[str, Any]] = {
    "apart": {},
    "joined": JOINED,
    "dynamic": {"graph": "dynamic"},
    "inference": {"graph": "inference"},
}


def arrays(checkpoint: Checkpoint) -> Arrays:
    return {t.name: np.ascontiguousarray(mc.read(checkpoint, t.name)) for t in checkpoint}


def without_memory(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint as a run leaves it: its tensors, no manifest and no config."""
    return Checkpoint(checkpoint.tensors, side=MF)


def is_weight(name: str) -> bool:
    """Whether a tensor of a network is a weight of the model; the names of the others are written out in the tests of their kinds."""
    return kind_of(name).category == "weights" and not kind_of(name).numbers


# ---- what real networks hold -------------------------------------------------------------------------------------------------

# the row, the family, what its config says besides, the options that name the network
WRITTEN = [(row.name, row.key, row.config, row.options) for row in LISTED_LATENT if PARAMETERS in row.checks]
SAVED_BY = [(row.name, row.key, row.config) for row in LISTED_LATENT if SAVED in row.checks]
WITHOUT_NORMS = [("deepseekv3-static-joined", "deepseekv3", V3), ("telechat3-moe-static-joined", "telechat3-moe", TELECHAT)]


@IS_THERE
@pytest.mark.parametrize("name, key, config, options", WRITTEN, ids=[name for name, *_ in WRITTEN])
def test_what_is_written_for_the_config_of_a_network_are_its_weights(
    name: str, key: str, config: dict[str, Any], options: dict[str, Any]
) -> None:
    network = read_network(name, **config)
    source = mc.toy(key, dtype="fp32", options={n: v for n, v in options.items() if n == "with_mtp"}, **network.config)
    made = mc.map(source, key, **options)
    assert {s.name: s.shape for s in made.specs} == {n: shape for n, shape in network.shapes.items() if is_weight(n)}


@IS_THERE
@pytest.mark.parametrize("name, key, config", SAVED_BY, ids=[name for name, *_ in SAVED_BY])
def test_what_a_network_saves_comes_back_and_the_next_way_there_gives_it_again(name: str, key: str, config: dict[str, Any]) -> None:
    network = read_network(name, **config)
    held = network.arrays(ONES)
    back = mc.map(mc.load(held, config=network.config), to="hf")
    assert back.family == key
    weights = {n: array for n, array in held.items() if is_weight(n)}
    left_out = {s.name for row in back.report.plan.rows if row.status in ("left out", "dropped") for s in row.sources}
    assert left_out == held.keys() - weights.keys()
    again = arrays(mc.map(back, to="mf"))
    assert again.keys() == weights.keys()
    assert all(again[n].dtype == array.dtype and again[n].tobytes() == array.tobytes() for n, array in weights.items())


@IS_THERE
@pytest.mark.parametrize("name, key, config", WITHOUT_NORMS, ids=[name for name, *_ in WITHOUT_NORMS])
def test_a_network_without_the_norms_of_the_latent_is_no_model_of_hugging_face_and_that_is_all_that_is_said(
    name: str, key: str, config: dict[str, Any]
) -> None:
    network = read_network(name, **config)
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.load(network.arrays(), config=network.config), key, to="hf")
    layers = [f"decoder.layers.{n}" for n in range(3)] + ["mtp.layers.0.transformer_layer"]
    norms = {f"{layer}.self_attention.{n}_layernorm.weight" for layer in layers for n in "qk"}
    assert {(p.kind, p.name) for p in getattr(refused.value, "problems", ())} == {("missing", n) for n in norms}
    made = mc.map(mc.toy(key, dtype="fp32", **network.config), key, **JOINED)
    weights = {n: shape for n, shape in network.shapes.items() if is_weight(n)}
    assert {s.name: s.shape for s in made.specs if s.name not in norms} == weights


@IS_THERE
def test_the_experts_of_deepseek_v4_are_written_as_its_network_holds_them() -> None:
    held = read_network("deepseekv4-dynamic", **V4)
    source = mc.map(mc.load(held.arrays(ONES), config=held.config), to="hf")
    fresh = mc.load(arrays(source), config=held.config)
    made = mc.map(fresh, "deepseek4", to="mf")
    assert {s.name: s.shape for s in made.specs} == {n: shape for n, shape in held.shapes.items() if is_weight(n)}


# ---- where every row goes ----------------------------------------------------------------------------------------------------

# of the toy: 3 heads, nope 14, rope 8, value 18; ranks 40 of q and 44 of the latent
HF_LAYER, MF_LAYER = "model.layers.1.", "decoder.layers.1."


@pytest.fixture(scope="module")
def toy() -> Checkpoint:
    return mc.toy("deepseekv3", dtype="fp32")


def attention_of(checkpoint: Checkpoint) -> Arrays:
    start = MF_LAYER + "self_attention."
    return {n.removeprefix(start).removesuffix(".weight"): a for n, a in arrays(checkpoint).items() if n.startswith(start)}


def of_hugging_face(checkpoint: Checkpoint, name: str) -> np.ndarray[Any, Any]:
    return np.array(mc.read(checkpoint, f"{HF_LAYER}self_attn.{name}.weight"))


@pytest.mark.parametrize("form", ["joined", "dynamic"])
def test_joined_the_rows_of_q_come_before_those_of_the_latent_and_nothing_else_moves(form: str, toy: Checkpoint) -> None:
    made = attention_of(mc.map(toy, "deepseekv3", **FORMS[form]))
    names = {"linear_qb": "q_b_proj", "linear_kvb": "kv_b_proj", "q_layernorm": "q_a_layernorm", "k_layernorm": "kv_a_layernorm"}
    names |= {"linear_proj": "o_proj"}
    assert made.keys() == names.keys() | {"linear_qkv"}
    q, kv = of_hugging_face(toy, "q_a_proj"), of_hugging_face(toy, "kv_a_proj_with_mqa")
    assert made["linear_qkv"].tobytes() == np.concatenate([q, kv]).tobytes()
    assert all(made[name].tobytes() == of_hugging_face(toy, other).tobytes() for name, other in names.items())


def test_in_inference_the_latent_comes_before_q_and_rotary_rows_stand_in_halves(toy: Checkpoint) -> None:
    made = attention_of(mc.map(toy, "deepseekv3", graph="inference"))
    q, kv = of_hugging_face(toy, "q_a_proj"), of_hugging_face(toy, "kv_a_proj_with_mqa")
    latent, key = kv[:44], kv[44:]
    assert made["linear_qkv_down_proj"].tobytes() == np.concatenate([latent, key[0::2], key[1::2], q]).tobytes()
    q_b = of_hugging_face(toy, "q_b_proj").reshape(3, 22, 40)
    halves = np.concatenate([q_b[:, :14], q_b[:, 14::2], q_b[:, 15::2]], axis=1).reshape(66, 40)
    assert made["linear_q_up_proj"].tobytes() == halves.tobytes()
    kv_b = of_hugging_face(toy, "kv_b_proj").reshape(3, 32, 44)
    assert made["linear_kv_up_proj"].tobytes() == np.concatenate([kv_b[:, :14].reshape(42, 44), kv_b[:, 14:].reshape(54, 44)]).tobytes()


def test_the_dynamic_graph_and_inference_stack_experts_and_only_the_first_has_the_bias_outside_the_router(toy: Checkpoint) -> None:
    static, dynamic, inference = (mc.map(toy, "deepseekv3", graph=graph) for graph in ("static", "dynamic", "inference"))
    for made, axes, bias in ((static, 2, "router.expert_bias"), (dynamic, 3, "expert_bias"), (inference, 3, "router.expert_bias")):
        assert {len(s.shape) for s in made.specs if ".experts.weight" in s.name} == {axes}
        assert {s.name.split(".mlp.")[1] for s in made.specs if s.name.endswith("expert_bias")} == {bias}


def test_in_inference_gate_and_up_are_two_halves_whatever_the_yaml_of_a_training_says(toy: Checkpoint) -> None:
    made = arrays(mc.map(toy, "deepseekv3", graph="inference", config={**(toy.config or {}), "use_interleaved_weight_layout_mlp": True}))
    gate, up = (np.array(mc.read(toy, f"model.layers.0.mlp.{n}_proj.weight")) for n in ("gate", "up"))
    assert made["decoder.layers.0.mlp.linear_fc1.weight"].tobytes() == np.concatenate([gate, up]).tobytes()


@pytest.mark.real_frameworks
def test_mindformers_makes_the_same_of_the_weights_when_it_loads_them_for_inference(toy: Checkpoint) -> None:
    module, one = "mindformers.parallel_core.inference.weights_utils", (lambda: 1)
    stand_ins: dict[str, dict[str, Any]] = {
        "mindformers.parallel_core.inference.utils": {
            "get_tensor_model_parallel_world_size": one,
            "get_tensor_model_parallel_rank": lambda: 0,
            "is_310p": lambda: False,
        },
        "mindformers.version_control": {"is_310p": lambda: False},
        "mindformers.parallel_core.inference.parallel_state": {
            "get_tensor_model_parallel_world_size": one,
            "get_tensor_model_parallel_rank": lambda: 0,
        },
    }
    config = SimpleNamespace(num_attention_heads=3, qk_pos_emb_head_dim=8, qk_head_dim=14, v_head_dim=18, kv_lora_rank=44)
    made = attention_of(mc.map(toy, "deepseekv3", graph="inference"))
    with mindformers_modules(module, stand_ins=stand_ins) as (utils,):
        q_b = utils.deal_linear_q_up_weight(of_hugging_face(toy, "q_b_proj"), config, 0, 66, rope_transition=True)
        kv_b = utils.deal_linear_kv_up_weight(of_hugging_face(toy, "kv_b_proj"), config, 0, 96)
        kv_a = utils.deal_linear_kv_down_weight(of_hugging_face(toy, "kv_a_proj_with_mqa"), config, rope_transition=True)
    assert made["linear_q_up_proj"].tobytes() == np.ascontiguousarray(q_b).tobytes()
    assert made["linear_kv_up_proj"].tobytes() == np.ascontiguousarray(kv_b).tobytes()
    assert made["linear_qkv_down_proj"][:52].tobytes() == np.ascontiguousarray(kv_a).tobytes()  # its loader puts it at 0
    assert made["linear_qkv_down_proj"][52:].tobytes() == of_hugging_face(toy, "q_a_proj").tobytes()  # and q behind it


# ---- what tells the form -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["deepseekv3", "telechat3-moe"])
@pytest.mark.parametrize("form", FORMS)
def test_the_names_tell_the_form(key: str, form: str) -> None:
    source = mc.toy(key)
    made = mc.map(source, key, **FORMS[form])
    back = mc.map(without_memory(made), to="hf", config=source.config)
    assert back.family == key
    assert {n: back.options[n] for n in FORMS[form]} == FORMS[form]
    assert mc.diff(back, source, values=True).equal


YAMLS = {
    "static": ("model:\n  model_config:\n", "    "),
    "dynamic": ("model:\n", "  "),
}


def run_yaml(folder: Path, config: dict[str, Any], graph: str, **switches: Any) -> Path:
    """The YAML of a run in one of its two forms, with the sizes of a config."""
    head, indent = YAMLS[graph]
    sizes = {k: v for k, v in {**config, **switches}.items() if isinstance(v, bool | int | str)}
    path = folder / "run.yaml"
    path.write_text(head + "".join(f"{indent}{k}: {v}\n" for k, v in sizes.items()))
    return path


@pytest.mark.parametrize(
    "graph, switches, form",
    [
        ("static", {}, "apart"),
        ("static", {"mla_qkv_concat": False}, "apart"),
        ("static", {"mla_qkv_concat": True}, "joined"),
        ("dynamic", {"mla_qkv_concat": True}, "dynamic"),
        ("dynamic", {}, "dynamic"),
    ],
)
def test_the_yaml_of_a_run_decides_the_form_on_the_way_there(graph: str, switches: dict[str, Any], form: str, tmp_path: Path) -> None:
    source = mc.toy("deepseekv3", tmp_path / "hf")
    path = run_yaml(tmp_path, dict(source.config or {}), graph, **switches)
    made = mc.map(mc.load(tmp_path / "hf", config=path), "deepseekv3")
    assert raws_of(made) == raws_of(mc.map(source, "deepseekv3", **FORMS[form]))
    said = mc.map(mc.load(tmp_path / "hf", config=path), "deepseekv3", graph="inference")  # what the caller says counts first
    assert raws_of(said) == raws_of(mc.map(source, "deepseekv3", graph="inference"))


@pytest.mark.parametrize("form", FORMS)
def test_on_the_way_back_names_count_and_not_the_yaml(form: str, tmp_path: Path) -> None:
    source = mc.toy("deepseekv3")
    path = run_yaml(tmp_path, dict(source.config or {}), "static", mla_qkv_concat=form != "joined")
    back = mc.map(without_memory(mc.map(source, "deepseekv3", **FORMS[form])), "deepseekv3", to="hf", config=path)
    assert mc.diff(back, source, values=True).equal


def test_adapters_that_fit_training_and_inference_are_those_of_a_training() -> None:
    toy = mc.toy("deepseekv3", dtype="fp32")
    name = "decoder.layers.0.mlp.linear_fc1."
    adapters = {f"{name}mindpet_delta_lora_a": np.ones((4, 96), np.float32), f"{name}mindpet_delta_lora_b": np.ones((352, 4), np.float32)}
    back = mc.map(mc.load(adapters, config=toy.config), "deepseekv3", to="hf")
    assert back.options["graph"] == "static"


def test_adapters_of_stacked_experts_are_refused_by_name_and_the_hint_works() -> None:
    toy = mc.toy("deepseekv3", dtype="fp32")
    held = arrays(mc.map(toy, "deepseekv3", graph="dynamic"))
    shapes = {"weight1_lora_a": (6, 96, 4), "weight1_lora_b": (6, 4, 56), "weight2_lora_a": (6, 28, 4), "weight2_lora_b": (6, 4, 96)}
    adapters = {f"decoder.layers.1.mlp.experts.{n}": np.ones(shape, np.float32) for n, shape in shapes.items()}
    run = mc.load({**held, **adapters}, config=toy.config)
    with pytest.raises(mc.MfconvError, match=r"an adapter of all experts in decoder\.layers\.1\.mlp\.experts\.weight1") as refused:
        mc.map(run, "deepseekv3", to="hf")
    problems = getattr(refused.value, "problems", ())
    assert {(p.kind, p.name) for p in problems} == {("adapter", n) for n in adapters}
    assert all("--leave_out '*.experts.weight*_lora_*'" in p.hint for p in problems)
    back = mc.map(run, "deepseekv3", to="hf", leave_out="*.experts.weight*_lora_*")
    assert mc.diff(back, toy, values=True).equal


# ---- without a rank of q, without a further layer ----------------------------------------------------------------------------

Q_NULL = {"q_lora_rank": None}


def without_rank(**config: Any) -> Checkpoint:
    return mc.toy("deepseekv3", dtype="fp32", options={"with_q_rank": 0}, **Q_NULL, **config)


@pytest.mark.parametrize("form", ["apart", "joined", "dynamic"])
def test_q_without_a_rank_is_one_matrix_there_and_back(form: str) -> None:
    source = without_rank()
    assert "model.layers.1.self_attn.q_proj.weight" in source
    made = mc.map(source, **FORMS[form], to="mf")
    assert made.family == "deepseekv3"  # the older layout has no place for it
    found, q, kv = attention_of(made), of_hugging_face(source, "q_proj"), of_hugging_face(source, "kv_a_proj_with_mqa")
    if form == "apart":
        assert found.keys() == {"linear_q_proj", "linear_kv_down_proj", "linear_kv_up_proj", "kv_layernorm", "linear_proj"}
        assert found["linear_q_proj"].tobytes() == q.tobytes()
    else:
        assert found.keys() == {"linear_qkv", "linear_kvb", "k_layernorm", "linear_proj"}
        assert found["linear_qkv"].tobytes() == np.concatenate([q, kv]).tobytes()
    back = mc.map(without_memory(made), to="hf", config=source.config)
    assert mc.diff(back, source, values=True).equal


def test_without_a_rank_the_axes_of_the_experts_tell_inference() -> None:
    source = without_rank()
    made = mc.map(source, "deepseekv3", to="mf", graph="inference")
    q = of_hugging_face(source, "q_proj").reshape(3, 22, 96)
    halves = np.concatenate([q[:, :14], q[:, 14::2], q[:, 15::2]], axis=1).reshape(66, 96)
    assert attention_of(made)["linear_q_proj"].tobytes() == halves.tobytes()
    back = mc.map(without_memory(made), to="hf", config=source.config)
    assert back.report.decided["graph"] == "told from shapes"
    assert mc.diff(back, source, values=True).equal


def test_without_a_rank_the_static_graph_never_stacks_experts_in_three_axes() -> None:
    made = mc.map(without_rank(), "deepseekv3", to="mf", experts_2d=False)
    assert {len(s.shape) for s in made.specs if ".experts.weight" in s.name} == {2}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [1, 0])
@pytest.mark.parametrize("part", ["self_attention.linear_q", ".experts.weight"])
def test_no_form_takes_a_checkpoint_without_q_or_without_experts(form: str, rank: int, part: str) -> None:
    source = mc.toy("deepseekv3", options={"with_q_rank": rank}, **({} if rank else Q_NULL))
    made = mc.map(source, "deepseekv3", to="mf", **FORMS[form])
    less = Checkpoint({n: t for n, t in made.tensors.items() if part not in n}, side=MF)
    assert len(less.tensors) < len(made.tensors)
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(less, "deepseekv3", to="hf", config=source.config)
    assert refused.value.code == "MFC303"


@pytest.mark.parametrize("key", ["deepseek3", "deepseekv3", "telechat3-moe"])
@pytest.mark.parametrize("count", [0, None])
def test_a_config_that_counts_no_further_layer_or_does_not_speak_of_it_takes_a_checkpoint_without_one(key: str, count: int | None) -> None:
    source = mc.toy(key, options={"with_mtp": 0}, num_nextn_predict_layers=0)
    config = {k: v for k, v in (source.config or {}).items() if k != "num_nextn_predict_layers" or count is not None}
    made = mc.map(mc.load(arrays(source), config=config), key, to="mf")
    back = mc.map(without_memory(made), key, to="hf", config=config)
    assert not [n for n in made.tensors if "mtp" in n]
    assert back.tensors.keys() == source.tensors.keys()
    assert raws_of(back) == raws_of(source)


@pytest.mark.parametrize("key", ["deepseek3", "deepseekv3", "telechat3-moe"])
def test_a_further_layer_that_the_config_does_not_speak_of_is_carried_all_the_same(key: str) -> None:
    source = mc.toy(key)
    config = {k: v for k, v in (source.config or {}).items() if k != "num_nextn_predict_layers"}
    back = mc.map(without_memory(mc.map(source, key, config=config)), key, to="hf", config=config)
    assert raws_of(back) == raws_of(source)


# ---- models with the class of DeepSeek-V3 ------------------------------------------------------------------------------------

OF_KIMI = {"model_type": "kimi_k2", "num_nextn_predict_layers": 0, "n_group": 1, "topk_group": 1}
OF_MOONLIGHT = {"num_nextn_predict_layers": 0, "q_lora_rank": None}


@pytest.mark.parametrize("config", [OF_KIMI, OF_MOONLIGHT], ids=["kimi-k2", "moonlight"])
def test_a_config_as_it_is_published_leads_to_the_cells_of_deepseek_v3_and_back(config: dict[str, Any], tmp_path: Path) -> None:
    toy = mc.toy("deepseekv3", dtype="fp32", options={"with_mtp": 0, "with_q_rank": int("q_lora_rank" not in config)}, **config)
    write_hf(tmp_path / "hf", arrays(toy), {**(toy.config or {}), "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}})
    there = mc.map(mc.load(tmp_path / "hf"))
    assert there.family == "deepseekv3"
    back = mc.map(mc.load(arrays(there), config=tmp_path / "hf"), to="hf")
    assert back.family == "deepseekv3"
    assert raws_of(back) == raws_of(toy)


# ---- models of transformers --------------------------------------------------------------------------------------------------


@pytest.mark.real_frameworks
@pytest.mark.parametrize("form, rank", [(form, rank) for form in FORMS for rank in (40, None)])
def test_a_deepseek_v3_of_transformers_gives_the_same_logits_after_the_way_there_and_back(
    form: str, rank: int | None, tmp_path: Path
) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = {**(mc.toy("deepseekv3").config or {}), "q_lora_rank": rank, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}
    config = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "num_nextn_predict_layers", "dtype")}
    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**config)).eval()
    model.save_pretrained(tmp_path / "hf")
    mc.save(mc.map(mc.load(tmp_path / "hf"), "deepseekv3", **FORMS[form]), tmp_path / "mf.safetensors")
    held = {t.name: np.array(mc.read(c, t.name)) for c in [mc.load(tmp_path / "mf.safetensors")] for t in c}
    mc.save(mc.map(mc.load(held, config=tmp_path / "hf"), to="hf"), tmp_path / "back", assets=tmp_path / "hf")
    opened, told = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(told.values())
    ids = torch.arange(2, 26)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, opened.eval()(ids).logits)
