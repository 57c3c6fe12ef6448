"""Compare the checksums that files carry themselves: a CRC-32 at the end of a MindSpore file, one for each member of a torch file.

This happens before a file's numbers are used for anything that lasts. It takes one pass through the file, in bounded memory; threads share
files and members.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import FormatError
from mfconv_nb.core.progress import NoProgress, Progress
from mfconv_nb.core.sources import FileSource, StoredChecksum
from mfconv_nb.streaming.gather import PANEL_BYTES
from mfconv_nb.streaming.workers import Pulse, do_tasks

HINT = "Its bytes were changed since it was written: fetch or save the file again."


def sources_of(tensors: Iterable[LazyTensor]) -> list[FileSource]:
    """The files that tensors are read from, each once. For computed tensors, the files of what they are computed from."""
    found: dict[int, FileSource] = {}
    for tensor in tensors:
        for piece in tensor.pieces:
            for source in getattr(piece.source, "made_of", (piece.source,)):
                if isinstance(source, FileSource):
                    found.setdefault(id(source), source)
    return list(found.values())


def check_stored_checksums(tensors: Iterable[LazyTensor], threads: int = 2, progress: Progress | None = None) -> int:
    """Compare every checksum in the files behind some tensors.

    Args:
        progress: of the step that follows; the comparison shows a bar of its own beside it.
    Returns:
        How many checksums there were.
    Raises:
        FormatError: MFC209 for the first that differs.
    """
    todo = [(source, checksum) for source in sources_of(tensors) for checksum in source.checksums]
    if not todo:
        return 0

    def worker(pulse: Pulse) -> Callable[[tuple[FileSource, StoredChecksum]], None]:
        buffer = memoryview(bytearray(PANEL_BYTES))

        def check(task: tuple[FileSource, StoredChecksum]) -> None:
            _check(*task, buffer, pulse)

        return check

    with (progress or NoProgress()).another(sum(c.nbytes for _, c in todo), "comparing checksums") as bar:
        do_tasks(todo, worker, threads, bar)
    for source, _ in todo:
        source.checksums = ()  # a proof reads its files several times; comparing once is enough
    return len(todo)


def _check(source: FileSource, checksum: StoredChecksum, buffer: memoryview, pulse: Pulse) -> None:
    crc = 0
    for part in checksum.parts:
        if isinstance(part, bytes):
            crc = zlib.crc32(part, crc)
            continue
        at, left = part
        while left:
            panel = buffer[: min(left, len(buffer))]
            source.read_into(at, panel)
            crc = zlib.crc32(panel, crc)
            pulse.add(len(panel))
            at, left = at + len(panel), left - len(panel)
    if crc != checksum.crc:
        where = f"{checksum.what} in {source.path}" if checksum.what else source.path
        raise FormatError("MFC209", where, found=f"CRC-32 {crc:08x}", expected=f"{checksum.crc:08x}, which the file says", hint=HINT)
