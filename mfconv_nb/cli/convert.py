"""mfconv convert: takes the flags of MindFormers' `convert_weight.py` unchanged, and `mfconv convert IN OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mfconv_nb.cli.options import CHECKPOINT, FamilyCommand, config, leave_out, model, progress_bar, quiet, show, threads, with_options

if TYPE_CHECKING:
    from mfconv_nb.formats.index import Index


@click.command(cls=FamilyCommand)
@click.argument("paths", nargs=-1, type=CHECKPOINT, metavar="[IN OUT]")
@model
@click.option("--reversed", "to_hf", is_flag=True, help="From MindFormers to Hugging Face. Left out: away from the side IN is on.")
@click.option("--input_path", "--input-path", type=CHECKPOINT, help="Checkpoint: a folder, an index, or a file in the folder.")
@click.option("--output_path", "--output-path", type=CHECKPOINT, help="Its ending chooses the format; a folder gets shards.")
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Cast floating tensors. Left out: each keeps its own.")
@click.option("--layers", type=click.IntRange(1), help="Convert the first N layers only.")
@leave_out
@config
@click.option("--max_shard_size", "--max-shard-size", help="For folders: 5GB, 500MB. Left out: 5GB.")
@click.option("--dry_run", "--dry-run", is_flag=True, help="Plan and check everything, write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing target.")
@click.option("--no_fsync", "--no-fsync", is_flag=True, help="Do not wait until the disk has it: quicker, as `cp` is.")
@with_options(threads, quiet)
def convert(
    paths: tuple[Path, ...],
    model: str | None,
    to_hf: bool,
    input_path: Path | None,
    output_path: Path | None,
    dtype: str | None,
    layers: int | None,
    leave_out: tuple[str, ...],
    config: Path | None,
    max_shard_size: str | None,
    dry_run: bool,
    force: bool,
    no_fsync: bool,
    threads: int,
    quiet: bool,
    options: dict[str, str],
) -> None:
    """Convert a checkpoint; nothing is written before every tensor has its place.

    \b
    mfconv convert IN OUT
    mfconv convert --model llama --input_path IN --output_path OUT
    mfconv convert --model llama --reversed --input_path IN --output_path OUT --config HF_DIR

    The ending of OUT chooses the format: .ckpt, .safetensors, .bin (.pt, .pth), or a folder, which gets shards with an index. For a
    Hugging Face folder, --config HF_DIR brings config and tokenizer files along, so that from_pretrained opens the result.
    """
    from mfconv_nb.steps.load import load
    from mfconv_nb.steps.map import map as map_names
    from mfconv_nb.steps.save import save

    source, target = _two_paths(paths, input_path, output_path)
    checkpoint = load(_whole_checkpoint(source), config=config)
    mapped = map_names(checkpoint, model, to="hf" if to_hf else None, layers=layers, leave_out=leave_out, **options)
    for note in (*checkpoint.notes, *mapped.report.notes, *mapped.report.left_out):
        click.echo(f"note: {note}", err=True)
    with progress_bar(mapped.nbytes, "converting", quiet=quiet) as progress:
        report = save(
            mapped,
            target,
            dtype=dtype,
            overwrite=force,
            threads=threads,
            max_shard_size=max_shard_size,
            assets=config if to_hf and config is not None and config.is_dir() else None,
            durable=not no_fsync,
            dry_run=dry_run,
            progress=progress,
        )
    if dry_run:
        show(mapped)
    show(report)


def _two_paths(paths: tuple[Path, ...], input_path: Path | None, output_path: Path | None) -> tuple[Path, Path]:
    given = [*paths]
    source = input_path or (given.pop(0) if given else None)
    target = output_path or (given.pop(0) if given else None)
    if source is None or target is None or given:
        raise click.UsageError("Give IN and OUT, or --input_path and --output_path.")
    return source, target


def _whole_checkpoint(path: Path) -> Path:
    """The folder, for a file in it that stands for the whole: one shard of several, config.json, or (as MindFormers' script
    takes it) a name that is not there in a folder that holds a checkpoint."""
    from mfconv_nb.formats.reading import checkpoint_files

    if path.is_dir() or not path.parent.is_dir():
        return path
    index = next((i for i in _indexes(path.parent) if path in i.files), None)
    if index is not None:
        click.echo(f"note: {path.name} is one of {len(index.files)} shards; the whole checkpoint is taken", err=True)
        return index.path
    if path.name == "config.json":
        return path.parent
    if not path.exists() and checkpoint_files(path.parent):
        click.echo(f"note: there is no {path.name}; the checkpoint in {path.parent} is taken", err=True)
        return path.parent
    return path


def _indexes(folder: Path) -> list[Index]:
    from mfconv_nb.errors import InputError
    from mfconv_nb.formats import index as index_files

    found = []
    for path in sorted(folder.glob("*.json")):
        if index_files.looks_like(path):
            try:
                found.append(index_files.read_index(path))
            except InputError:
                continue
    return found
