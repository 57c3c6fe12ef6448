"""DeepSeek-V3, R1: DeepSeek-V2 with split and reordered projections, a corrected router and one layer that predicts a further
token (MTP), which transformers leaves out.

The rotary rows stand in pairs on the Hugging Face side and in halves on the other. The MTP layer repeats embedding and head.
`use_grouped_gemm` puts gate and up of an expert side by side, transposed. Every tensor keeps its own dtype.
Source: MindFormers 1.5.0, `research/deepseek3`. The golden case `deepseek3-bf16-4experts` holds its output.
"""

from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.deepseek2 import (
    DENSE_FEED_FORWARD,
    EXPERT,
    HF,
    MF,
    ROUTED,
    ROUTED_EXPERTS,
    SHARED_EXPERTS,
    SPARSE,
)
from mfconv_nb.families.deepseek2 import FAMILY as DEEPSEEK2
from mfconv_nb.families.deepseek2 import SIZES as DEEPSEEK2_SIZES
from mfconv_nb.families.llama import EMBEDDING, NORMS
from mfconv_nb.mapping.rules import Drop, Family, Option, Repeated, Rule, size_option, when

ALL_LAYERS = "num_hidden_layers + {with_mtp} * num_nextn_predict_layers"
ONE_MORE = "num_hidden_layers + {with_mtp}"  # where config.json does not count them: that of transformers never does
MTP = "model.layers.{mtp_layer}."
HALVES = {"half": 2}
GATE, UP, DOWN = (EXPERT + f"{name}_proj.weight" for name in ("gate", "up", "down"))

GROUPED = (
    Rule((GATE, UP), ROUTED + "ffn.w1", "gate hidden, up hidden -> expert hidden (gate + up)"),
    Rule(DOWN, ROUTED + "ffn.w2", "hidden expert_ffn -> expert expert_ffn hidden"),
    Rule(SPARSE + "mlp.gate.weight", ROUTED + "router_dense.weight", "expert hidden"),
    Rule(SPARSE + "mlp.gate.e_score_correction_bias", ROUTED + "topk_bias", "expert", dtype="F32"),
)

APART = (
    *ROUTED_EXPERTS,
    Rule(SPARSE + "mlp.gate.weight", ROUTED + "router.dense.weight", "expert hidden"),
    Rule(SPARSE + "mlp.gate.e_score_correction_bias", ROUTED + "router.router.topk_bias", "expert", dtype="F32"),
)

HEAD = Rule("lm_head.weight", "lm_head.weight", "vocab hidden")

# one layer of this kind: a second one would not be equal to the first, and is refused
NEXT_TOKEN = (
    Repeated(("model.embed_tokens.weight", MTP + "embed_tokens.weight"), "model.tok_embeddings.embedding_weight", "vocab hidden"),
    Repeated(("lm_head.weight", MTP + "shared_head.head.weight"), "lm_head.weight", "vocab hidden"),
    Repeated(MTP + "enorm.weight", "model.mtp_hidden_fusers.0.norm_emb.weight", "hidden"),
    Repeated(MTP + "hnorm.weight", "model.mtp_hidden_fusers.0.norm.weight", "hidden"),
    Repeated(MTP + "eh_proj.weight", "model.mtp_hidden_fusers.0.dense.weight", "hidden two_hidden"),
    Repeated(MTP + "shared_head.norm.weight", "model.mtp_norms.0.weight", "hidden"),
)

WITH_MTP = Option("with_mtp", (1, 0), side="both", help="Whether the layer that predicts a further token is there.")

FAMILY = Family(
    key="deepseek3",
    covers="DeepSeek-V3, R1 (bf16, fp8), any number of experts",
    model_types=("deepseek_v3",),
    run_classes={"DeepseekV3Config": RunClass({"num_nextn_predict_layers": "num_nextn_predict_layers | 0"}, unread=("kv_channels",))},
    sizes={
        **DEEPSEEK2_SIZES,
        "pair": "qk_rope_head_dim / 2",
        "layer": f"{ALL_LAYERS} | {ONE_MORE}",
        "moe_layer": f"first_k_dense_replace .. {ALL_LAYERS} | first_k_dense_replace .. {ONE_MORE}",
        "mtp_layer": f"num_hidden_layers .. {ALL_LAYERS} | num_hidden_layers .. {ONE_MORE}",
        "main_layer": "num_hidden_layers",
        "next_layers": "num_nextn_predict_layers | 0",
        "two_hidden": "2 * hidden_size",
        "gate": "moe_intermediate_size",
        "up": "moe_intermediate_size",
    },
    options=(
        WITH_MTP,
        Option("use_grouped_gemm", (True, False), help="Gate and up of an expert side by side, transposed."),
        size_option("num_layers", "main_layer"),
        size_option("num_routed_experts", "expert"),
        size_option("qk_nope_head_dim", "nope"),
        size_option("qk_rope_head_dim", "rope"),
        size_option("v_head_dim", "value"),
        size_option("first_k_dense_replace", "dense_layer"),
        size_option("num_nextn_predict_layers", "next_layers"),
    ),
    rules=(
        *when(*EMBEDDING, HEAD, with_mtp=0),
        *when(*NEXT_TOKEN, with_mtp=1),
        Rule(HF + "q_a_proj.weight", MF + "q2l_proj.weight", "q_rank hidden"),
        Rule(HF + "q_a_layernorm.weight", MF + "lq_norm.weight", "q_rank"),
        Rule(
            HF + "q_b_proj.weight",
            (MF + "l2q_nope_proj.weight", MF + "l2q_pe_proj.weight"),
            "(heads (nope + pair half)) q_rank -> (heads nope) q_rank, (heads half pair) q_rank",
            sizes=HALVES,
        ),
        Rule(
            HF + "kv_a_proj_with_mqa.weight",
            (MF + "kv2l_latent_kv.weight", MF + "kv2l_k_pe.weight"),
            "(kv_rank + pair half) hidden -> kv_rank hidden, (half pair) hidden",
            sizes=HALVES,
        ),
        Rule(HF + "kv_a_layernorm.weight", MF + "lkv_norm.weight", "kv_rank"),
        Rule(
            HF + "kv_b_proj.weight",
            (MF + "lkv2kv_k_nope.weight", MF + "lkv2kv_v.weight"),
            "(heads (nope + value)) kv_rank -> (heads nope) kv_rank, (heads value) kv_rank",
        ),
        Rule(HF + "o_proj.weight", MF + "wo.weight", "hidden (heads value)"),
        *DENSE_FEED_FORWARD,
        *when(*GROUPED, use_grouped_gemm=True),
        *when(*APART, use_grouped_gemm=False),
        *SHARED_EXPERTS,
        *NORMS,
        Rule("model.norm.weight", "model.norm_out.weight", "hidden"),
        Drop(HF + "rotary_emb.inv_freq", "a buffer that both sides compute from rope_theta"),
    ),
    toy={
        **DEEPSEEK2.toy,
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "hidden_act": "silu",
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
    },
    source="MindFormers 1.5.0",
)
