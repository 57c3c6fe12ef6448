"""Words that many tables share: a linear layer with its bias, a normalisation, q, k and v from one matrix. Each stands for a few rules.

No family: a module of this folder counts as one only where it has a `FAMILY`.
"""

from __future__ import annotations

from typing import Any

from mfconv_nb.mapping.rules import Option, Rule, Window

QWEN_WINDOW = Window("use_sliding_window")  # of Qwen2 and Qwen3
EQUAL = {"k": "q", "v": "q"}  # q, k and v have as many rows each: multi-head attention, no groups
DENSE = ("dense1", "dense2", "dense3")  # what MindFormers' older models call q, k and v
NETWORK, CONVERTER = "network", "converter"
NAMED_BY = Option("named_by", (NETWORK, CONVERTER), help="Names as MindFormers' network has them, or as its converter writes them.")


def linear(hf: str, mf: str, out: str, into: str, *, transposed: bool = False, **more: Any) -> tuple[Rule, Rule]:
    """A linear layer's weight (``out into``, as torch keeps it) and bias; ``transposed``: MindFormers keeps the weight input first."""
    layout = f"{out} {into} -> {into} {out}" if transposed else f"{out} {into}"
    return (Rule(f"{hf}.weight", f"{mf}.weight", layout, **more), Rule(f"{hf}.bias", f"{mf}.bias", out, **more))


def norm(hf: str, mf: str, axis: str, *, gain: str = "weight", shift: str = "bias", **more: Any) -> tuple[Rule, Rule]:
    """A layer norm: weight and bias on the Hugging Face side, gamma and beta on the other."""
    return (Rule(f"{hf}.{gain}", f"{mf}.gamma", axis, **more), Rule(f"{hf}.{shift}", f"{mf}.beta", axis, **more))


def qkv(hf: str, mf: str, into: str, *, names: tuple[str, str, str] = DENSE, hf_joint: str = ".") -> tuple[Rule, Rule]:
    """q, k and v as three square row blocks of one matrix, and likewise their bias; apart on the MindFormers side."""
    equal = {"query": into, "key": into, "value": into}
    weights, biases = (tuple(f"{mf}.{name}.{part}" for name in names) for part in ("weight", "bias"))
    return (
        Rule(f"{hf}{hf_joint}weight", weights, f"(query + key + value) {into} -> query {into}, key {into}, value {into}", sizes=equal),
        Rule(f"{hf}{hf_joint}bias", biases, "(query + key + value) -> query, key, value", sizes=equal),
    )


def experts(hf: str, mf: str, ffn: str, *, names: tuple[str, str, str], transposed: bool = False) -> tuple[Rule, Rule, Rule]:
    """Gate, up and down of every expert (``names`` on the Hugging Face side), each stacked into one tensor: w1, w3 and w2."""
    gate, up, down = (f"{hf}{name}.weight" for name in names)
    widening = f"{ffn} hidden -> expert hidden {ffn}" if transposed else f"{ffn} hidden -> expert {ffn} hidden"
    narrowing = f"hidden {ffn} -> expert {ffn} hidden" if transposed else f"hidden {ffn} -> expert hidden {ffn}"
    return (Rule(gate, f"{mf}w1.weight", widening), Rule(up, f"{mf}w3.weight", widening), Rule(down, f"{mf}w2.weight", narrowing))
