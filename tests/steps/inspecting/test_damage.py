"""What bytes tell: matrices of zeros, and blobs of the hub cache that are not what they are named by."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.steps.inspecting import damage
from mfconv_nb.streaming.fill import SEGMENT_BYTES, tensor_checksums
from mfconv_nb.streaming.zeros import checksum_of_zeros
from tests.support import flip_bit, numbered, write_safetensors
from tests.toys import findings


@pytest.mark.parametrize("holes", [True, False], ids=["a hole", "zeros that were written"])
def test_the_rest_of_a_file_in_zeros_is_said_by_doctor_and_by_the_save(holes: bool, tmp_path: Path) -> None:
    mc.save(mc.toy("llama"), tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(size // 2)
        if holes:
            file.truncate(size)
        else:
            file.seek(size // 2)
            file.write(bytes(size - size // 2))
    assert "matrices of zeros, such as model.layers." in findings(tmp_path / "model.safetensors", "zeros")
    assert not mc.doctor(tmp_path / "model.safetensors").ready
    for name in ("mf.ckpt", "mf.bin"):
        report = mc.save(mc.map(mc.load(tmp_path / "model.safetensors")), tmp_path / name)
        assert "matrices of zeros, such as" in report.notes[0]
        assert report.notes[0] in str(report)


def test_vectors_of_zeros_rows_of_zeros_and_a_whole_model_are_everyday(tmp_path: Path) -> None:
    rows = np.zeros((50, 400), np.float32)
    rows[20, 7] = 1
    arrays = {"bias": np.zeros(5000, np.float32), "column": np.zeros((5000, 1), np.float32), "rows": rows}
    path = write_safetensors(tmp_path / "a.safetensors", arrays)
    assert findings(path, "zeros") == ""
    assert mc.save(mc.load(path), tmp_path / "b.safetensors").notes == ()


def test_an_adapter_that_was_not_trained_yet_is_no_matter_for_doctor(tmp_path: Path) -> None:
    module = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    path = write_safetensors(
        tmp_path / "a.safetensors", {module + "A.weight": numbered(4, 64), module + "B.weight": np.zeros((64, 4), "f4")}
    )
    assert findings(path, "zeros") == ""


@pytest.mark.parametrize("nbytes", [0, 1, 1 << 20, SEGMENT_BYTES, SEGMENT_BYTES + 8, 2 * SEGMENT_BYTES])
def test_the_checksum_of_zeros_is_the_one_that_a_save_takes(nbytes: int) -> None:
    tensor = mc.load({"w": np.zeros(nbytes, np.uint8)})["w"]
    assert tensor_checksums([tensor])["w"] in checksum_of_zeros(nbytes)


def snapshot(tmp_path: Path, content: bytes) -> Path:
    home = tmp_path / "models--org--net"
    blob = home / "blobs" / hashlib.sha256(content).hexdigest()
    place = home / "snapshots" / "c0ffee"
    for folder in (blob.parent, place):
        folder.mkdir(parents=True)
    blob.write_bytes(content)
    (place / "model.safetensors").symlink_to(os.path.relpath(blob, place))
    return place


def test_a_blob_is_compared_with_the_checksum_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mc.save(mc.toy("llama"), tmp_path / "model.safetensors")
    place = snapshot(tmp_path, (tmp_path / "model.safetensors").read_bytes())
    assert mc.doctor(place).commands
    assert "✓ 1 file of the hub cache: sha256 as the cache says" in findings(place, "checksums")
    flip_bit((place / "model.safetensors").resolve(), 5000)
    assert "✗ 'model.safetensors' is not what the cache says" in findings(place, "checksums")
    assert mc.doctor(place).commands == ()
    monkeypatch.setattr(damage, "QUICK_BYTES", 1000)
    assert "not compared" in findings(place, "checksums")
    assert "✗" in findings(place, "checksums", checksums=True)


def test_what_a_file_carries_is_compared_by_doctor_and_without_it_nothing_is_said(tmp_path: Path) -> None:
    mc.save(mc.toy("llama"), tmp_path / "a.bin")
    assert "that the files carry (CRC-32): the bytes fit" in findings(tmp_path / "a.bin", "checksums")
    flip_bit(tmp_path / "a.bin", (tmp_path / "a.bin").stat().st_size // 2)
    assert mc.doctor(tmp_path / "a.bin").commands == ()
    assert "✗ MFC209" in findings(tmp_path / "a.bin", "checksums")
    mc.save(mc.toy("llama"), tmp_path / "a.safetensors")
    assert findings(tmp_path / "a.safetensors", "checksums") == ""
