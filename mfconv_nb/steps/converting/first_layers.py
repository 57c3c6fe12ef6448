"""The config for the first layers of a checkpoint: every count of layers, and every list with one entry per layer, is cut to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.sizes import Sizes, read_sizes
from mfconv_nb.mapping.rules import Family

# other names of the same count, which a config may have beside the one that a family reads
COUNTS = frozenset({"num_hidden_layers", "num_layers", "n_layers", "n_layer"})
# keys whose lists have one entry a layer: transformers 5 refuses some of them when they are longer than there are layers
_EACH_LAYER = re.compile(
    r"layer|types$|modes$|pattern$|^(sliding_windows|swiglu_limits\w*|compress_ratios|attention_window|intermediate_size|num_experts|moe_topk"
    r"|num_attention_heads|num_key_value_heads)$"
)
_NUMBERS_OF_LAYERS = re.compile(r"_layers$|layer_ids$|layer_indices$")  # such as mlp_only_layers: [0, 3]

Path = tuple[str, ...]


def with_first_layers(source: Checkpoint, family: Family, form: Family, layers: int | None) -> Checkpoint:
    """The checkpoint with a config of the first ``layers`` layers; as it is where ``layers`` is None."""
    if layers is None or source.config is None:
        return source
    counts = {axis: s for axis, s in {**family.sizes, **form.sizes}.items() if axis.endswith(("layer", "layers")) and "{" not in s}
    sizes = read_sizes(source.config, {axis: f"{sentence} | ?" for axis, sentence in counts.items()})
    return replace(source, config=config_of_first_layers(source.config, sizes, layers))


def config_of_first_layers(config: Mapping[str, Any], sizes: Sizes, layers: int) -> dict[str, Any]:
    """``config`` for a checkpoint of the first ``layers`` layers.

    Args:
        sizes: what a family reads from it. An axis whose name ends in "layer" counts layers; one in "layers" counts those behind the
            last one, such as the layer that predicts a further token (MTP): they are not among the first.
    """
    counts = {path: value for axis in sizes if axis.endswith("layer") and (value := _count(config, path := _path(sizes, axis))) is not None}
    behind = {path for axis in sizes if axis.endswith("layers") and _count(config, path := _path(sizes, axis)) is not None}
    found = dict(config)
    before_them = max(counts.values(), default=0)
    for path in behind:
        home, key = path[:-1], path[-1]
        found = _with_entries(found, home, {key: max(0, min(_level_at(found, home)[key], layers - before_them))})
    for home in {path[:-1] for path in counts}:
        before = {path[-1]: value for path, value in counts.items() if path[:-1] == home}
        level = _level_at(found, home)
        found = _with_entries(found, home, {key: _cut_entry(key, value, before, layers) for key, value in level.items()})
    return found


def _cut_entry(key: str, value: Any, counts: Mapping[str, int], layers: int) -> Any:
    """One entry of a config, beside the counts of layers that are lowered."""
    if key in counts or (key in COUNTS and type(value) is int and value in counts.values()):
        return min(layers, value)
    if isinstance(value, list) and len(value) in counts.values() and _EACH_LAYER.search(key):
        return value[:layers]
    if isinstance(value, list) and _NUMBERS_OF_LAYERS.search(key) and all(type(n) is int for n in value):
        return [n for n in value if n < layers]
    return value


def _path(sizes: Sizes, axis: str) -> Path:
    """The keys that lead to what a size was read from."""
    return tuple(sizes[axis].origin.split("."))


def _count(config: Mapping[str, Any], path: Path) -> int | None:
    """The whole number at a path; None where there is none, as for a sum of two keys."""
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if type(value) is int else None


def _level_at(config: Mapping[str, Any], home: Path) -> Mapping[str, Any]:
    for key in home:
        config = config[key]
    return config


def _with_entries(config: Mapping[str, Any], home: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with some entries of an inner object changed."""
    if not home:
        return {**config, **changes}
    return {**config, home[0]: _with_entries(config[home[0]], home[1:], changes)}
