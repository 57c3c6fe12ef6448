"""Checkpoint 1.0 of MindFormers, opened: `rank_N/` folders of slices, with the strategy files that say how they were cut. Headers only.

The newest step that is complete is taken, the same one on every rank; steps are never mixed. Complete means: of every slice of every
weight one copy is there. Which ranks hold copies follows from the strategy; whether redundant ones were left out is not asked, it
shows in what the files hold. Of several runs that wrote into the same folders the latest is taken, where something tells which files
are of it (see ``rank_runs``). What was saved at an exception is read where nothing else is there, or asked for by its step. Nothing is
written, and mindspore is not needed.

Source: mindspore 2.10.0 (how `unified_safetensors` reads such folders, and what it does not check).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.checkpoint import LazyTensor, OtherEntry
from mfconv_nb.core.errors import InputError, MfconvError, on_one_line, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.format import OpenedFile
from mfconv_nb.formats.known import known_formats
from mfconv_nb.formats.reading import format_of
from mfconv_nb.formats.strategy_file import read_strategies
from mfconv_nb.mapping.kinds import COUNTERS, is_run_state, weight_of
from mfconv_nb.runs.rank_files import (
    RankFile,
    Series,
    beside,
    check_each_once,
    files_of,
    find_strategy,
    home_of,
    rank_folders_in,
    steps_by_rank,
    unused_strategies,
)
from mfconv_nb.runs.rank_runs import Candidates, OneRun, evidence_of, files_of_one_run, needs_no_proof, undecided
from mfconv_nb.runs.rank_tensors import Found, Groups, Held, by_strategy, held_whole, names_text, ranks_text, some_of
from mfconv_nb.runs.run import Step, TrainedRun, check_prefix, several_prefixes
from mfconv_nb.runs.strategies import Stage, needed_groups, stages_of
from mfconv_nb.runs.without_strategy import Digest, Guess, guess_slicings
from mfconv_nb.streaming.gather import read_tensor
from mfconv_nb.streaming.open_files import allow_open_files

KIND = "rank folders (Checkpoint 1.0)"
# What every rank of a run counts alike; the iterator's own position and the loss scale may differ.
SAME_ON_ALL_RANKS = frozenset({"epoch_num", "step_num", "global_step", "current_step", "optimizer.global_step"})
# Parts of names that MindFormers' callback leaves out of a save.
NOT_SAVED = ("fi_parameter", "zeros_k_", "zeros_value_states", "_cache", "_device_local_", "expert_load", "max_logits_val")
MAX_RANK_GAP = 1 << 16
WholeShapes = Mapping[str, Shape] | Callable[[Iterable[str]], Mapping[str, Shape]]


def looks_like_rank_folders(folder: Path) -> bool:
    """True for a folder with `rank_N` folders, and for the output folder of a run that has them in `checkpoint/`. Opens no file."""
    return home_of(folder) is not None


def open_rank_folders(
    folder: Path,
    *,
    step: Step | int | None = None,
    strategy: Path | None = None,
    file_prefix: str | None = None,
    shapes: WholeShapes | None = None,
    digest: Digest | None = None,
) -> TrainedRun:
    """Open the checkpoint of one step: the step asked for, or the newest that is complete.

    Args:
        step: as in the names of the files; a number is the step of whatever epoch has it.
        strategy: a strategy file, or a folder of them; left out, they are looked for beside the ranks.
        file_prefix: what stands before `_rank_N` in the names of the files, where several runs wrote into one folder.
        shapes: of the whole tensors, by name, where they are known; or a function that gives them for the names that are there. What the
            strategy makes of the slices must agree with them, and they tell the cuts when no strategy file is left. Where that function
            raises, they are not known, and the message says why.
        digest: gives a checksum of a tensor's numbers: what tells which ranks hold copies when no strategy file is left.

    Raises:
        InputError: MFC102 where there are no `rank_N` folders, MFC112 for a step that no rank has, MFC114 for strategy files that cannot be
            used, MFC111 for a stage without one. UsageError: MFC501 for a prefix that no file has. FormatError: MFC2xx for a file that
            cannot be trusted. What makes the checkpoint incomplete is in ``problems``.
    """
    home = home_of(folder)
    if home is None:
        raise InputError("MFC102", folder, found="no rank_N folder", expected="rank_0, rank_1 and so on")
    check_each_once(home)
    folders = rank_folders_in(home)
    files, notes = files_of(folders)
    if not files:
        raise InputError(
            "MFC102", home, found=f"{how_many(len(folders), 'rank folder')} without weights", expected="*.safetensors or *.ckpt in each"
        )
    if file_prefix is not None:
        check_prefix(file_prefix, (f.series.prefix for f in files), home)
        files = tuple(f for f in files if f.series.prefix == file_prefix)
    strategies = find_strategy(home, strategy, folders.values())
    notes += (unused_strategies(home) if strategy is None else ()) + beside("ranks", home)
    stages = stages_of(read_strategies(strategies), list(folders)) if strategies else ()
    run = _Run(folder, home, folders, files, stages, tuple(strategies), shapes or {}, digest, notes)
    return _at(run, _steps_asked(run, step), asked=step is not None)


@dataclass(frozen=True)
class _Run:
    """A folder before a step is chosen."""

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
        """Groups of ranks of which one is needed each: copies by the strategy; without one, every rank."""
        if not self.stages:
            return [(rank,) for rank in range(min(MAX_RANK_GAP, max(self.folders) + 1))]
        return needed_groups(self.stages, [n for s in self.stages for n in s.layouts if not is_run_state(n)])

    @property
    def steps(self) -> dict[int, tuple[Step, ...]]:
        return steps_by_rank(self.folders, self.files)


# ---- which step --------------------------------------------------------------------------------------------------------------


def _steps_asked(run: _Run, step: Step | int | None) -> list[Step | None]:
    """The steps that may be taken, the newest first."""
    there = sorted({f.step for f in run.files if f.step is not None}, reverse=True)
    if step is None:
        in_time = {f.step for f in run.files if not f.series.at_exception}
        return [s for s in there if s in in_time] or list(there) or [None]
    number = step if isinstance(step, int) else step.step if step.epoch is None else None
    fitting = [s for s in there if s == step or s.step == number]
    if len(fitting) == 1:
        return list(fitting)
    listed = ", ".join(str(s) for s in (fitting or there)[:12]) or "names that tell no step"
    hint = "Say the epoch too, as in the names of the files: EPOCH_STEP." if fitting else "Choose one that is there."
    raise InputError("MFC112", run.home, found=listed, expected=f"one step {step}", hint=hint)


def _at(run: _Run, steps: Sequence[Step | None], asked: bool) -> TrainedRun:
    """The first of these steps that is complete; where none is, the first that all needed ranks have, with what is wrong with it."""
    groups, skipped, first = run.groups, [], None
    extra = [rank for rank in run.folders if run.stages and rank >= run.stages[-1].ranks.stop]
    if extra:
        raise _more_ranks(run, extra)
    for step in steps:
        try:
            taken = _files_at(run, step, groups)
            if isinstance(taken, MfconvError):
                skipped.append((step, taken))
                continue
            opened = _open_step(run, step, {rank: file.path for rank, file in taken.files.items()})
            opened = replace(opened, assumed=(*taken.assumed, *opened.assumed), notes=(*taken.notes, *opened.notes))
        except _NotToldError as error:  # an older step would be read, of whichever checkpoint or run has one
            return _unopened(run, error.problem)
        except MfconvError as error:
            if asked or error.code != "MFC202" or len(steps) == 1:  # cut short: a save that broke off, an older step may be whole
                raise
            skipped.append((step, error))
            continue
        if not any(p.code in ("MFC111", "MFC112", "MFC113") for p in opened.problems) or asked:
            return _finished(run, opened, skipped)
        first = first or opened
        skipped.append((step, opened.problems[0]))
    if first is not None:
        return _finished(run, first, ())
    return _unopened(run, skipped[0][1] if asked or len(steps) == 1 else _nothing_common(run, groups))


def _unopened(run: _Run, problem: MfconvError) -> TrainedRun:
    """A run of which no step could be opened."""
    files = tuple(f.path for f in run.files)
    return TrainedRun(run.folder, KIND, run.steps, None, {}, files, problems=(problem,), notes=run.notes)


def _more_ranks(run: _Run, extra: Sequence[int]) -> InputError:
    last = run.stages[-1]
    found = f"{how_many(len(run.folders), 'rank folder')}, up to rank_{max(extra)}"
    ranks = f"ranks 0 to {last.ranks.stop - 1}" if last.ranks.stop > 1 else "rank 0"
    stages = f"{how_many(len(run.stages), 'stage')}, of {how_many(last.devices, 'device')} in the last"
    expected = f"{ranks}: the strategy speaks of {stages}"
    code = "MFC111" if (max(extra) + 1) % last.devices == 0 else "MFC114"
    hint = "The strategy file of a pipeline stage is missing, or these are the strategy files of another run: give the right ones."
    return InputError(code, run.home, found=found, expected=expected, hint=hint)


class _NotToldError(Exception):
    """Which files of a step belong together is not told, so that no step is read unasked."""

    def __init__(self, problem: InputError) -> None:
        self.problem = problem


def _files_at(run: _Run, step: Step | None, groups: Groups) -> OneRun | MfconvError:
    """The files of one step: of one prefix, ending and run, so that they belong together.

    Raises:
        _NotToldError: where there are several checkpoints, or runs, and nothing tells which is meant.
    """
    by_series: dict[Series, dict[int, list[RankFile]]] = {}
    for file in sorted(run.files, key=lambda f: -f.run):
        if file.step == step:
            had = by_series.setdefault(file.series, {}).setdefault(file.rank, [])
            if had and had[-1].run == file.run:
                twice = f"{quoted(file.path.name)} and {quoted(had[-1].path.name)}"
                return InputError("MFC112", run.folders[file.rank], found=twice, expected="one file of a step", hint="Move one away.")
            had.append(file)
    complete = {s: files for s, files in by_series.items() if not _absent(groups, files)}
    if not complete:
        if len(by_series) > 1 and not _absent(groups, {rank for files in by_series.values() for rank in files}):
            return _split_over_names(run, step, by_series)
        best = max(by_series.values(), key=lambda files: len(files), default={})
        return _absence(run, step, _absent(groups, best))
    in_time = {s: files for s, files in complete.items() if not s.at_exception} or complete
    prefixes = {s.prefix for s in in_time}
    if len(prefixes) > 1:
        listed = " and ".join(quoted(prefix) for prefix in sorted(prefixes))
        found = f"files of {listed}{f' at step {step}' if step else ''}, each on all ranks"
        raise _NotToldError(several_prefixes("MFC112", run.home, prefixes, found=found, expected="one checkpoint"))
    taken = [
        _one_run(run, step, candidates, groups) for _, candidates in sorted(in_time.items(), key=lambda item: item[0].ending == "ckpt")
    ]
    return max(taken, key=lambda one: min(file.run for file in one.files.values()))  # of the same run the safetensors


def _split_over_names(run: _Run, step: Step | None, by_series: Mapping[Series, Mapping[int, Sequence[RankFile]]]) -> InputError:
    """MFC112 for files that would be enough together, and do not belong together by their names."""
    firsts = [next(iter(files.values()))[0].path.name for files in by_series.values()]
    found = f"files of other names on each rank, such as {names_text(firsts)}"
    expected = f"files of one prefix and ending{f' at step {step}' if step is not None else ''} on all ranks"
    hint = "Fetch the rest of one of them; files of one run that were renamed need one name again."
    return InputError("MFC112", run.home, found=found, expected=expected, hint=hint)


def _one_run(run: _Run, step: Step | None, candidates: Candidates, groups: Groups) -> OneRun:
    """The files of one run among those of a step. Raises _NotToldError where nothing tells which they are."""
    series = next(iter(candidates.values()))[0].series
    runs: dict[int, set[int]] = {}
    for file in run.files:
        if file.series == series:
            runs.setdefault(file.rank, set()).add(file.run)
    if needs_no_proof(candidates, runs):
        return OneRun({rank: files[0] for rank, files in candidates.items()})
    candidates, headers = _readable(candidates)
    try:
        trial = _open_step(replace(run, digest=None), step, {rank: files[0].path for rank, files in candidates.items()})
        tensors = trial.tensors
    except MfconvError:  # no strategy that fits: nothing says which ranks hold copies
        tensors = {}
    evidence = evidence_of(candidates, headers, tensors.values(), SAME_ON_ALL_RANKS, is_cut_known=bool(run.stages))
    told = files_of_one_run(candidates, evidence, lambda ranks: not _absent(groups, ranks))
    if told is None:
        raise _NotToldError(undecided(run.home, step, candidates, _steps_without_choice(run, groups)))
    return told


def _readable(candidates: Candidates) -> tuple[Candidates, dict[Path, dict[str, LazyTensor]]]:
    """The files that are whole, and their tensors: a save that broke off is none of the run's, where the rank has another file."""
    headers: dict[Path, dict[str, LazyTensor]] = {}
    left: dict[int, list[RankFile]] = {}
    for rank, files in candidates.items():
        for file in files:
            try:
                headers[file.path] = {t.name: t for t in _open_file(file.path).tensors}
            except MfconvError as error:
                if error.code != "MFC202" or len(files) == 1:
                    raise
                continue
            left.setdefault(rank, []).append(file)
        if rank not in left:
            _open_file(files[0].path)  # raises
    return left, headers


def _steps_without_choice(run: _Run, groups: Groups) -> list[Step]:
    """Steps of which every needed rank has one file, the newest first."""
    by_step: dict[Step, list[int]] = {}
    for file in run.files:
        if file.step is not None:
            by_step.setdefault(file.step, []).append(file.rank)
    return [s for s, ranks in sorted(by_step.items(), reverse=True) if len(set(ranks)) == len(ranks) and not _absent(groups, ranks)]


def _absent(groups: Groups, ranks: Iterable[int]) -> list[tuple[int, ...]]:
    there = set(ranks)
    return [group for group in groups if not there.intersection(group)]


def _absence(run: _Run, step: Step | None, absent: Groups) -> MfconvError:
    """MFC112 where ranks that are there lack the step, MFC111 where no rank that could have it is there."""
    with_files = {f.rank for f in run.files}
    behind = sorted({rank for group in absent for rank in group if rank in with_files})
    gone = [group for group in absent if not with_files.intersection(group)]
    if gone or not behind:
        return _missing(run, step, gone or absent)
    steps = run.steps
    listed = "; ".join(f"rank {r} has {', '.join(str(s) for s in steps[r][-4:]) or 'no step'}" for r in behind[:6])
    if len(behind) > 6:
        ahead = [rank for rank in steps if step in steps[rank]]
        listed = f"only rank{'s' * (len(ahead) > 1)} {some_of(ahead)} of {how_many(len(with_files), 'rank')}"
        listed += f": {len(with_files) - len(ahead):,} do not have it"
    hint = "Choose a step that all ranks have, or fetch the rest of this one."
    return InputError("MFC112", run.home, found=listed, expected=f"step {step} on {ranks_text(absent)}", hint=hint)


def _missing(run: _Run, step: Step | None, absent: Groups) -> InputError:
    found = f"no file of {ranks_text(absent)}"
    expected = "one copy of every slice" + (f" at step {step}" if step is not None else "")
    hint = (
        "Fetch the missing folders." if run.stages else "Fetch the missing folders, or give the strategy files: then copies may be missing."
    )
    return InputError("MFC111", run.home, found=found, expected=expected, hint=hint)


def _nothing_common(run: _Run, groups: Groups) -> MfconvError:
    gone = _absent(groups, {f.rank for f in run.files})
    if gone:
        return _missing(run, None, gone)
    listed = "; ".join(f"rank {rank}: {', '.join(str(s) for s in had[-4:]) or 'none'}" for rank, had in list(run.steps.items())[:8])
    hint = "Wait until the run has written the rest, or fetch the files of one step from all ranks."
    return InputError("MFC112", run.home, found=listed, expected="a step that all needed ranks have", hint=hint)


def _finished(run: _Run, opened: TrainedRun, skipped: Sequence[tuple[Step | None, MfconvError]]) -> TrainedRun:
    notes = [*run.notes]
    notes += [f"step {s} is newer but not complete, and not read: {on_one_line(f'{e.code}, {e.found}')[:200]}" for s, e in skipped]
    without = [rank for rank, had in run.steps.items() if opened.chosen is not None and opened.chosen not in had]
    if without and not opened.problems:
        notes.append(f"ranks without step {opened.chosen}: {some_of(without)}; every slice has a copy on another rank")
    chosen = opened.chosen
    broken = sorted({f.step for f in run.files if f.step is not None and f.series.at_exception}) if chosen is not None else []
    if chosen in broken and not any(f.step == chosen and not f.series.at_exception for f in run.files):
        notes.append(f"step {chosen} was saved at an exception")
    elif any(chosen is not None and chosen < s for s in broken):
        notes.append(f"step {broken[-1]} is newer, saved at an exception, and not read: --step {broken[-1]} (step= in Python) takes it")
    return replace(opened, notes=(*notes, *opened.notes))


# ---- one step ----------------------------------------------------------------------------------------------------------------


def _open_step(run: _Run, step: Step | None, paths: Mapping[int, Path]) -> TrainedRun:
    held: dict[str, dict[int, LazyTensor]] = {}
    others: dict[str, OtherEntry] = {}
    reduced = 0
    allow_open_files(len(paths))
    for rank, path in sorted(paths.items()):
        file = _open_file(path)
        reduced += file.metadata.get("remove_redundancy") == "True"
        for tensor in file.tensors:
            held.setdefault(tensor.name, {})[rank] = tensor
        others |= {o.name: o for o in file.others}
    shapes, unknown_since = _shapes_of(run, held)
    state, disagreements = _counters(run, held)
    found = Found(problems=list(disagreements), opened=frozenset(paths))
    assumed: tuple[str, ...] = ()
    if run.stages:
        by_strategy(run.home, run.stages, held, found, shapes)
    elif len(paths) == 1:
        found.tensors.update({n: held_whole(n, h) for n, h in held.items()})
        assumed = ("there is one rank and no strategy file: its tensors are taken as whole",)
    else:
        assumed = _by_guess(run, held, found, shapes, unknown_since)
    if found.absent:
        found.problems.insert(0, _missing(run, step, list(found.absent)))
    notes = _other_files(run, step, paths) + _step_notes(run, held, found, shapes, reduced, len(paths))
    if found.as_weights:
        count, listed = how_many(len(found.as_weights), "tensor"), names_text(found.as_weights)
        assumed += (f"no strategy file names {count} of the optimizer's state, taken as cut like the weights: {listed}",)
    if found.unknown:
        count, listed = how_many(len(found.unknown), "tensor"), names_text(found.unknown)
        assumed += (f"no strategy file names {count}, taken as whole on every rank: {listed}",)
    return TrainedRun(
        run.folder,
        KIND,
        run.steps,
        step,
        found.tensors,
        files=(*paths.values(), *run.strategies),
        others=tuple(others.values()),
        absent=_silent(run, held),
        problems=tuple(found.problems),
        assumed=assumed,
        notes=notes,
        state=state,
    )


def _silent(run: _Run, held: Mapping[str, Held]) -> tuple[str, ...]:
    """Weights of the strategy that no file holds."""
    silent = dict.fromkeys(n for s in run.stages for n in s.layouts if n not in held and not is_run_state(n))
    return tuple(n for n in silent if not any(part in n for part in NOT_SAVED))


def _other_files(run: _Run, step: Step | None, paths: Mapping[int, Path]) -> tuple[str, ...]:
    """A sentence on files of the same step that are not read, as those of the other format."""
    if step is None:
        return ()
    others = [f.path for f in run.files if f.step == step and paths.get(f.rank) != f.path]
    return (f"not read: {how_many(len(others), 'file')} of the same step, such as {on_one_line(others[0].name)}",) if others else ()


def _shapes_of(run: _Run, held: Mapping[str, Held]) -> tuple[Mapping[str, Shape], MfconvError | None]:
    """The shapes of whole tensors, or why they are not known."""
    if not callable(run.shapes):
        return run.shapes, None
    try:
        return run.shapes(held), None
    except MfconvError as error:
        return {}, error


def _open_file(path: Path) -> OpenedFile:
    source = FileSource(path)
    kind = format_of(source)
    if not kind.in_runs:
        expected = " or ".join(f.title for f in known_formats() if f.in_runs)
        hint = "Move it out of the folder of the rank; by its own path it can be opened."
        raise InputError("MFC103", path, found=f"a {kind.name} file", expected=expected, hint=hint)
    return kind.open(source)


def _counters(run: _Run, held: Mapping[str, Held]) -> tuple[dict[str, Any], list[MfconvError]]:
    """The numbers of the run, and where ranks do not agree on them."""
    state: dict[str, Any] = {}
    problems: list[MfconvError] = []
    for name in sorted(COUNTERS & held.keys()):
        ranks = sorted(held[name])
        values = {r: read_tensor(held[name][r]).reshape(-1)[0].item() for r in ranks if held[name][r].spec.elements == 1}
        if not values:
            continue
        first = next(iter(values))
        state[name] = values[first]
        other = next((r for r, v in values.items() if v != values[first]), None)
        if name in SAME_ON_ALL_RANKS and other is not None:
            found = f"{name} is {values[first]} on rank {first} and {values[other]} on rank {other}"
            hint = "The files have the same name but were written at different times: fetch those of one step."
            problems.append(InputError("MFC112", run.home, found=found, expected="the same on all ranks", hint=hint))
    return state, problems


def _step_notes(
    run: _Run, held: Mapping[str, Held], found: Found, shapes: Mapping[str, Shape], reduced: int, files: int
) -> tuple[str, ...]:
    notes = []
    if reduced:
        notes.append(f"saved without redundant slices: {reduced:,} of {how_many(files, 'file')}")
    if found.left_out:
        ranks = sorted({rank for _, group in found.left_out for rank in group})
        names = sorted({name for name, _ in found.left_out})
        count = how_many(len(names), "tensor")
        notes.append(f"left out: {count} of the optimizer's state, with parts on absent ranks: {some_of(ranks)}")
    if found.unexplained:
        whose = "optimizer" if all(map(weight_of, found.unexplained)) else "run"
        what = f"left out: {how_many(len(found.unexplained), 'tensor')} of the {whose}'s state"
        notes.append(f"{what}, in no strategy file and not cut as the weights: {names_text(found.unexplained)}")
    if found.stages_differ:
        notes.append(f"cut differently in two stages, read from the first that is complete: {names_text(found.stages_differ)}")
    for rank, names in list(found.foreign.items())[:4]:
        notes.append(
            f"rank {rank} holds {how_many(len(names), 'tensor')} of other stages, not read: {names_text(names)}; is its file another's?"
        )
    promised = [n for n in shapes if n not in held] if not run.stages and found.tensors else []
    if promised and len(promised) < len(shapes):  # not of a run that saved adapters only
        what = f"the config promises {how_many(len(promised), 'tensor')} that no rank has: {names_text(promised)}"
        notes.append(f"{what}; the ranks of a pipeline stage may be missing")
    silent = _silent(run, held)
    if silent and not found.absent:
        notes.append(f"no file holds {how_many(len(silent), 'tensor')} of the strategy: {names_text(silent)}")
    return tuple(notes)


def _by_guess(
    run: _Run, held: Mapping[str, Held], found: Found, shapes: Mapping[str, Shape], unknown_since: MfconvError | None
) -> tuple[str, ...]:
    """Without strategy files: from the whole shapes, where they are known."""
    guess: Guess = guess_slicings(held, shapes, run.home, run.digest, unknown_since)
    found.tensors.update(guess.tensors)
    found.problems += guess.problems
    found.unexplained += guess.left_out
    return guess.assumed
