"""PEFT's adapter folder: `adapter_model.safetensors` and `adapter_config.json`. Reads and writes the config; moves no weights.

Refuses what another scale or more tensors would follow from: rsLoRA, DoRA, ranks and alphas by pattern, trained biases or whole modules,
other methods than LoRA.
Source: PEFT 0.21, `LoraConfig` and the names `PeftModel.save_pretrained` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.config import read_config
from mfconv_nb.errors import MappingError, quoted
from mfconv_nb.run_config import Lora, lora_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
UNLIKE = (
    "use_rslora",
    "use_dora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "layer_replication",
    "modules_to_save",
    "alora_invocation_tokens",
    "target_parameters",
    "trainable_token_indices",
)
NOT_KEPT = ("layers_to_transform", "layers_pattern", "exclude_modules", "auto_mapping")  # target_modules is exact; the last names code


def read_adapter_config(path: Path) -> Lora:
    """What an `adapter_config.json` says, PEFT's or the one that MindFormers writes beside a run.

    Returns:
        A description whose ``problem`` (MFC319) says why it is no plain LoRA, where it is none.
    Raises:
        InputError: MFC101, MFC106.
    """
    content = read_config(path)
    try:
        _check_plain(content, path)
        lora = lora_of(content, path.name, "r", "lora_rank")
    except MappingError as problem:
        return Lora(problem=problem)
    kept = {key: value for key, value in content.items() if key not in NOT_KEPT and value != "none"}  # MindFormers spells no value "none"
    return replace(lora, content=kept if "peft_type" in content else {})


def _check_plain(content: Mapping[str, Any], path: Path) -> None:
    kind = content.get("peft_type", content.get("pet_type", "LORA"))
    if str(kind).upper() != "LORA":
        raise MappingError("MFC319", path, found=f"peft_type {quoted(str(kind)[:80])}", expected="LORA")
    for key in (*UNLIKE, "bias"):
        if content.get(key) and content[key] != "none":
            hint = "Merge it with PEFT (merge_and_unload), and convert the merged model."
            expected = "plain LoRA: one rank, one alpha, scale alpha / rank"
            raise MappingError("MFC319", path, found=f"{key}: {str(content[key])[:80]}", expected=expected, hint=hint)


def adapter_config_bytes(
    modules: Sequence[str], rank: int, alpha: float, lora: Lora, *, transposed: bool = False, task: str | None = None
) -> bytes:
    """An `adapter_config.json`: what was read before, with what is true of these tensors.

    Args:
        modules: the exact layers, by full name.
        transposed: whether the model holds its weights as in x out.
        task: PEFT's name for what the model is for; None where nothing tells.
    """
    content: dict[str, Any] = {
        "auto_mapping": None,
        "base_model_name_or_path": None,  # nobody said it; PeftModel.from_pretrained is given the model
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
    """PEFT's task type, by the class that config.json names; None where it tells nothing."""
    architectures = (config or {}).get("architectures")
    names = [n for n in architectures if isinstance(n, str)] if isinstance(architectures, list) else []
    endings = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}
    return next((task for name in names for ending, task in endings.items() if name.endswith(ending)), None)
