"""Exchange the names of two folders in one step, so that each name leads to a folder at any moment. Linux 3.15 and later."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_HERE = -100  # AT_FDCWD: relative paths count from the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE


def exchange(first: Path, second: Path) -> None:
    """Exchange the names of two files or folders; at no moment is a name absent.

    Python has no function for this system call, so it is called in the C library.

    Raises:
        OSError: also if the system (ENOSYS) or the file system (EINVAL) has no such call. Then nothing has changed.
    Source: the Linux manual, rename(2), renameat2 with RENAME_EXCHANGE.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(first))
    if call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first), None, str(second))
