"""torch `.bin`, `.pt`, `.pth`: a zip of one restricted pickle and one stored member for each storage. Torch itself reads and plans files.

No code of a file is run: torch opens it with ``weights_only=True``. In torch's fake mode the pickle gives names, shapes, strides and the
offset of each storage without reading a weight; we then read the numbers straight from the file. Files from before torch 1.6 are no zips:
torch loads them whole, which takes their size in memory.

Refuses: pickles with more than tensors and plain values, tensors larger than their storage (expanded), compressed members, storages that
leave their member.
Source: torch's documentation of `torch.serialization.skip_data` and of fake mode in `torch.load`; APPNOTE.TXT for the zip fields.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from mfconv_nb.core.checkpoint import HF, LazyTensor, OtherEntry, TensorSpec, strided_tensor
from mfconv_nb.core.dtypes import BY_TORCH, DTYPES, itemsize, short_name
from mfconv_nb.core.errors import FormatError, quoted
from mfconv_nb.core.file_plan import FilePlan
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sources import ArraySource, ByteSource, FileSource, StoredChecksum
from mfconv_nb.formats.fields import HEADER, OTHER, PADDING, TENSOR, Field, fill_gaps, numbers_text
from mfconv_nb.formats.format import Format, OpenedFile
from mfconv_nb.formats.limits import check_can_be_written, has_sound_shape, is_text
from mfconv_nb.formats.pickle_words import MAX_PICKLE_BYTES, PickleWords, Storage, read_words

WRAPPERS = ("model", "state_dict", "module", "model_state_dict")  # training scripts save the tensors in one such entry
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before torch 1.6
TORCH_BYTES = 130 << 20  # memory that importing torch 2.13 takes
ZIP, DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"
HINT_PICKLE = "Load it where you trust it, and save its state dict as safetensors."


def looks_like(first_bytes: bytes, size: int) -> bool:
    """True for a zip, and for the pickle that torch wrote before version 1.6."""
    return first_bytes[:4] == ZIP or first_bytes[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04")


def _import_torch(path: object) -> Any:
    if importlib.util.find_spec("torch") is None:
        raise FormatError("MFC208", path, found="no torch", expected="torch", hint="pip install 'mfconv-nb[torch]'")
    import torch._subclasses.fake_tensor  # here: importing torch takes seconds, and only torch files need it

    return torch


def _pretend_tensors(torch: Any) -> Any:
    """torch's fake mode: within it tensors have names, shapes and strides, but no memory."""
    return torch._subclasses.fake_tensor.FakeTensorMode()


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_tensors(source: FileSource) -> tuple[tuple[LazyTensor, ...], tuple[OtherEntry, ...]]:
    """The tensors of a torch file, lazily, and whatever else it holds.

    Raises:
        FormatError: MFC201, MFC202 (damaged), MFC206 (more than tensors), MFC207 (expanded), MFC208 (torch is missing).
    """
    torch = _import_torch(source.path)
    members = _stored_members(source)
    state = _load(torch, source.path, fake=members is not None)
    tensors, others = _tensors_in(torch, state, source.path)
    lazy = tuple(_lazy_tensor(torch, name, t, source, members) for name, t in tensors.items())
    return lazy, others


def _stored_members(source: FileSource) -> dict[int, int] | None:
    """Data offset and size of every zip member; None for a file from before torch 1.6, which is no zip."""
    if source.read(0, 4) != ZIP:
        return None
    members, checksums = {}, []
    try:
        with zipfile.ZipFile(source.path) as archive:
            for info in archive.infolist():
                start, _ = _data_place(source, info)
                members[start] = info.file_size
                if info.CRC:  # 0: torch computed none (set_crc32_options), or left the numbers out (skip_data)
                    checksums.append(StoredChecksum(((start, info.file_size),), info.CRC, quoted(info.filename)))
                if info.compress_type != zipfile.ZIP_STORED:
                    found = f"{quoted(info.filename)} is compressed"
                    raise FormatError("MFC201", source.path, found=found, expected="stored members, as torch writes")
                if info.filename.endswith("/byteorder") and source.read(start, min(info.file_size, 16)) == b"big":
                    found, hint = "big-endian numbers", "Load it in torch and save it again on a little-endian machine."
                    raise FormatError("MFC205", source.path, found=found, expected="little-endian numbers", hint=hint)
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OSError) as error:
        found = f"a broken zip: {error}"
        raise FormatError("MFC202", source.path, found=found, expected="a torch file", hint="Fetch it again.") from None
    source.checksums = tuple(checksums)
    return members


def _load(torch: Any, path: Path, *, fake: bool) -> Any:
    try:
        with _pretend_tensors(torch) if fake else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found, expected = _reason_of_refusal(str(error)), "tensors and plain values; no code of a file is run"
        raise FormatError("MFC206", path, found=found, expected=expected, hint=HINT_PICKLE) from None
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, UnicodeDecodeError ... on damaged files
        found = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
        raise FormatError("MFC201", path, found=found, expected="a torch file of tensors", hint="Fetch it again.") from None


def _reason_of_refusal(message: str) -> str:
    """From torch's message: the code name that it refuses. Without colours, and without its advice, which is to run the code."""
    name = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+\.[\w.]+)", message)
    if name is not None:
        return f"{quoted(name[1] or name[2])}, which is no tensor"
    reason = re.sub(r"\x1b\[[0-9;]*m", "", message.rpartition("WeightsUnpickler error:")[2]).strip()
    return reason.partition("\n")[0][:160] or "more than tensors"


def _tensors_in(torch: Any, state: Any, path: Path) -> tuple[dict[str, Any], tuple[OtherEntry, ...]]:
    """The tensors of the state dict, which a training script may have wrapped in another dict; everything else is listed."""
    if not isinstance(state, Mapping):
        raise FormatError("MFC206", path, found=f"a {type(state).__name__}", expected="a dict of tensors", hint=HINT_PICKLE)
    inner = next((state[k] for k in WRAPPERS if isinstance(state.get(k), Mapping)), None)
    wrapper, outer = (inner, state) if inner is not None else (state, {})
    tensors = {n: t for n, t in wrapper.items() if isinstance(n, str) and isinstance(t, torch.Tensor)}
    rest = [(n, v) for d in (wrapper, outer) for n, v in d.items() if v is not inner and not (n in tensors and d is wrapper)]
    others = tuple(OtherEntry(str(n), type(v).__name__, _short_text(v)) for n, v in rest)
    if not tensors:
        found = f"{how_many(len(others), 'entry', 'entries')}, but no tensor"
        raise FormatError("MFC206", path, found=found, expected="a dict of tensors", hint=HINT_PICKLE)
    return tensors, others


def _short_text(value: Any) -> str:
    """A plain value as text. Lists are not printed: a few bytes of pickle can make one that prints without end."""
    return str(value)[:80] if isinstance(value, str | int | float | bool | None) else ""


def _lazy_tensor(torch: Any, name: str, t: Any, source: FileSource, members: dict[int, int] | None) -> LazyTensor:
    where = f"{quoted(name)} in {source.path}"
    dtype = BY_TORCH.get(str(t.dtype).removeprefix("torch."))
    if dtype is None or t.layout != torch.strided or t.is_quantized:
        found = f"{t.dtype}, {t.layout}"
        raise FormatError("MFC205", where, found=found, expected=f"a dense tensor of {', '.join(BY_TORCH)}")
    if not is_text(name) or not has_sound_shape(tuple(t.shape)):
        found = f"a name of {len(name):,} characters, shape {list(t.shape)[:8]}"
        raise FormatError("MFC201", where, found=found, expected="a name that is text, and a shape that can be read", hint=HINT_PICKLE)
    storage = t.untyped_storage()
    spec = TensorSpec(name, tuple(t.shape), dtype)
    if members is None:
        data: ByteSource = ArraySource(_storage_bytes(torch, storage), source.path.name)
        start, available = 0, data.size
    else:
        start, data = storage._checkpoint_offset, source
        available = members.get(start, -1)
        if storage.nbytes() > available:
            found, expected = f"a storage of {how_many(storage.nbytes(), 'byte')}", f"at most {max(0, available):,}, its zip member"
            raise FormatError("MFC201", where, found=found, expected=expected, hint="The file is damaged: fetch or save it again.")
    _check_view(spec, t.storage_offset(), t.stride(), available, where)
    return strided_tensor(spec, data, start, t.storage_offset(), tuple(t.stride()))


def _check_view(spec: TensorSpec, offset: int, strides: Sequence[int], available: int, where: str) -> None:
    """Raises FormatError (MFC207) if the view repeats elements (expanded) or leaves its storage."""
    size = itemsize(spec.dtype)
    reach = offset + sum((n - 1) * s for n, s in zip(spec.shape, strides, strict=True)) + 1 if spec.elements else 0
    expanded = any(s == 0 and n > 1 for n, s in zip(spec.shape, strides, strict=True))
    if expanded or reach * size > available or spec.nbytes > available:
        found = f"{list(spec.shape)} with strides {list(strides)} in a storage of {how_many(available, 'byte')}"
        hint = "It was saved expanded: save it again with .contiguous()."
        raise FormatError("MFC207", where, found=found, expected=how_many(spec.nbytes, "byte"), hint=hint)


def _storage_bytes(torch: Any, storage: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())


# ---- annotating ------------------------------------------------------------------------------------------------------


def annotate(source: FileSource) -> Iterator[Field]:
    """Every byte of the file as fields: local header, padding and data of each zip member, then the central directory.

    Needs no torch and runs nothing: ``pickle_words.py`` reads the pickle.

    Raises:
        FormatError: MFC201, MFC202 for a damaged zip or pickle.
    """
    if _stored_members(source) is None:
        return _annotate_old_file(source)
    return fill_gaps(_zip_fields(source), source)


def _zip_fields(source: FileSource) -> Iterator[Field]:
    with zipfile.ZipFile(source.path) as archive:
        members, directory, comment = sorted(archive.infolist(), key=lambda i: i.header_offset), archive.start_dir, len(archive.comment)
    words = _read_state_pickle(source, members)
    ends = [*(m.header_offset for m in members[1:]), directory]
    for member, end in zip(members, ends, strict=True):
        yield from _member_fields(source, member, end, words)
    yield from _directory_fields(source, directory, len(members), comment)


def _data_place(source: FileSource, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the data of a member begins, and the length of its name. The local header is 30 bytes; name and extra field follow it."""
    name_bytes, extra_bytes = struct.unpack("<HH", source.read(member.header_offset + 26, 4))
    return member.header_offset + 30 + name_bytes + extra_bytes, name_bytes


def _read_state_pickle(source: FileSource, members: Sequence[zipfile.ZipInfo]) -> PickleWords:
    member = next((m for m in members if m.filename.endswith("data.pkl")), None)
    if member is None or member.file_size > MAX_PICKLE_BYTES:
        return PickleWords()
    return _read_pickle_words(source, source.read(_data_place(source, member)[0], member.file_size))


def _read_pickle_words(source: FileSource, data: bytes) -> PickleWords:
    try:
        return read_words(data)
    except ValueError as error:
        raise FormatError("MFC201", source.path, found=f"a pickle, {error}", expected="a torch file of tensors") from None


def _member_fields(source: FileSource, member: zipfile.ZipInfo, end: int, words: PickleWords) -> Iterator[Field]:
    at, (data, name_bytes) = member.header_offset, _data_place(source, member)
    size, short = member.file_size, member.filename.rpartition("/")[2]
    is_data = member.filename.rpartition("/")[0].endswith("data") and short in words.storages
    owner = (words.storages[short][0].name or short) if is_data else ""
    head = at + 30 + name_bytes
    yield Field(at, head - at, "local header", f"signature PK 03 04, then the name {quoted(member.filename)}", owner=owner)
    if data > head:
        yield Field(head, data - head, "padding", f"an extra field that does nothing: the data begins at byte {data:,}", PADDING, owner)
    if is_data:
        yield _storage_field(data, size, words.storages[short], owner)
    else:
        kind = HEADER if size <= 1024 or short == "data.pkl" else OTHER
        yield Field(data, size, short[:40] or "data", _member_text(source, data, size, short, words), kind)
    behind = end - data - size  # a descriptor has 16 bytes, with 64-bit sizes 24
    if behind in (16, 24) and source.read(data + size, 4) == DESCRIPTOR:
        yield Field(data + size, behind, "data descriptor", "signature PK 07 08, then checksum and sizes", owner=owner)


def _storage_field(data: int, size: int, storages: Sequence[Storage], owner: str) -> Field:
    first = storages[0]
    more = "" if len(storages) == 1 else f"; {len(storages)} tensors look into it"
    if first.dtype and first.shape is not None:
        meaning = numbers_text(TensorSpec(first.name, first.shape, first.dtype))
    else:
        meaning = how_many(first.elements, "number") + (f" {short_name(first.dtype)}" if first.dtype else "")
    return Field(data, size, "numbers", f"storage {first.key}: {meaning}{more}"[:200], TENSOR, owner, first.dtype)


def _member_text(source: FileSource, data: int, size: int, short: str, words: PickleWords) -> str:
    if short != "data.pkl":
        return quoted(source.read(data, size).decode("utf-8", "replace").strip()) if size <= 64 else how_many(size, "byte")
    if size > MAX_PICKLE_BYTES:
        return "a pickle, too large to look into"
    return _pickle_text(words)


def _pickle_text(words: PickleWords) -> str:
    """A sentence on a pickle; it warns of code that torch would not need for tensors."""
    tensors = sum(len(s) for s in words.storages.values())
    strange = ", ".join(quoted(name) for name in words.strange[:3])
    warning = f"; it would call {strange}, which torch does not need for tensors: nothing of it was run" if strange else ""
    return (
        f"a pickle of {how_many(words.words, 'word')}: {how_many(tensors, 'tensor')} in {how_many(len(words.storages), 'storage')}{warning}"
    )


END_BYTES, LOCATOR_BYTES, WIDE_END_BYTES = 22, 20, 56  # of the last records of a zip; those for 64-bit sizes may be absent


def _directory_fields(source: FileSource, at: int, members: int, comment: int) -> Iterator[Field]:
    """The central directory and the records after it, up to the end of the file."""
    end = source.size - END_BYTES - comment
    locator = end - LOCATOR_BYTES
    wide_end = locator - WIDE_END_BYTES
    is_wide = wide_end >= at and source.read(wide_end, 4) == b"PK\x06\x06" and source.read(locator, 4) == b"PK\x06\x07"
    size = (wide_end if is_wide else end) - at
    meaning = f"{how_many(members, 'entry', 'entries')}: name, size, checksum and place of every member again"
    yield Field(at, size, "central directory", meaning)
    if is_wide:
        yield Field(wide_end, WIDE_END_BYTES, "end of directory, 64 bits", "signature PK 06 06")
        yield Field(locator, LOCATOR_BYTES, "locator", "signature PK 06 07: where that record begins")
    yield Field(end, END_BYTES + comment, "end of directory", "signature PK 05 06: a zip is read from its end")


OLD_PICKLES = ("magic number", "protocol", "system", "object", "storage keys")


def _annotate_old_file(source: FileSource) -> Iterator[Field]:
    """Fields of a file from before torch 1.6: five pickles, then for each storage its count and its numbers."""
    head = source.read(0, MAX_PICKLE_BYTES)
    first = _read_pickle_words(source, head)
    if MAGIC_NUMBER not in first.numbers:
        yield Field(0, first.end, "pickle", _pickle_text(first), OTHER)
        if first.end < source.size:
            yield Field(first.end, source.size - first.end, "unnamed bytes", "behind the pickle", OTHER)
        return
    at, words = 0, []
    for what in OLD_PICKLES:
        words.append(_read_pickle_words(source, head[at:]))
        meaning = {"magic number": "the mark of files from before torch 1.6", "object": _pickle_text(words[-1])}.get(what, "a pickle")
        yield Field(at, words[-1].end, what, meaning)
        at += words[-1].end
    for key in words[4].texts:
        held = words[3].storages.get(key)
        count = int.from_bytes(source.read(at, 8), "little")
        if held is None or not held[0].dtype or count != held[0].elements or at + 8 + count * itemsize(held[0].dtype) > source.size:
            break
        owner, nbytes = held[0].name or key, count * itemsize(held[0].dtype)
        yield Field(at, 8, "count", f"storage {quoted(key)}: {how_many(count, 'number')}", owner=owner)
        yield _storage_field(at + 8, nbytes, held, owner)
        at += 8 + nbytes
    if at < source.size:
        yield Field(at, source.size - at, "storages", "counts and numbers of the storages that are left", OTHER)


# ---- planning --------------------------------------------------------------------------------------------------------


def plan_file(name: str, specs: Sequence[TensorSpec]) -> FilePlan:
    """Plan a torch file with these tensors: torch writes it without the weights, and we read from it where each belongs.

    torch leaves the CRC fields of the members at zero. The plan says where they are; they are filled when the weights are written.

    Raises:
        OutputError: MFC405 for names and shapes that no reader takes. FormatError: MFC208 if torch is missing.
    """
    for spec in specs:
        check_can_be_written(spec, name)
    torch = _import_torch(name)
    with tempfile.TemporaryDirectory(prefix="mfconv-") as folder:
        skeleton = Path(folder) / os.fsencode(Path(name).name).decode("utf-8", "replace")  # torch names the zip's folder after it
        with _pretend_tensors(torch):
            fake = {s.name: torch.empty(s.shape, dtype=getattr(torch, DTYPES[s.dtype].torch)) for s in specs}
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(fake, skeleton)
        with _pretend_tensors(torch):
            found = torch.load(skeleton, weights_only=True)
        offsets = {n: int(t.untyped_storage()._checkpoint_offset) for n, t in found.items()}
        written = FileSource(skeleton)
        places = {s.name: ((offsets[s.name], s.nbytes),) for s in specs}
        fixed = _bytes_between(written, sorted((offsets[s.name], s.nbytes) for s in specs))
        crc_fields = _crc_fields(written, offsets, {s.name: s.nbytes for s in specs})
    return FilePlan(name, written.size, fixed, places, crc_fields)


def _bytes_between(skeleton: FileSource, holes: Sequence[tuple[int, int]]) -> tuple[tuple[int, bytes], ...]:
    """The bytes that torch wrote outside the weights, which are holes in this sparse file."""
    fixed, at = [], 0
    for offset, nbytes in [*holes, (skeleton.size, 0)]:
        if offset > at:
            fixed.append((at, skeleton.read(at, offset - at)))
        at = max(at, offset + nbytes)
    return tuple(fixed)


def _crc_fields(skeleton: FileSource, offsets: Mapping[str, int], nbytes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Where the zip stores the CRC-32 of each tensor: in the data descriptor after its bytes, and in the central directory."""
    by_offset = {offset: name for name, offset in offsets.items() if nbytes[name]}
    fields: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(skeleton.path) as archive:
        entry = archive.start_dir
        for info in archive.infolist():
            data, _ = _data_place(skeleton, info)
            if data in by_offset:
                behind = data + info.file_size
                descriptor = (behind + 4,) if skeleton.read(behind, 4) == DESCRIPTOR else ()
                fields[by_offset[data]] = (entry + 16, *descriptor)  # the CRC stands 16 bytes into an entry of the directory
            entry += 46 + sum(struct.unpack("<HHH", skeleton.read(entry + 28, 6)))  # its name, extra field and comment follow 46 bytes
    return fields


# ---- the format ------------------------------------------------------------------------------------------------------


def _open(source: FileSource) -> OpenedFile:
    tensors, others = read_tensors(source)
    return OpenedFile(tensors, HF, others)


FORMAT = Format(
    name="torch",
    title="torch",
    endings=(".bin", ".pt", ".pth"),
    order=2,
    looks_like=looks_like,
    open=_open,
    annotate=annotate,
    plan_file=lambda name, specs, side: plan_file(name, specs),
    marks=(ZIP,),
    units=("member", "members"),
    opening_takes=TORCH_BYTES,
    opening_said="torch opens these files; those from before torch 1.6 whole",
)
