"""Threads that take tasks from one list. The first error stops all; Ctrl-C stops all within a panel; progress counts bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from mfconv_nb.core.progress import OnProgress

Task = TypeVar("Task")

PULSE_SECONDS = 0.05


class Stopped(Exception):
    """Raised inside a worker to leave it; ``do_tasks`` catches it."""


class Pulse:
    """Shared by the workers of one call: counts bytes, and tells the workers to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.done = 0

    def add(self, nbytes: int) -> None:
        """Count bytes. Raises ``Stopped``, which leaves the worker, once all shall stop."""
        if self._stop.is_set():
            raise Stopped
        with self._lock:
            self.done += nbytes

    def stop(self) -> None:
        self._stop.set()


def do_tasks(
    tasks: Iterable[Task],
    make_worker: Callable[[Pulse], Callable[[Task], None]],
    threads: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Have ``threads`` workers do all tasks, which they take in the order of the list.

    Args:
        make_worker: called once in each thread; the function that it returns owns the buffers of its thread.
    Raises:
        The first error of a task; KeyboardInterrupt. Both after all threads have stopped.
    """
    pulse, errors, lock = Pulse(), [], threading.Lock()
    waiting = iter(tasks)

    def next_task() -> Iterator[Task]:
        while True:
            with lock:
                task = next(waiting, None)
            if task is None:
                return
            yield task

    def work() -> None:
        try:
            worker = make_worker(pulse)
            for task in next_task():
                worker(task)
        except Stopped:
            pass
        except BaseException as error:  # the calling thread raises it
            errors.append(error)
            pulse.stop()

    running = [threading.Thread(target=work, daemon=True) for _ in range(max(1, threads))]
    for thread in running:
        thread.start()
    try:
        _wait(running, pulse, on_progress)
    except BaseException:
        pulse.stop()
        for thread in running:
            thread.join()
        raise
    if errors:
        raise errors[0]


def _wait(running: list[threading.Thread], pulse: Pulse, on_progress: OnProgress | None) -> None:
    last = time.monotonic()
    for thread in running:
        while thread.is_alive():
            thread.join(PULSE_SECONDS)
            if on_progress is not None and time.monotonic() - last >= PULSE_SECONDS:
                on_progress(pulse.done)
                last = time.monotonic()
    if on_progress is not None:
        on_progress(pulse.done)
