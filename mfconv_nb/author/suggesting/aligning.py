"""Aligning: layers that one side counts on as layers, and the other keeps elsewhere, as DeepSeek's layer for the next token.

`model.layers.0` to `.3` beside `decoder.layers.0` to `.2` and `mtp.layers.0`: layer 3 is none of the loop then, and its number, which
the config tells, is part of its names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.author.axes import Facts
from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.mapping.rules import AnyRule, Drop, Names, Tied

MOST_AFTER = 4  # layers behind the last one that both sides count


@dataclass(frozen=True)
class Aligned:
    """The groups of both sides, and what stands before the numbers that are part of names.

    Attributes:
        before: of the Hugging Face side, such as ``model.layers.``; empty where both sides count the same layers.
        count: how many layers both sides count.
    """

    hf: tuple[Group, ...]
    mf: tuple[Group, ...]
    before: str = ""
    count: int = 0

    def named(self, rule: AnyRule, sizes: dict[str, str], facts: Facts) -> AnyRule:
        """A rule with ``{=axis}`` for the number of a layer behind the last, and the size of that axis among ``sizes``."""

        def numbered(name: str) -> str:
            found = re.match(rf"{re.escape(self.before)}(\d+)(?=\.)", name) if self.before else None
            if found is None or int(found[1]) < self.count:
                return name
            after = int(found[1]) - self.count
            axis = f"layer_after{f'_{after}' if after else ''}"
            sizes[axis] = f"{facts.sentence(self.count, 'layer')}{f' + {after}' if after else ''}"
            return f"{self.before}{{={axis}}}{name[found.end() :]}"

        if isinstance(rule, Drop):
            return replace(rule, pattern=numbered(rule.pattern))
        if isinstance(rule, Tied):
            return rule
        hf: Names = numbered(rule.hf) if isinstance(rule.hf, str) else tuple(map(numbered, rule.hf))
        return replace(rule, hf=hf)


def aligned(hf: Sequence[Group], mf: Sequence[Group]) -> Aligned:
    """The groups of both sides, where the Hugging Face side counts a few layers more: those are groups of their own."""
    (before, more), (there, fewer) = _most_layers(hf), _most_layers(mf)
    if not 0 < fewer < more <= fewer + MOST_AFTER:
        return Aligned(tuple(hf), tuple(mf))
    behind = [part for g in hf for part in _apart(g, before, range(fewer, more))]
    beside = [part for g in mf for part in ([g] if g.parts[0] == there else _apart(g, g.parts[0], range(more - fewer)))]
    return Aligned(tuple(behind), tuple(beside), before, fewer)


def _most_layers(groups: Iterable[Group]) -> tuple[str, int]:
    """What stands before the longest loop of a side, but for experts, where some tensor is in all its rounds; and how many there are."""
    whole = [g for g in groups if g.loops and "expert" not in g.word(0).lower() and g.counts(0) == tuple(range(len(g.counts(0))))]
    longest = max(whole, key=lambda g: len(g.counts(0)), default=None)
    return (longest.parts[0], len(longest.counts(0))) if longest is not None else ("", 0)


def _apart(group: Group, before: str, values: range) -> list[Group]:
    """A group without some values of its first loop, and a group for each of those."""
    if not group.loops or group.parts[0] != before or not set(group.counts(0)) & set(values):
        return [group]
    found = []
    if kept := {index: spec for index, spec in group.specs.items() if index[0] not in values}:
        found.append(replace(group, specs=kept))
    for n in [n for n in group.counts(0) if n in values]:
        parts = (f"{group.parts[0]}{n}{group.parts[1]}", *group.parts[2:])
        found.append(Group(parts, {index[1:]: spec for index, spec in group.specs.items() if index[0] == n}, group.place))
    return found
