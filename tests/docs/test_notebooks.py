"""Notebooks run from top to bottom, are kept without outputs, and say the same as their readable twin."""

import html
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from demo.page import page_html
from tests.docs.support import ROOT, code_cells

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
ids = [p.relative_to(ROOT / "notebooks").as_posix() for p in NOTEBOOKS]


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def shown_html(notebook: Any) -> list[str]:
    """The HTML that cells show as their results."""
    outputs = [o for cell in code_cells(notebook) for o in cell.outputs]
    return [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_a_notebook_is_kept_without_outputs_and_counts(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = code_cells(notebook)
    assert [cell.outputs for cell in code if cell.outputs] == []
    assert [cell.execution_count for cell in code if cell.execution_count is not None] == []
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"  # JupyterLab asks for a kernel where none is named


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_a_notebook_and_its_readable_twin_say_the_same(path: Path) -> None:
    twin = jupytext.read(path.with_suffix(".py"), fmt="py:percent")
    assert cells(twin) == cells(nbformat.read(path, as_version=4)), f"jupytext --sync {path.name}"


def test_no_readable_twin_stands_alone() -> None:
    assert [p.name for p in (ROOT / "notebooks").rglob("*.py") if not p.with_suffix(".ipynb").is_file()] == []


def test_the_quickstart_shows_every_verdict_it_speaks_of(ran: tuple[Any, Path]) -> None:
    text = html.unescape("".join(shown_html(ran[0])))
    for words in ("✓ Converted.", "✓ Equal.", "✗ Not equal.", "✓ Headers agree.", "39 of 39 tensors bitwise equal", "Way back: exact."):
        assert words in text


def test_the_quickstart_shows_results_without_script_or_address(ran: tuple[Any, Path]) -> None:
    shown = shown_html(ran[0])
    assert len(shown) >= 8
    for each in shown:
        assert len(each) < 100_000
        assert not re.search(r"<script|<iframe|javascript:|https?://|@import|url\(", each, flags=re.I)


def test_every_code_cell_of_the_quickstart_shows_something_and_complains_of_nothing(ran: tuple[Any, Path]) -> None:
    for cell in ran[0].cells:
        if cell.cell_type == "code":
            assert cell.outputs, cell.source
            assert {o.output_type for o in cell.outputs} <= {"execute_result", "display_data"}, cell.source


def test_the_quickstart_leaves_nothing_behind(ran: tuple[Any, Path]) -> None:
    assert list(ran[1].iterdir()) == []


def test_the_page_of_a_notebook_needs_no_script_and_no_network(ran: tuple[Any, Path]) -> None:
    page = page_html(ran[0], "Quickstart")
    assert "✓ Equal." in page
    assert len(page) < 200_000
    assert not re.search(r"<script|<iframe|<link|https?://|@import|url\(", page, flags=re.I)
