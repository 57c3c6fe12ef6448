"""Find ranks that hold the same numbers where they should hold different parts: one's file may be a copy of the other's, renamed.

Shapes and steps cannot show that. Reads the first 4 KiB of a slice, nearly always of one tensor only: it stops as soon as all ranks
differ. Equal numbers are no proof: heads that were repeated to fit the ranks are equal too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.dtypes import itemsize
from mfconv_nb.core.errors import quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.runs.run import SlicedTensor
from mfconv_nb.streaming.gather import Gatherer

SAMPLE_BYTES = 4096
MOST_KINDS = 8  # of names that are compared: repeated heads have equal parts in two or three of them

Ranks = tuple[int, ...]


def note_equal_parts(tensors: Iterable[SlicedTensor]) -> tuple[str, ...]:
    """A sentence for every two ranks that hold the same numbers as different parts of the same tensors."""
    kinds: dict[Ranks, dict[str, SlicedTensor]] = {}
    for tensor in sorted(tensors, key=lambda t: (len(t.shape) < 2, t.slices[0].tensor.spec.nbytes)):  # vectors last: often constant
        ranks = tuple(first.rank for first, *_ in tensor.boxes.values())
        if len(set(ranks)) == len(ranks) > 1:
            kinds.setdefault(ranks, {}).setdefault(fold(tensor.name)[0], tensor)
    gatherer = Gatherer()
    said = []
    for ranks, by_template in kinds.items():
        chosen = list(by_template.values())[:MOST_KINDS]
        for one, other, count, name in _find_alike(ranks, chosen, gatherer)[:4]:
            of = f"{count} kinds of tensors, such as {quoted(name)}" if count > 1 else quoted(name)
            said.append(f"ranks {one} and {other} hold the same numbers as different parts of {of}: one file may be a copy of the other")
    return tuple(said)


def _find_alike(ranks: Ranks, chosen: list[SlicedTensor], gatherer: Gatherer) -> list[tuple[int, int, int, str]]:
    """Pairs of ranks that are equal in every tensor, how many tensors show it, and the first of them; constant slices show nothing."""
    groups: list[tuple[Ranks, list[str]]] = [(ranks, [])]
    for tensor in chosen:
        if not groups:
            break
        held = {first.rank: first.tensor for first, *_ in tensor.boxes.values()}
        samples = {rank: _sample_bytes(held[rank], gatherer) for ranks_alike, _ in groups for rank in ranks_alike}
        groups = [found for alike, shown in groups for found in _split_group(alike, [*shown], samples, tensor.name)]
    return [(alike[0], alike[1], len(shown), shown[0]) for alike, shown in groups if shown]


def _split_group(ranks: Ranks, shown: list[str], samples: Mapping[int, bytes], name: str) -> list[tuple[Ranks, list[str]]]:
    """Split a group of ranks by what they hold of one tensor; groups of one are left out."""
    by_sample: dict[bytes, list[int]] = {}
    for rank in ranks:
        by_sample.setdefault(samples[rank], []).append(rank)
    return [(tuple(alike), [*shown, *([name] if sample else [])]) for sample, alike in by_sample.items() if len(alike) > 1]


def _sample_bytes(tensor: LazyTensor, gatherer: Gatherer) -> bytes:
    """The first bytes of a slice; empty where all these numbers are the same."""
    size = itemsize(tensor.dtype)
    count = min(tensor.spec.elements, SAMPLE_BYTES // size)
    out = np.empty(count * size, np.uint8)
    gatherer.fill(tensor, tensor.dtype, 0, count, out)
    numbers = out.reshape(count, size)
    return out.tobytes() if count and (numbers != numbers[0]).any() else b""
