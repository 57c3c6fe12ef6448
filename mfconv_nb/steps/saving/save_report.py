"""What a save wrote, or would write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mfconv_nb.core.checkpoint import Merge
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.file_plan import OutputPlan
from mfconv_nb.core.report import Column, Result, Table, bytes_text, how_many, seconds_text
from mfconv_nb.steps.saving.codes import DequantisedReport
from mfconv_nb.streaming.manifest import MANIFEST
from mfconv_nb.streaming.staging import staging_of


@dataclass(frozen=True, repr=False)
class SaveReport(Result):
    """What was written, or with ``dry_run`` what would be.

    Attributes:
        back: what converting back would give, as planned before anything was written.
        infinite: of the tensors where a cast made finite numbers infinite, how many.
        computed: of the tensors that are computed from codes, what rounding did to each.
    """

    target: str
    plan: OutputPlan
    casts: Mapping[tuple[str, str], int]
    back: str
    carried: int
    seconds: float
    resumed: int = 0
    dry_run: bool = False
    merged: Merge | None = None
    notes: tuple[str, ...] = ()
    infinite: Mapping[str, int] = field(default_factory=dict)
    computed: DequantisedReport = field(default_factory=DequantisedReport)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with weights, and the small ones beside them."""
        home = Path(self.target) if self.plan.folder else Path(self.target).parent
        return tuple(home / n for n in self.plan.names)

    @property
    def manifest(self) -> Path:
        """The manifest beside the output."""
        return staging_of(Path(self.target)).side_folder / MANIFEST

    @property
    def way_back(self) -> str:
        """What converting back would give: "exact", or what it would lack, and what a cast has cost."""
        back = self.back
        if anew := self.computed.count_quantised_anew():
            said = f"{how_many(anew, 'weight')} quantised anew would come back as what the new codes stand for"
            back = said if back == "exact" else f"{said}; {back}"
        return f"{self._became_infinite()}; {back}" if self.infinite else back

    def _became_infinite(self) -> str:
        return f"{how_many(sum(self.infinite.values()), 'number')} in {how_many(len(self.infinite), 'tensor')} became infinite"

    def table(self) -> Table:
        tensors = sum(len(f.places) for f in self.plan.files)
        size = bytes_text(self.plan.size)
        files = how_many(len(self.plan.files), "file")
        rows = [(f.name, len(f.places), bytes_text(f.size)) for f in self.plan.files]
        columns = (Column("file"), Column("tensors", True), Column("bytes", True))
        casts: tuple[str, ...] = (self.merged.sentence(),) if self.merged is not None else ()
        casts += tuple(f"cast: {how_many(n, 'tensor')} from {short_name(a)} to {short_name(b)}" for (a, b), n in self.casts.items())
        casts += (f"{self.computed.sentence()}; .computed lists them",) if self.computed else ()
        if self.dry_run:
            facts = (*casts, *self.notes, "Nothing was written (dry run).")
            return Table("", f"Would write {how_many(tensors, 'tensor')}, {size}, {files} to {self.target}", columns, rows, facts)
        rate = f", {bytes_text(int(self.plan.size / self.seconds))}/s" if self.seconds > 0.5 else ""
        facts = (*casts, *(("Resumed: an earlier run had finished part of it.",) if self.resumed else ()))
        facts += (f"beside the target, which cannot carry everything: {how_many(self.carried, 'tensor')}",) if self.carried else ()
        facts += (*self.notes, f"manifest: {self.manifest}")
        headline = f"{how_many(tensors, 'tensor')}, {size}, {files}, {seconds_text(self.seconds)}{rate}. Way back: {self.way_back}."
        if self.infinite:
            first = next(iter(self.infinite))
            facts = (f"{self._became_infinite()}, too large for the dtype that was asked for; first in {first}", *facts)
        return Table("! Converted." if self.infinite else "✓ Converted.", headline, columns, rows if len(rows) > 1 else (), facts)
