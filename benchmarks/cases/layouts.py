"""Conversions that move numbers inside tensors, through the Python API: transposed, split by heads, stacked experts.

There from safetensors, whose weights are aligned in the file; back from the `.ckpt` that comes out, whose weights lie anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, copy, side_of
from benchmarks.families import LAYOUTS, WORDS, layout_config
from benchmarks.measure import PYTHON, Program, run
from benchmarks.models import make_of_family
from benchmarks.results import Row, memory_row, ratio_row

MOST = 3.0  # times cp


def _runner(key: str, to: str, source: Path, target: Path) -> Program:
    argv = (PYTHON, "-m", "benchmarks.runner", "convert", key, to, str(source), str(target))
    return Program(f"{key} to {to}", argv, (target, side_of(target)))


def _layout(key: str, bench: Bench) -> Iterator[Row]:
    """One kind of movement, both ways, against `cp` of the same bytes."""
    with bench.room(key, 4 * bench.size) as room:
        folder = make_of_family(room / "source", LAYOUTS[key], layout_config(key, bench.size))
        shard, ckpt = folder / "model.safetensors", room / "source.ckpt"
        run(*_runner(key, "mf", folder, ckpt).argv)
        ways = (("from safetensors", "mf", folder, shard, "out.ckpt"), ("back, from .ckpt", "hf", ckpt, ckpt, "out.safetensors"))
        for words, to, source, file, name in ways:
            ours = _runner(key, to, source, room / name)
            seen = bench.rotate([copy(file, room / "copy"), ours])
            yield ratio_row(key, f"{WORDS[key]}, {words} / cp", seen[ours.label], seen["cp"], MOST)
            yield memory_row(key, f"{WORDS[key]}, {words}, peak memory", seen[ours.label])


CASES: Mapping[str, Callable[[Bench], Iterator[Row]]] = {key: partial(_layout, key) for key in LAYOUTS}
