"""Slices of a training run to a Hugging Face folder, through the command line: eight ranks, matrices cut along their first or last axis.

The slices are cut from a Llama on the spot; what comes out is compared with it, number by number, before a figure is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, conversion, copy, side_of
from benchmarks.measure import MFCONV, PYTHON, clear, run
from benchmarks.models import make_llama
from benchmarks.results import Row, memory_row, ratio_row

# the axis by which every matrix is cut: the words for the table, and how many times cp it may take
AXES = {"first": ("cut along the first axis", 1.5), "last": ("cut along the last axis", 3.0)}
FORMS = {"rank folders": "Checkpoint 1.0", "checkpoint 2.0": "Checkpoint 2.0"}


def _slices(axis: str, bench: Bench) -> Iterator[Row]:
    words, most = AXES[axis]
    case = f"slices-{axis}"
    with bench.room(case, 4 * bench.size) as room:
        whole = make_llama(room / "llama", bench.size)
        for form, name in FORMS.items():
            ranks, out = room / "ranks", room / "out"
            run(PYTHON, "-m", "benchmarks.runner", "cut", form, axis, str(whole), str(ranks))
            _check(whole, ranks, out)
            ours = conversion(name, ranks, out, "--no_fsync", "--reversed", "--config", str(whole))
            seen = bench.rotate([copy(whole, room / "copy"), ours])
            yield ratio_row(case, f"{name}, 8 ranks, {words}, to an HF folder / cp of it", seen[ours.label], seen["cp"], most)
            yield memory_row(case, f"{name}, 8 ranks, {words}, peak memory", seen[ours.label])
            clear((ranks, side_of(ranks)))


def _check(whole: Path, ranks: Path, out: Path) -> None:
    """Raises Failed where what comes of the slices is not what they were cut from."""
    run(*conversion("mfconv", ranks, out, "--no_fsync", "--reversed", "--config", str(whole)).argv)
    run(MFCONV, "diff", "--values", str(whole), str(out))
    clear((out, side_of(out)))


CASES = {f"slices-{axis}": partial(_slices, axis) for axis in AXES}
