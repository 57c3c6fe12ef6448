"""Qwen1.5, Qwen2 and Qwen2.5 (dense) in MindFormers' mcore layout: q, k and v become one matrix with a bias, gate and up another one.

Hugging Face names lead to `qwen2`, the older layout, unless the caller gives this key; MindFormers' names differ. MindFormers runs this
layout for inference only, so the values of inference are the default.
Source: MindFormers 2.1.0, `models/qwen2`: its `weight_mapping`, and the functions that join tensors. No way back; ours is the inverse.
Golden case `qwen2_5_mix_f32`.
"""

from dataclasses import replace

from mfconv_nb.families.qwen2 import FAMILY as QWEN2
from mfconv_nb.families.words.mcore import (
    CONTIGUOUS_ATTENTION,
    EMBEDDING_AND_HEAD,
    FINAL_NORM,
    HF,
    INTERLEAVED_MLP,
    MF,
    SIZES,
    SOURCE,
    attention,
    attention_bias,
    mlp,
    norms,
    prefer_inference,
)
from mfconv_nb.mapping.rules import Family, Rule

FAMILY = Family(
    key="qwen2-mcore",
    covers="Qwen1.5, Qwen2, Qwen2.5 (dense), mcore",
    model_types=("qwen2", "Qwen2"),  # the second: as MindFormers writes it
    told_as="qwen2",
    sizes={**SIZES, "attention_bias": "1"},
    options=(prefer_inference(CONTIGUOUS_ATTENTION), prefer_inference(INTERLEAVED_MLP)),
    rules=(
        *EMBEDDING_AND_HEAD,
        *attention(),
        *(replace(rule, only_if=None) for rule in attention_bias() if isinstance(rule, Rule)),
        *mlp(HF + "mlp.", MF + "mlp.", "ffn"),
        *norms(),
        *FINAL_NORM,
    ),
    toy=QWEN2.toy,
    source=SOURCE,
)
