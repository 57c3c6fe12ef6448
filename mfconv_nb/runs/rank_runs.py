"""Choose the files of one run among those of a step, where several runs wrote into the folders of the ranks.

MindSpore numbers the files of a run by what it finds in the folder of each rank (`_1`, `_2`): within a folder a higher number is a later
run, across ranks the numbers say nothing. These rules decide, in this order:

1. Copies and counters. Files of one run hold equal bytes in the slices that they share, and equal step counters. Equal values link
   files; different ones separate them.
2. A rank with one file of the step leaves no choice: all such files, and the files linked to them, count as one run.
3. `meta.json`: the file that it names as the last saved, where the one of every rank names a candidate.
4. The highest number, where the folders of all ranks have the same numbers.

Of several runs that a rule finds, the latest is chosen. Where no rule decides, nothing is chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import InputError, on_one_line
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sources import FileSource
from mfconv_nb.mapping.kinds import OPTIMIZER_STATE, WEIGHTS, category_of
from mfconv_nb.runs.rank_files import RankFile
from mfconv_nb.runs.run import SlicedTensor
from mfconv_nb.streaming.gather import read_tensor

META = "meta.json"
MAX_META_BYTES = 1 << 20
MAX_COMPARED_BYTES = 16 << 20  # of a slice: the smaller ones of a kind tell as much
KINDS_COMPARED = 8  # of names, for every group of ranks that hold copies: one alone may be frozen, or all ones
RANKS_SHOWN = 4

Candidates = Mapping[int, Sequence[RankFile]]  # the files of a step by rank, the latest run first
Chosen = Mapping[int, RankFile]
Evidence = Sequence[Mapping[Path, Hashable]]  # values that are equal in all files of a run: each as a map from file to value
Headers = Mapping[Path, Mapping[str, LazyTensor]]


@dataclass(frozen=True)
class RunFiles:
    """Files of one run by rank; sentences on what is assumed without proof, and on what proves the rest."""

    files: Chosen
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def needs_no_proof(candidates: Candidates, runs: Mapping[int, Collection[int]]) -> bool:
    """Whether every rank has one file, all files one number, and all folders the same ``runs``, as nearly always."""
    numbers = {f.run for files in candidates.values() for f in files}
    return (
        all(len(files) == 1 for files in candidates.values())
        and len(numbers) == 1
        and len({frozenset(runs[rank]) for rank in candidates}) == 1
    )


def choose_files_of_one_run(candidates: Candidates, evidence: Evidence, is_enough: Callable[[Collection[int]], bool]) -> RunFiles | None:
    """The files of the latest run, by the rules above; None where no rule decides.

    Args:
        evidence: from ``evidence_of``.
        is_enough: whether these ranks hold one copy of every slice.
    """
    alone = {rank: files[0] for rank, files in candidates.items() if len(files) == 1}
    linked = _link_files(candidates, evidence)
    trunk = [file for group in linked if any(f.rank in alone for f in group) for file in group]
    whole_runs = [one for group in (*linked, trunk) if (one := _index_by_rank(group)) and is_enough(one) and _agree(one.values(), evidence)]
    latest = _latest_of(whole_runs)
    several = any(len(files) > 1 for files in candidates.values())
    if latest is not None:
        is_proven = any(set(latest.values()) <= set(group) for group in linked)
        if is_proven:
            return RunFiles(latest, notes=(f"of one run, as copies and counters show: {_files_text(latest)}",))
        what = "one file of the step on each rank, taken as of one run, though the folders count their runs differently"
        if several:
            what = "where a rank has several files of the step copies tell which; those of ranks with one are taken as of the same run"
        return RunFiles(latest, (f"{what}: {_files_text(latest)}",))
    if not several:
        return None
    last = {rank: file for rank, files in candidates.items() if (file := _last_saved_of(files)) is not None}
    if len(last) == len(candidates) and _agree(last.values(), evidence):
        return RunFiles(last, (f"the files of a run are those that {META} of each rank names as the last: {_files_text(last)}",))
    first = {rank: files[0] for rank, files in candidates.items()}
    if len({tuple(f.run for f in files) for files in candidates.values()}) == 1 and _agree(first.values(), evidence):
        said = f"several runs wrote into the folders of all ranks, under the same numbers; taken is the latest: {_files_text(first)}"
        return RunFiles(first, (said,))
    return None


def _link_files(candidates: Candidates, evidence: Evidence) -> list[list[RankFile]]:
    """Groups of files that equal values link. A value says nothing of a rank where two of its files share it or one lacks it."""
    group_of = {file.path: [file] for files in candidates.values() for file in files}
    for values in evidence:
        first: dict[Hashable, RankFile] = {}
        for files in candidates.values():
            had = [values[f.path] for f in files if f.path in values]
            if len(had) < len(files) or len(set(had)) < len(had):
                continue
            for file, value in zip(files, had, strict=True):
                mine, other = group_of[file.path], group_of[first.setdefault(value, file).path]
                if mine is not other:
                    other += mine
                    group_of.update({f.path: other for f in mine})
    return list({id(group): group for group in group_of.values()}.values())


def _index_by_rank(files: Iterable[RankFile]) -> Chosen:
    """The files by rank; nothing where two are of one rank: then they are not of one run after all."""
    files = list(files)
    found = {f.rank: f for f in files}
    return found if len(found) == len(files) else {}


def _agree(files: Iterable[RankFile], evidence: Evidence) -> bool:
    paths = [f.path for f in files]
    return all(len({values[p] for p in paths if p in values}) <= 1 for values in evidence)


def _latest_of(runs: Sequence[Chosen]) -> Chosen | None:
    """The run that is later than each other one on all ranks that both have; of equal ones that on more ranks."""
    for one in sorted(runs, key=len, reverse=True):
        shared = [[(file.run, other[rank].run) for rank, file in one.items() if rank in other] for other in runs]
        if all(numbers and all(mine >= its for mine, its in numbers) for numbers in shared):
            return one
    return None


def _files_text(files: Chosen) -> str:
    ranks = sorted(files)
    listed = ", ".join(on_one_line(files[r].path.name) for r in ranks[:RANKS_SHOWN])
    return listed + (f" and {len(ranks) - RANKS_SHOWN:,} more" if len(ranks) > RANKS_SHOWN else "")


def _last_saved_of(files: Sequence[RankFile]) -> RankFile | None:
    """The file that `meta.json` beside them names as the last saved."""
    path = files[0].path.parent / META
    try:
        source = FileSource(path)
        content = json.loads(source.read(0, source.size)) if source.size <= MAX_META_BYTES else None
    except (ValueError, RecursionError, InputError):
        return None
    name = content.get("last_ckpt_file") if isinstance(content, dict) else None
    return next((f for f in files if f.path.name == name), None)


# ---- evidence ------------------------------------------------------------------------------------------------------------------


def evidence_of(
    candidates: Candidates, headers: Headers, tensors: Iterable[SlicedTensor], counters: Collection[str], *, is_cut_known: bool
) -> Evidence:
    """What must be equal in all files of a run: checksums of slices that several ranks hold, and counters.

    Args:
        headers: of every candidate.
        tensors: made of one file a rank; they show which ranks hold the same slices.
        counters: names of counters that are equal on every rank of a run.
        is_cut_known: strategy files show which ranks hold the same slices. Without them only tensors count that every rank holds whole.
    """
    by_ranks: dict[tuple[int, ...], dict[str, str]] = {}
    for tensor in sorted(tensors, key=lambda t: (len(t.shape) < 2, t.slices[0].tensor.spec.nbytes)):  # vectors last: often constant
        first = tensor.slices[0].tensor.spec
        if first.nbytes > MAX_COMPARED_BYTES or first.elements < 2 or category_of(tensor.name) not in (WEIGHTS, OPTIMIZER_STATE):
            continue
        boxes = tensor.boxes
        if is_cut_known or len(boxes) == 1:
            for copies in boxes.values():
                ranks = tuple(s.rank for s in copies)
                if len(ranks) > 1:
                    by_ranks.setdefault(ranks, {}).setdefault(fold(tensor.name)[0], tensor.name)
    wanted = [(ranks, name) for ranks, names in by_ranks.items() for name in list(names.values())[:KINDS_COMPARED]]
    wanted += [(tuple(candidates), name) for name in sorted(counters)]
    found = []
    for ranks, name in wanted:
        files = [f for rank in ranks for f in candidates.get(rank, ())]
        found.append({f.path: _checksum(headers[f.path][name]) for f in files if name in headers[f.path]})
    return found


def _checksum(tensor: LazyTensor) -> Hashable:
    return tensor.dtype, tensor.shape, hashlib.blake2b(read_tensor(tensor).tobytes()).digest()
