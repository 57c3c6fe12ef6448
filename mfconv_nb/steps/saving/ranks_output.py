"""A checkpoint cut for the ranks of a training run: which file holds which slices, and the files that say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mfconv_nb.core.checkpoint import MF, Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.errors import OutputError
from mfconv_nb.core.file_plan import OutputPlan
from mfconv_nb.core.paths import local_path
from mfconv_nb.formats.checkpoint_metadata import METADATA, Chunk, DeviceLayout, Parameter, StoredIn, metadata_bytes
from mfconv_nb.formats.known import format_with_ending
from mfconv_nb.formats.strategy_file import write_strategy
from mfconv_nb.formats.writing import plan_file
from mfconv_nb.runs.cutting import CutTensor, Cutting, as_plain_cuts, cut_tensors
from mfconv_nb.runs.rank_layout import CHECKPOINT_2, RankLayout, read_rank_layout
from mfconv_nb.runs.slices import Box
from mfconv_nb.runs.strategies import layout_of
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker
from mfconv_nb.steps.saving.output import Output, configs_of_run_adapters, output_specs

COMMON, TRACKER = "common.json", "latest_checkpointed_iteration.txt"


@dataclass
class _RankFile:
    """The file of one rank: its slices by name."""

    name: str
    boxes: dict[str, Box] = field(default_factory=dict)


def ranks_output(checkpoint: Checkpoint, target: Path, dtype: str | None, layout: RankLayout | str | Path) -> Output:
    """The output of a save that cuts every tensor for the ranks of ``layout``, which a JSON file may hold.

    Raises:
        OutputError: MFC407 for a target with the ending of a file. UsageError, MappingError: as ``cut_tensors``.
    """
    if format_with_ending(target.suffix) is not None:
        found, hint = f"ending '{target.suffix}'", f"Give a folder instead: {target.with_suffix('')}"
        raise OutputError("MFC407", target, found=found, expected="a folder, for the files of the ranks", hint=hint)
    layout = layout if isinstance(layout, RankLayout) else read_rank_layout(local_path(layout))
    specs = output_specs(checkpoint, dtype)
    cut = cut_tensors(specs, layout)
    files = _files(cut, layout)
    dtypes = {s.name: s.dtype for s in specs}
    maker, made = TensorMaker(checkpoint), dict[tuple[str, Box], LazyTensor]()
    held = [{name: _slice(maker, made, checkpoint[name].spec, box) for name, box in file.boxes.items()} for file in files.values()]
    plans = [
        plan_file(file.name, [TensorSpec(n, t.shape, dtypes[n]) for n, t in tensors.items()], MF)
        for file, tensors in zip(files.values(), held, strict=True)
    ]
    if layout.form == CHECKPOINT_2:
        of_adapters = configs_of_run_adapters(checkpoint, specs, layout.step, ("", f"{_iteration(layout)}/"))
        small = {**_metadata(cut, layout, files), **of_adapters}
    else:
        small = {**_strategies(cut), **configs_of_run_adapters(checkpoint, specs)}
    offsets = tuple({name: box.offset for name, box in file.boxes.items()} for file in files.values())
    return Output(checkpoint, dtypes, OutputPlan(tuple(plans), folder=True, indexes=small), tuple(held), offsets)


def _files(cut: Cutting, layout: RankLayout) -> dict[int, _RankFile]:
    """Every rank's file. In a Checkpoint 2.0 a slice that several ranks have is written once, by the first of them."""
    files = {rank: _RankFile(_file_name(layout, rank, cut.ranks)) for rank in range(cut.ranks)}
    for tensor in cut.tensors:
        seen: set[Box] = set()
        for rank, box in cut.boxes(tensor).items():
            if layout.form != CHECKPOINT_2 or box not in seen:
                files[rank].boxes[tensor.spec.name] = box
                seen.add(box)
    return files


def _file_name(layout: RankLayout, rank: int, ranks: int) -> str:
    if layout.form == CHECKPOINT_2:
        return f"{_iteration(layout)}/model-{rank:07}-{ranks:07}.safetensors"
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


def _metadata(cut: Cutting, layout: RankLayout, files: Mapping[int, _RankFile]) -> dict[str, bytes]:
    parameters = [_parameter(tensor, cut, files) for tensor in cut.tensors]
    folder = _iteration(layout)
    common = {"epoch_num": layout.epoch, "step_num": layout.step, "global_step": layout.step}
    return {
        f"{folder}/{COMMON}": (json.dumps(common) + "\n").encode(),
        f"{folder}/{METADATA}": metadata_bytes(parameters),
        TRACKER: str(layout.step).encode(),
    }


def _parameter(tensor: CutTensor, cut: Cutting, files: Mapping[int, _RankFile]) -> Parameter:
    boxes = cut.boxes(tensor)
    groups: dict[Box, list[int]] = {}
    for rank, box in boxes.items():
        groups.setdefault(box, []).append(rank)
    chunks = tuple(
        Chunk(box.offset, box.shape, (StoredIn(Path(files[ranks[0]].name).name, ranks[0], tuple(ranks)),)) for box, ranks in groups.items()
    )
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
