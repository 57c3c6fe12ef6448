"""Draft rules for an architecture that nobody mapped, from a checkpoint of each side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfconv_nb.author.suggesting.suggestion import Suggestion, suggestion_of
from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, TensorSpec, checkpoint_of
from mfconv_nb.core.errors import InputError, quote
from mfconv_nb.core.paths import local_path
from mfconv_nb.steps.loading.caller_facts import GivenConfig
from mfconv_nb.steps.loading.load import Loadable, load

Shapes = Mapping[str, tuple[int, ...]]


def suggest(hf: Loadable | Shapes, mf: Loadable | Shapes, *, config: GivenConfig = None) -> Suggestion:
    """Draft the rules that carry a Hugging Face checkpoint to the names and shapes of a MindFormers one.

    If both sides hold the numbers of the same model, equal bytes in the first layer and in the last decide. Known families are not used.

    Args:
        hf: a checkpoint of the Hugging Face side: anything that ``load`` takes, or names with shapes (``{"wte.weight": (331, 96)}``), or
            a JSON file of these.
        mf: the same for the MindFormers side, a network or ``mc.expected(...)`` among others.
        config: a config.json, its folder, or its content, in place of the checkpoint's own: sizes are read from it.
    Returns:
        Rules, each with a reason and a confidence ("certain" by bytes that no other known rule makes, "likely", or a "guess"), and the
        names that are left over. ``.family("mine")`` is a family for ``mc.map``.
    """
    return suggestion_of(side_of(hf, HF, config), side_of(mf, MF, None))


def side_of(thing: Any, side: str, config: Any) -> Checkpoint:
    """One side as a checkpoint; names with shapes become a checkpoint without numbers."""
    thing = _shapes_in(thing) or thing
    if isinstance(thing, Mapping) and thing and all(isinstance(shape, tuple | list) for shape in thing.values()):
        specs = [_spec(str(name), shape) for name, shape in thing.items()]
        return load(checkpoint_of([LazyTensor(spec, ()) for spec in specs], origin="names and shapes", side=side), config=config)
    return load(thing, config=config)


def _spec(name: str, shape: Sequence[Any]) -> TensorSpec:
    if not _is_shape(list(shape)):
        hint = "Such as [32, 64]."
        raise InputError("MFC109", quote(name), found=f"the shape {shape}", expected="whole numbers, none below 0", hint=hint)
    return TensorSpec(name, tuple(map(int, shape)), "F32")


def _shapes_in(thing: Any) -> Shapes | None:
    """Names with shapes, if ``thing`` is a JSON file of nothing else; None for any other file, which is left to ``load``."""
    if not isinstance(thing, str | Path) or not str(thing).endswith(".json"):
        return None
    try:
        content = json.loads(local_path(thing).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not content or not all(map(_is_shape, content.values())):
        return None
    return {name: tuple(shape) for name, shape in content.items()}


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is not bool and isinstance(n, int | np.integer) and n >= 0 for n in value)
