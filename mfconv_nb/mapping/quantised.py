"""Quantised checkpoints, told by their names or their config. They are refused: their numbers are codes, not weights.

Source: names in files of AutoGPTQ and AutoAWQ (`qweight`, `qzeros`, `g_idx`), bitsandbytes (`absmax`, `quant_map`, `SCB`),
MLX (`scales` and `biases` beside `weight`), and block-wise fp8 (`weight_scale_inv`); `quantization_config` of transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SUFFIXES = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_format": "bitsandbytes",
    "weight_scale_inv": "block-wise fp8",
}
METHODS = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "fp8", "compressed-tensors": "compressed-tensors"}


def quantisation_of(names: Iterable[str], config: Mapping[str, Any] | None) -> str | None:
    """How a checkpoint is quantised, in a clause; None where nothing says that it is."""
    suffixes: dict[str, str] = {}
    for name in names:
        suffixes.setdefault(name.rpartition(".")[2], name)
    for suffix, what in SUFFIXES.items():
        if suffix in suffixes:
            return f"{_method(config) or what}: it has {suffixes[suffix]}"
    if {"scales", "biases"} <= suffixes.keys():
        return f"MLX: it has {suffixes['scales']}"
    return None


def _method(config: Mapping[str, Any] | None) -> str | None:
    settings = (config or {}).get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return METHODS.get(method) if isinstance(method, str) else None
