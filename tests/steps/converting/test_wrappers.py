"""What trainers put into names, taken off where the caller asks for it: the same bytes as without, and a note."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import MappingError, UsageError
from mfconv_nb.families import llama
from tests.support import numbered, raws_in, write_hf
from tests.toys import raws_of

pytestmark = pytest.mark.usefixtures("here")

CONFIG = {"model_type": "llama", **llama.FAMILY.toy}
LAYER = re.compile(r"(layers\.\d+\.)")
WRAPPED: dict[str, Callable[[str], str]] = {
    "_orig_mod.": lambda n: f"_orig_mod.{n}",
    "module.": lambda n: f"module.{n}",
    "module.module.": lambda n: f"module.module.{n}",
    "base_model.model.": lambda n: f"base_model.model.{n}",
    "_fsdp_wrapped_module.": lambda n: LAYER.sub(r"\1_fsdp_wrapped_module.", f"_fsdp_wrapped_module.{n}"),
    "_checkpoint_wrapped_module.": lambda n: LAYER.sub(r"\1_checkpoint_wrapped_module.", n),
    "module._orig_mod.": lambda n: f"module._orig_mod.{n}",
    "_orig_mod.module.": lambda n: f"_orig_mod.module.{n}",
}
SAID = {
    "_orig_mod.": "'_orig_mod.' (torch.compile), of 39 names",
    "module.": "'module.' (DataParallel or DDP), of 39 names",
    "module.module.": "'module.' (DataParallel or DDP), of 39 names",
    "base_model.model.": "'base_model.model.' (PEFT), of 39 names",
    "_fsdp_wrapped_module.": "'_fsdp_wrapped_module.' (FSDP), of 39 names",
    "_checkpoint_wrapped_module.": "'_checkpoint_wrapped_module.' (activation checkpointing), of 36 names",
    "module._orig_mod.": "'_orig_mod.' (torch.compile) and 'module.' (DataParallel or DDP), of 39 names",
    "_orig_mod.module.": "'_orig_mod.' (torch.compile) and 'module.' (DataParallel or DDP), of 39 names",
}


@pytest.mark.parametrize("text", WRAPPED)
def test_wrapped_names_become_the_bytes_of_plain_ones_at_the_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    toy = raws_of(mc.toy("llama"))
    write_hf(Path("plain"), toy, CONFIG)
    write_hf(Path("wrapped"), {WRAPPED[text](name): raw for name, raw in toy.items()}, CONFIG)
    assert run(["convert", "plain", "plain.ckpt", "--quiet"]) == 0
    assert run(["convert", "wrapped", "wrapped.ckpt", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "--unwrap (unwrap=True in Python) takes it off" in said
    assert run(["convert", "wrapped", "wrapped.ckpt", "--quiet", "--unwrap"]) == 0
    said = capsys.readouterr().err
    assert said.splitlines()[0] == f"note: taken off: {SAID[text]}"
    assert raws_in(Path("wrapped.ckpt")) == raws_in(Path("plain.ckpt"))
    assert run(["verify", "wrapped", "wrapped.ckpt", "--quiet", "--unwrap"]) == 0
    assert "taken off" in capsys.readouterr().out


def test_a_part_of_a_name_that_only_looks_like_a_wrapper_stays() -> None:
    names = ("model.module.w", "model.submodule.w", "x_orig_mod.w", "my_orig_mod.module.w", "base_model.w")
    arrays = {name: numbered(2, number + 1) for number, name in enumerate(names)}
    with pytest.raises(MappingError) as error:
        mc.map(arrays, "llama", to="mf", unwrap=True, config=CONFIG)
    unmatched = {p.name for p in error.value.problems if p.kind == "unmatched"}  # type: ignore[attr-defined]
    assert unmatched == set(names)


def test_nothing_to_take_off_is_said_and_nothing_changes() -> None:
    mapped = mc.map(mc.toy("llama"), unwrap=True)
    assert mapped.report.notes[0] == "nothing to take off: no name has what a wrapper puts there"
    assert mapped.tensors.keys() == mc.map(mc.toy("llama")).tensors.keys()


@pytest.mark.parametrize("plain", [1, 39])
def test_two_tensors_never_become_one(plain: int) -> None:
    toy = raws_of(mc.toy("llama"))
    write_hf(Path("both"), {**dict([*toy.items()][:plain]), **{f"module.{name}": raw for name, raw in toy.items()}}, CONFIG)
    with pytest.raises(UsageError, match="MFC501"):
        mc.map("both", unwrap=True)
    with pytest.raises(MappingError) as error:
        mc.map("both")
    assert "--unwrap" not in str(error.value.hint)
