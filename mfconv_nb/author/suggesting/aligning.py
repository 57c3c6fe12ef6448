"""Align the layers of both sides where one side counts more layers than the other.

DeepSeek's next-token-prediction layer is one more decoder layer on the Hugging Face side and `mtp.layers` on the other: `model.layers.0` to
`.3` beside `decoder.layers.0` to `.2` and `mtp.layers.0`. Layer 3 is split off before pairing; its number, which the config gives, is part
of its names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.author.axes import Facts
from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.mapping.rules import AnyRule, Drop, Names, Tied

MOST_AFTER = 4  # layers after the last one that both sides count


@dataclass(frozen=True)
class Aligned:
    """The groups of both sides, with the layers that only the Hugging Face side counts as groups of their own.

    Attributes:
        before: the text before the number of such a layer, ``model.layers.``; empty if both sides count the same layers.
        count: how many layers both sides count.
    """

    hf: tuple[Group, ...]
    mf: tuple[Group, ...]
    before: str = ""
    count: int = 0

    def with_layer_axes(self, rule: AnyRule, sizes: dict[str, str], facts: Facts) -> AnyRule:
        """The rule with ``{=axis}`` for the number of a layer after the last one. Adds that axis to ``sizes``."""

        def with_axis(name: str) -> str:
            found = re.match(rf"{re.escape(self.before)}(\d+)(?=\.)", name) if self.before else None
            if found is None or int(found[1]) < self.count:
                return name
            after = int(found[1]) - self.count
            axis = f"layer_after{f'_{after}' if after else ''}"
            sizes[axis] = f"{facts.sentence(self.count, 'layer')}{f' + {after}' if after else ''}"
            return f"{self.before}{{={axis}}}{name[found.end() :]}"

        if isinstance(rule, Drop):
            return replace(rule, pattern=with_axis(rule.pattern))
        if isinstance(rule, Tied):
            return rule
        hf: Names = with_axis(rule.hf) if isinstance(rule.hf, str) else tuple(map(with_axis, rule.hf))
        return replace(rule, hf=hf)


def align_layers(hf: Sequence[Group], mf: Sequence[Group]) -> Aligned:
    """Split off the layers that only the Hugging Face side counts, if there are at most four."""
    (before, more), (there, fewer) = _most_layers(hf), _most_layers(mf)
    if not 0 < fewer < more <= fewer + MOST_AFTER:
        return Aligned(tuple(hf), tuple(mf))
    hf_groups = [part for g in hf for part in _split_layers(g, before, range(fewer, more))]
    mf_groups = [part for g in mf for part in ([g] if g.parts[0] == there else _split_layers(g, g.parts[0], range(more - fewer)))]
    return Aligned(tuple(hf_groups), tuple(mf_groups), before, fewer)


def _most_layers(groups: Iterable[Group]) -> tuple[str, int]:
    """The text before the longest loop of a side, and its length. Loops of experts, and loops with gaps, do not count."""
    whole = [g for g in groups if g.loops and "expert" not in g.word(0).lower() and g.counts(0) == tuple(range(len(g.counts(0))))]
    longest = max(whole, key=lambda g: len(g.counts(0)), default=None)
    return (longest.parts[0], len(longest.counts(0))) if longest is not None else ("", 0)


def _split_layers(group: Group, before: str, values: range) -> list[Group]:
    """A group without some values of its first loop, and one group for each of those values."""
    if not group.loops or group.parts[0] != before or not set(group.counts(0)) & set(values):
        return [group]
    found = []
    if kept := {index: spec for index, spec in group.specs.items() if index[0] not in values}:
        found.append(replace(group, specs=kept))
    for n in [n for n in group.counts(0) if n in values]:
        parts = (f"{group.parts[0]}{n}{group.parts[1]}", *group.parts[2:])
        found.append(Group(parts, {index[1:]: spec for index, spec in group.specs.items() if index[0] == n}, group.place))
    return found
