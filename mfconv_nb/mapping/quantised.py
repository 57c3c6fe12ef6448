"""Recognise quantised checkpoints, which are refused: their numbers are codes, not weights.

The signs are tensors that lie beside codes (scales and the like, by their names), and weights with a dtype of codes. A config or a file
that says how the model was quantised names the scheme but proves nothing: it may be left over beside dequantised weights.

Source: names in files of AutoGPTQ and AutoAWQ (`qweight`, `qzeros`, `g_idx`), bitsandbytes (`absmax`, `quant_map`, `SCB`), MLX (`scales`
and `biases` beside `weight`), block-wise fp8 (`weight_scale_inv`), compressed-tensors (`weight_scale`, `weight_packed`), ModelOpt's NVFP4
(`weight_scale_2`), FBGEMM (`input_scale_ub`), EETQ (`weight_scales`), AQLM (`codebooks`), VPTQ (`centroids`), HQQ (`W_q`), quanto
(`weight._data`), torchao (`weight_qdata`), gpt-oss (`_blocks`, `_scales`), Ascend's msModelSlim (`weight_offset`, `deq_scale`,
`quant_bias`); `quantization_config` of transformers, `compression_config` of compressed-tensors, `quantization` of MLX, `quantize` of
msModelSlim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.dtypes import CASTABLE, short_name
from mfconv_nb.core.errors import to_one_line

SCALED = "codes with scales"
SUFFIXES = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_format": "bitsandbytes",
    "weight_offset": "Ascend's msModelSlim",
    "deq_scale": "Ascend's msModelSlim",
    "quant_bias": "Ascend's msModelSlim",
    "weight_packed": "compressed-tensors",
    "weight_zero_point": "compressed-tensors",
    "weight_scale_2": "NVFP4",
    "input_scale_ub": "FBGEMM",
    "weight_scales": "EETQ",
    "codebooks": "AQLM",
    "centroids": "VPTQ",
    "W_q": "HQQ",
    "weight_qdata": "torchao",
    "_data": "quanto",
    "weight_scale_inv": "block-wise fp8",  # after those that only other schemes have: what is refused is named by them
    "weight_scale": SCALED,
    "scale_weight": SCALED,
}
ENDINGS = {"_blocks": "MXFP4", "_scale_inv": "block-wise fp8", "_weight_scale": SCALED}
WORDS = ("codebooks", "centroids", "W_q", "_data", "_blocks")  # a network may use them too: they count beside codes only
METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "mxfp4": "MXFP4",
    "aqlm": "AQLM",
    "hqq": "HQQ",
    "eetq": "EETQ",
    "vptq": "VPTQ",
    "fbgemm_fp8": "FBGEMM",
}
CONFIG_KEYS = ("quantization_config", "compression_config", "quantization", "quantize", "quant_config")

CODES = frozenset({"I8", "U8"})  # nothing that a model holds beside its weights is a matrix of these, but for masks
INTEGERS = CODES | {"I16", "U16", "I32", "U32", "I64", "U64"}
PACKED = CODES | {"I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2", "F8_E8M0"}  # where something says that it is quantised
FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_BREAK = re.compile(r"[._]")
NO_WEIGHTS = ("bias", "masked_bias", "position_ids", "relative_position_index", "tid2eid")  # masks and tables of whole numbers


def quantisation_of(specs: Iterable[TensorSpec], config: Mapping[str, Any] | None, beside: str = "") -> str | None:
    """How a checkpoint is quantised, in a clause; None where its weights are numbers.

    Args:
        beside: what a file beside the weights says of the scheme.
    """
    specs = list(specs)
    claim = claimed_scheme(config) or beside
    return scheme_by_names(specs, claim) or codes_among(specs, claim)


def claimed_scheme(config: Mapping[str, Any] | None) -> str:
    """The scheme that a config names, for itself or for a model in it; empty where it names none."""
    for part in (config or {}, *(v for v in (config or {}).values() if isinstance(v, Mapping))):
        for key in CONFIG_KEYS:
            settings = part.get(key)
            if isinstance(settings, str) and settings:
                return to_one_line(settings[:40])
            if isinstance(settings, Mapping) and settings:
                method = settings.get("quant_method") or settings.get("format") or ("MLX" if "group_size" in settings else key)
                return METHODS.get(str(method), to_one_line(str(method)[:40]))
    return ""


def claims_of(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of a config that say how the model was quantised."""
    return {key: config[key] for key in CONFIG_KEYS if config is not None and config.get(key)}


def without_claims(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without its keys on quantisation."""
    plain = {key: value for key, value in config.items() if key not in CONFIG_KEYS}
    return {key: without_claims(value) if isinstance(value, Mapping) and claimed_scheme(value) else value for key, value in plain.items()}


def scheme_by_names(specs: Iterable[TensorSpec], claim: str) -> str | None:
    """The scheme by names that stand beside codes, and the first of those."""
    suffixes: dict[str, str] = {}
    has_codes = False
    for spec in specs:
        suffixes.setdefault(_last(spec), spec.name)
        has_codes = has_codes or (spec.dtype in PACKED and _may_be_weight(spec))
    for suffix, what in SUFFIXES.items():
        if suffix in suffixes and (has_codes or suffix not in WORDS):
            return f"{claim or what}: it has {suffixes[suffix]}"
    for ending, what in ENDINGS.items():
        for suffix, name in suffixes.items():
            if suffix.endswith(ending) and (has_codes or ending not in WORDS):
                return f"{claim or what}: it has {name}"
    if {"scales", "biases"} <= suffixes.keys():
        return f"{claim or 'MLX'}: it has {suffixes['scales']}"
    return None


def codes_among(specs: Iterable[TensorSpec], claim: str, *, all_weights: bool = False) -> str | None:
    """The first weight that is held in a dtype of codes.

    Where nothing says that the model is quantised, fp8 counts as numbers if nothing but a bias lies beside it.

    Args:
        all_weights: every tensor is known to be a weight, whatever its name.
    """
    specs = list(specs)
    scaled = {s.name.rpartition(".")[0] for s in specs if "scale" in _last(s)} | _with_companions(specs)
    for spec in specs:
        if spec.dtype in CASTABLE or not _may_be_weight(spec):
            continue
        is_codes = spec.dtype in (INTEGERS if "weight" in _last(spec) else CODES if all_weights else ())
        has_scale = spec.dtype in FP8 and not scaled.isdisjoint((_module(spec.name), spec.name.rpartition(".")[0]))
        if is_codes or has_scale or spec.dtype == "F8_E8M0" or (claim and spec.dtype in PACKED):
            return f"{claim or (SCALED if has_scale else 'codes')}: {spec.name} is {short_name(spec.dtype)}"
    return None


def _with_companions(specs: Iterable[TensorSpec]) -> set[str]:
    """The modules with a matrix in fp8 that have more than it and a bias: a scale, whatever it is called, or the state of a quantiser.

    Told by names that go on after the module's: `q_proj.scale`, `q_proj.weight.scale`, `q_proj_scale`. Weights and adapters are none.
    """
    modules = {_module(s.name) for s in specs if s.dtype in FP8 and _may_be_weight(s)}
    others = (s.name for s in specs if modules and s.dtype not in FP8 and not s.name.endswith((".weight", "bias")))
    return {n[: m.start()] for n in others if "lora_" not in n for m in _BREAK.finditer(n)} & modules


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _last(spec: TensorSpec) -> str:
    return spec.name.rpartition(".")[2]


def _may_be_weight(spec: TensorSpec) -> bool:
    """By its shape and name: a matrix, and none of the masks and tables that models hold."""
    return len(spec.shape) >= 2 and _last(spec) not in NO_WEIGHTS
