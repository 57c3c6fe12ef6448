"""Files that we write, opened by the real mindspore; files that the real mindspore wrote, opened by us. Compared byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import FormatError
from mfconv_nb.formats import mindspore_ckpt

ms = pytest.importorskip("mindspore", reason="mindspore is not installed")
pytestmark = pytest.mark.real_frameworks

BITS_16 = np.arange(1 << 16, dtype=np.uint16)  # every value there is: NaN payloads, infinities, -0.0, subnormals
SPECIAL_32 = np.array([0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001, 0xFFC12345, 1, 0x007FFFFF], np.uint32)
ARRAYS: dict[str, Any] = {
    "bf16.weight": BITS_16.view(ml_dtypes.bfloat16).reshape(256, 256),
    "fp16.weight": BITS_16.view(np.float16).reshape(64, 1024),
    "fp32.weight": SPECIAL_32.view(np.float32),
    "fp64.weight": np.array([[1.5, -0.0], [np.inf, 5e-324]]),
    "bool": np.array([True, False, True]),
    "scalar": np.array(3.25, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    **{f"int.{d}": np.arange(6).astype(d).reshape(2, 3) for d in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")},
}


def bytes_of(parameter: Any) -> bytes:
    return bytes(parameter.get_bytes()) if parameter.size else b""


def bits_by_name(parameters: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {n: (str(p.dtype), tuple(p.shape), bytes_of(p)) for n, p in parameters.items()}


def expected_bits() -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    checkpoint = mc.load(ARRAYS)
    names = {"F32": "Float32", "F64": "Float64", "F16": "Float16", "BF16": "BFloat16", "BOOL": "Bool"}
    spelled = {t.name: names.get(t.dtype) or t.dtype.replace("I", "Int").replace("U", "UInt") for t in checkpoint}
    return {t.name: (spelled[t.name], t.shape, np.ascontiguousarray(ARRAYS[t.name]).tobytes()) for t in checkpoint}


def test_mindspore_reads_every_bit_of_a_ckpt_that_we_wrote(tmp_path: Path) -> None:
    mc.save(mc.load(ARRAYS), tmp_path / "ours.ckpt")
    assert bits_by_name(ms.load_checkpoint(str(tmp_path / "ours.ckpt"))) == expected_bits()


def test_mindspore_reads_every_bit_of_safetensors_that_we_wrote(tmp_path: Path) -> None:
    mapped = mc.map(mc.toy("llama"))
    mc.save(mapped, tmp_path / "ours.safetensors")
    found = ms.load_checkpoint(str(tmp_path / "ours.safetensors"), format="safetensors")
    assert bits_by_name(found) == {t.name: ("BFloat16", t.shape, mc.read(mapped, t.name).tobytes()) for t in mapped}


def test_a_tensor_cut_into_slices_is_whole_for_mindspore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindspore_ckpt, "SLICE_BYTES", 1000)
    mc.save(mc.load(ARRAYS), tmp_path / "sliced.ckpt")
    assert bits_by_name(ms.load_checkpoint(str(tmp_path / "sliced.ckpt"))) == expected_bits()


def saved_by_mindspore(path: Path, **how: Any) -> dict[str, Any]:
    """A file of the real mindspore with every dtype that it can save; empty tensors it would drop."""
    arrays = {n: a for n, a in ARRAYS.items() if a.size}
    tensors = {n: ms.Tensor(a.astype(np.float32), ms.bfloat16) if n.startswith("bf16") else ms.Tensor(a) for n, a in arrays.items()}
    ms.save_checkpoint([{"name": n, "data": t} for n, t in tensors.items()], str(path), **how)
    return tensors


@pytest.mark.parametrize("how", [{}, {"crc_check": True}], ids=["plain", "crc"])
def test_we_read_every_bit_of_a_ckpt_that_mindspore_wrote(how: dict[str, Any], tmp_path: Path) -> None:
    tensors = saved_by_mindspore(tmp_path / "theirs.ckpt", **how)
    found = mc.load(tmp_path / "theirs.ckpt")
    assert {t.name: (t.shape, mc.read(found, t.name).tobytes()) for t in found} == {
        n: (tuple(t.shape), bytes_of(t)) for n, t in tensors.items()
    }


def test_our_ckpt_of_a_mindspore_file_is_that_file_again(tmp_path: Path) -> None:
    saved_by_mindspore(tmp_path / "theirs.ckpt")
    mc.save(mc.load(tmp_path / "theirs.ckpt"), tmp_path / "ours.ckpt")
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()


def test_we_read_every_bit_of_safetensors_that_mindspore_wrote(tmp_path: Path) -> None:
    tensors = saved_by_mindspore(tmp_path / "theirs", format="safetensors")
    path = next(tmp_path.glob("theirs*.safetensors"))
    found = mc.load(path)
    assert found.side == "mf"
    assert {t.name: (t.shape, mc.read(found, t.name).tobytes()) for t in found} == {
        n: (tuple(t.shape), bytes_of(t)) for n, t in tensors.items()
    }


def test_strings_and_numbers_beside_the_weights_are_listed_and_read(tmp_path: Path) -> None:
    extra = {"step": 7, "rate": 0.5, "done": True, "note": "warmed up"}
    tensors = [{"name": "w", "data": ms.Tensor(np.ones(3, np.float32))}]
    ms.save_checkpoint(tensors, str(tmp_path / "run.ckpt"), append_dict=extra)
    found = mc.load(tmp_path / "run.ckpt")
    assert [(o.name, o.kind, o.text) for o in found.history.others] == [("note", "string", "warmed up")]
    assert (mc.read(found, "step"), mc.read(found, "rate"), mc.read(found, "done")) == (7, 0.5, True)


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC", "SM4-CBC"])
def test_a_file_that_mindspore_encrypted_is_refused_by_name_of_the_cipher(mode: str, tmp_path: Path) -> None:
    tensors = [{"name": "w", "data": ms.Tensor(np.ones(3, np.float32))}]
    try:
        ms.save_checkpoint(tensors, str(tmp_path / "secret.ckpt"), enc_key=b"0123456789abcdef", enc_mode=mode)
    except (RuntimeError, ValueError, TypeError) as error:
        pytest.skip(f"this mindspore cannot encrypt with {mode}: {error}")
    with pytest.raises(FormatError) as refused:
        mc.load(tmp_path / "secret.ckpt")
    assert refused.value.code == "MFC204"
    assert mode in str(refused.value)


@pytest.mark.slow
def test_a_tensor_over_512_mib_that_mindspore_saved_is_read_whole(tmp_path: Path) -> None:
    array = np.zeros((3, 97 << 20), np.int16)  # 582 MiB: two slices, cut inside the third row
    array[:, ::999_983] = np.arange(1, 1 + 3 * len(range(0, array.shape[1], 999_983)), dtype=np.int16).reshape(3, -1)
    ms.save_checkpoint([{"name": "w", "data": ms.Tensor(array)}], str(tmp_path / "big.ckpt"))
    found = mc.load(tmp_path / "big.ckpt")
    assert len(found["w"].pieces) == 2
    assert np.array_equal(mc.read(found, "w"), array)
