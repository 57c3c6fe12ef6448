"""Recognise tensors of zeros by their checksum, without reading their bytes again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import xxhash

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.report import how_many
from mfconv_nb.streaming.fill import SEGMENT_BYTES

ZEROS = "is the source whole? Where a download broke off, the rest of a file is zeros"


def is_matrix(spec: TensorSpec) -> bool:
    """Whether a tensor has two axes longer than 1. Vectors of zeros are common, so they are not reported."""
    return sum(n > 1 for n in spec.shape) >= 2


def notes_on_zeros(written: Mapping[str, tuple[TensorSpec, str]]) -> tuple[str, ...]:
    """A note if matrices that were written are all zeros.

    Args:
        written: for each name the spec and the checksum of what was written.
    """
    zeros = [n for n, (spec, checksum) in written.items() if is_matrix(spec) and checksum in checksum_of_zeros(spec.nbytes)]
    if not zeros:
        return ()
    return (f"{how_many(len(zeros), 'matrix', 'matrices')} of zeros, such as {zeros[0]}: {ZEROS}",)


@lru_cache(maxsize=4096)
def checksum_of_zeros(nbytes: int) -> frozenset[str]:
    """The checksums that ``fill_files`` computes for so many zero bytes: as one segment (torch files), or as several."""
    whole = _digest(nbytes)
    if nbytes <= SEGMENT_BYTES:
        return frozenset({whole.hex()})
    full, rest = divmod(nbytes, SEGMENT_BYTES)
    parts = _digest(SEGMENT_BYTES) * full + (_digest(rest) if rest else b"")
    return frozenset({whole.hex(), xxhash.xxh3_128_hexdigest(parts)})


def _digest(nbytes: int) -> bytes:
    digest, panel = xxhash.xxh3_128(), bytes(1 << 20)
    for _ in range(nbytes >> 20):
        digest.update(panel)
    digest.update(panel[: nbytes & ((1 << 20) - 1)])
    return digest.digest()
