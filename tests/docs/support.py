"""What the tests of pages and notebooks share."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    """The text of a file of the project, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The code in one language that a page shows."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), flags=re.M | re.S)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: Any) -> str:
    """All text of a notebook, in one line."""
    return " ".join(" ".join(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")


def code_lines(name: str, *languages: str) -> list[str]:
    """Every line of code that a page shows, without its comment."""
    return [re.sub(r"\s*#.*", "", line) for language in languages for block in blocks(name, language) for line in block.splitlines()]


def sections(name: str) -> int:
    return len(re.findall(r"^## ", page(name), flags=re.M))


def assert_links_lead_somewhere(name: str) -> None:
    """Every link of a page in docs/ is to a file that is there, and to an anchor in it."""
    for link in re.findall(r"\]\(([^)]+)\)", page(name)):
        path, _, anchor = link.partition("#")
        target = ROOT / "docs" / path
        assert target.is_file(), link
        assert not anchor or f'<a id="{anchor}">' in target.read_text(encoding="utf-8"), link


def imported_from_docs(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A script of docs/ as a module, forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    yield importlib.import_module(name)
    sys.modules.pop(name)
