"""From a number in a shape to the axis it may be, and to the sentence that reads it from config.json.

This module knows only the usual keys of Hugging Face's configs. A number that no key gives is its own sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.core.errors import MfconvError
from mfconv_nb.core.sizes import Sizes, read_sizes

TOWERS = ("vision_", "visual_")
HEADS, GROUPS, HEAD, ROPE, VALUE = "heads", "groups", "head", "rope", "value"

# axis -> sentences over one config object; of several with the same number the first counts
WHOLE_AXES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model", "dim", "embed_dim", "width"),
    "vocab": ("padded_vocab_size", "vocab_size"),
    "ffn": (
        "intermediate_size",
        "ffn_hidden_size",
        "inner_hidden_size",
        "n_inner",
        "d_ff",
        "ffn_dim",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
    ),
    "expert": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_ffn": ("moe_intermediate_size",),
    "shared_ffn": ("shared_expert_intermediate_size", "n_shared_experts * moe_intermediate_size"),
    "q_rank": ("q_lora_rank",),
    "kv_rank": ("kv_lora_rank",),
    "positions": ("max_position_embeddings", "n_positions", "max_target_positions", "max_source_positions"),
    "q": (
        "num_attention_heads * head_dim",
        "num_attention_heads * kv_channels",
        "num_heads * d_kv",
        "num_attention_heads * v_head_dim",
        "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)",
    ),
    "k": (
        "num_key_value_heads * head_dim",
        "hidden_size * num_key_value_heads / num_attention_heads",
        "hidden_size / num_attention_heads * num_key_value_heads",
        "kv_channels * multi_query_group_num",
        "n_embd / n_head",
        "num_multi_query_heads * head_dim",
    ),
    "wide": ("4 * hidden_size", "4 * n_embd", "4 * n_embed", "4 * d_model"),
}

PARTS: Mapping[str, tuple[str, ...]] = {
    HEADS: ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads", "decoder_attention_heads", "index_n_heads"),
    GROUPS: ("num_key_value_heads", "multi_query_group_num", "n_kv_heads", "num_multi_query_heads"),
    HEAD: (
        "head_dim",
        "kv_channels",
        "d_kv",
        "hidden_size / num_attention_heads",
        "hidden_size / n_head",
        "n_embd / n_head",
        "dim / n_heads",
    ),
    ROPE: ("qk_rope_head_dim",),
    "nope": ("qk_nope_head_dim",),
    VALUE: ("v_head_dim",),
    "group_q": ("head_dim * num_attention_heads / num_key_value_heads", "hidden_size / num_key_value_heads"),
}

LOOPS: Mapping[str, tuple[str, ...]] = {
    "layer": (
        "num_hidden_layers",
        "n_layer",
        "num_layers",
        "n_layers",
        "encoder_layers",
        "decoder_layers",
        "num_decoder_layers",
        "depth",
        "num_hidden_layers + num_nextn_predict_layers",
    ),
    "expert": WHOLE_AXES["expert"],
    "start": ("first_k_dense_replace", "num_hidden_layers"),
}


@dataclass(frozen=True, slots=True)
class Known:
    """A number in the config: its axis, the sentence that reads it, and its value."""

    axis: str
    sentence: str
    value: int


@dataclass(frozen=True)
class Facts:
    """All numbers that a config gives under the usual keys."""

    whole: tuple[Known, ...] = ()
    parts: tuple[Known, ...] = ()
    loops: tuple[Known, ...] = ()

    def axis(self, value: int) -> Known | None:
        """The first axis of this size; None where the config has no such number."""
        return next((k for k in self.whole if k.value == value), None)

    def with_vision_axes(self, *, first: bool) -> Facts:
        """The same facts with the axes of the vision tower first, or last: the text model may have an axis of the same size."""
        return replace(self, whole=tuple(sorted(self.whole, key=lambda known: known.axis.startswith(TOWERS) != first)))

    def sentence(self, value: int, *axes: str) -> str:
        """The sentence of the first of these axes that has this size; the number itself where none has it."""
        known = (*self.parts, *self.whole, *self.loops)
        return next((k.sentence for axis in axes for k in known if k.axis == axis and k.value == value), str(value))

    def values(self, *axes: str) -> list[int]:
        """The sizes of some axes, each once."""
        return list(dict.fromkeys(k.value for axis in axes for k in (*self.parts, *self.whole) if k.axis == axis))


def facts_of(config: Mapping[str, Any] | None) -> Facts:
    """The facts of a config, and of the objects inside it (`vision_config`)."""
    if not config:
        return Facts()
    scopes = ["", *(f"{key}." for key, value in config.items() if isinstance(value, Mapping) and key.isidentifier())]
    return Facts(*(tuple(_read_known(config, scopes, table)) for table in (WHOLE_AXES, PARTS, LOOPS)))


def _read_known(config: Mapping[str, Any], scopes: Sequence[str], table: Mapping[str, tuple[str, ...]]) -> Iterator[Known]:
    for scope in scopes:
        kind = "" if scope in ("", "text_config.") else scope.removesuffix(".").removesuffix("_config") + "_"
        for axis, sentences in table.items():
            for sentence in sentences:
                scoped = _add_scope(sentence, scope)
                value = _evaluate(config, scoped)
                if value:
                    yield Known(f"{kind}{axis}" if table is WHOLE_AXES else axis, scoped, value)


def _add_scope(sentence: str, scope: str) -> str:
    return " ".join(_add_scope_to_word(word, scope) for word in sentence.split(" ")) if scope else sentence


def _add_scope_to_word(word: str, scope: str) -> str:
    bare = word.lstrip("(")
    return word.replace(bare, scope + bare) if bare[:1].isalpha() else word


def _evaluate(config: Mapping[str, Any], sentence: str) -> int | None:
    """The number of a sentence; None where a key is absent, is no number, or does not divide."""
    try:
        sizes: Sizes = read_sizes(config, {"it": f"{sentence} | ?"})
    except MfconvError:
        return None
    return sizes["it"].value if "it" in sizes else None
