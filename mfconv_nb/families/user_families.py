"""Families of users: a Python file that defines ``FAMILY``, and what installed packages offer. Errors name the line.

A file runs only if the caller names it, never because a checkpoint or its manifest does. Its module is not kept among the imported
modules, so that it can hide none of them; its folder is not searched for imports.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mfconv_nb.core.errors import InputError, Lines, MappingError, MfconvError, did_you_mean, quote, to_one_line
from mfconv_nb.core.paths import local_path
from mfconv_nb.mapping.flaws import check_family
from mfconv_nb.mapping.rules import Drop, Family, Option, Repeated, Rule, Tied, Window

GROUP = "mfconv_nb.families"
PARTS = {kind.__name__: kind for kind in (Family, Rule, Repeated, Tied, Drop, Option, Window)}
HINT_FILE = "A family file defines FAMILY = Family(key=..., covers=..., sizes={...}, rules=(...)); see docs/families.md."

_UNKNOWN_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def is_file_name(family: object) -> bool:
    """Whether the caller gives a file: a path, or a text that ends in ``.py``."""
    return isinstance(family, Path) or (isinstance(family, str) and family.endswith(".py"))


def family_in_file(path: str | Path) -> Family:
    """The ``FAMILY`` that a Python file defines. The file runs once for each path and time of change.

    Raises:
        InputError: MFC101 where there is no such file.
        MappingError: MFC313 where it cannot be run, or defines no family; MFC311 where its rules cannot all be true.
    """
    file = local_path(path)
    try:
        changed = file.stat().st_mtime_ns
        if not file.is_file():
            raise InputError("MFC101", file, found="no file", expected="a Python file that defines FAMILY", hint=_hint_nearby(file))
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        found = getattr(error, "strerror", None) or str(error)
        hint = _hint_nearby(file)
        raise InputError("MFC101", file, found=found, expected="a Python file that defines FAMILY", hint=hint) from None
    return _load(file.resolve(), changed)


def _hint_nearby(file: Path) -> str:
    try:
        names = [other.name for other in file.parent.glob("*.py") if other.is_file()]
    except (OSError, ValueError):
        names = []
    near = did_you_mean(file.name, [name for name in names if name != file.name])
    return near or f"Python files in {file.parent}: {', '.join(sorted(names)[:5]) or 'none'}."


@lru_cache(maxsize=64)
def _load(file: Path, changed: int) -> Family:
    names = _run(file)
    family = replace(_family_among(names, file), file=file.name)
    if family.written_at[0] != str(file):  # made from a family of another file
        family = replace(family, written_at=(str(file), _line_of(file, "FAMILY") or 1))
    check_family(family)
    return family


def _run(file: Path) -> dict[str, Any]:
    """Run a file; return its names and their values."""
    module = ModuleType(f"family file {file}")  # no name that an import could mean
    module.__file__ = str(file)
    try:
        code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise _file_error(file, error.lineno, error.text, f"{type(error).__name__}: {error.msg}", "Python that can be read") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise _file_error(file, None, None, f"{type(error).__name__}: {error}", "Python that can be read") from None
    sys.modules[module.__name__] = module  # while it runs: `dataclass` looks its own module up
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise _run_error(file, error, module.__dict__) from None
    finally:
        sys.modules.pop(module.__name__, None)
    return module.__dict__


def _run_error(file: Path, error: BaseException, names: Mapping[str, Any]) -> MappingError:
    """The error for a file that failed while it ran, at the last of its own lines that it reached."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line, text = (own[-1].lineno, own[-1].line) if own else (None, None)
    return _file_error(file, line, text, _exception_line(error), "a file that runs to its end", _hint_of(error, names))


def _exception_line(error: BaseException) -> str:
    """An exception in one line, as Python says it, with the name that it thinks was meant."""
    if isinstance(error, MfconvError):
        return to_one_line(str(error))
    return to_one_line("".join(traceback.TracebackException.from_exception(error).format_exception_only()).strip())


def _hint_of(error: BaseException, names: Mapping[str, Any]) -> str | None:
    unknown = _UNKNOWN_ARGUMENT.search(str(error)) if isinstance(error, TypeError) else None
    if unknown is not None and unknown[1] in PARTS:
        takes = [name for name in PARTS[unknown[1]].__dataclass_fields__ if name not in ("written_at", "chosen", "file")]
        return did_you_mean(unknown[2], takes) or f"{unknown[1]} takes {', '.join(takes)}."
    if isinstance(error, NameError) and error.name:
        what = f"Add a line: from mfconv_nb.rules import {error.name}" if error.name in PARTS else None
        return what or did_you_mean(error.name, [*names, *PARTS])
    if isinstance(error, ModuleNotFoundError):
        return "A family file imports what is installed; a file beside it is not found. Put everything into one file."
    return None


def _file_error(file: Path, line: int | None, text: str | None, found: str, expected: str, hint: str | None = None) -> MappingError:
    where = str(file) if line is None else f"{file}, line {line}"
    shown = Lines(f"{found}\n            {to_one_line(text.strip())}") if text and text.strip() else found
    return MappingError("MFC313", where, found=shown, expected=expected, hint=hint)


def _family_among(names: dict[str, Any], file: Path) -> Family:
    if isinstance(names.get("FAMILY"), Family):
        family: Family = names["FAMILY"]
        return family
    expected = "FAMILY, a Family"
    if "FAMILY" in names:
        kind = names["FAMILY"]
        hint = "It is the class: call it, FAMILY = Family(key=..., ...)." if kind is Family else HINT_FILE
        raise _file_error(file, _line_of(file, "FAMILY"), None, f"FAMILY is {_kind(kind)}", expected, hint)
    others = [name for name, value in names.items() if isinstance(value, Family)]
    hint = f"Call it FAMILY: it is named {others[0]} now." if len(others) == 1 else HINT_FILE
    found = f"no FAMILY{', but ' + ' and '.join(others) if others else ''}"
    raise _file_error(file, _line_of(file, others[0]) if others else None, None, found, expected, hint)


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _line_of(file: Path, name: str) -> int | None:
    """The last line of a file that gives a name its value at the beginning of the line."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return max((n for n, line in enumerate(lines, 1) if re.match(rf"{name}\b.*=", line)), default=None)


# ---- what installed packages offer -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offered:
    """An entry point of the group: its name, the package it is from, and the family, or why there is none."""

    key: str
    package: str
    family: Family | None = None
    refused: MfconvError | None = None


def offered_families() -> tuple[Offered, ...]:
    """The families of installed packages, each tried by itself: a broken one does no harm to the others."""
    from importlib.metadata import entry_points  # 10 ms that only an unknown key, and the list of families, cost

    return tuple(_load_offered(entry) for entry in _each_once(entry_points(group=GROUP)))


def _each_once(entries: Iterable[Any]) -> Iterator[Any]:
    """Entry points, each once: a folder may be on the path twice."""
    return iter({(entry.name, entry.value): entry for entry in entries}.values())


def _load_offered(entry: Any) -> Offered:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package"
    where = f"{quote(entry.name)} of {package} ({entry.value})"
    try:
        family = entry.load()
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
        hint = f"Ask whoever made {package}, or uninstall it."
        refused = MappingError("MFC313", where, found=_exception_line(error) + at, expected="a module that can be imported", hint=hint)
        return Offered(entry.name, package, refused=refused)
    if not isinstance(family, Family):
        hint = f"The entry point names a Family: {entry.module}:FAMILY."
        found = f"a {type(family).__name__}"
        return Offered(entry.name, package, refused=MappingError("MFC313", where, found=found, expected="a Family", hint=hint))
    try:
        check_family(family)
    except MappingError as error:
        return Offered(entry.name, package, refused=error)
    return Offered(entry.name, package, family)
