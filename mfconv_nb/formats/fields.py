"""A file as a list of fields: which bytes mean what. Every format module has ``annotate(source)``, which yields them in file order.

Fields cover a file without gaps: the first begins at 0, each next one where the one before ends. Only headers are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import FormatError
from mfconv_nb.core.report import how_many, shape_text
from mfconv_nb.core.sources import FileSource

HEADER, PADDING, TENSOR, OTHER = "header", "padding", "tensor", "other"  # other: neither structure nor the numbers of a tensor
JSON_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Field:
    """A span of bytes in a file.

    Attributes:
        what: what it is, in a few words; the same words for the same thing in every file.
        meaning: what these bytes say.
        kind: "header", "padding", "tensor" (its numbers) or "other".
        owner: the tensor or entry it belongs to; empty if it belongs to the file.
        dtype: of a tensor's numbers, in safetensors spelling; empty if not known.
    """

    offset: int
    length: int
    what: str
    meaning: str
    kind: str = HEADER
    owner: str = ""
    dtype: str = ""

    @property
    def end(self) -> int:
        return self.offset + self.length


def numbers_text(spec: TensorSpec) -> str:
    """``331 × 96 bf16``: what a tensor's bytes are."""
    return f"{shape_text(spec.shape)} {short_name(spec.dtype)}"


def fill_gaps(fields: Iterable[Field], source: FileSource) -> Iterator[Field]:
    """The fields in file order, and one more for every gap between them.

    Raises:
        FormatError: MFC201 if two overlap or one leaves the file.
    """
    at = 0
    for each in sorted(fields, key=lambda f: (f.offset, f.end)):
        if each.offset < at or each.end > source.size:
            found = f"{each.what} from byte {each.offset:,} to {each.end:,}"
            expected = f"from {at:,} on, inside the {how_many(source.size, 'byte')} of the file"
            raise FormatError("MFC201", source.path, found=found, expected=expected, hint="The file is damaged: fetch or save it again.")
        if each.offset > at:
            yield _unnamed_field(at, each.offset)
        yield each
        at = each.end
    if at < source.size:
        yield _unnamed_field(at, source.size)


def _unnamed_field(begin: int, end: int) -> Field:
    return Field(begin, end - begin, "unnamed bytes", "no header speaks of them", OTHER)


def json_members(text: str, at: int, offset: int) -> Iterator[tuple[str, Any, int, int]]:
    """The members of the JSON object that begins at character ``at``: name, value, and the bytes they stand in.

    A member reaches to the name of the next one, so it includes its comma. ``text`` must be sound JSON: nothing is checked here.

    Args:
        offset: where ``text``, in UTF-8, begins in the file.
    """
    decode = json.JSONDecoder().raw_decode
    begin = _after_space(text, at + 1)
    done, place = begin, offset + _utf8_bytes(text[:begin])
    while text[begin] != "}":
        name, end = decode(text, begin)
        value, end = decode(text, _after_space(text, _after_space(text, end) + 1))
        following = _after_space(text, end)
        if text[following] == ",":
            following = end = _after_space(text, following + 1)
        size = _utf8_bytes(text[done:end])
        yield name, value, place, place + size
        begin, done, place = following, end, place + size


def _after_space(text: str, at: int) -> int:
    while text[at] in JSON_SPACE:
        at += 1
    return at


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
