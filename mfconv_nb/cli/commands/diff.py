"""mfconv diff: how two checkpoints differ."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import CHECKPOINT, all_rows, as_json, progress_bar, quiet, show, threads, with_options
from mfconv_nb.cli.sections import CHECK

SECTION = CHECK
SUMMARY = "How two checkpoints differ."


@click.command()
@click.argument("first", type=CHECKPOINT)
@click.argument("second", type=CHECKPOINT)
@click.option("--values", is_flag=True, help="Compare the numbers too, not only names, shapes and dtypes.")
@with_options(all_rows, as_json, threads, quiet)
def diff(first: Path, second: Path, values: bool, show_all: bool, as_json: bool, threads: int, quiet: bool) -> int:
    """How two checkpoints of the same side differ: names, shapes, dtypes and, with --values, every number.

    Exit code 0 when they agree, 1 when they differ. To compare across sides, use `mfconv verify`.
    """
    a, b = mc.load(first), mc.load(second)
    with progress_bar(b.nbytes, "comparing", quiet=quiet) as progress:
        report = mc.diff(a, b, values=values, threads=threads, progress=progress)
    show(report, show_all=show_all, as_json=as_json)
    return 0 if report.equal else 1
