"""One iteration of a Checkpoint 2.0 run: its files, what `metadata.json` says of them, and whether both agree. Headers only.

Every tensor of the files is among those of the checkpoint, described or not. Whether a tensor is optimizer state is told by its name, and
it is looked for in every file of the iteration: the dynamic graph named the optimizer's file for weights of later pipeline stages up to
June 2026. Optimizer state that the metadata list and that no file holds is counted in a note, as MindFormers wrote such entries up to
July 2026.

Source: mindformers 2.1.0, `checkpoint/checkpoint.py` and `checkpoint/fully_parallel.py`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import LazyTensor, stored_tensor
from mfconv_nb.core.errors import InputError, MfconvError, as_flags, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.checkpoint_metadata import METADATA, CheckpointMetadata, Chunk, DeviceLayout, Parameter, read_metadata
from mfconv_nb.formats.safetensors_file import read_header
from mfconv_nb.mapping.kinds import is_run_state, prefixes_before_names
from mfconv_nb.runs.rank_files import files_in
from mfconv_nb.runs.run import Slice, SlicedTensor, Step, TrainedRun, prefix_choices, several_prefixes
from mfconv_nb.runs.slices import Box, Slicing, boxes_of
from mfconv_nb.streaming.open_files import allow_open_files

KIND = "Checkpoint 2.0"
COMMON = "common.json"
MAX_COMMON_BYTES = 1 << 20
MAX_CELLS = 1 << 20  # of the grid that the edges of a tensor's slices make; slices of a run make a grid of their own number
UNHEALTHY = 1  # ckpt_status
HINT_RUN = "Nearly always a rank's file is of another run or another step: fetch those of one step again."
RANK_FILE = re.compile(r"(?:(?P<prefix>.+)-)?(?P<kind>model|opt)-(?P<number>\d{1,9})-(?P<total>\d{1,9})\.safetensors")


@dataclass(frozen=True)
class OpenedIteration:
    """An iteration; which ranks wrote which of its files; what is said of newer ones that are not read."""

    run: TrainedRun
    writers: Mapping[str, frozenset[int]]
    skipped: tuple[str, ...] = ()


@dataclass
class _Findings:
    """What is found on the way: sentences, and what makes it no checkpoint."""

    problems: list[MfconvError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def contradiction(self, name: str, found: str, expected: str, hint: str | None = HINT_RUN) -> None:
        self.problems.append(InputError("MFC113", quoted(name), found=found, expected=expected, hint=hint))


Headers = Mapping[str, Mapping[str, LazyTensor]]  # of every file that is there: its tensors by name


def file_names(folder: Path) -> frozenset[str]:
    """The names of the files in a folder, but for those that begin with a dot; none where it cannot be listed."""
    try:
        return frozenset(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    except OSError:
        return frozenset()


def prefix_of(name: str) -> str | None:
    """What stands before `model-` or `opt-` in the name of a rank's file; None for a file of another name."""
    match = RANK_FILE.fullmatch(name)
    return None if match is None else match["prefix"] or ""


def _series_of(name: str) -> tuple[str, int] | None:
    """What the files of one iteration have in common: the prefix, and how many ranks they are of; None for a file of another name."""
    match = RANK_FILE.fullmatch(name)
    return None if match is None else (match["prefix"] or "", int(match["total"]))


def number_of(folder: Path) -> int | None:
    """The iteration that `common.json` gives."""
    said = _state(folder, _Findings()).get("global_step")
    return said if type(said) is int and said >= 0 else None


def open_iteration(folder: Path, number: int | None, file_prefix: str | None = None) -> OpenedIteration:
    """Open the folder of one iteration; ``number`` is what it is called.

    Args:
        file_prefix: of the files to read, where those of several checkpoints lie in the folder.

    Raises:
        InputError: MFC101, MFC102, MFC104, MFC105. FormatError: MFC2xx. What makes it incomplete or contradicts itself is in
            ``run.problems``.
    """
    findings = _Findings()
    there = _safetensors_in(folder, file_prefix)
    metadata = read_metadata(folder / METADATA) if os.path.isfile(folder / METADATA) else None
    absent = f"no {METADATA}"
    if metadata is not None and file_prefix is not None and not set(metadata.files) & set(there):
        metadata, absent = None, f"{METADATA} does not speak of them"
    files = _files_of(folder, there, metadata, findings)
    allow_open_files(len(files))
    headers = {name: _header(folder / name) for name in files}
    state = _state(folder, findings)
    counted = state.get("global_step", number)
    if number is not None and isinstance(counted, int) and counted != number:
        findings.notes.append(f"{COMMON} counts {counted} steps, the folder is called iteration {number}")
    if metadata is None:
        tensors, writers = _whole_tensors(headers, findings), {}
        findings.assumed.append(_taken_as_whole(files, absent))
    else:
        writers = _writers(metadata)
        tensors = _sliced_tensors(metadata, headers, findings) | _undescribed_tensors(metadata, headers, writers, findings)
    run = TrainedRun(
        folder=folder,
        kind=KIND,
        steps={},
        chosen=None if number is None else Step(None, number),
        tensors=tensors,
        files=tuple(folder / name for name in files),
        absent=tuple(n for n in metadata.undescribed if n not in tensors and not is_run_state(n)) if metadata is not None else (),
        problems=tuple(findings.problems),
        assumed=tuple(findings.assumed),
        notes=tuple(findings.notes),
        state=state,
    )
    return OpenedIteration(run, writers)


def _safetensors_in(folder: Path, file_prefix: str | None) -> tuple[str, ...]:
    """The names of the files with weights; those of one prefix, where it is asked for."""
    there = [p.name for p in files_in(folder, (".safetensors",))]
    if file_prefix is None:
        return tuple(there)
    chosen = tuple(name for name in there if prefix_of(name) == file_prefix)
    if not chosen:
        found, expected = f"no file of the prefix {quoted(file_prefix)}", "the files of an iteration"
        hint = "Choose another with --file_prefix (file_prefix= in Python), or leave it out."
        raise InputError("MFC102", folder, found=found, expected=expected, hint=hint)
    return chosen


def _taken_as_whole(files: Iterable[str], absent: str) -> str:
    """The sentence on an iteration that nothing describes."""
    ranks = max((int(match["total"]) for match in map(RANK_FILE.fullmatch, files) if match), default=1)
    if ranks == 1:
        return f"{absent}: every tensor of the files is taken as whole"
    return f"{absent}, and these are files of {ranks:,} ranks: every tensor is taken as whole; where they are slices, fetch it"


def _files_of(folder: Path, there: tuple[str, ...], metadata: CheckpointMetadata | None, findings: _Findings) -> tuple[str, ...]:
    """The files of the checkpoint that are there, by name."""
    if metadata is not None:
        named = set(metadata.files)
        alike = {_series_of(n) for n in named} - {None}
        read = tuple(n for n in there if n in named or _series_of(n) in alike)
        others = [n for n in there if n not in read and _holds_tensors(folder / n)]
        if others:
            findings.notes.append(f"not read, {METADATA} does not name them: {_listed(others)}{_on_prefixes(others, named)}")
        return read
    if not there:
        raise InputError("MFC102", folder, found="no *.safetensors", expected="the files of an iteration")
    _check_one_checkpoint(folder, there)
    absent = _absent_numbers(there)
    if absent:
        found = f"{how_many(len(absent), 'file')} absent, as the names count: {_listed(absent)}"
        findings.problems.append(InputError("MFC111", folder, found=found, expected="every file", hint="Fetch the missing files."))
    return there


def _holds_tensors(path: Path) -> bool:
    """False for the file of a rank whose slices other ranks have written."""
    try:
        return bool(_header(path))
    except MfconvError:
        return True


def _on_prefixes(others: Iterable[str], named: Iterable[str]) -> str:
    """How to read files of another prefix, where there are any."""
    prefixes = {p for p in map(prefix_of, others) if p is not None} - {prefix_of(name) for name in named}
    return f"; of another prefix: {' or '.join(map(as_flags, prefix_choices(prefixes)))}" if prefixes else ""


def _check_one_checkpoint(folder: Path, names: Iterable[str]) -> None:
    """Raises InputError (MFC105) for files of several checkpoints: other prefixes, or another number of files."""
    of_kind: dict[str, dict[tuple[str, int], str]] = {}
    for name in names:
        if match := RANK_FILE.fullmatch(name):
            of_kind.setdefault(match["kind"], {}).setdefault((match["prefix"] or "", int(match["total"])), name)
    prefixes = {prefix for firsts in of_kind.values() for prefix, _ in firsts}
    several = [firsts for firsts in of_kind.values() if len(firsts) > 1]
    if len(prefixes) > 1 or several:
        firsts = several[0].values() if several else [name for kind in of_kind.values() for name in kind.values()]
        found, expected = f"files of several checkpoints and no {METADATA}: {_listed(firsts)}", "the files of one"
        if len(prefixes) > 1:
            raise several_prefixes("MFC105", folder, prefixes, found=found, expected=expected)
        raise InputError("MFC105", folder, found=found, expected=expected, hint="Move the files of each into a folder of its own.")


def _absent_numbers(names: Iterable[str]) -> list[str]:
    """Names of files that must be there because the names of others count them."""
    matches = [m for m in map(RANK_FILE.fullmatch, names) if m]
    there = {m.string for m in matches}
    absent: dict[str, None] = {}
    for head, total in {(m.string[: m.start("number")], int(m["total"])) for m in matches}:
        for number in range(min(total, 1 << 16)):
            name = f"{head}{number:07d}-{total:07d}.safetensors"
            if name not in there:
                absent[name] = None
    return sorted(absent)


def _listed(names: Iterable[str], most: int = 4) -> str:
    found = list(names)
    return ", ".join(quoted(n) for n in found[:most]) + (f" and {len(found) - most:,} more" if len(found) > most else "")


def _header(path: Path) -> dict[str, LazyTensor]:
    source = FileSource(path)
    return {p.spec.name: stored_tensor(p.spec, source, p.extents) for p in read_header(source).tensors}


def _state(folder: Path, findings: _Findings) -> dict[str, Any]:
    """The numbers of `common.json`; one that cannot be read is a note: no weight depends on it."""
    path = folder / COMMON
    if not os.path.isfile(path):
        return {}
    try:
        source = FileSource(path)
        content = json.loads(source.read(0, source.size)) if source.size <= MAX_COMMON_BYTES else None
    except (ValueError, RecursionError, InputError):
        content = None
    if not isinstance(content, dict):
        findings.notes.append(f"{COMMON} cannot be read")
        return {}
    state = {name: value for name, value in content.items() if isinstance(value, int | float | str)}
    if state.get("ckpt_status") == UNHEALTHY:
        findings.notes.append(f"{COMMON} marks this iteration as unhealthy (ckpt_status {UNHEALTHY})")
    return state


# ---- tensors that the metadata describe ------------------------------------------------------------------------------------


def _sliced_tensors(metadata: CheckpointMetadata, headers: Headers, findings: _Findings) -> dict[str, SlicedTensor]:
    """Every tensor of the metadata, from the slices that the files really hold."""
    tensors: dict[str, SlicedTensor] = {}
    never_saved: list[str] = []
    lost: list[tuple[Parameter, Chunk]] = []
    absent: set[str] = set()
    holders: dict[str, list[str]] = {}
    for file, held in headers.items():
        for name in held:
            holders.setdefault(name, []).append(file)
    any_optimizer_file = any(_is_optimizer_file(name) for name in headers)
    before = cache(lambda: prefixes_before_names(metadata.parameters))
    for name, parameter in metadata.parameters.items():
        slices = {chunk: _slices_of(parameter, chunk, headers, holders.get(name, ()), findings) for chunk in parameter.chunks}
        if not any(slices.values()) and _is_never_saved(parameter, before, headers, any_optimizer_file):
            never_saved.append(name)
            continue
        absent |= {s.file for chunk in parameter.chunks for s in chunk.files if s.file not in headers and _twin(s.file) not in headers}
        without = [chunk for chunk, found in slices.items() if not found]
        lost += [(parameter, chunk) for chunk in without]
        found = tuple(sorted((s for some in slices.values() for s in some), key=lambda s: s.rank))
        if not found:
            continue
        slicing, stage = _slicing(parameter, found, findings)
        tensor = SlicedTensor(name, parameter.shape, found[0].tensor.dtype, found, slicing, stage)
        tensors[name] = tensor
        if not without:
            _check(tensor, parameter, findings)
    if never_saved:
        what = f"in {METADATA}, but never saved: {how_many(len(never_saved), 'entry', 'entries')} of optimizer state"
        findings.notes.append(f"{what}: {_listed(never_saved)}")
    if absent and not lost:
        findings.notes.append(f"files that are absent, of whose slices other ranks hold copies: {_listed(sorted(absent))}")
    findings.problems += _lost(metadata.path.parent, lost, headers, holders)
    return tensors


def _slices_of(parameter: Parameter, chunk: Chunk, headers: Headers, holders: Sequence[str], findings: _Findings) -> list[Slice]:
    """The copies of a slice that are there; one whose header contradicts the metadata is a problem and counts as there.

    Each is in the file that the metadata name, or in that of the other kind that the same rank wrote; a tensor that is in one piece in
    whichever file holds it.
    """
    box = Box(chunk.offset, chunk.shape)
    files = {
        (file if parameter.name in headers.get(file, {}) else _twin(file)): rank for file, rank in ((s.file, s.rank) for s in chunk.files)
    }
    if chunk.shape == parameter.shape:
        files = {file: _number(file) for file in holders} | files
    found = []
    for file, rank in files.items():
        tensor = headers.get(file, {}).get(parameter.name)
        if tensor is None:
            continue
        if tensor.shape != chunk.shape or parameter.dtype not in (None, tensor.dtype):
            said = f"{list(chunk.shape)} of {parameter.dtype or tensor.dtype}, as {METADATA} says"
            findings.contradiction(parameter.name, f"{list(tensor.shape)} of {tensor.dtype} in {quoted(file)}", said)
        found.append(Slice(rank, box, tensor))
    return found


def _twin(file: str) -> str:
    """The file of the other kind, weights or optimizer, that the same rank writes; the same name where it is no rank's."""
    match = RANK_FILE.fullmatch(file)
    if match is None:
        return file
    return file[: match.start("kind")] + ("model" if match["kind"] == "opt" else "opt") + file[match.end("kind") :]


def _number(file: str) -> int:
    match = RANK_FILE.fullmatch(file)
    return int(match["number"]) if match else 0


def _is_optimizer_file(name: str) -> bool:
    match = RANK_FILE.fullmatch(name)
    return match is not None and match["kind"] == "opt"


def _is_never_saved(parameter: Parameter, before: Callable[[], Collection[str]], headers: Headers, any_optimizer_file: bool) -> bool:
    """True for optimizer state of which the metadata speak, but that the run did not save.

    Either it saved no optimizer at all, or files that should hold it are there and do not. State is told by the name: one that is known,
    or one of an optimizer's file that begins with what stands ``before`` names of other tensors only.
    """
    files = {s.file for chunk in parameter.chunks for s in chunk.files}
    for_optimizer = bool(files) and all(_is_optimizer_file(f) for f in files)
    if not is_run_state(parameter.name) and not (for_optimizer and parameter.name.startswith(tuple(before()))):
        return False
    return not files or any(f in headers for f in files) or (for_optimizer and not any_optimizer_file)


def _slicing(parameter: Parameter, slices: tuple[Slice, ...], findings: _Findings) -> tuple[Slicing | None, int]:
    """How the run cut a tensor, and its stage, where a layout says so; a layout that puts a slice elsewhere is a problem."""
    layout = parameter.layout
    if layout is None:
        return None, 0
    stage = min(slices, key=lambda s: s.rank).rank // len(layout.ranks)
    if layout.interleaved:
        findings.contradiction(
            parameter.name, "parts that are dealt out in turns (interleaved_parallel)", "parts that lie side by side", ""
        )
        return None, stage
    boxes = _layout_boxes(layout, parameter.shape)
    if boxes is None:
        found = f"{list(parameter.shape)}, which the layout {list(layout.devices)} does not divide"
        findings.contradiction(parameter.name, found, "axes that divide")
        return None, stage
    for s in slices:
        if boxes.get(s.rank, s.box) != s.box:
            where = f"global_offset puts the slice of rank {s.rank} at {s.box.text()}"
            findings.contradiction(parameter.name, where, f"{boxes[s.rank].text()}, as the layout in {METADATA} says")
            break
    return Slicing(layout.devices, layout.cuts), stage


def _layout_boxes(layout: DeviceLayout, shape: tuple[int, ...]) -> dict[int, Box] | None:
    try:
        return dict(zip(layout.ranks, boxes_of(Slicing(layout.devices, layout.cuts), shape), strict=True))
    except ValueError:
        return None


def _check(tensor: SlicedTensor, parameter: Parameter, findings: _Findings) -> None:
    """The parts that are written down, one dtype, and slices that make up the tensor."""
    parts, (shape, *others) = parameter.parts, {chunk.shape for chunk in parameter.chunks}
    if parts is not None and not others and parts != tuple(n // part if part else 1 for n, part in zip(tensor.shape, shape, strict=True)):
        found = f"axis_fragmentations {list(parts)}"
        findings.contradiction(tensor.name, found, f"slices of {list(shape)} in {list(tensor.shape)}")
        return
    dtypes = sorted({s.tensor.dtype for s in tensor.slices})
    if len(dtypes) > 1:
        findings.contradiction(tensor.name, f"slices of {' and '.join(dtypes)}", "one dtype")
        return
    if len(parameter.chunks) > 1 and _cells(parameter) > MAX_CELLS:
        found = f"{len(parameter.chunks):,} slices that form no grid"
        findings.contradiction(tensor.name, found, "slices side by side along every axis")
        return
    problem = tensor.problem()
    if problem is not None:
        findings.problems.append(problem)


def _cells(parameter: Parameter) -> int:
    """Into how many cells the edges of the slices cut the tensor: what it takes to check that they make it up."""
    chunks = parameter.chunks
    return math.prod(len({e for c in chunks for e in (c.offset[a], c.offset[a] + c.shape[a])}) for a in range(len(parameter.shape)))


def _lost(
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
        whose = f"rank{'s' * (len(ranks) != 1)} {listed}: {_listed(files)}" if files else "no file is named for them"
        found = f"{how_many(len(absent), 'slice')} in no file that is there; first {first} ({whose})"
        yield InputError("MFC111", folder, found=found, expected="one copy of every slice", hint="Fetch the missing files.")
    elsewhere = [(p, c) for p, c in lost if any(s.file in headers for s in c.files)]
    if elsewhere:
        parameter, chunk = elsewhere[0]
        file = next(s.file for s in chunk.files if s.file in headers)
        found = (
            f"{how_many(len(elsewhere), 'slice')} not in the files that {METADATA} names; this one {Box(chunk.offset, chunk.shape).text()}"
        )
        if parameter.name in holders:
            found += f"; a tensor of this name is in {_listed(holders[parameter.name])}"
        yield InputError("MFC113", quoted(parameter.name), found=found, expected=f"a slice in {quoted(file)}", hint=HINT_RUN)


def _writers(metadata: CheckpointMetadata) -> dict[str, frozenset[int]]:
    writers: dict[str, set[int]] = {}
    for parameter in metadata.parameters.values():
        for chunk in parameter.chunks:
            for stored in chunk.files:
                writers.setdefault(stored.file, set()).add(stored.rank)
    return {file: frozenset(ranks) for file, ranks in writers.items()}


# ---- tensors that nothing describes ----------------------------------------------------------------------------------------


def _undescribed_tensors(
    metadata: CheckpointMetadata, headers: Headers, writers: Mapping[str, frozenset[int]], findings: _Findings
) -> dict[str, SlicedTensor]:
    """Tensors of the files of which the metadata do not speak: whole, and among the tensors, so that none is lost in silence."""
    rest = {file: {n: t for n, t in held.items() if n not in metadata.parameters} for file, held in headers.items()}
    tensors = _whole_tensors(rest, findings, {file: min(ranks) for file, ranks in writers.items()})
    if tensors:
        findings.notes.append(f"taken as whole: {how_many(len(tensors), 'tensor')} that {METADATA} does not describe: {_listed(tensors)}")
    unfound = [n for n in metadata.undescribed if n not in tensors]
    if unfound:
        findings.notes.append(f"without description or tensor: {how_many(len(unfound), 'name')} of storage_data: {_listed(unfound)}")
    return tensors


def _whole_tensors(headers: Headers, findings: _Findings, ranks: Mapping[str, int] | None = None) -> dict[str, SlicedTensor]:
    """Every tensor as a whole; a name in several files must be the same there."""
    found: dict[str, list[tuple[str, Slice]]] = {}
    for place, (file, held) in enumerate(headers.items()):
        match = RANK_FILE.fullmatch(file)
        rank = (ranks or {}).get(file, int(match["number"]) if match else place)
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
            findings.contradiction(name, shown, "the same tensor in every file", hint)
    return tensors
