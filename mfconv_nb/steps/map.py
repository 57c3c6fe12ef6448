"""map: the same numbers under the names and shapes of the other side. Lazy: no weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.blocks import compose
from mfconv_nb.checkpoint import HF, MF, Checkpoint, Equality, LazyTensor, Original, Piece, TensorSpec
from mfconv_nb.collector import makes_many_objects
from mfconv_nb.config import Size, Sizes, read_sizes
from mfconv_nb.dtypes import short_name
from mfconv_nb.errors import MappingError, UsageError, did_you_mean, one_line, quoted
from mfconv_nb.families.registry import family_named, identify
from mfconv_nb.folding import fold, folded_name, folded_names
from mfconv_nb.mapping.plan import DROPPED, HINT_OTHER_SIDE, LEFT_OUT, MAPPED, RESTORED, TIED, MappingPlan, Problem, Row, plan_mapping
from mfconv_nb.mapping.rules import Family, Tied
from mfconv_nb.report import Column, Result, Table, bytes_text, count_text, shape_text
from mfconv_nb.steps.load import load
from mfconv_nb.streaming.gather import made_whole

SIDES = {HF: "Hugging Face", MF: "MindFormers"}


@makes_many_objects
def map(
    checkpoint: Checkpoint,
    family: str | Family | None = None,
    *,
    to: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    layers: int | None = None,
    n_head: int | None = None,
    hidden_size: int | None = None,
) -> Checkpoint:
    """Give a checkpoint the names and shapes of the other side. The result is lazy; its ``report`` says what goes where.

    Args:
        family: a key (``"llama"``) or a ``Family``. Left out: told from the manifest, the config and the names.
        to: "mf" (MindFormers) or "hf" (Hugging Face). Left out: away from the side the checkpoint is on.
        config: a config.json, its folder, or its content, instead of the one the checkpoint has.
        layers: convert the first N layers only; the others are listed as left out.
        n_head, hidden_size: what config.json says; used where there is none, checked where there is one.
    Raises:
        MappingError: MFC301 to MFC305. With MFC303 the error holds every problem, folded.
    """
    if layers is not None and layers < 1:
        raise UsageError("MFC501", "layers", found=layers, expected="at least 1")
    source = load(checkpoint, config=config)
    to = _direction(source, to)
    chosen = _family(source, family, to)
    sizes = _sizes(source, chosen, {"heads": n_head, "hidden": hidden_size})
    original = source.original if source.original is not None and source.original.side == to else None
    plan = plan_mapping(source.specs, chosen, to, sizes=sizes, original=original, layers=layers)
    if plan.problems:
        raise CoverageError(plan, source)
    return _mapped(_with_layers(source, sizes, layers), plan, original)


def _with_layers(source: Checkpoint, sizes: Sizes | None, layers: int | None) -> Checkpoint:
    """Where only the first layers are taken, the config says so too: the result is a checkpoint of that many layers."""
    key = sizes["layer"].origin if sizes is not None and "layer" in sizes else None
    if layers is None or source.config is None or key is None or key not in source.config:
        return source
    return replace(source, config={**source.config, key: min(layers, source.config[key])})


def _direction(source: Checkpoint, to: str | None) -> str:
    if to is None:
        return HF if source.side == MF else MF
    if to not in SIDES:
        hint = did_you_mean(to, SIDES)
        raise UsageError("MFC501", "to", found=quoted(to), expected="'hf' or 'mf'", hint=hint)
    return to


def _family(source: Checkpoint, family: str | Family | None, to: str) -> Family:
    if isinstance(family, Family):
        return family
    key = family or source.family
    return family_named(key) if key else identify(source.tensors, source.config, to)


def _sizes(source: Checkpoint, family: Family, given: Mapping[str, int | None]) -> Sizes | None:
    """The sizes from the config; what the caller gave is checked against it, or used where there is no config."""
    told = {axis: Size(value, "the call") for axis, value in given.items() if value is not None}
    if source.config is None:
        return told or None
    sizes = read_sizes(source.config, family.sizes)
    for axis, size in told.items():
        if axis in sizes and sizes[axis].value != size.value:
            expected = f"{sizes[axis].value}, from {sizes[axis].origin} in config.json"
            hint = "Leave the option out: the config says it."
            raise MappingError("MFC304", axis, found=size.value, expected=expected, hint=hint)
    return {**told, **sizes}


# ---- the result --------------------------------------------------------------------------------------------------------


def _mapped(source: Checkpoint, plan: MappingPlan, original: Original | None) -> Checkpoint:
    tensors: dict[str, LazyTensor] = {}
    carried: dict[str, LazyTensor] = {}
    equalities: list[Equality] = []
    fixed: set[str] = set()
    maker = _Maker(source)
    for row in plan.rows:
        if row.status == RESTORED and original is not None:
            tensors |= {spec.name: original.carried[spec.name] for spec in row.targets}
            fixed |= {spec.name for spec in row.targets}  # they come back as they were, whatever cast is asked for
        elif row.status == DROPPED:
            carried |= {spec.name: source.tensors[spec.name] for spec in row.sources}
        else:
            for number, spec in enumerate(row.targets):
                tensors[spec.name] = maker.target(row, number)
                if getattr(row.rule, "dtype", None):
                    fixed.add(spec.name)
    for row in plan.rows:
        if row.status == TIED and not row.targets and isinstance(row.rule, Tied):
            head, embedding = source.tensors[row.sources[0].name], tensors.get(row.rule.same_as)
            if embedding is not None:
                equalities.append(Equality(head, embedding, f"{row.rule.hf} is tied to {row.rule.same_as}"))
    here = HF if plan.to == MF else MF
    return replace(
        source,
        tensors=tensors,
        origin=f"{source.origin}, mapped to {SIDES[plan.to]}",
        side=plan.to,
        family=plan.family.key,
        original=Original(here, frozenset(source.tensors), carried),
        equalities=tuple(equalities),
        fixed_dtypes=frozenset(fixed),
        report=MapReport(plan, source.origin, source.others),
    )


class _Maker:
    """Makes target tensors from rows; a source that cannot be seen through is made whole once, when it is read."""

    def __init__(self, source: Checkpoint) -> None:
        self.source = source
        self.made: dict[str, LazyTensor] = {}

    def target(self, row: Row, number: int) -> LazyTensor:
        spec = row.targets[number]
        if not row.parts:
            tensor = self.source.tensors[row.sources[number].name]
            return LazyTensor(spec, tensor.pieces)
        parts = [self.source.tensors[part.source] for part in row.parts[number]]
        if any(not t.pieces and t.spec.elements for t in parts):
            return LazyTensor(spec, ())  # a name and a shape only, as torch's meta device gives
        pieces = [piece for part in row.parts[number] for piece in self._seen_through(part.source, part.block)]
        return LazyTensor(spec, tuple(pieces))

    def _seen_through(self, name: str, block: Any) -> list[Piece]:
        tensor = self.made.get(name) or self.source.tensors[name]
        found: list[Piece] = []
        for piece in tensor.pieces:
            blocks = compose(block, piece.block) if piece.dtype == tensor.dtype else None
            if blocks is None:
                self.made[name] = made_whole(tensor)
                return self._seen_through(name, block)
            found += [Piece(piece.source, piece.start, piece.dtype, b) for b in blocks]
        return found


@dataclass(frozen=True, repr=False)
class MapReport(Result):
    """How a checkpoint was mapped: one row a rule, however many layers it has."""

    plan: MappingPlan
    origin: str = ""
    others: tuple[Any, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Source tensors by status (target tensors for those that only the target has)."""
        counts = dict.fromkeys((MAPPED, TIED, DROPPED, RESTORED, LEFT_OUT), 0)
        for row in self.plan.rows:
            counts[row.status] += len(row.sources) or len(row.targets)
        return counts

    def table(self) -> Table:
        counts = self.counts
        targets = [t for row in self.plan.rows for t in row.targets]
        said = ", ".join(f"{n:,} {status}" for status, n in counts.items() if n or status == MAPPED)
        headline = (
            f"{self.plan.family.key}, to {SIDES[self.plan.to]}: {said}, 0 problems · {len(targets):,} tensors"
            f" · {count_text(sum(t.elements for t in targets))} parameters · {bytes_text(sum(t.nbytes for t in targets))}"
        )
        here, there = (SIDES[HF], SIDES[MF]) if self.plan.to == MF else (SIDES[MF], SIDES[HF])
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
        others = tuple(f"left out, no tensor: {o.name} ({o.kind})" for o in self.others[:4])
        return Table("", headline, columns, list(_folded(self.plan.rows)), others, "mapped.report.to_frame()", "rules")


def _folded(rows: tuple[Row, ...]) -> list[tuple[Any, ...]]:
    """Rows of one rule with the same shapes as one line."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        specs = row.targets or row.sources
        key = (row.status, id(row.rule), tuple(s.shape for s in specs), specs[0].dtype)
        groups.setdefault(key, []).append(row)
    return [_line(status, group) for (status, *_), group in groups.items()]


def _line(status: str, rows: list[Row]) -> tuple[Any, ...]:
    first = rows[0]
    specs = first.targets or first.sources
    layout = getattr(first.rule, "layout", None) or ""
    shapes = ", ".join(dict.fromkeys(shape_text(s.shape) for s in specs))
    count = sum(len(r.sources) or len(r.targets) for r in rows)
    nbytes = sum(s.nbytes for r in rows for s in (r.targets or r.sources))
    sources, targets = (_names(rows, place) for place in ("sources", "targets"))
    why = first.why if status != MAPPED else layout
    return (status, sources, targets, why, shapes, short_name(specs[0].dtype), count, bytes_text(nbytes))


def _names(rows: list[Row], place: str) -> str:
    """The names on one side, folded, one line a pattern; a dash where there are none."""
    specs: list[TensorSpec] = [spec for row in rows for spec in getattr(row, place)]
    return "\n".join(folded_names(s.name for s in specs)) or "-"


class CoverageError(MappingError):
    """A plan with problems (MFC303): what they are, folded, with the nearest rule where a name is unknown."""

    def __init__(self, plan: MappingPlan, source: Checkpoint) -> None:
        self.plan, self.problems = plan, plan.problems
        where = f"{source.origin} to {SIDES[plan.to]}, family {plan.family.key}"
        super().__init__("MFC303", where, found=_problem_lines(plan), expected=EXPECTED, hint=_hint(plan))

    def table(self) -> Table:
        """The problems as a table, one row a tensor."""
        columns = tuple(Column(t) for t in ("kind", "name", "found", "expected", "hint"))
        rows = [(p.kind, p.name, p.found, p.expected, p.hint) for p in self.problems]
        return Table("✗ Refused.", f"{len(rows):,} problems", columns, rows, row_noun="problems")


EXPECTED = "every tensor matched by exactly one rule, shapes and layers as in config.json"
MAX_GROUPS = 6  # of problems that an error shows; table() of the error has all


def _hint(plan: MappingPlan) -> str | None:
    """One way out for the whole plan: the other direction, or the config where every problem is about it."""
    if _is_other_side(plan):
        return f"The other direction: {'--reversed, to=' + repr(HF) if plan.to == MF else 'without --reversed, to=' + repr(MF)}."
    if any(p.kind == "unmatched" for p in plan.problems):
        return "Is it another family? `mfconv families` lists those that are known; --model KEY chooses one."
    hints = list(dict.fromkeys(p.hint for p in plan.problems if p.kind in ("shape", "missing", "surplus") and p.hint))
    return hints[0] if hints else None


def _is_other_side(plan: MappingPlan) -> bool:
    unmatched = [p for p in plan.problems if p.kind == "unmatched"]
    return bool(unmatched) and all(p.hint == HINT_OTHER_SIDE for p in unmatched)


def _problem_lines(plan: MappingPlan) -> str:
    """Problems folded: one line for all layers that have the same, and for all names of a layer that is missing or too much."""
    problems = plan.problems
    said = f"{len(problems):,} problem{'s' * (len(problems) != 1)}"
    if _is_other_side(plan):
        return f"{said}: the names are of the {SIDES[plan.to]} side already"
    causes: dict[tuple[Any, ...], list[list[Problem]]] = {}
    for group in _grouped(problems):
        indices = frozenset(fold(p.name)[1] for p in group)
        by_layer = group[0].kind in ("missing", "surplus") and indices != {()}
        causes.setdefault((group[0].kind, group[0].expected, indices) if by_layer else (len(causes),), []).append(group)
    lines = [said, *(_cause_line(groups) for groups in list(causes.values())[:MAX_GROUPS])]
    if len(causes) > MAX_GROUPS:
        lines.append(f"and {len(causes) - MAX_GROUPS} more groups: .table() of the error has all")
    return "\n            ".join(lines)


def _grouped(problems: tuple[Problem, ...]) -> list[list[Problem]]:
    groups: dict[tuple[str, str, str, str], list[Problem]] = {}
    for p in problems:
        groups.setdefault((p.kind, fold(p.name)[0], fold(p.found)[0], p.expected), []).append(p)
    return list(groups.values())


def _cause_line(groups: list[list[Problem]]) -> str:
    first, total = groups[0][0], sum(len(group) for group in groups)
    more = f" and {len(groups) - 1} more names a layer" if len(groups) > 1 else ""
    count = f" ({total:,} tensors)" if total > 1 else ""
    near = f"; {first.hint}" if first.kind == "unmatched" and first.hint else ""
    wanted = "" if first.kind == "unmatched" else f", expected {first.expected}"
    return one_line(f"{first.kind:<10} {folded_name(p.name for p in groups[0])}{more}{count}: {first.found}{wanted}{near}")
