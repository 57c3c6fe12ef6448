"""Conversions that are copies at heart, through the command line: renamed, flushed, cast; and the proof that the copy is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench, conversion, copy, durable_copy
from benchmarks.measure import MFCONV, Program, run
from benchmarks.models import make_llama
from benchmarks.results import Row, memory_row, ratio_row

THERE, BACK = "HF shards -> .ckpt", ".ckpt -> HF folder"


def _both_ways(bench: Bench, room: Path) -> Iterator[tuple[str, Path, Path, tuple[str, ...]]]:
    """The two directions of a Llama: in words, the source, a target, the options that differ."""
    shards = make_llama(room / "llama", bench.size)
    ckpt = room / "source.ckpt"
    run(*conversion("mfconv", shards, ckpt).argv)
    yield THERE, shards, room / "out.ckpt", ()
    yield BACK, ckpt, room / "out", ("--reversed", "--config", str(shards))


def rename(bench: Bench) -> Iterator[Row]:
    """Names and headers change, no number does: what is left over a `cp` is our own cost, start-up and checksums included."""
    with bench.room("rename", 4 * bench.size) as room:
        for words, source, target, options in _both_ways(bench, room):
            two = conversion("mfconv, 2 threads", source, target, "--no_fsync", "--threads", "2", *options)
            one = conversion("mfconv, 1 thread", source, target, "--no_fsync", "--threads", "1", *options)
            seen = bench.rotate([copy(source, room / "copy"), two, one])
            yield ratio_row("rename", f"{words}, 2 threads / cp", seen[two.label], seen["cp"], 1.10)
            yield ratio_row("rename", f"{words}, 1 thread / cp", seen[one.label], seen["cp"], 1.25)
            yield memory_row("rename", f"{words}, peak memory", seen[two.label])


def durable(bench: Bench) -> Iterator[Row]:
    """The default, which waits until the disk has every byte, against a `cp` that waits too."""
    with bench.room("durable", 4 * bench.size) as room:
        for words, source, target, options in _both_ways(bench, room):
            ours = conversion("mfconv, flushed", source, target, *options)
            seen = bench.rotate([durable_copy(source, room / "copy"), ours])
            yield ratio_row("durable", f"{words}, flushed / cp + sync", seen[ours.label], seen["cp + sync"], 1.10)


def cast(bench: Bench) -> Iterator[Row]:
    """bfloat16 to float32 and back, against `cp` of the float32 side."""
    with bench.room("cast", 4 * bench.size) as room:
        narrow = make_llama(room / "llama", bench.size // 2)
        wide = room / "wide.ckpt"
        run(*conversion("mfconv", narrow, wide, "--dtype", "fp32").argv)
        up = conversion("mfconv, to fp32", narrow, room / "out.ckpt", "--no_fsync", "--dtype", "fp32")
        down = conversion("mfconv, to bf16", wide, room / "out", "--no_fsync", "--dtype", "bf16", "--reversed", "--config", str(narrow))
        seen = bench.rotate([copy(wide, room / "copy"), up, down])
        yield ratio_row("cast", "bf16 -> fp32 / cp of the fp32 side", seen[up.label], seen["cp"], 1.35)
        yield ratio_row("cast", "fp32 -> bf16 / cp of the fp32 side", seen[down.label], seen["cp"], 1.35)
        yield memory_row("cast", "bf16 -> fp32, peak memory", seen[up.label])
        yield memory_row("cast", "fp32 -> bf16, peak memory", seen[down.label])


def verify(bench: Bench) -> Iterator[Row]:
    """Reading both sides and comparing every byte, against `cp` of the output; and the output alone against its manifest."""
    with bench.room("verify", 3 * bench.size) as room:
        source, output = make_llama(room / "llama", bench.size), room / "out.ckpt"
        run(*conversion("mfconv", source, output).argv)
        both = Program("mfconv verify SRC OUT", (MFCONV, "verify", "--quiet", str(source), str(output)))
        alone = Program("mfconv verify OUT", (MFCONV, "verify", "--quiet", str(output)))
        seen = bench.rotate([copy(output, room / "copy"), both, alone])
        yield ratio_row("verify", "output against its original / cp of the output", seen[both.label], seen["cp"], 1.0)
        yield ratio_row("verify", "output against its manifest / cp of the output", seen[alone.label], seen["cp"], 1.0)
        yield memory_row("verify", "output against its original, peak memory", seen[both.label])
