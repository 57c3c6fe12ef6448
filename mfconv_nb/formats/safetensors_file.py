"""safetensors: eight bytes of header length, a JSON header, then the tensors. Reads headers and plans files; moves no weights.

Serves both flavours: Hugging Face's (metadata ``format: pt``) and MindSpore's (``format: ms``). MindSpore's reader is stricter: the tensors
must lie in the order of the header, without gaps.

Refuses: a header over 100 MB, offsets that leave the file, overlap, leave gaps or contradict shape x itemsize, a name given twice.
Source: the format section of the safetensors README; MindSpore 2.10's reader for the stricter order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.dtypes import DTYPES, dtype_named, itemsize
from mfconv_nb.core.errors import FormatError, OutputError, quote
from mfconv_nb.core.file_plan import FilePlan, Header, PlacedTensor
from mfconv_nb.core.paths import parse_object
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import FileSource, StoredChecksum
from mfconv_nb.formats.fields import JSON_SPACE, PADDING, TENSOR, Field, json_members, numbers_text
from mfconv_nb.formats.format import Format, OpenedFile, file_with
from mfconv_nb.formats.limits import HINT_CODES, MAX_AXES, are_counts, check_can_be_written

METADATA = "__metadata__"
MAX_HEADER_BYTES = 100_000_000  # the reference reader's own limit
WHOLE_NUMBERS = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")
HINT_CUT = "The file is cut short: fetch it again."
HINT_HEADER = "The file is damaged, or no safetensors file: fetch or save it again."


def looks_like(first_bytes: bytes, size: int) -> bool:
    """True for a file that begins as safetensors does: a plausible length, then a brace."""
    if len(first_bytes) < 9:
        return False
    length = int.from_bytes(first_bytes[:8], "little")
    return first_bytes[8:9] == b"{" and 2 <= length <= max(MAX_HEADER_BYTES, size)


def read_header(source: FileSource) -> Header:
    """Name, shape, dtype and place of every tensor, in file order. Reads the header and nothing else.

    Raises:
        FormatError: MFC201 (the header cannot be trusted), MFC202 (the file is cut short), MFC205 (unknown dtype).
    """
    if source.size < 10:
        raise FormatError("MFC202", source.path, found=how_many(source.size, "byte"), expected="a header", hint=HINT_CUT)
    length = int.from_bytes(source.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        found = f"a declared header of {how_many(length, 'byte')}"
        raise FormatError("MFC201", source.path, found=found, expected=f"at most {MAX_HEADER_BYTES:,}", hint=HINT_HEADER)
    if length > source.size - 8:
        found = f"a header of {how_many(length, 'byte')} in a file of {source.size:,}"
        raise FormatError("MFC202", source.path, found=found, expected="a header inside the file", hint=HINT_CUT)
    entries = parse_object(source.read(8, length), "a JSON object", partial(FormatError, "MFC201", source.path), is_strict=True)
    metadata = _checked_metadata(source, entries.pop(METADATA, {}))
    placed = tuple(_placed_tensor(source, name, entry, first=8 + length) for name, entry in entries.items())
    ordered = tuple(sorted(placed, key=lambda p: p.extents[0]))
    _check_places(source, ordered, first=8 + length)
    source.checksums = _checksum_of(ordered, metadata.get("crc_num", ""))
    return Header(ordered, metadata)


def _checksum_of(placed: Sequence[PlacedTensor], crc: str) -> tuple[StoredChecksum, ...]:
    """The CRC-32 that mindspore.save_checkpoint(crc_check=True) stores: of each name and its tensor, in the order of the names.

    For a scalar integer MindSpore hashes not its bytes but so many zeros (``bytes(n)``). If there is one, nothing is compared.
    """
    has_scalar_integer = any(not p.spec.shape and p.spec.dtype in WHOLE_NUMBERS for p in placed)
    if has_scalar_integer or not re.fullmatch("[0-9]{1,10}", crc):
        return ()
    parts: list[tuple[int, int] | bytes] = []
    for p in sorted(placed, key=lambda p: p.spec.name):
        parts += [p.spec.name.encode(), *p.extents]
    return (StoredChecksum(tuple(parts), int(crc)),)


def _checked_metadata(source: FileSource, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("MFC201", source.path, found="__metadata__ that is no object of strings", expected="strings by name")
    return metadata


def _placed_tensor(source: FileSource, name: str, entry: Any, first: int) -> PlacedTensor:
    refuse = partial(FormatError, "MFC201", f"{quote(name)} in {source.path}", hint=HINT_HEADER)
    try:
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        if not isinstance(shape, list):
            raise TypeError  # "" and {} would pass as shapes without axes
        name.encode("utf-8")
    except (TypeError, KeyError, ValueError):
        raise refuse(found=quote(str(entry)[:100]), expected="dtype, shape, data_offsets") from None
    if not are_counts(numbers) or len(shape) > MAX_AXES:
        found = f"shape {quote(str(shape)[:80])}, offsets {quote(str([begin, end])[:80])}"
        raise refuse(found=found, expected="whole numbers, not negative")
    spec = TensorSpec(name, tuple(shape), dtype_named(entry.get("dtype"), name, source.path))
    if end - begin != spec.nbytes:
        raise refuse(found=how_many(end - begin, "byte"), expected=f"{spec.nbytes:,}: {list(shape)} of {spec.dtype}")
    return PlacedTensor(spec, ((first + begin, end - begin),))


def _check_places(source: FileSource, placed: Sequence[PlacedTensor], first: int) -> None:
    past = [p for p in placed if sum(p.extents[0]) > source.size]
    if past:
        name, needed = past[0].spec.name, sum(past[0].extents[0])
        found = f"{how_many(len(past), 'tensor')} past the end of the file; first {quote(name)}, needs byte {needed:,} of {source.size:,}"
        raise FormatError("MFC202", source.path, found=found, expected="every tensor inside the file", hint=HINT_CUT)
    at = first
    for p in placed:
        begin, nbytes = p.extents[0]
        if begin != at:
            what = "overlaps another tensor" if begin < at else f"leaves a gap of {how_many(begin - at, 'byte')} before it"
            raise FormatError("MFC201", f"{quote(p.spec.name)} in {source.path}", found=what, expected="no gap, no overlap")
        at = begin + nbytes
    if at != source.size:
        found = f"{how_many(source.size - at, 'byte')} after the last tensor"
        raise FormatError("MFC201", source.path, found=found, expected="none", hint=HINT_HEADER)


def annotate(source: FileSource) -> Iterator[Field]:
    """Every byte of the file as fields: the length, the members of the header, padding, the numbers of each tensor.

    Raises:
        FormatError: as ``read_header``.
    """
    header = read_header(source)
    length = int.from_bytes(source.read(0, 8), "little")
    text = source.read(8, length).decode("utf-8")
    yield Field(0, 8, "header length", f"{length:,}, as a 64-bit number: the header ends at byte {8 + length:,}")
    yield from _header_fields(text, 8 + length)
    for placed in header.tensors:
        offset, nbytes = placed.extents[0]
        yield Field(offset, nbytes, "numbers", numbers_text(placed.spec), TENSOR, placed.spec.name, placed.spec.dtype)


def _header_fields(text: str, end: int) -> Iterator[Field]:
    """Every byte of the JSON header: braces, members, the spaces around it."""
    brace = len(text) - len(text.lstrip(JSON_SPACE))
    behind = len(text) - len(text.rstrip(JSON_SPACE))
    if brace:
        yield Field(8, brace, "padding", "spaces before the header", PADDING)
    at = 8 + brace
    for number, (name, value, begin, stop) in enumerate(json_members(text, brace, 8)):
        if number == 0:
            yield Field(at, begin - at, "header begins", "a JSON object: one member a tensor, and __metadata__")
        if name == METADATA:
            meaning = ", ".join(f"{k}={v}" for k, v in value.items()) or "nothing"
            yield Field(begin, stop - begin, "metadata", meaning[:300])
        else:
            first, last = value["data_offsets"]
            spec = TensorSpec(name, tuple(value["shape"]), value["dtype"])
            meaning = f"{quote(name)}: {numbers_text(spec)}, bytes {first:,} to {last:,} behind the header"
            yield Field(begin, stop - begin, "header member", meaning, owner=name)
        at = stop
    yield Field(at, end - behind - at, "header ends", "the closing brace")
    if behind:
        yield Field(end - behind, behind, "padding", f"spaces, so that the numbers begin at byte {end:,}", PADDING)


def plan_file(name: str, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> FilePlan:
    """The header and every offset of a file with these tensors.

    Tensors of wide dtypes come first (a stable sort), so that every tensor starts at a multiple of its itemsize.

    Raises:
        OutputError: MFC405 for a tensor with the name of the metadata, a dtype that MindSpore cannot load (in its flavour), names and
            shapes that no reader takes, and a header over 100 MB.
    """
    for spec in specs:
        _check_can_hold(spec, name, metadata)
    ordered = sorted(specs, key=lambda s: -itemsize(s.dtype))
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for s in ordered:
        header[s.name] = {"dtype": s.dtype, "shape": list(s.shape), "data_offsets": [at, at + s.nbytes]}
        at += s.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER_BYTES:
        found, hint = f"a header of {how_many(len(raw), 'byte')}", "Give a folder as target, and --max_shard_size: each shard has its own."
        raise OutputError("MFC405", quote(name), found=found, expected=f"at most {MAX_HEADER_BYTES:,}", hint=hint)
    first = 8 + len(raw)
    places = {s.name: ((first + header[s.name]["data_offsets"][0], s.nbytes),) for s in ordered}
    return FilePlan(name, first + at, ((0, len(raw).to_bytes(8, "little") + raw),), places)


def _check_can_hold(spec: TensorSpec, file: str, metadata: Mapping[str, str]) -> None:
    check_can_be_written(spec, file)
    refuse = partial(OutputError, "MFC405", f"{quote(spec.name)} for {quote(file)}")
    if spec.name == METADATA:
        hint = "Rename it, leave it out, or choose a .bin or .ckpt ending."
        raise refuse(found="the name that the metadata has", expected="another", hint=hint)
    if metadata.get("format") == "ms" and DTYPES[spec.dtype].mindspore is None:
        raise refuse(found=f"dtype {spec.dtype}", expected="a dtype that MindSpore loads", hint=HINT_CODES)


# ---- the format ------------------------------------------------------------------------------------------------------


def _open(source: FileSource) -> OpenedFile:
    header = read_header(source)
    return file_with(header, source, {"ms": MF, "pt": HF}.get(header.metadata.get("format", "")))


FORMAT = Format(
    name="safetensors",
    title="safetensors",
    endings=(".safetensors",),
    order=1,
    looks_like=looks_like,
    open=_open,
    annotate=annotate,
    plan_file=lambda name, specs, side: plan_file(name, specs, {"format": "ms" if side == MF else "pt"}),
    by_ending=True,
    in_runs=True,
)
