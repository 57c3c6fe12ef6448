"""mfconv toy: a small checkpoint with a family's real names."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import CHECKPOINT, show
from mfconv_nb.cli.sections import CONVERT

SECTION = CONVERT
SUMMARY = "Make a small checkpoint to try things out."


@click.command()
@click.argument("family")
@click.argument("target", type=CHECKPOINT)
@click.option("--dtype", default="bf16", show_default=True, help="fp32, bf16 or fp16.")
@click.option("--force", is_flag=True, help="Replace an existing target.")
def toy(family: str, target: Path, dtype: str, force: bool) -> None:
    """Make a small checkpoint of FAMILY (a key, or a file that defines it) in TARGET: real names, a config, sizes that all differ.

    TARGET is a folder (shards, index and config.json) or a file whose ending chooses the format.
    """
    show(mc.toy(family, target, dtype=dtype, overwrite=force))
