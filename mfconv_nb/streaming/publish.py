"""Give finished files their final names, all or nothing. The order of events in ``publish``:

1. Everything is complete in the staging folder (see ``staging.py``). With ``durable``, it is flushed to the disk.
2. The journal gets a line with all renames, and the inode of the file or folder that is renamed last.
3. The files get their names, in one of four ways:

   - One file, whether it is new or replaces one: one rename.
   - A new folder: one rename.
   - An existing folder, on Linux: `whole` in the staging folder gets the new files, and hard links to everything else in the old folder.
     Then the two folders exchange their names in one step.
   - Else one by one (a mount point, several files side by side, the working directory, a file system without exchange or hard links). The
     old files are moved to `old` in the staging folder, index first; then the new ones to their places, index last. Meanwhile there is no
     index, and ``load`` refuses with MFC104.

4. The side folder with the manifest is moved, and replaces an older one.
5. What is left of the old output is removed, then the journal, then the staging folder.

The first three ways are atomic: if the process is killed, the name leads to the old output or to the new one, complete. If it is killed
later, ``finish_earlier`` repeats what is missing, in the next save to this target. Between 3 and 4, ``load`` compares the inode in the
journal with that of the output (``side_folders``), so it never combines an output with the side folder of another.
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

# ---- for readers of the output -----------------------------------------------------------------------------------------------


def side_folders(path: Path) -> tuple[Path, ...]:
    """Where the side folder of the output at ``path`` may be, best first. If it was not moved yet, it is the one in the staging folder."""
    staging = staging_of(path)
    if os.path.isdir(staging.side) and _has_arrived(staging, publishing_of(staging.journal)):
        return (staging.side,)
    return staging.sides


def check_not_half_replaced(path: Path) -> None:
    """Raises InputError (MFC104) if the files here, or beside, are partly old and partly new: a save was stopped, or still works."""
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
    """Whether the new output is complete: the file or folder that is renamed last has its final name."""
    if noted is None:
        return False
    try:
        return os.lstat(staging.target.parent / noted.moves[-1][1]).st_ino == noted.inode
    except OSError:
        return False


# ---- publishing --------------------------------------------------------------------------------------------------------------


def publish(staging: Staging, journal: Journal, names: Sequence[str], old: Sequence[str], *, folder: bool, durable: bool) -> None:
    """Give the finished files their final names, as described at the top of this module.

    Args:
        names: the new files; if they are moved one by one, then in this order: an index last.
        old: the files to replace, index first, also if new ones have the same names. They are removed once the new ones are in place.
        folder: the files go into the target; else beside it.
        durable: flush everything to the disk first, so that a power cut cannot undo what we reported.
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
            is_one = len(names) == 1 and set(old) <= set(names)  # its rename replaces the old file in one step: nothing to move away
            _move(staging, journal, moves, [] if is_one else [(f"{home}{name}", f"old/{name}") for name in old], durable=durable)
        _finish(staging, publishing_of(staging.journal), durable=durable)


def _move(
    staging: Staging, journal: Journal, moves: Sequence[tuple[str, str]], away: Sequence[tuple[str, str]] = (), *, durable: bool
) -> None:
    """Note all renames in the journal, then do them: first old files ``away`` into the staging folder, then new ones from there."""
    inode = os.lstat(staging.root / moves[-1][0]).st_ino
    noted = Publishing(inode, tuple(moves), tuple(away))
    journal.begin_publishing(noted, durable=durable)
    _roll_forward(staging, noted)


def _roll_forward(staging: Staging, noted: Publishing) -> None:
    """Do the noted renames. Skip those that are done, so that this also finishes a save that was stopped."""
    above = staging.target.parent
    if noted.away or len(noted.moves) > 1:
        staging.old.mkdir(exist_ok=True)  # even if it stays empty: as long as it exists, the target counts as half replaced
    for name, to in noted.away:
        if os.path.lexists(above / name) and not os.path.lexists(staging.root / to):
            (staging.root / to).parent.mkdir(parents=True, exist_ok=True)
            os.replace(above / name, staging.root / to)
    for name, to in noted.moves:
        if os.path.lexists(staging.root / name):
            (above / to).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging.root / name, above / to)


def _exchange_folders(staging: Staging, journal: Journal, replaced: Collection[str], *, durable: bool) -> bool:
    """Let the old folder and the new one exchange their names in one step. False if that is not possible; then nothing has changed."""
    target, whole = staging.target, staging.whole
    if staging.root.parent == target:  # staging lies in the target where that is a mount point, which cannot be renamed
        return False
    if _is_in(Path.cwd(), target):  # a shell that works in the folder would stay in the old one
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
        # a line in the journal does no harm: the next one replaces it
        shutil.rmtree(whole, ignore_errors=True)
        return False
    return True


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _link_others(source: Path, target: Path, replaced: Collection[str], inside: str = "") -> None:
    """Make hard links in ``target`` to everything in ``source`` that it lacks, except ``replaced``. Copies modes, times, owners."""
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
    old, new = os.stat(source), os.stat(target)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.chown(target, old.st_uid, old.st_gid)


def _is_in(path: Path, folder: Path) -> bool:
    place = Path(os.path.realpath(folder))
    return place in (path, *path.parents)


def _finish(staging: Staging, noted: Publishing | None, *, durable: bool) -> None:
    """Steps 4 and 5, after the new output has its name: move its side folder, remove what is left of the old output, the journal last."""
    whole, target = staging.whole, staging.target
    if noted is not None and noted.replaced and os.path.isdir(whole):  # now the old folder: keep files that others put into it meanwhile
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
    staging.journal.unlink()  # last: as long as it is there, the next save repeats these steps
    with suppress(OSError):  # not empty: another save is just beginning here
        staging.root.rmdir()


def _remove(folder: Path) -> None:
    if os.path.isdir(folder):
        shutil.rmtree(folder)


def flush(path: Path) -> None:
    """fsync a file, or a folder if the system can do that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


# ---- what an earlier save has left -------------------------------------------------------------------------------------------


def finish_earlier(staging: Staging) -> Publishing | None:
    """Finish an earlier save that was stopped after it had begun to change the output.

    Returns:
        The renames of that save; None if there was nothing to finish.
    Raises:
        OutputError: MFC406 if that save is still busy; MFC404.
    """
    if not _is_half_done(staging):
        return None
    with refused_writes(staging.target):
        try:
            lock = Lock(staging.journal, create=False)
        except FileNotFoundError:  # that save has ended meanwhile
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
