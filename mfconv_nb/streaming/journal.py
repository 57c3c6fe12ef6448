"""The journal of a save lies beside its unfinished output, so that a save that was killed continues where it stopped.

1. The first line is the fingerprint of the whole plan. If the next save has another plan, the old work is thrown away.
2. Each finished segment adds a line. The next save does not trust it: it reads the segment again and compares checksums.
3. Before the files get their final names, a line lists all renames, so that the next save can finish those too (see ``publish.py``).

Lines are JSON. The open journal is locked, so that two saves never write one target at the same time.
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
BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # another process holds the lock
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # the file system has no locks
NO_LOCK = "this file system has no locks: a second run for the same target would not be noticed"


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished segment: its checksum, its CRC-32 if the format needs it, and how many numbers a cast made infinite in it.

    ``rounding``: of numbers that were computed from codes, the fields of a ``Rounding``; empty for others.
    """

    file: int
    tensor: str
    segment: int
    checksum: str
    crc: int | None
    infinite: int = 0
    rounding: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[int, str, int]:
        return self.file, self.tensor, self.segment


@dataclass(frozen=True, slots=True)
class Publishing:
    """The renames with which a save gives its files their final names.

    Attributes:
        inode: of the file or folder that is renamed last. Once it has its final name, the new output is complete.
        moves: (name in the staging folder, name beside the target) of every rename, in order.
        away: (name beside the target, name in the staging folder) of every old file, moved out of the way before.
        replaced: if folders are exchanged, the names in the old folder that the new one does not keep.
        fingerprint: of the plan.
        finished: the segments that were written.
    """

    inode: int
    moves: tuple[tuple[str, str], ...]
    away: tuple[tuple[str, str], ...] = ()
    replaced: tuple[str, ...] = ()
    fingerprint: str = ""
    finished: tuple[Finished, ...] = ()


class Lock:
    """A journal, opened and locked against a second save to the same target, until it is closed or the process ends.

    Raises:
        OutputError: MFC406. FileNotFoundError: the folder is gone; with ``create=False`` also if there is no journal.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        # O_APPEND: threads write whole lines one after the other. O_NOFOLLOW: a link could lead to a file of someone else.
        flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        self.descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o644)
        self.is_held = hold_lock(self.descriptor, path)

    def close(self) -> None:
        os.close(self.descriptor)


class Journal:
    """The journal of one save, locked against a second save to the same target."""

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
                # a kill may have torn the last line: cut it off, or the next line would be appended to it
                os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)
                self._write({"publishing": None})

    def add(self, done: Finished) -> None:
        """Record a segment whose bytes are written."""
        self._write([done.file, done.tensor, done.segment, done.checksum, done.crc, done.infinite, done.rounding])

    def begin_publishing(self, how: Publishing, *, durable: bool) -> None:
        """Record the renames that begin now."""
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
    """Close the journal, and so free its lock, if something fails: the process may live on, as that of a notebook does."""
    try:
        yield
    except BaseException:
        journal.close()
        raise


def publishing_of(path: Path) -> Publishing | None:
    """The renames that the journal lists; None if the save had not come to them, or there is no journal."""
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
    """The rows of an earlier save with the same plan; None for another plan. A torn last line is left out."""
    first, *lines = path.read_bytes().split(b"\n")
    return [_parse_row(line) for line in lines[:-1]] if _parse_row(first) == {"fingerprint": fingerprint} else None


def _finished_segments(rows: Iterable[object]) -> list[Finished]:
    """The finished segments among the rows; malformed rows are left out."""
    lists = (row for row in rows if isinstance(row, list) and len(row) == 7 and _is_rounding(row[6]))
    kinds = [int, str, int, str, int]
    return [
        Finished(row[0], row[1], row[2], row[3], row[4], row[5], tuple(row[6]))
        for row in lists
        if [type(v) for v in (*row[:4], row[5])] == kinds and isinstance(row[4], int | None)
    ]


def _is_rounding(value: object) -> bool:
    return isinstance(value, list) and [type(v) for v in value] in ([], [int, int, float, float])


def _parse_row(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def hold_lock(descriptor: int, path: Path) -> bool:
    """Take an advisory lock, which the system frees when the process ends, however it ends. Unix only.

    Args:
        path: the open file behind ``descriptor``; its folder is the one that messages name.
    Returns:
        False if the file system has no locks (Lustre without flock): then a second save is not noticed.
    Raises:
        OutputError: MFC406 if another process holds the lock. OSError: the disk fails. In both cases the descriptor is closed.
    """
    try:
        import fcntl  # here: Windows does not have it
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return True  # no name left: another save has just finished, and removed the journal after we had opened it
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        if error.errno not in BUSY:
            os.close(descriptor)
            raise
    os.close(descriptor)
    hint = "Wait for it, or choose another target."
    raise OutputError("MFC406", path.parent, found="a running conversion", expected="none", hint=hint)
