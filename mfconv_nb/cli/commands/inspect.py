"""mfconv inspect: what is in a checkpoint. Reads headers only."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import CHECKPOINT, all_rows, as_json, show
from mfconv_nb.cli.sections import LOOK

SECTION = LOOK
SUMMARY = "What is in a checkpoint: names, shapes, dtypes, sizes."


@click.command()
@click.argument("path", type=CHECKPOINT)
@all_rows
@as_json
def inspect(path: Path, show_all: bool, as_json: bool) -> None:
    """What is in a checkpoint: names, shapes, dtypes, sizes. Reads headers only, whatever its size.

    PATH is a folder, an index, or a single file: safetensors, MindSpore .ckpt, torch .bin, .pt or .pth.
    """
    show(mc.load(path), show_all=show_all, as_json=as_json)
