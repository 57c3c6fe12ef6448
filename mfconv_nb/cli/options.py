"""Options that several commands share, printing, and the progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

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


class Progress:
    """A bar in bytes on stderr: nothing for half a second, then a bar on a terminal, a line every ten seconds in a log."""

    def __init__(self, total: int, what: str, *, quiet: bool = False) -> None:
        self.total, self.what, self.quiet = total, what, quiet
        self._begun = self._said = time.monotonic()
        self._bar: Any = None

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self.quiet or now - self._begun < 0.5:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=self.total, desc=self.what, unit="B", unit_scale=True, unit_divisor=1024, leave=False)
            self._bar.update(done - self._bar.n)
        elif now - self._said >= 10:
            from mfconv_nb.report import bytes_text

            self._said = now
            rate = bytes_text(int(done / (now - self._begun)))
            click.echo(f"{self.what}: {bytes_text(done)} of {bytes_text(self.total)}, {rate}/s", err=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in the order in which help lists them."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
