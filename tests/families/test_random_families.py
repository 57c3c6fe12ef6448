"""Any family, there and back: against a second reading of the notation, in every format, cast, cut into shards, killed and gone on with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.streaming import fill, gather
from tests.families.random_families import Made, cells, make_family, rounded
from tests.support import NUMPY, raws, raws_in, wide, write_hf
from tests.toys import raws_of

DTYPES = ("BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64")  # what every format holds
KILLED = 9
seeds = st.integers(0, (1 << 32) - 1)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of a few hundred bytes are cut into segments and panels, as large ones are."""
    monkeypatch.setattr(fill, "SEGMENT_BYTES", 64)
    monkeypatch.setattr(gather, "PANEL_BYTES", 24)
    monkeypatch.setattr(gather, "MAX_PANEL_BYTES", 48)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def written(made: Made, folder: Path) -> mc.Checkpoint:
    return mc.load(write_hf(folder / "hf", made.hf, made.config))


def save(checkpoint: mc.Checkpoint, target: Path, chance: Random, **more: Any) -> mc.Checkpoint:
    """Saved in shards of any size, by one thread or several, and loaded again."""
    shards = {"max_shard_size": chance.randint(40, 400)} if not target.suffix else {}
    mc.save(checkpoint, target, threads=chance.choice((1, 2, 5)), durable=False, progress=False, **shards, **more)
    return mc.load(target)


def save_and_die(checkpoint: mc.Checkpoint, target: Path, after: int) -> int:
    """The same in a process of its own, which ends in the middle of it; returns its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        mc.save(checkpoint, target, threads=1, durable=False, progress=lambda done: os._exit(KILLED) if done >= after else None)
    finally:
        os._exit(1)


# ---- the second reading itself -------------------------------------------------------------------------------------------------


def test_the_second_reading_says_what_the_notation_means() -> None:
    shape, addresses = cells("(g (q + k)) 1 h", {"g": 2, "q": 2, "k": 1, "h": 1})
    assert shape == (6, 1, 1)
    rows = [dict(address) for address in addresses]
    assert [("q" if "q" in row else "k", row["g"], row.get("q", row.get("k"))) for row in rows] == [
        ("q", 0, 0), ("q", 0, 1), ("k", 0, 0), ("q", 1, 0), ("q", 1, 1), ("k", 1, 0),
    ]  # fmt: skip
    assert cells("(a + 0 z)", {"a": 1, "z": 1})[1] == [{("a", 0)}, {("0", 0), ("z", 0)}]


# ---- there and back ------------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(seeds)
def test_a_random_family_gives_what_a_second_reading_gives_and_comes_back(folder: Path, seed: int) -> None:
    chance, home = Random(seed), emptied(folder)
    made = make_family(chance, DTYPES)
    source = written(made, home)
    mapped = mc.map(source, made.family, to="mf")
    assert raws_of(mc.map(mapped, made.family, to="hf")) == raws(made.hf)
    target = home / chance.choice(("out.safetensors", "out.ckpt", "out"))
    loaded = save(mapped, target, chance)
    assert raws_in(target) == raws(made.mf)
    save(mc.map(loaded, made.family, to="hf"), home / "back", chance)
    assert raws_in(home / "back") == raws(made.hf)
    assert mc.verify(source, loaded, made.family, progress=False).equal


@settings(max_examples=40)
@given(seeds)
def test_a_random_family_without_some_sizes_is_right_or_refused_before_anything_is_written(folder: Path, seed: int) -> None:
    chance, home = Random(seed), emptied(folder)
    made = make_family(chance, DTYPES, withheld=True)
    try:
        mapped = mc.map(written(made, home), made.family, to="mf")
    except mc.MfconvError:
        return
    assert raws_of(mapped) == raws(made.mf)
    report = mc.save(mapped, home / "out.safetensors", progress=False)
    try:
        back = mc.map(mc.load(home / "out.safetensors"), made.family, to="hf")
    except mc.MfconvError:
        assert "exact" not in report.way_back
        return
    assert report.way_back == "exact"
    assert raws_of(back) == raws(made.hf)


@settings(max_examples=40)
@given(seeds, st.sampled_from(["F16", "BF16"]))
def test_a_random_family_comes_back_from_a_wider_dtype(folder: Path, seed: int, narrow: str) -> None:
    chance, home = Random(seed), emptied(folder)
    made = make_family(chance, [narrow, narrow, "I32"])
    there = save(mc.map(written(made, home), made.family, to="mf"), home / "out.ckpt", chance, dtype="fp32")
    numbers = {n: wide(a) if a.dtype == NUMPY[narrow] else a for n, a in made.mf.items()}
    assert all(np.array_equal(mc.read(there, n), a, equal_nan=a.dtype == np.float64) for n, a in numbers.items())
    save(mc.map(there, made.family, to="hf"), home / "back", chance, dtype={"F16": "fp16", "BF16": "bf16"}[narrow])
    assert raws_in(home / "back") == raws(made.hf)


@settings(max_examples=30)
@given(seeds)
def test_a_random_family_is_rounded_to_nearest_even(folder: Path, seed: int) -> None:
    chance, home = Random(seed), emptied(folder)
    made = make_family(chance, ["F32", "F32", "U8"])
    report = mc.save(mc.map(written(made, home), made.family, to="mf"), home / "out.safetensors", dtype="bf16", progress=False)
    expected = {n: rounded(a) if a.dtype == np.float32 else a for n, a in made.mf.items()}
    assert raws_in(home / "out.safetensors") == raws(expected)
    infinite = {n: int(np.isinf(wide(a)).sum() - np.isinf(wide(made.mf[n])).sum()) for n, a in expected.items()}
    assert dict(report.infinite) == {n: count for n, count in infinite.items() if count}


@settings(max_examples=20)
@given(seeds)
@example(0)
def test_a_random_family_is_right_after_any_number_of_kills(folder: Path, seed: int) -> None:
    chance, home = Random(seed), emptied(folder)
    made = make_family(chance, DTYPES)
    mapped = mc.map(written(made, home), made.family, to="mf")
    target, total = home / chance.choice(("out.safetensors", "out.ckpt", "out")), sum(a.nbytes for a in made.mf.values())
    for _ in range(chance.randint(1, 3)):
        assert save_and_die(mapped, target, chance.randint(1, total)) == KILLED
        assert not target.exists()
    mc.save(mapped, target, durable=False, progress=False)
    assert raws_in(target) == raws(made.mf)
    assert mc.verify(target, progress=False).equal
