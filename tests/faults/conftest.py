"""A Llama that tests convert and none of them changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.support import made_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_llama(tmp_path_factory.mktemp("source") / "llama")
