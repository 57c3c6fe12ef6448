"""The Hugging Face folders of the golden cases, each made once for all tests that read it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.goldens.recipe import load_case, write_case


@pytest.fixture(scope="session")
def hf_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From the name of a case to its folder, which no test changes."""
    root = tmp_path_factory.mktemp("goldens")

    @cache
    def folder_of(name: str) -> Path:
        return write_case(load_case(name), root / name)

    return folder_of
