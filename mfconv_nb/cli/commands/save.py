"""mfconv save: the same names and numbers in another form: one file of a run's slices, another format, or slices for ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import (
    CHECKPOINT,
    config,
    dry_run,
    dtype,
    file_prefix,
    force,
    max_shard_size,
    no_fsync,
    only,
    progress_bar,
    quiet,
    say,
    show,
    step,
    strategy,
    threads,
    with_options,
)
from mfconv_nb.cli.sections import CONVERT
from mfconv_nb.core.errors import UsageError, quoted
from mfconv_nb.mapping.kinds import amounts_by_category

SECTION = CONVERT
SUMMARY = "The same checkpoint in another form: merged slices, another format, slices for ranks."


@click.command()
@click.argument("source", type=CHECKPOINT, metavar="IN")
@click.argument("target", type=CHECKPOINT, metavar="OUT")
@step
@strategy
@file_prefix
@only
@click.option("--layout_of_ranks", "--layout-of-ranks", type=CHECKPOINT, metavar="FILE.json", help="Cut for the ranks of a run.")
@config
@with_options(dtype, max_shard_size, dry_run, force, no_fsync, threads, quiet)
def save(
    source: Path,
    target: Path,
    step: str | None,
    strategy: Path | None,
    file_prefix: str | None,
    only: str | None,
    layout_of_ranks: Path | None,
    config: Path | None,
    dtype: str | None,
    max_shard_size: str | None,
    dry_run: bool,
    force: bool,
    no_fsync: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Write a checkpoint in another form. Names and numbers stay.

    \b
    mfconv save RUN/ merged.ckpt --only weights
    mfconv save llama.ckpt llama.safetensors
    mfconv save llama.ckpt RUN/ --layout_of_ranks layout.json

    The slices of a training run become whole tensors. The ending of OUT chooses the format, as for convert. With --layout_of_ranks OUT
    is a folder, with rank_N/ and strategy files, or a Checkpoint 2.0:

    \b
    {"devices": {"dp": 2, "tp": 4}, "cuts": {"*.wq.weight": ["tp", null]}, "form": "rank folders", "step": 0}
    """
    of_run: dict[str, Any] = {"step": step, "strategy": strategy, "file_prefix": file_prefix}
    checkpoint = mc.load(source, config=config, only=only, **of_run)
    if only is not None and not checkpoint.tensors:
        there = ", ".join(amounts_by_category(mc.load(source, config=config, **of_run).specs)) or "nothing at all"
        hint = "Choose one that is there, or leave --only out."
        raise UsageError("MFC501", "only", found=f"{quoted(only)}, of which there is nothing", expected=there, hint=hint)
    for note in checkpoint.notes:
        say(f"note: {note}")
    with progress_bar(checkpoint.nbytes, "writing", quiet=quiet) as progress:
        report = mc.save(
            checkpoint,
            target,
            dtype=dtype,
            overwrite=force,
            threads=threads,
            max_shard_size=max_shard_size,
            assets=config if checkpoint.side == "hf" and config is not None and config.is_dir() else None,
            layout_of_ranks=layout_of_ranks,
            durable=not no_fsync,
            dry_run=dry_run,
            progress=progress,
        )
    show(report)
    return 0
