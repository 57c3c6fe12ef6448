"""What a save does with weights that were published as codes: which dtype they get, and what is known of it before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.progress import NoProgress, Progress
from mfconv_nb.core.report import Column, Result, Table, how_many
from mfconv_nb.core.rounding import Rounding
from mfconv_nb.core.scaled_codes import ROUNDING
from mfconv_nb.streaming.dequantised import Fitness, dequantised_sources, fitness_of, is_dequantised

EXACT, ROUNDED = "exact", "rounded"


def with_dtype_of_codes(checkpoint: Checkpoint, dtype: str | None) -> Checkpoint:
    """The checkpoint with the dtype that was asked for on what is computed from codes: it is rounded once, to that one."""
    if dtype is None or not any(map(is_dequantised, checkpoint)):
        return checkpoint
    fixed = checkpoint.history.fixed_dtypes
    tensors = {n: _in_dtype(t, dtype) if n not in fixed and is_dequantised(t) else t for n, t in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=tensors)


def _in_dtype(tensor: LazyTensor, dtype: str) -> LazyTensor:
    return LazyTensor(TensorSpec(tensor.name, tensor.shape, dtype), tensor.pieces)


@dataclass(frozen=True)
class ScalesSeen:
    """What the scales say of each tensor that is computed from codes, by its name, in the dtype that it is written as."""

    fitness: Mapping[str, Fitness]
    of_sources: Mapping[int, Fitness]


def check_scales(checkpoint: Checkpoint, dtypes: Mapping[str, str], progress: Progress | None = None) -> ScalesSeen:
    """Read every scale, before anything is written.

    Raises:
        MappingError: MFC320 for a scale that is no positive number.
    """
    computed = [t for t in checkpoint if is_dequantised(t)]
    sources = dequantised_sources(computed)
    if not computed:
        return ScalesSeen({}, {})
    written_as = {id(s): dtypes[t.name] for t in computed for s in dequantised_sources([t])}
    seen, done = dict[int, Fitness](), 0
    with (progress or NoProgress()).another(sum(s.matrix.scales.spec.nbytes for s in sources), "reading scales") as bar:
        for source in sources:
            seen[id(source)] = fitness_of(source, written_as[id(source)])
            done += source.matrix.scales.spec.nbytes
            bar(done)
    fitness = {}
    for tensor in computed:
        parts = [seen[id(s)] for s in dequantised_sources([tensor])]
        fitness[tensor.name] = Fitness(all(p.exact for p in parts), all(p.reversible for p in parts))
    return ScalesSeen(fitness, seen)


@dataclass(frozen=True, repr=False)
class DequantisedReport(Result):
    """Of every tensor that is computed from codes: whether its numbers are exact, and what rounding did to them.

    Attributes:
        dtypes: what each is written as.
        exact: by its scales alone, known before anything is written.
        rounding: what was counted while it was written; empty before.
    """

    dtypes: Mapping[str, str] = field(default_factory=dict)
    exact: Mapping[str, bool] = field(default_factory=dict)
    rounding: Mapping[str, Rounding] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.dtypes)

    def is_exact(self, name: str) -> bool:
        return self.rounding[name].is_exact if name in self.rounding else self.exact[name]

    @property
    def total(self) -> Rounding:
        return sum(self.rounding.values(), Rounding())

    @property
    def names_rounded(self) -> list[str]:
        return [name for name in self.dtypes if not self.is_exact(name)]

    def sentence(self) -> str:
        """One line for notes and reports."""
        dtypes = " and ".join(sorted({short_name(d) for d in self.dtypes.values()}))
        rounded = len(self.names_rounded)
        said = f"from codes to {dtypes}: {how_many(len(self.dtypes), 'tensor')}, {len(self.dtypes) - rounded:,} {EXACT}, {rounded:,} "
        if not rounded:
            return said + ROUNDED
        if not self.rounding:
            return f"{said}{ROUNDED} ({ROUNDING})"
        return f"{said}{ROUNDED}: {rounding_text(self.total)} ({ROUNDING})"

    def about(self, name: str) -> dict[str, Any]:
        """Of one tensor, for the manifest."""
        r = self.rounding.get(name)
        return {} if r is None else {"rounding": {"inexact": r.inexact, "of": r.numbers, "largest": r.largest, "mean": r.mean}}

    def table(self) -> Table:
        rows = [
            (name, short_name(dtype), EXACT if self.is_exact(name) else ROUNDED, *_cells(self.rounding.get(name)))
            for name, dtype in self.dtypes.items()
        ]
        columns = (
            Column("tensor"),
            Column("dtype"),
            Column(""),
            Column("inexact", True),
            Column("largest error", True),
            Column("mean", True),
        )
        return Table("", self.sentence(), columns, rows, row_noun="tensors")


def _cells(r: Rounding | None) -> tuple[str, str, str]:
    return ("", "", "") if r is None else (f"{r.inexact:,} of {r.numbers:,}", f"{r.largest:.3g}", f"{r.mean:.3g}")


def rounding_text(r: Rounding) -> str:
    """``12 of 64 numbers inexact, relative error at most 0.0039, 0.0011 in the mean``."""
    return f"{r.inexact:,} of {how_many(r.numbers, 'number')} inexact, relative error at most {r.largest:.3g}, {r.mean:.3g} in the mean"
