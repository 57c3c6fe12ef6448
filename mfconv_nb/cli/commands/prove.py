"""mfconv prove: that the rules of a family are sound. Reads no checkpoint."""

from __future__ import annotations

import click

from mfconv_nb.cli.options import all_rows, as_json, show
from mfconv_nb.cli.sections import RULES

SECTION = RULES
SUMMARY = "Prove that the rules of a family are sound."


@click.command()
@click.argument("keys", nargs=-1, metavar="[KEY ...]")
@all_rows
@as_json
def prove(keys: tuple[str, ...], show_all: bool, as_json: bool) -> int:
    """Prove that the rules of a family (a KEY, or a file that defines FAMILY) are sound; without a KEY, of every family.

    Patterns must not overlap, every number must come back to its place, and every small mistake that is made in the rules on purpose
    must be noticed. Exit code 0 when all of it holds, 1 when something does not.
    """
    from mfconv_nb.author.proving.proof import prove_rules
    from mfconv_nb.families.registry import known_families

    passed = True
    for key in keys or [f.key for f in known_families()]:
        report = prove_rules(key)
        show(report if keys or not report.passed else report.verdict(), show_all=show_all, as_json=as_json)
        passed = passed and report.passed
    return 0 if passed else 1
