"""The folder of a converter in MindFormers' own form: which file has the function for a direction, and how that file is imported.

Files are read and parsed here, never run.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import Lines, MappingError, did_you_mean, to_one_line
from mfconv_nb.core.paths import local_path

HINT_PYTHON = "Mend it until `python -m py_compile FILE` is silent."
FILES = {MF: "convert_weight.py", HF: "convert_reversed.py"}
FUNCTIONS = {MF: "convert_pt_to_ms", HF: "convert_ms_to_pt"}
ROOTS = ("research", "mindformers")  # folders whose modules MindFormers imports by their dotted names


@dataclass(frozen=True, slots=True)
class Converter:
    """A function of one direction, found by reading the file: nothing has run.

    Attributes:
        module: how it is imported: ``research.mine.convert_weight``, as MindFormers does.
        first, last: folders that the import needs, before and after all others.
    """

    file: Path
    function: str
    to: str
    module: str
    first: tuple[str, ...]
    last: tuple[str, ...]


def find_converter(folder: str | Path, to: str) -> Converter:
    """The function for one direction (to "mf" or "hf") in a converter's folder. Runs nothing.

    Raises:
        MappingError: MFC317.
    """
    home, function = absolute(folder), FUNCTIONS[to]
    expected = f"a folder with {FILES[to]} that defines {function}"
    if not home.is_dir():
        found = "a file" if home.exists() else "no such folder"
        hint = f"Give the folder: {home.parent}" if home.exists() else "Check how it is spelled."
        raise MappingError("MFC317", home, found=found, expected=expected, hint=hint)
    files = [home / name for name in (FILES[to], FILES[HF if to == MF else MF]) if (home / name).is_file()]
    names = {file: _names_in(file) for file in files}
    file = next((f for f in files if function in names[f]), None) or next((f for f in files if "*" in names[f]), None)
    if file is None:
        raise MappingError("MFC317", home, found=_found_in(home, names), expected=expected, hint=_other_way(to, names))
    module, first, last = _import_of(file)
    return Converter(file, function, to, module, first, last)


def _names_in(file: Path) -> set[str]:
    """The names that a file gives a value at its top level; ``*`` where it imports all of another."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        said = Lines(f"{type(error).__name__}: {error.msg}" + (f"\n            {to_one_line(error.text.strip())}" if error.text else ""))
        where, expected = f"{file}, line {error.lineno}", "Python that can be read"
        raise MappingError("MFC317", where, found=said, expected=expected, hint=HINT_PYTHON) from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        told = f"{type(error).__name__}: {error}"
        raise MappingError("MFC317", file, found=told, expected="Python that can be read", hint=HINT_PYTHON) from None
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _found_in(home: Path, names: Mapping[Path, set[str]]) -> str:
    if not names:
        others = sorted(p.name for p in home.glob("*.py"))
        return f"Python files: {', '.join(others[:6]) or 'none'}"
    return "; ".join(
        f"{file.name} defines {', '.join(sorted(n for n in found if 'convert' in n)) or 'neither'}" for file, found in names.items()
    )


def _other_way(to: str, names: Mapping[Path, set[str]]) -> str | None:
    other = FUNCTIONS[HF if to == MF else MF]
    if any(other in found for found in names.values()):
        return f"It has {other}: {'with --reversed (reversed=True)' if to == MF else 'without --reversed'} that one is run."
    return did_you_mean(FUNCTIONS[to], {name for found in names.values() for name in found})


def _import_of(file: Path) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """How a file is imported. Below ``research/`` or ``mindformers/``: by its dotted name from the folder that holds those, which comes
    first on the path, as MindFormers' script does. Elsewhere: as a module of its folder. The folder and its parent come last."""
    home, stem = file.parent, file.stem
    above = next((p for p in (home, *home.parents) if p.name in ROOTS), None)
    last = (str(home), str(home.parent))
    if above is not None:
        dotted = (*home.relative_to(above.parent).parts, stem)
        if all(part.isidentifier() for part in dotted):
            return ".".join(dotted), (str(above.parent),), last
    return stem, (str(home),), last[1:]


def absolute(path: str | Path) -> Path:
    """A path that holds wherever it is used."""
    return Path(os.path.abspath(local_path(path)))
