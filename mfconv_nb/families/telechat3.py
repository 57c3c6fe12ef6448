"""TeleChat3 (dense, 36B) in MindFormers' mcore layout: Llama's names on the Hugging Face side, q, k and v as one matrix on the other.

Norms of the heads of q and k go along where a checkpoint has them. The way back of MindFormers' own script, which writes the older
layout, is broken; the key `llama` has that layout, and a golden case for it (`telechat3_research_f32`).
Source: MindFormers 2.1.0, `models/telechat3`: its `weight_mapping`, and its training class. No case for this layout of a dense model.
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
from mfconv_nb.mapping.rules import ALL_OR_NONE, Family

FAMILY = Family(
    key="telechat3",
    covers="TeleChat3 36B (dense)",
    model_types=("telechat3",),
    told_as="llama",
    sizes=SIZES,
    options=(CONTIGUOUS_ATTENTION, INTERLEAVED_MLP),
    rules=(
        *EMBEDDING_AND_HEAD,
        *attention(),
        *attention_bias(),
        NO_OUTPUT_BIAS,
        *head_norms(optional=ALL_OR_NONE),
        *mlp(HF + "mlp.", MF + "mlp.", "ffn"),
        *norms(),
        *FINAL_NORM,
    ),
    toy={**LLAMA.toy, "architectures": ["TeleChat3ForCausalLM"], "model_type": "telechat3", "num_hidden_layers": 3},
    source=SOURCE,
)
