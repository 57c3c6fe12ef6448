"""The plan of a mapping: every tensor is matched by exactly one rule, or it is a problem with its own words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.sizes import Sizes, read_sizes
from mfconv_nb.families import llama
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.flaws import check_family
from mfconv_nb.mapping.making_rows import make_rows
from mfconv_nb.mapping.matching import match_names, read_inputs
from mfconv_nb.mapping.plan import DROPPED, HINT_OTHER_SIDE, LEFT_OUT, MAPPED, TIED, MappingPlan, Problem, plan_mapping
from mfconv_nb.mapping.rules import default_form
from mfconv_nb.rules import Drop, Family, Rule, Tied
from tests.mapping import mixed
from tests.support import SPELLED, without

LLAMA = default_form(llama.FAMILY)
CONFIG = {**LLAMA.toy}


def specs_of(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> list[TensorSpec]:
    return [TensorSpec(n, s, dtype) for n, s in shapes.items()]


def llama_shapes(side: str = HF, **config: Any) -> dict[str, tuple[int, ...]]:
    return {s.name: s.shape for s in expected_specs(LLAMA, read_sizes({**CONFIG, **config}, LLAMA.sizes), side)}


def plan(shapes: Mapping[str, tuple[int, ...]], to: str = MF, config: Mapping[str, Any] | None = CONFIG, **more: Any) -> MappingPlan:
    sizes = None if config is None else read_sizes(config, LLAMA.sizes)
    return plan_mapping(specs_of(shapes), LLAMA, to, sizes=sizes, **more)


def kinds(problems: Iterable[Problem]) -> list[tuple[str, str]]:
    return [(p.kind, p.name) for p in problems]


def targets(found: MappingPlan) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for row in found.rows for t in row.targets}


def small(*rules: Any, sizes: Mapping[str, str] | None = None) -> Family:
    return Family("small", "a family of a test", rules, sizes or {})


# ---- what fits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [HF, MF])
def test_the_fast_path_of_matching_finds_what_the_slow_one_finds(to: str) -> None:
    specs = [*specs_of(llama_shapes(MF if to == HF else HF)), TensorSpec("model.layers.99.nowhere.weight", (3,), "F32")]
    sizes = read_sizes(CONFIG, LLAMA.sizes)
    fast, slow = (read_inputs(LLAMA, to, sizes, layers=layers) for layers in (None, 1000))  # layers= turns the fast path off
    left, right = match_names(specs, fast), match_names(specs, slow)
    assert left == replace(right, instances={**{number: {} for number in left.instances}, **right.instances})
    assert make_rows(fast, left) == make_rows(slow, right)


@pytest.mark.parametrize("config", [{}, {"attention_bias": True}, {"mlp_bias": True}, {"num_hidden_layers": 11}])
@pytest.mark.parametrize("to", [HF, MF])
def test_what_a_config_promises_on_one_side_becomes_what_it_promises_on_the_other(to: str, config: dict[str, Any]) -> None:
    here, there = (MF, HF) if to == HF else (HF, MF)
    found = plan(llama_shapes(here, **config), to, {**CONFIG, **config})
    assert found.problems == ()
    assert targets(found) == llama_shapes(there, **config)


def test_without_a_config_the_shapes_alone_are_enough_for_llama() -> None:
    found = plan(llama_shapes(), config=None)
    assert found.problems == ()
    assert targets(found) == llama_shapes(MF)


def test_rows_come_in_the_order_of_the_source_whatever_it_is() -> None:
    shapes = llama_shapes()
    backwards = dict(reversed(shapes.items()))
    assert [row.sources[0].name for row in plan(backwards).rows] == list(backwards)
    assert list(targets(plan(backwards))) == list(reversed(targets(plan(shapes))))


def test_every_kind_of_rule_at_once_has_the_shapes_that_numpy_says() -> None:
    hf = mixed.hugging_face()
    sizes = read_sizes(mixed.CONFIG, mixed.FAMILY.sizes)
    found = plan_mapping([TensorSpec(n, a.shape, SPELLED[a.dtype]) for n, a in hf.items()], mixed.FAMILY, MF, sizes=sizes)
    assert found.problems == ()
    assert targets(found) == {n: a.shape for n, a in mixed.mindformers(hf).items()}
    assert {s.name for row in found.rows if row.status == DROPPED for s in row.sources} == {n for n in hf if "inv_freq" in n}


def test_a_buffer_is_dropped_with_its_reason() -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    found = plan({**llama_shapes(), name: (10,)})
    (row,) = [r for r in found.rows if r.status == DROPPED]
    assert (row.sources[0].name, row.targets) == (name, ())
    assert "rope_theta" in row.why


# ---- names -----------------------------------------------------------------------------------------------------------------


def test_a_name_no_rule_knows_is_a_problem_with_the_nearest_rule() -> None:
    name = "model.layers.1.self_attn.q_proy.weight"
    (problem,) = plan({**llama_shapes(), name: (120, 96)}).problems
    assert (problem.kind, problem.name) == ("unmatched", name)
    assert problem.hint == "nearest rule: model.layers.{layer}.self_attn.q_proj.weight"


def test_a_name_that_only_contains_a_known_one_is_a_problem() -> None:
    for name in ("model.norm.weight.absmax", "base_model.model.norm.weight", "model.layers.1.mlp.up_proj.weight_scale_inv"):
        assert kinds(plan({**llama_shapes(), name: (96,)}).problems) == [("unmatched", name)]


@pytest.mark.parametrize(
    "name", ["model.layers.#.mlp.up_proj.weight", "model.layers.٣.mlp.up_proj.weight", "model.layers.03.mlp.up_proj.weight"]
)
def test_a_name_that_only_looks_like_a_known_one_is_a_problem(name: str) -> None:
    assert kinds(plan({**llama_shapes(), name: (176, 96)}).problems) == [("unmatched", name)]


def test_names_of_the_target_side_say_that_the_direction_is_the_other() -> None:
    found = plan(llama_shapes(MF), to=MF)
    by_name = {p.name: p.hint for p in found.problems if p.kind == "unmatched"}
    assert by_name["model.tok_embeddings.embedding_weight"] == HINT_OTHER_SIDE


def test_a_name_that_two_rules_match_is_ambiguous_and_names_both() -> None:
    family = small(Rule("a.{layer}.w", "x.{layer}.w"), Rule("a.0.w", "y.w"))
    found = plan_mapping(specs_of({"a.0.w": (3,), "a.1.w": (3,)}), family, MF)
    problem = next(p for p in found.problems if p.kind == "ambiguous")
    assert problem.name == "a.0.w"
    assert "a.{layer}.w and a.0.w" in problem.found


LAST = small(
    Rule("h.{layer}.w", "m.{layer}.w", "rows"),
    Rule("h.{=last}.w", "further.w", "rows"),
    sizes={"layer": "n", "last": "n", "rows": "width"},
)


@pytest.mark.parametrize("to", [HF, MF])
def test_a_number_of_the_config_in_a_name_counts_before_a_placeholder(to: str) -> None:
    sizes = read_sizes({"n": 2, "width": 5}, LAST.sizes)
    here, there = (expected_specs(LAST, sizes, side) for side in ((MF, HF) if to == HF else (HF, MF)))
    found = plan_mapping(here, LAST, to, sizes=sizes)
    assert found.problems == ()
    assert {t for row in found.rows for t in row.targets} == set(there)
    assert {s.name for s in expected_specs(LAST, sizes, HF)} == {"h.0.w", "h.1.w", "h.2.w"}
    assert {s.name for s in expected_specs(LAST, sizes, MF)} == {"m.0.w", "m.1.w", "further.w"}


def test_without_a_config_a_name_with_its_number_matches_nothing_and_says_so() -> None:
    found = plan_mapping(specs_of({"m.0.w": (5,), "m.1.w": (5,), "further.w": (5,)}), LAST, HF)
    assert [(p.name, p.found) for p in found.problems] == [("further.w", "a number in its rule that the config tells")]


@pytest.mark.parametrize("second", [Rule("b.{layer}.w", "x.{layer}.w"), Rule("b.{layer}.w", "x.{layer}.w", "in out -> out in")])
def test_two_rules_that_make_the_same_target_are_ambiguous(second: Rule) -> None:
    family = small(Rule("a.{layer}.w", "x.{layer}.w"), second)
    found = plan_mapping(specs_of({"a.0.w": (3, 3), "b.0.w": (3, 3)}), family, MF)
    assert [p.kind for p in found.problems] == ["ambiguous"]
    assert all(name in str(found.problems[0]) for name in ("x.0.w", "a.0.w", "b.0.w"))


# ---- what is missing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, None, "n_head"], ids=["with a config", "without a config", "with a head count only"])
@pytest.mark.parametrize("part", ["layers.1.", "layers.2.mlp.up_proj", "model.norm.weight", "embed_tokens"])
def test_a_tensor_or_layer_that_is_missing_is_named(part: str, config: Any) -> None:
    shapes = llama_shapes()
    kept = without(shapes, part)
    if config == "n_head":
        found = plan_mapping(specs_of(kept), LLAMA, MF, sizes=Sizes({"heads": read_sizes(CONFIG, LLAMA.sizes)["heads"]}))
    else:
        found = plan(kept, config=config)
    assert sorted(kinds(found.problems)) == sorted(("missing", n) for n in shapes.keys() - kept.keys())


def test_a_last_layer_that_is_missing_is_told_by_the_config_only() -> None:
    kept = without(llama_shapes(), "layers.3.")
    assert plan(kept, config=None).problems == ()
    found = plan(kept).problems
    assert {p.kind for p in found} == {"missing"}
    assert len(found) == 9
    assert all("num_hidden_layers = 4" in p.expected for p in found)


def test_biases_that_some_layers_have_and_others_lack_are_a_problem() -> None:
    bias = "model.layers.{}.self_attn.q_proj.bias"
    shapes = {**llama_shapes(), bias.format(1): (120,)}
    assert kinds(plan(shapes, config=None).problems) == [("missing", bias.format(n)) for n in (0, 2, 3)]
    found = plan(shapes, config={**CONFIG, "attention_bias": True}).problems
    assert {("missing", bias.format(n)) for n in (0, 2, 3)} < set(kinds(found))


def test_layers_beyond_the_config_are_a_problem_that_names_the_key() -> None:
    found = plan(llama_shapes(num_hidden_layers=5)).problems
    assert len(found) == 9
    assert {p.kind for p in found} == {"surplus"}
    assert all("layers.4." in p.name and "num_hidden_layers" in p.expected for p in found)


def mixed_plan(change: Callable[[dict[str, Any]], Any], *, sizes: bool = True, to: str = MF) -> MappingPlan:
    tensors: dict[str, Any] = mixed.hugging_face()
    if to == HF:
        tensors = mixed.mindformers(tensors)
    shapes = {n: a.shape for n, a in tensors.items()}
    change(shapes)
    read = read_sizes(mixed.CONFIG, mixed.FAMILY.sizes)
    if not sizes:
        read = Sizes({n: s for n, s in read.items() if n != "expert"})
    dtypes = {n: SPELLED[a.dtype] for n, a in tensors.items()}
    specs = [TensorSpec(n, s, dtypes.get(n, "F32")) for n, s in shapes.items()]
    return plan_mapping(specs, mixed.FAMILY, to, sizes=read)


@pytest.mark.parametrize("sizes", [True, False], ids=["count from the config", "count from the names"])
@pytest.mark.parametrize(
    "missing",
    [
        "model.layers.1.experts.1.gate.weight",
        "model.layers.0.experts.0.down.weight",
        "model.layers.1.experts.2.up.weight",
        "model.layers.1.experts.2.down.weight",
    ],
)
def test_a_missing_expert_is_named(missing: str, sizes: bool) -> None:
    assert kinds(mixed_plan(lambda shapes: shapes.pop(missing), sizes=sizes).problems) == [("missing", missing)]


@pytest.mark.parametrize("sizes", [True, False], ids=["count from the config", "count from the names"])
def test_one_half_of_all_experts_missing_is_named(sizes: bool) -> None:
    names = [f"model.layers.0.experts.{e}.up.weight" for e in range(3)]
    found = mixed_plan(lambda shapes: [shapes.pop(n) for n in names], sizes=sizes)
    assert sorted(kinds(found.problems)) == [("missing", n) for n in names]


def test_a_missing_part_of_a_fused_tensor_is_named_with_its_partner() -> None:
    found = mixed_plan(lambda shapes: shapes.pop("layers.1.wk.weight"), to=HF)
    assert kinds(found.problems) == [("missing", "layers.1.wk.weight")]
    assert found.problems[0].expected == "beside layers.1.wq.weight"


@pytest.mark.parametrize("to", [MF, HF])
def test_a_layer_without_any_of_its_tensors_is_named_tensor_by_tensor(to: str) -> None:
    tensors: dict[str, Any] = mixed.hugging_face(layers=3)
    if to == HF:
        tensors = mixed.mindformers(tensors, layers=3)
    kept = without(tensors, "layers.1.")
    specs = [TensorSpec(n, a.shape, SPELLED[a.dtype]) for n, a in kept.items()]
    known = {"q": "q_rows", "k": "k_rows", "v": "v_rows", "heads": "heads", "ffn": "ffn", "gate": "ffn", "up": "ffn", "expert": "experts"}
    for sentences in (mixed.FAMILY.sizes, {**known, "groups": "groups"}):
        found = plan_mapping(specs, mixed.FAMILY, to, sizes=read_sizes({**mixed.CONFIG, "layers": 3}, sentences)).problems
        assert sorted(kinds(found)) == sorted(("missing", n) for n in tensors.keys() - kept.keys() if "inv_freq" not in n)


@pytest.mark.parametrize("to", [MF, HF])
def test_a_layer_beyond_the_config_is_named_tensor_by_tensor(to: str) -> None:
    tensors: dict[str, Any] = mixed.hugging_face(layers=3)
    if to == HF:
        tensors = mixed.mindformers(tensors, layers=3)
    specs = [TensorSpec(n, a.shape, SPELLED[a.dtype]) for n, a in tensors.items()]
    found = plan_mapping(specs, mixed.FAMILY, to, sizes=read_sizes(mixed.CONFIG, mixed.FAMILY.sizes)).problems
    assert sorted(kinds(found)) == sorted(("surplus", n) for n in tensors if "layers.2." in n and "inv_freq" not in n)


def test_experts_beyond_the_config_are_a_problem() -> None:
    def add(shapes: dict[str, Any]) -> None:
        for part, shape in (("gate", (8, 10)), ("up", (8, 10)), ("down", (10, 8))):
            shapes[f"model.layers.0.experts.3.{part}.weight"] = shape

    found = mixed_plan(add).problems
    assert {p.kind for p in found} == {"surplus"}
    assert {p.name for p in found} == {f"model.layers.0.experts.3.{part}.weight" for part in ("gate", "up", "down")}


# ---- layers=N --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, None])
def test_the_first_layers_only_are_converted_and_the_others_listed_with_the_reason(config: Any) -> None:
    found = plan(llama_shapes(), config=config, layers=2)
    assert found.problems == ()
    assert targets(found) == llama_shapes(MF, num_hidden_layers=2)
    left_out = [row for row in found.rows if row.status == LEFT_OUT]
    assert {row.sources[0].name for row in left_out} == {n for n in llama_shapes() if "layers.2." in n or "layers.3." in n}
    assert all("layers=2" in row.why for row in left_out)


def test_a_layer_that_is_left_out_may_be_missing_and_one_that_is_not_may_not() -> None:
    assert plan(without(llama_shapes(), "layers.3."), layers=2).problems == ()
    assert len(plan(without(llama_shapes(), "layers.1."), layers=2).problems) == 9


# ---- shapes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, shape, words",
    [
        ("model.layers.0.self_attn.k_proj.weight", (120, 96), ["(40, 96)", "num_key_value_heads", "head_dim", "groups 2", "head 20"]),
        ("model.layers.0.self_attn.q_proj.weight", (96, 120), ["(120, 96)", "num_attention_heads", "hidden_size"]),
        ("model.layers.0.mlp.down_proj.weight", (96, 175), ["(96, 176)", "intermediate_size", "ffn 176"]),
        ("model.embed_tokens.weight", (332, 96), ["(331, 96)", "vocab_size"]),
        ("lm_head.weight", (331, 95), ["(331, 96)", "hidden_size"]),
        ("model.norm.weight", (96, 1), ["(96,)", "hidden_size"]),
    ],
)
def test_a_shape_that_contradicts_the_config_says_found_expected_and_the_keys(name: str, shape: tuple[int, ...], words: list[str]) -> None:
    (problem,) = plan({**llama_shapes(), name: shape}).problems
    assert (problem.kind, problem.name) == ("shape", name)
    assert str(shape) in problem.found
    assert [w for w in words if w not in problem.expected] == []
    assert "--config" in problem.hint


def test_a_shape_problem_of_one_expert_names_that_expert() -> None:
    name = "model.layers.1.experts.2.up.weight"
    found = mixed_plan(lambda shapes: shapes.update({name: (9, 10)})).problems
    assert kinds(found) == [("shape", name)]
    assert "(9, 10)" in found[0].found
    assert "(8, 10)" in found[0].expected


def test_shapes_that_contradict_each_other_are_a_problem_without_a_config() -> None:
    family = small(Rule(("q", "k"), "qk", "(heads q) hidden, (heads k) hidden -> (heads (q + k)) hidden", sizes={"heads": 2}))
    assert plan_mapping(specs_of({"q": (6, 5), "k": (4, 5)}), family, MF).problems == ()
    assert [p.kind for p in plan_mapping(specs_of({"q": (6, 5), "k": (4, 7)}), family, MF).problems] == ["shape"]
    assert [p.kind for p in plan_mapping(specs_of({"q": (6, 5), "k": (5, 5)}), family, MF).problems] == ["shape"]


def test_sizes_that_nothing_determines_are_a_problem_and_never_guessed() -> None:
    family = small(Rule("qkv", ("q", "k", "v"), "(q + k + v) hidden -> q hidden, k hidden, v hidden"))
    (problem,) = plan_mapping(specs_of({"qkv": (9, 5)}), family, MF).problems
    assert problem.kind == "shape"
    assert "no size for" in problem.found


def test_parts_of_different_dtypes_do_not_become_one_tensor() -> None:
    family = small(Rule("qk", ("q", "k"), "(q + k) hidden -> q hidden, k hidden"))
    specs = [TensorSpec("q", (3, 5), "BF16"), TensorSpec("k", (2, 5), "F32")]
    (problem,) = plan_mapping(specs, family, HF).problems
    assert (problem.kind, problem.found) == ("dtype", "BF16 and F32")


# ---- tied heads --------------------------------------------------------------------------------------------------------------

TIED_CONFIG = {**CONFIG, "tie_word_embeddings": True}


def tied_rows(found: MappingPlan) -> list[tuple[Sequence[str], Sequence[str]]]:
    return [([s.name for s in r.sources], [t.name for t in r.targets]) for r in found.rows if r.status == TIED]


def test_a_head_that_is_absent_because_it_is_tied_becomes_a_copy_of_the_embedding() -> None:
    found = plan(llama_shapes(tie_word_embeddings=True), config=TIED_CONFIG)
    assert found.problems == ()
    assert targets(found) == llama_shapes(MF)
    assert tied_rows(found) == [(["model.embed_tokens.weight"], ["lm_head.weight"])]


@pytest.mark.parametrize("layout", ["(p + q) -> expert p, q", "(p + q) -> expert p, 1 q"])
def test_a_part_that_every_expert_has_cannot_become_one(layout: str) -> None:
    """Its blocks are more than the target has places: with one expert they are as many."""
    rule = Rule("a.{expert}", ("x", "y"), layout)
    family = Family("small", "nothing", (rule,), {"p": "p", "q": "q"})
    sizes = read_sizes({"p": 2, "q": 3}, family.sizes)
    for experts, problems in ((1, []), (3, ["9 numbers for 3 places"])):
        plan = plan_mapping([TensorSpec(f"a.{n}", (5,), "F32") for n in range(experts)], family, MF, sizes=sizes)
        assert [p.found.partition(": ")[2] for p in plan.problems] == problems


def test_a_fill_of_zeros_beside_the_experts_is_there_once() -> None:
    rule = Rule("a.{expert}", "x", "p -> (expert + 0 pad) p", sizes={"pad": 2})
    family = Family("small", "nothing", (rule,), {})
    plan = plan_mapping([TensorSpec(f"a.{n}", (5,), "F32") for n in range(3)], family, MF)
    assert [(t.name, t.shape) for row in plan.rows for t in row.targets] == [("x", (5, 5))]
    assert sum(part.block.elements for row in plan.rows for part in row.parts[0]) == 25


def test_an_axis_of_experts_counts_from_zero() -> None:
    rule = Rule("a.{expert}", "x", "p -> expert p")
    family = Family("small", "nothing", (rule,), {"expert": "first .. last"})
    plan = plan_mapping(
        [TensorSpec(f"a.{n}", (5,), "F32") for n in (1, 2)], family, MF, sizes=read_sizes({"first": 1, "last": 3}, family.sizes)
    )
    assert [p.found for p in plan.problems] == ["(5,): no tensor for expert 0"]
    with pytest.raises(MappingError, match="counts from another number than 0"):
        check_family(family)


def test_a_tied_head_is_left_out_on_the_way_back() -> None:
    found = plan(llama_shapes(MF), HF, TIED_CONFIG)
    assert found.problems == ()
    assert targets(found) == llama_shapes(tie_word_embeddings=True)
    assert tied_rows(found) == [(["lm_head.weight"], [])]


def test_a_head_that_is_there_although_it_is_tied_is_carried() -> None:
    found = plan(llama_shapes(), config=TIED_CONFIG)
    assert found.problems == ()
    assert tied_rows(found) == []
    assert "lm_head.weight" in {t.name for r in found.rows if r.status == MAPPED for t in r.targets}


@pytest.mark.parametrize("config", [CONFIG, None, "n_head"], ids=["untied by the config", "without a config", "with a head count only"])
def test_a_head_that_is_absent_and_not_known_to_be_tied_is_missing(config: Any) -> None:
    shapes = llama_shapes(tie_word_embeddings=True)
    if config == "n_head":
        found = plan_mapping(specs_of(shapes), LLAMA, MF, sizes=Sizes({"heads": read_sizes(CONFIG, LLAMA.sizes)["heads"]}))
    else:
        found = plan(shapes, config=config)
    assert kinds(found.problems) == [("missing", "lm_head.weight")]


def test_a_network_of_a_tied_model_does_not_hold_the_head() -> None:
    found = plan(without(llama_shapes(MF), "lm_head"), HF, TIED_CONFIG)
    assert found.problems == ()
    assert targets(found) == llama_shapes(tie_word_embeddings=True)


@pytest.mark.parametrize(
    "config, expected, hint",
    [
        (CONFIG, "there: config.json does not tie it to model.embed_tokens.weight", "does this config.json, which does not tie it, belong"),
        (None, "there, unless config.json ties it to model.embed_tokens.weight", "give it with --config (config= in Python)"),
    ],
    ids=["untied by the config", "without a config"],
)
def test_a_head_that_mindformers_lacks_is_missing_unless_the_config_ties_it(config: Any, expected: str, hint: str) -> None:
    (problem,) = plan(without(llama_shapes(MF), "lm_head"), HF, config).problems
    assert (problem.kind, problem.name, problem.expected) == ("missing", "lm_head.weight", expected)
    assert hint in problem.hint


# ---- what a config promises --------------------------------------------------------------------------------------------------


def test_what_is_expected_has_names_shapes_and_the_asked_dtype_on_either_side() -> None:
    hf, mf = (mc.expected("llama", CONFIG, side=side, dtype="bf16") for side in ("hf", "mf"))
    assert {s.name: s.shape for s in hf.specs} == llama_shapes()
    assert {s.name: s.shape for s in mf.specs} == targets(plan(llama_shapes()))
    assert {s.dtype for s in (*hf.specs, *mf.specs)} == {"BF16"}


def test_a_dtype_that_a_rule_fixes_is_expected_on_the_mindformers_side_only() -> None:
    sizes = read_sizes(mixed.CONFIG, mixed.FAMILY.sizes)
    family = mixed.FAMILY.with_rules(tuple(r for r in mixed.FAMILY.rules if isinstance(r, Rule) and "router" in str(r.hf)))
    assert {s.dtype for s in expected_specs(family, sizes, MF, "BF16")} == {"F32"}
    assert {s.dtype for s in expected_specs(family, sizes, HF, "BF16")} == {"BF16"}


def test_a_rule_without_a_sentence_promises_no_shape() -> None:
    with pytest.raises(mc.MfconvError) as refused:
        expected_specs(small(Rule("a", "b")), Sizes({}), HF)
    assert refused.value.code == "MFC307"


def test_a_family_may_drop_on_either_side() -> None:
    family = small(Rule("w", "w"), Drop("odd", "only there", side=MF), Tied("h", "h", "w", "vocab"))
    found = plan_mapping(specs_of({"w": (3,), "odd": (2,), "h": (3,)}), family, HF)
    assert [(r.status, r.sources[0].name) for r in found.rows] == [(MAPPED, "w"), (DROPPED, "odd"), (MAPPED, "h")]
