"""Hostile safetensors files: each is refused with one short message that names it, quickly and in little memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from tests.hostile.made import HOSTILE_NAME, SOUND_SAFETENSORS, assert_escaped, entry, refusal, refused_file, safetensors

DATA = bytes(24)


def test_the_sound_file_that_the_others_are_made_from_is_taken(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(SOUND_SAFETENSORS)
    assert [t.spec.shape for t in mc.load(tmp_path / "x.safetensors")] == [(2, 3), (5,), ()]


def test_a_file_cut_short_at_any_byte_is_refused(tmp_path: Path) -> None:
    for length in range(len(SOUND_SAFETENSORS)):
        refused_file(tmp_path / f"cut{length}.safetensors", SOUND_SAFETENSORS[:length], "MFC202")


def test_a_byte_behind_the_last_tensor_is_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.safetensors", SOUND_SAFETENSORS + b"\0", "MFC201")


NUMBERS = {
    "negative": "-1",
    "a float": "1.0",
    "an exponent": "1e2",
    "NaN": "NaN",
    "infinite": "Infinity",
    "minus infinity": "-Infinity",
    "true": "true",
    "null": "null",
    "text": '"3"',
    "a long text": json.dumps("x\n" * 500_000),
    "a list": "[1]",
    "a long list": json.dumps([0] * 100_000),
    "an object": '{"a": 1}',
    "beyond 63 bits": str(1 << 63),
    "beyond 64 bits": str(1 << 64),
    "of 4,000 digits": "9" * 4000,
    "of 5,000 digits": "9" * 5000,
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", ["shape", "begin", "end"])
def test_a_number_that_is_no_size_is_refused(place: str, number: str, tmp_path: Path) -> None:
    values = {"shape": "2", "begin": "0", "end": "8"} | {place: NUMBERS[number]}
    header = f'{{"a": {{"dtype": "F32", "shape": [{values["shape"]}], "data_offsets": [{values["begin"]}, {values["end"]}]}}}}'
    refused_file(tmp_path / "x.safetensors", safetensors(header.encode(), bytes(8)), "MFC201", "MFC202")


HEADERS: dict[str, tuple[Any, bytes]] = {
    "overlapping tensors": ({"a": entry(), "b": entry("U8", [8], [20, 28])}, bytes(28)),
    "the same place twice": ({"a": entry(), "b": entry()}, DATA),
    "a gap before the first": ({"a": entry(offsets=[4, 28])}, bytes(28)),
    "a gap between two": ({"a": entry(), "b": entry("U8", [4], [28, 32])}, bytes(32)),
    "an empty tensor inside another": ({"a": entry(), "b": entry("U8", [0], [12, 12])}, DATA),
    "an end before its begin": ({"a": entry("U8", [1], [1, 0])}, bytes(1)),
    "a place that contradicts the shape": ({"a": entry(shape=[2, 2])}, DATA),
    "a place that contradicts the dtype": ({"a": entry("F64")}, DATA),
    "a shape whose product overflows 64 bits": ({"a": entry(shape=[1 << 32, 1 << 32], offsets=[0, 0])}, b""),
    "a shape whose product is 0 modulo 2**64": ({"a": entry("U8", [1 << 40, 1 << 40, 256], [0, 0])}, b""),
    "thirty-three axes": ({"a": entry("U8", [1] * 33, [0, 1])}, b"\0"),
    "a hundred thousand axes": ({"a": entry("U8", [1] * 100_000, [0, 1])}, b"\0"),
    "a shape that is a text": ({"a": entry("F32", "", [0, 4])}, bytes(4)),
    "a shape that is an object": ({"a": entry("F32", {}, [0, 4])}, bytes(4)),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "a shape that is null": ({"a": entry("F32", None, [0, 4])}, bytes(4)),
    "one offset": ({"a": entry(offsets=[0])}, DATA),
    "three offsets": ({"a": entry(offsets=[0, 24, 24])}, DATA),
    "offsets that are an object": ({"a": entry(offsets={"0": 0, "24": 24})}, DATA),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2, 3]}}, DATA),
    "an entry that is a list": ({"a": [1, 2, 3]}, b""),
    "an entry that is a number": ({"a": 3}, b""),
    "an entry that is null": ({"a": None}, b""),
    "an entry that is a long text": ({"a": "\n" * 1_000_000}, b""),
    "metadata that is a list": ({"__metadata__": []}, b""),
    "metadata with numbers": ({"__metadata__": {"format": 3}}, b""),
    "metadata with an object": ({"__metadata__": {"format": {}}}, b""),
    "a JSON list": ([], b""),
    "a JSON number": (12, b""),
    "a JSON text": ("abc", b""),
    "a JSON null": (None, b""),
    "no JSON": (b"{this is no JSON}", b""),
    "broken off JSON": (b'{"a": {"dtype": "F32", ', b""),
    "something behind the JSON": (b"{} {}", b""),
    "bytes that are not UTF-8": (b'{"\xff": 1}', b""),
    "UTF-16": (json.dumps({"a": 1}).encode("utf-16"), b""),
    "a byte order mark": (b"\xef\xbb\xbf{}", b""),
    "a hundred thousand lists in each other": (b"[" * 100_000, b""),
    "a hundred thousand objects in each other": (b'{"a":' * 100_000, b""),
    "lists in each other as a shape": (b'{"a": {"dtype": "F32", "shape": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", b""),
    "a name twice": (json.dumps({"a": entry("U8", [1], [0, 1]), "b": entry("U8", [1], [1, 2])}).replace('"b"', '"a"').encode(), b"\0\0"),
    "a name twice, once in escapes": (b'{"a": 1, "\\u0061": 1}', b""),
    "a key twice in an entry": (b'{"a": {"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"\0"),
    "metadata twice": (b'{"__metadata__": {}, "__metadata__": {}}', b""),
    "the last of 50,000 names twice": (b"{" + b"".join(b'"n%d":1,' % n for n in range(50_000)) + b'"n49999":1}', b""),
    "a lone surrogate in a name": (b'{"\\ud800": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_is_refused_that_has(what: str, tmp_path: Path) -> None:
    header, data = HEADERS[what]
    refused_file(tmp_path / "x.safetensors", safetensors(header, data), "MFC201")


DTYPES = ["F4", "float32", "f32", "", "F32\n", "\ud800", "F" * 100_000, None, 3, True, ["F32"], {"F32": 1}]


@pytest.mark.parametrize("number", range(len(DTYPES)))
def test_a_dtype_that_is_not_known_is_refused(number: int, tmp_path: Path) -> None:
    refused_file(tmp_path / "x.safetensors", safetensors({"a": entry(DTYPES[number])}, DATA), "MFC205")


def test_a_missing_dtype_is_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.safetensors", safetensors({"a": {"shape": [6], "data_offsets": [0, 24]}}, DATA), "MFC205")


@pytest.mark.parametrize("length", [100_000_001, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_a_header_that_claims_more_than_the_limit_is_refused_unread(length: int, tmp_path: Path) -> None:
    refused_file(tmp_path / "x.safetensors", safetensors({}, DATA, length=length), "MFC201", memory=1 << 20)


def test_a_header_over_the_limit_is_refused_unread_where_the_file_has_that_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    path.write_bytes(safetensors({}, length=200_000_000))
    with open(path, "r+b") as file:
        file.truncate(1 << 30)
    refusal(lambda: mc.load(path), "MFC201", names=path.name, memory=1 << 20)


@pytest.mark.parametrize("length", [1, 3, 1000, 99_999_999])
def test_a_header_that_claims_more_than_the_file_is_refused(length: int, tmp_path: Path) -> None:
    refused_file(tmp_path / "x.safetensors", safetensors(b"{}", length=length), "MFC201", "MFC202", memory=1 << 20)


def test_a_header_of_length_0_is_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.safetensors", safetensors(b"", DATA), "MFC201")


HOSTILE_ENTRIES = {
    "a bad shape": (entry(shape=[-1]), "MFC201"),
    "a bad entry": (3, "MFC201"),
    "a bad dtype": (entry("F4"), "MFC205"),
    "a wrong size": (entry(shape=[7]), "MFC201"),
    "a gap": (entry(offsets=[4, 28]), "MFC201"),
    "a place past the end": (entry("U8", [1 << 20], [0, 1 << 20]), "MFC202"),
}


@pytest.mark.parametrize("what", HOSTILE_ENTRIES)
def test_a_name_with_escape_sequences_is_shown_escaped_in_the_refusal_of(what: str, tmp_path: Path) -> None:
    bad, code = HOSTILE_ENTRIES[what]
    error = refused_file(tmp_path / "x.safetensors", safetensors({HOSTILE_NAME: bad}, bytes(28)), code)
    assert_escaped(str(error))


def test_a_name_of_a_million_characters_is_cut_in_the_message(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.safetensors", safetensors({"n" * 1_000_000: 3}), "MFC201")


def test_a_name_in_two_files_of_a_folder_is_refused_and_shown_escaped(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors({HOSTILE_NAME: entry()}, DATA))
    error = refusal(lambda: mc.load(tmp_path), "MFC105", names="two.safetensors")
    assert_escaped(str(error))
