"""MindFormers' `weight_mapping` (static inference) as drafts: pairs of texts, replaced one after the other, anywhere in a name.

The result depends on the order of the pairs, so they cannot be translated one by one. This module applies them to the names of a checkpoint
and folds the results to patterns for whole names. Without names nothing can be drafted.
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
    Drafts,
    Finding,
    finding_of,
)
from mfconv_nb.author.importing.names import Pair, begins_inside_word, draft_of, fold_pairs
from mfconv_nb.author.importing.rule_texts import Listed, read_elements
from mfconv_nb.core.folding import folded_names

NOTE = "Their texts are replaced wherever they stand in a name; the drafts match whole names, those that were given."
MOST_LENGTH = 2_000  # characters of a name while texts are replaced in it


@dataclass(frozen=True, slots=True)
class Replacement:
    """One pair: a text, the text that replaces it, and its line."""

    old: str
    new: str
    line: int

    def __str__(self) -> str:
        return f"({self.old!r}, {self.new!r})"


def replacements_in(listed: Listed, found: Drafts) -> list[Replacement]:
    """The pairs of a list; anything else in it is a finding."""
    pairs = []
    for line, element in read_elements(listed, found):
        if not isinstance(element, list) or len(element) != 2 or not all(isinstance(text, str) for text in element):
            found.add(Finding(NOT_UNDERSTOOD, repr(element)[:80], line, "no pair of texts"))
        elif not element[0]:
            found.add(Finding(NOT_UNDERSTOOD, repr(element)[:80], line, "an empty text stands everywhere in a name"))
        else:
            pairs.append(Replacement(element[0], element[1], line))
    return pairs


def draft_mapping(pairs: Sequence[Replacement], names: Sequence[str], file: str, found: Drafts, *, is_set: bool) -> None:
    """Add the drafts of a list for some names, and what the lint finds in it."""
    found.notes = (NOTE,)
    found.findings += [*_lint_pairs(pairs), *(_find_dependence_on_order(pairs) if is_set else ())]
    applied = {name: replace_texts(name, pairs) for name in names}
    used = {n for _, by in applied.values() for n in by}
    reported = {f.line for f in found.findings if f.kind in (NEVER_MATCHES, SHADOWED)}
    for n, pair in enumerate(pairs):
        if n not in used and pair.line not in reported:
            found.add(finding_of(NEVER_MATCHES, pair, f"none of the names that were given ({len(names):,})"))
    found.findings += _find_parts_of_words(names, pairs)
    if is_set and (odd := _first_changed_by_order(names, pairs)):
        found.add(Finding(NO_ORDER, "the set", pairs[0].line, f"in the reversed order {odd[0]} becomes {odd[2]}, not {odd[1]}"))
    for folded in fold_pairs(Pair(old, new) for old, (new, _) in applied.items()):
        by = applied[folded.pairs[0].old][1]
        line = pairs[by[0] if by else 0].line if pairs else 0
        found.add(draft_of(folded, str(pairs[by[0]]) if by else "no pair: the name stays", (file, line)))


def replace_texts(name: str, pairs: Sequence[Replacement]) -> tuple[str, list[int]]:
    """What MindFormers' loop makes of a name, and the pairs that changed it."""
    by = []
    for n, pair in enumerate(pairs):
        if pair.old in name and len(name) <= MOST_LENGTH:
            name = name.replace(pair.old, pair.new)
            by.append(n)
    return name, by


# ---- the lint, without names ----------------------------------------------------------------------------------------------------


def _lint_pairs(pairs: Sequence[Replacement]) -> Iterator[Finding]:
    """Findings about single pairs, and about a pair and those before and behind it."""
    makers: dict[str, Replacement] = {}
    for n, pair in enumerate(pairs):
        if "{" in pair.old:
            yield finding_of(NEVER_MATCHES, pair, "str.replace takes {} as it stands: no name has braces")
            continue
        by = next((other for other in pairs[:n] if _hides(other, pair)), None)
        if by is not None:
            yield finding_of(SHADOWED, pair, f"{_pair_text(by)} has changed this text before")
        first = makers.setdefault(pair.new, pair)
        if first.old != pair.old:
            at = f" (line {first.line})" if first.line else ""
            yield finding_of(NO_WAY_BACK, pair, f"{first.old!r}{at} and {pair.old!r} become one text")
        again = next((other for other in pairs[: n + 1] if other.old in pair.new), None)
        if again is not None and by is None and "{" not in again.old:
            by_itself = "it stands in what it becomes" if again is pair else f"{_pair_text(again)} would change what it becomes"
            yield finding_of(NOT_IDEMPOTENT, pair, f"{by_itself}: a converted name is changed a second time")
        later = next((other for other in pairs[n + 1 :] if other.old in pair.new), None)
        if later is not None:
            yield finding_of(OVERLAPS, pair, f"{_pair_text(later)} changes what it becomes")


def _pair_text(pair: Replacement) -> str:
    """A pair in a sentence, with its line if it has one."""
    return f"line {pair.line}, {pair}," if pair.line else f"{pair}"


def _hides(earlier: Replacement, pair: Replacement) -> bool:
    """Whether an earlier pair leaves nothing of the text of a later one."""
    return earlier.old in pair.old and pair.old not in pair.old.replace(earlier.old, earlier.new)


def _find_dependence_on_order(pairs: Sequence[Replacement]) -> Iterator[Finding]:
    """The pairs of a set that do something else in another order; a warning where no two of them do."""
    depends = False
    for one, other in combinations(pairs, 2):
        short, long = sorted((one, other), key=lambda pair: len(pair.old))
        if short.old in long.old and long.old.replace(short.old, short.new) != long.new:
            depends = True
            yield finding_of(NO_ORDER, long, f"whether it comes before {_pair_text(short)} is left to chance, and the result depends on it")
    if not depends and pairs:
        why = "it is written as a set: its pairs come in another order in each process (as it stands, no two contradict each other)"
        yield Finding(NO_ORDER, "the set of pairs", pairs[0].line, why)


def _find_parts_of_words(names: Sequence[str], pairs: Sequence[Replacement]) -> Iterator[Finding]:
    """Pairs whose text begins inside a word: `norm.` in `q_norm.`."""
    reported: set[int] = set()
    for name in names:
        for n in replace_texts(name, pairs)[1]:
            if n not in reported and begins_inside_word(name, name.find(pairs[n].old)):
                reported.add(n)
                yield finding_of(NOT_ANCHORED, pairs[n], f"it begins inside a word of {name}")


def _first_changed_by_order(names: Sequence[str], pairs: Sequence[Replacement]) -> tuple[str, str, str] | None:
    """The first name that gets another new name in the reversed order: the old name, and both new ones."""
    for name in names:
        one, other = replace_texts(name, pairs)[0], replace_texts(name, pairs[::-1])[0]
        if one != other:
            old, new, reversed_new = (folded_names([text])[0] for text in (name, one, other))
            return old, new, reversed_new
    return None


def pairs_from(value: Any) -> list[tuple[int, Any]] | None:
    """Pairs that a caller gives in Python, as the elements of a list; None for anything else."""
    if not isinstance(value, list | tuple | set | frozenset) or not value:
        return None
    if not all(isinstance(each, list | tuple) and len(each) == 2 for each in value):
        return None
    return [(0, list(each)) for each in value]
