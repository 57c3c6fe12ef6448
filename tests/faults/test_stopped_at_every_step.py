"""A save is stopped before each of its calls that change a disk, one after the other. Then the old output is there, or the new one.

"There" means: its files, its side folder and whatever else lies in the folder; and the same call afterwards makes it the new one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.errors import InputError, OutputError
from mfconv_nb.streaming import publish
from tests.faults.support import NEW, OLD
from tests.support import listing, numbered, raw_of, raws_in, write_safetensors
from tests.toys import raws_of

CHANGING = (
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "mkdir",
    "link",
    "symlink",
    "truncate",
    "ftruncate",
    "write",
    "pwrite",
    "chown",
)
RAWS = {"old": {n: raw_of(a) for n, a in OLD.items()}, "new": {n: raw_of(a) for n, a in NEW.items()}}


class Stop(BaseException):
    """What no handler of the package catches, as a kill."""


@contextmanager
def stopped_before(call: int) -> Iterator[list[str]]:
    """The names of the calls that were made; the one with this number is not made, and none after it."""
    made: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **more: Any) -> Any:
            if len(made) >= call:
                raise Stop
            made.append(name)
            return real(*given, **more)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        patch.setattr(publish, "exchange", watched("exchange", publish.exchange))
        yield made


def no_exchange(*_: object) -> None:
    raise OSError(errno.EINVAL, "not on this file system")


def state(path: Path) -> str:
    """Which of the two a reader finds: all numbers are of one, and so is the manifest beside them."""
    try:
        found = raws_of(mc.load(path))
    except InputError as refused:
        return "refused" if refused.code in ("MFC101", "MFC104") else str(refused)
    name = next((name for name, raws in RAWS.items() if raws == found), None)
    assert name is not None, "a mix of two models"
    assert mc.verify(path).equal, f"the manifest is not of the {name} one"
    return name


# Each way of publishing: the target, what is opened to read it, and the sizes of the shards before and after.
WAYS = {
    "a file": ("out.safetensors", "out.safetensors", None, None),
    "a file of MindSpore": ("out.ckpt", "out.ckpt", None, None),
    "a folder": ("out", "out", 1600, 800),
    "a folder, in place": ("out", "out", 800, 800),
    "files beside each other": ("out.safetensors", "out.safetensors.index.json", 1600, 800),
    "files beside each other instead of one": ("out.safetensors", "out.safetensors.index.json", None, 800),
}
ATOMIC = ("a file", "a file of MindSpore", "a folder")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_a_save_that_is_stopped_anywhere_leaves_the_old_or_the_new_one_and_is_finished_by_the_same_call(
    way: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, opened, size_before, size = WAYS[way]
    source = write_safetensors(tmp_path / "in.safetensors", NEW)
    if way.endswith("in place"):
        monkeypatch.setattr(publish, "exchange", no_exchange)

    (tmp_path / "before").mkdir()
    if before == "old":
        mc.save(mc.load(OLD), tmp_path / "before" / name, max_shard_size=size_before, durable=False)
        if (tmp_path / "before" / name).is_dir():
            (tmp_path / "before" / name / "README.md").write_text("mine")
            (tmp_path / "before" / name / "sub").mkdir()
            (tmp_path / "before" / name / "sub" / "notes.txt").write_text("mine too")

    def prepared(folder: Path) -> Path:
        shutil.copytree(tmp_path / "before", folder)
        return folder / name

    def save(target: Path) -> None:
        mc.save(mc.load(source), target, max_shard_size=size, overwrite=before == "old", threads=1, durable=False)

    undisturbed = prepared(tmp_path / "undisturbed")
    with stopped_before(1_000_000) as calls:
        save(undisturbed)
    assert len(calls) > 10
    states = []
    for call in range(len(calls)):
        target = prepared(tmp_path / str(call))
        with stopped_before(call), pytest.raises(Stop):
            save(target)
        path = target.with_name(opened)
        states.append(state(path) if before == "old" or path.exists() else "nothing")
        if before == "old" and target.is_dir():
            assert (target / "README.md").read_text() == "mine"
            assert (target / "sub" / "notes.txt").read_text() == "mine too"
        if before == "old" and way in ATOMIC:
            assert raws_in(target) == RAWS[states[-1]]  # a reader that knows nothing of this package
        if states[-1] == "new" and before == "nothing" and not (tmp_path / str(call) / f"{name}.mfconv-partial/journal.jsonl").exists():
            with pytest.raises(OutputError, match="MFC401"):  # it was complete, and nobody has asked to replace it
                save(target)
            target.with_name(f"{name}.mfconv-partial").rmdir()
        else:
            save(target)
        assert state(path) == "new"
        assert listing(target.parent) == listing(undisturbed.parent)
    allowed = {before, "new"} if way in ATOMIC else {before, "refused", "new"}
    assert set(states) <= allowed
    assert states == sorted(states, key=lambda s: (before, "refused", "new").index(s)), "it never goes back"


def test_a_run_that_finishes_another_says_the_infinities_that_one_has_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": numbered(4) + np.float32(3e38)})
    target, real = tmp_path / "out.safetensors", os.replace

    def stop(before: object, after: object) -> None:
        if str(after).endswith(".mfconv"):
            raise Stop
        real(before, after)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(Stop):
            mc.save(mc.load(source), target, dtype="fp16")
    report = mc.save(mc.load(source), target, dtype="fp16")
    assert report.infinite == {"w": 4}
    assert report.resumed
    assert "is not repeated" in repr(report)
    assert not target.with_name("out.safetensors.mfconv-partial").exists()
