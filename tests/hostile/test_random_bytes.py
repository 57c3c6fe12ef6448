"""Files that nobody thought of: random bytes, and sound files with bytes flipped, cut out and put in.

Each is refused or it is a checkpoint. What is taken is then read whole, so that a header cannot lead a reader out of its file either.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.streaming.journal import Journal
from tests.hostile.made import SOUND_CKPT, SOUND_SAFETENSORS, assert_sober, dims, field, named, safetensors, tensor, varint

MANY = settings(max_examples=400)
SOME = settings(max_examples=120)  # torch takes 10 ms to open a file


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Sound bytes after one to four accidents: bits flipped, bytes replaced, cut out, put in, copied elsewhere, or the end missing."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["flip", "replace", "cut", "insert", "copy", "end"]))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 16))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "replace":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=length))
        elif kind == "copy":
            begin = draw(st.integers(0, len(data)))
            data[at:at] = data[begin : begin + length]
        elif kind == "end":
            del data[at:]
    return bytes(data)


def refused_or_whole(path: Path, content: bytes) -> None:
    """Loading it is refused, or gives tensors that can all be read from the file and are no larger than it."""
    path.write_bytes(content)
    try:
        checkpoint = mc.load(path)
    except mc.MfconvError as error:
        assert_sober(str(error))
        return
    assert len(repr(checkpoint)) < 20_000
    for lazy in checkpoint:
        assert lazy.spec.nbytes <= len(content)
        assert mc.read(checkpoint, lazy.name).shape == lazy.shape


# ---- safetensors ---------------------------------------------------------------------------------------------------------------------


@MANY
@given(content=damaged(SOUND_SAFETENSORS))
def test_a_damaged_safetensors_file_is_refused_or_read_whole(content: bytes, tmp_path: Path) -> None:
    refused_or_whole(tmp_path / "x.safetensors", content)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
SIZES = st.integers(-2, 40) | st.sampled_from([1 << 31, 1 << 32, 1 << 48, 1 << 63, 1 << 64])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "U8", "BF16", "F8_E4M3", "C64", "F4"]) | JSON_VALUES,
        "shape": st.lists(SIZES, max_size=4) | JSON_VALUES,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | JSON_VALUES,
    },
)


@MANY
@given(
    header=st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), ENTRIES | JSON_VALUES, max_size=4), data=st.binary(max_size=40)
)
def test_a_safetensors_header_of_random_values_is_refused_or_read_whole(header: dict[str, Any], data: bytes, tmp_path: Path) -> None:
    refused_or_whole(tmp_path / "x.safetensors", safetensors(header, data))


@MANY
@given(content=st.binary(max_size=200), ending=st.sampled_from([".safetensors", ".ckpt", ".bin", "", ".index.json"]))
def test_random_bytes_are_refused_or_read_whole_whatever_their_ending(content: bytes, ending: str, tmp_path: Path) -> None:
    refused_or_whole(tmp_path / f"x{ending}", content)


# ---- MindSpore -----------------------------------------------------------------------------------------------------------------------


@MANY
@given(content=damaged(SOUND_CKPT + b"crc_num" + bytes(10)))
def test_a_damaged_mindspore_checkpoint_is_refused_or_read_whole(content: bytes, tmp_path: Path) -> None:
    refused_or_whole(tmp_path / "x.ckpt", content)


TYPES = st.sampled_from(["Float32", "Int8", "BFloat16", "Uint8", "str", "Complex64", "random_op"]) | st.text(max_size=6)
TENSORS = st.builds(
    tensor,
    st.lists(st.integers(-1, 4) | st.integers(0, 1 << 62), max_size=3).map(lambda sizes: dims(*sizes)),
    TYPES,
    st.binary(max_size=16) | st.sampled_from([bytes(4), bytes(8), bytes(16)]),
)
FIELDS = st.builds(field, st.integers(0, 255), st.binary(max_size=12), length=st.none() | st.integers(0, 1 << 64))
STREAMS = st.lists(
    st.builds(
        named,
        st.sampled_from(["a", "b"]) | st.binary(max_size=6),
        TENSORS | FIELDS | st.binary(max_size=12),
        tag=st.sampled_from([0x12, 0x1A, 0]),
    )
    | FIELDS
    | st.integers(0, 1 << 70).map(lambda n: b"\x0a" + varint(n)),
    min_size=1,
    max_size=4,
).map(b"".join)


@MANY
@given(content=STREAMS)
def test_a_stream_of_random_fields_is_refused_or_read_whole(content: bytes, tmp_path: Path) -> None:
    refused_or_whole(tmp_path / "x.ckpt", content)


# ---- torch ---------------------------------------------------------------------------------------------------------------------------


def torch_file(*, zipped: bool) -> bytes:
    import torch

    out = io.BytesIO()
    state = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.arange(5), "step": 3}
    torch.save(state, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@SOME
@given(content=damaged(torch_file(zipped=True)))
def test_a_damaged_torch_file_is_refused_or_read_whole(content: bytes, tmp_path: Path) -> None:
    refused_or_whole(tmp_path / "x.bin", content)


@pytest.mark.filterwarnings("ignore::UserWarning")
@SOME
@given(content=damaged(torch_file(zipped=False)))
def test_a_damaged_torch_file_of_the_old_form_is_refused_or_read_whole(content: bytes, tmp_path: Path) -> None:
    refused_or_whole(tmp_path / "x.bin", content)


# ---- JSON files ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy, its index and config, and the checkpoint that was made of it, with its manifest."""
    folder = tmp_path_factory.mktemp("converted")
    mc.toy("llama", folder / "toy", num_hidden_layers=1)
    mc.save(mc.map(mc.load(folder / "toy"), "llama"), folder / "toy.ckpt")
    return folder


def mapped_or_refused(path: Path, family: str | None) -> None:
    try:
        assert len(repr(mc.map(mc.load(path), family))) < 20_000
    except mc.MfconvError as error:
        assert_sober(str(error), lines=16)


def changing(file: Path, content: bytes, act: Callable[[], None]) -> None:
    before = file.read_bytes()
    try:
        file.write_bytes(content)
        act()
    finally:
        file.write_bytes(before)


def with_random_values(draw: st.DrawFn, content: Any) -> Any:
    """The content with some values replaced by random ones."""
    if not isinstance(content, dict):
        return draw(JSON_VALUES)
    changed = dict(content)
    for key in draw(st.lists(st.sampled_from(sorted(content)), max_size=3, unique=True)):
        changed[key] = with_random_values(draw, content[key]) if draw(st.booleans()) else draw(JSON_VALUES)
    return changed


@pytest.mark.parametrize("name", ["toy/config.json", "toy/model.safetensors.index.json", "toy.ckpt.mfconv/manifest.json"])
@settings(max_examples=150)
@given(data=st.data())
def test_a_json_file_with_random_values_is_refused_or_of_use(name: str, data: st.DataObject, converted: Path) -> None:
    file = converted / name
    content = data.draw(st.composite(with_random_values)(json.loads(file.read_bytes())))
    target = converted / ("toy.ckpt" if "manifest" in name else "toy")
    changing(file, json.dumps(content).encode(), lambda: mapped_or_refused(target, "llama" if data.draw(st.booleans()) else None))


@pytest.mark.parametrize("name", ["toy/config.json", "toy/model.safetensors.index.json", "toy.ckpt.mfconv/manifest.json"])
@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_json_file_is_refused_or_of_use(name: str, data: st.DataObject, converted: Path) -> None:
    file = converted / name
    target = converted / ("toy.ckpt" if "manifest" in name else "toy")
    changing(file, data.draw(damaged(file.read_bytes())), lambda: mapped_or_refused(target, None))


ROWS = st.lists(JSON_VALUES, min_size=5, max_size=5) | JSON_VALUES


@MANY
@given(rows=st.lists(ROWS.map(lambda row: json.dumps(row).encode()) | st.binary(max_size=20), max_size=4))
def test_a_journal_of_random_rows_is_read_without_an_error(rows: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"\n".join([b'{"fingerprint": "x"}', *rows]))
    journal = Journal(path, "x")
    journal.close()
    assert all(isinstance(f.tensor, str) and isinstance(f.checksum, str) and isinstance(hash(f.key), int) for f in journal.finished)


def test_the_sound_files_are_read_whole(tmp_path: Path) -> None:
    for name, content in {"x.safetensors": SOUND_SAFETENSORS, "x.ckpt": SOUND_CKPT, "x.bin": torch_file(zipped=True)}.items():
        refused_or_whole(tmp_path / name, content)
        assert len(mc.load(tmp_path / name)) >= 2
