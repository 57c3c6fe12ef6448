"""Join the slices of an iteration's files to whole tensors, as `metadata.json` describes them. Moves no weights.

Raises nothing: contradictions and missing slices are collected in ``Findings``, so that a reader sees all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from mfconv_nb.core.errors import InputError, MfconvError, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.formats.checkpoint_metadata import METADATA, CheckpointMetadata, Chunk, DeviceLayout, Parameter
from mfconv_nb.mapping.kinds import is_run_state, prefixes_before_names
from mfconv_nb.runs.iteration_files import HINT_RUN, Findings, Headers, is_optimizer_file, rank_of, twin_of
from mfconv_nb.runs.message_text import names_text
from mfconv_nb.runs.run import Slice, SlicedTensor
from mfconv_nb.runs.slices import Box, Slicing, boxes_of

MAX_CELLS = 1 << 20  # cells that the edges of a tensor's slices make; the slices of a real run make as many cells as they are

# ---- tensors that the metadata describe ----------------------------------------------------------------------------------------


def described_tensors(metadata: CheckpointMetadata, headers: Headers, findings: Findings) -> dict[str, SlicedTensor]:
    """Every tensor of the metadata, from the slices that the files really hold."""
    tensors: dict[str, SlicedTensor] = {}
    never_saved: list[str] = []
    lost: list[tuple[Parameter, Chunk]] = []
    absent: set[str] = set()
    holders: dict[str, list[str]] = {}
    for file, held in headers.items():
        for name in held:
            holders.setdefault(name, []).append(file)
    has_optimizer_file = any(is_optimizer_file(name) for name in headers)
    prefixes = cache(lambda: prefixes_before_names(metadata.parameters))  # rarely needed, and dear for 100,000 names
    for name, parameter in metadata.parameters.items():
        slices = {chunk: _slices_of(parameter, chunk, headers, holders.get(name, ()), findings) for chunk in parameter.chunks}
        if not any(slices.values()) and _is_never_saved(parameter, prefixes, headers, has_optimizer_file):
            never_saved.append(name)
            continue
        absent |= {s.file for chunk in parameter.chunks for s in chunk.files if s.file not in headers and twin_of(s.file) not in headers}
        without = [chunk for chunk, found in slices.items() if not found]
        lost += [(parameter, chunk) for chunk in without]
        found = tuple(sorted((s for some in slices.values() for s in some), key=lambda s: s.rank))
        if not found:
            continue
        slicing, stage = _slicing_and_stage_of(parameter, found, findings)
        tensor = SlicedTensor(name, parameter.shape, found[0].tensor.dtype, found, slicing, stage)
        tensors[name] = tensor
        if not without:
            _check_tensor(tensor, parameter, findings)
    if never_saved:
        what = f"in {METADATA}, but never saved: {how_many(len(never_saved), 'entry', 'entries')} of optimizer state"
        findings.notes.append(f"{what}: {names_text(never_saved)}")
    if absent and not lost:
        findings.notes.append(f"files that are absent, of whose slices other ranks hold copies: {names_text(sorted(absent))}")
    findings.problems += _errors_on_lost_slices(metadata.path.parent, lost, headers, holders)
    return tensors


def _slices_of(parameter: Parameter, chunk: Chunk, headers: Headers, holders: Sequence[str], findings: Findings) -> list[Slice]:
    """The copies of a slice that are there; one whose header contradicts the metadata adds a problem and counts as there.

    Each lies in the file that the metadata name, or in the file of the other kind that the same rank wrote. A tensor in one piece may lie
    in any file.
    """
    box = Box(chunk.offset, chunk.shape)
    files = {(s.file if parameter.name in headers.get(s.file, {}) else twin_of(s.file)): s.rank for s in chunk.files}
    if chunk.shape == parameter.shape:
        files = {file: rank_of(file) or 0 for file in holders} | files
    found = []
    for file, rank in files.items():
        tensor = headers.get(file, {}).get(parameter.name)
        if tensor is None:
            continue
        if tensor.shape != chunk.shape or parameter.dtype not in (None, tensor.dtype):
            expected = f"{list(chunk.shape)} of {parameter.dtype or tensor.dtype}, as {METADATA} says"
            findings.add_contradiction(parameter.name, f"{list(tensor.shape)} of {tensor.dtype} in {quoted(file)}", expected)
        found.append(Slice(rank, box, tensor))
    return found


def _is_never_saved(parameter: Parameter, prefixes: Callable[[], Collection[str]], headers: Headers, has_optimizer_file: bool) -> bool:
    """True for optimizer state that the metadata list and the run did not save.

    Either the run saved no optimizer at all, or the files that should hold the state are there without it. Optimizer state has a known
    name; or it belongs into an optimizer's file and begins with one of the ``prefixes`` that stand before names of other tensors only.
    """
    files = {s.file for chunk in parameter.chunks for s in chunk.files}
    for_optimizer = bool(files) and all(is_optimizer_file(f) for f in files)
    if not is_run_state(parameter.name) and not (for_optimizer and parameter.name.startswith(tuple(prefixes()))):
        return False
    return not files or any(f in headers for f in files) or (for_optimizer and not has_optimizer_file)


def _slicing_and_stage_of(parameter: Parameter, slices: tuple[Slice, ...], findings: Findings) -> tuple[Slicing | None, int]:
    """How the run cut a tensor, and its stage, where a layout says so; adds a problem where the layout puts a slice elsewhere."""
    layout = parameter.layout
    if layout is None:
        return None, 0
    stage = min(slices, key=lambda s: s.rank).rank // len(layout.ranks)
    if layout.interleaved:
        found, expected = "parts that are dealt out in turns (interleaved_parallel)", "parts that lie side by side"
        findings.add_contradiction(parameter.name, found, expected, "")
        return None, stage
    boxes = _boxes_by_rank(layout, parameter.shape)
    if boxes is None:
        found = f"{list(parameter.shape)}, which the layout {list(layout.devices)} does not divide"
        findings.add_contradiction(parameter.name, found, "axes that divide")
        return None, stage
    for s in slices:
        if boxes.get(s.rank, s.box) != s.box:
            where = f"global_offset puts the slice of rank {s.rank} at {s.box.text()}"
            findings.add_contradiction(parameter.name, where, f"{boxes[s.rank].text()}, as the layout in {METADATA} says")
            break
    return Slicing(layout.devices, layout.cuts), stage


def _boxes_by_rank(layout: DeviceLayout, shape: tuple[int, ...]) -> dict[int, Box] | None:
    """The box of every rank; None where an axis does not divide."""
    try:
        return dict(zip(layout.ranks, boxes_of(Slicing(layout.devices, layout.cuts), shape), strict=True))
    except ValueError:
        return None


def _check_tensor(tensor: SlicedTensor, parameter: Parameter, findings: Findings) -> None:
    """Add a problem where the numbers of parts are wrong, dtypes differ, or the slices do not make up the tensor."""
    parts, (shape, *others) = parameter.parts, {chunk.shape for chunk in parameter.chunks}
    if parts is not None and not others and parts != tuple(n // part if part else 1 for n, part in zip(tensor.shape, shape, strict=True)):
        found = f"axis_fragmentations {list(parts)}"
        findings.add_contradiction(tensor.name, found, f"slices of {list(shape)} in {list(tensor.shape)}")
        return
    dtypes = sorted({s.tensor.dtype for s in tensor.slices})
    if len(dtypes) > 1:
        findings.add_contradiction(tensor.name, f"slices of {' and '.join(dtypes)}", "one dtype")
        return
    if len(parameter.chunks) > 1 and _count_cells(parameter) > MAX_CELLS:
        found = f"{len(parameter.chunks):,} slices that form no grid"
        findings.add_contradiction(tensor.name, found, "slices side by side along every axis")
        return
    problem = tensor.problem()
    if problem is not None:
        findings.problems.append(problem)


def _count_cells(parameter: Parameter) -> int:
    """Into how many cells the edges of the slices cut the tensor: the work of checking that they make it up."""
    chunks = parameter.chunks
    return math.prod(len({e for c in chunks for e in (c.offset[a], c.offset[a] + c.shape[a])}) for a in range(len(parameter.shape)))


def _errors_on_lost_slices(
    folder: Path, lost: list[tuple[Parameter, Chunk]], headers: Headers, holders: Mapping[str, Sequence[str]]
) -> Iterator[MfconvError]:
    """MFC111 for slices whose files are all absent; MFC113 for those that a file should hold and does not."""
    absent = [(p, c) for p, c in lost if not any(s.file in headers for s in c.files)]
    if absent:
        ranks = sorted({s.rank for _, c in absent for s in c.files})
        files = sorted({s.file for _, c in absent for s in c.files})
        parameter, chunk = absent[0]
        first = f"{quoted(parameter.name)} {Box(chunk.offset, chunk.shape).text()}"
        listed = ", ".join(map(str, ranks[:16])) + (" ..." if len(ranks) > 16 else "")
        whose = f"rank{'s' * (len(ranks) != 1)} {listed}: {names_text(files)}" if files else "no file is named for them"
        found = f"{how_many(len(absent), 'slice')} in no file that is there; first {first} ({whose})"
        yield InputError("MFC111", folder, found=found, expected="one copy of every slice", hint="Fetch the missing files.")
    elsewhere = [(p, c) for p, c in lost if any(s.file in headers for s in c.files)]
    if elsewhere:
        parameter, chunk = elsewhere[0]
        file, box = next(s.file for s in chunk.files if s.file in headers), Box(chunk.offset, chunk.shape)
        found = f"{how_many(len(elsewhere), 'slice')} not in the files that {METADATA} names; this one {box.text()}"
        if parameter.name in holders:
            found += f"; a tensor of this name is in {names_text(holders[parameter.name])}"
        yield InputError("MFC113", quoted(parameter.name), found=found, expected=f"a slice in {quoted(file)}", hint=HINT_RUN)


# ---- tensors that nothing describes ----------------------------------------------------------------------------------------


def undescribed_tensors(
    metadata: CheckpointMetadata, headers: Headers, writers: Mapping[str, frozenset[int]], findings: Findings
) -> dict[str, SlicedTensor]:
    """Tensors of the files that the metadata do not describe: taken as whole and noted, so that none is lost in silence."""
    rest = {file: {n: t for n, t in held.items() if n not in metadata.parameters} for file, held in headers.items()}
    tensors = whole_tensors(rest, findings, {file: min(ranks) for file, ranks in writers.items()})
    if tensors:
        what = f"taken as whole: {how_many(len(tensors), 'tensor')} that {METADATA} does not describe"
        findings.notes.append(f"{what}: {names_text(tensors)}")
    unfound = [n for n in metadata.undescribed if n not in tensors]
    if unfound:
        what = f"without description or tensor: {how_many(len(unfound), 'name')} of storage_data"
        findings.notes.append(f"{what}: {names_text(unfound)}")
    return tensors


def whole_tensors(headers: Headers, findings: Findings, ranks: Mapping[str, int] | None = None) -> dict[str, SlicedTensor]:
    """Every tensor as a whole; adds a problem where a name has another shape or dtype in another file.

    Args:
        ranks: which rank wrote a file; left out, the number in its name says so.
    """
    found: dict[str, list[tuple[str, Slice]]] = {}
    for place, (file, held) in enumerate(headers.items()):
        number = rank_of(file)
        rank = (ranks or {}).get(file, place if number is None else number)
        for tensor in held.values():
            box = Box((0,) * len(tensor.shape), tensor.shape)
            found.setdefault(tensor.name, []).append((file, Slice(rank, box, tensor)))
    tensors = {}
    for name, copies in found.items():
        (file, first), *others = copies
        tensors[name] = SlicedTensor(name, first.tensor.shape, first.tensor.dtype, tuple(s for _, s in copies))
        other = next((f for f in others if (f[1].tensor.shape, f[1].tensor.dtype) != (first.tensor.shape, first.tensor.dtype)), None)
        if other is not None:
            a, b = ((s.tensor, f) for f, s in ((file, first), other))
            shown = " and ".join(f"{list(t.shape)} of {t.dtype} in {quoted(f)}" for t, f in (a, b))
            hint = f"They look like slices: fetch the {METADATA} that says how they fit together."
            findings.add_contradiction(name, shown, "the same tensor in every file", hint)
    return tensors
