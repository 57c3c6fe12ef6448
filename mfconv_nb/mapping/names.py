"""Name patterns: `model.layers.{layer}.mlp.up_proj.weight` against `model.layers.17.mlp.up_proj.weight`.

A pattern matches whole names only. A placeholder matches digits without leading zeros, so that every matched name can be written back.
Names are matched by template (all digits folded, see ``core/folding.py``): 92,000 names have a few dozen templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

_PLACEHOLDER_OR_NUMBER = re.compile(r"\{(=?[a-z_][a-z0-9_]*)\}|(\d+)")


@dataclass(frozen=True, slots=True)
class FromConfig:
    """The place of a number of the config, a size of ``axis``. It matches no name before ``fill_numbers`` puts the number in."""

    axis: str


Slot = str | int | FromConfig  # a placeholder, a fixed number, or a number of the config


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name with placeholders. ``slots`` says what stands at each number of a name: ``{layer}``, ``7`` or ``{=axis}``."""

    text: str
    template: str
    slots: tuple[Slot, ...]

    def match(self, numbers: tuple[int, ...]) -> dict[str, int] | None:
        """The values of the placeholders for a name of this template; None where a number of the pattern differs."""
        if numbers == self.slots == ():
            return {}
        if len(numbers) != len(self.slots):
            return None
        found: dict[str, int] = {}
        for slot, number in zip(self.slots, numbers, strict=True):
            if isinstance(slot, str):
                if found.setdefault(slot, number) != number:
                    return None
            elif slot != number:
                return None
        return found

    def fill(self, indices: Mapping[str, int]) -> str:
        """The name for these values of the placeholders."""
        return self.text.format_map(indices)

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s for s in self.slots if isinstance(s, str)))


@lru_cache(maxsize=8192)
def parse_pattern(text: str) -> Pattern:
    """Read a pattern such as ``model.layers.{layer}.attention.wq.weight``."""
    slots = tuple(_read_slot(word, number) for word, number in _PLACEHOLDER_OR_NUMBER.findall(text))
    return Pattern(text, _PLACEHOLDER_OR_NUMBER.sub("#", text), slots)


def _read_slot(word: str, number: str) -> Slot:
    if not word:
        return int(number)
    return FromConfig(word[1:]) if word.startswith("=") else word
