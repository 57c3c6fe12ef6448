"""What a folder means: which of its files are the checkpoint, and what lies beside it and is not read.

First come the names that transformers' `from_pretrained` reads, in its order; then MindSpore's index; then shards of those names without
an index, and what PEFT reads. Only where none of these names is there, any other index or file of weights counts, safetensors before torch
files before `.ckpt`. Nothing is opened here: names decide.

Refuses: a shard that is missing by the names of the others, two sets of shards, a download that is not finished, links to nothing.
Source: `PreTrainedModel.from_pretrained` of transformers 4 and 5, `PeftModel.from_pretrained`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.errors import FormatError, InputError, on_one_line, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.known import known_formats, weight_endings

INDEXES = (".safetensors.index.json", ".bin.index.json")  # other tools' indexes (flax, tf) name files that are none of ours
NAMED = ("model.safetensors", index_files.HF_SAFETENSORS, "pytorch_model.bin", index_files.HF_TORCH, index_files.MINDSPORE)
OF_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{2,})-of-(?P<total>\d{2,})(?P<ending>\.[a-z]+)")
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)([._-].*)?|.*optim_states", re.IGNORECASE)
# what browsers and download managers leave beside a file, or call it, until it is whole
UNFINISHED = (
    ".aria2", ".aria2__temp", ".incomplete", ".part", ".partial", ".crdownload", ".opdownload", ".download", ".downloading", ".filepart",
    ".xltd", ".td", ".bc!", ".!ut",
)  # fmt: skip
SHOWN = 4  # names that are listed in a message


@dataclass(frozen=True)
class Chosen:
    """What is read of a folder: one index, or files; and the files of weights and indexes that are not."""

    index: Path | None
    files: tuple[Path, ...]
    beside: tuple[Path, ...]


def choose_files(folder: Path) -> Chosen | None:
    """The checkpoint of a folder; None where it holds none.

    Raises:
        InputError: MFC102 where its weights are links to nothing, MFC104 for several indexes, MFC115 for shards that are no set.
    """
    there = checkpoint_files(folder)
    files = next((found for which in _ORDER if (found := which(there))), [])
    if not files:
        _check_links(folder)
        return None
    if _is_index(files[0]):
        index = take_single("MFC104", files, folder, "index", "indexes")
        return Chosen(index, (), tuple(p for p in there if p != index))
    check_sets(files)
    return Chosen(None, tuple(files), tuple(p for p in there if p not in files))


def take_single(code: str, found: Sequence[Path], folder: Path, one: str, several: str) -> Path:
    """The only one of some files or folders; raises InputError where there are more, and names them."""
    if len(found) == 1:
        return found[0]
    listed = ", ".join(quoted(p.name) for p in found[:SHOWN]) + (" ..." if len(found) > SHOWN else "")
    hint = f"Give the one you mean: {on_one_line(str(found[0]))}, say."
    raise InputError(code, folder, found=f"{len(found):,} {several}: {listed}", expected=f"one {one}", hint=hint)


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of weights and the indexes of a folder, sorted by name; without what is never weights by its name.

    Raises:
        InputError: MFC101 where the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError("MFC101", folder, found=error.strerror, expected="a readable folder") from None
    return [folder / n for n in names if _may_be_weights(n) and os.path.isfile(folder / n)]


def _may_be_weights(name: str) -> bool:
    stem, ending = os.path.splitext(name)
    return name == index_files.MINDSPORE or name.endswith(INDEXES) or (ending in weight_endings() and NO_WEIGHTS.fullmatch(stem) is None)


def _is_index(path: Path) -> bool:
    return path.suffix == ".json"


# ---- the order -------------------------------------------------------------------------------------------------------------

_Which = Callable[[Sequence[Path]], list[Path]]


def _called(name: str) -> _Which:
    return lambda there: [p for p in there if p.name == name]


def _shards_called(stem: str, ending: str) -> _Which:
    return lambda there: [p for p in there if (m := SHARD.fullmatch(p.name)) and (m["stem"], m["ending"]) == (stem, ending)]


def _matching(*patterns: str) -> _Which:
    """The files of the first pattern that has any."""
    return lambda there: next((found for pattern in patterns if (found := [p for p in there if p.match(pattern)])), [])


def _others(there: Sequence[Path]) -> list[Path]:
    """safetensors of any name, but for those of another program's format, which lie beside a model of the usual names."""
    return [p for p in there if p.suffix == ".safetensors" and not p.name.startswith("consolidated")]


def _of_first_format(there: Sequence[Path]) -> list[Path]:
    """The files of the first ending that has any, in the order of the formats."""
    return _matching(*(f"*{ending}" for f in known_formats() for ending in f.endings))(there)


_ORDER: tuple[_Which, ...] = (
    *(_called(name) for name in NAMED),
    _shards_called("model", ".safetensors"),
    _shards_called("pytorch_model", ".bin"),
    *(_called(name) for name in OF_ADAPTERS),
    _matching("*.safetensors.index.json"),
    _others,
    _matching("*.safetensors"),
    _matching("*.bin.index.json"),
    _matching("pytorch_model*.bin", "consolidated*.pth", "*.bin", "*.pth", "*.pt"),
    _of_first_format,
)


def read_instead(folder: Path, own: Collection[str]) -> list[Path]:
    """The files of a folder that would be read rather than those named ``own``, which lie in it or are about to."""
    files = {folder / name for name in own}
    there, before = sorted({*checkpoint_files(folder), *files}), list[Path]()
    for which in _ORDER:
        found = which(there)
        if not files.isdisjoint(found):
            return before
        before += [p for p in found if p not in before]
    return []


# ---- shards without an index ---------------------------------------------------------------------------------------------------


def shards_with(path: Path) -> list[Path]:
    """The shards that a file belongs to by its name, `model-00002-of-00003.safetensors`, itself among them; empty for another name."""
    match = SHARD.fullmatch(path.name)
    if match is None:
        return []
    same = [p for p in checkpoint_files(path.parent) if (m := SHARD.fullmatch(p.name)) and _set_of(m) == _set_of(match)]
    return _counted_up(same)


def _set_of(match: re.Match[str]) -> tuple[str, int, str]:
    return match["stem"], int(match["total"]), match["ending"]


def _counted_up(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda p: (fold(p.name), p.name))


def check_sets(files: Sequence[Path]) -> None:
    """What the names of shards say: each of a set is there, and no other set of the same name.

    Raises:
        InputError: MFC115.
    """
    sets: dict[tuple[str, int, str], set[int]] = {}
    first: dict[tuple[str, int, str], Path] = {}
    for path in files:
        if match := SHARD.fullmatch(path.name):
            sets.setdefault(_set_of(match), set()).add(int(match["number"]))
            first.setdefault(_set_of(match), path)
    for (stem, total, ending), numbers in sets.items():
        twin = next((key for key in sets if key[0] == stem and key[2] == ending and key[1] != total), None)
        if twin is not None:
            found = f"shards of two saves: {quoted(first[stem, total, ending].name)} and {quoted(first[twin].name)}"
            hint = f"Give one file of the save you mean: {on_one_line(str(first[twin]))}, say."
            raise InputError("MFC115", files[0].parent, found=found, expected="one set of shards, or an index", hint=hint)
        _check_complete(first[stem, total, ending], total, numbers)


def _check_complete(path: Path, total: int, numbers: set[int]) -> None:
    begin = 0 if 0 in numbers else 1
    if len(numbers) == total:
        return
    missing = next(n for n in range(begin, total + 1) if n not in numbers)
    match = SHARD.fullmatch(path.name)
    assert match is not None
    width = len(match["number"])
    name = f"{match['stem']}-{missing:0{width}}-of-{match['total']}{match['ending']}"
    found = f"{len(numbers):,} of {total:,} shards, and no index; first that is missing: {quoted(name)}"
    begun = next(unfinished_in(path.parent, [path.with_name(name)]), None)
    found += f", of which there is {quoted(begun[1])}: a download that is not finished" if begun is not None else ""
    hint = "Fetch the missing files. In Python a list of paths is taken as it is: mc.load([...])."
    raise InputError("MFC115", path.parent, found=found, expected=f"{total:,} shards, as their names say", hint=hint)


# ---- downloads and links -------------------------------------------------------------------------------------------------------


def unfinished_in(folder: Path, files: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Files whose download is not finished, each with the name of what says so: `model.safetensors.aria2`."""
    try:
        marks = [n for n in os.listdir(folder) if n.lower().endswith(UNFINISHED)]
    except OSError:
        return
    for path in files if marks else ():
        mark = next((n for n in marks if n.startswith(f"{path.name}.") and ".json" not in n.removeprefix(path.name)), None)
        if mark is not None:
            yield path, mark


def check_downloads(files: Sequence[Path]) -> None:
    """Raises FormatError (MFC202) where the download of a file is not finished: it may have its full size, and zeros in it."""
    for folder in dict.fromkeys(p.parent for p in files):
        for path, mark in unfinished_in(folder, [p for p in files if p.parent == folder]):
            found = f"{quoted(mark)} beside it: a download that is not finished"
            hint = f"Let the download finish. If the file is known to be whole, remove {quoted(mark)}."
            raise FormatError("MFC202", path, found=found, expected="the whole file", hint=hint)


def link_to_nothing(path: Path) -> str | None:
    """What is said of a link whose target is not there; None for anything else."""
    if not os.path.islink(path) or os.path.exists(path):
        return None
    return f"a link to nothing: {quoted(path.name)} -> {quoted(os.readlink(path))}"


def dead_links(folder: Path) -> list[str]:
    """The links to nothing among what would be weights of a folder, each as it is said."""
    names = sorted(n for n in os.listdir(folder) if _may_be_weights(n))
    return [said for n in names if (said := link_to_nothing(folder / n)) is not None]


HINT_LINKS = "A snapshot of the hub cache was copied without its blobs? Copy it with links followed (cp -rL), or fetch the files again."


def _check_links(folder: Path) -> None:
    if dead := dead_links(folder):
        found = dead[0] + (f", and {len(dead) - 1:,} more" if len(dead) > 1 else "")
        raise InputError("MFC102", folder, found=found, expected="files with weights", hint=HINT_LINKS)
