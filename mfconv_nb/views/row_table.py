"""A table whose rows can be chosen by mouse and by keyboard. It holds a page of rows, never all of them.

It has a small front end of its own. The library for tables that we measured could not choose rows by keyboard, sorted and searched only
within a page, and added 825 KB to a saved notebook.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from mfconv_nb.core.report import STYLE

HERE = Path(__file__).parent
LOOK = STYLE + (HERE / "look.css").read_text(encoding="utf-8")


class RowTable(anywidget.AnyWidget):
    """A page of rows as text.

    Traits:
        columns: title, numeric and optional of each column.
        rows: one list of texts a row.
        picked: number of the chosen row on the page; -1 for none.
        is_sorted: whether a click on a heading sorts; false if the order of the rows has a meaning.
        sort: number of the column, and whether downwards. Python sorts the rows, not the browser.
        note: a line under the table.
        label: the name of the table for screen readers.
    """

    _esm = HERE / "row_table.js"
    _css = LOOK

    columns: Any = traitlets.List().tag(sync=True)
    rows: Any = traitlets.List().tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    is_sorted = traitlets.Bool(True).tag(sync=True)
    sort: Any = traitlets.Dict({"column": -1, "down": False}).tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode("rows").tag(sync=True)
