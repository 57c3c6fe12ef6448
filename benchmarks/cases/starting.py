"""What it costs to start: imports, help, and commands on a checkpoint so small that nothing else counts."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench, conversion
from benchmarks.measure import MFCONV, PYTHON, Program, run, spread_of
from benchmarks.results import Row, ratio_row, seconds_row

ROUNDS = 4  # times as many as elsewhere: these runs are short


def start(bench: Bench) -> Iterator[Row]:
    """Whole processes. The second import looks every step up, since the package itself loads nothing before it is used."""
    with bench.room("start", 10_000_000) as room:
        toy, ckpt = room / "toy", room / "toy.ckpt"
        run(MFCONV, "toy", "llama", str(toy))
        programs = [
            Program("import numpy", (PYTHON, "-c", "import numpy")),
            Program("import mfconv_nb", (PYTHON, "-c", "import mfconv_nb")),
            Program("import of all steps", (PYTHON, "-c", "from mfconv_nb import load, map, diff, save, verify")),
            Program("mfconv --help", (MFCONV, "--help")),
            Program("mfconv inspect, toy", (MFCONV, "inspect", str(toy))),
            conversion("mfconv convert, toy", toy, ckpt, "--no_fsync"),
        ]
        seen = bench.rotate(programs, rounds=ROUNDS * bench.rounds)
        numpy = seen["import numpy"]
        yield ratio_row("start", "import mfconv_nb / import numpy", seen["import mfconv_nb"], numpy, 1.5)
        yield ratio_row("start", "import of all steps / import numpy", seen["import of all steps"], numpy)
        for label in ("mfconv --help", "mfconv inspect, toy", "mfconv convert, toy"):
            yield seconds_row("start", label, spread_of(seen[label].seconds), note=f"import numpy {numpy.median:.2f} s")
