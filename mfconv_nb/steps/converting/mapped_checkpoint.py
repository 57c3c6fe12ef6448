"""The checkpoint that a mapping gives: lazy target tensors, what must hold before they are written, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, Checkpoint, Equality, LazyTensor, Original
from mfconv_nb.core.errors import quote
from mfconv_nb.core.report import Table, how_many
from mfconv_nb.families.registry import window_of
from mfconv_nb.families.same_maths import describe_unlisted, listed_types, switches_said
from mfconv_nb.mapping.adapters import half_of
from mfconv_nb.mapping.plan import DROPPED, RESTORED, MappingPlan
from mfconv_nb.mapping.quantised import FP8, claimed_scheme
from mfconv_nb.mapping.rules import NUMBERS, Drop, Family
from mfconv_nb.steps.converting.map_report import MapReport
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker, equal_when_narrow, equalities_of
from mfconv_nb.streaming.dequantised import is_dequantised


@dataclass(frozen=True, repr=False, kw_only=True)
class MappedCheckpoint(Checkpoint):
    """A checkpoint that ``map`` gave the names and shapes of the other side.

    Attributes:
        report: what went where.
        made_of: where its names are not those of the report (see ``names_in_memory.py``): the names there that a tensor is made of.
    """

    report: MapReport
    made_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def table(self) -> Table:
        """How it was mapped."""
        return self.report.table()

    def _ipython_display_(self) -> None:
        self.report.show_for(self)


def plan_of(checkpoint: Checkpoint) -> MappingPlan | None:
    """The plan that a checkpoint was mapped by; None for one that was not mapped."""
    return checkpoint.report.plan if isinstance(checkpoint, MappedCheckpoint) else None


def carried_by(checkpoint: Checkpoint) -> Mapping[str, LazyTensor]:
    """Tensors of the other side that this side has no place for: a save keeps them in the folder beside the output."""
    original = checkpoint.history.original
    return original.carried if original is not None and isinstance(checkpoint, MappedCheckpoint) else {}


def make_mapped(
    source: Checkpoint,
    family: Family,
    plan: MappingPlan,
    decided: Mapping[str, str],
    original: Original | None,
    notes: Sequence[str],
    tied: Sequence[Equality],
) -> MappedCheckpoint:
    """The target checkpoint of a plan without problems. Lazy: its tensors are pieces of the source's.

    Args:
        family: with all its forms; the plan is by one of them.
        decided: how each of the family's options was decided.
        original: what the source remembers of the target side.
        notes, tied: further notes for the report; further tensors that must be equal.
    """
    tensors: dict[str, LazyTensor] = {}
    carried: dict[str, LazyTensor] = {}
    equalities: list[Equality] = []
    fixed: set[str] = set()
    maker = TensorMaker(source)
    for row in plan.rows:
        if row.status == RESTORED and original is not None:
            tensors |= {spec.name: original.carried[spec.name] for spec in row.targets}
            fixed |= {spec.name for spec in row.targets}  # they come back as they were, whatever cast is asked for
        elif row.status == DROPPED:
            carried |= {spec.name: source.tensors[spec.name] for spec in row.sources}
        else:
            for number, spec in enumerate(row.targets):
                tensors[spec.name] = maker.target(row, number)
                if getattr(row.rule, "dtype", None):
                    fixed.add(spec.name)
    used = {spec.name for row in plan.rows if row.targets for spec in row.sources}
    equalities += [equality for equality in source.history.equalities if equality.first.name in used]  # copies of a run's slices
    for row in plan.rows:
        equalities += (*equalities_of(row, source, tensors, plan.to), *(equal_when_narrow(row, source, tensors) if plan.to == HF else ()))
    here = HF if plan.to == MF else MF
    dtypes = {spec.name: spec.dtype for row in plan.rows if getattr(row.rule, "dtype", None) for spec in row.sources}
    history = replace(
        source.history,
        family=plan.family.key,
        family_file=plan.family.file,
        options=dict(plan.family.chosen),
        original=Original(
            here,
            frozenset(source.tensors),
            carried,
            dtypes,
            plan.layers,
            plan.leave_out,
            bool(source.history.cut),
            source.history.published,
        ),
        published=original.published if original is not None else None,
        equalities=(*equalities, *tied),
        fixed_dtypes=frozenset(fixed),
    )
    origin = f"{source.origin}, mapped to {SIDE_NAMES[plan.to]}"
    said = (*_notes(source, plan, original), *notes)
    report = MapReport(plan, family, source.origin, source.history.others, decided, said)
    return MappedCheckpoint(tensors, origin, plan.to, source.config, history, report=report)


def assumptions_of(family: Family, plan: MappingPlan, decided: Mapping[str, str]) -> list[str]:
    """A note for each option that was assumed: it orders numbers, and neither the caller nor names nor shapes show it."""
    unseen = [o.name for o in family.options if o.side == NUMBERS and decided.get(o.name) == "default"]
    return [
        f"assumed: {name}={plan.family.chosen[name]}, the default; neither names nor shapes show it, the YAML of the run says it"
        for name in unseen
    ]


def _notes(source: Checkpoint, plan: MappingPlan, original: Original | None) -> tuple[str, ...]:
    """What a reader should know: a config that names another kind of model, or tensors that only a manifest could bring back."""
    family, notes = plan.family, []
    said = describe_unlisted(family, source.config or {}, window_of(source.config or {})) if family.model_types else None
    if said is not None:
        notes.append(f"config.json says {said}; {family.key} is for {', '.join(listed_types(family))}")
    told = "the same names compute something else; tell the network, in the YAML of the run, if it can compute it"
    notes += [f"config.json says {said}: {told}" for said in switches_said(family, source.config or {})]
    idle = [p for p in plan.leave_out if not any(fnmatchcase(name, p) for name in source.tensors)]
    notes += [f"nothing to leave out: no name fits {quote(pattern)}" for pattern in idle]
    notes += source.history.published.notes if source.history.published is not None and plan.to == MF else ()
    claim = claimed_scheme(source.config)
    if claim and plan.to == HF and (original is None or original.published is None) and not any(map(is_dequantised, source)):
        notes.append(
            f"config.json says {claim}; no scales are kept beside these weights: numbers are written (--requantise for codes again)"
        )
    claim = claim or source.history.quantised_by
    if claim and plan.to == MF and source.history.published is None:  # the other way a save says it of its config.json
        notes.append(f"said to be quantised ({claim}), which these weights are not")
    if fp8 := [s for row in plan.rows if row.targets for s in row.targets if s.dtype in FP8]:
        notes.append(f"{how_many(len(fp8), 'tensor')} in fp8 without scales: kept as they are; first {fp8[0].name}")
    if plan.to == HF and original is None and any(half_of(n) is None for n in source.tensors):  # of adapters alone nothing is missed
        notes += notes_on_lost(family)
    return tuple(notes)


def notes_on_lost(family: Family) -> list[str]:
    """A note for each kind of tensor that only a manifest could bring back on the way to Hugging Face. Constants, such as a bias of zeros
    that MindFormers has no place for, are not worth one: without them the model computes the same.
    """
    lost = [rule for rule in family.rules if isinstance(rule, Drop) and rule.side == HF and not rule.holds]
    return [f"not restored, if it was there: {rule.pattern} ({rule.why})" for rule in lost]
