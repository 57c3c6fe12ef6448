"""Name patterns: `model.layers.{layer}.mlp.up_proj.weight` against `model.layers.17.mlp.up_proj.weight`.

A pattern matches whole names only. A placeholder matches digits only, without leading zeros, so that names can be written back.
Matching is done once a template (all digits folded, see ``folding.py``), not once a name: 92,000 names are a few dozen templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

_PLACEHOLDER_OR_NUMBER = re.compile(r"\{(=?[a-z_][a-z0-9_]*)\}|(\d+)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name with placeholders. ``slots`` holds, for each number in a name, the placeholder's name or the number itself.

    ``{=axis}`` stands for one number, a size of the config; see ``numbered_rules``.
    """

    text: str
    template: str
    slots: tuple[str | int, ...]

    def match(self, numbers: tuple[int, ...]) -> dict[str, int] | None:
        """The placeholders' values for a name of this template, or None where a fixed number differs."""
        if numbers == self.slots == ():
            return {}
        if len(numbers) != len(self.slots):
            return None
        found: dict[str, int] = {}
        for slot, number in zip(self.slots, numbers, strict=True):
            if isinstance(slot, int):
                if slot != number:
                    return None
            elif found.setdefault(slot, number) != number:
                return None
        return found

    def fill(self, indices: Mapping[str, int]) -> str:
        """The name for some placeholder values."""
        return self.text.format_map(indices)

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s for s in self.slots if isinstance(s, str)))


@lru_cache(maxsize=8192)
def parse_pattern(text: str) -> Pattern:
    """Read a pattern such as ``model.layers.{layer}.attention.wq.weight``."""
    slots = [_slot(p) if p else int(n) for p, n in _PLACEHOLDER_OR_NUMBER.findall(text)]
    return Pattern(text, _PLACEHOLDER_OR_NUMBER.sub("#", text), tuple(slots))


def _slot(word: str) -> str | int:
    """A placeholder; or, for a number of the config that is not put in yet, one below zero of its own, which no name has."""
    return -int.from_bytes(word.encode(), "big") if word.startswith("=") else word


def is_of_config(slot: str | int) -> bool:
    """Whether a slot is a number that the config gives, not put in yet."""
    return isinstance(slot, int) and slot < 0
