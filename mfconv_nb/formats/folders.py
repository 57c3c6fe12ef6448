"""Which files of a folder are the checkpoint, and which lie beside it unread. File names decide; no file is opened.

0. A `config.json` that names the file of the weights (`transformers_weights`, which transformers 5 follows) decides: ``named_weights``.

1. `checkpoint_files` lists the folder: every file that may hold weights by its name, and every index.
2. `choose_files` goes through `_ORDER` and takes the first entry that finds something: the names that transformers' `from_pretrained`
   reads, in its order; MindSpore's index; shards of those names without an index; PEFT's adapters; then any other name, safetensors before
   torch files before `.ckpt`.
3. If it found an index, the index alone counts: `index.py` reads it. If it found files, `check_sets` makes sure that no shard is missing.
4. `reading.py` opens the files. Before that, `check_downloads` refuses those that a browser or a download manager has not finished.

Refuses: a missing shard (the names of the others tell), two sets of shards, files of two steps, unfinished downloads, links to nothing.
Source: `PreTrainedModel.from_pretrained` of transformers 4 and 5, `PeftModel.from_pretrained`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.errors import FormatError, InputError, quote, to_short_line
from mfconv_nb.core.folding import fold
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.known import known_formats, weight_endings

INDEXES = (".safetensors.index.json", ".bin.index.json")  # not those of flax and tf: we read none of their files
NAMED = ("model.safetensors", index_files.HF_SAFETENSORS, "pytorch_model.bin", index_files.HF_TORCH, index_files.MINDSPORE)
NAMED_BY = "transformers_weights"  # in config.json
OF_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{2,})-of-(?P<total>\d{2,})(?P<ending>\.[a-z]+)")
# when a file was saved: `step-10`, `global_step10`, `epoch=1-step=10`, `checkpoint-500`; MindSpore's `net-1_10.ckpt`, epoch and step
_WHEN = re.compile(r"(?:^|[^a-z])(?:global_?step|step|iter|iteration|epoch|checkpoint|ckpt)s?[-_=.]?(\d+)|-(\d+_\d+)\.ckpt$", re.IGNORECASE)
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)([._-].*)?|.*optim_states", re.IGNORECASE)
# endings that browsers and download managers add until a file is complete, to its own name or to that of a file beside it
UNFINISHED = (
    ".aria2", ".aria2__temp", ".incomplete", ".part", ".partial", ".crdownload", ".opdownload", ".download", ".downloading", ".filepart",
    ".xltd", ".td", ".bc!", ".!ut",
)  # fmt: skip
SHOWN = 4  # a message lists so many names


@dataclass(frozen=True)
class Chosen:
    """What we read of a folder: one index, or files. ``beside``: its other indexes and files of weights, which we do not read."""

    index: Path | None
    files: tuple[Path, ...]
    beside: tuple[Path, ...]


def choose_files(folder: Path, named: str | None = None) -> Chosen | None:
    """The checkpoint of a folder; None if it holds none.

    Args:
        named: the file that the config of the folder says.
    Raises:
        InputError: MFC102 if its weights are links to nothing, MFC104 for several indexes, MFC115 if shards are missing or of two saves.
    """
    listed = checkpoint_files(folder)
    if named is not None:
        listed = [folder / named, *(p for p in listed if p.name != named)]
    files = listed[:1] if named is not None else next((found for pick in _ORDER if (found := pick(listed))), [])
    if not files:
        _check_links(folder)
        return None
    if files[0].suffix == ".json":
        index = take_single("MFC104", files, folder, "index", "indexes")
        return Chosen(index, (), tuple(p for p in listed if p != index))
    check_sets(files)
    check_steps(files)
    return Chosen(None, tuple(files), tuple(p for p in listed if p not in files))


def check_named(folder: Path, named: object) -> str | None:
    """The file of a folder that its config names for the weights; None where it names none.

    Raises:
        InputError: MFC104 for one that is not there, lies elsewhere, or is no safetensors file or index of them.
    """
    if named is None:
        return None
    is_one = isinstance(named, str) and named.endswith((".safetensors", INDEXES[0])) and named == os.path.basename(named)
    if is_one and os.path.isfile(folder / str(named)):
        return str(named)
    found = f"{NAMED_BY}: {quote(str(named)[:80])}" + (", which is not there" if is_one else "")
    hint = "Fetch that file too; or give the file of the weights that you mean by its path."
    raise InputError("MFC104", folder / "config.json", found=found, expected="a safetensors file beside it, or an index", hint=hint)


def take_single(code: str, found: Sequence[Path], folder: Path, one: str, several: str) -> Path:
    """The one file or folder in ``found``; raises InputError, which names them, if there are several."""
    if len(found) == 1:
        return found[0]
    listed = ", ".join(quote(p.name) for p in found[:SHOWN]) + (" ..." if len(found) > SHOWN else "")
    hint = f"Give the one you mean: {to_short_line(str(found[0]))}, say."
    raise InputError(code, folder, found=f"{len(found):,} {several}: {listed}", expected=f"one {one}", hint=hint)


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of weights and the indexes of a folder, sorted by name. Optimizer states and the like are left out, by their names.

    Raises:
        InputError: MFC101 if the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError("MFC101", folder, found=error.strerror, expected="a readable folder") from None
    return [folder / n for n in names if _may_be_weights(n) and os.path.isfile(folder / n)]


def _may_be_weights(name: str) -> bool:
    stem, ending = os.path.splitext(name)
    return name == index_files.MINDSPORE or name.endswith(INDEXES) or (ending in weight_endings() and NO_WEIGHTS.fullmatch(stem) is None)


# ---- the order -------------------------------------------------------------------------------------------------------------

_Pick = Callable[[Sequence[Path]], list[Path]]  # takes the files of a folder, returns those that are the checkpoint by this criterion


def _files_named(name: str) -> _Pick:
    return lambda listed: [p for p in listed if p.name == name]


def _shards_named(stem: str, ending: str) -> _Pick:
    return lambda listed: [p for p in listed if (m := SHARD.fullmatch(p.name)) and (m["stem"], m["ending"]) == (stem, ending)]


def _first_matching(*patterns: str) -> _Pick:
    """The files of the first pattern that has any."""
    return lambda listed: next((found for pattern in patterns if (found := [p for p in listed if p.match(pattern)])), [])


def _other_safetensors(listed: Sequence[Path]) -> list[Path]:
    """safetensors of any name, except Mistral's `consolidated*`: a copy with other names that lies beside the usual files."""
    return [p for p in listed if p.suffix == ".safetensors" and not p.name.startswith("consolidated")]


def _first_format_files(listed: Sequence[Path]) -> list[Path]:
    """The files of the first ending that has any, in the order of the formats."""
    return _first_matching(*(f"*{ending}" for f in known_formats() for ending in f.endings))(listed)


_ORDER: tuple[_Pick, ...] = (
    *(_files_named(name) for name in NAMED),
    _shards_named("model", ".safetensors"),
    _shards_named("pytorch_model", ".bin"),
    *(_files_named(name) for name in OF_ADAPTERS),
    _first_matching("*.safetensors.index.json"),
    _other_safetensors,
    _first_matching("*.safetensors"),
    _first_matching("*.bin.index.json"),
    _first_matching("pytorch_model*.bin", "consolidated*.pth", "*.bin", "*.pth", "*.pt"),
    _first_format_files,
)


def find_rivals(folder: Path, own: Collection[str]) -> list[Path]:
    """Files of a folder that a reader would take instead of those named ``own``, which are there or are about to be written."""
    files = {folder / name for name in own}
    listed, before = sorted({*checkpoint_files(folder), *files}), list[Path]()
    for pick in _ORDER:
        found = pick(listed)
        if not files.isdisjoint(found):
            return before
        before += [p for p in found if p not in before]
    return []


# ---- shards without an index ---------------------------------------------------------------------------------------------------


def shards_with(path: Path) -> list[Path]:
    """All shards of the set that a file belongs to, by its name `model-00002-of-00003.safetensors`; empty for other names."""
    match = SHARD.fullmatch(path.name)
    if match is None:
        return []
    same = [p for p in checkpoint_files(path.parent) if (m := SHARD.fullmatch(p.name)) and _set_key(m) == _set_key(match)]
    return sorted(same, key=lambda p: (fold(p.name), p.name))  # numbers count as numbers


def _set_key(match: re.Match[str]) -> tuple[str, int, str]:
    return match["stem"], int(match["total"]), match["ending"]


def check_sets(files: Sequence[Path]) -> None:
    """Check by the names of shards that none is missing, and that no second set has the same name.

    Raises:
        InputError: MFC115.
    """
    sets: dict[tuple[str, int, str], set[int]] = {}
    first: dict[tuple[str, int, str], Path] = {}
    for path in files:
        if match := SHARD.fullmatch(path.name):
            sets.setdefault(_set_key(match), set()).add(int(match["number"]))
            first.setdefault(_set_key(match), path)
    for (stem, total, ending), numbers in sets.items():
        twin = next((key for key in sets if key[0] == stem and key[2] == ending and key[1] != total), None)
        if twin is not None:
            found = f"shards of two saves: {quote(first[stem, total, ending].name)} and {quote(first[twin].name)}"
            hint = f"Give one file of the save you mean: {to_short_line(str(first[twin]))}, say."
            raise InputError("MFC115", files[0].parent, found=found, expected="one set of shards, or an index", hint=hint)
        _check_complete(first[stem, total, ending], total, numbers)


def check_steps(files: Sequence[Path]) -> None:
    """Check by the names of files that they are of one step: those of two steps may hold different tensors, and would be joined.

    Raises:
        InputError: MFC115.
    """
    by_step: dict[tuple[tuple[str, str], ...], Path] = {}
    for path in files:
        if step := tuple(_WHEN.findall(path.name)):
            by_step.setdefault(step, path)
    if len(by_step) > 1:
        first, *_, last = sorted(by_step.values(), key=lambda p: (fold(p.name), p.name))
        found = f"files of {len(by_step):,} steps: {quote(first.name)} and {quote(last.name)}"
        hint = f"Give the one you mean: {to_short_line(str(last))}, say. In Python a list of paths is taken as it is: mc.load([...])."
        raise InputError("MFC115", files[0].parent, found=found, expected="files of one step", hint=hint)


def _check_complete(path: Path, total: int, numbers: set[int]) -> None:
    begin = 0 if 0 in numbers else 1
    if len(numbers) == total:
        return
    missing = next(n for n in range(begin, total + 1) if n not in numbers)
    match = SHARD.fullmatch(path.name)
    assert match is not None
    width = len(match["number"])
    name = f"{match['stem']}-{missing:0{width}}-of-{match['total']}{match['ending']}"
    found = f"{len(numbers):,} of {total:,} shards, and no index; first that is missing: {quote(name)}"
    begun = next(unfinished_in(path.parent, [path.with_name(name)]), None)
    found += f", of which there is {quote(begun[1])}: a download that is not finished" if begun is not None else ""
    hint = "Fetch the missing files. In Python a list of paths is taken as it is: mc.load([...])."
    raise InputError("MFC115", path.parent, found=found, expected=f"{total:,} shards, as their names say", hint=hint)


# ---- downloads and links -------------------------------------------------------------------------------------------------------


def unfinished_in(folder: Path, files: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Files whose download is not finished, each with the file that shows it: `model.safetensors.aria2`."""
    try:
        marks = [n for n in os.listdir(folder) if n.lower().endswith(UNFINISHED)]
    except OSError:
        return
    for path in files if marks else ():
        mark = next((n for n in marks if n.startswith(f"{path.name}.") and ".json" not in n.removeprefix(path.name)), None)
        if mark is not None:
            yield path, mark


def check_downloads(files: Sequence[Path]) -> None:
    """Raises FormatError (MFC202) if a download is not finished: the file may already have its full size, with zeros in it."""
    for folder in dict.fromkeys(p.parent for p in files):
        for path, mark in unfinished_in(folder, [p for p in files if p.parent == folder]):
            found = f"{quote(mark)} beside it: a download that is not finished"
            hint = f"Let the download finish. If the file is known to be whole, remove {quote(mark)}."
            raise FormatError("MFC202", path, found=found, expected="the whole file", hint=hint)


def link_to_nothing(path: Path) -> str | None:
    """Describes a link whose target is missing; None for anything else."""
    if not os.path.islink(path) or os.path.exists(path):
        return None
    return f"a link to nothing: {quote(path.name)} -> {quote(os.readlink(path))}"


def dead_links(folder: Path) -> list[str]:
    """Descriptions of the links to nothing that would be weights of a folder by their names."""
    names = sorted(n for n in os.listdir(folder) if _may_be_weights(n))
    return [text for n in names if (text := link_to_nothing(folder / n)) is not None]


HINT_LINKS = "A snapshot of the hub cache was copied without its blobs? Copy it with links followed (cp -rL), or fetch the files again."


def _check_links(folder: Path) -> None:
    if dead := dead_links(folder):
        found = dead[0] + (f", and {len(dead) - 1:,} more" if len(dead) > 1 else "")
        raise InputError("MFC102", folder, found=found, expected="files with weights", hint=HINT_LINKS)
