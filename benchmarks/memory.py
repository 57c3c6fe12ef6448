"""Peak anonymous memory of a process and its children, seen from outside: RssAnon in /proc, sampled while the process runs.

Anonymous memory is what a process needs for itself. File pages that it has mapped count as resident too, but the system takes them back
at any time, so they are left out. Linux only; elsewhere there is no figure.
"""

from __future__ import annotations

import threading
from pathlib import Path

SAMPLE_SECONDS = 0.003  # a buffer that lives for less than that can be missed
MIB = 1 << 20
_PROC = Path("/proc")


def can_watch() -> bool:
    """True where the system says how much anonymous memory a process has."""
    return (_PROC / "self/status").is_file()


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process and of everything below it, now; 0 when it has ended."""
    try:
        status = (_PROC / str(pid) / "status").read_text()
        children = [int(c) for task in (_PROC / str(pid) / "task").iterdir() for c in (task / "children").read_text().split()]
    except OSError:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)
    return own + sum(anonymous_bytes(child) for child in children)


class PeakWatch:
    """Samples a process in a thread, from entering to leaving; ``peak`` is the largest sum of process and children that was seen."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak = pid, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, anonymous_bytes(self.pid))

    def __enter__(self) -> PeakWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
