"""Checkpoints made on the spot. Written here, byte by byte, so that nothing that is measured has had a hand in its own input.

Weights are random bfloat16 numbers of the size weights have. They are never zeros: `cp` would leave holes for them, and copy nothing.
Sparse checkpoints have true headers and holes for weights; they are for headers and for memory, never for a comparison with `cp`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mfconv_nb.core.checkpoint import HF, TensorSpec
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.llama import FAMILY
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.rules import Family, default_form

LLAMA = default_form(FAMILY)
_NUMBERS = 16_777_213  # a prime, so that no two tensors begin alike
Fill = Callable[[BinaryIO, int], None]


def make_llama(folder: Path, size: int, *, shards: int = 3, sparse: bool = False) -> Path:
    """A Llama of about ``size`` bytes in bfloat16, as shards with an index and config.json; its tensors are as large as real ones."""
    config = llama_config(size)
    specs = expected_specs(LLAMA, read_sizes(config, LLAMA.sizes), HF, "BF16")
    return write_folder(folder, specs, config, shards, sparse=sparse)


def llama_config(size: int) -> dict[str, object]:
    """config.json of a Llama whose bf16 weights come to about ``size`` bytes."""
    hidden = 4096 if size >= 3_000_000_000 else 2048 if size >= 400_000_000 else 1024
    ffn, groups, vocab = hidden * 7 // 2, hidden // 512, 32_000
    layer = 2 * hidden * (2 * hidden + 2 * groups * 128 + 3 * ffn)
    return {
        **LLAMA.toy,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": groups,
        "head_dim": 128,
        "vocab_size": vocab,
        "num_hidden_layers": max(1, round((size - 4 * vocab * hidden) / layer)),
    }


def make_of_family(folder: Path, family: Family, config: Mapping[str, object], *, shards: int = 1) -> Path:
    """What a config promises of a family, in bfloat16, filled with numbers."""
    return write_folder(folder, expected_specs(family, read_sizes(config, family.sizes), HF, "BF16"), config, shards)


def make_sparse_of_family(
    folder: Path, family: Family, config: Mapping[str, object], dtype_of: Callable[[str], str], *, shards: int
) -> Path:
    """What a config promises of a family, without a weight: headers, an index and config.json."""
    promised = expected_specs(family, read_sizes(config, family.sizes), HF)
    specs = [TensorSpec(s.name, s.shape, dtype_of(s.name)) for s in promised]
    return write_folder(folder, specs, config, shards, sparse=True)


# ---- writing -----------------------------------------------------------------------------------------------------------


def write_folder(folder: Path, specs: Sequence[TensorSpec], config: Mapping[str, object], shards: int, *, sparse: bool = False) -> Path:
    """A Hugging Face folder: shards of about equal size, an index where there are several, config.json."""
    folder.mkdir(parents=True)
    fill = _leave_hole if sparse else _Numbers().write
    parts = _parts(specs, shards)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts):
        name = "model.safetensors" if len(parts) == 1 else f"model-{number + 1:05}-of-{len(parts):05}.safetensors"
        _write_file(folder / name, part, fill)
        weight_map |= {s.name: name for s in part}
    if len(parts) > 1:
        index = {"metadata": {"total_size": sum(s.nbytes for s in specs)}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2))
    return folder


def _parts(specs: Sequence[TensorSpec], count: int) -> list[list[TensorSpec]]:
    """``count`` runs of about equal size, none of them empty."""
    total, done = sum(s.nbytes for s in specs), 0
    parts: list[list[TensorSpec]] = [[] for _ in range(count)]
    for spec in specs:
        parts[min(count - 1, done * count // total)].append(spec)
        done += spec.nbytes
    return [part for part in parts if part]


def _write_file(path: Path, specs: Sequence[TensorSpec], fill: Fill) -> None:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for spec in specs:
        entries[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [at, at + spec.nbytes]}
        at += spec.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # weights begin at a multiple of 8, as in files of the safetensors library
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for spec in specs:
            fill(file, spec.nbytes)
        file.truncate()


def _leave_hole(file: BinaryIO, nbytes: int) -> None:
    file.seek(nbytes, 1)


class _Numbers:
    """Writes one run of random bfloat16 numbers over and over, going on where the tensor before has stopped."""

    def __init__(self) -> None:
        self.at = 0

    def write(self, file: BinaryIO, nbytes: int) -> None:
        numbers = memoryview(_random_bfloat16())
        while nbytes:
            part = numbers[self.at : self.at + nbytes]
            file.write(part)
            nbytes -= len(part)
            self.at = (self.at + len(part)) % len(numbers)


@lru_cache(maxsize=1)
def _random_bfloat16() -> bytes:
    numbers = np.random.default_rng(0).standard_normal(_NUMBERS, dtype=np.float32) * np.float32(0.02)
    return (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
