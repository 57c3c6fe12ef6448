"""Index files: which shard holds which tensor. `model.safetensors.index.json`, `pytorch_model.bin.index.json`, `param_name_map.json`.

All three are ``{"metadata": {"total_size": n}, "weight_map": {name: file}}``. MindSpore also writes the inner map alone.

Refuses: broken JSON, shards outside the folder of the index (a folder below it is fine), shards that do not hold what the index says.
Source: the transformers documentation of sharded checkpoints; files written by `mindspore.unified_safetensors` 2.10.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import InputError, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource, read_object
from mfconv_nb.formats.fields import JSON_SPACE, OTHER, Field, fill_gaps, json_members

MAX_INDEX_BYTES = 256 << 20  # the largest seen is 12 MB, for 92,000 tensors
HF_SAFETENSORS = "model.safetensors.index.json"
HF_TORCH = "pytorch_model.bin.index.json"
MINDSPORE = "param_name_map.json"
HINT_OUTSIDE = "Put the shards beside the index, and their names in it: an index reads nothing outside of its folder."


@dataclass(frozen=True)
class Index:
    """An index file, checked: every file in it is a path inside the folder of the index, without `./`."""

    path: Path
    weight_map: Mapping[str, str]
    total_size: int | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards in the order of their numbers: part2 before part10."""
        names = sorted(set(self.weight_map.values()), key=lambda name: (fold(name), name))
        return tuple(self.path.parent / name for name in names)


def looks_like(path: Path) -> bool:
    """True for the names that index files have."""
    return path.name == MINDSPORE or path.name.endswith(".index.json")


def read_index(path: Path) -> Index:
    """Read an index file and check the names in it.

    Raises:
        InputError: MFC104.
    """
    content = read_object(path, MAX_INDEX_BYTES, "an index file", partial(InputError, "MFC104", path))
    weights = content.get("weight_map", content)
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, str) for v in weights.values()):
        raise InputError("MFC104", path, found="no map of names to files", expected="weight_map: {tensor name: file name}")
    plain = {name: _plain_path(name) for name in set(weights.values())}
    for name, inside in plain.items():
        if inside is None:
            tensor = next(t for t, n in weights.items() if n == name)
            found = f"{quoted(name)} for {quoted(tensor)}"
            raise InputError("MFC104", path, found=found, expected="a file inside the folder of the index", hint=HINT_OUTSIDE)
    return Index(path, {tensor: plain[name] or name for tensor, name in weights.items()}, _total_size(content))


def _plain_path(name: str) -> str | None:
    """The path of a shard without `./`; None if it is empty, absolute or leads out of the folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or Path(name).is_absolute():
        return None
    return "/".join(parts)


def annotate(source: FileSource) -> Iterator[Field]:
    """Every byte of the index as fields. Successive names that lie in the same file are one field.

    Raises:
        InputError: MFC104, as ``read_index``.
    """
    read_index(source.path)
    raw = source.read(0, source.size)
    encoding = json.detect_encoding(raw)
    if encoding != "utf-8":
        yield Field(0, len(raw), "JSON text", f"the index, in {encoding}", OTHER)
        return
    text = raw.decode("utf-8", "surrogatepass")
    yield from fill_gaps(_member_fields(text), source)


def _member_fields(text: str) -> Iterator[Field]:
    brace = len(text) - len(text.lstrip(JSON_SPACE))
    outer = list(json_members(text, brace, 0))
    wrapped = any(name == "weight_map" for name, *_ in outer)
    yield Field(0, outer[0][2], "index begins", "a JSON object")
    for name, value, begin, end in outer:
        if name == "weight_map" and isinstance(value, dict) and value:
            yield from _weight_map_fields(text, begin, end)
        elif wrapped:
            yield Field(begin, end - begin, quoted(name), json.dumps(value)[:120])
    if not wrapped:
        yield from _fields_by_file([(n, v, b, e) for n, v, b, e in outer])
    last, size = outer[-1][3], len(text.encode("utf-8", "surrogatepass"))
    yield Field(last, size - last, "index ends", "the closing brace")


def _weight_map_fields(text: str, begin: int, end: int) -> Iterator[Field]:
    """The fields of the member `weight_map`, which lies in the bytes [begin, end)."""
    raw = text.encode("utf-8", "surrogatepass")[begin:end].decode("utf-8", "surrogatepass")
    brace = raw.index("{")
    inner = list(json_members(raw, brace, begin))
    yield Field(begin, inner[0][2] - begin, "weight map begins", "tensor name: file name")
    yield from _fields_by_file(inner)
    yield Field(inner[-1][3], end - inner[-1][3], "weight map ends", "the closing brace")


def _fields_by_file(members: list[tuple[str, Any, int, int]]) -> Iterator[Field]:
    """One field for each group of successive names that lie in the same file."""
    for file, same_file in itertools.groupby(members, key=lambda m: str(m[1])):
        group = list(same_file)
        names = quoted(group[0][0]) if len(group) == 1 else f"{quoted(group[0][0])} to {quoted(group[-1][0])}"
        count = how_many(len(group), "tensor")
        yield Field(group[0][2], group[-1][3] - group[0][2], "names of a file", f"{count} in {quoted(file)}: {names}", owner=file)


def _total_size(content: Mapping[str, object]) -> int | None:
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(total) if isinstance(total, int | float) and not isinstance(total, bool) and abs(total) < 1 << 63 else None


def check_against_files(index: Index, found: Mapping[str, str]) -> None:
    """Compare names and files of the index with what the shards really hold.

    Args:
        found: for each tensor the file that holds it, spelled as in the index.
    Raises:
        InputError: MFC104 with the first name that only the index or only the shards have.
    """
    absent = [n for n, f in index.weight_map.items() if found.get(n) != f]
    if absent:
        name = absent[0]
        where = f"it is in {quoted(found[name])}" if name in found else f"it is not in {quoted(index.weight_map[name])}"
        listed = f"{how_many(len(absent), 'name')} of the index not in the file; first {quoted(name)}: {where}"
        hint = "Index and files are of two saves: fetch both again from one place."
        raise InputError("MFC104", index.path, found=listed, expected="every name in the file the index gives", hint=hint)
    surplus = [n for n in found if n not in index.weight_map]
    if surplus:
        listed = (
            f"{how_many(len(surplus), 'tensor')} that the index does not name; first {quoted(surplus[0])} in {quoted(found[surplus[0]])}"
        )
        hint = f"If {quoted(index.path.name)} is out of date, rename it: without an index the folder is read as its files are named."
        raise InputError("MFC104", index.path, found=listed, expected="every tensor of the shards in the index", hint=hint)


def index_bytes(places: Mapping[str, str], total_size: int) -> bytes:
    """The bytes of an index with these tensors in these files, its names sorted, as transformers writes it."""
    content = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
