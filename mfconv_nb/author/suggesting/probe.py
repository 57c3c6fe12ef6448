"""Find out why a tensor does not equal its reference, and what makes it equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mfconv_nb.author.suggesting.probing import Probe, probe_of
from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor
from mfconv_nb.steps.loading.caller_facts import GivenConfig
from mfconv_nb.steps.loading.load import Loadable, load

Tensors = Any  # one array or tensor, a list of them, or anything that ``load`` takes


def probe(
    found: Tensors | Loadable,
    reference: Tensors | Loadable,
    name: str | Sequence[str] = (),
    *,
    config: GivenConfig = None,
) -> Probe:
    """Find the known variant that makes a tensor equal to its reference, or the first element that differs and where it comes from.

    It tries: another order of q, k and v or of gate and up; end to end against head by head, group by group or row by row; rotary rows in
    pairs or in halves; transposes; axes of size one; experts stacked.

    Args:
        found: one tensor (numpy, torch, MindSpore), a list of them, or a checkpoint. For a mapped checkpoint the source is named too.
        reference: the same, as it should be. Names in common are compared; if there are none, all of one side with all of the other.
        name: compare these names only.
        config: a config.json, its folder or its content: its head counts are tried first.
    Raises:
        MappingError: MFC310 for names and shapes without values; MFC309 for a name that is not there.
    """
    a, b = _load_tensors(found, config), _load_tensors(reference, config)
    names = (name,) if isinstance(name, str) else tuple(name)
    for each in names:
        a[each], b[each]  # an unknown name gets the nearest one as a hint
    return probe_of(a, b, names)


def _load_tensors(thing: Any, config: Any) -> Checkpoint:
    """Load one tensor or a list of tensors as a checkpoint, and anything else as ``load`` does."""
    if _is_tensor(thing):
        return load({"tensor": thing}, config=config)
    if isinstance(thing, list | tuple) and thing and all(map(_is_tensor, thing)):
        return load({f"tensor {n}": each for n, each in enumerate(thing)}, config=config)
    return load(thing, config=config)


def _is_tensor(thing: Any) -> bool:
    return isinstance(thing, LazyTensor) or (hasattr(thing, "shape") and hasattr(thing, "dtype"))
