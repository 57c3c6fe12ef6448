"""The checksum that a tensor of zeros has, so that one is noticed without a second look at its bytes."""

from __future__ import annotations

from functools import lru_cache

import xxhash

from mfconv_nb.streaming.fill import SEGMENT_BYTES


@lru_cache(maxsize=4096)
def checksum_of_zeros(nbytes: int) -> frozenset[str]:
    """The checksums that ``fill_files`` takes of so many zero bytes: whole, as in torch files, or in segments."""
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
