"""Quantised checkpoints, made with torch and without the package under test; each with the numbers that it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import mfconv_nb as mc
from tests.support import NUMPY, Array, Raw, write_hf, write_safetensors
from tests.toys import arrays_of

FP8, E5M2, E8M0 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu
LARGEST = {FP8: 448.0, E5M2: 57344.0}


def spread(scales: Array, block: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """Scales as float32, one for each number of a matrix."""
    return scales.astype(np.float32).repeat(block[0], -2).repeat(block[1], -1)[..., : shape[-2], : shape[-1]]


def scales_of(weight: Array, block: tuple[int, int], largest: float, *, powers_of_two: bool = False) -> Array:
    """amax / largest of every block, as float32."""
    rows, columns = weight.shape
    up, across = -(-rows // block[0]), -(-columns // block[1])
    padded = np.zeros((up * block[0], across * block[1]), np.float32)
    padded[:rows, :columns] = weight.astype(np.float32)
    amax = np.abs(padded.reshape(up, block[0], across, block[1])).max((1, 3))
    scales = np.maximum(amax / np.float32(largest), np.float32(1e-12))
    return np.exp2(np.ceil(np.log2(scales))).astype(np.float32) if powers_of_two else scales.astype(np.float32)


def fp8(weight: Array, block: tuple[int, int], kind: Any = FP8, *, powers_of_two: bool = False) -> tuple[Array, Array, Array]:
    """Codes, scales (float32) and the product in float32."""
    scales = scales_of(weight, block, LARGEST[kind], powers_of_two=powers_of_two)
    wide = spread(scales, block, weight.shape)
    codes = np.clip(weight.astype(np.float32) / wide, -LARGEST[kind], LARGEST[kind]).astype(kind)
    return codes, scales, codes.astype(np.float32) * wide


def fp4(weight: Array) -> tuple[Array, Array, Array]:
    """Bytes of two e2m1 codes (the low four bits first), scales (e8m0) for 32 columns and the product in float32."""
    scales = scales_of(weight, (1, 32), 6.0, powers_of_two=True)
    wide = spread(scales, (1, 32), weight.shape)
    codes = (weight.astype(np.float32) / wide).astype(ml_dtypes.float4_e2m1fn)
    bits = codes.view(np.uint8)
    return (bits[:, 0::2] | bits[:, 1::2] << 4), scales.astype(E8M0), codes.astype(np.float32) * wide


def rounded(numbers: Array, dtype: Any = ml_dtypes.bfloat16) -> Array:
    with np.errstate(all="ignore"):
        return numbers.astype(dtype)


def by_blocks(block: int, **more: Any) -> dict[str, Any]:
    """The `quantization_config` of block-wise fp8."""
    return {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [block, block], **more}}


def write_shards(folder: Path, shards: Iterable[Mapping[str, Raw | Array]], config: Mapping[str, Any] | None) -> Path:
    """A folder of several files with an index."""
    folder.mkdir(parents=True)
    where = {}
    for n, tensors in enumerate(shards):
        write_safetensors(folder / f"model-{n}.safetensors", tensors)
        where |= dict.fromkeys(tensors, f"model-{n}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def llama_fp8(
    folder: Path, *, block: int = 32, suffix: str = "weight_scale_inv", kind: Any = FP8, config: Mapping[str, Any] | None = None, **how: Any
) -> tuple[Path, dict[str, Raw], dict[str, Raw]]:
    """A small Llama whose projections are fp8 in blocks; with what lies in it, and with the numbers that it stands for in bf16."""
    made = mc.toy("llama", dtype="bf16")
    stored: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for name, weight in arrays_of(made).items():
        stored[name] = numbers[name] = weight
        if name.endswith("_proj.weight"):
            stored[name], scales, product = fp8(weight, (block, block), kind, **how)
            stored[name.removesuffix("weight") + suffix] = scales
            numbers[name] = rounded(product)
    said = by_blocks(block, **({"scale_fmt": "ue8m0"} if how.get("powers_of_two") else {})) if config is None else config
    path = write_hf(folder, as_raws(stored), {**made.config, **said})
    return path, as_raws(stored), as_raws(numbers)


def as_raws(arrays: Mapping[str, Array]) -> dict[str, Raw]:
    """Arrays as their bytes; those of fp8 too."""
    names = {np.dtype(v): k for k, v in {**NUMPY, "F8_E5M2": E5M2}.items()}
    return {n: a if isinstance(a, Raw) else Raw(names[a.dtype], a.shape, np.ascontiguousarray(a).tobytes()) for n, a in arrays.items()}
