"""transformers' conversion mappings as drafts: `WeightRenaming` and `WeightConverter`, from a Python text or from its own table.

The left side of a draft is the checkpoint, the right side the module of transformers. Their patterns are searched anywhere in a name:
all renamings, one after the other, then one converter. This module does the same with the names of a checkpoint and folds the results to
patterns for whole names. Without names it drafts only the patterns that say a whole name, and lists the others. Source: transformers 5.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mfconv_nb.author.importing.imported import (
    NEEDS_NAMES,
    NEVER_MATCHES,
    NO_WAY_BACK,
    NOT_ANCHORED,
    NOT_IDEMPOTENT,
    NOT_UNDERSTOOD,
    OVERLAPS,
    Drafted,
    Drafts,
    Finding,
    Shapes,
    finding_of,
)
from mfconv_nb.author.importing.names import Folded, Pair, begins_inside_word, draft_of, fill_braces, fold_pairs, placeholder_words, word_of
from mfconv_nb.author.importing.operations import CannotSay, Operation, sentence_of
from mfconv_nb.author.importing.regex import is_whole, objection_to, to_search_pattern
from mfconv_nb.author.importing.rule_texts import MOST_CHARACTERS, Call, Listed, read_elements, texts_of
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.rules import Rule

RENAMING, CONVERTER, GROUP, PREFIX, OFFSET = (
    "WeightRenaming",
    "WeightConverter",
    "GroupWeightRename",
    "PrefixChange",
    "Inkling2IndexOffsetWeightRename",
)
KINDS = frozenset((RENAMING, CONVERTER, GROUP, PREFIX, OFFSET))
NOTE = "Their patterns match anywhere in a name; the drafts match whole names. The right side is transformers' module."
OWN = "*"  # in a name: the number that counts the tensors of a list
ARGUMENTS = {"Transpose": ("dim0", "dim1", "check_dims"), "PermuteForRope": ("subconfig_key", "permute_layer_names", "inverse")}
MOST_PATTERNS = 16  # of one transform
MOST_DIGITS = re.compile(r"\d{20}")  # names with such a number are left out: it is no index


@dataclass(frozen=True, slots=True)
class Transform:
    """One of their transforms.

    Attributes:
        more: the offset of an `Inkling2IndexOffsetWeightRename`, or whether a `PrefixChange` removes its prefix.
    """

    kind: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    operations: tuple[Operation, ...]
    line: int
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def merges(self) -> bool:
        """Whether it makes one tensor of a list of tensors."""
        return any(op.name == "MergeModulelist" for op in self.operations)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(self.sources)} -> {', '.join(self.targets)})"


# ---- reading --------------------------------------------------------------------------------------------------------------------


def transforms_of(listed: Listed, found: Drafts) -> list[Transform]:
    """The transforms of a list in a text; what cannot be read is a finding."""
    transforms = []
    for line, element in read_elements(listed, found):
        transform = _read_transform(element) if isinstance(element, Call) and element.name in KINDS else None
        if transform is None:
            shown = element.name if isinstance(element, Call) else repr(element)[:60]
            found.add(Finding(NOT_UNDERSTOOD, shown, line, f"none of {', '.join(sorted(KINDS))} with patterns"))
        else:
            transforms.append(transform)
    return transforms


def _read_transform(call: Call) -> Transform | None:
    fields = {
        CONVERTER: ("source_patterns", "target_patterns", "operations"),
        PREFIX: ("prefix_to_add", "prefix_to_remove", "model_prefix"),
        OFFSET: ("source_patterns", "target_patterns", "offset"),
    }.get(call.name, ("source_patterns", "target_patterns"))
    values = call.arguments(fields)
    if call.name == PREFIX:
        return _read_prefix_change(values, call.line)
    sources, targets = (texts_of(values.get(key), MOST_PATTERNS) for key in ("source_patterns", "target_patterns"))
    operations = _read_operations(values.get("operations", []))
    if not sources or not targets or operations is None or (call.name == CONVERTER) != bool(operations):
        return None
    if (call.name == GROUP and len(sources) != len(targets)) or (call.name == OFFSET and type(values.get("offset")) is not int):
        return None
    more = {"offset": values["offset"]} if call.name == OFFSET else {}
    return Transform(call.name, sources, tuple(map(to_replacement, targets)), operations, call.line, more)


def _read_operations(value: Any) -> tuple[Operation, ...] | None:
    if not isinstance(value, list) or len(value) > 8 or not all(isinstance(each, Call) for each in value):
        return None
    return tuple(Operation(each.name, each.arguments(ARGUMENTS.get(each.name, ("dim",)))) for each in value)


def _read_prefix_change(values: Mapping[str, Any], line: int) -> Transform | None:
    add, remove, model = (values.get(key) for key in ("prefix_to_add", "prefix_to_remove", "model_prefix"))
    words = [word for word in (add, remove, model) if word is not None]
    plain = all(isinstance(word, str) and re.fullmatch(r"[\w.\\]*", word) for word in words)
    if (add is None) == (remove is None) or not plain:
        return None
    prefix = f"{model}\\." if model else ""
    source = f"^{prefix}(?:(?!{add}\\.))(.+)" if add is not None else f"^{prefix}{remove}\\.(.+)"
    target = f"{prefix}{add}\\.\\1" if add is not None else f"{prefix}\\1"
    return Transform(PREFIX, (source,), (to_replacement(target),), (), line, {"removes": remove is not None})


def to_replacement(pattern: str) -> str:
    """What replaces a match. transformers strips ``^``, look-arounds and escapes from a target, and makes its first group ``\\1``."""
    text = re.sub(r"\(\?[^()]*\)", "", pattern.removeprefix("^"))
    return re.sub(r"\([^()]+\)", r"\\1", text, count=1).replace(r"\.", ".")


# ---- applying -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Applied:
    """What becomes of one name.

    Attributes:
        by: the transforms that changed it.
        renamed: what the converter saw.
        converter: the converter that took it, if one did; ``source`` is the pattern that matched.
    """

    old: str
    new: str
    by: tuple[int, ...]
    renamed: str
    converter: int | None = None
    source: int = 0


class Engine:
    """Applies transforms to names as transformers does. Their patterns must be admitted."""

    def __init__(self, transforms: Sequence[Transform], names: Sequence[str]) -> None:
        self.transforms = transforms
        self.compiled = [_compile_patterns(t) for t in transforms]
        groups = {n for n, t in enumerate(transforms) if t.kind == GROUP}
        seen = {n for n in groups if any(self._takes_first(n, name) for name in names)}  # a group waits for its first pattern
        self.active = {*range(len(transforms))} - groups | seen

    def _takes_first(self, n: int, name: str) -> bool:
        match = self.compiled[n].search(name) if len(name) <= MOST_CHARACTERS else None
        return match is not None and match.group("g0") is not None

    def apply(self, name: str) -> Applied:
        """What all renamings, one after the other, and then one converter make of a name."""
        renamed, by = name, []
        for n, transform in enumerate(self.transforms):
            if transform.kind != CONVERTER and (changed := self.rename_by(n, renamed)) is not None:
                by += [n] if changed[0] != renamed else []
                renamed = changed[0]
        for n, transform in enumerate(self.transforms):
            if transform.kind == CONVERTER and (changed := self.rename_by(n, renamed)) is not None:
                return Applied(name, changed[0], (*by, n), renamed, n, changed[1])
        return Applied(name, renamed, tuple(by), renamed)

    def rename_by(self, n: int, name: str) -> tuple[str, int] | None:
        """What one transform makes of a name, and which of its patterns matched; None where none matches."""
        match = self.compiled[n].search(name) if n in self.active and len(name) <= MOST_CHARACTERS else None
        if match is None:
            return None
        transform, groups = self.transforms[n], match.groupdict()
        place = next(int(group[1:]) for group, value in groups.items() if value is not None)
        new = transform.targets[place if transform.kind == GROUP else 0]
        if r"\1" in new:
            index = match.re.groupindex[f"g{place}"] + 1
            inner = match.group(index) if index <= match.re.groups else None
            if transform.kind == OFFSET and inner is not None and inner.isdigit():
                inner = str(int(inner) + transform.more["offset"])
            new = new.replace(r"\1", inner or "")
        return name.replace(match.group(0), new, 1), place


def _compile_patterns(transform: Transform) -> re.Pattern[str]:
    longest_first = sorted(enumerate(transform.sources), key=lambda item: -len(item[1]))
    return re.compile("|".join(f"(?P<g{n}>{to_search_pattern(pattern)})" for n, pattern in longest_first))


def draft_transforms(transforms: Sequence[Transform], names: Sequence[str], shapes: Shapes, file: str, found: Drafts) -> None:
    """Add the drafts of some transforms for some names, and what the lint finds. Without names only whole-name patterns are drafted."""
    found.notes = (NOTE,)
    admitted = [transform for transform in transforms if _is_admitted(transform, found)]
    found.findings += _lint_patterns(admitted)
    if not names:
        for transform in admitted:
            found.add(_draft_whole_name(transform, file))
        return
    usable = [name for name in names if len(name) <= MOST_CHARACTERS and not MOST_DIGITS.search(name)]
    engine = Engine(admitted, usable)
    applied = [engine.apply(name) for name in usable]
    found.findings += _lint_names(engine, applied, len(names))
    changed_by = {a.old: a.by for a in applied if a.converter is None}
    for folded in fold_pairs(Pair(a.old, a.new) for a in applied if a.converter is None):
        by = changed_by[folded.pairs[0].old]
        theirs, line = (str(admitted[by[0]]), admitted[by[0]].line) if by else ("no transform: the name stays", 0)
        found.add(draft_of(folded, theirs, (file, line)))
    for n, transform in enumerate(admitted):
        own = [a for a in applied if a.converter == n]
        for each in _draft_converter(transform, own, shapes, file) if own else ():
            found.add(each)


def _is_admitted(transform: Transform, found: Drafts) -> bool:
    """Whether a search for the patterns of a transform ends soon; if not, that is a finding."""
    why = next((f"{p}: {why}" for p in transform.sources if (why := objection_to(to_search_pattern(p)))), "")
    if not why:
        try:
            _compile_patterns(transform)
        except re.error as error:
            why = f"no regular expression: {error}"
    if why:
        found.add(finding_of(NOT_UNDERSTOOD, transform, why))
    return not why


# ---- converters -----------------------------------------------------------------------------------------------------------------


def _draft_converter(transform: Transform, applied: Sequence[Applied], shapes: Shapes, file: str) -> Iterator[Drafted | Finding]:
    """The rules of one converter: one for each target name, made of all its sources."""
    by_source: list[list[Folded]] = []
    for place in range(len(transform.sources)):
        own = [a for a in applied if a.source == place]
        by_source.append(fold_pairs(_pairs_of(own, merges=transform.merges)))
    if not all(by_source):
        lacking = ", ".join(p for p, found in zip(transform.sources, by_source, strict=True) if not found)
        yield finding_of(NEVER_MATCHES, transform, f"{lacking}: no name, and the converter needs all of its patterns")
        return
    together: dict[str, list[Folded]] = {}
    for found in by_source:
        for folded in found:
            together.setdefault(folded.new, []).append(folded)
    for new, sources in together.items():
        if len(sources) != len(transform.sources):
            yield finding_of(
                NO_WAY_BACK, transform, f"{new} gets {how_many(len(sources), 'tensor')}, for {how_many(len(transform.sources), 'pattern')}"
            )
        else:
            yield _draft_joined(transform, new, sources, shapes, file)


def _pairs_of(applied: Sequence[Applied], *, merges: bool) -> Iterator[Pair]:
    """Old and new names. Where the converter merges a list, ``*`` stands for the number that counts its tensors."""
    if not merges:
        yield from (Pair(a.old, a.new) for a in applied)
        return
    seen: dict[Pair, None] = {}
    by_new: dict[str, list[str]] = {}
    for a in applied:
        by_new.setdefault(a.new, []).append(a.old)
    for new, olds in by_new.items():
        split = [old.split(".") for old in olds]
        varying = [n for n, parts in enumerate(zip(*split, strict=False)) if len(set(parts)) > 1]
        place = varying[0] if len(varying) == 1 else _counting_place(split[0], new) if len(olds) == 1 else None
        for old, parts in zip(olds, split, strict=True):
            marked = old if place is None else ".".join([*parts[:place], OWN, *parts[place + 1 :]])
            seen.setdefault(Pair(marked, new))
    yield from seen


def _counting_place(parts: Sequence[str], new: str) -> int | None:
    """Where the counting number stands in the one name of a list with a single tensor: its last number, if the new name has fewer."""
    numbers = [n for n, part in enumerate(parts) if part.isdigit()]
    return numbers[-1] if len(numbers) > sum(part.isdigit() for part in new.split(".")) else None


def _draft_joined(transform: Transform, new: str, sources: Sequence[Folded], shapes: Shapes, file: str) -> Drafted | Finding:
    """The rule that makes one target name of its sources."""
    own = None
    olds = []
    for folded in sources:
        parts = folded.old.split(".")
        if OWN in parts:
            own = word_of(parts[parts.index(OWN) - 1]) if parts.index(OWN) else "index"
            parts[parts.index(OWN)] = f"{{{own}}}"
        olds.append(".".join(parts))
    first = transform.targets[0]
    news = [new, *(new.replace(first, target) for target in transform.targets[1:])]
    needed = max((n for op in transform.operations for key in ("dim", "dim0", "dim1") if type(n := op.more.get(key, 0)) is int), default=0)
    known = shapes.get(".".join("{}" if p.isdigit() or p == OWN else p for p in sources[0].pairs[0].old.split(".")))
    guess = 1 if olds[0].endswith("bias") else 2
    axes = len(known) if known is not None else max(guess, needed + 1 - transform.merges)
    try:
        layout, sizes = sentence_of(transform.operations, olds, news, axes, own)
    except CannotSay as why:
        return finding_of(NO_WAY_BACK, transform, f"not drafted: {why}")
    hf, mf = (tuple(names) if len(names) > 1 else names[0] for names in (olds, news))
    return Drafted(Rule(hf, mf, layout, sizes=sizes, written_at=(file, transform.line)), str(transform))


def _draft_whole_name(transform: Transform, file: str) -> Drafted | Finding:
    """The rule of a renaming whose pattern says a whole name; every other transform needs the names of a checkpoint."""
    source, target = transform.sources[0], transform.targets[0]
    is_renaming = transform.kind == RENAMING and len(transform.sources) == 1
    if not is_renaming or not is_whole(source) or target.count("\\1") != source.count("("):
        return finding_of(NEEDS_NAMES, transform, "it says a part of a name: names=... gives whole ones")
    old = source[1:-1].replace(r"\.", ".").replace(r"(\d+)", "{}")
    words = placeholder_words(old)
    rule = Rule(fill_braces(old, words), fill_braces(target.replace(r"\1", "{}"), words), written_at=(file, transform.line))
    return Drafted(rule, str(transform))


# ---- the lint -------------------------------------------------------------------------------------------------------------------


def _lint_patterns(transforms: Sequence[Transform]) -> Iterator[Finding]:
    """Findings that need no names."""
    for transform in transforms:
        if transform.more.get("removes"):
            yield finding_of(
                NO_WAY_BACK, transform, "a prefix is taken away: whether it was there is remembered only while the model is loaded"
            )
        target = transform.targets[0]
        if len(transform.targets) == 1 and r"\1" not in target and _compile_patterns(transform).search(target):
            yield finding_of(NOT_IDEMPOTENT, transform, "its pattern stands in what it becomes: a converted name is changed a second time")
        if any(op.name == "Transpose" and op.more.get("check_dims") for op in transform.operations):
            yield finding_of(
                NO_WAY_BACK, transform, "Transpose(check_dims=True) decides by shape: of a square tensor nobody can tell what it did"
            )


def _lint_names(engine: Engine, applied: Sequence[Applied], count: int) -> Iterator[Finding]:
    """Findings that the names show: transforms that match none of them, and names that become one."""
    transforms = engine.transforms
    used = {n for a in applied for n in a.by}
    for n, transform in enumerate(transforms):
        if n not in used:
            yield finding_of(NEVER_MATCHES, transform, f"none of the names that were given ({count:,})")
    makers: dict[str, Applied] = {}
    for a in applied:
        if a.converter is None and (first := makers.setdefault(a.new, a)) is not a:
            by = transforms[a.by[0] if a.by else first.by[0]] if a.by or first.by else None
            yield Finding(NO_WAY_BACK, str(by or a.old), by.line if by else 0, f"{first.old} and {a.old} both become {a.new}")
    yield from _find_overlaps(engine, applied)
    yield from _find_parts_of_words(engine, applied)
    yield from _find_repeated_changes(engine, applied)


def _find_overlaps(engine: Engine, applied: Iterable[Applied]) -> Iterator[Finding]:
    """Converters that would take a name too, were it not for an earlier one."""
    reported: set[tuple[int, int]] = set()
    for a in applied:
        for n, transform in enumerate(engine.transforms):
            if a.converter is None or transform.kind != CONVERTER or n <= a.converter or (a.converter, n) in reported:
                continue
            if engine.rename_by(n, a.renamed) is not None:
                reported.add((a.converter, n))
                taker = engine.transforms[a.converter]
                yield finding_of(OVERLAPS, transform, f"{a.old} is taken by line {taker.line}, {taker}, before")


def _find_parts_of_words(engine: Engine, applied: Sequence[Applied]) -> Iterator[Finding]:
    """Patterns that match from the middle of a word on."""
    for n, transform in enumerate(engine.transforms):
        for a in applied:
            match = engine.compiled[n].search(a.old) if a.by[:1] == (n,) else None
            if match and match.group(0) and begins_inside_word(a.old, match.start()):
                yield finding_of(NOT_ANCHORED, transform, f"it begins inside a word of {a.old}: {match.group(0)}")
                break


def _find_repeated_changes(engine: Engine, applied: Sequence[Applied]) -> Iterator[Finding]:
    """Transforms that would change a converted name again."""
    reported: set[int] = set()
    olds = {a.old for a in applied}
    for a in applied:
        again = engine.apply(a.new) if a.new not in olds and a.new != a.old else None
        if again is not None and again.new != a.new and again.by[0] not in reported:
            reported.add(again.by[0])
            transform = engine.transforms[again.by[0]]
            yield finding_of(NOT_IDEMPOTENT, transform, f"{a.old} becomes {a.new}, and when converted again {again.new}")


# ---- their own table ------------------------------------------------------------------------------------------------------------


def read_registered_transforms(model_type: str) -> tuple[list[Transform], str] | None:
    """The transforms that the installed transformers has for a model type, and its version; None where it has none."""
    import transformers  # takes seconds to load, and is needed for model types only
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping  # as above

    found = get_checkpoint_conversion_mapping(model_type)
    if found is None:
        return None
    return [_transform_of(each) for each in found], str(transformers.__version__)


def _transform_of(theirs: Any) -> Transform:
    operations = tuple(Operation(type(op).__name__, dict(vars(op))) for op in getattr(theirs, "operations", ()))
    more: dict[str, Any] = {}
    if type(theirs).__name__ == PREFIX:
        more = {"removes": theirs.prefix_to_remove is not None}
    elif type(theirs).__name__ == OFFSET:
        more = {"offset": theirs.offset}
    return Transform(type(theirs).__name__, tuple(theirs.source_patterns), tuple(theirs.target_patterns), operations, 0, more)
