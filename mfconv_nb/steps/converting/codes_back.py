"""The way back to codes: a checkpoint of Hugging Face with codes and scales in place of its numbers, as it was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.steps.loading.codes import Published, PublishedWeight, matrix_of
from mfconv_nb.streaming.dequantised import DequantisedSource, dequantised_tensor
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


def _is_as_published(tensor: LazyTensor, weight: PublishedWeight) -> bool:
    """Whether all its numbers are computed from the published codes, each in its place."""
    piece = tensor.pieces[0] if len(tensor.pieces) == 1 else None
    if piece is None or not isinstance(piece.source, DequantisedSource) or tensor.shape != weight.coded.weight.shape:
        return False
    matrix = piece.source.matrix
    spec = TensorSpec(tensor.name, tensor.shape, tensor.dtype)
    usual = dequantised_tensor(spec, matrix, turned=weight.coded.turned).pieces[0]
    return matrix.codes is weight.codes and (piece.start, piece.block) == (usual.start, usual.block)
