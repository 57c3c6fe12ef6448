"""Notebooks that tests run. No bar in them shows how far a step is, which is a matter of the machine.

A bar appears where a step takes more than half a second. On a slow machine it would stand among the outputs that tests compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.page import run_notebook


@pytest.fixture(scope="module", autouse=True)
def _no_bars_in_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TQDM_DELAY", "1000000")  # seconds until tqdm shows a bar; a kernel inherits it
        yield


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The ``NOTEBOOK`` of a file of tests after a run in a kernel, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("run")
    return run_notebook(request.module.NOTEBOOK, folder), folder
