"""Scale and rounding error of every block of a published weight, as a picture and as rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import quote
from mfconv_nb.core.report import Column, Result, Table, box_html, how_many, note_html
from mfconv_nb.streaming.blocks_of_codes import BlocksSeen
from mfconv_nb.views.figures import blocks_png, picture_html


@dataclass(frozen=True, repr=False)
class BlocksReport(Result):
    """The blocks of the published weights that one tensor is computed from. A notebook shows two heat maps, a terminal rows of numbers."""

    seen: BlocksSeen

    def sentence(self) -> str:
        """Which weights, and what a cell is."""
        seen = self.seen
        first, more = quote(seen.weights[0]), len(seen.weights) - 1
        which = f"{first} and {more:,} more" if more else first
        under = f", {seen.matrices:,} matrices one under the other" if seen.matrices > 1 else ""
        blocks = f"{seen.grid[0]:,} × {seen.grid[1]:,} blocks of {seen.block[0]:,} × {seen.block[1]:,}"
        together = math.prod(seen.pooled)
        cell = f"; a cell is the largest of {how_many(together, 'block')}, {seen.pooled[0]:,} × {seen.pooled[1]:,}" if together > 1 else ""
        return f"{which} as published{under}: {blocks}{cell}"

    @property
    def against(self) -> str:
        """What the errors are measured against."""
        exact = "before it is rounded" if self.seen.dtype == "F32" else "in float32"
        return f"largest error of a number in {short_name(self.seen.dtype)}, as a part of it, against code × scale {exact}"

    def table(self) -> Table:
        seen, (down, across) = self.seen, self.seen.pooled
        rows = [
            (row * down, column * across, float(seen.scales[row, column]), float(seen.errors[row, column]))
            for row in range(seen.scales.shape[0])
            for column in range(seen.scales.shape[1])
            if not math.isnan(seen.scales[row, column])
        ]
        titles = ("row of blocks", "column of blocks", "scale", "largest error")
        columns = tuple(Column(title, True) for title in titles)
        return Table("", self.sentence(), columns, rows, (self.against,), row_noun="cells")

    def picture(self) -> str:
        """HTML of the sentence and the two heat maps."""
        png = blocks_png(self.seen, width=PICTURE_WIDTH, scale=2)
        says = "scale of each block, and largest relative error in each block"
        return note_html(self.sentence()) + picture_html(png, says, PICTURE_WIDTH) + note_html(self.against)

    def _repr_html_(self) -> str:
        return box_html(self.picture())

    def _page_body(self) -> str:
        return self._repr_html_() + super()._page_body()


PICTURE_WIDTH = 420  # as of the other pictures: the room of the inspector in a window of 1280
