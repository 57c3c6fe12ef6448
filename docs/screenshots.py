"""The pictures of the documentation, taken from views in a real JupyterLab. `make screenshots` writes them; it needs a Chromium.

A picture is cropped to its view and holds few colours, so that it stays small: a page that shows three of them loads at once.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the lab of the tests, where this file is run by itself

import numpy as np  # noqa: E402
from PIL import Image, ImageChops, ImageOps  # noqa: E402

from tests.browser.lab import CHROMIUM, NO_CHROMIUM, Browser, Lab, browser_on, running_lab  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
MAX_BYTES = 100_000
COLOURS = (128, 64, 32, 16)  # the first of these that keeps a picture small
SCALE = 1.5  # sharp on screens with small pixels too
MARGIN = round(12 * SCALE)
VIEW = ".mfconv-view"

TOY = "import mfconv_nb as mc\nmc.toy('llama', 'toy')\n"
MAPPED = TOY + "mapped = mc.map(mc.load('toy'), qkv_concat=True)\nmapped"
DIFF = """import mfconv_nb as mc
source = mc.toy("llama")
trained = {t.name: mc.read(source, t.name).copy() for t in source}
up = trained["model.layers.1.mlp.up_proj.weight"]
up[3:40, 10:70] = (up[3:40, 10:70].astype("float32") * 1.04).astype(up.dtype)
trained["model.layers.2.self_attn.o_proj.weight"].view("u2")[:9] ^= 1
mc.diff(source, trained, values=True)"""
VERIFY = TOY + "mc.save(mc.map(mc.load('toy')), 'toy.ckpt')\nmc.verify('toy', 'toy.ckpt')"
PANEL = TOY + "mc.panel('toy', 'toy-mf.ckpt')"
ANATOMY = """import mfconv_nb as mc, numpy as np
mc.save(mc.load({"norm.weight": np.ones(6, "f4"), "wq.weight": np.linspace(-1, 1, 24, dtype="f2").reshape(4, 6)}), "small.safetensors")
mc.anatomy("small.safetensors")"""

BLOCKS = """import mfconv_nb as mc, numpy as np, ml_dtypes
toy, random = mc.toy("deepseek3"), np.random.default_rng(0)
stored = {t.name: mc.read(toy, t.name) for t in toy}
for name in [name for name in stored if name.endswith("gate_proj.weight")]:
    rows, columns = stored[name].shape
    scales = random.uniform(1, 2, (-(-rows // 16), columns // 16)).astype("f4") / 8192
    scales[3:5] *= 3
    scales[:, 2] *= 2
    codes = random.normal(0, 100, (rows, columns)).astype(ml_dtypes.float8_e4m3fn)
    stored |= {name: codes, name + "_scale_inv": scales}
config = {**toy.config, "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}}
mapped = mc.map(mc.load(stored, config=config), "deepseek3")
mc.save(mapped, "v3.ckpt", progress=False).computed"""

EDITOR = """import mfconv_nb as mc
hf = mc.toy("baichuan2")
mf = mc.map(hf, "baichuan2")
mc.author.edit(mc.author.suggest(hf, mf), hf, mf)"""
PROOF = "import mfconv_nb as mc\nmc.author.prove('llama')"
RUN = """import mfconv_nb as mc
layout = mc.RankLayout(
    devices={"dp": 2, "tp": 2},
    cuts={"*.w[qkv].weight": ("tp", None), "*.w[13].weight": ("tp", None), "*.w[o2].weight": (None, "tp")},
    stages=(("*tok_embeddings*", "*.layers.[01].*"), ("*.layers.[23].*", "*norm_out*", "*lm_head*")),
    epoch=1,
    step=200,
)
source = mc.toy("llama", "toy")
mc.save(mc.map(source), "run", layout_of_ranks=layout)
"""


# ---- what to do before a picture is taken ------------------------------------------------------------------------------


def nothing(view: Any) -> None:
    pass


def open_fused_row(view: Any) -> None:
    """A few rows, that of the fused matrix open: its drawing, and where one of its numbers comes from."""
    view.get_by_placeholder("search names").fill("attention")
    view.get_by_text("4 of 9 rules").wait_for()
    row(view, "w_qkv").click()
    view.locator(".mfconv-right svg").wait_for()
    index = view.get_by_placeholder("index")
    index.fill("130, 5")
    index.press("Enter")
    view.get_by_text("[10, 5]").first.wait_for()
    index.blur()


def show_values(view: Any) -> None:
    """A tensor that differs, with its histogram and the histogram of its differences."""
    row(view, "up_proj").click()
    view.locator(".mfconv-right img").nth(1).wait_for()


def show_blocks(view: Any) -> None:
    """A weight that was published as codes, with scale and error of each block."""
    row(view, "layers.0.feed_forward.w1").click()
    view.locator(".mfconv-right img").nth(1).wait_for()


def convert(view: Any) -> None:
    view.get_by_role("button", name="Convert", exact=True).click()
    view.get_by_text("39 of 39 tensors bitwise equal").first.wait_for()
    view.get_by_text("Done.").wait_for()


def forget_a_bracket(view: Any) -> None:
    """A layout that is being typed, with a caret where it goes wrong, and two names that no row matches any more."""
    row(view, "gate_proj").click()
    view.get_by_role("button", name="Delete", exact=True).click()
    view.locator(".mfconv-tally:text-is('3 unmatched hf')").wait_for()
    row(view, "W_pack").click()
    layout = view.get_by_label("layout", exact=True)
    layout.fill("(q + k + v hidden -> q hidden, k hidden, v hidden")
    view.locator("pre.mfconv-caret").wait_for()


def choose_swapped_gate_and_up(view: Any) -> None:
    view.get_by_role("button", name="21 numbers").click()
    row(view, "targets swapped").click()
    view.locator(".mfconv-right select").select_option(label="…w1.weight and …w3.weight · qkv_concat=False")
    view.get_by_text("33,792 of 33,792 numbers would have gone elsewhere").wait_for()
    view.locator(".mfconv-right svg").nth(1).wait_for()


def choose_a_slice(view: Any) -> None:
    row(view, "attention.wo.weight").click()
    view.locator(".mfconv-right svg").wait_for()


def row(view: Any, text: str) -> Any:
    return view.locator(".mfconv-grid tbody tr", has_text=text).first


# ---- the pictures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A cell whose result is shown, what is done with it, and what of it is kept.

    Attributes:
        selector: the element that is kept.
        width: of the window. From about 1000 on, the two halves of a view stand side by side.
        until: what stands below the end of the picture; empty for all of the element.
    """

    name: str
    cell: str
    act: Callable[[Any], None] = nothing
    selector: str = VIEW
    dark: bool = False
    width: int = 1200
    until: str = ""


PICTURES = (
    Picture("mapping", MAPPED, open_fused_row, width=980, until=".mfconv-right > :last-child"),
    Picture("diff", DIFF, show_values),
    Picture("blocks", BLOCKS, show_blocks),
    Picture("verify", VERIFY),
    Picture("panel", PANEL, convert, until=".mfconv-view", dark=True),
    Picture("editor", EDITOR, forget_a_bracket),
    Picture("proof", PROOF, choose_swapped_gate_and_up),
    Picture("run", RUN + "mc.load('run', config='toy').run", choose_a_slice),
    Picture("doctor", RUN + "mc.doctor('run', config='toy')", selector=".jp-OutputArea-output:has(.mfconv-v)", dark=True),
    Picture("anatomy", ANATOMY, selector=".jp-OutputArea-output:has(.mfconv-a)"),
)


def take(picture: Picture, lab: Lab) -> bytes:
    """A picture as the browser makes it: a PNG of one element."""
    with browser_on(lab, width=picture.width, height=2400, scale=SCALE) as browser:
        browser.open(lab.write(f"{picture.name}.ipynb", picture.cell), dark=picture.dark)
        browser.fold_sidebar()
        browser.run_cell(0)
        found = browser.page.locator(picture.selector).first
        found.wait_for()
        picture.act(found)
        settle(browser)
        box = found.bounding_box()
        if picture.until:
            box["height"] = found.locator(picture.until).first.bounding_box()["y"] - box["y"]
        return bytes(browser.page.screenshot(clip=box, animations="disabled"))


def settle(browser: Browser) -> None:
    """Nothing under the mouse, no focus, and no picture on its way."""
    browser.page.mouse.move(0, 0)
    browser.page.evaluate("() => document.activeElement.blur()")
    browser.page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    browser.page.wait_for_timeout(400)


def small(png: bytes) -> bytes:
    """The picture with an even margin in the colour of its corner, and few colours. Raises ValueError where it stays too large."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    corner: Any = image.getpixel((0, 0))
    used = ImageChops.difference(image, Image.new("RGB", image.size, corner)).getbbox()
    framed = ImageOps.expand(image.crop(used), MARGIN, fill=corner)
    for colours in COLOURS:
        file = io.BytesIO()
        with_few_colours(framed, colours).save(file, "PNG", optimize=True)
        if file.tell() < MAX_BYTES:
            return file.getvalue()
    raise ValueError(f"{file.tell():,} bytes with {colours} colours, expected less than {MAX_BYTES:,}")


def with_few_colours(image: Image.Image, colours: int) -> Image.Image:
    """The picture in a palette whose colours are those that most pixels had, so that plain grounds stay exactly as they are."""
    few = image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    places, exact = np.asarray(few).ravel(), np.asarray(image).reshape(-1, 3)
    palette = np.zeros((256, 3), np.uint8)
    for place in np.unique(places):
        found, counts = np.unique(exact[places == place], axis=0, return_counts=True)
        palette[place] = found[counts.argmax()]
    few.putpalette(palette[: places.max() + 1].tobytes())
    return few


def main(names: list[str]) -> None:
    """Take the pictures with these names, or all of them, and say how large they are."""
    if CHROMIUM is None:
        raise SystemExit(NO_CHROMIUM)
    FOLDER.mkdir(exist_ok=True)
    for picture in PICTURES:
        if names and picture.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder, running_lab(Path(folder)) as lab:
            data = small(take(picture, lab))
        (FOLDER / f"{picture.name}.png").write_bytes(data)
        print(f"docs/pictures/{picture.name}.png: {len(data):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
