"""The small files that `from_pretrained` needs beside the weights: config, generation config, tokenizer, processor.

Code is never copied: the `*.py` of a repository stay where they are. Callers only learn which of them a config needs.
Source: the file names in transformers 5.23 (`utils/__init__.py`, `vocab_files_names` of its tokenizers); `tekken.json` of mistral-common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import InputError
from mfconv_nb.formats.known import weight_endings

PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "vocab-*.json",
    "*_vocab.json",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.tokenizer",
    "tekken.json",
    "normalizer.json",
    "bpe.codes",
    "dict.txt",
    "byte_maps.json",
    "emoji.json",
    "word_*.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "*_preprocessor_config.json",
    "processor_config.json",
    "audio_tokenizer_config.json",
)
MAX_BYTES = 256 << 20
# files that tools write beside the weights they quantised
QUANTISED_BY = {
    "quant_model_description*.json": "Ascend's msModelSlim",
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
}


def read_assets(folder: Path) -> dict[str, bytes]:
    """The config and tokenizer files of a Hugging Face folder, by name.

    Raises:
        InputError: MFC101 if the folder has no config.json.
    """
    names = {p.relative_to(folder).as_posix(): p for pattern in PATTERNS for p in sorted(folder.glob(pattern)) if p.is_file()}
    found = {n: p for n, p in names.items() if p.suffix not in (".py", *weight_endings()) and p.stat().st_size <= MAX_BYTES}
    if "config.json" not in found:
        hint = "Put the config.json that was published with the weights there."
        raise InputError("MFC101", folder / "config.json", expected="the config of a Hugging Face folder", hint=hint)
    return {name: path.read_bytes() for name, path in found.items()}


def config_bytes(config: Mapping[str, Any]) -> bytes:
    """A config.json with this content. Half of a surrogate pair, which UTF-8 cannot hold, becomes a JSON escape."""
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def quantisation_beside(folder: Path) -> str:
    """The tool that quantised the weights of a folder, if one of its files says so; else empty."""
    return next((tool for pattern, tool in QUANTISED_BY.items() if any(folder.glob(pattern))), "")


def code_files_named_in(files: Mapping[str, bytes]) -> list[str]:
    """The Python files of the folder itself that an `auto_map` in its configs names; entries that name another repository are left out."""
    found = set()
    for name, data in files.items():
        content = _json(data) if name.endswith("config.json") else {}
        named = content.get("auto_map") if isinstance(content, dict) else None
        listed = named.values() if isinstance(named, dict) else ()
        for value in (v for entry in listed for v in (entry if isinstance(entry, list) else [entry])):
            if isinstance(value, str) and "--" not in value and "." in value:
                found.add(value.rpartition(".")[0].replace(".", "/") + ".py")
    return sorted(found)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
