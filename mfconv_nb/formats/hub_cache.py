"""The cache that huggingface_hub keeps: `models--org--name/` with `refs/`, `snapshots/COMMIT/` of links, and `blobs/` named by checksum.

A snapshot is a folder like any other. This module finds it from the folders around it, or from the id of a model.
Source: huggingface_hub's guide "Understand caching"; the layout of ModelScope's cache as its client writes it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mfconv_nb.core.errors import InputError, on_one_line
from mfconv_nb.formats.folders import checkpoint_files, take_single
from mfconv_nb.formats.known import weight_endings

MODEL, SNAPSHOTS, REFS, BLOBS = "models--", "snapshots", "refs", "blobs"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def snapshot_in(folder: Path) -> Path | None:
    """The snapshot to read when a folder of the cache is given; None for any other folder, and for a snapshot itself.

    Raises:
        InputError: MFC115 for several models, or for several snapshots if `refs/main` names none of them.
    """
    place = Path(os.path.abspath(folder))
    if place.name == SNAPSHOTS and place.parent.name.startswith(MODEL):
        return _snapshot_of(place.parent)
    if checkpoint_files(folder):
        return None
    if (place / SNAPSHOTS).is_dir() and (place.name.startswith(MODEL) or (place / REFS).is_dir()):
        return _snapshot_of(place)
    for cache in (place, place / "hub"):
        if models := _folders_in(cache, MODEL):
            return _snapshot_of(take_single("MFC115", models, cache, "model", "models"))
    return None


def _snapshot_of(model: Path) -> Path | None:
    """Raises InputError (MFC115) for several snapshots if `refs/main` names none of them."""
    snapshots = _folders_in(model / SNAPSHOTS)
    try:
        commit = (model / REFS / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = ""
    named = [s for s in snapshots if s.name == commit]
    return take_single("MFC115", named or snapshots, model / SNAPSHOTS, "snapshot", "snapshots") if snapshots else None


def _folders_in(folder: Path, begin: str = "") -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.name.startswith(begin) and p.is_dir())
    except OSError:
        return []


def refuse_model_id(path: Path) -> None:
    """Raises InputError (MFC101) for the id of a model, `org/name`. The hint says where a cache has it, or how to fetch it."""
    text = path.as_posix()
    if _ID.fullmatch(text) is None or path.suffix in (*weight_endings(), ".json"):
        return
    cached = _find_in_hub_cache(text) or _find_in_modelscope_cache(text)
    if cached is None and ("/" not in text or os.path.exists(path.parent)):
        return
    hint = f"It is in a cache on this machine: {on_one_line(str(cached))}"
    if cached is None:
        hint = f"Is it the id of a model? Nothing is fetched here: hf download {text} --local-dir {path.name}, then give that folder."
    raise InputError("MFC101", path, expected="a folder, an index or a file with weights", hint=hint)


def _find_in_hub_cache(text: str) -> Path | None:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    model = hub / (MODEL + text.replace("/", "--"))
    try:
        return _snapshot_of(model)
    except InputError:
        return model / SNAPSHOTS


def _find_in_modelscope_cache(text: str) -> Path | None:
    home = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    name = text.replace(".", "___")
    return next((p for p in (home / "hub" / "models" / name, home / "models" / name, home / "hub" / name) if p.is_dir()), None)


def sha256_in_name(path: Path) -> str | None:
    """The sha256 of a blob of the cache, or of a link to one: blobs are named by it. None for any other file."""
    target = Path(os.path.realpath(path))
    return target.name if target.parent.name == BLOBS and _SHA256.fullmatch(target.name) else None
