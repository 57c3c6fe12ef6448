"""mfconv suggest: rules for an architecture that nobody mapped, drafted from its two sides."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.family_file import force, key, out, write_drafts
from mfconv_nb.cli.options import CHECKPOINT, Configs, all_rows, as_json, config, show, with_options
from mfconv_nb.cli.sections import RULES

SECTION = RULES
SUMMARY = "Draft the rules of a model that is not in the list."


@click.command()
@click.argument("hf", type=CHECKPOINT, metavar="HF")
@click.argument("mf", type=CHECKPOINT, metavar="MF")
@with_options(out, key, force, config, all_rows, as_json)
def suggest(hf: Path, mf: Path, out: Path | None, key: str | None, force: bool, config: Configs, show_all: bool, as_json: bool) -> int:
    """Draft the rules that carry a Hugging Face checkpoint to a MindFormers one, each with its reason.

    \b
    mfconv suggest HF_FOLDER MF.ckpt
    mfconv suggest HF_FOLDER shapes.json --out my_model.py
    mfconv prove my_model.py

    HF and MF are checkpoints, or JSON files of names and shapes: {"wte.weight": [331, 96]}. Where both hold the numbers of the same model,
    equal bytes decide, and a rule is "certain"; else it is "likely", or a "guess". Exit code 0 when every name has a rule, 1 when names
    are left over.
    """
    found = mc.author.suggest(hf, mf, config=config)
    show(found, show_all=show_all, as_json=as_json)
    if out is not None:
        write_drafts(found, [f"{each.confidence}: {each.reason}" for each in found.suggested], out, key, force=force, as_json=as_json)
    return 1 if found.unmatched_hf or found.unmatched_mf else 0
