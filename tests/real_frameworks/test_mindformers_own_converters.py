"""The converters that ship with MindFormers run as they are, and what they write is what the family gives, byte for byte."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from tests.mindformers_package import mindformers_folder
from tests.support import raws_in

NEEDS = Path(sys.prefix) / "mindformers-needs"
pytestmark = [
    pytest.mark.real_frameworks,
    pytest.mark.skipif(not NEEDS.is_dir(), reason="no .venv/mindformers-needs: make setup puts there what mindformers imports"),
    *(pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed") for name in ("mindspore", "torch", "transformers")),
]


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MindFormers' folder for Llama; beside a toy, in an empty working folder: mindformers writes its logs where it is run."""
    folder = mindformers_folder() / "models" / "llama"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(NEEDS))
    mc.toy("llama", "toy", num_hidden_layers=2)
    return folder


def test_llama_goes_there_and_back_through_mindformers_and_equals_the_family(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    there = ["convert", "--converter", str(llama), "--against", "llama", "--input_path", "toy", "--output_path", "made.ckpt"]
    assert run(there) == 0
    assert "✓ Equal. 21 of 21 tensors bitwise equal" in capfd.readouterr().out
    assert mc.verify("toy", "made.ckpt").equal
    back = ["convert", "--reversed", "--converter", str(llama), "--against", "llama", "made.ckpt", "back.bin", "--config", "toy"]
    assert run(back) == 0
    assert "✓ Equal. 21 of 21 tensors bitwise equal" in capfd.readouterr().out
    assert raws_in(Path("back.bin")) == raws_in(Path("toy"))


def test_what_mindformers_converts_with_a_dtype_is_what_the_family_casts(llama: Path) -> None:
    report = mc.run_converter(llama, "toy", "made.ckpt", dtype="fp16", against="llama", show=False)
    assert report.equal
    assert {tensor.dtype for tensor in mc.load("made.ckpt")} == {"F16"}
