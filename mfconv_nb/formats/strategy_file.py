"""Strategy files of MindSpore: how a training run cut every tensor over its devices. Read and written without mindspore.

MindSpore writes the same facts as protobuf (package `mindspore.straspb`, named `.ckpt` although it holds no weights) or as JSON. A file
describes one pipeline stage. A merged file describes all of them, and names its tensors `STAGE-NAME`.

Refuses (MFC114): fields that do not nest or have a wrong type, device matrices and maps that contradict each other, a tensor named twice,
files of absurd size. A strategy of another training run cannot be recognised here; later its shapes do not fit.
Source: the descriptor of mindspore 2.10.0 (`node_strategy.proto`), and files written with its classes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.errors import InputError, quote
from mfconv_nb.core.paths import parse_object
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.protobuf import BrokenProtobuf, read_varint, varint_bytes

MAX_BYTES = 256 << 20  # 100,000 tensors take some 10 MB
MAX_DIMS = 64
MAX_DEVICES = 1 << 16
HINT_DAMAGED = "Copy the file again, or give the right one with --strategy."
_MERGED = re.compile(r"(\d{1,6})-(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StrategyLayout:
    """What a strategy file says about one tensor, in MindSpore's terms.

    Attributes:
        devices: the device matrix of the stage.
        maps: one map with a device dimension for every axis; or one map for every axis, with several dimensions each. Dimensions are
            counted from the right; -1 means that the axis is not cut.
        split: rows of each slice along axis 0, if the user gave them; nearly always empty.
        offsets: what MindSpore subtracts from the indices of such a tensor.
        field: the number of fields of a multi-field embedding; nearly always 0.
        shard_step, shard_size: the optimizer cuts axis 0 again, into ``shard_size`` parts, for ranks that lie ``shard_step`` apart. -1:
            into as many parts as there are copies. 0: not at all.
    """

    devices: Shape
    maps: tuple[tuple[int, ...], ...]
    split: Shape = ()
    offsets: tuple[int, ...] = ()
    field: int = 0
    shard_step: int = 0
    shard_size: int = 0


@dataclass(frozen=True, slots=True)
class StrategyFile:
    """The layouts of one pipeline stage, or of all of them.

    Attributes:
        path: the file.
        stages: for every stage its tensors. The stage is None if the file does not say which it describes.
    """

    path: Path
    stages: Mapping[int | None, Mapping[str, StrategyLayout]]


def looks_like(first_bytes: bytes) -> bool:
    """True for the first (at least 9) bytes of a strategy in protobuf, and for any JSON object."""
    if first_bytes.lstrip()[:1] == b"{":
        return True
    # field 1, the current stage, is a varint; then the file ends, or field 2 or 3 begins
    if first_bytes[:1] != b"\x08" or (
        first_bytes[8:9] == b"{" and first_bytes[5:8] == b"\0\0\0"
    ):  # these zeros are a header length: safetensors
        return False
    behind = next((n for n in range(1, 7) if n < len(first_bytes) and first_bytes[n] < 128), None)
    return behind is not None and first_bytes[behind + 1 : behind + 2] in (b"", b"\x12", b"\x1a")


def is_strategy(path: Path) -> bool:
    """True for a file whose content can only be a strategy; false for other JSON files."""
    try:
        source = FileSource(path)
        first = source.read(0, 64)
        if not looks_like(first):
            return False
        return first.lstrip()[:1] != b"{" or (source.size <= MAX_BYTES and b'"parallel_layout_item"' in source.read(0, source.size))
    except InputError:
        return False


def _read_bytes(path: Path) -> bytes:
    source = FileSource(path)
    if source.size > MAX_BYTES or source.size == 0:
        raise _refusal(path, how_many(source.size, "byte"), f"a strategy file of at most {MAX_BYTES:,} bytes")
    return source.read(0, source.size)


def parse_strategy(data: bytes, path: Path) -> StrategyFile:
    """Parse the content of a strategy file; ``path`` is for messages.

    Raises:
        InputError: MFC114.
    """
    named, stages = _from_json(data, path) if data.lstrip()[:1] == b"{" else _from_protobuf(data, path)
    for name, layout in named.items():
        _check_layout(layout, name, path)
    merged = {name: _MERGED.fullmatch(name) for name in named}
    if named and all(merged.values()):
        by_stage: dict[int | None, dict[str, StrategyLayout]] = {}
        for name, match in merged.items():
            assert match is not None
            by_stage.setdefault(int(match[1]), {})[match[2]] = named[name]
        return StrategyFile(path, dict(sorted(by_stage.items(), key=lambda item: item[0] or 0)))
    if len(stages) > 1:
        found = f"stages {', '.join(str(s) for s in sorted(stages)[:8])}, and names without a stage"
        raise _refusal(path, found, "one stage, or names STAGE-NAME")
    return StrategyFile(path, {next(iter(stages), None): named})


def _check_layout(layout: StrategyLayout, name: str, path: Path) -> None:
    """Refuse a layout whose numbers contradict each other."""

    def refuse(found: str, expected: str) -> InputError:
        return _refusal(f"{quote(name)} in {path}", found, expected)

    dims = len(layout.devices)
    if dims > MAX_DIMS or any(n < 1 for n in layout.devices) or math.prod(layout.devices) > MAX_DEVICES:
        raise refuse(f"a device matrix {list(layout.devices[:8])}", f"at most {MAX_DEVICES:,} devices")
    if len(layout.maps) > MAX_DIMS or any(len(m) > MAX_DIMS for m in layout.maps):
        raise refuse("a tensor map of absurd length", f"at most {MAX_DIMS} axes")
    used = [k for m in layout.maps for k in m if k != -1]
    wrong = [k for k in used if not 0 <= k < dims]
    if wrong:
        raise refuse(f"tensor map {_maps_text(layout)}", f"-1 or a dimension of the device matrix {list(layout.devices)}")
    if len(used) != len(set(used)):
        raise refuse(f"tensor map {_maps_text(layout)}", "each device dimension at most once")
    if layout.shard_size < -1 or layout.shard_size > MAX_DEVICES:
        raise refuse(f"{layout.shard_size} optimizer shards", "-1, 0 or a number of devices")


def _maps_text(layout: StrategyLayout) -> str:
    return str([list(m) for m in layout.maps] if len(layout.maps) != 1 else list(layout.maps[0]))[:120]


def _refusal(where: object, found: str, expected: str) -> InputError:
    return InputError("MFC114", where, found=found, expected=expected, hint=HINT_DAMAGED)


# ---- protobuf ----------------------------------------------------------------------------------------------------------------

VARINT, BYTES = 0, 2


def _read_fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield every field: its number, then begin and end of its bytes; for a varint its value and -1."""
    while at < end:
        key, at = read_varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = read_varint(data, at, end)
            yield number, value, -1
        elif wire == BYTES:
            size, at = read_varint(data, at, end)
            if size > end - at:
                raise BrokenProtobuf(at, f"a field of {how_many(size, 'byte')} where {end - at:,} are left")
            yield number, at, at + size
            at += size
        else:
            raise BrokenProtobuf(at, f"a field of wire type {wire}")


def _to_signed(value: int) -> int:
    """A varint as a signed number: protobuf writes a negative one as 64 bits of two's complement, whatever the width of its field."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _from_protobuf(data: bytes, path: Path) -> tuple[dict[str, StrategyLayout], set[int]]:
    named: dict[str, StrategyLayout] = {}
    stages: set[int] = set()
    try:
        for number, begin, end in _read_fields(data, 0, len(data)):
            if number not in (1, 2, 3) or (end < 0) != (number == 1):
                raise BrokenProtobuf(begin, f"field {number}, which a strategy does not have")
            if number == 2:
                stages |= _read_stages(data, begin, end)
            elif number == 3:
                name, layout = _read_layout_item(data, begin, end)
                if name in named:
                    raise _refusal(path, f"{quote(name)} twice", "each name once")
                named[name] = layout
    except BrokenProtobuf as broken:
        at, found = broken.args
        expected = "a strategy file of MindSpore, protobuf or JSON"
        raise _refusal(f"{path}, byte {at:,}", found, expected) from None
    return named, stages


def _read_stages(data: bytes, begin: int, end: int) -> set[int]:
    """The stage of an operator: ``{1 node_name, 2 {1 stage, 2 strategies}}``."""
    inner = [(a, b) for number, a, b in _read_fields(data, begin, end) if number == 2 and b >= 0]
    found = {value for a, b in inner for number, value, stop in _read_fields(data, a, b) if number == 1 and stop < 0}
    if any(stage > MAX_DEVICES for stage in found):
        raise BrokenProtobuf(begin, "a stage of an absurd number")
    return found


def _read_layout_item(data: bytes, begin: int, end: int) -> tuple[str, StrategyLayout]:
    name: str | None = None
    layout: StrategyLayout | None = None
    for number, a, b in _read_fields(data, begin, end):
        if number not in (1, 2) or b < 0:
            raise BrokenProtobuf(begin, f"field {number} in the layout of a tensor")
        if number == 1:
            if b - a > 1 << 16:
                raise BrokenProtobuf(a, f"a name of {how_many(b - a, 'byte')}")
            try:
                name = data[a:b].decode("utf-8")
            except UnicodeDecodeError:
                raise BrokenProtobuf(a, "a name that is not UTF-8") from None
        else:
            layout = _read_layout(data, a, b)
    if name is None or layout is None:
        raise BrokenProtobuf(begin, "a tensor without a name or a layout")
    return name, layout


def _read_layout(data: bytes, begin: int, end: int) -> StrategyLayout:
    dims: dict[int, list[tuple[int, ...]]] = {1: [], 2: [], 3: [], 4: []}
    numbers = {5: 0, 6: 0, 7: 0}
    for number, a, b in _read_fields(data, begin, end):
        if number in dims and b >= 0:
            dims[number].append(_read_dims(data, a, b))
            if len(dims[number]) > MAX_DIMS:
                raise BrokenProtobuf(a, f"more than {MAX_DIMS} maps of one tensor")
        elif number in numbers and b < 0:
            numbers[number] = _to_signed(a)
        else:
            raise BrokenProtobuf(begin, f"field {number} in a layout")
    devices, split, offsets = (dims[n][0] if dims[n] else () for n in (1, 3, 4))
    maps = tuple(m for m in dims[2] if m) if len(dims[2]) > 1 else tuple(dims[2])
    return StrategyLayout(devices, maps, split, offsets, numbers[5], numbers[6], numbers[7])


def _read_dims(data: bytes, begin: int, end: int) -> tuple[int, ...]:
    found: list[int] = []
    for number, a, b in _read_fields(data, begin, end):
        if number != 1:
            raise BrokenProtobuf(begin, f"field {number} in a list of dimensions")
        if b < 0:
            found.append(_to_signed(a))
        else:  # packed numbers, which protobuf readers accept too
            while a < b:
                value, a = read_varint(data, a, b)
                found.append(_to_signed(value))
    return tuple(found)


# ---- JSON --------------------------------------------------------------------------------------------------------------------


def _from_json(data: bytes, path: Path) -> tuple[dict[str, StrategyLayout], set[int]]:
    content = parse_object(data, "a strategy file of MindSpore, protobuf or JSON", partial(_refusal, path), is_strict=True)
    layouts, nodes = content.get("parallel_layout_item"), content.get("parallel_strategy_item", {})
    if not isinstance(layouts, dict) or not isinstance(nodes, dict):
        raise _refusal(path, f"JSON with {', '.join(quote(k) for k in list(content)[:4]) or 'nothing'}", "parallel_layout_item, by name")
    stages = [node["stage"] for node in nodes.values() if isinstance(node, dict) and "stage" in node]
    if not all(type(s) is int and 0 <= s <= MAX_DEVICES for s in stages):
        raise _refusal(path, "a stage that is no number", "whole numbers")
    return {name: _layout_from_json(entry, name, path) for name, entry in layouts.items()}, set(stages)


def _layout_from_json(entry: object, name: str, path: Path) -> StrategyLayout:
    try:
        if not isinstance(entry, dict):
            raise TypeError
        given = entry.get("tensor_map", [])
        nested = isinstance(given, list) and any(isinstance(m, list) for m in given)
        maps = tuple(_whole_numbers(m if isinstance(m, list) else [m]) for m in given) if nested else (_whole_numbers(given),)
        lists = (_whole_numbers(entry.get(key) or []) for key in ("dev_matrix", "param_split_shape", "indices_offset"))
        devices, split, offsets = lists
        numbers = _whole_numbers([entry.get(key) or 0 for key in ("field", "opt_weight_shard_step", "opt_weight_shard_size")])
    except TypeError:
        found = f"{quote(str(entry)[:100])}"
        raise _refusal(f"{quote(name)} in {path}", found, "dev_matrix, tensor_map and so on, of whole numbers") from None
    return StrategyLayout(devices, maps, split, offsets, *numbers)


def _whole_numbers(numbers: object) -> tuple[int, ...]:
    if not isinstance(numbers, list) or not all(type(n) is int and abs(n) < 1 << 62 for n in numbers):
        raise TypeError
    return tuple(numbers)


# ---- writing -----------------------------------------------------------------------------------------------------------------

PROTOBUF, JSON = "protobuf", "json"


def write_strategy(stages: Mapping[int, Mapping[str, StrategyLayout]], kind: str = PROTOBUF) -> bytes:
    """The bytes of a strategy file for one stage, or for several with names `STAGE-NAME`. ``kind`` is "protobuf" or "json"."""
    merged = len(stages) > 1
    named = {f"{stage}-{name}" if merged else name: lay for stage, layouts in stages.items() for name, lay in layouts.items()}
    current = 1 if merged else next(iter(stages), 0)  # MindSpore writes 1 into merged files
    return _to_json(current, list(stages), named) if kind == JSON else _to_protobuf(current, list(stages), named)


def _to_json(current: int, stages: Sequence[int], named: Mapping[str, StrategyLayout]) -> bytes:
    nodes = {f"stage{stage}": {"stage": stage, "parallel_strategy": [[1]]} for stage in stages}
    items = {
        name: {
            "dev_matrix": list(lay.devices),
            "tensor_map": list(lay.maps[0]) if len(lay.maps) == 1 else [list(m) for m in lay.maps],
            "param_split_shape": list(lay.split),
            "indices_offset": list(lay.offsets),
            "field": lay.field,
            "opt_weight_shard_step": lay.shard_step,
            "opt_weight_shard_size": lay.shard_size,
        }
        for name, lay in named.items()
    }
    return json.dumps({"current_stage": current, "parallel_strategy_item": nodes, "parallel_layout_item": items}).encode()


def _to_protobuf(current: int, stages: Sequence[int], named: Mapping[str, StrategyLayout]) -> bytes:
    out = [_number_field(1, current)]
    for stage in stages:  # one operator: MindSpore takes the stage from the first, and refuses a file without any
        strategy = _number_field(1, stage) + _bytes_field(2, _number_field(1, 1))
        out.append(_bytes_field(2, _bytes_field(1, f"stage{stage}".encode()) + _bytes_field(2, strategy)))
    for name, lay in named.items():
        lists = ((1, (lay.devices,)), (2, lay.maps or ((),)), (3, (lay.split,)), (4, (lay.offsets,)))
        layouts = b"".join(_bytes_field(n, b"".join(_number_field(1, d) for d in dims)) for n, several in lists for dims in several)
        layouts += _number_field(5, lay.field) + _number_field(6, lay.shard_step) + _number_field(7, lay.shard_size)
        out.append(_bytes_field(3, _bytes_field(1, name.encode()) + _bytes_field(2, layouts)))
    return b"".join(out)


def _number_field(field: int, value: int) -> bytes:
    return varint_bytes(field << 3 | VARINT) + varint_bytes(value & (1 << 64) - 1)


def _bytes_field(field: int, content: bytes) -> bytes:
    return varint_bytes(field << 3 | BYTES) + varint_bytes(len(content)) + content


# ---- finding -----------------------------------------------------------------------------------------------------------------


def strategy_files(path: Path) -> list[Path]:
    """``path`` itself, or the strategy files in that folder, recognised by content. Sorted by name; numbers in names count as numbers.

    Raises:
        InputError: MFC101 for a folder that cannot be read.
    """
    if not os.path.isdir(path):
        return [path]
    try:
        return sorted((p for p in path.iterdir() if p.is_file() and is_strategy(p)), key=_key_with_numbers)
    except OSError as error:
        raise InputError("MFC101", path, found=error.strerror, expected="a folder that can be read") from None


def _key_with_numbers(path: Path) -> tuple[object, ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name))


def read_strategies(paths: Sequence[Path]) -> tuple[StrategyFile, ...]:
    """Read several strategy files. The ranks of a stage write equal files, which are parsed once.

    Raises:
        InputError: MFC101, MFC114.
    """
    seen: dict[bytes, StrategyFile] = {}
    found = []
    for path in paths:
        data = _read_bytes(path)
        if data not in seen:
            seen[data] = parse_strategy(data, path)
        found.append(replace(seen[data], path=path))
    return tuple(found)
