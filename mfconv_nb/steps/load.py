"""load: from a path or a live object to a checkpoint. Headers only; no weight is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.checkpoint import Checkpoint, LazyTensor, Original, checkpoint_of
from mfconv_nb.collector import makes_many_objects
from mfconv_nb.config import PARAMS, read_config, read_params
from mfconv_nb.errors import InputError
from mfconv_nb.formats.reading import open_files, open_path
from mfconv_nb.live import is_live, load_live
from mfconv_nb.streaming.manifest import CARRIED, read_manifest, side_folder

Loadable = Any  # a path, several paths, a torch Module or state dict, a MindSpore Cell or parameter dict, a dict of arrays


@makes_many_objects
def load(source: Loadable, *, config: str | Path | Mapping[str, Any] | None = None) -> Checkpoint:
    """Open a checkpoint. Reads headers, the config and the manifest beside it; no weight.

    Args:
        source: a folder, an index, any one file or a list of files (safetensors, MindSpore `.ckpt`, torch `.bin`, `.pt`, `.pth`); or a
            live object: a torch Module or state dict, a MindSpore Cell or parameter dict, a dict of arrays.
        config: a config.json, its folder, or its content. Left out: the one beside the files, else the one in the manifest.
    Raises:
        InputError: MFC1xx. FormatError: MFC2xx.
    """
    if isinstance(source, Checkpoint):
        return source if config is None else replace(source, config=_config(config))
    if is_live(source):
        live = load_live(source)
        return live if config is None else replace(live, config=_config(config))
    if isinstance(source, Sequence) and not isinstance(source, str):
        paths = [Path(p).expanduser() for p in source]
        if not paths:
            raise InputError("MFC109", found="an empty list", expected="at least one path")
        opened, path = open_files(paths), paths[0]
    elif isinstance(source, str | Path):
        path = Path(source).expanduser()
        opened = open_path(path)
    else:
        raise InputError("MFC109", found=f"a {type(source).__name__}", expected="a path or a live object")
    folder, manifest, notes = _fitting_manifest(path, opened.tensors)
    return checkpoint_of(
        opened.tensors,
        origin=str(source) if isinstance(source, str | Path) else f"{len(opened.files)} files",
        side=manifest.get("to") or opened.side,
        config=_config(config) or _config_beside(path) or manifest.get("config"),
        files=opened.files,
        others=opened.others,
        original=_original(folder, manifest),
        family=manifest.get("family"),
        family_file=manifest.get("family_file") or "",
        options=manifest.get("options") or {},
        notes=opened.notes + notes,
    )


def _config(config: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if config is None or isinstance(config, Mapping):
        return config
    path = Path(config).expanduser()
    if os.path.isdir(path):
        return _config_beside(path) or read_config(path / "config.json")
    return read_params(path) if path.name == PARAMS else read_config(path)


def _config_beside(path: Path) -> Mapping[str, Any] | None:
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        return read_config(folder / "config.json")
    return read_params(folder / PARAMS) if (folder / PARAMS).is_file() else None


def manifest_near(path: Path, tensors: Mapping[str, LazyTensor]) -> tuple[Path, dict[str, Any], bool] | None:
    """The side folder of a checkpoint, its manifest, and whether that describes exactly these tensors.

    It is looked for beside the path and beside what an index stands for. The one of the folder that a file is in counts if it fits.
    """
    inside = [path.with_name(path.name.removesuffix(".index.json")), path.parent] if not path.is_dir() else []
    found = [(side, manifest) for side in map(side_folder, (path, *inside)) if (manifest := read_manifest(side)) is not None]
    specs = {n: (t.shape, t.dtype) for n, t in tensors.items()} if found else {}
    for side, manifest in found:
        if {t["name"]: (tuple(t["shape"]), t["dtype"]) for t in manifest["tensors"]} == specs:
            return side, manifest, True
    return next(((side, manifest, False) for side, manifest in found if side != side_folder(path.parent)), None)


def _fitting_manifest(path: Path, tensors: Mapping[str, LazyTensor]) -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    """The side folder and manifest of exactly these tensors; nothing, and a note, where there is one of others."""
    side, manifest, fits = manifest_near(path, tensors) or (path, {}, True)
    return (side, manifest, ()) if fits else (side, {}, (f"{side.name} describes other tensors and is not used",))


def _original(side: Path, manifest: Mapping[str, Any]) -> Original | None:
    if manifest.get("from_side") is None:
        return None
    carried = side / CARRIED
    kept = open_files([carried]).tensors if manifest.get("carried") else {}
    names = {n for t in manifest["tensors"] for n in t["from"]} | kept.keys()
    dtypes = {n: t["cast_from"] for t in manifest["tensors"] if t.get("dtype_fixed") for n in t["from"]}
    return Original(manifest["from_side"], frozenset(names), kept, dtypes)
