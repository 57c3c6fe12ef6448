"""families: what is known of every model family, and of one in detail: its options, its rules, its evidence. Reads no checkpoint."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import Lines
from mfconv_nb.core.report import Column, Result, Table, how_many, json_text, table_text
from mfconv_nb.families.registry import built_in, family_meant, family_named, known_families
from mfconv_nb.families.same_maths import listed_types
from mfconv_nb.families.user_families import Offered, offered_families
from mfconv_nb.mapping.rules import (
    ALL_OR_NONE,
    ANYWHERE,
    COMMON_OPTIONS,
    NUMBERS,
    AnyRule,
    Drop,
    Family,
    Option,
    OptionValue,
    Repeated,
    Tied,
    default_form,
    values_of,
)

SIDES = {
    MF: "on the MindFormers side",
    HF: "on the Hugging Face side",
    "both": "on both sides",
    NUMBERS: "in the numbers alone, in no name or shape",
}
OPTIONAL = {ALL_OR_NONE: "optional", ANYWHERE: "some layers"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """How many golden cases are converted with a family's key, and how many real repositories are planned with it; tests do both."""

    cases: int = 0
    repositories: int = 0


@lru_cache(maxsize=1)
def _read_evidence() -> Mapping[str, Mapping[str, int]]:
    found: Mapping[str, Mapping[str, int]] = json.loads((files("mfconv_nb.families") / "evidence.json").read_text(encoding="utf-8"))
    return found


def evidence_of(key: str) -> Evidence:
    """The evidence for a built-in family; none for a key that is not."""
    return Evidence(**_read_evidence().get(key, {}))


def _evidence_of(family: Family) -> Evidence:
    """The evidence for a built-in family; none for a user's own, whatever its key."""
    return evidence_of(family.key) if family is built_in().get(family.key) else Evidence()


def families_report() -> FamiliesReport:
    """Every family, one row each: built in, registered, and offered by installed packages."""
    known, offered = known_families(), offered_families()
    keys = {name for family in known for name in (family.key, *family.aliases)}
    others = [o.family for o in offered if o.family is not None and o.key not in keys]
    return FamiliesReport((*known, *others), tuple(line for o in offered if (line := _offer_text(o, keys))))


def _offer_text(offer: Offered, known: set[str]) -> str:
    """One line for an offer: which package it is from, that its key is taken, or why it is broken."""
    if offer.refused is not None:
        return f"✗ {offer.key}, from {offer.package}, cannot be used: {offer.refused}"
    if offer.key in known:
        return f"! {offer.key}, from {offer.package}, is not used: the key is taken"
    return f"{offer.key}: from {offer.package}"


def family_report(family: str | Path | Family) -> FamilyReport:
    """One family: a key, an alias, a file that defines ``FAMILY``, or a ``Family``.

    Raises:
        MappingError: MFC301 for an unknown key, with the nearest; MFC311 and MFC313 for a file.
    """
    return FamilyReport(family_meant(family))


def keeps_beside(family: Family) -> bool:
    """Whether a checkpoint of Hugging Face may have tensors without a place on the other side: they come back from the folder beside."""
    return any(isinstance(rule, Drop) and rule.side == HF for rule in family.rules)


# ---- all of them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class FamiliesReport(Result):
    """The families that are known, by key."""

    families: tuple[Family, ...]
    offers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return table_text(self.table(), max_rows=None)  # who looks for a key needs all of them

    def table(self) -> Table:
        columns = (
            Column("key"),
            Column("models"),
            Column("aliases", optional=True),
            Column("both ways"),
            Column("options"),
            Column("cases", True),
            Column("repos", True),
        )
        facts = (
            "both ways: exact; 'beside' where some tensors come back from the folder NAME.mfconv",
            "cases: recorded outputs of MindFormers' own converters, which tests reproduce",
            "repos: real repositories, whose names and shapes tests plan there and back",
            *self.offers,
        )
        rows = [_family_row(family) for family in self.families]
        return Table("", f"{len(rows)} model families; `mfconv families KEY` shows one", columns, rows, facts, row_noun="families")


def _family_row(family: Family) -> tuple[Any, ...]:
    found = _evidence_of(family)
    ways = "beside" if keeps_beside(family) else "yes"
    options = ", ".join(o.name for o in family.options)
    return (family.key, family.covers, ", ".join(family.aliases), ways, options, found.cases, found.repositories)


# ---- one of them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class FamilyReport(Result):
    """A family: one row per rule. Rules that differ only in the options they belong to are one row.

    The table shortens the beginning that most names of a side have; ``rows()`` and JSON have every name in full.
    """

    family: Family

    def table(self) -> Table:
        rows = [_rule_row(rule, conditions) for rule, conditions in _fold_rules(self.family.rules)]
        left, right = (_commonest_beginning(row[side] for row in rows) for side in (1, 2))
        short = [(kind, _shorten_names(hf, left), _shorten_names(mf, right), layout) for kind, hf, mf, layout in rows]
        facts = [*_facts(self.family), *_option_facts(self.family)]
        facts += [f"… below: {left or 'nothing'} on the Hugging Face side, {right or 'nothing'} on the other"] if left or right else []
        headline = f"{self.family.key}: {self.family.covers} · {how_many(len(rows), 'rule')}"
        columns = tuple(Column(title) for title in TITLES)
        return Table("", headline, columns, short, tuple(facts), row_noun="rules")

    def rows(self) -> list[dict[str, Any]]:
        rows = (_rule_row(rule, conditions) for rule, conditions in _fold_rules(self.family.rules))
        return [dict(zip((title.replace(" ", "_") for title in TITLES), row, strict=True)) for row in rows]

    def to_json(self) -> str:
        """As every result, and the options as data."""
        options = [{"name": o.name, "values": o.values, "side": o.side, "help": o.help} for o in self.family.options]
        return json_text({**json.loads(super().to_json()), "options": options})


TITLES = ("kind", "Hugging Face", "MindFormers", "layout")


def _facts(family: Family) -> list[str]:
    found = _evidence_of(family)
    listed = {
        "model_type": ", ".join(listed_types(family)),
        "model_type of parts": "; ".join(f"{part}: {', '.join(kinds)}" for part, kinds in family.part_types.items()),
        "aliases": ", ".join(family.aliases),
        "this key also means": ", ".join(family.also) and f"{', '.join(family.also)}, told apart by the names",
        "without --model": _told_as_text(family),
        "source": family.source,
        "evidence": f"{how_many(found.cases, 'golden case')}, {how_many(found.repositories, 'real repository', 'real repositories')}",
    }
    return [f"{title}: {text}" for title, text in listed.items() if text]


def _told_as_text(family: Family) -> str:
    if not family.told_as:
        return ""
    there = default_form(family_named(family.told_as)).templates(HF) == default_form(family).templates(HF)
    return f"told as {family.told_as}, which has the same names" + ("" if there else " on the Hugging Face side")


def _option_facts(family: Family) -> list[str]:
    """Two lines an option: what it may be, and what for."""
    lines = []
    for option in family.options:
        lines += [f"--{option.name} {_values_text(option)}", f"    {option.help}"]
    common = ", ".join(f"--{option.name} N" for option in COMMON_OPTIONS)
    return [*lines, f"{common}: every family takes them; checked against config.json"]


def _values_text(option: Option) -> str:
    if not option.values:
        return "N (a whole number)"
    default, *others = (_value_text(value) for value in option.values)
    return f"{default} (default), {', '.join(others)}; shows {SIDES[option.side]}"


def _value_text(value: OptionValue) -> str:
    return str(value) or "''"


def _fold_rules(rules: Iterable[AnyRule]) -> list[tuple[AnyRule, list[Mapping[str, OptionValue]]]]:
    """The rules without the options they belong to, each with all that it stands with."""
    folded: dict[AnyRule, list[Mapping[str, OptionValue]]] = {}
    for rule in rules:
        each = product(*(values_of(condition) for condition in rule.when.values()))
        folded.setdefault(replace(rule, when={}), []).extend(dict(zip(rule.when, values, strict=True)) for values in each)
    return list(folded.items())


def _rule_row(rule: AnyRule, conditions: list[Mapping[str, OptionValue]]) -> tuple[str, str, str, str]:
    """A rule as a row; several names, and several things to say of it, stand on lines of their own."""
    what = [_kind_text(rule), *_condition_lines(conditions)]
    if isinstance(rule, Drop):
        names = (rule.pattern, "-") if rule.side == HF else ("-", rule.pattern)
        return (Lines("\n".join(what)), *names, rule.why)
    if rule.only_if and not isinstance(rule, Tied):
        what.append(f"if {rule.only_if}")
    hf, mf = ((names,) if isinstance(names, str) else names for names in (rule.hf, rule.mf))
    hf += rule.may_be if isinstance(rule, Repeated) else ()
    return (Lines("\n".join(what)), Lines("\n".join(hf)), Lines("\n".join(mf)), rule.layout or "")


def _kind_text(rule: AnyRule) -> str:
    if isinstance(rule, Tied | Drop):
        return "tied" if isinstance(rule, Tied) else "beside"
    words = "copies" if isinstance(rule, Repeated) else "rule"
    return f"{words}, {OPTIONAL[rule.optional]}" if rule.optional else words


def _condition_lines(conditions: list[Mapping[str, OptionValue]]) -> list[str]:
    """``qkv_concat=True``, one line an option; of several values, ``mp=2 or 4``. A condition wider than a column gets several lines."""
    values: dict[str, dict[str, None]] = {}
    for name, value in (item for condition in conditions for item in condition.items()):
        values.setdefault(name, {})[_value_text(value)] = None
    if math.prod(len(found) for found in values.values()) == len(conditions):
        lines = [(f"{name}={' or '.join(found)}", [f"{name}=", *(f"  {value}" for value in found)]) for name, found in values.items()]
        return [part for line, parts in lines for part in ([line] if len(line) <= 24 else parts)]
    return [" or ".join(", ".join(f"{name}={_value_text(value)}" for name, value in c.items()) for c in conditions)]


def _commonest_beginning(cells: Iterable[str]) -> str:
    """What names begin with, up to their first placeholder, where leaving it out saves most; empty where no two names share one."""
    names = [name for cell in cells for name in cell.split("\n")]
    counts = Counter(end[0] for name in names if (end := re.match(r".*?\}\.", name)))
    shared = {beginning: len(beginning) * n for beginning, n in counts.items() if n > 1}
    return max(shared, key=lambda beginning: shared[beginning], default="")


def _shorten_names(cell: str, beginning: str) -> str:
    names = cell.split("\n")
    return Lines("\n".join("…" + name.removeprefix(beginning) if beginning and name.startswith(beginning) else name for name in names))
