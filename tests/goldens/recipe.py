"""The golden cases, and how a case's Hugging Face checkpoint is made again from its recipe. No tensor is stored.

A case records what the converters of MindFormers made of one small checkpoint: names, shapes, dtypes and the sha256 of every tensor's
bytes (C order, little-endian). The recipe, version 1: a tensor's numbers come from numpy's PCG64, seeded with the first eight bytes of
sha256("{seed}:{name}"); its ``fill`` says which numbers.

The cases here are lean copies: `take_cases.py` says what they hold. Only torch files (.bin, .pt, .pth) need torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
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
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
WIDE = 50_000_000  # elements: cases with more keep real widths, and take seconds to make

# The word for --model is the recorded one, except for converters that MindFormers has no word for:
KEYS = {"deepseek2-": "deepseek2", "telechat2-": "telechat2", "qwen1_5-": "qwen1_5"}  # by the beginning of the case's name
KEYS_OF_RUNS = {("qwen2-05b-tied-bf16", 0): "qwen1_5"}  # run by the script of Qwen1.5, which writes no tied head

# Where our default is what the network has, and the converter writes other names, which no network has:
OPTIONS = {"bert-": {"named_by": "converter"}, "mae-": {"named_by": "converter"}, "codegeex2-": {"embedding": "embedding_table"}}


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
    """One call of the reference's forward converter, and what came out. ``dtype`` is None where none was asked for."""

    number: int
    key: str
    dtype: str | None
    kwargs: Mapping[str, Any]
    tensors: tuple[Recorded, ...]
    not_compared: tuple[str, ...] = ()  # patterns of names that the reference has otherwise than any network of its

    @property
    def options(self) -> dict[str, Any]:
        """What ``map`` is given: all but the file format, which the target's name says."""
        return {name: value for name, value in self.kwargs.items() if name != "save_format"}


@dataclass(frozen=True)
class File:
    """One file of a case's Hugging Face folder; ``wrap`` is the entry of a torch file that holds the tensors."""

    name: str
    tensors: tuple[str, ...]
    wrap: str | None = None


@dataclass(frozen=True)
class Case:
    """One golden case. One with a MindFormers side only has ``ms_input`` in place of files, tensors and runs."""

    name: str
    key: str
    seed: int | str
    config: Mapping[str, Any] | None
    files: tuple[File, ...] | None
    index: str | None
    tensors: tuple[Recorded, ...]
    ms_input: tuple[Recorded, ...]
    runs: tuple[Run, ...]

    @property
    def needs_torch(self) -> bool:
        return any(not f.name.endswith(".safetensors") for f in self.files or ())

    @property
    def is_wide(self) -> bool:
        return sum(math.prod(t.shape) for t in self.tensors) > WIDE


def case_names() -> list[str]:
    """Every case that is here."""
    return sorted(p.stem for p in (HERE / "cases").glob("*.json"))


@cache
def load_case(name: str) -> Case:
    """A case with its compact lists written out: a list of tensors is a list of names and the numbers of as many blobs."""
    content = json.loads((HERE / "cases" / f"{name}.json").read_text(encoding="utf-8"))
    key = next((k for beginning, k in KEYS.items() if name.startswith(beginning)), content["model_key"])

    options = next((found for beginning, found in OPTIONS.items() if name.startswith(beginning)), {})

    def expanded(listed: Mapping[str, Any]) -> tuple[Recorded, ...]:
        names, blobs = content["name_lists"][listed["names"]], (content["blobs"][n] for n in _numbers(listed["blobs"]))
        return tuple(_recorded(n, *blob) for n, blob in zip(names, blobs, strict=True))

    runs = tuple(
        Run(
            r["number"],
            KEYS_OF_RUNS.get((name, r["number"]), key),
            r["dtype"],
            options | r["kwargs"],
            expanded(r["tensors"]),
            tuple(r.get("not_compared", ())),
        )
        for r in content["runs"]
    )
    if "hf" not in content:
        return Case(name, key, content["seed"], None, None, None, (), expanded(content["ms_input"]["tensors"]), runs)
    hf = content["hf"]
    tensors = expanded(hf["tensors"])
    names = (t.name for t in tensors)
    files = tuple(File(f["name"], tuple(islice(names, f["tensors"])), f.get("wrap")) for f in hf["files"])
    return Case(name, key, content["seed"], hf["config"], files, hf["index"], tensors, (), runs)


def _numbers(ranges: str) -> Iterator[int]:
    """The numbers that "0-3 7" stands for."""
    for text in ranges.split():
        first, _, last = text.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _recorded(name: str, dtype: str, shape: Sequence[int], sha256: str, fill: str = "normal") -> Recorded:
    return Recorded(name, tuple(shape), dtype, sha256, fill)


# ---- the recipe --------------------------------------------------------------------------------------------------------


def special_bits(dtype: str) -> list[str]:
    """The bit patterns, in hex, that stand at the beginning of every tensor with the fill "specials"."""
    tables: list[dict[str, Any]] = json.loads((HERE / "special_values.json").read_text(encoding="utf-8"))["tables"]
    return next(t["in"] for t in tables if t["source"] == dtype)


def values_of(tensor: Recorded, seed: int | str) -> Array:
    """The numbers of a tensor.

    Fills: "normal"; "specials" (normal, then special bits at the beginning); "same:NAME" (the numbers of NAME); "inv_freq:BASE";
    "arange" (0, 1, 2, ...); "tril" (ones on and below the diagonal of the last two axes); "const:V".
    """
    kind, _, argument = tensor.fill.partition(":")
    shape, dtype = tensor.shape, NUMPY[tensor.dtype]
    if kind == "inv_freq":
        width = shape[-1]
        steps = np.arange(0, 2 * width, 2, dtype=np.float64) / (2 * width)
        return np.broadcast_to(np.float32(1 / float(argument) ** steps), shape).astype(dtype)
    if kind == "arange":
        return np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    if kind == "tril":
        return np.tril(np.ones(shape, np.float32)).astype(dtype)
    if kind == "const":
        return np.full(shape, float(argument), np.float32).astype(dtype)
    if kind not in ("normal", "specials", "same"):
        raise ValueError(f"no such fill: {tensor.fill}")
    made = _normal(argument or tensor.name, seed, shape).astype(dtype)
    if kind == "specials":
        bits = made.reshape(-1).view(f"u{made.itemsize}")
        special = [int(b, 16) for b in special_bits(tensor.dtype)[: bits.size]]
        bits[: len(special)] = special
    return made


def _normal(name: str, seed: int | str, shape: tuple[int, ...]) -> Array:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    random = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    return np.asarray(random.standard_normal(shape, dtype=np.float32) * np.float32(0.02))


def made_of(tensors: Sequence[Recorded], seed: int | str) -> dict[str, Raw]:
    """These tensors, as they lie in a file."""
    return {t.name: Raw(TORCH[t.dtype], t.shape, values_of(t, seed).tobytes()) for t in tensors}


def original_of(case: Case) -> dict[str, Raw]:
    """Every tensor of the case's Hugging Face checkpoint."""
    return made_of(case.tensors, case.seed)


def write_case(case: Case, folder: Path) -> Path:
    """The case's Hugging Face folder: its files, its index and its config.json."""
    if case.files is None:
        raise ValueError(f"{case.name} has no Hugging Face side")
    folder.mkdir(parents=True)
    if case.config is not None:
        (folder / "config.json").write_text(json.dumps(case.config))
    made = original_of(case)
    tied = {t.name: t.fill.removeprefix("same:") for t in case.tensors if t.fill.startswith("same:")}
    for file in case.files:
        tensors = {n: made[n] for n in file.tensors}
        if file.name.endswith(".safetensors"):
            write_safetensors(folder / file.name, tensors)
        else:
            write_torch(folder / file.name, tensors, wrap=file.wrap, tied=tied)
    if case.index is not None:
        total = sum(len(raw.data) for raw in made.values())
        places = {n: file.name for file in case.files for n in file.tensors}
        (folder / case.index).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return folder


def write_torch(path: Path, tensors: Mapping[str, Raw], *, wrap: str | None = None, tied: Mapping[str, str] | None = None) -> Path:
    """A torch file with these tensors, under one entry ``wrap`` where it is given.

    A name in ``tied`` shares the storage of the tensor that it is tied to, as in a torch model, where that one comes before it.
    """
    import torch

    dtypes = {spelled: getattr(torch, name) for name, spelled in TORCH.items()}
    state: dict[str, Any] = {}
    for name, raw in tensors.items():
        shared = state.get((tied or {}).get(name, ""))
        made = torch.frombuffer(bytearray(raw.data), dtype=dtypes[raw.dtype]).reshape(raw.shape) if shared is None else shared
        state[name] = made
    torch.save(state if wrap is None else {wrap: state}, path)
    return path
