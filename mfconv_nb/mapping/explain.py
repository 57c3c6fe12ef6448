"""Explain where the numbers of one tensor come from, or go: its blocks by role, and any single element on the other side. Pure.

A *role* tells the blocks of a rule apart: ``q`` in ``(q + k + v) hidden``, ``gate`` in ``(gate + up)``. If a rule has one block only,
its role is the names of its axes. Prefixes such as ``group_`` in ``group_q`` are left out.
Uses the blocks that the bytes go through (``solve.placed_blocks``); reads nothing and checks nothing.

Refuses: a name that the plan does not have, an index outside the tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index as whole_number

from mfconv_nb.core.blocks import Block, Shape, c_strides, whole
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.errors import MappingError, UsageError, did_you_mean, quote
from mfconv_nb.core.layout import ZEROS, Axis, Expression, One, Product, Sum, TensorLayout, View, Zero, describe, describe_tensor, size_of
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.plan import DROPPED, LEFT_OUT, RESTORED, TIED, MappingPlan, Row
from mfconv_nb.mapping.rules import Repeated, Rule, Tied
from mfconv_nb.mapping.solve import PlacedBlock, directed_rule, placed_blocks

SOURCE, TARGET = "source", "target"
SHORT_ROLES = {"query": "q", "key": "k", "value": "v"}
KNOWN_ROLES = ("q", "k", "v", "gate", "up", "expert", "pad")
COPY, TIE = "an equal copy", "tied"


@dataclass(frozen=True, slots=True)
class RoleBlock:
    """A block of a row, with the names of its tensors and axes.

    Attributes:
        role: ``q``, ``gate``, ``pad``; the axis names where a rule has one block only.
        index: of axes that are placeholders in the names of one side: ``(("expert", 3),)``.
        source, target: tensor names; None on one side for a block of zeros.
        source_view, target_view: where it begins in each tensor, and (name, size, stride) of every axis.
        note: why there is no plain way from the source to the target: a copy that must be equal, a tied head.
    """

    role: str
    index: tuple[tuple[str, int], ...]
    source: str | None
    target: str | None
    source_view: View | None
    target_view: View | None
    block: Block
    note: str = ""

    @property
    def is_zeros(self) -> bool:
        """True for a block that holds zeros, and has no partner."""
        return self.source is None or self.target is None

    @property
    def label(self) -> str:
        """``q``, ``expert 3 gate``, ``pad: zeros``."""
        index = " ".join(f"{axis} {value}" for axis, value in self.index)
        role = self.role if self.role != next((axis for axis, _ in self.index), None) else ""
        return " ".join(t for t in (index, role) if t) + (": zeros" if self.is_zeros else "")

    def name_on(self, side: str) -> str | None:
        """The tensor of one side that holds the block."""
        return self.source if side == SOURCE else self.target

    def view_on(self, side: str) -> View | None:
        """Where it lies in that tensor."""
        return self.source_view if side == SOURCE else self.target_view


@dataclass(frozen=True, slots=True)
class ShownTensor:
    """A tensor of a row as a reader sees it: its name and shape, and the expression that its rule writes for it."""

    side: str
    spec: TensorSpec
    layout: TensorLayout | None
    sizes: Mapping[str, int]

    @property
    def shape_text(self) -> str:
        """``(6 · 20) × 96``: every axis of the sentence with its size."""
        if self.layout is None or len(self.layout) != len(self.spec.shape):
            return " × ".join(map(str, self.spec.shape)) or "()"
        texts = (_size_text(e, self.sizes) or str(n) for e, n in zip(self.layout, self.spec.shape, strict=True))
        return " × ".join(texts) or "()"

    @property
    def axes_text(self) -> str:
        """``(heads q) hidden``; empty where the rule has no sentence."""
        return "" if not self.layout else describe_tensor(self.layout)


@dataclass(frozen=True, slots=True)
class Explanation:
    """One tensor of a plan: the rows it belongs to, its role blocks, and a sentence.

    Attributes:
        side: "source" or "target": where the name was found.
        blocks: those that this tensor takes part in.
        row_blocks: all blocks of its rows, and ``faces`` all tensors: what a drawing shows.
    """

    name: str
    side: str
    spec: TensorSpec
    rows: tuple[Row, ...]
    blocks: tuple[RoleBlock, ...]
    row_blocks: tuple[RoleBlock, ...]
    faces: tuple[ShownTensor, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Position:
    """One element of one tensor."""

    name: str
    index: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """One element: where it is on the other side (``others``: none for zeros, several for copies), and which block it is in."""

    position: Position
    side: str
    role: str
    axes: tuple[tuple[str, int], ...]
    others: tuple[Position, ...]
    sentence: str


# ---- one tensor ------------------------------------------------------------------------------------------------------


def explain_tensor(plan: MappingPlan, name: str, side: str | None = None) -> Explanation:
    """The rows and role blocks of a source or a target tensor.

    Args:
        side: "source" or "target". Left out: the target where both sides have the name.
    Raises:
        MappingError: MFC309 for a name that neither side has. UsageError: MFC501 for another side.
    """
    if side not in (None, SOURCE, TARGET):
        hint = "Leave it out where only one side has the name."
        raise UsageError("MFC501", "side", found=quote(str(side)), expected="'source' or 'target'", hint=hint)
    for here in (TARGET, SOURCE) if side is None else (side,):
        rows = tuple(row for row in plan.rows if any(s.name == name for s in _specs_of(row, here)))
        if rows:
            return _explanation(plan, name, here, rows)
    sides = (TARGET, SOURCE) if side is None else (side,)
    known = (s.name for row in plan.rows for here in sides for s in _specs_of(row, here))
    raise MappingError("MFC309", quote(name), found="no such name", expected="a tensor of either side", hint=did_you_mean(name, known))


def _specs_of(row: Row, side: str) -> tuple[TensorSpec, ...]:
    return row.sources if side == SOURCE else row.targets


def _explanation(plan: MappingPlan, name: str, side: str, rows: tuple[Row, ...]) -> Explanation:
    spec = next(s for s in _specs_of(rows[0], side) if s.name == name)
    blocks: list[RoleBlock] = []
    faces: dict[tuple[str, str], ShownTensor] = {}
    for row in rows:
        found, more = _read_row(plan, row)
        blocks += found
        faces |= {(f.side, f.spec.name): f for f in more}
    own = tuple(b for b in blocks if b.name_on(side) == name)
    return Explanation(name, side, spec, rows, own, tuple(blocks), tuple(faces.values()), _sentence(name, side, rows, own))


def _read_row(plan: MappingPlan, row: Row) -> tuple[list[RoleBlock], list[ShownTensor]]:
    """The blocks and the tensors of a row."""
    if isinstance(row.rule, Rule) and row.parts:
        return _read_blocks(plan, row)
    layouts = directed_rule(row.rule, plan.to).layouts
    layout = layouts[0][0] if layouts is not None and layouts[0] else None
    targets = row.targets or _tied_targets(plan, row)
    faces = [ShownTensor(side, s, layout, row.sizes) for side, specs in ((SOURCE, row.sources), (TARGET, targets)) for s in specs]
    role = " ".join(n for n, _, _ in _whole_view(layout, faces[0].spec.shape, row.sizes).axes) or "scalar"
    blocks = []
    for source in row.sources:
        for target in targets:
            view = _whole_view(layout, source.shape, row.sizes)
            note = COPY if source.name in row.copies else TIE if not row.targets else ""
            blocks.append(RoleBlock(role, (), source.name, target.name, view, view, whole(source.elements), note))
    return blocks, faces


def _tied_targets(plan: MappingPlan, row: Row) -> tuple[TensorSpec, ...]:
    """The tensor that a tied head has its numbers from: the one that it is tied to."""
    if row.status != TIED or not isinstance(row.rule, Tied):
        return ()
    found = (t for other in plan.rows for t in other.targets if t.name == row.rule.same_as)
    return tuple(t for t in found if t.shape == row.sources[0].shape)[:1]


def _read_blocks(plan: MappingPlan, row: Row) -> tuple[list[RoleBlock], list[ShownTensor]]:
    directed = directed_rule(row.rule, plan.to)
    assert directed.layouts is not None
    placed = list(placed_blocks(directed, row.sizes))
    common = frozenset.intersection(*(p.pairing.axes for p in placed))
    blocks = [_role_block(row, p, common, is_only=len({q.pairing.axes for q in placed}) == 1) for p in placed]
    sources = {p.source: directed.layouts[0][p.pairing.source] for p in placed if p.source is not None and p.pairing.source is not None}
    targets = {p.target: directed.layouts[1][p.pairing.target] for p in placed if p.target is not None and p.pairing.target is not None}
    faces = [ShownTensor(SOURCE, row.sources[n], sources[n], row.sizes) for n in sorted(sources)]
    return blocks, faces + [ShownTensor(TARGET, row.targets[n], targets[n], row.sizes) for n in sorted(targets)]


def _role_block(row: Row, placed: PlacedBlock, common: frozenset[str], *, is_only: bool) -> RoleBlock:
    pair = placed.pairing
    view = pair.source_view or pair.target_view
    assert view is not None
    names = [n for n, _, _ in view.axes if n != ZEROS]
    own = [n for n in names if n not in common or is_only] or names
    index = tuple(placed.fixed.items())
    role = index[0][0] if is_only and index else role_of(own)
    source = None if placed.source is None else row.sources[placed.source].name
    target = None if placed.target is None else row.targets[placed.target].name
    return RoleBlock(role, index, source, target, pair.source_view, pair.target_view, pair.block)


def role_of(axes: Sequence[str]) -> str:
    """The word for the axes that only one block of a rule has: ``q`` for ``heads group_q``, ``pair half`` for those two."""
    for axis in axes:
        word = axis.rpartition("_")[2]
        if SHORT_ROLES.get(axis, word) in KNOWN_ROLES:
            return SHORT_ROLES.get(axis, word)
    return " ".join(axes) or "scalar"


def _whole_view(layout: TensorLayout | None, shape: Shape, sizes: Mapping[str, int]) -> View:
    """A whole tensor as one block: the factors of an axis by name where all are known, a sum as one axis."""
    axes: list[tuple[str, int, int]] = []
    written: Sequence[Expression] = layout if layout is not None and len(layout) == len(shape) else ()
    expressions = written or [Axis(f"axis_{n}") for n in range(len(shape))]
    for e, size, stride in zip(expressions, shape, c_strides(shape), strict=True):
        factors = e.factors if isinstance(e, Product) else (e,)
        known = [f.name for f in factors if isinstance(f, Axis) and f.name in sizes]
        if len(known) == len(factors) > 1:
            counts = [sizes[n] for n in known]
            axes += [(n, c, s * stride) for n, c, s in zip(known, counts, c_strides(counts), strict=True)]
        elif not isinstance(e, One):
            axes.append((describe(e), size, stride))
    if len({n for n, _, _ in axes}) < len(axes):
        return _whole_view(None, shape, {})  # an axis twice: named by place
    return View(0, tuple(axes))


def _size_text(e: Expression, sizes: Mapping[str, int]) -> str | None:
    if isinstance(e, Product | Sum):
        inner = e.factors if isinstance(e, Product) else e.parts
        inner = tuple(x for x in inner if not isinstance(x, Zero)) or inner  # the mark of zeros, not a size
        texts = [_size_text(x, sizes) for x in inner]
        if any(t is None for t in texts):
            return None
        joint = " · " if isinstance(e, Product) else " + "
        bare = (
            t.strip("()") if isinstance(e, Sum) and isinstance(x, Product) and not _has_sum(x) else t
            for x, t in zip(inner, texts, strict=True)
            if t is not None
        )
        return f"({joint.join(bare)})" if len(inner) > 1 else texts[0]
    size = size_of(e, sizes)
    return None if size is None else str(size)


def _has_sum(e: Product) -> bool:
    return any(isinstance(f, Sum) for f in e.factors)


def _sentence(name: str, side: str, rows: tuple[Row, ...], blocks: Sequence[RoleBlock]) -> str:
    row = rows[0]
    if row.status == DROPPED:
        return f"not carried across, kept beside the checkpoint: {row.why}"
    if row.status == LEFT_OUT:
        return f"left out: {row.why}"
    if row.status == RESTORED:
        return f"not made of any source tensor: {row.why}"
    if row.status == TIED:
        return row.why if row.targets else f"not written, {row.why}: its numbers must be equal to those"
    if isinstance(row.rule, Repeated):
        kept = "one tensor on the other side" if len(row.sources) > 1 or name in row.copies else "equal copies of one tensor"
        return f"{kept}: {how_many(len(row.sources), 'source')}, {how_many(len(row.targets), 'target')}"
    if not row.parts and not row.zeros:
        return "a plain rename: every number keeps its place"
    others = {b.name_on(TARGET if side == SOURCE else SOURCE) for b in blocks} - {None}
    zeros = sum(b.is_zeros for b in blocks)
    if zeros and not others:
        return f"zeros: no {TARGET if side == SOURCE else SOURCE}"
    way = "into" if side == SOURCE else "from"
    told = f"{how_many(len(blocks) - zeros, 'block')} {way} {how_many(len(others), 'tensor')}"
    return told + (f", {zeros} of zeros" if zeros else "")


# ---- one element -----------------------------------------------------------------------------------------------------


def explain_element(plan: MappingPlan, name: str, index: int | Sequence[int], side: str | None = None) -> Explained:
    """Where one element of a tensor is on the other side.

    Args:
        index: one number an axis, counted from 0; negative ones count from the end.
        side: as in ``explain_tensor``.
    Raises:
        MappingError: MFC309 for an unknown name. UsageError: MFC501 for an index that the shape does not have.
    """
    explanation = explain_tensor(plan, name, side)
    return element_of(explanation, index)


def element_of(explanation: Explanation, index: int | Sequence[int]) -> Explained:
    """As ``explain_element``, for a tensor that has an explanation already."""
    spec, side = explanation.spec, explanation.side
    place = _read_index(index, spec)
    flat = sum(i * s for i, s in zip(place, c_strides(spec.shape), strict=True))
    there = TARGET if side == SOURCE else SOURCE
    shapes = {f.spec.name: f.spec.shape for f in explanation.faces if f.side == there}
    hits = [(block, values) for block in explanation.blocks if (values := _values_at(block.view_on(side), flat)) is not None]
    others, notes = [], []
    for block, values in hits:
        far, partner = block.view_on(there), block.name_on(there)
        if far is not None and partner is not None:
            others.append(Position(partner, _index_at(_flat_of(far, values), shapes[partner])))
            notes.append(block.note)
    here = Position(spec.name, place)
    if not hits:
        return Explained(here, side, "", (), (), f"{_element(here)}: {explanation.sentence}")
    block, values = hits[0]
    sized = {n for n, size, _ in _axes(block, side) if size != 1 and n != ZEROS}
    axes = (*block.index, *((n, v) for n, v in values.items() if n in sized))
    said = f" ({', '.join(_describe_place(block, side, axes, spec.shape))})" if axes else ""
    if not others:
        return Explained(here, side, block.role, axes, (), f"{_element(here)} is zero: no {there}{said}")
    joined = " and ".join(_element(p) + (f" ({note})" if note else "") for p, note in zip(others, notes, strict=True))
    return Explained(here, side, block.role, axes, tuple(others), f"{_element(here)} is {joined}{said}")


def _read_index(index: int | Sequence[int], spec: TensorSpec) -> tuple[int, ...]:
    try:
        given = tuple(whole_number(i) for i in (index if isinstance(index, Iterable) else (index,)))
    except TypeError:
        given = None
    if given is None or len(given) != len(spec.shape) or any(not -n <= i < n for i, n in zip(given, spec.shape, strict=True)):
        expected = f"{len(spec.shape)} whole numbers inside the shape {spec.shape}"
        hint = f"Such as {(0,) * len(spec.shape)}; numbers below 0 count from the end."
        raise UsageError("MFC501", f"index of {quote(spec.name)}", found=str(index), expected=expected, hint=hint)
    return tuple(i + n if i < 0 else i for i, n in zip(given, spec.shape, strict=True))


def _axes(block: RoleBlock, side: str) -> tuple[tuple[str, int, int], ...]:
    """The axes of a block on one side: name, size, stride."""
    view = block.view_on(side)
    return () if view is None else view.axes


def _values_at(view: View | None, flat: int) -> dict[str, int] | None:
    """The value of every axis at a place in a tensor, or None where the block does not hold it.

    Strides of a tensor nest: each is at least what all smaller axes span, so that the greatest quotient is the only one that fits.
    """
    if view is None or flat < view.offset:
        return None
    rest, values = flat - view.offset, {name: 0 for name, _, _ in view.axes}
    for name, size, stride in sorted((a for a in view.axes if a[1] != 1), key=lambda a: -a[2]):
        values[name], rest = divmod(rest, stride)
        if values[name] >= size:
            return None
    return values if rest == 0 else None


def _flat_of(view: View, values: Mapping[str, int]) -> int:
    return view.offset + sum(values[name] * stride for name, _, stride in view.axes)


def _index_at(flat: int, shape: Shape) -> tuple[int, ...]:
    place = []
    for stride, size in zip(c_strides(shape), shape, strict=True):
        place.append(flat // stride % size)
    return tuple(place)


def _element(position: Position) -> str:
    return f"element [{', '.join(map(str, position.index))}] of {quote(position.name)}"


def _describe_place(block: RoleBlock, side: str, axes: Iterable[tuple[str, int]], shape: Shape) -> Iterator[str]:
    """``head 3``, ``row 17 of q``, ``hidden 5``."""
    strides = {name: stride for name, _, stride in _axes(block, side)}
    names = {*strides, *(axis for axis, _ in block.index)}
    outer = c_strides(shape)[0] if shape else 1
    if block.role in KNOWN_ROLES and not any(role_of([axis]) == block.role for axis, _ in axes):
        yield block.role  # one row of it, say: no number tells more
    for axis, value in axes:
        if axis in strides and role_of([axis]) == block.role and axis not in block.role.split()[1:]:
            yield f"{'row' if strides[axis] >= outer else 'column'} {value} of {block.role}"
        else:
            one = axis[:-1]
            yield f"{one if axis.endswith('s') and one not in names and not axis.endswith('ss') else axis} {value}"
