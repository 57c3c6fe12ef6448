"""mfconv convert: takes the flags of MindFormers' `convert_weight.py` unchanged, and `mfconv convert IN OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import mfconv_nb as mc
from mfconv_nb.cli.converter import ConvertCommand
from mfconv_nb.cli.converter import run as run_foreign
from mfconv_nb.cli.options import (
    CHECKPOINT,
    Configs,
    OfRun,
    Writing,
    config,
    cut_vocabulary,
    folder_among,
    hf_names,
    layers,
    leave_out,
    lora_alpha,
    model,
    of_run,
    say,
    show,
    unwrap,
    weights,
    writing,
)
from mfconv_nb.cli.sections import CONVERT
from mfconv_nb.mapping.adapters import STYLES

SECTION = CONVERT
SUMMARY = "Convert between Hugging Face and MindFormers."


@click.command(cls=ConvertCommand)
@click.argument("paths", nargs=-1, type=CHECKPOINT, metavar="[IN OUT]")
@model
@click.option("--reversed", "to_hf", is_flag=True, help="From MindFormers to Hugging Face. Left out: away from the side IN is on.")
@click.option("--input_path", "--input-path", type=CHECKPOINT, help="Checkpoint: a folder, an index, or a file in the folder.")
@click.option("--output_path", "--output-path", type=CHECKPOINT, help="Its ending chooses the format; a folder gets shards.")
@layers
@leave_out
@cut_vocabulary
@hf_names
@unwrap
@config
@of_run
@weights
@click.option("--only_adapters", "--only-adapters", is_flag=True, help="Only the LoRA adapters: on the Hugging Face side a PEFT folder.")
@lora_alpha
@click.option("--adapter_names", "--adapter-names", type=click.Choice(list(STYLES)), help="How MindFormers is to name adapters.")
@writing
@click.option("--converter", type=CHECKPOINT, metavar="DIR", help="RUNS THE CODE in DIR, a converter in MindFormers' own form.")
@click.option("--against", metavar="KEY|FILE.py", help="With --converter: compare its output with what this family gives.")
@click.pass_context
def convert(
    ctx: click.Context,
    paths: tuple[Path, ...],
    model: str | None,
    to_hf: bool,
    input_path: Path | None,
    output_path: Path | None,
    layers: int | None,
    leave_out: tuple[str, ...],
    cut_vocabulary: bool,
    hf_names: str | None,
    unwrap: bool,
    config: Configs,
    of_run: OfRun,
    weights: str | None,
    only_adapters: bool,
    lora_alpha: float | None,
    adapter_names: str | None,
    writing: Writing,
    converter: Path | None,
    against: str | None,
    options: dict[str, str],
) -> int:
    """Convert a checkpoint; nothing is written before every tensor has its place.

    \b
    mfconv convert IN OUT
    mfconv convert --model llama --input_path IN --output_path OUT
    mfconv convert --model llama --reversed --input_path IN --output_path OUT --config HF_DIR

    The ending of OUT chooses the format: .ckpt, .safetensors, .bin (.pt, .pth), or a folder, which gets shards with an index. For a
    Hugging Face folder, --config HF_DIR brings config and tokenizer files along, so that from_pretrained opens the result.

    \b
    mfconv convert --converter DIR --against llama IN OUT.ckpt

    DIR holds convert_weight.py (with --reversed: convert_reversed.py) in MindFormers' own form. Its code is run, with any further
    --name VALUE; no other command or option ever runs such code. Exit code 1 where --against finds a difference.
    """
    source, target = _two_paths(paths, input_path, output_path)
    if converter is not None:
        return run_foreign(ctx, converter, source, target)
    if against is not None:
        raise click.UsageError("--against goes with --converter DIR. To convert with a family, say --model; to compare files, mfconv diff.")
    checkpoint = mc.load(source, config=config, lora_alpha=lora_alpha, weights=weights, **of_run.arguments)
    checkpoint = mc.only_adapters(checkpoint) if only_adapters else checkpoint
    for note in checkpoint.notes:  # before the names are mapped: where that is refused, they may say why
        say(f"note: {note}")
    to = "hf" if to_hf else None
    asked: dict[str, Any] = {
        "layers": layers,
        "leave_out": leave_out,
        "adapters": adapter_names,
        "cut_vocabulary": cut_vocabulary,
        "hf_names": hf_names,
        "unwrap": unwrap,
        **options,
    }
    mapped = mc.map(checkpoint, model, to=to, **asked)
    for note in (*mapped.report.notes, *mapped.report.left_out):
        if note not in checkpoint.notes:
            say(f"note: {note}")
    report = writing.save(mapped, target, "converting", assets=folder_among(config) if to_hf else None)
    if writing.dry_run:
        show(mapped)
    show(report)
    return 0


def _two_paths(paths: tuple[Path, ...], input_path: Path | None, output_path: Path | None) -> tuple[Path, Path]:
    given = [*paths]
    source = input_path or (given.pop(0) if given else None)
    target = output_path or (given.pop(0) if given else None)
    if source is None or target is None or given:
        raise click.UsageError("Give IN and OUT, or --input_path and --output_path.")
    return source, target
