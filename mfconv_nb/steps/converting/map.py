"""map: the same numbers under the names and shapes of the other side. Lazy: no weight is read but to prove a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, Checkpoint, Equality, LazyTensor, Original
from mfconv_nb.core.errors import MappingError, MfconvError, SeveralFitError, UsageError, WrappedNamesError, did_you_mean, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import Size, Sizes, read_sizes
from mfconv_nb.families.registry import candidates_of, family_remembered, identify, known_families, window_of
from mfconv_nb.families.same_maths import describe_unlisted, listed_types
from mfconv_nb.families.user_families import family_in_file, is_file_name
from mfconv_nb.mapping.adapters import DEFAULT_STYLE, STYLES, half_of
from mfconv_nb.mapping.flaws import check_family
from mfconv_nb.mapping.forms import (
    Choice,
    checked_options,
    configured_options,
    decide_form,
    fitting_forms,
    options_of,
    options_that_matter,
    templates_of,
)
from mfconv_nb.mapping.plan import DROPPED, LEFT_OUT, RESTORED, MappingPlan, plan_mapping
from mfconv_nb.mapping.quantised import FP8, claimed_scheme, codes_among, quantisation_of, scheme_by_names
from mfconv_nb.mapping.remedies import wrapped_names
from mfconv_nb.mapping.rules import NUMBERS, Drop, Family, OptionValue, form_of
from mfconv_nb.mapping.run_state import run_state_of
from mfconv_nb.steps.converting.first_layers import first_layers
from mfconv_nb.steps.converting.map_report import CoverageError, MapReport
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker, equal_when_narrow, equalities_of
from mfconv_nb.steps.converting.order_of_original import told_by_original
from mfconv_nb.steps.converting.twins import filled_in, tied_equalities, with_twins
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.loading.proven import proven
from mfconv_nb.steps.loading.sides import side_of_names


@makes_many_objects
def map(
    checkpoint: Loadable,
    family: str | Path | Family | None = None,
    *,
    to: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    layers: int | None = None,
    leave_out: str | Sequence[str] = (),
    adapters: str | None = None,
    **options: object,
) -> Checkpoint:
    """Give a checkpoint the names and shapes of the other side. The result is lazy; its ``report`` says what goes where.

    Before what a manifest remembers is used, some tensors are read and compared with its checksums (see ``steps/proven.py``).

    Args:
        checkpoint: what ``load`` gave, or anything that it takes.
        family: a key (``"llama"``), a file that defines ``FAMILY`` (``"my_model.py"``, or a path), or a ``Family``. Left out: told from
            the manifest, the config and the names.
        to: "mf" (MindFormers) or "hf" (Hugging Face). Left out: away from the side the checkpoint is on.
        config: a config.json, its folder, or its content, instead of the one the checkpoint has.
        layers: convert the first N layers only; the others are listed as left out.
        leave_out: patterns of names with ``*``; those tensors are not converted and are listed as left out.
        adapters: how MindFormers is to name LoRA adapters: "mindpet" (`mindpet_delta_lora_a`), "tk" (`tk_delta_lora_a`) or "lora"
            (`lora_a`). Left out: as a manifest remembers, else "mindpet", as MindFormers names them from 1.3 on.
        options: what the family takes, such as ``qkv_concat=False`` (``mfconv families KEY`` lists them). Left out: what the manifest
            remembers, else told from names and shapes on the side it comes from, and the default on the side it goes to. What only
            numbers would show is told from the YAML of a run (``config=``), or by the weights that its training began with, where they
            lie in the folder of the config. Else it is the default, and a note says so.
    Raises:
        MappingError: MFC301 to MFC305, MFC311 to MFC313. With MFC303 the error holds every problem, folded.
    """
    if layers is not None and layers < 1:
        raise UsageError("MFC501", "layers", found=layers, expected="at least 1", hint="Leave it out to take all layers.")
    source = load(checkpoint, config=config)
    if source.lora is not None and any(half_of(n) for n in source.tensors):
        source.lora.check()
    family = family_in_file(family) if isinstance(family, str | Path) and is_file_name(family) else family
    to = _direction(source, to, family)
    asked = _Asked(source, to, layers, (leave_out,) if isinstance(leave_out, str) else tuple(leave_out), _style(source, adapters))
    meant = _meant(asked, family)
    given = checked_options(meant, options)
    source, stale = proven(source, meant, to)
    if stale:
        return _without_manifest(source, stale, family, to=to, layers=layers, leave_out=leave_out, adapters=adapters, **options)
    chosen, plan = decide_form(_choices(asked, meant, given), lambda form: asked.plan(form, given))
    _refuse_codes(plan, source)
    if plan.problems:
        raise CoverageError(plan, source)
    decided = options_that_matter(meant, chosen)
    if to == HF:
        unseen = [o for o in meant.options if o.side == NUMBERS and decided.get(o.name) == "default"]
        if told := told_by_original(meant, plan, unseen, source, lambda form: _sizes(source, form, given)):
            chosen = Choice(form_of(meant, {**chosen.form.chosen, **told}), chosen.decided)
            plan = asked.plan(chosen.form, given)
            decided |= dict.fromkeys(told, "told from the original's numbers")
    assumed = _assumed(meant, plan, decided) if to == HF else []
    sizes = _sizes(source, chosen.form, given)
    completed = with_twins(source, chosen.form, sizes, to)
    notes = [*filled_in(source, completed), *assumed]
    mapped = _mapped(_with_layers(completed, meant, chosen.form, layers), meant, plan, decided, asked.original_for(chosen.form), notes)
    mapped = replace(mapped, equalities=(*mapped.equalities, *tied_equalities(completed, chosen.form, sizes, to)))
    if layers is None:
        return mapped
    by_names = {o.name for o in meant.options if o.side == "both"}  # without the layers behind the last one perhaps another value
    return replace(mapped, options={name: value for name, value in mapped.options.items() if name not in by_names})


def _without_manifest(source: Checkpoint, stale: str, family: str | Path | Family | None, **asked: Any) -> Checkpoint:
    """The mapping of a checkpoint whose manifest is of other numbers: as if it were not there, which is said either way."""
    try:
        mapped = map(source, family, **asked)
    except MfconvError as error:
        error.hint = f"{stale}. {error.hint or ''}".strip()
        raise
    return replace(mapped, report=replace(mapped.report, notes=(stale, *mapped.report.notes)))


def plan_back(mapped: Checkpoint) -> MappingPlan:
    """The plan that takes a mapped checkpoint back to the side it came from, by what it remembers of it. Nothing is read.

    Raises:
        MappingError: MFC106 or MFC107 where its config does not give a size, MFC302 where several forms fit.
    """
    assert mapped.original is not None
    asked = _Asked(mapped, mapped.original.side, None, (), _style(mapped, None))
    return decide_form(_choices(asked, mapped.report.family, {}), lambda form: asked.plan(form, {}))[1]


@dataclass(frozen=True)
class _Asked:
    """What a call of ``map`` is about: the source, the direction, and what is left out."""

    source: Checkpoint
    to: str
    layers: int | None
    leave_out: tuple[str, ...]
    adapters: str

    def names(self) -> list[str]:
        """The names that need a rule; of an adapter that of its weight."""
        names = [n for n in self.source.tensors if not any(fnmatchcase(n, p) for p in self.leave_out)]
        names = names if self.to == MF else [n for n in names if run_state_of(n) is None]
        return [*dict.fromkeys(n if (half := half_of(n)) is None else half.weight for n in names)]

    def plan(self, form: Family, given: Mapping[str, OptionValue]) -> MappingPlan:
        try:
            return self._plan(form, _sizes(self.source, form, given))
        except MappingError as error:
            plan = self._plan(form, None) if error.code == "MFC107" else None
            if plan is None or not any(p.kind == "unmatched" for p in plan.problems):
                raise
            return plan  # a size is missing since it is another model: the names say so

    def _plan(self, form: Family, sizes: Sizes | None) -> MappingPlan:
        return plan_mapping(
            with_twins(self.source, form, sizes, self.to).specs,
            form,
            self.to,
            sizes=sizes,
            original=self.original_for(form),
            layers=self.layers,
            leave_out=self.leave_out,
            adapters=self.adapters,
        )

    def original_for(self, form: Family) -> Original | None:
        """What is remembered of the target side, where it was of this form."""
        original = self.source.original
        if original is None or original.side != self.to:
            return None
        names = templates_of(original.names)
        is_of_this_form = 2 * len(names & form.templates(HF if self.to == MF else MF)) > len(names)
        return original if is_of_this_form else None


def _meant(asked: _Asked, family: str | Path | Family | None) -> Family:
    """The family that a call is about: given, remembered by the manifest, or told; among several of one key, told by the names."""
    if isinstance(family, Family):
        if not family.chosen and not any(family is known for known in known_families()):  # a form has lost the options of its rules
            check_family(family)
        return family
    remembered = asked.source.family
    if not family and remembered is None:
        return _told(asked)
    if not family and remembered is not None:
        family_remembered(remembered, asked.source.family_file)  # known, or refused with what is missing
    candidates = candidates_of(str(family or remembered))
    if len(candidates) == 1:
        return candidates[0]
    templates = templates_of(asked.names())
    best = {f.key: fitting_forms(f, templates, asked.to, {}, {})[0].form.templates(asked.to) for f in candidates}
    return max(candidates, key=lambda f: len(templates & best[f.key]))  # the one that was named comes first among equals


def _choices(asked: _Asked, meant: Family, given: Mapping[str, OptionValue]) -> list[Choice]:
    """The forms of a family that the checkpoint may have."""
    if not any(o.values for o in meant.options):
        return [Choice(form_of(meant, meant.chosen), {})]
    source = asked.source
    remembered = {n: v for n, v in source.options.items() if n not in given} if source.family == meant.key else {}
    configured = configured_options(meant, source.config or {})
    return fitting_forms(meant, templates_of(asked.names()), asked.to, given, remembered, configured)


def _told(asked: _Asked) -> Family:
    """The family by config and names. Quantised weights are refused as such, whatever model they are of."""
    source = asked.source
    try:
        return identify(asked.names(), source.config, asked.to)
    except MappingError as error:
        _refuse_quantised(source, quantisation_of(source.specs, source.config, source.quantised_by))
        hint = None if isinstance(error, SeveralFitError) else _hint_of_a_wrapper(asked)
        if hint is None:
            raise
        raise WrappedNamesError(error.code, error.where, found=error.found, expected=error.expected, hint=hint) from None


def _hint_of_a_wrapper(asked: _Asked) -> str | None:
    """What stands before the names, or in them, where some family knows them without it."""
    counts = Counter(fold(n)[0] for n in asked.names())
    for family in known_families():
        form = fitting_forms(family, (), asked.to, {}, {})[0].form
        wrapped = wrapped_names(counts, form.templates(asked.to))
        if wrapped is not None:
            return wrapped.hint(asked.source.origin if asked.source.files else None, asked.to, asked.source.config)
    return None


def _refuse_codes(plan: MappingPlan, source: Checkpoint) -> None:
    """Raises MappingError (MFC312) for names beside codes that no rule knows, left out or not, and for weights in a dtype of codes."""
    claim = claimed_scheme(source.config) or source.quantised_by
    known = {s.name for row in plan.rows if row.status != LEFT_OUT for s in row.sources}
    weights = [s for row in plan.rows if row.status not in (LEFT_OUT, DROPPED) for s in row.sources]
    unknown = [s for s in source.specs if s.name not in known and run_state_of(s.name) is None]
    found = scheme_by_names(unknown, claim) or codes_among(weights, claim, all_weights=True)
    _refuse_quantised(source, found or codes_among((*weights, *unknown), claim))


def _refuse_quantised(source: Checkpoint, found: str | None) -> None:
    """Raises MappingError (MFC312) where the weights are codes: no family would help."""
    if found is not None:
        hint = "Take the original weights, or dequantise them first and save them as bf16 or fp16."
        raise MappingError("MFC312", source.origin, found=found, expected="weights as numbers, not as codes", hint=hint)


def _with_layers(source: Checkpoint, meant: Family, form: Family, layers: int | None) -> Checkpoint:
    """Where only the first layers are taken, the config says so too: the result is a checkpoint of that many layers."""
    if layers is None or source.config is None:
        return source
    counts = {axis: s for axis, s in {**meant.sizes, **form.sizes}.items() if axis.endswith(("layer", "layers")) and "{" not in s}
    sizes = read_sizes(source.config, {axis: f"{sentence} | ?" for axis, sentence in counts.items()})
    return replace(source, config=first_layers(source.config, sizes, layers))


def _direction(source: Checkpoint, to: str | None, family: str | Path | Family | None) -> str:
    """As asked; else away from the side the checkpoint is on, which a family of one's own may tell by its names."""
    if to is None:
        told = side_of_names(source.tensors, family) if isinstance(family, Family) else None
        return HF if (told or source.side) == MF else MF
    if to not in SIDE_NAMES:
        hint = did_you_mean(to, SIDE_NAMES) or "Leave it out to go to the side that the checkpoint is not on."
        raise UsageError("MFC501", "to", found=quoted(to), expected="'hf' or 'mf'", hint=hint)
    return to


def _style(source: Checkpoint, asked: str | None) -> str:
    """How MindFormers is to name adapters: as asked, else as the original had them, else as it does today."""
    if asked is None:
        before = (half_of(n) for n in source.original.names) if source.original is not None else ()
        return next((half.style for half in before if half is not None and half.style in STYLES), DEFAULT_STYLE)
    if asked not in STYLES:
        hint = did_you_mean(asked, STYLES) or "Leave --adapter_names out (adapters= in Python)."
        raise UsageError("MFC501", "adapters", found=quoted(str(asked)), expected=" or ".join(quoted(s) for s in STYLES), hint=hint)
    return asked


def _sizes(source: Checkpoint, form: Family, given: Mapping[str, OptionValue]) -> Sizes | None:
    """The sizes from the config; what the caller gave is checked against it, or used where there is no config."""
    known = options_of(form)
    told = {known[n].size: Size(int(value), "the call") for n, value in given.items() if n in known and known[n].size}
    if source.config is None:
        return Sizes(told) if told else None
    sizes = read_sizes(source.config, form.sizes)
    for axis, size in told.items():
        if axis in sizes and sizes[axis].value != size.value:
            expected = f"{sizes[axis].value}, from {sizes[axis].origin} in config.json"
            hint = "Leave the option out: the config says it."
            raise MappingError("MFC304", axis, found=size.value, expected=expected, hint=hint)
    return sizes.with_more(told)


# ---- the result --------------------------------------------------------------------------------------------------------


def _mapped(
    source: Checkpoint, meant: Family, plan: MappingPlan, decided: Mapping[str, str], original: Original | None, assumed: Sequence[str]
) -> Checkpoint:
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
    equalities += [equality for equality in source.equalities if equality.first.name in used]  # copies of a run's slices
    for row in plan.rows:
        equalities += (*equalities_of(row, source, tensors), *(equal_when_narrow(row, source, tensors) if plan.to == HF else ()))
    here = HF if plan.to == MF else MF
    dtypes = {spec.name: spec.dtype for row in plan.rows if getattr(row.rule, "dtype", None) for spec in row.sources}
    return replace(
        source,
        tensors=tensors,
        origin=f"{source.origin}, mapped to {SIDE_NAMES[plan.to]}",
        side=plan.to,
        family=plan.family.key,
        family_file=plan.family.file,
        options=dict(plan.family.chosen),
        original=Original(here, frozenset(source.tensors), carried, dtypes, plan.layers, plan.leave_out),
        equalities=tuple(equalities),
        fixed_dtypes=frozenset(fixed),
        report=MapReport(plan, meant, source.origin, source.others, decided, (*_notes(source, plan, original), *assumed)),
    )


def _assumed(family: Family, plan: MappingPlan, decided: Mapping[str, str]) -> list[str]:
    """What nobody said of a MindFormers checkpoint and nothing in it shows: the order of numbers, where names and shapes are the same."""
    unseen = [o.name for o in family.options if o.side == NUMBERS and decided.get(o.name) == "default"]
    return [
        f"assumed: {name}={plan.family.chosen[name]}, the default; neither names nor shapes show it, the YAML of the run says it"
        for name in unseen
    ]


def _notes(source: Checkpoint, plan: MappingPlan, original: Original | None) -> tuple[str, ...]:
    """What a reader should know: a config that names another kind of model, and what only a manifest could bring back."""
    family, notes = plan.family, []
    said = describe_unlisted(family, source.config or {}, window_of(source.config or {})) if family.model_types else None
    if said is not None:
        notes.append(f"config.json says {said}; {family.key} is for {', '.join(listed_types(family))}")
    idle = [p for p in plan.leave_out if not any(fnmatchcase(name, p) for name in source.tensors)]
    notes += [f"nothing to leave out: no name fits {quoted(pattern)}" for pattern in idle]
    if (claim := claimed_scheme(source.config) or source.quantised_by) and plan.to == MF:  # the other way a save says it of its config.json
        notes.append(f"said to be quantised ({claim}), which these weights are not")
    if fp8 := [s for row in plan.rows if row.targets for s in row.targets if s.dtype in FP8]:
        notes.append(f"{how_many(len(fp8), 'tensor')} in fp8 without scales: kept as they are; first {fp8[0].name}")
    if plan.to == HF and original is None and any(half_of(n) is None for n in source.tensors):  # of adapters alone nothing is missed
        lost = [rule for rule in family.rules if isinstance(rule, Drop) and rule.side == HF]
        notes += [f"not restored, if it was there: {rule.pattern} ({rule.why})" for rule in lost]
    return tuple(notes)
