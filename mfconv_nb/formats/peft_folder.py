"""PEFT's adapter folder: `adapter_model.safetensors` and `adapter_config.json`. Reads and writes the config; moves no weights.

The settings that we understand are listed below, with their values. Any other setting with a value is refused by name: it may mean
another scale, more tensors, or (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) that the base was changed too. Plain LoRA with one rank and one alpha
can be converted. Ranks and alphas by pattern, rsLoRA, and modules or biases that were trained whole can only be merged.
Source: PEFT 0.21, `LoraConfig`, `tuners/lora` and the names `PeftModel.save_pretrained` writes; `LoraConfig` of MindFormers 1.3.2, 2.1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import MappingError, quoted
from mfconv_nb.core.run_yaml import Lora, lora_of
from mfconv_nb.core.sizes import read_config

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# These settings do not change what the tensors mean: where the base lies, which layers were wrapped (names tell), how training went.
# Those of eva, corda, loftq and lora_ga count only with such `init_lora_weights`, see below; velora changes the backward pass only.
MEANS_NOTHING = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "lora_rank",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "pet_type",
        "qalora_group_size",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "velora_config",
        "compute_dtype",
        "exclude_layers",
        "freeze_exclude",
        "freeze_include",
        "lora_a_init",
        "lora_a_std",
        "lora_b_init",
        "lora_b_std",
        "param_init_type",
        "lora_dtype",
        "lorap_emb_lr",
        "lorap_lr_ratio",
        "unsloth_fixed",
    }
)
# Settings of which we understand some values. The listed inits leave the base unchanged.
UNDERSTOOD: Mapping[str, tuple[object, ...]] = {
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
    "fan_in_fan_out": (True, False),
}
MERGED = ("use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "bias")  # a merge understands them, a conversion does not
# our target_modules is exact without the first three; the last names code
NOT_KEPT = ("layers_to_transform", "layers_pattern", "exclude_modules", "auto_mapping")

HINT_MERGE = "Merge it into its base of Hugging Face (mfconv merge BASE ADAPTERS OUT; mc.merge_adapters), and convert the merged model."
HINT_PEFT = "Merge it with PEFT (merge_and_unload), and convert the merged model."
HINT_INIT = (
    "The base was changed when training began. Save it as plain LoRA with PEFT (save_pretrained with the adapter as it was before "
    "training, path_initial_model_for_weight_conversion=…), or save the merged model."
)


def read_adapter_config(path: Path) -> Lora:
    """What an `adapter_config.json` says: PEFT's, or the one that MindFormers writes beside a training run.

    Returns:
        The description of the adapters. Its ``problem`` (MFC319), if any, says why they cannot be used; its ``only_merged``, if any, why
        they can be merged but not converted.
    Raises:
        InputError: MFC101, MFC106.
    """
    content = read_config(path)
    is_peft = "peft_type" in content
    try:
        _check_understood(content, path)
        only_merged = next((_refusal(path, key, content[key], HINT_MERGE) for key in MERGED if not _is_neutral(content.get(key))), None)
        if only_merged is not None and not is_peft:  # only PEFT documents these settings
            raise only_merged
        lora = lora_of(content, path.name, "r", "lora_rank")
    except MappingError as problem:
        return Lora(problem=problem)
    kept = {
        key: value for key, value in content.items() if key not in NOT_KEPT and value != "none"
    }  # MindFormers writes "none" for no value
    return replace(lora, content=kept if is_peft else {}, only_merged=only_merged)


def _is_neutral(value: object) -> bool:
    """Whether a setting has no effect: off, none, or empty."""
    return value is None or value is False or value == "none" or (isinstance(value, str | list | dict) and not value)


def _check_understood(content: Mapping[str, Any], path: Path) -> None:
    kind = content.get("peft_type", content.get("pet_type", "LORA"))
    if str(kind).upper() != "LORA":
        raise MappingError("MFC319", path, found=f"peft_type {quoted(str(kind)[:80])}", expected="LORA", hint=HINT_PEFT)
    for key, value in content.items():
        if key in MEANS_NOTHING or key in MERGED or _is_neutral(value):
            continue
        values = UNDERSTOOD.get(key, ())
        if not any(type(value) is type(known) and value == known for known in values):
            raise _refusal(path, key, value, HINT_INIT if key == "init_lora_weights" else HINT_PEFT)


def _refusal(path: Path, key: str, value: object, hint: str) -> MappingError:
    expected = "plain LoRA: one rank, one alpha, scale alpha / rank"
    return MappingError("MFC319", path, found=f"{key[:80]}: {str(value)[:80]}", expected=expected, hint=hint)


def adapter_config_bytes(
    modules: Sequence[str], rank: int, alpha: float, lora: Lora, *, transposed: bool = False, task: str | None = None
) -> bytes:
    """An `adapter_config.json`: the settings that were read before, updated for these tensors.

    Args:
        modules: the exact layers, by full name.
        transposed: whether the model stores its weights as in x out.
        task: PEFT's name for the task of the model; None if not known.
    """
    content: dict[str, Any] = {
        "auto_mapping": None,
        "base_model_name_or_path": None,  # not known here; PeftModel.from_pretrained gets the model from its caller
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": lora.dropout or 0.0,
        "modules_to_save": None,
        "task_type": task,
        **lora.content,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(modules),
    }
    return (json.dumps(dict(sorted(content.items())), indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def task_of(config: Mapping[str, Any] | None) -> str | None:
    """PEFT's task type, from the class that config.json names; None if that does not tell."""
    architectures = (config or {}).get("architectures")
    names = [n for n in architectures if isinstance(n, str)] if isinstance(architectures, list) else []
    endings = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}
    return next((task for name in names for ending, task in endings.items() if name.endswith(ending)), None)
