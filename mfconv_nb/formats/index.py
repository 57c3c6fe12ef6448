"""Index files: which shard holds which tensor. `model.safetensors.index.json`, `pytorch_model.bin.index.json`, `param_name_map.json`.

All three are ``{"metadata": {"total_size": n}, "weight_map": {name: file}}``; MindSpore's may leave the wrapper out.

Refuses: a file name that is more than a name (it could lead out of the folder), a shard that is absent, broken JSON.
Source: the transformers documentation of sharded checkpoints; files written by `mindspore.unified_safetensors` 2.10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.checkpoint import FileSource
from mfconv_nb.errors import InputError, quoted
from mfconv_nb.folding import fold

MAX_INDEX_BYTES = 256 << 20  # the largest seen is 12 MB, for 92,000 tensors
HF_SAFETENSORS = "model.safetensors.index.json"
HF_TORCH = "pytorch_model.bin.index.json"
MINDSPORE = "param_name_map.json"


@dataclass(frozen=True)
class Index:
    """An index file, checked: every file named in it is a plain name in its folder."""

    path: Path
    weight_map: Mapping[str, str]
    total_size: int | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, counted up: part2 before part10."""
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
    source = FileSource(path)
    if source.size > MAX_INDEX_BYTES:
        raise InputError("MFC104", path, found=f"{source.size:,} bytes", expected="an index file")
    try:
        content = json.loads(source.read(0, source.size))
    except (ValueError, RecursionError) as error:
        raise InputError("MFC104", path, found=f"broken JSON: {error}", expected="an index file") from None
    weights = content.get("weight_map", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, str) for v in weights.values()):
        raise InputError("MFC104", path, found="no map of names to files", expected="weight_map: {tensor name: file name}")
    for name in set(weights.values()):
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or Path(name).name != name:
            tensor = next(t for t, n in weights.items() if n == name)
            found = f"{quoted(name)} for {quoted(tensor)}"
            raise InputError("MFC104", path, found=found, expected="a file name inside the folder of the index")
    return Index(path, weights, _total_size(content))


def _total_size(content: Mapping[str, object]) -> int | None:
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(total) if isinstance(total, int | float) and not isinstance(total, bool) and abs(total) < 1 << 63 else None


def check_against_files(index: Index, found: Mapping[str, str]) -> None:
    """Names and files of the index against what the shards really hold.

    Args:
        found: tensor name to the name of the file that holds it.
    Raises:
        InputError: MFC104 with the first names that are on one side only.
    """
    absent = [n for n, f in index.weight_map.items() if found.get(n) != f]
    if absent:
        name = absent[0]
        where = f"it is in {quoted(found[name])}" if name in found else f"it is not in {quoted(index.weight_map[name])}"
        listed = f"{len(absent):,} names of the index are not in their file; first {quoted(name)}: {where}"
        raise InputError("MFC104", index.path, found=listed, expected="every name in the file the index gives")
    surplus = [n for n in found if n not in index.weight_map]
    if surplus:
        listed = f"{len(surplus):,} tensors that the index does not name; first {quoted(surplus[0])} in {quoted(found[surplus[0]])}"
        hint = "Load the files by themselves (a list of paths) if the index is out of date."
        raise InputError("MFC104", index.path, found=listed, expected="every tensor of the shards in the index", hint=hint)


def index_bytes(places: Mapping[str, str], total_size: int) -> bytes:
    """An index file with these tensors in these files; names sorted, as transformers writes it."""
    content = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
