"""What several test files ask of the package under test: checkpoints as raw tensors and arrays, what doctor says, statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import HF, MF, Checkpoint
from mfconv_nb.core.dtypes import BY_NUMPY
from mfconv_nb.core.statistics.one_tensor import Statistics, accumulator
from mfconv_nb.core.statistics.two_tensors import PairAccumulator, PairStatistics
from mfconv_nb.steps.inspecting.diagnosis import Diagnosis
from tests.support import Array, Raw

Error = TypeVar("Error", bound=mc.MfconvError)


def raws_of(checkpoint: Any) -> dict[str, Raw]:
    """Every tensor of a checkpoint, read through the package."""
    return {t.name: Raw(t.dtype, t.shape, mc.read(checkpoint, t.name).tobytes()) for t in mc.load(checkpoint)}


def arrays_of(checkpoint: Any) -> dict[str, Array]:
    """Every tensor of a checkpoint as an array of its own, which may be changed."""
    return {t.name: mc.read(checkpoint, t.name) for t in mc.load(checkpoint)}


def without_memory(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint as it comes from elsewhere: its tensors and its side, no manifest and no config."""
    return Checkpoint(checkpoint.tensors, side=checkpoint.side)


def mapped_toy(key: str, to: str = MF, **options: Any) -> Checkpoint:
    """The toy of a family as a mapping makes it, there, or there and back."""
    there = mc.map(mc.toy(key, options=options), key, **options)
    return there if to == MF else mc.map(there, key, to=HF)


def refused_with(code: str, call: Callable[[], Any], kind: type[Error] = mc.MfconvError) -> Error:  # type: ignore[assignment]
    """The error of a call that is refused with this code."""
    with pytest.raises(kind) as refused:
        call()
    assert refused.value.code == code, refused.value
    return refused.value


def said(found: Diagnosis, topic: str) -> str:
    """All that doctor says of a topic."""
    return " | ".join(f"{f.mark} {f.seen}".strip() for f in found.findings if f.topic == topic)


def findings(path: Path, topic: str, **asked: Any) -> str:
    """All that doctor says of a topic at a path."""
    return said(mc.doctor(path, **asked), topic)


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
