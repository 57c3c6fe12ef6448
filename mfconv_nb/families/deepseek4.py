"""DeepSeek-V4 under its own names (no `model.` before them), to and from MindFormers' mcore layout.

Layers differ: some compress their keys and values, some of these have an indexer, the first route by a table. Which ones, the config
does not promise here. Layers that predict further tokens are `mtp.0` and so on, on both sides.
Source: MindFormers 2.1.0, `models/deepseek4`: its `weight_converters`. Golden case `deepseek_v4_template`. The table `tid2eid`, which
MindFormers makes int32 when it loads it, keeps its dtype and is in no case.
"""

from __future__ import annotations

from dataclasses import replace

from mfconv_nb.families.words.mcore import EXPERTS_2D, INTERLEAVED_MLP, SOURCE, experts, mlp
from mfconv_nb.mapping.rules import ANYWHERE, AnyRule, Family, Rule, rename_rules

THREE_AXES = replace(EXPERTS_2D, values=(False, True))  # this model is trained in the dynamic graph only
NUMBERED = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
HF_LAYER, MF_LAYER = "layers.{layer}.", "decoder.layers.{layer}."
HF_MTP, MF_MTP = "mtp.{next_layer}.", "mtp.layers.{next_layer}."


def hyper_connection(hf: str, mf: str) -> tuple[Rule, ...]:
    """Base, function and the three scales of one hyper-connection."""
    return (
        Rule(hf + "base", mf + "bias", "hc_rows"),
        Rule(hf + "fn", mf + "mapping_proj.weight", "hc_rows hc_width"),
        Rule(
            hf + "scale",
            (mf + "alpha_pre", mf + "alpha_post", mf + "alpha_res"),
            "(pre + post + res) -> pre, post, res",
            sizes={"pre": 1, "post": 1, "res": 1},
        ),
    )


def head_connection(hf: str, mf: str) -> tuple[Rule, ...]:
    """The hyper-connection before an output."""
    return (
        Rule(hf + "hc_head_base", mf + "hc_head.hc_base", "hc"),
        Rule(hf + "hc_head_fn", mf + "hc_head.hc_fn.weight", "hc hc_width"),
        Rule(hf + "hc_head_scale", mf + "hc_head.hc_scale", "1"),
    )


def block(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """A layer, without what only some layers have."""
    attn, attention, ffn, moe = hf + "attn.", mf + "self_attention.", hf + "ffn.", mf + "mlp."
    return (
        Rule(attn + "wq_a.weight", attention + "linear_q_down_proj.weight", "q_rank hidden"),
        Rule(attn + "q_norm.weight", attention + "q_layernorm.weight", "q_rank"),
        Rule(attn + "wq_b.weight", attention + "linear_q_up_proj.weight", "(heads head) q_rank"),
        Rule(attn + "wkv.weight", attention + "linear_kv_proj.weight", "head hidden"),
        Rule(attn + "kv_norm.weight", attention + "kv_layernorm.weight", "head"),
        Rule(attn + "wo_a.weight", attention + "linear_o_group_proj", "o_rows o_width"),
        Rule(attn + "wo_b.weight", attention + "linear_proj.weight", "hidden o_rows"),
        Rule(attn + "attn_sink", attention + "core_attention.attn_sink", "heads"),
        Rule(hf + "attn_norm.weight", mf + "input_layernorm.weight", "hidden"),
        Rule(hf + "ffn_norm.weight", mf + "pre_mlp_layernorm.weight", "hidden"),
        Rule(ffn + "gate.weight", moe + "router.weight", "expert hidden"),
        Rule(ffn + "gate.bias", moe + "expert_bias", "expert", dtype="F32", optional=ANYWHERE),
        *rename_rules(experts(ffn + "experts.{expert}.", moe + "experts."), hf=NUMBERED),
        *rename_rules(mlp(ffn + "shared_experts.", moe + "shared_experts.", "shared_ffn"), hf=NUMBERED),
        *hyper_connection(hf + "hc_attn_", mf + "attn_hc."),
        *hyper_connection(hf + "hc_ffn_", mf + "ffn_hc."),
    )


def compressor(hf: str, mf: str, axis: str) -> tuple[Rule, ...]:
    """What compresses keys and values, in the layers that do."""
    return (
        Rule(hf + "ape", mf + "ape", f"{axis}_ratio {axis}_rows", optional=ANYWHERE),
        Rule(hf + "wkv.weight", mf + "linear_wkv.weight", f"{axis}_rows hidden", optional=ANYWHERE),
        Rule(hf + "wgate.weight", mf + "linear_wgate.weight", f"{axis}_rows hidden", optional=ANYWHERE),
        Rule(hf + "norm.weight", mf + "norm.weight", f"{axis}_norm", optional=ANYWHERE),
    )


CORE_HF, CORE_MF = HF_LAYER + "attn.", MF_LAYER + "self_attention.core_attention."
OF_SOME_LAYERS = (
    *compressor(CORE_HF + "compressor.", CORE_MF + "compressor.", "kv"),
    *compressor(CORE_HF + "indexer.compressor.", CORE_MF + "indexer.compressor.", "index"),
    Rule(CORE_HF + "indexer.wq_b.weight", CORE_MF + "indexer.linear_wq_b.weight", "index_width q_rank", optional=ANYWHERE),
    Rule(CORE_HF + "indexer.weights_proj.weight", CORE_MF + "indexer.linear_weights_proj.weight", "index_heads hidden", optional=ANYWHERE),
    Rule(HF_LAYER + "ffn.gate.tid2eid", MF_LAYER + "mlp.router.tid2eid", "vocab chosen", optional=ANYWHERE),
)

NEXT_TOKEN = (
    *block(HF_MTP, MF_MTP + "transformer_layer."),
    Rule(HF_MTP + "enorm.weight", MF_MTP + "enorm.weight", "hidden"),
    Rule(HF_MTP + "hnorm.weight", MF_MTP + "hnorm.weight", "hidden"),
    Rule(HF_MTP + "norm.weight", MF_MTP + "final_layernorm.weight", "hidden"),
    Rule(
        (HF_MTP + "e_proj.weight", HF_MTP + "h_proj.weight"),
        MF_MTP + "eh_proj.weight",
        "hidden token, hidden state -> hidden (token + state)",
        sizes={"token": "hidden", "state": "hidden"},
    ),
    *head_connection(HF_MTP, MF_MTP),
)

FAMILY = Family(
    key="deepseek4",
    covers="DeepSeek-V4 (bf16, fp8, fp4)",
    model_types=("deepseek_v4",),
    adapters="lora",  # its network is of the dynamic graph
    run_keys={"moe_grouped_gemm": True},
    sizes={
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "head": "head_dim | v_head_dim",  # the YAML of a run has the second; the network, deepseek_v4_hybrid_attention.py, reads it
        "q_rank": "q_lora_rank",
        "o_rows": "o_groups * o_lora_rank",
        "o_width": "num_attention_heads * head_dim / o_groups | num_attention_heads * v_head_dim / o_groups",
        "expert": "n_routed_experts",
        "expert_ffn": "moe_intermediate_size",
        "shared_ffn": "moe_shared_expert_intermediate_size | n_shared_experts * moe_intermediate_size | moe_intermediate_size",
        "hc": "hc_mult",
        "hc_rows": "hc_mult * (hc_mult + 2)",
        "hc_width": "hc_mult * hidden_size",
        "index_width": "index_n_heads * index_head_dim | ?",
        "index_heads": "index_n_heads | ?",
        "kv_norm": "head_dim | v_head_dim",
        "index_norm": "index_head_dim | ?",
        "chosen": "num_experts_per_tok | ?",
        "layer": "num_hidden_layers",
        "next_layer": "num_nextn_predict_layers | 0",
    },
    options=(INTERLEAVED_MLP, THREE_AXES),
    rules=(
        Rule("embed.weight", "embedding.word_embeddings.weight", "vocab hidden"),
        Rule("head.weight", "output_layer.weight", "vocab hidden"),
        *block(HF_LAYER, MF_LAYER),
        *OF_SOME_LAYERS,
        *NEXT_TOKEN,
        Rule("norm.weight", "decoder.final_layernorm.weight", "hidden"),
        *head_connection("", "decoder."),
    ),
    toy={
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "vocab_size": 331,
        "hidden_size": 96,
        "moe_intermediate_size": 28,
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "head_dim": 20,
        "q_lora_rank": 40,
        "o_lora_rank": 9,
        "o_groups": 2,
        "n_routed_experts": 5,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "index_n_heads": 3,
        "index_head_dim": 14,
        "hc_mult": 4,
        "tie_word_embeddings": False,
    },
    source=SOURCE,
)
