"""What a config alone promises: the names and shapes of both sides of a family, before any checkpoint is seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from mfconv_nb.checkpoint import HF, MF, TensorSpec
from mfconv_nb.config import HINT_CONFIG, Sizes
from mfconv_nb.errors import MappingError
from mfconv_nb.layout import shape_of
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Rule, Tied, layouts_of, sides_of

MAX_TENSORS = 1_000_000  # of one rule; the largest model has 92,000 in all


def is_expected(rule: AnyRule, known: Mapping[str, int], to: str) -> bool:
    """Whether the config promises the source tensors of a rule, in the direction ``to``."""
    if isinstance(rule, Drop):
        return False
    if isinstance(rule, Tied):
        return to == HF or not known.get(rule.only_if)
    return rule.only_if is None or bool(known.get(rule.only_if))


def expected_names(side: Sequence[Pattern], limits: Mapping[str, int]) -> Iterator[str]:
    """Every name that the patterns of one side stand for, with each placeholder counting up to its limit."""
    for pattern in side:
        for index in product(*(range(limits.get(p, 0)) for p in pattern.placeholders)):
            yield pattern.fill(dict(zip(pattern.placeholders, index, strict=True)))


def expected_specs(family: Family, sizes: Sizes, side: str, dtype: str = "F32") -> list[TensorSpec]:
    """Every tensor that a config promises on one side, layer by layer as checkpoints have them.

    Raises:
        MappingError: MFC307 for a rule without a sentence: its shape does not follow from a config.
    """
    known = {axis: s.value for axis, s in sizes.items()}
    to = MF if side == HF else HF
    before: list[TensorSpec] = []
    layers: dict[tuple[int, ...], list[TensorSpec]] = {}
    after: list[TensorSpec] = []
    for rule in family.rules:
        if not isinstance(rule, Drop) and is_expected(rule, known, to):
            for loop, spec in _specs_of(rule, known, to, dtype):
                group = layers.setdefault(loop, []) if loop else after if layers else before
                group.append(spec)
    return before + [spec for loop in sorted(layers) for spec in layers[loop]] + after


def _specs_of(rule: Rule | Tied, known: Mapping[str, int], to: str, dtype: str) -> Iterator[tuple[tuple[int, ...], TensorSpec]]:
    """The tensors of one rule on its source side, each with the first index of its loop (its layer)."""
    layouts = layouts_of(rule, to)
    if layouts is None:
        raise MappingError("MFC307", str(rule.hf), found="no layout", expected="a sentence that names the axes")
    sizes = {**known, **(rule.sizes if isinstance(rule, Rule) else {})}
    fixed = rule.dtype if isinstance(rule, Rule) and to == HF else None
    for pattern, tensor in zip(sides_of(rule, to)[0], layouts[0], strict=True):
        shape = shape_of(tensor, sizes)
        if shape is None:
            raise MappingError("MFC307", pattern.text, found="an axis without a size", expected="a size for each axis")
        if math.prod(known[p] for p in pattern.placeholders) > MAX_TENSORS:
            found = ", ".join(f"{p} {known[p]:,}" for p in pattern.placeholders)
            raise MappingError("MFC106", pattern.text, found=found, expected=f"at most {MAX_TENSORS:,} tensors", hint=HINT_CONFIG)
        for index in product(*(range(known[p]) for p in pattern.placeholders)):
            name = pattern.fill(dict(zip(pattern.placeholders, index, strict=True)))
            yield index[:1], TensorSpec(name, shape, fixed or dtype)
