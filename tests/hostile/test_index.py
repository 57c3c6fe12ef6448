"""Hostile index files and folders: an index names plain files in its own folder, and says what is in them, or it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from tests.hostile.made import HOSTILE_NAME, SOUND_CKPT, assert_escaped, assert_sober, entry, refusal, safetensors

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"


def shard(folder: Path, name: str, *tensors: str) -> Path:
    header = {t: entry("U8", [4], [4 * n, 4 * n + 4]) for n, t in enumerate(tensors)}
    path = folder / name
    path.write_bytes(safetensors(header, bytes(4 * len(tensors))))
    return path


def indexed(folder: Path, content: Any, name: str = INDEX) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def refused_index(path: Path, **limits: Any) -> mc.MfconvError:
    limits.setdefault("memory", 12 << 20)
    return refusal(lambda: mc.load(path), "MFC104", names=path.name, **limits)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, and beside the folder a third that is none of its business."""
    inner = tmp_path / "model"
    inner.mkdir()
    shard(inner, "one.safetensors", "a", "b")
    shard(inner, "two.safetensors", "c")
    shard(tmp_path, "outside.safetensors", "d")
    return inner


SOUND = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}


def test_the_sound_index_that_the_others_are_made_from_is_taken(folder: Path) -> None:
    indexed(folder, {"metadata": {"total_size": 12}, "weight_map": SOUND})
    assert list(mc.load(folder).tensors) == ["a", "b", "c"]
    assert mc.load(folder).notes == ()


OUTSIDE = ["../outside.safetensors", "/etc/passwd", "..\\outside.safetensors", "..", ".", "", "a\0b", HOSTILE_NAME.replace("/", "")]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_shard_outside_the_folder_is_refused(name: str, folder: Path) -> None:
    error = refused_index(indexed(folder, {"weight_map": {**SOUND, "d": name}}))
    assert error.expected == "a file inside the folder of the index"


ABSENT = ["three.safetensors", "sub/x.safetensors", "\ud800.safetensors", "x" * 300, "x" * 100_000]
ABSENT.append(HOSTILE_NAME.replace("/", "").replace("\0", ""))


@pytest.mark.parametrize("name", ABSENT)
def test_a_shard_that_is_absent_is_refused(name: str, folder: Path) -> None:
    error = refused_index(indexed(folder, {"weight_map": {**SOUND, "d": name}}))
    assert error.expected == "every shard beside the index"


def test_the_folder_itself_in_a_name_is_passed_over(folder: Path) -> None:
    error = refused_index(indexed(folder, {"weight_map": {**SOUND, "d": "./one.safetensors"}}))
    assert str(error.found).endswith("first 'd': it is not in 'one.safetensors'")


def test_a_shard_that_is_a_folder_a_pipe_or_a_dead_link_is_refused(folder: Path) -> None:
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "link.safetensors").symlink_to("nowhere")
    for kind in ("folder", "pipe", "link"):
        refused_index(indexed(folder, {"weight_map": {**SOUND, "d": f"{kind}.safetensors"}}))


def test_ten_thousand_absent_shards_are_one_short_message(folder: Path) -> None:
    index = indexed(folder, {"weight_map": {f"t{n}": f"s{n}.safetensors" for n in range(10_000)}})
    assert "10000 of 10000" in str(refused_index(index, memory=16 << 20)).replace(",", "")


def test_a_tensor_that_lies_in_another_shard_is_refused(folder: Path) -> None:
    error = refused_index(indexed(folder, {"weight_map": {**SOUND, "b": "two.safetensors"}}))
    assert "it is in 'one.safetensors'" in str(error)


def test_a_tensor_of_the_index_that_no_file_holds_is_refused(folder: Path) -> None:
    refused_index(indexed(folder, {"weight_map": {**SOUND, "d": "two.safetensors"}}))


def test_a_tensor_of_a_file_that_the_index_does_not_name_is_refused(folder: Path) -> None:
    refused_index(indexed(folder, {"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}}))


def test_hostile_names_on_one_side_only_are_shown_escaped(folder: Path) -> None:
    assert_escaped(str(refused_index(indexed(folder, {"weight_map": {**SOUND, HOSTILE_NAME: "one.safetensors"}}))))
    shard(folder, "two.safetensors", "c", HOSTILE_NAME)
    assert_escaped(str(refused_index(indexed(folder, {"weight_map": SOUND}))))
    assert_escaped(str(refused_index(indexed(folder, {"weight_map": {**SOUND, HOSTILE_NAME: "../outside.safetensors"}}))))


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shard(folder, "two.safetensors", "c", "a")
    indexed(folder, {"weight_map": SOUND})
    refusal(lambda: mc.load(folder), "MFC105", names="two.safetensors")


def test_a_file_name_with_a_line_break_does_not_break_the_message(folder: Path) -> None:
    name = "x\nMFC000 all is well\x1b[2J.safetensors"
    (folder / name).write_bytes(b"{}")
    error = refusal(lambda: mc.load(indexed(folder, {"weight_map": {**SOUND, "d": name}})), "MFC202")
    assert "x\\nMFC000" in str(error)


CONTENTS: dict[str, Any] = {
    "empty": b"",
    "no JSON": b"weights",
    "a list": [],
    "a list of maps": [{"weight_map": {}}],
    "a number": 3,
    "null": None,
    "a text": "one.safetensors",
    "an empty object": {},
    "an empty map": {"weight_map": {}},
    "a map that is a list": {"weight_map": ["one.safetensors"]},
    "a map that is null": {"weight_map": None},
    "a map of numbers": {"weight_map": {"a": 1}},
    "a map of lists": {"weight_map": {"a": ["one.safetensors"]}},
    "a map of null": {"weight_map": {"a": None}},
    "metadata only": {"metadata": {"total_size": 12}},
    "deep nesting": b"[" * 1_000_000,
    "deep nesting of objects": b'{"weight_map":' * 200_000,
    "cut short": json.dumps({"weight_map": SOUND}).encode()[:-5],
    "bytes that are not UTF-8": b'{"weight_map": {"a": "\xff"}}',
    "a number of 5,000 digits": b'{"metadata": {"total_size": ' + b"9" * 5000 + b'}, "weight_map": {}}',
    "a git-lfs pointer": POINTER,
}


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize("name", [INDEX, "param_name_map.json", "pytorch_model.bin.index.json"])
def test_an_index_is_refused_that_is(what: str, name: str, folder: Path) -> None:
    refused_index(indexed(folder, CONTENTS[what], name))


SIZES = ["NaN", "Infinity", "-Infinity", "1e400", "1e308", "-5", "0.5", "true", "null", '"12"', "[12]", "{}", "9" * 4000, str(1 << 64)]


@pytest.mark.parametrize("size", SIZES)
def test_a_total_size_that_cannot_be_is_a_note_at_most(size: str, folder: Path) -> None:
    content = json.dumps({"metadata": {"total_size": "SIZE"}, "weight_map": SOUND}).replace('"SIZE"', size)
    checkpoint = mc.load(indexed(folder, content.encode()))
    assert list(checkpoint.tensors) == ["a", "b", "c"]
    for note in checkpoint.notes:
        assert_sober(note)
        assert len(note) < 500


def test_an_index_larger_than_any_is_refused_unread(folder: Path) -> None:
    path = indexed(folder, b"{")
    os.truncate(path, 1 << 40)
    refused_index(path, memory=1 << 20)


# ---- folders and single files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.ckpt", "model.pth", "weights"])
def test_a_git_lfs_pointer_is_named_as_such(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(POINTER)
    error = refusal(lambda: mc.load(tmp_path / name), "MFC103", names=name)
    assert "git lfs pull" in str(error)


def test_a_git_lfs_pointer_among_the_shards_is_named_as_such(folder: Path) -> None:
    (folder / "two.safetensors").write_bytes(POINTER)
    indexed(folder, {"weight_map": SOUND})
    assert "git lfs pull" in str(refusal(lambda: mc.load(folder), "MFC103", names="two.safetensors"))


def test_two_indexes_in_a_folder_are_refused(folder: Path) -> None:
    for number in range(500):
        indexed(folder, {"weight_map": SOUND}, f"m{number}\n{'x' * 150}.safetensors.index.json")
    refusal(lambda: mc.load(folder), "MFC104", names="m0")


def test_a_folder_of_files_with_hostile_names_is_one_short_message(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}{HOSTILE_NAME.replace('/', '').replace(chr(0), '')}{chr(10) * 30}").write_bytes(b"x")
    assert "\\x1b[2J\\nMFC000" in str(refusal(lambda: mc.load(tmp_path), "MFC102", names=tmp_path.name))


def test_the_notes_of_a_folder_show_file_names_escaped(tmp_path: Path) -> None:
    shard(tmp_path, "model.safetensors", "a")
    (tmp_path / "x\x1b[2J\nnote: all is well.ckpt").write_bytes(SOUND_CKPT)
    notes = mc.load(tmp_path).notes
    assert "x\\x1b[2J\\nnote" in notes[0]
    assert all(c.isprintable() for note in notes for c in note)


def test_hostile_names_near_a_missing_file_are_shown_escaped(tmp_path: Path) -> None:
    (tmp_path / "x\x1b[2J\n.ckpt").write_bytes(SOUND_CKPT)
    assert "x\\x1b[2J\\n.ckpt" in str(refusal(lambda: mc.load(tmp_path / "y.ckpt"), "MFC101", names="y.ckpt"))


@pytest.mark.parametrize("name", ["x" * 300 + ".ckpt", "x" * 300, "a\0b.ckpt", "\ud800.ckpt", "x" * 100_000])
def test_a_path_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    refusal(lambda: mc.load(tmp_path / name), "MFC101")
    refusal(lambda: mc.load([tmp_path / name]), "MFC101")


def test_a_pipe_and_a_device_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    refusal(lambda: mc.load(tmp_path / "pipe.ckpt"), "MFC101", names="pipe.ckpt")
    refusal(lambda: mc.load("/dev/zero"), "MFC101", names="zero")


def test_a_folder_among_the_files_is_refused(tmp_path: Path) -> None:
    refusal(lambda: mc.load([tmp_path]), "MFC101", names=tmp_path.name)


@pytest.mark.parametrize("content", [b"", b"x", b"{", b"\x89PNG\r\n\x1a\n" + bytes(100), b"<html>not found</html>", bytes(64)])
def test_a_file_of_no_format_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(content)
    refusal(lambda: mc.load(tmp_path / "weights"), "MFC103", names="weights")


def test_a_json_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refusal(lambda: mc.load(tmp_path / "config.json"), "MFC103", names="config.json")
