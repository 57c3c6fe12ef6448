"""Drafted rules as a family file: what `mfconv suggest` and `mfconv import` have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mfconv_nb.author.family_text import write_family
from mfconv_nb.cli.options import CHECKPOINT
from mfconv_nb.core.errors import safe_text
from mfconv_nb.mapping.flaws import check_family

out = click.option("--out", type=CHECKPOINT, metavar="FILE.py", help="Write the drafts as a family file.")
key = click.option("--key", help="What the family is called. Left out: as the file.")
force = click.option("--force", is_flag=True, help="Replace an existing file.")


def write_drafts(drafted: Any, notes: Sequence[str], file: Path, key: str | None, *, force: bool, as_json: bool) -> None:
    """Write what `mc.author.suggest` or `mc.author.import_rules` drafted, each rule below its note.

    Args:
        key: left out, the name of the file, with ``_`` for what no key may hold.
    Raises:
        MappingError: MFC311 for a key that cannot be one. OutputError: MFC401, MFC404, MFC407.
    """
    family = drafted.family(re.sub(r"[^\w.-]", "_", file.stem) if key is None else key)
    check_family(replace(family, rules=()))
    written = write_family(family, file, notes=notes, overwrite=force)
    click.echo(safe_text(f"written: {written}"), err=as_json)
