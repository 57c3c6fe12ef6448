"""Names of other tools as patterns for whole names: words for each ``{}``, and pairs of names (old, new) folded to patterns. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mfconv_nb.author.importing.imported import NOT_UNDERSTOOD, Drafted, Finding
from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.folding import fold
from mfconv_nb.mapping.names import parse_pattern
from mfconv_nb.mapping.rules import ANYWHERE, Place, Rule, sides_of
from mfconv_nb.mapping.solve import directed_rule

KNOWN_WORDS = {"h": "layer", "layers": "layer", "layer": "layer", "experts": "expert", "blocks": "block"}
PLAIN = re.compile(r"[A-Za-z0-9_.{}/-]+")  # what a name may be made of
_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
NumberSlots = tuple[str | None, ...]  # the parts of a name between its dots; None for a number


def is_plain(name: str) -> bool:
    """Whether a name can be a pattern: no braces but ``{}``, no special characters, no number such as 007 that reads back differently."""
    if not PLAIN.fullmatch(name) or re.search(r"[{}]", name.replace("{}", "")):
        return False
    return all(len(n) <= 9 and (n == "0" or n[0] != "0") for n in re.findall(r"\d+", name))


def placeholder_words(name: str) -> tuple[str, ...]:
    """A word for each ``{}`` of a name, from the word before it: ``layers`` gives layer, a second ``layers`` gives layer_2."""
    found: list[str] = []
    before = ""
    for part in name.split("."):
        for _ in range(part.count("{}")):
            found.append(_free_word(word_of(part.partition("{}")[0].rstrip("_") or before), found))
        before = part
    return tuple(found)


def word_of(text: str) -> str:
    """A word for the index that follows a word of a name."""
    word = re.sub(r"[^a-z]+", "_", text.lower()).strip("_")
    if word in KNOWN_WORDS:
        return KNOWN_WORDS[word]
    if "expert" in word:
        return "expert"
    return (word[:-1] if word.endswith("s") and len(word) > 3 else word) or "index"


def _free_word(word: str, taken: Sequence[str]) -> str:
    return next(w for w in (word, *(f"{word}_{n}" for n in range(2, 99))) if w not in taken)


def fill_braces(name: str, words: Iterable[str]) -> str:
    """A name with a placeholder in place of each ``{}``."""
    parts = name.split("{}")
    return parts[0] + "".join(f"{{{word}}}{part}" for word, part in zip(words, parts[1:], strict=False))


# ---- pairs of names -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """One name and its new name. Pairs become one pattern only if ``about`` is equal too."""

    old: str
    new: str
    about: object = None


@dataclass(frozen=True, slots=True)
class Folded:
    """Pairs, and the one pattern for each side that says all of them."""

    old: str
    new: str
    about: object
    pairs: tuple[Pair, ...]


def fold_pairs(pairs: Iterable[Pair]) -> list[Folded]:
    """Pairs of names as patterns. A number between dots that both names have becomes a placeholder if all names of the same shape agree.
    Where such names get different new names, the number that decides stays in the pattern."""
    groups: dict[NumberSlots, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(_slots_of(pair.old), []).append(pair)
    return [folded for group in groups.values() for folded in _fold_group(group, frozenset())]


def _slots_of(name: str) -> NumberSlots:
    return tuple(None if _is_number(part) else part for part in name.split("."))


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 9 and (part == "0" or part[0] != "0")


def _numbers_in(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(".") if _is_number(part))


def _fold_group(group: Sequence[Pair], written: frozenset[int]) -> Iterator[Folded]:
    """The patterns of names that differ in their numbers only. Numbers at the places ``written`` are equal in all of them and stay."""
    olds = [_numbers_in(p.old) for p in group]
    if len({(_slots_of(p.new), p.about) for p in group}) == 1:
        partner = _partners_of(olds, [_numbers_in(p.new) for p in group], written)
        if partner is not None:
            yield _pattern_of(group, partner)
            return
    places = [n for n in range(len(olds[0])) if n not in written]
    deciding = next((n for n in places if _decides_alone(group, olds, n)), places[0] if places else None)
    if deciding is None:  # one old name, several new ones
        yield from (Folded(p.old, p.new, p.about, (p,)) for p in group)
        return
    for value in dict.fromkeys(numbers[deciding] for numbers in olds):
        own = [p for p, numbers in zip(group, olds, strict=True) if numbers[deciding] == value]
        yield from _fold_group(own, written | {deciding})


def _decides_alone(group: Sequence[Pair], olds: Sequence[tuple[int, ...]], place: int) -> bool:
    """Whether the number at one place of the old name decides the form of the new one."""
    found: dict[int, tuple[NumberSlots, object]] = {}
    for pair, numbers in zip(group, olds, strict=True):
        new = (_slots_of(pair.new), pair.about)
        if found.setdefault(numbers[place], new) != new:
            return False
    return len(found) > 1


def _partners_of(olds: Sequence[tuple[int, ...]], news: Sequence[tuple[int, ...]], written: frozenset[int]) -> dict[int, int] | None:
    """For each place of a number in the new name the place in the old name with the same number in every pair; None where there is none.

    A number of the new name that never changes needs no partner.
    """
    partners: dict[int, int] = {}
    columns = list(zip(*olds, strict=True))
    for place, column in enumerate(zip(*news, strict=True)):
        free = [n for n, other in enumerate(columns) if other == column and n not in written and n not in partners.values()]
        if free:
            partners[place] = free[0]
        elif len(set(column)) > 1:
            return None
    lost = [n for n, column in enumerate(columns) if n not in partners.values() and len(set(column)) > 1]
    return None if lost else partners


def _pattern_of(group: Sequence[Pair], partners: Mapping[int, int]) -> Folded:
    """The two patterns of some pairs: numbers with a partner on the other side become placeholders."""
    old, new = group[0].old.split("."), group[0].new.split(".")
    words: dict[int, str] = {}
    for place, at in enumerate([at for at, part in enumerate(old) if _is_number(part)]):
        if place in partners.values():
            words[place] = _free_word(word_of(group[0].old.split(".")[at - 1] if at else ""), list(words.values()))
            old[at] = f"{{{words[place]}}}"
    for place, at in enumerate([at for at, part in enumerate(new) if _is_number(part)]):
        if place in partners:
            new[at] = f"{{{words[partners[place]]}}}"
    return Folded(".".join(old), ".".join(new), group[0].about, tuple(group))


def draft_of(folded: Folded, theirs: str, place: Place, layout: str | None = None) -> Drafted | Finding:
    """The rule of some folded pairs; a finding where braces or odd numbers in a name keep its own pattern from taking it."""
    first = folded.pairs[0]
    for text, name in ((folded.old, first.old), (folded.new, first.new)):
        template, numbers = fold(name)
        pattern = parse_pattern(text)
        if pattern.template != template or pattern.match(numbers) is None:
            return Finding(NOT_UNDERSTOOD, theirs, place[1], f"{first.old}: a name that no pattern can say")
    return Drafted(Rule(folded.old, folded.new, layout, written_at=place), theirs)


def begins_inside_word(name: str, at: int) -> bool:
    """Whether a text that stands at a place of a name begins inside a word: `norm.` in `q_norm.`."""
    return at > 0 and re.fullmatch(r"\w\w", name[at - 1 : at + 1]) is not None


# ---- rules against names --------------------------------------------------------------------------------------------------------


def names_taken_by(rule: Rule, names: Mapping[str, Sequence[tuple[str, tuple[int, ...]]]]) -> list[tuple[str, dict[str, int]]]:
    """The names that the Hugging Face side of a rule matches, each with the values of its placeholders."""
    found = []
    for pattern in sides_of(rule, MF)[0]:
        for name, numbers in names.get(pattern.template, ()):
            at = pattern.match(numbers)
            if at is not None:
                found.append((name, at))
    return found


def group_by_template(names: Iterable[str]) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Names by their template, each with its numbers."""
    found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name in names:
        template, numbers = fold(name)
        found.setdefault(template, []).append((name, numbers))
    return found


def mark_optional_rules(rules: Sequence[Rule], names: Sequence[str]) -> list[Rule]:
    """The rules, with those marked optional that only some layers have among these names."""
    known = group_by_template(names)
    loops = [directed_rule(rule, MF).loops for rule in rules]
    seen = [{tuple(at[p] for p in shared) for _, at in names_taken_by(rule, known)} for rule, shared in zip(rules, loops, strict=True)]
    every: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
    for shared, keys in zip(loops, seen, strict=True):
        every.setdefault(shared, set()).update(keys)
    return [_mark_optional(rule, keys, every[shared]) for rule, shared, keys in zip(rules, loops, seen, strict=True)]


def _mark_optional(rule: Rule, keys: set[tuple[int, ...]], every: set[tuple[int, ...]]) -> Rule:
    """The rule, optional if it lacks some indices that other rules of its loops have, or if there are gaps among these."""
    single = sorted(key[0] for key in every if len(key) == 1)
    has_gaps = bool(single) and single != list(range(single[-1] + 1))
    return rule if keys == every and not has_gaps else replace(rule, optional=ANYWHERE)


def with_distinct_loops(rules: Sequence[Rule]) -> list[Rule]:
    """The rules, with loops under different words named differently: layers of a vision tower are not those of the text model."""
    scopes: dict[str, dict[str, None]] = {}
    for rule in rules:
        for loop, scope in _scoped_loops(rule):
            scopes.setdefault(loop, {})[scope] = None
    names = {(loop, scope): name for loop, own in scopes.items() for scope, name in _names_of(loop, list(own)).items()}
    return [_rename_loops(rule, {loop: names[loop, scope] for loop, scope in _scoped_loops(rule)}) for rule in rules]


def _scoped_loops(rule: Rule) -> Iterator[tuple[str, str]]:
    """The placeholders that both sides of a rule share, each with the text before it on the Hugging Face side."""
    directed = directed_rule(rule, MF)
    for found in _PLACEHOLDER.finditer(directed.source[0].text):
        if found[1] in directed.loops:
            yield found[1], re.sub(r"\b\d+\b", "#", _PLACEHOLDER.sub("#", directed.source[0].text[: found.start()]))


def _names_of(loop: str, scopes: Sequence[str]) -> dict[str, str]:
    """A name for a loop under each of several texts before it: with the first word that only this text has."""
    if len(scopes) == 1:
        return {scopes[0]: loop}
    words = {scope: re.findall(r"[a-z][a-z0-9_]*", scope.lower()) for scope in scopes}
    found: dict[str, str] = {}
    for scope, own in words.items():
        others = {word for other, theirs in words.items() if other != scope for word in theirs}
        first = next((word for word in own if word not in others), "")
        name = f"{first}_{loop}" if first else loop
        found[scope] = _free_word(name, list(found.values()))
    return found


def _rename_loops(rule: Rule, names: Mapping[str, str]) -> Rule:
    if all(old == new for old, new in names.items()):
        return rule

    def rename(text: str) -> str:
        return _PLACEHOLDER.sub(lambda m: f"{{{names.get(m[1], m[1])}}}", text)

    hf, mf = (rename(side) if isinstance(side, str) else tuple(map(rename, side)) for side in (rule.hf, rule.mf))
    return replace(rule, hf=hf, mf=mf)
