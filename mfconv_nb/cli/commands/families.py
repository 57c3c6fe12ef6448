"""mfconv families: the model families that are known, or one of them in detail."""

from __future__ import annotations

import click

from mfconv_nb.cli.options import all_rows, as_json, show
from mfconv_nb.cli.sections import LOOK
from mfconv_nb.steps.inspecting.families import families_report, family_report

SECTION = LOOK
SUMMARY = "The model families that are known."


@click.command()
@click.argument("key", required=False)
@all_rows
@as_json
def families(key: str | None, show_all: bool, as_json: bool) -> None:
    """The model families that --model takes; with KEY, or a file that defines FAMILY, the options and rules of one.

    \b
    mfconv families
    mfconv families internlm2
    mfconv families my_model.py
    """
    if key is None:
        show(families_report(), show_all=True, as_json=as_json)
    else:
        show(family_report(key), show_all=show_all, as_json=as_json)
