"""The static proof of the families, and that it can fail."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

import mfconv_nb as mc
from mfconv_nb.author.proving.proof import ProofReport
from mfconv_nb.author.proving.proof import prove_rules as prove
from mfconv_nb.cli.main import run as mfconv
from mfconv_nb.families.registry import family_named
from mfconv_nb.rules import Drop, Family, Rule

KEYS = [f.key for f in mc.known_families()]
SPLIT = Rule("a.{layer}.qkv", ("a.{layer}.q", "a.{layer}.k"), "(heads q + heads k) hidden -> (heads q) hidden, (heads k) hidden")


def small(*rules: Rule | Drop, **toy: int) -> Family:
    config = {"layer": 2, "heads": 3, "q": 4, "k": 5, "hidden": 6, **toy}
    return Family("small", "nothing that exists", rules=rules, sizes={key: key for key in config}, toy=config)


def failed(report: ProofReport) -> dict[str, str]:
    return {p.condition: p.seen for p in report.proved if not p.holds}


@pytest.mark.parametrize("key", KEYS)
def test_a_family_is_proved_and_no_mistake_survives(key: str) -> None:
    report = mc.author.prove(key)
    assert failed(report) == {}
    assert report.survivors == ()
    assert report.passed


def test_the_mistakes_of_every_kind_are_made_and_noticed_by_what_can_notice_them() -> None:
    by_kind: dict[str, set[str]] = {}
    for key in ("bloom", "mixtral", "internlm2", "baichuan2", "qwenvl"):
        for caught in prove(key).caught:
            by_kind.setdefault(caught.kind, set()).add(caught.by)
    assert by_kind == {
        "rule dropped": {"names"},
        "roles swapped": {"numbers", "shapes"},
        "parts reordered": {"numbers"},
        "factors reordered": {"numbers"},
        "move dropped": {"numbers", "shapes"},
        "targets swapped": {"numbers"},
        "wrong head count": {"shapes", "numbers"},
    }


def test_why_rules_cannot_be_read_is_one_line_with_what_was_found_and_expected() -> None:
    told = failed(prove(Family("small", "nothing that exists", rules=(Rule("a", "b", "x"),), sizes={"x": "missing"}, toy={"y": 1})))
    assert told["The rules can be read."] == "MFC107, axis 'x' in config.json: found no value, expected missing"


def test_a_size_that_only_the_way_back_needs_is_asked_for() -> None:
    joined = Rule(("a.q", "a.k"), "a.qk", "one hidden, other hidden -> (one + other) hidden")
    told = failed(prove(small(joined)))
    assert told == {"There and back, every size is given: by a config, by the rule, or by shapes.": "one, other of ('a.q', 'a.k')"}
    assert prove(small(replace(joined, sizes={"one": 3}))).passed
    assert prove(small(replace(joined, sizes={"one": "other"}))).passed
    assert prove(small(replace(joined, layout="q hidden, k hidden -> (q + k) hidden"))).passed


def test_a_sound_family_of_ones_own_is_proved() -> None:
    assert prove(small(SPLIT)).passed


def test_two_patterns_that_meet_are_not_proved() -> None:
    report = prove(small(SPLIT, Rule("a.{block}.qkv", "b.{block}.w", "heads")))
    assert not report.passed
    assert "a.{layer}.qkv and a.{block}.qkv" in failed(report)["No two patterns of the Hugging Face side match the same name."]


def test_patterns_that_differ_in_a_number_do_not_meet() -> None:
    rules = (Rule("a.{layer}.w1", "b.{layer}.w1", "heads"), Rule("a.{layer}.w2", "b.{layer}.w2", "hidden"))
    assert prove(small(*rules)).passed


def test_a_placeholder_without_an_axis_is_not_proved() -> None:
    report = prove(small(Rule("a.{layer}.w", "b.w", "heads hidden")))
    assert not report.passed
    assert "{layer} in a.{layer}.w" in str(failed(report))


def test_a_sentence_that_loses_a_part_is_not_proved() -> None:
    report = prove(small(Rule("a.{layer}.qk", "a.{layer}.q", "(q + k) hidden -> q hidden")))
    assert not report.passed
    assert "MFC307" in str(failed(report)) or "MFC311" in str(failed(report))


def test_a_draft_is_proved_though_no_config_gives_the_sizes_of_some_of_its_rules() -> None:
    """What mc.author.suggest drafts without a config, and what mc.author.import_rules makes of a rename."""
    weights = {f"layers.{n}.{part}.weight": (6 + len(part), 4) for n in range(2) for part in ("up", "down")}
    draft = mc.author.suggest(weights, {name.replace("layers", "blocks"): shape for name, shape in weights.items()}).family("mine")
    report = mc.author.prove(replace(draft, rules=(*draft.rules, Rule("a.{layer}.w", "b.{layer}.w"))))
    assert report.passed
    promised = "What a config promises on one side becomes what it promises on the other."
    seen = {p.condition: p.seen for p in report.proved}
    assert seen[promised] == "both ways, but for 3 rules with an axis whose size no config gives"


def test_factors_of_which_one_always_has_size_1_may_stand_in_any_order() -> None:
    """Gate and up row by row, as a draft says it: turns of one row each."""
    rule = Rule(("gate", "up"), "fc1", "(turns row) hidden, (turns row_too) hidden -> (turns (row + row_too)) hidden")
    sizes = {"turns": "ffn", "row": "1", "row_too": "1", "hidden": "hidden"}
    assert prove(Family("rows", "row by row", (rule,), sizes=sizes, toy={"ffn": 6, "hidden": 5})).passed


def test_a_mistake_that_the_toy_cannot_show_survives_and_is_named() -> None:
    report = prove(small(SPLIT, heads=1))
    assert not report.passed
    assert {c.kind for c in report.survivors} == {"factors reordered"}
    assert "not noticed" in report.table().headline


def test_a_config_without_a_size_is_told_and_no_crash() -> None:
    report = prove(replace(small(SPLIT), sizes={"layer": "layer", "hidden": "nowhere"}))
    assert not report.passed
    assert "MFC107" in str(failed(report))


def test_the_command_proves_the_families_it_is_given_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert mfconv(["prove", "bloom", "mixtral"]) == 0
    out = capsys.readouterr().out
    assert out.count("✓ Proved.") == 2
    assert "There and back, every number returns to its place." in out


def test_the_command_refuses_an_unknown_family_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert mfconv(["prove", "blom"]) == 2
    assert "Did you mean 'bloom'?" in capsys.readouterr().err


def test_every_rule_of_a_family_is_named_in_the_rows_as_a_mistake_that_was_noticed() -> None:
    dropped = {row["what"] for row in prove("llama").rows() if row.get("mistake") == "rule dropped"}
    assert {"model.embed_tokens.weight", "model.layers.{layer}.mlp.down_proj.weight", "lm_head.weight"} <= dropped
    assert family_named("llama").rules


def test_a_draft_of_a_whole_model_is_proved_as_quickly_as_a_toy() -> None:
    """Its toy is the config of a model: no tensor of that size is made to see where its numbers go."""
    config = {"vocab": 128_256, "hidden": 8192, "heads": 64, "head": 128, "ffn": 28_672, "groups": 8, "layer": 80}
    rules = (
        Rule("embed", "e", "vocab hidden"),
        Rule(
            "l.{layer}.qkv",
            ("l.{layer}.q", "l.{layer}.k"),
            "(heads head + groups head) hidden -> (heads head) hidden, (groups head) hidden",
        ),
        Rule("l.{layer}.o", "l.{layer}.p", "hidden (heads head) -> (heads head) hidden"),
        Rule("l.{layer}.up", "l.{layer}.w", "ffn hidden"),
    )
    family = Family("large", "a draft", rules, sizes={key: key for key in config}, toy=config)
    tracemalloc.start()
    report = prove(family)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.passed
    assert len(report.caught) > 4
    assert largest < 200 << 20  # 8 GiB and four minutes for its embedding alone
