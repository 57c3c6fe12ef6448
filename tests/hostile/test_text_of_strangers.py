"""Names, configs, manifests and file names are a stranger's text: whatever they say, no line, colour or formula of theirs is printed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.cli.options import say
from mfconv_nb.core.errors import Lines, MfconvError, quote
from mfconv_nb.core.report import Column, Table, csv_text, table_html, table_text
from tests.support import numbered, write_safetensors
from tests.toys import raws_of

FORGED = "✓ Forged. 39 of 39 tensors bitwise equal"
ODD = {
    "a line": f"x\n{FORGED}",
    "a return": f"x\r{FORGED}",
    "other lines": f"x\v{FORGED}\f{FORGED}\x85{FORGED}\u2028{FORGED}\u2029{FORGED}",
    "a colour": "x\x1b[32m\x1b[2J\x9b31m",
    "right to left": "x\u202eneve\u2066\u200f\u061c",
    "unseen": "x\u200b\u2060\ufeff\u00ad\U000e0041",
    "a tab": "x\ty\by\x7f",
    "markup": "x<b onclick='y'>&lt;</b>[red]y[/red]",
}
CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")


def assert_harmless(printed: str, what: str) -> None:
    """No control character but our own line breaks, and no line that begins with what a stranger wrote."""
    odd = {c for c in printed if unicodedata.category(c) in CONTROLS} - {"\n"}
    assert not odd, f"{what}: {odd!r} in {printed!r}"
    assert not [line for line in printed.splitlines() if line.lstrip().startswith(FORGED)], f"{what}: {printed}"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_harmless_html(text: str, what: str) -> None:
    tags = _Tags()
    tags.feed(text)
    assert not any("onclick" in attributes or tag in ("b", "script") for tag, attributes in tags.found), what
    assert not {c for c in text if unicodedata.category(c) in CONTROLS} - {"\n"}, what
    assert f"<br>{FORGED}" not in text, what


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of both sides, small enough to be changed in many ways."""
    folder = tmp_path_factory.mktemp("toy")
    hf = mc.toy("llama")
    mc.save(hf, folder / "hf")
    mc.save(mc.map(hf), folder / "mf.ckpt")
    return folder


def _odd_folder(toy: Path, place: str, text: str, at: Path) -> Path:
    """The Hugging Face folder with this text in one place; where it cannot be there, as it is."""
    hf = at / "hf"
    shutil.copytree(toy / "hf", hf)
    config = json.loads((hf / "config.json").read_text())
    if place == "model_type":
        config["model_type"] = text
    elif place == "architectures":
        config |= {"architectures": [text], "model_type": text}
    elif place == "a size":
        config["hidden_size"] = text
    elif place == "auto_map":
        config["auto_map"] = {"AutoModel": f"{text}.{text}"}
    elif place == "quantization":
        config["quantization_config"] = {"quant_method": text, text: text}
    (hf / "config.json").write_text(json.dumps(config))
    if place == "a tensor's name":
        write_safetensors(hf / "more.safetensors", {text: numbered(3), f"model.layers.0.{text}.weight": numbered(2)})
    elif place == "metadata":
        write_safetensors(hf / "more.safetensors", {"lm_head.extra": numbered(3)}, {"format": text, text: text})
    elif place == "a file's name":
        write_safetensors(hf / f"{text.replace('/', '')}.safetensors", {"extra": numbered(3)})
    elif place == "a folder's name":
        hf = hf.rename(at / text.replace("/", ""))
    return hf


PLACES = (
    "model_type",
    "architectures",
    "a size",
    "auto_map",
    "quantization",
    "a tensor's name",
    "metadata",
    "a file's name",
    "a folder's name",
)


ALL = (ODD["a line"], "x" + "".join(text[1:] for kind, text in ODD.items() if FORGED not in text or kind == "a return"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", ALL, ids=("a line", "all else"))
def test_no_command_prints_a_strangers_line(
    place: str, text: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hf = _odd_folder(toy, place, text, tmp_path)
    commands = [
        ["inspect", hf, "--all"],
        ["doctor", hf],
        ["convert", hf, "out.ckpt"],
        ["convert", hf, "out2.ckpt", "--model", "llama", "--leave_out", "*extra*"],
        ["verify", hf, toy / "mf.ckpt"],
        ["diff", hf, toy / "hf", "--values", "--all"],
        ["save", hf, "saved.safetensors"],
        ["convert", toy / "mf.ckpt", "back", "--config", hf],
        ["inspect", hf / "not there"],
        ["merge", hf, "merged"],
        ["suggest", hf, toy / "mf.ckpt", "--out", "drafted.py"],
        ["inspect", hf, hf],
        ["convert", next(f for f in hf.glob("*.safetensors")), "out3.ckpt", f"--nonsense{text}"],
        ["convert", hf, "out4.ckpt", "--model", text],
    ]
    for command in commands:
        code = run([str(word) for word in command])
        printed = capfd.readouterr()
        assert code in (0, 1, 2)
        assert "A fault of mfconv" not in printed.err, printed.err
        assert_harmless(printed.out + printed.err, f"{command[0]}, {place}")


@pytest.mark.parametrize("text", ALL, ids=("a line", "all else"))
def test_no_command_prints_a_line_of_a_strangers_manifest(
    text: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(toy / "mf.ckpt", tmp_path)
    shutil.copytree(toy / "mf.ckpt.mfconv", tmp_path / "mf.ckpt.mfconv")
    file = tmp_path / "mf.ckpt.mfconv" / "manifest.json"
    first = json.loads(file.read_text())
    odd = [
        {"family": text, "family_file": f"{text}.py"},
        {"options": {text: text}},
        {"config": {**first["config"], "model_type": text}},
        {"lora": {"lora_alpha": text}},
        {"asked": {"leave_out": [text]}},
    ]
    for change in odd:
        file.write_text(json.dumps({**first, **change}))
        for command in (
            ["inspect", "mf.ckpt"],
            ["doctor", "mf.ckpt"],
            ["convert", "mf.ckpt", "back"],
            ["verify", str(toy / "hf"), "mf.ckpt"],
        ):
            code = run(command)
            printed = capfd.readouterr()
            assert code in (0, 1, 2)
            assert "A fault of mfconv" not in printed.err, (change.keys(), printed.err)
            assert_harmless(printed.out + printed.err, f"{command[0]}, {', '.join(change)}")
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        shutil.rmtree(tmp_path / "back.mfconv", ignore_errors=True)


@pytest.mark.parametrize("kind", ODD)
def test_no_part_of_a_table_and_no_note_makes_a_line(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    text = ODD[kind]
    table = Table(text, text, (Column(text), Column("n", True)), [(text, 1), (Lines(f"{text[:1]}\nours"), 3)], (text, text), text)
    assert_harmless(table_text(table), "text")
    (ours,) = [line for line in table_text(table).splitlines() if "ours" in line]
    assert ours.split() == ["ours"]
    assert_harmless_html(table_html(table), "HTML")
    say(f"note: {text}")
    error = MfconvError("MFC103", text, found=text, expected=text, hint=text)
    assert_harmless(capfd.readouterr().err + str(error) + quote(text), "a note, an error")
    assert str(error).count("\n") == 3


@pytest.mark.parametrize("kind", ODD)
def test_no_result_and_no_file_of_one_holds_a_strangers_line(kind: str, toy: Path, tmp_path: Path) -> None:
    text = ODD[kind]
    odd = mc.load({**{n: r.array() for n, r in raws_of(toy / "hf").items()}, text: np.ones(2, np.float32), f"a.{text}.0": np.ones(2)})
    other = mc.load({f"b.{text}": np.zeros(2, np.float32), text: np.zeros(2, np.float32)})
    mapped = mc.map(odd, "llama", leave_out=[text.replace("[", "[[]"), "a.*"])
    results: list[Any] = [
        odd,
        mc.diff(odd, other, values=True),
        mapped,
        mapped.report.explain("model.norm_out.weight"),
        mc.load(toy / "hf"),
    ]
    results += [mc.verify(odd, mapped, "llama", leave_out=[text.replace("[", "[[]"), "a.*"], progress=False)]
    for result in results:
        assert_harmless(repr(result), type(result).__name__)
        assert_harmless_html(result._repr_html_(), type(result).__name__)
        assert_harmless_html(result.export(tmp_path / "r.html").read_text(), type(result).__name__)
        assert_harmless(result.export(tmp_path / "r.csv").read_text(), type(result).__name__)
        as_json = result.export(tmp_path / "r.json").read_text()
        assert_harmless(as_json, type(result).__name__)
        assert json.loads(as_json)["rows"] is not None


# ---- spreadsheets ----------------------------------------------------------------------------------------------------------

FORMULAS = [
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    " =1+1",
    "\t=1",
    "\r=1",
    "＝1+1",
    "＠x",
    "-",
    "plain, with a comma",
    "0=1",
]


def test_no_cell_of_a_csv_is_a_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    a = mc.load({name: np.array([1.0, -3.0], np.float32) for name in FORMULAS})
    b = mc.load({name: np.array([1.0, -3.5], np.float32) for name in FORMULAS})
    file = mc.diff(a, b, values=True).export(tmp_path / "d.csv")
    rows = list(csv.DictReader(file.open(newline="", encoding="utf-8")))
    cells = [row["name"] for row in rows]
    assert not [c for c in cells if re.match(r"\s*[=+@＝＠]|\s*-.", c) or any(ord(ch) < 32 for ch in c)]
    assert cells[:4] == [f"'{name}" for name in FORMULAS[:4]]
    assert cells[-3:] == FORMULAS[-3:]
    assert {(row["differing"], row["max_abs"], row["nan_first"]) for row in rows} == {("1", "0.5", "0")}


def test_a_number_below_zero_in_a_csv_is_no_text(tmp_path: Path) -> None:
    assert csv_text([{"a": -1, "b": np.int64(-2), "c": -0.5, "d": None, "e": True, "f": "-1"}]) == "a,b,c,d,e,f\n-1,-2,-0.5,,True,'-1\n"
