"""Likeness: how much two names say the same, and the assignment that makes all pairs together most alike."""

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

TELLING = (
    CROSS,
    VISION,
    ENCODER,
    DECODER,
    SHARED,
    EXPERTS,
    QUERY,
    MTP,
)  # places that set twins apart: an encoder's layers from a decoder's
SURE, LEAST = 0.5, -0.2  # scores: from here on names agree; below, they contradict each other
NEVER = -1e6

Score = Callable[[Group, Group], float | None]


def likeness(hf: Group, mf: Group, spans: tuple[float, float] = (1.0, 1.0)) -> float:
    """From about -1 (they contradict each other) to about 1 (the same words).

    Args:
        spans: how many tensors each checkpoint has: the place in the file counts a little.
    """
    from rapidfuzz.fuzz import ratio, token_sort_ratio

    one, other = read_name(hf.template), read_name(mf.template)
    inner = [_inner(g) for g in (hf, mf)]
    score = 0.25 * ratio(*inner) / 100 + 0.1 * token_sort_ratio(_outer(hf), _outer(mf)) / 100
    score += _roles(one, other) + _places(one, other)
    score += 0.0 if one.leaf == other.leaf else -0.6
    score += 0.15 if inner[0] == inner[1] else 0.0
    return score + 0.06 * (1 - abs(hf.place / spans[0] - mf.place / spans[1]))


def _roles(one: Reading, other: Reading) -> float:
    if not one.role or not other.role:
        return 0.0
    if one.role == other.role:
        return 0.45
    return -0.05 if {one.role, other.role} <= {NORM, NORM_1, NORM_2} and NORM in (one.role, other.role) else -0.25


def _places(one: Reading, other: Reading) -> float:
    both, either = one.places & other.places, one.places | other.places
    alike = 0.2 * (len(both) / len(either) if either else 0.5)
    return alike - 0.12 * sum((place in one.places) != (place in other.places) for place in TELLING)


def _inner(group: Group) -> str:
    """What stands after the last loop, without the leaf."""
    return (group.parts[-1].rpartition(".")[0] or group.parts[-1]).strip(".").lower()


def _outer(group: Group) -> str:
    return " ".join(read_name(group.template).words)


def assigned(rows: Sequence[Group], columns: Sequence[Group], score: Score) -> list[tuple[Group, Group, float, float]]:
    """The pairs whose scores together are highest, with the score and by how much it beats the next best of both; None: no pair."""
    from scipy.optimize import linear_sum_assignment

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
    """Which parent of the one side goes with which of the other, and by what margin: weights tell it for their biases."""
    return {h.parent: (m.parent, margin) for h, m, _, margin in sorted(pairs, key=lambda p: (len(p[0].shape), p[2]))}
