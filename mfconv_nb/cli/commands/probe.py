"""mfconv probe: what makes tensors equal to their reference."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.options import CHECKPOINT, Configs, all_rows, as_json, config, show, with_options
from mfconv_nb.cli.sections import RULES

SECTION = RULES
SUMMARY = "What makes tensors equal to their reference."


@click.command()
@click.argument("found", type=CHECKPOINT, metavar="FOUND")
@click.argument("reference", type=CHECKPOINT, metavar="REFERENCE")
@click.option("--name", "names", multiple=True, help="Compare this tensor only; may be given several times.")
@with_options(config, all_rows, as_json)
def probe(found: Path, reference: Path, names: tuple[str, ...], config: Configs, show_all: bool, as_json: bool) -> int:
    """Of tensors that should be equal: which known change makes them so, or where the first difference is.

    \b
    mfconv probe my.ckpt reference.ckpt
    mfconv probe my.ckpt reference.ckpt --name model.layers.0.attention.wq.weight

    Tried are q, k and v (gate and up) in another order, in blocks or interleaved, rotary rows in halves or in pairs, transposes, axes of
    size one, stacked experts. Exit code 0 when all are equal, as they are or after such a change; 1 when one is not.
    """
    report = mc.author.probe(found, reference, names, config=config)
    show(report, show_all=show_all, as_json=as_json)
    return 0 if report.explained else 1
