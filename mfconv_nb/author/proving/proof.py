"""Prove that a family's rules are sound, without weights. These conditions are checked for every form of the family:

- No two patterns of a side can match the same name, and names are matched whole.
- Every size that a layout needs is given, in both directions.
- Every placeholder of one side only is an axis of the other side's layout.
- There and back, every number of a specimen returns to its place; every place of the target is filled once.
- Every small mistake that is made in the rules on purpose is noticed (see ``mutations.py``); the proof says by what.
- A wrong head count is noticed: by the config's sizes, or by the numbers that it misplaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfconv_nb.author.proving.consequences import NOTICED, SURVIVED, are_equal, noticed_by, noticed_in_config
from mfconv_nb.author.proving.mutations import Mutation, mutations_of
from mfconv_nb.author.proving.specimen import Mapped, carry_across, mapped_rules, specimen, without_sizeless_rules
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES
from mfconv_nb.core.errors import MappingError, one_line
from mfconv_nb.core.report import Column, Result, Table, how_many
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.flaws import axes_without_size, overlaps, placeholders_without_axis
from mfconv_nb.mapping.forms import all_forms
from mfconv_nb.mapping.plan import plan_mapping
from mfconv_nb.mapping.rules import Family, sides_of

WRONG_HEADS = "wrong head count"


@dataclass(frozen=True, slots=True)
class Proved:
    """One condition for one form of a family: whether it holds, and what shows it."""

    form: str
    condition: str
    holds: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Caught:
    """A mistake that was made on purpose, and what noticed it.

    Attributes:
        mutation: the mistake, if it is one in the rules; ``config``: the toy's config with the mistake, if it is one in the config.
    """

    form: str
    kind: str
    what: str
    by: str
    mutation: Mutation | None = None
    config: Mapping[str, Any] | None = None


def prove_rules(family: str | Path | Family) -> ProofReport:
    """Prove a family's rules, for every combination of its options. Reads no weight; takes a second or so.

    Args:
        family: a key, a file that defines ``FAMILY``, or a ``Family``; it needs a toy config.
    Returns:
        A report whose ``passed`` is true when every condition holds and no mistake survived.
    """
    chosen = family_meant(family)
    proved: list[Proved] = []
    caught: list[Caught] = []
    forms: dict[str, Family] = {}
    for form in all_forms(chosen):
        label = ", ".join(f"{n}={v}" for n, v in form.chosen.items()) or "the only form"
        forms[label] = form
        try:
            for condition, holds, seen in _check_conditions(form):  # one by one: those before an error count
                proved.append(Proved(label, condition, holds, seen))
            noticed = [(m, noticed_by(form, m)) for m in mutations_of(mapped_rules(form))]
            caught += [Caught(label, m.kind, m.what, by, mutation=m) for m, by in noticed if by is not None]  # None: it changes nothing
            caught += [Caught(label, WRONG_HEADS, what, by, config=config) for what, config, by in _wrong_head_counts(form)]
        except MappingError as error:
            # without the hint, which is about options that a proof does not have
            line = one_line(f"{error.code}, {error.where}: found {error.found}, expected {error.expected}")
            proved.append(Proved(label, "The rules can be read.", False, line))
    return ProofReport(chosen.key, tuple(proved), tuple(caught), forms)


# ---- conditions --------------------------------------------------------------------------------------------------------


def _check_conditions(form: Family) -> Iterator[tuple[str, bool, str]]:
    for side, to in ((SIDE_NAMES[HF], MF), (SIDE_NAMES[MF], HF)):
        meeting = [f"{a.text} and {b.text}" for (_, a), (_, b) in overlaps(form, to)]
        seen = "; ".join(meeting[:3]) or how_many(sum(len(sides_of(rule, to)[0]) for rule in form.rules), "pattern")
        yield f"No two patterns of the {side} side match the same name.", not meeting, seen
    sizeless = [f"{', '.join(axes)} of {rule.hf}" for rule in mapped_rules(form) for axes in axes_without_size(rule, form).values()]
    seen = "; ".join(dict.fromkeys(sizeless[:3])) or how_many(len(mapped_rules(form)), "rule")
    yield "There and back, every size is given: by a config, by the rule, or by shapes.", not sizeless, seen
    odd = [f"{{{p}}} in {pattern.text}" for rule in mapped_rules(form) for p, pattern in placeholders_without_axis(rule)]
    yield "A placeholder of one side only is an axis of the other.", not odd, "; ".join(odd[:3]) or "all of them"
    lost = [text for rule in mapped_rules(form) for text in _lost_there_and_back(form, rule)]
    seen = "; ".join(lost[:3]) or how_many(len(mapped_rules(form)), "rule")
    yield "There and back, every number returns to its place.", not lost, seen
    promised = without_sizeless_rules(form, read_sizes(form.toy, form.sizes))
    wrong, unsaid = _toy_problems(promised), len(form.rules) - len(promised.rules)
    seen = "both ways" + (f", but for {how_many(unsaid, 'rule')} with an axis whose size no config gives" if unsaid else "")
    yield "What a config promises on one side becomes what it promises on the other.", not wrong, "; ".join(wrong[:3]) or seen


def _lost_there_and_back(form: Family, rule: Mapped) -> Iterator[str]:
    there, sizes = specimen(form, rule)
    across = carry_across(form, (rule,), there, MF, sizes)
    back = carry_across(form, (rule,), across, HF, sizes)
    again = carry_across(form, (rule,), back, MF, sizes)
    if not are_equal(there, back) or not are_equal(across, again):
        yield str(rule.hf)


def _toy_problems(form: Family) -> list[str]:
    sizes = read_sizes(form.toy, form.sizes)
    problems = []
    for here, to in ((HF, MF), (MF, HF)):
        plan = plan_mapping(expected_specs(form, sizes, here), form, to, sizes=sizes)
        problems += [f"{p.kind} {p.name}" for p in plan.problems]
        if {t for row in plan.rows for t in row.targets} != set(expected_specs(form, sizes, to)):
            problems.append(f"other tensors on the {to} side than its config promises")
    return problems


# ---- mistakes ----------------------------------------------------------------------------------------------------------


def _wrong_head_counts(form: Family) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Double every head count of the toy config, and say what noticed it; without counts that are never used."""
    sizes = read_sizes(form.toy, form.sizes)
    for path, value in _head_counts(form.toy):
        if any(path[-1] in size.origin for size in sizes.values()):
            config = _with_value(form.toy, path, 2 * value)
            by = noticed_in_config(form, config)
            if by is not None:
                yield f"{'.'.join(path)} {value} as {2 * value}", config, by


def _head_counts(config: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _head_counts(value, (*inside, key))
        elif isinstance(value, int) and not isinstance(value, bool) and value > 1 and ("heads" in key or "n_head" in key or "group" in key):
            yield (*inside, key), value


def _with_value(config: Mapping[str, Any], path: tuple[str, ...], value: int) -> dict[str, Any]:
    """The config with another value under a path of keys."""
    inner = _with_value(config[path[0]], path[1:], value) if len(path) > 1 else value
    return {**config, path[0]: inner}


# ---- the result --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class ProofReport(Result):
    """Which conditions hold for a family, and what noticed each mistake that was made on purpose.

    Attributes:
        forms: the forms of the family, by their labels in ``proved`` and ``caught``.
    """

    family: str
    proved: tuple[Proved, ...]
    caught: tuple[Caught, ...]
    forms: Mapping[str, Family] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True when every condition holds and no mistake survived."""
        return all(p.holds for p in self.proved) and not self.survivors

    @property
    def survivors(self) -> tuple[Caught, ...]:
        """The mistakes that nothing noticed."""
        return tuple(c for c in self.caught if c.by == SURVIVED)

    def table(self) -> Table:
        forms = len({p.form for p in self.proved})
        by = Counter(c.by for c in self.caught)
        noticed = ", ".join(f"{by[what]:,} by {what}" for what in NOTICED if by[what])
        headline = f"{self.family}: {how_many(forms, 'form')}, {how_many(len(self.caught), 'mistake')} noticed: {noticed}"
        if self.survivors:
            headline = f"{self.family}: {len(self.survivors):,} of {how_many(len(self.caught), 'mistake')} not noticed"
        facts = tuple(f"{p.condition} {p.form}: {p.seen}" for p in self.proved if not p.holds)
        facts += tuple(f"not noticed: {c.kind}: {c.what} ({c.form})" for c in self.survivors[:6])
        columns = (Column(""), Column("condition"), Column("seen"))
        return Table("✓ Proved." if self.passed else "✗ Not proved.", headline, columns, list(self._lines()), facts, row_noun="conditions")

    def verdict(self) -> Verdict:
        """The report in one line."""
        table = self.table()
        return Verdict(table.verdict, table.headline)

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        for condition in dict.fromkeys(p.condition for p in self.proved):
            of_one = [p for p in self.proved if p.condition == condition]
            bad = [p for p in of_one if not p.holds]
            yield "✗" if bad else "✓", condition, bad[0].seen if bad else of_one[0].seen
        for kind in dict.fromkeys(c.kind for c in self.caught):
            by = Counter(c.by for c in self.caught if c.kind == kind)
            seen = ", ".join(f"{n:,} by {what}" for what, n in by.items())
            yield "✗" if by[SURVIVED] else "✓", f"Noticed: {kind}.", seen

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict a condition and a mistake."""
        conditions = [{"form": p.form, "condition": p.condition, "holds": p.holds, "seen": p.seen} for p in self.proved]
        return conditions + [{"form": c.form, "mistake": c.kind, "what": c.what, "noticed_by": c.by} for c in self.caught]


@dataclass(frozen=True, repr=False)
class Verdict(Result):
    """A verdict without its conditions."""

    verdict: str
    headline: str

    def table(self) -> Table:
        return Table(self.verdict, self.headline)
