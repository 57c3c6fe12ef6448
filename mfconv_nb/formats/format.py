"""What a format module offers: one `FORMAT`, a record of all that the rest of the package asks of a format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mfconv_nb.core.checkpoint import LazyTensor, OtherEntry, TensorSpec, stored_tensor
from mfconv_nb.core.file_plan import FilePlan, Header
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats.fields import Field


@dataclass(frozen=True)
class OpenedFile:
    """What one file holds, by its header: lazy tensors in file order, what is no tensor, the metadata, and the side it tells."""

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
        endings: what its files end in, with the dot and in small letters. The ending of a target chooses the format.
        order: formats are asked in this order whether a file is theirs, and in it a folder's files are preferred. One whose first bytes
            say little comes late.
        looks_like: whether a file is of this format, by its first 24 bytes and its size.
        open: the content of a file by its header. Raises FormatError where it cannot be trusted.
        annotate: every byte of a file as fields, in order and without gaps.
        plan_file: the header and every offset of a file that will be written, from its name, its tensors and their side.
        marks: first bytes that only files of this format have, whatever their ending.
        by_ending: whether the ending is enough for a file to be of this format, where it does not have the mark of another.
        units: one and several of what is counted in an anatomy where some are left out: ("tensor", "tensors").
        is_sharded: whether a checkpoint in it may be written as several files with an index.
        in_runs: whether a training run of MindFormers writes it, so that files with these endings may be slices of ranks.
        cuts_tensors: whether a large tensor is kept in several entries; the fields of later ones have the owner "NAME, slice 2".
        opening_takes: bytes of memory that opening takes beside ours: a framework is imported for it.
        opening_said: what a report says of that.
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
    """The content of a file whose tensors lie where its header says."""
    tensors = tuple(stored_tensor(p.spec, source, p.extents) for p in header.tensors)
    return OpenedFile(tensors, side, header.others, header.metadata)
