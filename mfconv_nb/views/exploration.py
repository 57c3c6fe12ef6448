"""What a view can show of a result: rows, and what is said about each. The steps fill it in, ``explorer.py`` draws it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Table


class Exploration:
    """A result as rows that can be filtered by status, opened, and inspected tensor by tensor.

    Attributes:
        table: what the result shows at once; its rows are the rows of the view.
        counts: tensors by status, also those of which there are none: the chips.
        statuses: the status of each row.
        sort_keys: of each row, one key a column: what stands in it as a number where there is one.
        element_hint: an example of an index that ``explain`` takes; empty where it explains nothing.
    """

    table: Table
    counts: Mapping[str, int]
    statuses: Sequence[str]
    sort_keys: Sequence[Sequence[Any]]
    element_hint: str = ""

    def members(self, row: int) -> Sequence[str]:
        """The names of the tensors behind a row."""
        raise NotImplementedError

    def search_text(self, row: int) -> str:
        """What a search looks at: every name of a row, a line each."""
        return "\n".join(self.members(row))

    def above(self) -> str:
        """HTML that stays above the rows, below the headline."""
        return ""

    def overview(self) -> str:
        """HTML beside the table while no row is chosen."""
        return ""

    def inspect(self, row: int, member: str) -> str:
        """HTML about a tensor of a row."""
        raise NotImplementedError

    def explain(self, row: int, member: str, index: tuple[int, ...]) -> str:
        """HTML that says where one element comes from. Raises MfconvError for an index outside the tensor."""
        raise NotImplementedError

    def nbytes(self, member: str, sample: bool) -> int:
        """The bytes that ``measure`` counts; 0 where it has nothing to read, or needs no sample."""
        return 0

    def measure(self, member: str, sample: bool, progress: OnProgress, stop: threading.Event) -> str:
        """HTML with the statistics and histograms of a tensor, of all of it or of a sample; empty when it was stopped."""
        raise NotImplementedError

    def code(self, row: int, member: str) -> str:
        """The Python line that gives the same."""
        return self.table.code
