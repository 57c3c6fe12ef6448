"""Folding: names that differ only in their numbers as one. `model.layers.{0‥31}.mlp.up_proj.weight`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"\d+")


def fold(name: str) -> tuple[str, tuple[int, ...]]:
    """The template of a name, with ``#`` for every number, and the numbers. A number like 007 stays as it is."""
    numbers: list[int] = []

    def fold_one(match: re.Match[str]) -> str:
        text = match.group()
        if len(text) > 9 or (len(text) > 1 and text[0] == "0"):
            return text
        numbers.append(int(text))
        return "#"

    return _NUMBER.sub(fold_one, name), tuple(numbers)


def index_ranges(numbers: Iterable[int]) -> str:
    """``0‥3, 5`` for 0, 1, 2, 3, 5; more than four ranges are cut and counted."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    texts = [str(a) if a == b else f"{a}‥{b}" for a, b in runs]
    return ", ".join(texts) if len(texts) <= 4 else f"{', '.join(texts[:3])} and {len(texts) - 3} more ranges"


def folded_name(names: Iterable[str]) -> str:
    """Names of one template as one: `model.layers.{0‥31}.mlp.up_proj.weight`. A number that never changes stays a number."""
    rows = [fold(n) for n in names]
    template, parts = rows[0][0], []
    columns = list(zip(*(numbers for _, numbers in rows), strict=True))
    pieces = template.split("#")
    for place, piece in enumerate(pieces):
        parts.append(piece)
        if place < len(columns):
            values = set(columns[place])
            parts.append(str(columns[place][0]) if len(values) == 1 else "{" + index_ranges(values) + "}")
    return "".join(parts)


def group_by_template(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by template, in order of first appearance."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(fold(name)[0], []).append(name)
    return groups
