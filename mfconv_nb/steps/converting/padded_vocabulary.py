"""Rows of a vocabulary that were added so that it divides among devices, cut off on request. Only rows that nothing used are.

Which tensors: those whose layout has the axis `vocab` by itself, in front, and more rows than the config's vocabulary. The rows behind it
count as unused where each is the same as the next: rows that start alike stay alike, as no text has their tokens, while a token that was
trained differs. A single row has no next one: it must be zeros. A save compares them before it writes anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mfconv_nb.core.blocks import Block, whole
from mfconv_nb.core.checkpoint import Checkpoint, Equality, LazyTensor, Piece, TensorSpec
from mfconv_nb.core.errors import UsageError
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import Sizes
from mfconv_nb.core.sources import zeros_source
from mfconv_nb.mapping.making_rows import VOCABULARY
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import Drop, Family, layouts_of, sides_of
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker

HINT_TRAINED = "They may be tokens that were added and trained: give a config.json with the vocab_size that they are part of."


def with_cut_vocabulary(source: Checkpoint, form: Family, sizes: Sizes | None, to: str) -> Checkpoint:
    """The checkpoint with as many rows as the vocabulary of the config has, in every tensor that has more of them.

    Its history says which were cut, and what must be equal for the rows to be unused.
    """
    names = {name: source[name].shape for name in _padded_names(source, form, sizes, to)}
    if not names or sizes is None:
        return source
    rows, maker = sizes[VOCABULARY.name].value, TensorMaker(source)
    tensors, equalities = dict(source.tensors), list(source.history.equalities)
    for name, (found, *others) in names.items():
        width = source[name].spec.elements // found
        tensors[name] = LazyTensor(replace(source[name].spec, shape=(rows, *others)), tuple(_rows(maker, name, 0, rows * width)))
        equalities.append(_equality_of_rows(maker, source[name], rows, width))
    return replace(source, tensors=tensors, history=replace(source.history, equalities=tuple(equalities), cut=names))


def notes_on_cut(completed: Checkpoint) -> list[str]:
    """A note on what was cut."""
    cut = completed.history.cut
    return [f"cut: {name} from {shape[0]:,} to {completed[name].shape[0]:,} rows, if the others are unused" for name, shape in cut.items()]


def check_can_cut(form: Family, sizes: Sizes | None) -> None:
    """Raises UsageError (MFC501) where nothing says how many rows the vocabulary has."""
    if sizes is None or VOCABULARY.name not in sizes:
        hint = "Give the config.json with --config (config= in Python), or leave --cut_vocabulary out."
        raise UsageError("MFC501", "cut_vocabulary", found=f"no size of the vocabulary for {form.key}", expected="a config", hint=hint)


def _padded_names(source: Checkpoint, form: Family, sizes: Sizes | None, to: str) -> Iterator[str]:
    check_can_cut(form, sizes)
    assert sizes is not None
    rows, by_template = sizes[VOCABULARY.name].value, _patterns_of_vocabulary(form, to)
    for tensor in source:
        template, numbers = fold(tensor.name)
        is_one = any(pattern.match(numbers) is not None for pattern in by_template.get(template, ()))
        if is_one and tensor.shape and tensor.shape[0] > rows > 0:
            yield tensor.name


def _patterns_of_vocabulary(form: Family, to: str) -> dict[str, list[Pattern]]:
    """The names of tensors with a row for each word of the vocabulary, by template."""
    found: dict[str, list[Pattern]] = {}
    for rule in form.rules:
        layouts = None if isinstance(rule, Drop) else layouts_of(rule, to)
        for pattern, tensor in zip(sides_of(rule, to)[0], layouts[0], strict=True) if layouts is not None else ():
            if tensor and tensor[0] == VOCABULARY:
                found.setdefault(pattern.template, []).append(pattern)
    return found


def _rows(maker: TensorMaker, name: str, start: int, elements: int) -> list[Piece]:
    block: Block = replace(whole(elements), source_offset=start)
    return maker.pieces_of_block(name, block)


def _equality_of_rows(maker: TensorMaker, tensor: LazyTensor, rows: int, width: int) -> Equality:
    """What must be equal for the rows behind the vocabulary to be unused."""
    extra, first = tensor.shape[0] - rows, rows * width
    size = (max(extra - 1, 1) * width,)
    spec = TensorSpec(tensor.name, size, tensor.dtype)
    last = LazyTensor(spec, tuple(_rows(maker, tensor.name, first + width * (extra > 1), *size)))
    if extra > 1:
        others, must = LazyTensor(spec, tuple(_rows(maker, tensor.name, first, *size))), "each is the same as the next"
    else:
        zeros = Piece(zeros_source(spec.nbytes), 0, spec.dtype, whole(spec.elements))
        others, must = LazyTensor(spec, (zeros,)), "it is zeros"
    why = f"{how_many(extra, 'row')} behind the vocabulary of {rows:,} can be cut off only where {must}"
    return Equality(last, others, why, HINT_TRAINED)
