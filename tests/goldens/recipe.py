"""The golden cases, and how a case's Hugging Face checkpoint is made again from its recipe. No tensor is stored.

A case records what the converters of MindFormers 1.3.2 made of one small checkpoint: names, shapes, dtypes and the sha256 of every
tensor's bytes (C order, little-endian). The recipe, version 1: a tensor's numbers come from numpy's PCG64, seeded with the first eight
bytes of sha256("{seed}:{name}"); its ``fill`` says which numbers.

Only .bin files need torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.support import TORCH, Array, Raw, write_safetensors

HERE = Path(__file__).parent
NUMPY: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}


# ---- the cases ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """One tensor of a case: its name and shape, its dtype in torch's spelling, the sha256 of its bytes, and what fills it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    fill: str = "normal"


@dataclass(frozen=True)
class Run:
    """One call of the reference's forward converter, and what came out."""

    number: int
    dtype: str | None
    tensors: tuple[Recorded, ...]


@dataclass(frozen=True)
class Case:
    """One golden case."""

    name: str
    key: str
    seed: int
    config: Mapping[str, Any]
    files: Mapping[str, Sequence[str]]
    index: str | None
    tensors: tuple[Recorded, ...]
    runs: tuple[Run, ...]

    @property
    def needs_torch(self) -> bool:
        return any(not f.endswith(".safetensors") for f in self.files)


def case_names() -> list[str]:
    """Every case that is here."""
    return sorted(p.stem for p in (HERE / "cases").glob("*.json"))


def load_case(name: str) -> Case:
    """A case with its compact lists written out: a list of tensors is a list of names and a list of numbers of blobs."""
    content = json.loads((HERE / "cases" / f"{name}.json").read_text(encoding="utf-8"))

    def expanded(run: Mapping[str, Any]) -> tuple[Recorded, ...]:
        names, blobs = content["name_lists"][run["tensors"]["names"]], run["tensors"]["blobs"]
        return tuple(_recorded({"name": n, **content["blobs"][b]}) for n, b in zip(names, blobs, strict=True))

    hf = content["hf"]
    runs = [Run(n, r["dtype"], expanded(r)) for n, r in enumerate(content["runs"]) if says_what_to_do(r)]
    files = {f["name"]: f["tensors"] for f in hf["files"]}
    tensors = tuple(_recorded(t) for t in hf["tensors"])
    return Case(content["case"], content["model_key"], content["seed"], hf["config"], files, hf["index"], tensors, tuple(runs))


def says_what_to_do(run: Mapping[str, Any]) -> bool:
    """False for runs that failed, wrote nothing, went the other way, or were given "False" as a word that is true."""
    typed = not any(value in ("True", "False") for value in (run.get("kwargs") or {}).values())
    return bool(run.get("ok") and run.get("tensors") and run.get("direction", "hf2ms") == "hf2ms" and typed)


def _recorded(entry: Mapping[str, Any]) -> Recorded:
    return Recorded(entry["name"], tuple(entry["shape"]), entry["dtype"], entry["sha256"], entry.get("fill", "normal"))


# ---- the recipe --------------------------------------------------------------------------------------------------------


def special_bits(dtype: str) -> list[str]:
    """The bit patterns, in hex, that stand at the beginning of every tensor with the fill "specials"."""
    tables: list[dict[str, Any]] = json.loads((HERE / "special_values.json").read_text(encoding="utf-8"))["tables"]
    return next(t["in"] for t in tables if t["source"] == dtype)


def values_of(tensor: Recorded, seed: int) -> Array:
    """The numbers of a tensor."""
    kind, _, argument = tensor.fill.partition(":")
    if kind == "inv_freq":
        width = tensor.shape[-1]
        steps = np.arange(0, 2 * width, 2, dtype=np.float64) / (2 * width)
        return np.broadcast_to(np.float32(1 / float(argument) ** steps), tensor.shape).astype(NUMPY[tensor.dtype])
    if kind not in ("normal", "specials", "same"):
        raise ValueError(f"no such fill: {tensor.fill}")
    digest = hashlib.sha256(f"{seed}:{argument or tensor.name}".encode()).digest()
    random = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    values = random.standard_normal(tensor.shape, dtype=np.float32) * np.float32(0.02)
    made = np.asarray(values).astype(NUMPY[tensor.dtype])
    if kind == "specials":
        bits = made.reshape(-1).view(f"u{made.itemsize}")
        special = [int(b, 16) for b in special_bits(tensor.dtype)[: bits.size]]
        bits[: len(special)] = special
    return made


def original_of(case: Case) -> dict[str, Raw]:
    """Every tensor of the case's Hugging Face checkpoint."""
    return {t.name: Raw(TORCH[t.dtype], t.shape, values_of(t, case.seed).tobytes()) for t in case.tensors}


def write_case(case: Case, folder: Path) -> Path:
    """The case's Hugging Face folder: its files, its index and its config.json."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config))
    made = original_of(case)
    for file, names in case.files.items():
        write = write_safetensors if file.endswith(".safetensors") else write_bin
        write(folder / file, {n: made[n] for n in names})
    if case.index is not None:
        total = sum(len(raw.data) for raw in made.values())
        places = {n: file for file, names in case.files.items() for n in names}
        (folder / case.index).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return folder


def write_bin(path: Path, tensors: Mapping[str, Raw]) -> Path:
    """A torch file with these tensors."""
    import torch

    dtypes = {spelled: getattr(torch, name) for name, spelled in TORCH.items()}
    state = {n: torch.frombuffer(bytearray(r.data), dtype=dtypes[r.dtype]).reshape(r.shape) for n, r in tensors.items()}
    torch.save(state, path)
    return path
