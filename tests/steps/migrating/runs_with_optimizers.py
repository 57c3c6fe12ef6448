"""Training runs of small models: the weights of a network of MindFormers, and what an optimizer holds beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import mfconv_nb as mc

Arrays = dict[str, np.ndarray[Any, Any]]
ADAM, MUON = ("adam_m.", "adam_v."), "muon_m."
NO_STATE = ("router.expert_bias", "mlp.expert_bias")  # moved by the load of the experts, not by an optimizer


def weights_of(family: str, **form: object) -> Arrays:
    """A toy in a form of MindFormers; every number is another one."""
    toy = mc.toy(family, dtype="fp32")
    mapped = mc.map(toy, family, to="mf", **form)
    random = np.random.default_rng(7)
    return {name: random.standard_normal(mapped[name].shape).astype(np.float32) for name in mapped.tensors}


def adamw(weights: Mapping[str, Any]) -> Arrays:
    """Two moments of each weight."""
    return {prefix + n: moment(prefix, a) for prefix in ADAM for n, a in weights.items() if not n.endswith(NO_STATE)}


def muon(weights: Mapping[str, Any]) -> Arrays:
    """Momentum of matrices inside layers, two moments of the rest: as Muon of MindFormers does by default."""
    matrices = {n for n, a in weights.items() if a.ndim > 1 and "word_embeddings" not in n and "output_layer" not in n}
    momentum = {MUON + n: moment(MUON, weights[n]) for n in weights if n in matrices}
    return momentum | adamw({n: a for n, a in weights.items() if n not in matrices})


def moment(prefix: str, weight: Any) -> np.ndarray[Any, Any]:
    return (weight * (len(prefix) + ord(prefix[-2]))).astype(np.float32)


OPTIMIZERS: dict[str, Callable[[Mapping[str, Any]], Arrays]] = {"adamw": adamw, "muon": muon}
NUMBERS: Arrays = {
    "global_step": np.array([400], np.int32),
    "learning_rate": np.array(0.25, np.float32),
    "epoch_num": np.array(2, np.int32),
    "step_num": np.array(400, np.int32),
    "loss_scale": np.array(4096.0, np.float32),
    "global_batch_size": np.array(64, np.int32),
}
IN_COMMON = {"epoch_num": 2, "step_num": 400, "global_step": 400, "loss_scale": 4096.0, "global_batch_size": 64}


def arrays_of(checkpoint: mc.Checkpoint) -> Arrays:
    return {name: np.array(mc.read(checkpoint, name)) for name in checkpoint.tensors}
