"""A step opens each checkpoint at its door, once, and passes it on: a proof, a conversion and a merge do not go back to the files."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import mfconv_nb as mc

OPENED: list[Path] = []
WATCHED: list[bool] = []


def _note_opening(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and WATCHED and isinstance(arguments[0], str):
        OPENED.append(Path(arguments[0]))


sys.addaudithook(_note_opening)  # it cannot be taken away again: it looks at WATCHED


def openings(step: Callable[[], object]) -> Counter[str]:
    """How often each file was opened while a step ran."""
    OPENED.clear()
    WATCHED.append(True)
    try:
        step()
    finally:
        WATCHED.clear()
    return Counter(path.name for path in OPENED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mc.toy("llama", tmp_path / "toy")
    mc.save(mc.map(mc.load(tmp_path / "toy")), tmp_path / "toy.ckpt", progress=False)
    return tmp_path


def test_a_proof_reads_the_config_and_the_manifest_of_each_side_once(folder: Path) -> None:
    seen = openings(lambda: mc.verify(folder / "toy", folder / "toy.ckpt", progress=False))
    assert (seen["config.json"], seen["manifest.json"]) == (1, 2)


def test_a_proof_by_the_manifest_alone_reads_it_twice(folder: Path) -> None:
    """Once to load, once for the checksums, which a checkpoint does not carry along."""
    seen = openings(lambda: mc.verify(folder / "toy.ckpt", progress=False))
    assert seen["manifest.json"] == 2


def test_a_conversion_reads_the_config_once(folder: Path) -> None:
    seen = openings(lambda: mc.save(mc.map(mc.load(folder / "toy")), folder / "again.ckpt", progress=False))
    assert seen["config.json"] == 1


def test_the_count_sees_a_second_opening(folder: Path) -> None:
    seen = openings(lambda: (mc.load(folder / "toy"), mc.load(folder / "toy")))
    assert seen["config.json"] == 2
