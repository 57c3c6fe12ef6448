"""Options of a family: given, remembered, told from what a checkpoint shows, or the default; never guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.families.registry import candidates_of, family_named
from mfconv_nb.mapping.forms import all_forms, checked_options
from mfconv_nb.mapping.rules import default_form, form_of, when
from mfconv_nb.rules import Family, Option, Rule
from tests.toys import without_memory


def decided(mapped: Checkpoint, option: str) -> tuple[Any, str]:
    return mapped.options[option], mapped.report.decided[option]


def test_on_the_side_a_checkpoint_goes_to_the_default_is_taken() -> None:
    assert decided(mc.map(mc.toy("internlm2"), "internlm2"), "qkv_concat") == (True, "default")


def test_what_the_caller_gives_counts_first() -> None:
    mapped = mc.map(mc.toy("internlm2"), "internlm2", qkv_concat=False)
    assert decided(mapped, "qkv_concat") == (False, "given")
    assert "model.layers.0.attention.wq.weight" in mapped
    assert "qkv_concat=False: given" in str(mapped.report)


def test_on_the_side_it_comes_from_names_tell(tmp_path: Path) -> None:
    for value in (True, False):
        source = mc.toy("internlm2")
        mapped = without_memory(mc.map(source, "internlm2", qkv_concat=value))
        back = mc.map(mapped, "internlm2", to="hf", config=source.config)
        assert decided(back, "qkv_concat") == (value, "told from names")
        assert mc.diff(back, source, values=True).equal


@pytest.mark.parametrize(
    "key, option, value",
    [
        ("glm-n", "embedding", "embedding_table"),
        ("glm-n", "embedding", "embedding_weight"),
        ("cogvlm2", "sft", "lora"),
        ("qwenvl", "use_qkv_concat", True),
        ("deepseek3", "use_grouped_gemm", False),
        ("llama", "qkv_concat", False),
    ],
)
def test_a_name_of_mindformers_tells_how_its_file_was_made(key: str, option: str, value: Any) -> None:
    source = mc.toy(key)
    mapped = without_memory(mc.map(source, key, **{option: value}))
    back = mc.map(mapped, key, to="hf", config=source.config)
    assert back.options[option] == value
    assert mc.diff(back, source, values=True).equal


@pytest.mark.parametrize(
    "key, options, told",
    [
        ("cogvlm2", {"modal": "image"}, {"modal": "image"}),
        ("gpt", {"prefix": "transformer."}, {"prefix": "transformer."}),
        ("bloom", {"prefix": "transformer."}, {"prefix": "transformer."}),
        ("telechat", {"telechat_type": "telechat_7b"}, {"telechat_type": "telechat_7b"}),
        ("telechat", {"telechat_type": "telechat_52b"}, {"telechat_type": "telechat_52b", "conv1d": True}),
        ("swin", {"is_pretrain": True}, {"is_pretrain": True}),
        ("bert", {"layer_norm": "weight_bias"}, {"layer_norm": "weight_bias"}),
        ("deepseek3", {"with_mtp": 0}, {"with_mtp": 0}),
        ("llava", {"tower": ""}, {"tower": ""}),
        ("llama_meta", {"embedding_slices": "rows"}, {"embedding_slices": "rows"}),
    ],
)
def test_a_name_or_a_shape_of_hugging_face_tells_which_model_it_is(key: str, options: dict[str, Any], told: dict[str, Any]) -> None:
    source = mc.toy(key, options=options)
    mapped = mc.map(Checkpoint(source.tensors, side="hf", config=source.config), key)
    assert {name: mapped.options[name] for name in told} == told


def test_an_option_that_changes_nothing_is_not_reported() -> None:
    mapped = mc.map(mc.toy("telechat"), "telechat")
    assert set(mapped.report.decided) == {"telechat_type", "qkv_concat"}
    assert "conv1d" not in str(mapped.report)


def test_where_names_are_alike_shapes_tell() -> None:
    source = mc.toy("mixtral")
    for value in (True, False):
        mapped = without_memory(mc.map(source, "mixtral", use_gmm=value))
        back = mc.map(mapped, "mixtral", to="hf", config=source.config)
        assert decided(back, "use_gmm") == (value, "told from shapes")
        assert mc.diff(back, source, values=True).equal


def test_where_neither_names_nor_shapes_tell_the_caller_is_asked() -> None:
    source = mc.toy("mixtral", intermediate_size=96)  # as wide as the model: stacked and transposed experts look alike
    mapped = without_memory(mc.map(source, "mixtral", use_gmm=True))
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mapped, "mixtral", to="hf", config=source.config)
    assert refused.value.code == "MFC302"
    assert "--use_gmm False; --use_gmm True" in str(refused.value)
    assert mc.diff(mc.map(mapped, "mixtral", to="hf", config=source.config, use_gmm=True), source, values=True).equal


def test_a_manifest_remembers_what_was_decided(tmp_path: Path) -> None:
    source = mc.toy("mixtral", intermediate_size=96)
    mc.save(mc.map(source, "mixtral", use_gmm=True), tmp_path / "mf.ckpt")
    back = mc.map(mc.load(tmp_path / "mf.ckpt"))
    assert decided(back, "use_gmm") == (True, "remembered")
    assert mc.diff(back, source, values=True).equal


def test_verify_finds_the_form_of_a_checkpoint_without_a_manifest(tmp_path: Path) -> None:
    source = mc.toy("internlm2", tmp_path / "hf")
    mc.save(mc.map(source, "internlm2", qkv_concat=False), tmp_path / "mf.safetensors")
    (tmp_path / "mf.safetensors").rename(tmp_path / "from_elsewhere.safetensors")
    assert mc.verify(source, tmp_path / "from_elsewhere.safetensors", "internlm2").equal


@pytest.mark.parametrize(
    "key, option, word, value",
    [
        ("internlm2", "qkv_concat", "False", False),
        ("internlm2", "qkv_concat", "false", False),
        ("internlm2", "qkv_concat", "no", False),
        ("internlm2", "qkv_concat", "0", False),
        ("internlm2", "qkv_concat", "True", True),
        ("internlm2", "qkv_concat", 1, True),
        ("llama", "qkv_concat", "grouped", "grouped"),
        ("mixtral", "use_gmm", "False", False),
        ("cogvlm2", "modal", "image", "image"),
        ("qwenvl", "vit_num_head", "2", 2),
        ("qwenvl", "emb_strategy", "4", 4),
        ("telechat", "mp", "1", 1),
        ("telechat", "telechat_type", "telechat_7b", "telechat_7b"),
        ("swin", "is_pretrain", "False", False),
        ("bloom", "n_head", "6", 6),
    ],
)
def test_a_word_is_taken_as_it_is_meant(key: str, option: str, word: object, value: object) -> None:
    found = checked_options(family_named(key), {option: word})
    assert found == {option: value}
    assert type(found[option]) is type(value)


@pytest.mark.parametrize(
    "key, option, word, code, words",
    [
        ("internlm2", "qkv_concat", "maybe", "MFC501", "True or False"),
        ("cogvlm2", "modal", "vidoe", "MFC501", "Did you mean 'video'?"),
        ("telechat", "mp", "3", "MFC501", "4 or 1 or 2 or 8 or 16"),
        ("bloom", "n_head", "many", "MFC501", "a whole number"),
        ("mixtral", "use_gmn", "True", "MFC305", "Did you mean 'use_gmm'?"),
        ("yi", "modal", "video", "MFC305", "qkv_concat"),
    ],
)
def test_an_option_or_a_value_that_is_not_known_is_refused(key: str, option: str, word: str, code: str, words: str) -> None:
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.toy(key), key, **{option: word})
    assert refused.value.code == code
    assert words in str(refused.value)


@pytest.mark.parametrize("option, value", [("n_head", 5), ("hidden_size", 97)])
def test_a_size_that_contradicts_the_config_is_refused(option: str, value: int) -> None:
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(mc.toy("bloom"), "bloom", **{option: value})
    assert refused.value.code == "MFC304"


def test_a_size_stands_in_where_there_is_no_config() -> None:
    source = mc.toy("bloom")
    alone = Checkpoint(source.tensors, side="hf")
    with pytest.raises(mc.MfconvError):
        mc.map(alone, "bloom")
    assert mc.diff(mc.map(alone, "bloom", n_head=6), mc.map(source, "bloom"), values=True).equal


@pytest.mark.parametrize(
    "key, family",
    [("qwen", "qwen"), ("qwen", "qwen2"), ("qwen", "qwen2-moe"), ("deepseek", "deepseek"), ("deepseek", "deepseek2"), ("swin", "swin_hf")],
)
def test_a_key_that_stands_for_several_families_is_told_apart_by_the_names(key: str, family: str) -> None:
    assert mc.map(mc.toy(family), key).family == family


def test_a_key_that_stands_for_one_family_is_not_another() -> None:
    assert [f.key for f in candidates_of("qwen2")] == ["qwen2"]
    with pytest.raises(mc.MfconvError):
        mc.map(mc.toy("qwen"), "qwen2")


def test_the_first_layers_are_taken_of_every_stack() -> None:
    mapped = mc.map(mc.toy("deepseek2"), "deepseek2", layers=2)
    assert {n.split(".")[2] for n in mapped.tensors if ".layers." in n} == {"0", "1"}
    assert mapped.config is not None
    assert mapped.config["num_hidden_layers"] == 2
    assert mc.map(mapped, "deepseek2", to="hf").report.plan.problems == ()


# ---- the machinery ---------------------------------------------------------------------------------------------------------

SMALL = Family(
    "small",
    "nothing that exists",
    rules=(*when(Rule("{prefix}a", "b", "x"), kind="plain"), *when(Rule("{prefix}a", "c", "x"), kind="other")),
    sizes={"x": "x * {times}", "unused": "not_there"},
    options=(Option("prefix", ("", "p.")), Option("kind", ("plain", "other")), Option("times", (2, 3))),
)


def test_every_combination_of_options_is_a_form_with_its_own_rules_and_sizes() -> None:
    forms = all_forms(SMALL)
    assert len(forms) == 8
    assert forms[0].chosen == default_form(SMALL).chosen == {"prefix": "", "kind": "plain", "times": 2}
    form = form_of(SMALL, {"prefix": "p.", "kind": "other", "times": 3})
    assert [(r.hf, r.mf) for r in form.rules if isinstance(r, Rule)] == [("p.a", "c")]
    assert form.sizes == {"x": "x * 3"}  # and a size that no rule speaks of need not be in a config


def test_many_options_do_not_make_endless_forms() -> None:
    options = tuple(Option(f"o{n}", (False, True), side="both") for n in range(12))
    family = replace(SMALL, rules=(Rule("a", "b"),), options=options)
    assert mc.map(mc.load({"a": np.ones(1, np.float32)}), family).options == {f"o{n}": False for n in range(12)}


# ---- without a config ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["gpt", "baichuan2", "qwen", "llama", "yi", "mixtral", "whisper", "glm-n", "swin", "telechat", "clip"])
def test_what_shapes_alone_determine_needs_no_config(key: str) -> None:
    source = mc.toy(key)
    assert mc.diff(mc.map(without_memory(source), key), mc.map(source, key), values=True).equal


@pytest.mark.parametrize("key, option", [("bloom", "--n_head"), ("qwenvl", "--vit_num_head"), ("cogvlm2", "--config")])
def test_where_a_size_is_needed_the_hint_says_what_gives_it(key: str, option: str) -> None:
    with pytest.raises(mc.MfconvError) as refused:
        mc.map(without_memory(mc.toy(key)), key)
    assert "There is no config.json" in str(refused.value)
    assert option in str(refused.value)
