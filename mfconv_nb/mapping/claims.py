"""What a config.json of Hugging Face claims of the weights beside it, and what their headers say. Pure: names, shapes and dtypes only.

Sizes and layers are no part of this: the rules of a family compare them with every tensor (see `plan.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mfconv_nb.core.checkpoint import LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import BY_TORCH, CASTABLE, DTYPES
from mfconv_nb.core.errors import quote
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.quantised import claimed_scheme, quantisation_of

DTYPE_KEYS = ("dtype", "torch_dtype")
NEXT_LAYERS = "num_nextn_predict_layers"  # how many layers behind the last one predict further tokens (MTP)
LAYERS = "num_hidden_layers"
TOKENS = re.compile(r"^(bos|eos|pad|sep|cls|mask|decoder_start|image|audio|video)_token_(id|index)$")
# transformers 5 refuses a list with another number of entries than there are layers
ONE_ENTRY_A_LAYER = ("layer_types", "mlp_layer_types")
HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
# `mtp.0.`, `model.mtp_layers.0.` (MiMo), `model.mtp_block.0.` (ERNIE 4.5), `mtp.layers.0.` (Qwen3-Next)
_NEXT_LAYER = re.compile(r"(?:^|\.)mtp\w*\.(?:[a-z_]+\.)?(\d+)\.")
_LAYER = re.compile(r"^(?:model\.|language_model\.)*layers\.(\d+)\.")  # not of an encoder beside the language model
_NAMES_MTP = re.compile(r"(?:^|\.)mtp")


@dataclass(frozen=True, slots=True)
class FalseClaim:
    """An entry of a config that its files contradict."""

    key: str
    claimed: str
    held: str


def find_false_claims(config: Mapping[str, Any], specs: Iterable[TensorSpec]) -> Iterator[FalseClaim]:
    """Every claim of a config that the headers beside it contradict.

    Args:
        specs: of the weights, on the Hugging Face side.
    """
    specs = list(specs)
    if (claim := claimed_scheme(config)) and quantisation_of(specs, None) is None:
        yield FalseClaim("quantization_config", claim, "the weights are not quantised")
    yield from _find_false_dtypes(config, specs)
    claimed, held = config.get(NEXT_LAYERS), count_next_layers(config, (s.name for s in specs))
    if type(claimed) is int and held is not None and claimed != held:
        yield FalseClaim(NEXT_LAYERS, str(claimed), f"there {'is' if held == 1 else 'are'} {how_many(held, 'such layer')}")
    yield from _find_false_numbers(config)


def count_next_layers(config: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """How many layers that predict further tokens there are, by their names: `mtp.0`, or `layers.N` from the config's number of layers on.

    None where that cannot be told: the config does not say how many layers come before them, or their names do not count them.
    """
    before, names = config.get(LAYERS), list(names)
    if type(before) is not int:
        return None
    counted = {int(match[1]) for name in names if (match := _NEXT_LAYER.search(name))}
    if not counted and any(map(_NAMES_MTP.search, names)):
        return None
    behind = {int(match[1]) - before for name in names if (match := _LAYER.match(name))}
    return len(counted | {number for number in behind if number >= 0})


def find_claimed_tie(config: Mapping[str, Any], tensors: Iterable[LazyTensor]) -> tuple[LazyTensor | None, list[LazyTensor]]:
    """The head that a config ties to an embedding though it is there, and the tensors that may be that embedding, by shape and name.

    None and nothing where the config ties nothing, or one of both is not there.
    """
    if config.get("tie_word_embeddings") is not True:
        return None, []
    by_name = {t.name: t for t in tensors}
    head = by_name.get(HEAD)
    embeddings = [t for t in by_name.values() if head is not None and t.shape == head.shape and t.name.endswith(EMBEDDINGS)]
    return (head, embeddings) if embeddings else (None, [])


def find_main_dtype(specs: Iterable[TensorSpec]) -> str | None:
    """torch's name of the dtype of most numbers; None where no tensor has a dtype that a cast is asked for."""
    counts: dict[str, int] = {}
    for spec in specs:
        if spec.dtype in CASTABLE:
            counts[spec.dtype] = counts.get(spec.dtype, 0) + spec.elements
    return DTYPES[max(counts, key=lambda dtype: counts[dtype])].torch if counts else None


def _find_false_dtypes(config: Mapping[str, Any], specs: list[TensorSpec]) -> Iterator[FalseClaim]:
    most = find_main_dtype(specs)
    for key in DTYPE_KEYS:
        claimed = config.get(key)
        if most is not None and isinstance(claimed, str) and claimed in BY_TORCH and claimed != most:
            yield FalseClaim(key, claimed, f"most numbers are {most}")


def _find_false_numbers(config: Mapping[str, Any]) -> Iterator[FalseClaim]:
    """Entries that contradict another of the same config: tokens beyond the vocabulary, lists with one entry a layer."""
    vocabulary, layers = config.get("vocab_size"), config.get(LAYERS)
    if type(vocabulary) is int:
        for key in filter(TOKENS.match, config):
            tokens = config[key] if isinstance(config[key], list) else [config[key]]
            if beyond := [n for n in tokens if type(n) is int and n >= vocabulary]:
                yield FalseClaim(key, str(beyond[0]), f"the vocabulary has {how_many(vocabulary, 'token')}")
    for key in ONE_ENTRY_A_LAYER:
        value = config.get(key)
        if isinstance(value, list) and type(layers) is int and len(value) != layers:
            yield FalseClaim(key, how_many(len(value), "entry", "entries"), f"{LAYERS} is {layers}")


def describe_claim(claim: FalseClaim) -> str:
    """A false claim in a clause."""
    return f"config.json says {claim.key} {quote(claim.claimed)}; {claim.held}"
