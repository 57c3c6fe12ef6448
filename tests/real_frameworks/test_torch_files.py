"""Files that the real torch wrote, in every form it has, read by us; files that we wrote, read by the real torch. Bit by bit."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import FormatError

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytestmark = pytest.mark.real_frameworks

FORMS = {"zip": {}, "old form": {"_use_new_zipfile_serialization": False}}
OLD_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64")
NEW_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")  # torch itself cannot load these from the old form


def numbers(dtype: str, *shape: int) -> Any:
    """A tensor of random bits: NaN payloads, infinities, -0.0 and subnormals are among them."""
    if dtype == "bool":
        return torch.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape) % 3 == 0
    wide = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    generator = torch.Generator().manual_seed(len(dtype))
    bits = torch.randint(0, 256, (*shape[:-1], shape[-1] * wide), generator=generator, dtype=torch.uint8)
    return bits.view(getattr(torch, dtype))


def bits_of(tensor: Any) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def bits_by_name(state: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {n: (str(t.dtype).removeprefix("torch."), *bits_of(t)) for n, t in state.items()}


def read_bits(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    checkpoint = mc.load(path)
    torch_names = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "C64": "complex64"}
    torch_names |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    torch_names |= {f"{letter}{n}": f"{word}{n}" for letter, word in (("I", "int"), ("U", "uint")) for n in (8, 16, 32, 64)}
    return {t.name: (torch_names[t.dtype], t.shape, mc.read(checkpoint, t.name).tobytes()) for t in checkpoint}


def every_dtype() -> dict[str, Any]:
    return {f"model.{d}": numbers(d, 5, 6) for d in (*OLD_DTYPES, *NEW_DTYPES)}


def every_old_dtype() -> dict[str, Any]:
    return {f"model.{d}": numbers(d, 5, 6) for d in OLD_DTYPES}


def every_shape() -> dict[str, Any]:
    shapes: dict[str, tuple[int, ...]] = {
        "scalar": (),
        "one": (1,),
        "empty": (0,),
        "no rows": (0, 4),
        "no columns": (4, 0),
        "deep": (2, 1, 3, 2),
    }
    return {n: torch.arange(int(np.prod(s, dtype=np.int64)), dtype=torch.float32).reshape(s) - 1 for n, s in shapes.items()}


@pytest.mark.parametrize(
    "state, form", [(every_dtype, "zip"), (every_old_dtype, "old form"), (every_shape, "zip"), (every_shape, "old form")]
)
def test_we_read_every_bit_that_torch_saved(state: Any, form: str, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "theirs.bin", **FORMS[form])
    assert read_bits(tmp_path / "theirs.bin") == bits_by_name(state())


def views() -> dict[str, Any]:
    base = torch.arange(240, dtype=torch.float32).reshape(12, 20)
    return {
        "whole": base,
        "rows": base[3:7],
        "columns": base[:, 5:9],
        "every third": base[::3, 1::4],
        "transposed": base.t(),
        "permuted": base.reshape(3, 4, 20).permute(2, 0, 1),
        "one number": base[7, 7],
        "a diagonal": base.diagonal(),
        "nothing": base[4:4],
        "the same again": base,
    }


@pytest.mark.parametrize("form", FORMS)
def test_views_transposes_and_shared_storages_have_the_numbers_that_torch_sees(form: str, tmp_path: Path) -> None:
    state = views()
    torch.save(state, tmp_path / "theirs.bin", **FORMS[form])
    assert read_bits(tmp_path / "theirs.bin") == bits_by_name(state)
    mc.save(mc.load(tmp_path / "theirs.bin"), tmp_path / "copy.safetensors")
    assert bits_by_name(safetensors_torch.load_file(tmp_path / "copy.safetensors")) == bits_by_name(state)


@pytest.mark.parametrize("form", FORMS)
def test_an_expanded_tensor_is_refused(form: str, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, 1).expand(3, 1000)}, tmp_path / "theirs.bin", **FORMS[form])
    with pytest.raises(FormatError) as refused:
        mc.load(tmp_path / "theirs.bin")
    assert refused.value.code == "MFC207"
    assert ".contiguous()" in str(refused.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", "model_state_dict"])
def test_a_state_dict_that_a_training_script_wrapped_is_found(wrapper: str, form: str, tmp_path: Path) -> None:
    linear = torch.nn.Linear(3, 5)
    optimizer = torch.optim.Adam(linear.parameters())
    linear(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {"epoch": 3, "args": {"lr": 0.1}, wrapper: OrderedDict(linear.state_dict()), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "run.pt", **FORMS[form])
    checkpoint = mc.load(tmp_path / "run.pt")
    assert read_bits(tmp_path / "run.pt") == bits_by_name(linear.state_dict())
    assert {(o.name, o.kind) for o in checkpoint.history.others} == {("epoch", "int"), ("args", "dict"), ("optimizer", "dict")}


@pytest.mark.parametrize("form", FORMS)
def test_parameters_and_a_module_that_shares_one_are_read(form: str, tmp_path: Path) -> None:
    embedding, head = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7, bias=False)
    head.weight = embedding.weight
    state = {"embedding.weight": embedding.weight, "head.weight": head.weight, "buffer": torch.nn.Buffer(torch.ones(2))}
    torch.save(state, tmp_path / "theirs.pt", **FORMS[form])
    assert read_bits(tmp_path / "theirs.pt") == bits_by_name({n: t.detach() for n, t in state.items()})


# ---- what we write ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".bin", ".pt", ".pth"])
@pytest.mark.parametrize("state", [every_dtype, every_shape, views])
def test_torch_reads_every_bit_that_we_wrote_and_the_zip_is_sound(state: Any, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"ours{ending}"
    mc.save(mc.load(state()), path)
    for options in ({}, {"mmap": True}):
        assert bits_by_name(torch.load(path, weights_only=True, **options)) == bits_by_name(state())
    assert read_bits(path) == bits_by_name(state())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_a_file_that_we_wrote_anew_from_torch_is_read_by_torch_again(tmp_path: Path) -> None:
    torch.save(views(), tmp_path / "theirs.bin")
    mc.save(mc.load(tmp_path / "theirs.bin"), tmp_path / "ours.bin")
    assert bits_by_name(torch.load(tmp_path / "ours.bin", weights_only=True)) == bits_by_name(views())


@pytest.mark.parametrize("state", [every_dtype, every_shape])
def test_the_safetensors_library_reads_every_bit_that_we_wrote(state: Any, tmp_path: Path) -> None:
    mc.save(mc.load(state()), tmp_path / "ours.safetensors")
    assert bits_by_name(safetensors_torch.load_file(tmp_path / "ours.safetensors")) == bits_by_name(state())


@pytest.mark.parametrize("state", [every_dtype, every_shape])
def test_we_read_every_bit_that_the_safetensors_library_wrote(state: Any, tmp_path: Path) -> None:
    safetensors_torch.save_file(state(), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert read_bits(tmp_path / "theirs.safetensors") == bits_by_name(state())
    assert mc.load(tmp_path / "theirs.safetensors").side == "hf"


def test_numbers_that_a_cast_rounds_are_those_of_torch(tmp_path: Path) -> None:
    """Every rounding of float32 to bfloat16 and float16 that its upper bits can ask for: ties, overflow, subnormals, NaN."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    bits = np.concatenate([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0x1000, 0x3000, 0x2FFF)])
    wide = torch.from_numpy(bits.view(np.float32))
    for name, spelled, numpy_dtype in (("bf16", torch.bfloat16, ml_dtypes.bfloat16), ("fp16", torch.float16, np.float16)):
        mc.save(mc.load({"w": wide}), tmp_path / f"{name}.safetensors", dtype=name)
        found = safetensors_torch.load_file(tmp_path / f"{name}.safetensors")["w"]
        theirs = wide.to(spelled)
        nan = torch.isnan(theirs)
        assert torch.equal(torch.isnan(found), nan)
        assert torch.equal(found.view(torch.int16)[~nan], theirs.view(torch.int16)[~nan])
        assert mc.read(tmp_path / f"{name}.safetensors", "w").dtype == numpy_dtype
