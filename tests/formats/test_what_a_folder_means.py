"""Which files of a folder are the checkpoint: the names that from_pretrained reads, in its order; and what is refused with its way out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import NEXT_STEPS, FormatError, InputError, MfconvError
from tests.support import numbered, write_safetensors

INDEX, TORCH_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write(folder: Path, name: str, first: int = 0, names: tuple[str, ...] = ("a", "b")) -> Path:
    """A file of two small tensors that begin with a number of their own, in the format of its ending."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {n: numbered(3, first=first) for n in names}
    if name.endswith(".safetensors"):
        return write_safetensors(folder / name, arrays)
    mc.save(mc.load(arrays), folder / name)
    return folder / name


def write_index(folder: Path, places: Mapping[str, str], name: str = INDEX) -> Path:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / name


def taken(path: Path) -> int:
    """The number that the first tensor of a checkpoint begins with."""
    return int(np.asarray(mc.read(mc.load(path), "a"))[0])


def refused(path: Path) -> MfconvError:
    with pytest.raises((InputError, FormatError)) as error:
        mc.load(path)
    return error.value


ORDER = [
    "model.safetensors",
    INDEX,
    "pytorch_model.bin",
    TORCH_INDEX,
    "param_name_map.json",
    "other.safetensors",
    "other.bin",
    "other.ckpt",
]


@pytest.mark.parametrize("best", range(len(ORDER)))
def test_names_are_taken_in_the_order_of_from_pretrained_and_the_others_are_noted(best: int, tmp_path: Path) -> None:
    for number, name in enumerate(ORDER[best:], best):
        if name.endswith(".json"):
            ending = ".bin" if name == TORCH_INDEX else ".safetensors"
            write(tmp_path, f"shard{number}{ending}", number)
            write_index(tmp_path, dict.fromkeys("ab", f"shard{number}{ending}"), name)
        else:
            write(tmp_path, name, number)
    loaded = mc.load(tmp_path)
    assert taken(tmp_path) == best
    notes = [note for note in loaded.notes if "not read" in note]
    if best < len(ORDER) - 1:
        assert len(notes) == 1
        assert ("as from_pretrained does" in notes[0]) == (best < 4)
    else:
        assert notes == []


def test_an_index_older_than_the_file_beside_it_is_noted_and_the_file_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", 7)
    write_index(tmp_path, {"a": FIRST, "b": SECOND})
    assert taken(tmp_path) == 7
    assert "model.safetensors is taken" in mc.load(tmp_path).notes[0]
    assert INDEX in mc.load(tmp_path).notes[0]
    error = refused(tmp_path / INDEX)
    assert error.code == "MFC104"
    assert str(tmp_path / "model.safetensors") in str(error.hint)


@pytest.mark.parametrize(
    "foreign",
    ["consolidated.safetensors", "model.fp16.safetensors", "adapter_model.safetensors", "optimizer.bin", "ema.ckpt", "tf.safetensors"],
)
@pytest.mark.parametrize("own", [("model.safetensors",), (FIRST, SECOND)], ids=["one file", "shards without an index"])
def test_a_foreign_file_beside_the_model_is_not_joined_to_it(own: tuple[str, ...], foreign: str, tmp_path: Path) -> None:
    for number, name in enumerate(own):
        write(tmp_path, name, 5, names=("ab"[number],) if len(own) > 1 else ("a", "b"))
    write(tmp_path, foreign, 9, names=("a", "c"))
    loaded = mc.load(tmp_path)
    assert list(loaded.tensors) == ["a", "b"]
    assert taken(tmp_path) == 5
    assert any(foreign in note for note in loaded.notes) or foreign == "optimizer.bin"


def test_a_single_file_of_any_name_and_shards_of_any_name_are_read(tmp_path: Path) -> None:
    write(tmp_path / "one", "whatever.safetensors", 3)
    assert taken(tmp_path / "one") == 3
    write(tmp_path / "parts", "part0.safetensors", 4, names=("a",))
    write(tmp_path / "parts", "part1.safetensors", 4, names=("b",))
    assert sorted(mc.load(tmp_path / "parts").tensors) == ["a", "b"]
    write(tmp_path / "alone", "consolidated.safetensors", 6)
    assert taken(tmp_path / "alone") == 6
    write(tmp_path / "alone", "whatever.safetensors", 7, names=("a", "c"))
    assert taken(tmp_path / "alone") == 7


def test_a_shard_that_is_missing_by_the_names_of_the_others_is_named(tmp_path: Path) -> None:
    write(tmp_path, "model-00001-of-00003.safetensors", names=("a",))
    write(tmp_path, "model-00003-of-00003.safetensors", names=("b",))
    (tmp_path / "model-00002-of-00003.safetensors.part").write_bytes(b"half")
    for path in (tmp_path, tmp_path / "model-00003-of-00003.safetensors"):
        error = refused(path)
        assert error.code == "MFC115"
        assert "'model-00002-of-00003.safetensors'" in str(error.found)
        assert "'model-00002-of-00003.safetensors.part'" in str(error.found)
    assert list(mc.load([tmp_path / "model-00003-of-00003.safetensors"]).tensors) == ["b"]


def test_shards_of_two_saves_are_refused_and_a_file_of_one_stands_for_its_set(tmp_path: Path) -> None:
    for name, names in ((FIRST, ("a",)), (SECOND, ("b",))):
        write(tmp_path, name, 1, names=names)
    for number, names in ((1, ("a",)), (2, ("b",)), (3, ("c",))):
        write(tmp_path, f"model-0000{number}-of-00003.safetensors", 2, names=names)
    error = refused(tmp_path)
    assert error.code == "MFC115"
    assert all(name in str(error.found) for name in (FIRST, "model-00001-of-00003.safetensors"))
    assert taken(tmp_path / SECOND) == 1
    assert taken(tmp_path / "model-00002-of-00003.safetensors") == 2
    assert list(mc.load(tmp_path / SECOND).tensors) == ["a", "b"]
    assert "the whole checkpoint is taken" in mc.load(tmp_path / SECOND).notes[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("step-8.bin", "step-16.bin"),
        ("net-1_10.ckpt", "net-2_10.ckpt"),
        ("global_step10.pt", "global_step20.pt"),
        ("epoch=1-step=10.ckpt", "epoch=2-step=20.ckpt"),
        ("checkpoint-9-00001-of-00001.safetensors", "checkpoint-11-00001-of-00001.safetensors"),
    ],
)
def test_files_whose_names_are_of_two_steps_are_not_joined_though_no_tensor_is_in_both(first: str, second: str, tmp_path: Path) -> None:
    write(tmp_path, first, 1, ("a",))
    write(tmp_path, second, 2, ("b",))
    error = refused(tmp_path)
    assert error.code == "MFC115"
    assert error.found == f"files of 2 steps: '{first}' and '{second}'"
    assert str(tmp_path / second) in str(error.hint)
    assert taken(tmp_path / first) == 1


@pytest.mark.parametrize("names", [("part-1.ckpt", "part-2.ckpt"), ("encoder.bin", "decoder.bin"), ("step-7.a.bin", "step-7.b.bin")])
def test_files_that_name_no_step_or_the_same_one_are_one_checkpoint(names: tuple[str, str], tmp_path: Path) -> None:
    for tensor, name in zip("ab", names, strict=True):
        write(tmp_path, name, 1, (tensor,))
    assert set(mc.load(tmp_path).tensors) == {"a", "b"}


def test_the_file_that_config_json_names_is_the_checkpoint_and_the_others_are_noted(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", 1)
    write(tmp_path, "tuned.safetensors", 2)
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": "tuned.safetensors"}))
    assert taken(tmp_path) == 2
    assert "not read: model.safetensors" in " ".join(mc.load(tmp_path).notes)
    write_index(tmp_path, {"a": "model.safetensors", "b": "model.safetensors"}, "mine.safetensors.index.json")
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": "mine.safetensors.index.json"}))
    assert taken(tmp_path) == 1


@pytest.mark.parametrize("named", ["gone.safetensors", "../x.safetensors", "/etc/x.safetensors", "x.bin", 3, ["a.safetensors"], ""])
def test_a_file_that_config_json_names_and_that_cannot_be_it_is_refused(named: object, tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", 1)
    write(tmp_path.parent, "x.safetensors", 2)
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": named}))
    error = refused(tmp_path)
    assert error.code == "MFC104"
    assert "transformers_weights" in str(error.found)
    assert taken(tmp_path / "model.safetensors") == 1


@pytest.mark.parametrize("ending", ["ckpt", "safetensors", "pt"])
def test_files_of_two_steps_are_refused_with_both_paths(ending: str, tmp_path: Path) -> None:
    paths = [write(tmp_path, f"net-{step}.{ending}", step) for step in (10, 20)]
    error = refused(tmp_path)
    assert error.code == "MFC105"
    assert all(str(path) in str(error.hint) for path in paths)
    assert taken(paths[1]) == 20


@pytest.mark.parametrize(
    "mark", [".aria2", ".incomplete", ".part", ".crdownload", ".CRDOWNLOAD", ".x1.incomplete", ".baiduyun.p.downloading"]
)
def test_a_file_whose_download_is_not_finished_is_refused(mark: str, tmp_path: Path) -> None:
    file = write(tmp_path, "model.safetensors")
    (tmp_path / f"model.safetensors{mark}").write_bytes(b"")
    for path in (tmp_path, file, [file]):
        error = refused(path)  # type: ignore[arg-type]
        assert (error.code, error.where) == ("MFC202", file)
        assert f"'model.safetensors{mark}'" in str(error.found)
    assert not mc.doctor(tmp_path).ready


def test_what_a_download_left_beside_another_file_is_no_obstacle(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", 8)
    for name in ("tokenizer.json.part", "model.safetensors.index.json.part", "notes.aria2"):
        (tmp_path / name).write_bytes(b"")
    assert taken(tmp_path) == 8


# ---- indexes -------------------------------------------------------------------------------------------------------------------


def test_an_index_may_name_its_shards_by_paths_inside_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "one.safetensors", 1, names=("a",))
    write(tmp_path / "more", "one.safetensors", 2, names=("b",))
    write_index(tmp_path, {"a": "./one.safetensors", "b": "more/./one.safetensors"})
    loaded = mc.load(tmp_path)
    assert [int(mc.read(loaded, n)[0]) for n in ("a", "b")] == [1, 2]
    write_index(tmp_path, {"a": "more/one.safetensors", "b": "one.safetensors"})  # the same names of files, in the other places
    assert refused(tmp_path).code == "MFC104"


@pytest.mark.parametrize("name", ["../one.safetensors", "more/../../one.safetensors", "{folder}/one.safetensors"])
def test_an_index_never_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    write(tmp_path, "one.safetensors")
    write(tmp_path / "inner", "one.safetensors")
    write_index(tmp_path / "inner", dict.fromkeys("ab", name.format(folder=tmp_path)))
    error = refused(tmp_path / "inner")
    assert error.code == "MFC104"
    assert "Put the shards beside the index" in str(error.hint)


def test_what_the_hints_of_an_index_propose_can_be_typed(tmp_path: Path) -> None:
    write(tmp_path, FIRST, 1, names=("a", "c"))
    write(tmp_path, SECOND, 1, names=("b",))
    index = write_index(tmp_path, {"a": FIRST, "b": SECOND})
    error = refused(tmp_path)
    assert "rename it" in str(error.hint)
    index.rename(tmp_path / "old.json")
    assert sorted(mc.load(tmp_path).tensors) == ["a", "b", "c"]


def test_a_name_in_two_shards_of_an_index_is_refused_as_two_saves(tmp_path: Path) -> None:
    write(tmp_path, FIRST, 1, names=("a",))
    write(tmp_path, SECOND, 2, names=("a", "b"))
    write_index(tmp_path, {"a": FIRST, "b": SECOND})
    error = refused(tmp_path)
    assert error.code == "MFC105"
    assert "Fetch all of them again" in str(error.hint)


# ---- the hub cache ---------------------------------------------------------------------------------------------------------------


def cached(cache: Path, model: str, *commits: str, main: str | None = None) -> Path:
    """A model in a cache as huggingface_hub lays it out, a snapshot for each commit; the first tensor begins with its number."""
    home = cache / f"models--{model.replace('/', '--')}"
    for number, commit in enumerate(commits):
        blob = write(home / "blobs", f"{number:064x}.safetensors", number)
        blob = blob.rename(blob.with_suffix(""))
        (home / "snapshots" / commit).mkdir(parents=True)
        (home / "snapshots" / commit / "model.safetensors").symlink_to(os.path.relpath(blob, home / "snapshots" / commit))
    if main is not None:
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(main)
    return home


def test_every_folder_of_the_cache_stands_for_the_snapshot_that_main_names(tmp_path: Path) -> None:
    model = cached(tmp_path / "hub", "org/net", "c0ffee", "decade", main="decade")
    for path in (tmp_path / "hub", tmp_path, model, model / "snapshots", model / "snapshots" / "decade"):
        assert taken(path) == 1
    assert str(model / "snapshots" / "decade") in mc.load(model).notes[0]
    assert taken(model / "snapshots" / "c0ffee") == 0


def test_one_snapshot_needs_no_refs_and_of_several_all_are_named(tmp_path: Path) -> None:
    assert taken(cached(tmp_path / "a", "org/net", "c0ffee")) == 0
    error = refused(cached(tmp_path / "b", "org/net", "c0ffee", "decade", main="feed"))
    assert error.code == "MFC115"
    assert all(name in str(error) for name in ("'c0ffee'", "'decade'"))
    cached(tmp_path / "a", "org/other", "c0ffee")
    assert "'models--org--other'" in str(refused(tmp_path / "a"))


def test_an_id_is_found_in_the_cache_or_told_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = cached(tmp_path / "hub", "org/net-1.5B", "c0ffee")
    assert str(model / "snapshots" / "c0ffee") in str(refused(Path("org/net-1.5B")).hint)
    error = refused(Path("org/absent"))
    assert (error.code, "hf download org/absent" in str(error.hint)) == ("MFC101", True)
    assert refused(Path("just_a_word")).hint == NEXT_STEPS["MFC101"]


def test_links_to_nothing_are_called_so(tmp_path: Path) -> None:
    model = cached(tmp_path / "hub", "org/net", "c0ffee")
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / "model.safetensors").symlink_to("../../blobs/feed")
    for path, code in ((copied, "MFC102"), (copied / "model.safetensors", "MFC101")):
        error = refused(path)
        assert error.code == code
        assert "a link to nothing: 'model.safetensors' -> '../../blobs/feed'" in str(error.found)
    write_index(copied, {"a": "model.safetensors"})
    assert "a link to nothing" in str(refused(copied).found)
    (copied / INDEX).unlink()
    write(copied, "pytorch_model.bin", 4)
    assert taken(copied) == 4
    assert any("a link to nothing" in note for note in mc.load(copied).notes)
    assert taken(model) == 0
