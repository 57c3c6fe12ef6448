"""MindFormers' mcore layout: what only numbers show, what tells it, and MindFormers' own operations on the same tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.families.registry import family_named, known_families
from mfconv_nb.mapping.rules import NUMBERS
from tests.mindformers_package import mindformers_modules
from tests.support import same, write_hf
from tests.toys import arrays_of, raws_of, without_memory

MLP, ATTENTION = "use_interleaved_weight_layout_mlp", "use_contiguous_weight_layout_attention"
UNSEEN = [(f.key, o.name) for f in known_families() for o in f.options if o.side == NUMBERS]


def default_of(key: str, option: str) -> Any:
    return next(o.default for o in family_named(key).options if o.name == option)


# ---- what no name and no shape shows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, option", UNSEEN)
def test_the_two_orders_of_a_matrix_have_equal_names_and_shapes_and_other_numbers(key: str, option: str) -> None:
    source = mc.toy(key)
    one, other = (mc.map(source, key, **{option: value}) for value in (True, False))
    assert {s.name: s for s in one.specs} == {s.name: s for s in other.specs}
    found = mc.diff(one, other, values=True)
    fused = "linear_fc1" if option == MLP else "linear_qkv"
    assert found.counts["differ"] > 0
    assert all(fused in e.name for e in found.entries if e.status == "differ")


@pytest.mark.parametrize("key, option", UNSEEN)
def test_taken_for_the_other_order_a_checkpoint_gives_wrong_weights_and_a_note_says_what_was_assumed(key: str, option: str) -> None:
    source = mc.toy(key)
    made = mc.map(source, key, **{option: not default_of(key, option)})
    back = mc.map(without_memory(made), key, to="hf", config=source.config)
    assert not mc.diff(back, source, values=True).equal
    assert back.report.decided[option] == "default"
    (note,) = [n for n in back.report.notes if option in n]
    assert note.startswith(f"assumed: {option}={default_of(key, option)}, the default")


@pytest.mark.parametrize("key, option", UNSEEN)
def test_the_manifest_remembers_the_order(key: str, option: str, tmp_path: Path) -> None:
    source = mc.toy(key)
    mc.save(mc.map(source, key, **{option: not default_of(key, option)}), tmp_path / "out.safetensors")
    back = mc.map(mc.load(tmp_path / "out.safetensors"))
    assert back.report.decided[option] == "remembered"
    assert not [n for n in back.report.notes if option in n]
    assert mc.diff(back, source, values=True).equal
    assert mc.verify(source, tmp_path / "out.safetensors").equal


@pytest.mark.parametrize("key, option", UNSEEN)
def test_the_yaml_of_a_run_decides_the_order_in_both_directions(key: str, option: str, tmp_path: Path) -> None:
    source = mc.toy(key, tmp_path / "hf")
    sizes = {k: v for k, v in (source.config or {}).items() if isinstance(v, bool | int | str)}
    lines = [f"    {k}: {v}" for k, v in {**sizes, option: not default_of(key, option)}.items()]
    (tmp_path / "run.yaml").write_text("\n".join(["model:", "  model_config:", *lines]))
    wanted = mc.map(source, key, **{option: not default_of(key, option)})
    made = mc.map(mc.load(tmp_path / "hf", config=tmp_path / "run.yaml"), key)
    assert raws_of(made) == raws_of(wanted)
    back = mc.map(without_memory(wanted), key, to="hf", config=tmp_path / "run.yaml")
    assert back.report.decided[option] == "told from the config"
    assert mc.diff(back, source, values=True).equal
    said = mc.map(without_memory(wanted), key, to="hf", config=tmp_path / "run.yaml", **{option: default_of(key, option)})
    assert said.report.decided[option] == "given"  # what the caller says counts first


def trained(source: Checkpoint, key: str, noise: float, **options: Any) -> Checkpoint:
    """What a training from this checkpoint might have left: its weights, a little off, in MindFormers' names and an order of rows."""
    random = np.random.default_rng(1)
    moved = {
        n: (a.astype(np.float32) + noise * random.standard_normal(a.shape, np.float32)).astype(a.dtype)
        for n, a in arrays_of(source).items()
    }
    return without_memory(mc.map(mc.load(moved, config=source.config), key, **options))


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("key, option", UNSEEN)
def test_the_weights_that_a_training_began_with_tell_the_order_of_what_it_left(key: str, option: str, value: bool, tmp_path: Path) -> None:
    source = mc.toy(key, tmp_path / "hf")
    made = trained(source, key, 0.02, **{option: value})
    back = mc.map(made, key, to="hf", config=tmp_path / "hf")
    assert (back.options[option], back.report.decided[option]) == (value, "told from the original's numbers")
    assert not [n for n in back.report.notes if option in n]
    wanted = mc.map(made, key, to="hf", config=source.config, **{**dict(back.options), option: value})
    assert raws_of(back) == raws_of(wanted)
    said = mc.map(made, key, to="hf", config=tmp_path / "hf", **{option: not value})
    assert said.report.decided[option] == "given"


def test_weights_of_another_training_tell_nothing_and_the_default_is_said_to_be_assumed(tmp_path: Path) -> None:
    source = mc.toy("qwen3", tmp_path / "hf")
    unlike = {n: np.random.default_rng(2).standard_normal(a.shape, np.float32).astype(a.dtype) for n, a in arrays_of(source).items()}
    made = without_memory(mc.map(mc.load(unlike, config=source.config), "qwen3", **{MLP: False}))
    back = mc.map(made, to="hf", config=tmp_path / "hf")
    assert back.report.decided[MLP] == "default"
    assert len([n for n in back.report.notes if n.startswith("assumed")]) == 2


def test_a_damaged_original_is_no_help_and_no_hindrance(tmp_path: Path) -> None:
    source = mc.toy("qwen3", tmp_path / "hf")
    made = trained(source, "qwen3", 0.02, **{MLP: False})
    for path in (tmp_path / "hf").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert mc.map(made, to="hf", config=tmp_path / "hf").report.decided[MLP] == "default"


@pytest.mark.parametrize("value", [1, "True", "yes", None, [True]])
def test_a_word_that_is_no_value_of_the_option_tells_nothing(value: object) -> None:
    mapped = mc.map(mc.toy("qwen3"), "qwen3", config={**(mc.toy("qwen3").config or {}), MLP: value})
    assert mapped.report.decided[MLP] == "default"


# ---- what shapes and names show ----------------------------------------------------------------------------------------------

STATIC_OF = {"deepseekv32": {"graph": "static"}}  # where that is not the default: the dynamic graph has three axes always
STACKING = [f.key for f in known_families() if any(o.name == "experts_2d" for o in f.options)]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("key", STACKING)
def test_the_shapes_of_the_experts_tell_whether_they_have_an_axis_of_their_own(key: str, value: bool) -> None:
    source = mc.toy(key)
    made = mc.map(source, key, experts_2d=value, **STATIC_OF.get(key, {}))
    assert {len(s.shape) for s in made.specs if "experts.weight" in s.name} == {2 if value else 3}
    back = mc.map(without_memory(made), key, to="hf", config=source.config)
    assert (back.options["experts_2d"], back.report.decided["experts_2d"]) == (value, "told from shapes")
    assert mc.diff(back, source, values=True).equal


@pytest.mark.parametrize("key", STACKING)
def test_the_two_shapes_of_the_experts_hold_the_same_bytes(key: str) -> None:
    flat, stacked = (raws_of(mc.map(mc.toy(key), key, experts_2d=value, **STATIC_OF.get(key, {}))) for value in (True, False))
    assert {n: r.data for n, r in flat.items()} == {n: r.data for n, r in stacked.items()}


def test_a_tied_head_is_on_neither_side_and_a_head_that_is_there_all_the_same_goes_along(tmp_path: Path) -> None:
    tied = mc.toy("qwen3", tie_word_embeddings=True)
    assert "lm_head.weight" not in tied
    there = mc.map(tied, "qwen3")
    assert "output_layer.weight" not in there
    assert mc.diff(mc.map(without_memory(there), "qwen3", to="hf", config=tied.config), tied, values=True).equal
    whole = mc.toy("qwen3", dtype="fp32")  # Qwen3 1.7B: tied by its config, with the head in its files
    listed = mc.load(write_hf(tmp_path / "hf", arrays_of(whole), {**(whole.config or {}), "tie_word_embeddings": True}))
    assert raws_of(mc.map(listed, "qwen3")) == raws_of(mc.map(whole, "qwen3"))


def test_the_default_is_that_of_mindformers_training_where_it_trains_the_model_and_else_that_of_inference() -> None:
    assert {key: default_of(key, ATTENTION) for key, option in UNSEEN if option == ATTENTION} == {
        "glm4-mcore": True,
        "glm4-moe": True,
        "qwen2-mcore": True,
        "qwen3": False,
        "qwen3-moe": False,
        "telechat3": False,
    }
    assert {key: default_of(key, MLP) for key, option in UNSEEN if option == MLP} == {
        "deepseek4": True,
        "deepseekv3": True,
        "deepseekv32": True,
        "glm4-moe": False,
        "glm5": True,
        "qwen2-mcore": False,
        "qwen3": True,
        "telechat3": True,
        "telechat3-moe": True,
    }
    assert {key: default_of(key, "experts_2d") for key in STACKING} == {
        "deepseek4": False,  # trained in the dynamic graph
        "deepseekv3": True,
        "deepseekv32": True,
        "glm4-moe": False,
        "qwen3-moe": True,
        "telechat3-moe": True,
    }


@pytest.mark.parametrize("key", ["deepseek4", "deepseekv3", "glm4-mcore", "glm4-moe", "qwen2-mcore", "qwen3", "qwen3-moe"])
def test_names_of_mcore_alone_tell_the_family(key: str) -> None:
    source = mc.toy(key)
    back = mc.map(without_memory(mc.map(source, key)), to="hf", config={k: v for k, v in source.config.items() if k != "model_type"})
    assert back.family == key
    assert mc.diff(back, source, values=True).equal


@pytest.mark.parametrize("options", [{}, {ATTENTION: True, MLP: False}], ids=["training", "end to end"])
@pytest.mark.parametrize("fused", ["self_attention.linear_qkv", "mlp.linear_fc1"])
def test_adapters_of_a_joined_matrix_add_up_to_the_same_change_of_each_part(fused: str, options: dict[str, bool]) -> None:
    toy = mc.toy("qwen3", dtype="fp32")
    whole = mc.map(toy, "qwen3", **options)
    name = f"decoder.layers.1.{fused}."
    rows, columns = whole[name + "weight"].shape
    a, b = (np.random.default_rng(n).integers(-9, 9, shape).astype(np.float32) for n, shape in enumerate(((4, columns), (rows, 4))))
    adapters = mc.load({f"{name}mindpet_delta_lora_a": a, f"{name}mindpet_delta_lora_b": b}, config=toy.config)
    parts = arrays_of(mc.map(adapters, "qwen3", to="hf", **options))
    changed = mc.load({**arrays_of(whole), name + "weight": b @ a}, config=toy.config)
    wanted = arrays_of(mc.map(changed, "qwen3", to="hf", **options))
    found = {n.removesuffix("lora_B.weight"): m @ parts[n.replace("lora_B", "lora_A")] for n, m in parts.items() if "lora_B" in n}
    assert len(found) == (3 if "qkv" in fused else 2)
    assert all((m == wanted[n.removeprefix("base_model.model.") + "weight"]).all() for n, m in found.items())


# ---- the layer that predicts a further token ---------------------------------------------------------------------------------

WITH_MTP = ["deepseekv3", "glm4-moe", "telechat3-moe"]


@pytest.mark.parametrize("key", WITH_MTP)
def test_the_last_layer_of_hugging_face_has_a_place_of_its_own_and_comes_back_to_the_end(key: str) -> None:
    source = mc.toy(key, num_hidden_layers=4)
    there = mc.map(source, key)
    assert not [n for n in there.tensors if n.startswith("decoder.layers.4.")]
    eh_proj = "mtp.layers.0.eh_proj.weight"
    assert mc.read(there, eh_proj).tobytes() == mc.read(source, "model.layers.4.eh_proj.weight").tobytes()
    assert mc.diff(mc.map(without_memory(there), key, to="hf", config=source.config), source, values=True).equal


@pytest.mark.parametrize("key", WITH_MTP)
def test_without_a_config_nobody_knows_where_the_last_layer_goes_and_that_is_said(key: str) -> None:
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(without_memory(mc.map(mc.toy(key), key)), key, to="hf")
    assert refused.value.code == "MFC303"
    said = {p.name: (p.found, p.hint) for p in getattr(refused.value, "problems", ())}
    found, hint = said["mtp.layers.0.enorm.weight"]
    assert found == "a number in its rule that the config tells"
    assert "--config" in hint


@pytest.mark.parametrize("key", WITH_MTP)
def test_a_config_that_promises_a_second_such_layer_is_refused(key: str) -> None:
    source = mc.toy(key)
    with pytest.raises(mc.MfconvError, match=r"model\.layers\.4\.enorm\.weight: not in the checkpoint"):
        mc.map(source, key, config={**(source.config or {}), "num_nextn_predict_layers": 2})


@pytest.mark.parametrize("key", WITH_MTP)
@pytest.mark.parametrize("to", ["mf", "hf"])
def test_of_the_first_layers_alone_it_is_none_and_embedding_and_head_stay(key: str, to: str) -> None:
    source = mc.toy(key)
    whole = mc.map(source, key)
    made = mc.map(source if to == "mf" else without_memory(whole), key, to=to, config=source.config, layers=2)
    outside = {n for n in made.tensors if ".layers." not in n}
    assert outside == {n for n in (whole if to == "mf" else source).tensors if ".layers." not in n}
    assert {n.split(".layers.")[0] + n.split(".layers.")[1][0] for n in made.tensors if ".layers." in n} == (
        {"decoder0", "decoder1"} if to == "mf" else {"model0", "model1"}
    )


def test_copies_of_embedding_and_head_that_differ_are_refused(tmp_path: Path) -> None:
    source = mc.toy("deepseekv3", dtype="fp32")
    spoilt = {**arrays_of(source), "model.layers.3.embed_tokens.weight": arrays_of(source)["lm_head.weight"]}
    with pytest.raises(mc.MfconvError, match=r"model\.layers\.3\.embed_tokens\.weight"):
        mc.save(mc.map(mc.load(spoilt, config=source.config), "deepseekv3", to="mf"), tmp_path / "out.safetensors")


@pytest.mark.parametrize("listed", [True, False])
def test_copies_that_glm_may_list_come_back_where_they_were_listed(listed: bool, tmp_path: Path) -> None:
    source = mc.toy("glm4-moe", dtype="fp32")
    tensors = arrays_of(source)
    if listed:
        tensors["model.layers.3.embed_tokens.weight"] = tensors["model.embed_tokens.weight"]
    hf = mc.load(write_hf(tmp_path / "hf", tensors, source.config or {}))
    mc.save(mc.map(hf), tmp_path / "out.safetensors")
    assert mc.diff(mc.map(mc.load(tmp_path / "out.safetensors")), hf, values=True).equal


# ---- two layouts of MindFormers ----------------------------------------------------------------------------------------------

LEGACY = {"deepseekv3": "deepseek3", "qwen2-mcore": "qwen2"}


@pytest.mark.parametrize("key", LEGACY)
def test_from_hugging_face_the_older_layout_is_taken_and_from_mindformers_the_names_tell_which(key: str, tmp_path: Path) -> None:
    mc.toy(LEGACY[key], tmp_path / "hf")
    source = mc.load(arrays_of(mc.load(tmp_path / "hf")), config=tmp_path / "hf")
    assert mc.map(source, to="mf").family == LEGACY[key]
    for of in (key, LEGACY[key]):
        back = mc.map(without_memory(mc.map(source, of, to="mf")), to="hf", config=source.config)
        assert back.family == of
        assert mc.diff(back, source, values=True).equal


# ---- MindFormers' own operations ---------------------------------------------------------------------------------------------

OP, TEMPLATE = (f"mindformers.checkpoint.converter.{name}" for name in ("convert_op", "template"))
MODELS = {  # folder, model, and the module and class of its config
    "qwen3": ("qwen3", "Qwen3PreTrainedModel", "qwen3", "Qwen3Config"),
    "qwen3-moe": ("qwen3_moe", "Qwen3MoePreTrainedModel", "qwen3_moe", "Qwen3MoeConfig"),
    "deepseek4": ("deepseek4", "DeepseekV4PreTrainedModel", "deepseek_v4", "DeepseekV4Config"),
}


@contextmanager
def own_template(key: str, config: dict[str, Any], *, interleaved: bool = True) -> Iterator[Any]:
    """MindFormers' template with the list that it declares for a model, and the sizes of a config."""
    folder, model, config_module, config_class = MODELS[key]
    module = f"mindformers.models.{folder}.utils"
    stand_ins: dict[str, dict[str, Any]] = {
        "mindformers.parallel_core.transformer_config": {"TransformerConfig": object},
        "mindformers.parallel_core.transformer_config_utils": {"convert_to_transformer_config": None},
        "mindformers.parallel_core.utils.model_mixin": {"ModelMixin": type("ModelMixin", (), {})},
        "mindformers.checkpoint.sharded_tensor": {"ShardedTensor": object},
        "mindformers.tools.logger": {"logger": SimpleNamespace(warning=lambda *_: None)},
        "mindformers.models.modeling_utils": {"PreTrainedModel": type("PreTrainedModel", (), {})},
        "mindformers.models.deepseek3.utils": {"DeepseekV3PreTrainedModel": type("DeepseekV3PreTrainedModel", (), {})},
        module.replace(".utils", f".configuration_{config_module}"): {config_class: object},
    }
    with mindformers_modules(OP, TEMPLATE, module, stand_ins=stand_ins) as (_, template, utils):
        made = template.WeightTemplate(weight_converters=getattr(utils, model).weight_converters)
        made.set_model_config(
            SimpleNamespace(
                num_attention_heads=config["num_attention_heads"],
                num_query_groups=config["num_key_value_heads"],
                kv_channels=config["head_dim"],
                hidden_size=config["hidden_size"],
                num_moe_experts=config.get("num_experts", config.get("n_routed_experts")),
                moe_ffn_hidden_size=config.get("moe_intermediate_size"),
                tensor_model_parallel_size=1,
                expert_model_parallel_size=1,
                use_interleaved_weight_layout_mlp=interleaved,
            )
        )
        for op in made.weight_converters:
            if hasattr(op, "optimizer_parallel_size"):
                op.optimizer_parallel_size = 1  # outside of a run their parallel context says -1
        yield made


def loaded_by(template: Any, tensors: dict[str, Any], experts: int) -> dict[str, Any]:
    """What MindFormers makes of the tensors of a Hugging Face folder when it loads one: it collects experts and q, k, v first."""
    stacks: dict[str, Any] = {}
    fused: dict[str, Any] = {}
    joined = re.compile(r"(?<!shared_)(?<=\.)experts\.|\.[qkv]_proj\.")
    found = [template.preprocess_hf_weights(n, a, stacks, fused, experts) if joined.search(n) else (n, a) for n, a in tensors.items()]
    ready = {name: array for name, array in found if name is not None}
    return {name: parameter.asnumpy() for name, parameter in template.get_mf_state_dict(ready).items()}


@pytest.mark.real_frameworks
@pytest.mark.parametrize(
    "key, options",
    [("qwen3", {MLP: True}), ("qwen3", {MLP: False}), ("qwen3-moe", {"experts_2d": False}), ("deepseek4", {"experts_2d": False})],
    ids=lambda v: str(v),
)
def test_what_mindformers_loads_from_a_hugging_face_folder_is_what_map_gives(key: str, options: dict[str, Any]) -> None:
    toy = mc.toy(key, dtype="fp32")
    config = dict(toy.config or {})
    with own_template(key, config, interleaved=bool(options.get(MLP, True))) as template:
        assert same(
            loaded_by(template, arrays_of(toy), config.get("num_experts", config.get("n_routed_experts", 0))),
            arrays_of(mc.map(toy, key, **options)),
        )


@pytest.mark.real_frameworks
@pytest.mark.parametrize(
    "key, options", [("qwen3", {MLP: True}), ("qwen3", {MLP: False}), ("qwen3-moe", {}), ("deepseek4", {})], ids=lambda v: str(v)
)
def test_mindformers_own_way_back_from_what_map_gives_is_the_original(key: str, options: dict[str, Any]) -> None:
    toy = mc.toy(key, dtype="fp32")
    with own_template(key, dict(toy.config or {}), interleaved=bool(options.get(MLP, True))) as template:
        assert same(dict(template.get_hf_state_dict(arrays_of(mc.map(toy, key, **options)))), arrays_of(toy))


def test_keys_and_values_of_telechat2_are_taken_apart_as_mindformers_loader_does() -> None:
    """`_safetensors_weights_iterator` of `models/telechat2/modeling_telechat2_infer.py` in MindFormers 2.1.0; then q, k and v follow."""
    toy = mc.toy("telechat2-mcore", dtype="fp32")
    made = mc.map(toy, "telechat2-mcore")
    q = np.array(mc.read(toy, "transformer.h.1.self_attention.query.weight"))
    packed = np.array(mc.read(toy, "transformer.h.1.self_attention.key_value.weight")).reshape(2, 2 * 6, 96)  # two heads of six
    k, v = packed[:, :6].reshape(12, 96), packed[:, 6:].reshape(12, 96)
    found = mc.read(made, "decoder.layers.1.self_attention.linear_qkv.weight")
    assert found.tobytes() == np.concatenate([q, k, v]).tobytes()
    gate, up = (np.array(mc.read(toy, f"transformer.h.1.mlp.{name}_proj.weight")) for name in ("gate", "up"))
    assert mc.read(made, "decoder.layers.1.mlp.linear_fc1.weight").tobytes() == np.concatenate([gate, up]).tobytes()


def test_a_folder_of_telechat2_leads_to_the_older_layout_unless_asked_otherwise_and_the_names_tell_on_the_way_back(tmp_path: Path) -> None:
    toy = mc.toy("telechat", tmp_path / "hf")
    assert mc.map(mc.load(tmp_path / "hf")).family == "telechat"
    made = mc.map(mc.load(tmp_path / "hf"), "telechat2-mcore")
    back = mc.map(without_memory(made), to="hf", config=toy.config)
    assert back.family == "telechat2-mcore"
    assert raws_of(back) == raws_of(toy)
