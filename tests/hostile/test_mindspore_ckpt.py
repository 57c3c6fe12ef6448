"""Hostile MindSpore checkpoints. MindSpore's own reader checks none of the sizes: a short content is read out of bounds there."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest

import mfconv_nb as mc
from tests.hostile.made import (
    HOSTILE_NAME,
    SOUND_CKPT,
    SOUND_ENTRIES,
    assert_escaped,
    dims,
    field,
    named,
    refused_file,
    tensor,
    varint,
)

BOUNDARIES = {0, *accumulate(len(e) for e in SOUND_ENTRIES)}


def test_the_sound_file_that_the_others_are_made_from_is_taken(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(SOUND_CKPT)
    checkpoint = mc.load(tmp_path / "x.ckpt")
    assert [(t.name, t.shape, t.dtype) for t in checkpoint] == [("a", (2, 3), "F32"), ("b", (), "I64")]
    assert [(o.name, o.text) for o in checkpoint.history.others] == [("text", "Zoë")]


def test_a_file_cut_short_inside_an_entry_is_refused(tmp_path: Path) -> None:
    for length in sorted(set(range(1, len(SOUND_CKPT))) - BOUNDARIES):
        refused_file(tmp_path / f"cut{length}.ckpt", SOUND_CKPT[:length], "MFC202", "MFC203")


def test_a_file_cut_short_between_two_slices_of_a_tensor_is_refused(tmp_path: Path) -> None:
    slices = [named("a", tensor(dims(2, 3), "Float32", bytes(12))) for _ in range(2)]
    refused_file(tmp_path / "x.ckpt", slices[0], "MFC202")
    (tmp_path / "whole.ckpt").write_bytes(b"".join(slices))
    assert mc.load(tmp_path / "whole.ckpt")["a"].shape == (2, 3)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.ckpt", b"", "MFC202")


@pytest.mark.parametrize("magic, kind", [("d85e3a7f", "AES-GCM"), ("d95e3a7f", "AES-CBC"), ("da5e3a7f", "SM4-CBC")])
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors", ""])
def test_an_encrypted_file_is_named_as_such_whatever_its_ending(magic: str, kind: str, ending: str, tmp_path: Path) -> None:
    error = refused_file(tmp_path / f"x{ending}", bytes.fromhex(magic) + bytes(100), "MFC204")
    assert kind in str(error)
    assert "dec_key" in str(error)


def test_a_strategy_file_is_named_as_such(tmp_path: Path) -> None:
    error = refused_file(tmp_path / "strategy.ckpt", b"\x08\x01\x12\x04abcd", "MFC203")
    assert "strategy file" in str(error)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate((b"\x12\x03abc", b"hello, world", b"\x00" * 64, b"\xff" * 64, b"{}")):
        refused_file(tmp_path / f"x{number}.ckpt", content, "MFC203")


def value(proto: bytes) -> bytes:
    return named("a", proto)


FLOAT = field(0x12, b"Float32")
ENDLESS = b"\xff" * 11
STREAMS = {
    "a length of more than ten bytes": b"\x0a" + ENDLESS + b"\x01",
    "a length of 2**63 bytes": b"\x0a" + varint(1 << 63) + b"abc",
    "an entry longer than the file": field(0x0A, b"abc", length=1 << 40),
    "a name longer than its entry": field(0x0A, field(0x0A, b"a", length=50) + field(0x12, FLOAT)) + SOUND_CKPT,
    "a value longer than its entry": field(0x0A, field(0x0A, b"a") + field(0x12, FLOAT, length=60)) + SOUND_CKPT,
    "a value shorter than its entry": field(0x0A, field(0x0A, b"a") + field(0x12, FLOAT) + b"\x0a\x00"),
    "a content longer than its tensor": value(FLOAT + field(0x1A, bytes(4), length=40)) + SOUND_CKPT,
    "a content shorter than its tensor": value(FLOAT + field(0x1A, bytes(4)) + b"\x0a\x00"),
    "a dtype longer than its tensor": value(field(0x12, b"Float32", length=90)) + SOUND_CKPT,
    "a dim that leaves its tensor": field(0x0A, field(0x0A, b"a") + field(0x12, b"\x08\xff")) + SOUND_CKPT,
    "a dim of more than ten bytes": value(b"\x08" + ENDLESS + b"\x01" + FLOAT),
    "a packed dim that leaves its field": value(b"\x0a\x01\xff" + FLOAT),
    "packed dims longer than the tensor": value(b"\x0a\x7f\x01" + FLOAT),
    "an empty entry": field(0x0A, b"") + SOUND_CKPT,
    "an entry without a value": field(0x0A, field(0x0A, b"a")) + SOUND_CKPT,
    "a negative dim": value(tensor(dims(-1), "Float32", bytes(4))),
    "dims of more than 48 bits": value(tensor(dims(1 << 50), "Float32", bytes(4))),
    "thirty-three dims": value(tensor(dims(*[1] * 33), "Float32", bytes(4))),
    "a million dims": value(tensor(dims(*[1] * 1_000_000), "Float32", bytes(4))),
    "a million packed dims": value(field(0x0A, b"\x01" * 1_000_000) + FLOAT + field(0x1A, bytes(4))),
    "a dtype a hundred thousand times": value(FLOAT * 100_000 + field(0x1A, bytes(4))),
    "empty packed dims a million times": value(b"\x0a\x00" * 1_000_000 + FLOAT + field(0x1A, bytes(4))),
    "a dtype of 70,000 bytes": value(tensor(dims(1), "F" * 70_000, bytes(4))),
    "a dtype that is not UTF-8": value(tensor(dims(1), b"\xff\xfe", bytes(4))),
    "a name of 70,000 bytes": named("n" * 70_000, tensor(dims(1), "Float32", bytes(4))),
    "a name that is not UTF-8": named(b"\xff\xfe", tensor(dims(1), "Float32", bytes(4))),
    "a lone surrogate in a name": named("\ud800", tensor(dims(1), "Float32", bytes(4))),
    "an unknown tag for an entry": SOUND_CKPT + field(0x12, b"abc"),
    "an unknown tag for a name": field(0x0A, field(0x12, b"a") + field(0x12, FLOAT)),
    "an unknown tag for a value": named("a", FLOAT, tag=0x22),
    "an unknown tag in a tensor": value(dims(1) + FLOAT + field(0x22, b"abc")),
    "a fixed32 field in a tensor": value(dims(1) + b"\x0d\0\0\0\0" + FLOAT),
    "a group in a tensor": value(dims(1) + b"\x0b\x0c" + FLOAT),
    "a name that comes back later": SOUND_CKPT + SOUND_ENTRIES[0],
    "a string's name that comes back later": SOUND_CKPT + SOUND_ENTRIES[2],
    "a string with the name of the tensor before it": SOUND_ENTRIES[0] + named("a", tensor(dims(0), "str", b"")),
    "a string between two slices of a tensor": b"".join(
        named("a", tensor(*args)) for args in ((dims(2), "Float32", bytes(4)), (dims(0), "str", b""), (dims(2), "Float32", bytes(4)))
    ),
    "a map parameter with the name of a tensor": SOUND_ENTRIES[0] + named("a", b"", tag=0x1A),
    "another dtype in the second slice": value(tensor(dims(2), "Float32", bytes(4))) + value(tensor(dims(2), "Int32", bytes(4))),
    "other dims in the second slice": value(tensor(dims(2), "Float32", bytes(4))) + value(tensor(dims(1, 2), "Float32", bytes(4))),
}


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_is_refused_that_has(what: str, tmp_path: Path) -> None:
    refused_file(tmp_path / "x.ckpt", STREAMS[what], "MFC202", "MFC203", memory=4 << 20)


CONTENTS = {
    "too short by a byte": (dims(2, 3), 23),
    "too long by a byte": (dims(2, 3), 25),
    "too short by an element": (dims(2, 3), 20),
    "empty": (dims(2, 3), 0),
    "of a scalar, empty": (dims(), 0),
    "of a scalar, of two elements": (dims(), 8),
    "of no elements, but there": (dims(0, 4), 16),
    "of dims [0], of two elements": (dims(0), 8),
    "of dims whose product overflows": (dims(1 << 47, 1 << 47, 1 << 47), 4),
    "of dims whose product is 0 modulo 2**64": (dims(1 << 32, 1 << 32), 0),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_a_content_that_contradicts_its_dims_is_refused(what: str, tmp_path: Path) -> None:
    shape, nbytes = CONTENTS[what]
    refused_file(tmp_path / "x.ckpt", value(tensor(shape, "Float32", bytes(nbytes))), "MFC202")


def test_slices_that_cut_an_element_in_two_are_refused(tmp_path: Path) -> None:
    halves = value(tensor(dims(2), "Float32", bytes(3))) + value(tensor(dims(2), "Float32", bytes(5)))
    refused_file(tmp_path / "x.ckpt", halves, "MFC202")


@pytest.mark.parametrize("dtype", ["Complex64", "Complex128", "Float8E4M3FN", "Float8E5M2", "HiFloat8", "F32", "", "\x1b[2J\nInt8"])
def test_a_dtype_that_mindspore_cannot_load_is_refused(dtype: str, tmp_path: Path) -> None:
    refused_file(tmp_path / "x.ckpt", value(tensor(dims(1), dtype, bytes(8))), "MFC205")


def test_a_tensor_without_a_dtype_is_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.ckpt", value(dims(1) + field(0x1A, bytes(4))), "MFC205")


def test_a_tensor_without_a_content_is_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.ckpt", value(dims(1) + FLOAT), "MFC202")


HOSTILE_STREAMS = {
    "a wrong size": (named(HOSTILE_NAME, tensor(dims(2), "Float32", bytes(4))), "MFC202"),
    "a dtype": (named(HOSTILE_NAME, tensor(dims(1), "Complex64", bytes(8))), "MFC205"),
    "a name that comes back": (
        named(HOSTILE_NAME, tensor(dims(1), "Float32", bytes(4))) + SOUND_CKPT + named(HOSTILE_NAME, tensor(dims(1), "Float32", bytes(4))),
        "MFC203",
    ),
    "too many dims": (named(HOSTILE_NAME, tensor(dims(*[1] * 33), "Float32", bytes(4))), "MFC203"),
}


@pytest.mark.parametrize("what", HOSTILE_STREAMS)
def test_a_name_with_escape_sequences_is_shown_escaped_in_the_refusal_of(what: str, tmp_path: Path) -> None:
    content, code = HOSTILE_STREAMS[what]
    assert_escaped(str(refused_file(tmp_path / "x.ckpt", content, code)))


def test_a_crc_trailer_is_no_entry_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    trailer = b"crc_num" + (12345).to_bytes(10, "big")
    (tmp_path / "x.ckpt").write_bytes(SOUND_CKPT + trailer)
    assert list(mc.load(tmp_path / "x.ckpt").tensors) == ["a", "b"]
    for length in range(1, len(trailer)):
        refused_file(tmp_path / "cut.ckpt", SOUND_CKPT + trailer[:length], "MFC202", "MFC203")
    refused_file(tmp_path / "only.ckpt", trailer, "MFC203")


def test_a_string_of_64_mib_is_listed_with_its_beginning_only(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(SOUND_ENTRIES[0] + named("text", tensor(dims(0), "str", b"a\0\0\0" * (16 << 20))))
    checkpoint = mc.load(path)
    assert len(checkpoint.history.others[0].text) <= 1024
    assert len(repr(checkpoint)) < 2000
