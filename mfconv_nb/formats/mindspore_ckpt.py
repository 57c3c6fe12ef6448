"""MindSpore `.ckpt`: a protobuf stream without file header or index. Reads headers and plans files; moves no weights.

Every entry is ``0A len | 0A len name | 12 len | (08 dim)* | 12 len type | 1A len content``: tag bytes, lengths as varints. A tensor over
512 MiB is cut into several entries with the same name, one after the other. A file may end in ``crc_num`` and ten bytes of CRC-32.

Refuses: encrypted files, lengths that do not nest, content that contradicts dims x itemsize (MindSpore does not check that), a name that
comes again later in the file (MindSpore takes the last), entries of one tensor that disagree. Strings and map parameters are listed, but
not converted.
Source: the `checkpoint.proto` descriptor of mindspore 2.10.0, and files that it saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from mfconv_nb.core.checkpoint import MF, OtherEntry, TensorSpec
from mfconv_nb.core.dtypes import BY_MINDSPORE, DTYPES, itemsize
from mfconv_nb.core.errors import FormatError, OutputError, quote
from mfconv_nb.core.file_plan import Extent, FilePlan, Header, PlacedTensor
from mfconv_nb.core.report import how_many, shape_text
from mfconv_nb.core.sources import FileSource, StoredChecksum
from mfconv_nb.formats.fields import OTHER, TENSOR, Field, numbers_text
from mfconv_nb.formats.format import Format, file_with
from mfconv_nb.formats.limits import HINT_CODES, MAX_AXES, check_can_be_written
from mfconv_nb.formats.protobuf import LONGEST, BrokenProtobuf, read_varint, varint_bytes

SLICE_BYTES = 512 << 20  # mindspore 2.x cuts larger tensors
WINDOW = 4096  # bytes a read while scanning: many small entries, or one header
MAX_NAME_BYTES = 1 << 16
MAX_NAME_LENGTH = 1024  # of characters; MindSpore's Parameter takes no more
MAX_DIM = (1 << 31) - 1  # MindSpore's reader takes dims as 32-bit numbers
ENCRYPTED = {b"\xd8\x5e\x3a\x7f": "AES-GCM", b"\xd9\x5e\x3a\x7f": "AES-CBC", b"\xda\x5e\x3a\x7f": "SM4-CBC"}
TRAILER = b"crc_num"
TRAILER_BYTES = 17  # the mark, then ten bytes of a big-endian number
HINT_CUT = "The file is cut short or damaged: fetch or save it again."


def looks_like(first_bytes: bytes, size: int) -> bool:
    """True for the first byte of an entry, and for encrypted files."""
    return first_bytes[:1] == b"\x0a" or first_bytes[:4] in ENCRYPTED


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass
class _Entry:
    """What the header of one entry says."""

    name: str
    dims: list[int] = field(default_factory=list)
    type: str = ""
    content: Extent = (0, 0)
    map_parameter: bool = False


class _Scanner:
    """Reads varints and short fields through a small window that moves forward over the file."""

    def __init__(self, source: FileSource) -> None:
        self.source, self.end = source, source.size
        if source.size > TRAILER_BYTES and source.read(source.size - TRAILER_BYTES, len(TRAILER)) == TRAILER:
            self.end -= TRAILER_BYTES
        self._start, self._window = 0, b""

    def bytes(self, at: int, size: int) -> bytes:
        if not self._start <= at <= at + size <= self._start + len(self._window):
            self._start, self._window = at, self.source.read(at, max(size, WINDOW))
        data = self._window[at - self._start : at - self._start + size]
        if len(data) < size:
            raise self.error("MFC202", at, f"{how_many(size, 'byte')} needed, the file ends")
        return data

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at ``at``, and where the next field begins."""
        data = self.bytes(at, max(0, min(LONGEST, end - at)))
        try:
            value, size = read_varint(data, 0, len(data))
        except BrokenProtobuf as broken:
            raise self.error("MFC203", at, broken.args[1]) from None
        return value, at + size

    def field(self, at: int, end: int) -> tuple[int, int, int]:
        """Tag byte, begin and end of a field with a length. It must end before ``end``."""
        tag = self.bytes(at, 1)[0]
        size, begin = self.varint(at + 1, end)
        if begin + size > end:
            code = "MFC202" if end == self.end else "MFC203"
            raise self.error(code, at, f"a field of {how_many(size, 'byte')} where {end - begin:,} are left")
        return tag, begin, begin + size

    def text(self, begin: int, end: int, what: str) -> str:
        if end - begin > MAX_NAME_BYTES:
            raise self.error("MFC203", begin, f"a {what} of {how_many(end - begin, 'byte')}")
        try:
            return self.bytes(begin, end - begin).decode("utf-8")
        except UnicodeDecodeError:
            raise self.error("MFC203", begin, f"a {what} that is not UTF-8") from None

    def error(self, code: str, at: int, found: str) -> FormatError:
        where = f"{self.source.path}, byte {at:,}"
        return FormatError(code, where, found=found, expected="a MindSpore checkpoint stream", hint=HINT_CUT)


def read_header(source: FileSource) -> Header:
    """Name, shape, dtype and place of every tensor, in file order. Reads one small window for each entry.

    Raises:
        FormatError: MFC202 (cut short), MFC203 (broken stream), MFC204 (encrypted), MFC205 (a dtype that cannot be carried).
    """
    _check_start(source)
    scan = _Scanner(source)
    tensors: list[PlacedTensor] = []
    others: list[OtherEntry] = []
    seen: set[str] = set()
    open_slices: list[_Entry] = []
    at = 0
    while at < scan.end:
        entry, at = _read_entry(scan, at)
        other = _other_entry(scan, entry)
        if open_slices and (open_slices[0].name != entry.name or other is not None):
            tensors.append(_join_slices(source, open_slices))
            open_slices = []
        if not open_slices and entry.name in seen:
            found, hint = f"{quote(entry.name)} a second time", "Save it again with each name once: MindSpore would take the last."
            raise FormatError("MFC203", source.path, found=found, expected="each name once", hint=hint)
        seen.add(entry.name)
        if other is not None:
            others.append(other)
        else:
            open_slices.append(entry)
    if open_slices:
        tensors.append(_join_slices(source, open_slices))
    source.checksums = _checksum_of(source, scan.end)
    return Header(tuple(tensors), {}, tuple(others))


def _checksum_of(source: FileSource, end: int) -> tuple[StoredChecksum, ...]:
    """The CRC-32 of all bytes before the trailer, if there is a trailer."""
    if end == source.size:
        return ()
    return (StoredChecksum(((0, end),), int.from_bytes(source.read(end + len(TRAILER), TRAILER_BYTES - len(TRAILER)), "big")),)


def _check_start(source: FileSource) -> None:
    first = source.read(0, 4)
    if first in ENCRYPTED:
        found, hint = f"{ENCRYPTED[first]} encryption", "Load it in MindSpore with its key (dec_key=) and save it again without enc_key."
        raise FormatError("MFC204", source.path, found=found, expected="a plain checkpoint", hint=hint)
    if not first:
        raise FormatError("MFC202", source.path, found="an empty file", expected="a MindSpore checkpoint", hint=HINT_CUT)
    if first[:1] != b"\x0a":
        is_strategy = first[:1] == b"\x08"
        hint = "It looks like a strategy file, which describes slices and holds no weights." if is_strategy else HINT_CUT
        raise FormatError("MFC203", source.path, found=f"first byte {first[0]:02X}", expected="0A, as MindSpore writes", hint=hint)


def _read_entry(scan: _Scanner, at: int) -> tuple[_Entry, int]:
    tag, begin, end = scan.field(at, scan.end)
    if tag != 0x0A:
        raise scan.error("MFC203", at, f"tag {tag:02X} where an entry (0A) begins")
    tag, name_begin, name_end = scan.field(begin, end)
    if tag != 0x0A:
        raise scan.error("MFC203", begin, f"tag {tag:02X} where a name (0A) stands")
    entry = _Entry(scan.text(name_begin, name_end, "name"))
    tag, value_begin, value_end = scan.field(name_end, end)
    if value_end != end:
        raise scan.error("MFC203", value_end, "bytes behind the value of an entry")
    if tag == 0x12:
        _read_tensor(scan, entry, value_begin, value_end)
    elif tag == 0x1A:
        entry.map_parameter = True
    else:
        raise scan.error("MFC203", name_end, f"tag {tag:02X} where a tensor (12) stands")
    return entry, end


def _read_tensor(scan: _Scanner, entry: _Entry, at: int, end: int) -> None:
    fields = 0
    while at < end:
        tag = scan.bytes(at, 1)[0]
        fields += 1
        if tag == 0x08:
            dim, at = scan.varint(at + 1, end)
            entry.dims.append(dim)
        elif tag == 0x0A:  # packed dims, which protobuf readers accept too
            _, at, stop = scan.field(at, end)
            if stop - at > 10 * MAX_AXES:
                raise scan.error("MFC203", at, f"{quote(entry.name)} with dims of {how_many(stop - at, 'byte')}")
            while at < stop:
                dim, at = scan.varint(at, stop)
                entry.dims.append(dim)
        elif tag == 0x12:
            _, begin, at = scan.field(at, end)
            entry.type = scan.text(begin, at, "dtype")
        elif tag == 0x1A:
            _, begin, at = scan.field(at, end)
            entry.content = (begin, at - begin)
            if at != end:
                raise scan.error("MFC203", at, "bytes behind a tensor's content")
        else:
            raise scan.error("MFC203", at, f"tag {tag:02X} inside a tensor")
        if fields > MAX_AXES + 2 or len(entry.dims) > MAX_AXES or any(d >= 1 << 48 for d in entry.dims):
            raise scan.error("MFC203", at, f"{quote(entry.name)} with dims {str(entry.dims[:8])[:80]}")


def _other_entry(scan: _Scanner, entry: _Entry) -> OtherEntry | None:
    if entry.map_parameter:
        return OtherEntry(entry.name, "map parameter")
    if entry.type == "str":
        begin, size = entry.content
        text = scan.source.read(begin, min(size, 4096)).decode("utf-32-le", "replace")
        return OtherEntry(entry.name, "string", text.rstrip("\x00"))
    if entry.type == "random_op":
        return OtherEntry(entry.name, "random state")
    return None


def _join_slices(source: FileSource, entries: Sequence[_Entry]) -> PlacedTensor:
    """The entries of one tensor, joined. All must give the same dims and type, where MindSpore's reader takes those of the last."""
    last = entries[-1]
    if any((e.dims, e.type) != (last.dims, last.type) for e in entries):
        found = f"slices of {quote(last.name)} with different dims or dtypes"
        raise FormatError("MFC203", source.path, found=found, expected="the whole tensor's in each", hint=HINT_CUT)
    dtype = BY_MINDSPORE.get(last.type.replace("Uint", "UInt"))
    where = f"{quote(last.name)} in {source.path}"
    if dtype is None:
        known = ", ".join(BY_MINDSPORE)
        raise FormatError("MFC205", where, found=f"dtype {quote(last.type)}", expected=known)
    extents = tuple(e.content for e in entries if e.content[1])
    nbytes = sum(size for _, size in extents)
    dims = last.dims
    shape = () if dims == [0] and nbytes == itemsize(dtype) else tuple(dims)  # MindSpore 1.x wrote scalars as [0]
    spec = TensorSpec(last.name, shape, dtype)
    if spec.nbytes != nbytes or any(size % itemsize(dtype) for _, size in extents):
        found, expected = f"{how_many(nbytes, 'byte')} of content", f"{spec.nbytes:,}: {list(shape)} of {last.type}"
        raise FormatError("MFC202", where, found=found, expected=expected, hint=HINT_CUT)
    return PlacedTensor(spec, extents or ((last.content[0], 0),))


# ---- annotating ------------------------------------------------------------------------------------------------------


def annotate(source: FileSource) -> Iterator[Field]:
    """Every byte of the file as fields: tags, lengths, name, shape, dtype and content of each entry, then the checksum.

    Raises:
        FormatError: as ``read_header``.
    """
    tensors = read_header(source).tensors
    slices = {at: (t.spec, number, len(t.extents)) for t in tensors for number, (at, _) in enumerate(t.extents, 1)}
    scan = _Scanner(source)
    at = 0
    while at < scan.end:
        entry, end = _read_entry(scan, at)
        yield from _entry_fields(scan, at, end, entry, slices)
        at = end
    if scan.end < source.size:
        crc = int.from_bytes(source.read(scan.end + len(TRAILER), TRAILER_BYTES - len(TRAILER)), "big")
        yield Field(scan.end, len(TRAILER), "checksum mark", TRAILER.decode())
        meaning = f"0x{crc:08x}, the CRC-32 of all bytes before; big-endian, the only number here that is"
        yield Field(scan.end + len(TRAILER), TRAILER_BYTES - len(TRAILER), "checksum", meaning)


def _entry_fields(scan: _Scanner, at: int, end: int, entry: _Entry, slices: Mapping[int, tuple[TensorSpec, int, int]]) -> Iterator[Field]:
    spec, number, count = slices.get(entry.content[0], (None, 1, 1))
    owner = entry.name if number == 1 else f"{entry.name}, slice {number}"
    _, begin, _ = scan.field(at, scan.end)
    what = "entry" if count == 1 else f"entry, slice {number} of {count}"
    yield Field(at, begin - at, what, f"tag 0A: then {how_many(end - begin, 'byte')}", owner=owner)
    _, _, name_end = scan.field(begin, end)
    yield Field(begin, name_end - begin, "name", f"tag 0A: {quote(entry.name)}", owner=owner)
    tag, value_begin, _ = scan.field(name_end, end)
    inside = f"tag {tag:02X}: then {how_many(end - value_begin, 'byte')}"
    if entry.map_parameter:
        yield Field(name_end, value_begin - name_end, "map parameter", inside, owner=owner)
        yield Field(value_begin, end - value_begin, "content", "keys, values and status of a map parameter", OTHER, owner)
        return
    yield Field(name_end, value_begin - name_end, "tensor", inside, owner=owner)
    yield from _tensor_fields(scan, value_begin, end, entry, spec, owner, "" if count == 1 else f", slice {number} of {count}")


def _tensor_fields(scan: _Scanner, at: int, end: int, entry: _Entry, spec: TensorSpec | None, owner: str, part: str) -> Iterator[Field]:
    """Shape, dtype and content in file order. Successive dims are one field."""
    while at < end:
        tag, begin = scan.bytes(at, 1)[0], at
        if tag in (0x08, 0x0A):
            while at < end and scan.bytes(at, 1)[0] == tag:
                at = scan.varint(at + 1, end)[1] if tag == 0x08 else scan.field(at, end)[2]
            yield Field(begin, at - begin, "shape", f"tag {tag:02X}: {shape_text(entry.dims)}", owner=owner)
            continue
        _, content, at = scan.field(begin, end)
        if tag == 0x12:
            yield Field(begin, at - begin, "dtype", f"tag 12: {entry.type}", owner=owner)
            continue
        yield Field(begin, content - begin, "content length", f"tag 1A: then {how_many(at - content, 'byte')}", owner=owner)
        if spec is None:
            other = _other_entry(scan, entry) or OtherEntry(entry.name, "nothing")
            meaning = f"{other.kind} {quote(other.text)}" if other.text else other.kind
            yield Field(content, at - content, "content", meaning, OTHER, owner)
        else:
            yield Field(content, at - content, "numbers", numbers_text(spec) + part, TENSOR, owner, spec.dtype)


# ---- planning --------------------------------------------------------------------------------------------------------


def plan_file(name: str, specs: Sequence[TensorSpec]) -> FilePlan:
    """Every header byte and every offset of a `.ckpt` with these tensors, in this order.

    Raises:
        OutputError: MFC405 for a dtype that MindSpore cannot load (float8, complex), a name or an axis too long for it, the shape (0,),
            which it reads as a scalar, and names and shapes that no reader takes.
    """
    at = 0
    fixed: list[tuple[int, bytes]] = []
    places: dict[str, tuple[Extent, ...]] = {}
    for spec in specs:
        _check_can_hold(spec, name)
        extents: list[Extent] = []
        for start in range(0, max(spec.nbytes, 1), SLICE_BYTES):
            size = min(SLICE_BYTES, spec.nbytes - start)
            head = _entry_head(spec, size)
            fixed.append((at, head))
            extents.append((at + len(head), size))
            at += len(head) + size
        places[spec.name] = tuple(extents)
    return FilePlan(name, at, tuple(fixed), places)


def _check_can_hold(spec: TensorSpec, file: str) -> None:
    check_can_be_written(spec, file)
    refuse = partial(OutputError, "MFC405", f"{quote(spec.name)} for {file}", hint="Choose a .safetensors ending.")
    if DTYPES[spec.dtype].mindspore is None:
        hint = f"{HINT_CODES} A .safetensors file holds them where they are not for MindSpore."
        raise refuse(found=f"dtype {spec.dtype}", expected="a dtype that MindSpore loads", hint=hint)
    if len(spec.name) > MAX_NAME_LENGTH:
        expected = f"at most {MAX_NAME_LENGTH:,}, as MindSpore takes"
        raise refuse(found=f"a name of {len(spec.name):,} characters", expected=expected)
    if max(spec.shape, default=0) > MAX_DIM:
        raise refuse(found=f"an axis of {max(spec.shape):,}", expected=f"at most {MAX_DIM:,}, as MindSpore's reader takes")
    if spec.shape == (0,):
        raise refuse(found="shape (0,)", expected="a shape that MindSpore can tell from a scalar")


def _entry_head(spec: TensorSpec, size: int) -> bytes:
    """The bytes of an entry before its content of ``size`` bytes. Outer lengths include the content, which is written later."""
    type_name = (DTYPES[spec.dtype].mindspore or "").encode()
    tag = spec.name.encode("utf-8")
    tensor = b"".join(b"\x08" + varint_bytes(d) for d in spec.shape) + b"\x12" + varint_bytes(len(type_name)) + type_name
    tensor += b"\x1a" + varint_bytes(size)
    entry = b"\x0a" + varint_bytes(len(tag)) + tag + b"\x12" + varint_bytes(len(tensor) + size) + tensor
    return b"\x0a" + varint_bytes(len(entry) + size) + entry


# ---- the format ------------------------------------------------------------------------------------------------------

FORMAT = Format(
    name="ckpt",
    title="MindSpore .ckpt",
    endings=(".ckpt",),
    order=9,  # its first byte says little
    looks_like=looks_like,
    open=lambda source: file_with(read_header(source), source, MF),
    annotate=annotate,
    plan_file=lambda name, specs, side: plan_file(name, specs),
    marks=tuple(ENCRYPTED),
    by_ending=True,
    units=("entry", "entries"),
    is_sharded=False,
    in_runs=True,
    cuts_tensors=True,
)
