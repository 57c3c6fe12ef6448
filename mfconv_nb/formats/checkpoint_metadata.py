"""`metadata.json` of a Checkpoint 2.0 folder of MindFormers: where the slices of every tensor lie. Reads and writes it; moves no weights.

The keys of `storage_data` are Python tuples as text: ``('name', (0,))``. We look for the spelling of MindFormers first, and parse the keys
only where another program spelled them differently.
MindFormers' `global_offset` is no offset. It is a tuple of one number: the number of the slice, counted in C order over the parts of all
axes. We also read a true offset: in elements, one number for each axis. `Chunk.offset` always counts elements.

Refuses: a file over 1 GiB, a name given twice, file names with a folder in them, numbers that are not whole, negative or too large.
Source: mindformers 2.1.0, `checkpoint/metadata.py` and `checkpoint/sharded_tensor.py`, and files written by them.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.dtypes import BY_MINDSPORE, DTYPES
from mfconv_nb.core.errors import InputError, OutputError, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource, read_object
from mfconv_nb.formats.limits import MAX_AXES, MAX_AXIS, are_counts, is_text

METADATA = "metadata.json"
MAX_METADATA_BYTES = 1 << 30  # 24 MB for 100,000 slices on one rank each; a slice is listed once for every rank that has it
MAX_RANKS = 1 << 20
MAX_KEY = 8192  # characters of a key of storage_data that we parse
_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_KEY = re.compile(rf"\(\s*({_STRING})\s*,\s*\(([\d\s,]*)\)\s*,?\s*\)", re.DOTALL)
_DTYPES = {spelling.lower(): name for spelling, name in BY_MINDSPORE.items()} | {"bool_": "BOOL"}
STRUCTURE = '{"state_dict_metadata": {name: {...}}, "storage_data": {"(name, offset)": [{...}]}}'


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """How MindSpore lays a tensor out over devices.

    Attributes:
        devices: the device matrix.
        cuts: for every axis of the tensor, the dimensions of the device matrix that cut it, counted from the left; the coarsest first.
        names: what the dimensions of the device matrix are called.
        ranks: the rank of each device, in C order of the device matrix.
        interleaved: the devices take parts in turns, so that what one device holds is no box.
    """

    devices: Shape
    cuts: tuple[Shape, ...]
    names: tuple[str, ...]
    ranks: tuple[int, ...]
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class StoredIn:
    """A file that holds a slice, the rank that wrote it, and the ranks that had the same slice."""

    file: str
    rank: int
    group: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice: where it begins in the whole tensor, in elements; its shape; every file that should hold it."""

    offset: Shape
    shape: Shape
    files: tuple[StoredIn, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the metadata say about one tensor.

    Attributes:
        dtype: in safetensors spelling; None if the file does not give it.
        parts: into how many parts each axis is cut (`axis_fragmentations`); None if the file does not say.
    """

    name: str
    dtype: str | None
    shape: Shape
    chunks: tuple[Chunk, ...]
    layout: DeviceLayout | None = None
    parts: Shape | None = None


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """`metadata.json`, checked. ``undescribed``: names that have files but no description."""

    path: Path
    parameters: Mapping[str, Parameter]
    undescribed: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the metadata name, sorted."""
        return tuple(sorted({s.file for p in self.parameters.values() for c in p.chunks for s in c.files}))


# ---- reading -----------------------------------------------------------------------------------------------------------------


def looks_like_metadata(path: Path) -> bool:
    """True for a file that begins as MindFormers writes it; other programs have a `metadata.json` too."""
    try:
        begins = FileSource(path).read(0, 256)
    except InputError:
        return False
    return b'"state_dict_metadata"' in begins or b'"storage_data"' in begins


def read_metadata(path: Path) -> CheckpointMetadata:
    """Read and check a `metadata.json`.

    Raises:
        InputError: MFC101, or MFC104 for one that cannot be trusted.
    """
    content = read_object(path, MAX_METADATA_BYTES, STRUCTURE, partial(InputError, "MFC104", path), is_strict=True)
    described, storage = content.get("state_dict_metadata"), content.get("storage_data")
    if not isinstance(described, dict) or not isinstance(storage, dict):
        raise InputError("MFC104", path, found="no state_dict_metadata or no storage_data", expected=STRUCTURE)
    reader = _MetadataReader(path, storage)
    parameters = {name: reader.read_parameter(name, entry) for name, entry in described.items()}
    return CheckpointMetadata(path, parameters, reader.find_undescribed(parameters))


class _MetadataReader:
    """Shared while one file is read: its path, its storage entries, and values that come again and again."""

    def __init__(self, path: Path, storage: Mapping[str, Any]) -> None:
        self.path, self.storage = path, dict(storage)
        self._used: set[str] = set()
        self._file_names: set[str] = set()
        self._groups: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._layouts: dict[DeviceLayout, DeviceLayout] = {}
        self._other_spellings: dict[tuple[str, Shape], str] | None = None

    def read_parameter(self, name: str, entry: Any) -> Parameter:
        """Check and read one entry of `state_dict_metadata`."""
        if not is_text(name):
            self._refuse(name, "a name that is no text", "a parameter's name")
        if not isinstance(entry, dict) or not isinstance(entry.get("chunk"), list) or not entry["chunk"]:
            self._refuse(name, "no list of chunks", "global_shape, chunk: [{global_offset, local_shape}]")
        properties = entry.get("properties")
        dtype = self._dtype(name, properties.get("dtype") if isinstance(properties, dict) else None)
        shape = self._numbers(name, "global_shape", entry.get("global_shape"))
        parts = entry.get("axis_fragmentations")
        parts = None if parts is None else self._numbers(name, "axis_fragmentations", parts)
        layout = None if entry.get("layout") is None else self._layout(name, entry["layout"], len(shape))
        written = [self._read_chunk(name, chunk, len(shape)) for chunk in entry["chunk"]]
        offsets = _element_offsets(shape, written)
        chunks: dict[tuple[Shape, Shape], list[StoredIn]] = {}
        for (number, local), offset in zip(written, offsets, strict=True):
            chunks.setdefault((offset, local), []).extend(self._files_of_slice(name, number))
        placed = tuple(Chunk(offset, local, tuple(dict.fromkeys(stored))) for (offset, local), stored in chunks.items())
        return Parameter(name, dtype, shape, placed, layout, parts)

    def _read_chunk(self, name: str, chunk: Any, axes: int) -> tuple[Shape, Shape]:
        if not isinstance(chunk, dict):
            self._refuse(name, f"a chunk {_quote_short(chunk)}", "global_offset and local_shape")
        offset = self._numbers(name, "global_offset", chunk.get("global_offset"))
        shape = self._numbers(name, "local_shape", chunk.get("local_shape"))
        if len(shape) != axes or len(offset) not in (0, 1, axes):
            found = f"offset {list(offset)}, shape {list(shape)}"
            self._refuse(name, found, f"a number of {how_many(axes, 'axis', 'axes')} each, or the number of the slice")
        return offset, shape

    def _files_of_slice(self, name: str, offset: Shape) -> list[StoredIn]:
        entries = self._storage_of(name, offset)
        if not isinstance(entries, list):
            self._refuse(name, f"storage_data {_quote_short(entries)}", "a list of {file_name, storage_rank, rank_group}")
        return [self._stored_file(name, entry) for entry in entries]

    def _storage_of(self, name: str, offset: Shape) -> Any:
        key = _key(name, offset)
        if key not in self.storage:
            if self._other_spellings is None:
                self._other_spellings = {read: k for k in self.storage if (read := read_key(k)) is not None}
            if (name, offset) not in self._other_spellings:
                return []
            key = self._other_spellings[name, offset]
        self._used.add(key)
        return self.storage[key]

    def _stored_file(self, name: str, entry: Any) -> StoredIn:
        if not isinstance(entry, dict):
            self._refuse(name, f"storage_data {_quote_short(entry)}", "file_name, storage_rank, rank_group")
        file, rank, group = entry.get("file_name"), entry.get("storage_rank", 0), entry.get("rank_group") or []
        if not isinstance(file, str) or (file not in self._file_names and not _is_plain_name(file)):
            self._refuse(name, f"a file {_quote_short(file)}", "a file name inside the folder")
        self._file_names.add(file)
        if not isinstance(group, list) or not are_counts((rank, *group), MAX_RANKS):
            self._refuse(name, f"ranks {_quote_short([rank, group])}", "storage_rank, a number, and rank_group, numbers")
        ranks = tuple(group)
        return StoredIn(file, rank, self._groups.setdefault(ranks, ranks))  # the same few groups, again and again

    def _dtype(self, name: str, word: Any) -> str | None:
        """A dtype in any spelling that MindSpore has used: Float32, mindspore.float32, float32."""
        if word is None or word == "None":
            return None
        if not isinstance(word, str):
            self._refuse(name, f"dtype {_quote_short(word)}", "a word")
        found = word if word in DTYPES else _DTYPES.get(word.rpartition(".")[2].lower())
        if found is None:
            self._refuse(name, f"dtype {_quote_short(word)}", "a dtype of MindSpore, such as BFloat16")
        return found

    def _numbers(self, name: str, what: str, value: Any) -> Shape:
        if not isinstance(value, list) or len(value) > MAX_AXES or not are_counts(value, MAX_AXIS):
            self._refuse(name, f"{what} {_quote_short(value)}", f"up to {MAX_AXES} whole numbers, not negative")
        return tuple(value)

    def _layout(self, name: str, entry: Any, axes: int) -> DeviceLayout:
        """A layout. MindFormers takes its members by position; so do we, if they do not have the usual keys."""
        keys = ("device_matrix", "tensor_map", "interleaved_parallel", "alias_name", "rank_list")
        if not isinstance(entry, dict) or len(entry) != len(keys):
            self._refuse(name, f"layout {_quote_short(entry)}", ", ".join(keys))
        values = [entry[k] for k in keys] if all(k in entry for k in keys) else list(entry.values())
        devices, tensor_map, interleaved, names, ranks = values
        whole_numbers = all(isinstance(v, list) for v in (devices, ranks)) and are_counts((*devices, *ranks), MAX_RANKS)
        if not whole_numbers or not 0 < len(devices) <= MAX_AXES or math.prod(devices) != len(ranks):
            self._refuse(name, f"devices {_quote_short(devices)}, ranks {_quote_short(ranks)}", "one rank for each device")
        if not isinstance(names, list) or not all(isinstance(n, str) and is_text(n) for n in names) or len(names) > MAX_AXES:
            self._refuse(name, f"alias_name {_quote_short(names)}", "words")
        cuts = _cuts(tensor_map, len(devices))
        if cuts is None or len(cuts) != axes:
            expected = f"for each of {how_many(axes, 'axis', 'axes')} -1 or dimensions of {devices}"
            self._refuse(name, f"tensor_map {_quote_short(tensor_map)}", expected)
        layout = DeviceLayout(tuple(devices), cuts, tuple(names), tuple(ranks), bool(interleaved))
        return self._layouts.setdefault(layout, layout)

    def find_undescribed(self, parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
        """Names of `storage_data` that `state_dict_metadata` does not have.

        Raises:
            InputError: MFC104 for a key that cannot be parsed, or that belongs to no slice of a described tensor.
        """
        missing: dict[str, None] = {}
        for key in self.storage.keys() - self._used:
            read = read_key(key)
            if read is None:
                raise InputError("MFC104", self.path, found=f"the key {_quote_short(key)}", expected="('name', (0,)) in storage_data")
            name, offset = read
            if name in parameters:
                self._refuse(name, f"files for a slice {offset}", "a chunk with this global_offset")
            entries = self.storage[key]
            for entry in entries if isinstance(entries, list) else ():
                self._stored_file(name, entry)  # a hostile file name is refused here too
            missing[name] = None
        return tuple(sorted(missing))

    def _refuse(self, name: str, found: str, expected: str) -> NoReturn:
        raise InputError("MFC104", f"{quoted(name)} in {self.path}", found=found, expected=expected)


def _quote_short(value: object) -> str:
    return quoted(str(value)[:200])


def _is_plain_name(file: str) -> bool:
    parts = "/" in file or "\\" in file or "\0" in file
    return file not in ("", ".", "..") and not parts and is_text(file) and Path(file).name == file and len(file) <= 255


def _cuts(tensor_map: Any, dimensions: int) -> tuple[Shape, ...] | None:
    """For every axis the device dimensions that cut it, counted from the left; None if the map is malformed or uses a dimension twice."""
    if not isinstance(tensor_map, list) or len(tensor_map) > MAX_AXES:
        return None
    axes = [axis if isinstance(axis, list) else [axis] for axis in tensor_map]
    if not all(type(d) is int and -1 <= d < dimensions for axis in axes for d in axis):
        return None
    cuts = tuple(tuple(dimensions - 1 - d for d in axis if d >= 0) for axis in axes)
    used = [d for cut in cuts for d in cut]
    return cuts if len(used) == len(set(used)) else None


def _key(name: str, offset: Shape) -> str:
    return str((name, offset))


def read_key(key: str) -> tuple[str, Shape] | None:
    """Name and offset from a key of `storage_data`, in any spelling of a Python tuple; None for any other text."""
    match = _KEY.fullmatch(key) if len(key) <= MAX_KEY else None
    if match is None:
        return None
    try:
        name = ast.literal_eval(match[1])  # a string literal and nothing else, as the pattern says
        offset = tuple(int(n) for n in match[2].split(",") if n.strip())
    except (ValueError, SyntaxError):
        return None
    return (name, offset) if isinstance(name, str) else None


def _element_offsets(shape: Shape, written: Sequence[tuple[Shape, Shape]]) -> list[Shape]:
    """Where each chunk begins, in elements.

    A single number is the number of the slice. For a tensor of one axis it may also be an offset: we take it as one if some number is too
    large for a slice number. The slices can make up the whole tensor in both readings only if the readings agree.
    """
    are_slice_numbers = len(shape) != 1 or all(sum(n) < math.prod(_parts_of_axes(shape, local)) for n, local in written)
    return [_element_offset(n, shape, local) if are_slice_numbers and len(n) <= 1 else n or (0,) * len(shape) for n, local in written]


def _parts_of_axes(shape: Shape, local: Shape) -> Shape:
    """Into how many parts each axis is cut. Rounded up: if a shape does not divide, its last slice leaves the tensor and is refused."""
    return tuple(max(1, -(-size // part)) if part else 1 for size, part in zip(shape, local, strict=True))


def _element_offset(number: Shape, shape: Shape, local: Shape) -> Shape:
    index, rest = [], sum(number)
    for part in reversed(_parts_of_axes(shape, local)[1:]):
        rest, place = divmod(rest, part)
        index.append(place)
    places = ([rest, *reversed(index)])[: len(shape)]  # the first axis does not wrap: too large a number leaves the tensor, and is refused
    return tuple(place * size for place, size in zip(places, local, strict=True))


# ---- writing -----------------------------------------------------------------------------------------------------------------


def metadata_bytes(parameters: Iterable[Parameter]) -> bytes:
    """A `metadata.json` that MindFormers reads.

    Raises:
        OutputError: MFC405 for a dtype without a name in MindSpore, and for slices without a layout, by which MindFormers places them.
    """
    described: dict[str, Any] = {}
    storage: dict[str, Any] = {}
    for parameter in parameters:
        described[parameter.name] = _describe(parameter)
        for chunk in parameter.chunks:
            entries = [{"file_name": s.file, "storage_rank": s.rank, "rank_group": list(s.group or (s.rank,))} for s in chunk.files]
            storage[_key(parameter.name, (_slice_number(parameter, chunk),))] = entries
    content = {"state_dict_metadata": described, "storage_data": storage}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _describe(parameter: Parameter) -> dict[str, Any]:
    where, layout = quoted(parameter.name), parameter.layout
    dtype = DTYPES[parameter.dtype].mindspore if parameter.dtype is not None else None
    if dtype is None:
        raise OutputError("MFC405", where, found=f"dtype {parameter.dtype}", expected="one that MindSpore has a name for")
    if layout is None and any(c.shape != parameter.shape for c in parameter.chunks):
        raise OutputError("MFC405", where, found="slices without a layout", expected="a layout, by which MindFormers places them")
    parts = parameter.parts if parameter.parts is not None else _parts_of_axes(parameter.shape, parameter.chunks[0].shape)
    chunks = [{"global_offset": [_slice_number(parameter, c)], "local_shape": list(c.shape)} for c in parameter.chunks]
    properties = {"dtype": dtype, "replica_id": _replica_numbers(parameter), "allow_shape_mismatch": False, "allow_to_save": True}
    return {
        "properties": properties,
        "global_shape": list(parameter.shape),
        "axis_fragmentations": list(parts),
        "layout": None if layout is None else _layout_entry(layout),
        "chunk": chunks,
    }


def _slice_number(parameter: Parameter, chunk: Chunk) -> int:
    """The number of a slice, in C order over the parts of all axes."""
    number = 0
    for begin, size, parts in zip(chunk.offset, chunk.shape, _parts_of_axes(parameter.shape, chunk.shape), strict=True):
        if begin % max(1, size):
            where, found = quoted(parameter.name), f"a slice at {list(chunk.offset)} of shape {list(chunk.shape)}"
            raise OutputError("MFC405", where, found=found, expected="slices of equal shapes, side by side")
        number = number * parts + begin // max(1, size)
    return number


def _replica_numbers(parameter: Parameter) -> Any:
    """For each device of the layout, which copy of its slice it holds: 0 for the first."""
    layout = parameter.layout
    if layout is None:
        return 0
    used = {d for cut in layout.cuts for d in cut}
    copies, step = [0] * len(layout.ranks), 1
    for dimension in reversed(range(len(layout.devices))):
        if dimension not in used:
            inner = math.prod(layout.devices[dimension + 1 :])
            copies = [c + place // inner % layout.devices[dimension] * step for place, c in enumerate(copies)]
            step *= layout.devices[dimension]
    return copies


def _layout_entry(layout: DeviceLayout) -> dict[str, Any]:
    """The five members in the order in which MindFormers takes them."""
    dimensions = len(layout.devices)
    maps = [[dimensions - 1 - d for d in cut] for cut in layout.cuts]
    return {
        "device_matrix": list(layout.devices),
        "tensor_map": [m[0] if len(m) == 1 else m or -1 for m in maps],
        "interleaved_parallel": layout.interleaved,
        "alias_name": list(layout.names),
        "rank_list": list(layout.ranks),
    }
