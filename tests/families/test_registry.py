"""The families that are known, and how one is told from names and config."""

from __future__ import annotations

from typing import Any

import pytest

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.layout import parse_layout
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import family_named, identify, known_families
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.forms import templates_of
from mfconv_nb.mapping.plan import plan_mapping
from mfconv_nb.mapping.rules import Drop, Family, Repeated, Rule, Tied, all_templates, default_form, layouts_of, sides_of
from tests.every_form import forms

KEYS = [f.key for f in known_families()]


def names_of(form: Family, side: str) -> list[str]:
    return [s.name for s in expected_specs(form, read_sizes(form.toy, form.sizes), side)]


def test_llama_is_known_and_every_key_leads_to_its_family() -> None:
    assert "llama" in KEYS
    assert len(set(KEYS)) == len(KEYS)
    assert [family_named(k).key for k in KEYS] == KEYS


def test_no_two_families_have_a_key_in_common() -> None:
    keys = [k for f in known_families() for k in (f.key, *f.aliases)]
    assert len(set(keys)) == len(keys)
    for family in known_families():
        assert {family_named(k).key for k in family.aliases} <= {family.key}
        assert all(family_named(k).key == k for k in (*family.also, *([family.told_as] if family.told_as else [])))


@pytest.mark.parametrize("key", KEYS)
def test_a_family_explains_itself_and_has_a_toy(key: str) -> None:
    family = family_named(key)
    assert family.covers
    assert family.source
    assert family.toy
    assert all(o.help for o in family.options)


@forms
def test_the_sentence_of_a_rule_has_a_part_for_every_name(form: Family) -> None:
    for rule in form.rules:
        if isinstance(rule, Drop):
            assert rule.why
        elif rule.layout is not None:
            layout = parse_layout(rule.layout)
            for to in (HF, MF):
                sides, layouts = sides_of(rule, to), layouts_of(rule, to)
                assert layouts is not None
                assert [len(s) for s in sides] == [len(s) for s in layouts]
            assert layout.text == rule.layout
        if isinstance(rule, Rule | Repeated | Tied) and rule.only_if is not None:
            assert rule.only_if in form.sizes


@pytest.mark.parametrize("to", [HF, MF])
@forms
def test_the_toy_of_a_family_maps_without_a_problem_both_ways(form: Family, to: str) -> None:
    sizes = read_sizes(form.toy, form.sizes)
    here, there = (MF, HF) if to == HF else (HF, MF)
    found = plan_mapping(expected_specs(form, sizes, here), form, to, sizes=sizes)
    assert found.problems == ()
    assert {t for row in found.rows for t in row.targets} == set(expected_specs(form, sizes, there))


@forms
def test_a_family_is_told_from_its_config_and_from_its_names(form: Family) -> None:
    names = names_of(form, HF)
    for model_type in form.model_types:
        first = family_named(form.told_as) if form.told_as else form
        first = form if templates_of(names) - all_templates(first, MF) else first  # the older layout has no place for q without a rank
        assert identify(names, {"model_type": model_type}, MF).key == (first if model_type in first.model_types else form).key
        assert identify(names_of(form, MF), {"model_type": model_type}, HF).key == form.key
    if form.told_as:
        return
    if form.key == "wizardcoder" or (form.chosen.get("prefix") == "transformer." and form.key == "gpt"):
        with pytest.raises(MappingError) as refused:  # GPT-2 and GPTBigCode share every name: said, not guessed
            identify(names, None, MF)
        assert str(refused.value.found) == "2 that fit: gpt, wizardcoder"
    elif form.key in ("deepseekv32", "glm5"):
        with pytest.raises(MappingError) as refused:  # all names of one are names of the other, and the numbers differ
            identify(names, None, MF)
        assert str(refused.value.found) == "2 that fit: deepseekv32, glm5"
    else:
        assert identify(names, None, MF).key == form.key


def test_names_of_mindformers_that_several_families_share_are_refused_with_their_keys() -> None:
    names = names_of(default_form(family_named("llama")), MF)
    assert identify(names, {"model_type": "llama"}, HF).key == "llama"
    with pytest.raises(MappingError) as refused:
        identify(names, None, HF)
    assert refused.value.code == "MFC302"
    assert all(key in str(refused.value) for key in ("baichuan2", "llama"))


@pytest.mark.parametrize("config", [None, {}, {"model_type": "nobody"}])
def test_names_that_no_family_knows_are_refused_with_what_to_do(config: Any) -> None:
    with pytest.raises(MappingError) as refused:
        identify(["a.b", "model.norm.weight"], config, MF)
    assert refused.value.code == "MFC302"
    assert "--model KEY" in str(refused.value)


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(MappingError) as refused:
        family_named("LLaMA".lower() + "2")
    assert refused.value.code == "MFC301"
    assert "Did you mean 'llama'?" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "kind"),
    [("llama", "LlamaForCausalLM"), ("baichuan2", "Baichuan7BV2ForCausalLM"), ("internlm2", "InternLM2ForCausalLM")],
)
def test_where_several_families_share_the_names_the_class_of_the_model_decides(key: str, kind: str) -> None:
    family = default_form(family_named("llama"))
    names = [s.name for s in expected_specs(family, read_sizes(family.toy, family.sizes), MF)]
    for said in ([kind], kind):  # of a list of one some leave the brackets out
        assert identify(names, {"architectures": said}, HF).key == key
    for unknown in (["MyForCausalLM"], "MyForCausalLM", [3], None):
        with pytest.raises(MappingError, match="MFC302"):
            identify(names, {"architectures": unknown}, HF)
