"""From finished files to their final names: all or nothing, for one file, for files beside each other and for folders.

Before the first rename everything is complete in the staging folder, and the journal says what goes where. Then, one of four ways:

- One file, whether or not an old one has its name: one rename.
- A new folder: one rename.
- An old folder, on Linux: a folder with the new files and hard links to everything else that lay in the old one is made aside, and the
  two change their names in one step. The old one, which is then aside, is removed last.
- Otherwise (a mount point, several files beside each other, the folder one works in, a file system without that step or without hard
  links): in place. The old files are moved aside, index first, then the new ones in, index last. In between no index is there, and
  ``load`` refuses with MFC104. What was there before is whole in the staging folder until the new output is.

The first three are atomic: whenever a run is killed, the name leads to the old output or to the new one. The side folder is moved after
that; which one belongs to the output is told by the inode that the journal has noted, and ``load`` takes that one, so files and side
folder are never of two models. Whatever run is next for this target first finishes what was stopped.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from mfconv_nb.core.errors import InputError
from mfconv_nb.streaming.exchange import exchange
from mfconv_nb.streaming.journal import Journal, Lock, Publishing, publishing_of
from mfconv_nb.streaming.staging import SIDE, STAGING, Staging, refused_writes, staging_of

# ---- what a reader finds -----------------------------------------------------------------------------------------------------


def side_folders(path: Path) -> tuple[Path, ...]:
    """Where the side folder of what lies under ``path`` may be, best first; the one in the staging folder if it was not moved yet."""
    staging = staging_of(path)
    if os.path.isdir(staging.side) and _has_arrived(staging, publishing_of(staging.journal)):
        return (staging.side,)
    return staging.sides


def check_not_half_replaced(path: Path) -> None:
    """Raises InputError (MFC104) where a run was stopped, or is busy, between the old and the new files of this path or beside it."""
    places = [path, path.parent] if path.name else [path]
    if path.name.removesuffix(".index.json"):
        places.append(path.with_name(path.name.removesuffix(".index.json")))
    if os.path.isdir(path):
        places += [p.with_name(p.name.removesuffix(STAGING)) for p in path.glob(f"?*{STAGING}")]
    for staging in map(staging_of, places):
        if os.path.isdir(staging.old) and not _has_arrived(staging, publishing_of(staging.journal)):
            raise InputError(
                "MFC104",
                staging.target,
                found="the files of a run that was stopped while it moved them here, and not all of them",
                expected="all files of one output",
                hint=f"Run the same command again: it finishes. What was here before is in {staging.old}.",
            )


def _has_arrived(staging: Staging, noted: Publishing | None) -> bool:
    """Whether the file or folder with which the new output is there has its final name."""
    if noted is None:
        return False
    try:
        return os.lstat(staging.target.parent / noted.moves[-1][1]).st_ino == noted.inode
    except OSError:
        return False


# ---- publishing --------------------------------------------------------------------------------------------------------------


def publish(staging: Staging, journal: Journal, names: Sequence[str], old: Sequence[str], *, folder: bool, durable: bool) -> None:
    """Give the finished files their final names. See above for how, and for what is found when this is stopped.

    Args:
        names: the new files, in the order in which they appear where they are moved one by one: an index last.
        old: files of what is replaced, also under names of new ones, an index first. They are removed when the new ones are there.
        folder: the files go into the target, otherwise beside it.
        durable: flush everything to the disk first, so that a power cut cannot undo what was reported.
    """
    target = staging.target
    with refused_writes(target):
        if durable:
            for path in (*(staging.data / n for n in names), *sorted(staging.side.iterdir()), staging.side):
                flush(path)
        if folder and not os.path.lexists(target):
            _move(staging, journal, [("data", target.name)], durable=durable)
        elif not (folder and _exchange_folders(staging, journal, {*names, *old}, durable=durable)):
            home = f"{target.name}/" if folder else ""
            moves = [(f"data/{name}", f"{home}{name}") for name in names]
            is_one = len(names) == 1 and set(old) <= set(names)  # whose rename replaces the old one
            _move(staging, journal, moves, [] if is_one else [(f"{home}{name}", f"old/{name}") for name in old], durable=durable)
        _finish(staging, publishing_of(staging.journal), durable=durable)


def _move(
    staging: Staging, journal: Journal, moves: Sequence[tuple[str, str]], away: Sequence[tuple[str, str]] = (), *, durable: bool
) -> None:
    """Rename from the staging folder to beside the target (in it for its files), after what is in the way was moved ``away``."""
    inode = os.lstat(staging.root / moves[-1][0]).st_ino
    noted = Publishing(inode, tuple(moves), tuple(away))
    journal.begin_publishing(noted, durable=durable)
    _roll_forward(staging, noted)


def _roll_forward(staging: Staging, noted: Publishing) -> None:
    """The renames that were noted; those that are done already are passed over, so that a stopped run can be finished."""
    above = staging.target.parent
    if noted.away or len(noted.moves) > 1:
        staging.old.mkdir(exist_ok=True)
    for name, to in noted.away:
        if os.path.lexists(above / name) and not os.path.lexists(staging.root / to):
            (staging.root / to).parent.mkdir(parents=True, exist_ok=True)
            os.replace(above / name, staging.root / to)
    for name, to in noted.moves:
        if os.path.lexists(staging.root / name):
            (above / to).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging.root / name, above / to)


def _exchange_folders(staging: Staging, journal: Journal, replaced: Collection[str], *, durable: bool) -> bool:
    """Whether the old folder and a new one have changed their names in one step; nothing has happened where they cannot."""
    target, whole = staging.target, staging.whole
    if staging.root.parent == target or _is_in(Path.cwd(), target):  # a shell that works in it would stay in the old one
        return False
    try:
        _remove(whole)
        shutil.copytree(staging.data, whole, copy_function=_link)
        _link_others(target, whole, replaced)
        if durable:
            for path, _, _ in os.walk(whole):
                flush(Path(path))
        noted = Publishing(os.lstat(whole).st_ino, (("whole", target.name),), replaced=tuple(sorted(replaced)))
        journal.begin_publishing(noted, durable=durable)
        exchange(whole, target)
    except OSError:  # another file system, one without hard links, files of another owner, a mount point inside
        shutil.rmtree(whole, ignore_errors=True)
        return False
    return True


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _link_others(source: Path, target: Path, replaced: Collection[str], inside: str = "") -> None:
    """Hard links in ``target`` to everything that is in ``source`` and not there, but for the names that are replaced."""
    status = os.stat(source)
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        name, there = f"{inside}{entry.name}", target / entry.name
        if name in replaced or name in (SIDE, STAGING):
            continue
        if entry.is_dir(follow_symlinks=False):
            there.mkdir(exist_ok=True)
            _link_others(Path(entry.path), there, replaced, f"{name}/")
        elif not os.path.lexists(there):
            _link(entry.path, str(there))
    shutil.copystat(source, target)
    if (os.stat(target).st_uid, os.stat(target).st_gid) != (status.st_uid, status.st_gid):
        os.chown(target, status.st_uid, status.st_gid)


def _is_in(path: Path, folder: Path) -> bool:
    place = Path(os.path.realpath(folder))
    return place in (path, *path.parents)


def _finish(staging: Staging, noted: Publishing | None, *, durable: bool) -> None:
    """After the new output is there: its side folder, then the old files go, the journal last."""
    whole, target = staging.whole, staging.target
    if noted is not None and noted.replaced and os.path.isdir(whole):  # it is the old folder now; what appeared in it meanwhile stays
        _link_others(whole, target, noted.replaced)
    if os.path.isdir(staging.side):
        for side in staging.other_sides:
            if os.path.isdir(side) and os.access(side.parent, os.W_OK):
                shutil.rmtree(side)
        if os.path.isdir(staging.side_folder):
            _remove(staging.old_side)
            os.replace(staging.side_folder, staging.old_side)
        os.replace(staging.side, staging.side_folder)
    if durable:
        for path in (target, target.parent, staging.side_folder.parent):
            if os.path.isdir(path):
                flush(path)
    for path in (staging.data, staging.old_side, staging.whole, staging.old):
        _remove(path)
    staging.journal.unlink()
    with suppress(OSError):  # another run is just beginning here
        staging.root.rmdir()


def _remove(folder: Path) -> None:
    if os.path.isdir(folder):
        shutil.rmtree(folder)


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


# ---- what an earlier run has left --------------------------------------------------------------------------------------------


def finish_earlier(staging: Staging) -> Publishing | None:
    """Finish what an earlier run was stopped in after it had begun to change what is under the target's name.

    Returns:
        What that run was doing; None where there was nothing to finish.
    Raises:
        OutputError: MFC406 when that run is not stopped at all; MFC404.
    """
    if not _is_half_done(staging):
        return None
    with refused_writes(staging.target):
        try:
            lock = Lock(staging.journal, create=False)
        except FileNotFoundError:  # that run has ended meanwhile
            return None
        try:
            noted = publishing_of(staging.journal)
            if noted is None or not _is_half_done(staging):
                return None
            if not _has_arrived(staging, noted):
                _roll_forward(staging, noted)
            _finish(staging, noted, durable=True)
            return noted
        finally:
            lock.close()


def _is_half_done(staging: Staging) -> bool:
    noted = publishing_of(staging.journal)
    return noted is not None and (os.path.isdir(staging.old) or _has_arrived(staging, noted))
