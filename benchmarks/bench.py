"""What every case is given: a folder to work in, how large the files are, how many rounds; and the programs that several cases run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import MFCONV, Program, Sample, rotate


class LeftOut(Exception):
    """A case that cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the benchmark."""

    folder: Path
    size: int
    documented_size: int
    rounds: int
    quick: bool
    say: Callable[[str], None]

    @contextmanager
    def room(self, name: str, needed: int) -> Iterator[Path]:
        """An empty folder that is deleted afterwards.

        Raises:
            LeftOut: when the disk has less than ``needed`` bytes free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise LeftOut(f"needs {needed / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free")
        room = self.folder / name
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir()
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def rotate(self, programs: Sequence[Program], *, keep: bool = False, rounds: int | None = None) -> dict[str, Sample]:
        """Measure these programs in rotation."""
        words = " · ".join(p.label for p in programs)
        return rotate(programs, rounds or self.rounds, lambda what: self.say(f"  {what}: {words}"), keep=keep)


def side_of(target: Path) -> Path:
    """The folder with the manifest that a conversion writes beside its output."""
    return target.with_name(f"{target.name}.mfconv")


def conversion(label: str, source: Path, target: Path, *options: str, model: str = "llama") -> Program:
    """`mfconv convert`, as a user types it."""
    argv = (MFCONV, "convert", "--model", model, "--input_path", str(source), "--output_path", str(target), "--quiet", *options)
    return Program(label, argv, (target, side_of(target)))


def copy(source: Path, target: Path, label: str = "cp") -> Program:
    """`cp` of a file or of a folder."""
    return Program(label, ("cp", "-r", str(source), str(target)), (target,))


def durable_copy(source: Path, target: Path) -> Program:
    """`cp`, and wait until the disk has it."""
    files = '"$2"/*' if source.is_dir() else '"$2"'
    return Program("cp + sync", ("sh", "-c", f'cp -r "$1" "$2" && sync {files}', "sh", str(source), str(target)), (target,))
