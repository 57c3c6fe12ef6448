"""anatomy: the bytes of one file, with words beside them. Reads headers, and a few bytes of each tensor that is shown."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mfconv_nb.core.dtypes import itemsize, numpy_dtype
from mfconv_nb.core.errors import InputError, Lines, MfconvError, quote, to_short_line
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.report import MAX_ROWS, Column, Result, Table, bytes_text, how_many, table_html
from mfconv_nb.core.sources import FileSource
from mfconv_nb.formats import index
from mfconv_nb.formats.fields import HEADER, PADDING, TENSOR, Field
from mfconv_nb.formats.format import Format
from mfconv_nb.formats.known import format_named
from mfconv_nb.formats.reading import FOLDER, INDEX, kind_of
from mfconv_nb.steps.inspecting.anatomy_strip import Part, strip_svg

FIELDS = ("field", "fields")
MAX_FACTS = 8  # files of an index that are listed
SHOWN_BYTES = 16
SHOWN_UNITS = (4, 3, 2, 1)  # how many tensors are shown in full: as many as fit
# bytes in the face of code, and never broken inside a group of eight
STYLE = ".mfconv-a .mfconv.mfconv-r table.mfconv-t td:nth-child(3){font-family:ui-monospace,monospace;font-size:11px;white-space:nowrap}"


@makes_many_objects
def anatomy(path: str | Path) -> Anatomy | FolderAnatomy:
    """What each byte of a file is for: headers, names, dtypes, padding, and where each tensor's numbers begin.

    Args:
        path: a safetensors file, a MindSpore `.ckpt`, a torch `.bin`, `.pt` or `.pth`, or an index; of a folder, its files are listed.
    Raises:
        InputError: MFC1xx. FormatError: MFC2xx, as ``load`` does. One file is described that ``load`` refuses: a torch file whose
            pickle would call foreign code. It is read as words, so nothing of it runs.
    """
    if not isinstance(path, str | Path):
        raise InputError("MFC109", found=f"a {type(path).__name__}", expected="a path", hint="Save it first: it shows the bytes of a file.")
    path = local_path(path)
    kind = kind_of(path)
    return _folder_anatomy(path) if kind == FOLDER else _file_anatomy(path, kind)


def _file_anatomy(path: Path, kind: str) -> Anatomy:
    source = FileSource(path)
    annotate = index.annotate if kind == INDEX else format_named(kind).annotate
    return Anatomy(source, kind, tuple(annotate(source)))


def _title_of(kind: str) -> str:
    return kind if kind == INDEX else format_named(kind).title


def _folder_anatomy(folder: Path) -> FolderAnatomy:
    try:
        files = [p for p in sorted(folder.iterdir()) if p.is_file()]
    except OSError as error:
        raise InputError("MFC101", folder, found=error.strerror, expected="a readable folder") from None
    return FolderAnatomy(folder, tuple(_describe_file(p) for p in files))


def _describe_file(path: Path) -> ListedFile:
    size = path.stat().st_size
    try:
        kind = kind_of(path)
    except MfconvError as error:
        return ListedFile(path.name, size, "", "no weights" if error.code == "MFC103" else f"refused: {error.code}, {error.found}")
    try:
        found = _file_anatomy(path, kind)
    except MfconvError as error:
        return ListedFile(path.name, size, _title_of(kind), f"refused: {error.code}, {error.found}")
    return ListedFile(path.name, size, _title_of(kind), found.summary)


# ---- one file --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Anatomy(Result):
    """The fields of one file, in order and without gaps. The table shows the first tensors in full; ``rows()`` has every field.

    Attributes:
        kind: "safetensors", "ckpt", "torch" or "index".
        fields: offset, length, what it is, what it says; they reach from byte 0 to the end of the file.
    """

    source: FileSource
    kind: str
    fields: tuple[Field, ...]

    @property
    def format(self) -> Format | None:
        """The format of the file; None for an index."""
        return None if self.kind == INDEX else format_named(self.kind)

    @property
    def numbers(self) -> tuple[Field, ...]:
        """The fields that hold tensors' numbers."""
        return tuple(f for f in self.fields if f.kind == TENSOR)

    @property
    def summary(self) -> str:
        """What is in it, in a few words: "13 tensors, 1,240 bytes of headers"."""
        if self.format is None:
            return f"names in {how_many(len({f.owner for f in self.fields if f.owner}), 'file')}"
        tensors = len({f.owner.partition(", slice ")[0] if self.format.cuts_tensors else f.owner for f in self.numbers})
        around = sum(f.length for f in self.fields if f.kind == HEADER)
        padding = sum(f.length for f in self.fields if f.kind == PADDING)
        said = f"{how_many(tensors, 'tensor')}, {bytes_text(around)} of headers"
        return f"{said}, {bytes_text(padding)} of padding" if padding else said

    def table(self) -> Table:
        headline = f"{_title_of(self.kind)} · {bytes_text(self.source.size)} · {self.summary} · {self.source.label}"
        rows = [self._line(each) for each in _shorten_fields(self.fields, self.format.units if self.format is not None else None)]
        return Table("", headline, COLUMNS, rows, self._facts(), "anatomy.rows()", "rows")

    def rows(self) -> list[dict[str, Any]]:
        """Every field: offset, length, what, meaning, its first bytes (at most 16, in hex), the tensor it belongs to."""
        return [
            {
                "offset": f.offset,
                "hex": hex(f.offset),
                "bytes": self._bytes(f).hex(" "),
                "length": f.length,
                "what": f.what,
                "meaning": self._meaning(f),
                "tensor": f.owner,
            }
            for f in self.fields
        ]

    def strip(self) -> str:
        """The file as a bar: an SVG that needs no script, in the colours of the page it stands in. Empty for an index."""
        if self.kind == INDEX:
            return ""
        parts = [Part(f.offset, f.length, f.kind, f.owner, f.what) for f in self.fields]
        return strip_svg(parts, f"{_title_of(self.kind)}, {bytes_text(self.source.size)}")

    def _repr_html_(self) -> str:
        table = re.sub(r"(?<=[0-9])\.<wbr>(?=[0-9])", ".", table_html(self.table()))  # names may break after a dot, numbers may not
        return f"<style>{STYLE}</style><div class='mfconv-a'>{self.strip()}{table}</div>"

    def _page_body(self) -> str:
        return self._repr_html_()

    def _facts(self) -> tuple[str, ...]:
        if self.kind == INDEX:
            return _shard_facts(index.read_index(self.source.path))
        numbers = [f for f in self.numbers if f.length]
        if not numbers:
            return ()
        said = [f"{_alignment_count(numbers, 64)} at a multiple of 64 bytes"]
        if all(f.dtype for f in numbers):
            said.append(f"{sum(f.offset % itemsize(f.dtype) == 0 for f in numbers):,} at a multiple of the size of their own numbers")
        return (f"Alignment: {', '.join(said)}.", "Byte order: little-endian, the lowest byte of a number first.")

    def _bytes(self, each: Field) -> bytes:
        return self.source.read(each.offset, min(each.length, SHOWN_BYTES))

    def _meaning(self, each: Field) -> str:
        if each.kind != TENSOR or not each.dtype or each.length < itemsize(each.dtype):
            return each.meaning
        size = itemsize(each.dtype)
        first = np.frombuffer(self.source.read(each.offset, size), numpy_dtype(each.dtype))[0]
        return f"{each.meaning}; the first is {first}; {_alignment(each.offset)}"

    def _line(self, each: Field | HiddenFields) -> tuple[Any, ...]:
        if isinstance(each, HiddenFields):
            return (f"{each.offset:,}", hex(each.offset), "", f"{each.length:,}", f"… {each.count:,} more {each.unit}", each.meaning)
        meaning = f"{quote(each.owner)}: {self._meaning(each)}" if each.kind == TENSOR else self._meaning(each)
        return (f"{each.offset:,}", hex(each.offset), _hex(self._bytes(each), each.length), f"{each.length:,}", each.what, meaning)


COLUMNS = (
    Column("offset", True),
    Column("hex", True),
    Column("bytes"),
    Column("length", True),
    Column("what"),
    Column("meaning"),
)


def _shard_facts(found: index.Index) -> tuple[str, ...]:
    """A line per file: how many tensors it holds, and whether it is there."""
    counts = Counter(found.weight_map.values())
    lines = [f"{to_short_line(p.name)}: {how_many(counts[p.name], 'tensor')}{'' if os.path.isfile(p) else ', absent'}" for p in found.files]
    rest = len(lines) - MAX_FACTS
    return (*lines[:MAX_FACTS], how_many(rest, "more file")) if rest > 0 else tuple(lines)


def _alignment(offset: int) -> str:
    """The largest power of two that an offset is a multiple of."""
    step = offset & -offset
    return "starts at an odd byte" if step == 1 else f"starts at a multiple of {step:,}"


def _alignment_count(fields: Sequence[Field], size: int) -> str:
    noun = "slice" if any(", slice " in f.meaning for f in fields) else "tensor"
    return f"{sum(f.offset % size == 0 for f in fields):,} of {how_many(len(fields), noun)}"


def _hex(data: bytes, length: int) -> str:
    """Two groups of eight bytes, one below the other; what goes on ends in dots."""
    dots = " …" if length > len(data) else ""
    return Lines("\n".join(data[n : n + 8].hex(" ") for n in range(0, len(data), 8)) + dots)


# ---- what fits on a screen -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HiddenFields:
    """Fields that are not shown, as one row."""

    offset: int
    length: int
    count: int
    unit: str
    meaning: str


def _shorten_fields(fields: Sequence[Field], unit: tuple[str, str] | None) -> list[Field | HiddenFields]:
    """At most ``MAX_ROWS`` rows: as many owners in full as fit, the fields of the others counted. Without a unit, the first fields."""
    for shown in SHOWN_UNITS if unit is not None else ():
        rows = _with_first_owners(fields, shown, unit or FIELDS)
        if len(rows) <= MAX_ROWS:
            return rows
    if len(fields) <= MAX_ROWS:
        return list(fields)
    rest = fields[MAX_ROWS - 1 :]
    return [*fields[: MAX_ROWS - 1], _hidden_row(rest, len(rest), FIELDS, "")]


def _with_first_owners(fields: Sequence[Field], shown: int, unit: tuple[str, str]) -> list[Field | HiddenFields]:
    order: dict[str, int] = {}
    for each in fields:
        order.setdefault(each.owner, len(order)) if each.owner else None
    rows: list[Field | HiddenFields] = []
    for hidden, group in groupby(fields, key=lambda f: bool(f.owner) and order[f.owner] >= shown):
        run = list(group)
        if hidden:
            owners = list(dict.fromkeys(f.owner for f in run))
            names = quote(owners[0]) if len(owners) == 1 else f"{quote(owners[0])} to {quote(owners[-1])}"
            rows.append(_hidden_row(run, len(owners), unit, names))
        else:
            rows += run
    return rows


def _hidden_row(run: Sequence[Field], count: int, unit: tuple[str, str], meaning: str) -> HiddenFields:
    return HiddenFields(run[0].offset, run[-1].end - run[0].offset, count, unit[count != 1], meaning)


# ---- a folder --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a folder: its size, its format (empty where it is none), and what is in it."""

    name: str
    nbytes: int
    format: str
    holds: str


@dataclass(frozen=True, repr=False)
class FolderAnatomy(Result):
    """The files of a folder, and what each is. ``anatomy`` of one of them shows its bytes."""

    folder: Path
    files: tuple[ListedFile, ...]

    def table(self) -> Table:
        columns = (Column("file"), Column("bytes", True), Column("format"), Column("holds"))
        rows = [(f.name, bytes_text(f.nbytes), f.format, f.holds) for f in self.files]
        total = sum(f.nbytes for f in self.files)
        headline = f"{how_many(len(self.files), 'file')} · {bytes_text(total)} · {self.folder}"
        first = next((f.name for f in self.files if f.format), None)
        code = f"mc.anatomy({os.path.join(self.folder, first)!r})" if first else ""
        return Table("", headline, columns, rows, (), code, "files")
