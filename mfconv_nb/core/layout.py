"""The layout notation: one sentence that says where every number of a tensor stands on both sides. numpy only, pure.

    "(q + k + v) hidden -> q hidden, k hidden, v hidden"

Tensors are separated by commas, axes by spaces. ``(a b)`` flattens axes, ``(q + k)`` lays named parts end to end, ``1`` is an axis
of size one, and a ``0`` before an axis fills it with zeros: ``vocab hidden -> (vocab + 0 pad) hidden``. A sentence without an arrow
means the same shape on both sides. ``| 0`` at the end fills all blocks without a partner with zeros. The notation is that of einops
and einx.

How it is read: choosing one part in every ``( + )`` of a tensor gives a *block*, known by the set of its axis names. Blocks of the
two sides with equal sets belong together; a block of zeros has no partner. Both directions use the same pairing, so they cannot
drift apart.

Refuses: an axis name twice in one block, a block without a partner, sizes that do not divide or contradict each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from mfconv_nb.core.blocks import Block, Shape, c_strides, make_block
from mfconv_nb.core.errors import Lines, MappingError, to_one_line
from mfconv_nb.core.report import how_many

# ---- the notation as data ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    name: str


@dataclass(frozen=True, slots=True)
class One:
    """A literal axis of size one."""


@dataclass(frozen=True, slots=True)
class Zero:
    """A literal axis of size one: the block it stands in holds zeros, and has no partner on the other side."""


@dataclass(frozen=True, slots=True)
class Product:
    """Axes flattened into one, the last running fastest."""

    factors: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Parts laid end to end."""

    parts: tuple[Expression, ...]


Expression = Axis | One | Zero | Product | Sum
TensorLayout = tuple[Expression, ...]  # one expression an axis


@dataclass(frozen=True, slots=True)
class Layout:
    """A sentence, read. ``left`` is the Hugging Face side, ``right`` the MindFormers side."""

    text: str
    left: tuple[TensorLayout, ...]
    right: tuple[TensorLayout, ...]
    rest_is_zeros: bool = False  # a block without a partner holds zeros


MOST_NESTED = 50  # brackets; real sentences have two or three
_TOKEN = re.compile(r"\s*(->|[a-z_][a-z0-9_]*|[01](?![0-9])|[()+,|])")


@lru_cache(maxsize=4096)
def parse_layout(text: str) -> Layout:
    """Read a layout sentence.

    Raises:
        MappingError: MFC306, pointing at the character.
    """
    return _Parser(text).layout()


class _Parser:
    """Recursive descent over the tokens of one sentence; keeps the position for the error message."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at, self.depth = text, [], 0, 0
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                position += len(text[position:]) - len(text[position:].lstrip())
                raise self.error(position, "a name, 0, 1, ( ) + , or ->")
            self.tokens.append((match.group(1), match.start(1)))
            position = match.end()

    def error(self, position: int, expected: str) -> MappingError:
        found = Lines(f"{to_one_line(self.text)}\n            {' ' * position}^")
        hint = 'For example "(q + k) hidden -> q hidden, k hidden".'
        return MappingError("MFC306", found=found, expected=expected, hint=hint, position=position)

    def peek(self) -> str | None:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else None

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][0]

    def position(self) -> int:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text)

    def layout(self) -> Layout:
        left = self.side()
        if self.peek() is None:
            return Layout(self.text, left, left)
        if self.take() != "->":
            self.at -= 1
            raise self.error(self.position(), "-> or the end")
        right = self.side()
        rest_is_zeros = self.rest()
        if self.peek() is not None:
            raise self.error(self.position(), "the end")
        return Layout(self.text, left, right, rest_is_zeros)

    def rest(self) -> bool:
        if self.peek() != "|":
            return False
        self.take()
        if self.peek() != "0":
            raise self.error(self.position(), "0")
        self.take()
        return True

    def side(self) -> tuple[TensorLayout, ...]:
        tensors = [self.axes()]
        while self.peek() == ",":
            self.take()
            tensors.append(self.axes())
        return tuple(tensors)

    def axes(self) -> TensorLayout:
        found: list[Expression] = []
        while (token := self.peek()) is not None and token not in ("->", ",", "+", ")", "|"):
            found.append(self.axis())
        return tuple(found)

    def axis(self) -> Expression:
        token = self.take()
        if token == "1":
            return One()
        if token == "0":
            return Zero()
        if token != "(":
            return Axis(token)
        self.depth += 1
        if self.depth > MOST_NESTED:
            raise self.error(self.tokens[self.at - 1][1], f"at most {MOST_NESTED} brackets inside each other")
        parts = [self.factors()]
        while self.peek() == "+":
            self.take()
            parts.append(self.factors())
        if self.peek() != ")":
            raise self.error(self.position(), ")")
        self.take()
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Sum(tuple(parts))

    def factors(self) -> Expression:
        factors = self.axes()
        if not factors:
            raise self.error(self.position(), "an axis")
        return factors[0] if len(factors) == 1 else Product(factors)


def axis_names(expressions: Iterable[Expression]) -> frozenset[str]:
    """Every axis name in some expressions."""
    names: set[str] = set()
    for e in expressions:
        if isinstance(e, Axis):
            names.add(e.name)
        elif isinstance(e, Product):
            names |= axis_names(e.factors)
        elif isinstance(e, Sum):
            names |= axis_names(e.parts)
    return frozenset(names)


ZEROS = "0"  # the name, among the axes of a block, that says it holds zeros


# ---- sizes and shapes ----------------------------------------------------------------------------------------------


def size_of(e: Expression, sizes: Mapping[str, int]) -> int | None:
    """The size of an axis expression, or None where an axis in it is not known yet."""
    if isinstance(e, Axis):
        return sizes.get(e.name)
    if isinstance(e, One | Zero):
        return 1
    parts = [size_of(p, sizes) for p in (e.factors if isinstance(e, Product) else e.parts)]
    if any(p is None for p in parts):
        return None
    known = [p for p in parts if p is not None]
    return math.prod(known) if isinstance(e, Product) else sum(known)


def shape_of(tensor: TensorLayout, sizes: Mapping[str, int]) -> Shape | None:
    """The shape of a tensor, or None where an axis is not known."""
    shape = [size_of(e, sizes) for e in tensor]
    return None if any(s is None for s in shape) else tuple(s for s in shape if s is not None)


def solve_sizes(
    tensors: Sequence[TensorLayout], shapes: Sequence[Shape], known: Mapping[str, int], same: Mapping[str, str] | None = None
) -> dict[str, int]:
    """The sizes of all axes that the given shapes determine, on top of the known ones.

    Args:
        same: axes that have the size of another one: ``{"k": "q", "v": "q"}`` for three equal parts.
    Raises:
        MappingError: MFC307 when a shape has another number of axes, contradicts a size, or does not divide.
    """
    sizes = dict(known)
    pending: list[tuple[Expression, int]] = []
    for tensor, shape in zip(tensors, shapes, strict=True):
        if len(tensor) != len(shape):
            raise MappingError("MFC307", found=shape, expected=f"{how_many(len(tensor), 'axis', 'axes')}: {describe_tensor(tensor)}")
        pending += zip(tensor, shape, strict=True)
    while True:
        _share_sizes(sizes, same or {})
        left = [(e, n) for e, n in pending if not _solve_one(e, n, sizes, same or {})]
        if not left or len(left) == len(pending):
            break
        pending = left
    _share_sizes(sizes, same or {})
    return sizes


def _share_sizes(sizes: dict[str, int], same: Mapping[str, str]) -> None:
    """Give axes of equal size the size that one of them has."""
    for one, other in same.items():
        for a, b in ((one, other), (other, one)):
            if a in sizes and sizes.setdefault(b, sizes[a]) != sizes[a]:
                raise MappingError("MFC307", found=f"{a} {sizes[a]}, {b} {sizes[b]}", expected="equal sizes")


def _solve_one(e: Expression, size: int, sizes: dict[str, int], same: Mapping[str, str]) -> bool:
    """Use one axis: check it when all names in it are known, solve it when one is missing. False when more are missing."""
    if isinstance(e, Axis) and e.name not in sizes:
        sizes[e.name] = size
        return True
    if isinstance(e, Axis | One | Zero):
        if size_of(e, sizes) != size:
            raise MappingError("MFC307", found=size, expected=f"{describe(e)} = {size_of(e, sizes)}")
        return True
    parts = e.factors if isinstance(e, Product) else e.parts
    unknown = [p for p in parts if size_of(p, sizes) is None]
    known = [n for n in (size_of(p, sizes) for p in parts) if n is not None]
    if not unknown:
        if size_of(e, sizes) != size:
            raise MappingError("MFC307", found=size, expected=f"{describe(e)} = {size_of(e, sizes)}")
        return True
    equal_parts = len(unknown) if isinstance(e, Sum) and _are_equal_parts(unknown, same) else 1
    if len(unknown) > equal_parts:
        return False
    rest = size - sum(known) if isinstance(e, Sum) else size // max(1, math.prod(known))
    if rest < 0 or rest % equal_parts or (isinstance(e, Product) and rest * math.prod(known) != size):
        told = f"{', '.join(map(str, known))} known" if known else how_many(equal_parts, "equal part")
        raise MappingError("MFC307", found=size, expected=f"{describe(e)} with {told}")
    return _solve_one(unknown[0], rest // equal_parts, sizes, same)


def _are_equal_parts(parts: Sequence[Expression], same: Mapping[str, str]) -> bool:
    """Whether the parts of a sum are axes of one size."""
    names = [p.name for p in parts if isinstance(p, Axis)]
    return len(names) == len(parts) and len({same.get(n, n) for n in names}) == 1


def told_axes(tensors: Sequence[TensorLayout], known: Set[str], same: Mapping[str, str]) -> frozenset[str]:
    """The axes that ``solve_sizes`` would find, whatever the shapes are: the known ones, and those that shapes of these tensors tell."""
    told, before = set(known), -1
    while len(told) > before:
        before = len(told)
        for pair in same.items():
            told.update(pair if told.intersection(pair) else ())
        for tensor in tensors:
            for e in tensor:
                _tell(e, told, same)
    return frozenset(told)


def _tell(e: Expression, told: set[str], same: Mapping[str, str]) -> None:
    """Add the axis that the size of one expression tells, as ``_solve_one`` solves it."""
    if isinstance(e, Axis):
        told.add(e.name)
    elif isinstance(e, Product | Sum):
        unknown = [p for p in (e.factors if isinstance(e, Product) else e.parts) if not axis_names([p]) <= told]
        if len(unknown) == 1 or (unknown and isinstance(e, Sum) and _are_equal_parts(unknown, same)):
            _tell(unknown[0], told, same)


def describe(e: Expression) -> str:
    """An expression as it is written in a sentence."""
    if isinstance(e, Axis):
        return e.name
    if isinstance(e, One | Zero):
        return "1" if isinstance(e, One) else "0"
    if isinstance(e, Sum):
        return f"({' + '.join(_unwrap(p) for p in e.parts)})"
    return f"({' '.join(describe(f) for f in e.factors)})"


def _unwrap(e: Expression) -> str:
    return " ".join(describe(f) for f in e.factors) if isinstance(e, Product) else describe(e)


def describe_tensor(tensor: TensorLayout) -> str:
    """A tensor's axes as they are written in a sentence; a scalar reads ``()``."""
    return " ".join(describe(e) for e in tensor) or "()"


@dataclass(frozen=True, slots=True)
class View:
    """One block inside one tensor: where it begins and the (size, stride) of each axis in it."""

    offset: int
    axes: tuple[tuple[str, int, int], ...]


def _views(tensor: TensorLayout, sizes: Mapping[str, int], fixed: Mapping[str, int]) -> Iterator[View]:
    """Every block of a tensor. ``fixed`` picks one index of an axis, as `experts.3.` does for the axis `expert`."""
    views = [View(0, ())]
    stride = 1
    for e in reversed(tensor):
        views = [View(view.offset + part.offset, part.axes + view.axes) for view in views for part in _parts(e, sizes, stride, fixed)]
        stride *= _known_size(e, sizes)
    return iter(views)


def _parts(e: Expression, sizes: Mapping[str, int], stride: int, fixed: Mapping[str, int]) -> Iterator[View]:
    if isinstance(e, One):
        yield View(0, ())
    elif isinstance(e, Zero):
        yield View(0, ((ZEROS, 1, stride),))
    elif isinstance(e, Axis):
        if e.name in fixed:
            yield View(fixed[e.name] * stride, ())
        else:
            yield View(0, ((e.name, _known_size(e, sizes), stride),))
    elif isinstance(e, Product):
        yield from _product_parts(e.factors, sizes, stride, fixed)
    else:
        offset = 0
        for part in e.parts:
            for view in _parts(part, sizes, stride, fixed):
                yield View(offset + view.offset, view.axes)
            offset += _known_size(part, sizes) * stride


def _product_parts(factors: tuple[Expression, ...], sizes: Mapping[str, int], stride: int, fixed: Mapping[str, int]) -> Iterator[View]:
    if not factors:
        yield View(0, ())
        return
    inner = stride * math.prod(_known_size(f, sizes) for f in factors[1:])
    for outer in _parts(factors[0], sizes, inner, fixed):
        for rest in _product_parts(factors[1:], sizes, stride, fixed):
            yield View(outer.offset + rest.offset, outer.axes + rest.axes)


def _known_size(e: Expression, sizes: Mapping[str, int]) -> int:
    size = size_of(e, sizes)
    if size is None:
        missing = ", ".join(sorted(axis_names([e]) - sizes.keys()))
        raise MappingError("MFC307", found=f"no size for {missing}", expected="a size from the shapes or from config.json")
    return size


@dataclass(frozen=True, slots=True)
class Pairing:
    """One block of a sentence: which tensor of each side holds it (its place in the sentence), and where.

    A block of zeros has a place on one side only; the other is None, and its offsets and strides count within the block itself.
    The views say the same as the block, axis by axis and by name: nothing is merged in them, and no axis of size one is left out.
    """

    source: int | None
    target: int | None
    axes: frozenset[str]
    block: Block
    source_view: View | None
    target_view: View | None


def pair_blocks(
    source: Sequence[TensorLayout],
    target: Sequence[TensorLayout],
    sizes: Mapping[str, int],
    fixed: Mapping[str, int] | None = None,
    *,
    rest_is_zeros: bool = False,
) -> tuple[Pairing, ...]:
    """Pair the blocks of both sides by the set of their axis names.

    Args:
        sizes: the size of every axis.
        fixed: one index of an axis that is a placeholder in the other side's names, such as ``{"expert": 3}``.
        rest_is_zeros: a block without a partner holds zeros.
    Raises:
        MappingError: MFC307 when a block has no partner, two partners, or an axis name twice.
    """
    left, right = (_blocks_by_axes(side, sizes, fixed or {}) for side in (source, target))
    alone = left.keys() ^ right.keys()
    if not rest_is_zeros and (odd := sorted(" ".join(sorted(axes)) or "1" for axes in alone if ZEROS not in axes)):
        found = f"blocks on one side only: {'; '.join(odd[:3])}"
        raise MappingError("MFC307", found=found, expected="the same sets of axis names on both sides")
    pairs: list[Pairing] = []
    for axes, (place, view) in left.items():
        if ZEROS in axes or axes in alone:
            pairs.append(Pairing(place, None, axes, _block(view, _box_of(view)), view, None))
        else:
            partner, there = right[axes]
            pairs.append(Pairing(place, partner, axes, _block(view, there), view, there))
    for axes, (place, view) in right.items():
        if ZEROS in axes or axes in alone:
            pairs.append(Pairing(None, place, axes, _block(_box_of(view), view), None, view))
    return tuple(pairs)


def _block(source: View, target: View) -> Block:
    strides = {name: stride for name, _, stride in target.axes}
    return make_block(
        [size for _, size, _ in source.axes],
        source.offset,
        [stride for _, _, stride in source.axes],
        target.offset,
        [strides[name] for name, _, _ in source.axes],
    )


def _box_of(view: View) -> View:
    """The axes of a block, in C order, as a tensor of their own."""
    strides = c_strides([size for _, size, _ in view.axes])
    return View(0, tuple((name, size, stride) for (name, size, _), stride in zip(view.axes, strides, strict=True)))


def _blocks_by_axes(
    side: Sequence[TensorLayout], sizes: Mapping[str, int], fixed: Mapping[str, int]
) -> dict[frozenset[str], tuple[int, View]]:
    found: dict[frozenset[str], tuple[int, View]] = {}
    for number, tensor in enumerate(side):
        for view in _views(tensor, sizes, fixed):
            names = [name for name, _, _ in view.axes]
            axes = frozenset(names)
            if len(axes) != len(names):
                raise MappingError("MFC307", found=f"an axis twice in one block: {' '.join(names)}", expected="each once")
            if axes in found:
                raise MappingError("MFC307", found=f"two blocks with the axes {' '.join(names)}", expected="one")
            found[axes] = (number, view)
    return found
