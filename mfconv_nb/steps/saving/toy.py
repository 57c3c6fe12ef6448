"""toy: a small checkpoint with a family's real names and config, whose axis sizes all differ. For trying things out, and for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, TensorSpec, checkpoint_of
from mfconv_nb.core.dtypes import numpy_dtype, requested_dtype
from mfconv_nb.core.errors import UsageError
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import family_meant
from mfconv_nb.formats.writing import is_folder
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.forms import checked_options
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import Family, Repeated, Rule, default_form, numbered_rules, sides_of
from mfconv_nb.networks.live import load_live
from mfconv_nb.steps.loading.load import load
from mfconv_nb.steps.saving.save import save

TOY_SHARD = "100KB"  # several shards, so that the index is part of the toy


def toy(
    family: str | Path | Family,
    target: str | Path | None = None,
    *,
    dtype: str = "bf16",
    overwrite: bool = False,
    options: Mapping[str, object] | None = None,
    **config: Any,
) -> Checkpoint:
    """A small checkpoint of a family, on the Hugging Face side, with random numbers that are the same every time.

    Args:
        target: where to save it; a folder gets shards, an index and config.json. Left out: it stays in memory.
        dtype: "bf16", "fp16" or "fp32".
        options: what the family takes, such as ``{"modal": "image"}``; left out, the defaults.
        config: changes to the toy's config.json, such as ``tie_word_embeddings=True`` or ``num_hidden_layers=2``.
    Raises:
        MappingError: MFC301 for an unknown family. OutputError: MFC401 when the target exists.
    """
    chosen = _form(family, options or {})
    if not chosen.toy:
        hint = "Give the family a toy=, a small config.json."
        raise UsageError("MFC501", "family", found=chosen.key, expected="a family with a toy config", hint=hint)
    wanted = requested_dtype(dtype) or "BF16"
    full = {**chosen.toy, **config, "dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[wanted]}
    sizes = read_sizes(full, chosen.sizes)
    chosen = chosen.with_rules(tuple(rule for rule, _ in numbered_rules(chosen.rules, sizes.values_by_axis)))
    specs = _with_fixed_dtypes(chosen, expected_specs(chosen, sizes, HF, wanted))
    copies = [(p, rule.mf) for rule in chosen.rules if isinstance(rule, Repeated) for p in sides_of(rule, MF)[0]]
    arrays = {s.name: _random_array(s, _value_for_name(s.name, copies) or s.name) for s in specs}  # copies have the same numbers
    made = load_live(arrays)
    checkpoint = checkpoint_of(made.tensors, origin=f"toy {chosen.key}", side=HF, config=full, family=chosen.key)
    if target is None:
        return checkpoint
    save(checkpoint, target, overwrite=overwrite, max_shard_size=TOY_SHARD if is_folder(Path(target)) else None)
    return load(target, config=full)


def expected(family: str | Path | Family, config: Any, *, side: str = MF, dtype: str = "fp32", **options: object) -> Checkpoint:
    """What a config promises on one side: names, shapes, no values. For ``diff`` against what is really there.

    Args:
        config: a config.json, its folder, or its content.
        side: "mf" or "hf".
        dtype: the dtype to state for every tensor; a config does not say it for each.
        options: what the family takes; left out, the defaults.
    """
    chosen = _form(family, options)
    content = load({"none": np.zeros(1, np.float32)}, config=config).config or {}
    specs = expected_specs(chosen, read_sizes(content, chosen.sizes), side, requested_dtype(dtype) or "F32")
    tensors = [LazyTensor(s, ()) for s in specs]
    return checkpoint_of(tensors, origin=f"expected of {chosen.key}", side=side, config=content, family=chosen.key)


def _form(family: str | Path | Family, options: Mapping[str, object]) -> Family:
    """A family with its options decided: those given, and the defaults."""
    chosen = family_meant(family)
    return default_form(chosen, checked_options(chosen, options))


def _value_for_name(name: str, rules: Sequence[tuple[Pattern, str]]) -> str | None:
    """What the first rule that knows a name says of it."""
    template, numbers = fold(name)
    return next((said for p, said in rules if p.template == template and p.match(numbers) is not None), None)


def _with_fixed_dtypes(family: Family, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """With the dtype that real checkpoints have where a rule fixes one: a router's correction bias is float32."""
    fixed = [(p, rule.dtype) for rule in family.rules if isinstance(rule, Rule) and rule.dtype for p in sides_of(rule, MF)[0]]
    return [TensorSpec(s.name, s.shape, _value_for_name(s.name, fixed) or s.dtype) for s in specs]


def _random_array(spec: TensorSpec, seed_name: str) -> np.ndarray[Any, Any]:
    """Numbers of about the size weights have, seeded by the tensor's name."""
    seed = int.from_bytes(hashlib.sha256(seed_name.encode()).digest()[:8], "little")
    numbers = np.random.default_rng(seed).standard_normal(spec.shape, dtype=np.float32) * np.float32(0.02)
    if spec.dtype == "BF16":
        return numbers.astype(ml_dtypes.bfloat16)
    return numbers.astype(numpy_dtype(spec.dtype))
