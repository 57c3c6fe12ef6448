"""Hostile files, made by code byte by byte, and what every refusal of one must keep to.

Nothing here uses a writer of the package: a mistake in a writer cannot hide the same mistake in a reader.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from tests.support import work_of

MAX_LINES = 12
MAX_CHARACTERS = 4000
MAX_WORK = 3_000_000  # calls of functions: the longest name has a million characters
HOSTILE_NAME = "\x1b[2J\nMFC000 all is well\r../../etc/passwd\x00\u202egpj"


mc.load({"w": np.zeros(1)})  # its modules, and those of the families that tell a side by names, are no memory of a refusal


def refusal(act: Callable[[], Any], *codes: str, names: str | None = None, memory: int = 4 << 20, lines: int = MAX_LINES) -> mc.MfconvError:
    """The error that ``act`` raises: one of ``codes``, short, printable, naming ``names``, after little work and in little memory.

    Args:
        memory: what Python may allocate on the way, in bytes.
    """
    with pytest.raises(mc.MfconvError) as caught:
        act()
    text = str(caught.value)
    assert caught.value.code in codes, text
    assert_sober(text, lines)
    if names is not None:
        assert names in text
    peaks: list[int] = []
    while not peaks or (peaks[-1] >= memory and len(peaks) < 3):  # what other threads of the test runner allocate counts too
        tracemalloc.start()
        try:
            work = work_of(act, mc.MfconvError)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) < memory, f"{peaks} bytes"
    assert work < MAX_WORK, f"{work:,} calls"
    return caught.value


def assert_sober(text: str, lines: int = MAX_LINES) -> None:
    """A message fits on a screen, and holds nothing that a terminal would obey."""
    assert len(text.splitlines()) <= lines, text[:2000]
    assert len(text) <= MAX_CHARACTERS, text[:2000]
    assert all(c.isprintable() or c == "\n" for c in text), text


def assert_escaped(text: str) -> None:
    """``HOSTILE_NAME`` is shown, on the line it is in, with its control characters as escapes."""
    assert "\\x1b[2J\\nMFC000 all is well\\r../../etc/passwd" in text


def refused_file(path: Path, content: bytes, *codes: str, **limits: Any) -> mc.MfconvError:
    """Write ``content`` and load it: refused, and the message names the file."""
    path.write_bytes(content)
    limits.setdefault("memory", (4 << 20) + 32 * len(content))
    return refusal(lambda: mc.load(path), *codes, names=path.name, **limits)


# ---- safetensors -----------------------------------------------------------------------------------------------------------


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header (bytes as they are, anything else as JSON) and this data; ``length`` overrides the first eight bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24)) -> dict[str, Any]:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SOUND_SAFETENSORS = safetensors(
    {"__metadata__": {"format": "pt"}, "a": entry(), "b": entry("U8", [5], [24, 29]), "scalar": entry("U8", [], [29, 30])}, bytes(range(30))
)


# ---- MindSpore -------------------------------------------------------------------------------------------------------------


def varint(n: int) -> bytes:
    """A number in base 128, as protobuf writes it; negative ones as 64 bits."""
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes((*out, n))


def field(tag: int, content: bytes, *, length: int | None = None) -> bytes:
    """A length-delimited field; ``length`` overrides what it says of itself."""
    return bytes([tag]) + varint(len(content) if length is None else length) + content


def dims(*sizes: int) -> bytes:
    return b"".join(b"\x08" + varint(n) for n in sizes)


def tensor(shape: bytes, dtype: str | bytes, content: bytes) -> bytes:
    """A TensorProto."""
    return shape + field(0x12, dtype.encode() if isinstance(dtype, str) else dtype) + field(0x1A, content)


def named(name: str | bytes, proto: bytes, *, tag: int = 0x12) -> bytes:
    """One entry of the stream."""
    return field(0x0A, field(0x0A, name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name) + field(tag, proto))


SOUND_ENTRIES = (
    named("a", tensor(dims(2, 3), "Float32", bytes(range(24)))),
    named("b", tensor(dims(), "Int64", bytes(range(8)))),
    named("text", tensor(dims(0), "str", "Zoë".encode("utf-32-le"))),
)
SOUND_CKPT = b"".join(SOUND_ENTRIES)
