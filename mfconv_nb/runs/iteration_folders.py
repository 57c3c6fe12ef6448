"""Open Checkpoint 2.0 of MindFormers: `iteration_00000010/` with `metadata.json`, `common.json` and a file a rank. Reads headers only.

A run's checkpoint folder holds several iterations; opens the newest complete one. A run on one card writes no `metadata.json`: then
every file counts, and its tensors are whole.

Source: mindformers 2.1.0, `checkpoint/checkpoint.py` and `checkpoint/utils.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mfconv_nb.core.errors import InputError, MfconvError, UsageError, on_one_line, quoted
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.checkpoint_metadata import METADATA, looks_like_metadata
from mfconv_nb.runs.iteration import OpenedIteration, open_iteration
from mfconv_nb.runs.iteration_files import COMMON, RANK_FILE, file_names, iteration_in_common, prefix_of
from mfconv_nb.runs.message_text import names_text
from mfconv_nb.runs.rank_files import holds_weights, note_weights_beside
from mfconv_nb.runs.run import Step, TrainedRun, check_prefix

TRACKER = "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"iteration_(\d{1,12})")


def looks_like_iteration_folder(folder: Path) -> bool:
    """True for one iteration, for a folder of iterations, and for one a level above that has no weights of its own.

    Reads at most a few bytes.
    """
    return _is_iteration(folder) or bool(_iterations(folder)) or (bool(_inner_folders(folder)) and not holds_weights(folder))


@makes_many_objects
def open_iteration_folder(folder: Path, *, step: Step | int | None = None, file_prefix: str | None = None) -> TrainedRun:
    """Open one iteration: that of the folder, the given step, or the newest complete one.

    Args:
        file_prefix: what stands before `model-` in the names of the files, where those of several checkpoints lie in one folder.

    Raises:
        InputError: MFC101 for what cannot be read, MFC102 without any iteration, MFC112 without one of this step, MFC104 for metadata
            that cannot be trusted, MFC105 for files of several checkpoints that nothing tells apart. UsageError: MFC501 where several
            folders qualify, for a prefix that no file has, and for a step with an epoch. FormatError: MFC2xx for a file that cannot be
            trusted. What makes the checkpoint incomplete is in ``problems``.
    """
    if isinstance(step, Step) and step.epoch is not None:
        expected, hint = f"an iteration, such as {step.step}: they have no epoch", f"Give --step {step.step} (step={step.step} in Python)."
        raise UsageError("MFC501", "step", found=str(step), expected=expected, hint=hint)
    if _is_iteration(folder):
        return _open_chosen(folder, {_number_of(folder): folder}, step, file_prefix)
    iterations = _iterations(folder)
    if not iterations:
        inner = _inner_folders(folder)
        if not inner:
            raise InputError("MFC102", folder, found="no iteration", expected="iteration_00000010/ and so on")
        if len(inner) > 1:
            found = f"several folders of iterations: {names_text((p.name for p in inner), 6)}"
            raise UsageError("MFC501", folder, found=found, expected="one", hint="Give one of them.")
        folder = inner[0]
        iterations = _iterations(folder)
    _check_each_once(folder)
    run = _open_chosen(folder, iterations, step, file_prefix)
    return replace(run, notes=run.notes + note_weights_beside("iterations", folder))


# ---- which iteration ---------------------------------------------------------------------------------------------------------


def _is_iteration(folder: Path) -> bool:
    names = file_names(folder)
    if not any(n.endswith(".safetensors") for n in names):
        return METADATA in names and _is_numbered(folder)
    if _is_numbered(folder) or (METADATA in names and looks_like_metadata(folder / METADATA)):
        return True
    return COMMON in names and any(RANK_FILE.fullmatch(n) for n in names)


def _is_numbered(folder: Path) -> bool:
    return _ITERATION.fullmatch(folder.resolve().name) is not None


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir())
    except OSError:
        return []


def _number_of(folder: Path) -> int | None:
    """The iteration that a folder's name gives, else its `common.json`."""
    match = _ITERATION.fullmatch(folder.resolve().name)
    return int(match[1]) if match else iteration_in_common(folder)


def _iterations(folder: Path) -> dict[int | None, Path]:
    return {int(match[1]): p for p in _folders(folder) if (match := _ITERATION.fullmatch(p.name))}


def _check_each_once(folder: Path) -> None:
    """Raises UsageError (MFC501) for two folders of one iteration: `iteration_20` and `iteration_00000020`."""
    seen: dict[int, Path] = {}
    for path in _folders(folder):
        match = _ITERATION.fullmatch(path.name)
        first = seen.setdefault(int(match[1]), path) if match else path
        if first != path:
            found = f"{quoted(first.name)} and {quoted(path.name)}, of the same iteration"
            raise UsageError("MFC501", folder, found=found, expected="one of each", hint="Give one of them.")


def _inner_folders(folder: Path) -> list[Path]:
    return [p for p in _folders(folder) if _iterations(p)]


def _open_chosen(folder: Path, iterations: Mapping[int | None, Path], step: Step | int | None, file_prefix: str | None) -> TrainedRun:
    """Open the given iteration, or the newest complete one; the run's table shows all of them."""
    if file_prefix is not None:
        known = (p for place in iterations.values() for p in map(prefix_of, file_names(place)) if p is not None)
        check_prefix(file_prefix, known, folder)
    asked = step.step if isinstance(step, Step) else step
    if asked is not None and asked not in iterations:
        listed = ", ".join(str(n) for n in sorted(n for n in iterations if n is not None)[-12:]) or "none with a number"
        raise InputError("MFC112", folder, found=f"iterations: {listed}", expected=f"iteration {asked}", hint="Choose one that is there.")
    opened = open_iteration(iterations[asked], asked, file_prefix) if asked is not None else _open_newest_complete(iterations, file_prefix)
    run = opened.run
    notes = opened.skipped + _tracker_note(folder, run.chosen)
    return replace(run, steps=_steps_by_rank(opened.writers, iterations, file_prefix), notes=run.notes + notes)


def _open_newest_complete(iterations: Mapping[int | None, Path], file_prefix: str | None) -> OpenedIteration:
    """Open the newest complete iteration; where there is none, the newest, with its problems."""
    skipped: list[tuple[int | None, MfconvError]] = []
    first: OpenedIteration | None = None
    described = {folder for folder in iterations.values() if os.path.isfile(folder / METADATA)}
    for number, folder in sorted(iterations.items(), key=lambda item: -(item[0] or 0)):
        if described and folder not in described:
            hint = f"Fetch {METADATA} too, or choose another step: --step (step= in Python)."
            refused = InputError("MFC111", folder, found=f"no {METADATA}", expected=f"{METADATA}, as the others have", hint=hint)
            skipped.append((number, refused))
            continue
        try:
            opened = open_iteration(folder, number, file_prefix)
        except MfconvError as error:
            if error.code not in ("MFC102", "MFC104", "MFC202"):  # what a write that broke off looks like
                raise
            skipped.append((number, error))
            continue
        missing = [p for p in opened.run.problems if p.code == "MFC111"]
        if not missing:
            return replace(opened, skipped=tuple(_note_skipped(n, e) for n, e in skipped))
        first = first or opened
        skipped.append((number, missing[0]))
    if first is None:
        raise skipped[0][1]
    return first


def _note_skipped(number: int | None, error: MfconvError) -> str:
    return f"iteration {number} is not complete and not read: {on_one_line(f'{error.code}, {error.found}')[:300]}"


def _tracker_note(folder: Path, chosen: Step | None) -> tuple[str, ...]:
    path = folder / TRACKER
    if not os.path.isfile(path) or chosen is None:
        return ()
    try:
        said = FileSource(path).read(0, 64).decode("utf-8", "replace").strip()
    except InputError:
        return (f"{TRACKER} cannot be read",)
    return () if said == str(chosen.step) else (f"{TRACKER} names iteration {quoted(said)}, iteration {chosen.step} is read",)


def _steps_by_rank(
    writers: Mapping[str, frozenset[int]], iterations: Mapping[int | None, Path], file_prefix: str | None
) -> dict[int, tuple[Step, ...]]:
    """Which rank has files of which iteration.

    The metadata of the opened iteration say which rank wrote a file. Without them the number in the file's name counts as the rank.
    """
    steps: dict[int, set[Step]] = {}
    for number, folder in iterations.items():
        for name in file_names(folder):
            match = RANK_FILE.fullmatch(name)
            if file_prefix is not None and prefix_of(name) != file_prefix:
                continue
            for rank in writers.get(name, (int(match["number"]),) if match else ()):
                steps.setdefault(rank, set()).add(Step(None, number or 0))
    return {rank: tuple(sorted(had)) for rank, had in sorted(steps.items())}
