"""Qwen3-MoE, in MindFormers' mcore layout: as Qwen3, with the experts of a layer in two tensors. Every layer has experts.

Source: MindFormers 2.1.0, `models/qwen3_moe`: its `weight_converters`, and `convert_weight_dict` of its training class. Golden cases
`qwen3_moe_*`.
"""

from mfconv_nb.families.qwen3 import FAMILY as QWEN3
from mfconv_nb.families.words.mcore import (
    CONTIGUOUS_ATTENTION,
    EMBEDDING_AND_HEAD,
    EXPERTS_2D,
    FINAL_NORM,
    HF,
    MF,
    NO_OUTPUT_BIAS,
    SIZES,
    SOURCE,
    attention,
    attention_bias,
    experts,
    head_norms,
    norms,
)
from mfconv_nb.families.words.shorthand import QWEN_WINDOW
from mfconv_nb.mapping.rules import Family, Rule

FAMILY = Family(
    key="qwen3-moe",
    covers="Qwen3-MoE 30B-A3B, 235B-A22B, any number of experts",
    model_types=("qwen3_moe",),
    run_keys={"moe_grouped_gemm": True},
    windows={"qwen3_moe": QWEN_WINDOW},
    # transformers 5 writes num_local_experts
    sizes={**SIZES, "expert": "num_experts | num_local_experts", "expert_ffn": "moe_intermediate_size"},
    options=(CONTIGUOUS_ATTENTION, EXPERTS_2D),
    rules=(
        *EMBEDDING_AND_HEAD,
        *attention(),
        *attention_bias(),
        NO_OUTPUT_BIAS,
        *head_norms(),
        Rule(HF + "mlp.gate.weight", MF + "mlp.router.weight", "expert hidden"),
        *experts(HF + "mlp.experts.{expert}.", MF + "mlp.experts."),
        *norms(),
        *FINAL_NORM,
    ),
    toy={
        **QWEN3.toy,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_hidden_layers": 2,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 28,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    source=SOURCE,
)
