"""A family written as a file: it reads back as an equal family, and the project's formatter has nothing to say about it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.author.family_text import family_text, write_family
from mfconv_nb.core.errors import OutputError
from mfconv_nb.families.registry import built_in, family_meant
from mfconv_nb.families.user_families import family_in_file
from mfconv_nb.mapping.rules import Drop, Family, Rule, Tied

KEYS = sorted(built_in())
HERE = Path(__file__).parents[2]


@pytest.mark.parametrize("key", KEYS)
def test_every_family_reads_back_as_it_was(key: str, tmp_path: Path) -> None:
    family = family_meant(key)
    file = write_family(family, tmp_path / f"{key}.py")
    assert replace(family_in_file(file), file=family.file) == family


def test_the_formatter_leaves_the_files_as_they_are(tmp_path: Path) -> None:
    for key in KEYS:
        write_family(family_meant(key), tmp_path / f"{key}.py", notes=["a reason " * 20])
    command = [sys.executable, "-m", "ruff", "--config", str(HERE / "pyproject.toml"), "--no-cache"]
    for verb in (["format", "--diff"], ["check", "--select", "E,F,W,I", "--ignore", "E501"]):
        done = subprocess.run([*command[:3], *verb, *command[3:], str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_names_that_begin_alike_stand_on_constants() -> None:
    rules = tuple(Rule(f"model.layers.{{layer}}.{n}.weight", f"model.layers.{{layer}}.m.{n}.weight", "d") for n in "abc")
    rules += tuple(Rule(f"model.layers.{{layer}}.e.{{expert}}.{n}", f"decoder.{{layer}}.{n}", "d") for n in "xyz")
    text = family_text(Family("mine", "Mine", rules, sizes={}))
    assert 'LAYER = "model.layers.{layer}."\n' in text
    assert 'HF_EXPERT = LAYER + "e.{expert}."\n' in text
    assert 'Rule(HF_EXPERT + "x", MF_LAYER + "x", "d"),' in text


def test_what_a_stranger_wrote_into_a_name_stays_a_name(tmp_path: Path) -> None:
    odd = 'a"""\n__import__("os").abort()\\'
    family = Family('k"', odd, (Rule(odd, "b'\u2028", None, dtype="F32"), Drop("c", odd, side="mf")), sizes={odd: odd}, source=odd + '"')
    file = tmp_path / "odd.py"
    file.write_text(family_text(family, notes=[odd]), encoding="utf-8")
    names: dict[str, Family] = {}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)  # type: ignore[arg-type]
    assert names["FAMILY"] == family


def test_a_config_that_holds_more_than_numbers_and_texts_is_written_as_python_reads_it(tmp_path: Path) -> None:
    """NaN and Infinity are what json.loads makes of a config.json that has them; a dtype is what a config of Python may hold."""
    toy = {"hidden": 4, "scale": float("inf"), "least": [float("-inf")], "dtype": np.dtype("float32")}
    family = Family("mine", "Mine", (Rule("a", "b", "hidden"),), sizes={"hidden": "hidden"}, toy=toy)
    read = family_in_file(write_family(family, tmp_path / "mine.py"))
    assert dict(read.toy) == {**toy, "dtype": "float32"}
    assert mc.author.prove(read).passed


def test_a_written_draft_maps_like_the_draft(tmp_path: Path) -> None:
    hf, mf = mc.toy("internlm2"), mc.map(mc.toy("internlm2"), "internlm2", qkv_concat=False)
    draft = mc.author.suggest(hf, mf)
    file = write_family(draft.family("mine"), tmp_path / "mine.py", notes=[s.reason for s in draft.suggested])
    assert mc.diff(mc.map(hf, str(file)), mc.map(hf, "internlm2", qkv_concat=False), values=True).equal
    assert mc.author.prove(str(file)).passed


def test_a_file_that_is_there_stays_unless_it_is_said(tmp_path: Path) -> None:
    rules = (Rule("e", "e", "v d"), Tied("h", "h", same_as="e", layout="v d"))
    family = Family("mine", "Mine", rules, sizes={"tied": "tied | 0"})
    file = write_family(family, tmp_path / "mine.py")
    with pytest.raises(OutputError, match="MFC401"):
        write_family(family, file)
    write_family(replace(family, covers="Mine again"), file, overwrite=True)
    assert family_in_file(file).covers == "Mine again"
    with pytest.raises(OutputError, match="MFC407"):
        write_family(family, tmp_path / "mine.txt")
    with pytest.raises(OutputError, match="MFC404"):
        write_family(family, tmp_path / "nowhere" / "mine.py")
    assert [f.name for f in tmp_path.iterdir() if f.name != "__pycache__"] == ["mine.py"]
