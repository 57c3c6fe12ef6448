"""What MindFormers writes beside the adapters of a run: `mindformers_adapter_config.json` (dynamic graph) and `adapter_config.json`.

The first tells the loader of the dynamic graph that a Checkpoint 2.0 holds adapters alone, so that it loads the base from `base_load_path`
first; it lies in the folder of the run and in that of each step. The second is what the static graph writes, and what MindFormers' own tool
reads alpha from (without it, it takes 16).
Refuses: another format than the one known, an alpha that is no whole number (the dynamic graph cuts it).
Source: MindFormers 2.1.0, `pynative/callback/checkpoint_callback.py` (`_write_adapter_manifest`), `pynative/trainer/trainer.py`
(`_prepare_adapter_load`), `pynative/config/config.py` and `pynative/pet/lora_adapter.py`; `pet/pet_model.py` (`save_pet_config`);
`tools/transform_safetensors_lora.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.run_yaml import HINT_LORA, Lora, lora_of
from mfconv_nb.core.sizes import read_config

RUN_CONFIG_OF_ADAPTERS = "mindformers_adapter_config.json"
FORMAT_NAME = "mindformers_pynative_lora_adapter_v1"
HINT = "Give the YAML of the run instead: --config run.yaml (config= in Python)."


def read_adapters_of_run(path: Path) -> Lora:
    """What `mindformers_adapter_config.json` says. Its ``problem`` (MFC319), if any, says why the adapters cannot be used.

    Raises:
        InputError: MFC101, MFC106.
    """
    content = read_config(path)
    try:
        settings = content.get("lora_config")
        if content.get("format") != FORMAT_NAME or not isinstance(settings, dict):
            found = f"format {quote(str(content.get('format'))[:80])}"
            raise MappingError("MFC319", path, found=found, expected=f"{FORMAT_NAME} with lora_config", hint=HINT)
        if isinstance(alpha := settings.get("lora_alpha"), float):
            raise MappingError(
                "MFC319", path, found=f"lora_alpha: {alpha}", expected="a whole number, as MindFormers takes it", hint=HINT_LORA
            )
        targets = settings.get("target_modules")
        return replace(lora_of(settings, path.name, "lora_rank"), targets=targets if isinstance(targets, str) else "")
    except MappingError as problem:
        return Lora(problem=problem)


def adapters_of_run_bytes(modules: Iterable[str], rank: int, alpha: float, dropout: float | None, step: int) -> bytes:
    """`mindformers_adapter_config.json` for adapters of these layers. The base is not known, so its fingerprint is null: MindFormers warns.

    Raises:
        MappingError: MFC319 where alpha is no whole number.
    """
    if alpha != int(alpha):
        expected = "a whole number: the dynamic graph cuts it"
        raise MappingError(
            "MFC319", RUN_CONFIG_OF_ADAPTERS, found=f"lora_alpha: {alpha:g}", expected=expected, hint="Merge them: mfconv merge."
        )
    settings = {"target_modules": "|".join(_patterns_of(modules)), "exclude_layers": None, "lora_rank": rank, "lora_alpha": int(alpha)}
    return _json_bytes(
        {
            "format": FORMAT_NAME,
            "base_load_path": "",
            "base_fingerprint": None,
            "lora_config": {**settings, "lora_dropout": dropout or 0.0},
            "global_step": step,
            "consumed_samples": 0,
        }
    )


def adapter_config_of_run_bytes(modules: Iterable[str], rank: int, alpha: float, dropout: float | None) -> bytes:
    """`adapter_config.json` as MindFormers writes it beside a run: with PEFT's words, and patterns of its own layers."""
    return _json_bytes(
        {
            "base_model_name_or_path": "none",
            "bias": "none",
            "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
            "lora_bias": False,
            "lora_dropout": dropout or 0.0,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": _patterns_of(modules),
        }
    )


def _patterns_of(modules: Iterable[str]) -> list[str]:
    """Patterns that find the layers: of each what stands behind the number of its layer."""
    return list(dict.fromkeys(".*" + re.escape(re.split(r"(?:^|\.)\d+\.", module)[-1]) for module in modules))


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode("utf-8")
