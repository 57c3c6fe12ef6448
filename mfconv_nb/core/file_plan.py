"""What every format module offers and takes: where tensors lie in a file that is read, and in one that will be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mfconv_nb.core.checkpoint import OtherEntry, TensorSpec

Extent = tuple[int, int]  # offset in the file, bytes


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor in a file: its numbers lie in C order in one or several runs."""

    spec: TensorSpec
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What reading a file's header gives: the tensors in file order, its metadata, and what is no tensor."""

    tensors: tuple[PlacedTensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    others: tuple[OtherEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A file that will be written: every byte that is no weight, and the place of every weight.

    Attributes:
        fixed: (offset, bytes) of headers and the like.
        places: tensor name to its runs in the file.
        crc_fields: for formats that store a tensor's CRC-32: name to the offsets of its 4 little-endian bytes.
    """

    name: str
    size: int
    fixed: tuple[tuple[int, bytes], ...]
    places: Mapping[str, tuple[Extent, ...]]
    crc_fields: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """All files of an output: those with weights, and small ones (an index, a config), which are published after them.

    ``folder`` says that they go into a folder of the target's name; otherwise they lie beside each other where the target is.
    """

    files: tuple[FilePlan, ...]
    folder: bool
    indexes: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every file, in the order in which they appear."""
        return (*(f.name for f in self.files), *self.indexes)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files) + sum(len(b) for b in self.indexes.values())
