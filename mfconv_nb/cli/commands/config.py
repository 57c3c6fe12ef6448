"""mfconv config: a config.json as the YAML of a MindFormers run, and back."""

from __future__ import annotations

from pathlib import Path

import click

import mfconv_nb as mc
from mfconv_nb.cli.family_options import FamilyCommand
from mfconv_nb.cli.options import CHECKPOINT, force, model
from mfconv_nb.cli.sections import CONVERT
from mfconv_nb.core.report import plain_marks

SECTION = CONVERT
SUMMARY = "Translate a config.json to the YAML of a run, and back."


@click.command(cls=FamilyCommand)
@click.argument("path", type=CHECKPOINT)
@click.argument("target", type=CHECKPOINT, required=False)
@click.option("--to", type=click.Choice(["yaml", "json"]), required=True, help="yaml: for MindFormers; json: for Hugging Face.")
@model
@force
def config(path: Path, target: Path | None, to: str, model: str | None, force: bool, options: dict[str, str]) -> None:
    """Translate the config in PATH, a Hugging Face folder, its config.json, or the YAML of a run. Left out, TARGET is the screen.

    \b
    mfconv config Qwen3-8B/ --to yaml qwen3.yaml
    mfconv config run.yaml --to json config.json

    The YAML has the keys of config.json, which MindFormers' networks read, and what decides the layout of the tensors: the options of the
    family. It is the part `model` of a run's YAML; data, devices and precision are the run's own. Only models that MindFormers has such
    a network for.
    """
    click.echo(plain_marks(repr(mc.author.translate_config(path, target, to=to, family=model, overwrite=force, **options))))
