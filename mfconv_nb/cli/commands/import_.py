"""mfconv import: the rules of another tool as drafts."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.family_file import force, key, out, write_drafts
from mfconv_nb.cli.options import CHECKPOINT, Configs, all_rows, as_json, config, show, with_options
from mfconv_nb.cli.sections import RULES

SECTION = RULES
SUMMARY = "Draft a family from the rules of another tool, and check those rules."

FORMS = ("weight_converters", "weight_mapping", "transformers", "troubleshooter")


@click.command(name="import")
@click.argument("source", metavar="SOURCE")
@click.option("--form", type=click.Choice(FORMS), help="Whose rules they are. Left out: told from the content.")
@click.option("--names", type=CHECKPOINT, help="A checkpoint whose names the rules are tried on; weight_mapping needs one.")
@with_options(out, key, force, config, all_rows, as_json)
def import_rules(
    source: str,
    form: str | None,
    names: Path | None,
    out: Path | None,
    key: str | None,
    force: bool,
    config: Configs,
    show_all: bool,
    as_json: bool,
) -> int:
    """Read the rules of another tool as drafts, and say what is wrong with them.

    \b
    mfconv import mindformers/models/qwen3/utils.py --out my_qwen3.py
    mfconv import mindformers/models/qwen2/utils.py --names HF_FOLDER
    mfconv import mixtral --form transformers --names HF_FOLDER
    mfconv import mindformers/models/deepseek4/utils.py --form weight_converters --names HF_FOLDER
    mfconv import map.json

    SOURCE is a Python file with a weight_converters or weight_mapping list, or with WeightRenaming and WeightConverter; a weight map
    of TroubleShooter; or a model type, with --form transformers. Nothing in it is run. The findings name rules that overlap, never match,
    or cannot be inverted. For weight_converters with --names HF_FOLDER they also say what MindFormers' reader would do wrong with the
    folder: scales it does not find, ragged blocks, names taken by mistake or not at all. Exit code 0 when there are none, 1 when there
    are some.
    """
    found = mc.author.import_rules(source, form=form, names=names, config=config)
    show(found, show_all=show_all, as_json=as_json)
    if out is not None:
        notes = [f"{f'line {d.line}: ' if d.line else ''}{d.theirs}" for d in found.drafted]
        write_drafts(found, notes, out, key, force=force, as_json=as_json)
    return 0 if found.clean else 1
