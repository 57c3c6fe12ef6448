"""transformers' conversion mappings as drafts: `WeightRenaming` and `WeightConverter`, from a Python text or from its own table.

The left side is then the checkpoint, the right side the module of transformers. Their patterns are searched anywhere in a name, all
renamings after one another, then one converter. They are applied to the names of a checkpoint, and what comes out is folded to patterns
that match whole names. Without names, those that say a whole name are translated, and the others are told. Source: transformers 5.23.
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
    Finding,
)
from mfconv_nb.author.importing.names import Folded, Pair, filled, fits, fold_pairs, placeholder_words, word_of
from mfconv_nb.author.importing.operations import CannotSay, Operation, sentence_of
from mfconv_nb.author.importing.regex import is_whole, objection_to, searched
from mfconv_nb.author.importing.rule_texts import MOST_CHARACTERS, Call, Listed, Unread
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
OWN = "*"  # stands in a name for the number that counts the tensors of a list
ARGUMENTS = {"Transpose": ("dim0", "dim1", "check_dims"), "PermuteForRope": ("subconfig_key", "permute_layer_names", "inverse")}
Shapes = Mapping[str, tuple[int, ...]]  # of the names given, by names with {} for each number
MOST_DIGITS = re.compile(r"\d{20}")


@dataclass(frozen=True, slots=True)
class Transform:
    """One of their transforms, read."""

    kind: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    operations: tuple[Operation, ...]
    line: int
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(self.sources)} -> {', '.join(self.targets)})"


# ---- reading --------------------------------------------------------------------------------------------------------------------


def transforms_of(listed: Listed) -> tuple[list[Transform], list[Finding]]:
    """The transforms of a list in a text, and what could not be read."""
    found: list[Transform] = []
    findings: list[Finding] = []
    for line, element in listed.elements:
        if isinstance(element, Unread):
            findings.append(Finding(NOT_UNDERSTOOD, element.text or "this", element.line, element.what))
            continue
        read = _read(element) if isinstance(element, Call) and element.name in KINDS else None
        if read is None:
            shown = element.name if isinstance(element, Call) else repr(element)[:60]
            findings.append(Finding(NOT_UNDERSTOOD, shown, line, f"none of {', '.join(sorted(KINDS))} with patterns"))
        else:
            found.append(read)
    return found, findings


def _read(call: Call) -> Transform | None:
    fields = {
        CONVERTER: ("source_patterns", "target_patterns", "operations"),
        PREFIX: ("prefix_to_add", "prefix_to_remove", "model_prefix"),
        OFFSET: ("source_patterns", "target_patterns", "offset"),
    }.get(call.name, ("source_patterns", "target_patterns"))
    values = {**dict(zip(fields, call.positional, strict=False)), **call.keywords}
    if call.name == PREFIX:
        return _prefix_change(values, call.line)
    sources, targets = (_patterns(values.get(key)) for key in ("source_patterns", "target_patterns"))
    operations = _operations(values.get("operations", []))
    if not sources or not targets or operations is None or (call.name == CONVERTER) != bool(operations):
        return None
    if (call.name == GROUP and len(sources) != len(targets)) or (call.name == OFFSET and type(values.get("offset")) is not int):
        return None
    more = {"offset": values["offset"]} if call.name == OFFSET else {}
    return Transform(call.name, sources, tuple(map(processed_target, targets)), operations, call.line, more)


def _patterns(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 0 < len(texts) <= 16:
        return ()
    return tuple(texts) if all(isinstance(t, str) and 0 < len(t) <= MOST_CHARACTERS for t in texts) else ()


def _operations(value: Any) -> tuple[Operation, ...] | None:
    if not isinstance(value, list) or len(value) > 8 or not all(isinstance(each, Call) for each in value):
        return None
    return tuple(
        Operation(each.name, {**dict(zip(ARGUMENTS.get(each.name, ("dim",)), each.positional, strict=False)), **each.keywords})
        for each in value
    )


def _prefix_change(values: Mapping[str, Any], line: int) -> Transform | None:
    add, remove, model = (values.get(key) for key in ("prefix_to_add", "prefix_to_remove", "model_prefix"))
    words = [word for word in (add, remove, model) if word is not None]
    plain = all(isinstance(word, str) and re.fullmatch(r"[\w.\\]*", word) for word in words)
    if (add is None) == (remove is None) or not plain:
        return None
    prefix = f"{model}\\." if model else ""
    source = f"^{prefix}(?:(?!{add}\\.))(.+)" if add is not None else f"^{prefix}{remove}\\.(.+)"
    target = f"{prefix}{add}\\.\\1" if add is not None else f"{prefix}\\1"
    return Transform(PREFIX, (source,), (processed_target(target),), (), line, {"removes": remove is not None})


def processed_target(pattern: str) -> str:
    """What takes the place of a match: theirs strip the beginning's mark, look-arounds and escapes from a target."""
    text = re.sub(r"\(\?[^()]*\)", "", pattern.removeprefix("^"))
    return re.sub(r"\([^()]+\)", r"\\1", text, count=1).replace(r"\.", ".")


# ---- applying -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Applied:
    """One name, what becomes of it, the transforms that changed it, and the converter and the pattern of it that took it last."""

    old: str
    new: str
    by: tuple[int, ...]
    converter: int | None = None
    source: int = 0


class Engine:
    """Their way with a name, for transforms whose patterns are admitted."""

    def __init__(self, transforms: Sequence[Transform], names: Sequence[str]) -> None:
        self.transforms = transforms
        self.compiled = [_compiled(t) for t in transforms]
        groups = {n for n, t in enumerate(transforms) if t.kind == GROUP}
        seen = {n for n in groups if any(_takes_first(self.compiled[n], name) for name in names)}  # theirs wait for their first pattern
        self.active = {*range(len(transforms))} - groups | seen

    def apply(self, name: str) -> Applied:
        new, by = name, []
        for n, transform in enumerate(self.transforms):
            if transform.kind != CONVERTER and (changed := self.renamed(n, new)) is not None:
                by += [n] if changed[0] != new else []
                new = changed[0]
        for n, transform in enumerate(self.transforms):
            if transform.kind == CONVERTER and (changed := self.renamed(n, new)) is not None:
                return Applied(name, changed[0], (*by, n), n, changed[1])
        return Applied(name, new, tuple(by))

    def renamed(self, n: int, name: str) -> tuple[str, int] | None:
        """What one transform makes of a name, and which of its patterns matched; None where none does."""
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


def _compiled(transform: Transform) -> re.Pattern[str]:
    longest_first = sorted(enumerate(transform.sources), key=lambda item: -len(item[1]))
    return re.compile("|".join(f"(?P<g{n}>{searched(pattern)})" for n, pattern in longest_first))


def _takes_first(compiled: re.Pattern[str], name: str) -> bool:
    match = compiled.search(name) if len(name) <= MOST_CHARACTERS else None
    return match is not None and match.group("g0") is not None


def drafts_of_transforms(
    transforms: Sequence[Transform], names: Sequence[str], shapes: Shapes, file: str
) -> tuple[list[Drafted], list[Finding], tuple[str, ...]]:
    """The drafts of some transforms for some names (none: only what says whole names), and what the lint finds."""
    admitted, findings = _admitted(transforms)
    findings += _static(admitted)
    if not names:
        drafted, more = _without_names(admitted, file)
        return drafted, [*findings, *more], (NOTE,)
    usable = [name for name in names if len(name) <= MOST_CHARACTERS and not MOST_DIGITS.search(name)]
    engine = Engine(admitted, usable)
    applied = [engine.apply(name) for name in usable]
    findings += _seen(engine, applied, len(names))
    drafted = []
    plain = [a for a in applied if a.converter is None]
    changed_by = {a.old: a.by for a in plain}
    for folded in fold_pairs(Pair(a.old, a.new) for a in plain):
        by = changed_by[folded.pairs[0].old]
        transform = admitted[by[0]] if by else None
        theirs, line = (str(transform), transform.line) if transform is not None else ("no transform: the name stays", 0)
        if fits(folded.old, folded.pairs[0].old) and fits(folded.new, folded.pairs[0].new):
            drafted.append(Drafted(Rule(folded.old, folded.new, written_at=(file, line)), theirs))
        else:
            findings.append(Finding(NOT_UNDERSTOOD, theirs, line, f"{folded.pairs[0].old}: a name that no pattern can say"))
    for n, transform in enumerate(admitted):
        own = [a for a in applied if a.converter == n]
        if own:
            for each in _converted(transform, own, shapes, file):
                (drafted if isinstance(each, Drafted) else findings).append(each)  # type: ignore[arg-type]
    return drafted, findings, (NOTE,)


def _admitted(transforms: Sequence[Transform]) -> tuple[list[Transform], list[Finding]]:
    found: list[Transform] = []
    findings: list[Finding] = []
    for transform in transforms:
        why = next((f"{p}: {why}" for p in transform.sources if (why := objection_to(searched(p)))), "")
        if not why:
            try:
                _compiled(transform)
            except re.error as error:
                why = f"no regular expression: {error}"
        if why:
            findings.append(Finding(NOT_UNDERSTOOD, str(transform), transform.line, why))
        else:
            found.append(transform)
    return found, findings


# ---- converters -----------------------------------------------------------------------------------------------------------------


def _converted(transform: Transform, applied: Sequence[Applied], shapes: Shapes, file: str) -> Iterator[Drafted | Finding]:
    """One rule for each set of patterns that a converter takes, of all its sources together."""
    merges = any(op.name == "MergeModulelist" for op in transform.operations)
    by_source: list[list[Folded]] = []
    for place in range(len(transform.sources)):
        own = [a for a in applied if a.source == place]
        by_source.append(fold_pairs(_pairs(own, merges=merges)))
    if not all(by_source):
        lacking = ", ".join(p for p, found in zip(transform.sources, by_source, strict=True) if not found)
        yield Finding(NEVER_MATCHES, str(transform), transform.line, f"{lacking}: no name, and the converter needs all of its patterns")
        return
    together: dict[str, list[Folded]] = {}
    for found in by_source:
        for folded in found:
            together.setdefault(folded.new, []).append(folded)
    for new, sources in together.items():
        if len(sources) != len(transform.sources):
            why = f"{new} gets {how_many(len(sources), 'tensor')}, for {how_many(len(transform.sources), 'pattern')}"
            yield Finding(NO_WAY_BACK, str(transform), transform.line, why)
        else:
            yield _joined(transform, new, sources, shapes, file)


def _pairs(applied: Sequence[Applied], *, merges: bool) -> Iterator[Pair]:
    """Old and new names; of a list that is merged, one with a mark in place of the number that counts it."""
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
        place = varying[0] if len(varying) == 1 else _counted(split[0], new) if len(olds) == 1 else None
        for old, parts in zip(olds, split, strict=True):
            marked = old if place is None else ".".join([*parts[:place], OWN, *parts[place + 1 :]])
            seen.setdefault(Pair(marked, new))
    yield from seen


def _counted(parts: Sequence[str], new: str) -> int | None:
    """The last number of a name, where a list has one tensor only."""
    numbers = [n for n, part in enumerate(parts) if part.isdigit()]
    return numbers[-1] if len(numbers) > sum(part.isdigit() for part in new.split(".")) else None


def _joined(transform: Transform, new: str, sources: Sequence[Folded], shapes: Shapes, file: str) -> Drafted | Finding:
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
    merged = any(op.name == "MergeModulelist" for op in transform.operations)
    known = shapes.get(".".join("{}" if p.isdigit() or p == OWN else p for p in sources[0].pairs[0].old.split(".")))
    guess = 1 if olds[0].endswith("bias") else 2
    axes = len(known) if known is not None else max(guess, needed + 1 - merged)
    try:
        layout, sizes = sentence_of(transform.operations, olds, news, axes, own)
    except CannotSay as why:
        return Finding(NO_WAY_BACK, str(transform), transform.line, f"not drafted: {why}")
    hf, mf = (tuple(names) if len(names) > 1 else names[0] for names in (olds, news))
    return Drafted(Rule(hf, mf, layout, sizes=sizes, written_at=(file, transform.line)), str(transform))


def _without_names(transforms: Sequence[Transform], file: str) -> tuple[list[Drafted], list[Finding]]:
    """Renamings that say a whole name, as patterns; the others need the names of a checkpoint."""
    drafted: list[Drafted] = []
    findings: list[Finding] = []
    for transform in transforms:
        source, target = transform.sources[0], transform.targets[0]
        if transform.kind == RENAMING and len(transform.sources) == 1 and is_whole(source) and target.count("\\1") == source.count("("):
            old = source[1:-1].replace(r"\.", ".").replace(r"(\d+)", "{}")
            words = placeholder_words(old)
            rule = Rule(filled(old, words), filled(target.replace(r"\1", "{}"), words), written_at=(file, transform.line))
            drafted.append(Drafted(rule, str(transform)))
        else:
            findings.append(Finding(NEEDS_NAMES, str(transform), transform.line, "it says a part of a name: names=... gives whole ones"))
    return drafted, findings


# ---- the lint -------------------------------------------------------------------------------------------------------------------


def _static(transforms: Sequence[Transform]) -> Iterator[Finding]:
    """What can be said without names."""
    for transform in transforms:
        if transform.more.get("removes"):
            why = "a prefix is taken away: whether it was there is remembered only while the model is loaded"
            yield Finding(NO_WAY_BACK, str(transform), transform.line, why)
        target = transform.targets[0]
        if len(transform.targets) == 1 and r"\1" not in target and _compiled(transform).search(target):
            why = "its pattern stands in what it becomes: a converted name is changed a second time"
            yield Finding(NOT_IDEMPOTENT, str(transform), transform.line, why)
        if any(op.name == "Transpose" and op.more.get("check_dims") for op in transform.operations):
            why = "Transpose(check_dims=True) decides by shape: of a square tensor nobody can tell what it did"
            yield Finding(NO_WAY_BACK, str(transform), transform.line, why)


def _seen(engine: Engine, applied: Sequence[Applied], count: int) -> Iterator[Finding]:
    """What shows in the names that were given."""
    transforms = engine.transforms
    used = {n for a in applied for n in a.by}
    for n, transform in enumerate(transforms):
        if n not in used:
            yield Finding(NEVER_MATCHES, str(transform), transform.line, f"none of the names that were given ({count:,})")
    makers: dict[str, Applied] = {}
    for a in applied:
        if a.converter is None and (first := makers.setdefault(a.new, a)) is not a:
            by = transforms[a.by[0] if a.by else first.by[0]] if a.by or first.by else None
            yield Finding(NO_WAY_BACK, str(by or a.old), by.line if by else 0, f"{first.old} and {a.old} both become {a.new}")
    yield from _overlapping(engine, applied)
    yield from _inside_words(engine, applied)
    yield from _again(engine, applied)


def _overlapping(engine: Engine, applied: Iterable[Applied]) -> Iterator[Finding]:
    told: set[tuple[int, int]] = set()
    for a in applied:
        for n, transform in enumerate(engine.transforms):
            if a.converter is None or transform.kind != CONVERTER or n <= a.converter or (a.converter, n) in told:
                continue
            renamed = _before_converters(engine, a.old)
            if engine.renamed(n, renamed) is not None:
                told.add((a.converter, n))
                taker = engine.transforms[a.converter]
                yield Finding(OVERLAPS, str(transform), transform.line, f"{a.old} is taken by line {taker.line}, {taker}, before")


def _before_converters(engine: Engine, name: str) -> str:
    for n, transform in enumerate(engine.transforms):
        if transform.kind != CONVERTER:
            name = (engine.renamed(n, name) or (name, 0))[0]
    return name


def _inside_words(engine: Engine, applied: Sequence[Applied]) -> Iterator[Finding]:
    for n, transform in enumerate(engine.transforms):
        for a in applied:
            match = engine.compiled[n].search(a.old) if a.by[:1] == (n,) else None
            if match and match.start() and re.match(r"\w", match.group(0)) and re.match(r"\w", a.old[match.start() - 1]):
                why = f"it begins inside a word of {a.old}: {match.group(0)}"
                yield Finding(NOT_ANCHORED, str(transform), transform.line, why)
                break


def _again(engine: Engine, applied: Sequence[Applied]) -> Iterator[Finding]:
    told: set[int] = set()
    olds = {a.old for a in applied}
    for a in applied:
        again = engine.apply(a.new) if a.new not in olds and a.new != a.old else None
        if again is not None and again.new != a.new and again.by[0] not in told:
            told.add(again.by[0])
            transform = engine.transforms[again.by[0]]
            why = f"{a.old} becomes {a.new}, and when converted again {again.new}"
            yield Finding(NOT_IDEMPOTENT, str(transform), transform.line, why)


# ---- their own table ------------------------------------------------------------------------------------------------------------


def registered(model_type: str) -> tuple[list[Transform], str] | None:
    """The transforms that the installed transformers has for a model type, and its version; None where it has none.

    transformers is imported here, and nowhere else in the import.
    """
    import transformers
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

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
