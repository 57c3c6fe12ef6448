"""Families that exist only here: one for each kind of movement, and one with the names and the size of DeepSeek-V3.

A family with its own name for each layout keeps what is measured apart from the real families, which may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mfconv_nb.mapping.rules import Family, Rule

# ---- one kind of movement each -----------------------------------------------------------------------------------------

_SIZES = {
    "layer": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "q": "hidden_size / num_attention_heads",
    "k": "hidden_size / num_attention_heads",
    "v": "hidden_size / num_attention_heads",
    "expert": "num_experts",
}
_HF, _MF = "model.layers.{layer}.", "layers.{layer}."
_QKV = (_MF + "wq.weight", _MF + "wk.weight", _MF + "wv.weight")


def _family(key: str, rule: Rule) -> Family:
    return Family(key=f"bench-{key}", covers="a benchmark", sizes=_SIZES, rules=(rule,))


LAYOUTS: Mapping[str, Family] = MappingProxyType(
    {
        "transposed": _family("transposed", Rule(_HF + "weight", _MF + "weight", "ffn hidden -> hidden ffn")),
        "heads": _family(
            "heads", Rule(_HF + "qkv.weight", _QKV, "(heads (q + k + v)) hidden -> (heads q) hidden, (heads k) hidden, (heads v) hidden")
        ),
        "conv1d": _family(
            "conv1d",
            Rule(
                _HF + "qkv.weight",
                _QKV,
                "hidden (heads q + heads k + heads v) -> (heads q) hidden, (heads k) hidden, (heads v) hidden",
            ),
        ),
        "experts": _family("experts", Rule(_HF + "experts.{expert}.weight", _MF + "experts.weight", "ffn hidden -> expert ffn hidden")),
        "experts-transposed": _family(
            "experts-transposed", Rule(_HF + "experts.{expert}.weight", _MF + "experts.weight", "ffn hidden -> expert hidden ffn")
        ),
    }
)

WORDS = {
    "transposed": "transposed",
    "heads": "q, k, v split a head",
    "conv1d": "transposed and q, k, v split",
    "experts": "experts stacked",
    "experts-transposed": "experts stacked and transposed",
}


def layout_config(key: str, size: int) -> dict[str, int]:
    """A config for one of ``LAYOUTS`` whose bf16 weights come to about ``size`` bytes. Axes are as wide as in models of 7B and more."""
    hidden, experts = (4096, 16) if size >= 2_000_000_000 else (1024, 4)
    config = {"hidden_size": hidden, "intermediate_size": hidden * 7 // 2, "num_attention_heads": hidden // 128, "num_experts": experts}
    rows = 3 * hidden if key in ("heads", "conv1d") else config["intermediate_size"]
    layer = 2 * hidden * rows * (experts if key.startswith("experts") else 1)
    return {**config, "num_hidden_layers": max(1, size // layer)}


# ---- DeepSeek-V3's names and shapes ------------------------------------------------------------------------------------

BIG_CONFIG: Mapping[str, int] = MappingProxyType(
    {
        "layer": 59,  # each with experts, so that the tensors come to 91,925
        "expert": 256,
        "hidden": 7168,
        "vocab": 129280,
        "q_rank": 1536,
        "kv_rank": 512,
        "kv_and_rope": 576,
        "queries": 24576,
        "keys_and_values": 32768,
        "values": 16384,
        "ffn": 2048,
        # one float32 scale a 128 x 128 block of float8
        "hidden_blocks": 56,
        "q_rank_blocks": 12,
        "kv_rank_blocks": 4,
        "kv_and_rope_blocks": 5,
        "queries_blocks": 192,
        "keys_and_values_blocks": 256,
        "values_blocks": 128,
        "ffn_blocks": 16,
    }
)
BIG_SHARDS = 163


def _scaled(hf: str, mf: str, rows: str, columns: str, layout: str = "{0} {1}") -> tuple[Rule, Rule]:
    """A float8 matrix and its scales."""
    scales = layout.format(f"{rows}_blocks", f"{columns}_blocks")
    return (
        Rule(f"{_HF}{hf}.weight", f"{_MF}{mf}.weight", layout.format(rows, columns)),
        Rule(f"{_HF}{hf}.weight_scale_inv", f"{_MF}{mf}.weight_scale_inv", scales),
    )


_STACKED = "{0} {1} -> expert {1} {0}"
BIG = Family(
    key="bench-deepseek",
    covers="a benchmark",
    sizes={key: key for key in BIG_CONFIG},
    rules=(
        Rule("model.embed_tokens.weight", "model.tok_embeddings.embedding_weight", "vocab hidden"),
        *_scaled("self_attn.q_a_proj", "attention.q2l_proj", "q_rank", "hidden"),
        *_scaled("self_attn.q_b_proj", "attention.l2q_proj", "queries", "q_rank"),
        *_scaled("self_attn.kv_a_proj_with_mqa", "attention.kv2l", "kv_and_rope", "hidden"),
        *_scaled("self_attn.kv_b_proj", "attention.lkv2kv", "keys_and_values", "kv_rank"),
        *_scaled("self_attn.o_proj", "attention.wo", "hidden", "values"),
        Rule(_HF + "self_attn.q_a_layernorm.weight", _MF + "attention.lq_norm.weight", "q_rank"),
        Rule(_HF + "self_attn.kv_a_layernorm.weight", _MF + "attention.lkv_norm.weight", "kv_rank"),
        Rule(_HF + "input_layernorm.weight", _MF + "attention_norm.weight", "hidden"),
        Rule(_HF + "post_attention_layernorm.weight", _MF + "ffn_norm.weight", "hidden"),
        Rule(_HF + "mlp.gate.weight", _MF + "feed_forward.router.dense.weight", "expert hidden"),
        Rule(_HF + "mlp.gate.e_score_correction_bias", _MF + "feed_forward.router.bias", "expert"),
        *_scaled("mlp.shared_experts.gate_proj", "feed_forward.shared.w1", "ffn", "hidden"),
        *_scaled("mlp.shared_experts.up_proj", "feed_forward.shared.w3", "ffn", "hidden"),
        *_scaled("mlp.shared_experts.down_proj", "feed_forward.shared.w2", "hidden", "ffn"),
        *_scaled("mlp.experts.{expert}.gate_proj", "feed_forward.experts.w1", "ffn", "hidden", _STACKED),
        *_scaled("mlp.experts.{expert}.up_proj", "feed_forward.experts.w3", "ffn", "hidden", _STACKED),
        *_scaled("mlp.experts.{expert}.down_proj", "feed_forward.experts.w2", "hidden", "ffn", _STACKED),
        Rule("model.norm.weight", "model.norm_out.weight", "hidden"),
        Rule("lm_head.weight", "lm_head.weight", "vocab hidden"),
    ),
)


def big_dtype(name: str) -> str:
    """Float8 with float32 scales in the matrices of the layers, bfloat16 elsewhere: as on the hub."""
    if name.endswith(("scale_inv", "correction_bias")):
        return "F32"
    return "F8_E4M3" if "proj" in name else "BF16"
