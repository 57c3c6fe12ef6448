"""Open the folder of a training run, and join its slices to one checkpoint of whole, lazy tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, Equality, LazyTensor
from mfconv_nb.core.errors import InputError, MfconvError, SeveralFitError, UsageError, quote
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.report import bytes_text, how_many
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import family_named, identify
from mfconv_nb.mapping.adapters import half_of
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.forms import fitting_forms, templates_of
from mfconv_nb.mapping.kinds import CATEGORIES, WEIGHT, WEIGHTS, Kind, amounts_by_category, category_of, kind_of, parse_categories
from mfconv_nb.mapping.rules import Family
from mfconv_nb.runs.duplicates import note_equal_parts
from mfconv_nb.runs.iteration_folders import looks_like_iteration_folder, open_iteration_folder
from mfconv_nb.runs.message_text import names_text
from mfconv_nb.runs.rank_folders import looks_like_rank_folders, open_rank_folders
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.runs.run_view import RunExploration
from mfconv_nb.streaming.fill import tensor_checksums
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable

_LAYER = re.compile(r"((?:.*?\.)?(?:layers?|blocks?|h)\.)(\d{1,6})\.", re.DOTALL)
MOST_LAYERS = 4096


@dataclass(frozen=True, repr=False)
class ExplorableRun(TrainedRun, Explorable):
    """A run that a notebook shows as a view of its tensors, with a drawing of which rank holds which part.

    Attributes:
        asked: step, strategy and prefix as the caller gave them; they open this run again.
    """

    asked: Mapping[str, str] = field(default_factory=dict)

    def exploration(self) -> Exploration:
        return RunExploration(self, self.asked)


@dataclass(frozen=True)
class JoinedRun:
    """The whole tensors of a run, and what must hold for them to be one checkpoint."""

    tensors: Mapping[str, LazyTensor]
    equalities: tuple[Equality, ...]
    notes: tuple[str, ...]


def open_run(
    path: Path,
    *,
    step: int | str | None = None,
    strategy: str | Path | None = None,
    file_prefix: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> TrainedRun | None:
    """Open a run's folder; None for any other path. Its ``problems`` list what is wrong with the run; ``join_slices`` raises them.

    Args:
        step: ``400``, or ``"2_400"`` with its epoch. Left out: the newest that is whole.
        strategy: the folder of the strategy files, or a merged one, where it does not lie beside the ranks.
        file_prefix: what the names of the files begin with, where those of several checkpoints lie in one folder.
        config: gives the shapes of whole tensors of a run without strategy files.
    """
    run = _open_run(path, None if step is None else parse_step(step), strategy, file_prefix, config)
    if run is None:
        return None
    doubtful = note_equal_parts(run.tensors.values()) if not run.problems else ()
    words = {"step": step, "strategy": strategy, "file_prefix": file_prefix}
    asked = {name: str(value) for name, value in words.items() if value is not None}
    opened = {f.name: getattr(run, f.name) for f in fields(run)}
    return ExplorableRun(**opened | {"assumed": (*run.assumed, *doubtful), "asked": asked})


def _open_run(
    path: Path, asked: Step | None, strategy: str | Path | None, file_prefix: str | None, config: Mapping[str, Any] | None
) -> TrainedRun | None:
    is_folder = os.path.isdir(path)
    has_ranks = is_folder and looks_like_rank_folders(path)
    if is_folder and looks_like_iteration_folder(path):
        if strategy is not None:
            found, hint = "a Checkpoint 2.0 folder, which needs none", "Leave it out."
            raise UsageError("MFC501", "strategy", found=found, expected="rank folders", hint=hint)
        run = open_iteration_folder(path, step=asked, file_prefix=file_prefix)
        return replace(run, notes=(*run.notes, "rank folders lie beside the iterations and are not read")) if has_ranks else run
    if has_ranks:
        given = None if strategy is None else local_path(strategy)
        return open_rank_folders(
            path,
            step=asked,
            strategy=given,
            file_prefix=file_prefix,
            shapes=lambda names: expected_shapes(names, config),
            digest=_checksum_of,
        )
    for name, value in (("step", asked), ("strategy", strategy), ("file_prefix", file_prefix)):
        if value is not None:
            hint = "Leave it out for this checkpoint."
            found = f"{quote(str(value))} for {path}, which is none"
            raise UsageError("MFC501", name, found=found, expected="the folder of a training run", hint=hint)
    return None


def looks_like_run(path: Path) -> bool:
    """True for the folder of a training run, whether it can be opened or not."""
    return os.path.isdir(path) and (looks_like_iteration_folder(path) or looks_like_rank_folders(path))


def _checksum_of(tensor: LazyTensor) -> object:
    return tensor_checksums([tensor])[tensor.name]


def parse_step(text: int | str) -> Step:
    """``400``, or ``"2_400"``: step 400 of epoch 2.

    Raises:
        UsageError: MFC501.
    """
    parts = str(text).split("_")
    if len(parts) in (1, 2) and all(p.isascii() and p.isdigit() for p in parts):
        return Step(int(parts[0]) if len(parts) == 2 else None, int(parts[-1]))
    hint = "Leave it out for the newest, or give one: --step 400 (step=400 in Python)."
    raise UsageError("MFC501", "step", found=quote(str(text)), expected="a step (400), or epoch and step (2_400)", hint=hint)


def expected_shapes(names: Iterable[str], config: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
    """The shape of every whole tensor that a config promises on the MindFormers side; empty without a config.

    Where several families fit, only the shapes on which all of them agree.

    Raises:
        MfconvError: where no family fits, or the config lacks a size.
    """
    if config is None:
        return {}
    halves = ((name, half_of(name)) for name in names if kind_of(name) is WEIGHT)
    weights = list(dict.fromkeys(name if half is None else half.weight for name, half in halves))  # an adapter counts as its weight
    try:
        return _shapes_of_family(identify(weights, config, to="hf"), weights, config)
    except SeveralFitError as several:
        meant = [choice["model"] for choice in several.choices if "model" in choice]
        of_each = [_shapes_or_none(family_named(key), weights, config) for key in meant]
        first, *others = [shapes for shapes in of_each if shapes] or [{}]
        if not first:
            raise
        return {name: shape for name, shape in first.items() if all(other.get(name) == shape for other in others)}


def _shapes_or_none(family: Family, weights: Sequence[str], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Empty where the config lacks a size that the family needs: then it is the config of another family."""
    try:
        return _shapes_of_family(family, weights, config)
    except MfconvError:
        return {}


def _shapes_of_family(family: Family, weights: Sequence[str], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    form = fitting_forms(family, templates_of(weights), "hf", {}, {})[0].form
    return {spec.name: spec.shape for spec in expected_specs(form, read_sizes(config, form.sizes), MF)}


def join_slices(run: TrainedRun, only: str | Iterable[str] | None = None) -> JoinedRun:
    """Join the slices of a run to whole tensors. The one place that raises the problems of a run.

    Args:
        only: categories of tensors to take, such as ``"weights"``; left out: all.
    Raises:
        InputError: the first of the run's problems; MFC111 where ``only`` names the weights and not all of them are there.
    """
    if run.problems:
        raise run.problems[0]
    wanted = CATEGORIES if only is None else parse_categories(only)
    if only is not None and WEIGHTS in wanted:
        check_all_weights(run)
    chosen = {name: tensor for name, tensor in run.tensors.items() if category_of(name, run.told) in wanted}
    for tensor in chosen.values():
        problem = tensor.problem()
        if problem is not None:
            raise problem
    wholes = {name: tensor.whole() for name, tensor in chosen.items()}
    equalities = tuple(equality for tensor in chosen.values() for equality in tensor.copies())
    return JoinedRun(wholes, equalities, (_note_amounts(wholes, run.told), *(f"assumed: {a}" for a in run.assumed), *run.notes))


def check_all_weights(run: TrainedRun) -> None:
    """Raises InputError (MFC111) where no file holds some of the weights, or an earlier layer has none. Adapters may be alone."""
    weights = [name for name in run.tensors if category_of(name, run.told) == WEIGHTS]
    absent = [name for name in run.absent if category_of(name) == WEIGHTS]
    if all(half_of(name) is not None for name in weights):
        return
    found = f"no file holds {how_many(len(absent), 'weight')} of which the run speaks: {names_text(absent)}" if absent else ""
    if gaps := layers_without(weights):
        found = f"no weight of {names_text(gaps)}, though later layers have some"
    if found:
        hint = "Fetch the missing files. Without --only (only= in Python) all that is there is written."
        raise InputError("MFC111", run.folder, found=found, expected="all weights of the model", hint=hint)


def layers_without(names: Iterable[str]) -> list[str]:
    """Layers without a tensor before layers that have some: ``decoder.layers.2``."""
    seen: dict[str, set[int]] = {}
    for name in names:
        if match := _LAYER.match(name):
            seen.setdefault(match[1], set()).add(int(match[2]))
    return [f"{stem}{n}" for stem, numbers in seen.items() for n in range(min(max(numbers), MOST_LAYERS)) if n not in numbers]


def _note_amounts(tensors: Mapping[str, LazyTensor], told: Mapping[str, Kind]) -> str:
    found = amounts_by_category((t.spec for t in tensors.values()), told)
    return (
        ", ".join(f"{category}: {how_many(a.tensors, 'tensor')}, {bytes_text(a.nbytes)}" for category, a in found.items()) or "no tensors"
    )
