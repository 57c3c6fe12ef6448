"""mfconv families: the list of them, and one in detail, as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.core.report import table_text
from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.rules import ANYWHERE, Drop, Family, Repeated, Rule, Tied, default_form, when
from mfconv_nb.steps.inspecting.families import evidence_of, families_report, family_report

KEYS = [family.key for family in known_families()]


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(arguments) == 0
    return capsys.readouterr().out


def data(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(printed([*arguments, "--json"], capsys))
    return content


# ---- all of them -------------------------------------------------------------------------------------------------------


def test_every_family_is_listed_with_what_it_covers_and_what_speaks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    content = data(["families"], capsys)
    assert [row["key"] for row in content["rows"]] == KEYS
    for row, family in zip(content["rows"], known_families(), strict=True):
        found = evidence_of(family.key)
        assert row["models"] == family.covers
        assert row["aliases"] == ", ".join(family.aliases)
        assert row["options"] == ", ".join(option.name for option in family.options)
        assert (row["cases"], row["repos"]) == (found.cases, found.repositories)


def test_the_list_says_where_the_way_back_needs_the_folder_beside(capsys: pytest.CaptureFixture[str]) -> None:
    ways = {row["key"]: row["both_ways"] for row in data(["families"], capsys)["rows"]}
    assert set(ways.values()) == {"yes", "beside"}
    assert ways["llama"] == "beside"  # old rotary buffers
    assert ways["mixtral"] == "yes"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_list_folds_to_the_width_of_the_terminal_and_is_never_cut(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = printed(["families"], capsys)
    rows = text.partition("─\n")[2].splitlines()
    assert max(len(line) for line in rows) <= width
    assert [line.split()[0] for line in rows if not line.startswith("   ")] == KEYS


def test_python_has_the_same_list_as_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(["families"], capsys).rstrip("\n") == repr(families_report())
    assert families_report().rows() == data(["families"], capsys)["rows"]
    assert list(families_report().to_frame()["key"]) == KEYS
    assert "<table" in families_report()._repr_html_()


# ---- one of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_every_family_shows_its_options_and_every_name_of_its_rules(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = data(["families", key], capsys)
    family = next(f for f in known_families() if f.key == key)
    assert [option["name"] for option in content["options"]] == [option.name for option in family.options]
    assert [option["values"] for option in content["options"]] == [list(option.values) for option in family.options]
    shown = {name for row in content["rows"] for side in ("Hugging_Face", "MindFormers") for name in row[side].split("\n")}
    for rule in family.rules:
        names = [rule.pattern] if isinstance(rule, Drop) else [rule.hf, rule.mf]
        assert {n for each in names for n in ((each,) if isinstance(each, str) else each)} <= shown
    text = printed(["families", key, "--all"], capsys)
    assert text.startswith(f"{key}: {family.covers} · ")
    assert f"source: {family.source}" in text
    assert all(f"--{option.name} " in text and option.help in text for option in family.options)


def test_options_are_shown_with_their_values_the_default_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["families", "llama"], capsys)
    assert "--qkv_concat False (default), True, grouped; shows on the MindFormers side" in text
    assert "model_type: llama, mistral" in text
    assert f"{evidence_of('llama').cases} golden cases, {evidence_of('llama').repositories} real repositories" in text
    assert "--is_pretrain False (default), True; shows on both sides" in printed(["families", "swin"], capsys)
    assert "--vit_num_head N (a whole number)" in printed(["families", "qwenvl"], capsys)
    assert "--prefix '' (default), transformer.; shows on the Hugging Face side" in printed(["families", "gpt"], capsys)
    assert "told as llama, which has the same names" in printed(["families", "yi"], capsys)


def test_an_alias_leads_to_its_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(["families", "glm4"], capsys) == printed(["families", "glm-n"], capsys)


def test_a_rule_says_what_kind_it_is_and_when_it_counts() -> None:
    family = Family(
        "mine",
        "a model of one's own",
        sizes={"biased": "bias | 0", "tied": "0"},
        rules=(
            Rule("h.{layer}.a", "m.{layer}.a", "hidden"),
            Rule("h.{layer}.b", "m.{layer}.b", "hidden", only_if="biased"),
            Rule("h.{layer}.c", "m.{layer}.c", "hidden", optional=ANYWHERE),
            Rule(("h.{layer}.k", "h.{layer}.v"), "m.{layer}.kv", "k hidden, v hidden -> (k + v) hidden"),
            *when(Rule("x", "y", "hidden"), flavour="sweet"),
            *when(Rule("x", "y", "hidden"), flavour="sour"),
            *when(Rule("x", "z", "hidden"), flavour="an unusually long word"),
            Repeated("e", "f", "hidden", may_be=("e2",)),
            Tied("head", "head", same_as="e", layout="hidden"),
            Drop("h.{layer}.buffer", "computed on both sides"),
            Drop("m.{layer}.cache", "only there", side="mf"),
        ),
    )
    rows = [tuple(row.values()) for row in family_report(family).rows()]
    assert rows == [
        ("rule", "h.{layer}.a", "m.{layer}.a", "hidden"),
        ("rule\nif biased", "h.{layer}.b", "m.{layer}.b", "hidden"),
        ("rule, some layers", "h.{layer}.c", "m.{layer}.c", "hidden"),
        ("rule", "h.{layer}.k\nh.{layer}.v", "m.{layer}.kv", "k hidden, v hidden -> (k + v) hidden"),
        ("rule\nflavour=sweet or sour", "x", "y", "hidden"),
        ("rule\nflavour=\n  an unusually long word", "x", "z", "hidden"),
        ("copies", "e\ne2", "f", "hidden"),
        ("tied", "head", "head", "hidden"),
        ("beside", "h.{layer}.buffer", "-", "computed on both sides"),
        ("beside", "-", "m.{layer}.cache", "only there"),
    ]
    text = table_text(family_report(family).table())
    assert "…kv" in text  # the beginning that most names have is said once
    assert "… below: h.{layer}. on the Hugging Face side, m.{layer}. on the other" in text
    assert "0 golden cases, 0 real repositories" in text


def test_a_long_family_is_cut_and_all_shows_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    rows = len(family_report("blip").rows())
    assert rows > 40
    assert f"{rows - 40} more rules: --all" in printed(["families", "blip"], capsys)
    assert "more rules" not in printed(["families", "blip", "--all"], capsys)


def test_an_unknown_key_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["families", "mixtrl"]) == 2
    captured = capsys.readouterr()
    assert "MFC301" in captured.err
    assert "Did you mean 'mixtral'?" in captured.err
    assert captured.out == ""
    with pytest.raises(mc.MfconvError):
        family_report("mixtrl")


def test_the_rules_of_the_default_form_are_among_those_shown() -> None:
    shown = {row["MindFormers"] for row in family_report("internlm2").rows()}
    assert {rule.mf for rule in default_form(family_report("internlm2").family).rules if isinstance(rule, Rule)} <= shown
