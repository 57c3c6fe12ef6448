"""From a path to lazy tensors: which files make up a checkpoint, what format each has, and what their headers say.

A format is told by the first bytes of a file, not by its name. In a folder an index counts more than single files, safetensors more
than torch files. Reads headers only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mfconv_nb.checkpoint import HF, MF, FileSource, LazyTensor, OtherEntry, stored_tensor
from mfconv_nb.errors import InputError, on_one_line, quoted
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats import mindspore_ckpt, safetensors_file, torch_pickle
from mfconv_nb.report import how_many

# What a folder is searched for, best first; an index stands for the files it names.
SEARCH = (
    ("safetensors index", ("*.safetensors.index.json", index_files.MINDSPORE)),
    ("safetensors", ("*.safetensors",)),
    ("torch index", ("*.bin.index.json",)),
    ("torch", ("pytorch_model*.bin", "consolidated*.pth", "*.bin", "*.pth", "*.pt")),
    ("MindSpore", ("*.ckpt",)),
)
FOLDER, INDEX, SAFETENSORS, TORCH, CKPT = "folder", "index", "safetensors", "torch", "ckpt"
RUN_STATE = "hyper_param.safetensors"  # beside what mindspore.unified_safetensors merged: all that no strategy file knows
NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "rng_state.pth")


@dataclass(frozen=True)
class Opened:
    """The headers of one or several files, joined: lazy tensors in file order.

    ``run_state``: the names of those that lie in a `hyper_param.safetensors`, where counters of the run belong.
    """

    tensors: dict[str, LazyTensor]
    files: tuple[Path, ...]
    side: str | None
    format: str
    others: tuple[OtherEntry, ...] = ()
    notes: tuple[str, ...] = field(default=())
    run_state: tuple[str, ...] = ()


@dataclass(frozen=True)
class _OneFile:
    tensors: tuple[LazyTensor, ...]
    format: str
    side: str | None
    others: tuple[OtherEntry, ...] = ()


def open_path(path: Path) -> Opened:
    """A folder, an index or a single file.

    Raises:
        InputError: MFC101 to MFC105. FormatError: MFC2xx for a file that cannot be trusted.
    """
    kind = _kind_by_name(path)
    return _open_folder(path) if kind == FOLDER else _open_index(path) if kind == INDEX else open_files([path])


def kind_of(path: Path) -> str:
    """What a path leads to: "folder", "index", or the format of a file: "safetensors", "torch", "ckpt".

    Raises:
        InputError: MFC101, MFC103. FormatError: MFC204.
    """
    return _kind_by_name(path) or format_of(FileSource(path))


def _kind_by_name(path: Path) -> str:
    """What can be told without opening a file: a folder, an index; empty where the first bytes count."""
    if os.path.isdir(path):
        return FOLDER
    if not os.path.exists(path):  # unlike Path.exists(), false for a name that no system can hold
        raise InputError("MFC101", path, expected="a folder, an index or a file with weights", hint=_hint_near(path))
    if path.suffix != ".json":
        return ""
    if not index_files.looks_like(path):
        hint = f"Give the folder instead: {path.parent}"
        raise InputError("MFC103", path, found="a JSON file that is no index", expected="a checkpoint", hint=hint)
    return INDEX


def open_files(paths: Sequence[Path]) -> Opened:
    """Several files as one checkpoint.

    Raises:
        InputError: MFC105 when a name is in two of them.
    """
    tensors: dict[str, LazyTensor] = {}
    holder: dict[str, Path] = {}
    opened = [_slice_of_meta(p, _open_file(p)) for p in paths]
    for path, one in zip(paths, opened, strict=True):
        for tensor in one.tensors:
            if tensor.name in tensors:
                found = f"in {quoted(holder[tensor.name].name)} and in {quoted(path.name)}"
                hint = "Remove the stale file, or give an index that names the right one."
                raise InputError("MFC105", quoted(tensor.name), found=found, expected="one file", hint=hint)
            tensors[tensor.name], holder[tensor.name] = tensor, path
    sides = {one.side for one in opened}
    formats = sorted({one.format for one in opened})
    side = sides.pop() if len(sides) == 1 else None
    others = tuple(o for one in opened for o in one.others)
    run_state = tuple(t.name for p, one in zip(paths, opened, strict=True) if p.name == RUN_STATE for t in one.tensors)
    return Opened(tensors, tuple(paths), side, " and ".join(formats), others, run_state=run_state)


META_FILE = re.compile(r"consolidated\.(\d+)\.pth")


def _slice_of_meta(path: Path, one: _OneFile) -> _OneFile:
    """The tensors of one of Meta's files, `consolidated.01.pth`: each holds a slice of the same names, told apart by its number."""
    match = META_FILE.fullmatch(path.name)
    if match is None:
        return one
    return replace(one, tensors=tuple(t.renamed(f"consolidated.{int(match[1])}/{t.name}") for t in one.tensors))


def _open_index(path: Path) -> Opened:
    index = index_files.read_index(path)
    missing = [f.name for f in index.files if not os.path.isfile(f)]
    if missing:
        found = f"absent: {len(missing):,} of {how_many(len(index.files), 'file')}; first {quoted(missing[0])}"
        raise InputError("MFC104", path, found=found, expected="every shard beside the index", hint="Fetch the missing files.")
    beside = [f for f in (path.parent / RUN_STATE,) if path.name == index_files.MINDSPORE and f not in index.files and f.is_file()]
    opened = open_files([*index.files, *beside])
    indexed = {n: t for n, t in opened.tensors.items() if not beside or n not in opened.run_state}
    held = {name: tensor.pieces[0].source.label for name, tensor in indexed.items()}
    index_files.check_against_files(index, held)
    held_bytes = sum(t.spec.nbytes for t in indexed.values())
    notes = list(opened.notes)
    if index.total_size not in (None, held_bytes):
        notes.append(f"{path.name} gives a total size of {how_many(index.total_size, 'byte')}, the tensors have {held_bytes:,}")
    side = MF if path.name == index_files.MINDSPORE else opened.side
    return Opened(opened.tensors, opened.files, side, opened.format, opened.others, tuple(notes), opened.run_state)


def _open_folder(folder: Path) -> Opened:
    by_kind = {kind: files for kind, globs in SEARCH if (files := _files(folder, globs))}
    if not by_kind:
        names = [quoted(p.name) for p in sorted(folder.iterdir())[:6]]
        raise InputError(
            "MFC102",
            folder,
            found=", ".join(names) or "an empty folder",
            expected="*.safetensors, *.bin, *.pth or *.ckpt files, or an index of them",
            hint=_hint_inside(folder),
        )
    kind, files = next(iter(by_kind.items()))
    if len(files) > 1 and kind.endswith("index"):
        listed = ", ".join(quoted(f.name) for f in files[:4])
        raise InputError("MFC104", folder, found=f"{len(files)} indexes: {listed}", expected="one", hint="Give the one you mean.")
    opened = _open_index(files[0]) if kind.endswith("index") else open_files(files)
    rest = [on_one_line(p.name) for k in by_kind if k != kind for p in by_kind[k] if p not in opened.files]
    rest += [on_one_line(p.name) for p in _files(folder, ("*.safetensors",)) if kind == "safetensors index" and p not in opened.files]
    notes = (f"not read: {', '.join(sorted(set(rest))[:4])}{' ...' if len(set(rest)) > 4 else ''}",) if rest else ()
    return Opened(opened.tensors, opened.files, opened.side, opened.format, opened.others, opened.notes + notes, opened.run_state)


def checkpoint_files(folder: Path) -> list[Path]:
    """Every file in a folder that belongs to some checkpoint."""
    return sorted({f for _, globs in SEARCH for f in _files(folder, globs)})


def _files(folder: Path, globs: Sequence[str]) -> list[Path]:
    """The files of the first pattern that has any, sorted by name."""
    for pattern in globs:
        files = sorted(p for p in folder.glob(pattern) if p.is_file() and p.name not in NOT_WEIGHTS)
        if files:
            return files
    return []


def _open_file(path: Path) -> _OneFile:
    source = FileSource(path)
    kind = format_of(source)
    if kind == TORCH:
        lazy, others = torch_pickle.read_tensors(source)
        return _OneFile(lazy, kind, HF, others)
    header = (safetensors_file if kind == SAFETENSORS else mindspore_ckpt).read_header(source)
    side = MF if kind == CKPT else {"ms": MF, "pt": HF}.get(header.metadata.get("format", ""))
    return _OneFile(tuple(stored_tensor(p.spec, source, p.extents) for p in header.tensors), kind, side, header.others)


def format_of(source: FileSource) -> str:
    """The format of a file, told by its first bytes: "safetensors", "torch" or "ckpt".

    Raises:
        InputError: MFC103. FormatError: MFC204 for an encrypted file.
    """
    path, first = source.path, source.read(0, 24)
    if first.startswith(b"version https://git-lfs"):
        hint = "Fetch the file itself: git lfs pull."
        raise InputError("MFC103", path, found="a git-lfs pointer, not the file", expected="weights", hint=hint)
    if first[:4] in mindspore_ckpt.ENCRYPTED:
        mindspore_ckpt.read_header(source)  # says so, and refuses
    if safetensors_file.looks_like(first, source.size) or (path.suffix == ".safetensors" and first[:4] != b"PK\x03\x04"):
        return SAFETENSORS
    if torch_pickle.looks_like(first, source.size):
        return TORCH
    if mindspore_ckpt.looks_like(first, source.size) or path.suffix == ".ckpt":
        return CKPT
    found = f"{how_many(source.size, 'byte')}, beginning with {first[:8].hex(' ') or 'nothing'}"
    raise InputError("MFC103", path, found=found, expected="safetensors, a MindSpore .ckpt or a torch file")


def _hint_near(path: Path) -> str | None:
    if os.path.isdir(path.parent):
        near = [quoted(p.name) for p in checkpoint_files(path.parent)[:4]]
        if near:
            return f"In {on_one_line(str(path.parent))} there is: {', '.join(near)}"
    return None


def _hint_inside(folder: Path) -> str | None:
    for inner in sorted(p for p in folder.iterdir() if p.is_dir())[:50]:
        if checkpoint_files(inner):
            return f"There is a checkpoint in {on_one_line(str(inner))}"
    return None
