"""What a config alone promises: the names and shapes of both sides of a family, without a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.layout import shape_of
from mfconv_nb.core.sizes import Sizes
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Rule, Tied, is_needed, layouts_of, numbered_rules, sides_of
from mfconv_nb.mapping.solve import structural_sizes

MAX_TENSORS = 1_000_000  # of one rule; the largest model has 92,000 in all


def is_expected(rule: AnyRule, known: Mapping[str, int], to: str) -> bool:
    """Whether the config promises the source tensors of a rule, in the direction ``to``."""
    if isinstance(rule, Drop):
        return False
    if isinstance(rule, Tied):
        return to == HF or not known.get(rule.only_if)
    return not rule.optional and (rule.only_if is None or bool(known.get(rule.only_if)))


def is_head_of_config(rule: AnyRule) -> TypeGuard[Rule | Tied]:
    """Whether a rule is of an output head that the config may tie to the embedding: only the config tells whether it has to be there."""
    return isinstance(rule, Tied) or (isinstance(rule, Rule) and bool(rule.same_as and rule.only_if) and not rule.optional)


def is_promised_head(rule: Rule | Tied, known: Mapping[str, int]) -> bool | None:
    """Whether the config promises a head in a checkpoint of either side; None where there is no config, or it does not say.

    MindFormers' networks of a tied model do not hold the head, though its converters write it.
    """
    said = known.get(rule.only_if or "")
    return None if said is None else not said if isinstance(rule, Tied) else bool(said)


def expected_indices(pattern: Pattern, sizes: Sizes, most: int | None = None) -> Iterator[dict[str, int]]:
    """All values of the placeholders of a name, each counted from its first to its limit, at most ``most`` of them."""
    yield from _count_indices(pattern.placeholders, {}, sizes, most)


def _count_indices(left: Sequence[str], indices: dict[str, int], sizes: Sizes, most: int | None) -> Iterator[dict[str, int]]:
    if not left:
        yield indices
        return
    size = sizes.for_indices(indices).get(left[0])
    if size is not None:
        for index in size.numbers[:most]:
            yield from _count_indices(left[1:], {**indices, left[0]: index}, sizes, most)


def expected_specs(family: Family, sizes: Sizes, side: str, dtype: str = "F32") -> list[TensorSpec]:
    """Every tensor that a config promises on one side, layer by layer, as in a checkpoint.

    Raises:
        MappingError: MFC307 for a rule without a sentence: its shape does not follow from a config.
    """
    known, to = sizes.values_by_axis, MF if side == HF else HF
    before: list[TensorSpec] = []
    layers: dict[tuple[int, ...], list[TensorSpec]] = {}
    after: list[TensorSpec] = []
    for rule, _ in numbered_rules(family.rules, known):
        if not isinstance(rule, Drop) and is_expected(rule, known, to):
            for loop, spec in _specs_of(rule, sizes, to, dtype):
                group = layers.setdefault(loop, []) if loop else after if layers else before
                group.append(spec)
    return before + [spec for loop in sorted(layers) for spec in layers[loop]] + after


def _specs_of(rule: AnyRule, sizes: Sizes, to: str, dtype: str) -> Iterator[tuple[tuple[int, ...], TensorSpec]]:
    """The tensors of one rule on its source side, each with the first index of its loop (its layer)."""
    if isinstance(rule, Drop):
        return
    layouts = layouts_of(rule, to)
    if layouts is None:
        raise MappingError("MFC307", str(rule.hf), found="no layout", expected="a sentence that names the axes")
    constants, same = structural_sizes(rule)
    fixed = getattr(rule, "dtype", None) if to == HF else None
    for place, (pattern, tensor) in enumerate(zip(sides_of(rule, to)[0], layouts[0], strict=True)):
        if to == MF and not is_needed(rule, place):
            continue
        _check_count(pattern, sizes)
        for indices in expected_indices(pattern, sizes):
            known = {**sizes.for_indices(indices).values_by_axis, **constants}
            shape = shape_of(tensor, {**known, **{axis: known[other] for axis, other in same.items() if other in known}})
            if shape is None:
                raise MappingError("MFC307", pattern.text, found="an axis without a size", expected="a size for each axis")
            yield tuple(indices.values())[:1], TensorSpec(pattern.fill(indices), shape, fixed or dtype)


def _check_count(pattern: Pattern, sizes: Sizes) -> None:
    """Raises MappingError (MFC106) where a config promises more tensors than any model has."""
    limits = {p: sizes[p].value for p in pattern.placeholders if p in sizes}
    if math.prod(limits.values()) > MAX_TENSORS:
        found = ", ".join(f"{p} {n:,}" for p, n in limits.items())
        raise MappingError("MFC106", pattern.text, found=found, expected=f"at most {MAX_TENSORS:,} tensors", hint=sizes.hint)
