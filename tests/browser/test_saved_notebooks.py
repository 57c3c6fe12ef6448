"""Real notebooks in a real JupyterLab: run, saved, and read again on a machine without a kernel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Lab, browser_on

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def without_kernel(lab: Lab, notebook: str) -> str:
    """A copy that names neither kernel nor language, so that JupyterLab must ask; by the language alone it starts the one kernel of it."""
    found = nbformat.read(lab.folder / notebook, as_version=4)
    for name in ("kernelspec", "language_info"):
        found.metadata.pop(name, None)
    nbformat.write(found, lab.folder / f"read_{notebook}")
    return f"read_{notebook}"


def test_the_quickstart_runs_and_its_saved_copy_is_read_without_a_kernel(lab: Lab) -> None:
    shutil.copy(NOTEBOOKS / "quickstart.ipynb", lab.folder / "quickstart.ipynb")
    with browser_on(lab, height=9000) as browser:  # JupyterLab draws only the cells that are on the screen
        browser.open("quickstart.ipynb")
        browser.run_all()
        browser.page.wait_for_selector("td:has-text('max_ulp'), th:has-text('max_ulp')", timeout=60_000)  # the last cell
        live = browser.page.locator(".jp-Notebook").inner_text()
        browser.save()
        assert browser.outside == []
    saved = (lab.folder / "quickstart.ipynb").read_text()
    views = [o for cell in json.loads(saved)["cells"] for o in cell.get("outputs", ()) if "text/html" in o.get("data", {})]
    assert len(views) >= 8
    assert max(len(json.dumps(o)) for o in views) < 100_000
    with browser_on(lab, height=9000) as browser:
        browser.page.goto(f"{lab.address}/lab/tree/{without_kernel(lab, 'quickstart.ipynb')}?reset")
        browser.page.get_by_role("button", name="No Kernel", exact=True).click(timeout=90_000)
        for verdict in ("✓ Converted.", "✗ Not equal."):  # the cells below are drawn a little later
            browser.page.wait_for_selector(f"text={verdict}")
        read = browser.page.locator(".jp-Notebook").inner_text()
        for verdict in ("✓ Equal.", "✗ Not equal.", "✓ Headers agree.", "39 mapped, 0 problems", "bitwise equal"):
            assert verdict in live
            assert verdict in read
        assert "Error displaying widget" not in read
        assert "Loading widget" not in read
        assert browser.outside == []
