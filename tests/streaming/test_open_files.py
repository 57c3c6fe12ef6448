"""A run of more ranks than files may be open: read and written all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import mfconv_nb as mc
folder = sys.argv[1]
whole = mc.load({"w": np.arange(1200, dtype=np.float32).reshape(300, 4), "b": np.ones(3, np.float32)})
mc.save(whole, folder + "/run", layout_of_ranks=mc.RankLayout({"tp": 300}, {"w": ("tp", None)}, form=sys.argv[2]), durable=False)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
run = mc.load(folder + "/run")
mc.save(run, folder + "/whole.safetensors", durable=False)
assert mc.diff(mc.load(folder + "/whole.safetensors"), whole, values=True).equal
print(len(run.run.steps))
"""


@pytest.mark.parametrize("form", ["rank folders", "checkpoint 2.0"])
def test_three_hundred_ranks_where_sixty_four_files_may_be_open(form: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), form], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "300\n"
