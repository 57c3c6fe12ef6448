"""What a view shows as chosen is what it works with, from the first moment on."""

from __future__ import annotations

import mfconv_nb as mc
from mfconv_nb.views.explorer import Explorer


def test_the_list_of_a_row_marks_the_tensor_that_is_shown() -> None:
    mapped = mc.map(mc.toy("llama"), qkv_concat=True)
    view = Explorer(mapped.report.exploration(mapped))
    for row in (1, 2, 0, 1):
        view.table.picked = row
        assert view.list.label == view.member == view.exploration.members(row)[0]
    view.list.index = 2
    assert view.member == view.exploration.members(1)[2]


def test_the_form_says_that_dtypes_are_kept() -> None:
    assert mc.panel().dtype.label == "keep"
