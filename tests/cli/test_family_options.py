"""Options of model families on the command line: which are listed, what they do, and how a wrong one is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.families.registry import known_families
from mfconv_nb.mapping.rules import COMMON_OPTIONS
from tests.support import raws_in
from tests.toys import raws_of

OPTIONS = {option.name for family in known_families() for option in family.options}


def toy_of(family: str, folder: Path, **options: object) -> Path:
    mc.toy(family, folder, options=options)
    return folder


def names_in(path: Path) -> set[str]:
    return set(raws_in(path))


# ---- help --------------------------------------------------------------------------------------------------------------


def listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options of families that the help names."""
    assert run(["convert", "--help", *arguments]) == 0
    return set(re.findall(r"--(\w+)(?![\w-])", capsys.readouterr().out)) & (OPTIONS | {o.name for o in COMMON_OPTIONS})


@pytest.mark.parametrize("family", known_families(), ids=lambda f: f.key)
def test_help_with_a_family_lists_its_options_and_no_others(family: mc.rules.Family, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(["--model", family.key], capsys) == {option.name for option in family.options} | {o.name for o in COMMON_OPTIONS}


@pytest.mark.parametrize(
    "key, names",
    [
        ("internlm2", {"qkv_concat"}),
        ("cogvlm2", {"modal", "sft"}),
        ("mixtral", {"use_gmm"}),
        ("qwenvl", {"vit_num_head"}),
        ("telechat", {"telechat_type"}),
        ("telechat2", {"telechat_type"}),
        ("swin", {"is_pretrain"}),
    ],
)
def test_the_options_of_mindformers_own_converters_are_there(key: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert names <= listed([f"--model={key}"], capsys)


@pytest.mark.parametrize("arguments", [[], ["--model", "no_such_family"]], ids=["no model", "an unknown one"])
def test_help_without_a_known_family_lists_none_of_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(arguments, capsys) == set()


def test_help_of_an_option_says_its_values_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--help", "--model", "mixtral"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--use_gmm, --use-gmm False or True" in shown
    assert "left out, False or what the names say" in shown


# ---- what they do ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given, fused", [([], True), (["--qkv_concat", "False"], False), (["--qkv-concat=false"], False)])
def test_qkv_concat_false_splits_and_the_default_of_internlm2_does_not(given: list[str], fused: bool, tmp_path: Path) -> None:
    toy = toy_of("internlm2", tmp_path / "toy")
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt"), "--model", "internlm2", *given]) == 0
    names = names_in(tmp_path / "o.ckpt")
    assert any(name.endswith("attention.w.weight") for name in names) == fused
    assert any(name.endswith("attention.wq.weight") for name in names) == (not fused)
    assert run(["convert", str(tmp_path / "o.ckpt"), str(tmp_path / "back")]) == 0  # the manifest remembers the option
    assert raws_in(tmp_path / "back") == raws_in(toy)


@pytest.mark.parametrize("word", ["False", "false", "0", "no", "off"])
def test_a_word_for_false_is_false(word: str, tmp_path: Path) -> None:
    toy = toy_of("mixtral", tmp_path / "toy")
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt"), "--use_gmm", word]) == 0
    assert raws_in(tmp_path / "o.ckpt") == raws_of(mc.map(mc.load(toy), use_gmm=False))
    assert raws_in(tmp_path / "o.ckpt") != raws_of(mc.map(mc.load(toy), use_gmm=True))
    manifest = json.loads((tmp_path / "o.ckpt.mfconv" / "manifest.json").read_text())
    assert manifest["options"] == {"use_gmm": False}


@pytest.mark.parametrize("given", [["--modal", "image"], []], ids=["said", "told from the names"])
def test_modal_image_converts_an_image_model(given: list[str], tmp_path: Path) -> None:
    toy = toy_of("cogvlm2", tmp_path / "toy", modal="image")
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt"), "--model", "cogvlm2", *given]) == 0
    assert raws_in(tmp_path / "o.ckpt") == raws_of(mc.map(mc.load(toy), "cogvlm2", modal="image"))


def test_a_form_that_the_names_contradict_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = toy_of("cogvlm2", tmp_path / "toy", modal="image")
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt"), "--model", "cogvlm2", "--modal", "video"]) == 2
    assert "MFC303" in capsys.readouterr().err
    assert not (tmp_path / "o.ckpt").exists()


def test_forms_that_all_fit_are_listed_as_they_are_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("telechat", tmp_path / "toy", options={"telechat_type": "telechat_52b"}, n_embd=96)
    mc.save(mc.map(mc.load(tmp_path / "toy"), "telechat", mp=2), tmp_path / "o.ckpt")
    for path in sorted((tmp_path / "o.ckpt.mfconv").rglob("*"), reverse=True):
        path.unlink()
    (tmp_path / "o.ckpt.mfconv").rmdir()  # nothing remembers for how many cards it was regrouped
    given = ["convert", str(tmp_path / "o.ckpt"), str(tmp_path / "back"), "--model", "telechat", "--config", str(tmp_path / "toy")]
    assert run(given) == 2
    captured = capsys.readouterr().err
    assert "MFC302" in captured
    assert "--mp 4; --mp 1; --mp 2" in captured
    assert run([*given, "--mp", "2"]) == 0
    assert raws_in(tmp_path / "back") == raws_in(tmp_path / "toy")


# ---- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, words",
    [
        (["--no_such_option", "3"], ["No such option '--no_such_option'"]),
        (["--use_gmm", "True"], ["MFC305", "use_gmm with model llama", "hidden_size, n_head, qkv_concat"]),
        (["--qkv_concta", "True"], ["No such option"]),
        (["--qkv_concat", "maybe"], ["MFC501", "qkv_concat", "False or True or grouped"]),
        (["--qkv_concat", "2"], ["MFC501"]),
        (["--n_head", "six"], ["MFC501", "a whole number"]),
        (["--n_head", "7"], ["MFC304"]),
        (["--qkv_concat"], ["requires an argument"]),
    ],
    ids=lambda g: " ".join(g) if g[0].startswith("--") else "",
)
def test_a_wrong_option_is_refused_with_exit_code_2(
    given: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = toy_of("llama", tmp_path / "toy")
    assert run(["convert", str(toy), str(tmp_path / "o.ckpt"), *given]) == 2
    captured = capsys.readouterr()
    assert [w for w in words if w not in captured.err] == [], captured.err
    assert captured.out == ""
    assert not (tmp_path / "o.ckpt").exists()
