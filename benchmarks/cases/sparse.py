"""A checkpoint of 20 GB whose weights are holes: it takes no room as a source, and shows that memory does not grow with the model."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench, conversion
from benchmarks.measure import Sample, peak_of
from benchmarks.models import make_llama
from benchmarks.results import Row, memory_row

SIZE = 20_000_000_000
SPARE = 10_000_000_000


def sparse20(bench: Bench) -> Iterator[Row]:
    """Converted for real (the output does take its room), once, for its memory. With --quick twice the size of the other files."""
    size = 2 * bench.size if bench.quick else SIZE
    with bench.room("sparse20", size + (0 if bench.quick else SPARE)) as room:
        source = make_llama(room / "llama", size, shards=5, sparse=True)
        bench.say(f"  once: mfconv, {size / 1e9:.1f} GB of holes")
        sample = Sample(peak=peak_of(conversion("mfconv", source, room / "out.ckpt", "--no_fsync")))
        yield memory_row("sparse20", f"HF shards -> .ckpt, {size / 1e9:.3g} GB sparse, peak memory", sample)
