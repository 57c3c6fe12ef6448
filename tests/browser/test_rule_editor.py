"""The editor of rules in a real JupyterLab: type, see where it is wrong, put it right, fill what is left over, save, and map."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.families.own import family_in_file
from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser, Lab

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

Opened = Callable[..., Browser]
CELL = """import mfconv_nb as mc
toy = mc.toy("baichuan2")
mf = mc.map(toy, "baichuan2")
editor = mc.edit(mc.suggest(toy, mf), toy, mf)
editor"""


def field(browser: Browser, label: str) -> Any:
    return browser.page.locator(".mfconv-view").get_by_label(label, exact=True)


def button(browser: Browser, name: str, exact: bool = True) -> Any:
    return browser.page.locator(".mfconv-view").get_by_role("button", name=name, exact=exact)


def row(browser: Browser, text: str) -> Any:
    return browser.page.locator(".mfconv-view .mfconv-grid tbody tr", has_text=text)


def counts(browser: Browser, text: str) -> None:
    browser.page.locator(f".mfconv-tally:text-is('{text}')").wait_for()


def test_a_caret_shows_the_character_and_the_counts_follow_what_is_typed(opened: Opened) -> None:
    browser = opened("caret", CELL)
    row(browser, "o_proj").click()
    field(browser, "layout").fill("hidden (from_hidden")
    browser.page.wait_for_selector("pre.mfconv-caret")
    assert browser.page.locator("pre.mfconv-caret").inner_text() == f"hidden (from_hidden\n{' ' * 19}^"
    family = browser.page.locator("pre.mfconv-caret").evaluate("(e) => getComputedStyle(e).fontFamily")
    assert "mono" in family
    counts(browser, "1 faulty row")
    counts(browser, "0 unmatched hf")  # its names are as they were
    assert row(browser, "o_proj").locator("td").first.inner_text() == "✗"
    field(browser, "layout").press("End")
    field(browser, "layout").press_sequentially(")", delay=20)
    browser.page.wait_for_selector(".mfconv-view >> text=matches 3 tensors on each side")
    assert browser.page.locator("pre.mfconv-caret").count() == 0
    assert browser.page.locator(".mfconv-view svg.mfconv-drawing").is_visible()
    field(browser, "layout").fill("vocab hidden")
    counts(browser, "3 shape errors")
    browser.page.wait_for_selector(".mfconv-view th:text-is('expected') + td:has-text('331')")
    assert field(browser, "layout").input_value() == "vocab hidden"


def test_what_is_left_over_becomes_a_row_and_the_saved_file_maps(opened: Opened, lab: Lab) -> None:
    browser = opened("save", CELL)
    row(browser, "o_proj").click()
    browser.page.wait_for_selector(".mfconv-view >> text=matches 3 tensors on each side")
    button(browser, "Delete").click()
    counts(browser, "3 unmatched hf")
    counts(browser, "3 unmatched mf")
    button(browser, "self_attn.o_proj.weight", exact=False).click()
    browser.page.wait_for_function("() => document.activeElement.tagName === 'TEXTAREA'")  # ready for the other name
    assert field(browser, "hf").input_value() == "model.layers.{layer}.self_attn.o_proj.weight"
    counts(browser, "0 unmatched hf")
    button(browser, "attention.wo.weight", exact=False).click()
    counts(browser, "0 unmatched mf")
    assert field(browser, "mf").input_value() == "model.layers.{layer}.attention.wo.weight"
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
    row(browser, "embed_tokens").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
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
    row(browser, "o_proj").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("hidden hidden")
    page.wait_for_selector("text=row 3:")
    page.wait_for_selector(".mfconv-bad:has-text('✗')")
    for name in ("Delete", "Undo"):
        button(browser, name).focus()
        page.keyboard.press("Enter" if name == "Delete" else " ")
        counts(browser, "3 unmatched hf" if name == "Delete" else "0 unmatched hf")
    button(browser, "Save").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=MFC311")  # the row is still wrong
    assert not (lab.folder / "my_model.py").exists()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [560, 1280])
def test_it_is_readable_in_both_themes_and_fits_the_window(opened: Opened, dark: bool, width: int) -> None:
    browser = opened(f"look-{width}-{dark}", CELL, width=width)
    browser.use_theme(dark)  # the server keeps what the test before has chosen
    if width < 800:
        browser.fold_sidebar()
    row(browser, "gate_proj").click()
    button(browser, "Delete").click()
    counts(browser, "3 unmatched hf")
    row(browser, "o_proj").click()
    field(browser, "layout").fill("hidden (from_hidden")
    browser.page.wait_for_selector("pre.mfconv-caret")
    found = browser.measured(dark)
    assert found["checked"] > 60
    assert found["worst"][0] >= 4.5, found["worst"]
    assert found["over"] == 0
    layout = browser.page.locator(".mfconv-grid th:text-is('layout')")
    assert layout.is_visible() == (width > 800)


def test_a_saved_notebook_keeps_the_draft_as_a_table_without_a_script(opened: Opened, lab: Lab) -> None:
    browser = opened("kept", CELL)
    browser.page.wait_for_selector(".mfconv-view .mfconv-grid")
    assert not browser.page.locator(".mfconv-static").is_visible()  # the editor stands in its place
    browser.save()
    outputs = json.loads((lab.folder / "kept.ipynb").read_text())["cells"][0]["outputs"]
    kept = "".join("".join(o["data"].get("text/html", "")) for o in outputs if "data" in o)
    assert "mfconv-static" in kept
    assert "o_proj" in kept
    assert "<script" not in kept


def test_the_family_of_the_editor_is_what_was_typed(opened: Opened) -> None:
    told = 'rule = next(r for r in editor.family.rules if "o_proj" in str(r.hf))\nprint("said", rule.layout)'
    browser = opened("python", CELL, "pass")
    row(browser, "o_proj").click()
    browser.page.wait_for_selector(".mfconv-view >> text=row 3: matches")
    field(browser, "layout").press("End")
    field(browser, "layout").press_sequentially(" 1 -> hidden from_hidden 1", delay=5)
    browser.page.wait_for_selector(".mfconv-view >> text=of another shape")
    panel = "[...window.jupyterapp.shell.widgets('main')].find((w) => w.content?.widgets)"
    browser.page.evaluate(f"(source) => {panel}.content.widgets[1].model.sharedModel.setSource(source)", told)
    browser.run_cell(1)
    browser.page.wait_for_selector("text=said hidden from_hidden 1 -> hidden from_hidden 1")
