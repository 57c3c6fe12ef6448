"""Llama 2, 3, 3.1, 3.2 and Code Llama: every tensor keeps its shape and its numbers, only the names differ.

The head may be tied to the embedding (Llama 3.2): MindFormers always writes it. Old files carry a rotary buffer in every layer.
Source: MindFormers 1.3.2, `models/llama`. The golden cases `llama*` and `codellama*` hold its output.
"""

from mfconv_nb.mapping.rules import Drop, Family, Rule, Tied

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

EMBEDDING = (Rule("model.embed_tokens.weight", "model.tok_embeddings.embedding_weight", "vocab hidden"),)

ATTENTION = (
    Rule(LAYER + "self_attn.q_proj.weight", LAYER + "attention.wq.weight", "(heads head) hidden"),
    Rule(LAYER + "self_attn.k_proj.weight", LAYER + "attention.wk.weight", "(groups head) hidden"),
    Rule(LAYER + "self_attn.v_proj.weight", LAYER + "attention.wv.weight", "(groups head) hidden"),
    Rule(LAYER + "self_attn.o_proj.weight", LAYER + "attention.wo.weight", "hidden (heads head)"),
)

ATTENTION_BIAS = (
    Rule(LAYER + "self_attn.q_proj.bias", LAYER + "attention.wq.bias", "(heads head)", only_if="attention_bias"),
    Rule(LAYER + "self_attn.k_proj.bias", LAYER + "attention.wk.bias", "(groups head)", only_if="attention_bias"),
    Rule(LAYER + "self_attn.v_proj.bias", LAYER + "attention.wv.bias", "(groups head)", only_if="attention_bias"),
    Rule(LAYER + "self_attn.o_proj.bias", LAYER + "attention.wo.bias", "hidden", only_if="attention_bias"),
)

FEED_FORWARD = (
    Rule(LAYER + "mlp.gate_proj.weight", LAYER + "feed_forward.w1.weight", "ffn hidden"),
    Rule(LAYER + "mlp.up_proj.weight", LAYER + "feed_forward.w3.weight", "ffn hidden"),
    Rule(LAYER + "mlp.down_proj.weight", LAYER + "feed_forward.w2.weight", "hidden ffn"),
)

FEED_FORWARD_BIAS = (
    Rule(LAYER + "mlp.gate_proj.bias", LAYER + "feed_forward.w1.bias", "ffn", only_if="mlp_bias"),
    Rule(LAYER + "mlp.up_proj.bias", LAYER + "feed_forward.w3.bias", "ffn", only_if="mlp_bias"),
    Rule(LAYER + "mlp.down_proj.bias", LAYER + "feed_forward.w2.bias", "hidden", only_if="mlp_bias"),
)

NORMS = (
    Rule(LAYER + "input_layernorm.weight", LAYER + "attention_norm.weight", "hidden"),
    Rule(LAYER + "post_attention_layernorm.weight", LAYER + "ffn_norm.weight", "hidden"),
)

FINAL_NORM_AND_HEAD = (
    Rule("model.norm.weight", "model.norm_out.weight", "hidden"),
    Tied("lm_head.weight", "lm_head.weight", same_as="model.embed_tokens.weight", layout="vocab hidden"),
)

ROTARY_BUFFER = (Drop(LAYER + "self_attn.rotary_emb.inv_freq", "a buffer that both sides compute from rope_theta"),)

FAMILY = Family(
    key="llama",
    covers="Llama 2, 3, 3.1, 3.2, Code Llama",
    model_types=("llama",),
    sizes=SIZES,
    rules=(
        *EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIAS,
        *FEED_FORWARD,
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
