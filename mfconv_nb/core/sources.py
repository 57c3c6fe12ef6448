"""Where bytes come from: files, arrays, zeros, read when they are asked for. A file is never mapped, and asked whether it has changed."""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import xxhash

from mfconv_nb.core.errors import InputError
from mfconv_nb.core.paths import Refuse, parse_object
from mfconv_nb.core.report import how_many


class ByteSource(Protocol):
    """Where bytes come from. Reading is safe from several threads at once."""

    @property
    def label(self) -> str:
        """How messages and the manifest call it: a file's name, or what kind of object it is."""

    @property
    def size(self) -> int: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on."""

    def view(self) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """All bytes, where they are in memory; None for a file, which is read: a map of one that is cut short would end the process."""

    def check_unchanged(self) -> None:
        """Raises InputError (MFC108) when the source is not what it was when it was opened."""

    def identity(self) -> list[Any] | None:
        """What another run must find for its bytes to be proven the same, as JSON; None where nothing can prove it: a live object."""


HINT_FILE = "Copy what it gives to a file, or give the file itself."
EDGE_BYTES = 1 << 16  # of a file's beginning and end that its identity has a hash of: headers stand there


@dataclass(frozen=True, slots=True)
class StoredChecksum:
    """A CRC-32 that a file carries: of some of its bytes, and of others that stand in no file (the name of a tensor, say).

    Attributes:
        parts: in order, (offset, bytes) in the file, or bytes as they are.
        what: what it is of, where it is not the whole file.
    """

    parts: tuple[tuple[int, int] | bytes, ...]
    crc: int
    what: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the file to read."""
        return sum(part[1] for part in self.parts if isinstance(part, tuple))


class FileSource:
    """A file, opened on first use and remembered by size, time and inode, so that a change during a run is noticed.

    ``checksums``: those that the file itself carries; set by whoever reads its header, emptied once they were compared.

    Raises:
        InputError: MFC101 when it is not a readable file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, path.name
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte or a lone surrogate
            raise InputError("MFC101", path, found=getattr(error, "strerror", error), expected="a readable file") from None
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise InputError("MFC101", path, found="a folder, a pipe or a device", expected="a readable file", hint=HINT_FILE)
        self.size = status.st_size
        self._modified_ns = status.st_mtime_ns
        self._inode = status.st_ino
        self.checksums: tuple[StoredChecksum, ...] = ()
        self._lock = threading.Lock()
        self._opened: int | None = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done, descriptor = 0, self._descriptor()
        while done < len(buffer):
            try:
                count = _read_at(descriptor, buffer[done:], offset + done, self._lock)
            except OSError as error:
                self._unreadable_error(error)
            if count == 0:
                self._changed_error(f"{how_many(offset + len(buffer), 'byte')} needed, the file ends at {offset + done:,}")
            done += count

    def read_runs(self, offsets: Sequence[int], nbytes: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with runs of ``nbytes``, one after the other. The loop is short: a call for 1 KiB takes a microsecond."""
        preadv, descriptor, at = getattr(os, "preadv", None), self._descriptor(), 0
        for offset in offsets:
            place = buffer[at : at + nbytes]
            try:
                is_read = preadv is not None and preadv(descriptor, (place,), offset) == nbytes
            except OSError as error:
                self._unreadable_error(error)
            if not is_read:
                self.read_into(offset, place)
            at += nbytes

    def copy_to(self, descriptor: int, offset: int, size: int, to: int) -> bool:
        """Let the system copy ``size`` bytes from ``offset`` on into an open file, at ``to``.

        Returns:
            False where it cannot, whatever the reason: between two file systems, or at the end of a file that was cut short. Then nothing
            is known of what stands there; reading and writing will do it, or say what is wrong.
        """
        if not hasattr(os, "copy_file_range"):
            return False
        here, done = self._descriptor(), 0
        try:
            while done < size:
                count = os.copy_file_range(here, descriptor, size - done, offset + done, to + done)
                if not count:
                    return False
                done += count
        except OSError:
            return False
        return True

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; fewer only at the end of the file. Raises ValueError for a place before its beginning."""
        if offset < 0:
            raise ValueError(f"byte {offset:,}")
        buffer = bytearray(max(0, min(size, self.size - offset)))
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def view(self) -> None:
        """A file is read, not mapped."""

    def check_unchanged(self) -> None:
        now = self._status()  # of the open file: deleting or replacing its name does no harm
        if (now.st_size, now.st_mtime_ns) != (self.size, self._modified_ns):
            self._changed_error(f"size {now.st_size:,} and another time of change, {how_many(self.size, 'byte')} when it was opened")

    def identity(self) -> list[Any]:
        status = self._status()  # its time of change too: that of modification can be set to anything
        edges = self.read(0, EDGE_BYTES) + self.read(max(0, self.size - EDGE_BYTES), EDGE_BYTES)
        numbers = [status.st_dev, status.st_ino, self.size, self._modified_ns, status.st_ctime_ns]
        return [os.path.realpath(self.path), *numbers, xxhash.xxh3_128_hexdigest(edges)]

    def _status(self) -> os.stat_result:
        descriptor = self._descriptor()
        try:
            return os.fstat(descriptor)
        except OSError as error:
            self._unreadable_error(error)

    def _descriptor(self) -> int:
        with self._lock:
            if self._opened is None:
                try:
                    self._opened = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                except OSError as error:
                    raise InputError("MFC101", self.path, found=error.strerror, expected="a readable file") from None
                weakref.finalize(self, os.close, self._opened)  # it stays open for as long as a tensor may be read from it
                if os.fstat(self._opened).st_ino != self._inode:
                    self._changed_error("another file under the same name")
            return self._opened

    def _changed_error(self, found: str | None) -> NoReturn:
        raise InputError("MFC108", self.path, found=found, expected="the file as it was when its header was read", hint="Load it again.")

    def _unreadable_error(self, error: OSError) -> NoReturn:
        if error.errno == errno.ESTALE:  # a file server says so of a file that was replaced
            self._changed_error(error.strerror)
        hint = "The disk, or the file server that it lies on, cannot give these bytes. Fetch the file again, or to another disk."
        raise InputError("MFC116", self.path, found=error.strerror, expected="a file that can be read to its end", hint=hint) from None


def _read_at(descriptor: int, buffer: memoryview, offset: int, lock: threading.Lock) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    with lock:  # where preadv is missing (Windows): one position a file, so one reader at a time
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def read_object(path: Path, limit: int, expected: str, refuse: Refuse, *, is_strict: bool = False) -> dict[str, Any]:
    """The JSON object in a file of at most ``limit`` bytes; the other arguments as for ``parse_object``.

    Raises:
        InputError: MFC101, MFC116 for a file that cannot be read. What ``refuse`` makes, for one that is too large, or no such object.
    """
    source = FileSource(path)
    if source.size > limit:
        raise refuse(found=how_many(source.size, "byte"), expected=f"at most {limit:,}")
    return parse_object(source.read(0, source.size), expected, refuse, is_strict=is_strict)


class ArraySource:
    """Bytes that are in memory already: an array, a torch storage."""

    def __init__(self, data: np.ndarray[Any, np.dtype[np.uint8]], label: str) -> None:
        self._data, self.label = data, label

    @property
    def size(self) -> int:
        return self._data.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        np.frombuffer(buffer, np.uint8)[:] = self._data[offset : offset + len(buffer)]

    def view(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return self._data

    def check_unchanged(self) -> None:
        """An array may change under us at any time; nothing to compare it with."""

    def identity(self) -> None:
        """Nothing tells whether an array holds the numbers that it held in another run."""


class ZeroSource:
    """As many zero bytes as are needed; takes no memory until they are looked at."""

    label = "zeros"

    def __init__(self, size: int) -> None:
        self.size = size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        np.frombuffer(buffer, np.uint8)[:] = 0

    def view(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.zeros(self.size, np.uint8)

    def check_unchanged(self) -> None:
        """Zeros stay zeros."""

    def identity(self) -> list[Any]:
        return ["zeros", self.size]


@lru_cache(maxsize=256)
def zeros_source(size: int) -> ZeroSource:
    """One source a size, so that a checkpoint with many zero blocks has few sources."""
    return ZeroSource(size)
