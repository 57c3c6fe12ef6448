"""The one type that all steps share: an ordered set of named, lazy tensors.

A tensor here is a promise: its name, shape and dtype, and the pieces its numbers are made of. A piece names a place in a byte
source (a file, an array) and the box of numbers that goes from there to here. Nothing in this module reads a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from mfconv_nb.core.blocks import Block, c_strides, make_block, whole
from mfconv_nb.core.dtypes import itemsize, short_name
from mfconv_nb.core.errors import MappingError, UsageError, did_you_mean, quote
from mfconv_nb.core.folding import fold, folded_name
from mfconv_nb.core.report import Column, Result, Table, bytes_text, how_many, how_many_in_short, shape_text
from mfconv_nb.core.run_yaml import Lora
from mfconv_nb.core.sources import ByteSource
from mfconv_nb.core.sources import FileSource as FileSource  # what makes tensors of a file needs both

HF, MF = "hf", "mf"  # the two sides
SIDE_NAMES = {HF: "Hugging Face", MF: "MindFormers"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a header says of one tensor. Hashable: plans, formats, expectations and reports are made of these."""

    name: str
    shape: tuple[int, ...]  # () is a scalar
    dtype: str  # safetensors spelling: "BF16", "F32", "F8_E4M3"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * itemsize(self.dtype)


@dataclass(frozen=True, slots=True)
class Piece:
    """One box of a tensor's numbers: from ``source``, where element 0 of the block lies at byte ``start``, of ``dtype``."""

    source: ByteSource
    start: int
    dtype: str
    block: Block


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor that knows where its numbers are. The pieces cover it exactly once."""

    spec: TensorSpec
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> str:
        return self.spec.dtype

    def renamed(self, name: str) -> LazyTensor:
        """The same numbers under another name."""
        return LazyTensor(TensorSpec(name, self.spec.shape, self.spec.dtype), self.pieces)

    def identity(self) -> list[Any] | None:
        """As that of a source; of all that its numbers are made of."""
        sources = [p.source.identity() for p in self.pieces]
        return None if None in sources else [[s, *place_of(p)] for s, p in zip(sources, self.pieces, strict=True)]


def place_of(piece: Piece) -> list[Any]:
    """Where in its source the numbers of a piece lie, and where they go, as JSON."""
    block = piece.block
    box = [block.sizes, block.source_offset, block.source_strides, block.target_offset, block.target_strides]
    return [piece.start, piece.dtype, box]


def sources_of(tensors: Iterable[LazyTensor]) -> tuple[ByteSource, ...]:
    """Everything that is read for these tensors, each once; of what is computed, what it is computed from."""
    pieces = (p.source for t in tensors for p in t.pieces)
    return tuple({id(s): s for source in pieces for s in getattr(source, "made_of", (source,))}.values())


def stored_tensor(spec: TensorSpec, source: ByteSource, extents: tuple[tuple[int, int], ...]) -> LazyTensor:
    """A tensor that lies in a file in C order, in one or several runs of (file offset, bytes)."""
    size = itemsize(spec.dtype)
    if len(extents) == 1:
        return LazyTensor(spec, (Piece(source, extents[0][0], spec.dtype, whole(spec.elements)),))
    pieces, done = [], 0
    for offset, nbytes in extents:
        run = whole(nbytes // size)
        pieces.append(Piece(source, offset, spec.dtype, replace(run, target_offset=done)))
        done += nbytes // size
    return LazyTensor(spec, tuple(pieces))


def strided_tensor(spec: TensorSpec, source: ByteSource, start: int, offset: int, strides: tuple[int, ...]) -> LazyTensor:
    """A strided view, in elements, of a storage that begins at byte ``start`` of ``source``."""
    block = make_block(spec.shape, offset, strides, 0, c_strides(spec.shape))
    return LazyTensor(spec, (Piece(source, start, spec.dtype, block),))


@dataclass(frozen=True, slots=True)
class OtherEntry:
    """Something in a checkpoint that is no tensor: a string, a map parameter, an optimizer's counter object."""

    name: str
    kind: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Equality:
    """Two tensors that must hold the same bytes for a mapping to be lossless; why, and what to do when they do not.

    ``said``: a note that takes the place of a refusal, where nothing is lost if the two differ.
    """

    first: LazyTensor
    second: LazyTensor
    why: str
    hint: str = ""
    said: str = ""


@dataclass(frozen=True)
class Original:
    """What a mapped checkpoint remembers of the side it came from, so that the way back restores it exactly.

    Attributes:
        side: the side it came from.
        names: every tensor that was there.
        carried: the tensors that this side has no place for.
        dtypes: of tensors whose dtype this side fixes, the dtype that was there.
        layers, leave_out, cut_vocabulary: which part of the other side was left out.
        published: how its weights were published, where that was as codes.
    """

    side: str
    names: frozenset[str]
    carried: Mapping[str, LazyTensor] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    layers: int | None = None
    leave_out: tuple[str, ...] = ()
    cut_vocabulary: bool = False
    published: PublishedCodes | None = None


@dataclass(frozen=True)
class Written:
    """What the manifest beside a checkpoint says was written, until it is proven to be of these numbers.

    Attributes:
        label: the name of its folder.
        parts: of every tensor what lies in the files, whole or in slices, each with the checksum that is noted.
        config, lora: what is known from the manifest alone; None where something else gave it.
    """

    label: str
    parts: Mapping[str, tuple[tuple[LazyTensor, object], ...]]
    config: Mapping[str, Any] | None = None
    lora: Lora | None = None


class TrainingRun(Protocol):
    """What a checkpoint says of the training run it was merged from. ``runs.run.TrainedRun`` is one."""

    @property
    def steps(self) -> Mapping[int, tuple[Any, ...]]:
        """For every rank the steps it has."""

    @property
    def chosen(self) -> Any:
        """The step that was read."""

    @property
    def of_optimizer(self) -> frozenset[str]:
        """Names that only the files of an optimizer hold."""

    def slices_in(self, folder: Path) -> Iterable[tuple[str, str, LazyTensor]]:
        """Every slice: the name of its tensor, its file as seen from ``folder``, and its numbers."""

    def slice_map(self, name: str) -> object:
        """Which rank holds which part of a tensor."""


class PublishedCodes(Protocol):
    """How the weights of a checkpoint were published as codes with scales. ``steps.loading.codes.Published`` is one."""

    @property
    def weights(self) -> Mapping[str, Any]:
        """By the name of the weight."""

    @property
    def names_of_scales(self) -> Mapping[str, str]:
        """The weight of each scale."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know where they are read as numbers."""


class Merge(Protocol):
    """What a checkpoint says of the adapters that were added to its weights. ``steps.converting.merge.MergeReport`` is one."""

    @property
    def changed(self) -> str:
        """Which weights are computed, in a clause."""

    def sentence(self) -> str:
        """One line for notes and reports."""

    def about(self) -> dict[str, Any]:
        """For the manifest."""

    def table(self) -> Table:
        """One row per kind of weight."""


@dataclass(frozen=True)
class History:
    """Where a checkpoint comes from and what was done to it: everything known of it besides its tensors, side and config.

    Attributes:
        files: the files it is read from.
        others: entries of these files that are no tensors.
        notes: sentences a reader should see.
        config_folder: the folder that was given for its config, if one was: it may hold the weights that a training began with.
        family: the key of its family, where it is known.
        family_file: the name of the file that defined a user's own family; quoted in messages, never opened.
        options: what was decided of the family's options, where it is known.
        original: what is remembered of the side it was mapped from.
        written: what the manifest says was written, where nothing has compared it with the numbers yet; else None.
        equalities: tensors that a save must find equal before it writes.
        fixed_dtypes: names of tensors whose dtype the family fixes, whatever dtype a caller asks for.
        twins: names that its files leave out, since their tensor is there under another name, and that name.
        cut: tensors of which rows behind the vocabulary were cut off, and the shape that they had.
        published: how its weights, which are numbers here, are published as codes; None where they are not.
        quantised_by: the scheme by which it was quantised, where a file beside it names one.
        run: the training run it was merged from; None for any other checkpoint.
        switches: what the YAML of a training run says, by key: how layouts were chosen.
        lora: what is known of its LoRA adapters besides their numbers: alpha, and where it was read.
        merged: which adapters were added to its weights: then those are computed, not copied.
    """

    files: tuple[Path, ...] = ()
    others: tuple[OtherEntry, ...] = ()
    notes: tuple[str, ...] = ()
    config_folder: Path | None = None
    family: str | None = None
    family_file: str = ""
    options: Mapping[str, str | bool | int] = field(default_factory=dict)
    original: Original | None = None
    written: Written | None = None
    equalities: tuple[Equality, ...] = ()
    fixed_dtypes: frozenset[str] = frozenset()
    twins: Mapping[str, str] = field(default_factory=dict)
    cut: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    published: PublishedCodes | None = None
    quantised_by: str = ""
    run: TrainingRun | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    lora: Lora | None = None
    merged: Merge | None = None


@dataclass(frozen=True, repr=False)
class Checkpoint(Result):
    """An ordered set of named, lazy tensors, and what is known about them.

    Attributes:
        tensors: name to tensor, in the order of the files.
        origin: where it came from, in words: a path, "torch Module", "map(...)".
        side: "hf", "mf" or None where nothing tells.
        config: the model's config.json, or None.
        history: everything else that is known.
    """

    tensors: Mapping[str, LazyTensor]
    origin: str = "arrays"
    side: str | None = None
    config: Mapping[str, Any] | None = None
    history: History = field(default_factory=History)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is read from."""
        return self.history.files

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences a reader should see."""
        return self.history.notes

    @property
    def family(self) -> str | None:
        """The key of its family, where it is known."""
        return self.history.family

    @property
    def options(self) -> Mapping[str, str | bool | int]:
        """What was decided of the family's options, where it is known."""
        return self.history.options

    @property
    def run(self) -> TrainingRun | None:
        """The training run it was merged from; None for any other checkpoint."""
        return self.history.run

    def table(self) -> Table:
        """A summary of what is in it."""
        return _summary(self)

    def renamed(self, rename: Callable[[str], str]) -> Self:
        """The same tensors under other names: ``renamed(lambda n: n.removeprefix("module."))``.

        Raises:
            UsageError: MFC501 where two tensors would get one name.
        """
        tensors: dict[str, LazyTensor] = {}
        for name, tensor in self.tensors.items():
            new = rename(name)
            if new in tensors:
                found, hint = f"two tensors that become {quote(new)}", "Let the function keep what tells them apart."
                raise UsageError("MFC501", "rename", found=found, expected="a name of its own for each", hint=hint)
            tensors[new] = tensor.renamed(new)
        return replace(self, tensors=tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __iter__(self) -> Iterator[LazyTensor]:
        return iter(self.tensors.values())

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> LazyTensor:
        if name not in self.tensors:
            hint = did_you_mean(name, self.tensors)
            raise MappingError(
                "MFC309", quote(name), expected=f"a name in {self.origin}, which has {how_many(len(self), 'name')}", hint=hint
            )
        return self.tensors[name]

    @cached_property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every tensor."""
        return tuple(t.spec for t in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(s.nbytes for s in self.specs)

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(s.elements for s in self.specs)


def _summary(checkpoint: Checkpoint) -> Table:
    """One row per name pattern, shape and dtype: 48 layers fold to one."""
    history = checkpoint.history
    groups: dict[tuple[str, tuple[int, ...], str], list[TensorSpec]] = {}
    for spec in checkpoint.specs:
        groups.setdefault((fold(spec.name)[0], spec.shape, spec.dtype), []).append(spec)
    rows = [
        (folded_name([s.name for s in specs]), len(specs), shape_text(shape), short_name(dtype), bytes_text(sum(s.nbytes for s in specs)))
        for (_, shape, dtype), specs in groups.items()
    ]
    dtypes = ", ".join(sorted({short_name(s.dtype) for s in checkpoint.specs})) or "empty"
    what = {HF: "Hugging Face checkpoint", MF: "MindFormers checkpoint"}.get(checkpoint.side or "", "Checkpoint")
    files = f" · {how_many(len(history.files), 'file')}" if history.files else ""
    model = history.family or (checkpoint.config or {}).get("model_type")
    what += f" · {model}{files}" if model else files
    numbers = how_many_in_short(checkpoint.parameters, "parameter")
    headline = (
        f"{what} · {how_many(len(checkpoint), 'tensor')} · {numbers} · {dtypes} · {bytes_text(checkpoint.nbytes)} · {checkpoint.origin}"
    )
    others = (
        f"beside the tensors, {how_many(len(history.others), 'other entry', 'other entries')}: "
        + ", ".join(o.name for o in history.others[:4]),
    )
    facts = history.notes + (others if history.others else ())
    facts += (history.lora.sentence(),) if history.lora is not None else ()
    columns = (Column("name"), Column("tensors", True), Column("shape", True), Column("dtype"), Column("bytes", True))
    return Table("", headline, columns, rows, facts, row_noun="name patterns")


def checkpoint_of(
    tensors: Mapping[str, LazyTensor] | Iterable[LazyTensor],
    *,
    origin: str = "arrays",
    side: str | None = None,
    config: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> Checkpoint:
    """A checkpoint of lazy tensors that lie in no file."""
    named = tensors if isinstance(tensors, Mapping) else {t.name: t for t in tensors}
    return Checkpoint(named, origin, side, config, History(family=family))
