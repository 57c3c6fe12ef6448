"""Make one instance of a rule with numbers in it, all different, to see where each number goes. numpy only; reads no file.

The sizes are those of the family's toy config, all different where the model allows it. An axis without a size gets a prime. So does an
axis as large as in a real model, which a drafted family has in its toy config: a sentence means the same for 53 columns as for 8,192.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from math import prod
from typing import Any

import numpy as np

from mfconv_nb.core.blocks import move_block
from mfconv_nb.core.checkpoint import MF, TensorSpec
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.layout import Product, TensorLayout, Zero, axis_names, shape_of
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import Size, Sizes, read_sizes
from mfconv_nb.mapping.expected import expected_indices
from mfconv_nb.mapping.plan import MappingPlan, plan_mapping
from mfconv_nb.mapping.rules import Drop, Family, Repeated, Rule, Tied, is_needed, layouts_of, numbered_rules, sides_of
from mfconv_nb.mapping.solve import directed_rule, structural_sizes

Array = np.ndarray[Any, np.dtype[np.int64]]
Arrays = dict[str, Array]
Mapped = Rule | Repeated | Tied

PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
LARGE = 400  # the largest axis of a built-in toy, apart from padding, has 384
PRIMES_OF_LARGE = (41, 43, 47, 53, 59, 61, 67, 71, 73, 79)
NO_LAYOUT = (3, 5)  # the shape for a rule without a layout


def specimen(form: Family, rule: Mapped) -> tuple[Arrays, Sizes]:
    """Make the Hugging Face tensors of one instance of a rule, filled with different numbers; also return the sizes they have.

    Raises:
        MappingError: MFC311 if the sizes or the layout do not give a shape.
    """
    sizes = _sizes_of_one(form, rule)
    rule = next((r for r, _ in numbered_rules([rule], sizes.values_by_axis) if not isinstance(r, Drop)), rule)
    layouts = layouts_of(rule, MF)
    constants, same = structural_sizes(rule)
    arrays: Arrays = {}
    for place, pattern in enumerate(sides_of(rule, MF)[0]):
        for indices in expected_indices(pattern, sizes) if is_needed(rule, place) else ():
            known = {**sizes.for_indices(indices).values_by_axis, **constants}
            known |= {axis: known[other] for axis, other in same.items() if other in known}
            shape = shape_of(layouts[0][place], known) if layouts is not None else NO_LAYOUT
            if shape is None:
                raise MappingError("MFC311", pattern.text, found="an axis without a size", expected="a size by the config or by the rule")
            begun = 1 + sum(array.size for array in arrays.values())
            numbers = np.arange(begun, begun + prod(shape), dtype=np.int64)
            is_zeros = layouts is not None and _is_of_zeros(layouts[0][place])
            arrays[pattern.fill(indices)] = (numbers * (not is_zeros)).reshape(shape)
    if not arrays:
        raise MappingError("MFC311", str(rule.hf), found="no name", expected="a limit for every placeholder, in the family's sizes")
    if isinstance(rule, Repeated):  # copies are equal
        arrays = dict.fromkeys(arrays, next(iter(arrays.values())))
    return arrays, sizes


def _is_of_zeros(tensor: TensorLayout) -> bool:
    """Whether a tensor holds nothing but zeros, as the other side has no place for it."""
    return any(isinstance(factor, Zero) for axis in tensor if isinstance(axis, Product) for factor in axis.factors)


def _sizes_of_one(form: Family, rule: Mapped) -> Sizes:
    """The sizes of the toy config, with one round of every loop of the rule, and primes for axes without a size."""
    sizes = read_sizes(form.toy, form.sizes)
    loops = directed_rule(rule, MF).loops
    first = _first_indices(sizes, loops)
    known = dict(sizes.for_indices(first))
    known |= {axis: Size(index + 1, known[axis].origin if axis in known else "the proof", index) for axis, index in first.items()}
    if isinstance(rule, Tied):
        known[rule.only_if] = Size(0, "the proof")  # the head that is there
    layouts = layouts_of(rule, MF) or ()
    axes = axis_names(e for side in layouts for tensor in side for e in tensor)
    missing = sorted(axes - known.keys() - structural_sizes(rule)[1].keys())
    primes = {axis: Size(prime, "the proof") for axis, prime in zip(missing, PRIMES, strict=False)}
    return Sizes({**known, **_small_for_large(known, axes - first.keys()), **primes})


def _small_for_large(known: Mapping[str, Size], axes: Iterable[str]) -> dict[str, Size]:
    """Small sizes for large axes; equal sizes stay equal."""
    large = {axis: known[axis].value for axis in axes if axis in known and not known[axis].first and known[axis].value > LARGE}
    small = dict(zip(sorted(set(large.values())), PRIMES_OF_LARGE, strict=False))
    return {axis: Size(small[value], known[axis].origin) for axis, value in large.items() if value in small}


def _first_indices(sizes: Sizes, loops: tuple[str, ...]) -> dict[str, int]:
    """The first number of each loop."""
    first: dict[str, int] = {}
    for axis in loops:
        size = sizes.for_indices(first).get(axis)
        first[axis] = size.first if size is not None else 0
    return first


def carry_across(form: Family, rules: tuple[Mapped, ...], arrays: Mapping[str, Array], to: str, sizes: Sizes) -> Arrays:
    """Map some tensors by some rules.

    Raises:
        MappingError: MFC311 with the first problem of the plan, or if a target is not covered exactly once.
    """
    plan = plan_specimen(form, rules, arrays, to, sizes)
    if plan.problems:
        first = plan.problems[0]
        raise MappingError("MFC311", first.name, found=f"{first.kind}: {first.found}", expected=first.expected)
    return move_numbers(plan, arrays)


def plan_specimen(form: Family, rules: tuple[Mapped, ...], arrays: Mapping[str, Array], to: str, sizes: Sizes) -> MappingPlan:
    """Plan how some rules map some tensors; the plan lists its problems."""
    specs = [TensorSpec(name, array.shape, "I64") for name, array in arrays.items()]
    return plan_mapping(specs, form.with_rules(rules), to, sizes=sizes)


def move_numbers(plan: MappingPlan, arrays: Mapping[str, Array]) -> Arrays:
    """Do what a plan says to arrays in memory.

    Raises:
        MappingError: MFC311 if a target is not covered exactly once.
    """
    found: Arrays = {}
    for row in plan.rows:
        for number, spec in enumerate(row.targets):
            if not row.parts:
                found[spec.name] = arrays[row.sources[number].name].reshape(spec.shape)
                continue
            target = np.full(spec.elements, -1, np.int64)
            covered = 0
            for part in row.parts[number]:
                source = np.zeros(part.block.elements, np.int64) if part.source is None else arrays[part.source].reshape(-1)
                move_block(target.view(), np.ascontiguousarray(source), part.block)
                covered += part.block.elements
            if covered != spec.elements or (target < 0).any():
                counts = f"{how_many(covered, 'number')} for {how_many(spec.elements, 'place')}"
                raise MappingError("MFC311", spec.name, found=counts, expected="one for each")
            found[spec.name] = target.reshape(spec.shape)
    return found


def mapped_rules(form: Family) -> list[Mapped]:
    """The rules of a form that carry tensors across."""
    return [rule for rule in form.rules if not isinstance(rule, Drop)]


def without_sizeless_rules(form: Family, sizes: Sizes) -> Family:
    """The form without rules whose shapes no config gives: drafts may have axes without a size, and renames without a layout."""
    known = {*sizes, *(axis for axis, sentence in form.sizes.items() if "{" in sentence)}
    return form.with_rules(tuple(rule for rule in form.rules if isinstance(rule, Drop) or _is_sized(rule, known)))


def _is_sized(rule: Mapped, known: Set[str]) -> bool:
    """Whether every axis of a rule has a size: from the config, from the rule itself, or from the names that count it."""
    layouts = layouts_of(rule, MF)
    constants, same = structural_sizes(rule)
    counted = {p for side in sides_of(rule, MF) for pattern in side for p in pattern.placeholders}
    return layouts is not None and axis_names(e for s in layouts for t in s for e in t) <= {*known, *constants, *same, *counted}
