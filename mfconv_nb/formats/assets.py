"""The small files that make a folder of weights a model that `from_pretrained` opens: config, generation config, tokenizer.

Code is never among them: a repository's `*.py` stays where it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfconv_nb.errors import InputError

PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
)
NEVER = (".py", ".safetensors", ".bin", ".ckpt", ".pth", ".pt")
MAX_BYTES = 256 << 20


def read_assets(folder: Path) -> dict[str, bytes]:
    """The config and tokenizer files of a Hugging Face folder, by name.

    Raises:
        InputError: MFC101 when the folder has no config.json.
    """
    names = {p.name: p for pattern in PATTERNS for p in sorted(folder.glob(pattern)) if p.is_file()}
    found = {n: p for n, p in names.items() if p.suffix not in NEVER and p.stat().st_size <= MAX_BYTES}
    if "config.json" not in found:
        raise InputError("MFC101", folder / "config.json", expected="the config of a Hugging Face folder")
    return {name: path.read_bytes() for name, path in found.items()}


def config_bytes(config: Mapping[str, Any]) -> bytes:
    """A config.json with this content."""
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
