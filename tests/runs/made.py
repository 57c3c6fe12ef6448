"""Folders as a MindFormers run leaves them (Checkpoint 1.0): `rank_N/` with slices, `strategy/` with how they were cut.

Numpy cuts the slices here, device dimension after device dimension, and a small writer of protobuf makes the strategy files: the package
must not read what it wrote itself. `test_strategy_file.py` proves that the writer makes the same bytes as MindSpore's own classes.
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
        with_mindspore: mindspore writes the weights and the strategy files.
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
        merged = folder / "strategy" / "merged_ckpt_strategy.ckpt"
        write_strategy_file(merged, cuts, range(stages), merged=True, with_mindspore=with_mindspore)
    elif strategy is not None:
        for rank in held:
            path = folder / "strategy" / f"ckpt_strategy_rank_{rank}.{'json' if strategy == 'json' else 'ckpt'}"
            write_strategy_file(path, cuts, [rank // devices], with_mindspore=with_mindspore)
    return folder


def _save(path: Path, arrays: Mapping[str, Array], redundant: bool, with_mindspore: bool) -> None:
    if not with_mindspore and path.suffix == ".safetensors":
        write_safetensors(path, arrays, {"format": "ms"} | ({} if redundant else {"remove_redundancy": "True"}))
        return
    import mindspore as ms

    entries = [{"name": n, "data": ms.Tensor(a)} for n, a in arrays.items()]
    ms.save_checkpoint(entries, str(path), format=path.suffix[1:])


def write_strategy_file(
    path: Path, cuts: Mapping[str, Cut], stages: Sequence[int] | range, *, merged: bool = False, with_mindspore: bool = False
) -> Path:
    """A strategy file of the tensors in ``stages``; merged: with names `STAGE-NAME`. The ending chooses protobuf or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layouts = {f"{stage}-{n}" if merged else n: c for stage in stages for n, c in cuts.items() if stage in c.stages}
    if path.suffix == ".json":
        nodes = {f"Default/op{stage}": {"stage": stage, "parallel_strategy": [[1]]} for stage in stages}
        items = {n: _as_json(cut) for n, cut in layouts.items()}
        path.write_text(json.dumps({"current_stage": stages[0], "parallel_strategy_item": nodes, "parallel_layout_item": items}))
        return path
    write = strategy_by_mindspore if with_mindspore else strategy_bytes
    path.write_bytes(write(layouts, stages, current=1 if merged else stages[0]))
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


# ---- strategies in protobuf ----------------------------------------------------------------------------------------------------


def strategy_bytes(layouts: Mapping[str, Cut], stages: Sequence[int] | range, current: int) -> bytes:
    """What MindSpore's classes write (``strategy_by_mindspore``), without mindspore."""
    nodes = [_field(1, f"Default/op{s}".encode()) + _field(2, _field(1, s) + _field(2, _field(1, 1))) for s in stages]
    items = [_field(1, n.encode()) + _field(2, _layout(cut)) for n, cut in layouts.items()]
    return _field(1, current) + b"".join([_field(2, node) for node in nodes] + [_field(3, item) for item in items])


def _layout(cut: Cut) -> bytes:
    """``{1 dev_matrix, 2 tensor_map, 3 param_split_shape, 4 indices_offset, 5 field, 6 shard step, 7 shard size}``."""
    maps = b"".join(_field(2, _dims(m)) for m in _maps(cut))
    numbers = b"".join(_field(5 + n, value) for n, value in enumerate((0, *_optimizer(cut))))
    return _field(1, _dims(cut.devices)) + maps + _field(3, b"") + _field(4, b"") + numbers


def _maps(cut: Cut) -> list[tuple[int, ...]]:
    """One map; of a tensor that has an axis cut by several dimensions, one map an axis."""
    if any(isinstance(m, tuple) for m in cut.maps):
        return [m if isinstance(m, tuple) else (m,) for m in cut.maps]
    return [tuple(m for m in cut.maps if isinstance(m, int))]


def _dims(numbers: Iterable[int]) -> bytes:
    return b"".join(_field(1, n) for n in numbers)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number in 64 bits of two's complement."""
    value &= (1 << 64) - 1
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def strategy_by_mindspore(layouts: Mapping[str, Cut], stages: Sequence[int] | range, current: int) -> bytes:
    """A strategy, written by MindSpore's own protobuf classes."""
    from mindspore.train import node_strategy_pb2

    whole = node_strategy_pb2.ParallelStrategyMap()
    whole.current_stage = current
    for stage in stages:
        node = whole.parallel_strategy_item.add()
        node.node_name = f"Default/op{stage}"
        node.parallel_strategys.stage = stage
        node.parallel_strategys.parallel_strategy.add().dim.append(1)
    for name, cut in layouts.items():
        item = whole.parallel_layout_item.add()
        item.param_name = name
        of_item = item.parallel_layouts
        of_item.dev_matrix.add().dim.extend(cut.devices)
        for m in _maps(cut):
            of_item.tensor_map.add().dim.extend(m)
        of_item.param_split_shape.add()
        of_item.indices_offset.add()
        of_item.field = 0
        of_item.opt_weight_shard_step, of_item.opt_weight_shard_size = _optimizer(cut)
    return bytes(whole.SerializeToString())


def numbered_tensors(shapes: Mapping[str, tuple[int, ...]], *, first: int = 0) -> dict[str, Array]:
    """Tensors of float32 whose elements are all different, across tensors too."""
    counter = itertools.accumulate([first, *(math.prod(s) for s in shapes.values())])
    return {n: np.arange(at, at + math.prod(s), dtype=np.float32).reshape(s) for (n, s), at in zip(shapes.items(), counter, strict=False)}
