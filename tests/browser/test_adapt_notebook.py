"""The notebook on a new architecture in a real JupyterLab: Run All, then what a reader tries in the editor and in the proof."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser, Lab, browser_on

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("mindspore", reason="mindspore is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.real_frameworks,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "adapt_a_new_architecture.ipynb"
TALL = 16_000  # JupyterLab draws only the cells that are on the screen
RIGHT = "(heads (q + k + v)) hidden -> (heads q + heads k + heads v) hidden"


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 560)], ids=["light", "dark and narrow"])
def test_the_notebook_is_walked_through(lab: Lab, tmp_path: Path, dark: bool, width: int) -> None:
    name = f"adapt-{width}.ipynb"
    shutil.copy(NOTEBOOK, lab.folder / name)
    with browser_on(lab, width=width, height=TALL) as browser:
        browser.open(name)
        browser.use_theme(dark)
        if width < 800:
            browser.fold_sidebar()
        browser.run_all()
        seen(browser, "✓ Equal.").last.wait_for(timeout=120_000)
        walk_through(browser, lambda step: browser.screenshot(tmp_path / f"{step}.png"))
        measured = browser.measured(dark)
        assert measured["worst"][0] >= 4.5, measured["worst"]
        assert measured["over"] <= 0
        assert browser.page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert browser.outside == []
    assert [p.name for p in lab.folder.iterdir() if p.suffix not in (".ipynb", "") or "neox" in p.name] == []


def seen(browser: Browser, verdict: str) -> Any:
    return browser.page.locator(f".mfconv-v:visible:has-text('{verdict}')")


def walk_through(browser: Browser, keep: Callable[[str], object]) -> None:
    for verdict in ("✓ Every name has a rule.", "✓ Headers agree.", "≈ Equal in another order.", "✓ Proved.", "✓ Equal."):
        assert seen(browser, verdict).count() >= 1, verdict
    text = browser.page.locator(".jp-Notebook").inner_text()
    assert "same word 100%" in text
    keep("all")
    break_and_mend(browser, keep)
    look_at_a_mistake(browser)
    keep("mistake")


def break_and_mend(browser: Browser, keep: Callable[[str], object]) -> None:
    """The row of the fused matrix: a bracket too few, a caret under it, and the right sentence again, once typed and once by Undo."""
    editor = browser.page.locator(".mfconv-view", has=browser.page.get_by_role("button", name="Undo", exact=True))
    row = editor.locator(".mfconv-grid tbody tr", has_text="query_key_value.weight")
    row.click()
    layout = editor.get_by_label("layout", exact=True)
    browser.page.wait_for_function("(e) => e.value.startsWith('(heads (q')", arg=layout.element_handle())
    assert layout.input_value() == RIGHT
    layout.fill(RIGHT.replace("v))", "v)"))
    editor.locator("pre.mfconv-caret").wait_for()
    sentence, mark = editor.locator("pre.mfconv-caret").inner_text().split("\n")
    assert sentence.startswith("(heads (q + k + v)")
    assert mark.strip() == "^"
    assert row.locator("td").first.inner_text() == "✗"
    editor.locator(".mfconv-tally:text-is('1 faulty row')").wait_for()
    keep("caret")
    layout.fill(RIGHT)
    editor.get_by_text("✓ Every name has a row.").wait_for()
    assert row.locator("td").first.inner_text() == "✓"
    assert editor.locator("pre.mfconv-caret").count() == 0
    layout.fill("heads hidden")
    editor.locator(".mfconv-bad:has-text('✗')").first.wait_for()
    editor.get_by_role("button", name="Undo", exact=True).click()
    editor.get_by_text("✓ Every name has a row.").wait_for()
    assert layout.input_value() == RIGHT
    keep("mended")


def look_at_a_mistake(browser: Browser) -> None:
    """A mistake of the proof: two drawings, the right one and where the numbers would have gone."""
    proof = browser.page.locator(".mfconv-view", has_text="Noticed")
    proof.locator(".mfconv-grid tbody tr", has_text="parts reordered").click()
    right = proof.locator(".mfconv-right")
    right.get_by_text("numbers would have gone elsewhere").wait_for()
    right.locator("svg.mfconv-drawing").nth(1).wait_for()
    assert right.locator("svg.mfconv-drawing").count() == 2
    assert "heads" in right.inner_text()
