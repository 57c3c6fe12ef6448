"""Fill planned files: the only place where weights are written. Every offset is known before, so any order will do, with bounded memory.

Every tensor is cut into segments of 64 MiB. A worker takes a segment, gathers it panel by panel into one buffer, computes the checksum as
the bytes pass, and writes each panel to its planned place. If a source file already has a panel's bytes as they are wanted, the system
copies them from file to file. Then we read them back from the new file for the checksum.

The checksum of a tensor is the XXH3-128 of its bytes. For several segments it is the XXH3-128 of their digests, in order.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash

from mfconv_nb.core.checkpoint import LazyTensor, sources_of
from mfconv_nb.core.dtypes import itemsize
from mfconv_nb.core.file_plan import FilePlan
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.rounding import Rounding
from mfconv_nb.streaming.gather import PANEL_BYTES, Bytes, PanelReader, find_spans, panels
from mfconv_nb.streaming.journal import Finished, Journal
from mfconv_nb.streaming.meters import Meter, meter_of
from mfconv_nb.streaming.open_files import allow_open_files
from mfconv_nb.streaming.workers import Pulse, do_tasks

SEGMENT_BYTES = 64 << 20
DEFAULT_THREADS = 2


@dataclass(frozen=True, slots=True)
class FillJob:
    """One file to fill: its plan, the tensor for each of its names, and the dtype each is written as."""

    plan: FilePlan
    path: Path
    tensors: Mapping[str, LazyTensor]
    dtypes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Segment:
    """Successive elements of one tensor, and where their bytes go."""

    file: int
    name: str
    number: int
    start: int
    stop: int
    offset: int


def segments_of(job: FillJob, file: int) -> Iterable[Segment]:
    """The segments of every tensor of a file, in file order. A tensor that needs a CRC-32 is one segment: CRCs of parts are not joined."""
    for name, extents in job.plan.places.items():
        size = itemsize(job.dtypes[name])
        whole = name in job.plan.crc_fields
        first = number = 0
        for offset, nbytes in extents:
            step = nbytes if whole else SEGMENT_BYTES
            for at in range(0, max(nbytes, 1), max(step, 1)):  # an empty tensor is one empty segment
                count = min(step, nbytes - at) // size
                yield Segment(file, name, number, first, first + count, offset + at)
                first, number = first + count, number + 1


class Filled(NamedTuple):
    """What was counted while the bytes passed, by (file number, name).

    Attributes:
        checksums: of every tensor.
        infinite: how many numbers a cast made infinite, for the tensors where it did.
        rounding: what rounding did to the numbers of tensors that are computed from codes.
    """

    checksums: dict[tuple[int, str], str]
    infinite: dict[tuple[int, str], int]
    rounding: dict[tuple[int, str], Rounding]


def fill_files(jobs: Sequence[FillJob], journal: Journal, threads: int = DEFAULT_THREADS, on_progress: OnProgress | None = None) -> Filled:
    """Fill every file. Segments that the journal lists, and that are still intact on the disk, are not written again.

    Raises:
        OSError: if writing fails. InputError: if a source has changed.
    """
    held = {id(job.tensors): job.tensors for job in jobs}  # the shards of a folder share one mapping of all tensors
    sources = sources_of(t for tensors in held.values() for t in tensors.values())
    allow_open_files(len(jobs) + len(sources))
    descriptors = [_open_planned(job) for job in jobs]
    try:
        wanted = {(s.file, s.name, s.number): s for n, job in enumerate(jobs) for s in segments_of(job, n)}
        finished = _verify_recorded(jobs, descriptors, wanted, journal.finished, threads)
        before = sum(_nbytes(jobs, wanted[f.key]) for f in finished.values())
        todo = [segment for key, segment in wanted.items() if key not in finished]

        def record(done: Finished) -> None:
            finished[done.key] = done
            journal.add(done)

        def worker(pulse: Pulse) -> Callable[[Segment], None]:
            return _Writer(jobs, descriptors, pulse, record).write

        do_tasks(todo, worker, threads, None if on_progress is None else lambda done: on_progress(before + done))
        for job, descriptor, number in zip(jobs, descriptors, range(len(jobs)), strict=True):
            _write_crcs(job, descriptor, number, finished)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return Filled(_checksums_of(wanted, finished), infinite_among(finished.values()), rounding_among(finished.values()))


def infinite_among(finished: Iterable[Finished]) -> dict[tuple[int, str], int]:
    """How many numbers a cast made infinite, by (file number, name), where it did. A segment that is listed twice counts once."""
    infinite: dict[tuple[int, str], int] = {}
    for done in {done.key: done for done in finished}.values():
        if done.infinite:
            infinite[done.file, done.tensor] = infinite.get((done.file, done.tensor), 0) + done.infinite
    return infinite


def rounding_among(finished: Iterable[Finished]) -> dict[tuple[int, str], Rounding]:
    """What rounding did, by (file number, name); the same whatever the order in which segments were finished."""
    rounding: dict[tuple[int, str], Rounding] = {}
    for _, done in sorted({done.key: done for done in finished if done.rounding}.items()):
        counted = Rounding(int(done.rounding[0]), int(done.rounding[1]), *done.rounding[2:])
        rounding[done.file, done.tensor] = rounding.get((done.file, done.tensor), Rounding()) + counted
    return rounding


def tensor_checksums(
    tensors: Sequence[LazyTensor], threads: int = DEFAULT_THREADS, on_progress: OnProgress | None = None
) -> dict[str, str]:
    """The checksum of every tensor, as ``fill_files`` computes it, without writing anything."""
    plans = {t.name: ((0, t.spec.nbytes),) for t in tensors}
    job = FillJob(FilePlan("", 0, (), plans), Path(), {t.name: t for t in tensors}, {t.name: t.dtype for t in tensors})
    wanted = {(s.file, s.name, s.number): s for s in segments_of(job, 0)}
    finished: dict[tuple[int, str, int], Finished] = {}

    def record(done: Finished) -> None:
        finished[done.key] = done

    def worker(pulse: Pulse) -> Callable[[Segment], None]:
        return _Writer([job], None, pulse, record).write

    do_tasks(list(wanted.values()), worker, threads, on_progress)
    return {name: checksum for (_, name), checksum in _checksums_of(wanted, finished).items()}


def _open_planned(job: FillJob) -> int:
    """Open a file at its full size, with everything written that is no weight."""
    job.path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(job.path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(descriptor, job.plan.size)
    for offset, data in job.plan.fixed:
        write_at(descriptor, memoryview(data), offset)
    return descriptor


class _Writer:
    """The worker of one thread: brings segments into the files. Without ``descriptors`` it only computes checksums."""

    def __init__(
        self, jobs: Sequence[FillJob], descriptors: Sequence[int] | None, pulse: Pulse, record: Callable[[Finished], None]
    ) -> None:
        self.jobs, self.descriptors, self.pulse, self.record = jobs, descriptors, pulse, record
        self.reader, self.can_copy = PanelReader(), True

    def write(self, segment: Segment) -> None:
        job = self.jobs[segment.file]
        tensor, dtype = job.tensors[segment.name], job.dtypes[segment.name]
        size, digest, before = itemsize(dtype), xxhash.xxh3_128(), self.reader.gatherer.infinite
        crc = 0 if segment.name in job.plan.crc_fields else None
        meter = meter_of(tensor, dtype) if self.descriptors is not None else None
        for first, last in panels(tensor, dtype, segment.start, segment.stop):
            panel = self.reader.room((last - first) * size)
            offset = segment.offset + (first - segment.start) * size
            is_written = self._copy_by_system(segment, first, last, offset, panel)
            if not is_written:
                self._fill(meter, tensor, dtype, first, last, panel)
            digest.update(panel.data)
            if crc is not None:
                crc = zlib.crc32(panel.data, crc)
            if self.descriptors is not None and not is_written:
                write_at(self.descriptors[segment.file], panel.data, offset)
            self.pulse.add(panel.size)
        infinite = self.reader.gatherer.infinite - before
        rounding = meter.counted if meter is not None else ()
        self.record(Finished(segment.file, segment.name, segment.number, digest.hexdigest(), crc, infinite, rounding))

    def _fill(self, meter: Meter | None, tensor: LazyTensor, dtype: str, first: int, last: int, panel: Bytes) -> None:
        if meter is not None:
            meter.fill(self.reader.gatherer, first, last, panel)
        else:
            self.reader.gatherer.fill(tensor, dtype, first, last, panel)

    def _copy_by_system(self, segment: Segment, first: int, last: int, offset: int, panel: Bytes) -> bool:
        """Have the system copy these elements from file to file, and read them back into ``panel``. False if it cannot."""
        if self.descriptors is None or not self.can_copy:
            return False
        job, descriptor = self.jobs[segment.file], self.descriptors[segment.file]
        spans = find_spans(job.tensors[segment.name], job.dtypes[segment.name], first, last)
        if not spans:
            return False
        self.can_copy = all(span.source.copy_to(descriptor, span.offset, span.nbytes, offset + span.at) for span in spans)
        return self.can_copy and _read_back(descriptor, panel.data, offset) == panel.size


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``; one system call may write less."""
    while data:
        if hasattr(os, "pwrite"):
            done = os.pwrite(descriptor, data, offset)
        else:
            os.lseek(descriptor, offset, os.SEEK_SET)
            done = os.write(descriptor, data)
        data, offset = data[done:], offset + done


def _nbytes(jobs: Sequence[FillJob], segment: Segment) -> int:
    return (segment.stop - segment.start) * itemsize(jobs[segment.file].dtypes[segment.name])


def _verify_recorded(
    jobs: Sequence[FillJob],
    descriptors: Sequence[int],
    wanted: Mapping[tuple[int, str, int], Segment],
    recorded: Sequence[Finished],
    threads: int,
) -> dict[tuple[int, str, int], Finished]:
    """The recorded segments whose bytes, read again, have the recorded checksum: a crash may have lost writes."""
    kept: dict[tuple[int, str, int], Finished] = {}

    def worker(pulse: Pulse) -> Callable[[Finished], None]:
        buffer = bytearray(PANEL_BYTES)

        def check(done: Finished) -> None:
            segment = wanted.get(done.key)
            if segment is None:
                return
            crc = 0 if done.tensor in jobs[done.file].plan.crc_fields else None
            digest, left, at = xxhash.xxh3_128(), _nbytes(jobs, segment), segment.offset
            while left:
                part = memoryview(buffer)[: min(left, PANEL_BYTES)]
                count = _read_back(descriptors[segment.file], part, at)
                digest.update(part[:count])
                crc = None if crc is None else zlib.crc32(part[:count], crc)
                pulse.add(count)
                left, at = left - count, at + count
            if (digest.hexdigest(), crc) == (done.checksum, done.crc):
                kept[done.key] = done

        return check

    do_tasks(recorded, worker, threads)
    return kept


def _read_back(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read from the file that is being written; returns how many bytes came."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _write_crcs(job: FillJob, descriptor: int, file: int, finished: Mapping[tuple[int, str, int], Finished]) -> None:
    for name, offsets in job.plan.crc_fields.items():
        crc = finished[file, name, 0].crc or 0  # such a tensor is one segment, number 0
        for offset in offsets:
            write_at(descriptor, memoryview(crc.to_bytes(4, "little")), offset)


def _checksums_of(
    wanted: Mapping[tuple[int, str, int], Segment], finished: Mapping[tuple[int, str, int], Finished]
) -> dict[tuple[int, str], str]:
    digests: dict[tuple[int, str], list[str]] = {}
    for file, name, number in wanted:
        digests.setdefault((file, name), []).append(finished[file, name, number].checksum)
    return {
        key: parts[0] if len(parts) == 1 else xxhash.xxh3_128_hexdigest(bytes.fromhex("".join(parts))) for key, parts in digests.items()
    }
