"""The folder ``NAME.mfconv`` beside an output: a manifest of how every tensor came about, and the tensors the output cannot carry.

The manifest holds no time and no path of a machine, so two runs of the same conversion write the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mfconv_nb.errors import InputError

MANIFEST = "manifest.json"
CARRIED = "carried.safetensors"
VERSION = 1
MAX_MANIFEST_BYTES = 512 << 20


def side_folder(target: Path) -> Path:
    """``llama.ckpt`` has ``llama.ckpt.mfconv`` beside it; so has a folder, even one that is given as ``.``."""
    target = target if target.name not in ("", "..") else target.resolve()
    return target.parent / f"{target.name}.mfconv"


def manifest_bytes(content: dict[str, Any]) -> bytes:
    """The manifest as it is written: one tensor a line, so that it can be read, searched and compared."""
    tensors = content.pop("tensors")
    head = json.dumps({"manifest_version": VERSION, **content}, indent=1, ensure_ascii=False)
    lines = ",\n".join("  " + json.dumps(t, ensure_ascii=False) for t in tensors)
    return (head[:-2] + ',\n "tensors": [\n' + lines + "\n ]\n}\n").encode("utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a side folder; None where there is none.

    Raises:
        InputError: MFC110 when there is one that cannot be used.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    hint = f"Remove {folder.name}, and the checkpoint is taken as it is."
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise InputError("MFC110", path, found=f"{path.stat().st_size:,} bytes", expected="a manifest", hint=hint)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError("MFC110", path, found=f"broken JSON: {error}", expected="a manifest", hint=hint) from None
    if not _is_sound(content):
        raise InputError("MFC110", path, found="another form", expected=f"manifest version {VERSION}", hint=hint)
    return dict(content)


def _is_sound(content: object) -> bool:
    if not isinstance(content, dict) or content.get("manifest_version") != VERSION:
        return False
    tensors, carried = content.get("tensors"), content.get("carried", [])
    if not isinstance(tensors, list) or not isinstance(carried, list) or not all(isinstance(c, str) for c in carried):
        return False
    if not isinstance(content.get("family"), str | None) or not isinstance(content.get("config"), dict | None):
        return False
    if not isinstance(content.get("options"), dict | None) or not isinstance(content.get("family_file"), str | None):
        return False
    if any(content.get(side) not in ("hf", "mf", None) for side in ("to", "from_side")):
        return False
    slices = content.get("slices", [])
    if not isinstance(slices, list) or not all(
        isinstance(t, dict) and all(isinstance(t.get(key), str) for key in ("name", "file", "xxh3_128")) for t in slices
    ):
        return False
    return all(
        isinstance(t, dict)
        and isinstance(t.get("name"), str)
        and isinstance(t.get("dtype"), str)
        and isinstance(t.get("shape"), list)
        and all(type(n) is int for n in t["shape"])
        and isinstance(t.get("from"), list)
        and all(isinstance(n, str) for n in t["from"])
        and isinstance(t.get("cast_from", ""), str)
        for t in tensors
    )
