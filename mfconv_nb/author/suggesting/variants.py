"""List every known way in which the tensors of one side become those of the other, as layout sentences. Shapes only, pure.

The most usual variant comes first. If several fit the shapes, only numbers can decide, and without numbers the first one is a guess.

- one to one: unchanged, transposed, axes in another order, axes of size one more or fewer, neighbouring axes flattened, rows of zeros at
  the end; and, visible in numbers only: rotary rows in pairs or in halves, parts by turns or end to end, parts in another order
- several to one (q, k and v; gate and up) and one to several: end to end, by turns head by head or group by group, row by row
- a loop of one side (experts, shards) as an axis of the other: in front, along an axis, or below each other; or equal copies
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, permutations, product
from math import gcd, isqrt, prod

from mfconv_nb.author.axes import GROUPS, HEAD, HEADS, ROPE, VALUE, Facts
from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.report import how_many

COPIES = "copies"
PLAIN, TRANSPOSED, ONES = "the same shape", "transposed", "axes of size one more or fewer"
MOST_TURNS = 24  # divisors of a row count that are tried as a number of heads, after the config's own counts
MOST_AXES = 5
BY_HEADS, BY_ROWS = "heads", "rows"  # how parts take turns in a fused tensor
LOCAL = ("rows", "columns", "third", "fourth", "fifth", "sixth", "seventh", "eighth")  # axes of one rule only: shapes give their sizes


Sentence = Callable[[Sequence[str], str], str]  # makes a layout of the parts and of the whole along one axis


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which tensors become others.

    Attributes:
        layout: the sentence, from the tensors that were given first to the others.
        words: the same in words.
        structural: constants and equal axes, as ``Rule.sizes`` takes them.
        sizes: the sizes of axes that shapes may not give.
        hidden: shapes cannot tell it from a simpler one, so it is tried only if there are numbers.
    """

    layout: str
    words: str
    structural: Mapping[str, int | str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    hidden: bool = False

    def with_sides_exchanged(self) -> Variant:
        """The same variant the other way round."""
        left, arrow, right = self.layout.partition(" -> ")
        return replace(self, layout=f"{right} -> {left}") if arrow else self


# ---- naming axes ---------------------------------------------------------------------------------------------------------


def named_axes(shape: Shape, facts: Facts) -> tuple[list[str], dict[str, int]]:
    """A name for every axis of a shape, all different: the config's name for the size, else a local one. Axes of size one read ``1``."""
    names: list[str] = []
    sizes: dict[str, int] = {}
    unknown = iter(LOCAL)
    for size in shape:
        known = facts.axis(size) if size > 4 else None  # smaller ones are kernels, colours and the like
        name = "1" if size == 1 else known.axis if known is not None else next(unknown)
        while name != "1" and name in names:
            name = f"from_{name}"
        names.append(name)
        if known is not None and size != 1:
            sizes[name] = size
    return names, sizes


# ---- one to one ----------------------------------------------------------------------------------------------------------


def variants_of_one(source: Shape, target: Shape, facts: Facts, *, may_pad: bool = False) -> Iterator[Variant]:
    """How one tensor may become one other.

    Args:
        may_pad: whether rows of zeros are usual, as in a padded vocabulary. Otherwise only numbers can show them.
    """
    names, sizes = named_axes(source, facts)
    if source == target:
        yield Variant(" ".join(names), PLAIN, sizes=sizes)
    if len(source) <= MOST_AXES:
        yield from _reordered_axes(source, target, names, sizes)
    yield from _flattened_axes(source, target, facts)
    if len(source) == len(target) > 0 and source[1:] == target[1:] and source[0] < target[0]:
        padded = " ".join([f"({names[0]} + 0 pad)", *names[1:]])
        known = {**sizes, "pad": target[0] - source[0]}
        yield Variant(f"{' '.join(names)} -> {padded}", "rows of zeros at the end", sizes=known, hidden=not may_pad)
    if prod(source) == prod(target) and len(source) in (1, 2) and sorted(source) == sorted(target):
        for transposed in (False,) if source == target and len(source) == 1 else (False, True):
            if (source[::-1] if transposed else source) == target:
                yield from _moved_rows(source, facts, transposed)


def _reordered_axes(source: Shape, target: Shape, names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[Variant]:
    """The same axes in another order; axes of size one may be anywhere."""
    real = [n for n, size in zip(names, source, strict=True) if size != 1]
    by_name = dict(zip(names, source, strict=True))
    wanted = [size for size in target if size != 1]
    if sorted(by_name[n] for n in real) != sorted(wanted):
        return
    for order in permutations(real):
        if [by_name[n] for n in order] != wanted or (list(order) == real and source == target):
            continue
        left = iter(order)
        right = " ".join("1" if size == 1 else next(left) for size in target)
        words = TRANSPOSED if len(real) == 2 else "axes in another order"
        if list(order) == real:
            words = ONES
        yield Variant(f"{' '.join(names)} -> {right}", words, sizes=sizes)


def _flattened_axes(source: Shape, target: Shape, facts: Facts) -> Iterator[Variant]:
    """Neighbouring axes of one side as one axis of the other; the other axes in any order."""
    if prod(source) != prod(target) or len(source) == len(target) or 1 in source or 1 in target or not source or not target:
        return
    long, short = (source, target) if len(source) > len(target) else (target, source)
    names = [f"split_{n}" if n in LOCAL else n for n in named_axes(long, facts)[0]]  # no shape of the short side tells their sizes
    sizes = dict(zip(names, long, strict=True))
    for order in permutations(range(len(long))) if len(long) <= MOST_AXES else ():
        flat = _merge_axes([names[n] for n in order], [long[n] for n in order], short)
        if flat is not None:
            whole = " ".join(names)
            words = "neighbouring axes as one" + ("" if list(order) == sorted(order) else ", in another order")
            yield Variant(f"{whole} -> {flat}" if long is source else f"{flat} -> {whole}", words, sizes=sizes)


def _merge_axes(names: list[str], sizes: list[int], shape: Shape) -> str | None:
    """Neighbouring axes merged so that they have a shape, as text; None if that cannot be."""
    texts = []
    for wanted in shape:
        merged, count = [], 1
        while sizes and count < wanted:
            merged.append(names.pop(0))
            count *= sizes.pop(0)
        if count != wanted:
            return None
        texts.append(merged[0] if len(merged) == 1 else f"({' '.join(merged)})")
    return None if sizes else " ".join(texts)


# ---- one to one, visible in numbers only -----------------------------------------------------------------------------------


def _moved_rows(source: Shape, facts: Facts, transposed: bool) -> Iterator[Variant]:
    """Rows in another order on the other side: rotary pairs and halves, parts by turns; along the first axis or the last."""
    for axis in dict.fromkeys((0, len(source) - 1)):
        for left, right, words, structural, sizes in _row_orders(source[axis], facts):
            here, there = (_with_columns(rows, axis, len(source)) for rows in (left, right))
            text = f"{' '.join(here)} -> {' '.join(there[::-1] if transposed else there)}"
            yield Variant(text, words + (", transposed" if transposed else ""), structural, sizes, hidden=True)


def _with_columns(rows: str, axis: int, count: int) -> list[str]:
    """The ``count`` axes of a tensor, of which ``rows`` is one."""
    columns = ["columns"] * (count - 1)
    return [*columns[:axis], rows, *columns[axis:]]


_Order = tuple[str, str, str, Mapping[str, int | str], Mapping[str, int]]  # rows here, rows there, words, structural, sizes


def _row_orders(rows: int, facts: Facts) -> Iterator[_Order]:
    counts = turns_of(rows, facts, most=rows // 4)
    yield from (order for heads in counts if heads > 1 for order in _rotary(rows, heads))
    yield from _partly_rotary(rows, facts)
    yield from _regrouped_parts(rows, facts)
    yield from _rotary(rows, 1)  # the same as two parts row by row, which is more usual


def _rotary(rows: int, heads: int) -> Iterator[_Order]:
    pair = rows // heads // 2
    if rows == heads * pair * 2 and pair > 1:
        there, back, sizes = "(heads pair half)", "(heads half pair)", {"heads": heads, "pair": pair}
        yield there, back, f"rotary rows of {how_many(heads, 'head')}, pairs as halves", {"half": 2}, sizes
        yield back, there, f"rotary rows of {how_many(heads, 'head')}, halves as pairs", {"half": 2}, sizes


# where the rotary rows of a head lie, and their order: pairs next to each other, or halves
_PLACES = {
    "rest + pair half": "last, in pairs",
    "rest + half pair": "last, in halves",
    "pair half + rest": "first, in pairs",
    "half pair + rest": "first, in halves",
}


def _partly_rotary(rows: int, facts: Facts) -> Iterator[_Order]:
    """Orders of rows if only the first or the last rows of each head are rotary."""
    for rope in facts.values(ROPE):
        for heads in [h for h in (*facts.values(HEADS), 1) if rows % h == 0 and rows // h > rope]:
            sizes = {"heads": heads, "rest": rows // heads - rope, "pair": rope // 2}
            for here, there in permutations(_PLACES, 2):
                words = f"the rotary rows of each head {_PLACES[here]}, as {_PLACES[there]}"
                yield f"(heads ({here}))", f"(heads ({there}))", words, {"half": 2}, sizes


def _regrouped_parts(rows: int, facts: Facts) -> Iterator[_Order]:
    """Orders of several parts that are one tensor on both sides: end to end here and by turns there, or in another order."""
    for parts in _partitions(rows, facts):
        names = ("q", "k", "v") if len(parts) == 3 else ("gate", "up")
        for order in list(permutations(range(len(parts))))[1:]:
            there = " + ".join(names[n] for n in order)
            yield f"({' + '.join(names)})", f"({there})", f"parts in the order {there}", {}, dict(zip(names, parts, strict=True))
        for turns in turns_of(gcd(*parts), facts):
            sizes = {"turns": turns, **{f"{n}_part": p // turns for n, p in zip(names, parts, strict=True)}}
            together = f"(turns ({' + '.join(f'{n}_part' for n in names)}))"
            apart = f"({' + '.join(f'turns {n}_part' for n in names)})"
            yield apart, together, f"{', '.join(names)} end to end as {turns} turns", {}, sizes
            yield together, apart, f"{', '.join(names)} in {turns} turns as end to end", {}, sizes


def _partitions(rows: int, facts: Facts) -> Iterator[Shape]:
    """How many rows q, k and v, or gate and up, may have in one tensor."""
    found = dict.fromkeys(
        (heads * head, groups * head, groups * head)
        for head in facts.values(HEAD)
        for heads in facts.values(HEADS)
        for groups in (*facts.values(GROUPS), 1)
    )
    for parts in found:
        if sum(parts) == rows:
            yield parts
    for heads in facts.values(HEADS):
        yield from ((rows - heads * value, heads * value) for value in facts.values(VALUE) if rows % heads == 0 and rows > heads * value)
    if rows % 3 == 0:
        yield (rows // 3,) * 3
    if rows % 2 == 0:
        yield (rows // 2,) * 2


def turns_of(size: int, facts: Facts, *, most: int | None = None) -> list[int]:
    """Numbers of turns that ``size`` rows may have: heads and key/value groups of the config first, then divisors."""
    limit = most or size
    named = [n for n in facts.values(GROUPS, HEADS) if n > 1]
    small = [n for n in range(1, isqrt(size) + 1) if size % n == 0]
    divisors = [n for n in sorted({*small, *(size // n for n in small)}) if n <= limit]
    kept = divisors[: MOST_TURNS // 2] + divisors[-MOST_TURNS // 2 :]
    return [n for n in dict.fromkeys([*named, *kept]) if size % n == 0 and n <= limit]


# ---- several to one --------------------------------------------------------------------------------------------------------


def variants_of_several(
    parts: Sequence[Shape], whole: Shape, names: Sequence[str], facts: Facts, *, by_turns: str = ""
) -> Iterator[Variant]:
    """How several tensors may become one: along one axis, end to end or by turns. With the sides exchanged: how one becomes several.

    Args:
        names: of the parts, in their order; none of them is the name of an axis.
        by_turns: how parts usually take turns in such a tensor, tried first: head by head (or group), or row by row.
    """
    if len({len(p) for p in parts}) != 1 or len(whole) != len(parts[0]):
        return
    found = list(_joined_parts(parts, whole, names, facts))
    taking_turns = [v for v in found if v.words.startswith("by turns") and not v.hidden] if by_turns else []
    axes = (HEADS, GROUPS) if len(set(parts)) == 1 else (GROUPS, HEADS)  # equal parts: as many heads for q as for k and v
    counts = [gcd(*(p[0] for p in parts))] if by_turns == BY_ROWS else facts.values(*axes)
    usual = [v for count in counts for v in taking_turns if count in [v.sizes.get(axis) for axis in (HEADS, GROUPS, "turns")]]
    first = [*usual, *taking_turns][:1]
    yield from (*first, *(v for v in found if v not in first))


def _joined_parts(parts: Sequence[Shape], whole: Shape, names: Sequence[str], facts: Facts) -> Iterator[Variant]:
    """The parts along each axis, the first one first: linear weights have their outputs there."""
    count = len(parts[0])
    for axis in range(count):
        for transposed in (False, True) if count == 2 else (False,):
            goal = whole[::-1] if transposed else whole
            sizes = [p[axis] for p in parts]
            others = {p[:axis] + p[axis + 1 :] for p in parts}
            if len(others) == 1 and goal[:axis] + goal[axis + 1 :] == next(iter(others)) and sum(sizes) == goal[axis]:
                rest, known = _other_axes(next(iter(others)), names, facts)
                yield from _arrangements_of(sizes, names, axis, rest, known, facts, transposed)


def _other_axes(shape: Shape, taken: Sequence[str], facts: Facts) -> tuple[list[str], dict[str, int]]:
    """Names for the axes that all parts share, different from those of the parts."""
    names, sizes = named_axes(shape, facts)
    new = {name: f"from_{name}" if name in taken else name for name in names}
    return [new[n] for n in names], {new[n]: size for n, size in sizes.items()}


def _arrangements_of(
    sizes: Sequence[int], names: Sequence[str], axis: int, rest: Sequence[str], known: Mapping[str, int], facts: Facts, transposed: bool
) -> Iterator[Variant]:
    """The parts along one axis: end to end first, then by turns, then in other orders."""
    how = ", transposed" if transposed else ""
    equal = _equal(names, sizes)

    def sentence(left: Sequence[str], right: str) -> str:
        there = [*rest[:axis], right, *rest[axis:]]
        return ", ".join(" ".join([*rest[:axis], e, *rest[axis:]]) for e in left) + " -> " + " ".join(there[::-1] if transposed else there)

    own = dict(zip(names, sizes, strict=True))
    for order in permutations(range(len(sizes))):
        usual = order == tuple(range(len(sizes)))
        together = " + ".join(names[n] for n in order)
        yield Variant(sentence(names, f"({together})"), f"{together} end to end{how}", equal, {**known, **own}, hidden=not usual)
        for turns in turns_of(gcd(*sizes), facts):
            if turns == 1:
                continue
            pieces = [f"{n}_part" for n in names]
            each = {p: s // turns for p, s in zip(pieces, sizes, strict=True)}
            axis_of_turns = next((axis for axis in (HEADS, GROUPS) if turns in facts.values(axis)), "turns")
            text = sentence([f"({axis_of_turns} {p})" for p in pieces], f"({axis_of_turns} ({' + '.join(pieces[n] for n in order)}))")
            words = f"by turns, {turns} times {together}{how}"
            yield Variant(text, words, _equal(pieces, list(each.values())), {**known, **each, axis_of_turns: turns}, hidden=not usual)
    yield from _rotary_parts(sizes, names, sentence, known, facts, how)
    yield from _parts_with_rotary_end(sizes, names, sentence, known, facts, how)
    yield from _parts_in_turns(sizes, names, sentence, known, facts, how)


def _parts_in_turns(
    sizes: Sequence[int], names: Sequence[str], sentence: Sentence, known: Mapping[str, int], facts: Facts, how: str
) -> Iterator[Variant]:
    """One part is two by turns, head by head, which lie end to end in the whole: k and v behind q."""
    for turns, packed in product(facts.values(GROUPS, HEADS), range(len(sizes))):
        if turns == 1 or sizes[packed] % (2 * turns):
            continue
        own = {n: size for n, size in zip(names, sizes, strict=True) if n != names[packed]}
        own |= {"turns": turns, "one": sizes[packed] // turns // 2, "other": sizes[packed] // turns // 2}
        apart = ["(turns (one + other))" if n == packed else name for n, name in enumerate(names)]
        inside = " + ".join("turns one + turns other" if n == packed else name for n, name in enumerate(names))
        words = f"end to end, {names[packed]} as two parts out of {turns} turns{how}"
        yield Variant(sentence(apart, f"({inside})"), words, {"other": "one"}, {**known, **own}, hidden=True)


def _parts_with_rotary_end(
    sizes: Sequence[int], names: Sequence[str], sentence: Sentence, known: Mapping[str, int], facts: Facts, how: str
) -> Iterator[Variant]:
    """The last rows of one part are rotary, in pairs apart and in halves in the whole, or the other way round; the parts in any order."""
    for rope, moved in product(facts.values(ROPE), range(len(sizes))):
        if sizes[moved] <= rope:
            continue
        own = {n: size for n, size in zip(names, sizes, strict=True) if n != names[moved]}
        own |= {"rest": sizes[moved] - rope, "pair": rope // 2}
        for order, (here, there) in product(permutations(range(len(sizes))), permutations(("rest + pair half", "rest + half pair"))):
            apart = [f"({here})" if n == moved else name for n, name in enumerate(names)]
            inside = " + ".join(there if n == moved else names[n] for n in order)
            words = f"{' + '.join(names[n] for n in order)} end to end, the last rows of {names[moved]} rotary{how}"
            yield Variant(sentence(apart, f"({inside})"), words, {"half": 2}, {**known, **own}, hidden=True)


def _rotary_parts(
    sizes: Sequence[int], names: Sequence[str], sentence: Sentence, known: Mapping[str, int], facts: Facts, how: str
) -> Iterator[Variant]:
    """One part, or q and k, in rotary pairs in the whole and in halves apart."""
    chosen = [(n,) for n in range(len(sizes))] + ([(0, 1)] if len(sizes) == 3 else [])
    for turns in (1, *turns_of(gcd(*sizes), facts, most=max(sizes))):
        for moved in chosen:
            if any(sizes[n] % (2 * turns) for n in moved):
                continue
            each, apart, inside = {}, [], []
            for n, (name, size) in enumerate(zip(names, sizes, strict=True)):
                piece = f"{name}_pair" if n in moved else f"{name}_part"
                each[piece] = size // turns // (2 if n in moved else 1)
                apart.append(f"(turns {_half(n)} {piece})" if n in moved else f"(turns {piece})")
                inside.append(f"{piece} {_half(n)}" if n in moved else piece)
            halves = {_half(n): 2 for n in moved}
            text = sentence(apart, f"(turns ({' + '.join(inside)}))")
            words = f"by {turns} turns, {' and '.join(names[n] for n in moved)} in rotary pairs in the whole{how}"
            yield Variant(text, words, halves, {**known, **each, "turns": turns}, hidden=True)


def _half(place: int) -> str:
    return f"half_{'abcdefgh'[place]}"


def _equal(names: Sequence[str], sizes: Sequence[int]) -> dict[str, int | str]:
    """Axes of one size as equal axes, so that shapes alone give every size; empty if sizes differ."""
    return dict.fromkeys(names[1:], names[0]) if len(set(sizes)) == 1 else {}


# ---- a loop of one side as an axis of the other ----------------------------------------------------------------------------


def variants_of_stack(source: Shape, target: Shape, count: int, loop: str, facts: Facts) -> Iterator[Variant]:
    """How ``count`` tensors of one shape may become one: along a new axis in front, along an old one, or as equal copies."""
    names, sizes = named_axes(source, facts)
    names = [f"one_{n}" if n == loop else n for n in names]
    sizes = {n: s for n, s in sizes.items() if n != loop}
    if target[:1] == (count,) and len(target) == len(source) + 1:
        for order in permutations(range(len(source))) if len(source) <= MOST_AXES else ():
            if tuple(source[n] for n in order) == target[1:]:
                usual = list(order) == sorted(order)
                words = f"every {loop} along a new axis" + ("" if usual else ", transposed")
                yield Variant(f"{' '.join(names)} -> {' '.join([loop, *(names[n] for n in order)])}", words, sizes=sizes)
    for order in permutations(range(len(source))) if len(target) == len(source) <= MOST_AXES else ():
        moved = tuple(source[n] for n in order)
        is_plain = list(order) == sorted(order)
        for place, axis in enumerate(order):
            if target == (*moved[:place], moved[place] * count, *moved[place + 1 :]):
                own = f"{names[axis]}_here" if names[axis] != "1" else "here"
                left = [*names[:axis], own, *names[axis + 1 :]]
                right = [f"({loop} {own})" if n == axis else names[n] for n in order]
                kept = {n: s for n, s in sizes.items() if n in left}
                words = f"every {loop} a slice" + ("" if is_plain else ", transposed")
                yield Variant(f"{' '.join(left)} -> {' '.join(right)}", words, sizes=kept)
                if is_plain:
                    yield from _sliced_rotary(source, axis, loop, names, kept, facts)
    if source == target:
        yield Variant(" ".join(names), COPIES, sizes=sizes)


def _sliced_rotary(source: Shape, axis: int, loop: str, names: Sequence[str], sizes: Mapping[str, int], facts: Facts) -> Iterator[Variant]:
    for heads in turns_of(source[axis], facts, most=source[axis] // 4):
        pair = source[axis] // heads // 2
        if heads * pair * 2 == source[axis] and pair > 1:
            own = {**sizes, "heads_here": heads, "pair": pair}
            for left, right, order in (("pair half", "half pair", "pairs as halves"), ("half pair", "pair half", "halves as pairs")):
                there = [*names[:axis], f"({loop} heads_here {right})", *names[axis + 1 :]]
                here = [*names[:axis], f"(heads_here {left})", *names[axis + 1 :]]
                words = f"every {loop} a slice, rotary {order}"
                yield Variant(f"{' '.join(here)} -> {' '.join(there)}", words, {"half": 2}, own, hidden=True)


def variants_of_several_stacked(
    parts: Sequence[Shape], whole: Shape, names: Sequence[str], count: int, loop: str, facts: Facts
) -> Iterator[Variant]:
    """How several tensors of ``count`` experts may become one: experts along a new axis in front or below each other, parts along any."""
    if whole[:1] == (count,):
        for variant in variants_of_several(parts, whole[1:], names, facts):
            left, _, right = variant.layout.partition(" -> ")
            yield replace(variant, layout=f"{left} -> {loop} {right}", words=f"every {loop} along a new axis, {variant.words}")
    if whole and len(whole) == len(parts[0]) and whole[0] % count == 0:
        for variant in variants_of_several(parts, (whole[0] // count, *whole[1:]), names, facts):
            left, _, right = variant.layout.partition(" -> ")
            yield replace(variant, layout=f"{left} -> {_below(loop, right)}", words=f"every {loop} a slice, {variant.words}")


def _below(loop: str, tensor: str) -> str:
    """A tensor's axes with a loop before the first of them: `(q + k) hidden` becomes `(expert (q + k)) hidden`."""
    depths = accumulate({"(": 1, ")": -1}.get(char, 0) for char in tensor)
    end = next((n for n, (char, depth) in enumerate(zip(tensor, depths, strict=True)) if char == " " and not depth), len(tensor))
    first = tensor[:end]
    is_product = first.startswith("(") and re.match(r"\(\w+ [\w(]", first) is not None
    return f"({loop} {first[1:-1] if is_product else first}){tensor[end:]}"
