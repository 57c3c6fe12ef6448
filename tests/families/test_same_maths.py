"""What a config.json says of its model counts before names: one that no family lists is refused, until somebody says what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import MappingError, NotListedError
from mfconv_nb.core.sizes import RUN_CONFIG
from mfconv_nb.families import registry
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.same_maths import describe_unlisted, listed_types
from mfconv_nb.mapping.rules import derive_family
from mfconv_nb.steps.inspecting.families import family_report
from tests.toys import refused_with


def toy_of(key: str) -> Checkpoint:
    """The toy of a family as a stranger sees it: nothing remembers the family."""
    toy = mc.toy(key)
    return replace(toy, history=replace(toy.history, family=None))


def llama(**said: Any) -> Checkpoint:
    """A small Llama whose config says something else; a key that is None is left away."""
    toy = toy_of("llama")
    return replace(toy, config={k: v for k, v in {**(toy.config or {}), **said}.items() if v is not None})


def refusal(source: Checkpoint, **how: Any) -> NotListedError:
    return refused_with("MFC302", lambda: mc.map(source, **how), NotListedError)


@pytest.mark.parametrize("to", ["mf", "hf"])
def test_a_model_type_that_no_family_lists_is_refused_both_ways_with_the_family_that_its_names_fit(to: str) -> None:
    config = {"model_type": "my_moonlit", "architectures": ["MyMoonlitForCausalLM"]}
    mapped = mc.map(llama(), "llama")
    there = replace(mapped, config={**LLAMA.toy, **config}, history=replace(mapped.history, family=None, original=None))
    error = refusal(llama(**config) if to == "mf" else there, to=to)
    assert "model_type 'my_moonlit', which no family lists; its names fit " in str(error.found)
    assert "llama, mistral, internlm3" in str(error.expected)
    assert "Equal names are not equal mathematics." in str(error.hint)
    assert {"model": "llama"} in error.choices
    said = mc.map(llama(**config) if to == "mf" else there, "llama", to=to)
    assert "config.json says model_type 'my_moonlit'; llama is for llama, mistral" in " ".join(said.report.notes)


def test_what_was_said_once_is_remembered_for_the_way_back(tmp_path: Path) -> None:
    source = llama(model_type="moonlit", architectures=None)
    mc.save(mc.map(source, "llama"), tmp_path / "out.ckpt")
    back = mc.map(mc.load(tmp_path / "out.ckpt"))
    assert {s.name: s.shape for s in back.specs} == {s.name: s.shape for s in source.specs}


@pytest.mark.parametrize("model_type", [["llama"], {"llama": 1}, 3, True, " llama", "LLAMA", "llama\n", "llama4", "\x1b[2J"])
def test_a_model_type_that_is_not_exactly_a_listed_one_is_refused_in_one_line(model_type: Any) -> None:
    error = refusal(llama(model_type=model_type))
    assert all(line.isprintable() for line in str(error).split("\n"))


@pytest.mark.parametrize("nothing", [None, "", [], 0])
def test_a_config_without_a_model_type_is_told_by_its_names(nothing: Any) -> None:
    assert mc.map(llama(model_type=nothing)).family == "llama"
    assert mc.map(llama(model_type=nothing, architectures=None)).family == "llama"


@pytest.mark.parametrize(
    ("classes", "odd"),
    [
        (["LlamaForCausalLM"], None),
        (["LLaMAForCausalLM", "LlamaModel", "LlamaForSequenceClassification"], None),
        (["MistralForCausalLM"], None),
        (["LlamaForCausalLM", "GemmaForCausalLM"], "GemmaForCausalLM"),
        (["LlamaEncoderModel"], "LlamaEncoderModel"),
        (["LlamaBidirectionalForSequenceClassification"], "LlamaBidirectionalForSequenceClassification"),
        (["ForCausalLM"], "ForCausalLM"),
        ([], None),
        ("GemmaForCausalLM", "GemmaForCausalLM"),  # a list of one without its brackets says it too
        ("LlamaForCausalLM", None),
        ({"GemmaForCausalLM": 1}, None),
        ([3, None], None),
    ],
)
def test_a_class_that_contradicts_the_model_type_is_refused(classes: Any, odd: str | None) -> None:
    source = llama(architectures=classes)
    if odd is None:
        assert mc.map(source).family == "llama"
    else:
        error = refusal(source)
        assert f"the class '{odd}', which llama does not list; its names fit llama" in str(error.found)


def test_a_class_alone_says_the_model_too() -> None:
    assert "'GemmaForCausalLM'" in str(refusal(llama(model_type=None, architectures=["GemmaForCausalLM"])))
    assert mc.map(llama(model_type=None, architectures=["MyLlamaForCausalLM"])).family == "llama"


def test_the_class_in_the_yaml_of_a_run_is_one_of_mindformers_and_refuses_nothing() -> None:
    run = {**LLAMA.toy, RUN_CONFIG: "run.yaml", "architectures": ["MyOwnNetwork"]}
    assert describe_unlisted(LLAMA, {k: v for k, v in run.items() if k != "model_type"}, None) is None
    assert describe_unlisted(LLAMA, {**run, "model_type": "moonlit"}, None) == "model_type 'moonlit'"


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        ({"sliding_window": None}, True),
        ({"sliding_window": 64, "max_position_embeddings": 64}, True),
        ({"sliding_window": 63, "max_position_embeddings": 64}, False),
        ({"sliding_window": 4096, "max_position_embeddings": 32768}, False),
        ({"max_position_embeddings": 4096}, True),  # transformers takes 4,096 where nothing is said
        ({"max_position_embeddings": 4097}, False),
        ({"sliding_window": "wide"}, False),
        ({"sliding_window": 1 << 40, "max_position_embeddings": "many"}, False),
    ],
)
def test_mistral_is_a_llama_only_where_its_window_covers_the_longest_text(said: dict[str, Any], accepted: bool) -> None:
    toy = toy_of("llama")
    kept = {k: v for k, v in (toy.config or {}).items() if k != "max_position_embeddings"}
    source = replace(toy, config={**kept, "model_type": "mistral", "architectures": ["MistralForCausalLM"], **said})
    if accepted:
        assert mc.map(source).family == "llama"
    else:
        assert "model_type 'mistral' with sliding_window=" in str(refusal(source).found)
        assert mc.map(source, "llama").report.notes


@pytest.mark.parametrize(
    ("key", "said", "accepted"),
    [
        ("qwen2", {"sliding_window": 16, "max_window_layers": 2}, True),  # not switched on, as Qwen publishes it
        ("qwen2", {"use_sliding_window": False, "sliding_window": 16}, True),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16}, False),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64}, True),
        ("qwen3-moe", {"use_sliding_window": True, "sliding_window": 16}, False),
        ("mixtral", {}, True),
        ("mixtral", {"sliding_window": None}, True),
        ("mixtral", {"sliding_window": 16}, False),
    ],
)
def test_a_window_that_a_familys_own_type_switches_on_is_refused(key: str, said: dict[str, Any], accepted: bool) -> None:
    toy = toy_of(key)
    source = replace(toy, config={**(toy.config or {}), "max_position_embeddings": 64, **said})
    if accepted:
        assert mc.map(source).family == key
    else:
        assert "sliding_window='16' for '64' positions" in str(refusal(source).found)


def test_a_window_is_seen_for_a_family_of_ones_own_too() -> None:
    mine = derive_family(LLAMA, "mine", "", model_types=("mistral",))
    config = {"model_type": "mistral", "max_position_embeddings": 64, "sliding_window": 16}
    assert "sliding_window='16'" in str(describe_unlisted(mine, config, registry.window_of(config)))
    assert describe_unlisted(mine, {**config, "sliding_window": None}, registry.window_of(config)) is None


def test_facts_of_transformers_stay_true_where_a_registered_family_replaces_a_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    window, layers = registry.window_of({"model_type": "qwen2"}), registry.conv1d_layers("gpt2")
    assert window is not None
    assert "c_proj" in layers
    monkeypatch.setattr(registry, "_registered", {})
    for key in [f.key for f in registry.built_in().values() if f.windows or f.conv1d]:
        mc.register(derive_family(registry.built_in()[key], key, "one without these facts"), replace=True)
    assert registry.window_of({"model_type": "qwen2"}) == window
    assert registry.conv1d_layers("gpt2") == layers


def test_every_part_of_a_model_has_to_be_one_that_the_family_lists() -> None:
    toy = toy_of("llava")
    config = dict(toy.config or {})
    assert mc.map(toy).family == "llava"
    for place, kind in (("text_config", "gemma"), ("vision_config", "siglip_vision_model"), ("audio_config", "whisper")):
        part = {**config.get(place, {}), "model_type": kind}
        error = refusal(replace(toy, config={**config, place: part}))
        assert f"model_type '{kind}' in '{place}', which llava does not list" in str(error.found)
    deep = {**config, "text_config": {**config["text_config"], "inner": {"model_type": "gemma"}}}
    assert "in 'text_config.inner'" in str(refusal(replace(toy, config=deep)).found)
    unsaid = {k: v for k, v in config["text_config"].items() if k != "model_type"}
    assert mc.map(replace(toy, config={**config, "text_config": unsaid})).family == "llava"


def test_a_config_that_is_nested_without_end_is_read_in_bounded_time(tmp_path: Path) -> None:
    text = '{"a": ' * 900 + "{}" + "}" * 900
    config = {**LLAMA.toy, "text_config": json.loads(text)}
    assert mc.map(llama(), config=config).family == "llama"


def test_a_family_of_ones_own_lists_its_types_and_those_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    mine = derive_family(LLAMA, "mine", "", model_types=("mine",), part_types={"text_config": ("llama",)})
    mc.register(mine)
    assert listed_types(mine) == ("mine",)
    config = {"model_type": "mine", "architectures": ["MineForCausalLM"], "text_config": {"model_type": "llama"}}
    assert mc.map(llama(**config)).family == "mine"
    assert "'text_config'" in str(refusal(llama(**{**config, "text_config": {"model_type": "gemma"}})))
    assert "'OtherForCausalLM'" in str(refusal(llama(**{**config, "architectures": ["OtherForCausalLM"]})))
    mc.register(replace(mine, toy={}))
    assert mc.map(llama(**{**config, "architectures": ["OtherForCausalLM"]})).family == "mine"  # which says no class of its own
    with pytest.raises(MappingError, match="part_types"):
        mc.register(replace(mine, part_types={"text_config": "llama"}))


def test_the_page_of_a_family_says_which_model_types_it_takes() -> None:
    assert "model_type: llama, mistral, internlm3, iquestcoder" in str(family_report("llama"))
    assert "model_type of parts: text_config: llama; vision_config: clip_vision_model" in str(family_report("llava"))


@pytest.mark.parametrize(
    ("key", "said", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu', where llama is for 'silu'"),
        ("qwen3", {"hidden_act": "relu"}, "hidden_act 'relu', where qwen3 is for 'silu'"),
        ("deepseek2", {"hidden_act": "gelu"}, "hidden_act 'gelu', where deepseek2 is for 'silu'"),
        ("gpt", {"activation_function": "relu"}, "activation_function 'relu', where gpt is for 'gelu_new'"),
        ("gpt", {"scale_attn_weights": False}, "scale_attn_weights 'False', where gpt is for 'True'"),
        ("gpt", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx 'True', where gpt is for 'False'"),
    ],
)
def test_a_switch_that_changes_the_mathematics_and_no_name_is_said_in_both_directions(key: str, said: dict[str, Any], words: str) -> None:
    toy = mc.toy(key)
    source = replace(toy, config={**(toy.config or {}), **said})
    there = mc.map(source, key)
    assert f"config.json says {words}: " in " ".join(there.report.notes)
    assert f"config.json says {words}: " in " ".join(mc.map(there, key, to="hf").report.notes)


@pytest.mark.parametrize("key", ["llama", "gpt", "wizardcoder", "internlm2", "glm4-moe"])
@pytest.mark.parametrize("act", ["usual", "another word", "nothing", "a run"])
def test_the_activation_of_the_family_under_any_of_its_words_is_not_talked_of(key: str, act: str) -> None:
    toy = mc.toy(key)
    config = dict(toy.config or {})
    name = "activation_function" if "activation_function" in config else "hidden_act"
    others = {"silu": "swish", "gelu": "gelu_pytorch_tanh", "gelu_new": "gelu"}
    config[name] = {"usual": config[name], "another word": others[config[name]], "nothing": None, "a run": "fusedswiglu"}[act]
    config |= {RUN_CONFIG: "run.yaml"} if act == "a run" else {}
    mapped = mc.map(replace(toy, config=config), key)
    assert "where" not in " ".join(mapped.report.notes)
