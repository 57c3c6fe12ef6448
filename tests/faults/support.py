"""Runs of the command line in processes of their own, which tests stop, starve and disturb."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from tests.support import PATIENCE, numbered, wait_until

OLD = {f"layers.{n}.w": numbered(40, 5, first=n) for n in range(3)}
NEW = {f"layers.{n}.w": -numbered(40, 5, first=n) for n in range(3)}  # the same names, shapes and dtypes: only the numbers tell

# The real command line with small segments, so that a small file has many points at which it can be stopped.
# Where a test says so, the run waits at one of them until it is killed, stopped, or told to go on: no test is a race with it.
RUNNER = """
import sys, time, os, signal
import mfconv_nb.streaming.fill as fill, mfconv_nb.streaming.journal as journal, mfconv_nb.streaming.workers as workers
from mfconv_nb.cli.main import run
fill.SEGMENT_BYTES = 64 << 10
going, stop, parent = [], workers.Pulse.stop, os.getppid()
def stopping(self):
    going.append(True)
    stop(self)
workers.Pulse.stop = stopping
signal.signal(signal.SIGUSR1, lambda *_: going.append(True))
def wait():
    while not going and os.getppid() == parent:
        time.sleep(0.005)
if "TEST_WAIT_AFTER" in os.environ:
    record, left = journal.Journal.add, [int(os.environ["TEST_WAIT_AFTER"])]
    def waiting(self, done):
        if left[0] <= 0:
            wait()
        left[0] -= 1
        record(self, done)
    journal.Journal.add = waiting
if "TEST_DIE_AT_RENAME" in os.environ:
    replace, left = os.replace, [int(os.environ["TEST_DIE_AT_RENAME"])]
    def dying(*names):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return replace(*names)
    os.replace = dying
if "TEST_NO_EXCHANGE" in os.environ:
    import mfconv_nb.streaming.publish as publish
    def refusing(*names):
        raise OSError(22, "Invalid argument")
    publish.exchange = refusing
if "TEST_WAIT_TO_RENAME" in os.environ:
    at_once = os.replace
    def late(*names):
        wait()
        return at_once(*names)
    os.replace = late
sys.exit(run(sys.argv[1:]))
"""


def made_llama(folder: Path) -> Path:
    """A Llama of about 8 MB in several shards: some 130 segments of 64 KiB."""
    mc.toy("llama", folder, hidden_size=512, intermediate_size=1408, vocab_size=1000, num_attention_heads=8, head_dim=64)
    return folder


@contextmanager
def mounted_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own on a new folder, of a size such as 4m (MiB); left out where the tests are not root's."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_env(environment)
    )


def started(target: Path, segments: int, arguments: list[str]) -> subprocess.Popen[str]:
    """The command line in a process that records so many segments (one more where two threads meet), and then waits."""
    process = start(arguments, TEST_WAIT_AFTER=str(segments))
    wait_until(lambda: journal_lines(target) >= segments or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    return process


def said_at_the_end(process: subprocess.Popen[str], go_on: signal.Signals = signal.SIGUSR1) -> str:
    """What a run that has waited says on stderr until it ends: it goes on, or hears another signal."""
    process.send_signal(go_on)
    return process.communicate(timeout=PATIENCE)[1]


def finished(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end."""
    return subprocess.run([sys.executable, "-c", RUNNER, *arguments], text=True, capture_output=True, env=_env(environment), check=False)


def _env(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(mc.__file__).parents[1]), **changes}


def hashes(path: Path) -> dict[str, str]:
    """sha256 of every file at or below a path, and of the side folder beside it."""
    files = [p for root in (path, path.with_name(f"{path.name}.mfconv")) for p in ([root] if root.is_file() else root.rglob("*"))]
    return {str(p.relative_to(path.parent)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}


def journal_lines(target: Path) -> int:
    """Segments that an unfinished run has recorded."""
    journal = target.with_name(f"{target.name}.mfconv-partial") / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.is_file() else 0


def flip_bytes(path: Path, offset: int) -> None:
    """Change a few bytes of a file in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        old = np.frombuffer(file.read(64), np.uint8)
        file.seek(offset)
        file.write((old ^ 0xFF).tobytes())
