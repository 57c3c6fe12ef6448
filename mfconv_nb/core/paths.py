"""Paths of this machine, as callers give them, and small files that strangers wrote."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from mfconv_nb.core.errors import InputError, UsageError, quoted

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)  # pathlib has made one slash of two; `C:/` is a drive


def local_path(path: str | Path) -> Path:
    """A path, with ``~`` as the home folder.

    Raises:
        UsageError: MFC501 for what is no path, for an address, such as ``s3://bucket/model``, and for no name at all: ``"$MODEL"`` of a
            variable that is not set is not the folder one works in. InputError: MFC101 for the home of a user who is not known.
    """
    given: object = path
    if not isinstance(given, str | Path):
        raise UsageError("MFC501", "path", found=f"a {type(given).__name__}", expected="a path: a text or a pathlib.Path")
    if path == "":
        raise UsageError("MFC501", "path", found="an empty name", expected="a path", hint="For the folder you are in, give a dot: .")
    address = _ADDRESS.fullmatch(str(path))
    if address is not None:
        scheme, rest = address.groups()
        hint = f"Give the path itself: /{rest}" if scheme.lower() == "file" else "Copy it to this machine, or mount it, and give that path."
        raise UsageError("MFC501", "path", found=quoted(f"{scheme}://{rest}"), expected="a path: addresses are not read yet", hint=hint)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError("MFC101", path, found=error, expected="a path") from None


def read_small(path: Path, limit: int) -> bytes | None:
    """The bytes of a file; None where there are more than ``limit``: of a device that never ends no more are read."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raw = file.read(limit + 1)
            return raw if len(raw) <= limit else None
        return file.read() if status.st_size <= limit else None
