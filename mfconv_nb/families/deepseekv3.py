"""DeepSeek-V3, R1 in MindFormers' mcore layout: latent attention in one of four forms, gate and up joined, experts in two tensors, and the
layer that predicts a further token (MTP) in a place of its own. `deepseek3` is the same model in the older layout. GLM-4.7-Flash
(`glm4_moe_lite`) computes the same. Kimi-K2 is published with DeepSeek-V3's class and a model type of its own, `kimi_k2`.

Each tensor keeps its own dtype. In released checkpoints the embedding and the head of the MTP layer are copies; others are refused.
Source: MindFormers of July 2026, `toolkit/weight_convert/deepseekv3`, and `models/deepseek3` of 2.1.0. Golden cases
`deepseek_v3_toolkit_*`. For the forms see `words/latent.py`.
"""

from mfconv_nb.families.deepseek2 import SIZES as DEEPSEEK2_SIZES
from mfconv_nb.families.deepseek3 import FAMILY as DEEPSEEK3
from mfconv_nb.families.deepseek3 import WITH_MTP
from mfconv_nb.families.words.latent import GRAPH, JOINED, WITH_Q_RANK, latent_attention, mixture, mlp
from mfconv_nb.families.words.latent import SIZES as ROTARY_SIZES
from mfconv_nb.families.words.mcore import (
    EMBEDDING_AND_HEAD,
    EXPERTS_2D,
    FINAL_NORM,
    INTERLEAVED_MLP,
    MTP_BLOCK,
    MTP_HF,
    MTP_SIZES,
    NEXT_TOKEN,
    SOURCE,
    norms,
)
from mfconv_nb.mapping.rules import Family, Repeated, size_option, when

DENSE = "layers.{dense_layer}.mlp."
SPARSE_HF, SPARSE_MF = "model.layers.{moe_layer}.", "decoder.layers.{moe_layer}."

# glm4_moe_lite lists the kind of every layer; where a dense one stands behind a sparse one, names contradict this
FIRST = ("count(mlp_layer_types, dense)", "first_k_dense_replace")
DENSE_FIRST = {"dense_layer": " | ".join(FIRST), "moe_layer": " | ".join(f"{first} .. num_hidden_layers" for first in FIRST)}
SIZES = {**DEEPSEEK2_SIZES, **MTP_SIZES, **ROTARY_SIZES, "untied": "not tie_word_embeddings", **DENSE_FIRST}
BLOCKS = (
    *latent_attention(),
    *norms(),
    *mlp("model." + DENSE, "decoder." + DENSE, "ffn"),
    *mixture(SPARSE_HF, SPARSE_MF),
)

COPIED = (
    Repeated(("model.embed_tokens.weight", MTP_HF + "embed_tokens.weight"), "embedding.word_embeddings.weight", "vocab hidden"),
    Repeated(("lm_head.weight", MTP_HF + "shared_head.head.weight"), "output_layer.weight", "vocab hidden"),
)

FAMILY = Family(
    key="deepseekv3",
    covers="DeepSeek-V3, R1, Kimi-K2 (bf16, fp8), Moonlight, mcore",
    model_types=("deepseek_v3", "kimi_k2"),
    same_maths=("glm4_moe_lite",),
    told_as="deepseek3",
    run_keys={"multi_latent_attention": True, "qk_layernorm": True, "moe_grouped_gemm": True},
    sizes=SIZES,
    options=(
        WITH_MTP,
        WITH_Q_RANK,
        GRAPH,
        JOINED,
        INTERLEAVED_MLP,
        EXPERTS_2D,
        size_option("num_layers", "main_layer"),
        size_option("num_routed_experts", "expert"),
        size_option("ffn_hidden_size", "ffn"),
        size_option("moe_ffn_hidden_size", "expert_ffn"),
        size_option("first_k_dense_replace", "dense_layer"),
        size_option("num_nextn_predict_layers", "next_layers"),
    ),
    rules=(
        *when(*EMBEDDING_AND_HEAD, with_mtp=0),
        *when(*COPIED, with_mtp=1),
        *BLOCKS,
        *FINAL_NORM,
        *when(
            *NEXT_TOKEN,
            *latent_attention(MTP_HF, MTP_BLOCK),
            *norms(MTP_HF, MTP_BLOCK),
            *mixture(MTP_HF, MTP_BLOCK),
            with_mtp=1,
        ),
    ),
    toy=DEEPSEEK3.toy,
    source=SOURCE,
)
