"""Qwen (the first): q, k and v in one matrix. This key also stands for Qwen1.5, Qwen2 and their mixtures of experts.

`w2` is the gate in Qwen's feed-forward, which MindFormers calls `w3`. `intermediate_size` in its config counts gate and up together.
Source: MindFormers 1.3.2, `research/qwen`; its way back leaves the weights of q, k and v apart, ours joins them. Golden cases `qwen-*`.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import EQUAL
from mfconv_nb.mapping.rules import Drop, Family, Rule

HF, MF = "transformer.h.{layer}.", "transformer.layers.{layer}."

SIZES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "q": "num_attention_heads * kv_channels | hidden_size",
    "k": "num_attention_heads * kv_channels | hidden_size",
    "v": "num_attention_heads * kv_channels | hidden_size",
    "ffn": "intermediate_size / 2",
    "vocab": "vocab_size",
    "layer": "num_hidden_layers",
}

FUSED_QKV = (
    Rule(
        HF + "attn.c_attn.weight",
        (MF + "attention.wq.weight", MF + "attention.wk.weight", MF + "attention.wv.weight"),
        "(q + k + v) hidden -> q hidden, k hidden, v hidden",
        sizes=EQUAL,
    ),
    Rule(
        HF + "attn.c_attn.bias",
        (MF + "attention.wq.bias", MF + "attention.wk.bias", MF + "attention.wv.bias"),
        "(q + k + v) -> q, k, v",
        sizes=EQUAL,
    ),
)

REST = (
    Rule("transformer.wte.weight", "transformer.wte.embedding_weight", "vocab hidden"),
    Rule(HF + "ln_1.weight", MF + "attention_norm.weight", "hidden"),
    Rule(HF + "attn.c_proj.weight", MF + "attention.wo.weight", "hidden q"),
    Rule(HF + "ln_2.weight", MF + "ffn_norm.weight", "hidden"),
    Rule(HF + "mlp.w1.weight", MF + "feed_forward.w1.weight", "ffn hidden"),
    Rule(HF + "mlp.w2.weight", MF + "feed_forward.w3.weight", "ffn hidden"),
    Rule(HF + "mlp.c_proj.weight", MF + "feed_forward.w2.weight", "hidden ffn"),
    Rule("transformer.ln_f.weight", "transformer.ln_f.weight", "hidden"),
    Rule("lm_head.weight", "lm_head.weight", "vocab hidden"),
    Drop("transformer.rotary_emb.inv_freq", "a buffer that both sides compute from rotary_emb_base"),
)

FAMILY = Family(
    key="qwen",
    covers="Qwen 1.8B, 7B, 14B, 72B",
    model_types=("qwen",),
    also=("qwen2", "qwen2-moe"),
    run_classes={"QwenConfig": RunClass({"intermediate_size": "2 * intermediate_size"})},
    sizes=SIZES,
    rules=(*FUSED_QKV, *REST),
    toy={
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 352,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "kv_channels": 20,
        "no_bias": True,
        "tie_word_embeddings": False,
    },
    source=LLAMA.source,
)
