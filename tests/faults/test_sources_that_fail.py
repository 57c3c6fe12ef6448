"""A source that is cut short, replaced or cannot be read: its own name is said, never the target's, and the process lives."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import pytest

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Checkpoint
from mfconv_nb.core.errors import InputError
from mfconv_nb.streaming.gather import made_whole
from mfconv_nb.streaming.measure import measure
from tests.support import numbered, raw_of, raws_in, write_safetensors

ROWS, COLUMNS = 96, 4096


def transposed(path: Path) -> Checkpoint:
    """Three matrices side by side in the source, each turned: short runs, far from each other."""
    sizes = {"q": 1024, "k": 1024, "v": 2048}
    rule = mc.rules.Rule("qkv", ("q", "k", "v"), "hidden (q + k + v) -> q hidden, k hidden, v hidden", sizes=sizes)
    return mc.map(mc.load(path), mc.rules.Family("turned", "turned", sizes={}, rules=(rule,)), to="mf")


def sliced(path: Path) -> Checkpoint:
    """Columns of a matrix: short runs side by side."""
    sizes = {"q": 1024, "k": 1024, "v": 2048}
    rule = mc.rules.Rule("qkv", ("q", "k", "v"), "hidden (q + k + v) -> hidden q, hidden k, hidden v", sizes=sizes)
    return mc.map(mc.load(path), mc.rules.Family("sliced", "sliced", sizes={}, rules=(rule,)), to="mf")


def whole(path: Path) -> Checkpoint:
    return mc.load(path)


WAYS = [transposed, sliced, whole]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "in.safetensors", {"qkv": numbered(ROWS, COLUMNS)})


USES: dict[str, Callable[[Checkpoint, Path], Any]] = {
    "save": lambda checkpoint, folder: mc.save(checkpoint, folder / "out.ckpt"),
    "save with a cast": lambda checkpoint, folder: mc.save(checkpoint, folder / "out.ckpt", dtype="bf16"),
    "diff": lambda checkpoint, _: mc.diff(checkpoint, checkpoint, values=True),
    "read": lambda checkpoint, _: [mc.read(checkpoint, t.name) for t in checkpoint],
    "stats": lambda checkpoint, _: [measure(t) for t in checkpoint],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_source_that_is_cut_short_meanwhile_is_refused_whatever_reads_it(way: Any, source: Path, tmp_path: Path) -> None:
    """In a process of its own: a memory map of a file that ends early would end it."""
    code = f"""
import os, sys
from pathlib import Path
import mfconv_nb as mc
from tests.faults.test_sources_that_fail import USES, {way.__name__}
made = {way.__name__}(Path({str(source)!r}))
mc.read(made, next(iter(made)).name)                       # it is open, and was read from
os.truncate({str(source)!r}, os.path.getsize({str(source)!r}) // 3)
for use in USES.values():
    try:
        use(made, Path({str(tmp_path)!r}))
    except mc.MfconvError as error:
        print(error.code, error.where)
"""
    root = str(Path(mc.__file__).parents[1])
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["MFC108", str(source)] * len(USES)
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize("number, code", [(errno.EIO, "MFC116"), (errno.ESTALE, "MFC108"), (errno.EACCES, "MFC116")])
@pytest.mark.parametrize("use", ["save", "save with a cast", "diff", "stats"])
@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_cannot_give_the_bytes_is_said_with_the_name_of_the_source(
    way: Any, use: str, number: int, code: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real, size = way(source), os.preadv, source.stat().st_size

    def failing(descriptor: int, buffers: Any, offset: int) -> int:
        ends = offset + sum(len(b) for b in buffers)
        if ends > size // 2 and os.path.samestat(os.fstat(descriptor), source.stat()):
            raise OSError(number, os.strerror(number))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0, raising=False)
    with pytest.raises(InputError) as refused:
        USES[use](made, tmp_path)
    assert refused.value.code == code
    assert refused.value.where == source
    assert os.strerror(number) in str(refused.value)
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize("columns", [4096, 4099])
@pytest.mark.parametrize("scratch", [8 << 20, 1 << 14])
@pytest.mark.parametrize("gap", [8 << 10, 64])
def test_scattered_numbers_are_read_right_in_stripes_of_any_size(
    columns: int, scratch: int, gap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfconv_nb.streaming.gather.SCRATCH_BYTES", scratch)
    monkeypatch.setattr("mfconv_nb.streaming.gather.WIDEST_GAP", gap)
    monkeypatch.setattr("mfconv_nb.streaming.gather.MAX_PANEL_BYTES", 1 << 18)
    monkeypatch.setattr("mfconv_nb.streaming.gather.PANEL_BYTES", 1 << 16)
    monkeypatch.setattr("mfconv_nb.streaming.gather.PANEL_ROWS", 32)
    array = numbered(300, columns)
    path = write_safetensors(tmp_path / "in.safetensors", {"w": array})
    rule = mc.rules.Rule("w", ("a", "b"), "hidden (a + b) -> a hidden, b hidden", sizes={"a": 1000, "b": columns - 1000})
    turned = mc.map(mc.load(path), mc.rules.Family("turned", "turned", sizes={}, rules=(rule,)), to="mf")
    assert mc.read(turned, "a").tobytes() == array[:, :1000].T.tobytes()
    mc.save(turned, tmp_path / "out.safetensors", dtype="bf16")
    expected = {"a": array[:, :1000].T, "b": array[:, 1000:].T}
    assert raws_in(tmp_path / "out.safetensors") == {n: raw_of(a.astype(ml_dtypes.bfloat16)) for n, a in expected.items()}


def test_a_tensor_that_was_made_in_memory_asks_whether_its_source_has_changed(source: Path, tmp_path: Path) -> None:
    made = mc.load({"w": made_whole(mc.load(source)["qkv"])})
    assert mc.read(made, "w").shape == (ROWS, COLUMNS)
    with open(source, "r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\1" * 8)
    with pytest.raises(InputError) as refused:
        mc.save(made, tmp_path / "out.ckpt")
    assert refused.value.code == "MFC108"
    assert refused.value.where == source
    assert list(tmp_path.iterdir()) == [source]
    for one in made["w"].pieces:
        with pytest.raises(InputError, match="MFC108"):
            one.source.check_unchanged()


def test_a_source_behind_a_tensor_that_was_made_in_memory_is_never_its_own_target(source: Path) -> None:
    made = mc.load({"w": made_whole(mc.load(source)["qkv"])})
    with pytest.raises(mc.MfconvError, match="MFC402"):
        mc.save(made, source, overwrite=True)
