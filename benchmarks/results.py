"""What a case hands back: rows of a figure, its target and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import Sample, Spread, interpreter_peak, ratio
from benchmarks.memory import MIB

TIMES, MEBIBYTES, SECONDS, SHARE = "x", "MiB", "s", "%"
UNITS = (TIMES, MEBIBYTES, SECONDS, SHARE)  # ratios first: they hold on other machines too
MAX_PEAK_MIB = 64.0
MET, MISSED, REPORTED, LEFT_OUT, FAILED = "met", "missed", "", "left out", "failed"


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure is held against."""

    bound: float
    at_least: bool = False

    def holds(self, figure: float) -> bool:
        return figure >= self.bound if self.at_least else figure <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``figure`` is None where nothing could be measured; ``note`` says why, or where the figure comes from."""

    case: str
    what: str
    unit: str = TIMES
    figure: float | None = None
    target: Target | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    outcome: str | None = None

    @property
    def verdict(self) -> str:
        """met, missed, left out, failed; empty where there is no target."""
        if self.outcome is not None:
            return self.outcome
        if self.figure is None:
            return LEFT_OUT
        if self.target is None:
            return REPORTED
        return MET if self.target.holds(self.figure) else MISSED

    def plain(self) -> dict[str, Any]:
        """The row for JSON."""
        return {**asdict(self), "target": str(self.target) if self.target else None, "outcome": self.verdict}


def ratio_row(case: str, what: str, ours: Sample, other: Sample, bound: float | None = None) -> Row:
    """How many times as long as the other one ours takes: the median of the pairs, which must not pass ``bound``."""
    pairs = ratio(ours, other)
    return Row(case, what, TIMES, pairs.median, _at_most(bound), pairs.low, pairs.high, _both(ours, other))


def speed_up_row(case: str, what: str, ours: Sample, other: Sample, bound: float) -> Row:
    """How many times faster ours is than the other one: at least ``bound``."""
    pairs = ratio(other, ours)
    return Row(case, what, TIMES, pairs.median, Target(bound, at_least=True), pairs.low, pairs.high, _both(ours, other))


def _both(ours: Sample, other: Sample) -> str:
    return f"{ours.median:.2f} s / {other.median:.2f} s"


def _at_most(bound: float | None) -> Target | None:
    return None if bound is None else Target(bound)


def seconds_row(case: str, what: str, seconds: Spread, bound: float | None = None, note: str = "") -> Row:
    """An absolute time, true for this machine only."""
    return Row(case, what, SECONDS, seconds.median, _at_most(bound), seconds.low, seconds.high, note)


def memory_row(case: str, what: str, ours: Sample, bound: float | None = MAX_PEAK_MIB) -> Row:
    """Peak anonymous memory above the bare interpreter with numpy."""
    base = interpreter_peak()
    if ours.peak is None or base is None:
        return Row(case, what, MEBIBYTES, note="the system does not tell (no /proc)")
    note = f"{ours.peak / MIB:.0f} MiB, numpy alone {base / MIB:.0f} MiB"
    return Row(case, what, MEBIBYTES, max(0, ours.peak - base) / MIB, _at_most(bound), note=note)
