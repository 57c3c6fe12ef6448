"""What config.json says of the weights beside it, made true: dtype, layers, tied head, quantisation. The rest stays as it was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import CASTABLE, DTYPES
from mfconv_nb.core.errors import quote
from mfconv_nb.core.sizes import RUN_CONFIG, read_sizes
from mfconv_nb.formats.folders import NAMED_BY
from mfconv_nb.mapping.plan import TIED
from mfconv_nb.mapping.quantised import claimed_scheme, quantisation_of, without_claims
from mfconv_nb.mapping.rules import Tied
from mfconv_nb.steps.converting.mapped_checkpoint import plan_of
from mfconv_nb.streaming.compare import compare_tensors

DTYPE_KEYS = ("dtype", "torch_dtype")


def true_config(given: Mapping[str, Any], checkpoint: Checkpoint, specs: Iterable[TensorSpec]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config of Hugging Face with what is true of the tensors that are written, and notes on what was changed and why.

    Args:
        given: the config of the original.
        specs: name, shape and dtype of what is written.
    """
    specs, notes, config = list(specs), [], {key: value for key, value in given.items() if key != NAMED_BY}  # we write other files
    if (claim := claimed_scheme(config)) and quantisation_of(specs, None) is None:
        config = without_claims(config)
        notes.append(f"config.json said {claim}; the weights are not quantised, and what is written says nothing of it")
    config = _with_dtypes(config, specs)
    config |= _layers_of(checkpoint, config)
    if (ties := _ties(checkpoint, config)) is not None:
        config["tie_word_embeddings"], why = ties
        notes.append(f"config.json gets tie_word_embeddings {str(ties[0]).lower()}: {why}")
    return config, tuple(notes)


def _with_dtypes(config: dict[str, Any], specs: list[TensorSpec]) -> dict[str, Any]:
    """With the dtype of most numbers, wherever the config states one: from_pretrained casts to it. A part keeps one that occurs."""
    counts: dict[str, int] = {}
    for spec in specs:
        if spec.dtype in CASTABLE:
            counts[spec.dtype] = counts.get(spec.dtype, 0) + spec.elements
    if not counts:
        return config
    most, occurring = DTYPES[max(counts, key=lambda dtype: counts[dtype])].torch, {DTYPES[dtype].torch for dtype in counts}
    stated = {key: most for key in DTYPE_KEYS if isinstance(config.get(key), str)}
    parts = {key: _part_with_dtype(part, most, occurring) for key, part in config.items() if isinstance(part, Mapping)}
    return {**config, **stated, **parts}


def _part_with_dtype(part: Mapping[str, Any], most: str, occurring: set[str]) -> dict[str, Any]:
    return {**part, **{key: most for key in DTYPE_KEYS if isinstance(part.get(key), str) and part[key] not in occurring}}


def _layers_of(checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of layers by which the tensors were mapped, under the keys that give them."""
    mapped_by = checkpoint.config
    plan = plan_of(checkpoint)
    if plan is None or mapped_by is None or RUN_CONFIG in mapped_by:
        return {}
    sizes = read_sizes(mapped_by, plan.family.sizes)
    keys = {size.origin for axis, size in sizes.items() if axis.endswith("layer")}
    return {key: mapped_by[key] for key in keys if key in mapped_by and key in config}


def _ties(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Whether head and embedding are one in what is written, and why, where the config says otherwise."""
    plan = plan_of(checkpoint)
    if plan is None:
        return None
    sizes = read_sizes(config, plan.family.sizes)
    left_out = {row.rule for row in plan.rows if row.status == TIED and not row.targets}
    for rule in (r for r in plan.family.rules if isinstance(r, Tied)):
        said = bool(sizes[rule.only_if].value) if rule.only_if in sizes else False
        head, embedding = (checkpoint.tensors.get(name) for name in (rule.hf, rule.same_as))
        if rule in left_out and not said:
            return True, f"{quote(rule.hf)} is left out, as it was in the original"
        if said and head is not None and embedding is not None and not _are_equal(head, embedding):
            return False, f"the numbers of {quote(rule.hf)} and {quote(rule.same_as)} differ"
    return None


def _are_equal(one: LazyTensor, other: LazyTensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.pieces == other.pieces or compare_tensors([(one, other)])[0].equal_bytes
