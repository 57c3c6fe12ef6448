"""What a run has finished, kept beside the unfinished output, so that a killed run goes on where it stopped.

One JSON line a finished segment. The first line is the fingerprint of the whole plan: with another plan the old work is thrown
away. Nothing is believed: what the journal names is read again and its checksum compared before it counts as done. Before files get
their final names a line says which, so that this can be finished too.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from mfconv_nb.core.errors import OutputError

MAX_JOURNAL_BYTES = 1 << 30
BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # what a system says of a lock that another process holds
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # of a file system that has none
NO_LOCK = "this file system has no locks: a second run for the same target would not be noticed"


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


@dataclass(frozen=True, slots=True)
class Publishing:
    """How a run gives its files their final names.

    Attributes:
        inode: of the file or folder that is renamed last: where it has its final name, the new output is there.
        moves: (name in the staging folder, name beside the target) of every rename, in order.
        away: (name beside the target, name in the staging folder) of every old file that is moved out of the way before.
        replaced: where folders are exchanged, the names in the old one that the new one does not keep.
        fingerprint: of the run.
        finished: what it had written.
    """

    inode: int
    moves: tuple[tuple[str, str], ...]
    away: tuple[tuple[str, str], ...] = ()
    replaced: tuple[str, ...] = ()
    fingerprint: str = ""
    finished: tuple[Finished, ...] = ()


class Lock:
    """The open journal of a run, locked against a second run of the same target; until it is closed, or the process ends.

    Raises:
        OutputError: MFC406. FileNotFoundError: the folder is gone, or with ``create=False`` the journal.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        self.descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o644)
        self.is_held = hold_lock(self.descriptor, path)

    def close(self) -> None:
        os.close(self.descriptor)


class Journal:
    """The journal of one run, locked against a second run of the same target."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._guard, self._lock = threading.Lock(), Lock(path)
        self.is_locked, descriptor = self._lock.is_held, self._lock.descriptor
        with close_on_error(self):
            rows = _read_rows(path, fingerprint)
            self.is_new, self.finished = rows is None, _finished_segments(rows or [])
            if rows is None:
                os.ftruncate(descriptor, 0)
                self._write({"fingerprint": fingerprint})
            else:
                os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)  # a torn last line would swallow the next
                self._write({"publishing": None})

    def add(self, done: Finished) -> None:
        """Record a segment whose bytes are written."""
        self._write([done.file, done.tensor, done.segment, done.checksum, done.crc, done.infinite])

    def begin_publishing(self, how: Publishing, *, durable: bool) -> None:
        """Record which files appear under their final names from now on."""
        row = {"inode": how.inode, "moves": how.moves, "away": how.away, "replaced": how.replaced}
        self._write({"publishing": row})
        if durable:
            os.fsync(self._lock.descriptor)

    def _write(self, row: object) -> None:
        with self._guard:
            os.write(self._lock.descriptor, (json.dumps(row) + "\n").encode("ascii"))

    def close(self) -> None:
        self._lock.close()


@contextmanager
def close_on_error(journal: Journal) -> Iterator[None]:
    """Lets go of the lock when something goes wrong: the process may live on, a notebook's does."""
    try:
        yield
    except BaseException:
        journal.close()
        raise


def publishing_of(path: Path) -> Publishing | None:
    """How the run of this journal was giving its files their names when it ended; None where it had not begun, or there is no journal."""
    try:
        if os.path.islink(path) or not 0 < os.stat(path).st_size <= MAX_JOURNAL_BYTES:
            return None
        first, *lines = path.read_bytes().split(b"\n")
    except OSError:
        return None
    noted = [row for line in lines[:-1] if line.startswith(b'{"publishing"') and isinstance(row := _parse_row(line), dict)]
    head, last = _parse_row(first), noted[-1].get("publishing") if noted else None
    if not isinstance(last, dict) or not isinstance(head, dict):
        return None
    moves, away, replaced = _read_pairs(last.get("moves")), _read_pairs(last.get("away")), last.get("replaced")
    if type(last.get("inode")) is not int or not moves or away is None or not _are_texts(replaced):
        return None
    finished = tuple(_finished_segments(_parse_row(line) for line in lines[:-1]))
    return Publishing(last["inode"], moves, away, tuple(replaced), str(head.get("fingerprint")), finished)


def _read_pairs(value: object) -> tuple[tuple[str, str], ...] | None:
    if not isinstance(value, list) or not all(_are_texts(pair) and len(pair) == 2 for pair in value):
        return None
    return tuple((a, b) for a, b in value)


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _read_rows(path: Path, fingerprint: str) -> list[object] | None:
    """The rows of an earlier run of the same plan; None for another plan. A torn last line is left out."""
    first, *lines = path.read_bytes().split(b"\n")
    return [_parse_row(line) for line in lines[:-1]] if _parse_row(first) == {"fingerprint": fingerprint} else None


def _finished_segments(rows: Iterable[object]) -> list[Finished]:
    """The finished segments among the rows; what has another form is left out."""
    lists = (row for row in rows if isinstance(row, list) and len(row) == 6)
    kinds = [int, str, int, str, int]
    return [Finished(*row) for row in lists if [type(v) for v in (*row[:4], row[5])] == kinds and isinstance(row[4], int | None)]


def _parse_row(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def hold_lock(descriptor: int, path: Path) -> bool:
    """An advisory lock that the system lets go when the process ends, however it ends. Unix only.

    Args:
        path: the file that ``descriptor`` is open on, in the working folder of a run.
    Returns:
        False where the file system has no locks (Lustre without flock): then another run is not noticed.
    Raises:
        OutputError: MFC406 where another process holds it. OSError: the disk. The descriptor is closed then.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return True  # else the other run was just finishing: it has removed the journal that was opened here
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        if error.errno not in BUSY:
            os.close(descriptor)
            raise
    os.close(descriptor)
    hint = "Wait for it, or choose another target."
    raise OutputError("MFC406", path.parent, found="a running conversion", expected="none", hint=hint)
