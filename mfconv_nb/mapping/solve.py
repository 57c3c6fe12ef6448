"""Solve one rule, read in one direction, on real shapes: the shapes of its targets, and the blocks they consist of. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from mfconv_nb.core.blocks import Block, Shape
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.layout import Pairing, TensorLayout, axis_names, pair_blocks, parse_layout, shape_of, solve_sizes
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, Drop, Repeated, Rule, layouts_of, sides_of

SourceKey = tuple[int, Mapping[str, int]]  # a tensor's place in the sentence, and the index of its own axes (expert 3)


@dataclass(frozen=True, slots=True)
class Directed:
    """A rule read in one direction.

    Attributes:
        loops: the placeholders that both sides share.
        own: for each source pattern the placeholders that are axes of the other side.
        is_single: each instance has one source tensor.
        is_plain: and one target tensor, by a ``Rule`` with the same placeholders on both sides.
        rest_is_zeros: blocks of its sentence without a partner hold zeros.
    """

    rule: AnyRule
    source: tuple[Pattern, ...]
    target: tuple[Pattern, ...]
    layouts: tuple[tuple[TensorLayout, ...], tuple[TensorLayout, ...]] | None
    loops: tuple[str, ...]
    own: tuple[tuple[str, ...], ...]
    is_single: bool
    is_plain: bool
    rest_is_zeros: bool


def directed_rule(rule: AnyRule, to: str) -> Directed:
    """A rule as it reads in the direction ``to``."""
    source, target = sides_of(rule, to)
    shared = {p for t in target for p in t.placeholders}
    loops = tuple(dict.fromkeys(p for s in source for p in s.placeholders if p in shared or not target))
    own = tuple(tuple(p for p in s.placeholders if p not in loops) for s in source)
    layouts = None if isinstance(rule, Drop) else layouts_of(rule, to)
    is_single = len(own) == 1 and not own[0]
    placeholders_agree = len(target) == 1 and set(target[0].placeholders) == set(loops)
    is_plain = is_single and placeholders_agree and isinstance(rule, Rule) and source[0].placeholders == loops
    rest_is_zeros = isinstance(rule, Rule) and rule.layout is not None and parse_layout(rule.layout).rest_is_zeros
    return Directed(rule, source, target, layouts, loops, own, is_single, is_plain, rest_is_zeros)


ONE_TENSOR: tuple[SourceKey, ...] = ((0, {}),)  # the keys of a rule with one source tensor


@dataclass(frozen=True, slots=True)
class Solution:
    """The shapes of a rule's targets, and their blocks as (place among the sources, block). No parts: a plain rename.

    A block of zeros in a target has no place among the sources (None). ``zeros`` are blocks of sources that must hold zeros.
    ``sizes`` are those of all axes: ``placed_blocks`` gives the blocks again, with their axes by name.
    """

    targets: tuple[tuple[Pattern, Mapping[str, int], Shape], ...]
    parts: tuple[tuple[tuple[int | None, Block], ...], ...]
    zeros: tuple[tuple[int, Block], ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlacedBlock:
    """One block of an instance of a rule: the places of its tensors among all sources and all targets, and where it lies in them.

    ``fixed`` is the index of the axes that are placeholders of one side only: expert 3.
    """

    source: int | None
    target: int | None
    fixed: Mapping[str, int]
    pairing: Pairing


def solve_rule(directed: Directed, shapes: Sequence[Shape], keys: Sequence[SourceKey], known: Mapping[str, int]) -> Solution:
    """The target shapes and blocks of one instance of a rule, from the shapes of its source tensors.

    Args:
        keys: which source tensor each shape belongs to.
        known: axis sizes from the config.
    Raises:
        MappingError: MFC307 when a shape does not fit the sentence or the sizes.
    """
    rule, target, layouts = directed.rule, directed.target, directed.layouts
    same_placeholders = {p for t in target for p in t.placeholders} <= set(directed.loops)
    if layouts is None and same_placeholders:
        return Solution(((target[0], {}, shapes[0]),), ())
    if layouts is None:
        raise MappingError("MFC311", target[0].text, found="a placeholder of one side only", expected="a sentence with an axis of its name")
    constants, same = structural_sizes(rule)
    sizes_given = {**known, **constants, **_axis_sizes(keys)}
    sizes = solve_sizes([layouts[0][place] for place, _ in keys], shapes, sizes_given, same)
    if not needs_sizes(directed):
        return Solution(((target[0], {}, shapes[0]),), (), sizes=sizes)
    return _solution(directed, layouts, sizes, keys)


def needs_sizes(directed: Directed) -> bool:
    """Whether the sizes of all axes are needed; not where one tensor becomes one of the same shape."""
    if isinstance(directed.rule, Repeated):
        return False
    target, layouts = directed.target, directed.layouts
    is_one = directed.is_single and len(target) == 1 and set(target[0].placeholders) <= set(directed.loops)
    return not (is_one and (layouts is None or layouts[0] == layouts[1]))


def placed_blocks(directed: Directed, sizes: Mapping[str, int]) -> Iterator[PlacedBlock]:
    """Every block of an instance of a rule with a sentence, from the sizes of all its axes."""
    assert directed.layouts is not None
    own = _own_axes(directed)
    return _place_blocks(directed, directed.layouts, sizes, _keys_of(directed.source, own, sizes), _keys_of(directed.target, own, sizes))


def structural_sizes(rule: AnyRule) -> tuple[dict[str, int], dict[str, str]]:
    """A rule's constants, such as ``{"pair": 2}``, and its axes of equal size, such as ``{"k": "q"}``."""
    sizes = rule.sizes if isinstance(rule, Rule) else {}
    constants = {axis: size for axis, size in sizes.items() if isinstance(size, int)}
    return constants, {axis: size for axis, size in sizes.items() if isinstance(size, str)}


def _axis_sizes(keys: Iterable[SourceKey]) -> dict[str, int]:
    """How many tensors a placeholder stands for that is an axis of the other side."""
    sizes: dict[str, int] = {}
    for _, indices in keys:
        for axis, index in indices.items():
            sizes[axis] = max(sizes.get(axis, 0), index + 1)
    return sizes


def _own_axes(directed: Directed) -> tuple[str, ...]:
    """The placeholders of one side only: axes of the other side's tensors."""
    source, target = directed.source, directed.target
    loops = {p for t in source for p in t.placeholders} & {p for t in target for p in t.placeholders}
    return tuple(dict.fromkeys(p for side in (source, target) for t in side for p in t.placeholders if p not in loops))


def _keys_of(patterns: Sequence[Pattern], own: Sequence[str], sizes: Mapping[str, int]) -> list[SourceKey]:
    """Every tensor of one side: its place in the sentence, and the index of its own axes, counted up."""
    axes_of = [[p for p in pattern.placeholders if p in own] for pattern in patterns]
    return [
        (place, dict(zip(axes, index, strict=True)))
        for place, axes in enumerate(axes_of)
        for index in product(*(range(sizes[a]) for a in axes))
    ]


def _place_blocks(
    directed: Directed,
    layouts: tuple[tuple[TensorLayout, ...], tuple[TensorLayout, ...]],
    sizes: Mapping[str, int],
    source_keys: Sequence[SourceKey],
    target_keys: Sequence[SourceKey],
) -> Iterator[PlacedBlock]:
    """Every block once: one without an axis that names count, such as a fill of zeros, is the same for each of them."""
    own, source, target = _own_axes(directed), directed.source, directed.target
    source_places, target_places = _places_of(source_keys), _places_of(target_keys)
    seen: set[tuple[int | None, int | None, Block]] = set()
    for index in product(*(range(sizes[a]) for a in own)):
        fixed = dict(zip(own, index, strict=True))
        for pair in pair_blocks(layouts[0], layouts[1], sizes, fixed, rest_is_zeros=directed.rest_is_zeros):
            s = None if pair.source is None else source_places.get((pair.source, _index_of(source[pair.source], fixed)), -1)
            t = None if pair.target is None else target_places[pair.target, _index_of(target[pair.target], fixed)]
            if s == -1:
                found = f"no tensor for {', '.join(f'{axis} {n}' for axis, n in fixed.items())}"
                raise MappingError("MFC307", found=found, expected="one for each index from 0 on, as an axis of a layout has them")
            if (s, t, pair.block) not in seen:
                seen.add((s, t, pair.block))
                yield PlacedBlock(s, t, fixed, pair)


def _solution(
    directed: Directed,
    layouts: tuple[tuple[TensorLayout, ...], tuple[TensorLayout, ...]],
    sizes: Mapping[str, int],
    source_keys: Sequence[SourceKey],
) -> Solution:
    own, target = _own_axes(directed), directed.target
    unknown = [axis for axis in own if axis not in sizes]
    if unknown:
        raise MappingError("MFC307", found=f"no size for {', '.join(unknown)}", expected="a size from the shapes or the config")
    keys = _keys_of(target, own, sizes)
    parts: list[list[tuple[int | None, Block]]] = [[] for _ in keys]
    zeros: list[tuple[int, Block]] = []
    for placed in _place_blocks(directed, layouts, sizes, source_keys, keys):
        if placed.target is not None:
            parts[placed.target].append((placed.source, placed.pairing.block))
        elif placed.source is not None:
            zeros.append((placed.source, placed.pairing.block))
    targets = []
    for place, axis in keys:
        shape = shape_of(layouts[1][place], sizes)
        if shape is None:
            missing = ", ".join(sorted(axis_names(layouts[1][place]) - sizes.keys()))
            expected = "a size from the shapes or from config.json"
            raise MappingError("MFC307", found=f"no size for {missing}", expected=expected)
        targets.append((target[place], axis, shape))
    _check_coverage([prod(shape) for _, _, shape in targets], [sum(b.elements for _, b in blocks) for blocks in parts], target)
    return Solution(tuple(targets), tuple(tuple(p) for p in parts), tuple(zeros), sizes)


def _check_coverage(needed: Sequence[int], found: Sequence[int], target: Sequence[Pattern]) -> None:
    """Raises MappingError (MFC307) where the blocks of a target are more or fewer numbers than it has.

    They are more where several tensors that names count would become one: ``(p + q) -> expert p, q`` has one q for all experts.
    """
    for expected, covered in zip(needed, found, strict=True):
        if covered != expected:
            where = " and ".join(t.text for t in target)
            raise MappingError(
                "MFC307", where, found=f"{how_many(covered, 'number')} for {how_many(expected, 'place')}", expected="one for each"
            )


def _places_of(keys: Sequence[SourceKey]) -> dict[tuple[int, tuple[int, ...]], int]:
    """Where each tensor stands among all of one side, by its place in the sentence and the index of its own axes."""
    return {(place, tuple(axis.values())): n for n, (place, axis) in enumerate(keys)}


def _index_of(pattern: Pattern, fixed: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(fixed[p] for p in pattern.placeholders if p in fixed)
