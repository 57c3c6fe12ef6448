"""Results as HTML in a real browser: readable in light and dark, and no wider than a narrow window.

The page itself measures what the browser has computed and writes it down; only this test's own page holds a script.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from mfconv_nb.core.report import Column, Table, table_html
from tests.browser.lab import CHROMIUM, NO_CHROMIUM

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]

# Text colour and ground of JupyterLab's themes, and of plain pages
HOSTS = {
    "lab light": ("--jp-content-font-color1: rgba(0, 0, 0, 0.87)", "#ffffff"),
    "lab light, striped": ("--jp-content-font-color1: rgba(0, 0, 0, 0.87)", "#f5f5f5"),
    "lab dark": ("--jp-content-font-color1: rgba(255, 255, 255, 1)", "#111111"),
    "lab dark, striped": ("--jp-content-font-color1: rgba(255, 255, 255, 1)", "#212121"),
    "plain light": ("color: #1f2328", "#ffffff"),
    "plain dark": ("color: #e4e7ea", "#16181b"),
    "vscode dark": ("--vscode-editor-foreground: #cccccc", "#1f1f1f"),
}
LAB = """.jp-RenderedHTMLCommon td { text-align: right; background: #eee; padding: 0.5em; white-space: nowrap; max-width: none }
.jp-RenderedHTMLCommon tbody tr:nth-child(even) { background: #f0f }
.jp-RenderedHTMLCommon table { font-size: 20px; table-layout: fixed }"""
MEASURE = """
const drawn = (colour) => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  c.fillStyle = GROUND; c.fillRect(0, 0, 1, 1); c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data] };
const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b) };
const contrast = (e) => { const a = [light(drawn(getComputedStyle(e).color)), light(drawn(GROUND))].sort((x, y) => y - x);
  return (a[0] + 0.05) / (a[1] + 0.05) };
const elements = [...document.querySelectorAll('.mfconv-v, .mfconv-f, .mfconv-f code, .mfconv th, .mfconv td')];
const cell = (n) => getComputedStyle(document.querySelector(`tbody tr:nth-child(2) td:nth-child(${n})`));
const out = {
  contrast: Math.min(...elements.map(contrast)), checked: elements.length,
  page: document.documentElement.scrollWidth, window: window.innerWidth,
  result: Math.max(...[...document.querySelectorAll('.mfconv')].map((e) => e.scrollWidth - e.clientWidth)),
  name: cell(2).textAlign, number: cell(5).textAlign, ground: cell(2).backgroundColor, optional: cell(4).display,
};
document.body.setAttribute('data-out', JSON.stringify(out));
"""
COLUMNS = (
    Column("status"),
    Column("Hugging Face"),
    Column("MindFormers"),
    Column("layout", optional=True),
    Column("shape", True),
    Column("bytes", True, optional=True),
)
NAME = "model.layers.{0‥47}.block_sparse_moe.experts.{0‥255}.post_attention_layernorm.weight"
ROWS = [("✓", NAME, NAME, "(q + k + v) hidden -> q hidden, k hidden, v hidden", "14,336 × 4,096", "112 MiB")] * 3


def page(host: str) -> str:
    ink, ground = HOSTS[host]
    words = ("✓ Equal.", "✗ Not equal.", "≈ Close.", "! Incomplete.")
    facts = ("manifest: /a/rather/long/path/that/has/no/place/to/break/and/goes/on/and/on/until/it/ends/toy.ckpt.mfconv/manifest.json",)
    results = "".join(table_html(Table(w, "of 39 tensors", COLUMNS, ROWS, facts, "mapped.report.to_frame()")) for w in words)
    style = f"<style>{LAB} body {{ margin: 8px; background: {ground}; {ink} }}</style>"
    script = MEASURE.replace("GROUND", json.dumps(ground))
    return f"<!DOCTYPE html><meta charset='utf-8'>{style}<body><div class='jp-RenderedHTMLCommon'>{results}</div><script>{script}</script>"


def measured(host: str, width: int, folder: Path) -> dict[str, object]:
    """What a browser with a window of this width has computed."""
    file = folder / "page.html"
    file.write_text(page(host), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={folder / 'profile'} --window-size={width},2000 --dump-dom"
    done = subprocess.run([str(CHROMIUM), *flags.split(), file.as_uri()], capture_output=True, encoding="utf-8", timeout=120)
    found = re.search(r'data-out="(.*?)"', done.stdout)
    assert found, done.stderr[-2000:]
    return dict(json.loads(found[1].replace("&quot;", '"')))


@pytest.mark.parametrize("host", HOSTS)
def test_every_word_of_a_result_has_a_contrast_of_at_least_four_and_a_half(host: str, tmp_path: Path) -> None:
    found = measured(host, 1200, tmp_path)
    assert found["checked"] == 4 * (1 + 2 + 1 + 6 + 18)
    assert float(str(found["contrast"])) >= 4.5


def test_a_narrow_window_holds_every_result_without_scrolling(tmp_path: Path) -> None:
    found = measured("lab light", 560, tmp_path)
    assert found["page"] == found["window"]
    assert found["result"] == 0
    assert found["optional"] == "none"


def test_the_host_cannot_restyle_a_result(tmp_path: Path) -> None:
    found = measured("lab light", 1200, tmp_path)
    assert (found["name"], found["number"], found["ground"]) == ("left", "right", "rgba(0, 0, 0, 0)")
    assert found["optional"] == "table-cell"
