"""A checksum that a file carries is compared before its numbers are used, and a wrong one refuses the whole."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import FormatError
from tests.support import flip_bit, numbered, place_of, raws_in, write_safetensors
from tests.toys import raws_of

ARRAYS = {"model.norm.weight": numbered(50, first=7), "lm_head.weight": numbered(30, 20)}


def write_ckpt(path: Path) -> Path:
    """As mindspore.save_checkpoint(crc_check=True) writes it: the CRC-32 of all bytes, behind a word, in ten bytes."""
    mc.save(mc.load(ARRAYS), path)
    data = path.read_bytes()
    path.write_bytes(data + b"crc_num" + zlib.crc32(data).to_bytes(10, "big"))
    return path


def write_mindspore_safetensors(path: Path) -> Path:
    """The same, as its safetensors have it: of each name and its bytes, in the order of the names, as text in the metadata."""
    crc = 0
    for name in sorted(ARRAYS):
        crc = zlib.crc32(ARRAYS[name].tobytes(), zlib.crc32(name.encode(), crc))
    return write_safetensors(path, ARRAYS, {"format": "ms", "crc_num": str(crc)})


def write_torch(path: Path) -> Path:
    import torch

    torch.save({name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}, path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {"a.ckpt": write_ckpt, "a.safetensors": write_mindspore_safetensors, "a.bin": write_torch}
every_kind = pytest.mark.parametrize("name", WRITERS)


@every_kind
def test_a_file_that_fits_its_checksum_is_read(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    mc.save(mc.load(path), tmp_path / "out.safetensors")
    assert raws_in(tmp_path / "out.safetensors") == raws_of(mc.load(ARRAYS))


@every_kind
def test_one_bit_refuses_the_whole_before_anything_is_written(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    mc.save(mc.load(path), tmp_path / "twin.safetensors")
    flip_bit(path, path.read_bytes().index(ARRAYS["lm_head.weight"].tobytes()) + 501)
    there = sorted(tmp_path.rglob("*"))
    steps: list[Callable[[], Any]] = [
        lambda: mc.save(mc.load(path), tmp_path / "out.safetensors"),
        lambda: mc.save(mc.load(path), tmp_path / "out.ckpt", dry_run=True),
        lambda: mc.save(mc.load(path), tmp_path / "folder"),
        lambda: mc.diff(path, tmp_path / "twin.safetensors", values=True),
    ]
    for step in steps:
        with pytest.raises(FormatError) as refused:
            step()
        assert refused.value.code == "MFC209"
        assert str(path) in str(refused.value.where)
    assert sorted(tmp_path.rglob("*")) == there
    assert len(mc.load(path)) == 2  # what reads headers only claims nothing
    assert mc.diff(path, tmp_path / "twin.safetensors").equal


def test_a_wrong_trailer_and_a_bit_in_a_name_are_noticed_too(tmp_path: Path) -> None:
    path = write_ckpt(tmp_path / "a.ckpt")
    at = path.read_bytes().index(b"model.norm")
    for offset in (path.stat().st_size - 1, at):
        write_ckpt(tmp_path / f"{offset}.ckpt")
        flip_bit(tmp_path / f"{offset}.ckpt", offset)
        with pytest.raises(FormatError) as refused:
            mc.save(mc.load(tmp_path / f"{offset}.ckpt"), tmp_path / "out.ckpt")
        assert refused.value.code == "MFC209"


def test_a_proof_refuses_a_side_that_does_not_fit_its_checksum(tmp_path: Path) -> None:
    toy = mc.toy("llama", tmp_path / "toy", num_hidden_layers=1)
    mc.save(mc.map(toy), tmp_path / "mf.bin")
    assert mc.verify(tmp_path / "toy", tmp_path / "mf.bin").equal
    flip_bit(tmp_path / "mf.bin", place_of(tmp_path / "mf.bin", "model.norm_out.weight") + 3)
    for paths in ((tmp_path / "toy", tmp_path / "mf.bin"), (tmp_path / "mf.bin",)):
        with pytest.raises(FormatError) as refused:
            mc.verify(*paths)
        assert refused.value.code == "MFC209"


def test_files_of_torch_without_checksums_are_read(tmp_path: Path) -> None:
    import torch

    torch.serialization.set_crc32_options(False)
    try:
        path = write_torch(tmp_path / "a.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert {info.CRC for info in zipfile.ZipFile(path).infolist()} == {0}
    mc.save(mc.load(path), tmp_path / "out.ckpt")
    assert raws_in(tmp_path / "out.ckpt") == raws_of(mc.load(ARRAYS))


def test_files_of_torch_that_were_written_here_fit_their_checksums(tmp_path: Path) -> None:
    mc.save(mc.load(ARRAYS), tmp_path / "a.bin")
    assert any(info.CRC for info in zipfile.ZipFile(tmp_path / "a.bin").infolist() if "/data/" in info.filename)
    mc.save(mc.load(tmp_path / "a.bin"), tmp_path / "b.safetensors")
    assert raws_in(tmp_path / "b.safetensors") == raws_of(mc.load(ARRAYS))


@pytest.mark.parametrize("said", ["", "no number", "9" * 5000, "-1"])
def test_a_number_in_the_metadata_that_is_none_is_no_checksum(said: str, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", ARRAYS, {"format": "ms", "crc_num": said})
    mc.save(mc.load(path), tmp_path / "out.ckpt")


def test_a_counter_without_axes_leaves_a_safetensors_file_uncompared(tmp_path: Path) -> None:
    arrays = {**ARRAYS, "step_num": np.array(3, np.int32)}  # mindspore takes bytes(array), which is three zeros here
    path = write_safetensors(tmp_path / "a.safetensors", arrays, {"format": "ms", "crc_num": "1"})
    mc.save(mc.load(path), tmp_path / "out.ckpt")
