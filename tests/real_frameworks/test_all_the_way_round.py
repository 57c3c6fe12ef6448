"""transformers, then mfconv, then the real mindspore, which saves it anew, then mfconv, then transformers: the same bytes and logits."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.real_frameworks.support import saved_llama
from tests.real_frameworks.test_mindspore_reads_what_we_write import BITS_16, SPECIAL_32, bits_by_name, ms
from tests.real_frameworks.test_transformers_reads_what_we_write import assert_opens_as

pytestmark = pytest.mark.real_frameworks


@pytest.mark.parametrize("format", ["ckpt", "safetensors"])
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_a_llama_goes_through_mindspore_and_back(tied: bool, format: str, tmp_path: Path) -> None:
    original = saved_llama(tmp_path / "hf", tied=tied)
    ours = tmp_path / f"ours.{format}"
    mc.save(mc.map(mc.load(tmp_path / "hf")), ours)
    parameters = ms.load_checkpoint(str(ours), format=format)
    assert "lm_head.weight" in parameters
    theirs = tmp_path / f"theirs.{format}"
    ms.save_checkpoint([{"name": n, "data": p} for n, p in parameters.items()], str(theirs), format=format)
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o400  # mindspore locks what it wrote
    assert mc.diff(ours, theirs, values=True).equal
    back = mc.map(mc.load(theirs, config=tmp_path / "hf"), "llama", to="hf")
    mc.save(back, tmp_path / "back", assets=tmp_path / "hf")
    assert_opens_as(tmp_path / "back", original)


def test_shards_for_mindspore_hold_every_tensor_once(tmp_path: Path) -> None:
    saved_llama(tmp_path / "hf")
    mapped = mc.map(mc.load(tmp_path / "hf"))
    mc.save(mapped, tmp_path / "mf", max_shard_size="60KB")
    shards = sorted((tmp_path / "mf").glob("part*.safetensors"))
    assert len(shards) > 2
    found: dict[str, Any] = {}
    for shard in shards:
        parameters = bits_by_name(ms.load_checkpoint(str(shard), format="safetensors"))
        assert not parameters.keys() & found.keys()
        found |= parameters
    assert found == {t.name: ("BFloat16", t.shape, mc.read(mapped, t.name).tobytes()) for t in mapped}


def test_mindspore_reads_special_values_of_our_safetensors_by_their_bits(tmp_path: Path) -> None:
    arrays = {
        "fp16": BITS_16.view(np.float16),
        "fp32": SPECIAL_32.view(np.float32),
        "fp64": np.array([1, 0x7FF0000000000001, 0xFFF8000000000123, 1 << 63], np.uint64).view(np.float64),
        "bool": np.array([True, False]),
        **{f"int.{d}": np.arange(6).astype(d).reshape(2, 3) for d in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")},
    }
    mc.save(mc.load(arrays), tmp_path / "ours.safetensors")
    found = ms.load_checkpoint(str(tmp_path / "ours.safetensors"), format="safetensors")
    assert {n: (tuple(p.shape), bytes(p.get_bytes())) for n, p in found.items()} == {n: (a.shape, a.tobytes()) for n, a in arrays.items()}


def test_names_beyond_ascii_and_of_great_length_are_the_same_for_mindspore(tmp_path: Path) -> None:
    arrays = {n: np.full(3, i, np.float32) for i, n in enumerate(("größe.权重", "a b\tc", "n" * 1024, "x.y-z/0"))}
    mc.save(mc.load(arrays), tmp_path / "ours.ckpt")
    found = ms.load_checkpoint(str(tmp_path / "ours.ckpt"))
    assert {n: p.asnumpy().tolist() for n, p in found.items()} == {n: a.tolist() for n, a in arrays.items()}


def test_a_crc_of_mindspore_is_checked_by_mindspore_and_passed_over_by_us(tmp_path: Path) -> None:
    data = [{"name": "w", "data": ms.Tensor(np.arange(6, dtype=np.float32))}]
    ms.save_checkpoint(data, str(tmp_path / "theirs.ckpt"), crc_check=True)
    assert (tmp_path / "theirs.ckpt").read_bytes()[-17:-10] == b"crc_num"
    mc.save(mc.load(tmp_path / "theirs.ckpt"), tmp_path / "ours.ckpt")
    ms.save_checkpoint(data, str(tmp_path / "plain.ckpt"))
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "plain.ckpt").read_bytes()


def test_what_mindspore_would_misread_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """mindspore reads shape (0,) as a scalar, and fails on float8, complex numbers and long names when it loads them."""
    import ml_dtypes

    refused_ones = {"empty": np.zeros(0, np.float32), "complex": np.zeros(2, np.complex64), "n" * 1025: np.zeros(2, np.float32)}
    for name, array in {**refused_ones, "float8": np.zeros(2, ml_dtypes.float8_e4m3fn)}.items():
        with pytest.raises(mc.MfconvError) as refused:
            mc.save(mc.load({name: array}), tmp_path / "ours.ckpt")
        assert refused.value.code == "MFC405"
        assert list(tmp_path.iterdir()) == []
