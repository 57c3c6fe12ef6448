"""mfconv suggest and mfconv probe: what they print, the file that is written, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.core.checkpoint import HF, MF, checkpoint_of
from mfconv_nb.families.user_families import family_in_file
from tests.toys import raws_of


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder: a model that no family is named for, and what MindFormers has of it."""
    monkeypatch.chdir(tmp_path)
    toy = mc.toy("baichuan2", tmp_path / "hf")
    mc.save(mc.map(toy), tmp_path / "mf.ckpt")
    return tmp_path


def shapes_in(checkpoint: str | Path, file: Path) -> str:
    file.write_text(json.dumps({t.name: list(t.shape) for t in mc.load(checkpoint)}))
    return str(file)


# ---- suggest ---------------------------------------------------------------------------------------------------------------


def test_the_written_file_converts_as_the_family_does(sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["suggest", "hf", "mf.ckpt", "--out", "my_model.py"]) == 0
    printed = capsys.readouterr().out
    assert "✓ Every name has a rule." in printed
    assert "written: my_model.py" in printed
    assert run(["convert", "--model", "my_model.py", "hf", "mine.ckpt"]) == 0
    assert raws_of(mc.load("mine.ckpt")) == raws_of(mc.load("mf.ckpt"))
    assert run(["prove", "my_model.py"]) == 0


def test_the_file_has_the_key_and_the_reasons(sides: Path) -> None:
    assert run(["suggest", "hf", "mf.ckpt", "--out", "drafted.py", "--key", "my_model"]) == 0
    text = Path("drafted.py").read_text()
    assert 'key="my_model"' in text
    assert "certain: " in text
    assert "bytes are equal" in text


@pytest.mark.parametrize("drafted", [["suggest", "hf", "mf.ckpt"], ["import", "rules.py"]], ids=["suggest", "import"])
def test_a_file_of_any_name_can_be_used_and_a_key_that_cannot_is_refused(drafted: list[str], sides: Path) -> None:
    Path("rules.py").write_text('weight_converters = [RenameConvertOp(hf_names="a.{}.w", mf_names="b.{}.w")]\n')
    assert run([*drafted, "--out", "my model (2).py"]) == 0
    assert family_in_file("my model (2).py").key == "my_model__2_"
    assert run([*drafted, "--out", "other.py", "--key", "my model"]) == 2
    assert not Path("other.py").exists()


def test_names_and_shapes_in_a_json_file_stand_for_either_side(sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = shapes_in("hf", sides / "here.json"), shapes_in("mf.ckpt", sides / "there.json")
    assert run(["suggest", "hf", there, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["mf"] for row in rows} == {s.mf for s in mc.author.suggest("hf", "mf.ckpt").suggested}
    assert run(["suggest", here, there, "--config", "hf", "--out", "my_model.py"]) == 0
    assert run(["convert", "--model", "my_model.py", "hf", "mine.ckpt"]) == 0
    assert raws_of(mc.load("mine.ckpt")) == raws_of(mc.load("mf.ckpt"))


def test_names_that_are_left_over_are_listed_and_the_code_is_1(sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mc.save(checkpoint_of(mc.load({"another.weight": np.ones((3, 5), np.float32)}).tensors, side=MF), sides / "other.ckpt")
    assert run(["suggest", "hf", "other.ckpt"]) == 1
    assert "unmatched on the MindFormers side: another.weight" in capsys.readouterr().out


def test_a_file_is_not_replaced_unless_it_is_said(sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_model.py").write_text("# mine\n")
    assert run(["suggest", "hf", "mf.ckpt", "--out", "my_model.py"]) == 2
    assert "MFC401" in capsys.readouterr().err
    assert Path("my_model.py").read_text() == "# mine\n"
    assert run(["suggest", "hf", "mf.ckpt", "--out", "my_model.py", "--force"]) == 0
    assert "FAMILY" in Path("my_model.py").read_text()


@pytest.mark.parametrize("content", ['{"a": "b"}', "[", '{"a": [1, -2]}', '{"a": [true]}', "{}"])
def test_json_that_is_not_names_and_shapes_is_refused(content: str, sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sides / "elsewhere").mkdir()
    Path("elsewhere/shapes.json").write_text(content)
    assert run(["suggest", "hf", "elsewhere/shapes.json"]) == 2
    assert "✗ Refused.  MFC1" in capsys.readouterr().err


# ---- probe -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    w = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)
    for name, arrays in {"a": {"w": w, "v": w}, "turned": {"w": w.T.copy(), "v": w}, "off": {"w": w, "v": w + 1}}.items():
        mc.save(checkpoint_of(mc.load(arrays).tensors, side=HF), tmp_path / f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "more", "code", "words"),
    [
        ("a", [], 0, "✓ Equal."),
        ("turned", [], 0, "transposed"),
        ("off", [], 1, "✗ Not equal."),
        ("off", ["--name", "w"], 0, "✓ Equal."),
        ("off", ["--name", "w", "--name", "v"], 1, "✗ Not equal."),
    ],
)
def test_the_code_says_whether_a_known_change_makes_them_equal(
    reference: str, more: list[str], code: int, words: str, tensors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", "a.safetensors", f"{reference}.safetensors", *more]) == code
    assert words in capsys.readouterr().out


def test_a_name_that_is_not_there_is_refused(tensors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["probe", "a.safetensors", "off.safetensors", "--name", "nothing"]) == 2
    assert "MFC309" in capsys.readouterr().err


def test_json_has_the_verdicts(tensors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["probe", "a.safetensors", "off.safetensors", "--json"]) == 1
    assert [(row["tensor"], row["verdict"]) for row in json.loads(capsys.readouterr().out)["rows"]] == [("v", "differs")]
