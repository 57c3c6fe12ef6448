"""Ours against the documented algorithm (see ``documented.py``), whole processes, both directions, same inputs, same kind of output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from benchmarks.bench import Bench, LeftOut, conversion
from benchmarks.measure import MFCONV, PYTHON, Program, Sample, clear, interpreter_peak, run
from benchmarks.memory import MIB
from benchmarks.models import make_llama
from benchmarks.results import TIMES, Row, Target, speed_up_row

FASTER, LEANER = 10.0, 50.0
ROUNDS = 3  # a round takes most of a minute


def _documented(direction: str, source: Path, target: Path) -> Program:
    argv = (PYTHON, "-m", "benchmarks.documented", direction, str(source), str(target))
    return Program(f"documented, {direction}", argv, (target,))


def documented(bench: Bench) -> Iterator[Row]:
    """Time and memory of both; afterwards the two outputs are compared, bit by bit: a faster wrong answer would be none."""
    absent = [name for name in ("mindspore", "torch", "transformers") if find_spec(name) is None]
    if absent:
        raise LeftOut(f"{', '.join(absent)} not installed")
    with bench.room("documented", 7 * bench.documented_size) as room:
        source = make_llama(room / "llama", bench.documented_size, shards=1)
        ckpt = room / "source.ckpt"
        run(*conversion("mfconv", source, ckpt).argv)
        there = {"HF -> .ckpt": conversion("mfconv, forward", source, room / "ours.ckpt", "--no_fsync")}
        yield from _against(bench, there, _documented("forward", source, room / "theirs.ckpt"))
        back = {
            ".ckpt -> HF folder": conversion("mfconv, back", ckpt, room / "ours", "--no_fsync", "--reversed"),
            ".ckpt -> .bin": conversion("mfconv, back to .bin", ckpt, room / "ours.bin", "--no_fsync", "--reversed"),
        }
        yield from _against(bench, back, _documented("back", ckpt, room / "theirs.bin"))


def _against(bench: Bench, ours: Mapping[str, Program], theirs: Program) -> Iterator[Row]:
    seen = bench.rotate([*ours.values(), theirs], keep=True, rounds=min(ROUNDS, bench.rounds))
    for program in ours.values():  # `mfconv diff` ends with 1, and the case fails, when a byte differs
        run(MFCONV, "diff", "--values", "--quiet", str(program.outputs[0]), str(theirs.outputs[0]))
    clear([path for program in (*ours.values(), theirs) for path in program.outputs])
    other = seen[theirs.label]
    for words, program in ours.items():
        yield speed_up_row("documented", f"{words}, times faster", seen[program.label], other, FASTER)
        yield from _memory_rows(words, seen[program.label], other)


def _memory_rows(words: str, ours: Sample, theirs: Sample) -> Iterator[Row]:
    base = interpreter_peak()
    if ours.peak is None or theirs.peak is None or base is None:
        yield Row("documented", f"{words}, times less memory", note="the system does not tell (no /proc)")
        return
    note = f"{ours.peak / MIB:.0f} MiB / {theirs.peak / MIB:.0f} MiB"
    target = Target(LEANER, at_least=True)
    yield Row("documented", f"{words}, times less peak memory, whole process", TIMES, theirs.peak / ours.peak, target, note=note)
    above = [max(1, peak - base) / MIB for peak in (ours.peak, theirs.peak)]
    note = f"{above[0]:.1f} MiB / {above[1]:.0f} MiB"
    yield Row("documented", f"{words}, times less peak memory, above numpy", TIMES, above[1] / above[0], target, note=note)
