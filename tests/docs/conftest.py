"""What holds for every notebook that a test runs: no bar shows how far a step is, which is a matter of the machine.

A bar appears where a step takes more than half a second. On a slow machine it would stand among the outputs that tests compare.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_bars_in_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TQDM_DELAY", "1000000")  # seconds until tqdm shows a bar; a kernel inherits it
        yield
