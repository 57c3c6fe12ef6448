"""The view without a browser: pages of tensors, and what is left to do when nothing fits on one."""

from __future__ import annotations

import numpy as np

import mfconv_nb as mc
from mfconv_nb.views.explorer import PAGE, Explorer


def view_of(layers: int) -> Explorer:
    tensors = {f"layers.{n}.weight": np.full(2, n) for n in range(layers)}
    return Explorer(mc.diff(tensors, tensors).exploration())


def test_the_tensors_of_a_row_are_listed_page_by_page() -> None:
    view = view_of(2 * PAGE + 5)
    view.table.picked = 0
    seen: list[str] = []
    while True:
        seen += [name for name, _ in view.list.options]
        assert len(view.list.options) <= PAGE
        if view.list_later.disabled:
            break
        view.list_later.click()
    assert seen == [f"layers.{n}.weight" for n in range(2 * PAGE + 5)]
    view.list.value = 2 * PAGE + 3
    assert view.member == f"layers.{2 * PAGE + 3}.weight"
    view.list_earlier.click()
    assert view.member == f"layers.{PAGE}.weight"


def test_many_rows_are_shown_page_by_page_and_sorted_as_a_whole() -> None:
    tensors = {f"{'abcdefghij'[n % 10]}_{'x' * (n // 10)}.weight": np.zeros(n + 1) for n in range(PAGE + 30)}
    view = Explorer(mc.diff(tensors, tensors).exploration())
    assert len(view.table.rows) == PAGE
    assert view.table.note == f"1 to {PAGE} of {PAGE + 30} rows"
    view.later.click()
    assert len(view.table.rows) == 30
    assert view.later.disabled
    view.table.sort = {"column": 3, "down": True}
    assert view.table.rows[0][3] == str(PAGE + 30)
    assert view.earlier.disabled


def test_a_row_that_a_filter_hides_is_no_longer_marked() -> None:
    view = Explorer(mc.diff({"a": np.zeros(2), "b": np.zeros(2)}, {"a": np.zeros(2)}).exploration())
    view.table.picked = 0
    assert view.member == "b"
    view.search.value = "a"
    assert (view.table.rows[0][1], view.table.picked) == ("a", -1)
    view.search.value = ""
    assert view.table.picked == 0
