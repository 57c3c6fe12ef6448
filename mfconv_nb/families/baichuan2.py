"""Baichuan2 (7B, 13B): the Llama table, with q, k and v in one matrix, `W_pack`.

Source: MindFormers 1.3.2, `research/baichuan2`. The golden cases `baichuan2-*` hold its output.
"""

from mfconv_nb.families.llama import EMBEDDING, FEED_FORWARD, FINAL_NORM_AND_HEAD, LAYER, NORMS, OUTPUT, QKV_SIZES, ROTARY_BUFFER, SIZES
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import EQUAL
from mfconv_nb.mapping.rules import Family, Rule

MF = LAYER + "attention."

FAMILY = Family(
    key="baichuan2",
    covers="Baichuan2 7B, 13B",
    model_types=("baichuan",),
    sizes={**SIZES, **QKV_SIZES},
    rules=(
        *EMBEDDING,
        Rule(
            LAYER + "self_attn.W_pack.weight",
            (MF + "wq.weight", MF + "wk.weight", MF + "wv.weight"),
            "(q + k + v) hidden -> q hidden, k hidden, v hidden",
            sizes=EQUAL,
        ),
        *OUTPUT,
        *FEED_FORWARD,
        *NORMS,
        *FINAL_NORM_AND_HEAD,
        *ROTARY_BUFFER,
    ),
    toy={
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "hidden_act": "silu",
        "vocab_size": 331,
        "hidden_size": 96,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "tie_word_embeddings": False,
    },
    source=LLAMA.source,
)
