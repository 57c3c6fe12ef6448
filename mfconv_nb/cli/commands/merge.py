"""mfconv merge: LoRA adapters added to the weights, a declared change of values."""

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
    lora_alpha,
    max_shard_size,
    model,
    no_fsync,
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

SECTION = CONVERT
SUMMARY = "Merge LoRA adapters into the weights."


@click.command()
@click.argument("paths", nargs=-1, required=True, type=CHECKPOINT, metavar="BASE [ADAPTERS] OUT")
@model
@config
@step
@strategy
@file_prefix
@lora_alpha
@dtype
@max_shard_size
@dry_run
@force
@no_fsync
@with_options(threads, quiet)
def merge(
    paths: tuple[Path, ...],
    model: str | None,
    config: Path | None,
    step: str | None,
    strategy: Path | None,
    file_prefix: str | None,
    lora_alpha: float | None,
    dtype: str | None,
    max_shard_size: str | None,
    dry_run: bool,
    force: bool,
    no_fsync: bool,
    threads: int,
    quiet: bool,
) -> int:
    """Merge LoRA adapters into the weights: w + alpha / rank * B A. OUT is of BASE's side.

    \b
    mfconv merge BASE ADAPTERS OUT
    mfconv merge RUN.ckpt OUT.ckpt --config run.yaml

    ADAPTERS is a PEFT folder, or what a LoRA run of MindFormers saved; left out where BASE holds them too. The rank is read from the
    tensors, alpha from adapter_config.json beside ADAPTERS, from the YAML of the run (--config) or from --lora_alpha: it is never
    assumed. Values change; the report and the manifest say which tensors, and by which scale. --step, --strategy and --file_prefix are
    for the folder of a training run, which ADAPTERS may be, or BASE without them.
    """
    if not 2 <= len(paths) <= 3:
        raise click.UsageError("Give BASE, ADAPTERS and OUT; or BASE and OUT, where BASE holds the adapters too.")
    base, target = paths[0], paths[-1]
    adapters = paths[1] if len(paths) == 3 else None
    of_run: dict[str, Any] = {"step": step, "strategy": strategy, "file_prefix": file_prefix}
    trained: Any = adapters or base
    if any(value is not None for value in of_run.values()):
        trained = mc.load(trained, config=config, lora_alpha=lora_alpha, **of_run)
    sources = (trained, None) if adapters is None else (base, trained)
    merged = mc.merge_adapters(*sources, alpha=lora_alpha, config=config, family=model)
    for note in merged.notes:
        say(f"note: {note}")
    with progress_bar(merged.nbytes, "merging", quiet=quiet) as progress:
        assets = base if merged.side == "hf" and base.is_dir() and (base / "config.json").is_file() else None
        report = mc.save(
            merged,
            target,
            dtype=dtype,
            overwrite=force,
            threads=threads,
            max_shard_size=max_shard_size,
            assets=assets,
            durable=not no_fsync,
            dry_run=dry_run,
            progress=progress,
        )
    show(merged.history.merged)
    show(report)
    return 0
