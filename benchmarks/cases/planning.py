"""Headers, match and plan of a checkpoint with the names and the size of DeepSeek-V3, before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.families import BIG, BIG_CONFIG, BIG_SHARDS, big_dtype
from benchmarks.measure import PYTHON, Program, spread_of
from benchmarks.models import make_sparse_of_family
from benchmarks.results import Row, memory_row, ratio_row, seconds_row

MOST_SECONDS = 2.0
RUNNER = (PYTHON, "-m", "benchmarks.runner")


def plan(bench: Bench) -> Iterator[Row]:
    """The whole process from sparse shards to the plan of a folder; where the time goes; and what parsing the headers alone takes."""
    with bench.room("plan", 1_000_000_000) as room:
        source = make_sparse_of_family(room / "big", BIG, BIG_CONFIG, big_dtype, shards=BIG_SHARDS)
        ours = Program("plan", (*RUNNER, "plan", str(source), str(room / "target")))
        least = Program("json.loads of the headers", (*RUNNER, "headers", str(source)))
        seen = bench.rotate([least, ours], rounds=max(3, bench.rounds))
        said = [json.loads(text) for text in seen["plan"].said]
        counts = said[0]["counts"]
        what = f"{counts['tensors']:,} tensors in {BIG_SHARDS} shards"
        yield ratio_row("plan", f"{what}, load + map + plan / json.loads of the headers", seen["plan"], seen[least.label])
        yield memory_row("plan", f"{what}, load + map + plan, peak memory", seen["plan"])
        yield seconds_row("plan", f"{what}, load + map + plan", spread_of(seen["plan"].seconds), MOST_SECONDS, "whole process")
        for step in said[0]["seconds"]:
            yield seconds_row("plan", f"of which {step}", spread_of([s["seconds"][step] for s in said]), note="inside the process")
