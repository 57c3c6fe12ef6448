"""Check each row of a draft against the names and shapes of two real checkpoints. Pure; fast enough to run while the user types.

``Sides`` folds all names once and remembers the judgement of a row until the row or a size in it changes, so a keystroke costs one row.

Raises nothing: whatever is wrong becomes a mark and a message of the judgement.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from mfconv_nb.author.editing.draft_rows import HERE, Draft, DraftRow, Fault, read_lines, read_names, row_id_of, rules_of
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, TensorSpec
from mfconv_nb.core.errors import MfconvError, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.layout import axis_names
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import Size, Sizes, read_sizes
from mfconv_nb.mapping.flaws import Flaw, early_flaws_of, flaws_of
from mfconv_nb.mapping.forms import MAX_FORMS, all_forms
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.mapping.matching import MAPPED, Matcher, Problem, Row
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Repeated, Rule, Tied, default_form, layouts_of, numbered_rules, sides_of

GOOD, DOUBT, BAD, QUIET = "✓", "!", "✗", "–"
PLACEHOLDER = re.compile(r"\{[a-z_][a-z0-9_]*\}")
MOST_KEPT = 2000  # remembered judgements: a long session of typing

Hits = Sequence[int]  # positions in the list of names of one template
TakenNames = Set[tuple[str, str]]  # (side, name): names that other rows claim first


class Side:
    """The names of one side, folded once."""

    def __init__(self, specs: Iterable[TensorSpec], side: str) -> None:
        self.side = side
        self.groups: dict[str, list[tuple[tuple[int, ...], TensorSpec]]] = {}
        self.by_name: dict[str, TensorSpec] = {}
        for spec in specs:
            if side == MF and is_run_state(spec.name):
                continue
            template, numbers = fold(spec.name)
            self.groups.setdefault(template, []).append((numbers, spec))
            self.by_name[spec.name] = spec
        self._hits: dict[str, Hits] = {}

    def __len__(self) -> int:
        return len(self.by_name)

    def hits(self, pattern: Pattern) -> Hits:
        """Which names of its template a pattern matches, as positions in ``groups``."""
        if pattern.text not in self._hits:
            if len(self._hits) > MOST_KEPT:
                self._hits.clear()
            group = self.groups.get(pattern.template, [])
            if len(set(pattern.slots)) == len(pattern.slots) and all(isinstance(slot, str) for slot in pattern.slots):
                self._hits[pattern.text] = range(len(group))  # only different placeholders: every name matches
            else:
                self._hits[pattern.text] = [n for n, (numbers, _) in enumerate(group) if pattern.match(numbers) is not None]
        return self._hits[pattern.text]

    def specs(self, pattern: Pattern) -> Iterator[TensorSpec]:
        """The tensors that a pattern matches."""
        group = self.groups.get(pattern.template, [])
        return (group[n][1] for n in self.hits(pattern))


class Sides:
    """What a draft is judged on: both sides and the config. If the MindFormers side is None, only the Hugging Face side is checked."""

    def __init__(self, hf: Iterable[TensorSpec], mf: Iterable[TensorSpec] | None, config: Mapping[str, Any] | None = None) -> None:
        self.hf, self.mf, self.config = Side(hf, HF), Side(mf or (), MF), config
        self.has_mf = mf is not None
        self.known: dict[object, RowJudgement] = {}  # remembered, see _judge_rule


@dataclass(frozen=True, slots=True)
class ShapeError:
    """A tensor whose shape contradicts its row."""

    tensor: str
    found: str
    expected: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RowJudgement:
    """The mark and the message of one row.

    Attributes:
        mark: ✓ the row is right, ! the user should look at it, ✗ it is wrong, – it matches nothing here and need not.
        words: the reason, as a sentence.
        fault: why the row cannot be read, or would be wrong on any shapes.
        shapes: the first shape errors; ``shape_count`` counts all tensors with one.
        hf, mf: how many names of each side it matches.
        ambiguous: the ids of the rows that match some of the same names.
        example: one instance of the rule, for a picture.
    """

    mark: str
    words: str
    fault: Fault | None = None
    shapes: tuple[ShapeError, ...] = ()
    shape_count: int = 0
    hf: int = 0
    mf: int = 0
    ambiguous: tuple[int, ...] = ()
    example: Row | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SizeJudgement:
    """One line of the family's sizes: its number by the config, or what is wrong with it."""

    axis: str
    sentence: str
    value: int | None
    words: str
    mark: str


@dataclass(frozen=True)
class Judgement:
    """How a draft fits two sides.

    Attributes:
        rows: one judgement for each row, in the order of the draft.
        sizes: one judgement for each line of the sizes.
        unmatched: by side, the names that no row matches, grouped by template.
        ambiguous: by side, how many names more than one row matches.
        matched: by side, how many names exactly one row matches.
        flaws: what is wrong with the family as a whole.
        chosen: the options of the form that fits the names best.
    """

    rows: tuple[RowJudgement, ...]
    sizes: tuple[SizeJudgement, ...]
    unmatched: Mapping[str, tuple[tuple[str, ...], ...]]
    ambiguous: Mapping[str, int]
    matched: Mapping[str, int]
    flaws: tuple[Fault, ...] = ()
    chosen: Mapping[str, object] = field(default_factory=dict)

    def unmatched_count(self, side: str) -> int:
        return sum(map(len, self.unmatched[side]))

    @property
    def shape_errors(self) -> int:
        return sum(row.shape_count for row in self.rows)

    @property
    def unreadable(self) -> int:
        return sum(row.fault is not None for row in self.rows)

    @property
    def is_complete(self) -> bool:
        """Whether every row is right and every name has exactly one row."""
        left = sum(map(self.unmatched_count, self.unmatched)) + sum(self.ambiguous.values()) + len(self.flaws)
        return not left and all(row.mark in (GOOD, QUIET) for row in self.rows) and not any(s.mark == BAD for s in self.sizes)


@makes_many_objects
def judge(draft: Draft, sides: Sides) -> Judgement:
    """Judge every row of a draft, and list the names that no row matches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of sizes that are half typed
        return _judge_draft(draft, sides)


def _judge_draft(draft: Draft, sides: Sides) -> Judgement:
    rules, faults = rules_of(draft.rows)
    sentences, wrong_lines = read_lines(draft.sizes, "sizes")
    family = replace(draft.base, rules=tuple(rules.values()), sizes=sentences, written_at=(HERE, 0))
    flaws = _all_flaws(family)
    flaw_by_row = _first_flaws(flaws)
    unreadable = [row for row in draft.rows if row.id in faults]  # their names are not unmatched while the user types a layout
    names_only = [Rule(read_names(row.hf), read_names(row.mf), written_at=(HERE, row.id)) for row in unreadable]
    form = _best_form(family.with_rules((*family.rules, *names_only)), sides)
    size_judgements, sizes = _judge_sizes(sentences, form.sizes, sides.config)
    claims = _claims_of(form, sizes, sides)
    overlaps = _find_overlaps(claims, sides)
    if len(sides.known) > MOST_KEPT:
        sides.known.clear()
    numbers = {row.id: number for number, row in enumerate(draft.rows, 1)}
    rows = []
    for row in draft.rows:
        flaw = flaw_by_row.get(row.id)
        fault = faults.get(row.id) or (_fault_of(row, flaw) if flaw is not None and len(flaw.rules) == 1 else None)
        in_flaw = {row_id_of(rule) for rule in flaw.rules} - {row.id} if flaw is not None else set()
        others = tuple(sorted(in_flaw | overlaps.rows.get(row.id, set()), key=numbers.__getitem__))
        if fault is not None:
            rows.append(RowJudgement(BAD, fault.found, fault, ambiguous=others))
        elif row.id in claims.without_number:
            rows.append(RowJudgement(DOUBT, "a number of its names is a size that only a config.json tells"))
        elif row.id not in claims.rules and not others:
            rows.append(RowJudgement(QUIET, "for another option; these names are not of that form"))
        else:
            known = _judge_rule(claims, row.id, sides, sizes) if row.id in claims.rules else RowJudgement(QUIET, "")
            rows.append(_as_ambiguous(known, others, numbers) if others else known)
    return Judgement(
        tuple(rows),
        size_judgements,
        {side.side: overlaps.unmatched[side.side] for side in (sides.hf, sides.mf)},
        {s: overlaps.ambiguous[s] for s in (HF, MF)},
        {s.side: len(s) - sum(map(len, overlaps.unmatched[s.side])) - overlaps.ambiguous[s.side] for s in (sides.hf, sides.mf)},
        (*wrong_lines, *(Fault("", flaw.found, flaw.expected, flaw.hint) for flaw in flaws if not flaw.rules)),
        form.chosen,
    )


def _all_flaws(family: Family) -> tuple[Flaw, ...]:
    """All flaws of a family: ``flaws_of`` stops at early ones, so rules without one are checked again, with the sizes that are sound."""
    early = early_flaws_of(family)
    if not early:
        return flaws_of(family)
    blamed = {row_id_of(rule) for flaw in early for rule in flaw.rules}
    sound = {axis: s for axis, s in family.sizes.items() if not early_flaws_of(Family("draft", "", (), {axis: s}))}
    named = {axis: sound.get(axis, "0") for axis in family.sizes}
    rest = replace(family, key="draft", sizes=named, rules=tuple(r for r in family.rules if row_id_of(r) not in blamed))
    return (*early, *flaws_of(rest))


def _first_flaws(flaws: Iterable[Flaw]) -> dict[int, Flaw]:
    """By row, the flaw to show: one of the row alone comes before one that it shares with another row."""
    found: dict[int, Flaw] = {}
    for flaw in sorted(flaws, key=lambda flaw: len(flaw.rules)):
        for rule in flaw.rules:
            found.setdefault(row_id_of(rule), flaw)
    return found


def _as_ambiguous(known: RowJudgement, others: tuple[int, ...], numbers: Mapping[int, int]) -> RowJudgement:
    rows = " and ".join(f"row {numbers[row_id]}" for row_id in others[:3])
    return replace(known, mark=BAD, words=f"ambiguous: {rows} match{'es' * (len(others) == 1)} the same names", ambiguous=others)


def _fault_of(row: DraftRow, flaw: Flaw) -> Fault:
    """A flaw as a fault of its row, with the caret at the first axis of the layout that the flaw names."""
    layout = row.layout
    if not layout or layout not in flaw.found:
        return Fault("", flaw.found, flaw.expected, flaw.hint, layout)
    axes = [word for word in flaw.found.split("'")[1::2] if word.isidentifier()]
    axis = next((match for word in axes if (match := re.search(rf"\b{word}\b", layout))), None)
    found = flaw.found.removesuffix(f": {quoted(layout)}").removesuffix(f" in {quoted(layout)}")
    return Fault("layout", found, flaw.expected, flaw.hint, layout, axis.start() if axis else None)


# ---- the form, and its sizes ----------------------------------------------------------------------------------------------


def _best_form(family: Family, sides: Sides) -> Family:
    """The form of a family that leaves the fewest templates of both sides unmatched."""
    if not any(o.values for o in family.options):
        return family
    try:
        forms: Iterable[Family] = islice(all_forms(family), MAX_FORMS)
        return min(forms, key=lambda form: sum(len(s.groups.keys() - form.templates(to)) for s, to in ((sides.hf, MF), (sides.mf, HF))))
    except (KeyError, TypeError):  # a rule names an option that the family lacks: the flaws report it
        return default_form(replace(family, rules=()))


def _judge_sizes(
    sentences: Mapping[str, str], spelled: Mapping[str, str], config: Mapping[str, Any] | None
) -> tuple[tuple[SizeJudgement, ...], Sizes]:
    """Each line of the sizes by itself, and together the sizes of all lines that can be read. ``spelled`` are the sizes of the form."""
    judged, good = [], {}
    for axis, sentence in sentences.items():
        text = spelled.get(axis, sentence)
        try:
            if early_flaws_of(Family("draft", "", (), {axis: text})):
                raise ValueError
            size = read_sizes(config or {}, {axis: text}).get(axis)
            any_number = PLACEHOLDER.sub("0", text)  # a size that depends on a name fails here, not while mapping
            read_sizes(config or {}, {axis: f"{any_number} | ?"})
        except MfconvError as error:
            words = f"config.json has none of {sentence}" if error.found == "no value" else f"{error.found}; expected {error.expected}"
            judged.append(SizeJudgement(axis, sentence, None, words if config is not None else "needs a config.json", DOUBT))
            continue
        except Exception:  # half-typed text may fail in any way
            judged.append(SizeJudgement(axis, sentence, None, "config keys and + - * /, alternatives after |", BAD))
            continue
        good[axis] = text
        no_number = "depends on the name" if "{" in text else "may be unknown"
        words = no_number if size is None else f"from {size.first} to {size.value}" if size.first else str(size.value)
        judged.append(SizeJudgement(axis, sentence, None if size is None else size.value, words, QUIET if size is None else GOOD))
    return tuple(judged), read_sizes(config or {}, good)


# ---- names ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Claims:
    """Which rule each row has in a form, with the config's numbers filled into its names.

    Attributes:
        rules: by row id.
        taken: by row id, the names that it leaves to rows with a number of the config in their names: those count before placeholders.
        without_number: rows whose names need a number that no config gives.
    """

    rules: Mapping[int, AnyRule]
    taken: Mapping[int, TakenNames]
    without_number: Set[int]


def _claims_of(form: Family, sizes: Sizes, sides: Sides) -> _Claims:
    pairs = numbered_rules(form.rules, sizes.values_by_axis)
    rules = {row_id_of(rule): rule for rule, _ in pairs}
    numbered = [rule for rule, has_number in pairs if has_number]
    patterns = ((side, p) for rule in numbered for side, to in ((sides.hf, MF), (sides.mf, HF)) for p in sides_of(rule, to)[0])
    names = frozenset((side.side, spec.name) for side, pattern in patterns for spec in side.specs(pattern))
    taken = {row_id_of(rule): frozenset() if has_number else names for rule, has_number in pairs}
    return _Claims(rules, taken, {row_id_of(rule) for rule in form.rules} - rules.keys())


@dataclass(slots=True)
class _Overlaps:
    """Names that not exactly one row matches.

    Attributes:
        rows: by row id, the rows that match some of the same names.
        ambiguous: by side, how many names several rows match.
        unmatched: by side, the names that no row matches, grouped by template.
    """

    rows: dict[int, set[int]]
    ambiguous: dict[str, int]
    unmatched: dict[str, tuple[tuple[str, ...], ...]]


def _find_overlaps(claims: _Claims, sides: Sides) -> _Overlaps:
    found = _Overlaps({}, {}, {})
    for side, to in ((sides.hf, MF), (sides.mf, HF)):
        by_template: dict[str, list[tuple[int, Pattern]]] = {}
        for row_id, rule in claims.rules.items():
            for pattern in sides_of(rule, to)[0]:
                by_template.setdefault(pattern.template, []).append((row_id, pattern))
        ambiguous, unmatched = 0, []
        for template, group in side.groups.items():
            matched = [(row_id, _free_hits(side, pattern, claims.taken[row_id])) for row_id, pattern in by_template.get(template, ())]
            matched = [(row_id, hits) for row_id, hits in matched if len(hits)]
            if len(matched) == 1 and len(matched[0][1]) == len(group):
                continue
            times = Counter(n for _, hits in matched for n in hits)
            several = {n for n, count in times.items() if count > 1}
            ambiguous += len(several)
            sharing = [row_id for row_id, hits in matched if not several.isdisjoint(hits)] if several else []
            for row_id in sharing:  # a row overlaps itself if two of its own names match the same tensor
                found.rows.setdefault(row_id, set()).update(o for o in sharing if o != row_id or sharing.count(row_id) > 1)
            left = tuple(spec.name for n, (_, spec) in enumerate(group) if n not in times)
            unmatched += [left] if left else []
        found.ambiguous[side.side], found.unmatched[side.side] = ambiguous, tuple(unmatched)
    return found


def _free_hits(side: Side, pattern: Pattern, taken: TakenNames) -> Hits:
    """Which names a pattern matches, without those that other rows claim first."""
    hits = side.hits(pattern)
    if not taken:
        return hits
    group = side.groups[pattern.template]
    return [n for n in hits if (side.side, group[n][1].name) not in taken]


# ---- one row --------------------------------------------------------------------------------------------------------------


def _judge_rule(claims: _Claims, row_id: int, sides: Sides, sizes: Sizes) -> RowJudgement:
    """The judgement of one rule; remembered in ``sides`` under all that it depends on."""
    rule, taken = claims.rules[row_id], claims.taken[row_id]
    sizes_used = tuple((axis, sizes[axis]) for axis in sorted(_words_of(rule)) if axis in sizes)
    key = (repr(rule), sizes_used, sizes.depends_on, taken)
    if key not in sides.known:
        try:
            sides.known[key] = _compare_with_sides(rule, sides, sizes, taken)
        except MfconvError as error:
            sides.known[key] = RowJudgement(BAD, f"{error.found}; expected {error.expected}")
    return sides.known[key]


def _words_of(rule: AnyRule) -> set[str]:
    """Every axis, placeholder and flag in a rule."""
    words = {p for side in sides_of(rule, MF) for pattern in side for p in pattern.placeholders}
    if isinstance(rule, Drop):
        return words
    layouts = layouts_of(rule, MF) or ((), ())
    return words | {n for side in layouts for tensor in side for n in axis_names(tensor)} | ({rule.only_if} if rule.only_if else set())


def _compare_with_sides(rule: AnyRule, sides: Sides, sizes: Sizes, taken: TakenNames) -> RowJudgement:
    """The judgement of one rule on the tensors that its patterns match."""
    hf, mf = (
        list(dict.fromkeys(s for pattern in sides_of(rule, to)[0] for s in side.specs(pattern) if (side.side, s.name) not in taken))
        for side, to in ((sides.hf, MF), (sides.mf, HF))
    )
    if isinstance(rule, Drop):
        n = len(hf) + len(mf)
        return RowJudgement(
            GOOD if n else QUIET, f"{how_many(n, 'tensor')} kept aside" if n else "matches nothing here", hf=len(hf), mf=len(mf)
        )
    if not hf:
        return _without_hf(rule, len(mf), sizes, sides)
    matcher = Matcher(Family(HERE, "", (rule,), {}), MF, sizes.with_more(_sizes_from_names(rule, sides, sizes)), None, None)
    matcher.match(hf)
    matcher.add_rows()
    rows = [row for _, row in matcher.rows if row.status == MAPPED]
    shapes = [ShapeError(p.name, p.found, p.expected, p.hint) for p in matcher.problems if p.kind == "shape"]
    shapes += _wrong_targets(rows, sides.mf)
    mark, words = _verdict(matcher.problems, rows, shapes, hf, mf, sides)
    return RowJudgement(mark, words, None, tuple(shapes[:3]), len(shapes), len(hf), len(mf), example=rows[0] if rows else None)


def _wrong_targets(rows: Iterable[Row], mf: Side) -> Iterator[ShapeError]:
    """MindFormers tensors with another shape than a row makes."""
    for row in rows:
        for target in row.targets:
            there = mf.by_name.get(target.name)
            if there is not None and there.shape != target.shape:
                sources = ", ".join(str(s.shape) for s in row.sources[:4])
                yield ShapeError(target.name, str(there.shape), f"{target.shape}, from {sources}")


def _verdict(
    problems: Sequence[Problem],
    rows: Sequence[Row],
    shapes: Sequence[ShapeError],
    hf: Sequence[TensorSpec],
    mf: Sequence[TensorSpec],
    sides: Sides,
) -> tuple[str, str]:
    """The mark and the message of a row that matches something on the Hugging Face side."""
    if shapes:
        return BAD, f"{how_many(len(shapes), 'tensor')} of another shape: {shapes[0].tensor}"
    for problem in problems:
        return BAD, f"{quoted(problem.name)}: {problem.found}, {problem.expected}"
    if not sides.has_mf:
        return GOOD, f"matches {how_many(len(hf), 'tensor')} on the Hugging Face side"
    if not mf:
        return DOUBT, _words_for_one_side(SIDE_NAMES[HF], len(hf), SIDE_NAMES[MF])
    made = {target.name for row in rows for target in row.targets}
    lacking = [name for name in made if name not in sides.mf.by_name]
    if lacking:
        return DOUBT, f"{how_many(len(lacking), 'tensor')} of {len(made):,} are not there on the MindFormers side: {min(lacking)}"
    left = [spec.name for spec in mf if spec.name not in made]
    if left:
        return DOUBT, f"{how_many(len(left), 'tensor')} of the MindFormers side would come from nothing: {left[0]}"
    each = "each side" if len(hf) == len(mf) else f"the Hugging Face side, {len(mf):,} on the MindFormers side"
    return GOOD, f"matches {how_many(len(hf), 'tensor')} on {each}"


def _without_hf(rule: Rule | Repeated | Tied, mf: int, sizes: Sizes, sides: Sides) -> RowJudgement:
    """The judgement of a row that matches nothing on the Hugging Face side: right if the head is tied, or if a flag is off."""
    flag = sizes.get(rule.only_if) if rule.only_if else None
    if isinstance(rule, Tied) and flag is not None and flag.value and (mf or not sides.has_mf):
        return RowJudgement(GOOD, f"tied to {rule.same_as}: absent on the Hugging Face side, as {rule.only_if} says", mf=mf)
    if mf:
        return RowJudgement(DOUBT, _words_for_one_side(SIDE_NAMES[MF], mf, SIDE_NAMES[HF]), mf=mf)
    if not isinstance(rule, Tied) and (rule.optional or (flag is not None and not flag.value)):
        why = f"{rule.only_if} is 0" if flag is not None and not flag.value else "it is optional"
        return RowJudgement(QUIET, f"matches nothing here, and need not: {why}")
    return RowJudgement(DOUBT, "matches nothing")


def _words_for_one_side(here: str, count: int, there: str) -> str:
    return f"matches {how_many(count, 'tensor')} on the {here} side, and none on the {there} side"


def _sizes_from_names(rule: AnyRule, sides: Sides, sizes: Sizes) -> dict[str, Size]:
    """For placeholders without a size: how far the MindFormers names count."""
    found: dict[str, Size] = {}
    for pattern in sides_of(rule, HF)[0]:
        unknown = [p for p in pattern.placeholders if p not in sizes]
        group = sides.mf.groups.get(pattern.template, [])
        for hit in sides.mf.hits(pattern) if unknown else ():
            values = pattern.match(group[hit][0]) or {}
            for p in unknown:
                found[p] = Size(max(found[p].value if p in found else 0, values[p] + 1), "the names")
    return found
