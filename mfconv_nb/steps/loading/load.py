"""load: from a path or a live object to a checkpoint. Headers only; no weight is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, SIDE_NAMES, Checkpoint, LazyTensor, Original, Written, checkpoint_of
from mfconv_nb.core.errors import InputError, MappingError
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.report import how_many
from mfconv_nb.core.run_yaml import ENDINGS, Lora, RunConfig, checked_alpha, lora_of, read_run_config
from mfconv_nb.core.sizes import PARAMS, read_config, read_params
from mfconv_nb.formats.assets import quantisation_beside
from mfconv_nb.formats.peft_folder import CONFIG, read_adapter_config
from mfconv_nb.formats.reading import Opened, open_files, open_path
from mfconv_nb.mapping.adapters import is_adapter
from mfconv_nb.networks.live import HINT, is_live, load_live
from mfconv_nb.runs.categories import categories_asked, category_of
from mfconv_nb.runs.merged_by_mindspore import notes_on_run_state
from mfconv_nb.runs.opening import merged, open_run
from mfconv_nb.runs.part_of import note_on_a_part, part_of, whole_of
from mfconv_nb.runs.run import TrainedRun
from mfconv_nb.steps.loading.proven import written_parts
from mfconv_nb.steps.loading.sides import side_of_names
from mfconv_nb.streaming.manifest import CARRIED, read_manifest
from mfconv_nb.streaming.publish import check_not_half_replaced, side_folders

Loadable = Any  # a Checkpoint, a path, several paths, a torch Module or state dict, a MindSpore Cell or parameter dict, a dict of arrays


@makes_many_objects
def load(
    source: Loadable,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    step: int | str | None = None,
    strategy: str | Path | None = None,
    file_prefix: str | None = None,
    only: str | Sequence[str] | None = None,
    lora_alpha: float | None = None,
) -> Checkpoint:
    """Open a checkpoint. Reads headers, the config and the manifest beside it; no weight.

    Args:
        source: a folder (also one of the hub cache), an index, a file or a list of files (safetensors, MindSpore `.ckpt`, torch `.bin`,
            `.pt`, `.pth`); the folder of a training run (`rank_N/` with its strategy files, or Checkpoint 2.0), whose slices become whole
            tensors; or a live object: a torch Module or state dict, a MindSpore Cell or parameter dict, a dict of arrays. A shard and a
            config.json stand for their whole checkpoint, with a note; a list is taken as it is.
        config: a config.json, its folder, its content, or the YAML of a MindFormers run. Left out: the one beside the files, else the
            one in the manifest.
        step: of a run, the step to take: ``400``, or ``"2_400"`` with its epoch. Left out: the newest that is whole.
        strategy: of a run, the folder of its strategy files, where it does not lie beside the ranks.
        file_prefix: of a run, what the names of the files begin with, where those of several checkpoints lie in one folder.
        only: the categories of tensors to take: "weights", "optimizer", "gradients", "run state", "buffers". Left out: all.
        lora_alpha: of LoRA adapters (their scale is alpha / rank), where neither an adapter_config.json beside them nor the YAML says it.
    Raises:
        InputError: MFC1xx; MFC111 to MFC114 for a run that is no whole checkpoint. FormatError: MFC2xx. MappingError: MFC319 where two
            places give different alphas.
    """
    if isinstance(source, Checkpoint):
        return _taken(_described(source, config, lora_alpha), only)
    if is_live(source):
        live = load_live(source)
        live = replace(live, side=side_of_names(live.tensors) or live.side)
        return _taken(_described(live, config, lora_alpha), only)
    said: tuple[str, ...] = ()
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        if odd := [p for p in source if not isinstance(p, str | Path)]:
            raise InputError("MFC109", found=f"a list with a {type(odd[0]).__name__} in it", expected="paths", hint=HINT)
        paths = [local_path(p) for p in source]
        if not paths:
            hint = "Give the paths of the files, or their folder."
            raise InputError("MFC109", found="an empty list", expected="at least one path", hint=hint)
        opened, path = _open_several(paths), paths[0]
    elif isinstance(source, str | Path):
        given = local_path(source)
        check_not_half_replaced(given)
        path, said = whole_of(given)
        run = open_run(path, step=step, strategy=strategy, file_prefix=file_prefix, config=config_near(path, config))
        if run is not None:
            return load_run(run, path, config=config, only=only, lora_alpha=lora_alpha)
        opened = open_path(path)
    else:
        raise InputError("MFC109", found=f"a {type(source).__name__}", expected="a path or a live object", hint=HINT)
    folder, manifest, notes = _fitting_manifest(path, opened.tensors)
    side = manifest.get("to") or side_of_names(opened.tensors) or opened.side
    if side in SIDE_NAMES and opened.side in SIDE_NAMES and side != opened.side:
        notes += (f"the names are {SIDE_NAMES[side]}'s, which counts; files of this format are usually {SIDE_NAMES[opened.side]}'s",)
    config_beside = _config_beside(path)
    found = checkpoint_of(
        opened.tensors,
        origin=str(source) if isinstance(source, str | Path) else how_many(len(opened.files), "file"),
        side=side,
        config=None if config else _config_beside(path) or manifest.get("config"),
        files=opened.files,
        others=opened.others,
        original=_original(folder, manifest),
        family=manifest.get("family"),
        family_file=manifest.get("family_file") or "",
        options=manifest.get("options") or {},
        notes=said + note_on_a_part(path) + opened.notes + notes_on_run_state(opened.run_state) + notes,
        lora=_lora_beside(path, manifest),
        twins=opened.twins,
        quantised_by=quantisation_beside(path if os.path.isdir(path) else path.parent),
    )
    return _taken(_described(_to_prove(found, path, folder, manifest, config_beside), config, lora_alpha), only)


def _to_prove(found: Checkpoint, path: Path, side: Path, manifest: Mapping[str, Any], config: Mapping[str, Any] | None) -> Checkpoint:
    """With what its manifest says was written, for whoever uses what that remembers; ``config`` is the one beside the files."""
    if not manifest:
        return found
    remembered = _lora_remembered(manifest)
    told = {"config": (found.config, config), **({"lora": (found.lora, None)} if found.lora == remembered else {})}
    return replace(found, written=Written(side.name, written_parts(manifest, found.tensors, found.run, path), told))


def _open_several(paths: Sequence[Path]) -> Opened:
    try:
        return open_files(paths)
    except InputError as error:
        part = part_of(paths[0])
        if error.code != "MFC105" or part is None or part.whole is None:
            raise
        hint = f"They hold slices. Give the folder of the run: {part.whole}"
        raise InputError(error.code, error.where, found=error.found, expected="whole tensors", hint=hint) from None


def _taken(checkpoint: Checkpoint, only: str | Sequence[str] | None) -> Checkpoint:
    """The tensors of the categories that are asked for."""
    if only is None:
        return checkpoint
    wanted = categories_asked(only)
    return replace(checkpoint, tensors={n: t for n, t in checkpoint.tensors.items() if category_of(n) in wanted})


def load_run(
    run: TrainedRun,
    path: Path,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    only: str | Sequence[str] | None = None,
    lora_alpha: float | None = None,
) -> Checkpoint:
    """The checkpoint of a run that was opened: its whole tensors, and what must hold of its copies before anything is written."""
    whole = merged(run, only)
    folder, manifest, notes = _fitting_manifest(path, whole.tensors)
    config_beside = _config_beside(path)
    found = checkpoint_of(
        whole.tensors,
        origin=f"{path}, {run.kind}" + (f", step {run.chosen}" if run.chosen is not None else ""),
        side=MF,
        config=config_beside or manifest.get("config"),
        files=run.files,
        others=run.others,
        original=_original(folder, manifest),
        family=manifest.get("family"),
        family_file=manifest.get("family_file") or "",
        options=manifest.get("options") or {},
        notes=whole.notes + notes,
        equalities=whole.equalities,
        run=run,
        lora=_lora_of_run(path, manifest) if any(map(is_adapter, whole.tensors)) else None,
    )
    return _described(_to_prove(found, path, folder, manifest, config_beside), config, lora_alpha)


def _described(checkpoint: Checkpoint, config: str | Path | Mapping[str, Any] | None, alpha: float | None) -> Checkpoint:
    """With what the caller says of it; what two places say of adapters must agree."""
    given = _given(config)
    told = Lora(checked_alpha(alpha, "lora_alpha"), origin="the call") if alpha is not None else None
    lora = checkpoint.lora
    for more in (given.lora if given is not None else None, told):
        lora = _agreed(lora, more)
    if given is None and lora is checkpoint.lora:
        return checkpoint
    says_sizes = given is not None and (given.config or given.lora is None)  # an adapter_config.json alone says none
    known = given.config if given is not None and says_sizes else checkpoint.config
    folder = local_path(config) if isinstance(config, str | Path) else None
    given_from = folder if folder is not None and folder.is_dir() else checkpoint.config_folder
    return replace(checkpoint, config=known, config_folder=given_from, lora=lora)


def _agreed(first: Lora | None, second: Lora | None) -> Lora | None:
    """Raises MappingError (MFC319) where two descriptions of the same adapters give different numbers."""
    if first is None or second is None:
        return first or second
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
    return Lora(known.alpha, first.rank or second.rank, known.origin, dropout, content, problem, only_merged)


def _lora_beside(path: Path, manifest: Mapping[str, Any]) -> Lora | None:
    """What is said of adapters beside them, or in the manifest."""
    beside = (path if os.path.isdir(path) else path.parent) / CONFIG
    if beside.is_file():
        return read_adapter_config(beside)
    return _lora_remembered(manifest)


def _lora_remembered(manifest: Mapping[str, Any]) -> Lora | None:
    remembered = manifest.get("lora")
    return lora_of(remembered, "the manifest", "rank") if isinstance(remembered, dict) else None


def _lora_of_run(path: Path, manifest: Mapping[str, Any]) -> Lora | None:
    """What is said of the adapters of a run: MindFormers writes its adapter_config.json above the checkpoint's folder."""
    folder = Path(os.path.abspath(path))
    home = next((place for place in (folder, *list(folder.parents)[:2]) if os.path.isfile(place / CONFIG)), folder)
    return _lora_beside(home, manifest)


def config_of(config: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What a caller gave as config: its content, with the names of config.json."""
    given = _given(config)
    return None if given is None else given.config


def config_near(path: Path, config: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What a caller gave as config, else the one beside a path."""
    return config_of(config) if config is not None else _config_beside(path)


def _given(config: str | Path | Mapping[str, Any] | None) -> RunConfig | None:
    if config is None or isinstance(config, Mapping):
        return None if config is None else RunConfig(config, None)
    path = local_path(config)
    if path.suffix.lower() in ENDINGS:
        return read_run_config(path)
    if path.name == CONFIG:
        return RunConfig({}, read_adapter_config(path))
    if os.path.isdir(path):
        return RunConfig(_config_beside(path) or read_config(path / "config.json"), None)
    return RunConfig(read_params(path) if path.name == PARAMS else read_config(path), None)


def _config_beside(path: Path) -> Mapping[str, Any] | None:
    folder = path if os.path.isdir(path) else path.parent
    if (folder / "config.json").is_file() or (folder / "config.json").is_symlink():  # one that leads nowhere is refused
        return read_config(folder / "config.json")
    return read_params(folder / PARAMS) if (folder / PARAMS).is_file() else None


def manifest_near(path: Path, tensors: Mapping[str, LazyTensor]) -> tuple[Path, dict[str, Any], bool] | None:
    """The side folder of a checkpoint, its manifest, and whether that describes exactly these tensors.

    It is looked for beside the path and beside what an index stands for. The one of the folder that a file is in counts if it fits.
    """
    inside = [path.with_name(path.name.removesuffix(".index.json")), path.parent] if not path.is_dir() else []
    sides = [side for place in (path, *inside) for side in side_folders(place)]
    found = [(side, manifest) for side in sides if (manifest := read_manifest(side)) is not None]
    specs = {n: (t.shape, t.dtype) for n, t in tensors.items()} if found else {}
    for side, manifest in found:
        if {t["name"]: (tuple(t["shape"]), t["dtype"]) for t in manifest["tensors"]} == specs:
            return side, manifest, True
    of_folder = side_folders(path.parent)
    return next(((side, manifest, False) for side, manifest in found if side not in of_folder), None)


def _fitting_manifest(path: Path, tensors: Mapping[str, LazyTensor]) -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    """The side folder and manifest of exactly these tensors; nothing, and a note, where there is one of others."""
    side, manifest, fits = manifest_near(path, tensors) or (path, {}, True)
    return (side, manifest, ()) if fits else (side, {}, (f"{side.name} describes other tensors and is not used",))


def _original(side: Path, manifest: Mapping[str, Any]) -> Original | None:
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
    return Original(manifest["from_side"], frozenset(names), kept, dtypes, asked.get("layers"), tuple(asked.get("leave_out", ())))
