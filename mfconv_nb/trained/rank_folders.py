"""Checkpoint 1.0 of MindFormers, opened: `rank_N/` folders of slices, with the strategy files that say how they were cut. Headers only.

The newest step that is complete is taken, the same one on every rank; steps are never mixed. Complete means: of every slice of every
weight one copy is there. Which ranks hold copies follows from the strategy; whether redundant ones were left out is not asked, it
shows in what the files hold. Nothing is written, and mindspore is not needed.

Source: mindspore 2.10.0 (how `unified_safetensors` reads such folders, and what it does not check).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfconv_nb.blocks import Shape
from mfconv_nb.checkpoint import FileSource, LazyTensor, OtherEntry, stored_tensor
from mfconv_nb.errors import InputError, MfconvError, on_one_line, quoted
from mfconv_nb.formats import mindspore_ckpt, safetensors_file
from mfconv_nb.formats.reading import CKPT, SAFETENSORS, format_of
from mfconv_nb.formats.strategy_file import read_strategies
from mfconv_nb.mapping.run_state import COUNTERS, run_state_of
from mfconv_nb.streaming.gather import read_tensor
from mfconv_nb.streaming.open_files import allow_open_files
from mfconv_nb.trained.guess import Digest, Guess, guess_slicings
from mfconv_nb.trained.rank_files import RankFile, files_of, find_strategy, home_of, rank_folders_in, steps_by_rank
from mfconv_nb.trained.run import HINT_SLICES, Slice, SlicedTensor, Step, TrainedRun
from mfconv_nb.trained.slices import Box, boxes_of, whole_shape
from mfconv_nb.trained.strategies import Stage, needed_groups, slicing_of, stages_of

KIND = "rank folders (Checkpoint 1.0)"
# What every rank of a run counts alike; the iterator's own position and the loss scale may differ.
SAME_ON_ALL_RANKS = frozenset({"epoch_num", "step_num", "global_step", "current_step", "optimizer.global_step"})
MAX_RANK_GAP = 1 << 16
WholeShapes = Mapping[str, Shape] | Callable[[Iterable[str]], Mapping[str, Shape]]
Held = Mapping[int, LazyTensor]
Groups = Sequence[tuple[int, ...]]


def looks_like_rank_folders(folder: Path) -> bool:
    """True for a folder with `rank_N` folders, and for the output folder of a run that has them in `checkpoint/`. Opens no file."""
    return home_of(folder) is not None


def open_rank_folders(
    folder: Path,
    *,
    step: Step | int | None = None,
    strategy: Path | None = None,
    shapes: WholeShapes | None = None,
    digest: Digest | None = None,
) -> TrainedRun:
    """Open the checkpoint of one step: the step asked for, or the newest that is complete.

    Args:
        step: as in the names of the files; a number is the step of whatever epoch has it.
        strategy: a strategy file, or a folder of them; left out, they are looked for beside the ranks.
        shapes: of the whole tensors, by name, where they are known; or a function that gives them for the names that are there. What the
            strategy makes of the slices must agree with them, and they tell the cuts when no strategy file is left.
        digest: gives a checksum of a tensor's numbers: what tells which ranks hold copies when no strategy file is left.

    Raises:
        InputError: MFC102 where there are no `rank_N` folders, MFC112 for a step that no rank has, MFC114 for strategy files that cannot be
            used, MFC111 for a stage without one. FormatError: MFC2xx for a file that cannot be trusted. What makes the checkpoint
            incomplete is in ``problems``.
    """
    home = home_of(folder)
    if home is None:
        raise InputError("MFC102", folder, found="no rank_N folder", expected="rank_0, rank_1 and so on")
    folders = rank_folders_in(home)
    files, notes = files_of(folders)
    if not files:
        raise InputError("MFC102", home, found=f"{len(folders)} rank folders without weights", expected="*.safetensors or *.ckpt in each")
    strategies = find_strategy(home, strategy)
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
        return needed_groups(self.stages, [n for s in self.stages for n in s.layouts if run_state_of(n) is None])

    @property
    def steps(self) -> dict[int, tuple[Step, ...]]:
        return steps_by_rank(self.folders, self.files)


# ---- which step --------------------------------------------------------------------------------------------------------------


def _steps_asked(run: _Run, step: Step | int | None) -> list[Step | None]:
    """The steps that may be taken, the newest first."""
    there = sorted({f.step for f in run.files if f.step is not None}, reverse=True)
    if step is None:
        return list(there) or [None]
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
            paths = _files_at(run, step, groups)
            if isinstance(paths, MfconvError):
                skipped.append((step, paths))
                continue
            opened = _open_step(run, step, paths, groups)
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
    files = tuple(f.path for f in run.files)
    problem = skipped[0][1] if asked or len(steps) == 1 else _nothing_common(run, groups)
    return TrainedRun(run.folder, KIND, run.steps, None, {}, files, problems=(problem,), notes=run.notes)


def _more_ranks(run: _Run, extra: Sequence[int]) -> InputError:
    last = run.stages[-1]
    found = f"{len(run.folders)} rank folders, up to rank_{max(extra)}"
    expected = f"ranks 0 to {last.ranks.stop - 1}: the strategy speaks of {len(run.stages)} stage(s), of {last.devices} devices in the last"
    code = "MFC111" if (max(extra) + 1) % last.devices == 0 else "MFC114"
    hint = "The strategy file of a pipeline stage is missing, or these are the strategy files of another run: give the right ones."
    return InputError(code, run.home, found=found, expected=expected, hint=hint)


def _files_at(run: _Run, step: Step | None, groups: Groups) -> dict[int, Path] | MfconvError:
    """The files of one step: of one prefix, run and ending, so that they belong together."""
    by_series: dict[Any, dict[int, Path]] = {}
    for file in run.files:
        if file.step == step:
            if file.rank in by_series.setdefault(file.series, {}):
                twice = f"{file.path.name} and {by_series[file.series][file.rank].name}"
                return InputError("MFC112", run.folders[file.rank], found=twice, expected="one file of a step", hint="Move one away.")
            by_series[file.series][file.rank] = file.path
    complete = {s: paths for s, paths in by_series.items() if not _absent(groups, paths)}
    if not complete:
        best = max(by_series.values(), key=len, default={})
        return _absence(run, step, _absent(groups, best))
    newest = max(s.run for s in complete)
    latest = {s: paths for s, paths in complete.items() if s.run == newest}
    if len({s.prefix for s in latest}) > 1:
        listed = " and ".join(sorted({quoted(s.prefix) for s in latest}))
        found = f"files of {listed}{f' at step {step}' if step else ''}, each on all ranks"
        return InputError("MFC112", run.home, found=found, expected="one checkpoint", hint="Move the other one to a folder of its own.")
    return next(paths for s, paths in sorted(latest.items(), key=lambda item: item[0].ending == "ckpt"))


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
    hint = "Choose a step that all ranks have, or fetch the rest of this one."
    return InputError("MFC112", run.home, found=listed, expected=f"step {step} on {_ranks_text(absent)}", hint=hint)


def _missing(run: _Run, step: Step | None, absent: Groups) -> InputError:
    found = f"no file of {_ranks_text(absent)}"
    expected = "one copy of every slice" + (f" at step {step}" if step is not None else "")
    hint = (
        "Fetch the missing folders." if run.stages else "Fetch the missing folders, or give the strategy files: then copies may be missing."
    )
    return InputError("MFC111", run.home, found=found, expected=expected, hint=hint)


def _ranks_text(groups: Groups) -> str:
    """``rank 3 (or its copy 7)``; eight of them at most."""
    texts = []
    for first, *others in list(groups)[:8]:
        copies = f" (or its copy {others[0]})" if len(others) == 1 else f" (or a copy of it: {_some(others)})" if others else ""
        texts.append(f"rank {first}{copies}")
    return ", ".join(texts) + (f" and {len(groups) - 8} more" if len(groups) > 8 else "")


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers[:6]) + (" ..." if len(numbers) > 6 else "")


def _names(names: Sequence[str]) -> str:
    return ", ".join(quoted(n) for n in names[:4]) + (" ..." if len(names) > 4 else "")


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
        notes.append(f"ranks without step {opened.chosen}: {_some(without)}; every slice has a copy on another rank")
    return TrainedRun(**{**vars(opened), "notes": (*notes, *opened.notes)})


# ---- one step ----------------------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """What is collected while the tensors of a step are put together."""

    tensors: dict[str, SlicedTensor] = field(default_factory=dict)
    problems: list[MfconvError] = field(default_factory=list)
    absent: dict[tuple[int, ...], None] = field(default_factory=dict)
    left_out: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    stages_differ: list[str] = field(default_factory=list)
    opened: frozenset[int] = frozenset()


def _open_step(run: _Run, step: Step | None, paths: Mapping[int, Path], groups: Groups) -> TrainedRun:
    held: dict[str, dict[int, LazyTensor]] = {}
    others: dict[str, OtherEntry] = {}
    reduced = 0
    allow_open_files(len(paths))
    for rank, path in sorted(paths.items()):
        tensors, more, metadata = _open_file(path)
        reduced += metadata.get("remove_redundancy") == "True"
        for tensor in tensors:
            held.setdefault(tensor.name, {})[rank] = tensor
        others |= {o.name: o for o in more}
    shapes = run.shapes(held) if callable(run.shapes) else run.shapes
    state, disagreements = _counters(run, held)
    found = _Found(problems=list(disagreements), opened=frozenset(paths))
    assumed: tuple[str, ...] = ()
    if run.stages:
        _by_strategy(run, held, found, shapes)
    elif len(paths) == 1:
        found.tensors.update({n: _copies(n, h) for n, h in held.items()})
        assumed = ("there is one rank and no strategy file: its tensors are taken as whole",)
    else:
        assumed = _by_guess(run, held, found, shapes)
    if found.absent:
        found.problems.insert(0, _missing(run, step, list(found.absent)))
    notes = _step_notes(run, held, found, reduced, len(paths))
    if found.unknown:
        count, listed = len(found.unknown), _names(found.unknown)
        assumed += (f"{count:,} tensors that no strategy file names are whole on every rank that has them: {listed}",)
    return TrainedRun(
        run.folder,
        KIND,
        run.steps,
        step,
        found.tensors,
        (*paths.values(), *run.strategies),
        tuple(others.values()),
        tuple(found.problems),
        assumed,
        notes,
        state,
    )


def _open_file(path: Path) -> tuple[list[LazyTensor], tuple[OtherEntry, ...], Mapping[str, str]]:
    source = FileSource(path)
    kind = format_of(source)
    if kind not in (SAFETENSORS, CKPT):
        raise InputError("MFC103", path, found=f"a {kind} file", expected="a MindSpore .ckpt or safetensors")
    header = (safetensors_file if kind == SAFETENSORS else mindspore_ckpt).read_header(source)
    return [stored_tensor(p.spec, source, p.extents) for p in header.tensors], header.others, header.metadata


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


def _step_notes(run: _Run, held: Mapping[str, Held], found: _Found, reduced: int, files: int) -> tuple[str, ...]:
    notes = []
    if reduced:
        notes.append(f"{reduced} of {files} files were saved without redundant slices")
    if found.left_out:
        ranks = sorted({rank for _, group in found.left_out for rank in group})
        names = sorted({name for name, _ in found.left_out})
        notes.append(f"{len(names):,} tensors of the optimizer's state are left out, as ranks that hold parts are absent: {_some(ranks)}")
    if found.stages_differ:
        notes.append(f"cut differently in two stages, read from the first that is complete: {_names(found.stages_differ)}")
    silent = [n for s in run.stages for n in s.layouts if n not in held and run_state_of(n) is None]
    if silent and not found.absent:
        notes.append(f"{len(silent):,} tensors of the strategy are in no file: {_names(silent)}")
    return tuple(notes)


# ---- tensors -----------------------------------------------------------------------------------------------------------------


def _by_strategy(run: _Run, held: Mapping[str, Held], found: _Found, shapes: Mapping[str, Shape]) -> None:
    known = {name for stage in run.stages for name in stage.layouts}
    if not known & held.keys():
        hint = "They are of another run: give the right ones with --strategy."
        expected = f"tensors such as {quoted(next(iter(held), ''))}"
        some = ", ".join(quoted(n) for n in sorted(known)[:3]) or "no tensor"
        raise InputError("MFC114", run.stages[0].path, found=some, expected=expected, hint=hint)
    for name, ranks in held.items():
        if name in known:
            _from_stages(run, name, ranks, found)
        elif _same_shapes(ranks):
            found.tensors[name] = _copies(name, ranks)
            if run_state_of(name) is None:
                found.unknown.append(name)
        else:
            found.problems.append(_unknown_and_cut(run, name, ranks))
    for name, tensor in found.tensors.items():
        if name in shapes and tuple(shapes[name]) != tensor.shape:
            shown = f"{list(tensor.shape)}, as {run.stages[0].path.name} says, from slices of {list(tensor.slices[0].tensor.shape)}"
            expected = f"{list(shapes[name])}, as the config says"
            found.problems.append(InputError("MFC113", quoted(name), found=shown, expected=expected, hint=HINT_SLICES))


def _unknown_and_cut(run: _Run, name: str, ranks: Held) -> InputError:
    (a, first), (b, other) = (
        next(iter(ranks.items())),
        next((r, t) for r, t in ranks.items() if t.shape != next(iter(ranks.values())).shape),
    )
    shown = f"{list(first.shape)} on rank {a} and {list(other.shape)} on rank {b}, and no strategy file names it"
    expected = "a strategy file that says how it was cut"
    return InputError(
        "MFC114", f"{quoted(name)} in {run.home}", found=shown, expected=expected, hint="Give the strategy files of this run."
    )


def _same_shapes(ranks: Held) -> bool:
    return len({(t.shape, t.dtype) for t in ranks.values()}) == 1


def _copies(name: str, ranks: Held) -> SlicedTensor:
    """A tensor that every rank which has it holds whole."""
    first = next(iter(ranks.values()))
    box = Box((0,) * len(first.shape), first.shape)
    return SlicedTensor(name, first.shape, first.dtype, tuple(Slice(r, box, t) for r, t in ranks.items()))


def _from_stages(run: _Run, name: str, ranks: Held, found: _Found) -> None:
    first = next(iter(ranks.values()))
    for rank, tensor in ranks.items():
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype) and len(_with(run.stages, name)) == 1:
            a = next(iter(ranks))
            shown = f"{list(first.shape)} of {first.dtype} on rank {a}, {list(tensor.shape)} of {tensor.dtype} on rank {rank}"
            found.problems.append(InputError("MFC113", quoted(name), found=shown, expected="slices of one shape", hint=HINT_SLICES))
            return
    parts: list[tuple[Stage, SlicedTensor, tuple[Box, ...]]] = []
    for stage in _with(run.stages, name):
        mine = {r: t for r, t in ranks.items() if r in stage.ranks}
        if mine:
            sliced = _in_stage(stage, name, mine, found)
            if sliced is None:
                return
            parts.append((stage, *sliced))
    if not parts:
        stages, a = ", ".join(str(s.number) for s in _with(run.stages, name)), next(iter(ranks))
        shown, expected = f"on rank {a}", f"on the ranks of stage {stages}, as {quoted(_with(run.stages, name)[0].path.name)} says"
        found.problems.append(InputError("MFC114", quoted(name), found=shown, expected=expected, hint=HINT_SLICES))
        return
    _join_stages(name, parts, found)


def _with(stages: Sequence[Stage], name: str) -> list[Stage]:
    return [s for s in stages if name in s.layouts]


def _in_stage(stage: Stage, name: str, ranks: Held, found: _Found) -> tuple[SlicedTensor, tuple[Box, ...]] | None:
    """The slices of one stage, and the box of each of its ranks."""
    layout = stage.layouts[name]
    (a, first), *rest = ranks.items()
    for rank, tensor in rest:
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
            shown = f"{list(first.shape)} of {first.dtype} on rank {a}, {list(tensor.shape)} of {tensor.dtype} on rank {rank}"
            found.problems.append(InputError("MFC113", quoted(name), found=shown, expected="slices of one shape", hint=HINT_SLICES))
            return None
    slicing = slicing_of(layout, len(first.shape), stage.devices, f"{quoted(name)} in {stage.path}")
    if layout.split and first.shape[:1] != layout.split[:1]:
        shown, expected = f"slices of {list(first.shape)} in the file of rank {a}", f"{layout.split[0]} rows, as {stage.path.name} says"
        found.problems.append(InputError("MFC113", quoted(name), found=shown, expected=expected, hint=HINT_SLICES))
        return None
    whole = whole_shape(slicing, first.shape)
    boxes = boxes_of(slicing, whole)
    slices = tuple(Slice(rank, boxes[rank - stage.first], tensor) for rank, tensor in ranks.items())
    return SlicedTensor(name, whole, first.dtype, slices, slicing, stage.number), boxes


def _join_stages(name: str, parts: Sequence[tuple[Stage, SlicedTensor, tuple[Box, ...]]], found: _Found) -> None:
    """One tensor from the stages that have it: all its copies where they cut it alike, else from the first that is complete."""
    _, tensor, boxes = parts[0]
    if any(p[1].shape != tensor.shape or p[1].dtype != tensor.dtype for p in parts):
        shown = " and ".join(f"{list(t.shape)} of {t.dtype} in stage {s.number}" for s, t, _ in parts[:4])
        found.problems.append(InputError("MFC113", quoted(name), found=shown, expected="the same in all stages", hint=HINT_SLICES))
        return
    if any(set(p[2]) != set(boxes) for p in parts):
        found.stages_differ.append(name)
        parts = [p for p in parts if _held(p[1]) == set(p[2])][:1] or parts[:1]
        _, tensor, boxes = parts[0]
    slices = tuple(s for _, t, _ in parts for s in t.slices)
    joined = SlicedTensor(name, tensor.shape, tensor.dtype, slices, tensor.slicing, tensor.stage)
    lacking = set(boxes) - _held(joined)
    if lacking:
        holders = [tuple(s.first + n for s, _, bs in parts for n, b in enumerate(bs) if b == box) for box in sorted(lacking)]
        groups = [tuple(rank for rank in group if rank not in found.opened) for group in holders]
        if not all(groups):
            box, ranks = next((b, h) for b, h, g in zip(sorted(lacking), holders, groups, strict=True) if not g)
            shown, expected = f"nothing for {box.text()}", f"a slice of it on {_ranks_text([ranks])}"
            found.problems.append(InputError("MFC113", quoted(name), found=shown, expected=expected, hint=HINT_SLICES))
            return
        if run_state_of(name) is not None:
            found.left_out += [(name, g) for g in groups]
            return
        found.absent.update(dict.fromkeys(groups))
    found.tensors[name] = joined


def _held(tensor: SlicedTensor) -> set[Box]:
    return {s.box for s in tensor.slices}


def _by_guess(run: _Run, held: Mapping[str, Held], found: _Found, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Without strategy files: from the whole shapes, where they are known."""
    guess: Guess = guess_slicings(held, shapes, run.home, run.digest)
    found.tensors.update(guess.tensors)
    found.problems += guess.problems
    return guess.assumed
