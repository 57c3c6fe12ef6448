"""How a checkpoint was mapped, or why it cannot be: one row per rule, however many layers it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, Checkpoint, TensorSpec
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import Lines, MappingError, to_one_line
from mfconv_nb.core.folding import fold, folded_name, folded_names
from mfconv_nb.core.report import Column, Table, bytes_text, how_many, how_many_in_short, shape_text
from mfconv_nb.families.same_maths import model_type_of
from mfconv_nb.mapping.explain import explain_tensor
from mfconv_nb.mapping.plan import HINT_OTHER_SIDE, LEFT_OUT, MAPPED, MappingPlan, Problem, Row
from mfconv_nb.mapping.remedies import HINT_FAMILY, Remedy, remedy_of
from mfconv_nb.mapping.rules import Family, OptionValue
from mfconv_nb.steps.converting.map_rows import counts_by_status, groups_of_rows
from mfconv_nb.steps.converting.map_view import MappingExploration
from mfconv_nb.views.drawing import Drawing
from mfconv_nb.views.explained import ExplainReport, drawing_of, make_explain_report
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable, show_view


@dataclass(frozen=True, repr=False)
class MapReport(Explorable):
    """How a checkpoint was mapped: one row per rule, however many layers it has.

    Attributes:
        plan: by one form of a family.
        family: that family, with all its forms.
        decided: of each option how it was decided.
    """

    plan: MappingPlan
    family: Family
    origin: str = ""
    others: tuple[Any, ...] = ()
    decided: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> Mapping[str, OptionValue]:
        """The options of the family, as they were decided."""
        return self.plan.family.chosen

    @property
    def counts(self) -> dict[str, int]:
        """Source tensors by status (target tensors for those that only the target has)."""
        return counts_by_status(self.plan)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is not converted, a line per reason, with counts and bytes."""
        by_reason: dict[str, list[TensorSpec]] = {}
        for row in self.plan.rows:
            if row.status == LEFT_OUT:
                by_reason.setdefault(row.why, []).extend(row.sources)
        return tuple(
            f"left out: {how_many(len(s), 'tensor')}, {bytes_text(sum(x.nbytes for x in s))}: {why}" for why, s in by_reason.items()
        )

    def explain(self, name: str, index: int | Sequence[int] | None = None, *, side: str | None = None) -> ExplainReport:
        """Where the numbers of a tensor come from, or go: a line per part. With an index, where that one element is on the other side.

        Args:
            name: a tensor of either side.
            index: one number an axis; negative ones count from the end.
            side: "source" or "target". Left out: the target where both sides have the name.
        Raises:
            MappingError: MFC309 for an unknown name. UsageError: MFC501 for an index outside the tensor.
        """
        return make_explain_report(self.plan, name, index, side)

    def drawing(self, name: str, *, side: str | None = None) -> Drawing:
        """The rule of a tensor as a picture: sources left, targets right, their parts by role. Arguments and errors as ``explain``."""
        return drawing_of(explain_tensor(self.plan, name, side))

    def table(self) -> Table:
        counts = self.counts
        targets = [t for row in self.plan.rows for t in row.targets]
        said = ", ".join(f"{n:,} {status}" for status, n in counts.items() if n or status == MAPPED)
        numbers = sum(t.elements for t in targets)
        headline = (
            f"{self.plan.family.key}, to {SIDE_NAMES[self.plan.to]}: {said}, 0 problems · {how_many(len(targets), 'tensor')}"
            f" · {how_many_in_short(numbers, 'parameter')} · {bytes_text(sum(t.nbytes for t in targets))}"
        )
        here, there = (SIDE_NAMES[HF], SIDE_NAMES[MF]) if self.plan.to == MF else (SIDE_NAMES[MF], SIDE_NAMES[HF])
        columns = (
            Column("status"),
            Column(here),
            Column(there),
            Column("layout", optional=True),
            Column("shape", True),
            Column("dtype", optional=True),
            Column("tensors", True),
            Column("bytes", True, optional=True),
        )
        facts = self.notes + self.left_out + tuple(f"{n}={self.options[n]!r}: {how}" for n, how in self.decided.items())
        facts += tuple(f"left out, no tensor: {o.name} ({o.kind})" for o in self.others[:4])
        return Table("", headline, columns, self._lines, facts, "mapped.report.to_frame()", "rules")

    @cached_property
    def groups(self) -> list[list[Row]]:
        """Rows of one rule with the same shapes: what stands in one line of the table."""
        return groups_of_rows(self.plan)

    @cached_property
    def _lines(self) -> list[tuple[Any, ...]]:
        """The rows of the table: kept, since a notebook shows view, HTML and text (0.2 s each for 92,000 names)."""
        return [_line(group) for group in self.groups]

    def exploration(self, checkpoint: Checkpoint | None = None) -> Exploration:
        """What a notebook's view of the mapping shows; with the mapped checkpoint, the values of its tensors too."""
        return MappingExploration(self.plan, self.groups, self.table(), checkpoint)

    def show_for(self, checkpoint: Checkpoint) -> None:
        """Show the view of the mapped checkpoint: the mapping, and the values of its tensors."""
        show_view(checkpoint, self.exploration(checkpoint))


def _line(rows: list[Row]) -> tuple[Any, ...]:
    first = rows[0]
    specs = first.targets or first.sources
    layout = getattr(first.rule, "layout", None) or ""
    shapes = ", ".join(dict.fromkeys(shape_text(s.shape) for s in specs))
    count = sum(len(r.sources) or len(r.targets) for r in rows)
    nbytes = sum(s.nbytes for r in rows for s in (r.targets or r.sources))
    sources, targets = (_names(rows, place) for place in ("sources", "targets"))
    why = first.why if first.status != MAPPED else layout
    return (first.status, sources, targets, why, shapes, short_name(specs[0].dtype), count, bytes_text(nbytes))


def _names(rows: list[Row], place: str) -> str:
    """The names on one side, folded, one line per pattern; a dash where there are none."""
    specs: list[TensorSpec] = [spec for row in rows for spec in getattr(row, place)]
    return Lines("\n".join(folded_names(s.name for s in specs)) or "-")


class CoverageError(MappingError):
    """A plan with problems (MFC303): what they are, folded, with the nearest rule where a name is unknown.

    ``leave_out``: patterns of the names without which everything fits, where these are few and no part of what a model computes.
    ``nearest``: the family with its options and how many names it does not know, where names showed it and some of them do not fit.
    """

    def __init__(self, plan: MappingPlan, source: Checkpoint, *, told: Mapping[str, OptionValue] | None = None) -> None:
        """``told``: where nobody named the family, the options that are not as usual."""
        self.plan, self.problems = plan, plan.problems
        self.nearest = "" if told is None or _is_other_side(plan) else _nearest_text(plan, told)
        where = f"{source.origin} to {SIDE_NAMES[plan.to]}, family {plan.family.key}"
        remedy = None if _is_other_side(plan) else remedy_of(plan, source.specs, source.origin if source.files else None, source.config)
        if self.nearest and remedy is not None and remedy.leave_out and _is_told_by_names_of_layers(plan, source):
            key = plan.family.key  # without the names that make it another model it would be taken for this one
            remedy = Remedy(HINT_NAMES_ALONE.format(key=key))
        self.leave_out = remedy.leave_out if remedy is not None else ()
        hint = remedy.hint if remedy is not None else _hint(plan)
        super().__init__("MFC303", where, found=_problem_lines(plan, self.nearest), expected=EXPECTED, hint=hint)

    def table(self) -> Table:
        """The problems as a table, one row per tensor."""
        columns = tuple(Column(t) for t in ("kind", "name", "found", "expected", "hint"))
        rows = [(p.kind, p.name, p.found, p.expected, p.hint) for p in self.problems]
        return Table("✗ Refused.", how_many(len(rows), "problem"), columns, rows, row_noun="problems")


EXPECTED = "every tensor matched by exactly one rule, shapes and layers as in the config"
HINT_OF_KIND = {
    "dtype": "Give all tensors one dtype first: mfconv save IN BETWEEN --dtype bf16 (dtype= of mc.save in Python), and convert that.",
    "missing": "Fetch the checkpoint again, or give all of its files: a part of it is not here.",
}
HINT_NAMES_ALONE = (
    "Only names say that it is {key}, and layers have more than {key} has. Give its config.json (--config, config= in Python), or say what "
    "it is: --model {key} (family='{key}' in Python)."
)
MAX_GROUPS = 6  # of problems that an error shows; table() of the error has all


def _hint(plan: MappingPlan) -> str | None:
    """One way out for the whole plan: the other direction, or the config where every problem is about it."""
    if _is_other_side(plan):
        return f"The other direction: {'--reversed, to=' + repr(HF) if plan.to == MF else 'without --reversed, to=' + repr(MF)}."
    adapters = [p.hint for p in plan.problems if p.kind == "adapter"]
    if adapters:
        return adapters[0]
    if any(p.kind == "unmatched" for p in plan.problems):
        return HINT_FAMILY
    hints = list(dict.fromkeys(p.hint for p in plan.problems if p.kind in ("shape", "missing", "surplus") and p.hint))
    return hints[0] if hints else next((HINT_OF_KIND[p.kind] for p in plan.problems if p.kind in HINT_OF_KIND), None)


def _is_other_side(plan: MappingPlan) -> bool:
    unmatched = [p for p in plan.problems if p.kind == "unmatched"]
    return bool(unmatched) and all(p.hint == HINT_OTHER_SIDE for p in unmatched)


def _problem_lines(plan: MappingPlan, nearest: str) -> str:
    """Problems folded: one line for all layers that have the same, and for all names of a layer that is missing or too much."""
    problems = plan.problems
    said = how_many(len(problems), "problem")
    if _is_other_side(plan):
        return f"{said}: the names are of the {SIDE_NAMES[plan.to]} side already"
    said += f"; nearest: {nearest}" if nearest else ""
    causes: dict[tuple[Any, ...], list[list[Problem]]] = {}
    for group in _group_problems(problems):
        indices = frozenset(fold(p.name)[1] for p in group)
        by_layer = group[0].kind in ("missing", "surplus") and indices != {()}
        causes.setdefault((group[0].kind, group[0].expected, indices) if by_layer else (len(causes),), []).append(group)
    lines = [said, *(_cause_line(groups) for groups in list(causes.values())[:MAX_GROUPS])]
    if len(causes) > MAX_GROUPS:
        lines.append(f"and {how_many(len(causes) - MAX_GROUPS, 'more group')}: .table() of the error has all")
    return Lines("\n            ".join(lines))


def _is_told_by_names_of_layers(plan: MappingPlan, source: Checkpoint) -> bool:
    """Whether no config says the model, and layers have something that the nearest family does not know: it may be another model."""
    return model_type_of(source.config) is None and any(fold(p.name)[1] for p in plan.problems if p.kind == "unmatched")


def _nearest_text(plan: MappingPlan, told: Mapping[str, OptionValue]) -> str:
    """A family, its form, and how many names it does not know, whatever their numbers; empty where it knows all."""
    strange = len({fold(p.name)[0] for p in plan.problems if p.kind == "unmatched"})
    form = ", ".join(f"{name}={value!r}" for name, value in told.items())
    return f"{plan.family.key}{f' ({form})' if form else ''}; {how_many(strange, 'name')} it does not know" if strange else ""


def _group_problems(problems: tuple[Problem, ...]) -> list[list[Problem]]:
    groups: dict[tuple[str, str, str, str], list[Problem]] = {}
    for p in problems:
        groups.setdefault((p.kind, fold(p.name)[0], fold(p.found)[0], p.expected), []).append(p)
    return list(groups.values())


def _cause_line(groups: list[list[Problem]]) -> str:
    first, total = groups[0][0], sum(len(group) for group in groups)
    more = f" and {how_many(len(groups) - 1, 'more name')} a layer" if len(groups) > 1 else ""
    count = f" ({total:,} tensors)" if total > 1 else ""
    near = f"; {first.hint}" if first.kind == "unmatched" and first.hint else ""
    wanted = "" if first.kind == "unmatched" else f", expected {first.expected}"
    return to_one_line(f"{first.kind:<10} {folded_name(p.name for p in groups[0])}{more}{count}: {first.found}{wanted}{near}")
