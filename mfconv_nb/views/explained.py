"""Explain one tensor of a mapping: its role blocks as a table, one element in a sentence, a picture of its rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

from mfconv_nb.core.blocks import Shape, c_strides
from mfconv_nb.core.layout import ZEROS, View
from mfconv_nb.core.report import Column, Result, Table, how_many, shape_text
from mfconv_nb.mapping.explain import SOURCE, TARGET, Explained, Explanation, Face, RoleBlock, element_of, explain_tensor
from mfconv_nb.mapping.plan import MappingPlan
from mfconv_nb.views.drawing import ROLE_COLOURS, Cell, Drawing, DrawnBox

Shapes = Mapping[tuple[str, str], Shape]  # by side and name
MOST = 8  # a picture has so many repetitions of a pattern (heads, groups, experts), and so many boxes on each side


@dataclass(frozen=True, repr=False)
class ExplainReport(Result):
    """Where the numbers of a tensor come from or go; with ``element``, only one of them."""

    explanation: Explanation
    element: Explained | None = None

    def table(self) -> Table:
        return self._blocks() if self.element is None else self._element(self.element)

    def _blocks(self) -> Table:
        e = self.explanation
        columns = tuple(Column(title) for title in ("role", "source", "target", "axes"))
        columns += (Column("numbers", numeric=True), Column("note", optional=True))
        rows = [(b.label, b.source or "-", b.target or "-", _axes_text(b), f"{b.block.elements:,}", b.note) for b in e.blocks]
        shapes = tuple(f"{f.side} {f.shape_text}  {f.axes_text}".rstrip() for f in e.faces if f.spec.name == e.name)
        return Table("", f"{e.name}: {e.sentence}", columns, rows, shapes, f"mapped.report.drawing({e.name!r})", "blocks")

    def _element(self, found: Explained) -> Table:
        there = TARGET if found.side == SOURCE else SOURCE
        columns = (Column("side"), Column("tensor"), Column("index"))
        rows = [(found.side, found.position.name, list(found.position.index))]
        rows += [(there, p.name, list(p.index)) for p in found.others]
        return Table("", found.sentence, columns, rows, row_noun="positions")


def make_explain_report(plan: MappingPlan, name: str, index: int | Sequence[int] | None, side: str | None) -> ExplainReport:
    """Explain a tensor or, with an index, one of its elements. Raises the errors of ``explain_tensor``."""
    explanation = explain_tensor(plan, name, side)
    return ExplainReport(explanation, None if index is None else element_of(explanation, index))


def _axes_text(block: RoleBlock) -> str:
    """``6 heads × 16 q × 96 hidden``, in the order of the source."""
    view = block.source_view or block.target_view
    return " × ".join(f"{size} {name}" for name, size, _ in view.axes if name != ZEROS) if view is not None else ""


# ---- the picture -----------------------------------------------------------------------------------------------------


def drawing_of(explanation: Explanation) -> Drawing:
    """The tensors of a rule as boxes: the explained one and those that share numbers with it; about eight repetitions of a pattern."""
    shown, hidden = _shown_blocks(explanation)
    sides = {side: [f for f in explanation.faces if f.side == side] for side in (SOURCE, TARGET)}
    shapes = {(f.side, f.spec.name): f.spec.shape for f in explanation.faces}
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    more: dict[str, str] = {}
    most = max(2, MOST // max(1, len({b.index for b in shown})))
    for side, faces in sides.items():
        touched = dict.fromkeys(b.name_on(side) for b in shown)
        near = [f for name in touched for f in faces if f.spec.name == name] or faces
        kept = _with_named(near[:MOST], near, explanation.name)
        boxes[side] = tuple(_box(face, shown, hidden, most, shapes) for face in kept)
        left = len(faces) - len(kept)
        more[side] = f"… {how_many(left, 'more tensor')}" if left else ""
    title = f"{explanation.name}: {explanation.sentence}"
    return Drawing(title, boxes[SOURCE], boxes[TARGET], _note(explanation), more[SOURCE], more[TARGET])


def _with_named(kept: list[Face], faces: Sequence[Face], name: str) -> list[Face]:
    """The faces in ``kept``, with the one called ``name`` among them."""
    own = [f for f in faces if f.spec.name == name and f not in kept]
    return [*kept[: MOST - 1], *own[:1]] if own else kept


def _shown_blocks(explanation: Explanation) -> tuple[list[RoleBlock], int]:
    """The blocks to draw, and how many experts (or whatever names count) are left out. The explained one is among those drawn."""
    indices = list(dict.fromkeys(b.index for b in explanation.row_blocks))
    one = [b for b in explanation.row_blocks if b.index == indices[0]] if indices else []
    tensors = max((len({b.name_on(side) for b in one}) for side in (SOURCE, TARGET)), default=1)
    most = max(2, MOST // max(1, tensors))
    own = explanation.blocks[0].index if explanation.blocks else ()
    kept = indices[:most]
    if len(indices) > most and own not in kept:
        kept[-1] = own
    return [b for b in explanation.row_blocks if b.index in kept], len(indices) - len(kept)


def _note(explanation: Explanation) -> str:
    """A note on what bands cannot show: axes, or factors of one axis, that change places."""
    for block in explanation.blocks:
        orders = [_axis_order(block.view_on(side)) for side in (SOURCE, TARGET)]
        if block.is_zeros or orders[0] == orders[1]:
            continue
        names = [n for n, there in zip(*orders, strict=True) if n != there]
        return f"⇄ {' and '.join(names)} change places"
    return ""


def _axis_order(view: View | None) -> list[str]:
    return [] if view is None else [n for n, size, _ in view.axes if size != 1]


def _box(face: Face, blocks: Sequence[RoleBlock], hidden: int, most: int, shapes: Shapes) -> DrawnBox:
    own = [(n, b) for n, b in enumerate(blocks) if b.name_on(face.side) == face.spec.name]
    if not face.spec.elements or not own:
        whole = Cell((), "whole", (face.axes_text or "whole",), shape_text(face.spec.shape), 0, 0, 1, 1)
        return DrawnBox(face.spec.name, face.shape_text, face.axes_text, (whole,))
    places = [place for n, b in own for place in _places(n, b, face, most, shapes)]
    down, across = _drawn_axes(face.spec.shape, places)
    rows, columns = (_number_spans(p.spans[d] for p in places) if d is not None else None for d in (down, across))
    plain = len({b.role for b in blocks}) == 1 and blocks[0].role not in ROLE_COLOURS
    cells: dict[tuple[int, int], Cell] = {}
    for p in places:
        row = rows[p.spans[down]] if rows is not None and down is not None else 0
        column = columns[p.spans[across]] if columns is not None and across is not None else 0
        height = p.spans[down][1] if down is not None else 1
        width = p.spans[across][1] if across is not None else 1
        keys = (*(cells[row, column].keys if (row, column) in cells else ()), p.key)  # a cell with several sources: they are equal copies
        cells[row, column] = Cell(keys, "whole" if plain else p.block.role, _labels(p), _title(p), row, column, height, width)
    return DrawnBox(
        face.spec.name,
        face.shape_text,
        _with_arrow(face, own),
        tuple(cells[at] for at in sorted(cells)),
        _more(own, face, hidden, most, shapes),
    )


def _with_arrow(face: Face, own: Iterable[tuple[int, RoleBlock]]) -> str:
    turned = face.side == TARGET and any(not b.is_zeros and _axis_order(b.source_view) != _axis_order(b.target_view) for _, b in own)
    return f"⇄ {face.axes_text}" if turned else face.axes_text


@dataclass(frozen=True, slots=True)
class _Place:
    """One part of a block. ``values``: of the axes that are drawn apart; ``spans``: (first, count) along every axis of the tensor."""

    key: object
    block: RoleBlock
    values: tuple[tuple[str, int], ...]
    spans: tuple[tuple[int, int], ...]


def _places(number: int, block: RoleBlock, face: Face, most: int, shapes: Shapes) -> Iterator[_Place]:
    """The first parts of a block in a tensor. An axis is drawn apart on both sides if on one side something lies between its steps."""
    view, apart = block.view_on(face.side), _axes_drawn_apart(block, shapes)
    if view is None:
        return
    by_axis, starts = _named_axes_inside(view, face.spec.shape), _starts(view, face.spec.shape)
    ways = []
    for axes, start in zip(by_axis, starts, strict=True):
        last = max((n for n, a in enumerate(axes) if a[0] in apart), default=-1) + 1
        length = prod(size for _, size, _ in axes[last:])
        steps = islice(product(*(range(size) for _, size, _ in axes[:last])), most)
        names = [name for name, _, _ in axes[:last]]
        ways.append([(dict(zip(names, v, strict=True)), (start + _offset_of(v, axes), length)) for v in steps])
    seen: set[object] = set()
    for way in islice(product(*ways), most):
        values = {n: v for found, _ in way for n, v in found.items() if n in apart}
        key = (number, tuple(sorted(values.items())))
        if key not in seen:
            seen.add(key)
            yield _Place(key, block, tuple(values.items()), tuple(span for _, span in way))


def _offset_of(values: Sequence[int], axes: Sequence[tuple[str, int, int]]) -> int:
    return sum(v * step for v, (_, _, step) in zip(values, axes, strict=False))


def _named_axes_inside(view: View, shape: Shape) -> list[list[tuple[str, int, int]]]:
    """For each axis of a tensor the named axes in it (name, size, step along it), outermost first."""
    found: list[list[tuple[str, int, int]]] = []
    for n, stride in zip(shape, c_strides(shape), strict=True):
        inside = [(name, size, step // stride) for name, size, step in view.axes if size != 1 and stride <= step < stride * n]
        found.append(sorted(inside, key=lambda a: -a[2]))
    return found


def _starts(view: View, shape: Shape) -> list[int]:
    return [view.offset // stride % n for n, stride in zip(shape, c_strides(shape), strict=True)]


def _axes_drawn_apart(block: RoleBlock, shapes: Shapes) -> set[str]:
    """The named axes of a block with gaps between their steps, on the source or the target side, and all axes that enclose them."""
    found: set[str] = set()
    for side in (SOURCE, TARGET):
        view, name = block.view_on(side), block.name_on(side)
        for axes in _named_axes_inside(view, shapes[side, name]) if view is not None and name is not None else ():
            extents = [prod(size for _, size, _ in axes[n + 1 :]) for n in range(len(axes))]
            last = max((n for n, (_, _, step) in enumerate(axes) if step != extents[n]), default=-1)
            found |= {axis for axis, _, _ in axes[: last + 1]}
    return found


def _drawn_axes(shape: Shape, places: Sequence[_Place]) -> tuple[int | None, int | None]:
    """The axes of a tensor that its box shows downwards and across; None in a direction in which the box is not divided."""
    divided = [n for n, size in enumerate(shape) if any(p.spans[n] != (0, size) for p in places)]
    if not divided or divided[0] == 0 or len(divided) > 1:
        return (divided[0] if divided else None), (divided[1] if len(divided) > 1 else None)
    return None, divided[0]


def _number_spans(spans: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    return {span: n for n, span in enumerate(sorted(set(spans)))}


def _labels(place: _Place) -> tuple[str, ...]:
    """Texts for a cell, the longest first: ``q 3``, ``q``."""
    role = place.block.role
    if place.block.is_zeros:
        return (f"{role}: zeros", "zeros", "0")
    number = ".".join(str(v) for _, v in (*place.block.index, *place.values))
    return (f"{role} {number}", role) if number else (role,)


def _title(place: _Place) -> str:
    """``q, heads 3: [120:140, 0:96]``."""
    values = "".join(f", {axis} {value}" for axis, value in place.values)
    return f"{place.block.label}{values}: [{', '.join(f'{a}:{a + n}' for a, n in place.spans)}]"


def _more(own: Sequence[tuple[int, RoleBlock]], face: Face, hidden: int, most: int, shapes: Shapes) -> str:
    """``… 24 more heads``: the repetitions that are not drawn."""
    indices = {b.index for _, b in own}
    if hidden and len(indices) > 1:
        return _more_of(hidden, own[0][1].index[0][0] + "s" * (hidden != 1))
    for _, block in own:
        view, apart = block.view_on(face.side), _axes_drawn_apart(block, shapes)
        sizes = [(name, size) for name, size, _ in (view.axes if view is not None else ()) if name in apart and size != 1]
        left = prod(size for _, size in sizes) - most
        if sizes and left > 0:
            return _more_of(left, sizes[0][0] if len(sizes) == 1 else "parts" if left > 1 else "part")
    return ""


def _more_of(count: int, axis: str) -> str:
    return f"… {count:,} more {axis}"
