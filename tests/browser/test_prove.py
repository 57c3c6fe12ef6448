"""The view of a proof in a real JupyterLab: filter by what noticed a mistake, choose one, see what it would have done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.lab import CHROMIUM, IN_TWO_LOOKS, NO_CHROMIUM, Browser, expect

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

CELL = "import mfconv_nb as mc\nmc.prove('llama')"


def opened_on_swapped_targets(opened: Callable[..., Browser], name: str, *, dark: bool = False, width: int = 1280) -> Browser:
    """The proof of Llama, filtered by numbers, with gate and up swapped chosen."""
    browser = opened(name, CELL, width=width, dark=dark)
    browser.page.get_by_role("button", name="21 numbers").click()
    rows = browser.page.locator(".mfconv-view .mfconv-grid tbody tr")
    expect(rows).to_have_count(3)
    rows.filter(has_text="targets swapped").click()
    browser.page.locator(".mfconv-view .mfconv-right select").select_option(label="…w1.weight and …w3.weight · qkv_concat=False")
    told = "33,792 of 33,792 numbers would have gone elsewhere"  # not those of the mistake before
    expect(browser.page.get_by_text(told)).to_be_visible()
    return browser


def test_a_mistake_is_found_by_a_chip_and_drawn_beside_the_right_layout(opened: Callable[..., Browser]) -> None:
    browser = opened_on_swapped_targets(opened, "prove")
    right = browser.page.locator(".mfconv-view .mfconv-right")
    expect(right.locator("svg.mfconv-drawing")).to_have_count(2)
    names = [f"model.layers.{{layer}}.feed_forward.{w}.weight" for w in ("w1", "w3", "w3", "w1")]
    expect(right.locator("b.mfconv-bad")).to_have_text(names, use_inner_text=True)
    expect(right).to_contain_text("Noticed by the numbers only", use_inner_text=True)
    first, second = (right.locator("svg.mfconv-drawing").nth(n).locator("text").all_text_contents() for n in (0, 1))
    order = [[t for t in texts if t in ("gate_proj", "up_proj")] for texts in (first, second)]
    assert order == [["gate_proj", "up_proj"] * 2, ["up_proj", "gate_proj"] * 2]


@IN_TWO_LOOKS
def test_every_word_has_contrast_and_nothing_overflows(opened: Callable[..., Browser], width: int, dark: bool) -> None:
    browser = opened_on_swapped_targets(opened, f"prove-{dark}-{width}", dark=dark, width=width)
    browser.check_readable(least=21)
