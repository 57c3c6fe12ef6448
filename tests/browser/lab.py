"""A JupyterLab of its own and a Chromium to drive it: every test sees a fresh server, fresh settings, and nothing of the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = "no chromium: apt-get install chromium"
PATIENCE = 60_000  # milliseconds for what takes a second or two: a busy machine may need many times that
A_WHOLE_NOTEBOOK = 4 * PATIENCE
IN_TWO_LOOKS = pytest.mark.parametrize("width, dark", [(1280, False), (560, True)], ids=["wide and light", "narrow and dark"])
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SERVER = (
    "--no-browser",
    "--ip=127.0.0.1",
    "--port=0",
    "--allow-root",
    "--IdentityProvider.token=",
    "--ServerApp.password=",
    "--ServerApp.disable_check_xsrf=True",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabServerApp.open_browser=False",
)
PANEL = "[...window.jupyterapp.shell.widgets('main')].find((w) => w.context && w.content.widgets)"  # the notebook, whatever is in front
READY = (
    """(theme) => {
  const app = window.jupyterapp; if (!app) return false;
  app.restored.then(() => { window.restored = true; });
  const panel = """
    + PANEL
    + """; if (!window.restored || !panel || !panel.context.isReady || !panel.sessionContext.isReady) return false;
  app.shell.activateById(panel.id);
  const kernel = panel.sessionContext.session && panel.sessionContext.session.kernel;
  const drawn = document.body.dataset.jpThemeName === theme && panel.node.offsetWidth > 0; // a new theme hides the page for a moment
  return drawn && !!kernel && kernel.status === 'idle';
}"""
)
RUN = """(command) => {
  window.ended = null;
  const end = (well) => { window.ended = {well}; };
  window.jupyterapp.commands.execute(command).then(end, () => end(false));
}"""
COMPLAINTS = f"""() => [...{PANEL}.content.model.cells].flatMap((cell) => cell.toJSON().outputs || [])
  .filter((output) => output.name === 'stderr' || output.output_type === 'error')
  .map((output) => output.text ? String(output.text) : output.ename + ': ' + output.evalue)"""

MEASURE = """(ground) => {
  const pixel = (colour) => {
    const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    for (const each of [ground, colour]) { c.fillStyle = each; c.fillRect(0, 0, 1, 1); }
    return [...c.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(', 0)') && colour !== 'transparent') return pixel(colour);
    }
    return pixel(ground);
  };
  const ratio = (e) => {
    const [high, low] = [light(pixel(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [(high + 0.05) / (low + 0.05), e.className, e.innerText.slice(0, 30)];
  };
  const kinds = ['button', 'label', 'td', 'th', 'option', 'code', '.mfconv-f', '.mfconv-r div'].map((kind) => '.mfconv-view ' + kind);
  const seen = [...document.querySelectorAll(kinds.join(', '))].filter((e) => e.offsetWidth && e.innerText && e.innerText.trim());
  const view = document.querySelector('.mfconv-view');
  const ratios = seen.map(ratio).sort((x, y) => x[0] - y[0]);
  return { worst: ratios[0], checked: ratios.length, over: view.scrollWidth - view.clientWidth };
}"""


@dataclass
class Lab:
    """A running JupyterLab: the folder it serves, its address, where it keeps its settings, and a Chromium for its pages."""

    folder: Path
    address: str
    settings: Path
    chromium: Any

    def write(self, name: str, *cells: str) -> str:
        """A notebook with these code cells, in the folder that is served."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / name)
        return name

    def configure(self, plugin: str, **settings: Any) -> None:
        """Settings of a plugin, for the pages that are opened from now on."""
        folder = self.settings / "@jupyterlab" / "apputils-extension"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{plugin}.jupyterlab-settings").write_text(json.dumps(settings))


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """A JupyterLab that serves ``folder / "work"``, with settings of its own, on the loopback interface, and a Chromium beside it."""
    from playwright.sync_api import sync_playwright

    work, home = folder / "work", folder / "home"
    work.mkdir(parents=True)
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")
    environment = {**os.environ, **{name: str(home / name.lower()) for name in (*own, "JUPYTERLAB_WORKSPACES_DIR")}}
    command = [sys.executable, "-m", "jupyterlab", *SERVER, f"--ServerApp.root_dir={work}"]
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=work)
    try:
        address = _address_of(server, home / "jupyter_runtime_dir", folder / "server.log")
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
            lab = Lab(work, address, home / "jupyterlab_settings_dir", chromium)
            lab.configure("notification", fetchNews="false", checkForUpdates=False, doNotDisturbMode=True)
            yield lab
            chromium.close()
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _address_of(server: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """Where the server listens, once it answers: at a port that it has chosen itself, so that no other can have taken it."""
    deadline = time.monotonic() + 2 * PATIENCE / 1000
    while time.monotonic() < deadline and server.poll() is None:
        try:
            port = json.loads((runtime / f"jpserver-{server.pid}.json").read_text())["port"]
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=10).close()
            return f"http://127.0.0.1:{port}"
        except (OSError, ValueError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text(errors='replace')[-2000:]}")


def expect(what: Any) -> Any:
    """Playwright's assertions about what a locator finds: asked again until they hold, for as long as ``PATIENCE``."""
    from playwright.sync_api import expect as asserted

    asserted.set_options(timeout=PATIENCE)
    return asserted(what)


@dataclass
class Browser:
    """A page in a Chromium, and every request that would have left the machine."""

    page: Any
    lab: Lab
    outside: list[str] = field(default_factory=list)
    dark: bool = False

    def open(self, notebook: str, *, dark: bool = False) -> None:
        """Open a notebook in one of the two themes; wait until it is drawn and its kernel is idle."""
        self.dark, theme = dark, "JupyterLab Dark" if dark else "JupyterLab Light"
        self.lab.configure("themes", theme=theme)
        self.page.goto(f"{self.lab.address}/lab/tree/{notebook}?reset", timeout=2 * PATIENCE)
        self.page.wait_for_function(READY, arg=theme, timeout=2 * PATIENCE)

    def run_cell(self, number: int) -> None:
        """Run one cell to its end. What it shows may be drawn a little later."""
        self.page.evaluate(f"(n) => {{ const {{content}} = {PANEL}; content.activeCellIndex = n; content.deselectAll(); }}", number)
        self._run("notebook:run-cell", 2 * PATIENCE)

    def run_all(self) -> None:
        """Run every cell, to the end of the last one."""
        self._run("notebook:run-all-cells", A_WHOLE_NOTEBOOK)

    def _run(self, command: str, timeout: int) -> None:
        self.page.evaluate(RUN, command)
        ended = self.page.wait_for_function("() => window.ended", timeout=timeout).json_value()
        if not ended["well"]:
            raise RuntimeError(f"a cell failed: {self.complaints()}")

    def fold_sidebar(self) -> None:
        """Put away the file browser on the left, as a reader does in a narrow window; wait until the notebook has its place."""
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        self.page.wait_for_function(f"() => {PANEL}.node.getBoundingClientRect().left < 60")

    def complaints(self) -> list[str]:
        """What the cells have written to stderr, and their errors."""
        return list(self.page.evaluate(COMPLAINTS))

    def check_readable(self, *, least: int = 1) -> None:
        """Every word of the views has a contrast of 4.5 (``least``: so many are looked at), and the first view overflows nowhere."""
        found = self.page.evaluate(MEASURE, "#111111" if self.dark else "#ffffff")
        assert found["checked"] >= least, found
        assert found["worst"][0] >= 4.5, found
        assert found["over"] <= 0, found

    def save(self) -> None:
        self.page.evaluate(f"async () => {{ await {PANEL}.context.save(); }}")

    def screenshot(self, path: Path, selector: str | None = None) -> None:
        target = self.page.locator(selector).first if selector else self.page
        target.screenshot(path=str(path))


@contextmanager
def browser_on(lab: Lab, *, width: int = 1280, height: int = 900, scale: float = 1) -> Iterator[Browser]:
    """A page with cookies and a cache of its own; ``scale``: pixels of a picture for one of the page.

    Requests to other machines are stopped and remembered.
    """
    page = lab.chromium.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
    page.set_default_timeout(PATIENCE)
    browser = Browser(page, lab)

    def inspect(route: Any) -> None:
        url = route.request.url
        if url.startswith((lab.address, "data:", "blob:")):
            route.continue_()
        else:
            browser.outside.append(url)
            route.abort()

    page.route("**/*", inspect)
    try:
        yield browser
    finally:
        page.close()


@contextmanager
def run_through(lab: Lab, notebook: Path, *, dark: bool, width: int, height: int) -> Iterator[Browser]:
    """A copy of a notebook, all of it run, to be walked through; after the walk: readable, nothing on stderr, nothing asked outside.

    ``height``: of the window, more than the notebook has, as JupyterLab draws only the cells that are on the screen.
    """
    name = f"{notebook.stem}-{width}.ipynb"
    shutil.copy(notebook, lab.folder / name)
    with browser_on(lab, width=width, height=height) as browser:
        browser.open(name, dark=dark)
        if width < 800:
            browser.fold_sidebar()
        browser.run_all()
        yield browser
        browser.check_readable()
        assert browser.complaints() == [], browser.complaints()
        assert browser.outside == [], browser.outside


def rows(browser: Browser, text: str = "") -> Any:
    """The rows of the table, or those that hold a text. The table draws all of its rows at once."""
    return browser.page.locator(".mfconv-view .mfconv-grid tbody tr", has_text=text)
