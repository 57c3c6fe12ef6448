"""The views of results in a real JupyterLab: filter, sort, search, open, inspect, by mouse and by keyboard."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.browser.lab import CHROMIUM, IN_TWO_LOOKS, NO_CHROMIUM, Browser, Lab, expect, rows
from tests.support import wait_until, write_with_a_hole

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

Opened = Callable[..., Browser]

MAPPING = """import mfconv_nb as mc
mc.map(mc.toy("llama"), qkv_concat=True)"""
DIFF = """import mfconv_nb as mc
source = mc.toy("llama")
first = {t.name: mc.read(source, t.name) for t in source}
second = dict(first)
name = "model.layers.1.mlp.up_proj.weight"
second[name] = first[name].copy()
second[name].view("u2")[0, :5] ^= 3
second["model.norm.weight"] = first["model.norm.weight"][:7]
second["lm_heads.weight"] = second.pop("lm_head.weight")
mc.diff(first, second, values=True)"""


CODES = """import mfconv_nb as mc, numpy as np, ml_dtypes
toy = mc.toy("llama")
stored = {t.name: mc.read(toy, t.name) for t in toy}
name = "model.layers.1.mlp.up_proj.weight"
stored[name] = np.ones(stored[name].shape, ml_dtypes.float8_e4m3fn)
stored[name + "_scale_inv"] = np.linspace(1, 2, 18, dtype="f4").reshape(6, 3)
config = {**toy.config, "quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
mc.save(mc.map(mc.load(stored, config=config)), "codes.ckpt", overwrite=True, progress=False).computed"""


def row(browser: Browser, text: str) -> Any:
    return rows(browser, text).first


def inspector(browser: Browser) -> Any:
    return browser.page.locator(".mfconv-view .mfconv-right")


def line(browser: Browser) -> Any:
    """The Python line, which says last which tensor is chosen."""
    return browser.page.locator(".mfconv-view .mfconv-copy")


def mapped() -> Any:
    """What ``MAPPING`` shows."""
    return mc.map(mc.toy("llama"), qkv_concat=True)


def test_a_mapping_is_one_row_a_rule_and_says_its_counts(opened: Opened) -> None:
    browser = opened("mapping", MAPPING)
    expect(rows(browser)).to_have_count(len(mapped().table().rows))
    chips = browser.page.locator(".mfconv-view button.mfconv-chip")
    for place, text in enumerate(("all 39", "39 mapped", "0 tied")):
        expect(chips.nth(place)).to_have_text(text)
    expect(chips.nth(1)).to_be_enabled()
    expect(chips.nth(2)).to_be_disabled()
    expect(browser.page.locator(".mfconv-static")).to_be_hidden()  # its information is in the view, once


def test_search_finds_single_layers_and_says_what_is_near(opened: Opened) -> None:
    browser = opened("search", MAPPING)
    search = browser.page.get_by_placeholder("search names")
    search.fill("layers.2.*k_proj")
    expect(rows(browser)).to_have_count(1)
    expect(rows(browser)).to_contain_text("w_qkv")
    search.fill("model.layers.0.self_attn.k_prog.weight")
    expect(rows(browser)).to_have_count(0)
    browser.page.wait_for_selector("text=Nearest name: model.layers.0.self_attn.")
    search.fill("")
    expect(rows(browser)).to_have_count(len(mapped().table().rows))


def test_a_click_counts_though_other_rows_arrive_between_press_and_release(opened: Opened) -> None:
    """As where a keystroke in a field has just asked for other rows, and the hand is already at the mouse."""
    first = """from mfconv_nb.views.row_table import RowTable
table = RowTable(columns=[{"title": "name", "numeric": False, "optional": False}], rows=[["a"], ["b"]])
table"""
    browser = opened("press", first, "0", "table.rows = [['c'], ['d']]")
    browser.page.wait_for_selector("td:has-text('d')")
    browser.run_cell(0)
    place = browser.page.locator("td", has_text="b").bounding_box()
    browser.page.mouse.move(place["x"] + 5, place["y"] + 5)
    browser.page.mouse.down()
    browser.run_cell(2)
    browser.page.mouse.up()
    expect(browser.page.locator("td", has_text="d")).to_be_visible()
    expect(browser.page.locator("tr[aria-selected='true']")).to_have_text("d")


def test_a_heading_sorts_and_sorts_the_other_way(opened: Opened) -> None:
    browser = opened("sort", MAPPING)
    sizes = [spec.elements for spec in mapped().specs]
    for down, first in ((False, min(sizes)), (True, max(sizes))):
        browser.page.get_by_role("button", name="shape").click()
        browser.page.wait_for_selector(f"th[aria-sort='{'descending' if down else 'ascending'}']")
        wait_until(lambda down=down, first=first: is_sorted(elements(browser), first, down))


def is_sorted(found: list[int], first: int, down: bool) -> bool:
    return found[0] == first and found == sorted(found, reverse=down)


def elements(browser: Browser) -> list[int]:
    """What the shape of each row comes to."""
    cells = browser.page.locator(".mfconv-grid tbody tr td.mfconv-n:not(.mfconv-o)").all_inner_texts()
    return [math.prod(int(n) for n in re.findall(r"\d+", text)) for text in cells[::2]]


def test_a_row_opens_its_tensors_and_a_tensor_shows_drawing_element_and_values(opened: Opened) -> None:
    first, name = (f"model.layers.{layer}.attention.w_qkv.weight" for layer in (0, 2))
    numbers = mc.read(mapped(), name).astype(np.float64)
    browser = opened("inspect", MAPPING)
    row(browser, "w_qkv").click()
    expect(line(browser)).to_have_text(f"mapped.report.explain('{first}')")
    inspector(browser).locator("select").select_option(label=name)
    expect(line(browser)).to_have_text(f"mapped.report.explain('{name}')")
    expect(inspector(browser).locator("svg")).to_be_visible()
    expect(inspector(browser).get_by_text("(q + k + v) hidden", exact=False).first).to_be_visible()
    index = browser.page.get_by_placeholder("index")
    index.fill("130, 5")
    index.press("Enter")
    expect(inspector(browser).get_by_text("[10, 5]").first).to_be_visible()  # 120 rows of q stand before k
    expect(inspector(browser).locator("img")).to_be_visible()
    for statistic in (f"{numbers.size:,}", f"{numbers.min():.6g}", f"{numbers.max():.6g}", f"{numbers.mean():.6g}"):
        expect(inspector(browser)).to_contain_text(statistic, use_inner_text=True)


def test_an_index_outside_a_tensor_is_refused_in_words(opened: Opened) -> None:
    browser = opened("outside", MAPPING)
    row(browser, "tok_embeddings").click()
    index = browser.page.get_by_placeholder("index")
    index.fill("331, 0")
    index.press("Enter")
    expect(inspector(browser).get_by_text("MFC")).to_be_visible()


def test_the_keyboard_alone_chooses_rows(opened: Opened) -> None:
    browser = opened("keys", MAPPING)
    rows(browser).first.focus()
    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("Enter", 2)):
        browser.page.keyboard.press(key)
        expect(rows(browser).nth(place)).to_be_focused()
    chosen = browser.page.locator(".mfconv-grid tbody tr[aria-selected='true']")
    expect(chosen).to_have_count(1)
    expect(rows(browser).nth(2)).to_have_attribute("aria-selected", "true")
    expect(inspector(browser).locator("img")).to_be_visible()
    browser.page.keyboard.press("End")
    expect(rows(browser).last).to_have_attribute("aria-selected", "true")


def test_a_diff_filters_by_status_marks_axes_and_hints(opened: Opened) -> None:
    browser = opened("diff", DIFF)
    expect(rows(browser).first).to_be_visible()
    everything = rows(browser).count()
    browser.page.get_by_role("button", name="1 shape").click()
    expect(rows(browser)).to_have_count(1)
    row(browser, "model.norm.weight").click()
    expect(inspector(browser).locator("b.mfconv-bad", has_text="96")).to_be_visible()
    browser.page.get_by_role("button", name="1 missing").click()
    row(browser, "lm_head").click()
    expect(inspector(browser).get_by_text("nearest: lm_heads.weight")).to_be_visible()
    browser.page.get_by_role("button", name="all 40").click()
    expect(rows(browser)).to_have_count(everything)


def test_differing_values_are_drawn_and_equal_ones_are_said(opened: Opened) -> None:
    browser = opened("values", DIFF)
    pictures = inspector(browser).locator("img")
    expect(pictures).to_have_count(1)  # the map of differences, before anything is chosen
    row(browser, "differ").click()
    expect(inspector(browser).get_by_text("5 of 16,896 numbers differ").first).to_be_visible()
    expect(pictures).to_have_count(2)
    row(browser, "down_proj").click()
    expect(inspector(browser)).to_contain_text("Bitwise equal.", use_inner_text=True)
    expect(pictures).to_have_count(1)


def test_reading_a_huge_tensor_shows_progress_can_be_cancelled_and_sampled(opened: Opened, lab: Lab) -> None:
    """16 GiB of zeros that take no room on the disk, and minutes to read: what is seen here is seen long before the end of that."""
    write_with_a_hole(lab.folder / "huge.safetensors", {"weight": (1 << 17, 1 << 16)})
    browser = opened("huge", "import mfconv_nb as mc\nmc.diff('huge.safetensors', 'huge.safetensors')")
    row(browser, "weight").click()
    inspector(browser).get_by_role("button", name="Show values (48.0 GiB)").click()
    expect(inspector(browser).locator(".progress-bar")).to_have_attribute("style", re.compile("width: [1-9]"))
    inspector(browser).get_by_role("button", name="Cancel").click()
    expect(inspector(browser).get_by_text("Cancelled.")).to_be_visible()
    inspector(browser).get_by_role("button", name="Sample them").click()
    expect(inspector(browser).locator("img")).to_be_visible()
    expect(inspector(browser)).to_contain_text("8,589,934,592", use_inner_text=True)


def test_a_round_trip_says_its_verdict_and_every_condition(opened: Opened) -> None:
    cell = "import mfconv_nb as mc\nmc.toy('llama', 'trip')\nmc.save(mc.map(mc.load('trip')), 'trip.ckpt')\nmc.verify('trip', 'trip.ckpt')"
    view = opened("verify", cell).page.locator(".mfconv-view")
    for said in ("✓ Equal.", "39 tensors bitwise equal: there is no difference", re.compile("^([^✓]*✓){4}[^✓]*$")):
        expect(view).to_contain_text(said, use_inner_text=True)


@IN_TWO_LOOKS
def test_a_weight_from_codes_shows_scale_and_error_of_its_blocks(opened: Opened, width: int, dark: bool) -> None:
    browser = opened(f"codes-{dark}", CODES, width=width, dark=dark)
    browser.fold_sidebar()
    row(browser, "feed_forward.w3").click()
    picture = inspector(browser).get_by_alt_text("scale of each block, and largest relative error in each block")
    expect(picture).to_be_visible()
    assert picture.bounding_box()["width"] <= 420
    expect(inspector(browser)).to_contain_text("'model.layers.1.mlp.up_proj.weight' as published: 6 × 3 blocks of 32 × 32")
    browser.check_readable(least=20)


@IN_TWO_LOOKS
def test_every_word_of_a_view_has_contrast(opened: Opened, width: int, dark: bool) -> None:
    browser = opened(f"contrast-{dark}", DIFF, width=width, dark=dark)
    row(browser, "q_proj").click()
    expect(inspector(browser)).to_contain_text("Bitwise equal.", use_inner_text=True)
    expect(inspector(browser).locator("img")).to_be_visible()
    browser.check_readable(least=61)


def test_a_narrow_window_holds_a_view_without_overflow(opened: Opened) -> None:
    browser = opened("narrow", MAPPING, width=560)
    browser.fold_sidebar()
    row(browser, "w_qkv").click()
    expect(inspector(browser).locator("svg")).to_be_visible()
    expect(inspector(browser).locator("img")).to_be_visible()
    browser.check_readable()
    grid = browser.page.locator(".mfconv-left")
    assert grid.evaluate("(e) => e.scrollWidth - e.clientWidth") == 0
