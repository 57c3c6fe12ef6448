"""What converting back would give, told before anything is written: the way back is planned, on the names and shapes that are written.

No weight is read. A promise is made only where the plan is complete: every name and shape that was there comes back.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from mfconv_nb.core.checkpoint import HF, SIDE_NAMES, Checkpoint, LazyTensor
from mfconv_nb.core.dtypes import CASTABLE, short_name
from mfconv_nb.core.errors import MfconvError, to_one_line
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.plan import LEFT_OUT
from mfconv_nb.steps.converting.map import plan_back
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint
from mfconv_nb.steps.saving.output import Output, stored_dtype
from mfconv_nb.streaming.dequantised import is_dequantised

EXACT = frozenset({("F16", "F32"), ("BF16", "F32"), ("F16", "F64"), ("BF16", "F64"), ("F32", "F64")})


def way_back_of(out: Output, numbers: Checkpoint | None = None) -> str:
    """What converting back would give: "exact", or what it would lack and what a cast has cost.

    Args:
        numbers: where codes and scales are written, the checkpoint of the numbers that they stand for.
    """
    if numbers is not None:
        out = replace(out, checkpoint=numbers, dtypes={t.name: t.dtype for t in numbers})
    computed = _computed_text(out.checkpoint, has_codes=numbers is not None)
    lost = [text for text in (computed, *_rounding_texts(out), out.back or _losses_text(out)) if text]
    return "; ".join(lost) or _dtype_text(out)


def _computed_text(checkpoint: Checkpoint, *, has_codes: bool) -> str:
    if cut := checkpoint.history.cut:
        return f"the rows that were cut off {how_many(len(cut), 'tensor')} would not come back"
    if checkpoint.history.merged is not None:
        return checkpoint.history.merged.changed
    computed = sum(map(is_dequantised, checkpoint)) if not isinstance(checkpoint, MappedCheckpoint) else 0
    return f"the codes of {how_many(computed, 'weight')} would not come back" if computed and not has_codes else ""


def _rounding_texts(out: Output) -> list[str]:
    """Casts to narrower dtypes; but what Hugging Face's side had before, as a manifest remembers, is compared before it is written."""
    remembered = out.checkpoint.history.fixed_dtypes if out.checkpoint.side == HF else frozenset()
    casts = Counter((stored_dtype(t), out.dtypes[t.name]) for t in out.checkpoint if t.name not in remembered)
    found = [(pair, n) for pair, n in casts.items() if pair[0] != pair[1] and pair not in EXACT]
    return [f"{how_many(n, 'tensor')} rounded from {short_name(a)} to {short_name(b)}" for (a, b), n in found]


def _dtype_text(out: Output) -> str:
    """Every number is kept; the dtypes are too, where one ``--dtype`` gives them back."""
    asked = [t for t in out.checkpoint if t.name not in out.checkpoint.history.fixed_dtypes and stored_dtype(t) in CASTABLE]
    before = sorted({short_name(stored_dtype(t)) for t in asked})
    if all(stored_dtype(t) == out.dtypes[t.name] for t in asked):
        return "exact"
    if len(before) == 1:
        return f"exact, with --dtype {before[0]}"
    return f"every number, not every dtype: {' and '.join(before)} became one"


def _losses_text(out: Output) -> str:
    """What would not come back of a mapped checkpoint, or why nothing would; empty where all does."""
    checkpoint = out.checkpoint
    if not isinstance(checkpoint, MappedCheckpoint) or checkpoint.history.original is None:
        return ""
    there = SIDE_NAMES[checkpoint.history.original.side]
    try:
        back = plan_back(_reload_as_written(checkpoint, out))
    except MfconvError as error:
        return f"refused: {error.code}, {to_one_line(str(error.found))}"
    if back.problems:
        first = back.problems[0]
        return f"refused: {first.kind} {first.name}: {to_one_line(first.found)}"
    rows = checkpoint.report.plan.rows
    wanted = {s.name: (s.shape, row.status) for row in rows for s in row.sources}
    given = {s.name: s.shape for row in back.rows for s in row.targets}
    lost = [name for name, (shape, _) in wanted.items() if given.get(name) != shape]
    left_out = [name for name in lost if wanted[name][1] == LEFT_OUT]
    if len(lost) > len(left_out):
        return f"{how_many(len(lost) - len(left_out), f'{there} tensor')} would not come back"
    if given.keys() - wanted.keys():
        return f"{how_many(len(given.keys() - wanted.keys()), f'{there} tensor')} more than there were"
    return f"exact, but for {how_many(len(left_out), 'tensor')} left out" if left_out else ""


def _reload_as_written(checkpoint: MappedCheckpoint, out: Output) -> MappedCheckpoint:
    """The checkpoint as it would be loaded from its files: names, shapes and dtypes, and the config that lies beside them."""
    specs = (replace(spec, dtype=out.dtypes[spec.name]) for spec in checkpoint.specs)
    config: Any = out.plan.indexes.get("config.json")
    config = json.loads(config) if config is not None else checkpoint.config
    return replace(checkpoint, tensors={spec.name: LazyTensor(spec, ()) for spec in specs}, config=config)
