"""Llama 2, 3, 3.1, 3.2 and Code Llama: every tensor keeps its shape and its numbers, only the names differ.

The head may be tied to the embedding (Llama 3.2): MindFormers always writes it. Old files carry a rotary buffer in every layer.
`qkv_concat` is the form that MindFormers' own concat tool makes of a checkpoint, for inference.
Source: MindFormers 1.3.2, `models/llama`. The golden cases `llama*` and `codellama*` hold its output.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.mapping.rules import Drop, Family, Option, Rule, Tied, Window, when

LAYER = "model.layers.{layer}."

SIZES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "groups": "num_key_value_heads | num_attention_heads",
    "head": "head_dim | hidden_size / num_attention_heads",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "layer": "num_hidden_layers",
    "tied": "tie_word_embeddings | 0",
    "attention_bias": "attention_bias | 0",
    "mlp_bias": "mlp_bias | 0",
}

# the width of the feed-forward by LlamaConfig of MindFormers: two thirds of four times hidden_size, the next multiple of multiple_of
_WIDER = "int((ffn_dim_multiplier + 0.01) * 4 * hidden_size)"
FFN_OF_RUN = " | ".join(
    (
        "intermediate_size",
        *(f"({m} + 2 * {w} // 3 - 1) // {m} * {m}" for m in ("multiple_of", "256") for w in (_WIDER, "(4 * hidden_size)")),
    )
)

# LlamaConfig of MindFormers, whose experts all have the width intermediate_size
LLAMA_CONFIG = RunClass(
    sizes={
        "intermediate_size": FFN_OF_RUN,
        "attention_bias": "attention_bias | qkv_has_bias * attn_proj_has_bias | 0",
        "moe_intermediate_size": f"moe_intermediate_size | {FFN_OF_RUN}",
        "shared_expert_intermediate_size": "shared_expert_intermediate_size | n_shared_experts * intermediate_size",
    },
    unread=("kv_channels",),
)

# rows of q, k and v, where they stand in one matrix
QKV_SIZES = {
    "q": "num_attention_heads * head_dim | hidden_size",
    "k": "num_key_value_heads * head_dim | hidden_size * num_key_value_heads / num_attention_heads | hidden_size",
    "v": "num_key_value_heads * head_dim | hidden_size * num_key_value_heads / num_attention_heads | hidden_size",
}

# rows of q, k and v of one key/value group
GROUP_SIZES = {
    "group_q": "head_dim * num_attention_heads / num_key_value_heads | hidden_size / num_key_value_heads | head_dim",
    "group_k": "head_dim | hidden_size / num_attention_heads",
    "group_v": "head_dim | hidden_size / num_attention_heads",
}

EMBEDDING = (Rule("model.embed_tokens.weight", "model.tok_embeddings.embedding_weight", "vocab hidden"),)

OUTPUT = (Rule(LAYER + "self_attn.o_proj.weight", LAYER + "attention.wo.weight", "hidden (heads head)"),)

QKV = (
    Rule(LAYER + "self_attn.q_proj.weight", LAYER + "attention.wq.weight", "(heads head) hidden"),
    Rule(LAYER + "self_attn.k_proj.weight", LAYER + "attention.wk.weight", "(groups head) hidden"),
    Rule(LAYER + "self_attn.v_proj.weight", LAYER + "attention.wv.weight", "(groups head) hidden"),
)

ATTENTION = (*QKV, *OUTPUT)

QKV_BIAS = (
    Rule(LAYER + "self_attn.q_proj.bias", LAYER + "attention.wq.bias", "(heads head)", only_if="attention_bias"),
    Rule(LAYER + "self_attn.k_proj.bias", LAYER + "attention.wk.bias", "(groups head)", only_if="attention_bias"),
    Rule(LAYER + "self_attn.v_proj.bias", LAYER + "attention.wv.bias", "(groups head)", only_if="attention_bias"),
)

OUTPUT_BIAS = (Rule(LAYER + "self_attn.o_proj.bias", LAYER + "attention.wo.bias", "hidden", only_if="attention_bias"),)

GATE_AND_UP = (
    Rule(LAYER + "mlp.gate_proj.weight", LAYER + "feed_forward.w1.weight", "ffn hidden"),
    Rule(LAYER + "mlp.up_proj.weight", LAYER + "feed_forward.w3.weight", "ffn hidden"),
)

DOWN = (Rule(LAYER + "mlp.down_proj.weight", LAYER + "feed_forward.w2.weight", "hidden ffn"),)

FEED_FORWARD = (*GATE_AND_UP, *DOWN)

FEED_FORWARD_BIAS = (
    Rule(LAYER + "mlp.gate_proj.bias", LAYER + "feed_forward.w1.bias", "ffn", only_if="mlp_bias"),
    Rule(LAYER + "mlp.up_proj.bias", LAYER + "feed_forward.w3.bias", "ffn", only_if="mlp_bias"),
    Rule(LAYER + "mlp.down_proj.bias", LAYER + "feed_forward.w2.bias", "hidden", only_if="mlp_bias"),
)

Q, K, V = (LAYER + f"self_attn.{name}_proj." for name in "qkv")
GATE, UP = LAYER + "mlp.gate_proj.weight", LAYER + "mlp.up_proj.weight"
FUSED, FUSED_GATE = LAYER + "attention.w_qkv.", LAYER + "feed_forward.w_gate_hidden.weight"

CONCATENATED = (
    Rule((Q + "weight", K + "weight", V + "weight"), FUSED + "weight", "q hidden, k hidden, v hidden -> (q + k + v) hidden"),
    Rule((Q + "bias", K + "bias", V + "bias"), FUSED + "bias", "q, k, v -> (q + k + v)", only_if="attention_bias"),
    Rule((GATE, UP), FUSED_GATE, "gate hidden, up hidden -> (gate + up) hidden", sizes={"gate": "ffn", "up": "ffn"}),
)

# from MindFormers 1.5.0 on: q, k and v of a group together, and a row of gate before each row of up
GROUPED = (
    Rule(
        (Q + "weight", K + "weight", V + "weight"),
        FUSED + "weight",
        "(groups group_q) hidden, (groups group_k) hidden, (groups group_v) hidden -> (groups (group_q + group_k + group_v)) hidden",
    ),
    Rule(
        (Q + "bias", K + "bias", V + "bias"),
        FUSED + "bias",
        "(groups group_q), (groups group_k), (groups group_v) -> (groups (group_q + group_k + group_v))",
        only_if="attention_bias",
    ),
    Rule((GATE, UP), FUSED_GATE, "(ffn gate) hidden, (ffn up) hidden -> (ffn (gate + up)) hidden", sizes={"gate": 1, "up": 1}),
)

QKV_CONCAT = Option(
    "qkv_concat",
    (False, True, "grouped"),
    help="q, k, v as one matrix, gate and up too: end to end, or by group (MindFormers 1.5).",
)

NORMS = (
    Rule(LAYER + "input_layernorm.weight", LAYER + "attention_norm.weight", "hidden"),
    Rule(LAYER + "post_attention_layernorm.weight", LAYER + "ffn_norm.weight", "hidden"),
)

FINAL_NORM_AND_HEAD = (
    Rule("model.norm.weight", "model.norm_out.weight", "hidden"),
    Tied("lm_head.weight", "lm_head.weight", same_as="model.embed_tokens.weight", layout="vocab hidden"),
)

ROTARY_BUFFER = (
    Drop(LAYER + "self_attn.rotary_emb.inv_freq", "a buffer that both sides compute from rope_theta"),
    Drop("model.rotary_emb.inv_freq", "the same buffer, once for all layers, as newer dumps have it"),
)

FAMILY = Family(
    key="llama",
    covers="Llama 2, 3, 3.1, 3.2, Code Llama, Mistral",
    model_types=("llama",),
    same_maths=("mistral", "internlm3", "iquestcoder"),
    windows={"mistral": Window(positions_unsaid=131_072)},
    run_classes={"LlamaConfig": LLAMA_CONFIG},
    mf_words=("embedding_weight", ".attention.wq.", ".attention_norm."),
    also=("llama_meta",),
    sizes={**SIZES, **QKV_SIZES, **GROUP_SIZES},
    options=(QKV_CONCAT,),
    rules=(
        *EMBEDDING,
        *when(*QKV, *QKV_BIAS, *GATE_AND_UP, qkv_concat=False),
        *when(*CONCATENATED, qkv_concat=True),
        *when(*GROUPED, qkv_concat="grouped"),
        *OUTPUT,
        *OUTPUT_BIAS,
        *DOWN,
        *FEED_FORWARD_BIAS,
        *NORMS,
        *FINAL_NORM_AND_HEAD,
        *ROTARY_BUFFER,
    ),
    toy={
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 176,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "rope_theta": 10000.0,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    },
    source="MindFormers 1.3.2",
)
