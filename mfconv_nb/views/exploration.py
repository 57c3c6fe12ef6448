"""What a view shows of a result: rows, and details of each. Steps implement it, ``explorer.py`` draws it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Table


class Exploration:
    """A result as rows that can be filtered by status, opened, and inspected tensor by tensor.

    Attributes:
        table: the table of the result; its rows are the rows of the view.
        counts: number of tensors by status, zeros included; each gets a chip.
        statuses: the status of each row.
        sort_keys: for each row one key a column: the number in the cell, if there is one.
        element_hint: an example of an index for ``explain``; empty if the view cannot explain elements.
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
        """The text that a search looks through: every name of a row, one a line."""
        return "\n".join(self.members(row))

    def above(self) -> str:
        """HTML between the headline and the rows."""
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
        """The bytes that ``measure`` reads; 0 if there is nothing to read, or no need for a sample."""
        return 0

    def measure(self, member: str, sample: bool, progress: OnProgress, stop: threading.Event) -> str:
        """HTML with statistics and histograms of a tensor, or of a sample of it; empty if it was stopped."""
        raise NotImplementedError

    def code(self, row: int, member: str) -> str:
        """The line of Python that returns the same."""
        return self.table.code
