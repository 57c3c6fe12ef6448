"""MindFormers' `weight_mapping` (static inference) as drafts: pairs of texts that are replaced one after the other, anywhere in a name.

What such a list does to a name depends on its order, so it cannot be translated pair by pair. It is applied to the names of a checkpoint,
and what comes out is folded to patterns that match whole names. Without names there is nothing to draft, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mfconv_nb.author.importing.imported import (
    NEVER_MATCHES,
    NO_ORDER,
    NO_WAY_BACK,
    NOT_ANCHORED,
    NOT_IDEMPOTENT,
    NOT_UNDERSTOOD,
    OVERLAPS,
    SHADOWED,
    Drafted,
    Finding,
)
from mfconv_nb.author.importing.names import Folded, Pair, fits, fold_pairs
from mfconv_nb.author.importing.rule_texts import Listed, Unread
from mfconv_nb.core.folding import folded_names
from mfconv_nb.mapping.rules import Rule

NOTE = "Their texts are replaced wherever they stand in a name; the drafts match whole names, those that were given."
MOST_LENGTH = 2_000  # of a name while texts are replaced in it


@dataclass(frozen=True, slots=True)
class Replace:
    """One pair: a text, what takes its place, and its line."""

    old: str
    new: str
    line: int

    def __str__(self) -> str:
        return f"({self.old!r}, {self.new!r})"


def replaces_of(listed: Listed) -> tuple[list[Replace], list[Finding]]:
    """The pairs of a list, and what in it is none."""
    found: list[Replace] = []
    findings: list[Finding] = []
    for line, element in listed.elements:
        if isinstance(element, Unread):
            findings.append(Finding(NOT_UNDERSTOOD, element.text or "this", element.line, element.what))
        elif not isinstance(element, list) or len(element) != 2 or not all(isinstance(text, str) for text in element):
            findings.append(Finding(NOT_UNDERSTOOD, repr(element)[:80], line, "no pair of texts"))
        elif not element[0]:
            findings.append(Finding(NOT_UNDERSTOOD, repr(element)[:80], line, "an empty text stands everywhere in a name"))
        else:
            found.append(Replace(element[0], element[1], line))
    return found, findings


def drafts_of_mapping(
    replaces: Sequence[Replace], names: Sequence[str], file: str, *, is_set: bool
) -> tuple[list[Drafted], list[Finding], tuple[str, ...]]:
    """The drafts of a list for some names, and what the lint finds in it."""
    findings = [*_findings(replaces), *(_unordered(replaces) if is_set else ())]
    used: set[int] = set()
    pairs: list[Pair] = []
    for name in names:
        new, by = replaced(name, replaces)
        used |= set(by)
        pairs.append(Pair(name, new, by[0] if by else -1))
    told = {f.line for f in findings if f.kind in (NEVER_MATCHES, SHADOWED)}
    for n, pair in enumerate(replaces):
        if n not in used and pair.line not in told:
            findings.append(Finding(NEVER_MATCHES, str(pair), pair.line, f"none of the names that were given ({len(names):,})"))
    findings += _inside_words(names, replaces)
    if is_set and (odd := _changed_by_order(names, replaces)):
        findings.append(Finding(NO_ORDER, "the set", replaces[0].line, f"in the reversed order {odd[0]} becomes {odd[2]}, not {odd[1]}"))
    drafted: list[Drafted] = []
    first = pairs_by_name(pairs)
    for folded in fold_pairs(Pair(p.old, p.new) for p in pairs):
        drafted_or_not = _draft(folded, first, replaces, file)
        (drafted if isinstance(drafted_or_not, Drafted) else findings).append(drafted_or_not)  # type: ignore[arg-type]
    return drafted, findings, (NOTE,)


def pairs_by_name(pairs: Sequence[Pair]) -> dict[str, int]:
    """For each name the first pair of the list that changed it; -1 where none did."""
    return {p.old: p.about for p in pairs if isinstance(p.about, int)}


def replaced(name: str, replaces: Sequence[Replace]) -> tuple[str, list[int]]:
    """What their loop makes of a name, and the pairs that changed it."""
    by = []
    for n, pair in enumerate(replaces):
        if pair.old in name and len(name) <= MOST_LENGTH:
            name = name.replace(pair.old, pair.new)
            by.append(n)
    return name, by


def _draft(folded: Folded, first: dict[str, int], replaces: Sequence[Replace], file: str) -> Drafted | Finding:
    by = first.get(folded.pairs[0].old, -1)
    line = replaces[by].line if by >= 0 else (replaces[0].line if replaces else 0)
    theirs = str(replaces[by]) if by >= 0 else "no pair: the name stays"
    if not fits(folded.old, folded.pairs[0].old) or not fits(folded.new, folded.pairs[0].new):
        return Finding(NOT_UNDERSTOOD, theirs, line, f"{folded.pairs[0].old}: a name that no pattern can say")
    return Drafted(Rule(folded.old, folded.new, written_at=(file, line)), theirs)


# ---- the lint, without names ----------------------------------------------------------------------------------------------------


def _findings(replaces: Sequence[Replace]) -> Iterator[Finding]:
    makers: dict[str, Replace] = {}
    for n, pair in enumerate(replaces):
        if "{" in pair.old:
            yield Finding(NEVER_MATCHES, str(pair), pair.line, "str.replace takes {} as it stands: no name has braces")
            continue
        by = next((other for other in replaces[:n] if _hides(other, pair)), None)
        if by is not None:
            why = f"{_named(by)} has changed this text before"
            yield Finding(SHADOWED, str(pair), pair.line, why)
        first = makers.setdefault(pair.new, pair)
        if first.old != pair.old:
            at = f" (line {first.line})" if first.line else ""
            why = f"{first.old!r}{at} and {pair.old!r} become one text"
            yield Finding(NO_WAY_BACK, str(pair), pair.line, why)
        again = next((other for other in replaces[: n + 1] if other.old in pair.new), None)
        if again is not None and by is None and "{" not in again.old:
            by_itself = "it stands in what it becomes" if again is pair else f"{_named(again)} would change what it becomes"
            yield Finding(NOT_IDEMPOTENT, str(pair), pair.line, f"{by_itself}: a converted name is changed a second time")
        later = next((other for other in replaces[n + 1 :] if other.old in pair.new), None)
        if later is not None:
            yield Finding(OVERLAPS, str(pair), pair.line, f"{_named(later)} changes what it becomes")


def _named(pair: Replace) -> str:
    """A pair in a sentence, with its line where it is from a text."""
    return f"line {pair.line}, {pair}," if pair.line else f"{pair}"


def _hides(earlier: Replace, pair: Replace) -> bool:
    """Whether an earlier pair leaves nothing of the text of a later one."""
    return earlier.old in pair.old and pair.old not in pair.old.replace(earlier.old, earlier.new)


def _unordered(replaces: Sequence[Replace]) -> Iterator[Finding]:
    """A set: what its pairs do, and which of them do something else in another order."""
    depends = False
    for one, other in combinations(replaces, 2):
        short, long = sorted((one, other), key=lambda pair: len(pair.old))
        if short.old in long.old and long.old.replace(short.old, short.new) != long.new:
            depends = True
            why = f"whether it comes before {_named(short)} is left to chance, and the result depends on it"
            yield Finding(NO_ORDER, str(long), long.line, why)
    if not depends and replaces:
        why = "it is written as a set: its pairs come in another order in each process (as it stands, no two contradict each other)"
        yield Finding(NO_ORDER, "the set of pairs", replaces[0].line, why)


def _inside_words(names: Sequence[str], replaces: Sequence[Replace]) -> Iterator[Finding]:
    """Pairs that change a part of a word: `norm.` in `q_norm.`."""
    told: set[int] = set()
    for name in names:
        for n in replaced(name, replaces)[1]:
            at = name.find(replaces[n].old)
            if n not in told and at > 0 and _is_word(name[at]) and _is_word(name[at - 1]):
                told.add(n)
                why = f"it begins inside a word of {name}"
                yield Finding(NOT_ANCHORED, str(replaces[n]), replaces[n].line, why)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _changed_by_order(names: Sequence[str], replaces: Sequence[Replace]) -> tuple[str, str, str] | None:
    """The first name that the reversed order would give another new name: old, new, other."""
    for name in names:
        one, other = replaced(name, replaces)[0], replaced(name, replaces[::-1])[0]
        if one != other:
            return (*(folded_names([text])[0] for text in (name, one, other)),)  # type: ignore[return-value]
    return None


def pairs_from(value: Any) -> list[tuple[int, Any]] | None:
    """A list of pairs that stands in Python, not in a text, as elements of a list; None where it is something else."""
    if not isinstance(value, list | tuple | set | frozenset) or not value:
        return None
    if not all(isinstance(each, list | tuple) and len(each) == 2 for each in value):
        return None
    return [(0, list(each)) for each in value]
