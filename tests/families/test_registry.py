"""The families that are known, and how one is told from names and config."""

from __future__ import annotations

from typing import Any

import pytest

from mfconv_nb.checkpoint import HF, MF
from mfconv_nb.config import read_sizes
from mfconv_nb.errors import MappingError
from mfconv_nb.families.registry import family_named, identify, known_families
from mfconv_nb.layout import parse_layout
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.plan import plan_mapping
from mfconv_nb.mapping.rules import Drop, Family, Rule, Tied, layouts_of, sides_of

KEYS = [f.key for f in known_families()]


def names_of(family: Family, side: str) -> list[str]:
    return [s.name for s in expected_specs(family, read_sizes(family.toy, family.sizes), side)]


def test_llama_is_known_and_every_key_leads_to_its_family() -> None:
    assert "llama" in KEYS
    assert len(set(KEYS)) == len(KEYS)
    assert [family_named(k).key for k in KEYS] == KEYS


@pytest.mark.parametrize("key", KEYS)
def test_a_family_explains_itself_and_has_a_toy(key: str) -> None:
    family = family_named(key)
    assert family.covers
    assert family.source
    assert family.toy
    for rule in family.rules:
        if isinstance(rule, Drop):
            assert rule.why
        elif rule.layout is not None:
            layout = parse_layout(rule.layout)
            for to in (HF, MF):
                sides, layouts = sides_of(rule, to), layouts_of(rule, to)
                assert layouts is not None
                assert [len(s) for s in sides] == [len(s) for s in layouts]
            assert layout.text == rule.layout
        if isinstance(rule, Rule | Tied) and rule.only_if is not None:
            assert rule.only_if in family.sizes


@pytest.mark.parametrize("to", [HF, MF])
@pytest.mark.parametrize("key", KEYS)
def test_the_toy_of_a_family_maps_without_a_problem_both_ways(key: str, to: str) -> None:
    family = family_named(key)
    sizes = read_sizes(family.toy, family.sizes)
    here, there = (MF, HF) if to == HF else (HF, MF)
    found = plan_mapping(expected_specs(family, sizes, here), family, to, sizes=sizes)
    assert found.problems == ()
    assert {t for row in found.rows for t in row.targets} == set(expected_specs(family, sizes, there))


@pytest.mark.parametrize("key", KEYS)
def test_a_family_is_told_from_its_config_and_from_its_names(key: str) -> None:
    family = family_named(key)
    names = names_of(family, HF)
    for model_type in family.model_types:
        assert identify(names, {"model_type": model_type}, MF).key == key


def test_llama_is_told_from_names_alone_on_either_side() -> None:
    family = family_named("llama")
    assert identify(names_of(family, HF), None, MF).key == "llama"
    assert identify(names_of(family, MF), None, HF).key == "llama"


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
