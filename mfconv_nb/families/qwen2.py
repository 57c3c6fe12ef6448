"""Qwen1.5 and Qwen2 (dense): the Llama table with biases on q, k and v.

Source: MindFormers 1.3.2, `research/qwen2` and `research/qwen1_5`. The golden cases `qwen1_5-*` and `qwen2-*` hold their output.
"""

from dataclasses import replace

from mfconv_nb.families.llama import ATTENTION, EMBEDDING, FEED_FORWARD, FINAL_NORM_AND_HEAD, NORMS, QKV_BIAS, ROTARY_BUFFER, SIZES
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import QWEN_WINDOW
from mfconv_nb.mapping.rules import Family

BIASES = tuple(replace(rule, only_if=None) for rule in QKV_BIAS)

FAMILY = Family(
    key="qwen2",
    covers="Qwen1.5, Qwen2, Qwen2.5 (dense)",
    model_types=("qwen2", "Qwen2"),  # the second: as MindFormers writes it
    same_maths=("seed_oss",),
    windows={"qwen2": QWEN_WINDOW},
    sizes={**SIZES, "attention_bias": "1"},
    rules=(*EMBEDDING, *ATTENTION, *BIASES, *FEED_FORWARD, *NORMS, *FINAL_NORM_AND_HEAD, *ROTARY_BUFFER),
    toy={
        **LLAMA.toy,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": 3,
        "head_dim": 16,
        "rms_norm_eps": 1e-06,
    },
    source=LLAMA.source,
)
