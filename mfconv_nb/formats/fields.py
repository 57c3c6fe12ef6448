"""A file seen as fields: which bytes are what. Every format module offers ``annotate(source)``, which gives them in file order.

The fields of a file tile it: each begins where the one before ends, the first at 0, the last ends with the file. Only headers are read.
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

HEADER, PADDING, TENSOR, OTHER = "header", "padding", "tensor", "other"  # other: what is neither structure nor a tensor's numbers
JSON_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Field:
    """A run of bytes in a file.

    Attributes:
        what: what it is, in a few words; the same words for the same thing in every file.
        meaning: what these bytes say.
        kind: "header", "padding", "tensor" (its numbers) or "other".
        owner: the tensor or entry it belongs to; empty for what belongs to the file.
        dtype: of a tensor's numbers, in safetensors spelling; empty where it is not known.
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


def tiled(fields: Iterable[Field], source: FileSource) -> Iterator[Field]:
    """The fields in file order, with one for every run of bytes that none of them names.

    Raises:
        FormatError: MFC201 where two overlap or one leaves the file.
    """
    at = 0
    for each in sorted(fields, key=lambda f: (f.offset, f.end)):
        if each.offset < at or each.end > source.size:
            found = f"{each.what} from byte {each.offset:,} to {each.end:,}"
            expected = f"from {at:,} on, inside the {how_many(source.size, 'byte')} of the file"
            raise FormatError("MFC201", source.path, found=found, expected=expected, hint="The file is damaged: fetch or save it again.")
        if each.offset > at:
            yield _unnamed(at, each.offset)
        yield each
        at = each.end
    if at < source.size:
        yield _unnamed(at, source.size)


def _unnamed(begin: int, end: int) -> Field:
    return Field(begin, end - begin, "unnamed bytes", "no header speaks of them", OTHER)


def json_members(text: str, at: int, offset: int) -> Iterator[tuple[str, Any, int, int]]:
    """The members of the JSON object that begins at character ``at``: name, value, and the bytes they stand in.

    A member reaches from its name to the name of the next, so that it holds its comma. ``text`` must have been parsed before.

    Args:
        offset: the byte that character 0 of ``text`` has in the file; UTF-8.
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
