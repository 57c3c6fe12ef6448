"""A format module has one `FORMAT`: a record of everything that the rest of the package needs to know of a format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mfconv_nb.core.checkpoint import LazyTensor, OtherEntry, TensorSpec, stored_tensor
from mfconv_nb.core.file_plan import FilePlan, Header
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.fields import Field


@dataclass(frozen=True)
class OpenedFile:
    """What one file holds, by its header. ``tensors`` in file order; ``others`` are not tensors; ``side`` if the format tells it."""

    tensors: tuple[LazyTensor, ...]
    side: str | None
    others: tuple[OtherEntry, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A format of files with weights.

    Attributes:
        name: what it is called in code and reports: "ckpt".
        title: what it is called in headlines and messages: "MindSpore .ckpt".
        endings: of its files, with the dot, in small letters. The ending of a target chooses the format.
        order: `looks_like` of the formats is asked in this order, and a folder's files are preferred in it. A format whose first bytes say
            little comes late.
        looks_like: whether a file is of this format, by its first 24 bytes and its size.
        open: reads the header of a file. Raises FormatError if it cannot be trusted.
        annotate: yields every byte of a file as fields, in order and without gaps.
        plan_file: takes name, tensors and side of a file to be written; returns its header and every offset.
        marks: first bytes that only files of this format have, whatever their ending.
        by_ending: whether the ending alone makes a file one of this format, unless it has the mark of another.
        units: singular and plural of what an anatomy counts when it leaves some out: ("tensor", "tensors").
        is_sharded: whether a checkpoint in it may be written as several files with an index.
        in_runs: whether training runs of MindFormers write it, so that files with these endings may be slices of ranks.
        cuts_tensors: whether a large tensor is stored in several entries; the fields of later ones have the owner "NAME, slice 2".
        opening_takes: bytes of memory that opening needs beyond our own: for a framework that it imports.
        opening_said: how a report explains that.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    order: int
    looks_like: Callable[[bytes, int], bool]
    open: Callable[[FileSource], OpenedFile]
    annotate: Callable[[FileSource], Iterator[Field]]
    plan_file: Callable[[str, Sequence[TensorSpec], str | None], FilePlan]
    marks: tuple[bytes, ...] = ()
    by_ending: bool = False
    units: tuple[str, str] = ("tensor", "tensors")
    is_sharded: bool = True
    in_runs: bool = False
    cuts_tensors: bool = False
    opening_takes: int = 0
    opening_said: str = ""


def file_with(header: Header, source: FileSource, side: str | None) -> OpenedFile:
    """An opened file whose tensors lie where its header says."""
    tensors = tuple(stored_tensor(p.spec, source, p.extents) for p in header.tensors)
    return OpenedFile(tensors, side, header.others, header.metadata)
