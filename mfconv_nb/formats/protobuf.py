"""The variable-length numbers of protobuf: seven bits a byte, the lowest first; the top bit says that another byte follows."""

from __future__ import annotations

LONGEST = 10  # bytes of a varint: 64 bits, seven at a time


class BrokenProtobuf(Exception):
    """Bytes that are not the expected protobuf; ``args`` are the place and what is wrong."""


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at ``at``, and where the next field begins.

    Raises:
        BrokenProtobuf: the number does not end before ``end``, or has more than ten bytes.
    """
    value = 0
    for place in range(LONGEST):
        if at + place >= end:
            raise BrokenProtobuf(at, "a number that leaves its field")
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise BrokenProtobuf(at, "a number of more than ten bytes")


def varint_bytes(value: int) -> bytes:
    """A number that is not negative, as a varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
