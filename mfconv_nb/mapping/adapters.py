"""LoRA adapters of MindFormers (`tk_delta_lora_a`, `mindpet_delta_lora_a`) under PEFT's names, on the way to Hugging Face.

Each rule is derived from a rule of the family: `wq` stands for `q_proj` in an adapter as in a weight. Where the family's rule makes one
tensor of several, or moves numbers, an adapter of a part has no place on the other side; the plan then says why.
Source: PEFT's names (`lora_A.weight` is rank x in, `lora_B.weight` out x rank); MindPet's names, whose shapes are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mfconv_nb.folding import fold
from mfconv_nb.layout import parse_layout
from mfconv_nb.mapping.names import parse_pattern
from mfconv_nb.mapping.rules import ANYWHERE, AnyRule, Family, Rule, patterns

KINDS = ("tk_delta_lora", "mindpet_delta_lora")
WEIGHT = ".weight"
_ADAPTER = re.compile(r"(.+)\.(?:tk|mindpet)_delta_lora_[ab]")

HINT = "Merge the adapters into the weights before converting, or convert without them: --leave_out '*_lora_*' (leave_out= in Python)."


def with_adapters(family: Family) -> Family:
    """The family with a rule for the adapters of every linear layer that keeps its numbers in place."""
    return family.with_rules((*family.rules, *(a for rule in family.rules for a in _adapters_of(rule))))


def _adapters_of(rule: AnyRule) -> Iterator[Rule]:
    if not isinstance(rule, Rule) or _why_not(rule) is not None:
        return
    hf, mf = (str(name).removesuffix(WEIGHT) for name in (rule.hf, rule.mf))
    for kind in KINDS:
        yield Rule(f"{hf}.lora_A.weight", f"{mf}.{kind}_a", "rank in", optional=ANYWHERE)
        yield Rule(f"{hf}.lora_B.weight", f"{mf}.{kind}_b", "out rank", optional=ANYWHERE)


def _why_not(rule: Rule) -> str | None:
    """Why the adapter of a linear layer cannot be carried by this rule; None where it can."""
    if not isinstance(rule.hf, str) or not isinstance(rule.mf, str):
        fused = rule.hf if isinstance(rule.hf, str) else ", ".join(rule.hf)
        return f"{fused.rpartition('layers.{layer}.')[2]} is not one layer on both sides"
    if not rule.hf.endswith(WEIGHT) or not rule.mf.endswith(WEIGHT):
        return "no linear layer"
    if rule.layout is not None:
        layout = parse_layout(rule.layout)
        if len(layout.left[0]) != 2:
            return "no linear layer"
        if layout.left != layout.right:
            return f"the numbers of {rule.hf} move ({rule.layout})"
    return None


def why_no_adapter(name: str, family: Family) -> tuple[str, str, str] | None:
    """For an adapter that no rule takes: what was found, what would do, and what to do. None for other names."""
    match = _ADAPTER.fullmatch(name)
    if match is None:
        return None
    template, numbers = fold(match[1] + WEIGHT)
    for rule in family.rules:
        if isinstance(rule, Rule):
            for text in patterns(rule.mf):
                pattern = parse_pattern(text.text)
                if pattern.template == template and pattern.match(numbers) is not None:
                    reason = _why_not(rule) or "no rule"
                    return f"an adapter, but {reason}", "an adapter of a layer that is one on both sides", HINT
    return f"an adapter of {match[1]}, which no rule knows", "an adapter of a known layer", HINT
