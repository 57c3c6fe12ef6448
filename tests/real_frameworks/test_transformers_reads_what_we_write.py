"""A Llama that the real transformers saved goes to MindFormers and back, and is opened again: bytes and logits equal, not close."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from tests.real_frameworks.support import logits, opened_llama, saved_llama

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytestmark = pytest.mark.real_frameworks


def assert_opens_as(folder: Path, original: Any) -> None:
    back = opened_llama(folder)
    assert back.dtype == torch.bfloat16
    mine, theirs = back.state_dict(), original.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n].view(torch.int16), theirs[n].view(torch.int16)) for n in theirs)
    assert torch.equal(logits(back), logits(original))


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_a_llama_of_transformers_comes_back_with_equal_bytes_and_logits(tied: bool, tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf", tied=tied)
    there = ["--model", "llama", "--input_path", f"{tmp_path / 'hf'}/", "--output_path", str(tmp_path / "mf.ckpt")]
    back = ["--reversed", "--input_path", str(tmp_path / "mf.ckpt"), "--output_path", str(tmp_path / "back")]
    assert run(there) == 0
    assert run(["--model", "llama", *back, "--config", str(tmp_path / "hf")]) == 0
    assert (tmp_path / "back" / "generation_config.json").read_bytes() == (tmp_path / "hf" / "generation_config.json").read_bytes()
    assert_opens_as(tmp_path / "back", original)


def test_a_mindformers_file_without_its_manifest_comes_back_with_the_config_alone(tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf", tied=True)
    mc.save(mc.map(mc.load(tmp_path / "hf")), tmp_path / "mf.ckpt")
    (tmp_path / "mf.ckpt").rename(tmp_path / "trained.ckpt")
    mapped = mc.map(mc.load(tmp_path / "trained.ckpt", config=tmp_path / "hf"), "llama", to="hf")
    mc.save(mapped, tmp_path / "back", max_shard_size="40KB")
    assert_opens_as(tmp_path / "back", original)


def test_a_folder_of_another_dtype_opens_in_that_dtype(tmp_path: Path) -> None:
    saved_llama(tmp_path / "hf")
    mc.save(mc.map(mc.load(tmp_path / "hf")), tmp_path / "wide.ckpt", dtype="fp32")
    mc.save(mc.map(mc.load(tmp_path / "wide.ckpt")), tmp_path / "back", assets=tmp_path / "hf")
    assert opened_llama(tmp_path / "back").dtype == torch.float32  # its own config.json says bfloat16, and would round


@pytest.mark.parametrize("shard", [None, "60KB"], ids=["one file", "shards"])
def test_transformers_opens_a_torch_checkpoint_that_we_wrote(shard: str | None, tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf")
    (tmp_path / "bin").mkdir()
    mc.save(mc.load(tmp_path / "hf"), tmp_path / "bin" / "pytorch_model.bin", max_shard_size=shard)
    (tmp_path / "bin" / "config.json").write_bytes((tmp_path / "hf" / "config.json").read_bytes())
    assert (len(list((tmp_path / "bin").glob("*.bin"))) > 1) == (shard is not None)
    assert_opens_as(tmp_path / "bin", original)


def test_a_torch_file_that_we_wrote_is_a_sound_zip_and_a_plain_state_dict(tmp_path: Path) -> None:
    toy = mc.toy("llama")
    mc.save(toy, tmp_path / "toy.pth")
    with zipfile.ZipFile(tmp_path / "toy.pth") as archive:
        assert archive.testzip() is None
    state = torch.load(tmp_path / "toy.pth", weights_only=True, mmap=True)
    assert mc.diff(toy, state, values=True).equal


def test_the_safetensors_library_reads_every_tensor_that_we_wrote(tmp_path: Path) -> None:
    toy = mc.toy("llama")
    mc.save(toy, tmp_path / "toy.safetensors")
    assert mc.diff(toy, safetensors_torch.load_file(tmp_path / "toy.safetensors"), values=True).equal
