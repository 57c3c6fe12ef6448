"""Draw what a mistake in the rules would do: two drawings with the right roles, and a map of the numbers that go elsewhere.

In both drawings a colour means what the numbers are by the right rules: if gate and up are swapped, the bands of the target exchange
colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

from mfconv_nb.author.proving.consequences import Consequence
from mfconv_nb.author.proving.specimen import Array, Arrays
from mfconv_nb.core.report import how_many, name_html
from mfconv_nb.mapping.explain import TARGET, Explanation, RoleBlock, explain_tensor
from mfconv_nb.mapping.plan import MappingPlan
from mfconv_nb.views.drawing import Drawing
from mfconv_nb.views.explained import drawing_of

MOST_MAPS = 3  # targets with a map; a stack of experts has hundreds
DOWN, ACROSS = 32, 64  # squares of a map at most; more numbers share one
WIDE = 4  # units of a square
LARGEST, LONGEST = 12, 192  # pixels of a square, and of a map, at most


# ---- drawings ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pictures:
    """The right layout, and what the mistake makes of it; None if there is nothing to draw."""

    right: Drawing | None
    wrong: Drawing | None


def pictures_of(consequence: Consequence) -> Pictures:
    """Draw a mistake."""
    right = _explain_plan(consequence.right_plan)
    if right is None:
        return Pictures(None, None)
    named = _with_roles_by_source(right)
    labels = _labels_of(named, consequence.there)
    wrong = _explain_plan(consequence.wrong_plan) if consequence.wrong is not None else None
    return Pictures(drawing_of(named), None if wrong is None else drawing_of(_with_true_roles(_with_order_of(named, wrong), labels)))


def _explain_plan(plan: MappingPlan | None) -> Explanation | None:
    """All rows of a plan as one explanation."""
    if plan is None:
        return None
    found = [explain_tensor(plan, row.targets[0].name, TARGET) for row in plan.rows if row.sources and row.targets]
    if not found:
        return None
    blocks = tuple(block for e in found for block in e.row_blocks)
    faces = {(f.side, f.spec.name): f for e in found for f in e.faces}
    return replace(found[0], row_blocks=blocks, blocks=blocks[:1], faces=tuple(faces.values()))


def _with_order_of(right: Explanation, wrong: Explanation) -> Explanation:
    """The wrong explanation with its tensors in the order of the right one, so that the drawings differ in contents only."""
    places = {(f.side, f.spec.name): n for n, f in enumerate(right.faces)}
    faces = sorted(wrong.faces, key=lambda f: places.get((f.side, f.spec.name), len(places)))
    blocks = sorted(wrong.row_blocks, key=lambda b: places.get((TARGET, b.target or ""), len(places)))
    return replace(wrong, faces=tuple(faces), row_blocks=tuple(blocks))


def _with_roles_by_source(explanation: Explanation) -> Explanation:
    """With several rules whose blocks all have one role: the part of the source's name that distinguishes it becomes the role."""
    blocks = explanation.row_blocks
    sources = list(dict.fromkeys(b.source for b in blocks if b.source is not None))
    if len(sources) < 2 or len({b.role for b in blocks}) > 1 or any(b.index for b in blocks):
        return explanation
    words = _distinctive_parts(sources)
    return replace(explanation, row_blocks=tuple(replace(b, role=words[b.source]) if b.source else b for b in blocks))


def _distinctive_parts(names: Sequence[str]) -> dict[str, str]:
    """By name: the parts of it that not all names share: ``gate_proj``."""
    parts = [name.split(".") for name in names]
    shared = set.intersection(*(set(p) for p in parts))
    return {name: ".".join(w for w in p if w not in shared) or name for name, p in zip(names, parts, strict=True)}


@dataclass(frozen=True, slots=True)
class _Labels:
    """The role of every number of every source, as an index of ``roles``; -1 if it is unknown."""

    roles: tuple[str, ...]
    places: Mapping[str, Array]


def _labels_of(right: Explanation, there: Arrays) -> _Labels:
    roles = tuple(dict.fromkeys(b.role for b in right.row_blocks if b.source is not None))
    places = {name: np.full(array.size, -1, np.int64) for name, array in there.items()}
    for block in right.row_blocks:
        if block.source is not None and block.source in places:
            _numbers_of(block, places[block.source])[...] = roles.index(block.role)
    return _Labels(roles, places)


def _numbers_of(block: RoleBlock, flat: Array) -> Array:
    """The numbers of a block in its source, as a view that can be written to."""
    move = block.block
    strides = tuple(s * flat.itemsize for s in move.source_strides)
    return np.lib.stride_tricks.as_strided(flat[move.source_offset :], move.sizes, strides)


def _with_true_roles(wrong: Explanation, labels: _Labels) -> Explanation:
    """Every block with the role of the numbers that it really contains, or with several roles if it mixes them."""
    return replace(wrong, row_blocks=tuple(replace(b, role=_true_role(b, labels)) for b in wrong.row_blocks))


def _true_role(block: RoleBlock, labels: _Labels) -> str:
    if block.source is None or block.source not in labels.places:
        return block.role
    found = np.unique(_numbers_of(block, labels.places[block.source]))
    return " + ".join(labels.roles[n] for n in found if n >= 0) or block.role


# ---- where the numbers go ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Misplaced:
    """How many numbers would have gone elsewhere, and the first of them.

    Attributes:
        masks: for every target, which of its places would hold a wrong number.
        place: the first of them, with its tensor; ``owner``: the place to which the number there belongs, None if it belongs nowhere.
    """

    wrong: int
    total: int
    masks: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]
    place: tuple[str, tuple[int, ...]] | None
    owner: tuple[str, tuple[int, ...]] | None

    @property
    def sentence(self) -> str:
        count = f"{self.wrong:,} of {how_many(self.total, 'number')} would have gone elsewhere"
        if self.place is None:
            return count + "."
        (name, index), owner = self.place, self.owner
        if owner is None:
            return f"{count}; the first: element {_index_text(index)} of {name} would hold what belongs nowhere."
        whose = "" if owner[0] == name else f" of {owner[0]}"
        return f"{count}; the first: element {_index_text(index)} of {name} would hold what belongs to {_index_text(owner[1])}{whose}."


def _index_text(index: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, index))})"


def misplaced_numbers(consequence: Consequence) -> Misplaced | None:
    """The numbers that go elsewhere; None if names or shapes differ already and places have no partners."""
    right, wrong = consequence.right, consequence.wrong
    if wrong is None or wrong.keys() != right.keys() or any(wrong[n].shape != right[n].shape for n in right):
        return None
    masks = {name: np.asarray(right[name] != wrong[name]) for name in right}
    total, count = sum(a.size for a in right.values()), sum(int(mask.sum()) for mask in masks.values())
    first = next((name for name, mask in masks.items() if mask.any()), None)
    if first is None:
        return Misplaced(0, total, masks, None, None)
    index = tuple(int(i) for i in np.argwhere(masks[first])[0])
    return Misplaced(count, total, masks, (first, index), _owner(right, int(wrong[first][index])))


def _owner(right: Mapping[str, Array], number: int) -> tuple[str, tuple[int, ...]] | None:
    for name, array in right.items():
        hits = np.argwhere(array == number)
        if len(hits):
            return name, tuple(int(i) for i in hits[0])
    return None


def maps_html(misplaced: Misplaced) -> str:
    """A small map for each target with right and wrong numbers: in dark squares all are wrong, in light ones some."""
    named = [(name, mask) for name, mask in misplaced.masks.items() if mask.any() and not mask.all()]
    left = len(named) - MOST_MAPS
    parts = [_map_html(name, mask) for name, mask in named[:MOST_MAPS]]
    return "".join(parts) + (f"<div class='mfconv-f'>and {how_many(left, 'more tensor')}</div>" if left > 0 else "")


def _map_html(name: str, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    said = f"{int(mask.sum()):,} of {how_many(mask.size, 'number')}"
    rows = mask.reshape(mask.shape[0], -1) if mask.ndim > 1 else mask.reshape(1, -1)
    shares = _shares_of_wrong(rows)
    high, wide = (n * WIDE for n in shares.shape)
    pixels = shares.shape[1] * max(3, min(LARGEST, LONGEST // max(shares.shape)))
    squares = "".join(
        f'<rect x="{x * WIDE}" y="{y * WIDE}" width="{n * WIDE}" height="{WIDE}" fill="#D55E00" fill-opacity="{tone}"/>'
        for y, line in enumerate(shares)
        for x, n, tone in _spans(line)
    )
    frame = f'<rect x=".5" y=".5" width="{wide - 1}" height="{high - 1}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
    style = f"display:block;width:100%;max-width:{pixels}px;height:auto;overflow:visible"
    alone = f'role="img" aria-label="{escape(name)}: {said} wrong" viewBox="0 0 {wide} {high}" style="{style}"'
    head = f"<div>{name_html(name)} <span class='mfconv-f'>{said}</span></div>"
    return f"{head}<svg {alone}><g shape-rendering='crispEdges'>{squares}</g>{frame}</svg>"


def _shares_of_wrong(rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The share of wrong numbers in each square."""
    found: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = rows.astype(np.float64)
    for axis, most in ((0, DOWN), (1, ACROSS)):
        edges = np.unique(np.linspace(0, found.shape[axis], min(most, found.shape[axis]) + 1).astype(int))
        sums = np.add.reduceat(found, edges[:-1], axis=axis)
        counts = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        found = sums / counts
    return found


def _spans(line: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Iterator[tuple[int, int, str]]:
    """Neighbouring squares of one tone: where they begin, how many they are, and the tone. Squares without a wrong number are left out."""
    tones = ["" if share == 0 else "1" if share == 1 else ".65" if share >= 0.5 else ".35" for share in line]
    first = 0
    for n in range(1, len(tones) + 1):
        if n == len(tones) or tones[n] != tones[first]:
            if tones[first]:
                yield first, n - first, tones[first]
            first = n
