"""Merging LoRA adapters into the weights they were trained for: a declared change of values, lazily and in bounded memory.

    merged = w + alpha / rank * B A

alpha is read (from the run's YAML, an `adapter_config.json`, a manifest) or given, never assumed; the rank is that of the tensors.
Refuses: adapters without their weight or without one half, shapes that do not fit, two alphas or two ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.checkpoint import HF, MF, Checkpoint, LazyTensor
from mfconv_nb.collector import makes_many_objects
from mfconv_nb.dtypes import CASTABLE
from mfconv_nb.errors import MappingError, nearest, quoted
from mfconv_nb.folding import fold, folded_name
from mfconv_nb.low_rank import ROUNDING
from mfconv_nb.mapping.adapters import HINT_ALPHA, Adapter, adapters_of, half_of, is_adapter, rank_of
from mfconv_nb.mapping.rules import Family
from mfconv_nb.report import Column, Result, Table, how_many, how_many_in_short, shape_text
from mfconv_nb.run_config import Lora, checked_alpha
from mfconv_nb.steps.load import Loadable, load
from mfconv_nb.steps.map import map
from mfconv_nb.steps.output import CONV1D
from mfconv_nb.streaming.merged import merged_tensor

HINT_BASE = "Give the weights that the adapters were trained on; where they are of the other side, --model (family=) says how names map."


@dataclass(frozen=True, repr=False)
class MergeReport(Result):
    """Which tensors were changed, with which scale, and where it was read."""

    adapters: tuple[Adapter, ...]
    alpha: float
    rank: int
    read_from: str
    origin: str

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def sentence(self) -> str:
        """One line for notes and reports."""
        said = f"alpha {self.alpha:g} from {self.read_from}, rank {self.rank} from the tensors"
        weights = how_many(len(self.adapters), "weight")
        return f"merged: {weights} changed by {self.scale:g} * B A ({said}); computed {ROUNDING}"

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        said = {"lora_alpha": self.alpha, "rank": self.rank, "scale": self.scale, "read_from": self.read_from}
        return {**said, "rounding": ROUNDING, "weights": [adapter.module + ".weight" for adapter in self.adapters]}

    def table(self) -> Table:
        groups: dict[tuple[str, tuple[int, int]], list[str]] = {}
        for adapter in self.adapters:
            name = adapter.module + ".weight"
            groups.setdefault((fold(name)[0], adapter.shape), []).append(name)
        rows = [(folded_name(names), len(names), shape_text(shape), f"{self.scale:g}") for (_, shape), names in groups.items()]
        columns = (Column("weight"), Column("weights", True), Column("out x in", True), Column("scale", True))
        changed = sum(a.shape[0] * a.shape[1] for a in self.adapters)
        headline = f"{how_many(len(self.adapters), 'weight')} changed, {how_many_in_short(changed, 'number')} · {self.origin}"
        return Table("", headline, columns, rows, (self.sentence(),), row_noun="weights")


@makes_many_objects
def merge_adapters(
    base: Loadable,
    adapters: Loadable | None = None,
    *,
    alpha: float | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | Path | Family | None = None,
) -> Checkpoint:
    """The base with adapters added to its weights. Lazy: the sum is computed while a save, a diff or a read goes through it.

    Args:
        base: the weights; with the adapters among them, where ``adapters`` is left out.
        adapters: a PEFT folder, or what a LoRA run of MindFormers saved. Of the other side than the base: they are mapped to its side.
        alpha: where nothing beside the adapters says it. The scale is alpha / rank.
        config: the YAML of the run, an adapter_config.json, or the model's config.
        family: as for ``map``; for adapters of the other side.
    Returns:
        A checkpoint whose ``merged`` says which tensors were changed, by which scale, and where that was read.
    Raises:
        MappingError: MFC319, and those of ``map``.
    """
    weights = load(base, config=None if adapters is not None else config, lora_alpha=None if adapters is not None else alpha)
    trained = weights if adapters is None else only_adapters(load(adapters, config=config, lora_alpha=alpha))
    adapters_of(trained.specs)  # refuses halves under the names that the caller knows
    if adapters is not None and weights.side in (HF, MF) and _is_of_the_other_side(trained, weights):
        told = family or trained.family or weights.family or None
        trained = map(replace(trained, config=trained.config or weights.config), told, to=weights.side)
    found = adapters_of(trained.specs)
    if not found:
        raise MappingError(
            "MFC319", trained.origin, found="no adapters", expected="tensors such as ….lora_A.weight, ….mindpet_delta_lora_a"
        )
    rank = rank_of(found, trained.lora)
    lora = trained.lora or Lora()
    if lora.alpha is None:
        raise MappingError("MFC319", trained.origin, found="no lora_alpha", expected="the alpha of the run", hint=HINT_ALPHA)
    report = MergeReport(found, checked_alpha(lora.alpha, lora.origin), rank, lora.origin, trained.origin)
    merged = {a.module + ".weight": _merged(weights, trained, a, report.scale, lora) for a in found}
    kept = {name: merged.get(name, tensor) for name, tensor in weights.tensors.items() if not is_adapter(name)}
    more = tuple(f for f in trained.files if f not in weights.files)
    return replace(
        weights,
        tensors=kept,
        origin=f"{weights.origin} with {how_many(len(found), 'adapter')} merged",
        files=weights.files + more,
        notes=(*weights.notes, report.sentence()),
        lora=None,
        merged=report,
    )


def _is_of_the_other_side(trained: Checkpoint, weights: Checkpoint) -> bool:
    """Told by the side; where nothing tells it, by the names."""
    if trained.side is not None:
        return trained.side != weights.side
    return not any(half.weight in weights for name in trained.tensors if (half := half_of(name)) is not None)


def only_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The adapters of a checkpoint, without its other tensors: what a PEFT folder holds.

    Raises:
        MappingError: MFC319 where it has none.
    """
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if is_adapter(name)}
    if not tensors:
        raise MappingError("MFC319", checkpoint.origin, found="no adapters", expected="tensors such as ….lora_A.weight")
    return replace(checkpoint, tensors=tensors)


def _merged(weights: Checkpoint, trained: Checkpoint, adapter: Adapter, scale: float, lora: Lora) -> LazyTensor:
    name = adapter.module + ".weight"
    if name not in weights:
        best = nearest(name, weights.tensors)
        found = f"no such tensor in {weights.origin}" + (f"; nearest {quoted(best)}" if best else "")
        raise MappingError("MFC319", quoted(name), found=found, expected="the weight that the adapter was trained for", hint=HINT_BASE)
    weight = weights.tensors[name]
    transposed = (weights.config or {}).get("model_type") in CONV1D or bool(lora.content.get("fan_in_fan_out"))
    transposed = transposed and weights.side == HF
    expected = adapter.shape[::-1] if transposed else adapter.shape
    if weight.shape != expected or weight.dtype not in CASTABLE:
        found = f"{list(weight.shape)} {weight.dtype}"
        raise MappingError("MFC319", quoted(name), found=found, expected=f"{list(expected)}, floating, as the adapter is", hint=HINT_BASE)
    a, b = (trained.tensors[spec.name] for spec in (adapter.a, adapter.b))
    return merged_tensor(weight, a, b, scale, transposed=transposed)
