"""Parts of the installed ``mindformers`` package, without what its ``__init__`` modules import (datasets, trainers, a newer mindspore)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def mindformers_folder() -> Path:
    """Where the package is installed; nothing of it is run."""
    spec = find_spec("mindformers")  # finds the package, runs nothing of it
    if spec is None or spec.origin is None:
        pytest.skip("mindformers is not installed: make setup does, pip install --no-deps mindformers too")
    return Path(spec.origin).parent


@contextmanager
def mindformers_modules(*names: str, stand_ins: dict[str, dict[str, Any]] | None = None) -> Iterator[list[ModuleType]]:
    """Modules of mindformers by their dotted names, each file run as it is.

    The packages around them stay empty. ``stand_ins`` gives modules that they import but do not need, with the names wanted of them.
    Nothing of it is left in ``sys.modules`` afterwards.
    """
    before = {name for name in sys.modules if name.split(".")[0] == "mindformers"}
    assert not before, f"already imported: {sorted(before)[:3]}"
    folder = mindformers_folder()
    try:
        for name in (*names, *(stand_ins or {})):
            _empty_packages(name, folder)
        for name, members in (stand_ins or {}).items():
            sys.modules[name] = module = ModuleType(name)
            module.__dict__.update(members)
        yield [importlib.import_module(name) for name in names]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "mindformers"]:
            del sys.modules[name]


def _empty_packages(name: str, folder: Path) -> None:
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        package = ".".join(parts[:depth])
        if package not in sys.modules:
            sys.modules[package] = module = ModuleType(package)
            module.__path__ = [str(folder.joinpath(*parts[1:depth]))]
