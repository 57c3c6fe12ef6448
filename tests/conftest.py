"""What holds for every test: tables are laid out for a terminal of 120 columns, also in the processes that share the tests, and the
examples that Hypothesis makes up are the same in every run: a failure is no accident of the day. ``make fuzz`` tries others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import mfconv_nb as mc

os.environ["COLUMNS"] = "120"

# A slow machine fails no test, and a folder that a fixture gives is emptied by the test before each example.
COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("repeatable", derandomize=True, database=None, **COMMON)
settings.register_profile("others", print_blob=True, **COMMON)
settings.load_profile("repeatable")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of a test, which is the working folder too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The folder of a small Llama, which a test may change: shards, an index and a config."""
    mc.toy("llama", tmp_path / "toy")
    return tmp_path / "toy"
