"""A family that no model has: every kind of rule and layout at once, and what its tensors are on the MindFormers side, by numpy.

All axis sizes differ, so that a swapped axis changes a shape or a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from mfconv_nb.rules import Drop, Family, Rule, Tied
from tests.support import Array, numbered

HF, MF = "model.layers.{layer}.", "layers.{layer}."

CONFIG: dict[str, Any] = {
    "model_type": "mixed",
    "layers": 2,
    "hidden": 10,
    "heads": 3,
    "head": 6,
    "groups": 2,
    "q_rows": 9,
    "k_rows": 4,
    "v_rows": 5,
    "ffn": 8,
    "shared": 7,
    "experts": 3,
    "vocab": 23,
    "kernel": 2,
    "tied": False,
    "with_bias": False,
}

FAMILY = Family(
    key="mixed",
    covers="nothing that exists",
    model_types=("mixed",),
    sizes={
        "layer": "layers",
        "hidden": "hidden",
        "heads": "heads",
        "head": "head",
        "groups": "groups",
        "q": "q_rows",
        "k": "k_rows",
        "v": "v_rows",
        "ffn": "ffn",
        "gate": "ffn",
        "up": "ffn",
        "shared": "shared",
        "expert": "experts",
        "vocab": "vocab",
        "kernel": "kernel",
        "tied": "tied | 0",
        "with_bias": "with_bias | 0",
    },
    rules=(
        Rule("model.embed.weight", "embedding.table", "vocab hidden"),
        Rule(
            HF + "attn.W_pack.weight",
            (MF + "wq.weight", MF + "wk.weight", MF + "wv.weight"),
            "(q + k + v) hidden -> q hidden, k hidden, v hidden",
        ),
        Rule(HF + "attn.W_pack.bias", (MF + "wq.bias", MF + "wk.bias", MF + "wv.bias"), "(q + k + v) -> q, k, v", only_if="with_bias"),
        Rule(
            HF + "cross.query_key_value.weight",
            (MF + "cross.wq.weight", MF + "cross.wkv.weight"),
            "(groups (q + k + v)) hidden -> (groups q) hidden, (groups (k + v)) hidden",
        ),
        Rule(HF + "attn.o_proj.weight", MF + "wo.weight", "(heads head) hidden -> hidden (heads head)"),
        Rule(HF + "attn.rope.weight", MF + "rope.weight", "(heads half pair) hidden -> (heads pair half) hidden", sizes={"pair": 2}),
        Rule(HF + "attn.conv.weight", MF + "conv.weight", "head hidden kernel -> head hidden 1 kernel"),
        Rule(
            (HF + "experts.{expert}.gate.weight", HF + "experts.{expert}.up.weight"),
            MF + "experts.w13",
            "gate hidden, up hidden -> (expert hidden) (gate + up)",
        ),
        Rule(HF + "experts.{expert}.down.weight", MF + "experts.w2", "hidden ffn -> expert ffn hidden"),
        Rule(
            (HF + "shared.gate.weight", HF + "shared.up.weight"),
            MF + "shared.w13",
            "(shared gate) hidden, (shared up) hidden -> (shared (gate + up)) hidden",
            sizes={"gate": 1, "up": 1},
        ),
        Rule(HF + "router.bias", MF + "router.correction", "expert", dtype="F32"),
        Rule(HF + "positions", MF + "position_table", "heads kernel"),
        Rule("model.norm.weight", "norm_out.weight", "hidden"),
        Rule("model.scale", "scale"),
        Tied("head.weight", "output.weight", same_as="model.embed.weight", layout="vocab hidden"),
        Drop(HF + "attn.inv_freq", "both sides compute it"),
    ),
    toy=CONFIG,
)


def hugging_face(dtype: Any = np.float32, **config: Any) -> dict[str, Array]:
    """Every tensor of the Hugging Face side. No number is twice in a tensor (in fp32), none is in two tensors."""
    c = {**CONFIG, **config}
    made: dict[str, Array] = {}

    def add(name: str, *shape: int, dtype: Any = dtype) -> None:
        made[name] = numbered(*shape, dtype=dtype, first=1000 * len(made))

    add("model.embed.weight", c["vocab"], c["hidden"])
    for n in range(c["layers"]):
        at = f"model.layers.{n}."
        fused = c["q_rows"] + c["k_rows"] + c["v_rows"]
        add(at + "attn.W_pack.weight", fused, c["hidden"])
        if c["with_bias"]:
            add(at + "attn.W_pack.bias", fused)
        add(at + "cross.query_key_value.weight", c["groups"] * fused, c["hidden"])
        add(at + "attn.o_proj.weight", c["heads"] * c["head"], c["hidden"])
        add(at + "attn.rope.weight", c["heads"] * 4 * 2, c["hidden"])
        add(at + "attn.conv.weight", c["head"], c["hidden"], c["kernel"])
        for e in range(c["experts"]):
            add(at + f"experts.{e}.gate.weight", c["ffn"], c["hidden"])
            add(at + f"experts.{e}.up.weight", c["ffn"], c["hidden"])
            add(at + f"experts.{e}.down.weight", c["hidden"], c["ffn"])
        add(at + "shared.gate.weight", c["shared"], c["hidden"])
        add(at + "shared.up.weight", c["shared"], c["hidden"])
        add(at + "router.bias", c["experts"], dtype=np.float32)
        add(at + "positions", c["heads"], c["kernel"], dtype=np.int64)
        add(at + "attn.inv_freq", 3, dtype=np.float32)
    add("model.norm.weight", c["hidden"])
    add("model.scale")
    if not c["tied"]:
        add("head.weight", c["vocab"], c["hidden"])
    return made


def mindformers(hf: Mapping[str, Array], **config: Any) -> dict[str, Array]:
    """The same numbers on the MindFormers side, as numpy says it: no word of the notation is used."""
    c = {**CONFIG, **config}
    q, k, v, hidden, heads = c["q_rows"], c["k_rows"], c["v_rows"], c["hidden"], c["heads"]
    made = {"embedding.table": hf["model.embed.weight"], "norm_out.weight": hf["model.norm.weight"], "scale": hf["model.scale"]}
    made["output.weight"] = hf.get("head.weight", hf["model.embed.weight"])
    for n in range(c["layers"]):
        at, to = f"model.layers.{n}.", f"layers.{n}."
        for part in ("weight", "bias")[: 1 + bool(c["with_bias"])]:
            fused = hf[f"{at}attn.W_pack.{part}"]
            made |= {f"{to}wq.{part}": fused[:q], f"{to}wk.{part}": fused[q : q + k], f"{to}wv.{part}": fused[q + k :]}
        grouped = hf[at + "cross.query_key_value.weight"].reshape(c["groups"], q + k + v, hidden)
        made[to + "cross.wq.weight"] = grouped[:, :q].reshape(-1, hidden)
        made[to + "cross.wkv.weight"] = grouped[:, q:].reshape(-1, hidden)
        made[to + "wo.weight"] = hf[at + "attn.o_proj.weight"].T
        rope = hf[at + "attn.rope.weight"]
        made[to + "rope.weight"] = rope.reshape(heads, 4, 2, hidden).swapaxes(1, 2).reshape(rope.shape)
        made[to + "conv.weight"] = hf[at + "attn.conv.weight"][:, :, None]
        experts = range(c["experts"])
        side_by_side = [np.concatenate([hf[f"{at}experts.{e}.{w}.weight"].T for w in ("gate", "up")], axis=1) for e in experts]
        made[to + "experts.w13"] = np.concatenate(side_by_side)
        made[to + "experts.w2"] = np.stack([hf[f"{at}experts.{e}.down.weight"].T for e in experts])
        gate, up = hf[at + "shared.gate.weight"], hf[at + "shared.up.weight"]
        made[to + "shared.w13"] = np.stack([gate, up], axis=1).reshape(-1, hidden)
        made[to + "router.correction"] = hf[at + "router.bias"].astype(np.float32)
        made[to + "position_table"] = hf[at + "positions"]
    return made


def noise(tensors: Mapping[str, Array], dtype: Any = ml_dtypes.bfloat16) -> dict[str, Array]:
    """The same names and shapes with random bits in them, NaN and all: for proofs about bytes."""
    random = np.random.default_rng(7)

    def bits(a: Array) -> Array:
        kind = np.dtype(dtype) if a.dtype == np.float32 and a.ndim > 1 else a.dtype
        return np.frombuffer(random.bytes(a.size * kind.itemsize), kind).reshape(a.shape)

    return {n: bits(a) for n, a in tensors.items()}
