"""Where a save writes to: what may stand there already, what is replaced, and what is never touched."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mfconv_nb.core.errors import InputError, OutputError, quoted
from mfconv_nb.core.file_plan import OutputPlan
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.folders import checkpoint_files, find_rivals
from mfconv_nb.formats.known import weight_endings
from mfconv_nb.runs.opening import looks_like_run
from mfconv_nb.steps.saving.output import Output
from mfconv_nb.streaming.staging import Staging

_FOLDER_INDEXES = (index_files.HF_SAFETENSORS, index_files.HF_TORCH, index_files.MINDSPORE)


def check_target(out: Output, staging: Staging, *, overwrite: bool) -> None:
    """Raises OutputError when the target is a source (MFC402), exists (MFC401) or cannot be (MFC404)."""
    plan, target, home = out.plan, staging.target, home_of(out.plan, staging)
    sources = {p.resolve() for p in out.checkpoint.files} | {s.path.resolve() for s in out.sources() if isinstance(s, FileSource)}
    for name in plan.names:
        if (home / name).resolve() in sources:
            hint = "Choose another target: nothing is ever written into the source."
            raise OutputError("MFC402", home / name, found="a file that is being read", expected="another name", hint=hint)
    if plan.folder and any(p.parent == target.resolve() for p in sources):
        hint = "Choose another target: a checkpoint is never replaced by what is made from it."
        raise OutputError("MFC402", target, found="the folder that is being read", expected="another folder", hint=hint)
    if any("/" in file.name for file in plan.files):
        _check_no_other_run(plan, target)
    elif plan.folder and looks_like_run(target):
        code = "MFC402" if any(target.resolve() in p.parents for p in sources) else "MFC401"
        hint = "Choose a new folder, which may lie in it: nothing is ever written beside the slices of a run."
        raise OutputError(code, target, found="the folder of a training run", expected="another folder", hint=hint)
    if plan.folder and target.exists() and not target.is_dir():
        raise OutputError("MFC401", target, found="a file", expected="a folder, or nothing", hint="Choose another name.")
    _check_is_new(plan, staging, sources, overwrite=overwrite)
    if target.parent.exists() and not target.parent.is_dir():
        raise OutputError("MFC404", target.parent, found="a file", expected="a folder", hint="Choose another target.")


def home_of(plan: OutputPlan, staging: Staging) -> Path:
    """The folder that the files go into."""
    return staging.target if plan.folder else staging.target.parent


def _check_is_new(plan: OutputPlan, staging: Staging, sources: Collection[Path], *, overwrite: bool) -> None:
    """Raises OutputError where something would be replaced unasked (MFC401), or a file that is being read (MFC402)."""
    old = [home_of(plan, staging) / name for name in files_to_replace(plan, staging)]
    if read := next((p for p in old if p.resolve() in sources), None):
        hint = "Choose another target: a checkpoint is never replaced by what is made from it."
        raise OutputError("MFC402", read, found="a file that is being read", expected="another name", hint=hint)
    if overwrite:
        return
    hint = "Use --force (overwrite=True in Python), or choose another name."
    if plan.folder and staging.target.is_dir():
        old += checkpoint_files(staging.target)
    if old:
        raise OutputError("MFC401", old[0], found="an existing file", expected="a new name", hint=hint)
    if side := next((s for s in staging.sides if s.is_dir() and any(s.iterdir())), None):
        found = "the side folder of a checkpoint that is no longer here"
        hint = "Move it to where that checkpoint is; or use --force (overwrite=True in Python), or choose another name."
        raise OutputError("MFC401", side, found=found, expected="a new name", hint=hint)


def _check_no_other_run(plan: OutputPlan, target: Path) -> None:
    """Raises OutputError (MFC401) where something else lies in the folder that gets the slices of a run: ranks or steps would mix."""
    own = set(plan.names)
    there = (p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()) if target.is_dir() else ()
    others = sorted(name for name in there if name not in own)
    if others:
        found, hint = f"{quoted(others[0])} in it", "Choose a new folder: ranks and steps of two runs never lie in one."
        raise OutputError("MFC401", target, found=found, expected="a new folder", hint=hint)


def files_to_replace(plan: OutputPlan, staging: Staging) -> list[str]:
    """What is replaced, by name: files of the plan that are there, and the weights of an earlier output that have no successor; indexes
    first. In a folder those are its indexes, the shards that they name, and whatever would be read rather than what is written; for a
    file they are that file, or the shards that were written beside each other under its name.
    """
    target, home = staging.target, home_of(plan, staging)
    if not home.is_dir():
        return []
    indexes = _FOLDER_INDEXES if plan.folder else (f"{target.name}.index.json",)
    names = dict.fromkeys([*indexes, *reversed(list(plan.indexes)), *(() if plan.folder else (target.name,))])
    for name in indexes:
        try:
            found = index_files.read_index(home / name).files
        except InputError:
            continue
        beside = f"{target.stem}-" if not plan.folder else ""
        names |= dict.fromkeys(
            f.name for f in found if f.suffix.lower() in weight_endings() and f.parent == home and f.name.startswith(beside)
        )  # it may name anything
    names |= dict.fromkeys(f.name for f in (find_rivals(home, plan.names) if plan.folder else ()))
    names |= dict.fromkeys(plan.names)
    return [name for name in names if os.path.lexists(home / name) and not (home / name).is_dir()]
