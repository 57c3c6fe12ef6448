"""The tensors of a network by name, and how to put new values into each. This module imports neither framework.

torch: a new parameter replaces the old one, as with `load_state_dict(assign=True)`, so that a module on the meta device becomes real.
MindSpore: `Parameter.set_data`. A tensor with two names is one slot with two names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.dtypes import BY_MINDSPORE, BY_TORCH, DTYPES, numpy_dtype
from mfconv_nb.core.errors import InputError, UsageError, quote
from mfconv_nb.networks.live import check_shaped, is_cell, is_module, known_dtype

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Fill = Callable[[Bytes], None]  # fills a buffer with the bytes of one tensor
HINT_DTYPE = "Make the network with a dtype of these (network.to(dtype) in torch)."


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of a network with all its names. ``put(dtype, fill)`` puts in a new tensor, which ``fill`` fills.

    ``read`` gives its numbers as they are, of a MindSpore Cell.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    put: Callable[[str, Fill], None]
    read: Callable[[], np.ndarray[Any, Any]] | None = None


@dataclass(frozen=True)
class Network:
    """The tensors of a network.

    Attributes:
        label: what it is, in words.
        side: whose names it has, "hf" or "mf".
        slots: its tensors, each once, even if it has several names.
        unfilled: buffers on the meta device that no checkpoint holds and nothing computes.
        renames: whether it is a model of transformers, which may join or rename the tensors of a file when it opens one.
        finish: computes the buffers that no checkpoint holds, if the network knows how.
    """

    label: str
    side: str
    slots: tuple[Slot, ...]
    unfilled: tuple[str, ...] = ()
    renames: bool = False
    finish: Callable[[], None] = lambda: None

    @property
    def by_name(self) -> dict[str, Slot]:
        return {name: slot for slot in self.slots for name in slot.names}


def network_of(thing: Any) -> Network:
    """The tensors of a torch Module or a MindSpore Cell.

    Raises:
        UsageError: MFC501 for anything else. InputError: MFC109 for a tensor whose dtype has no name here.
    """
    if is_module(thing):
        return _module_network(thing)
    if is_cell(thing):
        return Network(f"MindSpore {type(thing).__name__}", MF, tuple(_cell_slot(n, p) for n, p in thing.parameters_dict().items()))
    hint = "A state dict is a copy or a view: give the network itself."
    raise UsageError("MFC501", "network", found=f"a {type(thing).__name__}", expected="a torch Module or a MindSpore Cell", hint=hint)


# ---- torch ---------------------------------------------------------------------------------------------------------------


def _module_network(module: Any) -> Network:
    saved = module.state_dict(keep_vars=True)
    places = {name: place for name, place in _places_by_name(module).items() if name in saved}
    alike: dict[int, list[str]] = {}
    for name, (owner, leaf) in places.items():
        alike.setdefault(id(getattr(owner, leaf)), []).append(name)
    slots = tuple(_module_slot(tuple(names), [places[name] for name in names]) for names in alike.values())
    label = f"torch {type(module).__name__}"
    lost, renames = _lost_buffers(module, saved), _is_transformers(module)
    if not lost:
        return Network(label, HF, slots, renames=renames)
    if renames:
        return Network(label, HF, slots, renames=True, finish=lambda: _compute_buffers(module, lost))
    return Network(label, HF, slots, unfilled=tuple(lost))


def _places_by_name(module: Any) -> dict[str, tuple[Any, str]]:
    """Every parameter and buffer by name: the module that holds it, and its name there. A shared one appears under all its names."""
    return {
        f"{prefix}.{leaf}".lstrip("."): (owner, leaf)
        for prefix, owner in module.named_modules(remove_duplicate=False)
        for held in (owner._parameters, owner._buffers)
        for leaf, value in held.items()
        if value is not None
    }


def _module_slot(names: tuple[str, ...], places: list[tuple[Any, str]]) -> Slot:
    torch: Any = sys.modules["torch"]
    old = getattr(*places[0])
    check_shaped(names[0], old)
    device = "cpu" if old.device.type == "meta" else old.device

    def put(dtype: str, fill: Fill) -> None:
        # on the CPU, whatever the default device is: numpy has to see the memory
        new = torch.empty(tuple(old.shape), dtype=getattr(torch, DTYPES[dtype].torch), device="cpu")
        fill(new.reshape(-1).view(torch.uint8).numpy())
        new = new.to(device)
        if isinstance(old, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
        for owner, leaf in places:
            held = owner._parameters if leaf in owner._parameters else owner._buffers
            held[leaf] = new

    return Slot(names, tuple(old.shape), known_dtype(names[0], str(old.dtype).removeprefix("torch."), BY_TORCH, HINT_DTYPE), put)


def _lost_buffers(module: Any, saved: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Buffers on the meta device that no state dict has: tables that a network computes in its constructor."""
    return {n: place for n, place in _places_by_name(module).items() if n not in saved and getattr(*place).device.type == "meta"}


def _is_transformers(module: Any) -> bool:
    found = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    return isinstance(found, type) and isinstance(module, found) and hasattr(module, "initialize_weights")


def _compute_buffers(module: Any, lost: Mapping[str, tuple[Any, str]]) -> None:
    """Have transformers compute the tables, as `from_pretrained` does. All other tensors are marked as initialised, so they stay.

    We do it twice, with buffers of zeros and then of ones: a buffer that differs afterwards was not computed.

    Raises:
        InputError: MFC109 with the name of a buffer that was not computed.
    """
    torch: Any = sys.modules["torch"]
    seen = []
    owners = {id(owner) for owner, _ in lost.values()}
    for value in (0, 1):
        for owner, leaf in lost.values():
            owner._buffers[leaf] = torch.full_like(owner._buffers[leaf], value, device="cpu")
        for part in module.modules():
            part._is_hf_initialized = id(part) not in owners  # transformers' own mark, which `initialize_weights` respects
            for name, held in (*part._parameters.items(), *part._buffers.items()):
                if held is not None and not (id(part) in owners and any(o is part and leaf == name for o, leaf in lost.values())):
                    held._is_hf_initialized = True
        module.initialize_weights()
        seen.append({name: getattr(*place).clone() for name, place in lost.items()})
    left = [name for name in lost if not torch.equal(seen[0][name], seen[1][name])]
    if left:
        found, hint = "a buffer on the meta device that nothing computes", "Make the network on the CPU."
        raise InputError("MFC109", quote(left[0]), found=found, expected="a real one", hint=hint)


# ---- MindSpore -----------------------------------------------------------------------------------------------------------


def _cell_slot(name: str, parameter: Any) -> Slot:
    mindspore: Any = sys.modules["mindspore"]
    shape, own = tuple(parameter.shape), known_dtype(name, str(parameter.dtype), BY_MINDSPORE, HINT_DTYPE)

    def put(dtype: str, fill: Fill) -> None:
        array = np.empty(shape, numpy_dtype(dtype))
        fill(array.reshape(-1).view(np.uint8))
        if dtype != own:
            parameter.set_dtype(getattr(mindspore, DTYPES[dtype].torch))  # MindSpore calls its dtypes as torch does
        parameter.set_data(_mindspore_tensor(mindspore, array, dtype))

    return Slot((name,), shape, own, put, lambda: parameter.float().asnumpy())


def _mindspore_tensor(mindspore: Any, array: np.ndarray[Any, Any], dtype: str) -> Any:
    """The array as a Tensor, without a copy if MindSpore takes its dtype. Else bfloat16 goes through float32, which is exact."""
    try:
        return mindspore.Tensor.from_numpy(array)
    except (TypeError, RuntimeError, ValueError):
        return mindspore.Tensor(array.astype(np.float32) if dtype == "BF16" else array, getattr(mindspore, DTYPES[dtype].torch))
