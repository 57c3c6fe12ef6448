"""The notebook on a new architecture in a real JupyterLab: Run All, then what a reader tries in the editor and in the proof."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser, Lab, expect, run_through

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("mindspore", reason="mindspore is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.real_frameworks,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "adapt_a_new_architecture.ipynb"
RIGHT = "(heads (q + k + v)) hidden -> (heads q + heads k + heads v) hidden"


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 560)], ids=["light", "dark and narrow"])
def test_the_notebook_is_walked_through(lab: Lab, tmp_path: Path, dark: bool, width: int) -> None:
    with run_through(lab, NOTEBOOK, dark=dark, width=width, height=16_000) as browser:
        walk_through(browser, lambda step: browser.screenshot(tmp_path / f"{step}.png"))
    assert [p.name for p in lab.folder.iterdir() if p.suffix not in (".ipynb", "") or "neox" in p.name] == []


def walk_through(browser: Browser, keep: Callable[[str], object]) -> None:
    for verdict in ("✓ Every name has a rule.", "✓ Headers agree.", "≈ Equal in another order.", "✓ Proved.", "✓ Equal."):
        expect(browser.page.locator(f".mfconv-v:visible:has-text('{verdict}')").first).to_be_visible()
    expect(browser.page.locator(".jp-Notebook")).to_contain_text("same word 100%", use_inner_text=True)
    keep("all")
    break_and_mend(browser, keep)
    look_at_a_mistake(browser)
    keep("mistake")


def break_and_mend(browser: Browser, keep: Callable[[str], object]) -> None:
    """The row of the fused matrix: a bracket too few, a caret under it, and the right sentence again, once typed and once by Undo."""
    editor = browser.page.locator(".mfconv-view", has=browser.page.get_by_role("button", name="Undo", exact=True))
    row = editor.locator(".mfconv-grid tbody tr", has_text="query_key_value.weight")
    mark, caret = row.locator("td").first, editor.locator("pre.mfconv-caret")
    row.click()
    layout = editor.get_by_label("layout", exact=True)
    expect(layout).to_have_value(RIGHT)
    layout.fill(RIGHT.replace("v))", "v)"))
    expect(caret).to_have_text(re.compile(r"^\(heads \(q \+ k \+ v\).*\n *\^ *$"))
    expect(mark).to_have_text("✗")
    expect(editor.locator(".mfconv-tally:text-is('1 faulty row')")).to_be_visible()
    keep("caret")
    layout.fill(RIGHT)
    expect(editor.get_by_text("✓ Every name has a row.")).to_be_visible()
    expect(mark).to_have_text("✓")
    expect(caret).to_have_count(0)
    layout.fill("heads hidden")
    expect(mark).to_have_text("✗")
    editor.get_by_role("button", name="Undo", exact=True).click()
    expect(editor.get_by_text("✓ Every name has a row.")).to_be_visible()
    expect(layout).to_have_value(RIGHT)
    keep("mended")


def look_at_a_mistake(browser: Browser) -> None:
    """A mistake of the proof: two drawings, the right one and where the numbers would have gone."""
    proof = browser.page.locator(".mfconv-view", has_text="Noticed")
    proof.locator(".mfconv-grid tbody tr", has_text="parts reordered").click()
    right = proof.locator(".mfconv-right")
    expect(right.get_by_text("numbers would have gone elsewhere")).to_be_visible()
    expect(right.locator("svg.mfconv-drawing")).to_have_count(2)
    expect(right).to_contain_text("heads", use_inner_text=True)
