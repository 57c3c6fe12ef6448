"""mfconv merge: LoRA adapters added to the weights, a declared change of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import CHECKPOINT, Configs, OfRun, Writing, config, lora_alpha, model, of_run, say, show, writing
from mfconv_nb.cli.sections import CONVERT

SECTION = CONVERT
SUMMARY = "Merge LoRA adapters into the weights."


@click.command()
@click.argument("paths", nargs=-1, required=True, type=CHECKPOINT, metavar="BASE [ADAPTERS] OUT")
@model
@config
@of_run
@lora_alpha
@writing
def merge(
    paths: tuple[Path, ...],
    model: str | None,
    config: Configs,
    of_run: OfRun,
    lora_alpha: float | None,
    writing: Writing,
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
    trained: Any = adapters or base
    if any(value is not None for value in of_run.arguments.values()):
        trained = mc.load(trained, config=config, lora_alpha=lora_alpha, **of_run.arguments)
    sources = (trained, None) if adapters is None else (base, trained)
    merged = mc.merge_adapters(*sources, alpha=lora_alpha, config=config, family=model)
    for note in merged.notes:
        say(f"note: {note}")
    assets = base if merged.side == "hf" and base.is_dir() and (base / "config.json").is_file() else None
    report = writing.save(merged, target, "merging", assets=assets)
    show(merged.history.merged)
    show(report)
    return 0
