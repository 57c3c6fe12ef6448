"""The staging folder, in which an output is written until it is complete. It is on the mount of the target, so that renames can publish it.

The order of events in a save:

1. `staging_of` finds the place. It follows links first. Staging folder `NAME.mfconv-partial` and side folder `NAME.mfconv` lie beside the
   target. If files beside a folder cannot be renamed into it (it is a mount point, such as `/output` of a container, or the folder above is
   read-only), they lie inside it, as `.mfconv-partial` and `.mfconv`.
2. `check_names_are_free` and `check_space` refuse links, foreign folders and a full disk, before anything is written.
3. `open_journal` makes the folder, or finds that of a save that was stopped, and locks its journal (see ``journal.py``).
4. The files are filled in `data`, the manifest in `side` (see ``fill.py``).
5. ``publish.py`` moves both to their final names, and removes the staging folder.
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
MOST_LINKS = 40  # Linux follows no longer chain of links
MOST_TRIES = 20  # to open a folder that other saves remove at the same time


@dataclass(frozen=True, slots=True)
class Staging:
    """The paths of an unfinished output: its data, side folder and journal, and what it replaces.

    Attributes:
        target: the output; links are resolved.
        root: the staging folder.
        side_folder: the final place of the side folder.
        other_sides: places where an older side folder may lie; it is removed when the new one is in place.
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
        """Files of the old output that were moved away. While this folder exists, the target is neither the old output nor the new one."""
        return self.root / "old"

    @property
    def whole(self) -> Path:
        """The complete new folder, ready to exchange its name with the old one. After the exchange: the old one."""
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
    """The staging paths for ``target``. Looks at links and folders; makes nothing."""
    real = follow_links(target)
    beside, inside = side_folder(real), real / SIDE
    is_inside = os.path.isdir(real) and not _can_rename_into(real)
    root = real / STAGING if is_inside else beside.with_name(beside.name.removesuffix(SIDE) + STAGING)
    first = inside if is_inside else beside
    others = dict.fromkeys(p for p in (inside, beside, side_folder(target)) if p != first)
    return Staging(real, root, first, tuple(others))


def follow_links(path: Path) -> Path:
    """Where a path leads if it is a link, whether or not anything exists there."""
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
    """Device and mount of a path. A bind mount has the same device but another mount number, which Linux tells in /proc."""
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
    """Make or find the staging folder and its journal, and lock that. Throws away what a save with another plan has left.

    Raises:
        OutputError: MFC404 if it cannot be made, MFC406 if another save holds it.
    """
    with refused_writes(staging.target):
        for _ in range(MOST_TRIES):
            staging.root.mkdir(parents=True, exist_ok=True)
            try:
                journal = Journal(staging.journal, fingerprint)
            except FileNotFoundError:  # another save has just ended and removed the folder: make it again
                continue
            with close_on_error(journal):
                if journal.is_new:
                    _clear(staging)
                staging.data.mkdir(exist_ok=True)
                staging.side.mkdir(exist_ok=True)
            return journal
    raise OutputError("MFC406", staging.root, found="runs that begin and end here", expected="none", hint="Wait for them.")


def _clear(staging: Staging) -> None:
    """Throw away what a save with another plan has written. Keep `old`: those files belong to the user."""
    for path in (staging.data, staging.side, staging.whole):
        if os.path.lexists(path):
            shutil.rmtree(path)


# ---- refusals ----------------------------------------------------------------------------------------------------------------


@contextmanager
def refused_writes(target: Path) -> Iterator[None]:
    """Turn errors of the system, when writing, into our own (MFC403, MFC404)."""
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
    """Raises OutputError (MFC403) if the disk of the target has no room for ``needed`` bytes. Those of a stopped save count as free."""
    folder = next(p for p in (staging.root, *staging.root.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free + _bytes_written(staging)
    if free < needed:
        hint = "Free some space, or choose a target on another disk."
        raise OutputError("MFC403", staging.target, found=f"{bytes_text(free)} free", expected=bytes_text(needed), hint=hint)


def _bytes_written(staging: Staging) -> int:
    """Bytes that a stopped save has really written. Its files already have their full length, with holes; blocks tell."""
    total = 0
    with suppress(OSError):  # another save is just ending
        for path in staging.data.rglob("*"):
            total += getattr(os.lstat(path), "st_blocks", 0) * 512
    return total


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_names_are_free(staging: Staging, names: Iterable[str]) -> None:
    """Raises OutputError (MFC401) if a path that we write to or remove is a link, which could lead anywhere, or not ours.

    The target, though resolved, is still a link if links lead in a circle.
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
