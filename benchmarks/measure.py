"""Running programs in rotation: A B C, then C B A, so that a machine that drifts drifts for all of them, and none always comes after
the same other one (on a virtual disk whatever read and wrote right after `cp` took 2 to 6 times as long, see docs/benchmarks.md).

Whole processes are measured, from the start of the interpreter to its end. Before each run the program's outputs are deleted and dirty
pages are written back (`sync`), both outside the timed part. The first round is a warm-up: it is not timed, and peak memory is taken in
it, so that sampling never slows a timed run.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from benchmarks.memory import PeakWatch, can_watch

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
MFCONV = str(Path(sys.executable).with_name("mfconv"))
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
UNUSUAL = ("PYTHONDONTWRITEBYTECODE", "PYTHONPROFILEIMPORTTIME", "PYTHONDEVMODE", "PYTHONTRACEMALLOC")  # would be measured too

OnRound = Callable[[str], None]


class Failed(Exception):
    """A program that is measured did not run; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Program:
    """One whole process: its command line and what it writes."""

    label: str
    argv: tuple[str, ...]
    outputs: tuple[Path, ...] = ()


@dataclass(slots=True)
class Sample:
    """What was seen of one program: seconds and standard output of each round, and peak anonymous memory in bytes."""

    seconds: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    peak: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, and the smallest and the largest."""

    median: float
    low: float
    high: float


def spread_of(figures: Sequence[float]) -> Spread:
    """Median, smallest and largest."""
    return Spread(statistics.median(figures), min(figures), max(figures))


def ratio(first: Sample, second: Sample) -> Spread:
    """Seconds of the first over the second, round by round: each pair ran within the same minute."""
    return spread_of([a / b for a, b in zip(first.seconds, second.seconds, strict=True)])


def rotate(programs: Sequence[Program], rounds: int, on_round: OnRound, *, keep: bool = False) -> dict[str, Sample]:
    """Run every program once as a warm-up and then once a round.

    Args:
        keep: leave the outputs of the last round in place, for a comparison.
    Returns:
        What was seen, by label.
    Raises:
        Failed: when a program ends with another code than 0, or an output of it is not there.
    """
    samples = {p.label: Sample() for p in programs}
    for number in range(rounds + 1):
        on_round(f"round {number} of {rounds}" if number else "warm-up")
        for program in programs if number % 2 else reversed(programs):
            sample = samples[program.label]
            if number == 0:
                sample.peak = peak_of(program)
            else:
                sample.seconds.append(_timed(program, sample.said))
            if not (keep and number == rounds):
                clear(program.outputs)
    return samples


def peak_of(program: Program) -> int | None:
    """Run a program once, sampled and not timed: its peak anonymous memory in bytes, None where the system does not tell."""
    _prepare(program)
    process = _start(program)
    with PeakWatch(process.pid) as watch:
        said, complaint = process.communicate()
    _check(program, process.returncode, said + complaint)
    return watch.peak if can_watch() else None


@lru_cache(maxsize=1)
def interpreter_peak() -> int | None:
    """Peak anonymous memory of a bare interpreter with numpy, taken in the same way."""
    return peak_of(Program("numpy", (PYTHON, "-c", "import numpy, time; time.sleep(0.1)")))


def run(*argv: str) -> str:
    """Run a program that is not measured, to prepare or to check something. Returns its standard output."""
    program = Program(Path(argv[0]).name, argv)
    process = _start(program)
    said, complaint = process.communicate()
    _check(program, process.returncode, said + complaint)
    return said


def clear(paths: Sequence[Path]) -> None:
    """Delete files and folders, those that are there."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _prepare(program: Program) -> None:
    clear(program.outputs)
    os.sync()


def _timed(program: Program, said: list[str]) -> float:
    _prepare(program)
    begun = time.perf_counter()
    process = _start(program)
    output, complaint = process.communicate()
    seconds = time.perf_counter() - begun
    _check(program, process.returncode, output + complaint)
    said.append(output)
    return seconds


def _start(program: Program) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in UNUSUAL} | OFFLINE
    return subprocess.Popen(
        program.argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _check(program: Program, code: int, said: str) -> None:
    if code != 0:
        raise Failed(f"{program.label}: exit code {code}\n{said[-2000:]}")
    absent = [p.name for p in program.outputs if not p.exists()]
    if absent:
        raise Failed(f"{program.label}: did not write {', '.join(absent)}")
