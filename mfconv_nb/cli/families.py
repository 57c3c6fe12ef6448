"""mfconv families: the model families that are known."""

from __future__ import annotations

import click


@click.command()
def families() -> None:
    """The model families that --model takes."""
    from mfconv_nb.families import registry

    for family in registry.known_families():
        click.echo(f"{family.key:<12} {family.covers}")
