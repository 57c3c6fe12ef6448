"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with routed experts, which MindFormers stacks, and a shared expert.

Source: MindFormers 1.3.2, `research/qwen2`, which knows 64 experts only and no way back. The golden case `qwen2moe-*` holds its output.
"""

from mfconv_nb.families.llama import ATTENTION, EMBEDDING, FINAL_NORM_AND_HEAD, LAYER, NORMS, SIZES
from mfconv_nb.families.llama import FAMILY as LLAMA
from mfconv_nb.families.mixtral import USE_GMM
from mfconv_nb.families.qwen2 import BIASES
from mfconv_nb.families.words.shorthand import QWEN_WINDOW, experts
from mfconv_nb.mapping.rules import Family, Rule, when

EXPERT, ROUTED, SHARED = LAYER + "mlp.experts.{expert}.", LAYER + "feed_forward.routed_experts.", LAYER + "feed_forward.shared_experts."


NAMES = ("gate_proj", "up_proj", "down_proj")

FAMILY = Family(
    key="qwen2-moe",
    covers="Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
    model_types=("qwen2_moe",),
    windows={"qwen2_moe": QWEN_WINDOW},
    sizes={
        **SIZES,
        "attention_bias": "1",
        "expert": "num_experts",
        "expert_ffn": "moe_intermediate_size",
        "shared_ffn": "shared_expert_intermediate_size",
    },
    options=(USE_GMM,),
    rules=(
        *EMBEDDING,
        *ATTENTION,
        *BIASES,
        Rule(LAYER + "mlp.gate.weight", ROUTED + "router.dense.weight", "expert hidden"),
        *when(*experts(EXPERT, ROUTED + "ffn.", "expert_ffn", names=NAMES), use_gmm=False),
        *when(*experts(EXPERT, ROUTED + "ffn.", "expert_ffn", names=NAMES, transposed=True), use_gmm=True),
        Rule(LAYER + "mlp.shared_expert.gate_proj.weight", SHARED + "w1.weight", "shared_ffn hidden"),
        Rule(LAYER + "mlp.shared_expert.up_proj.weight", SHARED + "w3.weight", "shared_ffn hidden"),
        Rule(LAYER + "mlp.shared_expert.down_proj.weight", SHARED + "w2.weight", "hidden shared_ffn"),
        Rule(LAYER + "mlp.shared_expert_gate.weight", LAYER + "feed_forward.shared_experts_gate.weight", "1 hidden"),
        *NORMS,
        *FINAL_NORM_AND_HEAD,
    ),
    toy={
        **LLAMA.toy,
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 56,
        "shared_expert_intermediate_size": 72,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    source=LLAMA.source,
)
