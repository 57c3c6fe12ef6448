"""The bytes of a file with words beside them: every byte is named once, and what is said of it is what the real libraries say."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.dtypes import DTYPES
from mfconv_nb.core.errors import FormatError, InputError
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats import mindspore_ckpt, safetensors_file
from mfconv_nb.steps.inspecting.anatomy import Anatomy
from tests.hostile import made
from tests.support import NUMPY, PATIENCE, numbered, raws_in, write_safetensors

ENDINGS = ("safetensors", "ckpt", "bin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same small model in each format, and once in shards."""
    folder = tmp_path_factory.mktemp("toy")
    toy = mc.toy("llama", folder / "hf", num_hidden_layers=2)
    for ending in ENDINGS:
        mc.save(toy, folder / f"model.{ending}")
    return folder


def of_file(path: Path) -> Anatomy:
    found = mc.anatomy(path)
    assert isinstance(found, Anatomy)
    return found


def assert_tiled(found: Anatomy) -> None:
    at = 0
    for each in found.fields:
        assert each.offset == at
        assert each.length >= 0
        at += each.length
    assert at == found.source.size


def numbers_of(path: Path) -> dict[str, bytes]:
    """The bytes that the fields call a tensor's numbers, by name."""
    data, joined = path.read_bytes(), {}
    for each in of_file(path).numbers:
        name = re.sub(r", slice \d+$", "", each.owner)
        joined[name] = joined.get(name, b"") + data[each.offset : each.end]
    return joined


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model.bin", "hf/model.safetensors.index.json"])
def test_every_byte_of_a_file_is_in_exactly_one_field(name: str, folder: Path) -> None:
    assert_tiled(of_file(folder / name))


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_numbers_are_where_an_independent_reader_finds_them(ending: str, folder: Path) -> None:
    path = folder / f"model.{ending}"
    assert numbers_of(path) == {name: raw.data for name, raw in raws_in(path).items()}


def test_the_fields_of_a_safetensors_file_are_what_its_own_library_reads(folder: Path) -> None:
    from safetensors import safe_open

    found = of_file(folder / "model.safetensors")
    members = {f.owner: f.meaning for f in found.fields if f.what == "header member"}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(members) == {f.owner for f in found.numbers}
        for name in file.keys():  # noqa: SIM118 - it is no dict
            shape = " × ".join(map(str, file.get_slice(name).get_shape()))
            assert f"{name}': {shape} bf16" in members[name]
    data = (folder / "model.safetensors").read_bytes()
    for f in found.fields:
        if f.what == "header member":
            name, entry = next(iter(json.loads(b"{" + data[f.offset : f.end].rstrip(b",") + b"}").items()))
            first, last = entry["data_offsets"]
            assert name == f.owner
            assert f"bytes {first:,} to {last:,}" in f.meaning


def test_the_places_are_those_of_the_format_readers(folder: Path) -> None:
    for path, module in ((folder / "model.safetensors", safetensors_file), (folder / "model.ckpt", mindspore_ckpt)):
        header = module.read_header(FileSource(path))
        assert [(f.owner, f.offset, f.length) for f in of_file(path).numbers] == [(p.spec.name, *p.extents[0]) for p in header.tensors]


@pytest.mark.real_frameworks
def test_a_file_that_torch_wrote_is_described_as_torch_reads_it(tmp_path: Path) -> None:
    import torch

    big = torch.arange(24, dtype=torch.float32)
    state = {
        "a": big.reshape(2, 3, 4),
        "view": big[2:8],
        "b": torch.ones(5, dtype=torch.bfloat16),
        "e": torch.zeros(0, 4),
        "s": torch.tensor(7),
    }
    torch.save(state, tmp_path / "x.bin")
    found = of_file(tmp_path / "x.bin")
    assert_tiled(found)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        lazy = torch.load(tmp_path / "x.bin", weights_only=True)
    places = {n: t.untyped_storage()._checkpoint_offset for n, t in lazy.items() if n != "view"}
    assert {f.owner: f.offset for f in found.numbers} == places
    assert {f.owner: (f.dtype, f.length) for f in found.numbers} == {"a": ("F32", 96), "b": ("BF16", 10), "e": ("F32", 0), "s": ("I64", 8)}
    assert next(f.meaning for f in found.numbers) == "storage 0: 2 × 3 × 4 fp32; 2 tensors look into it"
    assert all(f.offset % 64 == 0 for f in found.numbers)
    with zipfile.ZipFile(tmp_path / "x.bin") as archive:
        assert {f.offset for f in found.fields if f.what == "local header"} == {i.header_offset for i in archive.infolist()}
        assert archive.start_dir in {f.offset for f in found.fields if f.what == "central directory"}


@pytest.mark.real_frameworks
def test_a_file_of_torchs_old_form_is_described_storage_by_storage(tmp_path: Path) -> None:
    import torch

    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    found = of_file(tmp_path / "x.pt")
    assert_tiled(found)
    assert numbers_of(tmp_path / "x.pt") == {"a": state["a"].numpy().tobytes(), "b": b"\x80\x3f" * 5}


@pytest.mark.real_frameworks
def test_a_file_that_mindspore_wrote_is_described_as_it_was_saved(tmp_path: Path) -> None:
    script = f"""
import numpy as np, mindspore as ms
items = [{{"name": "a", "data": ms.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))}}, {{"name": "s", "data": ms.Tensor(7, ms.int32)}}]
ms.save_checkpoint(items, {str(tmp_path / "x.ckpt")!r}, crc_check=True, append_dict={{"epoch": 3, "note": "Zoë"}})
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=PATIENCE)
    found = of_file(tmp_path / "x.ckpt")
    assert_tiled(found)
    assert numbers_of(tmp_path / "x.ckpt")["a"] == np.arange(6, dtype=np.float32).tobytes()
    said = {(f.owner, f.what): f.meaning for f in found.fields}
    assert said["a", "shape"] == "tag 08: 2 × 3"
    assert said["s", "dtype"] == "tag 12: Int32"
    assert ("s", "shape") not in said  # a scalar has no dims
    assert said["note", "content"] == "string 'Zoë'"
    import zlib

    data = (tmp_path / "x.ckpt").read_bytes()
    assert f"0x{zlib.crc32(data[:-17]):08x}" in said["", "checksum"]


def test_slices_of_a_large_tensor_are_told_apart(tmp_path: Path) -> None:
    plan = mindspore_ckpt.plan_file("x.ckpt", [TensorSpec("w", ((1 << 30) + 4,), "U8"), TensorSpec("last", (3,), "U8")])
    with open(tmp_path / "x.ckpt", "wb") as file:  # holes where the numbers would be
        for offset, header in plan.fixed:
            file.seek(offset)
            file.write(header)
        file.truncate(plan.size)
    found = of_file(tmp_path / "x.ckpt")
    assert_tiled(found)
    assert [(f.owner, f.length) for f in found.numbers] == [("w", 1 << 29), ("w, slice 2", 1 << 29), ("w, slice 3", 4), ("last", 3)]
    assert [f.what for f in found.fields if f.what.startswith("entry")] == [*(f"entry, slice {n} of 3" for n in (1, 2, 3)), "entry"]
    assert "2 tensors" in found.summary


def test_an_index_says_which_file_holds_what(folder: Path) -> None:
    index = json.loads((folder / "hf/model.safetensors.index.json").read_bytes())["weight_map"]
    found = of_file(folder / "hf/model.safetensors.index.json")
    data, seen = (folder / "hf/model.safetensors.index.json").read_bytes(), {}
    for f in found.fields:
        if f.owner:
            part = json.loads(b"{" + data[f.offset : f.end].rstrip().rstrip(b",") + b"}")
            assert set(part.values()) == {f.owner}
            seen |= part
    assert seen == index
    for file in set(index.values()):
        assert f"{file}: {list(index.values()).count(file)} tensors" in found.table().facts
    assert found.strip() == ""


def test_an_index_says_which_of_its_files_are_absent(tmp_path: Path) -> None:
    names = {f"layers.{n}.w": f"{n % 9}.safetensors" for n in range(300)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    table = of_file(tmp_path / "model.safetensors.index.json").table()
    assert table.facts[0] == "0.safetensors: 34 tensors, absent"
    assert table.facts[-1] == "1 more file"
    assert len(table.rows) == 40
    assert table.rows[-1][4] == "… 265 more fields"


def test_a_folder_shows_its_files_and_what_is_in_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(made.SOUND_SAFETENSORS[:-1])
    (tmp_path / "whole.ckpt").write_bytes(made.SOUND_CKPT)
    (tmp_path / "notes.txt").write_text("notes")
    holds = {row["file"]: row["holds"] for row in mc.anatomy(tmp_path).rows()}
    assert holds["cut.safetensors"].startswith("refused: MFC202")
    assert holds["whole.ckpt"].startswith("2 tensors")
    assert holds["notes.txt"] == "no weights"
    assert "names in 5 files" in repr(mc.anatomy(folder / "hf"))


# ---- forms ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_table_is_short_and_the_rows_are_all_there(ending: str, folder: Path) -> None:
    found = of_file(folder / f"model.{ending}")
    shown, rows = found.table().rows, found.rows()
    assert len(shown) <= 40 < len(rows) == len(found.fields)
    assert any(re.fullmatch(r"… \d+ more (tensors|entries|members)", row[4]) for row in shown)
    assert sum(int(row[3].replace(",", "")) for row in shown) == found.source.size  # what is left out is counted, too
    data = (folder / f"model.{ending}").read_bytes()
    for row in rows:
        assert bytes.fromhex(row["bytes"]) == data[row["offset"] : row["offset"] + min(16, row["length"])]
        assert int(row["hex"], 16) == row["offset"]


def test_the_first_number_that_is_shown_is_the_one_that_is_read(folder: Path) -> None:
    for row in of_file(folder / "model.ckpt").rows():
        if row["what"] == "numbers":
            assert f"the first is {mc.read(folder / 'model.ckpt', row['tensor']).ravel()[0]};" in row["meaning"]


@pytest.mark.parametrize("count", [3, 40, 3000])
def test_the_picture_stays_small_and_to_scale(count: int, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {f"model.layers.{n}.<b>&'\x1b.weight": numbered(n % 7 + 1) for n in range(count)})
    found = of_file(path)
    svg = found.strip()
    assert len(svg) < 15_000
    assert not re.search(r"<script|<b>|javascript:|https?://|url\(|\x1b", svg)
    bars = [tuple(map(float, m)) for m in re.findall(r"<rect x='([\d.]+)' y='16' width='([\d.]+)'", svg)]
    assert bars == sorted(bars)
    assert 2 <= len(bars) <= 40
    assert min(w for _, w in bars) >= 3
    assert 700 < sum(bars[-1]) <= 720
    assert len(found._repr_html_()) < 100_000
    assert len(found.table().rows) <= 40


def test_a_bar_is_as_wide_as_its_bytes(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"a": numbered(30_000), "b": numbered(10_000)})
    widths = [float(w) for w in re.findall(r"y='16' width='([\d.]+)'", of_file(path).strip())]
    assert widths[-2] / widths[-1] == pytest.approx(3, rel=0.02)


# ---- hostile files ----------------------------------------------------------------------------------------------------------------


def spoiled(sound: bytes) -> list[bytes]:
    """The file cut short at many places, and with one byte changed at many places."""
    rng = np.random.default_rng(0)
    cut = [sound[:n] for n in range(0, len(sound), max(1, len(sound) // 60))]
    changed = []
    for place in rng.integers(0, len(sound), 150):
        data = bytearray(sound)
        data[place] = rng.integers(0, 256)
        changed.append(bytes(data))
    return cut + changed


def described_or_refused(path: Path) -> str:
    """The code of the refusal, or nothing; either way nothing else is raised, and a description is whole and sober."""
    try:
        found = of_file(path)
    except mc.MfconvError as error:
        made.assert_sober(str(error))
        return error.code
    assert_tiled(found)
    text = repr(found)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(found.rows()) == len(found.fields)
    assert len(found.strip()) < 15_000
    return ""


def code_of_loading(path: Path) -> str:
    try:
        mc.load(path)
    except mc.MfconvError as error:
        return error.code
    return ""


@pytest.mark.parametrize("name, sound", [("x.safetensors", made.SOUND_SAFETENSORS), ("x.ckpt", made.SOUND_CKPT)])
def test_a_damaged_file_is_refused_just_where_load_refuses_it(name: str, sound: bytes, tmp_path: Path) -> None:
    path, codes = tmp_path / name, []
    for content in (sound, *spoiled(sound)):
        path.write_bytes(content)
        codes.append(described_or_refused(path))
        assert codes[-1] == code_of_loading(path)
    assert codes[0] == ""
    assert sum(code != "" for code in codes) > 50


@pytest.mark.real_frameworks
@pytest.mark.parametrize("new_form", [True, False])
def test_a_damaged_torch_file_is_described_or_refused(new_form: bool, tmp_path: Path) -> None:
    import torch

    out = io.BytesIO()
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5)}, out, _use_new_zipfile_serialization=new_form)
    codes = set()
    for content in spoiled(out.getvalue()):
        (tmp_path / "x.bin").write_bytes(content)
        codes.add(described_or_refused(tmp_path / "x.bin"))
    assert codes >= {"MFC201"}
    assert codes <= {"", "MFC103", "MFC201", "MFC202", "MFC203", "MFC205"}


class Runs:
    """Unpickled without care, it calls ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_code_is_named_for_what_it_is_and_nothing_runs(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    harmful = pickle.dumps({"a": Runs(os.mkdir, str(marker))}, protocol)
    with zipfile.ZipFile(tmp_path / "zip.bin", "w") as archive:
        archive.writestr("x/data.pkl", harmful)
    (tmp_path / "bare.bin").write_bytes(harmful)
    for name in ("zip.bin", "bare.bin"):
        found = of_file(tmp_path / name)
        assert_tiled(found)
        assert any("it would call 'posix.mkdir'" in f.meaning for f in found.fields)
    assert not marker.exists()


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, 2))
        archive.writestr("x/version", b"3")
    data = bytearray(out.getvalue())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = bytes(4)  # where its local header would be: that of the first
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(FormatError, match="MFC201"):
        mc.anatomy(tmp_path / "x.bin")


@pytest.mark.parametrize("name", [made.HOSTILE_NAME, "x" * 60_000, "<script>alert(1)</script>", "é" * 300, ""])
def test_a_hostile_name_is_shown_escaped_and_short(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(made.safetensors({name: made.entry()}, bytes(24)))
    (tmp_path / "x.ckpt").write_bytes(made.named(name, made.tensor(made.dims(2, 3), "Float32", bytes(24))))
    for file in ("x.safetensors", "x.ckpt"):
        assert described_or_refused(tmp_path / file) == ""
        found = of_file(tmp_path / file)
        assert len(repr(found)) < 20_000
        assert len(found._repr_html_()) < 30_000
        assert "<script>" not in found._repr_html_()


@pytest.mark.parametrize(
    "content",
    [
        '{"weight_map": {"a": "../b.safetensors"}}',
        "[]",
        "{",
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
    ],
)
def test_an_index_that_load_refuses_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="MFC104"):
        mc.anatomy(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize(
    "content",
    [
        '{"a": "x.safetensors"}',
        ' {"weight_map" :{"a":"x.safetensors"  , "b":"x.safetensors"}, "metadata":{"total_size":1, "more":[{"weight_map":{}}]}}\n\n',
        '{"weight_map": {"é\\u20ac": "x.safetensors"}, "weight_map": {"ü": "ü.safetensors"}}',
        '\ufeff{"weight_map": {"a": "x.safetensors"}}',
    ],
)
def test_an_odd_index_is_described_whole(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    assert described_or_refused(tmp_path / "model.safetensors.index.json") == ""


def test_what_is_no_file_of_weights_is_refused_as_load_does(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "x").write_bytes(b"\x89PNG")
    (tmp_path / "enc.ckpt").write_bytes(bytes.fromhex("d85e3a7f") + bytes(40))
    for path, code in ((tmp_path / "none", "MFC101"), (tmp_path / "config.json", "MFC103"), (tmp_path / "x", "MFC103")):
        with pytest.raises(InputError, match=code):
            mc.anatomy(path)
    with pytest.raises(FormatError, match="MFC204"):
        mc.anatomy(tmp_path / "enc.ckpt")
    with pytest.raises(InputError, match="MFC109"):
        mc.anatomy(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", sorted(NUMPY))
def test_every_dtype_is_shown_with_its_first_number(dtype: str, tmp_path: Path) -> None:
    array = np.array([1, 0, 1], NUMPY[dtype])
    for ending in ("safetensors", "ckpt") if DTYPES[dtype].mindspore else ("safetensors",):
        mc.save(mc.load({"w": array}), tmp_path / f"x.{ending}")
        row = next(r for r in of_file(tmp_path / f"x.{ending}").rows() if r["what"] == "numbers")
        assert f"the first is {array[0]};" in row["meaning"]
