"""verify: a converted checkpoint against the one it was made from, through the way back. Conditions that can fail, each with a verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, SIDE_NAMES, Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import InputError, MappingError, one_line
from mfconv_nb.core.folding import folded_names
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import OnProgress, progress_for
from mfconv_nb.core.report import Column, Table, bytes_text, how_many, seconds_text
from mfconv_nb.families.registry import family_meant, family_remembered
from mfconv_nb.families.user_families import family_in_file, is_file_name
from mfconv_nb.mapping.adapters import is_adapter
from mfconv_nb.mapping.forms import options_of
from mfconv_nb.mapping.plan import LEFT_OUT, MAPPED
from mfconv_nb.mapping.rules import NUMBERS, Family
from mfconv_nb.runs.part_of import whole_of
from mfconv_nb.steps.comparing.diff import diff
from mfconv_nb.steps.comparing.diff_report import DiffReport
from mfconv_nb.steps.comparing.diff_rows import AGREE, DTYPE, EQUAL
from mfconv_nb.steps.comparing.diff_view import DifferenceExploration
from mfconv_nb.steps.converting.map import map
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.steps.converting.twins import with_twins
from mfconv_nb.steps.loading.load import Loadable, load, manifest_near
from mfconv_nb.steps.loading.proven import proven, slices_of
from mfconv_nb.streaming.compare import compare_tensors, differences_in_words
from mfconv_nb.streaming.fill import tensor_checksums
from mfconv_nb.streaming.stored_checksums import check_stored_checksums
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable

PASS, CLOSE, FAIL, UNSURE = "pass", "close", "fail", "unsure"


@dataclass(frozen=True, slots=True)
class Condition:
    """A sentence that was checked, its outcome, and what was seen."""

    sentence: str
    outcome: str
    seen: str


def verify(
    original: Loadable,
    converted: Loadable | None = None,
    family: str | Path | Family | None = None,
    *,
    layers: int | None = None,
    leave_out: str | Sequence[str] | None = None,
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
        layers, leave_out: what the conversion was asked for, as for ``map``; left out, what the manifest of ``converted`` remembers.
        progress: show a bar when it takes longer than half a second; or a function that is called with the bytes compared so far.
        options: what the family takes, as for ``map``; left out, what the manifest of ``converted`` remembers.
    """
    begun = time.monotonic()
    differences, changes = None, tuple[str, ...]()
    if converted is None:
        conditions = _against_manifest(original, threads, progress)
        origin = str(original)
    else:
        a, b = load(original), load(converted)
        check_sides(a, b)
        asked = {"layers": layers, "leave_out": leave_out}
        conditions, differences, changes = _round_trip(_alike(a, b), b, family, threads, progress, options, asked)
        origin = f"{a.origin} → {b.origin} → back"
    return VerifyReport(tuple(conditions), differences, origin, time.monotonic() - begun, changes)


def check_sides(a: Checkpoint, b: Checkpoint) -> None:
    """Raises MappingError (MFC310) for two checkpoints of the same side: there is no way from one to the other."""
    if a.side is not None and a.side == b.side:
        found = f"two {SIDE_NAMES[a.side]} checkpoints"
        hint = "To compare them as they are: mfconv diff --values (mc.diff(a, b, values=True))."
        raise MappingError("MFC310", b.origin, found=found, expected="one of each side", hint=hint)


# ---- the round trip ---------------------------------------------------------------------------------------------------


def _round_trip(
    a: Checkpoint,
    b: Checkpoint,
    family: str | Path | Family | None,
    threads: int,
    progress: bool | OnProgress,
    options: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> tuple[list[Condition], DiffReport | None, tuple[str, ...]]:
    if isinstance(family, str | Path) and is_file_name(family):
        family = family_in_file(family)
    b, stale = _proven(b, family, a.side)
    family = family or _remembered(b, a)
    here, there = (SIDE_NAMES.get(side or "", "other") for side in (a.side, b.side))
    sentence = f"Every {here} tensor is matched by exactly one rule."
    try:
        forward = map(a, family, to=b.side, **_asked(b, **asked), **_options(a, b, family, options))
    except MappingError as error:
        return [Condition(sentence, FAIL, str(error))], None, stale
    a = with_twins(replace(a, twins=forward.twins), forward.report.plan.family, None, forward.side or MF)
    left = {s.name for row in forward.report.plan.rows if row.status == LEFT_OUT for s in row.sources}
    rest = f", {len(left):,} of them left out" if left else ""
    conditions = [Condition(sentence, PASS, how_many(len(a), "tensor") + rest)]
    headers = diff(forward, b)
    conditions.append(_headers_condition(headers, there))
    if conditions[-1].outcome == FAIL:
        return conditions, headers, stale + _left_out(forward)
    cast = any(r.status == DTYPE for r in headers.entries)
    if cast:
        conditions.append(_cast_condition(forward, b, threads))
    form = forward.report.plan.family
    sized = {n: v for n, v in options.items() if n in options_of(form)}
    way = f"{here} → {there} → {here}"
    try:
        back = map(b, form, to=a.side, config=forward.config, **sized)  # what b does not carry comes from its side folder only
    except MappingError as error:  # as where something was left out that the way back needs: then there is one way to compare
        differences = diff(forward, b, values=True, threads=threads, progress=progress)
        conditions += [_one_way_condition(differences, there), _no_way_condition(error, way)]
        return conditions, differences, stale + _left_out(forward) + _casts(headers)
    if back.equalities:
        conditions.append(_tied_condition(back, threads))
    kept = replace(a, tensors={name: tensor for name, tensor in a.tensors.items() if name not in left})
    differences = diff(back, kept, values=True, threads=threads, progress=progress)
    conditions.append(_back_condition(differences, cast, way))
    return conditions, differences, stale + _left_out(forward) + _casts(headers)


def _proven(b: Checkpoint, family: str | Path | Family | None, to: str | None) -> tuple[Checkpoint, tuple[str, ...]]:
    """The converted checkpoint without what a stale manifest says of it, and that it is stale: the options it remembers are of others."""
    known = family or _remembered(b)
    if known is None or to is None:
        return b, ()
    b, stale = proven(b, family_meant(known), to)
    return b, (stale,) if stale else ()


def _asked(b: Checkpoint, layers: int | None, leave_out: str | Sequence[str] | None) -> Mapping[str, Any]:
    """What the conversion was asked for: as the caller says, else as the manifest remembers."""
    remembered = b.original
    if layers is None and remembered is not None:
        layers = remembered.layers
    if leave_out is None:
        leave_out = remembered.leave_out if remembered is not None else ()
    return {"layers": layers, "leave_out": leave_out}


def _alike(a: Checkpoint, b: Checkpoint) -> Checkpoint:
    """Of an original with adapters beside its weights only the adapters, where these are all that was converted."""
    halves = {name: tensor for name, tensor in a.tensors.items() if is_adapter(name)}
    if not b.tensors or not all(is_adapter(name) for name in b.tensors) or len(halves) in (0, len(a.tensors)):
        return a
    return replace(a, tensors=halves, origin=f"the adapters in {a.origin}")


def _left_out(forward: Checkpoint) -> tuple[str, ...]:
    """What the other side does not have, a line a reason: ``dropped: model.layers.{0‥31}.…inv_freq (32 tensors): rebuilt from …``."""
    names: dict[tuple[str, str], list[str]] = {}
    for row in forward.report.plan.rows:
        if row.status != MAPPED:
            names.setdefault((row.status, row.why), []).extend(s.name for s in row.targets or row.sources)
    return tuple(
        f"{status}: {', '.join(folded_names(found))} ({how_many(len(found), 'tensor')}){': ' + why if why else ''}"
        for (status, why), found in names.items()
    )


def _casts(headers: DiffReport) -> tuple[str, ...]:
    found = Counter((r.first.dtype, r.second.dtype) for r in headers.entries if r.status == DTYPE and r.first and r.second)
    return tuple(f"cast: {how_many(n, 'tensor')} from {short_name(a)} to {short_name(b)}" for (a, b), n in found.items())


def _remembered(*checkpoints: Checkpoint) -> Family | None:
    """The family that the first manifest with one names; its file is never run."""
    return next((family_remembered(c.family, c.family_file) for c in checkpoints if c.family), None)


def _options(a: Checkpoint, b: Checkpoint, family: str | Path | Family | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options to convert ``a`` with, so that it becomes what ``b`` is: given, remembered by ``b``, or told from its names."""
    if options or b.options:
        return {**b.options, **options}
    try:
        told = map(b, family, to=a.side, config=a.config).options
    except MappingError:
        return {}
    known = family_meant(family) if family else None
    return {o.name: told[o.name] for o in (known.options if known else ()) if o.side in (b.side, NUMBERS) and o.name in told}


def _headers_condition(headers: DiffReport, there: str) -> Condition:
    sentence = f"Every {there} tensor is there, with its shape, and none is left over."
    bad = [r for r in headers.entries if r.status not in (AGREE, DTYPE)]
    if bad:
        first = bad[0]
        return Condition(sentence, FAIL, f"{how_many(len(bad), 'tensor')}; first {first.name}: {first.status}")
    return Condition(sentence, PASS, how_many(len(headers.entries), "tensor"))


def _cast_condition(forward: Checkpoint, b: Checkpoint, threads: int) -> Condition:
    """Where dtypes differ: the converted numbers are exactly the original ones, rounded to the new dtype."""
    pairs = sorted({(forward[t.name].dtype, t.dtype) for t in b if forward[t.name].dtype != t.dtype})
    names = ", ".join(f"{short_name(x)} to {short_name(y)}" for x, y in pairs)
    values = diff(forward, b, values=True, threads=threads)  # casts the first side to the second's dtype
    wrong = [r for r in values.entries if r.comparison is not None and not r.comparison.equal_bytes]
    sentence = f"Every cast ({names}) is rounded to nearest even."
    if wrong:
        return Condition(sentence, FAIL, f"{how_many(len(wrong), 'tensor')} unlike the rounded original; first {wrong[0].name}")
    return Condition(sentence, PASS, f"{how_many(len(values.entries), 'tensor')} equal to the rounded original")


def _tied_condition(back: Checkpoint, threads: int) -> Condition:
    """What is left out on the way back because it is a copy would come back as that copy: so it must be one."""
    found = compare_tensors([(e.first, e.second) for e in back.equalities], threads)
    wrong = [e for e, comparison in zip(back.equalities, found, strict=True) if not comparison.equal_bytes]
    sentence = "Every tensor that is left out as a copy is one."
    if wrong:
        return Condition(sentence, FAIL, f"{wrong[0].first.name} holds other numbers, but {wrong[0].why}")
    return Condition(sentence, PASS, how_many(len(found), "tensor"))


def _one_way_condition(differences: DiffReport, there: str) -> Condition:
    """What was written is what a conversion of the original gives, cast where a cast was asked for."""
    sentence = f"Every {there} tensor holds the bytes that the original gives."
    wrong = [r for r in differences.entries if r.comparison is not None and not r.comparison.equal_bytes]
    if wrong:
        return Condition(sentence, FAIL, f"{how_many(len(wrong), 'tensor')} changed; first {wrong[0].name}")
    return Condition(sentence, PASS, how_many(len(differences.entries), "tensor"))


def _no_way_condition(error: MappingError, way: str) -> Condition:
    first = error.problems[0] if isinstance(error, CoverageError) else None
    why = f"{first.kind} {first.name}: {first.found}" if first is not None else one_line(str(error.found))
    return Condition(BACK.format(way), UNSURE, f"refused: {error.code}, {why}")


BACK = "{} gives back every name, shape and byte."


def _back_condition(differences: DiffReport, cast: bool, way: str) -> Condition:
    sentence = BACK.format(way)
    counts, total = differences.counts, len(differences.entries)
    compared = [r for r in differences.entries if r.comparison is not None]
    changed = [r for r in compared if r.comparison is not None and not r.comparison.equal_bytes]
    lost = [r for r in differences.entries if r.comparison is None]
    if lost:
        seen = f"lost on the way: {len(lost):,} of {how_many(total, 'tensor')}; first {lost[0].name}: {lost[0].status}"
        dropped = all(r.status == "unexpected" for r in lost) and not changed
        return Condition(sentence, UNSURE if dropped else FAIL, seen)
    if not changed:
        nbytes = sum(r.second.nbytes for r in compared if r.second)
        rest = f", {counts[DTYPE]:,} of them after casting back" if counts[DTYPE] else ""
        return Condition(sentence, PASS, f"{total:,} of {how_many(total, 'tensor')} bitwise equal{rest} ({bytes_text(nbytes)} compared)")
    endless = [(r.name, r.comparison.inf[0] - r.comparison.inf[1]) for r in changed if r.comparison is not None]
    endless = [(name, n) for name, n in endless if n > 0]
    if endless:
        counted = f"{how_many(sum(n for _, n in endless), 'number')} in {how_many(len(endless), 'tensor')}"
        seen = f"{counted} became infinite, too large for the dtype; first in {endless[0][0]}"
        return Condition(sentence, FAIL, seen)
    far = ", ".join(differences_in_words((r.comparison for r in changed if r.comparison is not None), "at most {}"))
    seen = f"changed: {len(changed):,} of {how_many(total, 'tensor')}, {far}"
    if cast and all(r.status == DTYPE for r in changed):
        return Condition(sentence, CLOSE, f"{seen}: the cast rounded them")
    return Condition(sentence, FAIL, f"{seen}; first {changed[0].name}")


# ---- against the manifest ---------------------------------------------------------------------------------------------


def _against_manifest(source: Loadable, threads: int, progress: bool | OnProgress) -> list[Condition]:
    checkpoint = load(source)
    path = whole_of(local_path(source))[0] if isinstance(source, str | Path) else None
    near = manifest_near(path, checkpoint.tensors) if path is not None else None
    if near is None:
        hint = "Give the original too: mfconv verify ORIGINAL CONVERTED."
        raise InputError("MFC110", source, found="no manifest beside it", expected="a checkpoint that was saved here", hint=hint)
    written: dict[str, Any] = {t["name"]: t for t in near[1]["tensors"]}
    names = "Every tensor of the manifest is there, with its shape and dtype."
    specs = {n: TensorSpec(n, tuple(t["shape"]), t["dtype"]) for n, t in written.items()}
    wrong = [n for n in specs.keys() | checkpoint.tensors.keys() if specs.get(n) != _spec_of(checkpoint, n)]
    if wrong:
        return [Condition(names, FAIL, f"{how_many(len(wrong), 'tensor')}; first {sorted(wrong)[0]}")]
    sliced = "slices" in near[1]
    parts = _slices(checkpoint, path) if sliced and path is not None else dict(checkpoint.tensors)
    noted = {_slice_name(t["name"], t["file"]): t["xxh3_128"] for t in near[1]["slices"]} if sliced else _checksums(written)
    with progress_for(progress, sum(t.spec.nbytes for t in parts.values()), "reading") as bar:
        check_stored_checksums(parts.values(), threads, bar)
        found = tensor_checksums(list(parts.values()), threads, bar)
    changed = sorted(n for n in found.keys() | noted.keys() if found.get(n) != noted.get(n))
    noun = "slice" if sliced else "tensor"
    same = f"Every {noun} has the bytes that were written."
    seen = f"{how_many(len(changed), noun)} changed; first {changed[0]}" if changed else f"{how_many(len(found), 'checksum')} equal"
    return [Condition(names, PASS, how_many(len(specs), "tensor")), Condition(same, FAIL if changed else PASS, seen)]


def _checksums(written: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.get("xxh3_128") for name, entry in written.items()}


def _slices(checkpoint: Checkpoint, folder: Path) -> dict[str, LazyTensor]:
    """Every slice of a run as a tensor of its own, named by its tensor and its file."""
    slices = ((_slice_name(name, file), part) for name, file, part in slices_of(checkpoint.run, folder))
    return {name: part.renamed(name) for name, part in slices}


def _slice_name(name: str, file: str) -> str:
    return f"{name} in {file}"


def _spec_of(checkpoint: Checkpoint, name: str) -> TensorSpec | None:
    tensor: LazyTensor | None = checkpoint.tensors.get(name)
    return tensor.spec if tensor is not None else None


# ---- the result --------------------------------------------------------------------------------------------------------


VERDICTS: dict[str, str] = {FAIL: "✗ Not equal.", UNSURE: "! Incomplete.", CLOSE: "≈ Close.", PASS: "✓ Equal."}
MARK: Callable[[str], str] = {PASS: "✓", CLOSE: "≈", FAIL: "✗", UNSURE: "!"}.__getitem__


@dataclass(frozen=True, repr=False)
class VerifyReport(Explorable):
    """What was checked, and the verdict: the worst outcome of all conditions.

    Attributes:
        conditions: what was checked, and what was seen.
        differences: every tensor that came back, against the original; None when only checksums were compared.
        changes: what the conversion dropped, tied, restored or cast, a line each.
    """

    conditions: tuple[Condition, ...]
    differences: DiffReport | None
    origin: str
    seconds: float
    changes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """The worst outcome: fail, unsure, close or pass."""
        return next(o for o in VERDICTS if any(c.outcome == o for c in self.conditions))

    @property
    def equal(self) -> bool:
        """True when every condition passed, bit for bit."""
        return self.outcome == PASS

    def exploration(self) -> Exploration:
        """What a notebook's view of the round trip shows: the conditions, and every tensor that came back.

        Raises:
            NotImplementedError: when only checksums were compared; then the conditions are all there is.
        """
        if self.differences is None:
            raise NotImplementedError
        table, compared = self.table(), self.differences.table()
        facts = tuple(f"{MARK(c.outcome)} {c.sentence} {c.seen}" for c in self.conditions) + table.facts
        return DifferenceExploration(self.differences, replace(compared, verdict=table.verdict, headline=table.headline, facts=facts))

    def _page_body(self) -> str:
        return super()._page_body() + (self.differences._page_body() if self.differences is not None else "")

    def table(self) -> Table:
        rows = [(MARK(c.outcome), c.sentence, c.seen) for c in self.conditions]
        columns = (Column(""), Column("condition"), Column("seen"))
        headline = f"{self.conditions[-1].seen} · {self.origin} · {seconds_text(self.seconds)}"
        if self.outcome in (FAIL, UNSURE):
            headline = f"{self.origin} · {seconds_text(self.seconds)}"
        facts = self.changes
        if self.differences is not None:
            bad = [r for r in self.differences.entries if r.status not in (EQUAL, DTYPE)]
            facts += tuple(f"{r.status}: {r.name}" for r in bad[:6])
            facts += (f"and {len(bad) - 6:,} more: .differences",) if len(bad) > 6 else ()
        return Table(VERDICTS[self.outcome], headline, columns, rows, facts, row_noun="conditions")
