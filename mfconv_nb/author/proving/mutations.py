"""Small mistakes in a rule, made on purpose: a proof must notice every one of them.

What a mistake does is seen on a specimen (see ``specimen.py``): the sentence no longer fits, shapes or names differ, or, where both stay
the same, the numbers do. A mistake that only numbers show is one that no header can reveal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.author.proving.specimen import Mapped
from mfconv_nb.core.layout import Expression, Layout, Product, Sum, TensorLayout, describe_tensor, parse_layout
from mfconv_nb.mapping.rules import Names, Rule


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mistake: what was done, and the rules as they would be."""

    kind: str
    what: str
    before: tuple[Mapped, ...]
    after: tuple[Mapped, ...]


def mutations_of(rules: Sequence[Mapped]) -> Iterator[Mutation]:
    """Every mistake of the kinds below that some rules allow."""
    for rule in rules:
        yield Mutation("rule dropped", _name(rule), (rule,), ())
        if isinstance(rule, Rule):
            yield from _swapped_roles(rule)
            yield from _changed_sentences(rule)
    yield from _swapped_targets(rules)


def _name(rule: Mapped) -> str:
    return rule.hf if isinstance(rule.hf, str) else rule.hf[0]


def _swapped_roles(rule: Rule) -> Iterator[Mutation]:
    """Two names of one side of a rule change places: q for k."""
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
    for text in _without_move(layout):
        yield Mutation("move dropped", f"{rule.layout} as {text}", (rule,), (replace(rule, layout=text),))
    for kind, left in _reordered(layout.left):
        text = _sentence(left, layout.right)
        yield Mutation(kind, f"{rule.layout} as {text}", (rule,), (replace(rule, layout=text),))


def _without_move(layout: Layout) -> Iterator[str]:
    """The transposition or reordering of a single tensor left out."""
    if len(layout.left) == len(layout.right) == 1 and len(layout.left[0]) == len(layout.right[0]):
        yield _side(layout.left)


def _reordered(tensors: tuple[TensorLayout, ...]) -> Iterator[tuple[str, tuple[TensorLayout, ...]]]:
    """Parts of a sum, or factors of a product, in another order."""
    for place, tensor in enumerate(tensors):
        for axis, expression in enumerate(tensor):
            for kind, changed in _rotated(expression):
                after = (*tensor[:axis], changed, *tensor[axis + 1 :])
                yield kind, (*tensors[:place], after, *tensors[place + 1 :])


def _rotated(e: Expression) -> Iterator[tuple[str, Expression]]:
    if isinstance(e, Sum):
        yield "parts reordered", Sum((*e.parts[1:], e.parts[0]))
        for kind, parts in _one_rotated(e.parts):
            yield kind, Sum(parts)
    elif isinstance(e, Product):
        yield "factors reordered", Product((*e.factors[1:], e.factors[0]))
        for kind, factors in _one_rotated(e.factors):
            yield kind, Product(factors)


def _one_rotated(inner: tuple[Expression, ...]) -> Iterator[tuple[str, tuple[Expression, ...]]]:
    for place, part in enumerate(inner):
        for kind, changed in _rotated(part):
            yield kind, (*inner[:place], changed, *inner[place + 1 :])


def _sentence(left: tuple[TensorLayout, ...], right: tuple[TensorLayout, ...]) -> str:
    return f"{_side(left)} -> {_side(right)}"


def _side(tensors: tuple[TensorLayout, ...]) -> str:
    return ", ".join(describe_tensor(tensor) for tensor in tensors)


def _swapped_targets(rules: Sequence[Mapped]) -> Iterator[Mutation]:
    """Two rules with the same sentence exchange their MindFormers names: gate for up, one norm for another."""
    alike: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        if isinstance(rule, Rule) and isinstance(rule.mf, str) and isinstance(rule.hf, str):
            key = (rule.layout, rule.only_if, rule.optional, rule.dtype, rule.hf.count("{"), rule.mf.count("{"))
            other = alike.get(key)
            if other is not None and isinstance(other.mf, str):
                swapped = (replace(other, mf=rule.mf), replace(rule, mf=other.mf))
                yield Mutation("targets swapped", f"{other.mf} and {rule.mf}", (other, rule), swapped)
            alike[key] = rule
