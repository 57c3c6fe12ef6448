"""Checkpoint 2.0 whose `metadata.json` and files disagree about who holds what: a tensor is found, or the run is refused.

The folders are written here by hand, file by file: two ranks, each with a file of weights and one of the optimizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError
from mfconv_nb.runs.iteration_folders import open_iteration_folder
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.made import numbered_tensors
from tests.support import write_safetensors

Arrays = Mapping[str, np.ndarray[Any, Any]]
Where = Callable[[str, int], str]  # the kind of file that the metadata name for a tensor of a rank

OF_RANK = ({"embed.weight": (6, 4), "layers.0.w": (4, 4)}, {"layers.1.w": (4, 4), "norm.weight": (4,)})  # two pipeline stages
CUT = "head.weight"  # in halves over both ranks
WEIGHTS = numbered_tensors({n: s for shapes in OF_RANK for n, s in shapes.items()} | {CUT: (8, 4)})
STATE = {f"{p}{n}": a + 0.5 for p in ("adam_m.", "adam_v.") for n, a in WEIGHTS.items()}


def kind_of(name: str, rank: int) -> str:
    return "opt" if name in STATE else "model"


def by_the_first_rank(name: str, rank: int) -> str:
    """What rank 0 does not know as a weight is taken for optimizer state, as the dynamic graph did."""
    return "model" if name in OF_RANK[0] or (name == CUT and rank == 0) else "opt"


def file_of(kind: str, rank: int, total: int = 2) -> str:
    return f"{kind}-{rank:07d}-{total:07d}.safetensors"


def held_by(rank: int, tensors: Arrays = WEIGHTS | STATE) -> dict[str, np.ndarray[Any, Any]]:
    """What a rank has: the tensors of its stage, and its half of the one that is cut."""
    mine = {n: a for n, a in tensors.items() if n.removeprefix("adam_m.").removeprefix("adam_v.") in OF_RANK[rank]}
    return mine | {n: np.split(a, 2)[rank] for n, a in tensors.items() if n.endswith(CUT)}


def write_iteration(folder: Path, where: Where = kind_of, named: Arrays = WEIGHTS | STATE) -> Path:
    """An iteration; ``where`` says which file the metadata name, ``named`` what they speak of. The files hold what they should."""
    folder.mkdir(parents=True)
    described: dict[str, Any] = {}
    storage: dict[str, Any] = {}
    for rank in (0, 1):
        mine = held_by(rank)
        for kind in ("model", "opt"):
            write_safetensors(folder / file_of(kind, rank), {n: a for n, a in mine.items() if kind_of(n, rank) == kind})
        for name, array in mine.items():
            if name not in named:
                continue
            parts = 2 if name.endswith(CUT) else 1
            entry = described.setdefault(name, {"global_shape": list(named[name].shape), "chunk": []})
            number = rank if parts == 2 else 0
            entry["chunk"].append({"global_offset": [number], "local_shape": list(array.shape)})
            stored = {"file_name": file_of(where(name, rank), rank), "storage_rank": rank, "rank_group": [rank]}
            storage.setdefault(str((name, (number,))), []).append(stored)
    (folder / "metadata.json").write_text(json.dumps({"state_dict_metadata": described, "storage_data": storage}))
    return folder


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> None:
    arrays = {t.name: read_tensor(t) for t in mc.load(path)}
    change(arrays)
    write_safetensors(path, arrays)


def whole(folder: Path) -> dict[str, bytes]:
    run = open_iteration_folder(folder)
    assert [str(p) for p in run.problems] == []
    return {n: read_tensor(t.whole()).tobytes() for n, t in run.tensors.items()}


ALL = {n: a.tobytes() for n, a in (WEIGHTS | STATE).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "iteration_00000020"


@pytest.mark.parametrize("where", [kind_of, by_the_first_rank, lambda name, rank: "opt", lambda name, rank: "model"])
def test_a_tensor_is_found_whichever_of_a_ranks_files_is_named_for_it(where: Where, folder: Path) -> None:
    write_iteration(folder, where)
    assert whole(folder) == ALL
    run = open_iteration_folder(folder)
    assert run.notes == ()
    assert set(mc.load(folder, only="weights").tensors) == set(WEIGHTS)


def test_without_the_files_of_the_optimizer_its_state_is_counted_and_every_weight_is_there(folder: Path) -> None:
    write_iteration(folder, by_the_first_rank)
    for rank in (0, 1):
        (folder / file_of("opt", rank)).unlink()
    assert whole(folder) == {n: a.tobytes() for n, a in WEIGHTS.items()}
    (note,) = open_iteration_folder(folder).notes
    assert f"never saved: {len(STATE)} entries of optimizer state: 'adam_m." in note
    assert "head.weight'" not in note.replace("adam_m.head", "").replace("adam_v.head", "")


@pytest.mark.parametrize("where", [kind_of, by_the_first_rank])
def test_a_weight_that_no_file_holds_is_no_optimizer_state(where: Where, folder: Path) -> None:
    write_iteration(folder, where)
    rewrite(folder / file_of("model", 1), lambda arrays: arrays.pop("norm.weight"))
    run = open_iteration_folder(folder)
    assert [p.code for p in run.problems] == ["MFC113"]
    assert "norm.weight" in str(run.problems[0])
    with pytest.raises(InputError, match="MFC113"):
        mc.load(folder, only="weights")


def test_the_state_of_an_optimizer_that_nobody_knows_is_told_by_the_names_that_it_stands_before(folder: Path) -> None:
    lion = {f"lion.{n}": a for n, a in WEIGHTS.items()}
    write_iteration(folder)
    content = json.loads((folder / "metadata.json").read_text())
    for name, array in lion.items():
        content["state_dict_metadata"][name] = {"global_shape": array.shape, "chunk": [{"global_offset": [0], "local_shape": array.shape}]}
        content["storage_data"][str((name, (0,)))] = [{"file_name": file_of("opt", 0), "storage_rank": 0, "rank_group": [0]}]
    (folder / "metadata.json").write_text(json.dumps(content))
    assert whole(folder) == ALL
    assert "5 entries of optimizer state: 'lion." in open_iteration_folder(folder).notes[0]


def test_a_whole_tensor_is_found_in_the_file_of_another_rank(folder: Path) -> None:
    write_iteration(folder)
    norm = WEIGHTS["norm.weight"]
    rewrite(folder / file_of("model", 1), lambda arrays: arrays.pop("norm.weight"))
    rewrite(folder / file_of("opt", 0), lambda arrays: arrays.update({"norm.weight": norm}))
    assert whole(folder) == ALL


def test_a_slice_in_the_file_of_another_rank_is_refused_with_that_file(folder: Path) -> None:
    """Which part of the tensor it is nothing says."""
    write_iteration(folder)
    rewrite(folder / file_of("model", 1), lambda arrays: arrays.pop(CUT))
    (problem,) = open_iteration_folder(folder).problems
    assert problem.code == "MFC113"
    assert f"a tensor of this name is in '{file_of('model', 0)}'" in str(problem)


@pytest.mark.parametrize("change, is_equal", [(0.0, True), (1.0, False)])
def test_a_tensor_in_two_files_is_compared(change: float, is_equal: bool, folder: Path) -> None:
    write_iteration(folder)
    again = WEIGHTS["layers.0.w"] + np.float32(change)
    rewrite(folder / file_of("model", 1), lambda arrays: arrays.update({"layers.0.w": again}))
    assert whole(folder) == ALL
    if is_equal:
        mc.save(mc.load(folder), folder.parent / "merged.safetensors")
        return
    with pytest.raises(mc.MfconvError) as refused:
        mc.save(mc.load(folder), folder.parent / "merged.safetensors")
    assert refused.value.code == "MFC308"
    assert "layers.0.w" in str(refused.value)


def test_a_tensor_in_two_files_of_two_shapes_is_refused(folder: Path) -> None:
    write_iteration(folder)
    rewrite(folder / file_of("opt", 1), lambda arrays: arrays.update({"layers.0.w": np.zeros((2, 4), np.float32)}))
    (problem,) = open_iteration_folder(folder).problems
    assert problem.code == "MFC113"
    assert file_of("opt", 1) in str(problem)


def test_slices_of_two_dtypes_are_refused_where_the_metadata_do_not_say_one(folder: Path) -> None:
    write_iteration(folder)
    rewrite(folder / file_of("model", 1), lambda arrays: arrays.update({CUT: arrays[CUT].astype(np.float16)}))
    (problem,) = open_iteration_folder(folder).problems
    assert problem.code == "MFC113"
    assert "slices of F16 and F32" in str(problem)


def test_a_file_that_the_metadata_do_not_mention_is_read_where_it_is_of_the_same_ranks(folder: Path) -> None:
    write_iteration(folder, named={n: a for n, a in (WEIGHTS | STATE).items() if n not in ("layers.1.w", "norm.weight", CUT)})
    rewrite(folder / file_of("model", 0), lambda arrays: arrays.pop(CUT))
    rewrite(folder / file_of("model", 1), lambda arrays: arrays.pop(CUT))
    assert whole(folder) == {n: a for n, a in ALL.items() if n != CUT}
    note = next(n for n in open_iteration_folder(folder).notes if "does not describe" in n)
    assert "layers.1.w" in note
    assert "norm.weight" in note


def test_a_file_of_another_number_of_ranks_is_not_of_this_iteration(folder: Path) -> None:
    write_iteration(folder)
    write_safetensors(folder / file_of("model", 0, total=4), {"norm.weight": np.zeros(4, np.float32)})
    assert whole(folder) == ALL
    assert "model-0000000-0000004" in open_iteration_folder(folder).notes[0]


def test_names_that_the_metadata_keep_without_a_tensor_are_weights_that_are_missed(folder: Path) -> None:
    write_iteration(folder)
    content = json.loads((folder / "metadata.json").read_text())
    stored = {"file_name": file_of("model", 0), "storage_rank": 0, "rank_group": [0]}
    content["storage_data"] |= {"('layers.2.w', (0,))": [stored], "('adam_m.layers.2.w', (0,))": [stored]}
    (folder / "metadata.json").write_text(json.dumps(content))
    assert open_iteration_folder(folder).absent == ("layers.2.w",)
    with pytest.raises(InputError, match="MFC111") as refused:
        mc.load(folder, only="weights")
    assert "layers.2.w" in str(refused.value)


def test_a_folder_that_counts_other_steps_than_its_name_says_so(folder: Path) -> None:
    write_iteration(folder)
    (folder / "common.json").write_text(json.dumps({"global_step": 10}))
    assert "common.json counts 10 steps, the folder is called iteration 20" in open_iteration_folder(folder).notes
    (folder / "common.json").write_text(json.dumps({"global_step": 20}))
    assert open_iteration_folder(folder).notes == ()
