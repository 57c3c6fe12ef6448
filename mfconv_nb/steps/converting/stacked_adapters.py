"""Whether adapters of layers that are joined on the MindFormers side have to be stacked there: their numbers tell.

MindFormers has one A for q, k and v. Where PEFT's are equal (they came from there, and were not trained since), one of them is enough;
else, and where a layer has no adapter, they are stacked (see ``mapping/adapters.py``). Of different A the first numbers are read, of equal
ones all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor
from mfconv_nb.core.dtypes import itemsize
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.core.run_yaml import Lora
from mfconv_nb.formats.peft_folder import HINT_MERGE
from mfconv_nb.mapping.adapters import Stacking, half_of, joined_layers
from mfconv_nb.mapping.names import parse_pattern
from mfconv_nb.mapping.plan import MappingPlan
from mfconv_nb.mapping.rules import Family
from mfconv_nb.streaming.gather import Bytes, Gatherer

SAMPLE = 1 << 10  # numbers: trained adapters differ in the first

Layer = tuple[str, tuple[int, ...]]  # the template of a name, and its numbers


def find_stacking(source: Checkpoint, form: Family, to: str, names: Iterable[str], equal: dict[tuple[str, ...], bool]) -> Stacking | None:
    """How the adapters are stacked on the MindFormers side; None where there are none, or all are as they are.

    Args:
        names: those of the source that are mapped.
        equal: what was found out before, by the names of the tensors; filled here.
    Raises:
        MappingError: MFC319 where adapters that go to MindFormers have several ranks.
    """
    if to == HF:
        return _remembered_stacking(source)
    halves = {half: source.tensors[n] for n in names if "lora_" in n and (half := half_of(n)) is not None}
    found = {
        fold(half.weight): tensor for half, tensor in halves.items() if (half.style, half.half, half.embedding) == ("peft", "a", False)
    }
    ranks = {tensor.shape[0]: tensor.name for tensor in found.values() if len(tensor.shape) == 2 and tensor.shape[0]}
    if len(ranks) > 1:
        said = ", ".join(f"{rank} ({quote(name)})" for rank, name in sorted(ranks.items())[:3])
        raise MappingError("MFC319", "rank", found=said, expected="one rank: MindFormers has one lora_rank for all layers", hint=HINT_MERGE)
    most, is_stacked = 1, False
    for layers in joined_layers(form):
        templates = [parse_pattern(name).template for name in layers]
        together = _groups(found, templates)
        most = max(most, len({template for group in together for template, _ in group}))
        is_stacked |= any(len(group) < len(layers) or not _are_equal([found[layer] for layer in group], equal) for group in together)
    return Stacking(next(iter(ranks)), most * next(iter(ranks)), frozenset(source.tensors)) if is_stacked and ranks else None


def _remembered_stacking(source: Checkpoint) -> Stacking | None:
    lora, original = source.history.lora, source.history.original
    if lora is None or lora.part_rank is None or lora.rank is None or original is None or original.side != HF:
        return None
    if lora.rank % lora.part_rank:  # no manifest of ours says so
        return None
    return Stacking(lora.part_rank, lora.rank, original.names)


def _groups(found: Iterable[Layer], templates: Sequence[str]) -> list[list[Layer]]:
    """The layers of these templates that belong together, in the order of the templates."""
    by_numbers: dict[tuple[int, ...], list[Layer]] = {}
    for layer in found:
        if layer[0] in templates:
            by_numbers.setdefault(layer[1], []).append(layer)
    return [sorted(group, key=lambda layer: templates.index(layer[0])) for group in by_numbers.values()]


def _are_equal(halves: Sequence[LazyTensor], known: dict[tuple[str, ...], bool]) -> bool:
    names = tuple(tensor.name for tensor in halves)
    if names not in known:
        known[names] = all(_is_equal(halves[0], other) for other in halves[1:])
    return known[names]


def _is_equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors hold the same bytes; one without numbers, only planned, counts as equal where the shapes are."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if not one.pieces or not other.pieces:
        return True
    elements = one.spec.elements
    return all(np.array_equal(_read(one, count), _read(other, count)) for count in dict.fromkeys((min(SAMPLE, elements), elements)))


def _read(tensor: LazyTensor, count: int) -> Bytes:
    """The bytes of the first numbers of a tensor."""
    out = np.empty(count * itemsize(tensor.dtype), np.uint8)
    Gatherer().fill(tensor, tensor.dtype, 0, count, out)
    return out


# ---- what is said of them -------------------------------------------------------------------------------------------------------


def note_on_stacking(source: Checkpoint, plan: MappingPlan) -> list[str]:
    """A sentence on rank and alpha, on the way to MindFormers."""
    lora = source.history.lora or Lora()
    return [plan.stacking.sentence(lora.alpha)] if plan.stacking is not None and plan.to == MF else []


def lora_after(lora: Lora | None, plan: MappingPlan) -> Lora | None:
    """What is known of the adapters after a mapping: with stacked ones, rank and alpha are others."""
    stacking = plan.stacking
    if stacking is None:
        return lora if lora is None or lora.part_rank is None else replace(lora, part_rank=None)
    lora, mark = lora or Lora(), f", times {stacking.factor}" if stacking.factor > 1 else ""
    if plan.to == HF:
        alpha = None if lora.alpha is None else lora.alpha / stacking.factor
        return replace(lora, alpha=alpha, rank=stacking.part, part_rank=None, origin=lora.origin.removesuffix(mark))
    alpha, origin = (None, "") if lora.alpha is None else (lora.alpha * stacking.factor, lora.origin + mark)
    return replace(lora, alpha=alpha, rank=stacking.whole, part_rank=stacking.part, origin=origin)
