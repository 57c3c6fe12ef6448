"""A stopped save goes on only where its sources are proven to be the same; a live object never is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.steps.saving.output import whole_output
from tests.support import numbered, raw_of, raws_in, write_safetensors
from tests.toys import raws_of

NAMES = [f"layers.{n}.w" for n in range(6)]


class Stop(BaseException):
    pass


def stopped(save: Callable[..., Any]) -> None:
    """Run a save until most of it is written."""

    def stop(done: int) -> None:
        if done > 3 << 20:
            raise Stop

    with pytest.raises(Stop):
        save(progress=stop)


def arrays(value: float) -> dict[str, Any]:
    return {name: np.full((256, 1024), value, np.float32) for name in NAMES}


def of_numpy(value: float) -> dict[str, Any]:
    return arrays(value)


def of_torch(value: float) -> dict[str, Any]:
    import torch

    return {n: torch.from_numpy(a) for n, a in arrays(value).items()}


def of_mindspore(value: float) -> dict[str, Any]:
    import mindspore

    return {n: mindspore.Parameter(mindspore.Tensor(a), name=n) for n, a in arrays(value).items()}


LIVE = [of_numpy, *(pytest.param(f, marks=pytest.mark.real_frameworks) for f in (of_torch, of_mindspore))]


@pytest.mark.parametrize("live", LIVE)
def test_live_weights_that_changed_after_a_stopped_save_are_written_as_they_are_now(live: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    stopped(lambda **more: mc.save(mc.load(live(1.0)), target, threads=1, **more))
    assert (tmp_path / "out.safetensors.mfconv-partial" / "journal.jsonl").read_bytes().count(b"\n") > 2
    report = mc.save(mc.load(live(2.0)), target)
    assert raws_in(target) == {n: raw_of(a) for n, a in arrays(2.0).items()}
    assert report.resumed == 0
    assert mc.verify(target).equal


def mixed(value: float, folder: Path) -> Checkpoint:
    """All tensors but one from a file, which does not change."""
    path = folder / "in.safetensors"
    if not path.exists():
        write_safetensors(path, arrays(7.0))
    held = {t.name: t for t in mc.load(path)}
    return mc.load({**held, NAMES[0]: arrays(value)[NAMES[0]]})


def mapped(value: float, folder: Path) -> Checkpoint:
    """Live weights behind a mapping."""
    rule = mc.rules.Rule("layers.{layer}.w", "blocks.{layer}.w", "rows columns -> columns rows")
    return mc.map(mc.load(arrays(value)), mc.rules.Family("turned", "a turned matrix", sizes={}, rules=(rule,)), to="mf")


@pytest.mark.parametrize("made", [mixed, mapped])
def test_one_live_tensor_or_a_mapping_of_some_is_enough(made: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    stopped(lambda **more: mc.save(made(1.0, tmp_path), target, threads=1, **more))
    wanted = made(2.0, tmp_path)
    assert mc.save(wanted, target).resumed == 0
    assert raws_in(target) == raws_of(wanted)


def write(folder: Path, seed: int) -> Path:
    """A file whose numbers depend on the seed in the middle only: its first and last MiB are always the same."""
    rng = np.random.default_rng(seed)
    tensors = {**arrays(1.0), **{n: rng.normal(size=(256, 1024)).astype("f4") for n in NAMES[1:-1]}}
    write_safetensors(folder / "model.safetensors", tensors)
    os.utime(folder / "model.safetensors", (1, 1))  # as archives and images with normalised times have them
    return folder


def another_folder(folder: Path) -> Path:
    return write(folder.with_name("b"), 2)


def another_file_under_the_name(folder: Path) -> Path:
    shutil.move(folder, folder.with_name("past"))
    return write(folder, 2)


def other_numbers_in_the_same_file(folder: Path) -> Path:
    """Written in place, with its old time: device, inode, size and time of modification are as before."""
    path = folder / "model.safetensors"
    data = (write(folder.with_name("b"), 2) / "model.safetensors").read_bytes()
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, (1, 1))
    return folder


@pytest.mark.parametrize("change", [another_folder, another_file_under_the_name, other_numbers_in_the_same_file])
def test_a_source_of_equal_names_sizes_and_times_is_another_one(change: Any, tmp_path: Path) -> None:
    source, target = write(tmp_path / "a", 1), tmp_path / "out.ckpt"
    stopped(lambda **more: mc.save(mc.load(source), target, threads=1, **more))
    other = change(source)
    assert mc.save(mc.load(other), target).resumed == 0
    assert raws_in(target) == raws_in(other / "model.safetensors")


@pytest.mark.parametrize("way", ["the same path", "another way to it"])
def test_the_same_source_goes_on(way: str, tmp_path: Path) -> None:
    source, target = write(tmp_path / "a", 1), tmp_path / "out.ckpt"
    stopped(lambda **more: mc.save(mc.load(source), target, threads=1, **more))
    again = source if way == "the same path" else tmp_path / "a" / ".." / "a" / "model.safetensors"
    assert mc.save(mc.load(again), target).resumed > 2
    assert raws_in(target) == raws_in(source / "model.safetensors")


def test_a_merge_of_another_adapter_file_is_another_one(tmp_path: Path) -> None:
    base = mc.load(write_safetensors(tmp_path / "base.safetensors", {"model.layers.0.self_attn.q_proj.weight": numbered(6, 4)}))

    def fingerprint(folder: str) -> str:
        name = "base_model.model.model.layers.0.self_attn.q_proj"
        halves = {f"{name}.lora_A.weight": numbered(2, 4), f"{name}.lora_B.weight": numbered(6, 2)}
        path = tmp_path / folder / "adapters.safetensors"
        if not path.exists():
            write_safetensors(path, halves)
        merged = mc.merge_adapters(base, mc.load(path, lora_alpha=2.0))
        return whole_output(merged, tmp_path / "out.safetensors", None, None, None).fingerprint()

    assert fingerprint("one") == fingerprint("one")
    assert fingerprint("one") != fingerprint("two")


def test_other_small_files_beside_the_same_weights_are_another_output(tmp_path: Path) -> None:
    """A run that was stopped while files got their names is finished as it was; another config must not count as written by it."""
    toy = mc.load(write_safetensors(tmp_path / "hf" / "model.safetensors", {"model.w": numbered(3, 4)}))

    def fingerprint(positions: int) -> str:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": positions}), encoding="utf-8")
        return whole_output(replace(toy, side="hf"), tmp_path / "out", None, None, tmp_path).fingerprint()

    assert fingerprint(2048) == fingerprint(2048)
    assert fingerprint(2048) != fingerprint(4096)
