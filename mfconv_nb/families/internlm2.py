"""InternLM2 1.8B, 7B, 20B: q, k and v in one matrix, a key/value group at a time; MindFormers takes it as it is or split.

Source: MindFormers 1.3.2, `research/internlm2`; its way back is broken, ours is the inverse. Golden cases `internlm2-*`.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.llama import GROUP_SIZES, LAYER
from mfconv_nb.mapping.rules import Drop, Family, Option, Rule, Tied, when

ATTENTION = LAYER + "attention."
WQKV, FUSED = ATTENTION + "wqkv.weight", "(groups (group_q + group_k + group_v)) hidden"

FAMILY = Family(
    key="internlm2",
    covers="InternLM2 1.8B, 7B, 20B",
    model_types=("internlm2",),
    sizes={
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "head": "hidden_size / num_attention_heads",
        "groups": "num_key_value_heads | num_attention_heads",
        **GROUP_SIZES,
        "ffn": "intermediate_size",
        "vocab": "vocab_size",
        "layer": "num_hidden_layers",
        "tied": "tie_word_embeddings | 0",
    },
    options=(Option("qkv_concat", (True, False), help="Keep q, k and v in one matrix."),),
    rules=(
        Rule("model.tok_embeddings.weight", "model.tok_embeddings.embedding_weight", "vocab hidden"),
        *when(Rule(WQKV, ATTENTION + "w.weight", FUSED), qkv_concat=True),
        *when(
            Rule(
                WQKV,
                (ATTENTION + "wq.weight", ATTENTION + "wk.weight", ATTENTION + "wv.weight"),
                f"{FUSED} -> (groups group_q) hidden, (groups group_k) hidden, (groups group_v) hidden",
            ),
            qkv_concat=False,
        ),
        Rule(ATTENTION + "wo.weight", ATTENTION + "wo.weight", "hidden (heads head)"),
        Rule(LAYER + "feed_forward.w1.weight", LAYER + "feed_forward.w1.weight", "ffn hidden"),
        Rule(LAYER + "feed_forward.w3.weight", LAYER + "feed_forward.w3.weight", "ffn hidden"),
        Rule(LAYER + "feed_forward.w2.weight", LAYER + "feed_forward.w2.weight", "hidden ffn"),
        Rule(LAYER + "attention_norm.weight", LAYER + "attention_norm.weight", "hidden"),
        Rule(LAYER + "ffn_norm.weight", LAYER + "ffn_norm.weight", "hidden"),
        Rule("model.norm.weight", "model.norm_out.weight", "hidden"),
        Tied("output.weight", "lm_head.weight", same_as="model.tok_embeddings.weight", layout="vocab hidden"),
        Drop(ATTENTION + "rotary_emb.inv_freq", "a buffer that both sides compute from rope_theta"),
    ),
    toy={
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "hidden_act": "silu",
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "bias": False,
        "tie_word_embeddings": False,
    },
    source=LLAMA.source,
)
