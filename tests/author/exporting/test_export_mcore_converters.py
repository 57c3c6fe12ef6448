"""Exported lists of the families of MindFormers' newer layout, run by its own template both ways, and as its loader of a folder runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.author.exporting.converter_ops import is_loaded_by_template
from mfconv_nb.author.exporting.weight_converters import converters_of, converters_text
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import MappingError, UsageError
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import family_named, known_families
from mfconv_nb.mapping.forms import all_forms
from mfconv_nb.rules import Family, Rule
from tests.every_form import label, with_every_pair
from tests.mindformers_package import mindformers_modules
from tests.support import numbered, same
from tests.toys import arrays_of

OP, TEMPLATE = (f"mindformers.checkpoint.converter.{name}" for name in ("convert_op", "template"))
WARNINGS: list[str] = []
STAND_INS: dict[str, dict[str, Any]] = {
    "mindformers.parallel_core.transformer_config": {"TransformerConfig": object},
    "mindformers.parallel_core.transformer_config_utils": {"convert_to_transformer_config": None},
    "mindformers.checkpoint.sharded_tensor": {"ShardedTensor": object},
    "mindformers.tools.logger": {"logger": SimpleNamespace(warning=lambda *words: WARNINGS.append(str(words)))},
}
FAMILIES = [family for family in known_families() if is_loaded_by_template(family)]
FORMS = [form for family in FAMILIES for form in all_forms(family)]
PAIRS = [form for family in FAMILIES for form in with_every_pair(family)]
ARRANGED = "use_interleaved_weight_layout_mlp"


def model_of(form: Family, config: Any, **more: Any) -> SimpleNamespace:
    """What MindFormers' operations ask of a model's config."""
    sizes = read_sizes(config, form.sizes).values_by_axis
    inner = {ARRANGED: form.chosen[ARRANGED]} if ARRANGED in form.chosen and form.chosen.get("graph") != "inference" else {}
    heads = config.get("num_attention_heads") or config["n_head"]
    facts = {
        "num_attention_heads": heads,
        "num_query_groups": config.get("num_key_value_heads"),
        "kv_channels": config.get("head_dim") or config["hidden_size"] // heads,
        "hidden_size": config["hidden_size"],
        "num_moe_experts": sizes.get("expert"),
        "moe_ffn_hidden_size": sizes.get("expert_ffn"),
        "tensor_model_parallel_size": 1,
        "expert_model_parallel_size": 1,
    }
    return SimpleNamespace(**{**facts, **inner, **more})


@contextmanager
def template_of(text: str, model: Any) -> Iterator[Any]:
    """MindFormers' template with an exported list and a model's config."""
    with mindformers_modules(OP, TEMPLATE, stand_ins=STAND_INS) as (_, template):
        WARNINGS.clear()
        names: dict[str, Any] = {}
        exec(compile(text, "weight_converters.py", "exec"), names)
        made = template.WeightTemplate(weight_converters=names["weight_converters"])
        made.set_model_config(model)
        yield made


def by_names(parameters: Any) -> dict[str, Any]:
    return {name: p.asnumpy() if hasattr(p, "asnumpy") else p for name, p in parameters.items()}


def loaded(template: Any, tensors: Any, experts: int) -> dict[str, Any]:
    """What comes of a Hugging Face folder: ``ReshardLoader._load_and_slice`` on one rank, then ``load_hf_checkpoint``."""
    ready, stacks, fused = {}, {}, {}  # type: ignore[var-annotated]
    for name, array in tensors.items():
        if template.check_weights_for_experts(name) or template.check_weights_for_qkv(name):
            target, whole = template.preprocess_hf_weights(name, array, stacks, fused, experts)
            if whole is not None:
                ready[target] = whole
        else:
            ready[name] = array
    return by_names(template.get_mf_state_dict(ready))


def exported(form: Family) -> tuple[Any, str, SimpleNamespace, dict[str, Any]]:
    """The toy of a form, its exported list, the model's config, and what ``mc.map`` makes of the toy."""
    toy = mc.toy(form.key, dtype="fp32", options=form.chosen)
    text = converters_text(form, *converters_of(form, toy.config))
    chosen: dict[str, Any] = dict(form.chosen)
    return toy, text, model_of(form, toy.config), arrays_of(mc.map(toy, form.key, **chosen))


def test_all_mcore_families_and_every_form_of_each_can_be_said() -> None:
    assert {family.key for family in FAMILIES} == {
        "deepseek4",
        "deepseekv3",
        "deepseekv32",
        "glm4-mcore",
        "glm4-moe",
        "glm5",
        "qwen2-mcore",
        "qwen3",
        "qwen3-moe",
        "telechat2-mcore",
        "telechat3",
        "telechat3-moe",
    }
    counts = {family.key: len(list(all_forms(family))) for family in FAMILIES}
    assert (counts["deepseekv3"], counts["deepseek4"], counts["glm4-moe"], counts["qwen3"]) == (44, 4, 16, 4)
    for form in FORMS:
        _, notes = converters_of(form, mc.toy(form.key, options=form.chosen).config)
        assert not [note for note in notes if "No way back" in note], label(form)


@pytest.mark.real_frameworks
@pytest.mark.parametrize("form", PAIRS, ids=label)
def test_their_template_gives_our_bytes_both_ways_and_their_loader_too(form: Family) -> None:
    toy, text, model, mapped = exported(form)
    original = arrays_of(toy)
    with template_of(text, model) as template:
        assert same(by_names(template.get_mf_state_dict(original)), mapped)
        assert same(by_names(template.get_hf_state_dict(mapped)), original)
        assert not WARNINGS
    with template_of(text, model) as template:
        found = loaded(template, original, read_sizes(toy.config, form.sizes).values_by_axis.get("expert", 0))
        assert not WARNINGS
    # their loader makes three axes of stacked experts before it asks the list
    assert {name for name in mapped if found[name].ndim != mapped[name].ndim} <= {n for n in mapped if ".experts.weight" in n}
    assert same({name: array.reshape(mapped[name].shape) for name, array in found.items()}, mapped)


@pytest.mark.real_frameworks
@pytest.mark.parametrize(
    "key, more",
    [
        ("glm4-moe", {"attention_bias": False, "use_qk_norm": False}),
        ("glm4-moe", {"num_hidden_layers": 11, "first_k_dense_replace": 2}),
        ("qwen3", {"attention_bias": True}),
        ("telechat3", {"attention_bias": True, "num_key_value_heads": 6}),
        ("deepseekv3", {"num_hidden_layers": 12, "n_routed_experts": 11}),
    ],
)
def test_other_configs_than_that_of_the_toy(key: str, more: dict[str, Any]) -> None:
    for form in [form for form in FORMS if form.key == key and form.chosen.get("with_mtp") != 0][::3]:
        toy = mc.toy(key, dtype="fp32", options=form.chosen, **more)
        text, model = converters_text(form, *converters_of(form, toy.config)), model_of(form, toy.config)
        mapped, original = arrays_of(mc.map(toy, key, **dict(form.chosen))), arrays_of(toy)  # type: ignore[arg-type]
        with template_of(text, model) as template:
            assert same(by_names(template.get_mf_state_dict(original)), mapped)
            assert same(by_names(template.get_hf_state_dict(mapped)), original)
        with template_of(text, model) as template:
            found = loaded(template, original, read_sizes(toy.config, form.sizes).values_by_axis.get("expert", 0))
            assert not WARNINGS
        assert same({name: array.reshape(mapped[name].shape) for name, array in found.items()}, mapped)


@pytest.mark.real_frameworks
def test_two_layouts_of_tensors_with_like_names_keep_their_functions_apart(tmp_path: Path) -> None:
    rules = (
        Rule("m.{layer}.a.w.weight", "decoder.layers.{layer}.a.w.weight", "wide deep -> deep wide"),
        Rule("m.{layer}.b.w.weight", "decoder.layers.{layer}.b.w.weight", "(two deep) wide -> (deep two) wide", sizes={"two": 2}),
        Rule("m.{layer}.c.w.weight", "decoder.layers.{layer}.c.w.weight", "wide deep -> deep wide"),
    )
    family = Family("mine", "mine", rules, {"wide": "wide", "deep": "deep"})
    config = {"wide": 3, "deep": 4}
    text = converters_text(family, *converters_of(family, config))
    assert text.count("\ndef to_") == 4  # a and c share theirs
    one = {f"m.0.{name}.w.weight": numbered(*shape) for name, shape in (("a", (3, 4)), ("b", (8, 3)), ("c", (3, 4)))}
    mapped = arrays_of(mc.map(mc.load(one), family, to="mf", config=config))
    assert mapped["decoder.layers.0.a.w.weight"].tolist() == one["m.0.a.w.weight"].T.tolist()
    with template_of(text, SimpleNamespace()) as template:
        assert same(by_names(template.get_mf_state_dict(one)), mapped)
        assert same(by_names(template.get_hf_state_dict(mapped)), one)


@pytest.mark.real_frameworks
def test_a_fresh_template_gives_the_way_back_outside_of_a_parallel_run() -> None:
    form = next(f for f in FORMS if f.key == "deepseekv3" and f.chosen["graph"] == "dynamic" and f.chosen["with_mtp"] == 1)
    toy, text, model, mapped = exported(form)
    with template_of(text, model) as template:
        assert same(by_names(template.get_hf_state_dict(mapped)), arrays_of(toy))


@pytest.mark.real_frameworks
def test_layers_of_two_digits_and_experts_of_two_digits_reach_their_places() -> None:
    form = next(f for f in FORMS if f.key == "deepseekv3" and f.chosen["with_mtp"] == 1)
    config = {**dict(mc.toy(form.key, options=form.chosen).config or {}), "num_hidden_layers": 12, "n_routed_experts": 13}
    text = converters_text(form, *converters_of(form, config))
    assert '"model.layers.(?=12.){}.mlp.experts.{}.down_proj.weight"' in text
    sizes = read_sizes(config, form.sizes).values_by_axis
    ffn, hidden = sizes["expert_ffn"], sizes["hidden"]
    names = [f"model.layers.{layer}.mlp.experts.{e}.down_proj.weight" for layer in (2, 11, 12) for e in range(13)]
    tensors = {name: np.full((hidden, ffn), n, np.float32) for n, name in enumerate(names)}
    with template_of(text, model_of(form, config)) as template:
        found = by_names(template.get_mf_state_dict(tensors))
        assert same(by_names(template.get_hf_state_dict(found)), tensors)
        assert same({n: a.reshape(13 * ffn, hidden) for n, a in loaded(template, tensors, 13).items()}, found)
    places = ("decoder.layers.2.", "decoder.layers.11.", "mtp.layers.0.transformer_layer.")
    assert set(found) == {place + "mlp.experts.weight2" for place in places}
    assert [found[place + "mlp.experts.weight2"].reshape(13, -1)[:, 0].tolist() for place in places] == [
        [float(n) for n in range(first, first + 13)] for first in (0, 13, 26)
    ]


@pytest.mark.real_frameworks
def test_a_correction_keeps_float32_where_the_model_has_float16() -> None:
    import mindspore as ms

    form = next(f for f in FORMS if f.key == "glm4-moe" and f.chosen["with_mtp"] == 0)
    toy, text, _, mapped = exported(form)
    name = "decoder.layers.1.mlp.router.expert_bias"
    with template_of(text, model_of(form, toy.config, params_dtype=ms.float16)) as template:
        made = template.get_mf_state_dict(arrays_of(toy))
    assert (made[name].dtype, made[name].name) == (ms.float32, name)
    assert made["decoder.layers.1.mlp.router.weight"].dtype == ms.float16
    assert same({name: made[name].asnumpy()}, {name: mapped[name]})


@pytest.mark.real_frameworks
def test_what_cannot_be_made_exactly_stops_and_says_why() -> None:
    form = next(f for f in FORMS if f.key == "deepseekv3" and f.chosen["with_mtp"] == 1 and f.chosen["with_q_rank"] == 0)
    toy, text, model, _ = exported(form)
    other = {**arrays_of(toy)}
    other["model.layers.3.embed_tokens.weight"] = other["model.layers.3.embed_tokens.weight"] + 1
    with template_of(text, model) as template, pytest.raises(ValueError, match="must be equal, and are not"):
        template.get_mf_state_dict(other)
    expert = "model.layers.2.mlp.experts.0.up_proj.weight_scale_inv"
    with template_of(text, model) as template, pytest.raises(ValueError, match="no weight of an expert"):
        template.get_mf_state_dict({expert: np.zeros((1, 1), np.float32)})
    with pytest.raises(ValueError, match="whole tensors only"), template_of(text, model_of(form, toy.config, tensor_model_parallel_size=2)):
        pass


def test_a_list_that_holds_numbers_of_a_config_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("deepseekv3", "glm4-moe", "glm4-mcore", "qwen2-mcore"):
        with pytest.raises(UsageError, match="--config HF_DIR"):
            mc.author.export(key, tmp_path / "c.py", to="weight_converters")
    with pytest.raises(MappingError, match="MFC107"):
        mc.author.export("deepseekv3", tmp_path / "c.py", to="weight_converters", config={"hidden_size": 7})
    assert run(["export", "deepseekv3", str(tmp_path / "c.py"), "--to", "weight_converters"]) == 2
    assert "--config HF_DIR" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    mc.save(mc.toy("deepseekv3"), tmp_path / "hf")
    words = ["export", "deepseekv3", str(tmp_path / "c.py"), "--to", "weight_converters", "--config", str(tmp_path / "hf")]
    assert run([*words, "--graph", "dynamic"]) == 0
    assert "With operations of this file" in capsys.readouterr().out
    assert "EachExpertConvertOp" in (tmp_path / "c.py").read_text()


def test_the_classes_that_a_list_does_not_need_are_not_in_it() -> None:
    form = next(f for f in FORMS if f.key == "qwen3" and not f.chosen["use_contiguous_weight_layout_attention"])
    text = converters_text(form, *converters_of(form, family_named("qwen3").toy))
    assert "class " not in text
    assert "import re" not in text
    assert "QKVConvertOp(" in text
