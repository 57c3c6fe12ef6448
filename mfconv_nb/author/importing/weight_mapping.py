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
    Finding,
    Found,
    finding_of,
)
from mfconv_nb.author.importing.names import Pair, begins_inside_word, draft_of, fold_pairs
from mfconv_nb.author.importing.rule_texts import Listed, read_elements
from mfconv_nb.core.folding import folded_names

NOTE = "Their texts are replaced wherever they stand in a name; the drafts match whole names, those that were given."
MOST_LENGTH = 2_000  # of a name while texts are replaced in it


@dataclass(frozen=True, slots=True)
class Replacement:
    """One pair: a text, what takes its place, and its line."""

    old: str
    new: str
    line: int

    def __str__(self) -> str:
        return f"({self.old!r}, {self.new!r})"


def replacements_in(listed: Listed, found: Found) -> list[Replacement]:
    """The pairs of a list; what in it is no pair is a finding."""
    replaces = []
    for line, element in read_elements(listed, found):
        if not isinstance(element, list) or len(element) != 2 or not all(isinstance(text, str) for text in element):
            found.add(Finding(NOT_UNDERSTOOD, repr(element)[:80], line, "no pair of texts"))
        elif not element[0]:
            found.add(Finding(NOT_UNDERSTOOD, repr(element)[:80], line, "an empty text stands everywhere in a name"))
        else:
            replaces.append(Replacement(element[0], element[1], line))
    return replaces


def draft_mapping(replaces: Sequence[Replacement], names: Sequence[str], file: str, found: Found, *, is_set: bool) -> None:
    """Add the drafts of a list for some names, and what the lint finds in it."""
    found.notes = (NOTE,)
    found.findings += [*_lint_pairs(replaces), *(_find_dependence_on_order(replaces) if is_set else ())]
    applied = {name: replace_texts(name, replaces) for name in names}
    used = {n for _, by in applied.values() for n in by}
    told = {f.line for f in found.findings if f.kind in (NEVER_MATCHES, SHADOWED)}
    for n, pair in enumerate(replaces):
        if n not in used and pair.line not in told:
            found.add(finding_of(NEVER_MATCHES, pair, f"none of the names that were given ({len(names):,})"))
    found.findings += _find_parts_of_words(names, replaces)
    if is_set and (odd := _first_changed_by_order(names, replaces)):
        found.add(Finding(NO_ORDER, "the set", replaces[0].line, f"in the reversed order {odd[0]} becomes {odd[2]}, not {odd[1]}"))
    for folded in fold_pairs(Pair(old, new) for old, (new, _) in applied.items()):
        by = applied[folded.pairs[0].old][1]
        line = replaces[by[0] if by else 0].line if replaces else 0
        found.add(draft_of(folded, str(replaces[by[0]]) if by else "no pair: the name stays", (file, line)))


def replace_texts(name: str, replaces: Sequence[Replacement]) -> tuple[str, list[int]]:
    """What their loop makes of a name, and the pairs that changed it."""
    by = []
    for n, pair in enumerate(replaces):
        if pair.old in name and len(name) <= MOST_LENGTH:
            name = name.replace(pair.old, pair.new)
            by.append(n)
    return name, by


# ---- the lint, without names ----------------------------------------------------------------------------------------------------


def _lint_pairs(replaces: Sequence[Replacement]) -> Iterator[Finding]:
    makers: dict[str, Replacement] = {}
    for n, pair in enumerate(replaces):
        if "{" in pair.old:
            yield finding_of(NEVER_MATCHES, pair, "str.replace takes {} as it stands: no name has braces")
            continue
        by = next((other for other in replaces[:n] if _hides(other, pair)), None)
        if by is not None:
            yield finding_of(SHADOWED, pair, f"{_pair_text(by)} has changed this text before")
        first = makers.setdefault(pair.new, pair)
        if first.old != pair.old:
            at = f" (line {first.line})" if first.line else ""
            yield finding_of(NO_WAY_BACK, pair, f"{first.old!r}{at} and {pair.old!r} become one text")
        again = next((other for other in replaces[: n + 1] if other.old in pair.new), None)
        if again is not None and by is None and "{" not in again.old:
            by_itself = "it stands in what it becomes" if again is pair else f"{_pair_text(again)} would change what it becomes"
            yield finding_of(NOT_IDEMPOTENT, pair, f"{by_itself}: a converted name is changed a second time")
        later = next((other for other in replaces[n + 1 :] if other.old in pair.new), None)
        if later is not None:
            yield finding_of(OVERLAPS, pair, f"{_pair_text(later)} changes what it becomes")


def _pair_text(pair: Replacement) -> str:
    """A pair in a sentence, with its line where it is from a text."""
    return f"line {pair.line}, {pair}," if pair.line else f"{pair}"


def _hides(earlier: Replacement, pair: Replacement) -> bool:
    """Whether an earlier pair leaves nothing of the text of a later one."""
    return earlier.old in pair.old and pair.old not in pair.old.replace(earlier.old, earlier.new)


def _find_dependence_on_order(replaces: Sequence[Replacement]) -> Iterator[Finding]:
    """A set: what its pairs do, and which of them do something else in another order."""
    depends = False
    for one, other in combinations(replaces, 2):
        short, long = sorted((one, other), key=lambda pair: len(pair.old))
        if short.old in long.old and long.old.replace(short.old, short.new) != long.new:
            depends = True
            yield finding_of(NO_ORDER, long, f"whether it comes before {_pair_text(short)} is left to chance, and the result depends on it")
    if not depends and replaces:
        why = "it is written as a set: its pairs come in another order in each process (as it stands, no two contradict each other)"
        yield Finding(NO_ORDER, "the set of pairs", replaces[0].line, why)


def _find_parts_of_words(names: Sequence[str], replaces: Sequence[Replacement]) -> Iterator[Finding]:
    """Pairs that change a part of a word: `norm.` in `q_norm.`."""
    told: set[int] = set()
    for name in names:
        for n in replace_texts(name, replaces)[1]:
            if n not in told and begins_inside_word(name, name.find(replaces[n].old)):
                told.add(n)
                why = f"it begins inside a word of {name}"
                yield Finding(NOT_ANCHORED, str(replaces[n]), replaces[n].line, why)


def _first_changed_by_order(names: Sequence[str], replaces: Sequence[Replacement]) -> tuple[str, str, str] | None:
    """The first name that the reversed order would give another new name: old, new, other."""
    for name in names:
        one, other = replace_texts(name, replaces)[0], replace_texts(name, replaces[::-1])[0]
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
