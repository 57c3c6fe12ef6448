"""Make small mistakes in rules on purpose: a proof must notice every one of them.

A specimen (see ``specimen.py``) shows what a mistake does: the sentence no longer fits, names or shapes differ, or only the numbers do. No
header could reveal a mistake of the last kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.author.proving.specimen import Mapped
from mfconv_nb.core.layout import Expression, Product, Sum, TensorLayout, Zero, describe_tensor, parse_layout
from mfconv_nb.mapping.rules import Names, Rule


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mistake: its kind, what was changed, and the rules before and after."""

    kind: str
    what: str
    before: tuple[Mapped, ...]
    after: tuple[Mapped, ...]


def mutations_of(rules: Sequence[Mapped]) -> Iterator[Mutation]:
    """Make every mistake of the kinds below that some rules allow."""
    for rule in rules:
        yield Mutation("rule dropped", rule.hf if isinstance(rule.hf, str) else rule.hf[0], (rule,), ())
        if isinstance(rule, Rule):
            yield from _swapped_roles(rule)
            yield from _changed_sentences(rule)
    yield from _swapped_targets(rules)


def _swapped_roles(rule: Rule) -> Iterator[Mutation]:
    """Swap two names of one side of a rule: q for k."""
    for what, names in _with_neighbours_swapped(rule.hf):
        yield Mutation("roles swapped", what, (rule,), (replace(rule, hf=names),))
    for what, names in _with_neighbours_swapped(rule.mf):
        yield Mutation("roles swapped", what, (rule,), (replace(rule, mf=names),))


def _with_neighbours_swapped(names: Names) -> Iterator[tuple[str, Names]]:
    for place in range(len(names) - 1) if isinstance(names, tuple) else ():
        yield f"{names[place]} and {names[place + 1]}", (*names[:place], names[place + 1], names[place], *names[place + 2 :])


def _changed_sentences(rule: Rule) -> Iterator[Mutation]:
    if rule.layout is None:
        return
    layout = parse_layout(rule.layout)
    if layout.left == layout.right:
        return
    if len(layout.left) == len(layout.right) == 1 and len(layout.left[0]) == len(layout.right[0]):
        text = _side(layout.left)  # one tensor that is no longer transposed or reordered
        yield Mutation("move dropped", f"{rule.layout} as {text}", (rule,), (replace(rule, layout=text),))
    for kind, left in _reorder_axes(layout.left):
        text = f"{_side(left)} -> {_side(layout.right)}"
        yield Mutation(kind, f"{rule.layout} as {text}", (rule,), (replace(rule, layout=text),))


def _reorder_axes(tensors: tuple[TensorLayout, ...]) -> Iterator[tuple[str, tuple[TensorLayout, ...]]]:
    """Change the order of the parts of a sum, or of the factors of a product."""
    for place, tensor in enumerate(tensors):
        for axis, expression in enumerate(tensor):
            for kind, changed in _rotate(expression):
                after = (*tensor[:axis], changed, *tensor[axis + 1 :])
                yield kind, (*tensors[:place], after, *tensors[place + 1 :])


def _rotate(e: Expression) -> Iterator[tuple[str, Expression]]:
    if isinstance(e, Sum):
        yield "parts reordered", Sum((*e.parts[1:], e.parts[0]))
        for kind, parts in _rotate_one(e.parts):
            yield kind, Sum(parts)
    elif isinstance(e, Product) and not any(isinstance(factor, Zero) for factor in e.factors):  # zeros in any order are the same
        yield "factors reordered", Product((*e.factors[1:], e.factors[0]))
        for kind, factors in _rotate_one(e.factors):
            yield kind, Product(factors)


def _rotate_one(inner: tuple[Expression, ...]) -> Iterator[tuple[str, tuple[Expression, ...]]]:
    for place, part in enumerate(inner):
        for kind, changed in _rotate(part):
            yield kind, (*inner[:place], changed, *inner[place + 1 :])


def _side(tensors: tuple[TensorLayout, ...]) -> str:
    return ", ".join(describe_tensor(tensor) for tensor in tensors)


def _swapped_targets(rules: Sequence[Mapped]) -> Iterator[Mutation]:
    """Swap the MindFormers names of two rules with the same layout: gate for up, one norm for another."""
    alike: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        if isinstance(rule, Rule) and isinstance(rule.mf, str) and isinstance(rule.hf, str):
            key = (rule.layout, rule.only_if, rule.optional, rule.dtype, rule.hf.count("{"), rule.mf.count("{"))
            other = alike.get(key)
            if other is not None and isinstance(other.mf, str):
                swapped = (replace(other, mf=rule.mf), replace(rule, mf=other.mf))
                yield Mutation("targets swapped", f"{other.mf} and {rule.mf}", (other, rule), swapped)
            alike[key] = rule
