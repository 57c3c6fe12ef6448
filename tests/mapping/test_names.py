"""Name patterns match whole names, digits only."""

from __future__ import annotations

import pytest

from mfconv_nb.core.folding import fold
from mfconv_nb.mapping.names import parse_pattern


def matched(pattern: str, name: str) -> dict[str, int] | None:
    template, numbers = fold(name)
    parsed = parse_pattern(pattern)
    return parsed.match(numbers) if template == parsed.template else None


@pytest.mark.parametrize(
    "pattern, name, found",
    [
        ("model.layers.{layer}.w1.weight", "model.layers.17.w1.weight", {"layer": 17}),
        ("model.layers.{layer}.w1.weight", "model.layers.17.w2.weight", None),
        ("model.layers.{layer}.w1.weight", "model.layers.017.w1.weight", None),
        ("model.layers.{layer}.w1.weight", "model.layers.x.w1.weight", None),
        ("model.layers.{layer}.w1.weight", "model.layers.-1.w1.weight", None),
        ("model.layers.{layer}.w1.weight", "a.model.layers.1.w1.weight", None),
        ("model.layers.{layer}.w1.weight", "model.layers.1.w1.weight.absmax", None),
        ("model.layers.{layer}.w1.weight", "model.layers.#.w1.weight", None),
        ("model.layers.{layer}.w1.weight", "model.layers.٣.w1.weight", None),
        ("model.norm.weight", "model.norm.weight", {}),
        ("model.norm.weight", "modelxnorm.weight", None),
        ("{layer}.e.{expert}", "3.e.14", {"layer": 3, "expert": 14}),
        ("{layer}.again.{layer}", "3.again.3", {"layer": 3}),
        ("{layer}.again.{layer}", "3.again.4", None),
        ("model.layers.{=last}.enorm.weight", "model.layers.3.enorm.weight", None),  # before the config has put its number in
    ],
)
def test_a_pattern_matches_whole_names_and_numbers_without_leading_zeros(pattern: str, name: str, found: dict[str, int] | None) -> None:
    assert matched(pattern, name) == found
    if found is not None:
        assert parse_pattern(pattern).fill(found) == name
        assert parse_pattern(pattern).placeholders == tuple(found)
