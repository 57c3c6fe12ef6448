"""save: write a checkpoint. The ending of the target chooses the format; the bytes stream through, in bounded memory.

Layout first, then fill: the whole output is planned before a byte is written, filled in a staging folder beside the target, and
moved to its final names at the end. A run that was killed goes on where it stopped when the same call is made again, unless the
source is a live object: what it held then cannot be known, so all of it is written anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, Checkpoint, TensorSpec
from mfconv_nb.core.dtypes import requested_dtype
from mfconv_nb.core.errors import MappingError, UsageError, quote
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import NoProgress, OnProgress, Progress, progress_for
from mfconv_nb.core.rounding import Rounding
from mfconv_nb.runs.rank_layout import RankLayout
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.loading.manifest_proof import prove_own_manifest
from mfconv_nb.steps.saving.codes import (
    AsAsked,
    DequantisedReport,
    check_codes,
    check_scales,
    choose_form,
    published_in_manifest,
    tensors_to_keep,
)
from mfconv_nb.steps.saving.output import Output, manifest_of, whole_output
from mfconv_nb.steps.saving.ranks_output import ranks_output
from mfconv_nb.steps.saving.save_report import SaveReport
from mfconv_nb.steps.saving.target import check_target, files_to_replace
from mfconv_nb.steps.saving.way_back import way_back_of
from mfconv_nb.streaming.compare import compare_tensors
from mfconv_nb.streaming.fill import DEFAULT_THREADS, fill_files, infinite_among, rounding_among
from mfconv_nb.streaming.journal import NO_LOCK
from mfconv_nb.streaming.manifest import MANIFEST, manifest_bytes
from mfconv_nb.streaming.publish import finish_earlier, publish
from mfconv_nb.streaming.staging import Staging, check_names_are_free, check_space, open_journal, refused_writes, staging_of
from mfconv_nb.streaming.stored_checksums import check_stored_checksums
from mfconv_nb.streaming.zeros import notes_on_zeros

_CONFIGS = {"config.json", "adapter_config.json"}
NO_CONFIG = "no config.json is written, which from_pretrained needs: give the original's folder (--config HF_DIR, assets= in Python)"

KEEP = "keep"
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
    requantise: bool = False,
    layout_of_ranks: RankLayout | str | Path | None = None,
    durable: bool = True,
    dry_run: bool = False,
    progress: bool | OnProgress = True,
) -> SaveReport:
    """Write ``checkpoint`` to ``target``, whose ending chooses the format. Memory: 2 to 4 MiB a thread, up to 16 for a transpose.

    Args:
        checkpoint: what ``load`` or ``map`` gave, or anything that ``load`` takes.
        target: ``x.safetensors``, ``x.ckpt``, ``x.bin`` (``.pt``, ``.pth``), or a folder, which gets shards with an index.
        dtype: cast floating tensors to "fp32", "bf16" or "fp16" (round to nearest even); "keep" writes fp8 and fp4 codes with their scales
            for MindFormers too, into safetensors. Left out: every tensor keeps its own; weights that
            were published as codes with scales are numbers for MindFormers, and codes again for Hugging Face where the scales are there.
        overwrite: replace an existing target.
        max_shard_size: "5GB"; for folders.
        assets: a Hugging Face folder whose config and tokenizer files go along into a folder target.
        requantise: of weights that were published as fp8 or fp4 codes, quantise anew those that were changed since; those that were not
            give the published bytes.
        layout_of_ranks: cut every tensor for the ranks of a training run: a ``RankLayout``, or a JSON file with its fields. The target is
            a folder, and gets `rank_N/` with strategy files, or a Checkpoint 2.0.
        durable: flush to the disk before the files appear under their names (a power cut cannot undo the report).
        dry_run: plan and check everything, write nothing.
        progress: show a bar when it takes longer than half a second; or a function that is called with the bytes written so far.
    Raises:
        OutputError: MFC401 to MFC407. InputError: MFC108 when a source changes. MappingError: MFC308 for tensors that must be equal.
        FormatError: MFC209 where a source does not fit the checksum that it carries.
    """
    target = local_path(target)
    source, stale = prove_own_manifest(load(checkpoint))
    _check_not_empty(source)
    cast = requested_dtype(None if dtype == KEEP else dtype)
    asked = choose_form(source, cast, requantise=requantise, keep=dtype == KEEP)
    if layout_of_ranks is None:
        out = whole_output(asked.checkpoint, target, cast, max_shard_size, assets, of_mindspore=not asked.keeps_codes)
    else:
        out = ranks_output(asked.checkpoint, target, cast, layout_of_ranks)
    writes_codes = asked.keeps_codes or asked.codes is not None
    before = check_scales(source, {t.name: t.dtype for t in source}) if writes_codes else None
    scales = check_scales(asked.checkpoint, out.dtypes)
    exact = {name: fit.exact for name, fit in scales.fitness.items()}
    kept = tensors_to_keep(asked, *((source, before) if before is not None else (asked.checkpoint, scales)))
    out = replace(out, exact=exact, kept=kept, notes=(*((stale,) if stale else ()), *asked.notes, *out.notes))
    return write_output(
        out,
        target,
        asked=asked,
        numbers=source if writes_codes else None,
        overwrite=overwrite,
        threads=threads,
        durable=durable,
        dry_run=dry_run,
        progress=progress,
    )


def write_output(
    out: Output,
    target: Path,
    *,
    asked: AsAsked | None = None,
    numbers: Checkpoint | None = None,
    overwrite: bool = False,
    threads: int = DEFAULT_THREADS,
    durable: bool = True,
    dry_run: bool = False,
    progress: bool | OnProgress = True,
) -> SaveReport:
    """Check, fill and publish an output that is planned. Other arguments and errors as ``save``.

    Args:
        asked: what was decided of weights that were published as codes; left out where there are none.
        numbers: where codes are written, the checkpoint of the numbers that they stand for.
    """
    begun = time.monotonic()
    source, asked = out.checkpoint, asked or AsAsked(out.checkpoint)
    staging = staging_of(target)
    out = _with_target_name(staging.target, out)
    about, fingerprint = _report_facts(out, staging.target, numbers), out.fingerprint()
    check_names_are_free(staging, out.plan.names)
    earlier = None if dry_run else finish_earlier(staging)
    if earlier is not None and earlier.fingerprint == fingerprint:
        about["notes"] += (ALL_BUT_DONE,)
        infinite = _infinite_by_tensor(out, infinite_among(earlier.finished))
        computed = _count_rounding(out, rounding_among(earlier.finished))
        seconds = time.monotonic() - begun
        return SaveReport(**about, seconds=seconds, resumed=len(earlier.finished), infinite=infinite, computed=computed)
    check_target(out, staging, overwrite=overwrite)
    bar = progress_for(progress, out.plan.size, "writing")
    check_stored_checksums((*source, *out.carried.values()), threads, bar)
    about["notes"] += check_equalities(source, threads, bar)
    check_space(staging, out.plan.size)
    out.check_sources()
    if dry_run:
        return SaveReport(**about, seconds=0.0, dry_run=True, computed=_count_rounding(out, {}))
    journal = open_journal(staging, fingerprint)
    try:
        check_target(out, staging, overwrite=overwrite)  # the other run that held the lock may have written it
        with refused_writes(target), bar:
            filled = fill_files(out.jobs(staging), journal, threads, bar)
            out.check_sources()
            written = _written_specs(out, filled.checksums)
            whole = {name for file in out.plan.files for name in file.crc_fields}
            about["notes"] += (*notes_on_zeros(written), *check_codes(asked, written, whole).notes())
            computed = _count_rounding(out, filled.rounding)
            published = published_in_manifest(asked, out.kept, threads, bar)
            _write_small_files(staging, out, manifest_of(out, filled.checksums, computed, published))
        check_target(out, staging, overwrite=overwrite)  # someone else may have been quicker
        old = files_to_replace(out.plan, staging)
        publish(staging, journal, out.plan.names, old, folder=out.plan.folder, durable=durable)
    finally:
        journal.close()  # not earlier: until the last file has its name no other run may touch them
    about["notes"] += () if journal.is_locked else (NO_LOCK,)
    seconds, resumed = time.monotonic() - begun, len(journal.finished)
    infinite = _infinite_by_tensor(out, filled.infinite)
    return SaveReport(**about, seconds=seconds, resumed=resumed, infinite=infinite, computed=computed)


def _check_not_empty(source: Checkpoint) -> None:
    """Raises UsageError (MFC501) for a checkpoint without a tensor, such as the optimizer state of a file that has none."""
    if not source.tensors:
        found = f"no tensor of {source.origin}"
        hint = "Take less away: --only and --leave_out (only=, leave_out= in Python) choose tensors."
        raise UsageError("MFC501", "checkpoint", found=found, expected="at least one tensor to write", hint=hint)


def _with_target_name(target: Path, out: Output) -> Output:
    """With the name that a link leads to, for a file: its ending may be another than that of the link, which chose the format."""
    if out.plan.folder or len(out.plan.files) > 1 or out.plan.files[0].name == target.name:
        return out
    return replace(out, plan=replace(out.plan, files=(replace(out.plan.files[0], name=target.name),)))


def _report_facts(out: Output, target: Path, numbers: Checkpoint | None) -> dict[str, Any]:
    """What the report says whatever happens."""
    lacks_config = out.checkpoint.side == HF and out.plan.folder and not _CONFIGS & set(out.plan.names)
    carried, merged = len(out.carried), out.checkpoint.history.merged
    notes = ((NOT_OF_A_RUN if out.offsets else NO_CONFIG,) if lacks_config else ()) + out.notes
    back = way_back_of(out, numbers)
    return {"target": str(target), "plan": out.plan, "casts": out.casts, "back": back, "carried": carried, "merged": merged, "notes": notes}


def _infinite_by_tensor(out: Output, counted: Mapping[tuple[int, str], int]) -> dict[str, int]:
    """The numbers that a cast made infinite, by tensor; of a slice that several ranks hold once."""
    slices = {(name, out.offsets[file].get(name) if file < len(out.offsets) else None): n for (file, name), n in counted.items()}
    found: dict[str, int] = {}
    for (name, _), n in slices.items():
        found[name] = found.get(name, 0) + n
    return {name: found[name] for name in out.checkpoint.tensors if name in found}


def _count_rounding(out: Output, counted: Mapping[tuple[int, str], Rounding]) -> DequantisedReport:
    """What rounding did to each tensor that is computed from codes; of a slice that several ranks hold once."""
    slices = {(name, out.offsets[file].get(name) if file < len(out.offsets) else None): r for (file, name), r in counted.items()}
    found: dict[str, Rounding] = {}
    for (name, _), r in slices.items():
        found[name] = found.get(name, Rounding()) + r
    dtypes = {name: out.dtypes[name] for name in (*out.exact, *(n for n in found if n not in out.exact))}
    return DequantisedReport(dtypes, out.exact, found, {name: out.checkpoint.tensors[name] for name in out.exact})


def _written_specs(out: Output, checksums: Mapping[tuple[int, str], str]) -> dict[str, tuple[TensorSpec, str]]:
    """What was written under each name, with its checksum."""
    held = ((number, name, out.held[number][name]) for number, file in enumerate(out.plan.files) for name in file.places)
    return {name: (TensorSpec(name, tensor.shape, out.dtypes[name]), checksums[number, name]) for number, name, tensor in held}


def _write_small_files(staging: Staging, out: Output, manifest: dict[str, Any]) -> None:
    for name, data in out.plan.indexes.items():
        (staging.data / name).parent.mkdir(parents=True, exist_ok=True)
        (staging.data / name).write_bytes(data)
    (staging.side / MANIFEST).write_bytes(manifest_bytes(manifest))


def check_equalities(checkpoint: Checkpoint, threads: int = DEFAULT_THREADS, progress: Progress | None = None) -> tuple[str, ...]:
    """Raises MappingError (MFC308) when tensors that are left out as copies hold other numbers than what they copy.

    Args:
        progress: of the step that comes after it; this one shows its own beside it.
    Returns:
        A note for each pair that should be equal, is not, and is kept whole.
    """
    if not checkpoint.history.equalities:
        return ()
    pairs = [(e.first, e.second) for e in checkpoint.history.equalities]
    with (progress or NoProgress()).another(sum(b.spec.nbytes for _, b in pairs), "comparing copies") as bar:
        found = compare_tensors(pairs, threads, bar)
    for equality, comparison in zip(checkpoint.history.equalities, found, strict=True):
        if not comparison.equal_bytes and not equality.said:
            raise MappingError(
                "MFC308",
                quote(equality.first.name),
                found=f"{comparison.differing:,} of {comparison.elements:,} numbers differ",
                expected=f"equal bytes, since {equality.why}",
                hint=equality.hint or None,
            )
    return tuple(e.said for e, c in zip(checkpoint.history.equalities, found, strict=True) if e.said and not c.equal_bytes)
