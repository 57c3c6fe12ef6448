"""From a path to lazy tensors: find the files of a checkpoint, tell the format of each, and read their headers. No weight is read.

The first bytes of a file tell its format, not its name. Which files of a folder count is decided in ``folders.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, LazyTensor, OtherEntry
from mfconv_nb.core.errors import InputError, MfconvError, quote, to_short_line
from mfconv_nb.core.paths import LFS_POINTER
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import read_config
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.folders import (
    NAMED,
    NAMED_BY,
    SHARD,
    SHOWN,
    Chosen,
    check_downloads,
    check_named,
    check_sets,
    checkpoint_files,
    choose_files,
    dead_links,
    link_to_nothing,
    shards_with,
)
from mfconv_nb.formats.foreign_runs import hint_of_foreign_run
from mfconv_nb.formats.format import Format, OpenedFile
from mfconv_nb.formats.known import known_formats, list_titles

FOLDER, INDEX = "folder", "index"
RUN_STATE = "hyper_param.safetensors"  # mindspore.unified_safetensors puts there what no strategy file knows


@dataclass(frozen=True)
class Opened:
    """The headers of one or several files, joined. ``tensors`` in file order.

    ``run_state``: names of the tensors in a `hyper_param.safetensors`, where a training run keeps its counters. ``places``: the file of
    each tensor. ``twins``: names that a file leaves out because it has their tensor under another name, and that name.
    """

    tensors: dict[str, LazyTensor]
    files: tuple[Path, ...]
    side: str | None
    format: str
    others: tuple[OtherEntry, ...] = ()
    notes: tuple[str, ...] = field(default=())
    run_state: tuple[str, ...] = ()
    places: Mapping[str, Path] = field(default_factory=dict)
    twins: Mapping[str, str] = field(default_factory=dict)


def open_path(path: Path, beside: Mapping[str, Any] | None = None) -> Opened:
    """Open a folder, an index or a file. A file whose name says that it is one of several shards stands for all of them.

    Args:
        beside: the config that lies in the folder, where it has been read already.
    Raises:
        InputError: MFC101 to MFC105, MFC115. FormatError: MFC2xx for a file that cannot be trusted.
    """
    kind = _kind_by_name(path)
    try:
        if kind == FOLDER:
            return _open_folder(path, beside)
        if kind == INDEX:
            return _open_index(path)
        shards = shards_with(path)
        check_sets(shards)
        if len(shards) < 2:
            return open_files([path])
        note = f"{path.name} is one of {len(shards):,} shards by its name; the whole checkpoint is taken"
        return replace(open_files(shards), notes=(to_short_line(note),))
    except MfconvError as error:
        # if another tool wrote slices, fetching single files again does not help
        error.hint = hint_of_foreign_run(path, error.where) or error.hint
        raise


def kind_of(path: Path) -> str:
    """What a path leads to: "folder", "index", or the name of a file's format: "safetensors", "torch", "ckpt".

    Raises:
        InputError: MFC101, MFC103.
    """
    return _kind_by_name(path) or format_of(FileSource(path)).name


def _kind_by_name(path: Path) -> str:
    """The kind, if it shows without opening a file: a folder or an index. Empty if the first bytes have to tell."""
    if os.path.isdir(path):
        return FOLDER
    if not os.path.exists(path):  # unlike Path.exists(), false for a name that no system can hold
        found, expected = link_to_nothing(path), "a folder, an index or a file with weights"
        raise InputError("MFC101", path, found=found, expected=expected, hint=_hint_near(path))
    if path.suffix != ".json":
        return ""
    if not index_files.looks_like(path):
        hint = f"Give the folder instead: {path.parent}"
        raise InputError("MFC103", path, found="a JSON file that is no index", expected="a checkpoint", hint=hint)
    return INDEX


def open_files(paths: Sequence[Path]) -> Opened:
    """Open several files as one checkpoint.

    Raises:
        InputError: MFC105 if two of them hold the same name. FormatError: MFC202 for an unfinished download.
    """
    check_downloads(paths)
    tensors: dict[str, LazyTensor] = {}
    holder: dict[str, Path] = {}
    formats: set[str] = set()
    opened: list[OpenedFile] = []
    for path in paths:
        source = FileSource(path)
        kind = format_of(source)
        formats.add(kind.name)
        opened.append(_slice_of_meta(path, kind.open(source)))
    for path, one in zip(paths, opened, strict=True):
        for tensor in one.tensors:
            if tensor.name in tensors:
                found = f"in {quote(holder[tensor.name].name)} and in {quote(path.name)}"
                raise InputError("MFC105", quote(tensor.name), found=found, expected="one file", hint=_hint_two(holder[tensor.name], path))
            tensors[tensor.name], holder[tensor.name] = tensor, path
    sides = {one.side for one in opened}
    side = sides.pop() if len(sides) == 1 else None
    others = tuple(o for one in opened for o in one.others)
    run_state = tuple(t.name for p, one in zip(paths, opened, strict=True) if p.name == RUN_STATE for t in one.tensors)
    twins = {removed: kept for one in opened for removed, kept in _twins_in(one).items()}
    return Opened(tensors, tuple(paths), side, " and ".join(sorted(formats)), others, run_state=run_state, places=holder, twins=twins)


def _hint_two(first: Path, second: Path) -> str:
    a, b = to_short_line(str(first)), to_short_line(str(second))
    return f"Two checkpoints lie in one folder? Give the file you mean, {a} or {b}; or move those of one of them to a folder of their own."


META_FILE = re.compile(r"consolidated\.(\d+)\.pth")


def _slice_of_meta(path: Path, one: OpenedFile) -> OpenedFile:
    """Meta's files `consolidated.01.pth` hold slices under the same names: put the file's number before them."""
    match = META_FILE.fullmatch(path.name)
    if match is None:
        return one
    return replace(one, tensors=tuple(t.renamed(f"consolidated.{int(match[1])}/{t.name}") for t in one.tensors))


def _open_index(path: Path) -> Opened:
    index = index_files.read_index(path)
    missing = [f for f in index.files if not os.path.isfile(f)]
    if missing:
        found = f"absent: {len(missing):,} of {how_many(len(index.files), 'file')}; first {quote(missing[0].name)}"
        found += f", {link}" if (link := link_to_nothing(missing[0])) is not None else ""
        raise InputError("MFC104", path, found=found, expected="every shard beside the index", hint=_hint_missing(path))
    beside = [f for f in (path.parent / RUN_STATE,) if path.name == index_files.MINDSPORE and f not in index.files and f.is_file()]
    try:
        opened = open_files([*index.files, *beside])
    except InputError as error:
        if error.code != "MFC105":
            raise
        hint = f"The shards are of two saves: {quote(path.name)} names one place for each tensor. Fetch all of them again from one place."
        raise InputError(error.code, error.where, found=error.found, expected=error.expected, hint=hint) from None
    indexed = {n: t for n, t in opened.tensors.items() if not beside or n not in opened.run_state}
    held = {name: opened.places[name].relative_to(path.parent).as_posix() for name in indexed}
    index_files.check_against_files(index, held)
    held_bytes = sum(t.spec.nbytes for t in indexed.values())
    notes = list(opened.notes)
    if index.total_size not in (None, held_bytes):
        notes.append(f"{path.name} gives a total size of {how_many(index.total_size, 'byte')}, the tensors have {held_bytes:,}")
    return replace(opened, side=MF if path.name == index_files.MINDSPORE else opened.side, notes=tuple(notes))


def _hint_missing(index: Path) -> str:
    others = [p for p in checkpoint_files(index.parent) if p.name in ("model.safetensors", "pytorch_model.bin")]
    more = f" Or give what is there by its path: {to_short_line(str(others[0]))}" if others else ""
    return f"Fetch the missing files.{more}"


def _open_folder(folder: Path, config: Mapping[str, Any] | None) -> Opened:
    chosen = choose_files(folder, check_named(folder, config.get(NAMED_BY)) if config is not None else _named_in_config(folder))
    if chosen is None:
        names = [quote(p.name) for p in sorted(folder.iterdir())[:6]]
        raise InputError(
            "MFC102",
            folder,
            found=", ".join(names) or "an empty folder",
            expected="*.safetensors, *.bin, *.pth or *.ckpt files, or an index of them",
            hint=_hint_inside(folder),
        )
    opened = _open_index(chosen.index) if chosen.index is not None else open_files(chosen.files)
    beside = [p for p in chosen.beside if p not in opened.files]
    notes = (*_notes_beside(chosen, beside), *dead_links(folder)[:1])
    return replace(opened, notes=opened.notes + notes)


def _named_in_config(folder: Path) -> str | None:
    """The file of the weights that config.json names. One that cannot be read is told by whoever reads all of it."""
    try:
        named = read_config(folder / "config.json").get(NAMED_BY)
    except InputError:
        return None
    return check_named(folder, named)


def _notes_beside(chosen: Chosen, beside: Sequence[Path]) -> tuple[str, ...]:
    """A note on the files of weights that are not read; if they are a second set, also which set is taken, and why."""
    if not beside:
        return ()
    listed = _list_names(p.name for p in beside)
    others = [p for p in beside if p.name in NAMED or SHARD.fullmatch(p.name)]
    taken = [chosen.index] if chosen.index is not None else chosen.files
    why = f"two sets of weights: {_list_names(p.name for p in taken)} is taken, as from_pretrained does; " if others else ""
    return (f"{why}not read: {listed}",)


def _list_names(names: Iterable[str]) -> str:
    shown = sorted(set(names))
    return ", ".join(to_short_line(n) for n in shown[:SHOWN]) + (" ..." if len(shown) > SHOWN else "")


def _twins_in(one: OpenedFile) -> Mapping[str, str]:
    """Names that safetensors' save_model left out (the metadata say so), and the name under which each tensor is there."""
    names = {t.name for t in one.tensors}
    return {removed: kept for removed, kept in one.metadata.items() if kept in names and removed not in names}


def format_of(source: FileSource) -> Format:
    """The format of a file: by its first bytes, or by its ending if the format allows that (``Format.by_ending``).

    Raises:
        InputError: MFC103 for a file of no known format.
    """
    path, first = source.path, source.read(0, 24)
    if first.startswith(LFS_POINTER):
        hint = "Fetch the file itself: git lfs pull."
        raise InputError("MFC103", path, found="a git-lfs pointer, not the file", expected="weights", hint=hint)
    formats = known_formats()
    is_marked = any(first.startswith(f.marks) for f in formats)
    by_ending = [f for f in formats if f.by_ending and path.suffix in f.endings and not is_marked]
    found = next((f for f in formats if f.looks_like(first, source.size) or f in by_ending), None)
    if found is None:
        seen = f"{how_many(source.size, 'byte')}, beginning with {first[:8].hex(' ') or 'nothing'}"
        raise InputError("MFC103", path, found=seen, expected=list_titles())
    return found


def _hint_near(path: Path) -> str | None:
    if os.path.isdir(path.parent):
        near = [quote(p.name) for p in checkpoint_files(path.parent)[:4]]
        if near:
            return f"In {to_short_line(str(path.parent))} there is: {', '.join(near)}"
    return None


def _hint_inside(folder: Path) -> str | None:
    for inner in sorted(p for p in folder.iterdir() if p.is_dir())[:50]:
        if checkpoint_files(inner):
            return f"There is a checkpoint in {to_short_line(str(inner))}"
    return None
