"""torch `.bin`, `.pt`, `.pth`: a zip of one restricted pickle and one stored member a storage. Reads headers and plans files through torch.

Nothing from the file is run: it is opened with ``weights_only=True`` only. In torch's fake mode the pickle gives names, shapes, strides
and each storage's offset without reading a weight; the numbers are then read straight from the file. Files of the old form (no
zip) are loaded whole, which takes their size in memory.

Refuses: pickles that hold more than tensors and plain values, tensors larger than their storage (expanded), compressed members,
storages that leave their member.
Source: torch's documentation of `torch.serialization.skip_data` and of fake mode in `torch.load`; APPNOTE.TXT for the zip fields.
"""

from __future__ import annotations

import importlib.util
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfconv_nb.checkpoint import ArraySource, ByteSource, FileSource, LazyTensor, OtherEntry, TensorSpec, strided_tensor
from mfconv_nb.dtypes import BY_TORCH, DTYPES, itemsize
from mfconv_nb.errors import FormatError, quoted
from mfconv_nb.places import FilePlan

WRAPPERS = ("model", "state_dict", "module", "model_state_dict")  # one entry that holds the tensors, as training scripts save
HINT_PICKLE = "Load it where you trust it, and save its state dict as safetensors."


def looks_like(first_bytes: bytes, size: int) -> bool:
    """True for a zip, and for the pickle that torch wrote before version 1.6."""
    return first_bytes[:4] == b"PK\x03\x04" or first_bytes[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04")


def _torch(path: object) -> Any:
    if importlib.util.find_spec("torch") is None:
        raise FormatError("MFC208", path, found="no torch", expected="torch", hint="pip install 'mfconv-nb[torch]'")
    import torch

    return torch


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_tensors(source: FileSource) -> tuple[tuple[LazyTensor, ...], tuple[OtherEntry, ...]]:
    """The tensors of a torch file, lazily, and what else it holds.

    Raises:
        FormatError: MFC201, MFC202 (damaged), MFC206 (more than tensors), MFC207 (expanded), MFC208 (torch is missing).
    """
    torch = _torch(source.path)
    members = _stored_members(source)
    if members is None:
        state = _load(torch, source.path, fake=False)
    else:
        state = _load(torch, source.path, fake=True)
    tensors, others = _tensors_in(torch, state, source.path)
    lazy = tuple(_lazy(torch, name, t, source, members) for name, t in tensors.items())
    return lazy, others


def _stored_members(source: FileSource) -> dict[int, int] | None:
    """Data offset and size of every zip member; None for a file of the old form, which is no zip."""
    if source.read(0, 4) != b"PK\x03\x04":
        return None
    members = {}
    try:
        with zipfile.ZipFile(source.path) as archive:
            for info in archive.infolist():
                local = source.read(info.header_offset, 30)
                name_bytes, extra_bytes = struct.unpack("<HH", local[26:30])
                start = info.header_offset + 30 + name_bytes + extra_bytes
                members[start] = info.file_size
                if info.compress_type != zipfile.ZIP_STORED:
                    found = f"{quoted(info.filename)} is compressed"
                    raise FormatError("MFC201", source.path, found=found, expected="stored members, as torch writes")
                if info.filename.endswith("/byteorder") and source.read(start, min(info.file_size, 16)) == b"big":
                    found, hint = "big-endian numbers", "Load it in torch and save it again on a little-endian machine."
                    raise FormatError("MFC205", source.path, found=found, expected="little-endian numbers", hint=hint)
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OSError) as error:
        found = f"a broken zip: {error}"
        raise FormatError("MFC202", source.path, found=found, expected="a torch file", hint="Fetch it again.") from None
    return members


def _load(torch: Any, path: Path, *, fake: bool) -> Any:
    try:
        if not fake:
            return torch.load(path, map_location="cpu", weights_only=True)
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = next(iter(str(error).splitlines()), "")[:160]
        raise FormatError(
            "MFC206", path, found=first, expected="tensors and plain values; no code of a file is run", hint=HINT_PICKLE
        ) from None
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, UnicodeDecodeError ... on damaged files
        found = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
        raise FormatError("MFC201", path, found=found, expected="a torch file of tensors", hint="Fetch it again.") from None


def _tensors_in(torch: Any, state: Any, path: Path) -> tuple[dict[str, Any], tuple[OtherEntry, ...]]:
    """The state dict itself, or the one that a training script wrapped; everything else is listed."""
    if not isinstance(state, Mapping):
        raise FormatError("MFC206", path, found=f"a {type(state).__name__}", expected="a dict of tensors", hint=HINT_PICKLE)
    inner = next((state[k] for k in WRAPPERS if isinstance(state.get(k), Mapping)), None)
    wrapper, outer = (inner, state) if inner is not None else (state, {})
    tensors = {n: t for n, t in wrapper.items() if isinstance(n, str) and isinstance(t, torch.Tensor)}
    rest = [(n, v) for d in (wrapper, outer) for n, v in d.items() if v is not inner and not (n in tensors and d is wrapper)]
    others = tuple(OtherEntry(str(n), type(v).__name__, _short_text(v)) for n, v in rest)
    if not tensors:
        found = f"{len(others)} entries, no tensor among them"
        raise FormatError("MFC206", path, found=found, expected="a dict of tensors", hint=HINT_PICKLE)
    return tensors, others


def _short_text(value: Any) -> str:
    """A plain value as text. A list is not printed: a few bytes of pickle can make one that prints without end."""
    return str(value)[:80] if isinstance(value, str | int | float | bool | None) else ""


def _lazy(torch: Any, name: str, t: Any, source: FileSource, members: dict[int, int] | None) -> LazyTensor:
    where = f"{quoted(name)} in {source.path}"
    dtype = BY_TORCH.get(str(t.dtype).removeprefix("torch."))
    if dtype is None or t.layout != torch.strided or t.is_quantized:
        found = f"{t.dtype}, {t.layout}"
        raise FormatError("MFC205", where, found=found, expected=f"a dense tensor of {', '.join(BY_TORCH)}")
    storage = t.untyped_storage()
    spec = TensorSpec(name, tuple(t.shape), dtype)
    if members is None:
        data: ByteSource = ArraySource(_storage_bytes(torch, storage), source.path.name)
        start, available = 0, data.size
    else:
        start, data = storage._checkpoint_offset, source
        available = members.get(start, -1)
        if storage.nbytes() > available:
            found, expected = f"a storage of {storage.nbytes():,} bytes", f"at most {max(0, available):,}, its zip member"
            raise FormatError("MFC201", where, found=found, expected=expected, hint="The file is damaged.")
    _check_view(spec, t.storage_offset(), t.stride(), available, where)
    return strided_tensor(spec, data, start, t.storage_offset(), tuple(t.stride()))


def _check_view(spec: TensorSpec, offset: int, strides: Sequence[int], available: int, where: str) -> None:
    """Raises FormatError (MFC207) when the view repeats elements (expanded) or leaves its storage."""
    size = itemsize(spec.dtype)
    reach = offset + sum((n - 1) * s for n, s in zip(spec.shape, strides, strict=True)) + 1 if spec.elements else 0
    expanded = any(s == 0 and n > 1 for n, s in zip(spec.shape, strides, strict=True))
    if expanded or reach * size > available or spec.nbytes > available:
        found = f"{list(spec.shape)} with strides {list(strides)} in a storage of {available:,} bytes"
        hint = "It was saved expanded: save it again with .contiguous()."
        raise FormatError("MFC207", where, found=found, expected=f"{spec.nbytes:,} bytes", hint=hint)


def _storage_bytes(torch: Any, storage: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())


# ---- planning --------------------------------------------------------------------------------------------------------


def plan_file(name: str, specs: Sequence[TensorSpec]) -> FilePlan:
    """A torch file with these tensors: torch itself writes it, without the weights, and says where each goes.

    torch leaves the CRC fields of the members at zero; their places are in the plan, to be filled from the bytes that pass.
    """
    torch = _torch(name)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with tempfile.TemporaryDirectory(prefix="mfconv-") as folder:
        skeleton = Path(folder) / Path(name).name
        with FakeTensorMode():
            fake = {s.name: torch.empty(s.shape, dtype=getattr(torch, DTYPES[s.dtype].torch)) for s in specs}
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(fake, skeleton)
        with FakeTensorMode():
            found = torch.load(skeleton, weights_only=True)
        offsets = {n: int(t.untyped_storage()._checkpoint_offset) for n, t in found.items()}
        size = skeleton.stat().st_size
        places = {s.name: ((offsets[s.name], s.nbytes),) for s in specs}
        fixed = _bytes_between(skeleton, sorted((offsets[s.name], s.nbytes) for s in specs), size)
        crc_fields = _crc_fields(skeleton, offsets, {s.name: s.nbytes for s in specs})
    return FilePlan(name, size, fixed, places, crc_fields)


def _bytes_between(skeleton: Path, holes: Sequence[tuple[int, int]], size: int) -> tuple[tuple[int, bytes], ...]:
    """What torch wrote outside the weights; the file is sparse, so only these few bytes are read."""
    fixed, at = [], 0
    with open(skeleton, "rb") as file:
        for offset, nbytes in [*holes, (size, 0)]:
            if offset > at:
                file.seek(at)
                fixed.append((at, file.read(offset - at)))
            at = max(at, offset + nbytes)
    return tuple(fixed)


def _crc_fields(skeleton: Path, offsets: Mapping[str, int], nbytes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Where the zip keeps each tensor's CRC-32: in the data descriptor behind the bytes, and in the central directory."""
    by_offset = {offset: name for name, offset in offsets.items() if nbytes[name]}
    fields: dict[str, tuple[int, ...]] = {}
    with open(skeleton, "rb") as file, zipfile.ZipFile(file) as archive:
        entry = archive.start_dir
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
            data = info.header_offset + 30 + name_bytes + extra_bytes
            file.seek(entry)
            head = file.read(46)
            if data in by_offset:
                behind = data + info.file_size
                file.seek(behind)
                descriptor = (behind + 4,) if file.read(4) == b"PK\x07\x08" else ()
                fields[by_offset[data]] = (entry + 16, *descriptor)
            entry += 46 + sum(struct.unpack("<HHH", head[28:34]))
    return fields
