"""What several test files ask of the package under test: checkpoints as raw tensors and arrays, what doctor says, statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.dtypes import BY_NUMPY
from mfconv_nb.core.statistics.one_tensor import Statistics, accumulator
from mfconv_nb.core.statistics.two_tensors import PairAccumulator, PairStatistics
from tests.support import Array, Raw


def raws_of(checkpoint: Any) -> dict[str, Raw]:
    """Every tensor of a checkpoint, read through the package."""
    return {t.name: Raw(t.dtype, t.shape, mc.read(checkpoint, t.name).tobytes()) for t in mc.load(checkpoint)}


def arrays_of(checkpoint: Any) -> dict[str, Array]:
    """Every tensor of a checkpoint as an array of its own, which may be changed."""
    return {t.name: mc.read(checkpoint, t.name) for t in mc.load(checkpoint)}


def without_memory(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint as it comes from elsewhere: its tensors and its side, no manifest and no config."""
    return Checkpoint(checkpoint.tensors, side=checkpoint.side)


def findings(path: Path, topic: str, **asked: Any) -> str:
    """What doctor says of one topic."""
    return " | ".join(f"{f.mark} {f.seen}" for f in mc.doctor(path, **asked).findings if f.topic == topic)


def measured(values: Array, dtype: str | None = None) -> Statistics:
    """The statistics of an array; ``dtype`` where numpy's own does not tell it."""
    counted = accumulator(dtype or BY_NUMPY[values.dtype])
    counted.add(values)
    return counted.result()


def compared(a: Array, b: Array, dtype: str | None = None) -> PairStatistics:
    """The statistics of two arrays of one dtype."""
    counted = PairAccumulator(dtype or BY_NUMPY[a.dtype])
    counted.add(a, b)
    return counted.result()
