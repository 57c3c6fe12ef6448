"""An exported `weight_converters` list, run by MindFormers' own template and operations, gives what `mc.map` gives, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.author.exporting.converter_ops import is_loaded_by_template
from mfconv_nb.author.exporting.troubleshooter import CONV1D
from mfconv_nb.author.exporting.weight_converters import converters_of, converters_text
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import MappingError, UsageError
from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.forms import all_forms
from mfconv_nb.rules import Family, Rule
from tests.mindformers_package import mindformers_modules
from tests.support import numbered, same
from tests.toys import arrays_of

OP, TEMPLATE = (f"mindformers.checkpoint.converter.{name}" for name in ("convert_op", "template"))
STAND_INS: dict[str, dict[str, Any]] = {
    "mindformers.parallel_core.transformer_config": {"TransformerConfig": object},
    "mindformers.parallel_core.transformer_config_utils": {"convert_to_transformer_config": None},
    "mindformers.checkpoint.sharded_tensor": {"ShardedTensor": object},
    "mindformers.tools.logger": {"logger": SimpleNamespace(warning=lambda *_: None)},
}


def sayable() -> list[Family]:
    """Every form of every family that can be said."""
    found = []
    for form in (form for family in known_families() for form in all_forms(family)):
        try:
            converters_of(form, form.toy)
            found.append(form)
        except MappingError as error:
            if error.code != "MFC314":
                raise
    return found


SAYABLE = sayable()


def label(form: Family) -> str:
    return " ".join([form.key, *(str(value) for value in form.chosen.values())])


def converted(text: str, tensors: dict[str, Any], config: Any = None, *, back: bool = False) -> dict[str, Any]:
    """What MindFormers' template makes of some tensors with an exported list."""
    with mindformers_modules(OP, TEMPLATE, stand_ins=STAND_INS) as (_, template):
        names: dict[str, Any] = {}
        exec(compile(text, "weight_converters.py", "exec"), names)
        made = template.WeightTemplate(weight_converters=names["weight_converters"])
        if config is not None:
            made.set_model_config(config)
            for op in made.weight_converters:
                op.optimizer_parallel_size = 1  # outside of a run their parallel context says -1
        if back:
            return dict(made.get_hf_state_dict(tensors))
        return {name: parameter.asnumpy() for name, parameter in made.get_mf_state_dict(tensors).items()}


def model_of(config: Any) -> SimpleNamespace | None:
    """What MindFormers' operations ask of a model's config, where it has heads of one size."""
    if "head_dim" not in config:
        return None
    return SimpleNamespace(
        num_attention_heads=config["num_attention_heads"],
        num_query_groups=config["num_key_value_heads"],
        kv_channels=config["head_dim"],
        hidden_size=config["hidden_size"],
        num_moe_experts=config.get("num_experts"),
        moe_ffn_hidden_size=config.get("moe_intermediate_size"),
        tensor_model_parallel_size=1,
        expert_model_parallel_size=1,
    )


@pytest.mark.real_frameworks
@pytest.mark.parametrize("form", [form for form in SAYABLE if not is_loaded_by_template(form)], ids=label)
def test_mindformers_own_operations_give_what_map_gives(form: Family) -> None:
    toy = mc.toy(form.key, dtype="fp32", options=form.chosen)
    ops, notes = converters_of(form, toy.config)
    chosen: dict[str, Any] = dict(form.chosen)
    made, text, model = arrays_of(mc.map(toy, form.key, **chosen)), converters_text(form, ops, notes), model_of(toy.config)
    assert same(converted(text, arrays_of(toy), model), made)


def test_all_mcore_families_can_be_said_and_fifteen_others() -> None:
    told = {form.key for form in SAYABLE}
    assert {"llama", "qwen2", "glm", "internlm", "clip", "telechat", "llava", "qwen2-mcore", "qwen3", "qwen3-moe", "glm4-mcore"} <= told
    assert not told & {"mixtral", "bloom", "internlm2", "deepseek3"}
    assert {"deepseekv3", "deepseek4", "glm4-moe", "telechat3-moe"} <= told
    assert len(told) >= 23


@pytest.mark.real_frameworks
def test_q_k_and_v_by_group_with_gate_and_up_in_turn() -> None:
    toy = mc.toy("llama", dtype="fp32", attention_bias=False)
    form = next(f for family in known_families() if family.key == "llama" for f in all_forms(family) if f.chosen["qkv_concat"] == "grouped")
    ops, notes = converters_of(form, toy.config)
    assert {op.name for op in ops} == {"RenameConvertOp", "ConcatConvertOp", "QKVConvertOp"}
    c = toy.config
    assert c is not None
    model = SimpleNamespace(
        num_attention_heads=c["num_attention_heads"],
        num_query_groups=c["num_key_value_heads"],
        kv_channels=c["head_dim"],
        hidden_size=c["hidden_size"],
        tensor_model_parallel_size=1,
    )
    text = converters_text(form, ops, notes)
    there = converted(text, arrays_of(toy), model)
    assert same(there, arrays_of(mc.map(toy, "llama", qkv_concat="grouped")))


@pytest.mark.real_frameworks
def test_the_way_back_needs_the_sizes_that_a_config_tells() -> None:
    toy = mc.toy("llama", dtype="fp32")
    form = next(f for f in SAYABLE if f.key == "llama" and f.chosen["qkv_concat"] is True)
    ops, notes = converters_of(form, toy.config)
    assert "split_sizes=[120, 40, 40]" in converters_text(form, ops, notes)
    there = converted(converters_text(form, ops, notes), arrays_of(toy))
    assert same(converted(converters_text(form, ops, notes), there, back=True), arrays_of(toy))
    text = converters_text(form, *converters_of(form))
    assert "No way back: ConcatConvertOp" in text
    with pytest.raises(ValueError):
        converted(text, there, SimpleNamespace(), back=True)  # 200 rows are not three equal parts


@pytest.mark.real_frameworks
def test_experts_side_by_side_and_a_split_row_by_row() -> None:
    expert = "m.{layer}.experts.{expert}."
    rules = (
        Rule(
            (expert + "g.weight", expert + "u.weight"),
            "d.{layer}.w1",
            "gate hidden, up hidden -> (expert hidden) (gate + up)",
            {"gate": 3, "up": 3},
        ),
        Rule(expert + "d.weight", "d.{layer}.w2", "hidden ffn -> (expert ffn) hidden"),
        Rule("m.{layer}.scale", ("d.{layer}.a", "d.{layer}.b"), "(one + two) -> one, two", sizes={"one": 1, "two": 1}),
    )
    family = Family("mine", "experts", rules, {})
    ops, notes = converters_of(family)
    text = converters_text(family, ops, notes)
    assert [op.name for op in ops] == ["ExpertsConvertOp", "ExpertsConvertOp", "ScaleSplitConvertOp"]
    one = {
        f"m.0.experts.{e}.{n}.weight": numbered(*s, first=100 * e)
        for e in range(2)
        for n, s in (("g", (3, 5)), ("u", (3, 5)), ("d", (5, 3)))
    }
    one["m.0.scale"] = numbered(2)
    mapped = arrays_of(mc.map(mc.load(one), family, to="mf"))
    with mindformers_modules(OP, stand_ins=STAND_INS):
        names: dict[str, Any] = {}
        exec(text, names)
        found: dict[str, Any] = {}
        for op in names["weight_converters"]:
            for key, value in {"num_moe_experts": 2, "hidden_size": 5, "moe_ffn_hidden_size": 3, "expert_parallel_size": 1}.items():
                setattr(op, key, value)
            op.optimizer_parallel_size = 1
            stacked = {n.format(0, 0): np.stack([one[n.format(0, e)] for e in range(2)]) for n in op.hf_names if n.count("{}") == 2}
            found |= op.hf_to_mf(stacked or {"m.0.scale": one["m.0.scale"]})
    assert same(found, mapped)


def test_every_rule_that_cannot_be_said_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="MFC314") as raised:
        mc.author.export("mixtral", tmp_path / "c.py", to="weight_converters")
    assert str(raised.value.found).count("ExpertsConvertOp") == 3
    with pytest.raises(MappingError, match="their template hands such a tensor on"):
        mc.author.export("internlm2", tmp_path / "c.py", to="weight_converters")
    rules = (Rule("a.{n}.w", "x.{n}.w"), Rule("{i}.{j}.{k}", "y.{i}.{j}.{k}"))  # {} of theirs takes letters too, and the longer one wins
    with pytest.raises(MappingError, match=r"would go to \{\}\.\{\}\.\{\}"):
        mc.author.export(Family("f", "f", rules, {}), tmp_path / "c.py", to="weight_converters")
    with pytest.raises(UsageError, match="MFC501"):
        mc.author.export("llama", tmp_path / "c.py", to="nothing")
    with pytest.raises(UsageError, match="MFC501"):
        mc.author.export("llama", tmp_path / "c", to="mindformers", names=["a"])
    assert not list(tmp_path.iterdir())


def test_a_weight_map_lists_every_name_of_a_checkpoint(tmp_path: Path) -> None:
    toy = mc.toy("llama")
    mc.author.export("llama", tmp_path / "map.json", to="troubleshooter", names=toy)
    renamed, values = json.loads((tmp_path / "map.json").read_text())
    assert list(renamed) == [t.name for t in toy]
    assert sorted(renamed.values()) == sorted(t.name for t in mc.map(toy, "llama"))
    assert values == {}
    mc.author.export("whisper", tmp_path / "whisper.json", to="troubleshooter")
    renamed, values = json.loads((tmp_path / "whisper.json").read_text())
    assert values == {f"model.encoder.conv{n}.weight": CONV1D for n in (1, 2)}
    assert set(renamed) == {t.name for t in mc.toy("whisper")}


def test_a_weight_map_of_more_than_renames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="MFC314") as raised:
        mc.author.export("bloom", tmp_path / "map.json", to="troubleshooter")
    assert "query_key_value.weight" in str(raised.value.found)
    with pytest.raises(MappingError, match="MFC303"):
        mc.author.export("llama", tmp_path / "map.json", to="troubleshooter", names=["model.norm.weight", "model.more.weight"])
    assert not list(tmp_path.iterdir())


def test_a_family_without_rules_is_a_text_that_python_reads(tmp_path: Path) -> None:
    mc.author.export(Family("empty", "nothing", (), {}), tmp_path / "empty.py", to="weight_converters")
    names: dict[str, Any] = {}
    exec((tmp_path / "empty.py").read_text(), names)
    assert names["weight_converters"] == []


def test_a_name_that_no_rule_knows_is_told_with_the_nearest_pattern(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"Did you mean 'model\.layers\.\{layer\}\.mlp\.up_proj\.weight'"):
        mc.author.export("llama", tmp_path / "map.json", to="troubleshooter", names=["model.layers.0.mlp.upp_proj.weight"])


def test_the_command_writes_each_form_and_lists_the_options_of_the_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "llama", str(tmp_path / "c.py"), "--to", "weight_converters", "--qkv_concat", "True"]) == 0
    assert "ConcatConvertOp" in (tmp_path / "c.py").read_text()
    assert run(["export", "glm", str(tmp_path / "m.json"), "--to", "troubleshooter"]) == 0
    capsys.readouterr()
    for words in (["export", "llama", "--help"], ["export", "--to", "mindformers", "llama", "--help"]):
        assert run(words) == 0
        assert "--qkv_concat" in capsys.readouterr().out
    assert run(["export", "--help"]) == 0
    assert "--qkv_concat False or" not in capsys.readouterr().out
