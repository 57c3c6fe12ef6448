"""DeepSeek-V2, V2-Lite, Coder-V2: latent attention, dense layers first, then routed and shared experts.

Every tensor keeps its own dtype; MindFormers writes norms and router in float32, whatever they were.
Source: MindFormers 1.3.2, `research/deepseek2`, which knows 160 experts only and no way back; `q_proj` of V2-Lite from 1.5.0. Golden case
`deepseek2-bf16-160experts`.
"""

from mfconv_nb.families.llama import EMBEDDING, FINAL_NORM_AND_HEAD, NORMS
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import experts
from mfconv_nb.mapping.rules import Drop, Family, Rule, size_option

LAYER, DENSE, SPARSE = "model.layers.{layer}.", "model.layers.{dense_layer}.", "model.layers.{moe_layer}."
HF, MF = LAYER + "self_attn.", LAYER + "attention."
EXPERT, ROUTED = SPARSE + "mlp.experts.{expert}.", SPARSE + "feed_forward.routed_experts."
SHARED_HF, SHARED = SPARSE + "mlp.shared_experts.", SPARSE + "feed_forward.shared_experts."

SIZES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "nope": "qk_nope_head_dim",
    "rope": "qk_rope_head_dim",
    "value": "v_head_dim",
    "q_rank": "q_lora_rank | 0",
    "direct_q": "not q_lora_rank",  # V2-Lite has no rank for q, but one matrix
    "kv_rank": "kv_lora_rank",
    "ffn": "intermediate_size",
    "expert_ffn": "moe_intermediate_size",
    "shared_ffn": "moe_shared_expert_intermediate_size | n_shared_experts * moe_intermediate_size | moe_intermediate_size",
    "expert": "n_routed_experts",
    "vocab": "vocab_size",
    "layer": "num_hidden_layers",
    "dense_layer": "first_k_dense_replace",
    "moe_layer": "first_k_dense_replace .. num_hidden_layers",
    "tied": "tie_word_embeddings | 0",
}

DENSE_FEED_FORWARD = (
    Rule(DENSE + "mlp.gate_proj.weight", DENSE + "feed_forward.w1.weight", "ffn hidden"),
    Rule(DENSE + "mlp.up_proj.weight", DENSE + "feed_forward.w3.weight", "ffn hidden"),
    Rule(DENSE + "mlp.down_proj.weight", DENSE + "feed_forward.w2.weight", "hidden ffn"),
)

ROUTED_EXPERTS = experts(EXPERT, ROUTED + "ffn.", "expert_ffn", names=("gate_proj", "up_proj", "down_proj"))

SHARED_EXPERTS = (
    Rule(SHARED_HF + "gate_proj.weight", SHARED + "w1.weight", "shared_ffn hidden"),
    Rule(SHARED_HF + "up_proj.weight", SHARED + "w3.weight", "shared_ffn hidden"),
    Rule(SHARED_HF + "down_proj.weight", SHARED + "w2.weight", "hidden shared_ffn"),
)

FAMILY = Family(
    key="deepseek2",
    covers="DeepSeek-V2, V2-Lite, Coder-V2, any number of experts",
    model_types=("deepseek_v2",),
    sizes=SIZES,
    options=(size_option("num_routed_experts", "expert"),),
    rules=(
        *EMBEDDING,
        Rule(HF + "q_proj.weight", MF + "q_proj.weight", "(heads (nope + rope)) hidden", only_if="direct_q"),
        Rule(HF + "q_a_proj.weight", MF + "q2l_proj.weight", "q_rank hidden", only_if="q_rank"),
        Rule(HF + "q_a_layernorm.weight", MF + "lq_norm.weight", "q_rank", only_if="q_rank"),
        Rule(HF + "q_b_proj.weight", MF + "l2q_proj.weight", "(heads (nope + rope)) q_rank", only_if="q_rank"),
        Rule(HF + "kv_a_proj_with_mqa.weight", MF + "kv2l.weight", "(kv_rank + rope) hidden"),
        Rule(HF + "kv_a_layernorm.weight", MF + "lkv_norm.weight", "kv_rank"),
        Rule(HF + "kv_b_proj.weight", MF + "lkv2kv.weight", "(heads (nope + value)) kv_rank"),
        Rule(HF + "o_proj.weight", MF + "wo.weight", "hidden (heads value)"),
        *DENSE_FEED_FORWARD,
        Rule(SPARSE + "mlp.gate.weight", ROUTED + "router.dense.weight", "expert hidden"),
        *ROUTED_EXPERTS,
        *SHARED_EXPERTS,
        *NORMS,
        *FINAL_NORM_AND_HEAD,
        Drop(HF + "rotary_emb.inv_freq", "a buffer that both sides compute from rope_theta"),
    ),
    toy={
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "hidden_act": "silu",
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 176,
        "moe_intermediate_size": 28,
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "q_lora_rank": 40,
        "kv_lora_rank": 44,
        "qk_nope_head_dim": 14,
        "qk_rope_head_dim": 8,
        "v_head_dim": 18,
        "tie_word_embeddings": False,
    },
    source=LLAMA.source,
)
