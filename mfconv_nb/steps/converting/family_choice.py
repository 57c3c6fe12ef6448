"""Which family, and which of its forms, a checkpoint is mapped by; and the refusal of quantised weights, which no family maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import MappingError, SeveralFitError, WrappedNamesError, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.families.registry import NoFamilyFitsError, candidates_of, family_remembered, identify, known_families, nearest_of
from mfconv_nb.families.same_maths import model_type_of
from mfconv_nb.mapping.codes_and_scales import pair_codes
from mfconv_nb.mapping.flaws import check_family
from mfconv_nb.mapping.forms import Choice, configured_options, fitting_forms, templates_of
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.mapping.plan import DROPPED, LEFT_OUT, MappingPlan
from mfconv_nb.mapping.quantised import claimed_scheme, codes_among, quantisation_of, scheme_by_names
from mfconv_nb.mapping.remedies import hint_to_unwrap, wrapped_names
from mfconv_nb.mapping.rules import Family, OptionValue, form_of
from mfconv_nb.steps.converting.map_request import MapRequest


def resolve_family(request: MapRequest, family: str | Path | Family | None) -> Family:
    """The family of a call: given, remembered by the manifest, or detected. Of several with one key, the one that fits the names."""
    if isinstance(family, Family):
        if not family.chosen and not any(family is known for known in known_families()):  # a form has lost the options of its rules
            check_family(family)
        return family
    remembered = request.source.family
    if not family and remembered is None:
        return _detect_family(request)
    if not family and remembered is not None:
        family_remembered(remembered, request.source.history.family_file)  # known, or refused with what is missing
    candidates = candidates_of(str(family or remembered))
    if len(candidates) == 1:
        return candidates[0]
    templates = templates_of(request.names())
    return nearest_of(candidates, templates, request.to)


def choices_of(request: MapRequest, family: Family, given: Mapping[str, OptionValue]) -> list[Choice]:
    """The forms of a family that the checkpoint may have."""
    if not any(o.values for o in family.options):
        return [Choice(form_of(family, family.chosen), {})]
    source = request.source
    remembered = {n: v for n, v in source.options.items() if n not in given} if source.family == family.key else {}
    configured = configured_options(family, {**(source.config or {}), **source.history.switches}, request.to)
    return fitting_forms(family, templates_of(request.names()), request.to, given, remembered, configured)


def _detect_family(request: MapRequest) -> Family:
    """The family that config and names show. Quantised weights are refused as such, whatever model they belong to."""
    source = request.source
    try:
        return identify(request.names(), source.config, request.to)
    except MappingError as error:
        check_pairs(source)
        _refuse_scheme(source, quantisation_of(source.specs, source.config, source.history.quantised_by))
        nearest = error.nearest if isinstance(error, NoFamilyFitsError) else ()
        if len(nearest) == 1 and model_type_of(source.config) is None:  # of another model type it is another model, however near
            return nearest[0]  # its plan says which few names have no rule
        hint = None if nearest or isinstance(error, SeveralFitError) else _wrapper_hint(request)
        if hint is None:
            raise
        raise WrappedNamesError(error.code, error.where, found=error.found, expected=error.expected, hint=hint) from None


def _wrapper_hint(request: MapRequest) -> str | None:
    """The hint for names with a prefix or an insertion, where some family knows them without it."""
    counts = Counter(fold(n)[0] for n in request.names())
    for family in known_families():
        form = fitting_forms(family, (), request.to, {}, {})[0].form
        wrapped = wrapped_names(counts, form.templates(request.to))
        if wrapped is not None:
            return wrapped.hint(request.source.origin if request.source.files else None, request.to, request.source.config)
    return hint_to_unwrap(request.names())


def check_no_codes(plan: MappingPlan, source: Checkpoint) -> None:
    """Raises MappingError (MFC312) for names beside codes that no rule knows, left out or not, and for weights in a dtype of codes.

    MFC321 for codes and scales that do not fit together, or where scales are to be left out and their codes are not.
    """
    check_pairs(source)
    _check_scales_stay(plan, source)
    claim = claimed_scheme(source.config) or source.history.quantised_by
    known = {s.name for row in plan.rows if row.status != LEFT_OUT for s in row.sources}
    weights = [s for row in plan.rows if row.status not in (LEFT_OUT, DROPPED) for s in row.sources]
    unknown = [s for s in source.specs if s.name not in known and not is_run_state(s.name)]
    found = scheme_by_names(unknown, claim) or codes_among(weights, claim, all_weights=True)
    _refuse_scheme(source, found or codes_among((*weights, *unknown), claim))


def _refuse_scheme(source: Checkpoint, found: str | None) -> None:
    """Raises MappingError (MFC312) where the weights are codes: no family would help."""
    if found is not None:
        hint = "Take the original weights, or dequantise them first and save them as bf16 or fp16."
        raise MappingError("MFC312", source.origin, found=found, expected="weights as numbers, not as codes", hint=hint)


def check_pairs(source: Checkpoint) -> None:
    """Raises MappingError (MFC321) for codes without their scales, scales without codes, and shapes that do not fit together."""
    if (problem := problem_of_pairs(source)) is not None:
        raise problem


def problem_of_pairs(source: Checkpoint) -> MappingError | None:
    """What ``check_pairs`` would raise."""
    problems = pair_codes(source.specs, source.config, source.history.quantised_by).problems
    if not problems:
        return None
    name, found, expected, hint = problems[0]
    more = f" ({len(problems):,} such problems)" if len(problems) > 1 else ""
    return MappingError("MFC321", f"{quote(name)} in {source.origin}", found=found + more, expected=expected, hint=hint)


def _check_scales_stay(plan: MappingPlan, source: Checkpoint) -> None:
    published = source.history.published
    for scales, weight in published.names_of_scales.items() if published is not None and plan.leave_out else ():
        pattern = next((p for p in plan.leave_out if fnmatchcase(scales, p)), None)
        if pattern is not None and not any(fnmatchcase(weight, p) for p in plan.leave_out):
            found = f"{quote(pattern)} leaves out {quote(scales)}, and not its codes, {quote(weight)}"
            hint = "Take the pattern away: codes and their scales are read as one weight."
            raise MappingError("MFC312", source.origin, found=found, expected="codes with their scales", hint=hint)
