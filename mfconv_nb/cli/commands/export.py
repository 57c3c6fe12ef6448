"""mfconv export: a family in the form of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import mfconv_nb as mc
from mfconv_nb.cli.family_options import FamilyCommand
from mfconv_nb.cli.options import CHECKPOINT, Configs, config
from mfconv_nb.cli.sections import RULES
from mfconv_nb.core.report import plain_marks

SECTION = RULES
SUMMARY = "Write a family as files that run without mfconv."

FORMS = ("mindformers", "weight_converters", "troubleshooter")


class _ModelFirst(FamilyCommand):
    """The family stands where others have a path: `mfconv export llama --help` lists its options."""

    def find_family(self, args: list[str]) -> Any:
        values = {flag for param in self.params if isinstance(param, click.Option) and not param.is_flag for flag in param.opts}
        words = [word for before, word in zip(["", *args], args, strict=False) if before not in values and not word.startswith("-")]
        return super().find_family(["--model", *words[:1]]) if words else None


@click.command(cls=_ModelFirst)
@click.argument("model", metavar="MODEL")
@click.argument("target", type=CHECKPOINT, metavar="TARGET")
@click.option("--to", type=click.Choice(FORMS), required=True, help="Whose form the files have.")
@click.option("--names", type=CHECKPOINT, help="For troubleshooter: the checkpoint whose names the map lists.")
@config
@click.option("--force", is_flag=True, help="Replace files of these names.")
def export(model: str, target: Path, to: str, names: Path | None, config: Configs, force: bool, options: dict[str, str]) -> None:
    """Write a family (a key, or a file that defines FAMILY) in the form of another tool.

    \b
    mfconv export llama --to mindformers research/my_llama
    mfconv export llama --to weight_converters converters.py --qkv_concat True
    mfconv export deepseekv3 --to weight_converters converters.py --graph dynamic --config HF_DIR
    mfconv export llama --to troubleshooter map.json --names llama-7b/

    mindformers: a folder with the two files of MindFormers' extension form, convert_weight.py and convert_reversed.py, and a README.md
    with the lines to add to its tables. They load the whole model, as MindFormers' own do. weight_converters: the list that a model class
    of MindFormers declares, to be pasted, with operations of its own where theirs lack one. troubleshooter: a weight map. What a form
    cannot say is refused, rule by rule.
    The options of a family (`mfconv export MODEL --help`) are decided here; left out, each has its default.
    """
    click.echo(plain_marks(repr(mc.author.export(model, target, to=to, names=names, config=config, overwrite=force, **options))))
