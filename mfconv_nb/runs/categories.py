"""What the tensors of a training run are: weights, optimizer state, gradients, counters of the run, buffers. Told by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.errors import UsageError, did_you_mean, quoted
from mfconv_nb.mapping.run_state import COUNTERS, GRADIENTS, OPTIMIZER, is_layer_state

WEIGHTS, OPTIMIZER_STATE, GRADIENT_SUMS, RUN_STATE, BUFFERS = "weights", "optimizer", "gradients", "run state", "buffers"
CATEGORIES = (WEIGHTS, OPTIMIZER_STATE, GRADIENT_SUMS, RUN_STATE, BUFFERS)
_BUFFER = re.compile(r"(^|\.)(inv_freq|freqs_cis|freqs_cos|freqs_sin|position_ids|key_cache|value_cache|causal_mask)$")


@dataclass(frozen=True, slots=True)
class Amount:
    """How many tensors of a category there are, and their bytes."""

    tensors: int
    nbytes: int


def category_of(name: str) -> str:
    """One of ``CATEGORIES``. What is neither known as state nor as a buffer is a weight: nothing of the weights hides elsewhere."""
    if name.startswith(OPTIMIZER):
        return OPTIMIZER_STATE
    if name.startswith(GRADIENTS):
        return GRADIENT_SUMS
    if name in COUNTERS or is_layer_state(name):
        return RUN_STATE
    return BUFFERS if _BUFFER.search(name) else WEIGHTS


def amounts(specs: Iterable[TensorSpec]) -> Mapping[str, Amount]:
    """Tensors and bytes by category; categories of which there are none are left out."""
    counts = dict.fromkeys(CATEGORIES, (0, 0))
    for spec in specs:
        category = category_of(spec.name)
        tensors, nbytes = counts[category]
        counts[category] = (tensors + 1, nbytes + spec.nbytes)
    return {category: Amount(*found) for category, found in counts.items() if found[0]}


def categories_asked(only: str | Iterable[str]) -> tuple[str, ...]:
    """The categories that a caller named, as ``"weights,optimizer"`` or one by one.

    Raises:
        UsageError: MFC501 for an unknown one.
    """
    words = tuple(w.strip().replace("_", " ") for w in (only.split(",") if isinstance(only, str) else only))
    for word in words:
        if word not in CATEGORIES:
            expected = ", ".join(CATEGORIES)
            hint = did_you_mean(word, CATEGORIES) or "Leave --only out (only= in Python) to take everything."
            raise UsageError("MFC501", "only", found=quoted(word), expected=expected, hint=hint)
    return words
