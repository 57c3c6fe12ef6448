"""A family as rows of text: nothing is lost on the way there and back, and a row is judged as a plan of real names would judge it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

import mfconv_nb as mc
from mfconv_nb import MfconvError
from mfconv_nb.author.editing.draft_rows import (
    KINDS,
    DraftRow,
    Fault,
    draft_of,
    draft_of_suggestion,
    family_of,
    names_text,
    read_names,
    read_row,
    row_of,
)
from mfconv_nb.author.editing.judging import BAD, DOUBT, GOOD, QUIET, Judgement, Sides, judge
from mfconv_nb.author.editing.row_patterns import pattern_for
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.flaws import check_family
from mfconv_nb.mapping.plan import plan_mapping
from mfconv_nb.mapping.rules import AnyRule
from mfconv_nb.rules import Drop, Family, Repeated, Rule, Tied
from tests.support import work_of

KEYS = sorted({family.key for family in mc.known_families()})
FAMILIES = {family.key: family for family in mc.known_families()}


def sides_of(key: str) -> Sides:
    toy = mc.toy(key)
    return Sides(toy.specs, mc.map(toy, key).specs, toy.config)


@pytest.fixture(scope="module")
def llama() -> Sides:
    return sides_of("baichuan2")


# ---- there and back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_every_rule_survives_as_a_row(key: str) -> None:
    family = FAMILIES[key]
    assert [read_row(row_of(rule)) for rule in family.rules] == list(family.rules)
    assert family_of(draft_of(family)) == family


@pytest.mark.parametrize(
    "rule",
    [
        Rule("a", "b"),
        Rule("a", "b", ""),  # a scalar, which is more than no sentence
        Rule(("a",), ("b", "c"), "x -> x, x"),
        Rule("a, with a comma", 'b "quoted"', "x"),
        Rule("a.{layer}", "b.{layer}", "x y -> y x", {"y": 2, "x": "z"}, only_if="flag", dtype="F32", optional="all or none"),
        Rule("a", "b", when={"form": True, "other": "word", "third": 3}),
        Repeated(("a.{layer}",), "b", "x", may_be=("c", "d"), only_if="flag", optional="anywhere"),
        Tied("head", "out", same_as="embed", layout="vocab hidden", only_if="other"),
        Drop("a.{layer}.inv_freq", "computed", side="mf", when={"form": False}),
    ],
)
def test_what_a_row_does_not_show_is_kept(rule: AnyRule) -> None:
    row = row_of(rule)
    assert read_row(row) == rule
    if isinstance(rule, Rule) and rule.layout:
        changed = read_row(replace(row, layout="p q -> q p"))
        assert changed == replace(rule, layout="p q -> q p")


def test_names_are_separated_by_commas_or_lines() -> None:
    assert read_names("a.b") == "a.b"
    assert read_names(" a.b \n") == "a.b"
    assert read_names("a, b\nc,\nd") == ("a", "b", "c", "d")
    assert read_names("a,") == ("a",)
    assert read_names("") == ()
    for names in ("plain", "with, comma", ' "', ("one",), ("a", "b\nc")):
        assert read_names(names_text(names)) == names


def test_a_suggestion_becomes_rows_with_their_reasons_and_the_same_family() -> None:
    toy = mc.toy("internlm2")
    suggestion = mc.author.suggest(toy, mc.map(toy, "internlm2"))
    draft = draft_of_suggestion(suggestion, "mine")
    assert family_of(draft) == suggestion.family("mine")
    assert [row.note for row in draft.rows] == [f"{s.confidence}: {s.reason}" for s in suggestion.suggested]
    assert judge(draft, Sides(toy.specs, mc.map(toy, "internlm2").specs, toy.config)).is_complete


# ---- rows that cannot be read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout, position, expected",
    [
        ("(q + k hidden -> q hidden", 14, ")"),
        ("a b -> a; b", 8, "a name, 0, 1, ( ) + , or ->"),
        ("a + b", 2, "-> or the end"),
        ("a -> b -> c", 7, "the end"),
        ("Vocab hidden", 0, "a name, 0, 1, ( ) + , or ->"),
        ("a ( )", 4, "an axis"),
    ],
)
def test_a_caret_stands_under_the_character(layout: str, position: int, expected: str) -> None:
    fault = read_row(DraftRow(hf="a", mf="b", layout=layout))
    assert isinstance(fault, Fault)
    assert (fault.field, fault.position, fault.expected) == ("layout", position, expected)
    assert fault.caret == f"{layout}\n{' ' * position}^"


@pytest.mark.parametrize(
    "row, field, caret",
    [
        (DraftRow(hf="a.{Layer}.b", mf="b"), "hf", "a.{Layer}.b\n  ^"),
        (DraftRow(hf="a", mf="b,\nc.{x"), "mf", "c.{x\n  ^"),
        (DraftRow(hf="a", mf="b", sizes="pair = 2\nk 3"), "sizes", "k 3\n^"),
        (DraftRow(hf="a", mf="b", sizes="pair ="), "sizes", "pair =\n      ^"),
        (DraftRow(hf="a", mf="b", sizes="k = q\nk = v"), "sizes", "k = v\n^"),
        (DraftRow(hf="a"), "mf", ""),
        (DraftRow("tied", "a", "b", "x"), "same_as", ""),
        (DraftRow("tied", "a", "b, c", "x", more={"same_as": "e"}), "mf", ""),
        (DraftRow("dropped", "a", "b"), "mf", ""),
        (DraftRow("dropped"), "hf", ""),
    ],
)
def test_the_field_that_is_wrong_is_named(row: DraftRow, field: str, caret: str) -> None:
    fault = read_row(row)
    assert isinstance(fault, Fault)
    assert (fault.field, fault.caret) == (field, caret)


def test_the_family_of_a_row_that_cannot_be_read_is_refused_by_its_number() -> None:
    draft = draft_of(FAMILIES["llama"])
    broken = draft.with_row(2, replace(draft.rows[2], layout="(a + b hidden"))
    with pytest.raises(MfconvError, match=r"row 3, rule 'model\.layers\.\{layer\}\.self_attn\.k_proj\.weight'") as caught:
        family_of(broken)
    lines = str(caught.value).split("\n")
    at = next(n for n, line in enumerate(lines) if line.endswith("^"))
    assert lines[at].index("^") - lines[at - 1].index("(a +") == caught.value.position == 13
    untrue = draft.with_row(1, replace(draft.rows[1], layout="heads hidden -> heads hiddem"))
    with pytest.raises(MfconvError, match="row 2, rule"):
        family_of(untrue)
    with pytest.raises(MfconvError, match="the sizes of the family"):
        family_of(replace(draft, sizes="vocab vocab_size"))


def test_errors_of_a_family_show_the_caret_under_the_character() -> None:
    rules = (Rule("a", "b", "(x y -> x y"), Rule("c", "d", "x ; y"))
    for wrong in (rules[:1], rules):
        with pytest.raises(MfconvError) as caught:
            check_family(Family("mine", "", wrong, {}))
        lines = str(caught.value).split("\n")
        carets = [(n, line.index("^")) for n, line in enumerate(lines) if "^" in line]
        blamed = [lines[n - 1][at : at + 2] for n, at in carets]
        assert blamed == ["->", "; "][: len(wrong)]


# ---- judged ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_a_built_in_family_is_complete_on_its_own_names(key: str) -> None:
    judgement = judge(draft_of(FAMILIES[key]), sides_of(key))
    assert [(n, said.words) for n, said in enumerate(judgement.rows) if said.mark not in (GOOD, QUIET)] == []
    assert judgement.is_complete


@pytest.mark.parametrize("key", ["baichuan2", "internlm2", "gpt", "qwen", "mixtral", "glm", "vit"])
def test_one_rule_less_or_twice_counts_as_a_plan_counts(key: str) -> None:
    toy = mc.toy(key)
    mapped = mc.map(toy, key)
    family, sides = mapped.report.plan.family, Sides(toy.specs, mapped.specs, toy.config)
    for n, rule in enumerate(family.rules):
        for rules in ((*family.rules[:n], *family.rules[n + 1 :]), (*family.rules, rule)):
            changed = family.with_rules(rules)
            judgement = judge(draft_of(changed), sides)
            for to, specs, side in (("mf", toy.specs, "hf"), ("hf", mapped.specs, "mf")):
                plan = plan_mapping(specs, changed, to, sizes=read_sizes(toy.config or {}, changed.sizes))
                names = {spec.name for spec in specs}
                kinds = Counter(p.kind for p in plan.problems if p.name in names)
                assert judgement.unmatched_count(side) == kinds["unmatched"], (n, to)
                assert judgement.ambiguous[side] == kinds["ambiguous"], (n, to)
                found = sorted(p.name for p in plan.problems if p.kind == "unmatched")
                assert sorted(name for group in judgement.unmatched[side] for name in group) == found


def changed(sides: Sides, **more: str) -> Judgement:
    """The judgement of Baichuan 2 with another third row, that of the output projection."""
    draft = draft_of(FAMILIES["baichuan2"])
    place = next(n for n, row in enumerate(draft.rows) if "o_proj" in row.hf)
    judgement = judge(draft.with_row(place, replace(draft.rows[place], **more)), sides)
    return replace(judgement, rows=(judgement.rows[place],))


def test_a_row_in_another_order_than_the_tensors_is_a_shape_error_with_its_tensor(llama: Sides) -> None:
    draft = draft_of(FAMILIES["baichuan2"])
    place = next(n for n, row in enumerate(draft.rows) if "gate_proj" in row.hf)
    judgement = judge(draft.with_row(place, replace(draft.rows[place], layout="ffn hidden -> hidden ffn")), llama)
    said = judgement.rows[place]
    assert (said.mark, said.shape_count, judgement.shape_errors) == (BAD, 3, 3)
    assert said.shapes[0].tensor == "model.layers.0.feed_forward.w1.weight"
    assert (said.shapes[0].found, said.shapes[0].expected) == ("(176, 96)", "(96, 176), from (176, 96)")
    wrong = judge(draft.with_row(place, replace(draft.rows[place], layout="vocab hidden")), llama)
    assert wrong.rows[place].shapes[0].tensor == "model.layers.0.mlp.gate_proj.weight"
    assert "vocab 331 from vocab_size" in wrong.rows[place].shapes[0].expected


def test_a_layout_that_is_being_typed_leaves_no_name_unmatched(llama: Sides) -> None:
    judgement = changed(llama, layout="hidden (q")
    said = judgement.rows[0]
    assert said.fault is not None
    assert (said.mark, said.fault.position) == (BAD, 9)
    assert judgement.unmatched_count("hf") == judgement.unmatched_count("mf") == 0
    assert not judgement.is_complete
    half = changed(llama, mf="")  # its Hugging Face name is taken, its MindFormers name is looked for
    assert (half.unmatched_count("hf"), half.unmatched_count("mf")) == (0, 3)
    assert half.rows[0].mark == BAD


def test_an_axis_on_one_side_only_is_pointed_at(llama: Sides) -> None:
    said = changed(llama, layout="hidden from_hidden -> hidden from_hiden").rows[0]
    assert said.fault is not None
    assert said.fault.caret == f"hidden from_hidden -> hidden from_hiden\n{' ' * 7}^"


def test_names_that_are_not_there_are_told_by_side(llama: Sides) -> None:
    only = changed(llama, hf="model.layers.{layer}.self_attn.o_pro.weight")
    assert (only.rows[0].mark, only.rows[0].hf, only.rows[0].mf) == (DOUBT, 0, 3)
    assert only.unmatched["hf"] == (tuple(f"model.layers.{n}.self_attn.o_proj.weight" for n in range(3)),)
    assert only.unmatched_count("mf") == 0
    neither = changed(llama, hf="a.{layer}", mf="b.{layer}")
    assert neither.rows[0].words == "matches nothing"
    half = changed(llama, hf="model.layers.1.self_attn.o_proj.weight", mf="model.layers.1.attention.wo.weight")
    assert (half.unmatched_count("hf"), half.unmatched_count("mf")) == (2, 2)


def test_rows_that_match_the_same_names_name_each_other(llama: Sides) -> None:
    draft = draft_of(FAMILIES["baichuan2"])
    judgement = judge(replace(draft, rows=(*draft.rows, draft.rows[0])), llama)
    assert judgement.rows[0].ambiguous == (len(draft.rows),)
    assert judgement.rows[-1].ambiguous == (0,)
    assert "ambiguous: row 1 matches the same names" in judgement.rows[-1].words
    assert judgement.ambiguous == {"hf": 1, "mf": 1}


def test_a_row_keeps_its_id_when_it_moves_and_a_copy_gets_its_own(llama: Sides) -> None:
    draft = draft_of(FAMILIES["baichuan2"])
    first, second, *rest = draft.rows
    moved = replace(draft, rows=(second, first, *rest, first))
    assert [row.id for row in moved.rows[:2]] == [second.id, first.id]
    assert len({row.id for row in moved.rows}) == len(moved.rows)
    judgement = judge(moved, llama)
    assert judgement.rows[1].ambiguous == (moved.rows[-1].id,)
    assert "ambiguous: row 2 matches the same names" in judgement.rows[-1].words
    with pytest.raises(MfconvError, match=rf"row 2, rule .* and row {len(moved.rows)}, rule"):
        family_of(moved)


def test_a_size_says_its_number_or_what_is_wrong(llama: Sides) -> None:
    draft = draft_of(FAMILIES["baichuan2"])
    sizes = {s.axis: s for s in judge(replace(draft, sizes=f"{draft.sizes}\nodd = hidden_sice\nbad = 3 +"), llama).sizes}
    assert (sizes["hidden"].value, sizes["hidden"].mark) == (96, GOOD)
    assert (sizes["odd"].mark, sizes["odd"].words) == (DOUBT, "config.json has none of hidden_sice")
    assert sizes["bad"].mark == BAD
    assert judge(replace(draft, sizes="hidden hidden_size"), llama).flaws[0].caret == "hidden hidden_size\n^"


@pytest.mark.parametrize("key", ["baichuan2", "swin", "bert", "deepseek3"])
def test_whatever_is_typed_is_judged_and_never_raises(key: str) -> None:
    sides, draft, dice = sides_of(key), draft_of(FAMILIES[key]), random.Random(key)
    pieces = ["", "{", "}", "(", ")", ",", "+", "->", "0", " ", '"', "=", "\n", "{layer}", "{stage}", "hidden", "..", "|", "[", "len(", "("]

    def typed(text: str) -> str:
        first = dice.randint(0, len(text))
        return text[:first] + dice.choice(pieces) + text[first + dice.choice([0, 0, 1, 8]) :]

    for _ in range(150):
        place = dice.randrange(len(draft.rows))
        row = draft.rows[place]
        field = dice.choice(["hf", "mf", "layout", "sizes", "kind"])
        other = dice.choice(KINDS) if field == "kind" else typed(getattr(row, field))
        changed = draft.with_row(place, replace(row, **{field: other}))
        changed = replace(changed, sizes=typed(draft.sizes)) if dice.random() < 0.3 else changed
        judgement = judge(changed, sides)
        try:
            family_of(changed)
        except MfconvError:
            assert not judgement.is_complete


def test_brackets_without_end_are_refused_at_the_one_that_is_too_much() -> None:
    fault = read_row(DraftRow(hf="a", mf="b", layout="(" * 3000))
    assert isinstance(fault, Fault)
    assert fault.position == 50


def test_copies_into_a_name_with_a_placeholder_of_its_own_are_refused() -> None:
    with pytest.raises(MfconvError, match="row 1, copies"):
        family_of(draft_of(Family("mine", "", (Repeated("a.{layer}", "b.{stage}"),), {})))
    with pytest.raises(MfconvError, match=r"\{Stage"):
        family_of(draft_of(Family("mine", "", (Rule("a.{layer}", "b.{layer}"),), {"layer": "depths[{Stage}]"})))


def test_without_a_config_numbers_and_shapes_tell_the_sizes(llama: Sides) -> None:
    shapes = {"a.0.w": (4, 6), "a.1.w": (4, 6)}
    suggestion = mc.author.suggest(shapes, {"b.0.v": (6, 4), "b.1.v": (6, 4)})
    hf = [TensorSpec(name, shape, "F32") for name, shape in shapes.items()]
    mf = [TensorSpec(f"b.{n}.v", (6, 4), "F32") for n in range(2)]
    assert judge(draft_of_suggestion(suggestion, "mine"), Sides(hf, mf)).is_complete


def test_a_row_with_a_number_of_the_config_in_its_name_counts_before_a_placeholder() -> None:
    rules = (Rule("l.{layer}.up", "d.{layer}.up", "h"), Rule("l.{=last}.up", "mtp.up", "h"))
    family = Family("mine", "a layer behind the last", rules, sizes={"layer": "layers", "last": "layers", "h": "h"})
    hf = [TensorSpec(f"l.{n}.up", (2,), "F32") for n in range(3)]
    mf = [TensorSpec(name, (2,), "F32") for name in ("d.0.up", "d.1.up", "mtp.up")]
    judgement = judge(draft_of(family), Sides(hf, mf, {"layers": 2, "h": 2}))
    assert judgement.is_complete
    assert [(row.hf, row.mf) for row in judgement.rows] == [(2, 2), (1, 1)]
    unsaid = judge(draft_of(family), Sides(hf, mf, None)).rows[1]
    assert (unsaid.mark, unsaid.words) == (DOUBT, "a number of its names is a size that only a config.json tells")


def test_a_pattern_for_unmatched_names_takes_the_placeholders_of_other_rows() -> None:
    rules = (Rule("model.layers.{block}.a", "b.{block}"),)
    assert pattern_for([f"model.layers.{n}.up.weight" for n in range(3)], rules) == "model.layers.{block}.up.weight"
    assert pattern_for([f"h.{n}.experts.{m}.w1" for n in range(2) for m in range(2)], ()) == "h.{layer}.experts.{expert}.w1"
    assert pattern_for(["mlp.fc1.weight"], ()) == "mlp.fc1.weight"
    assert pattern_for(["model.layers.0.fc1.weight"], ()) == "model.layers.{layer}.fc1.weight"
    assert pattern_for([f"a.layers.{n}.b.layers.{m}.w" for n in range(2) for m in range(2)], ()) == "a.layers.{layer}.b.layers.{layer_}.w"


def test_a_keystroke_against_46_000_names_costs_the_row_it_is_in() -> None:
    family = FAMILIES["deepseek3"]
    config = {**family.toy, "num_hidden_layers": 61, "n_routed_experts": 256, "first_k_dense_replace": 3}
    hf = mc.expected(family, config, side="hf")
    sides = Sides(hf.specs, mc.map(hf, family).specs, config)
    draft = draft_of(family)
    all_rows = work_of(lambda: judge(draft, sides))
    assert judge(draft, sides).matched["hf"] == len(hf) > 46_000
    for part, matched, share in (("experts.{expert}.gate_proj", 30_208, 0.8), ("self_attn.o_proj", 62, 0.1)):
        place = next(n for n, row in enumerate(draft.rows) if part in row.hf)
        typed = draft.with_row(place, replace(draft.rows[place], layout=f"{draft.rows[place].layout} "))
        assert work_of(partial(judge, typed, sides)) < share * all_rows  # 0.66 and 0.03; nearly 1 where a keystroke judged every row
        said = judge(typed, sides).rows[place]
        assert (said.hf, said.mark) == (matched, GOOD)
