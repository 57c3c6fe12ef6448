"""Qwen1.5 as MindFormers' own script for it writes it: the Qwen2 table, but a tied head is not written out.

Source: MindFormers 1.3.2, `research/qwen1_5`. The golden cases `qwen1_5-bf16-st` and `qwen2-05b-tied-bf16` hold its output.
"""

from mfconv_nb.families.qwen2 import FAMILY as QWEN2
from mfconv_nb.mapping.rules import Rule, Tied, derive_family

FAMILY = derive_family(
    QWEN2,
    key="qwen1_5",
    covers="Qwen1.5 (dense)",
    told_as="qwen2",
    sizes={**QWEN2.sizes, "untied": "not tie_word_embeddings"},
    rules=(
        *(rule for rule in QWEN2.rules if not isinstance(rule, Tied)),
        Rule("lm_head.weight", "lm_head.weight", "vocab hidden", only_if="untied", same_as="model.embed_tokens.weight"),
    ),
)
