"""Whatever goes wrong at the command line: one message, no traceback, exit code 2. Exit code 1 says "checked and differs", nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.commands import inspect as inspect_command
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import LONGEST_NEAR, NearNames
from tests.support import numbered, work_of, write_safetensors

MFCONV = [sys.executable, "-c", "from mfconv_nb.cli.main import main; main()"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints that differ in their names."""
    first = write_safetensors(tmp_path / "a.safetensors", {f"é.{n}": numbered(3) for n in range(30)})
    return first, write_safetensors(tmp_path / "b.safetensors", {f"ü.{n}": numbered(3) for n in range(30)})


def mfconv(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MFCONV, *map(str, words)], capture_output=True, text=True, check=False, **more)


@pytest.mark.parametrize(
    "error, words",
    [
        (KeyError("cast_from"), "A fault of mfconv: KeyError: 'cast_from'\n  hint      Please report it"),
        (RecursionError("too deep\n✓ Equal."), "RecursionError: too deep\\n✓ Equal."),
        (UnicodeEncodeError("ascii", "é", 0, 1, "no"), "A fault of mfconv: UnicodeEncodeError"),
        (MemoryError(), "✗ Failed.  There is not enough memory."),
        (PermissionError(13, "Permission denied", "x\ny"), "✗ Failed.  Permission denied: x\\ny"),
        (OSError("odd"), "A fault of mfconv: OSError: odd"),
    ],
)
def test_what_nobody_refuses_is_one_message_and_exit_code_2(
    error: Exception, words: str, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(inspect_command.inspect, "callback", fail)
    assert run(["inspect", str(pair[0])]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert run(["--debug", "inspect", str(pair[0])]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_a_terminal_without_utf_8_stops_no_command(environment: dict[str, str], pair: tuple[Path, Path]) -> None:
    more: dict[str, Any] = {"env": {**os.environ, **environment}}
    shown = mfconv("inspect", pair[0], **more)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.isascii()
    as_json = mfconv("inspect", pair[0], "--json", **more)
    assert json.loads(as_json.stdout)["rows"][0]["name"] == "é.{0‥29}"
    assert mfconv("--help", **more).returncode == 0
    refused = mfconv("inspect", pair[0].with_name("nöwhere"), **more)
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)


def test_a_terminal_that_lacks_a_character_stops_no_command(tmp_path: Path) -> None:
    mc.save(mc.map(mc.toy("llama", tmp_path / "hf")), tmp_path / "mf.ckpt")
    drafted = tmp_path / "模型.py"
    done = mfconv("suggest", tmp_path / "hf", tmp_path / "mf.ckpt", "--out", drafted, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, drafted.is_file(), done.stderr) == (0, True, "")
    assert done.stdout.rstrip().endswith("\\u6a21\\u578b.py")


def test_a_files_name_that_is_no_text_can_be_printed_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_safetensors(tmp_path / "a.safetensors", {"w": numbered(3)})
    odd = os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"
    os.rename(file, odd)
    shown = mfconv("inspect", os.fsdecode(odd), "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\udcff" in json.loads(shown.stdout)["headline"]
    assert json.loads(mc.load(os.fsdecode(odd)).export(tmp_path / "x.json").read_text())["rows"]
    assert "\\udcff" in mc.load(os.fsdecode(odd)).export(tmp_path / "x.html").read_text()


def test_nobody_reading_on_is_no_difference(pair: tuple[Path, Path]) -> None:
    read, write = os.pipe()
    os.close(read)
    for command in (["diff", *pair], ["diff", pair[0], pair[0]], ["inspect", pair[0], "--all"], ["--help"]):
        done = subprocess.run([*MFCONV, *map(str, command)], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        assert (command[0], done.returncode, done.stderr) == (command[0], 2, "")
    os.close(write)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_said_and_is_no_difference(pair: tuple[Path, Path]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*MFCONV, "diff", *map(str, pair)], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "✗ Failed.  No space left on device\n")


def test_a_stdout_that_is_closed_changes_no_exit_code(pair: tuple[Path, Path]) -> None:
    for first, second, code in ((pair[0], pair[0], 0), (*pair, 1)):
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *MFCONV, "diff", str(first), str(second)], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize(
    "command", [["inspect", "a\0b"], ["convert", "a", "b\0"], ["diff", "a\0", "b"], ["convert", "a", "b", "--config", "\0"]]
)
def test_a_null_byte_in_a_path_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command) == 2
    assert "a path cannot hold a null byte" in capsys.readouterr().err


# ---- time ------------------------------------------------------------------------------------------------------------------


def test_names_of_any_length_and_number_take_no_endless_search(tmp_path: Path) -> None:
    sides = [{f"{side}{n}." + side * 5_000: numbered(1) for n in range(400)} for side in "xy"]  # each pair takes difflib a second
    a, b = (mc.load(write_safetensors(tmp_path / f"{n}.safetensors", side)) for n, side in enumerate(sides))
    assert work_of(lambda: repr(mc.diff(a, b))) < 2_000_000


def test_many_unlike_names_are_compared_within_a_budget() -> None:
    near = NearNames(f"model.blocks.a{n:x}b.mixer.weight" for n in range(30_000))
    asked = [f"model.blocks.a{n:x}c.mixer.weight" for n in range(30_000)]
    assert work_of(lambda: [near.nearest(word) for word in asked]) < 3_000_000
    assert near.nearest(asked[0]) is None  # nothing is found any more


def test_a_near_name_is_found_as_before_where_there_are_few_or_many() -> None:
    assert NearNames(["up_proj", "down_proj", "gate"]).nearest("upp_proj") == "up_proj"
    assert NearNames([f"layers.{chr(97 + n % 26)}{n}.up_proj" for n in range(999)]).nearest("layers.c2.upp_proj") == "layers.c2.up_proj"
    assert NearNames(["x" * LONGEST_NEAR]).nearest("x" * LONGEST_NEAR) is not None
    assert NearNames(["x" * LONGEST_NEAR]).nearest("x" * (LONGEST_NEAR + 1)) is None


def test_a_name_of_many_megabytes_is_shown_cut(tmp_path: Path) -> None:
    long = "model." + "layer." * 3_000_000
    checkpoint = mc.load(write_safetensors(tmp_path / "a.safetensors", {long: numbered(2)}))
    assert len(repr(checkpoint)) < 20_000
    assert len(checkpoint._repr_html_()) < 200_000
    with pytest.raises(mc.MfconvError) as caught:
        mc.map(checkpoint, "llama")
    assert len(str(caught.value)) < 10_000
    assert run(["inspect", str(tmp_path / "a.safetensors")]) == 0
