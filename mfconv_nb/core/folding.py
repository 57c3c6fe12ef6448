"""Folding: names that differ only in their numbers as one. `model.layers.{0‥31}.mlp.up_proj.weight`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mfconv_nb.core.errors import on_one_line

LONGEST = 1000
_NUMBER = re.compile(r"([0-9]+)")


def fold(name: str) -> tuple[str, tuple[int, ...]]:
    """The template of a name, with ``#`` for every number, and the numbers. A number like 007 stays as it is.

    A name that holds a ``#`` itself is its own template, with the ``#`` escaped: it never meets the template of another name. So is a
    name of more than 1,000 characters, which a stranger may have made as long as a header.
    """
    if "#" in name or len(name) > LONGEST:
        return name.replace("#", "\\#"), ()
    parts = _NUMBER.split(name)
    numbers = parts[1::2]
    if any(len(n) > 9 or (n[0] == "0" and len(n) > 1) for n in numbers):
        return _fold_around_odd_numbers(parts)
    return "#".join(parts[::2]), tuple([int(n) for n in numbers])


def _fold_around_odd_numbers(parts: list[str]) -> tuple[str, tuple[int, ...]]:
    template, numbers = parts[0], []
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        odd = len(number) > 9 or (number[0] == "0" and len(number) > 1)
        template += (number if odd else "#") + text
        numbers += [] if odd else [int(number)]
    return template, tuple(numbers)


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
    return folded_names(names)[0]


def folded_names(names: Iterable[str]) -> list[str]:
    """Names as one a template, in order of first appearance. For display: control characters are escaped, line breaks too."""
    numbers: dict[str, list[tuple[int, ...]]] = {}
    for name in names:
        template, found = fold(name)
        numbers.setdefault(template, []).append(found)
    return [on_one_line(_fill_template(template, rows)) for template, rows in numbers.items()]


def _fill_template(template: str, rows: list[tuple[int, ...]]) -> str:
    """The template with the ranges of its numbers in place of each ``#``."""
    if not rows[0]:
        return template.replace("\\#", "#")
    pieces = template.split("#")
    columns = [set(values) for values in zip(*rows, strict=True)]
    ranges = [str(min(c)) if len(c) == 1 else "{" + index_ranges(c) + "}" for c in columns]
    return pieces[0] + "".join(text + piece for text, piece in zip(ranges, pieces[1:], strict=True))
