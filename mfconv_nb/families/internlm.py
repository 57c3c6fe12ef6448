"""InternLM 7B, 20B: the Llama table with biases in the attention of 7B. MindFormers keeps the rotary buffer under its own name.

Source: MindFormers 1.3.2, `research/internlm`. The golden cases `internlm-*` hold its output.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.llama import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD,
    FFN_OF_RUN,
    FINAL_NORM_AND_HEAD,
    LAYER,
    NORMS,
    OUTPUT_BIAS,
    QKV_BIAS,
    SIZES,
)
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.mapping.rules import ALL_OR_NONE, Family, Rule

FAMILY = Family(
    key="internlm",
    covers="InternLM 7B, 20B",
    model_types=("internlm",),
    told_as="llama",
    run_classes={
        "InternLMConfig": RunClass({"intermediate_size": FFN_OF_RUN, "bias": "has_bias | 1"}, unread=("kv_channels",)),
    },
    sizes={**SIZES, "attention_bias": "bias | 0"},
    rules=(
        *EMBEDDING,
        *ATTENTION,
        *QKV_BIAS,
        *OUTPUT_BIAS,
        *FEED_FORWARD,
        *NORMS,
        *FINAL_NORM_AND_HEAD,
        Rule(LAYER + "self_attn.rotary_emb.inv_freq", LAYER + "self_attn.rotary_emb.inv_freq", "half_head", optional=ALL_OR_NONE),
    ),
    toy={
        "architectures": ["InternLMForCausalLM"],
        "model_type": "internlm",
        "hidden_act": "silu",
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "bias": True,
        "tie_word_embeddings": False,
    },
    source=LLAMA.source,
)
