"""What holds for every test: tables are laid out for a terminal of 120 columns, also in the processes that share the tests, and the
examples that Hypothesis makes up are the same in every run: a failure is no accident of the day. ``make fuzz`` tries others."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["COLUMNS"] = "120"

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("others", deadline=None, print_blob=True)
settings.load_profile("repeatable")
