"""Options that several commands share, printing, and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

import mfconv_nb as mc
from mfconv_nb.core.errors import safe_text
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import NoProgress, Progress
from mfconv_nb.core.report import MAX_ROWS, Result, bytes_text, json_text, plain_marks, table_text
from mfconv_nb.families.dialects import MEMORY, SAVED


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
cut_vocabulary = click.option(
    "--cut_vocabulary", "--cut-vocabulary", is_flag=True, help="Cut off unused rows that were added behind the vocabulary of the config."
)
unwrap = click.option("--unwrap", is_flag=True, help="Take off what a trainer put into names: module., _orig_mod., base_model.model. …")
hf_names = click.option(
    "--hf_names",
    "--hf-names",
    type=click.Choice([SAVED, MEMORY]),
    help="Names of a Hugging Face target: as save_pretrained writes them (left out), or as transformers 5 has them in memory.",
)
Configs = Path | tuple[Path, ...] | None  # what --config gave: nothing, one, or several


def _configs_of(ctx: click.Context, param: click.Parameter, value: tuple[Path, ...]) -> Configs:
    return value if len(value) > 1 else next(iter(value), None)


def folder_among(config: Configs) -> Path | None:
    """The Hugging Face folder among the configs: tokenizer files come from there."""
    return next((c for c in ((config,) if isinstance(config, Path) else config or ()) if c.is_dir()), None)


config = click.option(
    "--config",
    type=CHECKPOINT,
    multiple=True,
    callback=_configs_of,
    help="A config.json, the Hugging Face folder that holds it, or the YAML of a MindFormers run; twice: sizes and switches.",
)
lora_alpha = click.option("--lora_alpha", "--lora-alpha", type=float, help="Alpha of LoRA adapters, where no config beside them says it.")

step = click.option("--step", metavar="N|EPOCH_N", help="Of a training run: the step to take. Left out: the newest that is whole.")
strategy = click.option("--strategy", type=CHECKPOINT, help="Of a training run: its strategy files, where they are not beside the ranks.")
file_prefix = click.option(
    "--file_prefix", "--file-prefix", metavar="TEXT", help="Of a training run: what its files begin with, where several share a folder."
)
only = click.option("--only", metavar="KIND,...", help="weights, optimizer, gradients, run_state, buffers. Left out: all.")
weights = click.option(
    "--weights", type=click.Choice(["pma"]), help="The averages that PMA has summed up, in place of the weights; with --config RUN.yaml."
)
force = click.option("--force", is_flag=True, help="Replace an existing target.")
dtype = click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16", "keep"]),
    help="Cast floating tensors; keep: fp8 and fp4 codes stay codes for MindFormers too. Left out: each keeps its own; codes become bf16.",
)
requantise = click.option(
    "--requantise", is_flag=True, help="Back to fp8 or fp4: quantise anew what was trained; the rest gets its published bytes."
)
max_shard_size = click.option("--max_shard_size", "--max-shard-size", help="For folders: 5GB, 500MB. Left out: 5GB.")
dry_run = click.option("--dry_run", "--dry-run", is_flag=True, help="Plan and check everything, write nothing.")
no_fsync = click.option("--no_fsync", "--no-fsync", is_flag=True, help="Do not wait until the disk has it: quicker, as `cp` is.")


def say(text: str) -> None:
    """A line beside the result, on stderr: names in it are a stranger's."""
    click.echo(safe_text(text), err=True)


def show(result: Any, *, show_all: bool = False, as_json: bool = False) -> None:
    """Print a result: the same text that its repr gives."""
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


def gather(kind: type, name: str) -> Callable[[Any], Any]:
    """A decorator: the parameters named like the fields of a dataclass reach the command as one argument."""

    def decorate(command: Any) -> Any:
        @wraps(command)
        def call(**parameters: Any) -> Any:
            own = {field.name: parameters.pop(field.name) for field in fields(kind)}
            return command(**parameters, **{name: kind(**own)})

        return call

    return decorate


@dataclass(frozen=True)
class OfRun:
    """The options that choose a checkpoint of a training run."""

    step: str | None
    strategy: Path | None
    file_prefix: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """As keywords of ``mc.load``."""
        return asdict(self)


@dataclass(frozen=True)
class Writing:
    """How an output is written."""

    dtype: str | None
    requantise: bool
    max_shard_size: str | None
    dry_run: bool
    force: bool
    no_fsync: bool
    threads: int
    quiet: bool

    def save(self, checkpoint: mc.Checkpoint, target: Path, doing: str, **more: Any) -> Result:
        """``mc.save`` with a progress bar; ``more``: its other keywords."""
        with progress_bar(checkpoint.nbytes, doing, quiet=self.quiet) as progress:
            return mc.save(
                checkpoint,
                target,
                dtype=self.dtype,
                requantise=self.requantise,
                overwrite=self.force,
                threads=self.threads,
                max_shard_size=self.max_shard_size,
                durable=not self.no_fsync,
                dry_run=self.dry_run,
                progress=progress,
                **more,
            )


of_run = with_options(step, strategy, file_prefix, gather(OfRun, "of_run"))
writing = with_options(dtype, requantise, max_shard_size, dry_run, force, no_fsync, threads, quiet, gather(Writing, "writing"))
