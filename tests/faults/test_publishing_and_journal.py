"""The last moments of a run, the journal between two runs, and what stands in the way of a target."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError, OutputError
from mfconv_nb.streaming import publish
from mfconv_nb.streaming.journal import Finished, Journal
from tests.faults.support import RUNNER, finished, hashes, mounted_disk, said_at_the_end, start, started
from tests.support import PATIENCE, wait_until


def staging(target: Path) -> Path:
    return target.with_name(f"{target.name}.mfconv-partial")


def killed_at(target: Path, segments: int, command: list[str]) -> None:
    process = started(target, segments, command)
    process.kill()
    process.communicate()


# ---- publishing --------------------------------------------------------------------------------------------------------------------


def folder_with_notes(path: Path) -> Path:
    """A folder that is there before: where two folders cannot change their names, files are moved into it one by one."""
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    return path


@pytest.mark.parametrize("renames", [1, 2, 4])
def test_a_run_that_dies_between_the_files_of_a_folder_is_finished_by_the_same_command(renames: int, llama: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    undisturbed, target = (folder_with_notes(tmp_path / name / "out") for name in ("one", "two"))
    command = ["convert", str(llama), str(target), "--max_shard_size", "2MB"]
    assert finished(["convert", str(llama), str(undisturbed), *command[3:]]).returncode == 0
    assert finished(command, TEST_DIE_AT_RENAME=str(renames), TEST_NO_EXCHANGE="1").returncode == 9
    published = [p for p in target.iterdir() if p.name != "notes.txt"]
    assert len(published) == renames
    assert all(p.suffix == ".safetensors" for p in published)  # an index is the last to appear
    assert all(p.read_bytes() == (undisturbed / p.name).read_bytes() for p in published)
    with pytest.raises(InputError, match="MFC104"):  # not taken for a model
        mc.load(target)
    again = finished(command)
    assert again.returncode == 0, again.stderr
    assert hashes(target) == hashes(undisturbed)
    assert not staging(target).exists()


def test_a_run_that_publishes_is_still_alone(llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    command = ["convert", str(llama), str(target)]
    first = start(command, TEST_WAIT_TO_RENAME="1")
    wait_until(lambda: (staging(target) / "side" / "manifest.json").exists() or first.poll() is not None)
    second = finished([*command, "--dtype", "fp32"])
    assert first.poll() is None
    said_at_the_end(first)
    assert second.returncode == 2
    assert "MFC406" in second.stderr
    assert first.returncode == 0
    assert mc.verify(llama, target).equal


def test_a_target_that_appears_during_the_run_is_not_replaced(llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    command = ["convert", str(llama), str(target)]
    process = started(target, 3, command)
    target.write_bytes(b"precious")
    said = said_at_the_end(process)
    assert process.returncode == 2
    assert "MFC401" in said
    assert target.read_bytes() == b"precious"
    again = finished([*command, "--force"])
    assert "Resumed" in again.stdout
    assert mc.verify(llama, target).equal


def test_an_old_target_stays_as_it_is_until_the_new_one_is_complete(llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    mc.save(mc.map(mc.load(llama), layers=1), target)
    before = hashes(target)
    command = ["convert", str(llama), str(target), "--force"]
    killed_at(target, 30, command)
    assert hashes(target) == before
    assert finished(command).returncode == 0
    assert mc.verify(llama, target).equal


def test_force_removes_the_shards_of_an_old_index_and_no_other_file(llama: Path, tmp_path: Path) -> None:
    target = folder_with_notes(tmp_path / "out")
    mc.save(mc.map(mc.load(llama)), target, max_shard_size="1MB")
    stale = sorted(p.name for p in target.glob("part*"))
    index = target / "param_name_map.json"
    content = json.loads(index.read_text())
    content["weight_map"]["of a stranger"] = "notes.txt"
    index.write_text(json.dumps(content))
    mc.save(mc.map(mc.load(llama)), target, overwrite=True)
    assert len(stale) > 1
    assert sorted(p.name for p in target.iterdir()) == ["notes.txt", "param_name_map.json", "part0.safetensors"]
    assert (target / "notes.txt").read_text() == "mine"


def test_a_target_that_is_a_hard_link_to_the_source_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    source, target = tmp_path / "toy.safetensors", tmp_path / "out.safetensors"
    mc.toy("llama", source)
    before = source.read_bytes()
    os.link(source, target)
    mc.save(mc.load(source), target, overwrite=True, dtype="fp32")
    assert source.read_bytes() == before
    assert mc.load(target).specs[0].dtype == "F32"


# ---- the journal -------------------------------------------------------------------------------------------------------------------


def test_a_resumed_torch_file_has_the_checksums_that_its_zip_asks_for(llama: Path, tmp_path: Path) -> None:
    target, whole = tmp_path / "one" / "out.bin", tmp_path / "two" / "out.bin"
    killed_at(target, 20, ["convert", str(llama), str(target)])
    again = finished(["convert", str(llama), str(target)])
    assert "Resumed" in again.stdout
    assert finished(["convert", str(llama), str(whole)]).returncode == 0
    assert hashes(target) == hashes(whole)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None


def rewrite_journal(target: Path, change: dict[int, object]) -> None:
    """Change some values of every row: by place in the row."""
    path = staging(target) / "journal.jsonl"
    first, *rows = path.read_text().splitlines()
    changed = [[change.get(n, value) for n, value in enumerate(json.loads(row))] for row in rows]
    path.write_text("\n".join([first, *map(json.dumps, changed), ""]))


@pytest.fixture(scope="module")
def interrupted(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed run of a torch file has left: each tensor is one segment there, with a CRC in the journal."""
    target = tmp_path_factory.mktemp("interrupted") / "out.bin"
    killed_at(target, 10, ["convert", str(llama), str(target)])
    return staging(target)


@pytest.mark.parametrize(
    "place, value", [(0, 99), (1, "x"), (2, 99), (3, "00" * 16), (3, None), (4, 12345), (4, None), (1, ["x"]), (0, {})]
)
def test_a_journal_that_says_something_else_is_not_believed(
    place: int, value: object, llama: Path, interrupted: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.bin"
    shutil.copytree(interrupted, staging(target))
    rewrite_journal(target, {place: value})
    mc.save(mc.map(mc.load(llama)), target)
    assert mc.verify(llama, target).equal
    assert mc.verify(target).equal
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None


def test_a_row_behind_a_torn_one_is_not_lost(tmp_path: Path) -> None:
    path, rows = tmp_path / "journal.jsonl", [Finished(0, f"t{n}", 0, "ab", None) for n in range(3)]
    journal = Journal(path, "plan")
    journal.add(rows[0])
    journal.add(rows[1])
    journal.close()
    path.write_bytes(path.read_bytes()[:-7])  # the system lost the end
    journal = Journal(path, "plan")
    assert journal.finished == rows[:1]
    journal.add(rows[2])
    journal.close()
    journal = Journal(path, "plan")
    journal.close()
    assert journal.finished == [rows[0], rows[2]]


# ---- what stands in the way --------------------------------------------------------------------------------------------------------


IN_THE_WAY = ("out.ckpt.mfconv-partial", "out.ckpt.mfconv-partial/journal.jsonl/x", "out.ckpt.mfconv-partial/data", "out.ckpt.mfconv")


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_something_else_under_a_name_that_is_needed_is_a_refusal_and_stays(name: str, llama: Path, tmp_path: Path) -> None:
    obstacle = tmp_path / name
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("in the way")
    with pytest.raises(OutputError) as refused:
        mc.save(mc.map(mc.load(llama)), tmp_path / "out.ckpt")
    assert refused.value.code in ("MFC401", "MFC404")
    assert obstacle.read_text() == "in the way"
    assert not (tmp_path / "out.ckpt").exists()


def test_a_target_in_a_file_system_of_the_kernel_is_refused(llama: Path) -> None:
    with pytest.raises(OutputError) as refused:
        mc.save(mc.map(mc.load(llama)), Path("/proc/self/out.ckpt"))
    assert refused.value.code in ("MFC403", "MFC404")


def test_a_file_size_limit_is_a_refusal_and_publishes_nothing(llama: Path, tmp_path: Path) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, {resource.RLIM_INFINITY}))\n"
    command = [sys.executable, "-c", limit + RUNNER, "convert", str(llama), str(tmp_path / "out.ckpt")]
    found = subprocess.run(command, text=True, capture_output=True, check=False)
    assert found.returncode == 2, found.stderr
    assert "MFC404" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out.ckpt").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    with mounted_disk(tmp_path / "disk", "40m") as disk:
        yield disk


def fill_up(path: Path) -> None:
    """Write to a file until the disk is full."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            assert shutil.disk_usage(path.parent).free == 0


@pytest.mark.parametrize("name", ["out.ckpt", "out.bin"])
def test_a_disk_that_another_program_fills_is_a_refusal_and_the_run_goes_on_when_there_is_space(name: str, llama: Path, disk: Path) -> None:
    target, filler = disk / name, disk / "filler"
    command = ["convert", str(llama), str(target)]
    process = started(target, 5, command)
    fill_up(filler)
    said = said_at_the_end(process)
    assert process.returncode == 2
    assert "MFC403" in said
    assert "Traceback" not in said
    assert not target.exists()
    filler.unlink()
    again = finished(command)
    assert again.returncode == 0, again.stderr
    assert "Resumed" in again.stdout
    assert mc.verify(llama, target).equal


# ---- two runs, and file systems without locks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_written_to_with_a_note(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refusing)
    report = mc.save(mc.toy("llama"), tmp_path / "out.ckpt")
    assert "this file system has no locks" in repr(report)
    assert mc.verify(tmp_path / "out.ckpt").equal
    monkeypatch.undo()
    assert "no locks" not in repr(mc.save(mc.toy("llama"), tmp_path / "two.ckpt"))


@pytest.mark.parametrize("number, code", [(errno.EAGAIN, "MFC406"), (errno.EACCES, "MFC406"), (errno.EIO, "MFC404")])
def test_a_lock_that_is_held_is_another_run_and_a_broken_disk_is_none(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refusing)
    with pytest.raises(OutputError) as refused:
        mc.save(mc.toy("llama"), tmp_path / "out.ckpt")
    assert refused.value.code == code
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize("look", ["open", "read_bytes", "stat", "listdir", "scandir", "mkdir"])
def test_a_run_that_ends_between_two_looks_of_another_is_no_traceback(look: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its folder with it: before every such call, one after the other."""
    source = mc.toy("llama", tmp_path / "toy", num_hidden_layers=1)
    where = Path if look == "read_bytes" else os
    real = getattr(where, look)
    for turn in range(1000):
        target, calls = tmp_path / f"{turn}.ckpt", []
        partial = staging(target)
        (partial / "data").mkdir(parents=True)
        (partial / "journal.jsonl").write_text("{}\n")

        def watched(*given: Any, partial: Path = partial, calls: list[int] = calls, turn: int = turn, **more: Any) -> Any:
            if str(partial) in str(given[0]):
                calls.append(1)
                if len(calls) == turn + 1:
                    shutil.rmtree(partial, ignore_errors=True)
            return real(*given, **more)

        with monkeypatch.context() as patch:
            patch.setattr(where, look, watched)
            try:
                mc.save(source, target, threads=1)
            except OutputError as refused:
                said = refused.code
            else:
                said = "done"
        assert said in ("done", "MFC401", "MFC404", "MFC406")
        assert said != "done" or mc.verify(target).equal
        if len(calls) <= turn:
            break
    assert turn < 900


def test_of_several_runs_at_once_one_writes_and_the_others_say_why_not(llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ckpt"
    runs = [start(["convert", str(llama), str(target), "--quiet"]) for _ in range(5)]
    said = [run.communicate(timeout=PATIENCE)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert codes.count(0) == 1
    assert all("MFC406" in text or "MFC401" in text for text, code in zip(said, codes, strict=True) if code)
    assert not any("Traceback" in text for text in said)
    assert mc.verify(llama, target).equal
    assert not staging(target).exists()


# ---- the order of things -------------------------------------------------------------------------------------------------------------


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The calls that flush and rename, in their order, with the names of the files."""
    made: list[tuple[str, str]] = []
    opened: dict[int, str] = {}

    def watch(module: Any, name: str, note: Callable[..., str]) -> None:
        real = getattr(module, name)

        def run(*given: Any, **more: Any) -> Any:
            result = real(*given, **more)
            if name == "open":
                opened[result] = str(given[0])
            else:
                made.append((name, note(*given)))
            return result

        monkeypatch.setattr(module, name, run)

    watch(os, "open", lambda *_: "")
    watch(os, "fsync", lambda descriptor: Path(opened[descriptor]).name)
    watch(os, "replace", lambda _, to: Path(to).name)
    watch(publish, "exchange", lambda _, to: Path(to).name)
    return made


@pytest.mark.parametrize("way", ["new", "old", "in place"])
def test_every_file_is_on_the_disk_before_the_first_rename(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = mc.map(mc.toy("llama"))
    if way != "new":
        mc.save(toy, tmp_path / "out", max_shard_size="100KB")
    made = recorded(monkeypatch)
    if way == "in place":
        monkeypatch.setattr(publish, "_exchange_folders", lambda *_, **__: False)
    report = mc.save(toy, tmp_path / "out", max_shard_size="100KB", overwrite=way != "new")
    names = [path.name for path in report.files]
    first = next(n for n, (call, _) in enumerate(made) if call != "fsync")
    assert {*names, "manifest.json", "journal.jsonl", "side"} <= {name for _, name in made[:first]}
    assert ("fsync", "out") in made[first:]  # the folder too, after the renames
    del made[:]
    mc.save(toy, tmp_path / "two", max_shard_size="100KB", durable=False)
    assert not [name for call, name in made if call == "fsync"]


def test_files_appear_one_after_the_other_and_an_index_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = mc.toy("llama")
    mc.save(toy, tmp_path / "out", max_shard_size="100KB")
    made = recorded(monkeypatch)
    monkeypatch.setattr(publish, "_exchange_folders", lambda *_, **__: False)
    report = mc.save(toy, tmp_path / "out", max_shard_size="100KB", overwrite=True)
    renamed, count = [name for call, name in made if call == "replace"], len(report.files)
    assert renamed[0] == renamed[2 * count - 1] == "model.safetensors.index.json"  # the first to go, the last to come
    assert renamed[count : 2 * count] == [path.name for path in report.files]
