"""verify: a converted checkpoint against the one it was made from, through the way back. Conditions that can fail, each with a verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, SIDE_NAMES, Checkpoint, Equality
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.folding import folded_names
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import how_many
from mfconv_nb.families.registry import family_meant, family_remembered
from mfconv_nb.families.user_families import family_in_file, is_file_name
from mfconv_nb.mapping.adapters import half_of, is_adapter
from mfconv_nb.mapping.forms import checked_options, options_of
from mfconv_nb.mapping.plan import LEFT_OUT, MAPPED
from mfconv_nb.mapping.rules import NUMBERS, Family
from mfconv_nb.runs.part_of import whole_of
from mfconv_nb.steps.comparing.against_manifest import check_against_manifest
from mfconv_nb.steps.comparing.conditions import (
    FAIL,
    PASS,
    Condition,
    back_condition,
    cast_condition,
    codes_condition,
    conversion_condition,
    copies_condition,
    headers_condition,
    no_way_condition,
)
from mfconv_nb.steps.comparing.diff import diff_checkpoints
from mfconv_nb.steps.comparing.diff_report import DiffReport
from mfconv_nb.steps.comparing.diff_rows import DTYPE
from mfconv_nb.steps.comparing.verify_report import VerifyReport
from mfconv_nb.steps.converting.map import map_checkpoint
from mfconv_nb.steps.converting.map_request import sizes_of
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint
from mfconv_nb.steps.converting.names_in_memory import with_saved_names
from mfconv_nb.steps.converting.padded_vocabulary import with_cut_vocabulary
from mfconv_nb.steps.converting.twins import with_twins
from mfconv_nb.steps.converting.wrappers import take_off_wrappers
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.loading.manifest_proof import prove_manifest


def verify(
    original: Loadable,
    converted: Loadable | None = None,
    family: str | Path | Family | None = None,
    *,
    layers: int | None = None,
    leave_out: str | Sequence[str] | None = None,
    cut_vocabulary: bool | None = None,
    unwrap: bool = False,
    threads: int = 2,
    progress: bool | OnProgress = True,
    **options: object,
) -> VerifyReport:
    """Prove that ``converted`` holds what ``original`` holds: map it back and compare every byte.

    With one checkpoint only, its bytes are compared with the checksums in the manifest beside it.

    What the conversion left out is not compared, and is named: what it was not asked for, and the state of a run, which the Hugging Face
    side has no place for.

    Args:
        original: the checkpoint before the conversion.
        converted: the one after it, on the other side.
        family: as for ``map``; left out, told from the manifest, the config and the names.
        layers, leave_out, cut_vocabulary: what the conversion was asked for, as for ``map``; left out, what the manifest of ``converted``
            remembers.
        unwrap: take off what a trainer put into the names, as for ``map``.
        progress: show a bar when it takes longer than half a second; or a function that is called with the bytes compared so far.
        options: what the family takes, as for ``map``; left out, what the manifest of ``converted`` remembers.
    """
    begun = time.monotonic()
    a = load(original)
    if converted is None:
        path = whole_of(local_path(original))[0] if isinstance(original, str | Path) else None
        conditions = check_against_manifest(a, path, threads, progress)
        return VerifyReport(tuple(conditions), None, str(original), time.monotonic() - begun)
    b = load(converted)
    check_sides(a, b)
    family = family_in_file(family) if isinstance(family, str | Path) and is_file_name(family) else family
    (a, *said), (b, *more) = (_change_names(each, family, unwrap=unwrap) for each in (a, b))
    trip = RoundTrip(_adapters_alone(a, b), b, layers, leave_out, cut_vocabulary, options, threads, progress)
    conditions, differences, changes = trip.check(family)
    changes = (*said, *more, *changes)
    return VerifyReport(tuple(conditions), differences, f"{a.origin} → {b.origin} → back", time.monotonic() - begun, changes)


def _change_names(checkpoint: Checkpoint, family: str | Family | Path | None, *, unwrap: bool) -> tuple[Any, ...]:
    """A checkpoint under the names that the families know, and a note for each reason why its names were others."""
    plain, note = take_off_wrappers(checkpoint) if unwrap else (checkpoint, "")
    said = (note,) if plain is not checkpoint else ()
    saved = None if plain.side == MF else with_saved_names(plain, family)
    return (plain, *said) if saved is None else (saved.checkpoint, *said, saved.note)


def check_sides(a: Checkpoint, b: Checkpoint) -> None:
    """Raises MappingError (MFC310) for two checkpoints of the same side: there is no way from one to the other."""
    if a.side is not None and a.side == b.side:
        found = f"two {SIDE_NAMES[a.side]} checkpoints"
        hint = "To compare them as they are: mfconv diff --values (mc.diff(a, b, values=True))."
        raise MappingError("MFC310", b.origin, found=found, expected="one of each side", hint=hint)


@dataclass(frozen=True)
class RoundTrip:
    """An original and what was made of it, both loaded; and what the caller says of the conversion."""

    original: Checkpoint
    converted: Checkpoint
    layers: int | None
    leave_out: str | Sequence[str] | None
    cut_vocabulary: bool | None
    options: Mapping[str, object]
    threads: int
    progress: bool | OnProgress

    def check(self, family: str | Path | Family | None) -> tuple[list[Condition], DiffReport | None, tuple[str, ...]]:
        """Convert the original, compare; convert back, compare. Returns conditions, differences and what the conversion changed."""
        a = self.original
        b, stale = self._prove_manifest(family)
        family = family or _remembered_family(b, a)
        here, there = (SIDE_NAMES.get(side or "", "other") for side in (a.side, b.side))
        matched = f"Every {here} tensor is matched by exactly one rule."
        try:
            forward = self._convert(b, family)
        except MappingError as error:
            return [Condition(matched, FAIL, str(error))], None, stale
        form = forward.report.plan.family
        completed = replace(a, history=replace(a.history, twins=forward.history.twins))
        a = with_twins(completed, form, None, forward.side or MF)
        sized = {n: v for n, v in self.options.items() if n in options_of(form)}
        if forward.history.cut:
            a = with_cut_vocabulary(a, form, sizes_of(forward, form, checked_options(form, sized)), forward.side or MF)
        left = {s.name for row in forward.report.plan.rows if row.status == LEFT_OUT for s in row.sources}
        rest = f", {len(left):,} of them left out" if left else ""
        conditions = [Condition(matched, PASS, how_many(len(a), "tensor") + rest)]
        headers = diff_checkpoints(forward, b)
        conditions.append(headers_condition(headers, there))
        if conditions[-1].outcome == FAIL:
            return conditions, headers, stale + _absences_in(forward)
        changes = stale + _absences_in(forward) + _casts_in(headers)
        cast = any(r.status == DTYPE for r in headers.entries)
        if cast:
            conditions.append(cast_condition(forward, b, self.threads))
        way = f"{here} → {there} → {here}"
        try:  # what b does not carry comes from its side folder only
            back = map_checkpoint(_with_config_of(forward, b), form, to=a.side, options=sized)
        except MappingError as error:  # as where something was left out that the way back needs: then there is one way to compare
            differences = self._compare(forward, b)
            return [*conditions, conversion_condition(differences, there), no_way_condition(error, way)], differences, changes
        if equalities := (*_equalities_of_mapping(forward, self.original), *back.history.equalities):
            conditions.append(copies_condition(equalities, self.threads))
        if codes := codes_condition(back, a, self.threads):
            conditions.append(codes)
        kept = replace(a, tensors={name: tensor for name, tensor in a.tensors.items() if name not in left})
        differences = self._compare(back, kept)
        return [*conditions, back_condition(differences, cast, way)], differences, changes

    def _compare(self, first: Checkpoint, second: Checkpoint) -> DiffReport:
        return diff_checkpoints(first, second, values=True, threads=self.threads, progress=self.progress)

    def _prove_manifest(self, family: str | Path | Family | None) -> tuple[Checkpoint, tuple[str, ...]]:
        """The converted checkpoint without what a stale manifest says of it, and a note if it is stale: its options are of others."""
        known = family or _remembered_family(self.converted)
        if known is None or self.original.side is None:
            return self.converted, ()
        b, stale = prove_manifest(self.converted, family_meant(known), self.original.side)
        return b, (stale,) if stale else ()

    def _convert(self, b: Checkpoint, family: str | Path | Family | None) -> MappedCheckpoint:
        """The original, converted as the caller says; else as the manifest of the converted checkpoint remembers."""
        remembered = b.history.original
        layers, leave_out, cut = self.layers, self.leave_out, self.cut_vocabulary
        if layers is None and remembered is not None:
            layers = remembered.layers
        if leave_out is None:
            leave_out = remembered.leave_out if remembered is not None else ()
        if cut is None:
            cut = remembered is not None and remembered.cut_vocabulary
        options = _options_of(self.original, b, family, self.options)
        style = next((half.style for n in b.tensors if b.side == MF and (half := half_of(n)) is not None), None)
        known = self.original
        if known.config is None and (cut or all(map(is_adapter, known.tensors))):  # a folder of adapters has none of the model
            known = _with_config_of(b, known)
        return map_checkpoint(
            known, family, to=b.side, layers=layers, leave_out=leave_out, adapters=style, cut_vocabulary=cut, options=options
        )


def _equalities_of_mapping(mapped: MappedCheckpoint, source: Checkpoint) -> Iterator[Equality]:
    """What a mapping itself needs to be equal, such as rows that it cuts off, without the copies among the slices of a run."""
    of_run = {id(equality) for equality in source.history.equalities}
    yield from (e for e in mapped.history.equalities if id(e) not in of_run and not e.said)


def _adapters_alone(a: Checkpoint, b: Checkpoint) -> Checkpoint:
    """Of an original with adapters beside its weights only the adapters, where these are all that was converted."""
    halves = {name: tensor for name, tensor in a.tensors.items() if is_adapter(name)}
    if not b.tensors or not all(is_adapter(name) for name in b.tensors) or len(halves) in (0, len(a.tensors)):
        return a
    return replace(a, tensors=halves, origin=f"the adapters in {a.origin}")


def _absences_in(forward: MappedCheckpoint) -> tuple[str, ...]:
    """What the other side does not have, a line per reason: ``dropped: model.layers.{0‥31}.…inv_freq (32 tensors): rebuilt from …``."""
    names: dict[tuple[str, str], list[str]] = {}
    for row in forward.report.plan.rows:
        if row.status != MAPPED:
            names.setdefault((row.status, row.why), []).extend(s.name for s in row.targets or row.sources)
    return tuple(
        f"{status}: {', '.join(folded_names(found))} ({how_many(len(found), 'tensor')}){': ' + why if why else ''}"
        for (status, why), found in names.items()
    )


def _casts_in(headers: DiffReport) -> tuple[str, ...]:
    found = Counter((r.first.dtype, r.second.dtype) for r in headers.entries if r.status == DTYPE and r.first and r.second)
    return tuple(f"cast: {how_many(n, 'tensor')} from {short_name(a)} to {short_name(b)}" for (a, b), n in found.items())


def _remembered_family(*checkpoints: Checkpoint) -> Family | None:
    """The family that the first manifest with one names; its file is never run."""
    return next((family_remembered(c.family, c.history.family_file) for c in checkpoints if c.family), None)


def _options_of(a: Checkpoint, b: Checkpoint, family: str | Path | Family | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options to convert ``a`` with, so that it becomes what ``b`` is: given, remembered by ``b``, or told from its names."""
    if options or b.options:
        return {**b.options, **options}
    try:
        told = map_checkpoint(_with_config_of(a, b), family, to=a.side).options
    except MappingError:
        return {}
    known = family_meant(family) if family else None
    return {o.name: told[o.name] for o in (known.options if known else ()) if o.side in (b.side, NUMBERS) and o.name in told}


def _with_config_of(known: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with the config of another, and the switches of its run."""
    history = replace(checkpoint.history, switches=known.history.switches or checkpoint.history.switches)
    return replace(checkpoint, config=checkpoint.config if known.config is None else known.config, history=history)
