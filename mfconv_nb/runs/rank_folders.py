"""Open Checkpoint 1.0 of MindFormers: `rank_N/` folders of slices, and strategy files that say how the run cut them. Reads headers only.

Takes the newest complete step, the same on every rank, and never mixes steps. A step is complete when one copy of every slice of every
weight is there. The strategy says which ranks hold copies; what the files hold shows whether the run left redundant copies out.

- Several runs wrote into the same folders: takes the latest, where something tells which files belong to it (see ``rank_runs``).
- Files saved at an exception: reads them only where there are no others, or where the caller asks for their step.

Writes nothing and needs no mindspore.

Source: mindspore 2.10.0 (how `unified_safetensors` reads such folders, and what it does not check).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import InputError, MfconvError, on_one_line, quoted
from mfconv_nb.runs.message_text import numbers_text
from mfconv_nb.runs.rank_files import RankFile, Series, home_of
from mfconv_nb.runs.rank_listing import RankListing, WholeShapes, groups_without, list_rank_folders
from mfconv_nb.runs.rank_refusals import (
    extra_ranks_error,
    missing_step_error,
    no_common_step_error,
    split_names_error,
    undecided_runs_error,
)
from mfconv_nb.runs.rank_runs import Candidates, RunFiles, choose_files_of_one_run, evidence_of, needs_no_proof
from mfconv_nb.runs.rank_step import KIND, SAME_ON_ALL_RANKS, open_rank_file, open_step
from mfconv_nb.runs.rank_tensors import Groups
from mfconv_nb.runs.run import Step, TrainedRun, several_prefixes_error
from mfconv_nb.runs.without_strategy import Digest

INCOMPLETE = ("MFC111", "MFC112", "MFC113")
CUT_SHORT = "MFC202"  # a file of a save that broke off


class StepRefusedError(Exception):
    """No files of a step can be chosen. ``open_first_complete_step`` catches it and lists ``problem`` in the run.

    ``is_undecided``: files are there, and nothing tells which of them are meant. Then no older step is tried instead.
    """

    def __init__(self, problem: InputError, *, is_undecided: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.is_undecided = problem, is_undecided


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
    """Open the checkpoint of one step: the given one, or the newest that is complete.

    Args:
        step: as in the names of the files; a number means the step of whatever epoch has it.
        strategy: a strategy file, or a folder of them; left out, they are looked for beside the ranks.
        file_prefix: what stands before `_rank_N` in the names of the files, where several runs wrote into one folder.
        shapes: of whole tensors by name, or a function that gives them for the names that are there. The slices must agree with them;
            without strategy files they show how the tensors are cut. If the function raises, they count as unknown, and the message
            says why.
        digest: gives a checksum of a tensor's numbers. Without strategy files it shows which ranks hold copies.

    Raises:
        InputError: MFC102 where there are no `rank_N` folders, MFC112 for a step that no rank has, MFC114 for strategy files that cannot be
            used, MFC111 for a stage without one. UsageError: MFC501 for a prefix that no file has. FormatError: MFC2xx for a file that
            cannot be trusted. What makes the checkpoint incomplete is in ``problems``.
    """
    listing = list_rank_folders(folder, strategy, file_prefix, shapes, digest)
    return open_first_complete_step(listing, steps_to_try(listing, step), is_given=step is not None)


# ---- which step --------------------------------------------------------------------------------------------------------------


def steps_to_try(listing: RankListing, step: Step | int | None) -> list[Step | None]:
    """The given step, or all steps, the newest first. Raises InputError (MFC112) where not exactly one step is the given one."""
    there = sorted({f.step for f in listing.files if f.step is not None}, reverse=True)
    if step is None:
        in_time = {f.step for f in listing.files if not f.series.at_exception}
        return [s for s in there if s in in_time] or list(there) or [None]
    number = step if isinstance(step, int) else step.step if step.epoch is None else None
    fitting = [s for s in there if s == step or s.step == number]
    if len(fitting) == 1:
        return list(fitting)
    listed = ", ".join(str(s) for s in (fitting or there)[:12]) or "names that tell no step"
    hint = "Say the epoch too, as in the names of the files: EPOCH_STEP." if fitting else "Choose one that is there."
    raise InputError("MFC112", listing.home, found=listed, expected=f"one step {step}", hint=hint)


def open_first_complete_step(listing: RankListing, steps: Sequence[Step | None], *, is_given: bool) -> TrainedRun:
    """Open the first of these steps that is complete; where none is, the first that all needed ranks have, with its problems.

    Args:
        is_given: the caller gave the step: it is opened with its problems, complete or not.
    """
    groups, first = listing.groups, None
    skipped: list[tuple[Step | None, MfconvError]] = []
    extra = [rank for rank in listing.folders if listing.stages and rank >= listing.stages[-1].ranks.stop]
    if extra:
        raise extra_ranks_error(listing, extra)
    for step in steps:
        try:
            chosen = _choose_files(listing, step, groups)
            opened = open_step(listing, step, {rank: file.path for rank, file in chosen.files.items()})
        except StepRefusedError as refused:
            if refused.is_undecided:
                return _run_without_step(listing, refused.problem)
            skipped.append((step, refused.problem))
            continue
        except MfconvError as error:
            if is_given or error.code != CUT_SHORT or len(steps) == 1:
                raise
            skipped.append((step, error))  # an older step may be whole
            continue
        opened = replace(opened, assumed=(*chosen.assumed, *opened.assumed), notes=(*chosen.notes, *opened.notes))
        if is_given or not any(p.code in INCOMPLETE for p in opened.problems):
            return _with_step_notes(listing, opened, skipped)
        first = first or opened
        skipped.append((step, opened.problems[0]))
    if first is not None:
        return _with_step_notes(listing, first, ())
    return _run_without_step(listing, skipped[0][1] if is_given or len(steps) == 1 else no_common_step_error(listing, groups))


def _run_without_step(listing: RankListing, problem: MfconvError) -> TrainedRun:
    files = tuple(f.path for f in listing.files)
    return TrainedRun(listing.folder, KIND, listing.steps, None, {}, files, problems=(problem,), notes=listing.notes)


def _with_step_notes(listing: RankListing, opened: TrainedRun, skipped: Sequence[tuple[Step | None, MfconvError]]) -> TrainedRun:
    """The run, with sentences on newer steps that are not read and on ranks without its step."""
    notes = [*listing.notes]
    notes += [f"step {s} is newer but not complete, and not read: {on_one_line(f'{e.code}, {e.found}')[:200]}" for s, e in skipped]
    chosen = opened.chosen
    without = [rank for rank, had in listing.steps.items() if chosen is not None and chosen not in had]
    if without and not opened.problems:
        notes.append(f"ranks without step {chosen}: {numbers_text(without)}; every slice has a copy on another rank")
    broken = sorted({f.step for f in listing.files if f.step is not None and f.series.at_exception}) if chosen is not None else []
    if chosen in broken and not any(f.step == chosen and not f.series.at_exception for f in listing.files):
        notes.append(f"step {chosen} was saved at an exception")
    elif any(chosen is not None and chosen < s for s in broken):
        notes.append(f"step {broken[-1]} is newer, saved at an exception, and not read: --step {broken[-1]} (step= in Python) takes it")
    return replace(opened, notes=(*notes, *opened.notes))


# ---- which files of a step -----------------------------------------------------------------------------------------------------


def _choose_files(listing: RankListing, step: Step | None, groups: Groups) -> RunFiles:
    """The files of one step: of one prefix, ending and run, so that they belong together.

    Raises:
        StepRefusedError: where needed ranks lack the step; undecided where several checkpoints or runs have it and nothing tells which
            is meant.
    """
    by_series = _files_by_series(listing, step)
    complete = {s: files for s, files in by_series.items() if not groups_without(groups, files)}
    if not complete:
        if len(by_series) > 1 and not groups_without(groups, {rank for files in by_series.values() for rank in files}):
            raise StepRefusedError(split_names_error(listing, step, by_series))
        most = max(by_series.values(), key=lambda files: len(files), default={})
        raise StepRefusedError(missing_step_error(listing, step, groups_without(groups, most)))
    in_time = {s: files for s, files in complete.items() if not s.at_exception} or complete
    prefixes = {s.prefix for s in in_time}
    if len(prefixes) > 1:
        listed = " and ".join(quoted(prefix) for prefix in sorted(prefixes))
        found = f"files of {listed}{f' at step {step}' if step else ''}, each on all ranks"
        error = several_prefixes_error("MFC112", listing.home, prefixes, found=found, expected="one checkpoint")
        raise StepRefusedError(error, is_undecided=True)
    by_ending = sorted(in_time.items(), key=lambda item: item[0].ending == "ckpt")
    found_runs = [_choose_run(listing, step, candidates, groups) for _, candidates in by_ending]
    return max(found_runs, key=lambda one: min(file.run for file in one.files.values()))  # of one run in both formats: safetensors


def _files_by_series(listing: RankListing, step: Step | None) -> dict[Series, dict[int, list[RankFile]]]:
    """The files of a step by series and rank, the latest run first. Raises StepRefusedError for two files of one rank and run."""
    by_series: dict[Series, dict[int, list[RankFile]]] = {}
    for file in sorted(listing.files, key=lambda f: -f.run):
        if file.step == step:
            had = by_series.setdefault(file.series, {}).setdefault(file.rank, [])
            if had and had[-1].run == file.run:
                twice = f"{quoted(file.path.name)} and {quoted(had[-1].path.name)}"
                where = listing.folders[file.rank]
                raise StepRefusedError(InputError("MFC112", where, found=twice, expected="one file of a step", hint="Move one away."))
            had.append(file)
    return by_series


def _choose_run(listing: RankListing, step: Step | None, candidates: Candidates, groups: Groups) -> RunFiles:
    """The files of one run among those of a step. Raises StepRefusedError (undecided) where nothing tells which they are."""
    series = next(iter(candidates.values()))[0].series
    runs: dict[int, set[int]] = {}
    for file in listing.files:
        if file.series == series:
            runs.setdefault(file.rank, set()).add(file.run)
    if needs_no_proof(candidates, runs):
        return RunFiles({rank: files[0] for rank, files in candidates.items()})
    candidates, headers = _open_candidates(candidates)
    try:
        trial = open_step(replace(listing, digest=None), step, {rank: files[0].path for rank, files in candidates.items()})
        tensors = trial.tensors
    except MfconvError:  # no strategy that fits: nothing says which ranks hold copies
        tensors = {}
    evidence = evidence_of(candidates, headers, tensors.values(), SAME_ON_ALL_RANKS, is_cut_known=bool(listing.stages))
    chosen = choose_files_of_one_run(candidates, evidence, lambda ranks: not groups_without(groups, ranks))
    if chosen is None:
        error = undecided_runs_error(listing, step, candidates, _steps_without_choice(listing, groups))
        raise StepRefusedError(error, is_undecided=True)
    return chosen


def _open_candidates(candidates: Candidates) -> tuple[Candidates, dict[Path, dict[str, LazyTensor]]]:
    """The candidates that can be opened, and their tensors. A file that is cut short is no candidate where its rank has another file."""
    headers: dict[Path, dict[str, LazyTensor]] = {}
    left: dict[int, list[RankFile]] = {}
    for rank, files in candidates.items():
        for file in files:
            try:
                headers[file.path] = {t.name: t for t in open_rank_file(file.path).tensors}
            except MfconvError as error:
                if error.code != CUT_SHORT or len(files) == 1:
                    raise
                continue
            left.setdefault(rank, []).append(file)
        if rank not in left:
            open_rank_file(files[0].path)  # raises
    return left, headers


def _steps_without_choice(listing: RankListing, groups: Groups) -> list[Step]:
    """Steps of which every needed rank has one file, the newest first."""
    by_step: dict[Step, list[int]] = {}
    for file in listing.files:
        if file.step is not None:
            by_step.setdefault(file.step, []).append(file.rank)
    by_newest = sorted(by_step.items(), reverse=True)
    return [s for s, ranks in by_newest if len(set(ranks)) == len(ranks) and not groups_without(groups, ranks)]
