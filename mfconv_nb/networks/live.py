"""Load live objects as checkpoints: a torch Module or state dict, a MindSpore Cell or parameter dict, a dict of arrays.

torch on the CPU and numpy show us their memory: nothing is copied. MindSpore gives out copies: we fetch one tensor at a time, when it is
read. This module imports neither framework: who has such an object has imported it already.

Refuses: dtypes that we do not know, an empty dict, values that are not tensors.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, TensorSpec, checkpoint_of, stored_tensor, strided_tensor
from mfconv_nb.core.dtypes import BY_MINDSPORE, BY_NUMPY, BY_TORCH
from mfconv_nb.core.errors import InputError, quoted
from mfconv_nb.core.sources import ArraySource

MAX_AXES = 32
HINT = "Give a path, a torch Module or state dict, a MindSpore Cell or parameter dict, or a dict of arrays."
HINT_NAME = "Give it another name in the dict."


class LateSource:
    """Bytes that a framework copies out when they are first read.

    The copy is dropped as soon as as many bytes were read as it has: every byte is usually read once.
    """

    def __init__(self, size: int, fetch: Callable[[], np.ndarray[Any, np.dtype[np.uint8]]], label: str) -> None:
        self.size, self._fetch, self.label = size, fetch, label
        self._lock = threading.Lock()
        self._held: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self._unread = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            if self._held is None:
                self._held, self._unread = self._fetch(), self.size
            data = self._held
            self._unread -= len(buffer)
            if self._unread <= 0:
                self._held = None
        np.frombuffer(buffer, np.uint8)[:] = data[offset : offset + len(buffer)]

    def view(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return self._fetch()

    def check_unchanged(self) -> None:
        """Does nothing: live parameters may change at any time."""

    def identity(self) -> None:
        """None: another process cannot prove that they are the same."""


def is_live(thing: object) -> bool:
    """True for what ``load_live`` takes: a mapping, a torch Module or a MindSpore Cell."""
    return isinstance(thing, Mapping) or is_module(thing) or is_cell(thing)


def is_module(thing: object) -> bool:
    """True for a torch Module."""
    return _is_a(thing, "torch", "nn.Module")


def is_cell(thing: object) -> bool:
    """True for a MindSpore Cell."""
    return _is_a(thing, "mindspore", "nn.Cell")


def load_live(thing: Any) -> Checkpoint:
    """Load a live object as a checkpoint.

    Raises:
        InputError: MFC109 with the name of the entry that is no tensor, or whose dtype we do not know.
    """
    if is_module(thing):
        config = thing.config.to_dict() if hasattr(getattr(thing, "config", None), "to_dict") else None
        return _checkpoint(thing.state_dict(), f"torch {type(thing).__name__}", HF, config)
    if is_cell(thing):
        return _checkpoint(thing.parameters_dict(), f"MindSpore {type(thing).__name__}", MF, None)
    if not isinstance(thing, Mapping):
        raise InputError("MFC109", found=f"a {type(thing).__name__}", expected="something with named tensors", hint=HINT)
    if not thing:
        raise InputError("MFC109", found="an empty dict", expected="at least one tensor", hint=HINT)
    first = next(iter(thing.values()))
    side = MF if _is_a(first, "mindspore", "Tensor") else HF if _is_a(first, "torch", "Tensor") else None
    return _checkpoint(thing, f"a dict of {type(first).__module__.split('.')[0]} tensors", side, None)


def _checkpoint(state: Mapping[str, Any], origin: str, side: str | None, config: Mapping[str, Any] | None) -> Checkpoint:
    tensors: dict[str, LazyTensor] = {}
    for key, value in state.items():
        name = str(key)
        if name in tensors:
            raise InputError("MFC109", quoted(name), found="two keys that are the same text", expected="each name once", hint=HINT_NAME)
        if any("\ud800" <= c <= "\udfff" for c in name):
            found = "half of a surrogate pair in the name"
            raise InputError("MFC109", quoted(name), found=found, expected="a name that is text", hint=HINT_NAME)
        tensors[name] = _lazy_tensor(name, value)
    return checkpoint_of(tensors, origin=origin, side=side, config=config)


def _lazy_tensor(name: str, value: Any) -> LazyTensor:
    if isinstance(value, LazyTensor):
        return value.renamed(name)
    if _is_a(value, "torch", "Tensor"):
        return _from_torch(name, value)
    if _is_a(value, "mindspore", "Tensor"):
        return _from_mindspore(name, value)
    if isinstance(value, np.ndarray | np.generic):
        return _from_numpy(name, np.asarray(value))
    raise InputError("MFC109", quoted(name), found=f"a {type(value).__name__}", expected="a tensor or an array", hint=HINT)


def _from_torch(name: str, t: Any) -> LazyTensor:
    torch = sys.modules["torch"]
    check_shaped(name, t)
    dtype = known_dtype(name, str(t.dtype).removeprefix("torch."), BY_TORCH)
    if t.dim() > MAX_AXES:
        raise InputError("MFC109", quoted(name), found=f"{t.dim()} axes", expected=f"at most {MAX_AXES}, as numpy takes")
    spec = TensorSpec(name, tuple(t.shape), dtype)
    t = t.detach().resolve_conj().resolve_neg()  # the memory of a conjugated view holds the plain numbers
    if t.device.type == "meta":
        return LazyTensor(spec, ())
    if t.device.type != "cpu" or t.layout != torch.strided:
        t = t.cpu().to_dense()
    if any(s == 0 and n > 1 for n, s in zip(t.shape, t.stride(), strict=True)):
        t = t.contiguous()
    data = torch.empty(0, dtype=torch.uint8, device="cpu").set_(t.untyped_storage()).numpy()  # "cpu": the default device may be another
    return strided_tensor(spec, ArraySource(data, "torch"), 0, t.storage_offset(), tuple(t.stride()))


def check_shaped(name: str, tensor: Any) -> None:
    """Refuse a torch parameter without a shape: that of a `LazyLinear` which was never called."""
    if _is_a(tensor, "torch", "nn.parameter.UninitializedTensorMixin"):
        hint = "Call the network once, or make its layers with their sizes."
        raise InputError("MFC109", quoted(name), found="a parameter that has no shape yet", expected="a tensor with a shape", hint=hint)


def _from_mindspore(name: str, t: Any) -> LazyTensor:
    spec = TensorSpec(name, tuple(t.shape), known_dtype(name, str(t.dtype), BY_MINDSPORE))
    if getattr(t, "has_init", False):
        return LazyTensor(spec, ())  # made under no_init_parameters: it has no values yet

    def fetch() -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.frombuffer(t.get_bytes(), np.uint8)  # bfloat16 too, which asnumpy() refuses with numpy 2

    return stored_tensor(spec, LateSource(spec.nbytes, fetch, "mindspore"), ((0, spec.nbytes),))


def _from_numpy(name: str, a: np.ndarray[Any, Any]) -> LazyTensor:
    spec = TensorSpec(name, a.shape, known_dtype(name, a.dtype, BY_NUMPY))
    data = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
    return stored_tensor(spec, ArraySource(data, "numpy"), ((0, spec.nbytes),))


def known_dtype(name: str, dtype: object, known: Mapping[Any, str], hint: str | None = None) -> str:
    """Our name of a framework's dtype. Raises InputError (MFC109) if it has none; ``name`` is the tensor."""
    if dtype not in known:
        raise InputError("MFC109", quoted(name), found=f"dtype {dtype}", expected=", ".join(map(str, known)), hint=hint)
    return known[dtype]


def _is_a(thing: object, framework: str, dotted: str) -> bool:
    """isinstance, for a class of a framework. If that is not imported, no object of it can exist."""
    found: Any = sys.modules.get(framework)
    for part in dotted.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(thing, found)
