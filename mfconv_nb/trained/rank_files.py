"""The files of a folder of ranks: which rank has which step, read from names as numbers, never compared as text.

`checkpoint/rank_N/{prefix}_rank_N[_network][_k]-{epoch}_{step}.safetensors` or `.ckpt`; k counts the runs that wrote into the same folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.checkpoint import FileSource
from mfconv_nb.errors import InputError, on_one_line
from mfconv_nb.formats.strategy_file import is_strategy, strategy_files
from mfconv_nb.trained.run import Step

_RANK = re.compile(r"rank_(0|[1-9]\d{0,5})")
_NAME = re.compile(r"(?P<prefix>.*?)(?:_(?P<run>\d{1,6}))?-(?P<epoch>\d{1,12})_(?P<step>\d{1,12})\.(?P<ending>safetensors|ckpt)")
_RANK_IN_NAME = re.compile(r"(.*)_rank_(\d{1,6})(?!\d)(.*)", re.DOTALL)  # the last: a prefix may speak of ranks itself
ENDINGS = (".safetensors", ".ckpt")
INNER = ("checkpoint", "checkpoint_network")  # of a run's output folder: everything, and the weights only
STRATEGY_FOLDERS = ("strategy", "src_strategy")


@dataclass(frozen=True, slots=True)
class Series:
    """Files of several ranks that belong together: of one prefix, one run and one ending."""

    prefix: str
    run: int = 0
    ending: str = "safetensors"


@dataclass(frozen=True, slots=True)
class RankFile:
    """A file of weights in the folder of a rank; ``step`` is None where its name gives none."""

    rank: int
    step: Step | None
    series: Series
    path: Path


def rank_folders_in(folder: Path) -> dict[int, Path]:
    """`rank_N` folders by their number, in its order."""
    try:
        found = {int(m[1]): Path(e.path) for e in os.scandir(folder) if (m := _RANK.fullmatch(e.name)) and e.is_dir()}
    except (OSError, ValueError):
        return {}
    return dict(sorted(found.items()))


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name.

    Raises:
        InputError: MFC101 where it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError("MFC101", folder, found=error.strerror, expected="a folder that can be read") from None


def home_of(folder: Path) -> Path | None:
    """The folder that holds the `rank_N` folders: itself, or a part of a run's output folder; None where there is none."""
    return next((home for home in (folder, *(folder / name for name in INNER)) if rank_folders_in(home)), None)


def files_of(folders: Mapping[int, Path]) -> tuple[tuple[RankFile, ...], tuple[str, ...]]:
    """Every file with weights, and a sentence for each that is left aside.

    Where some name tells a step, those that tell none are left aside.
    """
    found: list[RankFile] = []
    notes: list[str] = []
    for rank, folder in folders.items():
        for path in (p for p in entries(folder) if p.suffix in ENDINGS and p.is_file()):
            if path.name.startswith("hyper_param") or is_strategy(path):
                continue
            one = _rank_file(rank, path)
            if one is None:
                notes.append(f"not read: {folder.name}/{on_one_line(path.name)}, which by its name is of another rank")
            else:
                found.append(one)
    if any(f.step is not None for f in found):
        notes += [f"not read: rank_{f.rank}/{on_one_line(f.path.name)}, whose name tells no step" for f in found if f.step is None][:4]
        found = [f for f in found if f.step is not None]
    return tuple(found), tuple(notes)


def _rank_file(rank: int, path: Path) -> RankFile | None:
    """A file by its name; None where that says another rank."""
    named = _RANK_IN_NAME.fullmatch(path.stem)
    if named is not None and int(named[2]) != rank:
        return None
    stem = path.stem if named is None else named[1] + named[3]
    match = _NAME.fullmatch(stem + path.suffix)
    if match is None:  # `checkpoint_3.ckpt`, as a transformed checkpoint is named: the number is the rank
        return RankFile(rank, None, Series(re.sub(rf"{rank}$", "", stem), 0, path.suffix[1:]), path)
    series = Series(match["prefix"], int(match["run"] or 0), match["ending"])
    return RankFile(rank, Step(int(match["epoch"]), int(match["step"])), series, path)


def steps_by_rank(folders: Iterable[int], files: Iterable[RankFile]) -> dict[int, tuple[Step, ...]]:
    """The steps of every rank; a folder without any has none."""
    steps: dict[int, set[Step]] = {rank: set() for rank in folders}
    for file in files:
        if file.step is not None:
            steps[file.rank].add(file.step)
    return {rank: tuple(sorted(had)) for rank, had in sorted(steps.items())}


def find_strategy(home: Path, given: Path | None) -> list[Path]:
    """The strategy files of a run: those given, or in the places where MindFormers puts them; empty where there are none.

    Raises:
        InputError: MFC101, MFC114 for a given path without any.
    """
    if given is not None:
        found = strategy_files(given) if os.path.exists(given) else [FileSource(given).path]
        if not found:
            raise InputError("MFC114", given, found="no strategy file", expected="files such as ckpt_strategy_rank_0.ckpt")
        return found
    for above in (home, Path(os.path.abspath(home)).parent):
        for place in (above / name for name in STRATEGY_FOLDERS):
            if place.is_dir() and (found := strategy_files(place)):
                return found
        named = [p for p in entries(above) if "strategy" in p.name and p.suffix in (".ckpt", ".json") and p.is_file()]
        if found := [p for p in named if is_strategy(p)]:
            return found
    return []
