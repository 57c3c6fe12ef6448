"""The lazy tensors of a mapped checkpoint: each is made of pieces of the sources, and what must be equal for a mapping to lose nothing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from mfconv_nb.core.blocks import Block, compose, source_range, target_range, whole
from mfconv_nb.core.checkpoint import MF, SIDE_NAMES, Checkpoint, Equality, LazyTensor, Piece, TensorSpec
from mfconv_nb.core.dtypes import itemsize, numpy_dtype, short_name
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import ArraySource, zeros_source
from mfconv_nb.mapping.kinds import kind_of
from mfconv_nb.mapping.plan import DROPPED, LEFT_OUT, TIED, Row
from mfconv_nb.mapping.rules import COUNTING, ONES, ZEROS, Tied
from mfconv_nb.streaming.gather import made_whole

HINT_TIED = 'Give a config with "tie_word_embeddings": false to keep both (and remove the manifest beside it).'
HINT_COPIES = "One of the files may be damaged or of another checkpoint; the target has no place for two of them."
HINT_CONSTANT = "The experts of this layer were moved, or this is another model: Hugging Face's side has no place for it."
HINT_NARROW = "Remove the manifest beside it, and the dtype stays as it is."
HINT_ZEROS = "It was trained, or this is another model: the {side} side has no place for it."


class TensorMaker:
    """Makes target tensors from rows; a source that cannot be seen through is made whole once, when it is read."""

    def __init__(self, source: Checkpoint) -> None:
        self.source = source
        self.made: dict[str, LazyTensor] = {}
        self._pieces: dict[str, _Pieces] = {}

    def target(self, row: Row, number: int) -> LazyTensor:
        spec = row.targets[number]
        if not row.parts:
            return LazyTensor(spec, self.source.tensors[row.sources[number].name].pieces)
        parts = [self.source.tensors[part.source] for part in row.parts[number] if part.source is not None]
        if any(not t.pieces and t.spec.elements for t in parts):
            return LazyTensor(spec, ())  # a name and a shape only, as torch's meta device gives
        pieces: list[Piece] = []
        for part in row.parts[number]:
            if part.source is None:
                dtype = row.sources[0].dtype
                pieces.append(Piece(zeros_source(part.block.elements * itemsize(dtype)), 0, dtype, part.block))
            else:
                pieces += self.pieces_of_block(part.source, part.block)
        return LazyTensor(spec, tuple(pieces))

    def pieces_of_block(self, name: str, block: Block) -> list[Piece]:
        """The pieces of a block of a source tensor."""
        tensor = self.made.get(name) or self.source.tensors[name]
        found: list[Piece] = []
        for piece in self._pieces_around(name, tensor, block):
            is_same = piece.dtype == tensor.dtype or getattr(piece.source, "rounds_when_read", False)
            blocks = compose(block, piece.block) if is_same else None
            if blocks is None:
                self.made[name] = made_whole(tensor)
                return self.pieces_of_block(name, block)
            found += [Piece(piece.source, piece.start, piece.dtype, b) for b in blocks]
        return found

    def _pieces_around(self, name: str, tensor: LazyTensor, block: Block) -> Iterable[Piece]:
        if len(tensor.pieces) == 1:  # stored or made whole: nothing to choose from
            return tensor.pieces
        if name not in self._pieces:
            self._pieces[name] = _Pieces(tensor)
        return self._pieces[name].find_meeting(block)


class _Pieces:
    """The pieces of a tensor by where they lie in it: a stack of experts has hundreds, and a block of it meets one."""

    def __init__(self, tensor: LazyTensor) -> None:
        ranges = [target_range(piece.block) for piece in tensor.pieces]
        order = sorted(range(len(ranges)), key=ranges.__getitem__)
        self._pieces, self._order = tensor.pieces, order
        self._starts = [ranges[n][0] for n in order]
        self._stops = list(accumulate((ranges[n][1] for n in order), max))  # pieces may interlace: of all so far the last one

    def find_meeting(self, block: Block) -> Iterator[Piece]:
        """The pieces that may hold numbers of a block which reads the tensor, in their own order."""
        start, stop = source_range(block)
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        return (self._pieces[n] for n in sorted(self._order[first:last]))


def equal_when_narrow(row: Row, source: Checkpoint, tensors: Mapping[str, LazyTensor]) -> list[Equality]:
    """Where a manifest remembers a narrower dtype: its numbers must be those that are there, as they were before they were widened."""
    found = []
    for spec in row.targets if getattr(row.rule, "dtype", None) else ():
        tensor = tensors[spec.name]
        stored = tensor.pieces[0].dtype if tensor.pieces else spec.dtype
        if itemsize(spec.dtype) < itemsize(stored) or {spec.dtype, stored} == {"F16", "BF16"}:
            wide = LazyTensor(TensorSpec(spec.name, spec.shape, stored), tensor.pieces)
            why = f"its dtype was {short_name(spec.dtype)} before, as the manifest beside {source.origin} says"
            found.append(Equality(made_whole(tensor), wide, why, HINT_NARROW))
    return found


def equalities_of(row: Row, source: Checkpoint, tensors: Mapping[str, LazyTensor], to: str) -> list[Equality]:
    """What must be equal, or zero, for a row to lose nothing."""
    found = []
    hint_zeros = HINT_ZEROS.format(side=SIDE_NAMES[to])
    if row.status == TIED and not row.targets and isinstance(row.rule, Tied):
        head, embedding = source.tensors[row.sources[0].name], tensors.get(row.rule.same_as)
        if embedding is not None:
            found.append(Equality(head, embedding, f"{row.rule.hf} is tied to {row.rule.same_as}", HINT_TIED))
    if row.copies:
        first = source.tensors[row.sources[0].name]
        why = f"{SIDE_NAMES[MF]} keeps one of {len(row.sources)} copies"
        found += [Equality(source.tensors[name], first, why, HINT_COPIES) for name in row.copies]
    for part in row.zeros:
        tensor = source.tensors[str(part.source)]
        spec = TensorSpec(tensor.name, (part.block.elements,), tensor.dtype)
        pieces = TensorMaker(source).pieces_of_block(tensor.name, part.block)
        zeros = Piece(zeros_source(spec.nbytes), 0, spec.dtype, whole(spec.elements))
        why = f"{how_many(part.block.elements, 'number')} of it must be zeros: the {SIDE_NAMES[to]} side has no place for them"
        found.append(Equality(LazyTensor(spec, tuple(pieces)), LazyTensor(spec, (zeros,)), why, hint_zeros))
    for spec in row.sources if row.status in (LEFT_OUT, DROPPED) else ():
        numbers = kind_of(spec.name).numbers if row.status == LEFT_OUT else getattr(row.rule, "holds", "")
        if numbers:
            why, hint = f"it is left out, and only {numbers} may be", hint_zeros if numbers == ZEROS else HINT_CONSTANT
            found.append(Equality(source.tensors[spec.name], _constant(spec, numbers), why, hint))
    return found


def held_numbers(held: str, elements: int) -> np.ndarray[Any, Any]:
    """What a constant must hold for a model without it to be the same: ``held`` is ``ZEROS``, ``ONES`` or ``COUNTING``."""
    return np.arange(elements) if held == COUNTING else np.full(elements, float(held == ONES))


def _constant(spec: TensorSpec, held: str) -> LazyTensor:
    data = np.frombuffer(held_numbers(held, spec.elements).astype(numpy_dtype(spec.dtype)).tobytes(), np.uint8)
    return LazyTensor(spec, (Piece(ArraySource(data, held), 0, spec.dtype, whole(spec.elements)),))
