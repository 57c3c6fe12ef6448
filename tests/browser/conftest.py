"""One JupyterLab for a file of tests; a fresh page for each of them, which must never have asked for anything outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.browser.lab import Browser, Lab, browser_on, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def opened(lab: Lab) -> Iterator[Callable[..., Browser]]:
    """Write cells as a notebook, open it, and run all of its cells: ``opened("name", cell, cell, width=560)``."""
    with ExitStack() as stack:
        browsers: list[Browser] = []

        def open_cells(name: str, *cells: str, width: int = 1280, dark: bool = False) -> Browser:
            browser = stack.enter_context(browser_on(lab, width=width))
            browsers.append(browser)
            browser.open(lab.write(f"{name}.ipynb", *cells), dark=dark)
            for number in range(len(cells)):
                browser.run_cell(number)
            return browser

        yield open_cells
        assert [url for browser in browsers for url in browser.outside] == []


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return tmp_path
