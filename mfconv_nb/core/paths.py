"""Paths of this machine, as callers give them, and small files that strangers wrote: their bytes, and the JSON object in them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import InputError, MfconvError, UsageError, quoted

LFS_POINTER = b"version https://git-lfs"  # a small text that stands for a file which was not fetched
Refuse = Callable[..., MfconvError]  # takes found and expected; knows code and place: ``partial(InputError, "MFC106", path)``

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


def parse_object(raw: bytes, expected: str, refuse: Refuse, *, is_strict: bool = False) -> dict[str, Any]:
    """The JSON object in a file's bytes.

    Args:
        expected: what the error says was expected.
        refuse: makes the error for a git-lfs pointer, broken or deeply nested JSON, and JSON that is no object.
        is_strict: refuse also what JSON does not allow but Python reads: a name given twice, NaN, an encoding other than UTF-8.
    """
    if raw.startswith(LFS_POINTER):
        raise refuse(found="a git-lfs pointer, not the file: fetch that with git lfs pull", expected=expected)

    def check_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise refuse(found=f"{quoted(twice)} twice", expected="each name once")
        return content

    def refuse_constant(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        if is_strict:
            content = json.loads(raw.decode("utf-8"), object_pairs_hook=check_names, parse_constant=refuse_constant)
        else:
            content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise refuse(found=f"broken JSON: {str(error)[:120]}", expected=expected) from None
    if not isinstance(content, dict):
        raise refuse(found=f"a JSON {type(content).__name__}", expected=expected)
    return content
