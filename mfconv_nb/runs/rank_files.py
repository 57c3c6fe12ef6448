"""List the files of rank folders, with rank, epoch, step and run from their names. Names are compared as numbers, never as text.

`checkpoint/rank_N/{prefix}_rank_N[_k][-network]-{epoch}_{step}[_breakpoint].safetensors` or `.ckpt`. MindSpore counts k by what lies in
the folder of the rank when a run begins: within a folder a higher k is a later run, across ranks it says nothing. Files saved at an
exception end in `_breakpoint`. Renamed folders such as `rank_03` and `rank3` count as rank 3. Names that begin with a dot are ignored.

Source: mindspore 2.10.0, `train/callback/_checkpoint.py` and `train/model.py`; mindformers 2.1.0, `core/callback/callback.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.errors import InputError, on_one_line, quoted
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.known import run_endings, weight_endings
from mfconv_nb.formats.strategy_file import is_strategy, strategy_files
from mfconv_nb.runs.message_text import names_text
from mfconv_nb.runs.run import Step

_RANK = re.compile(r"rank_?(\d{1,6})", re.ASCII)
_STEP = r"-(?P<epoch>\d{1,12})_(?P<step>\d{1,12})(?P<breakpoint>_breakpoint)?"
_NAME = re.compile(r"(?P<prefix>.*?)(?:_(?P<run>\d{1,6}))?" + _STEP, re.DOTALL)
_AFTER_RANK = re.compile(r"(?:_(?P<run>\d{1,6}))?(?P<part>.*?)" + _STEP, re.DOTALL)
_RANK_IN_NAME = re.compile(r"(.*)_rank_(\d{1,6})(?!\d)(.*)", re.DOTALL)  # the last match: a prefix may hold `_rank_N` too
STRATEGIES = (".ckpt", ".json")  # endings of strategy files
INNER = ("checkpoint", "checkpoint_network", "checkpoint_trainable")  # in a run's output folder: everything, weights, trained weights
STRATEGY_FOLDERS = ("strategy", "src_strategy")
RUN_STATE = ("hyper_param.safetensors", "hyper_param.ckpt")  # of a merged checkpoint


@dataclass(frozen=True, slots=True)
class Series:
    """Files that may belong together: one prefix, one ending, and all saved at an exception or none."""

    prefix: str
    ending: str = "safetensors"
    at_exception: bool = False


@dataclass(frozen=True, slots=True)
class RankFile:
    """A file of weights in the folder of a rank.

    Attributes:
        step: None where the name gives none.
        run: MindSpore's count of the runs that wrote into the folder of this rank; it says nothing across ranks.
    """

    rank: int
    step: Step | None
    series: Series
    path: Path
    run: int = 0


def rank_folders_in(folder: Path) -> dict[int, Path]:
    """`rank_N` folders by number, in order; of two folders of one number the first by name."""
    try:
        found = sorted((int(m[1]), n) for n in os.listdir(folder) if (m := _RANK.fullmatch(n)) and os.path.isdir(folder / n))
    except (OSError, ValueError):
        return {}
    return dict(sorted({rank: folder / name for rank, name in reversed(found)}.items()))


def check_each_once(home: Path) -> None:
    """Raises InputError (MFC112) for two folders of one rank: `rank_1` and `rank_01`."""
    seen: dict[int, str] = {}
    for path in list_entries(home):
        match = _RANK.fullmatch(path.name)
        if match is None or not os.path.isdir(path):
            continue
        first = seen.setdefault(int(match[1]), path.name)
        if first != path.name:
            found = f"{quoted(first)} and {quoted(path.name)}"
            raise InputError("MFC112", home, found=found, expected="one folder of a rank", hint="Move one of them away.")


def list_entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without names that begin with a dot: those are copies that other programs keep.

    Raises:
        InputError: MFC101 where it cannot be listed.
    """
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise InputError("MFC101", folder, found=error.strerror, expected="a folder that can be read") from None


def files_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files of some endings that lie in a folder, by name. Raises InputError (MFC101) as ``list_entries``."""
    return [p for p in list_entries(folder) if p.suffix in endings and os.path.isfile(p)]


def home_of(folder: Path) -> Path | None:
    """The folder that holds the `rank_N` folders: the given one, or a folder in a run's output; None where there is none.

    A folder with weights of its own is a run only where ranks with weights lie in it directly: other checkpoints may keep logs by rank, or
    the output of a run, beside them.
    """
    homes = [home for home in (folder, *(folder / name for name in INNER)) if rank_folders_in(home)]
    if homes and holds_weights(folder) and (homes[0] != folder or not any(map(holds_weights, rank_folders_in(folder).values()))):
        return None
    return next(iter(homes), None)


def holds_weights(folder: Path) -> bool:
    """Whether files with the ending of weights lie in a folder; strategy files have such endings too and do not count."""
    try:
        files = files_in(folder, weight_endings())
    except InputError:
        return False
    return any(not is_strategy(p) for p in files)


def list_rank_files(folders: Mapping[int, Path]) -> tuple[tuple[RankFile, ...], tuple[str, ...]]:
    """Every file with weights, and a sentence for each file that is ignored.

    Where some names give a step, files whose name gives none are ignored.
    """
    found: list[RankFile] = []
    notes: list[str] = []
    for rank, folder in folders.items():
        for path in files_in(folder, run_endings()):
            if path.name in RUN_STATE or is_strategy(path):
                continue
            one = _parse_file(rank, path)
            if one is None:
                notes.append(f"not read: {folder.name}/{on_one_line(path.name)}, which by its name is of another rank")
            else:
                found.append(one)
    if any(f.step is not None for f in found):
        notes += [f"not read: rank_{f.rank}/{on_one_line(f.path.name)}, whose name tells no step" for f in found if f.step is None][:4]
        found = [f for f in found if f.step is not None]
    return tuple(found), tuple(notes)


def _parse_file(rank: int, path: Path) -> RankFile | None:
    """What the name of a file says; None where it names another rank."""
    named = _RANK_IN_NAME.fullmatch(path.stem)
    if named is not None and int(named[2]) != rank:
        return None
    match = (_NAME if named is None else _AFTER_RANK).fullmatch(path.stem if named is None else named[3])
    if match is None:  # `checkpoint_3.ckpt`, as MindSpore names a transformed checkpoint: the number is the rank
        stem = path.stem if named is None else named[1] + named[3]
        return RankFile(rank, None, Series(re.sub(rf"_?{rank}$", "", stem), path.suffix[1:]), path)
    prefix = match["prefix"] if named is None else named[1] + match["part"]
    series = Series(prefix, path.suffix[1:], match["breakpoint"] is not None)
    return RankFile(rank, Step(int(match["epoch"]), int(match["step"])), series, path, int(match["run"] or 0))


def rank_in_name(name: str) -> int | None:
    """The rank in the name of a file with weights, such as `llama_rank_3-1_1.ckpt`; None without one."""
    match = _RANK_IN_NAME.fullmatch(Path(name).stem)
    is_step = match is not None and Path(name).suffix in run_endings() and _AFTER_RANK.fullmatch(match[3])
    return int(match[2]) if match is not None and is_step else None


def steps_by_rank(folders: Iterable[int], files: Iterable[RankFile]) -> dict[int, tuple[Step, ...]]:
    """The steps of every rank, also of ranks without any."""
    steps: dict[int, set[Step]] = {rank: set() for rank in folders}
    for file in files:
        if file.step is not None:
            steps[file.rank].add(file.step)
    return {rank: tuple(sorted(had)) for rank, had in sorted(steps.items())}


def find_strategy(home: Path, given: Path | None, folders: Iterable[Path] = ()) -> list[Path]:
    """The strategy files of a run: the given ones, or those where MindFormers puts them; empty where there are none.

    Args:
        folders: of the ranks; searched last, for files that people put beside the slices.

    Raises:
        InputError: MFC101, MFC114 for a given path without any.
    """
    if given is not None:
        found = strategy_files(given) if os.path.exists(given) else [FileSource(given).path]
        if not found:
            raise InputError("MFC114", given, found="no strategy file", expected="files such as ckpt_strategy_rank_0.ckpt")
        return found
    for above in _strategy_places(home):
        for place in (above / name for name in STRATEGY_FOLDERS):
            if os.path.isdir(place) and (found := [p for p in strategy_files(place) if not p.name.startswith(".")]):
                return found
        if found := _strategies_by_name(above):
            return found
    return [path for folder in folders for path in _strategies_by_name(folder)]


def _strategy_places(home: Path) -> tuple[Path, Path]:
    return home, Path(os.path.abspath(home)).parent


def _strategies_by_name(folder: Path) -> list[Path]:
    return [p for p in files_in(folder, STRATEGIES) if "strategy" in p.name and is_strategy(p)]


def note_unused_strategies(home: Path) -> tuple[str, ...]:
    """A sentence on files in the place of strategy files that are none: empty, damaged, not readable."""
    places = [above / name for above in _strategy_places(home) for name in STRATEGY_FOLDERS if os.path.isdir(above / name)]
    files = [p for place in places for p in files_in(place, STRATEGIES)]
    wrong = [f"{p.parent.name}/{on_one_line(p.name)}" for p in files if not is_strategy(p)]
    if not wrong:
        return ()
    head = f"{len(wrong)} files, such as {wrong[0]}, are" if len(wrong) > 1 else f"{wrong[0]} is"
    return (f"not read: {head} no strategy file",)


def note_weights_beside(what: str, folder: Path) -> tuple[str, ...]:
    """A sentence on weights that lie in a run's folder, beside its ranks or its iterations."""
    files = files_in(folder, run_endings())
    others = [p.name for p in files if not is_strategy(p)]
    return (f"not read, beside the {what}: {names_text(others)}",) if others else ()
