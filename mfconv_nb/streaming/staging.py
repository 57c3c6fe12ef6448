"""Where an output is written until it is complete, and where its files end up: always on one mount, so that renames can publish it.

A link is followed first: what is written goes where it points. Staging lies beside the target, `NAME.mfconv-partial`, and so does the
side folder. Where no file can be renamed from beside a folder into it (it is a mount point, `/output` of a container; or the folder
above may not be written to) both lie inside it, as `.mfconv-partial` and `.mfconv`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.errors import OutputError
from mfconv_nb.core.report import bytes_text
from mfconv_nb.streaming.journal import Journal, close_on_error
from mfconv_nb.streaming.manifest import side_folder

STAGING, SIDE = ".mfconv-partial", ".mfconv"
MOST_LINKS = 40  # that lead to each other; what Linux follows
MOST_TRIES = 20  # of opening a folder that other runs remove


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder of an unfinished output: its data, its side folder, its journal, and what it replaces.

    Attributes:
        target: the output; no link.
        root: the folder itself.
        side_folder: where the side folder ends up.
        other_sides: places where an older side folder may lie; those are gone when the new one is there.
    """

    target: Path
    root: Path
    side_folder: Path
    other_sides: tuple[Path, ...]

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def side(self) -> Path:
        return self.root / "side"

    @property
    def old(self) -> Path:
        """Files of the old output that were moved out of the way. While it is there, the target is neither the old nor the new one."""
        return self.root / "old"

    @property
    def whole(self) -> Path:
        """A folder that is ready to change its name with the old one; then the old one."""
        return self.root / "whole"

    @property
    def old_side(self) -> Path:
        """The side folder that was replaced."""
        return self.root / "old-side"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def sides(self) -> tuple[Path, ...]:
        """Every place where a side folder may lie, best first."""
        return (self.side_folder, *self.other_sides)


def staging_of(target: Path) -> Staging:
    """Where the output for ``target`` is written until it is complete. Reads links and folders only."""
    real = follow_links(target)
    beside, inside = side_folder(real), real / SIDE
    is_inside = os.path.isdir(real) and not _can_rename_into(real)
    root = real / STAGING if is_inside else beside.with_name(beside.name.removesuffix(SIDE) + STAGING)
    first = inside if is_inside else beside
    others = dict.fromkeys(p for p in (inside, beside, side_folder(target)) if p != first)
    return Staging(real, root, first, tuple(others))


def follow_links(path: Path) -> Path:
    """Where a path leads if it is a link, whether or not something is there."""
    path = path if path.name not in ("", "..") else Path(os.path.realpath(path))
    for _ in range(MOST_LINKS):
        if not os.path.islink(path):
            break
        path = path.parent / os.readlink(path)
    return path


def _can_rename_into(folder: Path) -> bool:
    """Whether a file beside a folder can be renamed into it, and the folder itself be renamed."""
    above = folder.absolute().parent
    return mount_of(folder) == mount_of(above) and os.access(above, os.W_OK | os.X_OK)


def mount_of(path: Path) -> tuple[int, str]:
    """Device and mount of a path. A folder that is mounted from the same device has another mount, which only Linux tells."""
    number = ""
    with suppress(OSError):
        descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY))
        try:
            found = re.search(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii"), re.MULTILINE)
            number = found[1] if found else ""
        finally:
            os.close(descriptor)
    return os.stat(path).st_dev, number


def open_journal(staging: Staging, fingerprint: str) -> Journal:
    """The locked journal in the staging folder, both made or found; what another plan has left there is thrown away.

    Raises:
        OutputError: MFC404 when it cannot be made, MFC406 when another run holds it.
    """
    with refused_writes(staging.target):
        for _ in range(MOST_TRIES):
            staging.root.mkdir(parents=True, exist_ok=True)
            try:
                journal = Journal(staging.journal, fingerprint)
            except FileNotFoundError:  # another run has just ended, and taken the folder with it
                continue
            with close_on_error(journal):
                if journal.is_new:
                    _clear(staging)
                staging.data.mkdir(exist_ok=True)
                staging.side.mkdir(exist_ok=True)
            return journal
    raise OutputError("MFC406", staging.root, found="runs that begin and end here", expected="none", hint="Wait for them.")


def _clear(staging: Staging) -> None:
    """Throw away what an earlier run of another plan has left; its journal is another matter, and so are files of an old output."""
    for path in (staging.data, staging.side, staging.whole):
        if os.path.lexists(path):
            shutil.rmtree(path)


# ---- refusals ----------------------------------------------------------------------------------------------------------------


@contextmanager
def refused_writes(target: Path) -> Iterator[None]:
    """Turn what the system says about writing into our own errors (MFC403, MFC404)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space and run the same command again: what was finished from files is kept."
            raise OutputError("MFC403", target, found="the disk is full", expected="enough space", hint=hint) from None
        where, found = error.filename or target, error.strerror or str(error)
        hint = "Choose a target in a folder that you may write to."
        raise OutputError("MFC404", where, found=found, expected="a writable target", hint=hint) from None


def check_space(staging: Staging, needed: int) -> None:
    """Raises OutputError (MFC403) when the disk of the target has less free than is still ``needed`` of so many bytes."""
    folder = next(p for p in (staging.root, *staging.root.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free + _bytes_written(staging)
    if free < needed:
        hint = "Free some space, or choose a target on another disk."
        raise OutputError("MFC403", staging.target, found=f"{bytes_text(free)} free", expected=bytes_text(needed), hint=hint)


def _bytes_written(staging: Staging) -> int:
    """Bytes on the disk that an unfinished run has written: its files are as long as planned, with holes."""
    total = 0
    with suppress(OSError):  # another run is just ending
        for path in staging.data.rglob("*"):
            total += getattr(os.lstat(path), "st_blocks", 0) * 512
    return total


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_names_are_free(staging: Staging, names: Iterable[str]) -> None:
    """Raises OutputError (MFC401) where a name that is written to or cleared is a link, which leads out of the target, or not ours.

    The target itself is one still where links lead in a circle.
    """
    files = [staging.data / name for name in names]
    above = {folder for file in files for folder in file.parents if staging.data in folder.parents}
    own = (staging.target, staging.root, staging.data, staging.side, staging.old, staging.whole, staging.old_side, staging.journal)
    for path in (*own, *sorted(above), *files, *staging.sides):
        if os.path.islink(path):
            hint = "Remove it, or choose another target: nothing is written or removed where a link leads."
            raise OutputError("MFC401", path, found="a link", expected="nothing, or a folder of an earlier run", hint=hint)
    names_there = _names_in(staging.root)
    if names_there and staging.journal.name not in names_there:
        hint = "Move it away, or choose another target."
        raise OutputError("MFC401", staging.root, found="a folder that no run has made", expected="nothing there", hint=hint)
    for side in staging.sides:
        if os.path.lexists(side) and not os.path.isdir(side):
            hint = "Remove it, or choose another target."
            raise OutputError("MFC401", side, found="a file", expected="nothing, or the side folder of an earlier run", hint=hint)
