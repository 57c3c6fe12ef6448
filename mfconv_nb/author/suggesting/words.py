"""Read the usual words of weight names: `q_proj`, `wq` and `query` mean the same thing.

General knowledge only: nothing here comes from the known families. Names without a known word are compared as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

# roles: what a tensor is; found in the last words of a name
Q, K, V, QKV, KV, OUT = "q", "k", "v", "qkv", "kv", "out"
GATE, UP, DOWN, GATE_UP = "gate", "up", "down", "gate_up"
NORM_1, NORM_2, NORM_3, NORM = "norm_1", "norm_2", "norm_3", "norm"
TOKEN, POSITION, KIND, HEAD, ROUTER = "token", "position", "kind", "head", "router"
CLASS, PATCH, MASK, MTP = "class", "patch", "mask", "mtp"

# places: which part of the model it belongs to
ATTENTION, CROSS, FEED_FORWARD, EXPERTS, SHARED = "attention", "cross", "feed_forward", "experts", "shared"
VISION, LANGUAGE, ENCODER, DECODER, ADAPTER, QUERY = "vision", "language", "encoder", "decoder", "adapter", "query"
EMBEDDING, PREDICTION = "embedding", "prediction"

WEIGHT, BIAS = "weight", "bias"
MEAN, VARIANCE = "mean", "variance"  # running ones, of a batch norm

FUSED = {QKV: (Q, K, V), GATE_UP: (GATE, UP), KV: (K, V)}  # the parts of a fused tensor, in the usual order

LEAVES = {
    "weight": WEIGHT,
    "gamma": WEIGHT,
    "embedding_weight": WEIGHT,
    "embedding_table": WEIGHT,
    "embeddings_table": WEIGHT,
    "head_weight": WEIGHT,
    "bias": BIAS,
    "beta": BIAS,
    **dict.fromkeys(("running_mean", "moving_mean", "mean"), MEAN),
    **dict.fromkeys(("running_var", "moving_variance", "variance"), VARIANCE),
}

# by whole word, or by several with dots: the role; longer ones are looked up first
ROLES: Mapping[str, str] = {
    **dict.fromkeys(("q_proj", "wq", "query", "q", "dense1", "to_q", "linear_q", "query_proj"), Q),
    **dict.fromkeys(("k_proj", "wk", "key", "k", "dense2", "to_k", "linear_k", "key_proj"), K),
    **dict.fromkeys(("v_proj", "wv", "value", "v", "dense3", "to_v", "linear_v", "value_proj"), V),
    **dict.fromkeys(
        ("query_key_value", "qkv", "c_attn", "w_pack", "wqkv", "w_qkv", "in_proj", "qkv_proj", "linear_qkv", "attention.w"), QKV
    ),
    **dict.fromkeys(("key_value", "wk_v", "kv_proj", "w_kv", "wkv", "linear_kv"), KV),
    **dict.fromkeys(("o_proj", "wo", "out_proj", "o", "to_out"), OUT),
    **dict.fromkeys(("attention.dense", "attention.projection", "attention.proj", "attention.c_proj", "attention.output.dense"), OUT),
    **dict.fromkeys(("gate_proj", "w1"), GATE),
    **dict.fromkeys(("up_proj", "w3", "fc1", "c_fc", "mapping", "dense_h_to_4h", "wi", "intermediate.dense", "lin1", "fc_in"), UP),
    **dict.fromkeys(("down_proj", "w2", "fc2", "dense_4h_to_h", "feed_forward.c_proj", "feed_forward.projection", "feed_forward.wo"), DOWN),
    **dict.fromkeys(("output.dense", "lin2", "fc_out", "output.projection"), DOWN),
    **dict.fromkeys(("w_gate_hidden", "gate_up_proj", "gate_up"), GATE_UP),
    **dict.fromkeys(("input_layernorm", "attention_norm", "ln_1", "layernorm1", "norm1", "layer_norm1", "layernorm_before", "ln1"), NORM_1),
    **dict.fromkeys(("self_attn_layer_norm", "output.layernorm"), NORM_1),
    **dict.fromkeys(("post_attention_layernorm", "ffn_norm", "ln_2", "layernorm2", "norm2", "layer_norm2", "layernorm_after"), NORM_2),
    **dict.fromkeys(("attention.output.layernorm", "ln2", "pre_feedforward_layernorm", "pre_mlp_layernorm", "post_attention_norm"), NORM_2),
    **dict.fromkeys(("post_feedforward_layernorm", "post_ffn_norm", "post_mlp_layernorm"), NORM_3),
    **dict.fromkeys(("norm", "norm_out", "ln_f", "layernorm", "layer_norm", "final_layernorm", "final_layer_norm", "final_norm"), NORM),
    **dict.fromkeys(("embed_tokens", "tok_embeddings", "word_embeddings", "word_embedding", "wte", "token_embedding", "shared"), TOKEN),
    **dict.fromkeys(("tfm_embedding_lookup", "embedding_lookup"), TOKEN),
    **dict.fromkeys(("wpe", "position_embeddings", "position_embedding", "positional_embedding", "pos_embed", "embed_positions"), POSITION),
    **dict.fromkeys(("full_position_embedding", "pos_embedding"), POSITION),
    **dict.fromkeys(("token_type_embeddings", "token_type_embedding"), KIND),
    **dict.fromkeys(("lm_head", "head", "output_layer", "embed_out", "classifier", "vocab_dense", "decoder"), HEAD),
    **dict.fromkeys(("feed_forward.gate", "router", "router.dense", "router_dense", "gate.wg"), ROUTER),
    **dict.fromkeys(("cls_token", "cls_tokens", "class_embedding", "cls_embedding"), CLASS),
    **dict.fromkeys(("patch_embed.proj", "patch_embedding", "patch_embed.projection", "patch_embeddings.projection", "conv1"), PATCH),
    **dict.fromkeys(("mask_token", "mask_tokens"), MASK),
}

PLACES: Mapping[str, str] = {
    **dict.fromkeys(("self_attn", "attention", "attn", "self_attention", "selfattention", "self_att"), ATTENTION),
    **dict.fromkeys(("crossattention", "cross_attention", "encoder_attn", "encdecattention", "cross_attn"), CROSS),
    **dict.fromkeys(("mlp", "feed_forward", "ffn", "densereludense", "block_sparse_moe", "moe"), FEED_FORWARD),
    **dict.fromkeys(("experts", "routed_experts", "local_experts"), EXPERTS),
    **dict.fromkeys(("shared_expert", "shared_experts"), SHARED),
    **dict.fromkeys(("visual", "vision", "vision_tower", "vision_model", "vision_encoder", "visual_encoder", "image"), VISION),
    **dict.fromkeys(("language_model", "llm_model", "text_model", "language"), LANGUAGE),
    **dict.fromkeys(("multi_modal_projector", "adapter", "projector", "mlp_adapter"), ADAPTER),
    **dict.fromkeys(("embeddings", "embedding", "embedding_postprocessor"), EMBEDDING),
    **dict.fromkeys(("predictions", "mlmloss"), PREDICTION),
}

# places by a part of a word
PARTS_OF_WORDS: Mapping[str, str] = {
    "encoder": ENCODER,
    "decoder": DECODER,
    "vision": VISION,
    "visual": VISION,
    "language": LANGUAGE,
    "expert": EXPERTS,
    "shared": SHARED,
    "query": QUERY,
    "mtp": MTP,
    "cross": CROSS,
}

# fused tensors whose parts usually take turns, head by head or group by group (Megatron; multi-head latent attention)
BY_HEAD = frozenset({"query_key_value", "wqkv", "linear_qkv", "q_b_proj", "kv_b_proj"})
BY_ROW = frozenset({"linear_fc1"})  # a row of gate before each row of up (MindFormers' mcore layout)
INPUT_FIRST = frozenset({"projection"})  # MindFormers' older layers keep this weight input first
CONV1D = frozenset({"c_attn", "c_fc", "c_proj"})  # GPT-2's linear layers, which may stand input first

# constants and masks that models compute
BUFFERS = (
    "inv_freq",
    "masked_bias",
    "position_ids",
    "rope.freqs",
    "attn.bias",
    "attn_mask",
    "relative_position_index",
    "num_batches_tracked",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The meaning of a name.

    Attributes:
        words: all words, in lower case, without the leaf.
        role: what the tensor is; empty if no word says it.
        places: the parts of the model it belongs to.
        leaf: weight, bias, mean or variance.
    """

    words: tuple[str, ...]
    role: str
    places: frozenset[str]
    leaf: str

    @property
    def last(self) -> str:
        """The last word before the leaf."""
        return self.words[-1] if self.words else ""


@lru_cache(maxsize=8192)
def read_name(template: str) -> Reading:
    """Read a name with ``#`` for every loop: `model.layers.#.self_attn.q_proj.weight`."""
    leaf, words = _leaf(_words_of(template))
    within = words[len(_words_of(template.rpartition("#")[0])) :] or words[-1:]  # after the last loop
    role = _role([PLACES.get(w, w) for w in within], within)
    places = frozenset(p for w in words for p in _places(w))
    if role in (POSITION, KIND, TOKEN, PATCH, CLASS, HEAD):
        places -= {EMBEDDING}
    return Reading(tuple(words), role, places, leaf)


def _words_of(template: str) -> list[str]:
    return [w.lower() for w in re.split(r"[./]", template) if w not in ("#", "")]


def _leaf(words: list[str]) -> tuple[str, list[str]]:
    """The leaf, and the words without it. `q_bias` and `in_proj_weight` hold both in one word."""
    if not words:
        return "", []
    if words[-1] in LEAVES:
        return LEAVES[words[-1]], words[:-1]
    for leaf in (WEIGHT, BIAS):
        stem = words[-1].removesuffix(f"_{leaf}")
        if stem != words[-1] and stem in ROLES:
            return leaf, [*words[:-1], stem]
    return (BIAS if words[-1].endswith("bias") else WEIGHT), words


def _role(places: list[str], words: list[str]) -> str:
    """The role by the last words, the longest first: `attention.output.dense` before `output.dense` before `dense`.

    Args:
        places: the words, each replaced by its place if it is one: `mlp` by `feed_forward`.
    """
    for length in (3, 2, 1):
        for texts in (places, words):
            found = ROLES.get(".".join(texts[-length:])) if len(texts) >= length else None
            if found is not None:
                return found
    for ending, role in ROLES.items():
        if words and len(ending) > 4 and words[-1].endswith(f"_{ending}"):
            return role
    return ""


def _places(word: str) -> list[str]:
    found = [PLACES[word]] if word in PLACES else []
    return found + [place for part, place in PARTS_OF_WORDS.items() if part in word and place not in found]
