"""mfconv doctor: what is printed, the JSON form, and the exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from tests.runs.made_runs import make_run, original, weights_of

pytestmark = pytest.mark.usefixtures("here")


def test_the_first_lines_are_the_verdict_and_what_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("llama", "toy")
    assert run(["doctor", "toy/"]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first == "✓ Ready. Hugging Face checkpoint: a folder, 9 files · toy"
    assert second == "  next: mfconv convert toy OUT.ckpt"
    assert third == "  next: mfconv verify toy OUT.ckpt"


def test_exit_code_1_where_something_is_to_be_decided_or_in_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("llama", "toy")
    mc.save(mc.map(mc.load("toy")), "toy.ckpt")
    shutil.rmtree("toy.ckpt.mfconv")
    assert run(["doctor", "toy.ckpt"]) == 1
    assert capsys.readouterr().out.startswith("! Something is to be decided.")
    assert run(["doctor", "toy.ckpt", "--config", "toy"]) == 0
    Path("notes.txt").write_text("nothing")
    for path in ("notes.txt", "not there"):
        capsys.readouterr()
        assert run(["doctor", path]) == 1
        shown = capsys.readouterr()
        assert shown.out.startswith("✗ Cannot be converted as it is.")
        assert shown.err == ""


def test_json_is_one_object_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("llama", "toy")
    assert run(["doctor", "toy", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ready"] is True
    assert said["next"] == ["mfconv convert toy OUT.ckpt", "mfconv verify toy OUT.ckpt"]
    assert {"mark": "✓", "about": "family", "seen": "llama, qkv_concat=False (default)"} in said["findings"]
    assert "steps" not in said


@pytest.mark.real_frameworks
def test_a_run_shows_which_rank_has_which_step(capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_of(original(Path("hf")))
    make_run(Path("run"), weights, step=5)
    make_run(Path("run"), weights, step=6, ranks=[1])
    assert run(["doctor", "run", "--config", "hf"]) == 1
    shown = capsys.readouterr().out
    assert "next: mfconv convert --reversed run OUT/ --step 1_5 --config hf" in shown
    table = [line.split() for line in shown.partition("Which rank has which step:")[2].strip().splitlines()]
    assert table[0] == ["rank", "1_5", "←", "1_6"]
    assert table[2:] == [["0", "✓", "–"], ["1", "✓", "✓"], ["2", "✓", "–"], ["3", "✓", "–"]]
    assert run(["doctor", "run", "--config", "hf", "--step", "1_5"]) == 0
    capsys.readouterr()
    run(["doctor", "run", "--config", "hf", "--json"])
    assert json.loads(capsys.readouterr().out)["steps"] == {"0": ["1_5"], "1": ["1_5", "1_6"], "2": ["1_5"], "3": ["1_5"]}


def test_control_characters_of_a_stranger_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    mc.save(mc.load({"layers.0.\x1b[31mred.weight": np.ones((2, 2), np.float32)}), "x.safetensors")
    run(["doctor", "x.safetensors"])
    assert "\x1b" not in capsys.readouterr().out
