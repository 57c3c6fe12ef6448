"""A run that is killed at any point leaves nothing half; the same command finishes it, with the bytes of an undisturbed run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import mfconv_nb as mc
from tests.faults.support import finished, flip_bytes, hashes, said_at_the_end, started


@pytest.fixture(scope="module")
def undisturbed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Hashes of what runs that nobody disturbs write, by the name of the target."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found = {}
    for name in ("out.ckpt", "out"):
        assert finished(["convert", str(llama), str(folder / name)]).returncode == 0
        found[name] = hashes(folder / name)
    return found


@pytest.mark.parametrize("name", ["out.ckpt", "out"])
@pytest.mark.parametrize("segments", [0, 1, 17, 60, 110])
def test_a_killed_run_leaves_nothing_half_and_is_finished_by_the_same_command(
    segments: int, name: str, llama: Path, undisturbed: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    target, command = tmp_path / name, ["convert", str(llama), str(tmp_path / name)]
    process = started(target, segments, command)
    process.kill()
    process.wait()
    assert not target.exists()
    assert not target.with_name(f"{name}.mfconv").exists()
    again = finished(command)
    assert again.returncode == 0, again.stderr
    assert ("Resumed" in again.stdout) == (segments > 0)
    assert hashes(target) == undisturbed[name]
    assert not target.with_name(f"{name}.mfconv-partial").exists()


def test_a_run_that_is_killed_again_and_again_ends_like_an_undisturbed_one(
    llama: Path, undisturbed: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    target, command = tmp_path / "out.ckpt", ["convert", str(llama), str(tmp_path / "out.ckpt")]
    for segments in (5, 20, 45, 80):
        process = started(target, segments, command)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not target.exists()
    assert finished(command).returncode == 0
    assert hashes(target) == undisturbed["out.ckpt"]


@pytest.mark.parametrize("name", ["out.ckpt", "out"])
@pytest.mark.parametrize("renames", [0, 1])
def test_a_run_that_dies_while_it_publishes_shows_whole_files_or_none(
    renames: int, name: str, llama: Path, undisturbed: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    target, command = tmp_path / name, ["convert", str(llama), str(tmp_path / name)]
    assert finished(command, TEST_DIE_AT_RENAME=str(renames)).returncode == 9
    assert target.exists() == (renames > 0)  # the files appear first, by one rename, the side folder by the next
    if renames:
        assert mc.verify(llama, target).equal
    assert finished(command).returncode == 0
    assert hashes(target) == undisturbed[name]


def test_bytes_that_changed_under_a_recorded_segment_are_written_again(
    llama: Path, undisturbed: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    target, command = tmp_path / "out.ckpt", ["convert", str(llama), str(tmp_path / "out.ckpt")]
    process = started(target, 20, command)
    process.kill()
    process.wait()
    partial = tmp_path / "out.ckpt.mfconv-partial"
    flip_bytes(partial / "data" / "out.ckpt", 5000)
    with open(partial / "journal.jsonl", "ab") as journal:
        journal.write(b'[0, "model.norm')  # a torn last line
    assert finished(command).returncode == 0
    assert hashes(target) == undisturbed["out.ckpt"]


def test_what_another_plan_has_left_is_thrown_away(llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    process = started(target, 20, ["convert", str(llama), str(target), "--max_shard_size", "1MB"])
    process.kill()
    process.wait()
    again = finished(["convert", str(llama), str(target)])
    assert again.returncode == 0
    assert "Resumed" not in again.stdout
    assert sorted(p.name for p in target.iterdir()) == ["param_name_map.json", "part0.safetensors"]


def test_ctrl_c_publishes_nothing_and_says_how_to_go_on(llama: Path, undisturbed: dict[str, dict[str, str]], tmp_path: Path) -> None:
    target, command = tmp_path / "out.ckpt", ["convert", str(llama), str(tmp_path / "out.ckpt")]
    process = started(target, 10, command)
    said = said_at_the_end(process, signal.SIGINT)
    assert process.returncode == 130
    assert "Stopped at" in said
    assert "Run the same command to resume." in said
    assert "Traceback" not in said
    assert not target.exists()
    assert finished(command).returncode == 0
    assert hashes(target) == undisturbed["out.ckpt"]


def test_a_second_run_of_the_same_target_is_refused_while_the_first_goes_on(llama: Path, tmp_path: Path) -> None:
    target, command = tmp_path / "out.ckpt", ["convert", str(llama), str(tmp_path / "out.ckpt")]
    first = started(target, 3, command)
    second = finished(command)
    assert second.returncode == 2
    assert "MFC406" in second.stderr
    first.kill()
    first.communicate()
