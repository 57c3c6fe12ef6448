"""What holds for every test: tables are laid out for a terminal of 120 columns, also in the processes that share the tests, and the
examples that Hypothesis makes up are the same in every run: a failure is no accident of the day. ``make fuzz`` tries others."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

os.environ["COLUMNS"] = "120"

# A slow machine fails no test, and a folder that a fixture gives is emptied by the test before each example.
COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("repeatable", derandomize=True, database=None, **COMMON)
settings.register_profile("others", print_blob=True, **COMMON)
settings.load_profile("repeatable")
