"""The form without a browser: what a choice stands for, and what the fields say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.families import llama, registry


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


# ---- families of one's own ---------------------------------------------------------------------------------------------------

OWN = """
from dataclasses import replace
from mfconv_nb import Option
from mfconv_nb.families.llama import FAMILY as LLAMA

own = Option("flavour", ("plain", "sweet"), "mf", "an option of this file")
FAMILY = replace(LLAMA, key="my_llama", aliases=(), also=(), options=(*LLAMA.options, own))
"""


def test_a_file_stands_for_a_family_and_its_options_are_shown(toy: Path) -> None:
    file = toy.parent / "my_llama.py"
    file.write_text(OWN)
    form = mc.panel(toy, toy.parent / "out.ckpt")
    form.family.value = f" {file} "
    assert list(form.options) == ["qkv_concat", "flavour"]
    assert form.mapped is not None
    assert form.mapped.family == "my_llama"
    assert f"family='{file}'" in form.line.value.replace("&#x27;", "'")
    form.convert.click()
    running = form.running
    assert running is not None
    running.join(60)
    assert "tensors bitwise equal" in form.result.value  # the proof takes the file too
    form.source.value = ""
    form.source.value = str(toy)
    assert form.family.value.strip() == str(file)  # another checkpoint of the same model


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_what_is_wrong_in_a_file_is_shown_with_its_line(with_checkpoint: bool, toy: Path) -> None:
    file = toy.parent / "broken.py"
    file.write_text("\n\nFAMILY = nothing\n")
    form = mc.panel(toy if with_checkpoint else "", "out.ckpt")
    form.family.value = str(file)
    shown = form.plan.children[0].value
    assert "MFC313" in shown
    assert f"{file}, line 3" in shown
    assert form.convert.disabled
    form.family.value = ""
    assert "MFC313" not in str([child for child in form.plan.children if hasattr(child, "value")])


@pytest.mark.parametrize(("typed", "code"), [("lama", "MFC301"), ("not_there.py", "MFC101")])
def test_a_family_that_is_not_there_is_told_and_not_raised(typed: str, code: str, toy: Path) -> None:
    form = mc.panel(toy, "out.ckpt")
    form.family.value = typed
    assert code in form.plan.children[0].value
    assert form.options == {}


def test_registered_families_are_offered_by_their_keys(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    mc.register(replace(llama.FAMILY, key="my_llama", aliases=(), also=(), model_types=()))
    form = mc.panel(toy, "out.ckpt")
    assert {"llama", "my_llama"} <= set(form.family.options)
    form.family.value = "my_llama"
    assert form.mapped is not None
    assert form.mapped.family == "my_llama"


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
