"""The way back to codes: a checkpoint of Hugging Face with codes and scales in place of its numbers, as it was published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mfconv_nb.core.blocks import Tiling, block_of_tiles, compose
from mfconv_nb.core.checkpoint import MF, Checkpoint, LazyTensor, Piece, TensorSpec
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.scaled_codes import CODE_KINDS
from mfconv_nb.steps.loading.codes import Published, PublishedWeight, matrix_of
from mfconv_nb.streaming.dequantised import CodedMatrix, DequantisedSource, dequantised_tensor
from mfconv_nb.streaming.recoded import Recoding, recoded_tensors


@dataclass(frozen=True)
class CodesBack:
    """A checkpoint of codes and scales, and how they came about.

    Attributes:
        recodings: by the name of the weight, of those whose codes are computed from numbers; others are copied.
        checksums: of tensors whose bytes were published, as the manifest has them.
    """

    checkpoint: Checkpoint
    recodings: Mapping[str, Recoding] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)


def codes_back(checkpoint: Checkpoint, published: Published, *, requantise: bool = False) -> CodesBack | None:
    """The checkpoint with codes and scales as ``published`` says. Lazy. None where a weight has another shape than was published.

    Args:
        requantise: give weights that were changed new scales and codes; else they are refused where they are read (MFC308).
    """
    tensors: dict[str, LazyTensor] = {}
    recodings: dict[str, Recoding] = {}
    checksums: dict[str, str] = {}
    for name, tensor in checkpoint.tensors.items():
        weight = published.weights.get(name)
        if weight is None:
            tensors[name] = tensor
            continue
        coded = weight.coded
        if _is_as_published(tensor, weight) and weight.codes is not None:
            pair = weight.codes, weight.scales
        elif coded.turned or tensor.shape != coded.weight.shape:
            return None
        else:
            codes = weight.codes or LazyTensor(coded.codes, ())
            matrix = matrix_of(coded, codes, weight.scales)
            recoding = Recoding(tensor, matrix, weight.codes_are_kept, requantise, published.in_powers_of_two)
            recodings[name] = recoding
            pair = recoded_tensors(recoding, coded.codes, coded.scales)
            checksums |= dict(zip((coded.codes.name, coded.scales.name), weight.checksums, strict=False))
        tensors |= {t.name: t for t in pair}
    tensors |= published.beside
    return CodesBack(replace(checkpoint, tensors=tensors), recodings, checksums)


def codes_kept(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with codes in place of the numbers that are computed from them, and the scales laid out in the same way. Lazy.

    For MindFormers the scales of `X.weight` are `X.scale`, as its own reader wants them; otherwise they are named as they were.

    Raises:
        MappingError: MFC321 for a tensor that cuts blocks apart, mixes codes with numbers, or turns blocks that are not square.
    """
    tensors: dict[str, LazyTensor] = {}
    for tensor in checkpoint.tensors.values():
        made = _with_codes(tensor, checkpoint.side) if any(isinstance(p.source, DequantisedSource) for p in tensor.pieces) else (tensor,)
        tensors |= {t.name: t for t in made}
    return replace(checkpoint, tensors=tensors)


def _with_codes(tensor: LazyTensor, side: str | None) -> tuple[LazyTensor, LazyTensor]:
    """Codes and scales of a tensor that is computed from such."""
    sources = [p.source for p in tensor.pieces if isinstance(p.source, DequantisedSource)]
    first = sources[0].matrix
    if len(sources) < len(tensor.pieces):
        raise _not_kept(tensor, "codes beside numbers", "codes alone, as one tensor has one dtype")
    dtypes = {(s.matrix.kind, s.matrix.codes.dtype, s.matrix.scales.dtype) for s in sources}
    if len(dtypes) > 1:
        raise _not_kept(tensor, "codes, or scales, of several dtypes", "one dtype")
    for turned in (False, True):
        tile = (first.block[1], first.block[0]) if turned else first.block
        scales = _grid_of(tensor, tile, of_scales=True)
        packed = (1, CODE_KINDS[first.kind])
        codes = _grid_of(tensor, packed[::-1] if turned else packed, of_scales=False) if scales is not None else None
        if codes is None or scales is None:
            continue
        if turned and first.block[0] != first.block[1]:
            raise _not_kept(tensor, f"blocks of {first.block[0]} x {first.block[1]}, turned", "square blocks, where rows become columns")
        return codes, LazyTensor(TensorSpec(_name_of_scales(tensor.name, first, side), scales.shape, scales.dtype), scales.pieces)
    found = f"a layout that takes blocks of {first.block[0]} x {first.block[1]} apart"
    found += ", or bytes of two codes" if CODE_KINDS[first.kind] > 1 else ""
    raise _not_kept(tensor, found, "blocks that stay whole")


def _grid_of(tensor: LazyTensor, tile: tuple[int, int], *, of_scales: bool) -> LazyTensor | None:
    """The tensor of tiles, each a scale or a byte of codes; None where its layout cuts a tile."""
    *stack, rows, columns = (1, *tensor.shape) if len(tensor.shape) == 1 else tensor.shape
    target = Tiling(rows, columns, (min(tile[0], rows), min(tile[1], columns)))
    pieces, dtype = [], ""
    for piece in tensor.pieces:
        assert isinstance(piece.source, DequantisedSource)
        matrix = piece.source.matrix
        size = matrix.block if of_scales else (1, CODE_KINDS[matrix.kind])
        source = Tiling(matrix.rows, matrix.columns, (min(size[0], matrix.rows), min(size[1], matrix.columns)))
        block, stored = block_of_tiles(piece.block, source, target), matrix.scales if of_scales else matrix.codes
        if block is None or len(stored.pieces) != 1:
            return None
        blocks = compose(block, stored.pieces[0].block)
        if blocks is None:
            return None
        pieces += [Piece(stored.pieces[0].source, stored.pieces[0].start, stored.dtype, b) for b in blocks]
        dtype = stored.dtype
    shape = (*stack, *target.grid)
    whole_grid = sum(p.block.elements for p in pieces) == math.prod(shape)
    return LazyTensor(TensorSpec(tensor.name, shape, dtype), tuple(pieces)) if whole_grid else None


def _name_of_scales(name: str, matrix: CodedMatrix, side: str | None) -> str:
    stem = name.removesuffix(".weight")
    is_short = side == MF or matrix.scales.name.endswith(".scale")
    if stem != name and is_short:
        return f"{stem}.scale"
    return f"{name}_scale" if is_short or not matrix.scales.name.endswith("_scale_inv") else f"{name}_scale_inv"


def _not_kept(tensor: LazyTensor, found: str, expected: str) -> MappingError:
    hint = "Leave --dtype keep out (dtype= in Python), and it is written as numbers."
    return MappingError("MFC321", quote(tensor.name), found=found, expected=expected, hint=hint)


def _is_as_published(tensor: LazyTensor, weight: PublishedWeight) -> bool:
    """Whether all its numbers are computed from the published codes, each in its place."""
    piece = tensor.pieces[0] if len(tensor.pieces) == 1 else None
    if piece is None or not isinstance(piece.source, DequantisedSource) or tensor.shape != weight.coded.weight.shape:
        return False
    matrix = piece.source.matrix
    spec = TensorSpec(tensor.name, tensor.shape, tensor.dtype)
    usual = dequantised_tensor(spec, matrix, turned=weight.coded.turned).pieces[0]
    return matrix.codes is weight.codes and (piece.start, piece.block) == (usual.start, usual.block)
