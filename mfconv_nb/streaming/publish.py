"""From finished files to their final names. Everything is written into a staging folder beside the target and moved at the end.

A reader never sees half a file: each file appears by a rename, an index last. What lies under the target's name before is left as it
is until the new files are complete.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.errors import OutputError
from mfconv_nb.report import bytes_text
from mfconv_nb.streaming.manifest import side_folder

STAGING = ".mfconv-partial"


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder of an unfinished output: its data, its side folder and its journal."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def side(self) -> Path:
        return self.root / "side"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"


def staging_of(target: Path) -> Staging:
    """Where the output for ``target`` is written until it is complete."""
    return Staging(target.parent / f"{target.name}{STAGING}")


def open_staging(target: Path) -> Staging:
    """Make the staging folder, or find the one of an earlier run.

    Raises:
        OutputError: MFC404 when it cannot be made.
    """
    staging = staging_of(target)
    with refused_writes(target):
        staging.data.mkdir(parents=True, exist_ok=True)
        staging.side.mkdir(exist_ok=True)
    return staging


def clear_staging(staging: Staging) -> None:
    """Throw away what an earlier run of another plan has left; its journal is another matter."""
    for folder in (staging.data, staging.side):
        shutil.rmtree(folder)
        folder.mkdir()


@contextmanager
def refused_writes(target: Path) -> Iterator[None]:
    """Turn what the system says about writing into our own errors (MFC403, MFC404)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space and run the same command again: it goes on where it stopped."
            raise OutputError("MFC403", target, found="the disk is full", expected="enough space", hint=hint) from None
        where = error.filename or target
        hint = "Choose a target in a folder that you may write to."
        raise OutputError("MFC404", where, found=error.strerror, expected="a writable target", hint=hint) from None


def check_space(target: Path, needed: int) -> None:
    """Raises OutputError (MFC403) when the disk of ``target`` has less free than is still ``needed`` of so many bytes."""
    folder = next(p for p in (target.parent, *target.parent.parents) if p.exists())
    free = shutil.disk_usage(folder).free + _already_there(staging_of(target))
    if free < needed:
        hint = "Free some space, or choose a target on another disk."
        raise OutputError("MFC403", target, found=f"{bytes_text(free)} free", expected=bytes_text(needed), hint=hint)


def _already_there(staging: Staging) -> int:
    """Bytes on the disk that an unfinished run has written: its files are as long as planned, with holes."""
    files = [p for p in staging.data.rglob("*") if p.is_file()] if staging.data.is_dir() else []
    return sum(getattr(p.stat(), "st_blocks", 0) * 512 for p in files)


def publish(staging: Staging, target: Path, names: Sequence[str], stale: Sequence[Path], *, folder: bool, durable: bool) -> None:
    """Move the finished files to their final names, in the order of ``names``, after the side folder.

    Args:
        stale: files of what is replaced that have no successor; removed when the new ones are complete.
        folder: the files go into ``target``, otherwise beside it.
        durable: flush every file to the disk first, so that a power cut cannot undo what was reported.
    """
    with refused_writes(target):
        if durable:
            for path in [*(staging.data / n for n in names), *sorted(staging.side.iterdir())]:
                flush(path)
        for path in stale:
            path.unlink(missing_ok=True)
        side = side_folder(target)
        if side.exists():
            shutil.rmtree(side)
        os.replace(staging.side, side)
        if folder and not target.exists():
            os.replace(staging.data, target)
        else:
            home = target if folder else target.parent
            for name in names:
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(staging.data / name, home / name)
        shutil.rmtree(staging.root)
        if durable:
            flush(target.parent)


def flush(path: Path) -> None:
    """fsync a file or, where the system can, a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)
