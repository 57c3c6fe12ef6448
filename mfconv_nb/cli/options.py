"""Options that several commands share, printing, and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import NoProgress, Progress
from mfconv_nb.core.report import bytes_text


class _LocalPath(click.Path):
    """A path of this machine: an address (`s3://...`) is refused before anything else is looked at; no null byte can be in a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in str(value):
            self.fail("a path cannot hold a null byte", param, ctx)
        return super().convert(local_path(value), param, ctx)


CHECKPOINT = _LocalPath(path_type=Path)

all_rows = click.option("--all", "show_all", is_flag=True, help="Show every row.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
threads = click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True, help="Copying threads.")
quiet = click.option("--quiet", is_flag=True, help="No progress bar.")
model = click.option(
    "--model",
    "--family",
    "model",
    metavar="KEY|FILE.py",
    help="Model family: a key, see `mfconv families`, or a file that defines FAMILY; with --help, lists its options. "
    "Left out: told from config.json and the names.",
)
layers = click.option("--layers", type=click.IntRange(1), help="Convert the first N layers only.")
leave_out = click.option(
    "--leave_out", "--leave-out", multiple=True, metavar="PATTERN", help="Do not convert tensors of these names; * stands for anything."
)
config = click.option(
    "--config", type=CHECKPOINT, help="A config.json, the Hugging Face folder that holds it, or the YAML of a MindFormers run."
)
lora_alpha = click.option("--lora_alpha", "--lora-alpha", type=float, help="Alpha of LoRA adapters, where no config beside them says it.")

step = click.option("--step", metavar="N|EPOCH_N", help="Of a training run: the step to take. Left out: the newest that is whole.")
strategy = click.option("--strategy", type=CHECKPOINT, help="Of a training run: its strategy files, where they are not beside the ranks.")
file_prefix = click.option(
    "--file_prefix", "--file-prefix", metavar="TEXT", help="Of a training run: what its files begin with, where several share a folder."
)
only = click.option("--only", metavar="KIND,...", help="weights, optimizer, gradients, run_state, buffers. Left out: all.")
force = click.option("--force", is_flag=True, help="Replace an existing target.")
dtype = click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Cast floating tensors. Left out: each keeps its own.")
max_shard_size = click.option("--max_shard_size", "--max-shard-size", help="For folders: 5GB, 500MB. Left out: 5GB.")
dry_run = click.option("--dry_run", "--dry-run", is_flag=True, help="Plan and check everything, write nothing.")
no_fsync = click.option("--no_fsync", "--no-fsync", is_flag=True, help="Do not wait until the disk has it: quicker, as `cp` is.")


def say(text: str) -> None:
    """A line beside the result, on stderr: names in it are a stranger's."""
    from mfconv_nb.core.errors import shown

    click.echo(shown(text), err=True)


def show(result: Any, *, show_all: bool = False, as_json: bool = False) -> None:
    """Print a result: the same text that its repr gives."""
    from mfconv_nb.core.report import MAX_ROWS, json_text, plain_marks, table_text

    if as_json:
        text = result.to_json()
        click.echo(text if plain_marks(text) == text else json_text(json.loads(text), ascii_only=True))
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


class FamilyCommand(click.Command):
    """A command that also takes the options of the model families, as MindFormers' converters do: `--qkv_concat False`.

    The options of every family are known; `--help` with `--model KEY` lists those of that family. Whether an option belongs to the
    family is decided where the family is known, in ``map``. The values arrive as one dict, ``options``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from mfconv_nb.families.registry import known_families
        from mfconv_nb.mapping.forms import options_of

        own = {name for param in self.params for name in (param.name, *param.opts)}
        named = self.named_family(args)
        found: dict[str, click.Option] = {}
        for family in ([named] if named else []) + known_families():
            for option in options_of(family).values():
                shown = family is named
                if option.name not in own and option.name not in found:
                    found[option.name] = _family_option(option, hidden=not shown)
        self._found = found
        return super().parse_args(ctx, args)

    def named_family(self, args: list[str]) -> Any:
        """The family whose options ``--help`` lists; None where the words name none."""
        return _named_family(args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [*params[:-1], *getattr(self, "_found", {}).values(), params[-1]]

    def invoke(self, ctx: click.Context) -> Any:
        names = self._found.keys()
        ctx.params["options"] = {n: v for n in names if (v := ctx.params.pop(n, None)) is not None}
        return super().invoke(ctx)


def _named_family(args: list[str]) -> Any:
    """The family that `--model` or `--family` names, for --help and its options; None where there is none or it is not known."""
    from mfconv_nb.core.errors import MfconvError
    from mfconv_nb.families.registry import family_meant

    following = {flag: word for flag, word in pairwise(args) if flag in ("--model", "--family")}
    joined = [a.partition("=")[2] for a in args if a.startswith(("--model=", "--family="))]
    key = next((word for word in (*following.values(), *joined) if word), None)
    try:
        return family_meant(key) if key else None
    except MfconvError:
        return None  # said again, and better, when the command runs


def _family_option(option: Any, *, hidden: bool) -> click.Option:
    flags = [f"--{option.name}", *([f"--{option.name.replace('_', '-')}"] if "_" in option.name else [])]
    words = [str(v) or "''" for v in option.values]
    values = " or ".join(words)
    teller = "the YAML of a run says" if option.side == "numbers" else "the names say"
    text = option.help + (f" {values}; left out, {words[0]} or what {teller}." if words else "")
    return click.Option([*flags, option.name], metavar=values or "N", help=text.strip(), hidden=hidden)
