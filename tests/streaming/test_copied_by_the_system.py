"""What lies side by side is copied from file to file by the system: the same bytes, wherever it can and wherever it cannot."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError
from tests.support import raws_in
from tests.toys import raws_of

pytestmark = pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason=f"{sys.platform} has no copy_file_range")
ROWS, COLUMNS = 3_000, 1_111  # 13 MB: several panels, none of which begins where a page does


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    mc.save(
        mc.load({"large": rng.normal(size=(ROWS, COLUMNS)).astype("f4"), "small": rng.normal(size=9).astype("f4")}), tmp_path / "a.ckpt"
    )
    return tmp_path / "a.ckpt"


def fails_with(number: int) -> Callable[..., int]:
    def copy(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    return copy


def stops_after(count: int) -> Callable[..., int]:
    """Copies a part, then no more: as at the end of a file."""
    real: Any = getattr(os, "copy_file_range", None)
    calls: list[Any] = []

    def copy(*given: Any) -> int:
        calls.append(given)
        return real(given[0], given[1], 1000, *given[3:]) if len(calls) <= count else 0

    return copy


WAYS = {
    "other file systems": fails_with(errno.EXDEV),
    "not known here": fails_with(errno.ENOSYS),
    "an error of its own": fails_with(errno.EIO),
    "half of it": stops_after(3),
}


@pytest.mark.parametrize("way", WAYS)
def test_where_the_system_cannot_copy_the_bytes_and_checksums_are_the_same(
    way: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mc.save(mc.load(source), tmp_path / "copied.safetensors")
    monkeypatch.setattr(os, "copy_file_range", WAYS[way])
    mc.save(mc.load(source), tmp_path / "written.safetensors")
    assert (tmp_path / "copied.safetensors").read_bytes() == (tmp_path / "written.safetensors").read_bytes()
    assert raws_in(tmp_path / "copied.safetensors") == raws_of(mc.load(source))
    for name in ("copied", "written"):
        assert mc.verify(tmp_path / f"{name}.safetensors").equal


def test_the_system_copies_what_is_long_enough_and_nothing_that_is_cast(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = os.copy_file_range, []

    def copy(*given: Any) -> int:
        sizes.append(done := real(*given))
        return done

    monkeypatch.setattr(os, "copy_file_range", copy)
    mc.save(mc.load(source), tmp_path / "same.safetensors")
    assert sum(sizes) == 4 * ROWS * COLUMNS
    mc.save(mc.load(source), tmp_path / "cast.safetensors", dtype="bf16")
    assert sum(sizes) == 4 * ROWS * COLUMNS


def test_a_source_that_was_cut_short_meanwhile_is_refused(source: Path, tmp_path: Path) -> None:
    loaded = mc.load(source)
    os.truncate(source, source.stat().st_size // 2)
    with pytest.raises(InputError, match="MFC108"):
        mc.save(loaded, tmp_path / "short.safetensors")
    assert not (tmp_path / "short.safetensors").exists()
