"""Which files of a step are of one run, where several runs wrote into the folders of the ranks.

MindSpore numbers the files of a run by what it finds in the folder of each rank (`_1`, `_2`): within a folder a higher number is a later
run, across ranks the numbers say nothing. What tells, in this order:

1. Copies and counters. Files of one run hold equal slices where they hold the same ones, and count steps alike. Files that this links
   belong together; files that it contradicts do not.
2. Where a rank has one file of the step there is no choice: such files are taken as of one run, and so is what is linked to one of them.
3. `meta.json`, where that of every rank names one of the files as the last that was saved.
4. Where the folders of all ranks have the same numbers: the highest of them.

Where several runs are told, the latest. Where nothing tells, nothing is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import InputError, on_one_line, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sources import FileSource
from mfconv_nb.mapping.kinds import OPTIMIZER_STATE, WEIGHTS, category_of
from mfconv_nb.runs.rank_files import RankFile
from mfconv_nb.runs.run import SlicedTensor, Step
from mfconv_nb.streaming.gather import read_tensor

META = "meta.json"
MAX_META_BYTES = 1 << 20
MAX_COMPARED_BYTES = 16 << 20  # of a slice: the smaller ones of a kind tell as much
KINDS_COMPARED = 8  # of names, for every group of ranks that hold copies: one alone may be frozen, or all ones
RANKS_SHOWN = 4

Candidates = Mapping[int, Sequence[RankFile]]  # the files of a step by rank, those of the latest run first
Chosen = Mapping[int, RankFile]
Evidence = Sequence[Mapping[Path, Hashable]]  # for something that is equal in all files of a run: what it is in each file that has it
Headers = Mapping[Path, Mapping[str, LazyTensor]]


@dataclass(frozen=True)
class OneRun:
    """Files that belong together; what was concluded without proof, and what proved the rest, in sentences."""

    files: Chosen
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def needs_no_proof(candidates: Candidates, runs: Mapping[int, Collection[int]]) -> bool:
    """Whether every rank has one file, all under the same number, and ``runs`` in its folder as all others have, as nearly always."""
    numbers = {f.run for files in candidates.values() for f in files}
    return (
        all(len(files) == 1 for files in candidates.values())
        and len(numbers) == 1
        and len({frozenset(runs[rank]) for rank in candidates}) == 1
    )


def files_of_one_run(candidates: Candidates, evidence: Evidence, is_enough: Callable[[Collection[int]], bool]) -> OneRun | None:
    """The files of the latest run that is told, by the rules above; None where nothing tells.

    Args:
        evidence: what files of one run have in common, as ``evidence_of`` gives it.
        is_enough: whether these ranks hold one copy of every slice.
    """
    alone = {rank: files[0] for rank, files in candidates.items() if len(files) == 1}
    linked = _linked(candidates, evidence)
    trunk = [file for group in linked if any(f.rank in alone for f in group) for file in group]
    told = [one for group in (*linked, trunk) if (one := _by_rank(group)) and is_enough(one) and _agree(one.values(), evidence)]
    latest = _latest(told)
    several = any(len(files) > 1 for files in candidates.values())
    if latest is not None:
        is_proven = any(set(latest.values()) <= set(group) for group in linked)
        if is_proven:
            return OneRun(latest, notes=(f"of one run, as copies and counters show: {_shown(latest)}",))
        what = "one file of the step on each rank, taken as of one run, though the folders count their runs differently"
        if several:
            what = "where a rank has several files of the step copies tell which; those of ranks with one are taken as of the same run"
        return OneRun(latest, (f"{what}: {_shown(latest)}",))
    if not several:
        return None
    last = {rank: file for rank, files in candidates.items() if (file := _saved_last(files)) is not None}
    if len(last) == len(candidates) and _agree(last.values(), evidence):
        return OneRun(last, (f"the files of a run are those that {META} of each rank names as the last: {_shown(last)}",))
    first = {rank: files[0] for rank, files in candidates.items()}
    if len({tuple(f.run for f in files) for files in candidates.values()}) == 1 and _agree(first.values(), evidence):
        said = f"several runs wrote into the folders of all ranks, under the same numbers; taken is the latest: {_shown(first)}"
        return OneRun(first, (said,))
    return None


def _linked(candidates: Candidates, evidence: Evidence) -> list[list[RankFile]]:
    """Files that belong together, in groups. Something tells of a rank only where it differs in all its files."""
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


def _by_rank(files: Iterable[RankFile]) -> Chosen:
    """Nothing where two files are of one rank: then they do not belong together after all."""
    files = list(files)
    found = {f.rank: f for f in files}
    return found if len(found) == len(files) else {}


def _agree(files: Iterable[RankFile], evidence: Evidence) -> bool:
    paths = [f.path for f in files]
    return all(len({values[p] for p in paths if p in values}) <= 1 for values in evidence)


def _latest(told: Sequence[Chosen]) -> Chosen | None:
    """The one that is later on every rank that it shares with each of the others; of the same files the one on more ranks."""
    for one in sorted(told, key=len, reverse=True):
        shared = [[(file.run, other[rank].run) for rank, file in one.items() if rank in other] for other in told]
        if all(runs and all(mine >= its for mine, its in runs) for runs in shared):
            return one
    return None


def _shown(files: Chosen) -> str:
    ranks = sorted(files)
    listed = ", ".join(on_one_line(files[r].path.name) for r in ranks[:RANKS_SHOWN])
    return listed + (f" and {len(ranks) - RANKS_SHOWN:,} more" if len(ranks) > RANKS_SHOWN else "")


def _saved_last(files: Sequence[RankFile]) -> RankFile | None:
    """The one that `meta.json` beside them names."""
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
    """What files of one run have in common: slices that several ranks hold, by checksum, and counters.

    Args:
        headers: of every candidate.
        tensors: as one file of each rank gives them: they say which ranks hold the same slices.
        counters: names of what every rank of a run counts alike.
        is_cut_known: whether strategy files say so; else only tensors count that every rank holds whole.
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


def undecided(home: Path, step: Step | None, candidates: Candidates, others: Sequence[Step]) -> InputError:
    """MFC112 for files of which nothing tells which belong together.

    Args:
        others: steps of which every rank has one file.
    """
    by_count = sorted(candidates.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = [by_count[0], by_count[-1]] if len(by_count) > 1 else by_count
    said = "; ".join(f"rank {rank} has {', '.join(quoted(f.path.name) for f in reversed(files[:RANKS_SHOWN]))}" for rank, files in shown)
    found = f"files of several runs{f' at step {step}' if step is not None else ''}: {said}"
    expected = "copies, counters or a meta.json that tell which are of one run: MindSpore counts runs (_1) in each rank's folder apart"
    hint = "Move the files of the other runs out of the folders of the ranks"
    hint += f", or take a step of which every rank has one file: --step {others[0]} (step= in Python)." if others else "."
    return InputError("MFC112", home, found=found, expected=expected, hint=hint)
