"""A table whose rows can be chosen, by mouse and by keyboard. It holds a page of rows, never all of them.

Our own small front end, after trying libraries: of those measured, the one for tables could not choose rows by keyboard, sorted and
searched within a page only, and stored 825 KB in a saved notebook.
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
        picked: the row that is chosen, counted within the page; -1 for none.
        is_sorted: whether a click on a heading asks for another order; else the order is part of what the rows say.
        sort: the column by number and whether downwards; whoever fills the rows sorts them.
        note: a line under the table.
        label: what a screen reader calls the table.
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
