"""The notebook on training runs in a real JupyterLab: Run All, the table of ranks and steps, and the map of a tensor that is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser, Lab, expect, run_through

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.real_frameworks,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "from_training_to_hugging_face.ipynb"


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 560)], ids=["light", "dark and narrow"])
def test_the_notebook_is_walked_through(lab: Lab, pictures: Path, dark: bool, width: int) -> None:
    with run_through(lab, NOTEBOOK, dark=dark, width=width, height=14_000) as browser:
        expect(browser.page.locator(".mfconv-v:visible:has-text('✓ Equal.')").nth(1)).to_be_visible()
        for code in ("MFC112", "MFC308", "MFC113"):
            expect(browser.page.locator(".jp-Notebook")).to_contain_text(f"{code} ", use_inner_text=True)
        choose_a_tensor(browser)
        browser.screenshot(pictures / "training.png")


def choose_a_tensor(browser: Browser) -> None:
    """The view of the run: ranks and steps stay above, and the map of the tensor that is chosen appears, with its ranks in it."""
    view = browser.page.locator(".mfconv-view", has_text="run state")
    step = view.locator("table.mfconv-t th", has_text="1_200 ←")
    expect(step).to_be_visible()
    view.locator(".mfconv-grid tbody tr", has_text="{2‥3}.attention.wq.weight").first.click()
    expect(view.locator(".mfconv-right svg.mfconv-drawing")).to_contain_text("ranks 4, 6")
    expect(step).to_be_visible()
    view.get_by_role("button", name="78 optimizer").click()
    expect(view.locator(".mfconv-grid tbody td:text-matches('^model')")).to_have_count(0)
    expect(view.locator(".mfconv-grid tbody tr", has_text="adam_v.").first).to_be_visible()
    drawings = browser.page.locator("svg.mfconv-drawing:visible")
    assert min(drawings.evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().width)")) > 150
