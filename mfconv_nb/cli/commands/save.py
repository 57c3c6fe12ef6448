"""mfconv save: the same names and numbers in another form: one file of a run's slices, another format, or slices for ranks."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import CHECKPOINT, Configs, OfRun, Writing, config, folder_among, of_run, only, say, show, weights, writing
from mfconv_nb.cli.sections import CONVERT
from mfconv_nb.core.errors import UsageError, quote
from mfconv_nb.mapping.kinds import amounts_by_category

SECTION = CONVERT
SUMMARY = "The same checkpoint in another form: merged slices, another format, slices for ranks."


@click.command()
@click.argument("source", type=CHECKPOINT, metavar="IN")
@click.argument("target", type=CHECKPOINT, metavar="OUT")
@of_run
@weights
@only
@click.option("--layout_of_ranks", "--layout-of-ranks", type=CHECKPOINT, metavar="FILE.json", help="Cut for the ranks of a run.")
@config
@writing
def save(
    source: Path,
    target: Path,
    of_run: OfRun,
    weights: str | None,
    only: str | None,
    layout_of_ranks: Path | None,
    config: Configs,
    writing: Writing,
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
    checkpoint = mc.load(source, config=config, only=only, weights=weights, **of_run.arguments)
    if only is not None and not checkpoint.tensors:
        there = ", ".join(amounts_by_category(mc.load(source, config=config, **of_run.arguments).specs)) or "nothing at all"
        hint = "Choose one that is there, or leave --only out."
        raise UsageError("MFC501", "only", found=f"{quote(only)}, of which there is nothing", expected=there, hint=hint)
    for note in checkpoint.notes:
        say(f"note: {note}")
    assets = folder_among(config) if checkpoint.side == "hf" else None
    show(writing.save(checkpoint, target, "writing", assets=assets, layout_of_ranks=layout_of_ranks))
    return 0
