"""GLM-4.5 and its kin (model type `glm4_moe`), in MindFormers' mcore layout: grouped attention with biases, a corrected router, experts in
two tensors, and the layer that predicts a further token (MTP) in a place of its own.

MindFormers runs this model for inference only: the layouts of inference are the default here. Its `weight_mapping` leaves the norms of q
and k under a name that its network does not have (`self_attn.q_norm`); here they have the name of the network. It has no way back, and
leaves out the MTP layer; ours carries it.
Source: MindFormers 2.1.0, `models/glm4_moe` and `parallel_core/inference`. Golden case `glm4_moe_mix_f32`, without its experts.
"""

from mfconv_nb.families.deepseek3 import WITH_MTP
from mfconv_nb.families.qwen3 import FAMILY as QWEN3
from mfconv_nb.families.words.mcore import (
    CONTIGUOUS_ATTENTION,
    EMBEDDING_AND_HEAD,
    EXPERTS_2D,
    FINAL_NORM,
    INTERLEAVED_MLP,
    MTP_BLOCK,
    MTP_HF,
    MTP_SIZES,
    NEXT_TOKEN,
    SIZES,
    SOURCE,
    attention,
    attention_bias,
    head_norms,
    mixture,
    mlp,
    norms,
    prefer_inference,
)
from mfconv_nb.mapping.rules import Family, Repeated, when

DENSE = "layers.{dense_layer}.mlp."
COPIED = (
    Repeated("model.embed_tokens.weight", "embedding.word_embeddings.weight", "vocab hidden", may_be=(MTP_HF + "embed_tokens.weight",)),
    Repeated("lm_head.weight", "output_layer.weight", "vocab hidden", may_be=(MTP_HF + "shared_head.head.weight",)),
)

FAMILY = Family(
    key="glm4-moe",
    covers="GLM-4.5, GLM-4.5-Air, GLM-4.6",
    model_types=("glm4_moe",),
    sizes={
        **SIZES,
        **MTP_SIZES,
        "qk_norm": "use_qk_norm | 0",
        "expert": "n_routed_experts | num_experts",
        "expert_ffn": "moe_intermediate_size",
        "shared_ffn": "moe_shared_expert_intermediate_size | n_shared_experts * moe_intermediate_size",
        "dense_layer": "first_k_dense_replace",
        "moe_layer": "first_k_dense_replace .. num_hidden_layers",
    },
    options=(
        WITH_MTP,
        prefer_inference(CONTIGUOUS_ATTENTION),
        prefer_inference(INTERLEAVED_MLP),
        prefer_inference(EXPERTS_2D),
    ),
    rules=(
        *when(*EMBEDDING_AND_HEAD, with_mtp=0),
        *when(*COPIED, with_mtp=1),
        *attention(),
        *attention_bias(),
        *head_norms(only_if="qk_norm"),
        *norms(),
        *mlp("model." + DENSE, "decoder." + DENSE, "ffn"),
        *mixture("model.layers.{moe_layer}.", "decoder.layers.{moe_layer}."),
        *FINAL_NORM,
        *when(
            *NEXT_TOKEN,
            *attention(MTP_HF, MTP_BLOCK),
            *attention_bias(MTP_HF, MTP_BLOCK),
            *head_norms(MTP_HF, MTP_BLOCK, only_if="qk_norm"),
            *norms(MTP_HF, MTP_BLOCK),
            *mixture(MTP_HF, MTP_BLOCK),
            with_mtp=1,
        ),
    ),
    toy={
        **QWEN3.toy,
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
        "attention_bias": True,
        "use_qk_norm": True,
        "n_routed_experts": 5,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 28,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    source=SOURCE,
)
