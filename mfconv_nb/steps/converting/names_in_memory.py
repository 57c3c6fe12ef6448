"""Change a Hugging Face checkpoint between the two sets of names that transformers 5 has (`families/dialects.py`). Lazy: no weight is read.

Refuses: tensors that are joined in memory and do not fit together, and weights that were published as codes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor
from mfconv_nb.core.errors import MappingError, UsageError, did_you_mean, quote
from mfconv_nb.core.folding import fold, folded_names
from mfconv_nb.families.dialects import DIALECTS, MEMORY, SAVED, WITHOUT_DIALECT, Dialect
from mfconv_nb.families.registry import candidates_of, distance_to_nearest, family_remembered
from mfconv_nb.families.same_maths import listed_types, model_type_of
from mfconv_nb.mapping.plan import plan_mapping
from mfconv_nb.mapping.rules import Family
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker

AnyCheckpoint = TypeVar("AnyCheckpoint", bound=Checkpoint)


@dataclass(frozen=True)
class SavedNames:
    """A checkpoint whose names were those in memory, with the names that `save_pretrained` writes; and a note on it."""

    checkpoint: Checkpoint
    note: str


def with_saved_names(source: Checkpoint, family: str | Path | Family | None = None) -> SavedNames | None:
    """The checkpoint under saved names; None where its names are not those in memory, as far as family, config or names tell.

    Args:
        family: what the caller gave; left out, what a manifest remembers, the config says, or the names tell.
    """
    told = [d for d in DIALECTS if any(d.told_by in name for name in source.tensors)]
    found = {d.model_types: _change_names(source, d, HF) for d in (_dialects_of(source, family) if told else ()) if d in told}
    if len(found) > 1:  # nothing but the names tells the model
        distances = {types: distance_to_nearest(changed[0].tensors, MF) for types, changed in found.items()}
        found = {types: changed for types, changed in found.items() if distances[types] == min(distances.values())}
    if len(found) != 1:
        return None
    checkpoint, made_of = next(iter(found.values()))
    olds = folded_names({name: None for name, before in made_of.items() if before != (name,) for name in before})
    if not olds:
        return None
    note = f"names as transformers has them in memory ({olds[0]}{', …' if len(olds) > 1 else ''}): read as save_pretrained writes them"
    return SavedNames(checkpoint, note)


def with_names_in_memory(mapped: MappedCheckpoint) -> MappedCheckpoint:
    """A checkpoint that was mapped to Hugging Face, under the names that transformers has in memory.

    Raises:
        UsageError: MFC501 for a model whose names in memory are not known, and for weights that were published as codes.
    """
    family = mapped.report.family
    dialect = next(iter(_dialects_of(mapped, family)), None)
    unknown = not set(_types_of(mapped, family)).isdisjoint(WITHOUT_DIALECT)
    if unknown or (dialect is not None and mapped.history.published is not None):
        found = f"{family.key}, whose names in memory are not known" if unknown else "codes, which only saved names have"
        hint = "Leave --hf_names out (hf_names= in Python)."
        raise UsageError("MFC501", "hf_names", found=found, expected=quote(SAVED), hint=hint)
    if dialect is None:
        return mapped
    changed, made_of = _change_names(mapped, dialect, MF)
    return replace(changed, made_of={name: before for name, before in made_of.items() if before != (name,)})


def with_names_of(source: Checkpoint, names: Collection[str]) -> Checkpoint:
    """The checkpoint under its names in memory, where a live model wants those. Its config or its family says which model it is."""
    listed = listed_types(source.report.family) if isinstance(source, MappedCheckpoint) else ()
    types = {model_type_of(source.config), *listed}
    for dialect in (d for d in DIALECTS if not types.isdisjoint(d.model_types)):
        if any(dialect.told_by in name for name in names) and not any(dialect.told_by in name for name in source.tensors):
            changed = _change_names(source, dialect, MF)[0]
            new = changed.tensors.keys() - source.tensors.keys()
            if new and all(name in names for name in new):
                return changed
    return source


def check_hf_names(hf_names: str | None, to: str) -> None:
    """Raises UsageError (MFC501) for a word that is no set of names, and where the target has no names of Hugging Face."""
    if hf_names is not None and hf_names not in (SAVED, MEMORY):
        hint = did_you_mean(hf_names, (SAVED, MEMORY)) or "Leave it out for the names that save_pretrained writes."
        raise UsageError("MFC501", "hf_names", found=quote(str(hf_names)), expected=f"{quote(SAVED)} or {quote(MEMORY)}", hint=hint)
    if hf_names is not None and to != HF:
        hint = "Leave it out: a source may have either set of names."
        raise UsageError("MFC501", "hf_names", found="a target with MindFormers' names", expected="a Hugging Face target", hint=hint)


# ---- which names ----------------------------------------------------------------------------------------------------------------


def _dialects_of(source: Checkpoint, family: str | Path | Family | None) -> list[Dialect]:
    """The dialects that the names may be of: of the model, else all."""
    types = _types_of(source, family)
    return [d for d in DIALECTS if not types or not set(types).isdisjoint(d.model_types)]


def _types_of(source: Checkpoint, family: str | Path | Family | None) -> tuple[str, ...]:
    """What model types it may have: what its config says, if the family lists it; else all that the family lists."""
    said = model_type_of(source.config)
    if family is None and source.family is None:
        return () if said is None else (str(said),)
    families = _families_of(source, family)
    listed = tuple(name for each in families for name in listed_types(each))
    return (said,) if said in listed else listed


def _families_of(source: Checkpoint, family: str | Path | Family | None) -> Sequence[Family]:
    if family is None and source.family is not None:
        return (family_remembered(source.family, source.history.family_file),)
    return (family,) if isinstance(family, Family) else candidates_of(str(family))


# ---- the change -----------------------------------------------------------------------------------------------------------------


def _change_names(source: AnyCheckpoint, dialect: Dialect, to: str) -> tuple[AnyCheckpoint, dict[str, tuple[str, ...]]]:
    """The checkpoint under saved names (``to`` HF) or names in memory (MF), and for each of these the names that it is made of.

    Raises:
        MappingError: MFC303 where shapes, dtypes or counts do not fit, MFC312 for codes, MFC304 where two tensors would have one name.
    """
    family, rename = dialect.family, dialect.saved_name if to == HF else dialect.name_in_memory
    known = family.templates(to)
    joined = [spec for spec in source.specs if fold(spec.name)[0] in known]
    _check_no_codes(source, {spec.name for spec in joined})
    plan = plan_mapping(joined, family, to)
    if plan.problems:
        raise CoverageError(plan, source)
    maker = TensorMaker(source)
    rows = {row.sources[0].name: row for row in plan.rows}
    members = {spec.name for spec in joined}
    tensors: dict[str, LazyTensor] = {}
    made_of: dict[str, tuple[str, ...]] = {}
    for tensor in source:
        if (row := rows.get(tensor.name)) is not None:
            made = [maker.target(row, number) for number in range(len(row.targets))]
            before = tuple(spec.name for spec in row.sources)
        elif tensor.name in members:
            continue
        else:
            made, before = [tensor.renamed(rename(tensor.name))], (tensor.name,)
        for each in made:
            _check_free(each.name, tensors, source)
            tensors[each.name], made_of[each.name] = each, before
    fixed = source.history.fixed_dtypes
    now_fixed = frozenset(name for name, before in made_of.items() if not fixed.isdisjoint(before))
    return replace(source, tensors=tensors, history=replace(source.history, fixed_dtypes=now_fixed)), made_of


def _check_free(name: str, tensors: Mapping[str, LazyTensor], source: Checkpoint) -> None:
    if name in tensors:
        hint = "Give the files of one save."
        found = "a tensor under its saved name, and under the one in memory"
        raise MappingError("MFC304", f"{quote(name)} in {source.origin}", found=found, expected="one of them", hint=hint)


def _check_no_codes(source: Checkpoint, joined: set[str]) -> None:
    published = source.history.published
    codes = sorted(joined & published.weights.keys()) if published is not None else []
    if codes:
        hint = "Save it under save_pretrained's own names (without save_original_format=False), and convert that."
        found = f"codes under a name in memory, {quote(codes[0])}"
        raise MappingError("MFC312", source.origin, found=found, expected="codes under the names that save_pretrained writes", hint=hint)
