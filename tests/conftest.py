"""What holds for every test: tables are laid out for a terminal of 120 columns, also in the processes that share the tests."""

import os

os.environ["COLUMNS"] = "120"
