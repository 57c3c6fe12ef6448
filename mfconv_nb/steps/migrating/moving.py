"""Move optimizer state by the rules of the weights. Lazy: no number is read.

The state of a kind (all of `adam_m.`) holds a number for each number of the weights, so it goes where they go: MindFormers to Hugging Face
by one plan, on to MindFormers by the other. What is not so, or would not arrive whole and once, is refused (MFC320).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from mfconv_nb.core.blocks import whole
from mfconv_nb.core.checkpoint import LazyTensor, Piece, TensorSpec, checkpoint_of, sources_of
from mfconv_nb.core.dtypes import itemsize
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.report import how_many, shape_text
from mfconv_nb.mapping.plan import RESTORED, Row
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker

# of a weight AdamW, PMA and Muon hold both, or none; so does FusedAdamW
TWO_MOMENTS = (("adam_m.", "adam_v."), ("exp_avg.", "exp_avg_sq."))
FACTORED = "exp_avg_sq_"  # Came's second moment, in rows and columns


@dataclass(frozen=True)
class State:
    """A tensor that an optimizer holds for a weight.

    Attributes:
        prefix: what stands before the name of the weight: `adam_m.`.
        is_known: whether the optimizer is in the table, so that it holds a number for each number of the weight where shapes are equal.
    """

    prefix: str
    weight: str
    tensor: LazyTensor
    is_known: bool


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a target weight come from.

    Attributes:
        sources: names of weights.
        elements: of each source how many numbers; of one that is made whole on the way all of them.
        total: how many numbers the target has.
        in_order: whether it is one source as a whole, its numbers one after the other as they were, whatever it is called now.
        keeps_shape: whether its shape is that of this source.
    """

    sources: tuple[str, ...]
    elements: Mapping[str, int]
    total: int
    in_order: bool
    keeps_shape: bool

    @property
    def keeps_places(self) -> bool:
        """Whether every number keeps its place."""
        return self.in_order and self.keeps_shape

    def taken_from(self, spec: TensorSpec, tensors: Mapping[str, LazyTensor]) -> LazyTensor:
        """The tensor of an origin in order: the bytes of its source, which are read as they lie."""
        return LazyTensor(spec, tensors[self.sources[0]].pieces)


class _Stand:
    """Bytes that stand for a tensor while its way is looked for; nobody reads them."""

    def __init__(self, label: str, size: int) -> None:
        self.label, self.size = label, size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError(f"{self.label} has no bytes")

    def view(self) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        return None

    def check_unchanged(self) -> None:
        """Nothing changes."""

    def identity(self) -> None:
        """Nothing proves it the same."""


def _stand_for(spec: TensorSpec, dtype: str) -> LazyTensor:
    source = _Stand(spec.name, spec.elements * itemsize(dtype))
    return LazyTensor(replace(spec, dtype=dtype), (Piece(source, 0, dtype, whole(spec.elements)),))


@dataclass(frozen=True)
class Trip:
    """The two mappings of a migration: to Hugging Face, and on to the other form of MindFormers."""

    there: MappedCheckpoint
    back: MappedCheckpoint

    def move(self, tensors: Mapping[str, LazyTensor], names: Collection[str] | None = None) -> dict[str, LazyTensor]:
        """Tensors under the names and in the shapes of the weights, as those of the target. Each keeps its own dtype.

        Args:
            names: of the target, those that are wanted; left out: all.
        """
        last = [row for row in self.back.report.plan.rows if names is None or any(spec.name in names for spec in row.targets)]
        twins = self.back.history.twins
        wanted = {twins.get(spec.name, spec.name) for row in last for spec in row.sources} | {s.name for row in last for s in row.sources}
        middle = _moved_by([row for row in self.there.report.plan.rows if any(s.name in wanted for s in row.targets)], tensors)
        middle |= {name: middle[twin].renamed(name) for name, twin in twins.items() if name not in middle and twin in middle}
        return _moved_by(last, middle)

    def weights(self) -> tuple[TensorSpec, ...]:
        """The weights of the source that go somewhere."""
        return tuple(spec for row in self.there.report.plan.rows if row.targets for spec in row.sources)

    def origins(self) -> dict[str, Origin]:
        """Of every target weight where its numbers come from, but for those that a manifest carried."""
        specs = {spec.name: spec for spec in self.weights()}
        moved = self.move({name: _stand_for(spec, "U8") for name, spec in specs.items()})
        return {name: _origin_of(tensor, specs) for name, tensor in moved.items()}


def _moved_by(rows: Sequence[Row], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    maker, moved = TensorMaker(checkpoint_of(tensors)), dict[str, LazyTensor]()
    for row in rows:
        if row.status == RESTORED or not row.sources:
            continue
        for number, spec in enumerate(row.targets):
            dtype = tensors[row.sources[0].name].dtype
            moved[spec.name] = LazyTensor(replace(spec, dtype=dtype), maker.target(row, number).pieces)
    return moved


def _origin_of(tensor: LazyTensor, specs: Mapping[str, TensorSpec]) -> Origin:
    sources = tuple(dict.fromkeys(s.label for s in sources_of((tensor,)) if isinstance(s, _Stand)))
    elements = dict.fromkeys(sources, 0)
    for piece in tensor.pieces:
        if isinstance(piece.source, _Stand):
            elements[piece.source.label] += piece.block.elements
    if any(hasattr(p.source, "made_of") for p in tensor.pieces):  # made whole on the way: what it is made of is all that can be told
        return Origin(sources, {s: specs[s].elements for s in sources}, tensor.spec.elements, False, False)
    blocks = [p.block for p in tensor.pieces]
    in_place = all((b.source_offset, b.source_strides) == (b.target_offset, b.target_strides) for b in blocks)
    is_one = len(sources) == 1 and elements[sources[0]] == specs[sources[0]].elements == tensor.spec.elements
    return Origin(sources, elements, tensor.spec.elements, in_place and is_one, is_one and specs[sources[0]].shape == tensor.shape)


def move_states(trip: Trip, origins: Mapping[str, Origin], states: Sequence[State]) -> dict[str, LazyTensor]:
    """The state of the target, by name.

    Raises:
        MappingError: MFC320 for state that the rules cannot move exactly.
    """
    weights = {spec.name: spec for spec in trip.weights()}
    for state in states:
        if state.weight not in weights:
            lost = f"{quote(state.weight)} does not go into the other form: it is not there, or a copy of another"
            _refuse(state, lost, "a weight that goes there by itself")
    _check_pairs(states)
    moved: dict[str, LazyTensor] = {}
    for prefix in dict.fromkeys(s.prefix for s in states):
        own = {s.weight: s for s in states if s.prefix == prefix}
        by_number = {w: s for w, s in own.items() if s.is_known and s.tensor.shape == weights[w].shape}
        kept = {w: s for w, s in own.items() if w not in by_number}
        found = {**_moved_by_number(trip, origins, weights, by_number), **_kept_as_they_are(origins, weights, kept)}
        moved |= {prefix + name: tensor.renamed(prefix + name) for name, tensor in found.items()}
    return moved


def _check_pairs(states: Sequence[State]) -> None:
    """Raises MappingError (MFC320) for a weight with one of its two moments: a run that goes on would begin the other with zeros."""
    factored = {s.weight for s in states if s.prefix.startswith(FACTORED)}
    for pair in TWO_MOMENTS:
        having = {prefix: {s.weight for s in states if s.prefix == prefix} | factored for prefix in pair}
        for state in states:
            if state.prefix in pair and (lacking := [prefix for prefix in pair if state.weight not in having[prefix]]):
                _refuse(state, f"there is no {quote(lacking[0] + state.weight)}", "both moments of a weight, or none")


def _moved_by_number(
    trip: Trip, origins: Mapping[str, Origin], weights: Mapping[str, TensorSpec], states: Mapping[str, State]
) -> dict[str, LazyTensor]:
    """State of one kind that has a number for each number of its weight: it goes where they go."""
    if not states:
        return {}
    _check_all_arrives(origins, weights, states)
    given = {w: state.tensor for w, state in states.items()}
    dtype = next(iter(given.values())).dtype
    wanted = {name: origin for name, origin in origins.items() if any(w in states for w in origin.sources)}
    others = {name for name, origin in wanted.items() if not origin.in_order}
    tensors = {w: given[w].renamed(w) if w in given else _stand_for(spec, dtype) for w, spec in weights.items()} if others else {}
    moved = trip.move(tensors, others) if others else {}
    shapes = {name: trip.back[name].shape for name in wanted}
    in_order = {
        name: origin.taken_from(TensorSpec(name, shapes[name], given[origin.sources[0]].dtype), given)
        for name, origin in wanted.items()
        if origin.in_order
    }
    return {name: in_order[name] if name in in_order else moved[name] for name in wanted}


def _check_all_arrives(origins: Mapping[str, Origin], weights: Mapping[str, TensorSpec], states: Mapping[str, State]) -> None:
    arrived = dict.fromkeys(states, 0)
    for name, origin in origins.items():
        having = [w for w in origin.sources if w in states]
        lacking = [w for w in origin.sources if w not in states]
        if having and lacking:
            found = f"{quote(name)} is made of {how_many(len(origin.sources), 'weight')}; {quote(lacking[0])} has no such state"
            _refuse(states[having[0]], found, "one for each of them, or for none")
        if len(dtypes := sorted({states[w].tensor.dtype for w in having})) > 1:
            _refuse(states[having[0]], f"{quote(name)} would be made of {' and '.join(dtypes)}", "one dtype")
        if having and origin.total != sum(origin.elements.values()):
            found = f"{quote(name)} has {origin.total:,} numbers, of which {sum(origin.elements.values()):,} come from weights"
            _refuse(states[having[0]], found, "all of them: what a rule fills in has no state")
        for w in having:
            arrived[w] += origin.elements[w]
    for w, state in states.items():
        if arrived[w] != weights[w].elements:
            found = f"of {weights[w].elements:,} numbers of its weight {arrived[w]:,} go into the other form"
            _refuse(state, found, "each once: a tensor that is dropped, tied or copied has no state to give")


def _kept_as_they_are(
    origins: Mapping[str, Origin], weights: Mapping[str, TensorSpec], states: Mapping[str, State]
) -> dict[str, LazyTensor]:
    """State of another shape than its weight, or of an optimizer that nobody knows: kept where the weight keeps every number in place."""
    places = {origin.sources[0]: name for name, origin in origins.items() if origin.keeps_places}
    times: dict[str, int] = {}
    for origin in origins.values():
        for w in origin.sources:
            times[w] = times.get(w, 0) + 1
    for w, state in states.items():
        if w not in places or times[w] > 1:
            shape, of = shape_text(state.tensor.shape), shape_text(weights[w].shape)
            what = f"a tensor of {shape}" if state.is_known else "state of an optimizer that is not known"
            expected = "a number for each number of the weight, since these get other places in the other form"
            _refuse(state, f"{what}, for a weight of {of}", expected)
    return {places[w]: state.tensor for w, state in states.items()}


def _refuse(state: State, found: str, expected: str) -> NoReturn:
    raise MappingError("MFC320", quote(state.tensor.name), found=found, expected=expected)
