"""What lies beside the weights: the config, the config of adapters, and the manifest with what it remembers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import LazyTensor, Original
from mfconv_nb.core.errors import InputError, MappingError, MfconvError, to_one_line
from mfconv_nb.core.run_yaml import Lora
from mfconv_nb.core.sizes import PARAMS, read_config, read_params
from mfconv_nb.formats.adapters_of_a_run import RUN_CONFIG_OF_ADAPTERS, read_adapters_of_run
from mfconv_nb.formats.peft_folder import CONFIG, read_adapter_config
from mfconv_nb.formats.reading import open_files
from mfconv_nb.steps.loading.codes import Published, read_published
from mfconv_nb.streaming.manifest import CARRIED, CODES, read_manifest
from mfconv_nb.streaming.publish import side_folders


def config_beside(path: Path) -> Mapping[str, Any] | None:
    """The config.json of a folder, or of the folder a file lies in; else Meta's params.json. An empty object counts as none."""
    folder = path if os.path.isdir(path) else path.parent
    if (folder / "config.json").is_file() or (folder / "config.json").is_symlink():  # one that leads nowhere is refused
        return read_config(folder / "config.json") or None
    return read_params(folder / PARAMS) if (folder / PARAMS).is_file() else None


def lora_beside(path: Path) -> Lora | None:
    """What the adapter_config.json beside adapters says, and MindFormers' own.

    Raises:
        MappingError: MFC319 where they give different numbers.
    """
    folder = path if os.path.isdir(path) else path.parent
    readers = ((RUN_CONFIG_OF_ADAPTERS, read_adapters_of_run), (CONFIG, read_adapter_config))
    found = [read(folder / name) for name, read in readers if (folder / name).is_file()]
    return reduce(join_lora, found) if found else None


def lora_of_run(path: Path, files: Sequence[Path]) -> Lora | None:
    """What the configs of a run's adapters say: MindFormers writes them into the folder of the step, into that of the run, or above it."""
    folder = Path(os.path.abspath(path))
    places = (*(file.parent for file in files[:1]), folder, *list(folder.parents)[:2])
    return next((lora for place in places if (lora := lora_beside(place)) is not None), None)


def join_lora(first: Lora | None, second: Lora) -> Lora:
    """What two places say of the same adapters.

    Raises:
        MappingError: MFC319 where they give different numbers.
    """
    if first is None:
        return second
    for word, a, b in (("lora_alpha", first.alpha, second.alpha), ("rank", first.rank, second.rank)):
        if a is not None and b is not None and a != b:
            found = f"{a:g} in {first.origin or 'one place'}, {b:g} in {second.origin or 'another'}"
            raise MappingError(
                "MFC319", word, found=found, expected="one value", hint="Give the files of the run that made these adapters."
            )
    known = first if first.alpha is not None else second
    dropout = first.dropout if first.dropout is not None else second.dropout
    content, problem = first.content or second.content, first.problem or second.problem
    only_merged = first.only_merged or second.only_merged
    part_rank = first.part_rank or second.part_rank
    return Lora(
        known.alpha,
        first.rank or second.rank,
        known.origin,
        dropout,
        content,
        problem,
        only_merged,
        part_rank,
        first.targets or second.targets,
    )


def manifest_near(path: Path, tensors: Mapping[str, LazyTensor]) -> tuple[Path, dict[str, Any], bool] | None:
    """The side folder of a checkpoint, its manifest, and whether that describes exactly these tensors.

    It is looked for beside the path and beside what an index stands for. The one of the folder that a file is in counts if it fits.
    """
    inside = [path.with_name(path.name.removesuffix(".index.json")), path.parent] if not path.is_dir() else []
    sides = dict.fromkeys(side for place in (path, *inside) for side in side_folders(place))
    found = [(side, manifest) for side in sides if (manifest := read_manifest(side)) is not None]
    specs = {n: (t.shape, t.dtype) for n, t in tensors.items()} if found else {}
    for side, manifest in found:
        if {t["name"]: (tuple(t["shape"]), t["dtype"]) for t in manifest["tensors"]} == specs:
            return side, manifest, True
    of_folder = side_folders(path.parent)
    return next(((side, manifest, False) for side, manifest in found if side not in of_folder), None)


def fitting_manifest(path: Path, tensors: Mapping[str, LazyTensor]) -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    """The side folder and manifest of exactly these tensors; nothing, and a note, where there is one of others."""
    side, manifest, fits = manifest_near(path, tensors) or (path, {}, True)
    return (side, manifest, ()) if fits else (side, {}, (f"{side.name} describes other tensors and is not used",))


def read_original(side: Path, manifest: Mapping[str, Any]) -> Original | None:
    """What a manifest remembers of the side that a checkpoint was mapped from.

    Raises:
        InputError: MFC110 where the tensors kept in the side folder are not those of the manifest.
    """
    if manifest.get("from_side") is None:
        return None
    carried = side / CARRIED
    kept = open_files([carried]).tensors if manifest.get("carried") else {}
    if kept.keys() != set(manifest.get("carried", ())):
        hint = f"Remove {side.name}, and the checkpoint is taken as it is."
        raise InputError("MFC110", carried, found="other tensors than the manifest says", expected="the tensors kept for it", hint=hint)
    names = {n for t in manifest["tensors"] for n in t["from"]} | kept.keys()
    dtypes = {n: t["cast_from"] for t in manifest["tensors"] if t.get("dtype_fixed") for n in t["from"]}
    asked = manifest.get("asked", {})
    asked_for = (asked.get("layers"), tuple(asked.get("leave_out", ())), asked.get("cut_vocabulary", False))
    return Original(manifest["from_side"], frozenset(names), kept, dtypes, *asked_for, _published_beside(side, manifest))


def _published_beside(side: Path, manifest: Mapping[str, Any]) -> Published | None:
    """How the original's weights were published as codes; None where they were not.

    Raises:
        InputError: MFC110 where the scales kept in the side folder are not those of the manifest.
    """
    if (content := manifest.get("published")) is None:
        return None
    hint = f"Remove {side.name}, and the checkpoint is taken as it is: the way back gives numbers then, not codes."
    try:
        kept = open_files([side / CODES]).tensors
    except MfconvError as error:
        found = to_one_line(str(error.found))
        raise InputError("MFC110", side / CODES, found=found, expected="the scales kept for the codes", hint=hint) from None
    published = read_published(content, kept, manifest.get("config"))
    if published is None:
        found = "other scales than the manifest says, or codes that they cannot belong to"
        raise InputError("MFC110", side / CODES, found=found, expected="the scales kept for the codes", hint=hint)
    return published
