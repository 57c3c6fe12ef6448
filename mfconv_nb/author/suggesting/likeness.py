"""Score how much two names mean the same, and find the assignment that makes all pairs together most alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.author.suggesting.words import (
    CROSS,
    DECODER,
    ENCODER,
    EXPERTS,
    MTP,
    NORM,
    NORM_1,
    NORM_2,
    QUERY,
    SHARED,
    VISION,
    Reading,
    read_name,
)

# places that distinguish twins: an encoder's layers from a decoder's
DISTINCTIVE = (CROSS, VISION, ENCODER, DECODER, SHARED, EXPERTS, QUERY, MTP)
SURE, LEAST = 0.5, -0.2  # scores: from SURE on, names agree; below LEAST, they contradict each other
NEVER = -1e6

Score = Callable[[Group, Group], float | None]


def likeness(hf: Group, mf: Group, spans: tuple[float, float] = (1.0, 1.0)) -> float:
    """The score of two names, from about -1 (they contradict each other) to about 1 (the same words).

    Args:
        spans: how many tensors each checkpoint has; similar positions in the files count a little.
    """
    from rapidfuzz.fuzz import ratio, token_sort_ratio  # heavy: only those who draft rules need it

    one, other = read_name(hf.template), read_name(mf.template)
    inner = [_inner_name(g) for g in (hf, mf)]
    score = 0.25 * ratio(*inner) / 100 + 0.1 * token_sort_ratio(_words_text(hf), _words_text(mf)) / 100
    score += _role_score(one, other) + _place_score(one, other)
    score += 0.0 if one.leaf == other.leaf else -0.6
    score += 0.15 if inner[0] == inner[1] else 0.0
    return score + 0.06 * (1 - abs(hf.place / spans[0] - mf.place / spans[1]))


def _role_score(one: Reading, other: Reading) -> float:
    if not one.role or not other.role:
        return 0.0
    if one.role == other.role:
        return 0.45
    return -0.05 if {one.role, other.role} <= {NORM, NORM_1, NORM_2} and NORM in (one.role, other.role) else -0.25


def _place_score(one: Reading, other: Reading) -> float:
    both, either = one.places & other.places, one.places | other.places
    alike = 0.2 * (len(both) / len(either) if either else 0.5)
    return alike - 0.12 * sum((place in one.places) != (place in other.places) for place in DISTINCTIVE)


def _inner_name(group: Group) -> str:
    """The text after the last loop, without the leaf."""
    return (group.parts[-1].rpartition(".")[0] or group.parts[-1]).strip(".").lower()


def _words_text(group: Group) -> str:
    return " ".join(read_name(group.template).words)


def assign_pairs(rows: Sequence[Group], columns: Sequence[Group], score: Score) -> list[tuple[Group, Group, float, float]]:
    """The pairs whose scores together are highest, each with its score and its margin over the next best pair of either group.

    Args:
        score: of two groups; None if they cannot be a pair.
    """
    from scipy.optimize import linear_sum_assignment  # heavy: only those who draft rules need it

    if not rows or not columns:
        return []
    table = np.full((len(rows), len(columns)), NEVER)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            found = score(row, column)
            table[i, j] = NEVER if found is None else found
    pairs = []
    for i, j in zip(*linear_sum_assignment(table, maximize=True), strict=True):
        if table[i, j] > NEVER / 2:
            others = np.concatenate([np.delete(table[i], j), np.delete(table[:, j], i)])
            pairs.append((rows[i], columns[j], float(table[i, j]), float(table[i, j] - max([*others, NEVER]))))
    return pairs


def parents_of(pairs: Sequence[tuple[Group, Group, float, float]]) -> Mapping[str, tuple[str, float]]:
    """By parent of the Hugging Face side: the parent it goes with, and the margin. Weights decide it for their biases."""
    return {h.parent: (m.parent, margin) for h, m, _, margin in sorted(pairs, key=lambda p: (len(p[0].shape), p[2]))}
