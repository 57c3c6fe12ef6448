"""Match torch layers with MindSpore cells by the names of their tensors. The table is `families/words/cell_ports.py`.

A layer is recognised by all of its tensors on both sides: `weight` and `gamma` are a BatchNorm beside running means, else a LayerNorm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.families.words.cell_ports import ATTENTION, PORTS, Port

FEWEST_KERNEL_AXES = 4  # a weight with fewer axes need not be a convolution: three may be experts

Leaves = Mapping[str, frozenset[str]]  # by module: the leaves of its tensors


@dataclass(frozen=True, slots=True)
class PortMatch:
    """What the table says about two tensors.

    Attributes:
        reason: for the user; may be empty.
        same_place: whether the module has the same name on both sides.
        fixed_axes: whether the order of the axes is known.
    """

    reason: str
    same_place: bool
    fixed_axes: bool = False


def leaves_of(groups: Iterable[Group]) -> Leaves:
    """The leaves of every module."""
    found: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        found[group.parent].add(group.leaf)
    return {parent: frozenset(leaves) for parent, leaves in found.items()}


def match_port(hf: Group, mf: Group, hf_leaves: Leaves, mf_leaves: Leaves) -> PortMatch | None:
    """What the table says about a pair; None if it says nothing."""
    for port in PORTS:
        if _fits(port, hf, mf, hf_leaves, mf_leaves):
            return PortMatch(_reason(port, hf, mf), hf.parent == _outside(port, mf), port.axis)
    if hf.leaf == mf.leaf and hf.shape == mf.shape:
        kernel = len(hf.shape) >= FEWEST_KERNEL_AXES and hf.leaf == "weight"
        reason = "a convolution: both keep its axes in the same order" if kernel else ""
        return PortMatch(reason, hf.parent == mf.parent, kernel)
    return None


def is_joint(hf: Group, mf: Group) -> bool:
    """Whether both are the q, k and v of the frameworks' own attention, whose order is known."""
    return hf.leaf in ATTENTION.names and mf.leaf == hf.leaf


def why_dropped(hf: Group) -> str | None:
    """Why only torch has a tensor; None if the table does not know it."""
    return next((port.dropped[hf.leaf] for port in PORTS if hf.leaf in port.dropped), None)


def _fits(port: Port, hf: Group, mf: Group, hf_leaves: Leaves, mf_leaves: Leaves) -> bool:
    """Whether two tensors have the names of a port, and no tensor beside them belongs to another layer."""
    names = (port.names.get(hf.leaf), port.alone.get(hf.leaf))
    if mf.leaf not in names or (port.inner and not f".{mf.parent}".endswith(f".{port.inner}")):
        return False
    if port.axis and (hf.leaf != "weight" or len(hf.shape) != 3 or mf.shape != (*hf.shape[:2], 1, hf.shape[2])):
        return False
    here, there = {*port.names, *port.dropped}, {*port.names.values(), *port.alone.values()}
    return hf_leaves[hf.parent] <= here and mf_leaves[mf.parent] <= there


def _outside(port: Port, mf: Group) -> str:
    """The module of a tensor without the port's inner cell."""
    return mf.parent.removesuffix(port.inner).removesuffix(".") if port.inner else mf.parent


def _reason(port: Port, hf: Group, mf: Group) -> str:
    if port.note:
        return f"{port.layer}: {port.note}"
    inside = f"{port.inner}." if port.inner else ""
    return f"{port.layer}: MindSpore calls {hf.leaf} {inside}{mf.leaf}"
