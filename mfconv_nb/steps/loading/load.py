"""load: from a path or a live object to a checkpoint. Headers only; no weight is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, SIDE_NAMES, Checkpoint, History, Written
from mfconv_nb.core.errors import InputError
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.report import how_many
from mfconv_nb.core.run_yaml import Lora, lora_of
from mfconv_nb.formats.assets import quantisation_beside
from mfconv_nb.formats.reading import Opened, open_files, open_path
from mfconv_nb.mapping.adapters import is_adapter
from mfconv_nb.mapping.kinds import category_of, parse_categories
from mfconv_nb.networks.live import HINT, is_live, load_live
from mfconv_nb.runs.merged_by_mindspore import notes_on_run_state
from mfconv_nb.runs.opening import check_all_weights, join_slices, open_run
from mfconv_nb.runs.part_of import note_on_a_part, part_of, whole_of
from mfconv_nb.runs.run import TrainedRun
from mfconv_nb.steps.loading.averages import with_averaged_weights
from mfconv_nb.steps.loading.beside import fitting_manifest, lora_beside, lora_of_run, read_original
from mfconv_nb.steps.loading.caller_facts import CallerFacts, GivenConfig, read_caller_facts
from mfconv_nb.steps.loading.codes import with_numbers_of_codes
from mfconv_nb.steps.loading.company import kinds_told
from mfconv_nb.steps.loading.manifest_proof import written_parts
from mfconv_nb.steps.loading.sides import side_of_names
from mfconv_nb.streaming.publish import check_not_half_replaced

Loadable = Any  # a Checkpoint, a path, several paths, a torch Module or state dict, a MindSpore Cell or parameter dict, a dict of arrays


@makes_many_objects
def load(
    source: Loadable,
    *,
    config: GivenConfig = None,
    step: int | str | None = None,
    strategy: str | Path | None = None,
    file_prefix: str | None = None,
    only: str | Sequence[str] | None = None,
    lora_alpha: float | None = None,
    weights: str | None = None,
) -> Checkpoint:
    """Open a checkpoint. Reads headers, the config and the manifest beside it; no weight.

    Args:
        source: a folder (also one of the hub cache), an index, a file or a list of files (safetensors, MindSpore `.ckpt`, torch `.bin`,
            `.pt`, `.pth`); the folder of a training run (`rank_N/` with its strategy files, or Checkpoint 2.0), whose slices become whole
            tensors; or a live object: a torch Module or state dict, a MindSpore Cell or parameter dict, a dict of arrays. A shard and a
            config.json stand for their whole checkpoint, with a note; a list is taken as it is.
        config: a config.json, its folder, its content, or the YAML of a MindFormers run; a list of a config.json and a YAML: sizes from
            the one, switches from the other. Left out: the one beside the files, else the one in the manifest.
        step: of a run, the step to take: ``400``, or ``"2_400"`` with its epoch. Left out: the newest that is whole.
        strategy: of a run, the folder of its strategy files, where it does not lie beside the ranks.
        file_prefix: of a run, what the names of the files begin with, where those of several checkpoints lie in one folder.
        only: the categories of tensors to take: "weights", "optimizer", "gradients", "run state", "buffers". Left out: all.
        lora_alpha: of LoRA adapters (their scale is alpha / rank), where neither an adapter_config.json beside them nor the YAML says it.
        weights: "pma" for the weights that PMA, an optimizer of MindFormers, has averaged so far; how is in the YAML of the run
            (``config``). Left out: those of the step.
    Raises:
        UsageError: MFC501. InputError: MFC1xx; MFC111 to MFC114 for a run that is no whole checkpoint. FormatError: MFC2xx.
        MappingError: MFC319 where two places give different alphas; MFC304 where two configs give different sizes.
    """
    if weights is not None:
        whole = load(source, config=config, step=step, strategy=strategy, file_prefix=file_prefix, lora_alpha=lora_alpha)
        if only is not None and isinstance(whole.history.run, TrainedRun):
            check_all_weights(whole.history.run)
        return select_categories(with_averaged_weights(whole, weights, config), only)
    facts = read_caller_facts(config, lora_alpha)
    if isinstance(source, Checkpoint):
        return select_categories(with_numbers_of_codes(facts.add_to(source)), only)
    if is_live(source):
        live = load_live(source)
        live = replace(live, side=side_of_names(live.tensors) or live.side)
        return select_categories(with_numbers_of_codes(facts.add_to(live)), only)
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
        beside = None if facts.config is not None else facts.config_for(path)
        facts = replace(facts, config=facts.config if beside is None else beside)
        run = open_run(path, step=step, strategy=strategy, file_prefix=file_prefix, config=facts.config or facts.fallback)
        if run is not None:
            return load_run(run, path, facts, only)
        opened = open_path(path, beside)
    else:
        raise InputError("MFC109", found=f"a {type(source).__name__}", expected="a path or a live object", hint=HINT)
    folder, manifest, notes = fitting_manifest(path, opened.tensors)
    side = manifest.get("to") or side_of_names(opened.tensors) or opened.side
    if side in SIDE_NAMES and opened.side in SIDE_NAMES and side != opened.side:
        notes += (f"the names are {SIDE_NAMES[side]}'s, which counts; files of this format are usually {SIDE_NAMES[opened.side]}'s",)
    history = History(
        files=opened.files,
        others=opened.others,
        notes=said + note_on_a_part(path) + opened.notes + notes_on_run_state(opened.run_state) + notes,
        lora=lora_beside(path),
        twins=opened.twins,
        quantised_by=quantisation_beside(path if os.path.isdir(path) else path.parent),
    )
    origin = str(source) if isinstance(source, str | Path) else how_many(len(opened.files), "file")
    found = Checkpoint(opened.tensors, origin, side, facts.config_for(path), history)
    return select_categories(with_numbers_of_codes(facts.add_to(_with_manifest(found, path, folder, manifest))), only)


def _with_manifest(found: Checkpoint, path: Path, side_folder: Path, manifest: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint with what its manifest remembers. What lies beside the files counts before it."""
    if not manifest:
        return found
    remembered = manifest.get("lora")
    config = manifest.get("config") if found.config is None else None
    lora = _remembered_lora(remembered, found.history.lora) if isinstance(remembered, dict) else None
    parts = written_parts(manifest, found.tensors, found.history.run, path)
    history = replace(
        found.history,
        family=manifest.get("family"),
        family_file=manifest.get("family_file") or "",
        options=manifest.get("options") or {},
        original=read_original(side_folder, manifest),
        written=Written(side_folder.name, parts, config, lora if found.history.lora is None else None),
        lora=lora or found.history.lora,
    )
    return replace(found, config=found.config or config, history=history)


def _remembered_lora(remembered: Mapping[str, Any], beside: Lora | None) -> Lora | None:
    """What a manifest says of adapters; where a file beside them says it too, that counts, and the rank of the parts is added to it."""
    part = lora_of({"rank": remembered.get("part_rank")}, "the manifest", "rank").rank
    known = lora_of(remembered, "the manifest", "rank")
    if beside is None:
        return replace(known, part_rank=part)
    return replace(beside, part_rank=part) if part is not None and (beside.alpha, beside.rank) == (known.alpha, known.rank) else None


def _open_several(paths: Sequence[Path]) -> Opened:
    try:
        return open_files(paths)
    except InputError as error:
        part = part_of(paths[0])
        if error.code != "MFC105" or part is None or part.whole is None:
            raise
        hint = f"They hold slices. Give the folder of the run: {part.whole}"
        raise InputError(error.code, error.where, found=error.found, expected="whole tensors", hint=hint) from None


def select_categories(checkpoint: Checkpoint, only: str | Sequence[str] | None) -> Checkpoint:
    """The checkpoint with the tensors of the given categories alone; all of them where none is given."""
    if only is None:
        return checkpoint
    wanted = parse_categories(only)
    told = kinds_told(checkpoint)
    return replace(checkpoint, tensors={n: t for n, t in checkpoint.tensors.items() if category_of(n, told) in wanted})


def load_run(run: TrainedRun, path: Path, facts: CallerFacts, only: str | Sequence[str] | None = None) -> Checkpoint:
    """The checkpoint of a run that was opened: its whole tensors, and what must hold of its copies before anything is written."""
    whole = join_slices(run, only)
    folder, manifest, notes = fitting_manifest(path, whole.tensors)
    has_adapters = any(map(is_adapter, whole.tensors))
    history = History(
        files=run.files,
        others=run.others,
        notes=whole.notes + notes,
        equalities=whole.equalities,
        run=run,
        lora=lora_of_run(path, run.files) if has_adapters else None,
    )
    origin = f"{path}, {run.kind}" + (f", step {run.chosen}" if run.chosen is not None else "")
    found = Checkpoint(whole.tensors, origin, MF, facts.config_for(path), history)
    return facts.add_to(_with_manifest(found, path, folder, manifest))
