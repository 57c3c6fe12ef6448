"""map: the same numbers under the names and shapes of the other side.

Lazy: no weight is read, except a sample to prove that a manifest is of these numbers, and 256 KiB of each part of the original where
only numbers tell the order (``order_of_original``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint
from mfconv_nb.core.errors import MfconvError, UsageError
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.families.dialects import MEMORY
from mfconv_nb.families.user_families import family_in_file, is_file_name
from mfconv_nb.mapping.adapters import half_of
from mfconv_nb.mapping.forms import CONFIGURED, GIVEN, Choice, checked_options, decide_form, options_that_matter
from mfconv_nb.mapping.lora_scale import check_targets
from mfconv_nb.mapping.plan import MappingPlan
from mfconv_nb.mapping.rules import NUMBERS, Family, OptionValue, form_of
from mfconv_nb.steps.converting.family_choice import check_no_codes, choices_of, resolve_family
from mfconv_nb.steps.converting.first_layers import with_first_layers
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.steps.converting.map_request import MapRequest, adapter_style_of, direction_of, sizes_of
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint, assumptions_of, make_mapped
from mfconv_nb.steps.converting.names_in_memory import check_hf_names, with_names_in_memory, with_saved_names
from mfconv_nb.steps.converting.order_of_original import find_orders
from mfconv_nb.steps.converting.padded_vocabulary import notes_on_cut
from mfconv_nb.steps.converting.stacked_adapters import lora_after, note_on_stacking
from mfconv_nb.steps.converting.twins import notes_on_absent_heads, notes_on_twins, tied_equalities
from mfconv_nb.steps.converting.wrappers import take_off_wrappers
from mfconv_nb.steps.loading.caller_facts import GivenConfig
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.loading.manifest_proof import prove_manifest


@makes_many_objects
def map(
    checkpoint: Loadable,
    family: str | Path | Family | None = None,
    *,
    to: str | None = None,
    config: GivenConfig = None,
    layers: int | None = None,
    leave_out: str | Sequence[str] = (),
    adapters: str | None = None,
    cut_vocabulary: bool = False,
    hf_names: str | None = None,
    unwrap: bool = False,
    **options: object,
) -> MappedCheckpoint:
    """Give a checkpoint the names and shapes of the other side. The result is lazy; its ``report`` says what goes where.

    Before it uses what a manifest remembers, it reads some tensors and compares them with the manifest's checksums (see
    ``steps/loading/manifest_proof.py``).

    Args:
        checkpoint: what ``load`` gave, or anything that it takes.
        family: a key (``"llama"``), a file that defines ``FAMILY`` (``"my_model.py"``, or a path), or a ``Family``. Left out: told from
            the manifest, the config and the names.
        to: "mf" (MindFormers) or "hf" (Hugging Face). Left out: away from the side the checkpoint is on.
        config: a config.json, its folder, or its content, instead of the one the checkpoint has.
        layers: convert the first N layers only; the others are listed as left out.
        leave_out: patterns of names with ``*``; those tensors are not converted and are listed as left out.
        adapters: how MindFormers is to name LoRA adapters: "mindpet" (`mindpet_delta_lora_a`), "tk" (`tk_delta_lora_a`), "mcore"
            (`lora_A.weight`) or "lora" (`lora_a`). Left out: as a manifest remembers, else as the networks of the family have them.
        cut_vocabulary: cut off rows behind the vocabulary of the config, which were added so that it divides among devices. What is
            saved is refused where they were used (MFC308).
        hf_names: which names a Hugging Face target gets: "saved" (left out) as `save_pretrained` writes them, or "memory" as transformers 5
            has them in a live model: experts in one tensor a layer, say. A source may have either; a note says if it has those in memory.
        unwrap: take off what a trainer put into the names: `module.` and `base_model.model.` in front, `_orig_mod.`,
            `_fsdp_wrapped_module.` and `_checkpoint_wrapped_module.` anywhere. A note says what it was.
        options: what the family takes, such as ``qkv_concat=False`` (``mfconv families KEY`` lists them). Left out: what the manifest
            remembers, else told from names and shapes on the side it comes from, and the default on the side it goes to. What only
            numbers would show is told from the YAML of a run (``config=``), or by the weights that its training began with, where they
            lie in the folder of the config. Else it is the default, and a note says so.
    Raises:
        MappingError: MFC301 to MFC305, MFC311 to MFC313. With MFC303 the error holds every problem, folded.
    """
    source = load(checkpoint, config=config)
    source, said = take_off_wrappers(source) if unwrap else (source, "")
    mapped = map_checkpoint(
        source, family, to=to, layers=layers, leave_out=leave_out, adapters=adapters, cut_vocabulary=cut_vocabulary, options=options
    )
    check_hf_names(hf_names, mapped.report.plan.to)
    mapped = replace(mapped, report=replace(mapped.report, notes=(said, *mapped.report.notes))) if said else mapped
    return with_names_in_memory(mapped) if hf_names == MEMORY else mapped


def map_checkpoint(
    source: Checkpoint,
    family: str | Path | Family | None = None,
    *,
    to: str | None = None,
    layers: int | None = None,
    leave_out: str | Sequence[str] = (),
    adapters: str | None = None,
    cut_vocabulary: bool = False,
    options: Mapping[str, object] = MappingProxyType({}),
) -> MappedCheckpoint:
    """As ``map``, for a checkpoint that is loaded: what the steps call among themselves."""
    if layers is not None and layers < 1:
        raise UsageError("MFC501", "layers", found=layers, expected="at least 1", hint="Leave it out to take all layers.")
    if source.history.lora is not None and any(half_of(n) for n in source.tensors):
        source.history.lora.check()
        check_targets(source.history.lora, source.tensors if source.side == MF else ())
    family = family_in_file(family) if isinstance(family, str | Path) and is_file_name(family) else family
    to = direction_of(source, to, family)
    patterns = (leave_out,) if isinstance(leave_out, str) else tuple(leave_out)
    request = MapRequest(source, to, layers, patterns, adapter_style_of(source, adapters), cut_vocabulary)
    request.check_some_are_left()
    is_told = not family and source.family is None  # by config and names alone
    if to == MF and (saved := with_saved_names(source, family)) is not None:
        return _map_anew(replace(request, source=saved.checkpoint), saved.note, family, adapters, options)
    resolved = resolve_family(request, family)
    given = checked_options(resolved, options)
    proven, stale = prove_manifest(source, resolved, to)
    request = request if proven is source else replace(request, source=proven)  # a new one would look at all names again
    return _map_anew(request, stale, family, adapters, options) if stale else _map_by_family(request, resolved, given, is_told)


def _map_anew(
    request: MapRequest, said: str, family: str | Path | Family | None, adapters: str | None, options: Mapping[str, object]
) -> MappedCheckpoint:
    """The mapping of a source that was changed: its manifest is of other numbers, or its names are others. Result and error say so."""
    try:
        mapped = map_checkpoint(
            request.source,
            family,
            to=request.to,
            layers=request.layers,
            leave_out=request.leave_out,
            adapters=adapters,
            cut_vocabulary=request.cut_vocabulary,
            options=options,
        )
    except MfconvError as error:
        error.hint = f"{said}. {error.hint or ''}".strip()
        raise
    return replace(mapped, report=replace(mapped.report, notes=(said, *mapped.report.notes)))


def _map_by_family(request: MapRequest, family: Family, given: Mapping[str, OptionValue], is_told: bool) -> MappedCheckpoint:
    source, to = request.source, request.to
    chosen, plan = decide_form(choices_of(request, family, given), lambda form: request.plan(form, given))
    check_no_codes(plan, source)
    decided = options_that_matter(family, chosen)
    if plan.problems:
        usual = {o.name: o.default for o in family.options if o.name in decided}
        seen = {n: plan.family.chosen[n] for n, default in usual.items() if plan.family.chosen[n] != default}
        raise CoverageError(plan, source, told=seen if is_told else None)
    if to == HF:
        unseen = [o for o in family.options if o.side == NUMBERS and decided.get(o.name) == "default"]
        if told := find_orders(family, plan, unseen, source, lambda form: sizes_of(source, form, given)):
            chosen = Choice(form_of(family, {**chosen.form.chosen, **told}), chosen.decided)
            plan = request.plan(chosen.form, given)
            decided |= dict.fromkeys(told, "told from the original's numbers")
    contradicted = _notes_on_other_orders(family, plan, decided, source, given) if to == HF else []
    sizes = sizes_of(source, chosen.form, given)
    completed = request.complete_source(chosen.form, sizes)
    notes = [*notes_on_twins(source, completed), *notes_on_cut(completed), *(assumptions_of(family, plan, decided) if to == HF else [])]
    notes += contradicted + note_on_stacking(source, plan)
    notes += notes_on_absent_heads(source, chosen.form, sizes, to)
    tied = tied_equalities(completed, chosen.form, sizes, to)
    whole = with_first_layers(completed, family, chosen.form, request.layers)
    mapped = make_mapped(whole, family, plan, decided, request.original_for(chosen.form), notes, tied)
    mapped = replace(mapped, history=replace(mapped.history, lora=lora_after(mapped.history.lora, plan)))
    if request.layers is None:
        return mapped
    by_names = {o.name for o in family.options if o.side == "both"}  # without the layers behind the last one perhaps another value
    kept = {name: value for name, value in mapped.options.items() if name not in by_names}
    return replace(mapped, history=replace(mapped.history, options=kept))


def _notes_on_other_orders(
    family: Family, plan: MappingPlan, decided: Mapping[str, str], source: Checkpoint, given: Mapping[str, OptionValue]
) -> list[str]:
    """A note for each order of numbers that was said, by the caller or the YAML, where the original beside the config shows another one."""
    said = [o for o in family.options if o.side == NUMBERS and decided.get(o.name) in (GIVEN, CONFIGURED)]
    shown = find_orders(family, plan, said, source, lambda form: sizes_of(source, form, given))
    return [
        f"{name}={plan.family.chosen[name]} was {decided[name]}, but only with {value} these numbers resemble those in "
        f"{source.history.config_folder}: is it of this run?"
        for name, value in shown.items()
        if value != plan.family.chosen[name]
    ]


def plan_back(mapped: MappedCheckpoint) -> MappingPlan:
    """The plan that takes a mapped checkpoint back to the side it came from, by what it remembers of it. Nothing is read.

    Raises:
        MappingError: MFC106 or MFC107 where its config does not give a size, MFC302 where several forms fit.
    """
    assert mapped.history.original is not None
    saved = with_saved_names(mapped, mapped.report.family) if mapped.side == HF else None
    source = saved.checkpoint if saved is not None else mapped
    request = MapRequest(source, mapped.history.original.side, None, (), adapter_style_of(mapped, None))
    return decide_form(choices_of(request, mapped.report.family, {}), lambda form: request.plan(form, {}))[1]
