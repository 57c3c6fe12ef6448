"""A progress bar in bytes: nothing for half a second, then bytes, rate and time left on stderr or below the notebook cell.

tqdm is imported only when the bar appears.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from mfconv_nb.core.report import bytes_text

OnProgress = Callable[[int], None]  # called with the bytes done so far

QUIET_SECONDS = 0.5
LOG_SECONDS = 10


class Progress:
    """Shows how far a step is; use as a context manager and call with the bytes done so far.

    Args:
        total: bytes of the whole step.
        what: a word for it: "converting".
        in_logs: where there is neither a terminal nor a notebook, print a line every ten seconds.
    """

    def __init__(self, total: int, what: str, *, in_logs: bool = False) -> None:
        self.total, self.what, self.in_logs, self.done = total, what, in_logs, 0
        self._begun = self._said = time.monotonic()
        self._bar: Any = None

    def __call__(self, done: int) -> None:
        self.done = done
        now = time.monotonic()
        if now - self._begun < QUIET_SECONDS:
            return
        if is_in_notebook() or sys.stderr.isatty():
            self._show_bar(done)
        elif self.in_logs and now - self._said >= LOG_SECONDS:
            self._said = now
            rate = bytes_text(int(done / (now - self._begun)))
            print(f"{self.what}: {bytes_text(done)} of {bytes_text(self.total)}, {rate}/s", file=sys.stderr, flush=True)

    def another(self, total: int, what: str) -> Progress:
        """One of the same kind for a step that goes before this one."""
        return Progress(total, what, in_logs=self.in_logs)

    def _show_bar(self, done: int) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm  # 50 ms, and only a step that takes half a second shows a bar

            self._bar = tqdm(total=self.total, desc=self.what, unit="B", unit_scale=True, unit_divisor=1024, leave=False, mininterval=0.2)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class NoProgress(Progress):
    """Counts and shows nothing."""

    def __init__(self) -> None:
        super().__init__(0, "")

    def another(self, total: int, what: str) -> Progress:
        return NoProgress()

    def __call__(self, done: int) -> None:
        self.done = done


def progress_for(wanted: bool | OnProgress, total: int, what: str) -> Progress:
    """What a step shows: a bar for True, nothing for False; a function is called with the bytes done so far."""
    if isinstance(wanted, Progress):
        wanted.total = total  # only the step knows it exactly: a cast changes it
        return wanted
    if isinstance(wanted, bool):
        return Progress(total, what) if wanted else NoProgress()
    return _Forwarded(wanted)


class _Forwarded(NoProgress):
    """Hands the count on to the caller's function."""

    def __init__(self, forward: OnProgress) -> None:
        super().__init__()
        self._forward = forward

    def another(self, total: int, what: str) -> Progress:
        """Report 0 to the caller, so that it can stop during this step too."""
        return _Forwarded(lambda _: self._forward(0))

    def __call__(self, done: int) -> None:
        self.done = done
        self._forward(done)


def is_in_notebook() -> bool:
    """True inside a Jupyter kernel; IPython is asked only where something else has imported it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")
