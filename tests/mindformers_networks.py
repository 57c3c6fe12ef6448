"""Whole networks of the installed ``mindformers``, built small on a CPU: `GPTModel` of the static graph, the dynamic one and inference.

The files of the networks are run as they are. What they import of the rest of the package, and of ``hyper_parallel`` (for several
devices), stands in as empty classes: that touches no parameter.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from tests.mindformers_package import mindformers_modules
from tests.support import Array

STATIC, DYNAMIC, INFERENCE = "static", "dynamic", "inference"
PLACES = {STATIC: "parallel_core.training_graph", DYNAMIC: "pynative", INFERENCE: "parallel_core.inference"}
EMPTY = (
    "hyper_parallel",
    *(f"mindformers.{name}" for name in ("checkpoint", "core", "dataset", "models", "modules", "tools", "version_control", "wrapper")),
    *(f"mindformers.pynative.{name}" for name in ("config", "distributed", "trainer")),
)
COMMON = {
    "add_bias_linear": False,
    "normalization": "RMSNorm",
    "gated_linear_unit": True,
    "hidden_act": "silu",
    "use_flash_attention": True,
    "params_dtype": "float32",
    "compute_dtype": "float32",
    "layernorm_compute_dtype": "float32",
    "softmax_compute_dtype": "float32",
    "rotary_dtype": "float32",
    "position_embedding_type": "rope",
    "max_position_embeddings": 64,
    "seq_length": 16,
}
LATENT = {"multi_latent_attention": True, "qk_layernorm": True}
EXPERTS = {
    "moe_grouped_gemm": True,
    "moe_router_enable_expert_bias": True,
    "moe_router_score_function": "sigmoid",
    "mtp_num_layers": 1,
}


class _Empty(ModuleType):
    """A module that has every name: each is a class that takes anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__init__": lambda self, *_, **__: None, "is_exists": staticmethod(lambda: False), "swap": False})
        setattr(self, name, made)
        return made


class _Finder:
    """Finds empty modules for what lies below ``EMPTY``."""

    def __init__(self, members: dict[str, dict[str, Any]]) -> None:
        self.members = members

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_below = any(name == each or name.startswith(f"{each}.") for each in EMPTY)
        return ModuleSpec(name, self, is_package=True) if is_below else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Empty(spec.name)
        module.__path__ = []
        module.__dict__.update(self.members.get(spec.name, {}))
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def _members() -> dict[str, dict[str, Any]]:
    """What of the empty modules is called while a network is made."""
    import mindspore  # heavy, and no import of the other tests

    dtypes = {"float32": mindspore.float32, "fp32": mindspore.float32, "bfloat16": mindspore.bfloat16, "bf16": mindspore.bfloat16}
    off = ("recompute", "select_recompute", "select_comm_recompute", "select_recompute_exclude", "select_comm_recompute_exclude")
    recompute = type("TransformerRecomputeConfig", (), {"__init__": lambda self, *_, **__: None, **dict.fromkeys(off, False)})
    return {
        "mindformers.modules.transformer": {"TransformerRecomputeConfig": recompute},
        "mindformers.tools.logger": {"logger": logging.getLogger("mindformers"), "_LogActionOnce": lambda **_: lambda call: call},
        "mindformers.tools.utils": {
            "get_real_rank": lambda: 0,
            "get_real_group_size": lambda: 1,
            "get_rank_info": lambda: (0, 1),
            "get_predict_run_mode": lambda: False,
            "is_pynative": lambda: True,
        },
        "mindformers.core.context": {"is_legacy_model": lambda: False},
        "mindformers.models.utils": {"convert_mstype": lambda dtype: dtypes.get(dtype, dtype)},
        "mindformers.version_control": {
            "get_lazy_inline": lambda call: call,
            "is_version_ge": lambda *_: True,
            "is_310p": lambda: False,
        },
    }


@contextmanager
def empty_modules() -> Iterator[None]:
    """Stand in for what lies below ``EMPTY``; nothing of it is left afterwards."""
    finder = _Finder(_members())
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        for name in [name for name in sys.modules if name.split(".")[0] == "hyper_parallel"]:
            del sys.modules[name]


def parameters_of_network(graph: str, **config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a network with this transformer config, in the order it has them."""
    import mindspore  # heavy, and no import of the other tests

    place = f"mindformers.{PLACES[graph]}.base_models.gpt"
    wanted = ("mindformers.parallel_core.transformer_config", f"{place}.gpt_layer_specs", f"{place}.gpt_model")
    mode = mindspore.get_context("mode")
    with empty_modules(), mindformers_modules(*wanted) as (configs, specs, model):
        mindspore.set_context(mode=mindspore.GRAPH_MODE if graph == STATIC else mindspore.PYNATIVE_MODE)
        try:
            is_latent = config.get("multi_latent_attention", False)
            made = (configs.MLATransformerConfig if is_latent else configs.TransformerConfig)(**{**COMMON, **config})
            network = model.GPTModel(
                config=made,
                vocab_size=made.vocab_size,
                max_sequence_length=32,
                position_embedding_type="rope",
                **_more_of_network(graph, made, specs),
            )
            return {p.name: tuple(p.shape) for p in network.get_parameters()}
        finally:
            mindspore.set_context(mode=mode)


def _more_of_network(graph: str, config: Any, specs: Any) -> dict[str, Any]:
    """What MindFormers' model classes give a network of this graph besides."""
    normed = {"qk_layernorm": config.qk_layernorm}
    if graph == INFERENCE:
        return {"transformer_layer_spec": specs.get_gpt_layer_local_spec(normalization="RMSNorm", **normed)}
    layers = specs.get_gpt_decoder_block_spec(config) if config.num_moe_experts else specs.get_gpt_layer_local_spec(**normed)
    mtp = {"mtp_block_spec": specs.get_gpt_mtp_block_spec(config, layers)} if graph == STATIC and config.mtp_num_layers else {}
    return {"transformer_layer_spec": layers, **mtp}


INDEXERS = {
    STATIC: "mindformers.parallel_core.training_graph.transformer.dsa.dsa_indexer",
    DYNAMIC: "mindformers.pynative.transformers.experimental_attention_variant.dsa_indexer",
}
SPECS = {
    STATIC: "mindformers.parallel_core.training_graph.base_models.gpt.gpt_layer_specs",
    DYNAMIC: "mindformers.pynative.base_models.gpt.experimental_attention_variant_module_specs",
}


def scores_of_indexer(graph: str, weights: dict[str, Array], hidden: Array, latent: Array, angles: Array, **config: Any) -> Array:
    """The scores, queries x keys, that the indexer of a layer gives with these weights.

    It runs as it is, up to its queries, keys and weights of heads. Stand-ins: a norm and a product of matrices that mindspore lacks on a
    CPU, and what the static graph calls where it is compiled. The fused kernel behind that is for Ascend: its sum is made here.

    Args:
        weights: by the names inside the indexer.
        hidden, latent: tokens x width; angles: tokens x rotary width.
    """
    import mindspore  # heavy, and no import of the other tests

    wanted = ("mindformers.parallel_core.transformer_config", SPECS[graph], "mindformers.parallel_core.training_graph.device_matrix")
    mode = mindspore.get_context("mode")
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    try:
        with empty_modules(), mindformers_modules(*wanted, INDEXERS[graph]) as (configs, specs, matrix, _):
            made = configs.MLATransformerConfig(**{**COMMON, **LATENT, **config})
            matrix.layout.init_layout(made)
            attention = specs.get_attention_module_spec(True) if graph == STATIC else specs.get_dsa_module_spec().submodules.core_attention
            spec = attention.submodules.indexer
            cell = spec.module(made, spec.submodules)
            assert {p.name: tuple(p.shape) for p in cell.get_parameters()} == {n: w.shape for n, w in weights.items()}
            for parameter in cell.get_parameters():
                parameter.set_data(mindspore.Tensor(weights[parameter.name]))
            inputs = [mindspore.Tensor(array[:, None]) for array in (hidden, latent)]
            q, k, per_head = (_static_parts if graph == STATIC else _dynamic_parts)(cell, *inputs, mindspore.Tensor(angles[:, None, None]))
        q, k, per_head = (part.asnumpy().astype(np.float64) for part in (q, k, per_head))
        return np.einsum("qh,qhk->qk", per_head, np.maximum(np.einsum("qhd,kd->qhk", q, k), 0))
    finally:
        mindspore.set_context(mode=mode)


def _static_parts(cell: Any, hidden: Any, latent: Any, angles: Any) -> tuple[Any, Any, Any]:
    import mindspore  # heavy, and no import of the other tests

    for linear in (cell.linear_wq_b, cell.linear_wk, cell.linear_weights_proj):
        linear.morphed_forward = linear.forward_func
    cell.hadamard_q.bmm = cell.hadamard_k.bmm = mindspore.ops.matmul
    cell.compute_index_scores = lambda q, k, weights, *_: ((q[0], k[0, 0].T, weights[0, :, :, 0]), None)
    _, parts = cell(hidden, latent, None, (angles, 1.0))
    return parts


def _dynamic_parts(cell: Any, hidden: Any, latent: Any, angles: Any) -> tuple[Any, Any, Any]:
    cell.k_norm.layer_norm = _layer_norm
    q, k, weights = cell.get_qk_index(hidden, latent, angles)
    return q[0], k[0, :, 0], weights[0]


def _layer_norm(values: Any, _: Any, gain: Any, shift: Any, eps: float) -> Any:
    away = values - values.mean(-1, keep_dims=True)
    return away / ((away * away).mean(-1, keep_dims=True) + eps).sqrt() * gain + shift
