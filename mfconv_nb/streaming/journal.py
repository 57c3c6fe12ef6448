"""What a run has finished, kept beside the unfinished output, so that a killed run goes on where it stopped.

One JSON line a finished segment. The first line is the fingerprint of the whole plan: with another plan the old work is thrown
away. Nothing is believed: what the journal names is read again and its checksum compared before it counts as done.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.errors import OutputError

PUBLISHING = {"publishing": True}


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished segment: its checksum, its CRC-32 where the format needs it, and how many numbers a cast made infinite in it."""

    file: int
    tensor: str
    segment: int
    checksum: str
    crc: int | None
    infinite: int = 0

    @property
    def key(self) -> tuple[int, str, int]:
        return self.file, self.tensor, self.segment


class Journal:
    """The journal of one run, locked against a second run of the same target."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self._guard = path, threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        hold_lock(self._descriptor, path)
        rows = _read(path, fingerprint)
        self.is_new, self.finished = rows is None, _finished(rows or [])
        if rows is None:
            os.ftruncate(self._descriptor, 0)
            self._write({"fingerprint": fingerprint})
        else:
            os.ftruncate(self._descriptor, path.read_bytes().rfind(b"\n") + 1)  # a torn last line would swallow the next

    def add(self, done: Finished) -> None:
        """Record a segment whose bytes are written."""
        self._write([done.file, done.tensor, done.segment, done.checksum, done.crc, done.infinite])

    def begin_publishing(self) -> None:
        """Record that files appear under their final names from now on; what is there then is our own work."""
        self._write(PUBLISHING)

    def _write(self, row: object) -> None:
        with self._guard:
            os.write(self._descriptor, (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))

    def close(self) -> None:
        os.close(self._descriptor)


def was_publishing(path: Path, fingerprint: str) -> bool:
    """Whether a run of the same plan ended while it moved its files to their final names."""
    return PUBLISHING in (_read(path, fingerprint) or [])


def _read(path: Path, fingerprint: str) -> list[object] | None:
    """The rows of an earlier run of the same plan; None for another plan. A torn last line is left out."""
    first, *lines = path.read_bytes().split(b"\n")
    return [_parsed(line) for line in lines[:-1]] if _parsed(first) == {"fingerprint": fingerprint} else None


def _finished(rows: Iterable[object]) -> list[Finished]:
    """The finished segments among the rows; what has another form is left out."""
    lists = (row for row in rows if isinstance(row, list) and len(row) == 6)
    kinds = [int, str, int, str, int]
    return [Finished(*row) for row in lists if [type(v) for v in (*row[:4], row[5])] == kinds and isinstance(row[4], int | None)]


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def hold_lock(descriptor: int, path: Path) -> None:
    """An advisory lock that the system lets go when the process ends, however it ends. Unix only.

    Args:
        path: the file that ``descriptor`` is open on, in the working folder of a run.
    Raises:
        OutputError: MFC406 where another process holds it; the descriptor is closed then.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:
            raise BlockingIOError  # the other run was just finishing: it has removed the journal that was opened here
    except OSError:
        os.close(descriptor)
        hint = "Wait for it, or choose another target."
        raise OutputError("MFC406", path.parent, found="a running conversion", expected="none", hint=hint) from None
