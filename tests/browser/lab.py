"""A JupyterLab of its own and a Chromium to drive it: every test sees a fresh server, fresh settings, and nothing of the network."""

from __future__ import annotations

import json
import os
import shutil
import socket
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

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = "no chromium: apt-get install chromium"
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
    """async () => {
  const app = window.jupyterapp; await app.restored;
  const panel = """
    + PANEL
    + """; if (!panel) return false;
  app.shell.activateById(panel.id);
  await panel.context.ready; await panel.sessionContext.ready;
  const kernel = panel.sessionContext.session && panel.sessionContext.session.kernel;
  return !!kernel && kernel.status === 'idle';
}"""
)

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
    """A running JupyterLab: the folder it serves, and its address."""

    folder: Path
    address: str

    def write(self, name: str, *cells: str) -> str:
        """A notebook with these code cells, in the folder that is served."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / name)
        return name


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """A JupyterLab that serves ``folder / "work"``, with settings of its own, on the loopback interface."""
    work, home = folder / "work", folder / "home"
    work.mkdir(parents=True)
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")
    environment = {**os.environ, **{name: str(home / name.lower()) for name in (*own, "JUPYTERLAB_WORKSPACES_DIR")}}
    settings = home / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", *SERVER, f"--port={port}", f"--ServerApp.root_dir={work}"]
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=work)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status", server, folder / "server.log")
        yield Lab(work, address)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text(errors='replace')[-2000:]}")


@dataclass
class Browser:
    """A page in a Chromium, and every request that would have left the machine."""

    page: Any
    lab: Lab
    outside: list[str] = field(default_factory=list)

    def open(self, notebook: str) -> None:
        """Open a notebook and wait until its kernel is idle."""
        self.page.goto(f"{self.lab.address}/lab/tree/{notebook}?reset")
        self.page.wait_for_function("() => window.jupyterapp !== undefined", timeout=60_000)
        deadline = time.monotonic() + 60
        while not self.page.evaluate(READY):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{notebook} has no idle kernel")
            time.sleep(0.1)

    def run_cell(self, number: int) -> None:
        """Run one cell; returns at once, wait for what it shows."""
        self.page.evaluate(
            "(number) => { const panel = "
            + PANEL
            + """;
               panel.content.activeCellIndex = number; panel.content.deselectAll();
               window.jupyterapp.commands.execute('notebook:run-cell'); }""",
            number,
        )

    def run_all(self) -> None:
        """Run every cell; returns at once, wait for what the last one shows."""
        self.page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def fold_sidebar(self) -> None:
        """Put away the file browser on the left: what a reader does in a narrow window."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")

    def use_theme(self, dark: bool) -> None:
        theme = "JupyterLab Dark" if dark else "JupyterLab Light"
        self.page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        self.page.wait_for_function(f"() => document.body.dataset.jpThemeName === '{theme}'", timeout=20_000)

    def measured(self, dark: bool) -> dict[str, Any]:
        """Of the first view: the lowest contrast of its words, how many were looked at, and by how many pixels it overflows."""
        return dict(self.page.evaluate(MEASURE, "#111111" if dark else "#ffffff"))

    def save(self) -> None:
        self.page.evaluate(f"async () => {{ await {PANEL}.context.save(); }}")

    def screenshot(self, path: Path, selector: str | None = None) -> None:
        target = self.page.locator(selector).first if selector else self.page
        target.screenshot(path=str(path))


@contextmanager
def browser_on(lab: Lab, *, width: int = 1280, height: int = 900, scale: float = 1) -> Iterator[Browser]:
    """A Chromium on a lab; ``scale``: pixels of a picture for one of the page. Requests to other machines are stopped and remembered."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        page = chromium.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        page.set_default_timeout(30_000)
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
            chromium.close()
