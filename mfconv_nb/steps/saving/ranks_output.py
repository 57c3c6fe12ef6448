"""A checkpoint cut for the ranks of a training run: which file holds which slices, and the files that say so."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.errors import OutputError
from mfconv_nb.core.file_plan import OutputPlan
from mfconv_nb.core.paths import local_path
from mfconv_nb.formats.checkpoint_metadata import METADATA, Chunk, DeviceLayout, Parameter, StoredIn, metadata_bytes
from mfconv_nb.formats.known import format_with_ending
from mfconv_nb.formats.strategy_file import write_strategy
from mfconv_nb.formats.writing import plan_file
from mfconv_nb.mapping.kinds import COUNTER, GRADIENT_SUMS, OPTIMIZER_STATE, SAVED_NUMBER, kind_of
from mfconv_nb.runs.cutting import CutTensor, Cutting, as_plain_cuts, cut_tensors
from mfconv_nb.runs.rank_layout import CHECKPOINT_2, RankLayout, read_rank_layout
from mfconv_nb.runs.slices import Box
from mfconv_nb.runs.strategies import layout_of
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker
from mfconv_nb.steps.loading.company import kinds_told, saved_numbers
from mfconv_nb.steps.saving.output import Output, configs_of_run_adapters, output_specs

COMMON, TRACKER = "common.json", "latest_checkpointed_iteration.txt"
WEIGHT_FILE, OPTIMIZER_FILE = "model", "opt"  # what the names of a Checkpoint 2.0 begin with


@dataclass
class _RankFile:
    """The file of one rank: its slices by name."""

    name: str
    boxes: dict[str, Box] = field(default_factory=dict)


def ranks_output(
    checkpoint: Checkpoint, target: Path, dtype: str | None, layout: RankLayout | str | Path, numbers: Mapping[str, Any] = {}
) -> Output:
    """The output of a save that cuts every tensor for the ranks of ``layout``, which a JSON file may hold.

    Args:
        numbers: further ones of the run, for `common.json` of a Checkpoint 2.0.
    Raises:
        OutputError: MFC407 for a target with the ending of a file. UsageError, MappingError: as ``cut_tensors``.
    """
    if format_with_ending(target.suffix) is not None:
        found, hint = f"ending '{target.suffix}'", f"Give a folder instead: {target.with_suffix('')}"
        raise OutputError("MFC407", target, found=found, expected="a folder, for the files of the ranks", hint=hint)
    layout = layout if isinstance(layout, RankLayout) else read_rank_layout(local_path(layout))
    specs = output_specs(checkpoint, dtype)
    cut = cut_tensors(specs, layout)
    files = _files(cut, layout, _names_of_optimizer(checkpoint) if layout.form == CHECKPOINT_2 else frozenset())
    dtypes = {s.name: s.dtype for s in specs}
    maker, made = TensorMaker(checkpoint), dict[tuple[str, Box], LazyTensor]()
    held = [{name: _slice(maker, made, checkpoint[name].spec, box) for name, box in file.boxes.items()} for file in files]
    plans = [
        plan_file(file.name, [TensorSpec(n, t.shape, dtypes[n]) for n, t in tensors.items()], MF)
        for file, tensors in zip(files, held, strict=True)
    ]
    if layout.form == CHECKPOINT_2:
        of_adapters = configs_of_run_adapters(checkpoint, specs, layout.step, ("", f"{_iteration(layout)}/"))
        small = {**_metadata(cut, layout, files, numbers), **of_adapters}
    else:
        small = {**_strategies(cut), **configs_of_run_adapters(checkpoint, specs)}
    offsets = tuple({name: box.offset for name, box in file.boxes.items()} for file in files)
    return Output(checkpoint, dtypes, OutputPlan(tuple(plans), folder=True, indexes=small), tuple(held), offsets)


def _names_of_optimizer(checkpoint: Checkpoint) -> frozenset[str]:
    """The names that MindFormers saves with the optimizer: its state, and the counters and numbers of the run.

    What layers hold in training is saved with the network. Source: mindformers 2.1.0, `save_checkpoint` in `checkpoint/checkpoint.py`.
    """
    told = {**saved_numbers(checkpoint), **kinds_told(checkpoint)}
    kinds = ((name, told.get(name) or kind_of(name)) for name in checkpoint.tensors)
    return frozenset(name for name, kind in kinds if kind in (COUNTER, SAVED_NUMBER) or kind.category in (OPTIMIZER_STATE, GRADIENT_SUMS))


def _files(cut: Cutting, layout: RankLayout, of_optimizer: Collection[str]) -> list[_RankFile]:
    """Every rank's file. In a Checkpoint 2.0 a slice that several ranks have is written once, by the first of them, and what belongs to
    the optimizer has files of its own: MindFormers goes on with the optimizer only where they are there."""
    kinds = (WEIGHT_FILE, OPTIMIZER_FILE) if of_optimizer else (WEIGHT_FILE,)
    by_kind = {kind: [_RankFile(_file_name(layout, rank, cut.ranks, kind)) for rank in range(cut.ranks)] for kind in kinds}
    for tensor in cut.tensors:
        seen: set[Box] = set()
        files = by_kind[OPTIMIZER_FILE if tensor.spec.name in of_optimizer else WEIGHT_FILE]
        for rank, box in cut.boxes(tensor).items():
            if layout.form != CHECKPOINT_2 or box not in seen:
                files[rank].boxes[tensor.spec.name] = box
                seen.add(box)
    return [file for files in by_kind.values() for file in files]


def _file_name(layout: RankLayout, rank: int, ranks: int, kind: str) -> str:
    if layout.form == CHECKPOINT_2:
        return f"{_iteration(layout)}/{kind}-{rank:07}-{ranks:07}.safetensors"
    return f"rank_{rank}/{layout.prefix}_rank_{rank}-{layout.epoch}_{layout.step}{layout.ending}"


def _iteration(layout: RankLayout) -> str:
    return f"iteration_{layout.step:08}"


def _slice(maker: TensorMaker, made: dict[tuple[str, Box], LazyTensor], spec: TensorSpec, box: Box) -> LazyTensor:
    """A box of a tensor as a tensor; ranks with the same box share it."""
    key = (spec.name, box)
    if key not in made:
        pieces = maker.pieces_of_block(spec.name, box.block(spec.shape).swap_sides()) if maker.source[spec.name].pieces else []
        made[key] = LazyTensor(TensorSpec(spec.name, box.shape, spec.dtype), tuple(pieces))
    return made[key]


# ---- the files that say how it was cut ---------------------------------------------------------------------------------------


def _metadata(cut: Cutting, layout: RankLayout, files: Sequence[_RankFile], numbers: Mapping[str, Any]) -> dict[str, bytes]:
    writers = {(name, box): Path(file.name).name for file in files for name, box in file.boxes.items()}
    parameters = [_parameter(tensor, cut, writers) for tensor in cut.tensors]
    folder = _iteration(layout)
    common = {"epoch_num": layout.epoch, "step_num": layout.step, "global_step": layout.step, **numbers}
    return {
        f"{folder}/{COMMON}": (json.dumps(common) + "\n").encode(),
        f"{folder}/{METADATA}": metadata_bytes(parameters),
        TRACKER: str(layout.step).encode(),
    }


def _parameter(tensor: CutTensor, cut: Cutting, writers: Mapping[tuple[str, Box], str]) -> Parameter:
    name, groups = tensor.spec.name, dict[Box, list[int]]()
    for rank, box in cut.boxes(tensor).items():
        groups.setdefault(box, []).append(rank)
    chunks = tuple(Chunk(box.offset, box.shape, (StoredIn(writers[name, box], ranks[0], tuple(ranks)),)) for box, ranks in groups.items())
    first = tensor.stages[0] * cut.devices
    ranks = tuple(range(first, first + cut.devices))
    slicing, names = as_plain_cuts(tensor.slicing, tensor.names)
    named = DeviceLayout(slicing.devices, slicing.cuts, names, ranks)
    parts = tuple(whole // part if part else 1 for whole, part in zip(tensor.spec.shape, chunks[0].shape, strict=True))
    whole = tensor.slicing.is_whole
    return Parameter(tensor.spec.name, tensor.spec.dtype, tensor.spec.shape, chunks, None if whole else named, parts)


def _strategies(cut: Cutting) -> dict[str, bytes]:
    """A strategy file for every rank, as a run writes them: what its stage has, and how it is cut."""
    of_stage = []
    for stage in range(cut.stages):
        layouts = {tensor.spec.name: layout_of(tensor.slicing) for tensor in cut.tensors if stage in tensor.stages}
        of_stage.append(write_strategy({stage: layouts}))
    return {f"strategy/ckpt_strategy_rank_{rank}.ckpt": of_stage[rank // cut.devices] for rank in range(cut.ranks)}
