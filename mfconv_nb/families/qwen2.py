"""Qwen1.5 and Qwen2 (dense): the Llama table with biases on q, k and v.

Source: MindFormers 1.3.2, `research/qwen2` and `research/qwen1_5`, and `research/qwen2_5` of July 2026, which has `qkv_concat`. The golden
cases `qwen1_5-*`, `qwen2-*` and `qwen2_5_research_*` hold their output.
"""

from dataclasses import replace

from mfconv_nb.families.llama import (
    CONCATENATED,
    DOWN,
    EMBEDDING,
    FINAL_NORM_AND_HEAD,
    GATE_AND_UP,
    GROUP_SIZES,
    GROUPED,
    NORMS,
    OUTPUT,
    QKV,
    QKV_BIAS,
    QKV_SIZES,
    ROTARY_BUFFER,
    SIZES,
)
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.shorthand import QWEN_WINDOW
from mfconv_nb.mapping.rules import Family, Option, Rule, when

# MindFormers' flag for this model joins by group; that of Llama once joined end to end, which is what True means there
CONCAT = Option(
    "qkv_concat",
    (False, True, "end_to_end"),
    help="q, k, v as one matrix, gate and up too: by group, as MindFormers' flag joins them; or end to end (MindFormers 1.3).",
)


def always(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The same rules whatever the config says: these models always have the biases."""
    return tuple(replace(rule, only_if=None) for rule in rules)


BIASES = always(QKV_BIAS)

FAMILY = Family(
    key="qwen2",
    covers="Qwen1.5, Qwen2, Qwen2.5 (dense)",
    model_types=("qwen2", "Qwen2"),  # the second: as MindFormers writes it
    same_maths=("seed_oss",),
    windows={"qwen2": QWEN_WINDOW},
    sizes={**SIZES, **QKV_SIZES, **GROUP_SIZES},
    options=(CONCAT,),
    rules=(
        *EMBEDDING,
        *when(*QKV, *BIASES, *GATE_AND_UP, qkv_concat=False),
        *when(*always(GROUPED), qkv_concat=True),
        *when(*always(CONCATENATED), qkv_concat="end_to_end"),
        *OUTPUT,
        *DOWN,
        *NORMS,
        *FINAL_NORM_AND_HEAD,
        *ROTARY_BUFFER,
    ),
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
