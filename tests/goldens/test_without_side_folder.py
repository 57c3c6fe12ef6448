"""A MindFormers file without the folder that was written beside it: what comes back, and what is said of the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv
from tests.goldens.matching import problems_back
from tests.goldens.recipe import load_case
from tests.support import Raw, raws_in

HfOf = Callable[[str], Path]

TIED, BUFFERS = "llama32-tied-bf16", "llama2-mha-fp16-binshards"


def test_without_the_side_folder_a_tied_head_is_told_from_the_config(hf_of: HfOf, tmp_path: Path) -> None:
    hf, mf, back = hf_of(TIED), tmp_path / "mf" / "out.ckpt", tmp_path / "back"
    assert mfconv(["convert", str(hf), str(mf)]) == 0
    shutil.rmtree(f"{mf}.mfconv")
    assert mfconv(["convert", "--model", "llama", "--reversed", str(mf), str(back), "--config", str(hf)]) == 0
    assert problems_back(load_case(TIED), raws_in(back)) == []
    assert mc.verify(hf, mf).equal


def test_without_the_side_folder_and_a_config_both_copies_of_a_tied_head_stay(hf_of: HfOf, tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(hf_of(TIED))), tmp_path / "mf" / "out.ckpt")
    shutil.rmtree(tmp_path / "mf" / "out.ckpt.mfconv")
    mc.save(mc.map(mc.load(tmp_path / "mf" / "out.ckpt"), "llama", to="hf"), tmp_path / "back")
    back = raws_in(tmp_path / "back")
    assert problems_back(load_case(TIED), back) == ["unexpected lm_head.weight"]
    assert back["lm_head.weight"] == back["model.embed_tokens.weight"]


@pytest.mark.real_frameworks
def test_without_the_side_folder_buffers_are_named_as_not_restored(hf_of: HfOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = load_case(BUFFERS)
    buffers = {t.name for t in case.tensors if t.name.endswith("inv_freq")}
    hf, mf = hf_of(BUFFERS), tmp_path / "out.ckpt"
    mc.save(mc.map(mc.load(hf)), mf)
    assert mc.verify(hf, mf).equal
    shutil.rmtree(f"{mf}.mfconv")

    report = mc.verify(hf, mf)
    assert not report.equal
    assert repr(report).startswith("! Incomplete.")
    assert all(name in repr(report) for name in buffers)
    assert mfconv(["verify", str(hf), str(mf)]) == 1
    assert "! Incomplete." in capsys.readouterr().out

    mc.save(mc.map(mc.load(mf, config=hf), "llama", to="hf"), tmp_path / "back")
    assert sorted(problems_back(case, raws_in(tmp_path / "back"))) == sorted(f"missing {n}" for n in buffers)


def test_raws_compare_names_shapes_dtypes_and_bytes() -> None:
    one = Raw("F32", (1,), b"\0\0\0\0")
    assert one != one._replace(shape=(1, 1)) != one._replace(dtype="I32") != one._replace(data=b"\0\0\0\x80")
