"""The view of a proof in a real JupyterLab: filter by what noticed a mistake, choose one, see what it would have done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

CELL = "import mfconv_nb as mc\nmc.prove('llama')"


def opened_on_swapped_targets(opened: Callable[..., Browser], name: str, *, dark: bool = False, width: int = 1280) -> Browser:
    """The proof of Llama, filtered by numbers, with gate and up swapped chosen."""
    browser = opened(name, CELL, width=width)
    browser.use_theme(dark)  # the lab remembers the one before
    browser.page.wait_for_selector(".mfconv-view .mfconv-grid tbody tr")
    browser.page.get_by_role("button", name="21 numbers").click()
    rows = browser.page.locator(".mfconv-view .mfconv-grid tbody tr")
    browser.page.wait_for_function("() => document.querySelectorAll('.mfconv-view .mfconv-grid tbody tr').length === 3")
    rows.filter(has_text="targets swapped").click()
    browser.page.locator(".mfconv-view .mfconv-right select").select_option(label="…w1.weight and …w3.weight · qkv_concat=False")
    browser.page.get_by_text("33,792 of 33,792 numbers would have gone elsewhere").wait_for()  # not those of the mistake before
    return browser


def test_a_mistake_is_found_by_a_chip_and_drawn_beside_the_right_layout(opened: Callable[..., Browser]) -> None:
    browser = opened_on_swapped_targets(opened, "prove")
    right = browser.page.locator(".mfconv-view .mfconv-right")
    right.locator("svg.mfconv-drawing").nth(1).wait_for()
    assert right.locator("svg.mfconv-drawing").count() == 2
    assert right.locator("b.mfconv-bad").all_inner_texts() == [
        f"model.layers.{{layer}}.feed_forward.{w}.weight" for w in ("w1", "w3", "w3", "w1")
    ]
    assert "Noticed by the numbers only" in right.inner_text()
    first, second = (right.locator("svg.mfconv-drawing").nth(n).locator("text").all_text_contents() for n in (0, 1))
    order = [[t for t in texts if t in ("gate_proj", "up_proj")] for texts in (first, second)]
    assert order == [["gate_proj", "up_proj"] * 2, ["up_proj", "gate_proj"] * 2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 560])
def test_every_word_has_contrast_and_nothing_overflows(opened: Callable[..., Browser], dark: bool, width: int) -> None:
    browser = opened_on_swapped_targets(opened, f"prove-{dark}-{width}", dark=dark, width=width)
    measured = browser.measured(dark)
    assert measured["checked"] > 20
    assert measured["worst"][0] >= 4.5, measured["worst"]
    assert measured["over"] <= 0
