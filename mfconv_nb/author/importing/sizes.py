"""Where config.json has the sizes of an imported layout: under the keys of the given config, or without one under the usual keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mfconv_nb.author.axes import GROUPS, HEAD, HEADS, PARTS, WHOLE_AXES, Facts, facts_of
from mfconv_nb.core.layout import axis_names, parse_layout
from mfconv_nb.core.sizes import UNKNOWN
from mfconv_nb.mapping.rules import Rule

# axis -> sentences over config keys; where a config lacks the number of groups, each head is a group
SENTENCES: Mapping[str, tuple[str, ...]] = {
    HEADS: PARTS[HEADS],
    GROUPS: (*PARTS[GROUPS], *PARTS[HEADS]),
    "group_q": (*PARTS["group_q"], *PARTS[HEAD]),
    "group_k": PARTS[HEAD],
    "group_v": PARTS[HEAD],
    "expert": WHOLE_AXES["expert"],
    "q": WHOLE_AXES["q"],
    "k": WHOLE_AXES["k"],
    "v": WHOLE_AXES["k"],
}


def sizes_for(rules: Iterable[Rule], config: Mapping[str, Any] | None) -> dict[str, str]:
    """The sentence for each axis of some rules whose size a config can give. Other sizes follow from shapes."""
    axes: set[str] = set()
    for rule in rules:
        if rule.layout:
            layout = parse_layout(rule.layout)
            axes |= axis_names(e for side in (layout.left, layout.right) for tensor in side for e in tensor)
    facts = facts_of(config)
    vision = [axis for axis in axes if axis.endswith("_heads")]
    inside = {axis: f"{axis.removesuffix('_heads')}_config.num_attention_heads | {UNKNOWN}" for axis in vision}
    return inside | {axis: sentence for axis in SENTENCES if axis in axes and (sentence := _sentence_for(axis, facts, config))}


def _sentence_for(axis: str, facts: Facts, config: Mapping[str, Any] | None) -> str:
    """The sentence of an axis; without a config all usual ones, and ``?``."""
    sentences = SENTENCES[axis]
    if not config:
        return " | ".join([*sentences, UNKNOWN])
    has = {k.sentence for k in (*facts.parts, *facts.whole)}
    return next((sentence for sentence in sentences if sentence in has), "")
