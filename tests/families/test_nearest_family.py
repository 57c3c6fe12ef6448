"""A few strange names change neither the family nor the form that a checkpoint is compared with: the nearest counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import SeveralFitError
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import NoFamilyFitsError, family_named, identify, known_families
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.rules import default_form
from mfconv_nb.steps.converting.map_report import CoverageError
from tests.support import Array, work_of

KEYS = [f.key for f in known_families()]
Arrays = Mapping[str, Array]


@lru_cache(maxsize=2)
def arrays_of(key: str, side: str) -> Arrays:
    """The toy of a family on a side, as a dict that remembers nothing."""
    toy = mc.toy(key)
    there = toy if side == HF else mc.map(toy, key)
    return {name: np.asarray(mc.read(there, name)) for name in there.tensors}


def a_weight_of_a_layer(arrays: Arrays) -> str:
    """A name with a number, from the middle of the model."""
    numbered = [name for name in arrays if fold(name)[1]]
    return numbered[len(numbered) // 2]


def changes_of(arrays: Arrays) -> Iterator[tuple[str, Arrays, int]]:
    """What is done to a checkpoint, what is left of it, and how many names are strange or absent then."""
    name = a_weight_of_a_layer(arrays)
    yield "added", {**arrays, f"{name.rpartition('.')[0]}.my_own": np.zeros(3, np.float32)}, 1
    yield "added in front", {"my.own.0.sum": np.zeros(3, np.float32), **arrays}, 1
    yield "removed", {n: a for n, a in arrays.items() if n != name}, 1
    yield "renamed", {f"{n}_of_mine" if n == name else n: a for n, a in arrays.items()}, 2


def told(arrays: Arrays, config: Mapping[str, Any] | None, to: str) -> tuple[set[str], list[str]]:
    """The families that are taken or named, and the lines that say what is in the way."""
    source = replace(mc.load(dict(arrays)), config=dict(config) if config is not None else None)
    try:
        return {str(mc.map(source, to=to).family)}, []
    except CoverageError as error:
        return {error.plan.family.key}, str(error.found).split("\n")[1:]
    except NoFamilyFitsError as error:
        return {family.key for family in error.nearest}, re.findall(r"\d+ names? it \w+", str(error.found))
    except SeveralFitError as error:
        return {choice.get("model", str(error.where)) for choice in error.choices}, []


@pytest.mark.parametrize("with_config", [True, False], ids=["config", "no config"])
@pytest.mark.parametrize("side", [HF, MF])
@pytest.mark.parametrize("key", KEYS)
def test_one_strange_tensor_changes_neither_the_family_nor_the_other_problems(key: str, side: str, with_config: bool) -> None:
    family, to = family_named(key), MF if side == HF else HF
    arrays, config = arrays_of(key, side), family.toy if with_config else None
    plain, lines = told(arrays, config, to)
    assert plain & {key, family.told_as}
    for what, changed, count in changes_of(arrays):
        found, more = told(changed, config, to)
        assert found == plain, what
        assert len(more) <= len(lines) + count, what


def deepseek(side: str, *, with_mtp: bool) -> dict[str, Array]:
    """A DeepSeek-V3 in the mcore layout, or on the other side, with the layer that predicts a further token, or without it."""
    arrays = arrays_of("deepseekv3", side)
    last = family_named("deepseekv3").toy["num_hidden_layers"]
    return {n: a for n, a in arrays.items() if with_mtp or not n.startswith(("mtp.", f"model.layers.{last}."))}


@pytest.mark.parametrize("with_mtp", [True, False])
@pytest.mark.parametrize("side", [HF, MF])
def test_strange_tensors_do_not_ask_for_a_layer_that_predicts_further_tokens(side: str, with_mtp: bool) -> None:
    arrays = deepseek(side, with_mtp=with_mtp)
    strange = [n.removesuffix("weight") + "sum_of_mine" for n in arrays if n.endswith(("mlp.gate.weight", "mlp.router.weight"))]
    source = mc.load({**arrays, **{n: np.ones(4, np.float32) for n in strange}}, config=dict(family_named("deepseekv3").toy))
    with pytest.raises(CoverageError) as refused:
        mc.map(source, to=MF if side == HF else HF)
    assert {(p.kind, p.name) for p in refused.value.problems} == {("unmatched", n) for n in strange}
    key = "deepseek3" if side == HF else "deepseekv3"
    form = "" if with_mtp else " (with_mtp=0)"
    names = "2 names it does" if with_mtp and side == MF else "1 name it does"  # there that layer has a name of its own
    assert f"{len(strange)} problems; nearest: {key}{form}; {names} not know" in str(refused.value.found)


def test_names_alone_do_not_lead_from_one_model_to_another_by_leaving_out_what_its_layers_have_more() -> None:
    toy = mc.toy("deepseek2", q_lora_rank=None)
    sinks = {f"model.layers.{n}.self_attn.sinks": np.ones(4, np.float32) for n in (1, 2)}  # part of what its attention computes
    arrays = {**{n: np.asarray(mc.read(toy, n)) for n in toy.tensors}, **sinks}
    with pytest.raises(CoverageError) as refused:
        mc.map(mc.load(arrays))
    assert (refused.value.plan.family.key, refused.value.leave_out) == ("deepseek2", ())
    assert str(refused.value.hint).startswith("Only names say that it is deepseek2, and layers have more than deepseek2 has.")
    with pytest.raises(CoverageError) as refused:
        mc.map(mc.load(arrays), "deepseek2")
    assert refused.value.leave_out == ("model.layers.*.self_attn.sinks",)


def test_names_of_a_model_that_two_families_have_are_refused_with_both() -> None:
    toy = mc.toy("deepseek2", q_lora_rank=None)
    bias = {f"model.layers.{n}.mlp.gate.e_score_correction_bias": np.ones(4, np.float32) for n in (1, 2)}  # as in Moonlight
    with pytest.raises(SeveralFitError) as refused:
        mc.map(mc.load({**{n: np.asarray(mc.read(toy, n)) for n in toy.tensors}, **bias}))
    assert [choice["model"] for choice in refused.value.choices] == ["deepseekv3", "telechat3-moe"]


def test_a_family_that_the_caller_names_is_not_called_the_nearest() -> None:
    source = mc.load({**arrays_of("llama", HF), "my.sum": np.ones(2, np.float32)})
    for family, said in ((None, "1 problem; nearest: llama; 1 name it does not know"), ("llama", "1 problem\n")):
        with pytest.raises(CoverageError) as refused:
            mc.map(source, family)
        assert str(refused.value.found).startswith(said)


def test_names_that_are_nearly_those_of_several_families_are_refused_with_all_of_them_and_what_is_strange() -> None:
    arrays = {**arrays_of("llama", MF), **{f"model.layers.{n}.sum_of_mine": np.ones(2, np.float32) for n in range(3)}}
    without = {n: a for n, a in arrays.items() if n != "model.norm_out.weight"}
    with pytest.raises(NoFamilyFitsError) as refused:
        mc.map(mc.load(without), to=HF)
    strange = "1 name it does not know (model.layers.{0‥2}.sum_of_mine)"
    lacking = "1 name it needs and that is absent (model.norm_out.weight)"
    assert refused.value.found == f"no model_type; nearest: baichuan2, internlm2, llama; {strange} and {lacking}"
    assert "--model baichuan2 or --model internlm2 or --model llama" in str(refused.value.hint)


def test_a_model_that_no_family_lists_is_never_taken_for_the_nearest() -> None:
    arrays = {**arrays_of("llama", HF), **{f"model.layers.{n}.post_norm.weight": np.ones(96, np.float32) for n in range(3)}}
    source = mc.load(arrays, config={**family_named("llama").toy, "model_type": "moonlit", "architectures": ["MoonlitForCausalLM"]})
    with pytest.raises(NoFamilyFitsError) as refused:
        mc.map(source)
    found = "model_type 'moonlit'; nearest: llama; 1 name it does not know (model.layers.{0‥2}.post_norm.weight)"
    assert refused.value.found == found
    assert str(refused.value.hint).startswith("If you know better: say which it is: --model llama")


def test_a_key_that_stands_for_several_families_means_the_nearest() -> None:
    for key in ("qwen", "qwen2", "qwen2-moe"):
        changed = {**arrays_of(key, HF), "my.sum": np.ones(2, np.float32)}
        with pytest.raises(CoverageError) as refused:
            mc.map(mc.load(changed, config=dict(family_named(key).toy)), "qwen", to=MF)
        assert refused.value.plan.family.key == key
        assert [p.name for p in refused.value.problems] == ["my.sum"]


def test_the_form_that_is_shown_is_the_one_with_the_fewest_mistakes_not_the_fewest_tensors() -> None:
    arrays = dict(arrays_of("qwen3-moe", MF))
    experts = family_named("qwen3-moe").toy["num_experts"]
    stacked = {n: a.reshape(experts, -1, a.shape[-1]) if ".experts.weight" in n else a for n, a in arrays.items()}
    with pytest.raises(CoverageError) as refused:
        mc.map(mc.load({**stacked, "my.sum": np.ones(2, np.float32)}, config=dict(family_named("qwen3-moe").toy)), to=HF)
    assert [p.name for p in refused.value.problems] == ["my.sum"]


def test_telling_a_large_model_with_a_strange_name_takes_no_longer_than_without() -> None:
    form = default_form(family_named("deepseekv3"))
    config = {**form.toy, "num_hidden_layers": 40, "n_routed_experts": 200}
    names = [s.name for s in expected_specs(form, read_sizes(config, form.sizes), HF)]
    assert len(names) > 20_000
    plain, strange = work_of(lambda: identify(names, config, MF)), work_of(lambda: identify([*names, "my.own"], config, MF))
    assert strange < 1.1 * plain
    plain = work_of(lambda: identify(names, None, MF))
    strange = work_of(lambda: identify([*names, "my.own"], None, MF), NoFamilyFitsError)
    assert strange < 2.2 * plain  # the names that no family knows are looked for again, to be shown
