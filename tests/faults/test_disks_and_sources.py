"""Full disks, targets that cannot be written, sources that vanish or change: one clear refusal, nothing published, nothing harmed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import OutputError
from mfconv_nb.streaming import staging
from tests.faults.support import finished, hashes, made_llama, mounted_disk, said_at_the_end, started


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """One that the test may change."""
    return made_llama(tmp_path / "llama")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with mounted_disk(tmp_path / "disk", "4m") as disk:
        yield disk


def test_a_target_without_enough_space_is_refused_before_a_byte_is_written(llama: Path, small_disk: Path) -> None:
    with pytest.raises(OutputError) as refused:
        mc.save(mc.map(mc.load(llama)), small_disk / "out.ckpt")
    assert refused.value.code == "MFC403"
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_is_a_refusal_and_publishes_nothing(
    llama: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfconv_nb.steps.saving.save.check_space", lambda *_: None)  # as if another program took the space meanwhile
    with pytest.raises(OutputError) as refused:
        mc.save(mc.map(mc.load(llama)), small_disk / "out.ckpt")
    assert refused.value.code == "MFC403"
    assert "the disk is full" in str(refused.value)
    assert [p.name for p in small_disk.iterdir()] == ["out.ckpt.mfconv-partial"]


def test_a_run_that_goes_on_needs_only_the_space_that_is_still_missing(llama: Path, tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", "40m") as disk:
        target = disk / "out.ckpt"
        process = started(target, 100, ["convert", str(llama), str(target)])
        process.kill()
        process.communicate()
        whole = sum(f.stat().st_size for f in llama.glob("*.safetensors"))
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - whole + (2 << 20)))
        assert shutil.disk_usage(disk).free < whole
        assert finished(["convert", str(llama), str(target)]).returncode == 0
        assert mc.verify(llama, target).equal


def test_a_read_only_target_is_refused(llama: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError) as refused:
        mc.save(mc.map(mc.load(llama), layers=1), small_disk / "out.ckpt")
    assert refused.value.code in ("MFC403", "MFC404")
    assert list(small_disk.iterdir()) == []


def test_a_target_whose_folder_is_a_file_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError) as refused:
        mc.save(mc.map(mc.load(llama)), tmp_path / "file" / "out.ckpt")
    assert refused.value.code == "MFC404"


def test_an_existing_target_is_left_untouched_unless_force_is_given(llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    target.write_bytes(b"precious")
    refused = finished(["convert", str(llama), str(target)])
    assert refused.returncode == 2
    assert "MFC401" in refused.stderr
    assert target.read_bytes() == b"precious"
    assert finished(["convert", str(llama), str(target), "--force"]).returncode == 0
    assert mc.verify(llama, target).equal


@pytest.mark.parametrize("way", ["the same path", "a symbolic link", "a roundabout path"])
def test_a_source_is_never_its_own_target(way: str, tmp_path: Path) -> None:
    source = tmp_path / "toy.safetensors"
    mc.toy("llama", source)
    before = hashes(source)
    link = tmp_path / "link.safetensors"
    link.symlink_to(source)
    (tmp_path / "sub").mkdir()
    target = {"the same path": source, "a symbolic link": link, "a roundabout path": tmp_path / "sub" / ".." / source.name}[way]
    with pytest.raises(OutputError) as refused:
        mc.save(mc.load(source), target, overwrite=True)
    assert refused.value.code == "MFC402"
    assert hashes(source) == before


def test_a_source_that_is_deleted_on_the_way_does_no_harm(llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    process = started(target, 5, ["convert", str(llama), str(target)])
    for shard in llama.glob("*.safetensors"):
        shard.unlink()
    said = said_at_the_end(process)
    assert process.returncode in (0, 2)  # open files live on; one that was not open yet is a refusal
    assert target.exists() == (process.returncode == 0)
    assert process.returncode == 0 or "MFC101" in said


@pytest.mark.parametrize("what", ["overwritten", "cut short"])
def test_a_source_that_changes_on_the_way_is_noticed_and_nothing_is_published(what: str, llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    process = started(target, 5, ["convert", str(llama), str(target)])
    shard = sorted(llama.glob("*.safetensors"))[-1]
    with open(shard, "r+b") as file:
        if what == "cut short":
            file.truncate(shard.stat().st_size // 2)
        else:
            file.seek(-10, os.SEEK_END)
            file.write(b"0123456789")
    said = said_at_the_end(process)
    assert process.returncode == 2
    assert "MFC108" in said
    assert "Traceback" not in said
    assert not target.exists()


def test_a_source_that_is_replaced_after_it_was_loaded_is_read_as_it_was(tmp_path: Path) -> None:
    mc.toy("llama", tmp_path / "toy.safetensors")
    loaded = mc.load(tmp_path / "toy.safetensors")
    mc.toy("llama", tmp_path / "other.safetensors", vocab_size=333)
    os.replace(tmp_path / "other.safetensors", tmp_path / "toy.safetensors")
    mc.save(loaded, tmp_path / "copy.safetensors")  # the open file is still the old one
    assert mc.diff(mc.toy("llama"), tmp_path / "copy.safetensors", values=True).equal


def test_a_finished_run_leaves_no_staging_folder(llama: Path, tmp_path: Path) -> None:
    mc.save(mc.map(mc.load(llama)), tmp_path / "out.ckpt")
    assert not staging.staging_of(tmp_path / "out.ckpt").root.exists()
