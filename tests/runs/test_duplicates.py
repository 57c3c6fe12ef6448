"""One rank's file in place of another's: steps and shapes fit, and two parts of every tensor are equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc

CUTS = {"wq*": ("tp", None), "wk*": ("tp", None), "bias": ("tp",), "zero": ("tp", None)}


def arrays(**more: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    found = {f"w{kind}.{layer}": random.standard_normal((32, 5)).astype("float32") for kind in "qk" for layer in range(3)}
    return found | {"bias": np.zeros(32, "float32"), "zero": np.zeros((32, 2), "float32")} | more


def cut(tensors: dict[str, np.ndarray], folder: Path, form: str) -> Path:
    cuts = {pattern: axes for pattern, axes in CUTS.items() if any(name.startswith(pattern.rstrip("*")) for name in tensors)}
    mc.save(mc.load(tensors), folder, layout_of_ranks=mc.RankLayout({"tp": 8}, cuts, form=form, step=7))
    shutil.rmtree(f"{folder}.mfconv")
    return folder


@pytest.mark.parametrize("form", ["rank folders", "checkpoint 2.0"])
def test_a_file_in_place_of_another_ranks_is_to_be_decided(form: str, tmp_path: Path) -> None:
    run = cut(arrays(), tmp_path / "run", form)
    assert not mc.load(run).run.assumed
    files = sorted(run.rglob("*.safetensors"))
    shutil.copy(files[2], files[5])
    (said,) = mc.load(run).run.assumed
    assert said.startswith("ranks 2 and 5 hold the same numbers as different parts of 2 kinds of tensors, such as 'wq.0'")
    assert any(note == f"assumed: {said}" for note in mc.load(run).notes)
    assert not mc.doctor(run).ready


@pytest.mark.parametrize("form", ["rank folders", "checkpoint 2.0"])
def test_equal_parts_of_some_tensors_are_no_copies(form: str, tmp_path: Path) -> None:
    """More ranks than key heads: each is there several times."""
    head = np.arange(20, dtype="float32").reshape(4, 5)
    repeated = {f"wk.{layer}": np.concatenate([head + layer] * 8) for layer in range(3)}
    assert not mc.load(cut(arrays(**repeated), tmp_path / "run", form)).run.assumed


def test_nothing_is_concluded_from_zeros(tmp_path: Path) -> None:
    zeros = {name: np.zeros_like(array) for name, array in arrays().items()}
    assert not mc.load(cut(zeros, tmp_path / "run", "rank folders")).run.assumed
