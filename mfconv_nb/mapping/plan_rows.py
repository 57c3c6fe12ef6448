"""What a plan is made of: rows (one rule for layer 3, say), the parts of their targets, and problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mfconv_nb.core.blocks import Block
from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.mapping.rules import AnyRule

# how a target tensor comes about, or why a source tensor has no target
MAPPED, TIED, DROPPED, RESTORED, LEFT_OUT = "mapped", "tied", "dropped", "restored", "left out"
LAST = 1 << 60  # the place of rows without a source: after all others

HINT_OTHER_SIDE = "a name of the target side already"


@dataclass(frozen=True, slots=True)
class Part:
    """One block of a target tensor, and the source tensor it comes from; None for a block of zeros."""

    source: str | None
    block: Block


@dataclass(frozen=True, slots=True)
class Row:
    """One instance of a rule: for layer 3, say. ``parts`` is empty for a plain rename, where every number keeps its place.

    Attributes:
        zeros: blocks of source tensors that have no target, and so must hold zeros.
        copies: names of source tensors that have no target, and so must equal the first source.
        sizes: the sizes of the rule's axes here, shared by all rows of the same shapes; empty where there is no sentence.
    """

    status: str
    rule: AnyRule
    sources: tuple[TensorSpec, ...]
    targets: tuple[TensorSpec, ...]
    parts: tuple[tuple[Part, ...], ...] = ()
    why: str = ""
    zeros: tuple[Part, ...] = ()
    copies: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)


PlacedRow = tuple[int, Row]  # with the place of its first tensor in the source, which orders the target


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plan cannot be carried out. ``kind`` is one of unmatched, ambiguous, missing, shape, dtype, surplus, adapter."""

    kind: str
    name: str
    found: str
    expected: str
    hint: str = ""
