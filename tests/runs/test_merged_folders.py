"""Folders that `mindspore.unified_safetensors` merged for real: nothing of the weights may hide among the run state."""

from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mfconv_nb.core.errors import InputError
from mfconv_nb.formats.reading import RUN_STATE, open_path
from mfconv_nb.runs.merged_by_mindspore import notes_on_run_state
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.made import Cut, make_rank_folders
from tests.support import raw_of

pytestmark = pytest.mark.real_frameworks
WHOLE = {f"layers.{n}.wq.weight": np.random.default_rng(n).standard_normal((8, 6)).astype("float32") for n in range(3)}
CUTS = {name: Cut((2, 2), (0, -1)) for name in WHOLE}
EXTRA = {"epoch_num": np.array(3, "int32"), "adam_m.router": np.ones((2, 2), "float32")}


def merged(tmp_path: Path, extra: dict[str, np.ndarray]) -> Path:
    run = make_rank_folders(tmp_path / "run", WHOLE, CUTS, extra=extra, strategy="merged")
    target = tmp_path / "merged"
    ms.parallel.unified_safetensors(str(run), str(run / "strategy" / "merged_ckpt_strategy.ckpt"), str(target), merge_with_redundancy=False)
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return merged(tmp_path, EXTRA)


@pytest.mark.parametrize("path", ["", "param_name_map.json"])
def test_weights_and_run_state_are_opened_together(folder: Path, path: str) -> None:
    assert (folder / RUN_STATE).is_file()
    opened = open_path(folder / path)
    assert {n: raw_of(read_tensor(t)) for n, t in opened.tensors.items()} == {n: raw_of(a) for n, a in (WHOLE | EXTRA).items()}
    assert set(opened.run_state) == set(EXTRA)
    assert opened.side == "mf"
    assert not opened.notes
    assert notes_on_run_state(opened.run_state) == ()


def test_a_weight_among_the_run_state_is_opened_and_named(tmp_path: Path) -> None:
    stray = {"layers.9.forgotten.weight": np.ones((2, 3), "float32")}
    opened = open_path(merged(tmp_path, EXTRA | stray))
    assert "layers.9.forgotten.weight" in opened.tensors
    (note,) = notes_on_run_state(opened.run_state)
    assert "layers.9.forgotten.weight" in note
    assert "adam_m" not in note


@pytest.mark.parametrize("wrapped", [True, False])
def test_any_file_names_and_a_map_without_wrapper_will_do(folder: Path, wrapped: bool) -> None:
    index = folder / "param_name_map.json"
    names = json.loads(index.read_text())["weight_map"]
    files = {file: f"model-{n:04d}-of-0001.safetensors" for n, file in enumerate(sorted(set(names.values())))}
    for old, new in files.items():
        (folder / old).rename(folder / new)
    names = {name: files[file] for name, file in names.items()}
    index.unlink()
    index.write_text(json.dumps({"weight_map": names} if wrapped else names))
    assert set(open_path(folder).tensors) == set(WHOLE | EXTRA)


def test_without_run_state_only_the_weights_are_there(folder: Path) -> None:
    (folder / RUN_STATE).unlink()
    opened = open_path(folder)
    assert set(opened.tensors) == set(WHOLE)
    assert opened.run_state == ()


def test_a_name_among_the_weights_and_the_run_state_is_refused(folder: Path) -> None:
    index = folder / "param_name_map.json"
    names = json.loads(index.read_text())["weight_map"]
    part = folder / next(iter(names.values()))
    (folder / RUN_STATE).unlink()
    (folder / RUN_STATE).write_bytes(part.read_bytes())
    with pytest.raises(InputError) as caught:
        open_path(folder)
    assert caught.value.code == "MFC105"


def test_an_index_of_hugging_face_takes_no_file_beside_it(folder: Path) -> None:
    (folder / "param_name_map.json").rename(folder / "model.safetensors.index.json")
    opened = open_path(folder)
    assert set(opened.tensors) == set(WHOLE)
    assert any(RUN_STATE in n for n in opened.notes)
