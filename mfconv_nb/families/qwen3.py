"""Qwen3 (dense), in MindFormers' mcore layout: q, k and v become one matrix, gate and up too, and the heads of q and k have norms.

Source: MindFormers 2.1.0, `models/qwen3`: its `weight_converters`, and `convert_weight_dict` of its training class. Golden cases
`qwen3_*`.
"""

from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.words.mcore import (
    CONTIGUOUS_ATTENTION,
    EMBEDDING_AND_HEAD,
    FINAL_NORM,
    HF,
    INTERLEAVED_MLP,
    MF,
    NO_OUTPUT_BIAS,
    SIZES,
    SOURCE,
    attention,
    attention_bias,
    head_norms,
    mlp,
    norms,
)
from mfconv_nb.families.words.shorthand import QWEN_WINDOW
from mfconv_nb.mapping.rules import Family

FAMILY = Family(
    key="qwen3",
    covers="Qwen3 (dense)",
    model_types=("qwen3",),
    windows={"qwen3": QWEN_WINDOW},
    mf_words=("linear_qkv",),
    sizes=SIZES,
    options=(CONTIGUOUS_ATTENTION, INTERLEAVED_MLP),
    rules=(
        *EMBEDDING_AND_HEAD,
        *attention(),
        *attention_bias(),
        NO_OUTPUT_BIAS,
        *head_norms(),
        *mlp(HF + "mlp.", MF + "mlp.", "ffn"),
        *norms(),
        *FINAL_NORM,
    ),
    toy={
        **LLAMA.toy,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_hidden_layers": 3,
        "rms_norm_eps": 1e-06,
    },
    source=SOURCE,
)
