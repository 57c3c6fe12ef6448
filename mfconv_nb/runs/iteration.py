"""Open one iteration of a Checkpoint 2.0 run: its files, `metadata.json`, and whether both agree. Reads headers only.

Every tensor of the files becomes a tensor of the checkpoint, described or not. Where the metadata say that a tensor lies does not make it
optimizer state, and every file of the iteration is searched for it: up to June 2026 the dynamic graph named the optimizer's file for
weights of later pipeline stages. A note counts optimizer state that the metadata list and no file holds: MindFormers wrote such entries up
to July 2026.

Source: mindformers 2.1.0, `checkpoint/checkpoint.py` and `checkpoint/fully_parallel.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.formats.checkpoint_metadata import METADATA, CheckpointMetadata, read_metadata
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.runs.iteration_files import (
    COMMON,
    RANK_FILE,
    Findings,
    Headers,
    choose_files,
    is_optimizer_file,
    list_safetensors,
    read_state,
    read_tensors,
)
from mfconv_nb.runs.iteration_tensors import described_tensors, undescribed_tensors, whole_tensors
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.streaming.open_files import allow_open_files

KIND = "Checkpoint 2.0"


@dataclass(frozen=True)
class OpenedIteration:
    """An iteration.

    Attributes:
        writers: for every file the ranks that wrote it, where the metadata say so.
        skipped: sentences on newer iterations that are not read.
    """

    run: TrainedRun
    writers: Mapping[str, frozenset[int]]
    skipped: tuple[str, ...] = ()


def open_iteration(folder: Path, number: int | None, file_prefix: str | None = None) -> OpenedIteration:
    """Open the folder of one iteration.

    Args:
        number: the iteration in the folder's name.
        file_prefix: of the files to read, where those of several checkpoints lie in the folder.

    Raises:
        InputError: MFC101, MFC102, MFC104, MFC105. FormatError: MFC2xx. What makes it incomplete or contradicts itself is in
            ``run.problems``.
    """
    findings = Findings()
    there = list_safetensors(folder, file_prefix)
    metadata = read_metadata(folder / METADATA) if os.path.isfile(folder / METADATA) else None
    absent = f"no {METADATA}"
    if metadata is not None and file_prefix is not None and not set(metadata.files) & set(there):
        metadata, absent = None, f"{METADATA} does not speak of them"
    files = choose_files(folder, there, metadata, findings)
    allow_open_files(len(files))
    headers = {name: read_tensors(folder / name) for name in files}
    state = read_state(folder, findings)
    counted = state.get("global_step", number)
    if number is not None and isinstance(counted, int) and counted != number:
        findings.notes.append(f"{COMMON} counts {counted} steps, the folder is called iteration {number}")
    writers: dict[str, frozenset[int]] = {}
    if metadata is None:
        tensors = whole_tensors(headers, findings)
        findings.assumed.append(_assumption_on_wholes(files, absent))
    else:
        writers = _writers_of_files(metadata)
        tensors = described_tensors(metadata, headers, findings) | undescribed_tensors(metadata, headers, writers, findings)
    run = TrainedRun(
        folder=folder,
        kind=KIND,
        steps={},
        chosen=None if number is None else Step(None, number),
        tensors=tensors,
        files=tuple(folder / name for name in files),
        of_optimizer=_names_in(headers, of_optimizer=True) - _names_in(headers, of_optimizer=False),
        absent=tuple(n for n in metadata.undescribed if n not in tensors and not is_run_state(n)) if metadata is not None else (),
        problems=tuple(findings.problems),
        assumed=tuple(findings.assumed),
        notes=tuple(findings.notes),
        state=state,
    )
    return OpenedIteration(run, writers)


def _names_in(headers: Headers, *, of_optimizer: bool) -> frozenset[str]:
    """The tensors in files of the optimizer, or in all others."""
    return frozenset(name for file, held in headers.items() if is_optimizer_file(file) == of_optimizer for name in held)


def _assumption_on_wholes(files: Iterable[str], absent: str) -> str:
    """The sentence on an iteration that no metadata describe."""
    ranks = max((int(match["total"]) for match in map(RANK_FILE.fullmatch, files) if match), default=1)
    if ranks == 1:
        return f"{absent}: every tensor of the files is taken as whole"
    return f"{absent}, and these are files of {ranks:,} ranks: every tensor is taken as whole; where they are slices, fetch it"


def _writers_of_files(metadata: CheckpointMetadata) -> dict[str, frozenset[int]]:
    writers: dict[str, set[int]] = {}
    for parameter in metadata.parameters.values():
        for chunk in parameter.chunks:
            for stored in chunk.files:
                writers.setdefault(stored.file, set()).add(stored.rank)
    return {file: frozenset(ranks) for file, ranks in writers.items()}
