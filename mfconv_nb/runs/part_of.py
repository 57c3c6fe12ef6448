"""Find the checkpoint that a path stands for, where the path is only a part of it.

A shard, an index and a config.json stand for their folder; the folders of the hub cache stand for the snapshot in them. A rank's file
stands for itself: it is loaded alone, with a note that it is a part.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.errors import MfconvError, to_short_line
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.adapters_of_a_run import RUN_CONFIG_OF_ADAPTERS
from mfconv_nb.formats.checkpoint_metadata import METADATA
from mfconv_nb.formats.folders import checkpoint_files
from mfconv_nb.formats.hub_cache import refuse_model_id, snapshot_in
from mfconv_nb.formats.known import run_endings
from mfconv_nb.formats.peft_folder import CONFIG as ADAPTER_CONFIG
from mfconv_nb.formats.reading import RUN_STATE
from mfconv_nb.formats.strategy_file import is_strategy
from mfconv_nb.runs.iteration_files import COMMON, RANK_FILE, file_names
from mfconv_nb.runs.iteration_folders import TRACKER, looks_like_iteration_folder
from mfconv_nb.runs.rank_files import home_of, rank_folders_in, rank_in_name

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class PartOf:
    """What a path is, as a clause, and the folder of the whole that it is a part of; None where that is not beside it."""

    said: str
    whole: Path | None


def part_of(path: Path) -> PartOf | None:
    """What a path is a part of; None where it stands for itself. Opens strategy files and indexes, no weights."""
    place = Path(os.path.abspath(path))
    return _strategy_part(place) or _rank_part(place) or _iteration_part(place) or _run_state_part(place)


def note_on_a_part(path: Path) -> tuple[str, ...]:
    """A note where the weights at ``path`` are those of one rank of a run, which are loaded alone. Opens no file."""
    place = Path(os.path.abspath(path))
    part = _rank_part(place) or _iteration_part(place)
    if part is not None:
        return (f"this is {part.said}; the whole is {part.whole}",)
    match, rank = RANK_FILE.fullmatch(place.name), rank_in_name(place.name)
    if match is not None and int(match["total"]) > 1:
        return (f"by its name this is one of {int(match['total']):,} files of a Checkpoint 2.0: it may hold slices",)
    return (f"by its name this is what rank {rank} of a run holds: it may be slices",) if rank else ()


def _strategy_part(place: Path) -> PartOf | None:
    folder = place if os.path.isdir(place) else place.parent
    if home_of(place) is not None or not os.path.exists(place):
        return None
    endings = (*run_endings(), ".json")  # of weights, and of files that say how they are cut
    files = [p for p in (sorted(place.iterdir()) if os.path.isdir(place) else [place]) if p.is_file() and p.suffix in endings]
    if not files or not all(is_strategy(p) for p in files):
        return None
    said = "strategy files: they say how the tensors of a run are cut, and hold no weights"
    return PartOf(said, next((p for p in (folder, folder.parent) if home_of(p) is not None), None))


def _rank_part(place: Path) -> PartOf | None:
    folder = place if os.path.isdir(place) else place.parent
    ranks = rank_folders_in(folder.parent)
    rank = next((n for n, p in ranks.items() if p.name == folder.name), None)
    if rank is None or len(ranks) < 2:
        return None
    return PartOf(f"rank {rank} of {len(ranks)}: slices, or copies, of what all ranks together hold", folder.parent)


def _iteration_part(place: Path) -> PartOf | None:
    if place.name in (METADATA, COMMON, TRACKER) and os.path.isfile(place) and looks_like_iteration_folder(place.parent):
        return PartOf("what is said of a Checkpoint 2.0, without weights", place.parent)
    match = RANK_FILE.fullmatch(place.name)
    if match is None or os.path.isdir(place) or not looks_like_iteration_folder(place.parent):
        return None
    others = sum(RANK_FILE.fullmatch(name) is not None for name in file_names(place.parent))
    return PartOf(f"one of {others} files of a Checkpoint 2.0", place.parent) if others > 1 else None


def _run_state_part(place: Path) -> PartOf | None:
    if place.name != RUN_STATE or not os.path.isfile(place.with_name(index_files.MINDSPORE)):
        return None
    return PartOf(f"the run state beside {index_files.MINDSPORE}", place.parent)


# ---- the whole ------------------------------------------------------------------------------------------------------------------


def whole_of(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The path of the checkpoint that a path stands for, and a note where that is another path.

    A shard stands for its index, config.json and adapter_config.json for the folder, and the folders of the hub cache (`models--org--name`,
    its `snapshots`, the cache itself where it has one model) for the snapshot that `refs/main` names. Any other path stands for itself.

    Raises:
        InputError: MFC115 where a folder of the hub cache has several snapshots or models; MFC101 for the id of a model that is no path.
    """
    if os.path.isdir(path):
        snapshot = snapshot_in(path)
        return (path, ()) if snapshot is None else (snapshot, (f"the snapshot {to_short_line(str(snapshot))} is taken",))
    if not os.path.exists(path):
        refuse_model_id(path)
        return path, ()
    if path.name in (CONFIG, ADAPTER_CONFIG, RUN_CONFIG_OF_ADAPTERS) and checkpoint_files(path.parent):
        return path.parent, (f"{path.name} lies in the folder of a checkpoint, which is taken",)
    index = _find_index_of(path)
    if index is None:
        return path, ()
    shard = f"one of {len(index.files):,} shards" if len(index.files) > 1 else "the only shard"
    return index.path, (to_short_line(f"{path.name} is {shard} of {index.path.name}; the whole checkpoint is taken"),)


def _find_index_of(path: Path) -> index_files.Index | None:
    """The index beside a file that lists it among its shards."""
    if path.suffix == ".json":
        return None
    place = Path(os.path.abspath(path))
    for found in checkpoint_files(path.parent):
        if found.suffix == ".json":
            try:
                index = index_files.read_index(found)
            except MfconvError:
                continue
            if place in (Path(os.path.abspath(file)) for file in index.files):
                return index
    return None
