"""The views of results in a real JupyterLab: filter, sort, search, open, inspect, by mouse and by keyboard."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser, Lab
from tests.support import write_with_a_hole

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


def rows(browser: Browser) -> list[str]:
    return [text.replace("\n", "").replace("\t", " ") for text in browser.page.locator(".mfconv-grid tbody tr").all_inner_texts()]


def row(browser: Browser, text: str) -> Any:
    return browser.page.locator(".mfconv-grid tbody tr", has_text=text).first


def inspector(browser: Browser) -> Any:
    return browser.page.locator(".mfconv-view .mfconv-right")


def shown(browser: Browser, selector: str = ".mfconv-grid tbody tr") -> Browser:
    browser.page.wait_for_selector(f".mfconv-view {selector}")
    return browser


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_rows(browser: Browser, number: int) -> None:
    browser.page.wait_for_function(f"() => document.querySelectorAll('.mfconv-view .mfconv-grid tbody tr').length === {number}")


def test_a_mapping_is_one_row_a_rule_and_says_its_counts(opened: Opened) -> None:
    browser = shown(opened("mapping", MAPPING))
    assert len(rows(browser)) == len(mc.map(mc.toy("llama"), qkv_concat=True).table().rows)
    chips = browser.page.locator(".mfconv-view button.mfconv-chip")
    assert chips.all_inner_texts()[:3] == ["all 39", "39 mapped", "0 tied"]
    assert chips.nth(1).is_enabled()
    assert chips.nth(2).is_disabled()
    assert browser.page.locator(".mfconv-static").is_hidden()  # its information is in the view, once


def test_search_finds_single_layers_and_says_what_is_near(opened: Opened) -> None:
    browser = shown(opened("search", MAPPING))
    everything = len(rows(browser))
    search = browser.page.get_by_placeholder("search names")
    search.fill("layers.2.*k_proj")
    wait_for_rows(browser, 1)
    assert "w_qkv" in rows(browser)[0]
    search.fill("model.layers.0.self_attn.k_prog.weight")
    wait_for_rows(browser, 0)
    browser.page.wait_for_selector("text=Nearest name: model.layers.0.self_attn.")
    search.fill("")
    wait_for_rows(browser, everything)


def test_a_heading_sorts_and_sorts_the_other_way(opened: Opened) -> None:
    browser = shown(opened("sort", MAPPING))
    specs = mc.map(mc.toy("llama"), qkv_concat=True).specs
    for downwards, first in ((False, min(s.elements for s in specs)), (True, max(s.elements for s in specs))):
        browser.page.get_by_role("button", name="shape").click()
        browser.page.wait_for_selector(f"th[aria-sort='{'descending' if downwards else 'ascending'}']")
        until(lambda first=first: elements(browser)[0] == first)
        assert elements(browser) == sorted(elements(browser), reverse=downwards)


def elements(browser: Browser) -> list[int]:
    """What the shape of each row comes to."""
    cells = browser.page.locator(".mfconv-grid tbody tr td.mfconv-n:not(.mfconv-o)").all_inner_texts()
    return [math.prod(int(n) for n in re.findall(r"\d+", text)) for text in cells[::2]]


def test_a_row_opens_its_tensors_and_a_tensor_shows_drawing_element_and_values(opened: Opened) -> None:
    mapped = mc.map(mc.toy("llama"), qkv_concat=True)
    name = "model.layers.2.attention.w_qkv.weight"
    numbers = mc.read(mapped, name).astype(np.float64)
    browser = shown(opened("inspect", MAPPING))
    row(browser, "w_qkv").click()
    inspector(browser).locator("select").select_option(label=name)
    inspector(browser).locator("svg").wait_for()
    inspector(browser).get_by_text("(q + k + v) hidden", exact=False).first.wait_for()
    index = browser.page.get_by_placeholder("index")
    index.fill("130, 5")
    index.press("Enter")
    inspector(browser).get_by_text("[10, 5]").first.wait_for()  # 120 rows of q stand before k
    inspector(browser).locator("img").wait_for()
    said = inspector(browser).inner_text()
    for statistic in (f"{numbers.size:,}", f"{numbers.min():.6g}", f"{numbers.max():.6g}", f"{numbers.mean():.6g}"):
        assert statistic in said
    assert browser.page.locator(".mfconv-copy").inner_text() == f"mapped.report.explain('{name}')"


def test_an_index_outside_a_tensor_is_refused_in_words(opened: Opened) -> None:
    browser = shown(opened("outside", MAPPING))
    row(browser, "tok_embeddings").click()
    index = browser.page.get_by_placeholder("index")
    index.fill("331, 0")
    index.press("Enter")
    inspector(browser).get_by_text("MFC").wait_for()


def test_the_keyboard_alone_chooses_rows(opened: Opened) -> None:
    browser = shown(opened("keys", MAPPING))
    browser.page.locator(".mfconv-grid tbody tr").first.focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        browser.page.keyboard.press(key)
    chosen = browser.page.locator(".mfconv-grid tbody tr[aria-selected='true']")
    assert chosen.count() == 1
    assert chosen.inner_text() == browser.page.locator(".mfconv-grid tbody tr").nth(2).inner_text()
    inspector(browser).locator("img").wait_for()
    browser.page.keyboard.press("End")
    browser.page.wait_for_selector(".mfconv-grid tbody tr:last-child[aria-selected='true']")


def test_a_diff_filters_by_status_marks_axes_and_hints(opened: Opened) -> None:
    browser = shown(opened("diff", DIFF))
    everything = len(rows(browser))
    browser.page.get_by_role("button", name="1 shape").click()
    wait_for_rows(browser, 1)
    row(browser, "model.norm.weight").click()
    inspector(browser).locator("b.mfconv-bad", has_text="96").wait_for()
    browser.page.get_by_role("button", name="1 missing").click()
    browser.page.wait_for_selector(".mfconv-grid tr:has-text('lm_head')")
    row(browser, "lm_head").click()
    inspector(browser).get_by_text("nearest: lm_heads.weight").wait_for()
    browser.page.get_by_role("button", name="all 40").click()
    wait_for_rows(browser, everything)


def test_differing_values_are_drawn_and_equal_ones_are_said(opened: Opened) -> None:
    browser = shown(opened("values", DIFF))
    inspector(browser).locator("img").wait_for()  # the map of differences, before anything is chosen
    row(browser, "differ").click()
    inspector(browser).get_by_text("5 of 16,896 numbers differ").first.wait_for()
    inspector(browser).locator("img").nth(1).wait_for()
    assert inspector(browser).locator("img").count() == 2
    row(browser, "down_proj").click()
    until(lambda: inspector(browser).locator("img").count() == 1)
    assert "Bitwise equal." in inspector(browser).inner_text()


def test_reading_a_huge_tensor_shows_progress_can_be_cancelled_and_sampled(opened: Opened, lab: Lab) -> None:
    write_with_a_hole(lab.folder / "huge.safetensors", {"weight": (1 << 16, 1 << 16)})  # 8 GiB of zeros, no room on the disk
    browser = shown(opened("huge", "import mfconv_nb as mc\nmc.diff('huge.safetensors', 'huge.safetensors')"))
    row(browser, "weight").click()
    inspector(browser).get_by_role("button", name="Show values (24.0 GiB)").click()
    until(lambda: any("width: 0%" not in str(style) for style in bars(browser)))
    inspector(browser).get_by_role("button", name="Cancel").click()
    inspector(browser).get_by_text("Cancelled.").wait_for(timeout=3_000)
    inspector(browser).get_by_role("button", name="Sample them").click()
    inspector(browser).locator("img").wait_for(timeout=10_000)
    assert "4,294,967,296" in inspector(browser).inner_text()


def bars(browser: Browser) -> list[str | None]:
    return [bar.get_attribute("style") for bar in inspector(browser).locator(".progress-bar").all()]


def test_a_round_trip_says_its_verdict_and_every_condition(opened: Opened) -> None:
    cell = "import mfconv_nb as mc\nmc.toy('llama', 'trip')\nmc.save(mc.map(mc.load('trip')), 'trip.ckpt')\nmc.verify('trip', 'trip.ckpt')"
    browser = shown(opened("verify", cell))
    text = browser.page.locator(".mfconv-view").inner_text()
    assert "✓ Equal." in text
    assert text.count("✓") == 4
    assert "All 39 tensors are bitwise equal" in text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_of_a_view_has_contrast(opened: Opened, dark: bool) -> None:
    browser = shown(opened(f"contrast-{dark}", DIFF, dark=dark))
    row(browser, "q_proj").click()
    inspector(browser).locator("img").wait_for()
    found = browser.measured(dark)
    assert found["checked"] > 60
    assert found["worst"][0] >= 4.5, found["worst"]


@pytest.mark.parametrize("width", [560, 1280])
def test_a_window_holds_a_view_without_overflow(opened: Opened, width: int) -> None:
    browser = shown(opened(f"width-{width}", MAPPING, width=width))
    if width < 800:
        browser.fold_sidebar()
    row(browser, "w_qkv").click()
    inspector(browser).locator("svg").wait_for()
    assert browser.measured(dark=False)["over"] == 0
    grid = browser.page.locator(".mfconv-left")
    assert grid.evaluate("(e) => e.scrollWidth - e.clientWidth") == 0
