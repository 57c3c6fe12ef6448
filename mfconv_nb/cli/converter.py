"""mfconv convert --converter DIR: code of a folder in MindFormers' own form, run because it was named, and compared on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import mfconv_nb as mc
from mfconv_nb.cli.family_options import FamilyCommand
from mfconv_nb.cli.options import say, show
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.forms import options_of

EXTRA = "mfconv_nb.converter_options"
ONLY_OURS = {  # options of convert that a stranger's code knows nothing of
    "model": "--converter DIR is what converts. To compare its output with a family, say --against MODEL.",
    "layers": "The code in DIR converts what it converts.",
    "leave_out": "The code in DIR converts what it converts.",
    "max_shard_size": "The code in DIR writes its own files.",
    "dry_run": "Without it, nothing is published unless the code in DIR ends well.",
    "no_fsync": "The code in DIR writes its own files.",
}
TAKEN = {"folder", "source", "target", "reversed", "against", "overwrite", "show", "progress", "config", "dtype"}  # by ``run_converter``


class ConvertCommand(FamilyCommand):
    """``convert``, which after ``--converter DIR`` takes any ``--name value`` and hands it to the code in DIR."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not any(word.partition("=")[0] == "--converter" for word in args):
            return super().parse_args(ctx, args)
        known = {flag: option for option in self.params if isinstance(option, click.Option) for flag in option.opts}
        args, ctx.meta[EXTRA] = _split_words(args, known)
        self._found: dict[str, click.Option] = {}
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if EXTRA not in ctx.meta:
            return super().invoke(ctx)
        ctx.params["options"] = ctx.meta[EXTRA]
        return click.Command.invoke(self, ctx)


def _split_words(args: Sequence[str], known: Mapping[str, click.Option]) -> tuple[list[str], dict[str, str]]:
    """The words for ``convert`` itself, and the others as keywords: ``--n_head 32`` and ``--n_head=32`` alike."""
    own: list[str] = []
    extra: dict[str, str] = {}
    words = iter(args)
    for word in words:
        flag, joined, value = word.partition("=")
        if not flag.startswith("--") or flag in known or flag in ("--help", "--"):
            own.append(word)
            if flag in known and not joined and not known[flag].is_flag:
                own += [each for _, each in zip(range(1), words, strict=False)]
            continue
        if not joined:
            value = next(words, "")
            if not value or value.startswith("--"):
                raise click.UsageError(f"{flag} is for the code in DIR, and needs a value: {flag} VALUE.")
        extra[flag[2:].replace("-", "_")] = value
    return own, extra


def run(ctx: click.Context, converter: Path, source: Path, target: Path) -> int:
    """The command after ``--converter``: exit code 1 where ``--against`` finds a difference.

    Args:
        source: handed to the converter unchanged. Most converters take the name of a file for its folder, even where there is no such file.
    """
    given = ctx.params
    for name, why in ONLY_OURS.items():
        if given[name]:
            raise click.UsageError(f"--{name} does not go with --converter. {why}")
    if isinstance(given["config"], tuple):
        raise click.UsageError("--converter takes one --config: it is handed to the code in DIR.")
    to, against = "hf" if given["to_hf"] else "mf", given["against"]
    extra: dict[str, Any] = dict(given["options"])
    if taken := TAKEN & extra.keys():
        raise click.UsageError(f"--{min(taken)} cannot be handed on: mfconv itself has a meaning for this word.")
    say(f"note: running the code in {converter}, with your rights, in a process of its own")
    expected = None
    if against is not None:
        checkpoint = source if source.exists() else source.parent
        expected = mc.map(mc.load(checkpoint, config=given["config"]), against, to=to, **_options_of_family(against, extra))
    report = mc.run_converter(
        converter,
        source,
        target,
        reversed=given["to_hf"],
        dtype=given["dtype"],
        against=expected,
        config=given["config"],
        overwrite=given["force"],
        show=not given["quiet"],
        threads=given["threads"],
        progress=not given["quiet"],
        **extra,
    )
    show(report)
    return 1 if report.equal is False else 0


def _options_of_family(against: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Of the converter's keywords those that the family takes too."""
    return {name: value for name, value in extra.items() if name in options_of(family_meant(against))}
