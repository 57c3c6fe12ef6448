"""What lies in the folders of the ranks, before a step is chosen: files, steps, pipeline stages. Opens strategy files only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.errors import InputError
from mfconv_nb.core.report import how_many
from mfconv_nb.formats.strategy_file import read_strategies
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.runs.rank_files import (
    RankFile,
    check_each_once,
    find_strategy,
    home_of,
    list_rank_files,
    note_unused_strategies,
    note_weights_beside,
    rank_folders_in,
    steps_by_rank,
)
from mfconv_nb.runs.rank_tensors import Groups
from mfconv_nb.runs.run import Step, check_prefix
from mfconv_nb.runs.strategies import Stage, needed_groups, stages_of
from mfconv_nb.runs.without_strategy import Digest

MAX_RANK_GAP = 1 << 16
WholeShapes = Mapping[str, Shape] | Callable[[Iterable[str]], Mapping[str, Shape]]


@dataclass(frozen=True)
class RankListing:
    """The rank folders of a run.

    Attributes:
        folder, home: what the caller gave, and the folder in it that holds the ranks.
        folders: of every rank.
        stages, strategies: what the strategy files say, and their paths; empty without any.
        shapes, digest: see ``open_rank_folders``.
    """

    folder: Path
    home: Path
    folders: Mapping[int, Path]
    files: tuple[RankFile, ...]
    stages: tuple[Stage, ...]
    strategies: tuple[Path, ...]
    shapes: WholeShapes
    digest: Digest | None
    notes: tuple[str, ...]

    @property
    def groups(self) -> Groups:
        """Groups of ranks; a checkpoint needs one rank of each. With a strategy its copies form a group; without one, every rank alone."""
        if not self.stages:
            return [(rank,) for rank in range(min(MAX_RANK_GAP, max(self.folders) + 1))]
        return needed_groups(self.stages, [n for s in self.stages for n in s.layouts if not is_run_state(n)])

    @property
    def steps(self) -> dict[int, tuple[Step, ...]]:
        """The steps of every rank."""
        return steps_by_rank(self.folders, self.files)


def list_rank_folders(
    folder: Path, strategy: Path | None, file_prefix: str | None, shapes: WholeShapes | None, digest: Digest | None
) -> RankListing:
    """List the ranks of a run. Arguments and errors: see ``open_rank_folders``."""
    home = home_of(folder)
    if home is None:
        raise InputError("MFC102", folder, found="no rank_N folder", expected="rank_0, rank_1 and so on")
    check_each_once(home)
    folders = rank_folders_in(home)
    files, notes = list_rank_files(folders)
    if not files:
        found = f"{how_many(len(folders), 'rank folder')} without weights"
        raise InputError("MFC102", home, found=found, expected="*.safetensors or *.ckpt in each")
    if file_prefix is not None:
        check_prefix(file_prefix, (f.series.prefix for f in files), home)
        files = tuple(f for f in files if f.series.prefix == file_prefix)
    strategies = find_strategy(home, strategy, folders.values())
    notes += (note_unused_strategies(home) if strategy is None else ()) + note_weights_beside("ranks", home)
    stages = stages_of(read_strategies(strategies), list(folders)) if strategies else ()
    return RankListing(folder, home, folders, files, stages, tuple(strategies), shapes or {}, digest, notes)


def groups_without(groups: Groups, ranks: Iterable[int]) -> list[tuple[int, ...]]:
    """The groups of which none of these ranks is a member."""
    there = set(ranks)
    return [group for group in groups if not there.intersection(group)]
