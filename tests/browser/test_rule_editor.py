"""The editor of rules in a real JupyterLab: type, see where it is wrong, put it right, fill what is left over, save, and map."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.families.user_families import family_in_file
from tests.browser.lab import CHROMIUM, IN_TWO_LOOKS, NO_CHROMIUM, Browser, Lab, expect, rows

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

Opened = Callable[..., Browser]
CELL = """import mfconv_nb as mc
toy = mc.toy("baichuan2")
mf = mc.map(toy, "baichuan2")
editor = mc.author.edit(mc.author.suggest(toy, mf), toy, mf)
editor"""


def field(browser: Browser, label: str) -> Any:
    return browser.page.locator(".mfconv-view").get_by_label(label, exact=True)


def button(browser: Browser, name: str, exact: bool = True) -> Any:
    return browser.page.locator(".mfconv-view").get_by_role("button", name=name, exact=exact)


def choose(browser: Browser, text: str) -> None:
    """Click a row, and wait until the fields are filled with it: what is typed earlier would be written over."""
    number = rows(browser, text).locator("td").nth(1).inner_text()
    rows(browser, text).click()
    expect(browser.page.locator(".mfconv-view .mfconv-right")).to_contain_text(f"row {number}:", use_inner_text=True)


def counts(browser: Browser, text: str) -> None:
    expect(browser.page.locator(f".mfconv-tally:text-is('{text}')")).to_be_visible()


def test_a_caret_shows_the_character_and_the_counts_follow_what_is_typed(opened: Opened) -> None:
    browser = opened("caret", CELL)
    caret, mark = browser.page.locator("pre.mfconv-caret"), rows(browser, "o_proj").locator("td").first
    choose(browser, "o_proj")
    field(browser, "layout").fill("hidden (from_hidden")
    expect(caret).to_have_text(re.compile(r"^hidden \(from_hidden\n {19}\^$"))
    assert "mono" in caret.evaluate("(e) => getComputedStyle(e).fontFamily")
    counts(browser, "1 faulty row")
    counts(browser, "0 unmatched hf")  # its names are as they were
    expect(mark).to_have_text("✗")
    field(browser, "layout").press("End")
    field(browser, "layout").press_sequentially(")", delay=20)
    browser.page.wait_for_selector(".mfconv-view >> text=matches 3 tensors on each side")
    expect(caret).to_have_count(0)
    expect(browser.page.locator(".mfconv-view svg.mfconv-drawing")).to_be_visible()
    field(browser, "layout").fill("vocab hidden")
    counts(browser, "3 shape errors")
    browser.page.wait_for_selector(".mfconv-view th:text-is('expected') + td:has-text('331')")
    expect(field(browser, "layout")).to_have_value("vocab hidden")


def test_what_is_left_over_becomes_a_row_and_the_saved_file_maps(opened: Opened, lab: Lab) -> None:
    browser = opened("save", CELL)
    choose(browser, "o_proj")
    button(browser, "Delete").click()
    counts(browser, "3 unmatched hf")
    counts(browser, "3 unmatched mf")
    button(browser, "self_attn.o_proj.weight", exact=False).click()
    expect(field(browser, "mf")).to_be_focused()  # ready for the other name
    expect(field(browser, "hf")).to_have_value("model.layers.{layer}.self_attn.o_proj.weight")
    counts(browser, "0 unmatched hf")
    expect(button(browser, "self_attn.o_proj.weight", exact=False)).to_have_count(0)  # the buttons of names are new ones now
    button(browser, "attention.wo.weight", exact=False).click()
    counts(browser, "0 unmatched mf")
    expect(field(browser, "mf")).to_have_value("model.layers.{layer}.attention.wo.weight")
    browser.page.wait_for_selector(".mfconv-view >> text=✓ Every name has a row.")
    field(browser, "key").fill("mine")
    field(browser, "save as").fill("mine.py")
    button(browser, "Save").click()
    browser.page.wait_for_selector("text=Saved as mine.py")
    browser.page.wait_for_selector(".mfconv-copy:has-text(\"mc.map(hf, 'mine.py')\")")
    family = family_in_file(lab.folder / "mine.py")
    assert family.key == "mine"
    toy = mc.toy("baichuan2")
    assert mc.diff(mc.map(toy, str(lab.folder / "mine.py")), mc.map(toy, "baichuan2"), values=True).equal
    button(browser, "Save").click()
    browser.page.wait_for_selector("text=MFC401")


def test_the_keyboard_alone_reaches_everything(opened: Opened, lab: Lab) -> None:
    browser = opened("keys", CELL)
    page = browser.page
    lines = rows(browser)
    lines.filter(has_text="embed_tokens").focus()
    for place in (1, 2):
        page.keyboard.press("ArrowDown")
        expect(lines.nth(place)).to_be_focused()
    page.wait_for_selector(".mfconv-view >> text=row 3: matches 3 tensors")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.labels?.[0]?.innerText || document.activeElement.innerText"))
        if reached[-1] == "Save":
            break
    expected = ["kind", "hf", "mf", "layout", "constants", "only if", "optional", "mf dtype", "key", "covers", "sizes", "save as"]
    assert [name for name in reached if name in expected] == expected
    assert "replace what is there" in reached
    rows(browser, "o_proj").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(field(browser, "layout")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("hidden hidden")
    expect(rows(browser, "hidden hidden").locator("td").first).to_have_text("✗")
    for name, key, unmatched in (("Delete", "Enter", "3 unmatched hf"), ("Undo", " ", "0 unmatched hf")):
        button(browser, name).press(key)
        counts(browser, unmatched)
    button(browser, "Save").press("Enter")
    page.wait_for_selector("text=MFC311")  # the row is still wrong
    assert not (lab.folder / "my_model.py").exists()


@IN_TWO_LOOKS
def test_it_is_readable_and_fits_the_window(opened: Opened, width: int, dark: bool) -> None:
    browser = opened(f"look-{width}-{dark}", CELL, width=width, dark=dark)
    if width < 800:
        browser.fold_sidebar()
    choose(browser, "gate_proj")
    button(browser, "Delete").click()
    counts(browser, "3 unmatched hf")
    choose(browser, "o_proj")
    field(browser, "layout").fill("hidden (from_hidden")
    expect(browser.page.locator("pre.mfconv-caret")).to_be_visible()
    browser.check_readable(least=61)
    expect(browser.page.locator(".mfconv-grid th:text-is('layout')")).to_be_visible(visible=width > 800)


def test_a_saved_notebook_keeps_the_draft_as_a_table_without_a_script(opened: Opened, lab: Lab) -> None:
    browser = opened("kept", CELL)
    expect(browser.page.locator(".mfconv-view .mfconv-grid")).to_be_visible()
    expect(browser.page.locator(".mfconv-static")).to_be_hidden()  # the editor stands in its place
    browser.save()
    outputs = json.loads((lab.folder / "kept.ipynb").read_text())["cells"][0]["outputs"]
    kept = "".join("".join(o["data"].get("text/html", "")) for o in outputs if "data" in o)
    assert "mfconv-static" in kept
    assert "o_proj" in kept
    assert "<script" not in kept


def test_the_family_of_the_editor_is_what_was_typed(opened: Opened) -> None:
    told = 'rule = next(r for r in editor.family.rules if "o_proj" in str(r.hf))\nprint("said", rule.layout)'
    browser = opened("python", CELL, told)
    choose(browser, "o_proj")
    field(browser, "layout").press("End")
    field(browser, "layout").press_sequentially(" 1 -> hidden from_hidden 1", delay=5)
    said = "hidden from_hidden 1 -> hidden from_hidden 1"
    expect(rows(browser, "o_proj")).to_contain_text(said)
    browser.page.wait_for_selector(".mfconv-view >> text=of another shape")
    browser.run_cell(1)
    browser.page.wait_for_selector(f"text=said {said}")
