"""mfconv migrate: the run of one network of MindFormers as that of another, with the optimizer."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.family_options import FamilyCommand
from mfconv_nb.cli.options import (
    CHECKPOINT,
    Configs,
    OfRun,
    all_rows,
    as_json,
    config,
    dry_run,
    force,
    model,
    no_fsync,
    of_run,
    progress_bar,
    quiet,
    show,
    threads,
)
from mfconv_nb.cli.sections import CONVERT
from mfconv_nb.mapping.adapters import STYLES

SECTION = CONVERT
SUMMARY = "A training run for another network of MindFormers, with its optimizer."


def _named_values(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if odd := next((word for word, (name, joined, _) in zip(words, pairs, strict=True) if not name or not joined), None):
        raise click.BadParameter(f"{odd!r} is no NAME=VALUE", ctx, param)
    return {name.replace("-", "_"): value for name, _, value in pairs}


@click.command(cls=FamilyCommand)
@click.argument("source", type=CHECKPOINT, metavar="RUN")
@click.argument("target", type=CHECKPOINT, metavar="OUT")
@model
@config
@of_run
@click.option(
    "--form_of_run",
    "--form-of-run",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_named_values,
    help="An option of the family that RUN has, where neither names nor its YAML tell it.",
)
@click.option("--to_config", "--to-config", type=CHECKPOINT, help="The YAML of the run that will go on: its switches say the form of OUT.")
@click.option("--weights_only", "--weights-only", is_flag=True, help="Leave the optimizer out.")
@click.option("--iteration", type=click.IntRange(0), help="How many steps RUN has taken, where nothing in it tells.")
@click.option("--adapter_names", "--adapter-names", type=click.Choice(list(STYLES)), help="How the new network names adapters.")
@click.option("--layout_of_ranks", "--layout-of-ranks", type=CHECKPOINT, metavar="FILE.json", help="Cut for the ranks of a run.")
@dry_run
@force
@no_fsync
@threads
@quiet
@all_rows
@as_json
def migrate(
    source: Path,
    target: Path,
    model: str | None,
    config: Configs,
    of_run: OfRun,
    form_of_run: dict[str, str],
    to_config: Path | None,
    weights_only: bool,
    iteration: int | None,
    adapter_names: str | None,
    layout_of_ranks: Path | None,
    dry_run: bool,
    force: bool,
    no_fsync: bool,
    threads: int,
    quiet: bool,
    show_all: bool,
    as_json: bool,
    options: dict[str, str],
) -> int:
    """Write a training run for another network of MindFormers: weights and optimizer, as a Checkpoint 2.0.

    \b
    mfconv migrate RUN/ OUT/ --config HF_DIR --graph dynamic
    mfconv migrate old.ckpt OUT/ --config HF_DIR --config old.yaml --to_config new.yaml

    RUN is what `mfconv convert` takes: a file, rank folders, a Checkpoint 2.0. OUT gets iteration_N/. Weights, the moments of AdamW and
    Muon, float32 masters and other state that has a number for each number of the weights move by the same rules, exactly; other state
    is refused by name. What no option says stays as RUN has it; the options of a family: mfconv migrate --model KEY --help.
    """
    run = mc.load(source, config=config, **of_run.arguments)
    with progress_bar(run.nbytes, "migrating", quiet=quiet) as progress:
        report = mc.migrate(
            run,
            target,
            model,
            to_config=to_config,
            form_of_run=form_of_run,
            iteration=iteration,
            weights_only=weights_only,
            adapters=adapter_names,
            layout_of_ranks=layout_of_ranks,
            overwrite=force,
            threads=threads,
            durable=not no_fsync,
            dry_run=dry_run,
            progress=progress,
            **options,
        )
    show(report, show_all=show_all, as_json=as_json)
    return 0
