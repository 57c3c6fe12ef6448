"""Open the files of one step, one file a rank, as whole lazy tensors. Reads headers and counters; lists what is wrong as ``problems``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.checkpoint import LazyTensor, OtherEntry
from mfconv_nb.core.errors import InputError, MfconvError, on_one_line
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.format import OpenedFile
from mfconv_nb.formats.known import known_formats
from mfconv_nb.formats.reading import format_of
from mfconv_nb.mapping.kinds import COUNTERS, is_run_state, weight_of
from mfconv_nb.runs.message_text import names_text, numbers_text
from mfconv_nb.runs.rank_listing import RankListing
from mfconv_nb.runs.rank_refusals import missing_ranks_error
from mfconv_nb.runs.rank_tensors import Found, Held, join_by_strategy, whole_on_ranks
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.runs.without_strategy import guess_slicings
from mfconv_nb.streaming.gather import read_tensor
from mfconv_nb.streaming.open_files import allow_open_files

KIND = "rank folders (Checkpoint 1.0)"
# Every rank of a run counts these alike; the iterator's own position and the loss scale may differ.
SAME_ON_ALL_RANKS = frozenset({"epoch_num", "step_num", "global_step", "current_step", "optimizer.global_step"})
# Parts of names that MindFormers' callback leaves out of a save.
NOT_SAVED = ("fi_parameter", "zeros_k_", "zeros_value_states", "_cache", "_device_local_", "expert_load", "max_logits_val")


def open_step(listing: RankListing, step: Step | None, paths: Mapping[int, Path]) -> TrainedRun:
    """The run at one step, with the tensors that these files (by rank) make up.

    Raises:
        MfconvError: for a file that cannot be read. What one tensor lacks is in ``problems``.
    """
    held: dict[str, dict[int, LazyTensor]] = {}
    others: dict[str, OtherEntry] = {}
    reduced = 0
    allow_open_files(len(paths))
    for rank, path in sorted(paths.items()):
        file = open_rank_file(path)
        reduced += file.metadata.get("remove_redundancy") == "True"
        for tensor in file.tensors:
            held.setdefault(tensor.name, {})[rank] = tensor
        others |= {o.name: o for o in file.others}
    shapes, unknown_since = _whole_shapes(listing, held)
    state, disagreements = _read_counters(listing, held)
    found = Found(problems=list(disagreements), opened=frozenset(paths))
    assumed: tuple[str, ...] = ()
    if listing.stages:
        join_by_strategy(listing.home, listing.stages, held, found, shapes)
    elif len(paths) == 1:
        found.tensors.update({n: whole_on_ranks(n, h) for n, h in held.items()})
        assumed = ("there is one rank and no strategy file: its tensors are taken as whole",)
    else:
        guess = guess_slicings(held, shapes, listing.home, listing.digest, unknown_since)
        found.tensors.update(guess.tensors)
        found.problems += guess.problems
        found.unexplained += guess.left_out
        assumed = guess.assumed
    if found.absent:
        found.problems.insert(0, missing_ranks_error(listing, step, list(found.absent)))
    unread = _note_unread_files(listing, step, paths)
    return TrainedRun(
        listing.folder,
        KIND,
        listing.steps,
        step,
        found.tensors,
        files=(*paths.values(), *listing.strategies),
        others=tuple(others.values()),
        absent=_weights_in_no_file(listing, held),
        problems=tuple(found.problems),
        assumed=assumed + _assumptions_on_unnamed(found),
        notes=unread + _step_notes(listing, held, found, shapes, reduced, len(paths)),
        state=state,
    )


def open_rank_file(path: Path) -> OpenedFile:
    """The header of a rank's file. Raises InputError (MFC103) for a format that no run writes."""
    source = FileSource(path)
    kind = format_of(source)
    if not kind.in_runs:
        expected = " or ".join(f.title for f in known_formats() if f.in_runs)
        hint = "Move it out of the folder of the rank; by its own path it can be opened."
        raise InputError("MFC103", path, found=f"a {kind.name} file", expected=expected, hint=hint)
    return kind.open(source)


def _whole_shapes(listing: RankListing, held: Mapping[str, Held]) -> tuple[Mapping[str, Shape], MfconvError | None]:
    """The shapes of whole tensors; or none, and the reason why the config does not give them."""
    if not callable(listing.shapes):
        return listing.shapes, None
    try:
        return listing.shapes(held), None
    except MfconvError as error:
        return {}, error


def _read_counters(listing: RankListing, held: Mapping[str, Held]) -> tuple[dict[str, Any], list[MfconvError]]:
    """The numbers of the run, and a problem for each on which the ranks disagree."""
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
            problems.append(InputError("MFC112", listing.home, found=found, expected="the same on all ranks", hint=hint))
    return state, problems


def _weights_in_no_file(listing: RankListing, held: Mapping[str, Held]) -> tuple[str, ...]:
    """Weights that the strategy names and no file holds."""
    names = dict.fromkeys(n for s in listing.stages for n in s.layouts if n not in held and not is_run_state(n))
    return tuple(n for n in names if not any(part in n for part in NOT_SAVED))


# ---- sentences ---------------------------------------------------------------------------------------------------------------


def _assumptions_on_unnamed(found: Found) -> tuple[str, ...]:
    """A sentence for each group of tensors that no strategy file names."""
    said: tuple[str, ...] = ()
    if found.as_weights:
        count, listed = how_many(len(found.as_weights), "tensor"), names_text(found.as_weights)
        said += (f"no strategy file names {count} of the optimizer's state, taken as cut like the weights: {listed}",)
    if found.unknown:
        count, listed = how_many(len(found.unknown), "tensor"), names_text(found.unknown)
        said += (f"no strategy file names {count}, taken as whole on every rank: {listed}",)
    return said


def _note_unread_files(listing: RankListing, step: Step | None, paths: Mapping[int, Path]) -> tuple[str, ...]:
    """A sentence on files of the same step that are not read, such as those of the other format."""
    if step is None:
        return ()
    others = [f.path for f in listing.files if f.step == step and paths.get(f.rank) != f.path]
    return (f"not read: {how_many(len(others), 'file')} of the same step, such as {on_one_line(others[0].name)}",) if others else ()


def _step_notes(
    listing: RankListing, held: Mapping[str, Held], found: Found, shapes: Mapping[str, Shape], reduced: int, files: int
) -> tuple[str, ...]:
    notes = []
    if reduced:
        notes.append(f"saved without redundant slices: {reduced:,} of {how_many(files, 'file')}")
    if found.left_out:
        ranks = sorted({rank for _, group in found.left_out for rank in group})
        names = sorted({name for name, _ in found.left_out})
        count = how_many(len(names), "tensor")
        notes.append(f"left out: {count} of the optimizer's state, with parts on absent ranks: {numbers_text(ranks)}")
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
    promised = [n for n in shapes if n not in held] if not listing.stages and found.tensors else []
    if promised and len(promised) < len(shapes):  # all of them: the run saved adapters only
        what = f"the config promises {how_many(len(promised), 'tensor')} that no rank has: {names_text(promised)}"
        notes.append(f"{what}; the ranks of a pipeline stage may be missing")
    silent = _weights_in_no_file(listing, held)
    if silent and not found.absent:
        notes.append(f"no file holds {how_many(len(silent), 'tensor')} of the strategy: {names_text(silent)}")
    return tuple(notes)
