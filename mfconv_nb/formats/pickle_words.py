"""Read a torch pickle as a list of words, without running it: which code it names, and which tensor lies in which storage.

No object is made, so a hostile pickle can do nothing. The result is a description to show, not a proof: conversions open torch files
through torch (see ``torch_pickle.py``).

Source: the opcodes of `pickletools`; the arguments of `torch._utils._rebuild_tensor_v2` in files that torch 1.6 to 2.10 saved.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from mfconv_nb.core.report import how_many

MAX_PICKLE_BYTES = 64 << 20  # the largest seen is 20 MB, for 92,000 tensors
STORAGES = {"Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Bool": "BOOL", "Byte": "U8", "Char": "I8"}
STORAGES |= {"Short": "I16", "Int": "I32", "Long": "I64", "ComplexFloat": "C64"}
BY_STORAGE = {f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()}
REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
KNOWN = ("torch.", "torch._utils.", "collections.OrderedDict", "_codecs.encode")


@dataclass(frozen=True, slots=True)
class Storage:
    """What a pickle says about one storage: the tensor in it, as far as the words tell."""

    key: str
    name: str
    dtype: str
    elements: int
    shape: tuple[int, ...] | None = None


@dataclass
class PickleWords:
    """What one pickle says. ``end`` is where it ends; ``code`` holds the names of code that it would call."""

    words: int = 0
    end: int = 0
    code: dict[str, None] = field(default_factory=dict)
    storages: dict[str, list[Storage]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    @property
    def strange(self) -> list[str]:
        """The code names that torch does not write for tensors."""
        return [name for name in self.code if name.rpartition(".")[0] + "." not in KNOWN and name not in KNOWN]


def read_words(data: bytes) -> PickleWords:
    """The words of the pickle at the beginning of ``data``.

    Raises:
        ValueError: it is broken or does not end.
    """
    found, reader = PickleWords(), _WordReader()
    stream = io.BytesIO(data)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            found.words += 1
            reader.take(opcode.name, argument, found)
    except (ValueError, OverflowError, IndexError, struct.error) as error:
        raise ValueError(f"broken after {how_many(found.words, 'word')}: {str(error)[:100]}") from None
    found.end = stream.tell()
    return found


class _WordReader:
    """Follows the words. It remembers the last few values, values stored under a number (the memo), and the storage named last."""

    def __init__(self) -> None:
        self.last: deque[Any] = deque(maxlen=8)  # enough for a storage: its five parts, and three words between them
        self.kept: dict[Any, Any] = {}
        self.name = ""
        self.storage: Storage | None = None
        self.sizes: list[int] = []

    def take(self, word: str, argument: Any, found: PickleWords) -> None:
        if word in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.kept[len(self.kept) if word == "MEMOIZE" else argument] = self.last[-1] if self.last else None
            return
        if word == "BINPERSID":
            self.storage, self.sizes = self._storage(), []
            return
        if word.endswith(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")) and self.storage is not None and self.sizes:
            self._end_of_shape(found)
        if word in ("MARK", "PROTO", "FRAME"):
            return
        value = self._value(word, argument)
        if isinstance(value, str) and word != "STACK_GLOBAL" and "GET" not in word:
            found.texts.append(value)
        if isinstance(value, int) and not isinstance(value, bool):
            found.numbers.append(value)
            if self.storage is not None:
                self.sizes.append(value)
        if isinstance(value, _Code):
            found.code[value.name] = None
            if value.name in REBUILD:
                self.name = self.last[-1] if self.last and isinstance(self.last[-1], str) else ""
        self.last.append(value)

    def _value(self, word: str, argument: Any) -> Any:
        if word in ("BINGET", "LONG_BINGET", "GET"):
            return self.kept.get(argument)
        if word in ("GLOBAL", "INST"):
            return _Code(str(argument).replace(" ", "."))
        if word == "STACK_GLOBAL":
            return _Code(".".join(str(p) for p in list(self.last)[-2:]))
        return argument

    def _storage(self) -> Storage | None:
        """The storage of a tuple like ``('storage', torch.FloatStorage, '0', 'cpu', 6)``, whose parts are the last values."""
        parts = [p for p in self.last if p is not None][-5:]
        if len(parts) < 5 or parts[0] != "storage" or not isinstance(parts[1], _Code) or not isinstance(parts[4], int):
            return None
        return Storage(str(parts[2]), self.name, BY_STORAGE.get(parts[1].name, ""), parts[4])

    def _end_of_shape(self, found: PickleWords) -> None:
        """Record the storage with its shape: the numbers after a storage are the offset in it, then the shape."""
        assert self.storage is not None
        s, shape = self.storage, tuple(self.sizes[1:])
        fits = self.sizes[0] == 0 and math.prod(shape) == s.elements
        found.storages.setdefault(s.key, []).append(Storage(s.key, s.name, s.dtype, s.elements, shape if fits else None))
        self.storage = None


@dataclass(frozen=True, slots=True)
class _Code:
    name: str
