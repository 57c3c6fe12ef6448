"""Runs of the command line in processes of their own, which tests stop, starve and disturb."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np

import mfconv_nb as mc

# The real command line with small segments, so that a small file has many points at which it can be stopped.
RUNNER = """
import sys, time, os
import mfconv_nb.streaming.fill as fill, mfconv_nb.streaming.journal as journal
from mfconv_nb.cli.main import run
fill.SEGMENT_BYTES = 64 << 10
pause = float(os.environ.get("TEST_PAUSE", "0"))
record = journal.Journal.add
def slow(self, done):
    record(self, done)
    time.sleep(pause)
journal.Journal.add = slow
if "TEST_DIE_AT_RENAME" in os.environ:
    replace, left = os.replace, [int(os.environ["TEST_DIE_AT_RENAME"])]
    def dying(*names):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return replace(*names)
    os.replace = dying
if "TEST_RENAME_PAUSE" in os.environ:
    at_once = os.replace
    def late(*names):
        time.sleep(float(os.environ["TEST_RENAME_PAUSE"]))
        return at_once(*names)
    os.replace = late
sys.exit(run(sys.argv[1:]))
"""


def made_llama(folder: Path) -> Path:
    """A Llama of about 8 MB in several shards: some 130 segments of 64 KiB."""
    mc.toy("llama", folder, hidden_size=512, intermediate_size=1408, vocab_size=1000, num_attention_heads=8, head_dim=64)
    return folder


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_env(environment)
    )


def finished(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end."""
    return subprocess.run([sys.executable, "-c", RUNNER, *arguments], text=True, capture_output=True, env=_env(environment), check=False)


def _env(changes: dict[str, str]) -> dict[str, str]:
    import os

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
