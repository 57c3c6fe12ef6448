"""What a run has finished, kept beside the unfinished output, so that a killed run goes on where it stopped.

One JSON line a finished segment. The first line is the fingerprint of the whole plan: with another plan the old work is thrown
away. Nothing is believed: what the journal names is read again and its checksum compared before it counts as done.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.errors import OutputError


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished segment: its checksum, and its CRC-32 where the format needs it."""

    file: int
    tensor: str
    segment: int
    checksum: str
    crc: int | None

    @property
    def key(self) -> tuple[int, str, int]:
        return self.file, self.tensor, self.segment


class Journal:
    """The journal of one run, locked against a second run of the same target."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self._guard = path, threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        _lock(self._descriptor, path)
        found = _read(path, fingerprint)
        self.is_new, self.finished = found is None, found or []
        if found is None:
            os.ftruncate(self._descriptor, 0)
            self._write({"fingerprint": fingerprint})

    def add(self, done: Finished) -> None:
        """Record a segment whose bytes are written."""
        self._write([done.file, done.tensor, done.segment, done.checksum, done.crc])

    def _write(self, row: object) -> None:
        with self._guard:
            os.write(self._descriptor, (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))

    def close(self) -> None:
        os.close(self._descriptor)


def _read(path: Path, fingerprint: str) -> list[Finished] | None:
    """The finished segments of an earlier run of the same plan; None for another plan. A torn last line is left out."""
    lines = path.read_bytes().split(b"\n")
    if _parsed(lines[0]) != {"fingerprint": fingerprint}:
        return None
    rows = [_parsed(line) for line in lines[1:]]
    return [Finished(*row) for row in rows if isinstance(row, list) and len(row) == 5]


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _lock(descriptor: int, path: Path) -> None:
    """An advisory lock that the system lets go when the process ends, however it ends. Unix only."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        hint = "Wait for it, or choose another target."
        raise OutputError("MFC406", path.parent, found="a running conversion", expected="none", hint=hint) from None
