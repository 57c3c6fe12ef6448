"""Commands that take the options of the model families beside their own: `--qkv_concat False`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import click

from mfconv_nb.core.errors import MfconvError
from mfconv_nb.families.registry import family_meant, known_families
from mfconv_nb.mapping.forms import options_of
from mfconv_nb.mapping.rules import Family, Option


class FamilyCommand(click.Command):
    """A command that also takes the options of the model families, as MindFormers' converters do: `--qkv_concat False`.

    The options of every family are known; `--help` with `--model KEY` lists those of that family. Whether an option belongs to the
    family is decided where the family is known, in ``map``. The values arrive as one dict, ``options``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for param in self.params for name in (param.name, *param.opts)}
        named = self.find_family(args)
        found: dict[str, click.Option] = {}
        for family in ([named] if named else []) + known_families():
            for option in options_of(family).values():
                shown = family is named
                if option.name not in own and option.name not in found:
                    found[option.name] = _family_option(option, hidden=not shown)
        self._found = found
        return super().parse_args(ctx, args)

    def find_family(self, args: list[str]) -> Family | None:
        """The family whose options ``--help`` lists; None where the words name none."""
        return _find_named_family(args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [*params[:-1], *getattr(self, "_found", {}).values(), params[-1]]

    def invoke(self, ctx: click.Context) -> Any:
        names = self._found.keys()
        ctx.params["options"] = {n: v for n in names if (v := ctx.params.pop(n, None)) is not None}
        return super().invoke(ctx)


def _find_named_family(args: list[str]) -> Family | None:
    """The family that `--model` or `--family` names, for --help and its options; None where there is none or it is not known."""
    following = {flag: word for flag, word in pairwise(args) if flag in ("--model", "--family")}
    joined = [a.partition("=")[2] for a in args if a.startswith(("--model=", "--family="))]
    key = next((word for word in (*following.values(), *joined) if word), None)
    try:
        return family_meant(key) if key else None
    except MfconvError:
        return None  # said again, and better, when the command runs


def _family_option(option: Option, *, hidden: bool) -> click.Option:
    flags = [f"--{option.name}", *([f"--{option.name.replace('_', '-')}"] if "_" in option.name else [])]
    words = [str(v) or "''" for v in option.values]
    values = " or ".join(words)
    teller = (
        "the YAML of a run says" if option.side == "numbers" else "names or the YAML of a run say" if option.yaml_key else "the names say"
    )
    text = option.help + (f" {values}; left out, {words[0]} or what {teller}." if words else "")
    return click.Option([*flags, option.name], metavar=values or "N", help=text.strip(), hidden=hidden)
