"""What several test files share: readers and writers of the formats that owe nothing to the package under test, and small checkpoints.

A tensor is held as ``Raw``: its dtype in safetensors spelling, its shape and its bytes. Comparing two dicts of these compares names,
shapes, dtypes and every byte at once.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
PATIENCE = 300  # seconds until something is taken to hang; a busy machine is six times slower than a quiet one

NUMPY = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}
SPELLED = {np.dtype(v): k for k, v in NUMPY.items()}
MINDSPORE = {"Float32": "F32", "Float16": "F16", "BFloat16": "BF16", "Float64": "F64", "Int64": "I64", "Int32": "I32"}
MINDSPORE |= {"Int16": "I16", "Int8": "I8", "UInt8": "U8", "Bool": "BOOL"}
TORCH = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32"}
TORCH |= {"int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


class Raw(NamedTuple):
    """A tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def array(self) -> Array:
        return np.frombuffer(self.data, NUMPY[self.dtype]).reshape(self.shape)


def wide(array: Array) -> Array:
    """The numbers as float64, without numpy's warnings about NaN."""
    with np.errstate(all="ignore"):
        return array.astype(np.float64)


def raw_of(array: Array) -> Raw:
    """An array as its bytes in C order."""
    return Raw(SPELLED[array.dtype], array.shape, np.ascontiguousarray(array).tobytes())


def raws(arrays: Mapping[str, Array]) -> dict[str, Raw]:
    """Arrays as their bytes."""
    return {n: raw_of(a) for n, a in arrays.items()}


def same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Whether the names, the shapes and the bytes are the same, whatever the dtypes are called."""
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a)


# ---- readers that know nothing of the package ----------------------------------------------------------------------------


def raws_in(path: Path) -> dict[str, Raw]:
    """Every tensor in a file, or in all weight files of a folder."""
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.suffix in (".safetensors", ".ckpt", ".bin", ".pt", ".pth")]
        found = [(name, raw) for f in files for name, raw in raws_in(f).items()]
        assert len(dict(found)) == len(found), "a name in two files"
        return dict(found)
    return {".safetensors": _safetensors, ".ckpt": _mindspore}.get(path.suffix, _torch)(path)


def _safetensors(path: Path) -> dict[str, Raw]:
    data = path.read_bytes()
    first = 8 + int.from_bytes(data[:8], "little")
    entries = {n: e for n, e in json.loads(data[8:first]).items() if n != "__metadata__"}
    places = {n: slice(first + e["data_offsets"][0], first + e["data_offsets"][1]) for n, e in entries.items()}
    return {n: Raw(e["dtype"], tuple(e["shape"]), data[places[n]]) for n, e in entries.items()}


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The fields of a protobuf message: number, value of a varint, content of a length-delimited one."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key, value = varint(), varint()
        if key & 7 == 0:
            yield key >> 3, value, b""
        else:
            yield key >> 3, value, data[at : at + value]
            at += value


def _mindspore(path: Path) -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    last = ""
    for _, _, entry in _fields(path.read_bytes()):
        (_, _, tag), (_, _, value) = _fields(entry)
        tensor = list(_fields(value))
        name = tag.decode()
        content = b"".join(c for n, _, c in tensor if n == 3)
        before = found[name].data if name == last else b""
        dtype = next(c.decode() for n, _, c in tensor if n == 2)
        found[name] = Raw(MINDSPORE[dtype], tuple(v for n, v, _ in tensor if n == 1), before + content)
        last = name
    return found


def _torch(path: Path) -> dict[str, Raw]:
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state["model"] if set(state) == {"model"} else state  # as the original files of Swin, ViT, MAE and BLIP-2 have them
    return {
        n: Raw(TORCH[str(t.dtype).removeprefix("torch.")], tuple(t.shape), t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for n, t in state.items()
    }


# ---- writers ---------------------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: Mapping[str, Raw | Array], metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file with these tensors in this order."""
    raws = {n: t if isinstance(t, Raw) else raw_of(t) for n, t in tensors.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    at = 0
    for name, raw in raws.items():
        header[name] = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [at, at + len(raw.data)]}
        at += len(raw.data)
    head = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(r.data for r in raws.values()))
    return path


def write_with_a_hole(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A safetensors file of bf16 zeros: a header and a hole, so that its size takes no room on the disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    head = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + at)
    return path


def write_hf(folder: Path, tensors: Mapping[str, Raw | Array], config: Mapping[str, Any] | None = None) -> Path:
    """A Hugging Face folder of one file, with a config.json where one is given."""
    write_safetensors(folder / "model.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def written(path: Path, text: str) -> Path:
    """A text file, in a folder that is made for it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def listing(folder: Path) -> list[str]:
    """Everything below a folder, by its path from there."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def cell_of(arrays: dict[str, Any]) -> Any:
    """A MindSpore Cell with parameters of these names."""
    import mindspore as ms  # heavy, and no import of the other tests

    net = ms.nn.Cell()
    for name, array in arrays.items():
        tensor = ms.Tensor(array.astype(np.float32), ms.bfloat16) if array.dtype == ml_dtypes.bfloat16 else ms.Tensor(array)
        *path, leaf = name.split(".")
        owner = net
        for part in path:
            if part not in owner._cells:
                owner.insert_child_to_cell(part, ms.nn.Cell())
            owner = owner._cells[part]
        owner.insert_param_to_cell(leaf, ms.Parameter(tensor, name=name), check_name_contain_dot=False)
    return net


def without(tensors: Mapping[str, Any], *parts: str) -> dict[str, Any]:
    """The tensors whose names hold none of these parts; each part must hit something."""
    for part in parts:
        assert any(part in name for name in tensors), part
    return {n: t for n, t in tensors.items() if not any(part in n for part in parts)}


def numbered(*shape: int, dtype: Any = np.float32, first: int = 0) -> Array:
    """An array that counts up: no two elements are equal, so none can be swapped unseen."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.arange(first, first + size).astype(dtype).reshape(shape)


def flip_bit(path: Path, offset: int) -> None:
    """Change the lowest bit of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def place_of(path: Path, name: str) -> int:
    """Where the bytes of a tensor lie in a file; they must be there only once."""
    data, raw = path.read_bytes(), raws_in(path)[name]
    assert data.count(raw.data) == 1
    return data.index(raw.data)


# ---- what pages and pictures show ---------------------------------------------------------------------------------------------


def text_of(html: str) -> str:
    """The words of a piece of HTML, with a space for every tag but ``<wbr>``."""
    return unescape(re.sub(r"<[^>]*>", " ", html.replace("<wbr>", "")))


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# ---- waiting, and how much is done, which a clock cannot tell on a busy machine ----------------------------------------------


def wait_until(holds: Callable[[], Any]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.005)


def work_of(act: Callable[[], Any], *refusals: type[Exception]) -> int:
    """How many functions of Python and of C are called while ``act`` runs, to its end or to one of ``refusals``.

    Some ten million are a second of a quiet machine. Not seen: what other threads do, and how long one function of C takes.
    """
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with suppress(*refusals):
            act()
    finally:
        sys.setprofile(before)
    return calls


def change_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Change entries of the config.json in a folder; the whole content."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return dict(json.loads(path.read_text()))
