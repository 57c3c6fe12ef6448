"""A mapping plan: for every tensor of the target, which blocks of which source tensors it is made of; and what stands in the way.

Pure: it reads nothing and guesses nothing. A plan with problems (a name no rule knows, a missing tensor, a shape that contradicts
config.json) is never carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mfconv_nb.core.blocks import Block
from mfconv_nb.core.checkpoint import Original, TensorSpec
from mfconv_nb.core.sizes import Sizes
from mfconv_nb.mapping.adapters import Stacking, with_adapters
from mfconv_nb.mapping.kinds import Kind
from mfconv_nb.mapping.making_rows import make_rows
from mfconv_nb.mapping.matching import match_names, read_inputs
from mfconv_nb.mapping.missing import collision_problems, missing_problems, restored_rows, tied_rows
from mfconv_nb.mapping.plan_rows import DROPPED, HINT_OTHER_SIDE, LEFT_OUT, MAPPED, RESTORED, TIED, Part, Problem, Row
from mfconv_nb.mapping.rules import Family

__all__ = [
    "DROPPED",
    "HINT_OTHER_SIDE",
    "LEFT_OUT",
    "MAPPED",
    "RESTORED",
    "TIED",
    "Block",
    "MappingPlan",
    "Part",
    "Problem",
    "Row",
    "plan_mapping",
]


@dataclass(frozen=True)
class MappingPlan:
    """What goes where (``rows``, in the order of the source), and what stands in the way (``problems``).

    ``layers`` and ``leave_out``: what the caller left out of the source. ``stacking``: of its adapters, where they are stacked.
    """

    family: Family
    to: str
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    layers: int | None = None
    leave_out: tuple[str, ...] = ()
    stacking: Stacking | None = None


def plan_mapping(
    specs: Sequence[TensorSpec],
    family: Family,
    to: str,
    *,
    sizes: Sizes | None = None,
    original: Original | None = None,
    layers: int | None = None,
    leave_out: Sequence[str] = (),
    adapters: str | None = None,
    stacking: Stacking | None = None,
    told: Mapping[str, Kind] = {},
) -> MappingPlan:
    """Match ``specs`` against the rules of ``family``, in the direction ``to``.

    Args:
        family: with its options decided (see ``form_of``).
        sizes: the axis sizes from config.json; None when there is no config. Then shapes alone must determine every axis.
        original: what a manifest remembers of the target side.
        layers: convert only the first N layers; the others are listed as left out.
        leave_out: patterns of source names, with ``*``, that are not converted.
        adapters: how MindFormers names the halves of LoRA adapters (see ``adapters.py``), on the way there. None: as for the family.
        stacking: of adapters that are stacked on the MindFormers side; None where layers that are joined have equal A.
        told: kinds of tensors that are not told by their own names; they count where no rule knows a tensor.
    """
    matched = family
    if any("lora_" in s.name for s in specs):
        names = (s.name for s in specs if not any(fnmatchcase(s.name, p) for p in leave_out))
        matched = with_adapters(family, names, to, adapters, stacking)
    inputs = read_inputs(matched, to, sizes, original, layers, leave_out, told)
    matches = match_names(specs, inputs)
    made, row_problems = make_rows(inputs, matches)
    found = [*matches.rows, *made]
    rows = [*found, *tied_rows(inputs, matches, found), *restored_rows(inputs)]
    early = [*matches.problems, *row_problems]
    problems = (*early, *missing_problems(inputs, matches, early), *collision_problems(rows))
    ordered = tuple(row for _, row in sorted(rows, key=lambda placed: placed[0]))
    return MappingPlan(family, to, ordered, problems, layers, tuple(leave_out), stacking)
