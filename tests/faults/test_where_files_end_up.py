"""Links and mounted folders: staging lies where the files end up, and nothing is written, cleared or left anywhere else."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError, OutputError
from mfconv_nb.streaming import publish
from mfconv_nb.streaming.staging import mount_of, staging_of
from tests.faults.support import NEW, OLD
from tests.support import listing, numbered, raw_of, raws_in, write_safetensors
from tests.toys import raws_of

RAWS = {n: raw_of(a) for n, a in NEW.items()}


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("there is no second file system to write to: /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def mounted(folder: Path, *arguments: str) -> None:
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *arguments, str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a folder")


@pytest.fixture(params=["another disk", "the same disk"])
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that something is mounted on: its name cannot be changed, and no file can be renamed into it from beside it."""
    folder = tmp_path / "beside" / "output"
    folder.parent.mkdir()
    if request.param == "another disk":
        mounted(folder, "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    else:
        (tmp_path / "volume").mkdir()
        mounted(folder, "--bind", str(tmp_path / "volume"))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# ---- links -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("name, size", [("out.safetensors", None), ("out.ckpt", None), ("out", "1KB")])
def test_what_is_written_through_a_link_ends_up_where_it_leads(
    name: str, size: str | None, there: bool, other_disk: Path, tmp_path: Path
) -> None:
    link, real = tmp_path / "here" / name, other_disk / name
    link.parent.mkdir()
    link.symlink_to(real)
    if there:
        mc.save(mc.load(OLD), link, max_shard_size=size)
    report = mc.save(mc.load(NEW), link, max_shard_size=size, overwrite=there)
    assert raws_in(real) == RAWS
    assert listing(link.parent) in ([name], [name, *(f"{name}/{p}" for p in listing(real))])  # the link, and nothing beside it
    assert link.is_symlink()
    assert sorted(p.name for p in other_disk.iterdir()) == [name, f"{name}.mfconv"]
    assert report.manifest.is_file()
    for path in (link, real):
        assert raws_of(path) == RAWS
        assert mc.verify(path).equal


def test_a_link_may_have_another_name_than_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "out.safetensors").symlink_to("blobs/1234")
    mc.save(mc.load(NEW), tmp_path / "out.safetensors")
    assert listing(tmp_path / "blobs") == ["1234", "1234.mfconv", "1234.mfconv/manifest.json"]
    assert raws_of(tmp_path / "out.safetensors") == RAWS
    assert mc.verify(tmp_path / "out.safetensors").equal


def test_a_side_folder_beside_a_link_is_of_the_output_before_and_goes_with_it(tmp_path: Path) -> None:
    mc.save(mc.load(OLD), tmp_path / "out.safetensors")
    (tmp_path / "disk").mkdir()
    shutil.move(tmp_path / "out.safetensors", tmp_path / "disk" / "out.safetensors")
    (tmp_path / "out.safetensors").symlink_to("disk/out.safetensors")
    assert mc.verify(tmp_path / "out.safetensors").equal
    mc.save(mc.load(NEW), tmp_path / "out.safetensors", overwrite=True)
    assert not (tmp_path / "out.safetensors.mfconv").exists()
    assert mc.verify(tmp_path / "out.safetensors").equal


# ---- mounted folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, "1KB"])
def test_a_mounted_folder_gets_the_files_and_nothing_is_left_beside_it(mount: Path, size: str | None) -> None:
    report = mc.save(mc.load(NEW), mount, max_shard_size=size)
    assert listing(mount.parent) == ["output", *(f"output/{p}" for p in listing(mount))]
    assert raws_in(mount) == raws_of(mount) == RAWS
    assert report.manifest == mount / ".mfconv" / "manifest.json"
    assert report.manifest.is_file()
    assert mc.verify(mount).equal


@pytest.mark.parametrize("before, size", [(None, "1KB"), ("1KB", None), ("1KB", "1KB")])
def test_an_old_output_in_a_mounted_folder_is_replaced_and_everything_else_stays(mount: Path, before: str | None, size: str | None) -> None:
    mc.save(mc.load(OLD), mount, max_shard_size=before)
    (mount / "README.md").write_text("mine")
    with pytest.raises(OutputError, match="MFC401"):
        mc.save(mc.load(NEW), mount, max_shard_size=size)
    mc.save(mc.load(NEW), mount, max_shard_size=size, overwrite=True)
    assert raws_in(mount) == raws_of(mount) == RAWS  # the first reader takes every file
    assert mc.verify(mount).equal
    assert (mount / "README.md").read_text() == "mine"
    assert not (mount / ".mfconv-partial").exists()


def test_a_side_folder_beside_a_mounted_folder_gives_way_to_the_one_in_it(mount: Path, tmp_path: Path) -> None:
    mc.save(mc.load(OLD), tmp_path / "made" / "output")
    shutil.copytree(tmp_path / "made" / "output", mount, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "made" / "output.mfconv", mount.parent / "output.mfconv")
    assert mc.verify(mount).equal
    mc.save(mc.load(NEW), mount, overwrite=True)
    assert not (mount.parent / "output.mfconv").exists()
    assert mc.verify(mount).equal
    assert raws_of(mount) == RAWS


def test_the_space_is_that_of_the_mounted_disk(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    mounted(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    try:
        with pytest.raises(OutputError) as refused:
            mc.save(mc.load({"w": numbered(1 << 19)}), folder)
        assert refused.value.code == "MFC403"
        assert list(folder.iterdir()) == []
        assert listing(tmp_path) == ["output"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_holds_a_mounted_one_is_replaced_in_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    mc.save(mc.load(OLD), out, max_shard_size="1KB")
    mounted(out / "cache", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    try:
        (out / "cache" / "x").write_text("mine")
        mc.save(mc.load(NEW), out, overwrite=True)
        assert raws_of(out) == RAWS
        assert mc.verify(out).equal
        assert (out / "cache" / "x").read_text() == "mine"
    finally:
        subprocess.run(["umount", str(out / "cache")], check=True)


def test_two_mounts_of_one_disk_are_told_apart(mount: Path) -> None:
    assert mount_of(mount) != mount_of(mount.parent)
    assert staging_of(mount).root == mount / ".mfconv-partial"
    assert staging_of(mount.parent).root == mount.parent.with_name("beside.mfconv-partial")


def test_the_folder_one_works_in_stays_the_one_one_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mc.save(mc.load(OLD), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    mc.save(mc.load(NEW), ".", overwrite=True)
    assert Path.cwd().samefile(tmp_path / "out")
    assert raws_in(Path()) == raws_of(tmp_path / "out") == RAWS
    assert mc.verify(tmp_path / "out").equal
    assert listing(tmp_path) == ["out", "out.mfconv", "out.mfconv/manifest.json", "out/model.safetensors"]


def test_the_folder_keeps_its_mode_and_its_links(tmp_path: Path) -> None:
    out = tmp_path / "out"
    mc.save(mc.load(OLD), out)
    (tmp_path / "vocabulary").write_text("words")
    (out / "vocab.txt").symlink_to("../vocabulary")
    (out / "gone").symlink_to("nowhere")
    out.chmod(0o750)
    mc.save(mc.load(NEW), out, overwrite=True)
    assert (out / "vocab.txt").read_text() == "words"
    assert os.readlink(out / "gone") == "nowhere"
    assert out.stat().st_mode & 0o777 == 0o750


def test_a_file_that_appears_while_folders_change_their_names_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    mc.save(mc.load(OLD), out)
    real = publish.exchange

    def late(first: Path, second: Path) -> None:
        (out / "log.txt").write_text("a line")
        real(first, second)

    monkeypatch.setattr(publish, "exchange", late)
    mc.save(mc.load(NEW), out, overwrite=True)
    assert (out / "log.txt").read_text() == "a line"


# ---- what is not ours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "/data", "/side", "/old", "/whole", "/journal.jsonl", "/data/out.ckpt"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_in_the_way_of_the_staging_folder_is_refused_before_anything_is_written(name: str, overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "thesis.txt").write_text("precious")
    link = tmp_path / f"out.ckpt.mfconv-partial{name}"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "mine")
    before = listing(tmp_path)
    with pytest.raises(OutputError) as refused:
        mc.save(mc.load(NEW), tmp_path / "out.ckpt", overwrite=overwrite)
    assert refused.value.code == "MFC401"
    assert refused.value.found == "a link"
    assert listing(tmp_path) == before
    assert (tmp_path / "mine" / "data" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_side_folder_that_is_a_link_is_refused_before_anything_is_written(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "out.ckpt.mfconv").symlink_to("mine")
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="MFC401"):
        mc.save(mc.load(NEW), tmp_path / "out.ckpt", overwrite=overwrite)
    assert listing(tmp_path) == before


def test_links_that_lead_in_a_circle_are_no_target(tmp_path: Path) -> None:
    for name, to in (("a.ckpt", "b.ckpt"), ("b.ckpt", "a.ckpt"), ("folder", "folder")):
        (tmp_path / name).symlink_to(to)
    before = listing(tmp_path)
    for name in before:
        with pytest.raises(OutputError) as refused:
            mc.save(mc.load(NEW), tmp_path / name, overwrite=True)
        assert refused.value.code == "MFC401"
    assert listing(tmp_path) == before


def test_a_folder_of_the_staging_name_that_no_run_has_made_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "out.ckpt.mfconv-partial" / "data").mkdir(parents=True)
    (tmp_path / "out.ckpt.mfconv-partial" / "data" / "thesis.txt").write_text("precious")
    before = listing(tmp_path)
    with pytest.raises(OutputError, match="MFC401"):
        mc.save(mc.load(NEW), tmp_path / "out.ckpt", overwrite=True)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["out.ckpt", "out"])
def test_the_side_folder_of_an_output_that_was_moved_away_is_kept_unless_force_is_given(name: str, tmp_path: Path) -> None:
    mc.save(mc.load(OLD), tmp_path / name)
    shutil.move(tmp_path / name, tmp_path / "elsewhere")
    kept = tmp_path / f"{name}.mfconv" / "carried.safetensors"
    write_safetensors(kept, {"inv_freq": numbered(3)})
    before = listing(tmp_path)
    with pytest.raises(OutputError) as refused:
        mc.save(mc.load(NEW), tmp_path / name)
    assert refused.value.code == "MFC401"
    assert "--force" in str(refused.value)
    assert listing(tmp_path) == before
    mc.save(mc.load(NEW), tmp_path / name, overwrite=True)
    assert not kept.exists()
    assert mc.verify(tmp_path / name).equal


def test_an_empty_side_folder_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "out.ckpt.mfconv").mkdir()
    mc.save(mc.load(NEW), tmp_path / "out.ckpt")
    assert mc.verify(tmp_path / "out.ckpt").equal


def test_one_file_is_not_written_beside_old_shards_of_its_name(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    mc.save(mc.load(OLD), target, max_shard_size="1KB")
    with pytest.raises(OutputError, match="MFC401"):
        mc.save(mc.load(NEW), target)
    mc.save(mc.load(NEW), target, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors", "out.safetensors.mfconv"]
    assert raws_of(target) == RAWS


# ---- in place, and stopped ---------------------------------------------------------------------------------------------------


def test_a_half_replaced_folder_is_refused_with_where_the_old_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "out", os.replace
    mc.save(mc.load(OLD), out, max_shard_size="1KB")
    old = raws_in(out)

    def not_here(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    def full(*given: Any) -> None:
        if str(given[1]).endswith("model.safetensors"):
            raise OSError(errno.ENOSPC, "no space left")
        real(*given)

    source = write_safetensors(tmp_path / "in.safetensors", NEW)
    with monkeypatch.context() as patch:
        patch.setattr(publish, "exchange", not_here)
        patch.setattr(os, "replace", full)
        with pytest.raises(OutputError, match="MFC403"):
            mc.save(mc.load(source), out, overwrite=True)
    for path in (out, tmp_path / "out" / "model.safetensors.index.json"):
        with pytest.raises(InputError) as refused:
            mc.load(path)
        assert refused.value.code in ("MFC101", "MFC104")
    aside = tmp_path / "out.mfconv-partial" / "old"
    with pytest.raises(InputError, match=str(aside)):
        mc.load(out)
    assert {n: r for f in aside.rglob("*.safetensors") for n, r in raws_in(f).items()} == old
    mc.save(mc.load(NEW), out, overwrite=True)  # another run: it finishes that one first
    assert raws_of(out) == RAWS
    assert listing(tmp_path) == ["in.safetensors", "out", "out.mfconv", "out.mfconv/manifest.json", "out/model.safetensors"]
