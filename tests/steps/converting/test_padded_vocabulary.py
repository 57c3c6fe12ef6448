"""Rows that were added behind the vocabulary are cut off on request, and only where nothing used them."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run as mfconv

ROWS = 331  # of the toys


@cache
def weights(family: str) -> dict[str, Any]:
    mapped = mc.map(mc.toy(family, dtype="fp32"), family, to="mf")
    return {name: np.array(mc.read(mapped, name)) for name in mapped.tensors}


def padded(family: str, extra: Any) -> dict[str, Any]:
    """The weights with further rows: what ``extra`` makes of the width of a tensor, or of (name, width)."""
    found = {}
    for name, array in weights(family).items():
        found[name] = np.vstack([array, extra(name, array.shape[1]).astype(array.dtype)]) if array.shape[0] == ROWS else array
    assert sum(a.shape != weights(family)[n].shape for n, a in found.items()) == 2  # embedding and head
    return found


def zeros(count: int) -> Any:
    return lambda _, width: np.zeros((count, width))


def alike(count: int) -> Any:
    """A head whose unused rows were all moved alike in training."""
    return lambda _, width: np.tile(np.linspace(-1, 1, width), (count, 1))


@pytest.mark.parametrize("family", ["llama", "qwen3", "telechat3", "glm4-mcore"])
@pytest.mark.parametrize("extra", [zeros(5), zeros(1), alike(2), alike(53)], ids=["zeros", "one row", "two alike", "many alike"])
def test_unused_rows_are_cut_off_and_nothing_else_changes(family: str, extra: Any, tmp_path: Path) -> None:
    toy = mc.toy(family, dtype="fp32")
    mapped = mc.map(mc.load(padded(family, extra)), family, to="hf", config=toy.config, cut_vocabulary=True)
    report = mc.save(mapped, tmp_path / "hf", progress=False)
    assert mc.diff(tmp_path / "hf", toy, values=True).equal
    assert "would not come back" in report.way_back
    assert sum(note.startswith("cut: ") for note in mapped.report.notes) == 2
    assert f"to {ROWS} rows, if the others are unused" in "\n".join(mapped.report.notes)


@pytest.mark.parametrize(
    "extra",
    [alike(1), lambda _, w: np.vstack([np.zeros((4, w)), np.full((1, w), 1e-30)]), lambda _, w: np.arange(3 * w).reshape(3, w)],
    ids=["one row that is not zero", "the last of five", "all differ"],
)
def test_rows_that_something_used_are_never_cut_off(extra: Any, tmp_path: Path) -> None:
    mapped = mc.map(mc.load(padded("llama", extra)), "llama", to="hf", config=mc.toy("llama").config, cut_vocabulary=True)
    with pytest.raises(mc.MfconvError) as error:
        mc.save(mapped, tmp_path / "hf", progress=False)
    assert error.value.code == "MFC308"
    assert "behind the vocabulary of 331" in str(error.value)
    assert not (tmp_path / "hf").exists()


def test_a_row_of_the_head_alone_that_was_trained_is_enough_to_refuse(tmp_path: Path) -> None:
    mapped = mc.map(
        mc.load(padded("llama", lambda n, w: np.eye(2, w) if "lm_head" in n else np.zeros((2, w)))),
        "llama",
        to="hf",
        config=mc.toy("llama").config,
        cut_vocabulary=True,
    )
    with pytest.raises(mc.MfconvError) as error:
        mc.save(mapped, tmp_path / "hf", progress=False)
    assert error.value.code == "MFC308"
    assert "lm_head.weight" in str(error.value)


def test_without_being_asked_nothing_is_cut_and_the_refusal_names_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mc.toy("llama", tmp_path / "hf", dtype="fp32")
    mc.save(mc.load(padded("llama", zeros(5))), tmp_path / "run.ckpt", progress=False)
    command = ["convert", "--reversed", str(tmp_path / "run.ckpt"), str(tmp_path / "back"), "--config", str(tmp_path / "hf"), "--quiet"]
    assert mfconv(command) == 2
    said = capsys.readouterr()
    assert "(336, 96)" in said.out + said.err
    assert "--cut_vocabulary (cut_vocabulary=True in Python)" in said.out + said.err
    assert mfconv([*command, "--cut_vocabulary"]) == 0
    assert mc.diff(tmp_path / "hf", tmp_path / "back", values=True).equal


def test_without_a_config_nothing_says_how_many_rows_there_are() -> None:
    with pytest.raises(mc.MfconvError) as error:
        mc.map(mc.load(padded("llama", zeros(5))), "llama", to="hf", n_head=8, cut_vocabulary=True)
    assert error.value.code == "MFC501"
    assert "cut_vocabulary" in str(error.value)


def write_padded(folder: Path, extra: Any) -> Path:
    """A run's file with further rows, and a Hugging Face folder `hf` beside it."""
    mc.toy("llama", folder / "hf", dtype="fp32")
    mc.save(mc.load(padded("llama", extra)), folder / "run.ckpt", progress=False)
    return folder / "run.ckpt"


def test_verify_proves_a_conversion_that_cut_rows_off_by_what_its_manifest_remembers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_padded(tmp_path, zeros(5))
    flags = ["--config", str(tmp_path / "hf"), "--cut_vocabulary", "--quiet"]
    assert mfconv(["convert", "--reversed", str(run), str(tmp_path / "back"), *flags]) == 0
    assert mfconv(["verify", str(run), str(tmp_path / "back"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "39 of 39 tensors bitwise equal" in said
    assert "Every tensor that is left out as a copy is one." in said
    shutil.rmtree(tmp_path / "back.mfconv")
    assert mfconv(["verify", str(run), str(tmp_path / "back"), "--quiet"]) == 1
    assert mfconv(["verify", str(run), str(tmp_path / "back"), *flags]) == 0
    assert mc.verify(run, tmp_path / "back", "llama", cut_vocabulary=True).equal


def test_verify_does_not_pass_rows_that_were_used_or_a_vocabulary_with_one_changed_number(tmp_path: Path) -> None:
    run = write_padded(tmp_path, zeros(5))
    mapped = mc.map(mc.load(run), "llama", to="hf", config=tmp_path / "hf", cut_vocabulary=True)
    mc.save(mapped, tmp_path / "back", progress=False)
    used = mc.load(padded("llama", lambda _, w: np.eye(3, w)))
    assert not mc.verify(used, tmp_path / "back").passed
    assert not mc.verify(run, tmp_path / "back", cut_vocabulary=False).passed
    changed = {name: np.array(mc.read(mapped, name)) for name in mapped.tensors}
    changed["lm_head.weight"][330, 0] += 1
    assert not mc.verify(run, mc.load(changed, config=tmp_path / "hf"), cut_vocabulary=True).passed


def test_the_form_has_a_field_for_it_and_proves_what_it_wrote(tmp_path: Path) -> None:
    run = write_padded(tmp_path, alike(4))
    converter = mc.panel(run, tmp_path / "back")
    converter.config.value, converter.family.value = str(tmp_path / "hf"), "llama"
    assert converter.mapped is None
    converter.cut_vocabulary.value = True
    assert "cut_vocabulary=True" in converter.line.value
    converter.convert.click()
    assert converter.running is not None
    converter.running.join()
    assert "39 of 39 tensors bitwise equal" in converter.result.value
    assert mc.diff(tmp_path / "hf", tmp_path / "back", values=True).equal
    converter.source.value = str(tmp_path / "hf")
    assert converter.cut_vocabulary.value is False
