"""Hostile torch files: no code in them is ever run, and what their zip says is checked against what is there."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mfconv_nb as mc
from tests.hostile.made import HOSTILE_NAME, assert_escaped, assert_sober, refusal, refused_file


@pytest.fixture(scope="module", autouse=True)
def _imported_once() -> None:
    """The first use of fake tensors imports half of torch: not the time of any one file."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        torch.zeros(1)


STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(5, dtype=torch.int64)}


def saved(state: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(state, out, **options)
    return out.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist()}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as torch reads it: everything in one folder, stored."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def rezipped(state: Any, changed: Callable[[dict[str, bytes]], dict[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """What torch saves, with other members. Without the format version, so that torch looks each place up instead of computing it."""
    members = {n: d for n, d in members_of(saved(state)).items() if not n.endswith(("/.format_version", "/.storage_alignment"))}
    return zipped(changed(members), compression)


def with_pickle(data: bytes) -> bytes:
    return zipped({"x/data.pkl": data, "x/version": b"3\n", "x/byteorder": b"little"})


def replaced(members: dict[str, bytes], ending: str, data: bytes) -> dict[str, bytes]:
    assert any(n.endswith(ending) for n in members)
    return {n: data if n.endswith(ending) else d for n, d in members.items()}


SOUND = saved(STATE)


def test_the_sound_files_that_the_others_are_made_from_are_taken(tmp_path: Path) -> None:
    for number, content in enumerate((SOUND, rezipped(STATE, lambda m: m), saved(STATE, _use_new_zipfile_serialization=False))):
        path = tmp_path / f"x{number}.bin"
        path.write_bytes(content)
        assert {n: mc.read(path, n).tolist() for n in STATE} == {n: t.tolist() for n, t in STATE.items()}


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(SOUND)) as archive:
        edges = [archive.start_dir, *(i.header_offset for i in archive.infolist())]
    lengths = sorted({*range(4, 60, 7), *range(100, len(SOUND), 211), *(e + d for e in edges for d in (0, 1, 30)), len(SOUND) - 1})
    for length in (n for n in lengths if 4 <= n < len(SOUND)):
        refused_file(tmp_path / f"cut{length}.bin", SOUND[:length], "MFC201", "MFC202")


def test_a_file_of_the_old_form_cut_short_is_refused(tmp_path: Path) -> None:
    content = saved(STATE, _use_new_zipfile_serialization=False)
    for length in range(2, len(content), 41):
        refused_file(tmp_path / f"cut{length}.bin", content[:length], "MFC201", "MFC206")


# ---- code ---------------------------------------------------------------------------------------------------------------------


class Runs:
    """Unpickled without care, it calls ``function(*arguments)``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def runners(marker: Path) -> dict[str, Any]:
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "open": Runs(open, str(marker), "w"),
        "os.mkdir": Runs(os.mkdir, str(marker)),
        "getattr": Runs(getattr, Runs(__import__, "os"), "getcwd"),
        "torch.load": Runs(torch.load, str(marker)),
        "torch.hub": Runs(torch.hub.load, str(marker.parent), "x"),
    }


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("what", runners(Path()))
def test_a_pickle_with_code_is_refused_and_nothing_runs(what: str, protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    harmful = {"a": runners(marker)[what]}
    refused_file(tmp_path / "bare.bin", pickle.dumps(harmful, protocol), "MFC206")
    refused_file(tmp_path / "zip.bin", with_pickle(pickle.dumps(harmful, protocol)), "MFC206")
    assert not marker.exists()


def test_a_file_of_the_old_form_with_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    content = saved({**STATE, "c": Runs(os.mkdir, str(marker))}, _use_new_zipfile_serialization=False)
    refused_file(tmp_path / "x.bin", content, "MFC206")
    assert not marker.exists()


def test_code_beside_the_pickle_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    code = f"open({str(marker)!r}, 'w')".encode()
    content = rezipped(STATE, lambda m: {**m, "archive/code/__torch__.py": code, "archive/constants.pkl": pickle.dumps(())})
    refused_file(tmp_path / "x.bin", content, "MFC201", "MFC206")
    assert not marker.exists()


# ---- pickles -------------------------------------------------------------------------------------------------------------------


def doubled(depth: int) -> Any:
    """A list that holds the same list twice, and so on: a few bytes that print as 2**depth."""
    found: Any = ["x"]
    for _ in range(depth):
        found = [found, found]
    return found


def test_a_value_that_would_print_as_a_thousand_billion_billion_items_is_listed_only(tmp_path: Path) -> None:
    for name, value in {"list": doubled(70), "dict": {"a": doubled(70)}, "ordered": OrderedDict(a=doubled(70))}.items():
        path = tmp_path / f"{name}.bin"
        torch.save({**STATE, "extra": value}, path)
        checkpoint = mc.load(path)
        assert [o.name for o in checkpoint.history.others] == ["extra"]
        assert list(checkpoint.tensors) == ["a", "b"]
        assert len(repr(checkpoint)) < 2000


PICKLES = {
    "empty": b"",
    "no end": b"\x80\x02",
    "nothing but marks": b"\x80\x02" + b"(" * 100_000,
    "lists in each other": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a stack underflow": b"\x80\x02a.",
    "an unknown memo": b"\x80\x02h\x05.",
    "an unknown opcode": b"\x80\x02\xff.",
    "a storage of no type": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "a number": b"\x80\x02K\x05.",
    "a text": b"\x80\x02X\x01\x00\x00\x00a.",
    "an empty dict": b"\x80\x02}.",
    "a protocol of the future": b"\x80\x63}.",
    "random bytes": bytes(range(256)),
}


@pytest.mark.parametrize("what", PICKLES)
def test_a_zip_is_refused_whose_pickle_is(what: str, tmp_path: Path) -> None:
    refused_file(tmp_path / "x.bin", with_pickle(PICKLES[what]), "MFC201", "MFC206")


@pytest.mark.parametrize("what", [n for n, p in PICKLES.items() if p[:2] == b"\x80\x02"])
def test_a_file_of_the_old_form_is_refused_whose_pickle_is(what: str, tmp_path: Path) -> None:
    claimed = 3 << 30  # torch asks the system for what a text claims to be, and never touches it
    refused_file(tmp_path / "x.bin", PICKLES[what], "MFC201", "MFC206", memory=claimed)


STATES = {
    "a list of tensors": [torch.zeros(2)],
    "a tensor alone": torch.zeros(2),
    "no tensor": {"step": 3, "name": "x"},
    "nothing": {},
    "tensors with numbers for names": {1: torch.zeros(2)},
}


@pytest.mark.parametrize("what", STATES)
def test_a_file_is_refused_that_holds(what: str, tmp_path: Path) -> None:
    refused_file(tmp_path / "x.bin", saved(STATES[what]), "MFC206")


# ---- tensors against their storages ---------------------------------------------------------------------------------------------


def test_a_tensor_that_was_expanded_is_refused(tmp_path: Path) -> None:
    expanded = (torch.zeros(1).expand(1 << 40), torch.zeros(3, 1).expand(3, 4), torch.zeros(100).as_strided((30, 30), (1, 1)))
    for number, t in enumerate(expanded):
        error = refused_file(tmp_path / f"x{number}.bin", saved({"a": t}), "MFC207")
        assert "contiguous()" in str(error)


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.bin", saved({"a": torch.eye(3).to_sparse()}), "MFC201", "MFC205", "MFC206")


def test_a_quantised_tensor_is_refused(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.5, 0, torch.qint8)
    refused_file(tmp_path / "x.bin", saved({"a": quantised}), "MFC201", "MFC205", "MFC206")


def test_a_storage_larger_than_its_member_is_refused(tmp_path: Path) -> None:
    for number, size in enumerate((0, 1, 23)):
        content = rezipped(STATE, lambda m, size=size: replaced(m, "data/0", bytes(size)))
        refused_file(tmp_path / f"x{number}.bin", content, "MFC201")


def test_a_storage_whose_member_is_missing_is_refused(tmp_path: Path) -> None:
    content = rezipped(STATE, lambda m: {n: d for n, d in m.items() if not n.endswith("data/1")})
    refused_file(tmp_path / "x.bin", content, "MFC201")


def resized(pickled: bytes, before: int, after: bytes) -> bytes:
    """The pickle with another number for the elements of a storage (BININT1 to LONG1)."""
    assert pickled.count(b"cpuq") >= 1
    place = pickled.index(b"K" + bytes([before]), pickled.index(b"cpuq"))
    return pickled[:place] + after + pickled[place + 2 :]


@pytest.mark.parametrize("after", [b"J\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 8 + b"\x00", b"\x8a\x08" + b"\xff" * 7 + b"\x0f"])
def test_a_storage_that_claims_another_size_in_the_pickle_is_refused(after: bytes, tmp_path: Path) -> None:
    content = rezipped(STATE, lambda m: replaced(m, "data.pkl", resized(m["archive/data.pkl"], 6, after)))
    refused_file(tmp_path / "x.bin", content, "MFC201", "MFC206", memory=4 << 20)


@pytest.mark.parametrize("after", [b"J\xff\xff\xff\xff", b"K\x00", b"K\x01"])
def test_a_storage_that_claims_too_little_in_the_pickle_is_refused_or_read_from_its_member_alone(after: bytes, tmp_path: Path) -> None:
    """torch enlarges a fake storage to what its tensors need; what counts is the member in the file."""
    path = tmp_path / "x.bin"
    path.write_bytes(rezipped(STATE, lambda m: replaced(m, "data.pkl", resized(m["archive/data.pkl"], 6, after))))
    try:
        assert mc.read(path, "a").tolist() == STATE["a"].tolist()
    except mc.MfconvError as error:
        assert_sober(str(error))


def test_numbers_of_the_other_byte_order_are_refused(tmp_path: Path) -> None:
    refused_file(tmp_path / "x.bin", rezipped(STATE, lambda m: replaced(m, "/byteorder", b"big")), "MFC201", "MFC205")
    refused_file(tmp_path / "y.bin", rezipped(STATE, lambda m: replaced(m, "/byteorder", b"middle")), "MFC201", "MFC205")


def test_a_name_with_escape_sequences_is_shown_escaped(tmp_path: Path) -> None:
    error = refused_file(tmp_path / "x.bin", saved({HOSTILE_NAME: torch.zeros(1).expand(4)}), "MFC207")
    assert_escaped(str(error))


# ---- the zip -------------------------------------------------------------------------------------------------------------------


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        error = refused_file(tmp_path / f"x{compression}.bin", rezipped(STATE, lambda m: m, compression), "MFC201")
        assert "compressed" in str(error)


def test_a_compressed_bomb_is_refused_unread(tmp_path: Path) -> None:
    content = rezipped(STATE, lambda m: replaced(m, "data.pkl", bytes(64 << 20)), zipfile.ZIP_DEFLATED)
    refused_file(tmp_path / "x.bin", content, "MFC201", memory=1 << 20)


def end_record(content: bytes) -> int:
    return content.rindex(b"PK\x05\x06")


def patched(content: bytes, offset: int, data: bytes) -> bytes:
    return content[:offset] + data + content[offset + len(data) :]


def directory_of(content: bytes) -> int:
    return struct.unpack("<I", content[end_record(content) + 16 :][:4])[0]


PATCHES: dict[str, Callable[[bytes], bytes]] = {
    "no end record": lambda c: patched(c, end_record(c), b"XXXX"),
    "a directory past the end": lambda c: patched(c, end_record(c) + 16, b"\xf0\xff\xff\x7f"),
    "a directory at the start": lambda c: patched(c, end_record(c) + 16, b"\0\0\0\0"),
    "a directory of 2 GB": lambda c: patched(c, end_record(c) + 12, b"\xff\xff\xff\x7f"),
    "a directory of one byte": lambda c: patched(c, end_record(c) + 12, b"\x01\0\0\0"),
    "a broken signature in the directory": lambda c: patched(c, directory_of(c), b"XX"),
    "a member past the end": lambda c: patched(c, directory_of(c) + 42, b"\xf0\xff\xff\x7f"),
    "a member name of 65,535 bytes": lambda c: patched(c, directory_of(c) + 28, b"\xff\xff"),
    "an encrypted member": lambda c: patched(c, directory_of(c) + 8, b"\x01\0"),
    "a member that is compressed in an unknown way": lambda c: patched(c, directory_of(c) + 10, b"\x63\0"),
    "a local header that is none": lambda c: b"PK\x03\x04" + b"\xff" * 26 + c[30:],
    "nothing but an end record": lambda c: b"PK\x03\x04" + c[end_record(c) :],
    "zeros behind the first bytes": lambda c: b"PK\x03\x04" + bytes(1000),
    "no pickle": lambda c: zipped({"x/version": b"3\n"}),
    "only a text": lambda c: zipped({"hello.txt": b"hello"}),
}


@pytest.mark.parametrize("what", PATCHES)
def test_a_zip_is_refused_with(what: str, tmp_path: Path) -> None:
    content = PATCHES[what](rezipped(STATE, lambda m: m))
    refused_file(tmp_path / "x.bin", content, "MFC201", "MFC202", "MFC206")


def test_storages_that_lie_in_another_order_than_the_pickle_names_them_are_never_mixed_up(tmp_path: Path) -> None:
    """torch computes where a storage lies from the order of the pickle, where the file says that it wrote them so."""
    state = {n: torch.full((4,), float(i)) for i, n in enumerate("abc")}
    members = members_of(saved(state))
    storages = sorted((n for n in members if "/data/" in n), reverse=True)
    shuffled = {n: d for n, d in members.items() if n not in storages} | {n: members[n] for n in storages}
    path = tmp_path / "x.bin"
    path.write_bytes(zipped(shuffled))
    try:
        found = {n: mc.read(path, n).tolist() for n in state}
    except mc.MfconvError as error:
        assert_sober(str(error))
    else:
        assert found == {n: t.tolist() for n, t in state.items()}


def test_the_memory_of_torch_does_not_follow_what_a_pickle_claims(tmp_path: Path) -> None:
    """A storage of 16 TB in a file of a kilobyte."""
    huge = b"\x8a\x06\x00\x00\x00\x00\x00\x04"
    path = tmp_path / "x.bin"
    path.write_bytes(rezipped(STATE, lambda m: replaced(m, "data.pkl", resized(m["archive/data.pkl"], 6, huge))))
    refusal(lambda: mc.load(path), "MFC201")
