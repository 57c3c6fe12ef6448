"""The folder ``NAME.mfconv`` beside an output: the manifest, which says how each tensor was made, and tensors the output cannot hold.

The manifest holds no time and no path of the machine, so the same conversion always writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from mfconv_nb.core.dtypes import CASTABLE
from mfconv_nb.core.errors import InputError
from mfconv_nb.core.sources import read_object

MANIFEST = "manifest.json"
CARRIED = "carried.safetensors"
CODES = "codes.safetensors"  # scales of weights that were published as codes, and what else the way back to these needs
VERSION = 1
MAX_MANIFEST_BYTES = 512 << 20


def side_folder(target: Path) -> Path:
    """``llama.ckpt.mfconv`` for ``llama.ckpt``; likewise for a folder, even one given as ``.``."""
    target = target if target.name not in ("", "..") else target.resolve()
    return target.parent / f"{target.name}.mfconv"


def manifest_bytes(content: dict[str, Any]) -> bytes:
    """The bytes of a manifest, with one tensor a line, so that people can read, search and compare it.

    Half of a surrogate pair (in a file name, or from a pickle), which UTF-8 cannot hold, becomes a JSON escape.
    """
    tensors = content.pop("tensors")
    head = json.dumps({"manifest_version": VERSION, **content}, indent=1, ensure_ascii=False)
    lines = ",\n".join("  " + json.dumps(t, ensure_ascii=False) for t in tensors)
    return (head[:-2] + ',\n "tensors": [\n' + lines + "\n ]\n}\n").encode("utf-8", "backslashreplace")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a side folder; None if there is none.

    Raises:
        InputError: MFC110 if it cannot be used.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    refuse = partial(InputError, "MFC110", path, hint=f"Remove {folder.name}, and the checkpoint is taken as it is.")
    content = read_object(path, MAX_MANIFEST_BYTES, "a manifest", refuse)
    if not _is_sound(content):
        raise refuse(found="another structure", expected=f"manifest version {VERSION}")
    return content


def _is_sound(content: object) -> bool:
    """Whether everything that we read of a manifest could have been written by ``manifest_bytes``."""
    if not isinstance(content, dict) or content.get("manifest_version") != VERSION:
        return False
    if any(content.get(side) not in ("hf", "mf", None) for side in ("to", "from_side")):
        return False
    kinds = {"family": str, "family_file": str, "config": dict, "options": dict, "lora": dict, "published": dict}
    if not _is_sound_asked(content.get("asked", {})) or not all(isinstance(content.get(key), kind | None) for key, kind in kinds.items()):
        return False
    if not _is_list_of(content.get("carried", []), lambda name: isinstance(name, str)):
        return False
    if not _is_list_of(content.get("slices", []), lambda s: isinstance(s, dict) and all(isinstance(s.get(k), str) for k in _OF_A_SLICE)):
        return False
    tensors = content.get("tensors")
    return _is_list_of(tensors, _is_tensor) and len({t["name"] for t in tensors}) == len(tensors)


_OF_A_SLICE = ("name", "file", "xxh3_128")


def _is_list_of(value: Any, is_one: Callable[[Any], bool]) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and all(map(is_one, value))


def _is_tensor(entry: Any) -> bool:
    """A dtype that the family fixes needs ``cast_from``, and that must be a floating dtype: we cast nothing else."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("dtype"), str)
        and _is_list_of(entry.get("shape"), lambda n: type(n) is int)
        and _is_list_of(entry.get("from"), lambda name: isinstance(name, str))
        and entry.get("dtype_fixed", False) in (True, False)
        and ("cast_from" in entry or not entry.get("dtype_fixed"))
        and ("cast_from" not in entry or (isinstance(entry["cast_from"], str) and entry["cast_from"] in CASTABLE))
    )


def _is_sound_asked(asked: object) -> bool:
    """Which part of the source the user asked for: a number of layers, patterns of names to leave out, a vocabulary without added rows."""
    if not isinstance(asked, dict):
        return False
    layers, patterns = asked.get("layers"), asked.get("leave_out", [])
    counts = layers is None or (type(layers) is int and layers > 0)
    return counts and _is_list_of(patterns, lambda p: isinstance(p, str)) and type(asked.get("cut_vocabulary", False)) is bool
