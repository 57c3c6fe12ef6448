"""What is to be said of each row of a draft, on the names and shapes of two real sides. Pure; quick enough to run while one types.

Names are folded once. What one row finds is remembered for as long as neither the row nor a size that it speaks of changes, so that a
keystroke costs the row it is in.

Refuses: nothing; what is wrong is part of the judgement.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from mfconv_nb.author.editing.draft_rows import HERE, Draft, DraftRow, Fault, read_lines, read_names, rules_of
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, TensorSpec
from mfconv_nb.core.errors import MfconvError, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.layout import axis_names
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import Size, Sizes, read_sizes
from mfconv_nb.mapping.flaws import Flaw, early_flaws_of, flaws_of
from mfconv_nb.mapping.forms import MAX_FORMS, all_forms
from mfconv_nb.mapping.making_rows import make_rows
from mfconv_nb.mapping.matching import match_names, read_inputs
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.plan_rows import MAPPED, Problem, Row
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Repeated, Rule, Tied, default_form, layouts_of, numbered_rules, sides_of
from mfconv_nb.mapping.run_state import run_state_of

GOOD, DOUBT, BAD, QUIET = "✓", "!", "✗", "–"
PLACEHOLDER = re.compile(r"\{[a-z_][a-z0-9_]*\}")
MOST_KEPT = 2000  # remembered findings: a long session of typing

Hits = Sequence[int]  # places within the names of one template


class Side:
    """The names of one side, folded once."""

    def __init__(self, specs: Iterable[TensorSpec], side: str) -> None:
        self.side = side
        self.groups: dict[str, list[tuple[tuple[int, ...], TensorSpec]]] = {}
        self.by_name: dict[str, TensorSpec] = {}
        for spec in specs:
            if side == MF and run_state_of(spec.name) is not None:
                continue
            template, numbers = fold(spec.name)
            self.groups.setdefault(template, []).append((numbers, spec))
            self.by_name[spec.name] = spec
        self._hits: dict[str, Hits] = {}

    def __len__(self) -> int:
        return len(self.by_name)

    def hits(self, pattern: Pattern) -> Hits:
        """The places, among the names of its template, that a pattern matches."""
        if pattern.text not in self._hits:
            if len(self._hits) > MOST_KEPT:
                self._hits.clear()
            group = self.groups.get(pattern.template, [])
            are_all = len(set(pattern.slots)) == len(pattern.slots) and all(isinstance(slot, str) for slot in pattern.slots)
            found = [n for n, (numbers, _) in enumerate(group) if pattern.match(numbers) is not None] if not are_all else ()
            self._hits[pattern.text] = range(len(group)) if are_all else found
        return self._hits[pattern.text]

    def specs(self, pattern: Pattern) -> Iterator[TensorSpec]:
        """The tensors that a pattern matches."""
        group = self.groups.get(pattern.template, [])
        return (group[n][1] for n in self.hits(pattern))


class Sides:
    """Both sides and the config: what a draft is judged on. Without a MindFormers side only the other one is looked at."""

    def __init__(self, hf: Iterable[TensorSpec], mf: Iterable[TensorSpec] | None, config: Mapping[str, Any] | None = None) -> None:
        self.hf, self.mf, self.config = Side(hf, HF), Side(mf or (), MF), config
        self.has_mf = mf is not None
        self.known: dict[object, RowJudgement] = {}


@dataclass(frozen=True, slots=True)
class ShapeError:
    """A tensor whose shape contradicts its row."""

    tensor: str
    found: str
    expected: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RowJudgement:
    """What is to be said of one row.

    Attributes:
        mark: ✓ it is true, ! something is left to be looked at, ✗ it cannot be, – it is about nothing here.
        words: that in a sentence.
        fault: why it cannot be read, or cannot be true on any shapes.
        shapes: the first shape errors; ``shape_count`` says how many tensors there are.
        hf, mf: names of each side that it matches.
        ambiguous: the rows that match a name of this one too.
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
    """One line of the family's sizes: the number that the config gives, or what is wrong."""

    axis: str
    sentence: str
    value: int | None
    words: str
    mark: str


@dataclass(frozen=True)
class Judgement:
    """A draft on two sides.

    Attributes:
        rows: one a row.
        sizes: one a line of the sizes.
        unmatched: by side, the names that no row matches, those of one template together.
        ambiguous: by side, how many names more than one row matches.
        matched: by side, how many names exactly one row matches.
        flaws: what is wrong with the family and with no row of it.
        chosen: the form of the family that the names are of.
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
        """Whether every row is true, and every name has one."""
        left = sum(map(self.unmatched_count, self.unmatched)) + sum(self.ambiguous.values()) + len(self.flaws)
        return not left and all(row.mark in (GOOD, QUIET) for row in self.rows) and not any(s.mark == BAD for s in self.sizes)


@makes_many_objects
def judge(draft: Draft, sides: Sides) -> Judgement:
    """Every row of a draft, and what it leaves over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of sizes that are half typed
        return _judgement(draft, sides)


def _judgement(draft: Draft, sides: Sides) -> Judgement:
    rules, faults = rules_of(draft.rows)
    sentences, wrong = read_lines(draft.sizes, "sizes")
    family = replace(draft.base, rules=tuple(rules.values()), sizes=sentences, written_at=(HERE, 0))
    flaws = _flaws(family)
    named = [_names_of(draft.rows[place], place) for place in faults]
    form = _form(family.with_rules((*family.rules, *named)), sides)
    judged_sizes, sizes = _sizes(sentences, form.sizes, sides.config)
    told = numbered_rules(form.rules, sizes.values_by_axis)
    here = {rule.written_at[1] - 1: rule for rule, _ in told}
    unnumbered = {rule.written_at[1] - 1 for rule in form.rules} - here.keys()
    taken = _taken([rule for rule, is_numbered in told if is_numbered], sides)
    free = frozenset(rule.written_at[1] - 1 for rule, is_numbered in told if not is_numbered) if taken else frozenset()
    meeting = _meetings(here, sides, taken, free)
    about: dict[int, Flaw] = {}
    for each in sorted(flaws, key=lambda flaw: len(flaw.rules)):  # what a row alone has to answer for comes first
        for rule in each.rules:
            about.setdefault(rule.written_at[1] - 1, each)
    if len(sides.known) > MOST_KEPT:
        sides.known.clear()
    rows = []
    for place, row in enumerate(draft.rows):
        flaw = about.get(place)
        fault = faults.get(place) or (_fault(row, flaw) if flaw is not None and len(flaw.rules) == 1 else None)
        others = tuple(sorted({*meeting.rows.get(place, ()), *_with(flaw, place)}))
        if fault is not None:
            rows.append(RowJudgement(BAD, fault.found, fault, ambiguous=others))
        elif place in unnumbered:
            rows.append(RowJudgement(DOUBT, "a number of its names is a size that only a config.json tells"))
        elif place not in here and not others:
            rows.append(RowJudgement(QUIET, "for another option; these names are not of that form"))
        else:
            found = (
                _judged(here[place], sides, sizes, taken if place in free else frozenset()) if place in here else RowJudgement(QUIET, "")
            )
            rows.append(_ambiguous(found, others) if others else found)
    return Judgement(
        tuple(rows),
        judged_sizes,
        {side.side: meeting.unmatched[side.side] for side in (sides.hf, sides.mf)},
        {s: meeting.ambiguous[s] for s in (HF, MF)},
        {s.side: len(s) - sum(map(len, meeting.unmatched[s.side])) - meeting.ambiguous[s.side] for s in (sides.hf, sides.mf)},
        (*wrong, *(Fault("", flaw.found, flaw.expected, flaw.hint) for flaw in flaws if not flaw.rules)),
        form.chosen,
    )


def _flaws(family: Family) -> tuple[Flaw, ...]:
    """All flaws: also those of rows that a check would not come to, as sizes or conditions of others are wrong."""
    early = early_flaws_of(family)
    if not early:
        return flaws_of(family)
    blamed = {rule.written_at for flaw in early for rule in flaw.rules}
    sound = {axis: s for axis, s in family.sizes.items() if not early_flaws_of(Family("draft", "", (), {axis: s}))}
    named = {axis: sound.get(axis, "0") for axis in family.sizes}
    rest = replace(family, key="draft", sizes=named, rules=tuple(r for r in family.rules if r.written_at not in blamed))
    return (*early, *flaws_of(rest))


def _names_of(row: DraftRow, place: int) -> AnyRule:
    """The names of a row that cannot be read: they are not unmatched while one types, or looks for the other name."""
    return Rule(read_names(row.hf), read_names(row.mf), written_at=(HERE, place + 1))


def _with(flaw: Flaw | None, place: int) -> list[int]:
    """The other row of two that can match the same names."""
    return [] if flaw is None else [r.written_at[1] - 1 for r in flaw.rules if r.written_at[1] - 1 != place]


def _ambiguous(found: RowJudgement, others: tuple[int, ...]) -> RowJudgement:
    rows = " and ".join(f"row {n + 1}" for n in others[:3])
    return replace(found, mark=BAD, words=f"ambiguous: {rows} match{'es' * (len(others) == 1)} the same names", ambiguous=others)


def _fault(row: DraftRow, flaw: Flaw) -> Fault:
    """A flaw as a fault of the row, at the first axis of its sentence that the flaw names."""
    layout = row.layout
    word = next((w for w in flaw.found.split("'")[1::2] if w.isidentifier() and w in layout), None)
    position = next((at for at in _places(word, layout)), None) if word is not None and row.layout in flaw.found else None
    found = flaw.found.removesuffix(f": {quoted(layout)}").removesuffix(f" in {quoted(layout)}") if layout else flaw.found
    return Fault("layout" if layout in flaw.found and layout else "", found, flaw.expected, flaw.hint, layout, position)


def _places(word: str, layout: str) -> Iterator[int]:
    at = layout.find(word)
    while at >= 0:
        if not (layout[at - 1 : at].isidentifier() or layout[at + len(word) : at + len(word) + 1].isidentifier()):
            yield at
        at = layout.find(word, at + 1)


# ---- the form, and its sizes ----------------------------------------------------------------------------------------------


def _form(family: Family, sides: Sides) -> Family:
    """The form of a family that leaves the fewest kinds of names over, on both sides."""
    if not any(o.values for o in family.options):
        return family
    try:
        forms: Iterable[Family] = islice(all_forms(family), MAX_FORMS)
        return min(forms, key=lambda form: sum(len(s.groups.keys() - form.templates(to)) for s, to in ((sides.hf, MF), (sides.mf, HF))))
    except (KeyError, TypeError):  # rules that stand under options which the family does not have: the flaws say so
        return default_form(replace(family, rules=()))


def _sizes(
    sentences: Mapping[str, str], spelled: Mapping[str, str], config: Mapping[str, Any] | None
) -> tuple[tuple[SizeJudgement, ...], Sizes]:
    """Each size by itself, and all that can be told together."""
    judged, good = [], {}
    for axis, sentence in sentences.items():
        said = spelled.get(axis, sentence)
        try:
            if early_flaws_of(Family("draft", "", (), {axis: said})):
                raise ValueError
            size = read_sizes(config or {}, {axis: said}).get(axis)
            read_sizes(config or {}, {axis: f"{PLACEHOLDER.sub('0', said)} | ?"})  # what depends on a name is read here, not while mapping
        except MfconvError as error:
            words = f"config.json has none of {sentence}" if error.found == "no value" else f"{error.found}; expected {error.expected}"
            judged.append(SizeJudgement(axis, sentence, None, words if config is not None else "needs a config.json", DOUBT))
            continue
        except Exception:  # whatever is half typed cannot be read
            judged.append(SizeJudgement(axis, sentence, None, "config keys and + - * /, alternatives after |", BAD))
            continue
        good[axis] = said
        told = "depends on the name" if "{" in said else "may be unknown"
        words = told if size is None else f"from {size.first} to {size.value}" if size.first else str(size.value)
        judged.append(SizeJudgement(axis, sentence, None if size is None else size.value, words, QUIET if size is None else GOOD))
    return tuple(judged), read_sizes(config or {}, good)


# ---- names ----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Meeting:
    rows: dict[int, set[int]]
    ambiguous: dict[str, int]
    unmatched: dict[str, tuple[tuple[str, ...], ...]]


def _taken(numbered: Iterable[AnyRule], sides: Sides) -> frozenset[tuple[str, str]]:
    """By side, the names of rows with a number of the config in their names: they count before a placeholder."""
    patterns = ((side, p) for rule in numbered for side, to in ((sides.hf, MF), (sides.mf, HF)) for p in sides_of(rule, to)[0])
    return frozenset((side.side, spec.name) for side, pattern in patterns for spec in side.specs(pattern))


def _meetings(rules: Mapping[int, AnyRule], sides: Sides, taken: Set[tuple[str, str]], free: Set[int]) -> _Meeting:
    """On each side: which names no row matches, and which rows match the same ones. ``taken`` names are none of the ``free`` rows'."""
    found = _Meeting({}, {}, {})
    for side, to in ((sides.hf, MF), (sides.mf, HF)):
        by_template: dict[str, list[tuple[int, Pattern]]] = {}
        for place, rule in rules.items():
            for pattern in sides_of(rule, to)[0]:
                by_template.setdefault(pattern.template, []).append((place, pattern))
        twice, unmatched = 0, []
        for template, group in side.groups.items():
            here = [(place, side.hits(pattern)) for place, pattern in by_template.get(template, ())]
            if taken:
                gone = {n for n, (_, spec) in enumerate(group) if (side.side, spec.name) in taken}
                here = [(place, [n for n in hits if n not in gone] if gone and place in free else hits) for place, hits in here]
            here = [(place, hits) for place, hits in here if len(hits)]
            if len(here) == 1 and len(here[0][1]) == len(group):
                continue
            count = Counter(n for _, hits in here for n in hits)
            several = {n for n, times in count.items() if times > 1}
            twice += len(several)
            if several:
                places = [place for place, hits in here if not several.isdisjoint(hits)]
                for place in places:
                    found.rows.setdefault(place, set()).update(other for other in places if other != place or places.count(place) > 1)
            left = tuple(spec.name for n, (_, spec) in enumerate(group) if n not in count)
            unmatched += [left] if left else []
        found.ambiguous[side.side], found.unmatched[side.side] = twice, tuple(unmatched)
    return found


# ---- one row --------------------------------------------------------------------------------------------------------------


def _judged(rule: AnyRule, sides: Sides, sizes: Sizes, taken: Set[tuple[str, str]]) -> RowJudgement:
    speaks_of = _words_of(rule)
    told = tuple((axis, sizes[axis]) for axis in sorted(speaks_of) if axis in sizes)
    key = (repr(rule), told, sizes.depends_on, taken)
    if key not in sides.known:
        try:
            sides.known[key] = _looked_at(rule, sides, sizes, taken)
        except MfconvError as error:
            sides.known[key] = RowJudgement(BAD, f"{error.found}; expected {error.expected}")
    return sides.known[key]


def _words_of(rule: AnyRule) -> set[str]:
    """Every axis, placeholder and flag that a rule speaks of."""
    words = {p for side in sides_of(rule, MF) for pattern in side for p in pattern.placeholders}
    if isinstance(rule, Drop):
        return words
    layouts = layouts_of(rule, MF) or ((), ())
    return words | {n for side in layouts for tensor in side for n in axis_names(tensor)} | ({rule.only_if} if rule.only_if else set())


def _looked_at(rule: AnyRule, sides: Sides, sizes: Sizes, taken: Set[tuple[str, str]]) -> RowJudgement:
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
    inputs = read_inputs(Family(HERE, "", (rule,), {}), MF, sizes.with_more(_seen(rule, sides, sizes)))
    matches = match_names(hf, inputs)
    made, problems = make_rows(inputs, matches)
    problems = [*matches.problems, *problems]
    rows = [row for _, row in made if row.status == MAPPED]
    shapes = [ShapeError(p.name, p.found, p.expected, p.hint) for p in problems if p.kind == "shape"]
    shapes += _shapes_there(rows, sides.mf)
    mark, words = _verdict(problems, rows, shapes, hf, mf, sides)
    return RowJudgement(mark, words, None, tuple(shapes[:3]), len(shapes), len(hf), len(mf), example=rows[0] if rows else None)


def _shapes_there(rows: Iterable[Row], mf: Side) -> Iterator[ShapeError]:
    """MindFormers tensors whose shape is not the one that a row makes."""
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
    """The mark of a row that matches something on the Hugging Face side, and the sentence."""
    if shapes:
        return BAD, f"{how_many(len(shapes), 'tensor')} of another shape: {shapes[0].tensor}"
    for problem in problems:
        return BAD, f"{quoted(problem.name)}: {problem.found}, {problem.expected}"
    if not sides.has_mf:
        return GOOD, f"matches {how_many(len(hf), 'tensor')} on the Hugging Face side"
    if not mf:
        return DOUBT, _only(SIDE_NAMES[HF], len(hf), SIDE_NAMES[MF])
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
    """A row that matches nothing on the Hugging Face side: as it should be, where a head is tied or a flag is off."""
    flag = sizes.get(rule.only_if) if rule.only_if else None
    if isinstance(rule, Tied) and flag is not None and flag.value and (mf or not sides.has_mf):
        return RowJudgement(GOOD, f"tied to {rule.same_as}: absent on the Hugging Face side, as {rule.only_if} says", mf=mf)
    if mf:
        return RowJudgement(DOUBT, _only(SIDE_NAMES[MF], mf, SIDE_NAMES[HF]), mf=mf)
    if not isinstance(rule, Tied) and (rule.optional or (flag is not None and not flag.value)):
        why = f"{rule.only_if} is 0" if flag is not None and not flag.value else "it is optional"
        return RowJudgement(QUIET, f"matches nothing here, and need not: {why}")
    return RowJudgement(DOUBT, "matches nothing")


def _only(here: str, count: int, there: str) -> str:
    return f"matches {how_many(count, 'tensor')} on the {here} side, and none on the {there} side"


def _seen(rule: AnyRule, sides: Sides, sizes: Sizes) -> dict[str, Size]:
    """How far the placeholders of the MindFormers names count, where no config says it."""
    found: dict[str, Size] = {}
    for pattern in sides_of(rule, HF)[0]:
        unknown = [p for p in pattern.placeholders if p not in sizes]
        group = sides.mf.groups.get(pattern.template, [])
        for hit in sides.mf.hits(pattern) if unknown else ():
            values = pattern.match(group[hit][0]) or {}
            for p in unknown:
                found[p] = Size(max(found[p].value if p in found else 0, values[p] + 1), "the names")
    return found
