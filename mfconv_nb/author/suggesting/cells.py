"""Cells: which layer of torch, and which cell of MindSpore, two tensors belong to. The table is `families/cell_ports.py`.

A layer is known by all that it holds, on both sides: `weight` and `gamma` beside running means are a BatchNorm, alone a LayerNorm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.families.words.cell_ports import ATTENTION, PORTS, Port

FEWEST_KERNEL_AXES = 4  # from here on an equal shape is a convolution's; three axes may be experts

Leaves = Mapping[str, frozenset[str]]  # of every module, what its tensors are called


@dataclass(frozen=True, slots=True)
class Ported:
    """What the table says of two tensors.

    Attributes:
        reason: for the reader.
        same_place: whether the module is called the same on both sides.
        fixed_axes: whether the order of the axes is known, too.
    """

    reason: str
    same_place: bool
    fixed_axes: bool = False


def leaves_of(groups: Iterable[Group]) -> Leaves:
    """What the tensors of every module are called."""
    found: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        found[group.parent].add(group.leaf)
    return {parent: frozenset(leaves) for parent, leaves in found.items()}


def ported(hf: Group, mf: Group, hf_leaves: Leaves, mf_leaves: Leaves) -> Ported | None:
    """What the table says of a pair; None where it says nothing."""
    for port in PORTS:
        if _fits(port, hf, mf, hf_leaves, mf_leaves):
            return Ported(_reason(port, hf, mf), hf.parent == _outside(port, mf), port.axis)
    if hf.leaf == mf.leaf and hf.shape == mf.shape:
        kernel = len(hf.shape) >= FEWEST_KERNEL_AXES and hf.leaf == "weight"
        said = "a convolution: both keep its axes in the same order" if kernel else ""
        return Ported(said, hf.parent == mf.parent, kernel)
    return None


def is_joint(hf: Group, mf: Group) -> bool:
    """Whether both are the q, k and v of the frameworks' own attention, whose order is known."""
    return hf.leaf in ATTENTION.names and mf.leaf == hf.leaf


def why_dropped(hf: Group) -> str | None:
    """Of a tensor that only torch has, why that is; None where the table does not know it."""
    return next((port.dropped[hf.leaf] for port in PORTS if hf.leaf in port.dropped), None)


def _fits(port: Port, hf: Group, mf: Group, hf_leaves: Leaves, mf_leaves: Leaves) -> bool:
    """Whether two tensors are called as the port says, and nothing beside them belongs to another layer."""
    names = (port.names.get(hf.leaf), port.alone.get(hf.leaf))
    if mf.leaf not in names or (port.inner and not f".{mf.parent}".endswith(f".{port.inner}")):
        return False
    if port.axis and (hf.leaf != "weight" or len(hf.shape) != 3 or mf.shape != (*hf.shape[:2], 1, hf.shape[2])):
        return False
    here, there = {*port.names, *port.dropped}, {*port.names.values(), *port.alone.values()}
    return hf_leaves[hf.parent] <= here and mf_leaves[mf.parent] <= there


def _outside(port: Port, mf: Group) -> str:
    """The module of a tensor, without the cell inside it."""
    return mf.parent.removesuffix(port.inner).removesuffix(".") if port.inner else mf.parent


def _reason(port: Port, hf: Group, mf: Group) -> str:
    if port.note:
        return f"{port.layer}: {port.note}"
    inside = f"{port.inner}." if port.inner else ""
    return f"{port.layer}: MindSpore calls {hf.leaf} {inside}{mf.leaf}"
