"""Checkpoint 2.0 folders as MindFormers writes them: its own `save_checkpoint`, once for every rank of a run of eight, on CPU.

Real are the metadata, the names, the layouts (``mindspore.Layout``) and the files (``mindspore.save_checkpoint``). Made up are the rank
of the process and the network: every rank gets a Cell that holds what it would hold, cut by numpy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.mindformers_package import mindformers_modules

STAGES, DP, TP = 2, 2, 2
RANKS = STAGES * DP * TP
Axis = str | tuple[str, ...] | None

# Of one layer: how each weight is cut. Along both axes in either order, by two dimensions at once (optimizer parallel), not at all.
LAYER: dict[str, tuple[tuple[int, ...], tuple[Axis, ...], str]] = {
    "wq.weight": ((8, 12), ("tp", None), "float16"),
    "wo.weight": ((12, 8), (None, "tp"), "float16"),
    "w1.weight": ((16, 6), (("dp", "tp"), None), "float16"),
    "w2.weight": ((8, 10), ("tp", "dp"), "float32"),
    "w3.weight": ((8, 10), ("dp", "tp"), "float32"),
    "wq.bias": ((8,), ("tp",), "float32"),
    "norm.weight": ((12,), (None,), "float32"),
    "router": ((4, 6, 8), ("tp", None, "dp"), "float32"),
}
CUTS: dict[str, tuple[tuple[int, ...], tuple[Axis, ...], str]] = {
    "embedding.weight": ((16, 12), ("tp", None), "float16"),
    **{f"layers.{n}.{name}": cut for n in range(STAGES) for name, cut in LAYER.items()},
    'it\'s, a ("name")': ((4, 4), (None, "tp"), "float32"),
}
PLAIN: dict[str, tuple[tuple[int, ...], str]] = {"global_step": ((1,), "int32"), "scale_sense": ((), "float32")}
OPTIMIZER = ("adam_m.", "adam_v.")


def stages_of(name: str) -> tuple[int, ...]:
    """The embedding is in both stages, a layer in its own."""
    return (int(name.split("layers.")[1][0]),) if "layers." in name else (0, 1) if name.endswith("embedding.weight") else (1,)


def originals() -> dict[str, np.ndarray]:
    """Every whole tensor, by name: weights, optimizer state, counters."""
    random = np.random.default_rng(5)
    arrays = {name: random.standard_normal(shape).astype(dtype) for name, (shape, _, dtype) in CUTS.items()}
    arrays |= {p + name: random.standard_normal(shape).astype("float32") for p in OPTIMIZER for name, (shape, _, _) in CUTS.items()}
    return arrays | {name: np.full(shape, 7, dtype) for name, (shape, dtype) in PLAIN.items()}


def base_name(name: str) -> str:
    return next((name[len(p) :] for p in (*OPTIMIZER, "accu_grads.") if name.startswith(p)), name)


def held_by(rank: int, name: str, array: np.ndarray) -> np.ndarray | None:
    """What a rank has of a tensor, cut by numpy; None where its stage has nothing of it."""
    if name in PLAIN:
        return array
    stage, device = divmod(rank, DP * TP)
    place = {"dp": (device // TP, DP), "tp": (device % TP, TP)}
    if stage not in stages_of(base_name(name)):
        return None
    for axis, cut in enumerate(CUTS[base_name(name)][1]):
        for dimension in (cut,) if isinstance(cut, str) else cut or ():
            index, parts = place[dimension]
            array = np.split(array, parts, axis)[index]
    return np.ascontiguousarray(array)


class Rank:
    """The rank that the process pretends to be."""

    now = 0
    size = RANKS


@contextmanager
def mindformers_checkpoint(*more: str) -> Iterator[list[ModuleType]]:
    """`mindformers.checkpoint.checkpoint`, `.metadata`, `.sharded_tensor` and more; ranks are those of ``Rank``."""
    log = logging.getLogger("quiet")
    log.disabled = True
    nothing = lambda *_, **__: None  # noqa: E731
    stand_ins: dict[str, dict[str, Any]] = {
        "mindformers.tools": {"get_output_root_path": lambda: "."},
        "mindformers.tools.logger": {"logger": log},
        "mindformers.tools.utils": {
            "get_real_rank": lambda: Rank.now,
            "get_real_group_size": lambda: Rank.size,
            "set_safe_mode_for_file_or_dir": nothing,
            "get_output_subpath": nothing,
        },
        "mindformers.core.context.build_context": {"get_context": nothing},
        "mindformers.utils.file_utils": {"is_publicly_accessible_path": lambda _: True},
        "mindformers.utils.parallel_utils": {"barrier_world": nothing},
        "mindformers.pynative.pet.utils": {"is_lora_param_name": lambda _: False},
    }
    names = [f"mindformers.checkpoint.{n}" for n in ("checkpoint", "metadata", "sharded_tensor", *more)]
    with mindformers_modules(*names, stand_ins=stand_ins) as modules:
        checkpoint, metadata, *_ = modules
        metadata.get_group_size = lambda: Rank.size  # type: ignore[attr-defined]
        # PyNative as far as names go (each rank knows its own stage); its parameters here are no DTensor
        adapter = checkpoint.LayoutAdapter
        adapter.is_pynative_mode = staticmethod(lambda: Rank.size > 1)
        adapter.preprocess_params = staticmethod(
            lambda net: [p for n in (net if isinstance(net, list) else [net]) for p in n.get_parameters()]
        )
        yield modules


def _parameters(cells: Any) -> list[Any]:
    return [p for cell in (cells if isinstance(cells, list) else [cells]) for p in cell.get_parameters()]


def write_iteration(
    folder: Path,
    step: int,
    arrays: dict[str, np.ndarray],
    *,
    prefix: str | None = None,
    optimizer: bool = True,
    never_saved: tuple[str, ...] = (),
    remove_redundancy: bool = False,
) -> Path:
    """`iteration_N` under ``folder``, written by MindFormers' `save_checkpoint` for eight ranks; with the tracker file.

    Args:
        optimizer: whether its state is saved; the metadata list it either way, as those of MindFormers up to July 2026.
        never_saved: prefixes of entries that the metadata list and no file holds.
        remove_redundancy: every slice is written by one rank only; files are then numbered in another way than ranks.
    """
    with mindformers_checkpoint("fully_parallel", "utils") as (checkpoint, _, sharded, balanced, utils):
        metas = sharded._build_all_sharded_tensor_from_layout_index(*_layout_index(arrays, never_saved))
        _scatter_in_one_process(balanced, utils, metas)
        models = [n for n in arrays if n in CUTS]
        for Rank.now in range(RANKS):
            held = {n: a for n in arrays if (a := held_by(Rank.now, n, arrays[n])) is not None}
            checkpoint.save_checkpoint(
                step,
                cell_of({n: a for n, a in held.items() if n in CUTS}),
                cell_of({n: a for n, a in held.items() if n not in CUTS}) if optimizer else None,
                common_info=checkpoint.CommonInfo(epoch_num=1, step_num=step, global_step=step, loss_scale=1.0, ckpt_status=0),
                user_prefix=prefix,
                save_checkpoint_path=str(folder),
                sharded_tensor_metas=metas if Rank.now == 0 else None,
                global_model_keys=set(models) if Rank.now == 0 else None,
                remove_redundancy=remove_redundancy,
            )
    Rank.now = 0
    return folder / f"iteration_{step:08d}"


def _scatter_in_one_process(balanced: ModuleType, utils: ModuleType, metas: dict[int, dict[str, Any]]) -> None:
    """Rank 0 runs first and leaves what it scatters; each later rank takes its part, in the order of the calls."""
    sent: list[list[Any]] = []
    taken = dict.fromkeys(range(RANKS), 0)

    def scatter(received: list[Any], payloads: list[Any] | None, src: int) -> None:
        if Rank.now == src:
            assert payloads is not None
            sent.append(payloads)
        received[0] = sent[taken[Rank.now]][Rank.now]
        taken[Rank.now] += 1

    def local_map(_: Any, keep: Any = None) -> dict[str, Any]:
        own = (t for n, t in metas[Rank.now].items() if keep is None or keep(n))
        return {utils.sharded_tensor_shard_id(t.key, t.global_offset): t for t in own}

    balanced.scatter_object_list = scatter  # type: ignore[attr-defined]
    balanced._build_local_shard_map = local_map  # type: ignore[attr-defined]


def write_single_card(folder: Path, step: int, arrays: dict[str, np.ndarray], prefix: str | None = None) -> Path:
    """What a run on one card leaves: whole tensors and no `metadata.json`."""
    Rank.now, Rank.size = 0, 1
    try:
        with mindformers_checkpoint() as (checkpoint, *_):
            checkpoint.save_checkpoint(
                step,
                cell_of({n: a for n, a in arrays.items() if n in CUTS}),
                cell_of({n: a for n, a in arrays.items() if n not in CUTS}),
                common_info=checkpoint.CommonInfo(global_step=step),
                user_prefix=prefix,
                save_checkpoint_path=str(folder),
            )
    finally:
        Rank.size = RANKS
    return folder / f"iteration_{step:08d}"


def _layout_index(arrays: dict[str, np.ndarray], never_saved: tuple[str, ...]) -> tuple[dict[str, list[Any]], dict[int, list[str]]]:
    """Per parameter its layout, dtype and whole shape, and the names that each rank has: what MindFormers gathers on rank 0."""
    import mindspore as ms

    whole = arrays | {p + n: arrays[n] for p in never_saved for n in CUTS if n in arrays}
    layouts: dict[str, list[Any]] = {}
    names: dict[int, list[str]] = {rank: [] for rank in range(RANKS)}
    for name, array in whole.items():
        dtype = getattr(ms, str(array.dtype))
        if name in PLAIN:
            layouts[name] = [None, dtype, array.shape]
        else:
            first = stages_of(base_name(name))[0] * DP * TP
            layout = ms.Layout((DP, TP), ("dp", "tp"), list(range(first, first + DP * TP)))
            axes = [cut or "None" for cut in CUTS[base_name(name)][1]]
            layouts[name] = [layout(*axes), dtype, array.shape]
        for rank in range(RANKS):
            if held_by(rank, name, array) is not None:
                names[rank].append(name)
    return layouts, names


def cell_of(arrays: dict[str, np.ndarray]) -> Any:
    """A Cell with these parameters, under these names."""
    import mindspore as ms

    class Holder(ms.nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            for n, (name, array) in enumerate(arrays.items()):
                setattr(self, f"p{n}", ms.Parameter(ms.Tensor(array), name=name))

    holder = Holder()
    for parameter, name in zip(holder.get_parameters(), arrays, strict=True):
        parameter.name = name
    return holder
