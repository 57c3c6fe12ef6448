"""Where a path is a part of something larger: a shard of an index, a rank's file or folder, a file of an iteration, a strategy file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.errors import MfconvError
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.reading import RUN_STATE
from mfconv_nb.formats.strategy_file import is_strategy
from mfconv_nb.trained.iteration import RANK_FILE, file_names
from mfconv_nb.trained.iteration_folders import looks_like_iteration_folder
from mfconv_nb.trained.rank_files import home_of, rank_folders_in

ENDINGS = (".ckpt", ".safetensors", ".json")  # of what could be weights, or say how they are cut


@dataclass(frozen=True, slots=True)
class PartOf:
    """What a path is a part of: in a clause, and the folder of the whole; None where that is not beside it."""

    said: str
    whole: Path | None


def part_of(path: Path) -> PartOf | None:
    """What a path is only a part of; None where it stands for itself. Opens strategy files and indexes, no weights."""
    place = Path(os.path.abspath(path))
    return _strategy(place) or _of_a_rank(place) or _of_an_iteration(place) or _of_an_index(place)


def _strategy(place: Path) -> PartOf | None:
    folder = place if place.is_dir() else place.parent
    if home_of(place) is not None or not place.exists():
        return None
    files = [p for p in (sorted(place.iterdir()) if place.is_dir() else [place]) if p.is_file() and p.suffix in ENDINGS]
    if not files or not all(is_strategy(p) for p in files):
        return None
    said = "strategy files: they say how the tensors of a run are cut, and hold no weights"
    return PartOf(said, next((p for p in (folder, folder.parent) if home_of(p) is not None), None))


def _of_a_rank(place: Path) -> PartOf | None:
    folder = place if place.is_dir() else place.parent
    ranks = rank_folders_in(folder.parent)
    rank = next((n for n, p in ranks.items() if p.name == folder.name), None)
    if rank is None or len(ranks) < 2:
        return None
    return PartOf(f"rank {rank} of {len(ranks)}: slices, or copies, of what all ranks together hold", folder.parent)


def _of_an_iteration(place: Path) -> PartOf | None:
    match = RANK_FILE.fullmatch(place.name)
    if match is None or place.is_dir() or not looks_like_iteration_folder(place.parent):
        return None
    others = sum(RANK_FILE.fullmatch(name) is not None for name in file_names(place.parent))
    return PartOf(f"one of {others} files of a Checkpoint 2.0", place.parent) if others > 1 else None


def _of_an_index(place: Path) -> PartOf | None:
    if place.is_dir() or place.suffix == ".json" or not place.parent.is_dir():
        return None
    for path in sorted(place.parent.glob("*.json"))[:20]:
        try:
            index = index_files.read_index(path) if index_files.looks_like(path) else None
        except MfconvError:
            continue
        if index is not None and len(index.files) > 1 and place in index.files:
            return PartOf(f"one of {len(index.files)} shards of {path.name}", place.parent)
        if index is not None and path.name == index_files.MINDSPORE and place.name == RUN_STATE:
            return PartOf(f"the run state beside {path.name}", place.parent)
    return None
