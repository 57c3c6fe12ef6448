"""Folders as a MindFormers run leaves them (Checkpoint 1.0): `rank_N/` with slices, `strategy/` with MindSpore's own protobuf.

The slices are cut here with numpy, device dimension after device dimension, and the strategy files are written with mindspore's
protobuf classes: nothing of the package is used, so that what it reads is not what it wrote itself.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import write_safetensors

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Cut:
    """How one tensor is cut, in MindSpore's words.

    Attributes:
        devices: the device matrix of a stage.
        maps: for every axis the device dimension that cuts it, counted from the right; -1 for none; a tuple for several, coarsest first.
        shards: the optimizer cuts axis 0 again among this many equal slices.
        stages: the pipeline stages that have the tensor.
    """

    devices: tuple[int, ...]
    maps: tuple[int | tuple[int, ...], ...]
    shards: int = 1
    stages: tuple[int, ...] = (0,)

    @property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """For every axis the device dimensions that cut it, from the left."""
        each = (m if isinstance(m, tuple) else (m,) for m in self.maps)
        return tuple(tuple(len(self.devices) - 1 - k for k in dims if k >= 0) for dims in each)

    @property
    def group(self) -> list[int]:
        """The places in the stage that would hold the slice of the first device."""
        used = {d for cut in self.cuts for d in cut}
        devices = list(np.ndindex(*self.devices))
        return [n for n, device in enumerate(devices) if all(device[d] == 0 for d in used)]


def slices_of(array: Array, cut: Cut) -> list[Array]:
    """What each device of a stage holds."""
    held: list[Array] = []
    seen: dict[tuple[int, ...], int] = {}
    used = sorted({d for c in cut.cuts for d in c})
    for device in np.ndindex(*cut.devices):
        part = array
        for axis, dims in enumerate(cut.cuts):
            for d in dims:
                part = np.split(part, cut.devices[d], axis)[device[d]]
        key = tuple(device[d] for d in used)
        copy = seen[key] = seen.get(key, -1) + 1
        if cut.shards > 1:
            part = np.split(part, cut.shards, 0)[copy % cut.shards]
        held.append(np.ascontiguousarray(part).reshape(part.shape))
    return held


def make_rank_folders(
    folder: Path,
    tensors: Mapping[str, Array],
    cuts: Mapping[str, Cut],
    *,
    epoch: int = 1,
    step: int = 1,
    ranks: Iterable[int] | None = None,
    ending: str = "safetensors",
    strategy: str | None = "protobuf",
    redundant: bool = True,
    extra: Mapping[str, Array] | None = None,
    prefix: str = "llama",
    with_mindspore: bool = False,
    name: str = "{prefix}_rank_{rank}-{epoch}_{step}.{ending}",
) -> Path:
    """Write `folder/rank_N/NAME` for every rank and `folder/strategy/`; a second call adds another step. Gives ``folder``.

    Args:
        tensors: the whole tensors. Those without a cut go to every rank whole and into no strategy file.
        ranks: those that are written; all of them where left out.
        ending: "safetensors" or "ckpt"; the latter is always saved by mindspore.
        strategy: "protobuf", "json" (a file a rank), "merged" (one protobuf file) or None.
        redundant: False leaves every slice on one rank only and says so in the metadata, as `remove_redundancy=True` does.
        extra: further entries of every file: ``{"epoch_num": np.array(1, np.int32)}``.
    """
    stages = 1 + max((s for cut in cuts.values() for s in cut.stages), default=0)
    devices = max((math.prod(cut.devices) for cut in cuts.values()), default=1)
    held: dict[int, dict[str, Array]] = {rank: {} for rank in range(stages * devices)}
    for tensor, array in tensors.items():
        if tensor not in cuts:
            for rank in held:
                held[rank][tensor] = array
            continue
        cut = cuts[tensor]
        parts = slices_of(array, cut)
        for stage in cut.stages:
            had: set[bytes] = set()
            for place, part in enumerate(parts):
                if redundant or part.tobytes() not in had:
                    held[stage * devices + place][tensor] = part
                had.add(part.tobytes())
    for rank in sorted(held) if ranks is None else ranks:
        path = folder / f"rank_{rank}" / name.format(prefix=prefix, rank=rank, epoch=epoch, step=step, ending=ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(path, {**held[rank], **(extra or {})}, redundant, with_mindspore)
        (path.parent / "meta.json").write_text(json.dumps({"last_epoch": epoch, "last_step": step, "last_ckpt_file": path.name}))
    if strategy == "merged":
        write_strategy_file(folder / "strategy" / "merged_ckpt_strategy.ckpt", cuts, range(stages), merged=True)
    elif strategy is not None:
        for rank in held:
            path = folder / "strategy" / f"ckpt_strategy_rank_{rank}.{'json' if strategy == 'json' else 'ckpt'}"
            write_strategy_file(path, cuts, [rank // devices])
    return folder


def _save(path: Path, arrays: Mapping[str, Array], redundant: bool, with_mindspore: bool) -> None:
    if not with_mindspore and path.suffix == ".safetensors":
        write_safetensors(path, arrays, {"format": "ms"} | ({} if redundant else {"remove_redundancy": "True"}))
        return
    import mindspore as ms

    entries = [{"name": n, "data": ms.Tensor(a)} for n, a in arrays.items()]
    ms.save_checkpoint(entries, str(path), format=path.suffix[1:])


def write_strategy_file(path: Path, cuts: Mapping[str, Cut], stages: Sequence[int] | range, *, merged: bool = False) -> Path:
    """A strategy file of the tensors in ``stages``; merged: with names `STAGE-NAME`. The ending chooses protobuf or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    items = [(stage, n, c) for stage in stages for n, c in cuts.items() if stage in c.stages]
    if path.suffix == ".json":
        layouts = {f"{stage}-{n}" if merged else n: _as_json(cut) for stage, n, cut in items}
        nodes = {f"Default/op{stage}": {"stage": stage, "parallel_strategy": [[1]]} for stage in stages}
        path.write_text(json.dumps({"current_stage": stages[0], "parallel_strategy_item": nodes, "parallel_layout_item": layouts}))
        return path
    from mindspore.train import node_strategy_pb2

    whole = node_strategy_pb2.ParallelStrategyMap()
    whole.current_stage = 1 if merged else stages[0]
    for stage in stages:
        node = whole.parallel_strategy_item.add()
        node.node_name = f"Default/op{stage}"
        node.parallel_strategys.stage = stage
        node.parallel_strategys.parallel_strategy.add().dim.append(1)
    for stage, n, cut in items:
        item = whole.parallel_layout_item.add()
        item.param_name = f"{stage}-{n}" if merged else n
        _fill(item.parallel_layouts, cut)
    path.write_bytes(whole.SerializeToString())
    return path


def _optimizer(cut: Cut) -> tuple[int, int]:
    """Step and size of the optimizer's shards, as MindSpore writes them."""
    return (cut.group[1] - cut.group[0], cut.shards) if cut.shards > 1 else (0, 0)


def _as_json(cut: Cut) -> dict[str, Any]:
    step, size = _optimizer(cut)
    return {
        "dev_matrix": list(cut.devices),
        "tensor_map": [list(m) if isinstance(m, tuple) else m for m in cut.maps],
        "param_split_shape": [],
        "indices_offset": [],
        "field": 0,
        "opt_weight_shard_step": step,
        "opt_weight_shard_size": size,
    }


def _fill(layouts: Any, cut: Cut) -> None:
    layouts.dev_matrix.add().dim.extend(cut.devices)
    if any(isinstance(m, tuple) for m in cut.maps):
        for m in cut.maps:  # one map an axis
            layouts.tensor_map.add().dim.extend(m if isinstance(m, tuple) else (m,))
    else:
        layouts.tensor_map.add().dim.extend(cut.maps)
    layouts.param_split_shape.add()
    layouts.indices_offset.add()
    layouts.field = 0
    layouts.opt_weight_shard_step, layouts.opt_weight_shard_size = _optimizer(cut)


def numbered_tensors(shapes: Mapping[str, tuple[int, ...]], *, first: int = 0) -> dict[str, Array]:
    """Tensors of float32 whose elements are all different, across tensors too."""
    counter = itertools.accumulate([first, *(math.prod(s) for s in shapes.values())])
    return {n: np.arange(at, at + math.prod(s), dtype=np.float32).reshape(s) for (n, s), at in zip(shapes.items(), counter, strict=False)}
