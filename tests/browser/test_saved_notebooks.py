"""Real notebooks in a real JupyterLab: run, saved, and read again on a machine without a kernel."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, PATIENCE, Lab, browser_on, expect, run_through

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
VERDICTS = ("✓ Equal.", "✗ Not equal.", "✓ Headers agree.", "39 mapped, 0 problems", "bitwise equal", "max_ulp")


def without_kernel(lab: Lab, notebook: str) -> str:
    """A copy that names neither kernel nor language, so that JupyterLab must ask; by the language alone it starts the one kernel of it."""
    found = nbformat.read(lab.folder / notebook, as_version=4)
    for name in ("kernelspec", "language_info"):
        found.metadata.pop(name, None)
    nbformat.write(found, lab.folder / f"read_{notebook}")
    return f"read_{notebook}"


def test_the_quickstart_runs_and_its_saved_copy_is_read_without_a_kernel(lab: Lab) -> None:
    with run_through(lab, NOTEBOOK, dark=False, width=1280, height=9000) as browser:
        for verdict in VERDICTS:
            expect(browser.page.locator(".jp-Notebook")).to_contain_text(verdict, use_inner_text=True)
        browser.save()
    saved = (lab.folder / "quickstart-1280.ipynb").read_text()
    views = [o for cell in json.loads(saved)["cells"] for o in cell.get("outputs", ()) if "text/html" in o.get("data", {})]
    assert len(views) >= 8
    assert max(len(json.dumps(o)) for o in views) < 100_000
    with browser_on(lab, height=9000) as browser:
        browser.page.goto(f"{lab.address}/lab/tree/{without_kernel(lab, 'quickstart-1280.ipynb')}?reset", timeout=2 * PATIENCE)
        dialog = browser.page.get_by_role("dialog")  # the toolbar too has a button of this name, behind the dialog
        dialog.get_by_role("button", name="No Kernel", exact=True).click(timeout=2 * PATIENCE)
        read = browser.page.locator(".jp-Notebook")
        for verdict in ("✓ Converted.", *VERDICTS):
            expect(read).to_contain_text(verdict, use_inner_text=True)
        for missing in ("Error displaying widget", "Loading widget"):
            expect(read).not_to_contain_text(missing, use_inner_text=True)
        assert browser.outside == []
