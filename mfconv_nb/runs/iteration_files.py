"""The files of one iteration of a Checkpoint 2.0 run: their names, which of them belong to the checkpoint, and `common.json`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import LazyTensor, stored_tensor
from mfconv_nb.core.errors import InputError, MfconvError, as_flags, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.checkpoint_metadata import METADATA, CheckpointMetadata
from mfconv_nb.formats.safetensors_file import read_header
from mfconv_nb.runs.message_text import names_text
from mfconv_nb.runs.rank_files import files_in
from mfconv_nb.runs.run import prefix_choices, several_prefixes_error

COMMON = "common.json"
MAX_COMMON_BYTES = 1 << 20
UNHEALTHY = 1  # ckpt_status
HINT_RUN = "Nearly always a rank's file is of another run or another step: fetch those of one step again."
RANK_FILE = re.compile(r"(?:(?P<prefix>.+)-)?(?P<kind>model|opt)-(?P<number>\d{1,9})-(?P<total>\d{1,9})\.safetensors")

Headers = Mapping[str, Mapping[str, LazyTensor]]  # for every file that is there: its tensors by name


@dataclass
class Findings:
    """Collects what is found while an iteration is opened: problems, which make it no checkpoint, and sentences."""

    problems: list[MfconvError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def add_contradiction(self, name: str, found: str, expected: str, hint: str | None = HINT_RUN) -> None:
        """Add MFC113 for a tensor."""
        self.problems.append(InputError("MFC113", quoted(name), found=found, expected=expected, hint=hint))


# ---- names -------------------------------------------------------------------------------------------------------------------


def file_names(folder: Path) -> frozenset[str]:
    """The names of the files in a folder, without those that begin with a dot; empty where it cannot be listed."""
    try:
        return frozenset(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    except OSError:
        return frozenset()


def prefix_of(name: str) -> str | None:
    """What stands before `model-` or `opt-` in the name of a rank's file; None for a file of another name."""
    match = RANK_FILE.fullmatch(name)
    return None if match is None else match["prefix"] or ""


def _series_of(name: str) -> tuple[str, int] | None:
    """What the files of one iteration have in common: the prefix and the number of ranks; None for a file of another name."""
    match = RANK_FILE.fullmatch(name)
    return None if match is None else (match["prefix"] or "", int(match["total"]))


def twin_of(file: str) -> str:
    """The file of the other kind, weights or optimizer, that the same rank writes; the same name where it is no rank's."""
    match = RANK_FILE.fullmatch(file)
    if match is None:
        return file
    return file[: match.start("kind")] + ("model" if match["kind"] == "opt" else "opt") + file[match.end("kind") :]


def rank_of(file: str) -> int | None:
    """The number in the name of a rank's file; None for a file of another name."""
    match = RANK_FILE.fullmatch(file)
    return int(match["number"]) if match else None


def is_optimizer_file(name: str) -> bool:
    """True for the name of a rank's file of optimizer state."""
    match = RANK_FILE.fullmatch(name)
    return match is not None and match["kind"] == "opt"


# ---- which files belong to the checkpoint ------------------------------------------------------------------------------------


def list_safetensors(folder: Path, file_prefix: str | None) -> tuple[str, ...]:
    """The names of the files with weights, of one prefix where it is given. Raises InputError (MFC102) where no file has it."""
    there = [p.name for p in files_in(folder, (".safetensors",))]
    if file_prefix is None:
        return tuple(there)
    chosen = tuple(name for name in there if prefix_of(name) == file_prefix)
    if not chosen:
        found, expected = f"no file of the prefix {quoted(file_prefix)}", "the files of an iteration"
        hint = "Choose another with --file_prefix (file_prefix= in Python), or leave it out."
        raise InputError("MFC102", folder, found=found, expected=expected, hint=hint)
    return chosen


def choose_files(folder: Path, there: tuple[str, ...], metadata: CheckpointMetadata | None, findings: Findings) -> tuple[str, ...]:
    """The names of the files that belong to the checkpoint.

    Raises:
        InputError: MFC102 without any, MFC105 for files of several checkpoints that no metadata tell apart.
    """
    if metadata is not None:
        return _choose_by_metadata(folder, there, metadata, findings)
    if not there:
        raise InputError("MFC102", folder, found="no *.safetensors", expected="the files of an iteration")
    _check_one_checkpoint(folder, there)
    absent = _absent_names(there)
    if absent:
        found = f"{how_many(len(absent), 'file')} absent, as the names count: {names_text(absent)}"
        findings.problems.append(InputError("MFC111", folder, found=found, expected="every file", hint="Fetch the missing files."))
    return there


def _choose_by_metadata(folder: Path, there: tuple[str, ...], metadata: CheckpointMetadata, findings: Findings) -> tuple[str, ...]:
    """The files that the metadata name, and those of the same prefix and number of ranks; a note on the others."""
    named = set(metadata.files)
    series = {_series_of(n) for n in named} - {None}
    chosen = tuple(n for n in there if n in named or _series_of(n) in series)
    others = [n for n in there if n not in chosen and _holds_tensors(folder / n)]
    if others:
        note = f"not read, {METADATA} does not name them: {names_text(others)}"
        prefixes = {p for p in map(prefix_of, others) if p is not None} - {prefix_of(name) for name in named}
        if prefixes:
            note += f"; of another prefix: {' or '.join(map(as_flags, prefix_choices(prefixes)))}"
        findings.notes.append(note)
    return chosen


def _holds_tensors(path: Path) -> bool:
    """False for the file of a rank whose slices other ranks have written."""
    try:
        return bool(read_tensors(path))
    except MfconvError:
        return True


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
        found, expected = f"files of several checkpoints and no {METADATA}: {names_text(firsts)}", "the files of one"
        if len(prefixes) > 1:
            raise several_prefixes_error("MFC105", folder, prefixes, found=found, expected=expected)
        raise InputError("MFC105", folder, found=found, expected=expected, hint="Move the files of each into a folder of its own.")


def _absent_names(names: Iterable[str]) -> list[str]:
    """Names of files that are absent although the names of others count them."""
    matches = [m for m in map(RANK_FILE.fullmatch, names) if m]
    there = {m.string for m in matches}
    absent: dict[str, None] = {}
    for head, total in {(m.string[: m.start("number")], int(m["total"])) for m in matches}:
        for number in range(min(total, 1 << 16)):
            name = f"{head}{number:07d}-{total:07d}.safetensors"
            if name not in there:
                absent[name] = None
    return sorted(absent)


# ---- what the files say --------------------------------------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file, by name; reads its header."""
    source = FileSource(path)
    return {p.spec.name: stored_tensor(p.spec, source, p.extents) for p in read_header(source).tensors}


def read_state(folder: Path, findings: Findings) -> dict[str, Any]:
    """The numbers of `common.json`. A file that cannot be read is only a note: no weight depends on it."""
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


def iteration_in_common(folder: Path) -> int | None:
    """The iteration that `common.json` gives."""
    count = read_state(folder, Findings()).get("global_step")
    return count if type(count) is int and count >= 0 else None
