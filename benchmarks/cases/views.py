"""The views of a notebook: the mapping of a checkpoint with the names and the size of DeepSeek-V3, and the values of a tensor.

What the kernel does is measured, not the browser, which is handed a page of at most 100 rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.families import BIG, BIG_CONFIG, BIG_SHARDS, big_dtype
from benchmarks.measure import PYTHON, Program, spread_of
from benchmarks.models import make_sparse_of_family, write_folder
from benchmarks.results import Row, seconds_row
from mfconv_nb.core.checkpoint import TensorSpec

ON_SCREEN, ANSWER, PICTURE, VISIBLE = 2.0, 0.5, 1.0, 0.5  # seconds
SMALL = TensorSpec("small", (256, 512), "BF16")
LARGE = TensorSpec("large", (122_071, 4096), "BF16")  # 1 GB
VIEWS = (PYTHON, "-m", "benchmarks.views")


def view(bench: Bench) -> Iterator[Row]:
    """From `mc.map` to the view; then a search, a chip, and the row with the most tensors. Headers are loaded before, untimed."""
    with bench.room("view", 1_000_000_000) as room:
        source = make_sparse_of_family(room / "big", BIG, BIG_CONFIG, big_dtype, shards=BIG_SHARDS)
        said = [json.loads(text) for text in _said(bench, "view", "mapping", source)]
    counts = said[0]["counts"]
    ways = {"there": f"{counts['back']:,} tensors to {counts['there']:,}", "back": f"and back, {counts['there']:,} to {counts['back']:,}"}
    for way, words in ways.items():
        seen = [each["seconds"][way] for each in said]
        yield _summed(words, seen, ("map", "view"), ON_SCREEN if way == "there" else None)
        for step, note in (("map", ""), ("view", "with the import of the widgets" if way == "there" else "widgets imported")):
            yield seconds_row("view", f"of which {step}", spread_of([s[step] for s in seen]), note=note)
        yield seconds_row("view", "the saved form beside it", spread_of([s["saved form"] for s in seen]), note="HTML and text")
        for step in ("search", "search without a hit", "chip"):
            yield seconds_row("view", f"{words}: {step}", spread_of([s[step] for s in seen]), ANSWER)
        members = f"row of {counts['members']:,} tensors" if way == "back" else "row with the most tensors"
        yield seconds_row("view", f"{words}: {members}", spread_of([s["row"] for s in seen]), ANSWER)


def _summed(words: str, seen: list[dict[str, float]], steps: tuple[str, ...], bound: float | None) -> Row:
    return seconds_row("view", f"{words}: {' + '.join(steps)}", spread_of([sum(s[n] for n in steps) for s in seen]), bound)


def values(bench: Bench) -> Iterator[Row]:
    """The values of a small tensor in a fresh process, and of one of 1 GB, which is a hole: nothing is read from the disk."""
    with bench.room("values", 10_000_000) as room:
        write_folder(room / "small", [SMALL], {}, 1)
        write_folder(room / "large", [LARGE], {}, 1, sparse=True)
        said = [json.loads(text) for text in _said(bench, "values", "values", room)]
    seen = {step: spread_of([each["seconds"][step] for each in said]) for step in said[0]["seconds"]}
    small, large = f"{SMALL.elements:,} bf16 numbers", f"{LARGE.nbytes / 1e9:.3g} GB of bf16"
    calls = spread_of([each["calls"] for each in said])
    yield seconds_row("values", f"{small}, histogram, first of a process", seen["cold"], PICTURE, "with the import of matplotlib")
    yield seconds_row("values", f"{small}, histogram, once more", seen["warm"], PICTURE)
    yield seconds_row("values", f"{large}, histogram", seen["large"], note="a hole in a sparse file")
    yield seconds_row("values", f"{large}, longest time without progress", seen["gap"], VISIBLE, f"{calls.median:.0f} calls")
    yield seconds_row("values", f"{large}, from stop to return", seen["stop"], VISIBLE)


def _said(bench: Bench, label: str, command: str, source: Path) -> list[str]:
    """What the process printed, once a round."""
    ours = Program(label, (*VIEWS, command, str(source)))
    return bench.rotate([ours], rounds=max(3, bench.rounds))[label].said
