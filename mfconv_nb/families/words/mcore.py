"""MindFormers' newer layout, named as Megatron's: `decoder.layers.0.self_attention.linear_qkv.weight`. Rules that several models share.

Two of its layouts differ in the numbers alone, not in names or shapes. So a checkpoint alone does not show which options it has: the YAML
of the training run has them under the same names, or the weights that training began with show them
(``steps/converting/order_of_original.py``); else MindFormers' defaults count.

No family: a module of this folder counts as one only where it has a `FAMILY`.
Source: MindFormers 2.1.0, `weight_converters` of `models/qwen3` and `models/qwen3_moe`, and `parallel_core/training_graph`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from mfconv_nb.families.llama import GROUP_SIZES, QKV_SIZES
from mfconv_nb.families.llama import SIZES as LLAMA_SIZES
from mfconv_nb.mapping.rules import NUMBERS, ZEROS, AnyRule, Drop, Option, Rule, when

HF, MF = "model.layers.{layer}.", "decoder.layers.{layer}."
SOURCE = "MindFormers 2.1.0"

SIZES = {
    **LLAMA_SIZES,
    **QKV_SIZES,
    **GROUP_SIZES,
    "untied": "not tie_word_embeddings",
    "attention_bias": "attention_bias | add_qkv_bias | 0",
}

CONTIGUOUS_ATTENTION = Option(
    "use_contiguous_weight_layout_attention",
    (False, True),
    side=NUMBERS,
    help="Rows of linear_qkv: q, k, v of a key/value group after each other; True: all of q, all of k, all of v.",
)
INTERLEAVED_MLP = Option(
    "use_interleaved_weight_layout_mlp",
    (True, False),
    side=NUMBERS,
    help="Rows of linear_fc1: a row of gate before each row of up; False: all of gate, then all of up.",
)
EXPERTS_2D = Option(
    "experts_2d",
    (True, False),
    help="Routed experts as the static graph has them, (experts x hidden) by (2 x ffn); False: three axes, as the others have them.",
)


def prefer_inference(option: Option) -> Option:
    """The option with the value of inference as its default: for models that MindFormers does not train in this layout."""
    return replace(option, values=option.values[::-1])


# a tied head is on neither side
EMBEDDING_AND_HEAD = (
    Rule("model.embed_tokens.weight", "embedding.word_embeddings.weight", "vocab hidden"),
    Rule("lm_head.weight", "output_layer.weight", "vocab hidden", only_if="untied", same_as="model.embed_tokens.weight"),
)
FINAL_NORM = (Rule("model.norm.weight", "decoder.final_layernorm.weight", "hidden"),)

GROUPED_WEIGHT = (
    "(groups group_q) hidden, (groups group_k) hidden, (groups group_v) hidden -> (groups (group_q + group_k + group_v)) hidden"
)


def norms(hf: str = HF, mf: str = MF) -> tuple[Rule, ...]:
    """The norms before attention and feed-forward."""
    return (
        Rule(hf + "input_layernorm.weight", mf + "input_layernorm.weight", "hidden"),
        Rule(hf + "post_attention_layernorm.weight", mf + "pre_mlp_layernorm.weight", "hidden"),
    )


def _qkv(hf: str, mf: str, layout: str) -> Rule:
    return Rule(tuple(hf + f"self_attn.{name}_proj.weight" for name in "qkv"), mf + "self_attention.linear_qkv.weight", layout)


def attention(hf: str = HF, mf: str = MF) -> tuple[AnyRule, ...]:
    """q, k and v as one matrix in either of its two layouts, and the output."""
    return (
        *when(_qkv(hf, mf, GROUPED_WEIGHT), use_contiguous_weight_layout_attention=False),
        *when(_qkv(hf, mf, "q hidden, k hidden, v hidden -> (q + k + v) hidden"), use_contiguous_weight_layout_attention=True),
        Rule(hf + "self_attn.o_proj.weight", mf + "self_attention.linear_proj.weight", "hidden (heads head)"),
    )


def attention_bias(hf: str = HF, mf: str = MF) -> tuple[AnyRule, ...]:
    """The biases of q, k and v, in the same order as their weights."""
    biases = tuple(hf + f"self_attn.{name}_proj.bias" for name in "qkv")
    grouped = "(groups group_q), (groups group_k), (groups group_v) -> (groups (group_q + group_k + group_v))"

    def join_biases(layout: str) -> Rule:
        return Rule(biases, mf + "self_attention.linear_qkv.bias", layout, only_if="attention_bias")

    return (
        *when(join_biases(grouped), use_contiguous_weight_layout_attention=False),
        *when(join_biases("q, k, v -> (q + k + v)"), use_contiguous_weight_layout_attention=True),
    )


# transformers has one where it has those of q, k and v
NO_OUTPUT_BIAS = Drop(HF + "self_attn.o_proj.bias", "MindFormers' networks have no bias there", holds=ZEROS)


def head_norms(hf: str = HF, mf: str = MF, **more: Any) -> tuple[Rule, ...]:
    """The norms of the heads of q and of k."""
    return tuple(Rule(hf + f"self_attn.{n}_norm.weight", mf + f"self_attention.{n}_layernorm.weight", "head", **more) for n in "qk")


def joined_mlp(hf: str, mf: str, ffn: str) -> tuple[Rule, Rule, Rule]:
    """Gate and up as one matrix, a row of each in turn; the same as two halves; and down."""
    pair = (hf + "gate_proj.weight", hf + "up_proj.weight")
    in_turn = Rule(
        pair, mf + "linear_fc1.weight", f"({ffn} gate) hidden, ({ffn} up) hidden -> ({ffn} (gate + up)) hidden", sizes={"gate": 1, "up": 1}
    )
    halves = Rule(pair, mf + "linear_fc1.weight", "gate hidden, up hidden -> (gate + up) hidden", sizes={"gate": ffn, "up": ffn})
    return in_turn, halves, Rule(hf + "down_proj.weight", mf + "linear_fc2.weight", f"hidden {ffn}")


def mlp(hf: str, mf: str, ffn: str) -> tuple[AnyRule, ...]:
    """Gate and up as one matrix in either of its two layouts, and down: of a layer, or of its shared experts."""
    in_turn, halves, down = joined_mlp(hf, mf, ffn)
    return (*when(in_turn, use_interleaved_weight_layout_mlp=True), *when(halves, use_interleaved_weight_layout_mlp=False), down)


def stacked_experts(hf: str, mf: str) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """The routed experts of a layer in two tensors of two axes, and of three; input first. No option interleaves gate and up."""
    pair, down = (hf + "gate_proj.weight", hf + "up_proj.weight"), hf + "down_proj.weight"
    equal = {"gate": "expert_ffn", "up": "expert_ffn"}
    two_axes = (
        Rule(pair, mf + "weight1", "gate hidden, up hidden -> (expert hidden) (gate + up)", sizes=equal),
        Rule(down, mf + "weight2", "hidden expert_ffn -> (expert expert_ffn) hidden"),
    )
    three_axes = (
        Rule(pair, mf + "weight1", "gate hidden, up hidden -> expert hidden (gate + up)", sizes=equal),
        Rule(down, mf + "weight2", "hidden expert_ffn -> expert expert_ffn hidden"),
    )
    return two_axes, three_axes


def experts(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """The routed experts of a layer in two tensors, of two axes or of three."""
    two_axes, three_axes = stacked_experts(hf, mf)
    return (*when(*two_axes, experts_2d=True), *when(*three_axes, experts_2d=False))


def mixture(hf: str, mf: str) -> tuple[AnyRule, ...]:
    """The feed-forward of a layer with a corrected router, routed experts and shared ones."""
    hf, mf = hf + "mlp.", mf + "mlp."
    return (
        Rule(hf + "gate.weight", mf + "router.weight", "expert hidden"),
        Rule(hf + "gate.e_score_correction_bias", mf + "router.expert_bias", "expert", dtype="F32"),
        *experts(hf + "experts.{expert}.", mf + "experts."),
        *mlp(hf + "shared_experts.", mf + "shared_experts.", "shared_ffn"),
    )


# one layer that predicts a further token: the last on the Hugging Face side, one of its own on the other
MTP_HF, MTP_MF = "model.layers.{=main_layer}.", "mtp.layers.0."
MTP_BLOCK = MTP_MF + "transformer_layer."
NEXT_TOKEN = (
    Rule(MTP_HF + "enorm.weight", MTP_MF + "enorm.weight", "hidden"),
    Rule(MTP_HF + "hnorm.weight", MTP_MF + "hnorm.weight", "hidden"),
    Rule(MTP_HF + "eh_proj.weight", MTP_MF + "eh_proj.weight", "hidden two_hidden"),
    Rule(MTP_HF + "shared_head.norm.weight", MTP_MF + "final_layernorm.weight", "hidden"),
    # a config that promises a second such layer is refused: it would be looked for, and nothing else of it has a rule
    Rule("model.layers.{=second_layer}.enorm.weight", "mtp.layers.1.enorm.weight", "hidden", only_if="further_layers"),
)
MTP_SIZES = {
    "main_layer": "num_hidden_layers",
    "second_layer": "num_hidden_layers + 1",
    "next_layers": "num_nextn_predict_layers | 0",
    "further_layers": "num_nextn_predict_layers * (num_nextn_predict_layers - 1) | 0",
    "two_hidden": "2 * hidden_size",
}

_NAME = re.compile(
    r"(^|\.)decoder\.layers\.\d+\.(self_attention|mlp)\.(linear_|experts\.|router\.|core_attention)|\.(linear_qkv|linear_fc1)\."
)


def is_mcore_name(name: str) -> bool:
    """Whether a tensor is named as in this layout, also where no family knows the model."""
    return _NAME.search(name) is not None
