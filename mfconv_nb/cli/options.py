"""Options that several commands share, printing, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mfconv_nb.progress import NoProgress, Progress
from mfconv_nb.report import bytes_text

CHECKPOINT = click.Path(path_type=Path)

all_rows = click.option("--all", "show_all", is_flag=True, help="Show every row.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
threads = click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True, help="Copying threads.")
quiet = click.option("--quiet", is_flag=True, help="No progress bar.")
model = click.option("--model", help="Model family, see `mfconv families`. Left out: told from config.json and the names.")
config = click.option("--config", type=CHECKPOINT, help="A config.json, or the Hugging Face folder that holds it.")


def show(result: Any, *, show_all: bool = False, as_json: bool = False) -> None:
    """Print a result: the same text that its repr gives."""
    from mfconv_nb.report import MAX_ROWS, plain_marks, table_text

    if as_json:
        click.echo(result.to_json())
    else:
        click.echo(plain_marks(table_text(result.table(), None if show_all else MAX_ROWS)))


@contextmanager
def progress_bar(total: int, what: str, *, quiet: bool) -> Iterator[Progress]:
    """A progress bar on a terminal, a line every ten seconds in a log; when stopped, how far it came."""
    with NoProgress() if quiet else Progress(total, what, in_logs=True) as bar:
        try:
            yield bar
        except KeyboardInterrupt:
            click.echo(f"Stopped at {bytes_text(bar.done)} of {bytes_text(bar.total)}.", err=True)
            raise


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in the order in which help lists them."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
