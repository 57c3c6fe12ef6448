"""What the views show, without a browser: every row of every family can be opened, and what they say is what the report says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import MfconvError
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.values import SAMPLE
from tests.quantised import llama_fp8
from tests.support import numbered, text_of, write_hf
from tests.toys import raws_of

FAMILIES = [family.key for family in mc.known_families() if family.toy]


def views(key: str, folder: Path) -> Iterator[Exploration]:
    there = mc.map(mc.toy(key))
    yield there.report.exploration(there)
    mc.save(there, folder / "out.ckpt")
    back = mc.map(mc.load(folder / "out.ckpt"), config=there.config)
    yield back.report.exploration(back)


@pytest.mark.parametrize("key", FAMILIES)
def test_every_row_of_every_family_can_be_opened_both_ways(key: str, tmp_path: Path) -> None:
    for view in views(key, tmp_path):
        assert sum(len(view.members(row)) for row in range(len(view.statuses))) >= len(view.plan.rows)
        for row in range(len(view.statuses)):
            for member in {view.members(row)[0], view.members(row)[-1]}:
                said = text_of(view.inspect(row, member))
                assert member in said
                assert "Hugging Face" in said or "MindFormers" in said


def test_what_was_dropped_and_restored_is_told_with_the_reason(tmp_path: Path) -> None:
    toy = mc.toy("llama", num_hidden_layers=2)
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    write_hf(tmp_path / "hf", {**raws_of(toy), **{name.format(n): numbered(10, first=n) for n in range(2)}}, toy.config)
    there = mc.map(mc.load(tmp_path / "hf"))
    mc.save(there, tmp_path / "out.ckpt")
    back = mc.map(mc.load(tmp_path / "out.ckpt"))
    for mapped, status in ((there, "dropped"), (back, "restored")):
        view = mapped.report.exploration(mapped)
        assert view.counts[status] == 2
        row = list(view.statuses).index(status)
        assert view.members(row) == [name.format(n) for n in range(2)]
        assert f"{status}:" in text_of(view.inspect(row, name.format(1)))


def test_sort_keys_are_numbers_where_cells_are_texts_of_them() -> None:
    view: Exploration = mc.map(mc.toy("llama")).report.exploration()
    for column in (4, 6, 7):
        assert all(isinstance(keys[column], int) for keys in view.sort_keys)
    assert all(len(keys) == len(view.table.columns) for keys in view.sort_keys)


def test_an_element_is_explained_and_one_outside_refused() -> None:
    view = mc.map(mc.toy("llama"), qkv_concat=True).report.exploration()
    row = next(n for n in range(len(view.statuses)) if "w_qkv" in view.members(n)[0])
    assert "[10, 5]" in text_of(view.explain(row, view.members(row)[3], (130, 5)))
    with pytest.raises(MfconvError, match="MFC501"):
        view.explain(row, view.members(row)[3], (200, 0))


def test_values_are_those_of_the_tensor_and_stop_when_told() -> None:
    mapped = mc.map(mc.toy("llama"))
    view = mapped.report.exploration(mapped)
    name = "model.layers.1.feed_forward.w1.weight"
    numbers = mc.read(mapped, name).astype(np.float64)
    counted: list[int] = []
    said = view.measure(name, False, counted.append, threading.Event())
    assert f"{numbers.mean():.6g}" in said
    assert f"{numbers.std():.6g}" in said
    assert counted[-1] == view.nbytes(name, False) == numbers.size * 2
    stopped = threading.Event()
    stopped.set()
    assert view.measure(name, False, counted.append, stopped) == ""


def test_a_large_tensor_is_offered_as_a_sample_and_a_small_one_is_not() -> None:
    large = np.zeros(4 * SAMPLE + 1, np.float16)
    large[::2] = 1
    report = mc.diff({"a": large, "b": large[:9]}, {"a": large, "b": large[:9]})
    view = report.exploration()
    assert view.nbytes("b", True) == 0
    assert view.nbytes("a", True) <= 3 * SAMPLE * 2
    counted: list[int] = []
    said = text_of(view.measure("a", True, counted.append, threading.Event()))
    assert f"of {large.size:,} numbers" in said
    assert counted[-1] == view.nbytes("a", True)


def test_tensors_of_two_shapes_have_no_values_to_compare_and_single_ones_have() -> None:
    report = mc.diff({"a": np.ones((2, 3)), "only": np.ones(2)}, {"a": np.ones((3, 2))})
    view = report.exploration()
    assert view.nbytes("a", False) == 0
    assert view.nbytes("only", False) == 16
    said = view.inspect(list(view.statuses).index("shape"), "a")
    assert "<b class='mfconv-bad'>2</b> × <b class='mfconv-bad'>3</b>" in said
    assert "transposed?" in said


def test_hostile_names_are_shown_and_never_read_as_html() -> None:
    name = "<img src=x onerror=alert(1)>\x1b[31m"
    report = mc.diff({name: np.ones(2)}, {name: np.zeros(2)}, values=True)
    view = report.exploration()
    for said in (view.inspect(0, name), view.overview(), view.measure(name, False, lambda _: None, threading.Event())):
        assert "<img src=x" not in said
        assert "\x1b" not in said


@pytest.mark.parametrize(("how", "said"), [({}, "rounded to bf16"), ({"powers_of_two": True}, "exact in bf16")])
def test_of_a_tensor_that_is_computed_from_codes_it_says_how_and_whether_it_is_exact(
    how: dict[str, bool], said: str, tmp_path: Path
) -> None:
    folder, _, _ = llama_fp8(tmp_path / "q", **how)
    mapped = mc.map(mc.load(folder))
    view = mapped.report.exploration(mapped)
    name = "model.layers.1.feed_forward.w2.weight"
    row = next(n for n in range(len(view.statuses)) if name in view.members(n))
    text = text_of(view.inspect(row, name))
    assert "model.layers.1.mlp.down_proj.weight_scale_inv, blocks of 32 x 32" in text
    assert said in text
    norm = "model.layers.1.ffn_norm.weight"
    assert "codes" not in text_of(view.inspect(next(n for n in range(len(view.statuses)) if norm in view.members(n)), norm))
