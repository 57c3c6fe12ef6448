"""Where a number comes from: what is told is what the moved numbers do, for every family and for rules that hypothesis makes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.author.proving.specimen import Arrays, carry_across, mapped_rules, specimen
from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.sizes import Sizes
from mfconv_nb.mapping.explain import SOURCE, TARGET, Explained, explain_element, explain_tensor
from mfconv_nb.mapping.plan import MappingPlan, plan_mapping
from mfconv_nb.mapping.rules import Repeated
from mfconv_nb.rules import Drop, Family, Rule, Tied
from tests.every_form import FORMS
from tests.toys import mapped_toy


def plan_of(form: Family, rules: tuple[Rule | Repeated | Tied, ...], arrays: Arrays, to: str, sizes: Sizes) -> MappingPlan:
    specs = [TensorSpec(name, array.shape, "I64") for name, array in arrays.items()]
    return plan_mapping(specs, form.with_rules(rules), to, sizes=sizes)


def toy_plan(key: str, to: str = MF, **options: object) -> MappingPlan:
    return mapped_toy(key, to, **options).report.plan


def assert_exact(plan: MappingPlan, source: Arrays, target: Arrays, elements: int, chance: random.Random) -> None:
    """Random elements of every tensor on both sides are where the numbers went."""
    for side, here, there in ((SOURCE, source, target), (TARGET, target, source)):
        for name, array in here.items():
            for _ in range(elements):
                place = tuple(chance.randrange(n) for n in array.shape)
                told = explain_element(plan, name, place, side)
                assert_found(told, array[place], there)
                if told.others:  # and from the other side back
                    back = explain_element(plan, told.others[0].name, told.others[0].index, TARGET if side == SOURCE else SOURCE)
                    assert (name, place) in [(o.name, o.index) for o in back.others]


def assert_found(told: Explained, number: int, there: Arrays) -> None:
    if not told.others:
        assert number == 0
    for other in told.others:
        assert there[other.name][other.index] == number


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_element_is_where_the_plan_moves_it_in_every_rule_of_every_family(form: Family) -> None:
    chance = random.Random(7)
    for rule in mapped_rules(form):
        arrays, sizes = specimen(form, rule)
        across = carry_across(form, (rule,), arrays, MF, sizes)
        assert_exact(plan_of(form, (rule,), arrays, MF, sizes), arrays, across, 3, chance)
        back = carry_across(form, (rule,), across, HF, sizes)
        assert_exact(plan_of(form, (rule,), across, HF, sizes), across, back, 2, chance)


SENTENCES = (
    "(q + k + v) b -> q b, k b, v b",
    "(a (q + k)) b -> (a q) b, (a k) b",
    "(a (q + k c)) b -> (a q) b, b (a c k)",
    "a b -> b a",
    "(a b c) d -> d (c a b)",
    "q b, k b -> b (q + k)",
    "(a q), (a k) -> (a (k + q))",
    "a b -> (a + 0 pad) b",
    "q, v -> q, (0 pad), v",
    "a b 1 c -> 1 (c b) a",
    "(q b + k c) d -> d q b, (k c d)",
)


@st.composite
def rules(draw: st.DrawFn) -> tuple[Rule, dict[str, int]]:
    """A rule of a layout, or with experts stacked along an axis, and sizes for its axes."""
    sizes = {axis: draw(st.integers(1, 5)) for axis in ("q", "k", "v", "a", "b", "c", "d", "pad", "expert")}
    if draw(st.booleans()):
        stacked = draw(st.sampled_from(("expert a b", "(b expert) a", "a (b expert)", "(expert b) a", "(a b expert)")))
        return Rule("x.{expert}.w", "stacked", f"a b -> {stacked}"), sizes
    text = draw(st.sampled_from(SENTENCES))
    left, right = (side.count(",") + 1 for side in text.split("->"))
    return Rule(tuple(f"x{n}" for n in "abc"[:left]), tuple(f"y{n}" for n in "abc"[:right]), text), sizes


@given(rules(), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_an_element_is_where_the_plan_moves_it_whatever_rule_and_sizes(made: tuple[Rule, dict[str, int]], chance: random.Random) -> None:
    rule, values = made
    form = Family("made", "nothing", (rule,), sizes={axis: axis for axis in values}, toy=values)
    arrays, sizes = specimen(form, rule)
    across = carry_across(form, (rule,), arrays, MF, sizes)
    assert_exact(plan_of(form, (rule,), arrays, MF, sizes), arrays, across, 4, chance)
    back = carry_across(form, (rule,), across, HF, sizes)
    assert_exact(plan_of(form, (rule,), across, HF, sizes), across, back, 4, chance)


def roles_of(plan: MappingPlan, name: str) -> list[str]:
    return [b.label for b in explain_tensor(plan, name).blocks]


def test_the_parts_of_a_fused_matrix_are_its_roles() -> None:
    assert roles_of(toy_plan("bloom"), "h.0.self_attention.query_key_value.weight") == ["q", "k", "v"]
    split = toy_plan("internlm2", qkv_concat=False)
    assert roles_of(split, "model.layers.1.attention.wqkv.weight") == ["q", "k", "v"]
    assert roles_of(split, "model.layers.1.attention.wk.weight") == ["k"]


def test_experts_and_gate_and_up_are_told_by_number_and_name() -> None:
    assert roles_of(toy_plan("mixtral"), "model.layers.0.feed_forward.ffn.w1.weight") == [f"expert {n}" for n in range(5)]
    grouped = roles_of(toy_plan("deepseek3"), "model.layers.1.feed_forward.routed_experts.ffn.w1")
    assert grouped[:4] == ["expert 0 gate", "expert 0 up", "expert 1 gate", "expert 1 up"]
    assert roles_of(toy_plan("llama", qkv_concat="grouped"), "model.layers.0.feed_forward.w_gate_hidden.weight") == ["gate", "up"]


def test_rows_and_biases_of_zeros_have_no_source() -> None:
    padded = toy_plan("qwenvl", enable_emb_opt=True)
    name = "llm_model.transformer.wte.embedding_weight"
    assert roles_of(padded, name) == ["vocab", "pad: zeros"]
    told = explain_element(padded, name, (-1, 0))
    assert told.others == ()
    assert "is zero: no source" in told.sentence
    assert "k: zeros" in roles_of(toy_plan("blip"), "visual_encoder.blocks.0.attention.dense2.bias")
    assert "is zero: no target" in explain_element(toy_plan("qwenvl", HF, enable_emb_opt=True), name, (-1, 0)).sentence


def test_a_sentence_spells_out_head_row_and_hidden() -> None:
    told = explain_element(toy_plan("bloom"), "h.0.self_attention.query_key_value.weight", (3 * 48 + 7, 5))
    assert told.sentence == (
        "element [151, 5] of 'h.0.self_attention.query_key_value.weight' is element [55, 5] of 'blocks.0.attention.dense1.weight'"
        " (head 3, row 7 of q, hidden 5)"
    )
    assert (told.role, told.axes) == ("q", (("heads", 3), ("q", 7), ("hidden", 5)))


def test_a_plain_rename_is_one_block_that_is_the_whole_tensor() -> None:
    found = explain_tensor(toy_plan("llama"), "model.layers.0.self_attn.q_proj.weight")
    assert [(b.role, b.block.elements) for b in found.blocks] == [("heads head hidden", found.spec.elements)]
    assert found.sentence == "a plain rename: every number keeps its place"
    assert [f.shape_text for f in found.faces] == ["(6 · 20) × 96"] * 2


def test_one_tensor_with_several_copies_is_at_all_of_them() -> None:
    there, back = toy_plan("deepseek3"), toy_plan("deepseek3", HF)
    told = explain_element(back, "lm_head.weight", (3, 4), SOURCE)
    assert [o.name for o in told.others] == ["lm_head.weight", "model.layers.3.shared_head.head.weight"]
    assert [o.index for o in told.others] == [(3, 4)] * 2
    assert "(an equal copy)" in explain_element(there, "lm_head.weight", (3, 4), TARGET).sentence


def test_a_tied_head_is_the_embedding_in_both_directions() -> None:
    source = mc.toy("llama")
    config = {**(source.config or {}), "tie_word_embeddings": True}
    there = mc.map(mc.Checkpoint({n: t for n, t in source.tensors.items() if n != "lm_head.weight"}, config=config), "llama")
    told = explain_element(there.report.plan, "lm_head.weight", (3, 4))
    assert [(o.name, o.index) for o in told.others] == [("model.embed_tokens.weight", (3, 4))]
    assert explain_tensor(there.report.plan, "lm_head.weight").sentence == "a copy of model.embed_tokens.weight"
    embedding = explain_element(there.report.plan, "model.embed_tokens.weight", (3, 4))
    assert [o.name for o in embedding.others] == ["model.tok_embeddings.embedding_weight", "lm_head.weight"]
    back = mc.map(there, "llama", to=HF).report.plan
    assert [o.name for o in explain_element(back, "lm_head.weight", (3, 4)).others] == ["model.embed_tokens.weight"]


def test_tensors_that_are_not_carried_say_why_and_come_back_from_beside() -> None:
    family = Family("small", "nothing", (Rule("a", "b", "x"), Drop("freq", "both sides compute it")), sizes={"x": "x"}, toy={"x": 4})
    source = mc.load({"a": np.ones(4, np.float32), "freq": np.ones(2, np.float32)})
    there = mc.map(source, family, to=MF)
    assert "both sides compute it" in explain_tensor(there.report.plan, "freq").sentence
    assert explain_element(there.report.plan, "freq", 1).others == ()
    back = mc.map(there, family, to=HF)
    assert "kept beside the checkpoint" in explain_element(back.report.plan, "freq", 1).sentence


@pytest.mark.parametrize("index", [(331, 0), (-332, 0), (0,), (0, 0, 0), 3, (0.5, 1), "ab", None])
def test_an_index_outside_the_tensor_is_refused_with_its_shape(index: object) -> None:
    with pytest.raises(mc.MfconvError, match=r"MFC501.*\n.*\n.*\(331, 96\)"):
        explain_element(toy_plan("llama"), "model.embed_tokens.weight", index)  # type: ignore[arg-type]


def test_negative_indices_count_from_the_end_and_a_scalar_takes_none() -> None:
    assert explain_element(toy_plan("llama"), "model.embed_tokens.weight", (-1, -1)).position.index == (330, 95)
    assert explain_element(toy_plan("blip"), "temp", ()).others[0].index == ()
    norm = explain_element(toy_plan("llama"), "model.norm.weight", np.int64(-2))  # type: ignore[arg-type]
    assert norm.others[0].index == (94,)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(mc.MfconvError, match=r"Did you mean 'model.embed_tokens.weight'"):
        explain_tensor(toy_plan("llama"), "model.embed_token.weight")


def test_a_row_keeps_the_sizes_of_its_axes_once_for_all_layers() -> None:
    rows = [r for r in toy_plan("llama").rows if "q_proj" in r.sources[0].name]
    assert len(rows) == 4
    assert len({id(r.sizes) for r in rows}) == 1
    assert rows[0].sizes["head"] == 20
