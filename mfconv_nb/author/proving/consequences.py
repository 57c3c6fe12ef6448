"""Find out what a mistake in the rules would do to a specimen, and what notices it. numpy only; reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mfconv_nb.author.proving.mutations import Mutation
from mfconv_nb.author.proving.specimen import Array, Arrays, carry_across, move_numbers, plan_specimen, specimen, without_sizeless_rules
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.layout import axis_names
from mfconv_nb.core.sizes import Sizes, read_sizes
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.plan import MappingPlan, Row, plan_mapping
from mfconv_nb.mapping.rules import Family, Rule, layouts_of

# what notices a mistake, from the quickest to see to the last
BY_SENTENCE, BY_NAMES, BY_SHAPES, BY_NUMBERS, SURVIVED = "sentence", "names", "shapes", "numbers", "nothing"
NOTICED = (BY_SENTENCE, BY_NAMES, BY_SHAPES, BY_NUMBERS)


@dataclass(frozen=True)
class Consequence:
    """What a mistake leads to.

    Attributes:
        by: what notices it; None if it changes nothing and so is no mistake.
        there: the Hugging Face tensors; ``right``: what they become; ``wrong``: what the mistake makes of them, None if it is refused.
        refused: the error, if the sentence or the names already show the mistake.
        right_plan, wrong_plan: the plans of ``right`` and ``wrong``; None if there is none.
    """

    by: str | None
    there: Arrays
    right: Arrays
    wrong: Arrays | None
    right_plan: MappingPlan | None
    wrong_plan: MappingPlan | None
    refused: MappingError | None = None


# ---- mistakes in the rules ----------------------------------------------------------------------------------------------------


def _make_specimens(form: Family, mutation: Mutation) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """Make the tensors of the rules that a mistake changes; also return what they become without it, and their sizes."""
    there: Arrays = {}
    right: Arrays = {}
    known: dict[str, Any] = {}
    for rule in mutation.before:
        arrays, sizes = specimen(form, rule)
        offset = max((int(a.max(initial=0)) for a in there.values()), default=0)
        arrays = {n: a + offset for n, a in arrays.items()}
        there |= arrays
        known |= dict(sizes)
        right |= carry_across(form, (rule,), arrays, MF, sizes)
    return there, right, known


def noticed_by(form: Family, mutation: Mutation) -> str | None:
    """What notices a mistake; None if it changes nothing. Makes only the plans that it needs."""
    there, right, known = _make_specimens(form, mutation)
    if not mutation.after:
        return BY_NAMES  # its names are unmatched, and one unmatched name refuses a plan
    try:
        wrong = carry_across(form, mutation.after, there, MF, Sizes(known))
    except MappingError as error:
        return BY_NAMES if str(error.found).startswith(("missing", "unmatched")) else BY_SENTENCE
    return _difference_between(right, wrong) or (None if _changes_nothing(form, mutation) else SURVIVED)


def _difference_between(right: Mapping[str, Array], wrong: Mapping[str, Array]) -> str | None:
    """The first of names, shapes and numbers that differs; None if all are equal."""
    if wrong.keys() != right.keys():
        return BY_NAMES
    if any(wrong[n].shape != right[n].shape for n in right):
        return BY_SHAPES
    return None if are_equal(right, wrong) else BY_NUMBERS


def are_equal(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Whether two sets of tensors have the same names, shapes and numbers."""
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and np.array_equal(a[n], b[n]) for n in a)


def _changes_nothing(form: Family, mutation: Mutation) -> bool:
    """Whether a mistake only reorders factors, all but one of size 1 whatever the config says."""
    if mutation.kind != "factors reordered":
        return False
    layouts = [layout for rule in mutation.before for side in layouts_of(rule, MF) or () for layout in side]
    ones = {axis for axis, sentence in form.sizes.items() if sentence == "1"}
    ones |= {axis for rule in mutation.before if isinstance(rule, Rule) for axis, size in rule.sizes.items() if size == 1}
    return not ones.isdisjoint(axis_names(e for layout in layouts for e in layout))


def consequence_of(form: Family, mutation: Mutation) -> Consequence:
    """All that a mistake in the rules leads to: what ``noticed_by`` says, with the numbers and plans that show it."""
    there, right, known = _make_specimens(form, mutation)
    by = noticed_by(form, mutation)
    wrong: Arrays | None = None
    wrong_plan: MappingPlan | None = None
    refused: MappingError | None = None
    try:
        wrong_plan = plan_specimen(form, mutation.after, there, MF, Sizes(known))
        wrong = None if wrong_plan.problems else move_numbers(wrong_plan, there)
    except MappingError as error:
        refused = error
    return Consequence(by, there, right, wrong, plan_specimen(form, mutation.before, there, MF, Sizes(known)), wrong_plan, refused)


# ---- a mistake in the config ------------------------------------------------------------------------------------------------------


def noticed_in_config(form: Family, config: Mapping[str, Any]) -> str | None:
    """What notices that a config differs from the toy's; None if the difference changes nothing."""
    right = _plan_with(form, form.toy)
    try:
        wrong = _plan_with(form, config)
    except MappingError:
        return BY_SENTENCE
    if wrong.problems:
        return BY_SHAPES
    return None if _moves(wrong) == _moves(right) else BY_NUMBERS


def _plan_with(form: Family, config: Mapping[str, Any]) -> MappingPlan:
    """The plan of the toy's tensors with the sizes of a config."""
    sizes = read_sizes(form.toy, form.sizes)
    form = without_sizeless_rules(form, sizes)
    return plan_mapping(expected_specs(form, sizes, HF), form, MF, sizes=read_sizes(config, form.sizes))


def _moves(plan: MappingPlan) -> list[object]:
    return [(row.sources, row.targets, row.parts) for row in plan.rows]


def consequence_of_config(form: Family, config: Mapping[str, Any]) -> Consequence:
    """All that a config with another head count leads to, for the first tensors that it moves to other places."""
    by, right_plan = noticed_in_config(form, config), _plan_with(form, form.toy)
    try:
        wrong_plan = _plan_with(form, config)
    except MappingError as error:
        return Consequence(by, {}, {}, None, None, None, error)
    if wrong_plan.problems:
        named = {problem.name for problem in wrong_plan.problems}
        rows = [row for row in right_plan.rows if named & {s.name for s in (*row.sources, *row.targets)}]
        right_plan = _with_rows(right_plan, rows[:1] or right_plan.rows[:1])
        there = _number_sources(right_plan.rows)
        return Consequence(by, there, move_numbers(right_plan, there), None, right_plan, wrong_plan)
    wrong_moves = _moves(wrong_plan)
    first = next(row for row, move in zip(right_plan.rows, _moves(right_plan), strict=True) if move not in wrong_moves)
    right_plan = _with_rows(right_plan, [first])
    names = {s.name for s in first.sources}
    wrong_plan = _with_rows(wrong_plan, [row for row in wrong_plan.rows if names & {s.name for s in row.sources}])
    there = _number_sources((*right_plan.rows, *wrong_plan.rows))
    return Consequence(by, there, move_numbers(right_plan, there), move_numbers(wrong_plan, there), right_plan, wrong_plan)


def _with_rows(plan: MappingPlan, rows: Sequence[Row]) -> MappingPlan:
    return replace(plan, rows=tuple(rows))


def _number_sources(rows: Sequence[Row]) -> Arrays:
    """Fill the sources of some rows with numbers, all different."""
    found: Arrays = {}
    first = 1
    for spec in {spec.name: spec for row in rows for spec in row.sources}.values():
        found[spec.name] = np.arange(first, first + spec.elements, dtype=np.int64).reshape(spec.shape)
        first += spec.elements
    return found
