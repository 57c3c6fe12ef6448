"""mfconv export: a family as files that run without mfconv."""

from __future__ import annotations

from pathlib import Path

import click

from mfconv_nb.cli.options import CHECKPOINT, FamilyCommand


@click.command(cls=FamilyCommand)
@click.argument("model", metavar="MODEL")
@click.argument("folder", type=CHECKPOINT, metavar="OUT_FOLDER")
@click.option("--to", type=click.Choice(["mindformers"]), required=True, help="Whose form the files have.")
@click.option("--force", is_flag=True, help="Replace files of these names.")
def export(model: str, folder: Path, to: str, force: bool, options: dict[str, str]) -> None:
    """Write a family (a key, or a file that defines FAMILY) as a converter that runs without mfconv.

    \b
    mfconv export llama --to mindformers research/my_llama
    mfconv export internlm2 --to mindformers research/my_internlm2 --qkv_concat False

    OUT_FOLDER gets the two files of MindFormers' extension form, convert_weight.py and convert_reversed.py, and a README.md with the
    lines to add to its tables. They need numpy, torch, safetensors and mindspore only, and load the whole model, as MindFormers' own do.
    The options of a family (`mfconv families MODEL`) are decided here; left out, each has its default.
    """
    from mfconv_nb.authoring.export_mindformers import export_mindformers
    from mfconv_nb.report import plain_marks

    click.echo(plain_marks(repr(export_mindformers(model, folder, overwrite=force, **options))))
