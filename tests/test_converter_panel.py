"""The form without a browser: what a choice stands for, and what the fields say."""

from __future__ import annotations

from pathlib import Path

import pytest

import mfconv_nb as mc


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    mc.toy("llama", tmp_path / "toy")
    return tmp_path / "toy"


def test_any_file_of_a_sharded_folder_stands_for_the_folder(toy: Path) -> None:
    form = mc.panel()
    for name in ("config.json", "model.safetensors.index.json", sorted(p.name for p in toy.glob("*.safetensors"))[0]):
        form.source.value = ""
        form._chosen(str(toy / name))
        assert form.source.value == str(toy)
        assert form.mapped is not None
    mc.save(mc.map(mc.load(toy)), toy.parent / "one.ckpt")
    form._chosen(str(toy.parent / "one.ckpt"))
    assert form.source.value == str(toy.parent / "one.ckpt")


def test_the_options_are_those_of_the_family_and_end_up_in_the_line(toy: Path) -> None:
    form = mc.panel(toy, "out.ckpt")
    assert list(form.options) == ["qkv_concat"]
    form.options["qkv_concat"].value = "grouped"
    assert "qkv_concat='grouped'" in form.line.value.replace("&#x27;", "'")
    assert form.mapped is not None
    assert form.mapped.options["qkv_concat"] == "grouped"


def test_a_family_that_does_not_fit_is_refused_in_the_form(toy: Path) -> None:
    form = mc.panel(toy, "out.ckpt")
    form.family.value = "bloom"
    assert form.mapped is None
    assert form.convert.disabled
    assert "MFC303" in form.plan.children[0].value


def test_a_checkpoint_that_is_not_there_is_told_and_not_raised() -> None:
    form = mc.panel("nowhere/at/all", "out.ckpt")
    assert "MFC101" in form.summary.value
    assert form.convert.disabled


def test_the_fields_that_are_set_from_python_convert(toy: Path) -> None:
    form = mc.panel(toy, toy.parent / "out.safetensors")
    form.dtype.value = "fp32"
    form.convert.click()
    running = form.running
    assert running is not None
    running.join(60)
    assert "✓ Converted." in form.result.value
    assert {t.dtype for t in mc.load(toy.parent / "out.safetensors")} == {"F32"}
