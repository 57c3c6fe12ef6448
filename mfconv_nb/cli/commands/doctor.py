"""mfconv doctor: what a path holds, what stands in the way, and the exact next command."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import CHECKPOINT, Configs, OfRun, as_json, config, of_run, show
from mfconv_nb.cli.sections import LOOK
from mfconv_nb.core.report import plain_marks, table_text

SECTION = LOOK
SUMMARY = "What a path holds, what stands in the way, and what to run next."


@click.command()
@click.argument("path", type=CHECKPOINT)
@config
@of_run
@click.option("--checksums", is_flag=True, help="Read everything, and compare it with the checksums that the files carry.")
@as_json
def doctor(path: Path, config: Configs, of_run: OfRun, checksums: bool, as_json: bool) -> int:
    """What PATH is, whether it can be converted, and what to run next. Reads hardly more than headers.

    \b
    mfconv doctor output/checkpoint/ --config HF_DIR

    PATH is a checkpoint of either side, or the folder of a training run: then a table shows which rank has which step. Exit code 0 when
    it can be converted as it is, 1 when something is to be decided or stands in the way.
    """
    found = mc.doctor(path, config=config, checksums=checksums, **of_run.arguments)
    show(found, show_all=True, as_json=as_json)
    steps = found.steps_table()
    if steps is not None and not as_json:
        click.echo()
        click.echo(plain_marks(table_text(steps, None)))
    return 0 if found.ready else 1
