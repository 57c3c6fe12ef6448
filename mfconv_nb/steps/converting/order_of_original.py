"""Find the order of numbers in a trained checkpoint by comparing it with the weights its training began with: it still resembles them.

Some layouts of MindFormers differ in no name and no shape. Where the folder that gave the config holds weights too, the joined matrix of
one layer is read in each order, and the order is told in which its parts look like the original's. Read are at most 256 KiB a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mfconv_nb.core.checkpoint import HF, Checkpoint, LazyTensor
from mfconv_nb.core.dtypes import DTYPES
from mfconv_nb.core.errors import MfconvError
from mfconv_nb.core.sizes import Sizes
from mfconv_nb.mapping.plan import MappingPlan, Row, plan_mapping
from mfconv_nb.mapping.rules import AnyRule, Family, Option, OptionValue, form_of
from mfconv_nb.steps.converting.mapped_tensors import TensorMaker
from mfconv_nb.steps.loading.load import load
from mfconv_nb.streaming.gather import Gatherer

SAMPLE = 1 << 16  # numbers of a part, from its middle: the first rows are the same in several orders
LEAST_COSINE = 0.5  # between a trained weight and what it began as; of two orders the wrong one has 0.0, or 0.5 where half is in place
LEAST_LEAD = 0.1

Numbers = np.ndarray[Any, np.dtype[np.float32]]


def find_orders(
    family: Family, plan: MappingPlan, unseen: Sequence[Option], source: Checkpoint, sizes_of: Callable[[Family], Sizes | None]
) -> dict[str, OptionValue]:
    """The value of each option that the original's numbers tell; nothing without an original, or where it resembles no order.

    Args:
        plan: from MindFormers to Hugging Face, without a problem, whatever the options are.
        unseen: options that show in the numbers alone.
        sizes_of: the sizes of a form.
    """
    folder = source.history.config_folder
    if not unseen or folder is None or not any(folder.glob("*.safetensors")):
        return {}
    try:
        original = load(folder)
        told = ((o.name, _choose_value(family, plan, o, source, sizes_of, original)) for o in unseen)
        return {name: value for name, value in told if value is not None}
    except MfconvError:  # it is only asked for help: what is wrong with it is told where it is used
        return {}


def _choose_value(
    family: Family,
    plan: MappingPlan,
    option: Option,
    source: Checkpoint,
    sizes_of: Callable[[Family], Sizes | None],
    original: Checkpoint,
) -> OptionValue | None:
    forms = {value: form_of(family, {**plan.family.chosen, option.name: value}) for value in option.values}
    of_some = {value: [r for r in form.rules if any(r not in f.rules for f in forms.values())] for value, form in forms.items()}
    row = next(_comparable(plan, of_some[plan.family.chosen[option.name]], source, original), None)
    if row is None:
        return None
    cosines: dict[OptionValue, float] = {}
    for value, form in forms.items():
        small = plan_mapping(row.sources, form.with_rules(tuple(of_some[value])), HF, sizes=sizes_of(form))
        read = next((r for r in small.rows if r.sources == row.sources and r.targets == row.targets), None)
        if read is None:
            return None
        cosines[value] = _cosine(read, source, original)
    *_, second, best = sorted(cosines.values())
    if best < LEAST_COSINE or best - second < LEAST_LEAD:
        return None
    return max(cosines, key=lambda value: cosines[value])


def _comparable(plan: MappingPlan, rules: Sequence[AnyRule], source: Checkpoint, original: Checkpoint) -> Iterator[Row]:
    """Rows of a joined matrix whose numbers are there on both sides, as floating numbers."""
    for row in plan.rows:
        if row.rule not in rules or len(row.sources) != 1 or len(row.targets) < 2:
            continue
        there = [original.tensors.get(spec.name) for spec in row.targets]
        alike = all(t is not None and t.shape == s.shape and _has_numbers(t) for t, s in zip(there, row.targets, strict=True))
        if alike and _has_numbers(source.tensors[row.sources[0].name]):
            yield row


def _has_numbers(tensor: LazyTensor) -> bool:
    return bool(tensor.pieces) and DTYPES[tensor.dtype].floating


def _cosine(row: Row, source: Checkpoint, original: Checkpoint) -> float:
    """Between what a row makes of its source and the original, over a sample of all its parts."""
    maker = TensorMaker(source)
    made = np.concatenate([_sample(maker.target(row, number)) for number in range(len(row.targets))])
    began = np.concatenate([_sample(original.tensors[spec.name]) for spec in row.targets])
    finite = np.isfinite(made) & np.isfinite(began)
    a, b = made[finite].astype(np.float64), began[finite].astype(np.float64)
    lengths = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / lengths if lengths > 0 else 0.0


def _sample(tensor: LazyTensor) -> Numbers:
    count = min(tensor.spec.elements, SAMPLE)
    first = (tensor.spec.elements - count) // 2
    out = np.empty(count * 4, np.uint8)
    with np.errstate(all="ignore"):
        Gatherer().fill(tensor, "F32", first, first + count, out)
    return out.view(np.float32)
