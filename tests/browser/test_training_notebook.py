"""The notebook on training runs in a real JupyterLab: Run All, the table of ranks and steps, and the map of a tensor that is chosen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser, Lab, browser_on

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.real_frameworks,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "from_training_to_hugging_face.ipynb"
TALL = 14_000  # JupyterLab draws only the cells that are on the screen


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 560)], ids=["light", "dark and narrow"])
def test_the_notebook_is_walked_through(lab: Lab, pictures: Path, dark: bool, width: int) -> None:
    name = f"training-{width}.ipynb"
    shutil.copy(NOTEBOOK, lab.folder / name)
    with browser_on(lab, width=width, height=TALL) as browser:
        browser.open(name)
        browser.use_theme(dark)
        if width < 800:
            browser.fold_sidebar()
        browser.run_all()
        equal = browser.page.locator(".mfconv-v:visible:has-text('✓ Equal.')")
        equal.nth(1).wait_for(timeout=120_000)
        choose_a_tensor(browser)
        browser.screenshot(pictures / "training.png")
        measured = browser.measured(dark)
        assert measured["worst"][0] >= 4.5, measured["worst"]
        assert measured["over"] <= 0
        text = browser.page.locator(".jp-Notebook").inner_text()
        for code in ("MFC112", "MFC308", "MFC113"):
            assert f"{code} " in text
        assert browser.page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert browser.outside == []


def choose_a_tensor(browser: Browser) -> None:
    """The view of the run: ranks and steps stay above, and the map of the tensor that is chosen appears, with its ranks in it."""
    view = browser.page.locator(".mfconv-view", has_text="run state")
    assert view.locator("table.mfconv-t th", has_text="1_200 ←").is_visible()
    view.locator(".mfconv-grid tbody tr", has_text="{2‥3}.attention.wq.weight").first.click()
    drawn = view.locator(".mfconv-right svg.mfconv-drawing")
    drawn.wait_for()
    assert "ranks 4, 6" in (drawn.text_content() or "")
    assert view.locator("table.mfconv-t th", has_text="1_200 ←").is_visible()
    view.get_by_role("button", name="78 optimizer").click()
    view.locator(".mfconv-grid tbody td:text-matches('^model')").first.wait_for(state="detached")
    assert view.locator(".mfconv-grid tbody tr", has_text="adam_v.").count() > 0
    for box in browser.page.locator("svg.mfconv-drawing:visible").all():
        place = box.bounding_box()
        assert place is not None
        assert place["width"] > 150
