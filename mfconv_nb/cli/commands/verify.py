"""mfconv verify: prove that a converted checkpoint holds what the original holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    cut_vocabulary,
    layers,
    leave_out,
    model,
    of_run,
    only,
    progress_bar,
    quiet,
    show,
    threads,
    unwrap,
    with_options,
)
from mfconv_nb.cli.sections import CHECK

SECTION = CHECK
SUMMARY = "Prove that a converted checkpoint holds what the original holds."


@click.command(cls=FamilyCommand)
@click.argument("original", type=CHECKPOINT)
@click.argument("converted", type=CHECKPOINT, required=False)
@with_options(model, config, layers, leave_out, cut_vocabulary, unwrap, of_run, only, all_rows, as_json, threads, quiet)
def verify(
    original: Path,
    converted: Path | None,
    model: str | None,
    config: Configs,
    layers: int | None,
    leave_out: tuple[str, ...],
    cut_vocabulary: bool,
    unwrap: bool,
    of_run: OfRun,
    only: str | None,
    show_all: bool,
    as_json: bool,
    threads: int,
    quiet: bool,
    options: dict[str, str],
) -> int:
    """Prove that CONVERTED holds what ORIGINAL holds: map it back and compare every byte.

    With one checkpoint only, compare its bytes with the checksums in the manifest beside it. What the conversion was asked to leave out
    is not compared: the manifest beside CONVERTED remembers it, else --layers, --leave_out and --cut_vocabulary say it again. Exit code 0:
    equal, or close where a cast was asked for; 1: not equal, or something could not be checked.
    """
    first = mc.load(original, config=config, only=only, **of_run.arguments)
    with progress_bar(first.nbytes, "comparing", quiet=quiet) as progress:
        if converted is None:
            report = mc.verify(original, threads=threads, progress=progress)
        else:
            asked: dict[str, Any] = {"layers": layers, "leave_out": leave_out or None, "cut_vocabulary": cut_vocabulary or None}
            asked |= {"unwrap": unwrap, **options}
            report = mc.verify(first, converted, model, threads=threads, progress=progress, **asked)
    show(report, show_all=show_all, as_json=as_json)
    return 0 if report.passed else 1
