"""The converter as a form in a real JupyterLab: choose, see the plan, Convert, Cancel, go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from tests.browser.lab import CHROMIUM, IN_TWO_LOOKS, NO_CHROMIUM, PATIENCE, Browser, Lab, expect
from tests.runs.made_runs import make_run, original, weights_of
from tests.support import raws_in, write_with_a_hole

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

Opened = Callable[..., Browser]
LARGE = {"hidden_size": 4096, "intermediate_size": 24576, "num_hidden_layers": 2}
CELL_OF_A_SLOW_DISK = """import os, time
import mfconv_nb as mc
read = os.preadv
def read_slowly(file, buffers, at):
    if at > 1 << 29:
        time.sleep(1)  # for each piece of the last 800 MB: more than ten minutes in all
    return read(file, buffers, at)
mc.panel('large', 'large.ckpt')"""
OTHER_SPEED = "os.preadv, read_slowly = read_slowly, os.preadv"


def field(browser: Browser, label: str) -> Any:
    here = browser.page.locator(".mfconv-view .widget-inline-hbox", has=browser.page.locator(f"label:text-is('{label}')"))
    return here.locator("input, select")


def button(browser: Browser, name: str) -> Any:
    return browser.page.locator(".mfconv-view").first.get_by_role("button", name=name, exact=True)


def test_a_checkpoint_is_chosen_planned_converted_and_proven(opened: Opened, lab: Lab) -> None:
    mc.toy("llama", lab.folder / "toy")
    browser = opened("panel", "import mfconv_nb as mc\nmc.panel()")
    field(browser, "from").fill("toy")
    field(browser, "from").press("Enter")
    browser.page.wait_for_selector("text=39 mapped, 0 problems")
    browser.page.wait_for_selector(".mfconv-copy:has-text(\"mc.save(mc.map(mc.load('toy')), 'TARGET')\")")
    expect(button(browser, "Convert")).to_be_disabled()  # there is no target yet
    field(browser, "to").fill("made.ckpt")
    field(browser, "to").press("Enter")
    field(browser, "qkv_concat").select_option(label="True")
    browser.page.wait_for_selector("text=qkv_concat=True")
    browser.page.wait_for_selector(".mfconv-copy:has-text(\"mc.save(mc.map(mc.load('toy'), qkv_concat=True), 'made.ckpt')\")")
    button(browser, "Convert").click()
    browser.page.wait_for_selector("text=39 of 39 tensors bitwise equal")
    assert len(mc.load(lab.folder / "made.ckpt")) == 27
    assert mc.verify(lab.folder / "toy", lab.folder / "made.ckpt").equal


def test_a_family_is_named_by_its_file_and_a_mistake_in_it_is_shown_with_its_line(opened: Opened, lab: Lab) -> None:
    mc.toy("llama", lab.folder / "mine")
    right = "from dataclasses import replace\nfrom mfconv_nb.families.llama import FAMILY as LLAMA\n"
    (lab.folder / "my_llama.py").write_text(f"{right}FAMILY = replace(LLAMA, key='my_llama', aliases=(), also=())\n")
    (lab.folder / "broken.py").write_text(f"{right}FAMILY = replace(LAMA, key='my_llama')\n")
    browser = opened("own", "import mfconv_nb as mc\nmc.panel('mine', 'own.ckpt')")
    expect(button(browser, "Convert")).to_be_enabled()
    field(browser, "family").fill("broken.py")
    field(browser, "family").press("Enter")
    browser.page.wait_for_selector("text=broken.py, line 3")
    expect(button(browser, "Convert")).to_be_disabled()
    field(browser, "family").fill("my_llama.py")
    field(browser, "family").press("Enter")
    browser.page.wait_for_selector(".mfconv-copy:has-text(\"family='my_llama.py'\")")
    button(browser, "Convert").click()
    browser.page.wait_for_selector("text=39 of 39 tensors bitwise equal")
    assert len(mc.load(lab.folder / "own.ckpt")) == 39


@IN_TWO_LOOKS
def test_the_form_is_readable_and_fits_the_window(opened: Opened, lab: Lab, width: int, dark: bool) -> None:
    name = f"form-{width}"
    mc.toy("llama", lab.folder / name)
    browser = opened(name, f"import mfconv_nb as mc\nmc.panel({name!r}, '{name}.ckpt')", width=width, dark=dark)
    browser.fold_sidebar()
    browser.page.wait_for_selector("text=39 mapped, 0 problems")
    button(browser, "Convert").click()
    browser.page.wait_for_selector("text=39 of 39 tensors bitwise equal")
    browser.page.wait_for_selector("text=Done.")
    browser.check_readable(least=61)


def test_problems_are_told_before_anything_is_written(opened: Opened, lab: Lab) -> None:
    mc.toy("llama", lab.folder / "small")
    config = json.loads((lab.folder / "small" / "config.json").read_text())
    (lab.folder / "small" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    browser = opened("problems", "import mfconv_nb as mc\nmc.panel('small', 'never.ckpt')")
    browser.page.wait_for_selector("text=MFC303")
    browser.page.wait_for_selector(".mfconv-view td:has-text('model.layers.4.input_layernorm.weight')")
    expect(button(browser, "Convert")).to_be_disabled()
    assert not (lab.folder / "never.ckpt").exists()


def test_cancel_stops_within_a_moment_and_convert_goes_on_from_there(opened: Opened, lab: Lab) -> None:
    write_large(lab.folder / "large")
    browser = opened("cancel", CELL_OF_A_SLOW_DISK, OTHER_SPEED)
    button(browser, "Convert").click()
    browser.page.wait_for_selector("text=written ·")
    button(browser, "Cancel").click()
    browser.page.wait_for_selector("text=Cancelled.")  # well before the slow disk has given the rest
    assert not (lab.folder / "large.ckpt").exists()
    browser.run_cell(1)  # the disk is quick again
    button(browser, "Convert").click()
    browser.page.wait_for_selector("text=tensors bitwise equal", timeout=2 * PATIENCE)
    browser.page.wait_for_selector("text=Resumed: an earlier run had finished part of it.")


def write_large(folder: Path) -> None:
    """A Llama of 1.3 GB whose numbers are all zero, in a file with a hole where they are: it takes no room on the disk."""
    config = {**(mc.toy("llama").config or {}), **LARGE}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    expected = mc.expected("llama", config, dtype="bf16", side="hf")
    write_with_a_hole(folder / "model.safetensors", {spec.name: spec.shape for spec in expected.specs})


@IN_TWO_LOOKS
def test_a_run_shows_its_steps_and_the_one_that_is_chosen_is_converted(
    opened: Opened, lab: Lab, pictures: Path, width: int, dark: bool
) -> None:
    name = f"run-{width}"
    weights = weights_of(original(lab.folder / f"{name}-hf"))
    make_run(lab.folder / name, weights, step=5)
    make_run(lab.folder / name, weights, step=6, ranks=[0, 1])
    make_run(lab.folder / name, weights, step=7, ranks=[0])
    cell = f"import mfconv_nb as mc\nmc.panel({name!r}, '{name}-out')"
    browser = opened(name, cell, width=width, dark=dark)
    browser.fold_sidebar()
    browser.page.wait_for_selector("text=several fit; the config tells")
    browser.screenshot(pictures / "asked.png")
    field(browser, "config").fill(f"{name}-hf")
    field(browser, "config").press("Enter")
    browser.page.wait_for_selector(".mfconv-view th:has-text('1_6 ←')")
    field(browser, "step").select_option(label="1_5")
    browser.page.wait_for_selector(".mfconv-copy:has-text(\"step='1_5'\")")
    browser.page.wait_for_selector(".mfconv-view th:has-text('1_5 ←')")
    button(browser, "Convert").click()
    browser.page.wait_for_selector("text=39 of 39 tensors bitwise equal")
    browser.page.wait_for_selector("text=Done.")
    browser.screenshot(pictures / "converted.png")
    assert raws_in(lab.folder / f"{name}-out") == raws_in(lab.folder / f"{name}-hf")
    browser.check_readable()
