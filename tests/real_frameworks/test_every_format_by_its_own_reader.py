"""What is written is opened again by the reader that the format comes from; what that reader does not take is refused before a byte.

Names, shapes and dtypes are drawn, the odd ones more often. A lazy tensor of zeros behind a name is enough: what is tried is the header.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import HF, MF, TensorSpec, checkpoint_of, stored_tensor
from mfconv_nb.core.dtypes import DTYPES
from mfconv_nb.core.errors import InputError, OutputError
from mfconv_nb.core.sources import zeros_source
from tests.support import numbered

pytestmark = pytest.mark.real_frameworks

ODD_NAMES = [
    "",
    " ",
    "a\nb",
    "\0",
    "a/b",
    "..",
    "a\\b",
    "'\"",
    "<b>",
    "\x7f",
    "\u2028",
    "\ufeff",
    "名前",
    "😀",
    "__metadata__",
    "weight_map",
]
ODD_NAMES += ["\ud800", "a\udfff", "model", "state_dict", "data.pkl", "crc_num", "x" * 1024, "x" * 1025, "名" * 1024, "e\u0301", "é"]
NAMES = st.one_of(st.sampled_from(ODD_NAMES), st.text(max_size=8), st.text(alphabet="ab._0", max_size=12))
AXES = st.one_of(st.integers(0, 3), st.sampled_from([0, 1, 1, 1]))
LONG = st.sampled_from([(0, 1 << 31), (1 << 31, 0), (0, 1 << 40), (0, 1 << 48), (1 << 60, 0), (1,) * 31, (1,) * 32, (1,) * 33, (0,) * 9])
SHAPES = st.one_of(st.lists(AXES, max_size=4).map(tuple), st.lists(AXES, max_size=12).map(tuple), LONG)
SPECS = st.lists(st.builds(TensorSpec, NAMES, SHAPES, st.sampled_from(sorted(DTYPES))), min_size=1, max_size=4, unique_by=lambda s: s.name)

Seen = dict[str, tuple[tuple[int, ...], str]]


def by_safetensors(path: Path) -> Seen:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {n: (tuple((t := file.get_tensor(n)).shape), _torch_name(t)) for n in file.keys()}  # noqa: SIM118


def by_torch(path: Path) -> Seen:
    import torch

    return {n: (tuple(t.shape), _torch_name(t)) for n, t in torch.load(path, weights_only=True).items()}


def _torch_name(t: Any) -> str:
    return next(d.name for d in DTYPES.values() if f"torch.{d.torch}" == str(t.dtype))


def by_mindspore(path: Path) -> Seen:
    import mindspore

    kind = {"format": "safetensors"} if path.suffix == ".safetensors" else {}
    state = mindspore.load_checkpoint(str(path), **kind)
    return {n: (tuple(p.shape), next(d.name for d in DTYPES.values() if d.mindspore == str(p.dtype))) for n, p in state.items()}


READERS: dict[str, tuple[str, str, Callable[[Path], Seen]]] = {
    "safetensors": ("x.safetensors", HF, by_safetensors),
    "MindSpore's safetensors": ("x.safetensors", MF, by_mindspore),
    "MindSpore's ckpt": ("x.ckpt", MF, by_mindspore),
    "torch": ("x.bin", HF, by_torch),
}


@pytest.mark.parametrize("format_name", READERS)
@settings(max_examples=60)
@given(specs=SPECS)
def test_the_reader_of_a_format_finds_every_name_shape_and_dtype_or_nothing_was_written(format_name: str, specs: list[TensorSpec]) -> None:
    name, side, read = READERS[format_name]
    tensors = {s.name: stored_tensor(s, zeros_source(s.nbytes), ((0, s.nbytes),)) for s in specs}
    with tempfile.TemporaryDirectory() as folder:
        try:
            mc.save(checkpoint_of(tensors, side=side), Path(folder) / name, durable=False)
        except OutputError as refused:
            assert_refused_for_a_reason(refused, specs, format_name, list(Path(folder).iterdir()))
            return
        wanted = {s.name: (s.shape, s.dtype) for s in specs}
        assert read(Path(folder) / name) == wanted
        loaded = mc.load(Path(folder) / name)
        assert {t.name: (t.shape, t.dtype) for t in loaded} == wanted
        assert all(mc.read(loaded, t.name).shape == t.shape for t in loaded)
        assert mc.verify(Path(folder) / name).equal


def assert_refused_for_a_reason(refused: OutputError, specs: list[TensorSpec], format_name: str, left: list[Path]) -> None:
    """Not more is refused than has to be: each reason is one that the reader was seen to stumble on."""
    assert refused.code == "MFC405"
    assert left == []
    of_mindspore = format_name.startswith("MindSpore")
    assert any(
        any("\ud800" <= c <= "\udfff" for c in s.name)
        or len(s.shape) > 32
        or max(s.shape, default=0) >= 1 << 48
        or (s.name == "__metadata__" and format_name.endswith("safetensors"))
        or (of_mindspore and s.dtype in ("F8_E4M3", "F8_E5M2", "F8_E8M0", "C64"))
        or (format_name == "MindSpore's ckpt" and (len(s.name) > 1024 or s.shape == (0,) or max(s.shape, default=0) >= 1 << 31))
        for s in specs
    )


# ---- one by one ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, side", [("o.safetensors", HF), ("o.safetensors", MF), ("folder", HF), ("folder", MF)])
def test_a_tensor_with_the_name_of_the_metadata_is_refused(name: str, side: str, tmp_path: Path) -> None:
    named = mc.load({"w": numbered(2), "__metadata__": numbered(3)})
    with pytest.raises(OutputError) as refused:
        mc.save(replace(named, side=side), tmp_path / name)
    assert refused.value.code == "MFC405"
    assert "'__metadata__'" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    mc.save(named, tmp_path / "o.ckpt")
    assert by_mindspore(tmp_path / "o.ckpt")["__metadata__"] == ((3,), "F32")


def test_a_name_that_is_no_text_is_refused_where_it_comes_in(tmp_path: Path) -> None:
    import torch

    with pytest.raises(InputError, match="MFC109"):
        mc.load({"a\ud800": numbered(2)})
    torch.save({"a\ud800": torch.ones(2)}, tmp_path / "in.bin")
    with pytest.raises(mc.MfconvError, match="MFC201"):
        mc.load(tmp_path / "in.bin")


def test_two_keys_that_are_the_same_text_are_refused() -> None:
    state: dict[Any, Any] = {1: numbered(2), "1": numbered(3)}
    with pytest.raises(InputError, match="MFC109"):
        mc.load(state)


def test_more_axes_than_numpy_has_are_refused() -> None:
    import torch

    with pytest.raises(InputError, match="33 axes"):
        mc.load({"w": torch.ones((1,) * 33)})
    assert mc.load({"w": torch.ones((1,) * 32)})["w"].shape == (1,) * 32


def test_text_that_is_no_text_beside_the_tensors_goes_into_the_manifest_as_an_escape(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(2), "note": "x\ud800", "n\udc80": 3}, tmp_path / "in.bin")
    report = mc.save(mc.load(tmp_path / "in.bin"), tmp_path / "out.safetensors")
    assert b'"x\\ud800"' in report.manifest.read_bytes()
    assert mc.verify(tmp_path / "out.safetensors").equal


def test_more_names_than_a_header_may_hold_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mfconv_nb.formats.safetensors_file.MAX_HEADER_BYTES", 300)
    many = mc.load({f"layers.{n}.weight": np.ones(1, np.float32) for n in range(9)})
    with pytest.raises(OutputError) as refused:
        mc.save(many, tmp_path / "out.safetensors")
    assert refused.value.code == "MFC405"
    assert "--max_shard_size" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    mc.save(many, tmp_path / "out", max_shard_size="8B")
    assert mc.verify(tmp_path / "out").equal
