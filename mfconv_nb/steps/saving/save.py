"""save: write a checkpoint. The ending of the target chooses the format; the bytes stream through, in bounded memory.

Layout first, then fill: the whole output is planned before a byte is written, filled in a staging folder beside the target, and
moved to its final names at the end. A run that was killed goes on where it stopped when the same call is made again, unless the
source is a live object: what it held then cannot be known, so all of it is written anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, Checkpoint, TensorSpec
from mfconv_nb.core.dtypes import requested_dtype, short_name
from mfconv_nb.core.errors import InputError, MappingError, OutputError, quoted
from mfconv_nb.core.file_plan import OutputPlan
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import NoProgress, OnProgress, Progress, progress_for
from mfconv_nb.core.report import Column, Result, Table, bytes_text, how_many, seconds_text
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats import index as index_files
from mfconv_nb.formats.folders import checkpoint_files, find_rivals
from mfconv_nb.formats.known import weight_endings
from mfconv_nb.runs.cutting import RankLayout
from mfconv_nb.runs.opening import looks_like_run
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.saving.output import Output, manifest_of, whole_output
from mfconv_nb.steps.saving.ranks_output import ranks_output
from mfconv_nb.steps.saving.way_back import way_back_of
from mfconv_nb.streaming.compare import compare_tensors
from mfconv_nb.streaming.fill import DEFAULT_THREADS, fill_files, infinite_among
from mfconv_nb.streaming.journal import NO_LOCK
from mfconv_nb.streaming.manifest import MANIFEST, manifest_bytes
from mfconv_nb.streaming.publish import finish_earlier, publish
from mfconv_nb.streaming.staging import Staging, check_names_are_free, check_space, open_journal, refused_writes, staging_of
from mfconv_nb.streaming.stored_checksums import check_stored_checksums
from mfconv_nb.streaming.zeros import notes_on_zeros

_CONFIGS = {"config.json", "adapter_config.json"}
_FOLDER_INDEXES = (index_files.HF_SAFETENSORS, index_files.HF_TORCH, index_files.MINDSPORE)
NO_CONFIG = "no config.json is written, which from_pretrained needs: give the original's folder (--config HF_DIR, assets= in Python)"

NOT_OF_A_RUN = "these are names of Hugging Face: a run of MindFormers knows its own (mfconv convert first, mc.map in Python)"

ALL_BUT_DONE = "an earlier run had written everything and was stopped while files got their names: what it found on the way is not repeated"


@makes_many_objects
def save(
    checkpoint: Loadable,
    target: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    threads: int = DEFAULT_THREADS,
    max_shard_size: str | int | None = None,
    assets: str | Path | None = None,
    layout_of_ranks: RankLayout | str | Path | None = None,
    durable: bool = True,
    dry_run: bool = False,
    progress: bool | OnProgress = True,
) -> SaveReport:
    """Write ``checkpoint`` to ``target``, whose ending chooses the format. Memory: 2 to 4 MiB a thread, up to 16 for a transpose.

    Args:
        checkpoint: what ``load`` or ``map`` gave, or anything that ``load`` takes.
        target: ``x.safetensors``, ``x.ckpt``, ``x.bin`` (``.pt``, ``.pth``), or a folder, which gets shards with an index.
        dtype: cast floating tensors to "fp32", "bf16" or "fp16" (round to nearest even). Left out: every tensor keeps its own.
        overwrite: replace an existing target.
        max_shard_size: "5GB"; for folders.
        assets: a Hugging Face folder whose config and tokenizer files go along into a folder target.
        layout_of_ranks: cut every tensor for the ranks of a training run: a ``RankLayout``, or a JSON file with its fields. The target is
            a folder, and gets `rank_N/` with strategy files, or a Checkpoint 2.0.
        durable: flush to the disk before the files appear under their names (a power cut cannot undo the report).
        dry_run: plan and check everything, write nothing.
        progress: show a bar when it takes longer than half a second; or a function that is called with the bytes written so far.
    Raises:
        OutputError: MFC401 to MFC407. InputError: MFC108 when a source changes. MappingError: MFC308 for tensors that must be equal.
        FormatError: MFC209 where a source does not fit the checksum that it carries.
    """
    begun = time.monotonic()
    target, source = local_path(target), load(checkpoint)
    if layout_of_ranks is None:
        out = whole_output(source, target, requested_dtype(dtype), max_shard_size, assets)
    else:
        out = ranks_output(source, target, requested_dtype(dtype), layout_of_ranks)
    staging = staging_of(target)
    out = _named_as(staging.target, out)
    about, fingerprint = _about(out, staging.target), out.fingerprint()
    check_names_are_free(staging, out.plan.names)
    earlier = None if dry_run else finish_earlier(staging)
    if earlier is not None and earlier.fingerprint == fingerprint:
        about["notes"] += (ALL_BUT_DONE,)
        infinite = _infinite(out, infinite_among(earlier.finished))
        return SaveReport(**about, seconds=time.monotonic() - begun, resumed=len(earlier.finished), infinite=infinite)
    check_target(out, staging, overwrite=overwrite)
    bar = progress_for(progress, out.plan.size, "writing")
    check_stored_checksums((*source, *out.carried.values()), threads, bar)
    about["notes"] += check_equalities(source, threads, bar)
    check_space(staging, out.plan.size)
    out.check_sources()
    if dry_run:
        return SaveReport(**about, seconds=0.0, dry_run=True)
    journal = open_journal(staging, fingerprint)
    try:
        check_target(out, staging, overwrite=overwrite)  # the other run that held the lock may have written it
        with refused_writes(target), bar:
            filled = fill_files(out.jobs(staging), journal, threads, bar)
            out.check_sources()
            about["notes"] += notes_on_zeros(_written(out, filled.checksums))
            _write_small_files(staging, out, filled.checksums)
        check_target(out, staging, overwrite=overwrite)  # someone else may have been quicker
        old = _old_files(out.plan, staging)
        publish(staging, journal, out.plan.names, old, folder=out.plan.folder, durable=durable)
    finally:
        journal.close()  # not earlier: until the last file has its name no other run may touch them
    about["notes"] += () if journal.is_locked else (NO_LOCK,)
    seconds, resumed = time.monotonic() - begun, len(journal.finished)
    return SaveReport(**about, seconds=seconds, resumed=resumed, infinite=_infinite(out, filled.infinite))


def _named_as(target: Path, out: Output) -> Output:
    """With the name that a link leads to, for a file: its ending may be another than that of the link, which chose the format."""
    if out.plan.folder or len(out.plan.files) > 1 or out.plan.files[0].name == target.name:
        return out
    return replace(out, plan=replace(out.plan, files=(replace(out.plan.files[0], name=target.name),)))


def _about(out: Output, target: Path) -> dict[str, Any]:
    """What the report says whatever happens."""
    lacks_config = out.checkpoint.side == HF and out.plan.folder and not _CONFIGS & set(out.plan.names)
    carried, merged = len(out.checkpoint.carried_away), out.checkpoint.merged
    notes = ((NOT_OF_A_RUN if out.offsets else NO_CONFIG,) if lacks_config else ()) + out.notes
    back = way_back_of(out)
    return {"target": str(target), "plan": out.plan, "casts": out.casts, "back": back, "carried": carried, "merged": merged, "notes": notes}


def _infinite(out: Output, counted: Mapping[tuple[int, str], int]) -> dict[str, int]:
    """The numbers that a cast made infinite, by tensor; of a slice that several ranks hold once."""
    slices = {(name, out.offsets[file].get(name) if file < len(out.offsets) else None): n for (file, name), n in counted.items()}
    found: dict[str, int] = {}
    for (name, _), n in slices.items():
        found[name] = found.get(name, 0) + n
    return {name: found[name] for name in out.checkpoint.tensors if name in found}


def _written(out: Output, checksums: Mapping[tuple[int, str], str]) -> dict[str, tuple[TensorSpec, str]]:
    """What was written under each name, with its checksum."""
    held = ((number, name, out.held[number][name]) for number, file in enumerate(out.plan.files) for name in file.places)
    return {name: (TensorSpec(name, tensor.shape, out.dtypes[name]), checksums[number, name]) for number, name, tensor in held}


def _write_small_files(staging: Staging, out: Output, checksums: Mapping[tuple[int, str], str]) -> None:
    for name, data in out.plan.indexes.items():
        (staging.data / name).parent.mkdir(parents=True, exist_ok=True)
        (staging.data / name).write_bytes(data)
    (staging.side / MANIFEST).write_bytes(manifest_bytes(manifest_of(out, checksums)))


# ---- checks before the first byte ----------------------------------------------------------------------------------------


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
    old = [home_of(plan, staging) / name for name in _old_files(plan, staging)]
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


def check_equalities(checkpoint: Checkpoint, threads: int = DEFAULT_THREADS, progress: Progress | None = None) -> tuple[str, ...]:
    """Raises MappingError (MFC308) when tensors that are left out as copies hold other numbers than what they copy.

    Args:
        progress: of the step that comes after it; this one shows its own beside it.
    Returns:
        What is to be said of tensors that should be equal, are not, and are both kept.
    """
    if not checkpoint.equalities:
        return ()
    pairs = [(e.first, e.second) for e in checkpoint.equalities]
    with (progress or NoProgress()).another(sum(b.spec.nbytes for _, b in pairs), "comparing copies") as bar:
        found = compare_tensors(pairs, threads, bar)
    for equality, comparison in zip(checkpoint.equalities, found, strict=True):
        if not comparison.equal_bytes and not equality.said:
            raise MappingError(
                "MFC308",
                quoted(equality.first.name),
                found=f"{comparison.differing:,} of {comparison.elements:,} numbers differ",
                expected=f"equal bytes, since {equality.why}",
                hint=equality.hint or None,
            )
    return tuple(e.said for e, c in zip(checkpoint.equalities, found, strict=True) if e.said and not c.equal_bytes)


def _old_files(plan: OutputPlan, staging: Staging) -> list[str]:
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


# ---- the result --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class SaveReport(Result):
    """What was written, or with ``dry_run`` what would be.

    Attributes:
        back: what converting back would give, as planned before anything was written.
        infinite: of the tensors where a cast made finite numbers infinite, how many.
    """

    target: str
    plan: OutputPlan
    casts: Mapping[tuple[str, str], int]
    back: str
    carried: int
    seconds: float
    resumed: int = 0
    dry_run: bool = False
    merged: Any = None
    notes: tuple[str, ...] = ()
    infinite: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with weights, and the small ones beside them."""
        home = Path(self.target) if self.plan.folder else Path(self.target).parent
        return tuple(home / n for n in self.plan.names)

    @property
    def manifest(self) -> Path:
        """The manifest beside the output."""
        return staging_of(Path(self.target)).side_folder / MANIFEST

    @property
    def way_back(self) -> str:
        """What converting back would give: "exact", or what it would lack, and what a cast has cost."""
        return f"{self._became_infinite()}; {self.back}" if self.infinite else self.back

    def _became_infinite(self) -> str:
        return f"{how_many(sum(self.infinite.values()), 'number')} in {how_many(len(self.infinite), 'tensor')} became infinite"

    def table(self) -> Table:
        tensors = sum(len(f.places) for f in self.plan.files)
        size = bytes_text(self.plan.size)
        files = how_many(len(self.plan.files), "file")
        rows = [(f.name, len(f.places), bytes_text(f.size)) for f in self.plan.files]
        columns = (Column("file"), Column("tensors", True), Column("bytes", True))
        casts: tuple[str, ...] = (self.merged.sentence(),) if self.merged is not None else ()
        casts += tuple(f"cast: {how_many(n, 'tensor')} from {short_name(a)} to {short_name(b)}" for (a, b), n in self.casts.items())
        if self.dry_run:
            facts = (*casts, *self.notes, "Nothing was written (dry run).")
            return Table("", f"Would write {how_many(tensors, 'tensor')}, {size}, {files} to {self.target}", columns, rows, facts)
        rate = f", {bytes_text(int(self.plan.size / self.seconds))}/s" if self.seconds > 0.5 else ""
        facts = (*casts, *(("Resumed: an earlier run had finished part of it.",) if self.resumed else ()))
        facts += (f"beside the target, which cannot carry everything: {how_many(self.carried, 'tensor')}",) if self.carried else ()
        facts += (*self.notes, f"manifest: {self.manifest}")
        headline = f"{how_many(tensors, 'tensor')}, {size}, {files}, {seconds_text(self.seconds)}{rate}. Way back: {self.way_back}."
        if self.infinite:
            first = next(iter(self.infinite))
            facts = (f"{self._became_infinite()}, too large for the dtype that was asked for; first in {first}", *facts)
        return Table("! Converted." if self.infinite else "✓ Converted.", headline, columns, rows if len(rows) > 1 else (), facts)
