"""toy: a small checkpoint with a family's real names and config, whose axis sizes all differ. For trying things out, and for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mfconv_nb.checkpoint import HF, MF, Checkpoint, LazyTensor, TensorSpec, checkpoint_of
from mfconv_nb.config import read_sizes
from mfconv_nb.dtypes import numpy_dtype, requested_dtype
from mfconv_nb.errors import UsageError
from mfconv_nb.families.registry import family_named
from mfconv_nb.formats.writing import is_folder
from mfconv_nb.live import load_live
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.rules import Family
from mfconv_nb.steps.load import load
from mfconv_nb.steps.save import save

TOY_SHARD = "100KB"  # several shards, so that the index is part of the toy


def toy(
    family: str | Family,
    target: str | Path | None = None,
    *,
    dtype: str = "bf16",
    overwrite: bool = False,
    **config: Any,
) -> Checkpoint:
    """A small checkpoint of a family, on the Hugging Face side, with random numbers that are the same every time.

    Args:
        target: where to save it; a folder gets shards, an index and config.json. Left out: it stays in memory.
        dtype: "bf16", "fp16" or "fp32".
        config: changes to the toy's config.json, such as ``tie_word_embeddings=True`` or ``num_hidden_layers=2``.
    Raises:
        MappingError: MFC301 for an unknown family. OutputError: MFC401 when the target exists.
    """
    chosen = family if isinstance(family, Family) else family_named(family)
    if not chosen.toy:
        raise UsageError("MFC501", "family", found=chosen.key, expected="a family with a toy config")
    wanted = requested_dtype(dtype) or "BF16"
    full = {**chosen.toy, **config, "dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[wanted]}
    specs = expected_specs(chosen, read_sizes(full, chosen.sizes), HF, wanted)
    arrays = {s.name: _random(s) for s in specs}
    made = load_live(arrays)
    checkpoint = checkpoint_of(made.tensors, origin=f"toy {chosen.key}", side=HF, config=full, family=chosen.key)
    if target is None:
        return checkpoint
    save(checkpoint, target, overwrite=overwrite, max_shard_size=TOY_SHARD if is_folder(Path(target)) else None)
    return load(target, config=full)


def expected(family: str | Family, config: Any, *, side: str = MF, dtype: str = "fp32") -> Checkpoint:
    """What a config promises on one side: names, shapes, no values. For ``diff`` against what is really there.

    Args:
        config: a config.json, its folder, or its content.
        side: "mf" or "hf".
        dtype: the dtype to state for every tensor; a config does not say it for each.
    """
    chosen = family if isinstance(family, Family) else family_named(family)
    content = load({"none": np.zeros(1, np.float32)}, config=config).config or {}
    specs = expected_specs(chosen, read_sizes(content, chosen.sizes), side, requested_dtype(dtype) or "F32")
    tensors = [LazyTensor(s, ()) for s in specs]
    return checkpoint_of(tensors, origin=f"expected of {chosen.key}", side=side, config=content, family=chosen.key)


def _random(spec: TensorSpec) -> np.ndarray[Any, Any]:
    """Numbers of about the size weights have, seeded by the tensor's name."""
    seed = int.from_bytes(hashlib.sha256(spec.name.encode()).digest()[:8], "little")
    numbers = np.random.default_rng(seed).standard_normal(spec.shape, dtype=np.float32) * np.float32(0.02)
    if spec.dtype == "BF16":
        return numbers.astype(ml_dtypes.bfloat16)
    return numbers.astype(numpy_dtype(spec.dtype))
