"""Check that the rules of a family can all be true, before there is a config or a checkpoint. Pure.

Looks at names, sentences, axes, placeholders, sizes, options, and patterns that overlap. ``prove`` checks more, with numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES
from mfconv_nb.core.dtypes import CASTABLE
from mfconv_nb.core.errors import Lines, MappingError, nearest, quote, to_one_line
from mfconv_nb.core.layout import TensorLayout, axis_names, pair_blocks, parse_layout, told_axes
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import UNKNOWN, is_readable
from mfconv_nb.mapping.forms import all_forms
from mfconv_nb.mapping.names import FromConfig, Pattern, Slot
from mfconv_nb.mapping.rules import (
    ALL_OR_NONE,
    ANYWHERE,
    COMMON_OPTIONS,
    AnyRule,
    Drop,
    Family,
    Option,
    Place,
    Repeated,
    Rule,
    Tied,
    Window,
    layouts_of,
    numbers_of,
    sides_of,
    values_of,
)
from mfconv_nb.mapping.solve import directed_rule, needs_sizes, structural_sizes

MAX_TOLD = 8  # flaws that one message lists
INDENT = " " * 12  # where "found" has its text in a message

_PLACEHOLDER = re.compile(r"\{=?[a-z_][a-z0-9_]*\}")
_KEY = re.compile(r"[\w.-]+")
_AXIS = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A mistake in a family: its rules (none: the family itself), and what to change."""

    rules: tuple[AnyRule, ...]
    found: str
    expected: str
    hint: str = ""


def check_family(family: Family) -> None:
    """Raises MappingError (MFC311) with every flaw of a family, each with the line and the rule it is about."""
    flaws = flaws_of(family)
    if not flaws:
        return
    if len(flaws) == 1:
        flaw = flaws[0]
        raise MappingError("MFC311", _place_of_flaw(family, flaw), found=flaw.found, expected=flaw.expected, hint=flaw.hint or None)
    told = [
        f"{_place_text(family, f)}\n{INDENT}  {_indent_found(f.found)}; expected {f.expected}. {f.hint}".rstrip() for f in flaws[:MAX_TOLD]
    ]
    more = [f"and {len(flaws) - MAX_TOLD:,} more"] if len(flaws) > MAX_TOLD else []
    found = Lines(f"\n{INDENT}".join([f"{len(flaws):,} things that cannot be as they are", *told, *more]))
    raise MappingError("MFC311", _file_of(family), found=found, expected="rules that can all be true", hint="Change the lines named above.")


def flaws_of(family: Family) -> tuple[Flaw, ...]:
    """Every flaw of a family, in the order of its rules; only parts of the wrong kind where there are some."""
    early = early_flaws_of(family)
    if early:
        return early
    found: dict[tuple[object, ...], Flaw] = {}
    for form in all_forms(family):
        known = {*form.sizes, *family.sizes}
        for rule in form.rules:
            for flaw in [*_flaws_of_rule(rule, form, known)] or _flaws_of_sizeless_axes(rule, form):
                found.setdefault((rule.written_at, flaw.found), flaw)
        for flaw in _flaws_of_overlaps(form):
            found.setdefault((*(rule.written_at for rule in flaw.rules), flaw.found), flaw)
    return tuple(sorted(found.values(), key=lambda flaw: flaw.rules[0].written_at[1]))


def _indent_found(found: str) -> str:
    """Two columns further to the right, so that a caret stays under its character."""
    return found.replace("\n", "\n  ") if isinstance(found, Lines) else to_one_line(found)


def early_flaws_of(family: Family) -> tuple[Flaw, ...]:
    """The flaws that would break all other checks: parts of the wrong kind, else sizes, conditions and sentences."""
    return tuple(_flaws_of_kinds(family)) or (*_flaws_of_sizes(family), *_flaws_of_conditions(family), *_flaws_of_sentences(family))


# ---- where a flaw stands ---------------------------------------------------------------------------------------------------


def _file_of(family: Family) -> str:
    return f"family {quote(str(family.key))} in {Path(family.written_at[0]).name}"


def _place_of_flaw(family: Family, flaw: Flaw) -> str:
    return f"{Path(family.written_at[0]).name}, {_place_text(family, flaw)}"


def _place_text(family: Family, flaw: Flaw) -> str:
    if not flaw.rules:
        return f"line {family.written_at[1]}, family {quote(str(family.key))}"
    return " and ".join(f"{_line_text(rule.written_at, family.written_at[0])}, {_short_form(rule)}" for rule in flaw.rules)


def _line_text(place: Place, file: str) -> str:
    return f"line {place[1]}" if place[0] == file else f"{Path(place[0]).name} line {place[1]}"


def _short_form(rule: AnyRule) -> str:
    """A rule by its first name: ``Rule('a.{layer}.w', …)``."""
    names: Any = rule.pattern if isinstance(rule, Drop) else rule.hf
    return f"{type(rule).__name__}({(names[0] if isinstance(names, tuple | list) and names else names)!r}, …)"


# ---- the family as a whole ---------------------------------------------------------------------------------------------


def _flaws_of_kinds(family: Family) -> Iterator[Flaw]:
    """Parts of the wrong kind, which would break all other checks."""
    key = family.key
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key.endswith(".py"):
        yield Flaw((), f"the key {key!r}", "letters, digits, '-', '_' or '.', and no '.py' at the end", "It is what --model takes.")
    rules: Any = family.rules
    if not isinstance(rules, tuple):
        comma = " A single rule needs a comma: rules=(Rule(...),)." if isinstance(rules, AnyRule) else ""
        yield Flaw((), f"rules is a {type(rules).__name__}", "a tuple of rules", f"Write rules=(Rule(...), Rule(...)).{comma}")
        return
    for place, rule in enumerate(rules, 1):
        if not isinstance(rule, AnyRule):
            star = "Lay it out with a star: *NAME." if isinstance(rule, tuple | list) else ""
            yield Flaw((), f"entry {place} of rules is a {type(rule).__name__}", "a Rule, Repeated, Tied or Drop", star)
        else:
            yield from _flaws_of_name_kinds(rule)
    if not isinstance(family.sizes, Mapping) or not all(isinstance(x, str) for item in family.sizes.items() for x in item):
        yield Flaw((), "sizes with something else than text", "a dict of sentences", 'For example {"hidden": "hidden_size"}.')
    else:
        for axis in family.sizes:
            if not _AXIS.fullmatch(axis):
                yield Flaw((), f"{quote(axis)} as a name in sizes", "small letters, digits and '_', as layouts have them")
    toy: Any = family.toy
    if not isinstance(toy, Mapping):
        yield Flaw((), f"toy is a {type(toy).__name__}", "a dict, as a config.json holds it")
    for field in ("covers", "covers_zh", "source"):
        if not isinstance(getattr(family, field), str):
            yield Flaw((), f"{field}={getattr(family, field)!r}", "a text")
    for field in ("model_types", "aliases", "also", "same_maths", "mf_words"):
        words: Any = getattr(family, field)
        if not isinstance(words, tuple) or not all(isinstance(word, str) for word in words):
            yield Flaw((), f"{field}={words!r}", "a tuple of texts", f'A single one needs a comma: {field}=("...",).')
    for field, example in (("part_types", '{"text_config": ("llama",)}'), ("conv1d", '{"gpt2": ("c_attn",)}')):
        parts: Any = getattr(family, field)
        if not isinstance(parts, Mapping) or not all(isinstance(p, str) and isinstance(kinds, tuple) for p, kinds in parts.items()):
            yield Flaw((), f"{field}={parts!r}", "a dict of tuples of texts", f"For example {example}.")
    windows: Any = family.windows
    if not isinstance(windows, Mapping) or not all(isinstance(p, str) and isinstance(w, Window) for p, w in windows.items()):
        yield Flaw((), f"windows={windows!r}", "a dict of Window", 'For example {"qwen2": Window("use_sliding_window")}.')
    if not isinstance(family.options, tuple) or not all(isinstance(o, Option) for o in family.options):
        yield Flaw((), "options that are no tuple of Option", "options=(Option(...),)")
        return
    for n, option in enumerate(family.options):
        if not option.values and not option.size:
            yield Flaw((), f"the option {quote(str(option.name))} without values", "values=(...), the default first, or size=...")
        if option.name in (other.name for other in family.options[:n]):
            yield Flaw((), f"the option {quote(str(option.name))} for the second time", "each option once")


def _flaws_of_name_kinds(rule: AnyRule) -> Iterator[Flaw]:
    for title, names in (("pattern", rule.pattern),) if isinstance(rule, Drop) else (("hf", rule.hf), ("mf", rule.mf)):
        each = names if isinstance(names, tuple) and not isinstance(rule, Tied) else (names,)
        if not each or not all(isinstance(name, str) and name for name in each):
            yield Flaw((rule,), f"{title}={names!r}", "a name, or a tuple of names")
    layout: Any = getattr(rule, "layout", None)
    if not isinstance(layout, str | None):
        yield Flaw((rule,), f"layout={layout!r}", "a sentence, or None")
    for field in ("sizes", "when"):
        if not isinstance(getattr(rule, field, {}), Mapping):
            yield Flaw((rule,), f"{field}={getattr(rule, field)!r}", "a dict")
    constants: Any = rule.sizes if isinstance(rule, Rule) else {}
    for axis, size in constants.items() if isinstance(constants, Mapping) else ():
        if not (isinstance(size, str) or (type(size) is int and size > 0)):
            yield Flaw((rule,), f"sizes={{{axis!r}: {size!r}}}", "a whole number from 1 on, or the name of an axis of that size")
    if isinstance(rule, Rule) and rule.dtype is not None and rule.dtype not in CASTABLE:
        yield Flaw((rule,), f"dtype={rule.dtype!r}", f"one of {', '.join(sorted(CASTABLE))}", _hint_near(str(rule.dtype).upper(), CASTABLE))
    if isinstance(rule, Drop) and rule.side not in (HF, MF):
        yield Flaw((rule,), f"side={rule.side!r}", "'hf' or 'mf'")
    if isinstance(rule, Rule | Repeated) and rule.optional not in ("", ALL_OR_NONE, ANYWHERE):
        yield Flaw((rule,), f"optional={rule.optional!r}", f"{ALL_OR_NONE!r} or {ANYWHERE!r}")


def _flaws_of_sizes(family: Family) -> Iterator[Flaw]:
    for axis, sentence in family.sizes.items():
        for part in (end.strip() for alternative in sentence.split("|") for end in alternative.split("..")):
            if part != UNKNOWN and not is_readable(_PLACEHOLDER.sub("0", part)):
                found = f"the size of {quote(axis)}: {quote(sentence)}"
                yield Flaw((), found, "config keys and + - * /, alternatives after |", 'For example "head_dim | hidden_size / heads".')


def _flaws_of_conditions(family: Family) -> Iterator[Flaw]:
    """Conditions of rules that name an option or a size that the family does not have."""
    values = {o.name: o.values for o in family.options}
    for rule in family.rules:
        for name, value in ((name, value) for name, condition in rule.when.items() for value in values_of(condition)):
            if value not in values.get(name, ()):
                expected = f"one of {values[name]}" if name in values else f"an option of the family: {', '.join(values) or 'it has none'}"
                yield Flaw((rule,), f"when {name}={value!r}", expected, _hint_near(name, values))
        for axis in sorted(numbers_of(rule) - family.sizes.keys()):
            hint = _hint_near(axis, family.sizes) or f"Add {quote(axis)} to sizes."
            yield Flaw((rule,), f"{{={axis}}} in a name", "a name in sizes", hint)
        flag = None if isinstance(rule, Drop) else rule.only_if
        if flag and flag not in family.sizes:
            hint = _hint_near(flag, family.sizes) or f'Add {quote(flag)} to sizes, such as "{flag} | 0".'
            yield Flaw((rule,), f"only_if={flag!r}", "a name in sizes", hint)


def _flaws_of_sentences(family: Family) -> Iterator[Flaw]:
    for rule in family.rules:
        try:
            parse_layout(getattr(rule, "layout", None) or "")
        except MappingError as error:
            yield Flaw((rule,), str(error.found), str(error.expected), error.hint or "")


def _hint_near(word: str, known: Iterable[str]) -> str:
    best = nearest(word, known)
    return "" if best is None or best == word else f"Did you mean {quote(best)}?"


# ---- one rule ----------------------------------------------------------------------------------------------------------


def _flaws_of_rule(rule: AnyRule, form: Family, known: set[str]) -> Iterator[Flaw]:
    sources, targets = sides_of(rule, MF)
    for pattern in (*sources, *targets):
        if re.search(r"[{}]", _PLACEHOLDER.sub("", pattern.text)):
            expected = "placeholders of small letters, digits and '_', such as {layer}"
            yield Flaw((rule,), f"braces in {quote(pattern.text)}", expected)
    if isinstance(rule, Drop):
        return
    layouts = layouts_of(rule, MF)
    if isinstance(rule, Repeated):
        held = {p for s in sources for p in s.placeholders}
        yield from (_odd_placeholder(rule, p, t, sources, targets) for t in targets for p in t.placeholders if p not in held)
    odd = [*placeholders_without_axis(rule)]
    for placeholder, pattern in odd:
        yield _odd_placeholder(rule, placeholder, pattern, sources, targets)
    shared = {p for s in sources for p in s.placeholders} & {p for t in targets for p in t.placeholders}
    for pattern in (*sources, *targets):
        if lacking := sorted(shared - set(pattern.placeholders)):
            expected = f"{{{lacking[0]}}} in every name of the rule, as it is in others"
            yield Flaw((rule,), f"no {{{lacking[0]}}} in {quote(pattern.text)}", expected)
    if isinstance(rule, Tied | Rule) and (isinstance(rule, Tied) or rule.same_as):
        names = [p.text for other in form.rules if other is not rule for p in sides_of(other, MF)[0]]
        if rule.same_as not in names:
            yield Flaw((rule,), f"same_as={rule.same_as!r}", "the Hugging Face name of another rule", _hint_near(rule.same_as, names))
    if layouts is None:
        if len(sources) + len(targets) > 2 and not isinstance(rule, Repeated):
            yield Flaw(
                (rule,),
                f"{how_many(len(sources), 'name')}, {how_many(len(targets), 'name')} and no layout",
                "a sentence that says where every number goes",
            )
        return
    yield from _flaws_of_sentence(rule, layouts, (sources, targets), form, known, odd=bool(odd))


def _odd_placeholder(rule: AnyRule, name: str, pattern: Pattern, sources: Sequence[Pattern], targets: Sequence[Pattern]) -> Flaw:
    here, others = (SIDE_NAMES[HF], targets) if pattern in sources else (SIDE_NAMES[MF], sources)
    there = {p for other in others for p in other.placeholders} - set(pattern.placeholders)
    hint = _hint_near(name, there) or (f"The other side has {{{', '.join(sorted(there))}}}." if there else "")
    expected = f"{{{name}}} on both sides, or an axis {name} in the other side's part of the layout"
    return Flaw((rule,), f"{{{name}}} on the {here} side only", expected, hint)


def placeholders_without_axis(rule: AnyRule) -> Iterator[tuple[str, Pattern]]:
    """Placeholders of one side that are neither a placeholder nor an axis of the other."""
    if isinstance(rule, Repeated | Drop):
        return
    for to in (MF, HF):
        source, target = sides_of(rule, to)
        own = {p for s in source for p in s.placeholders} - {p for t in target for p in t.placeholders}
        layouts = layouts_of(rule, to)
        axes = axis_names(e for tensor in layouts[1] for e in tensor) if layouts is not None else frozenset()
        yield from ((p, next(s for s in source if p in s.placeholders)) for p in sorted(own - axes))


def _flaws_of_sentence(
    rule: Rule | Repeated | Tied,
    layouts: tuple[tuple[TensorLayout, ...], tuple[TensorLayout, ...]],
    patterns: tuple[Sequence[Pattern], Sequence[Pattern]],
    form: Family,
    known: set[str],
    *,
    odd: bool,
) -> Iterator[Flaw]:
    for side, tensors, names in zip(SIDE_NAMES.values(), layouts, patterns, strict=True):
        if len(tensors) != len(names):
            found = f"{how_many(len(names), 'name')} on the {side} side, {how_many(len(tensors), 'tensor')} in {quote(str(rule.layout))}"
            yield Flaw((rule,), found, "one tensor, between commas, for each name")
            return
    left, right = (axis_names(e for tensor in side for e in tensor) for side in layouts)
    placeholders = [{p for pattern in side for p in pattern.placeholders} for side in patterns]
    own = placeholders[0] ^ placeholders[1]
    if not odd and not isinstance(rule, Repeated):
        try:
            pair_blocks(*layouts, dict.fromkeys(left | right, 2), dict.fromkeys(own, 0))
        except MappingError as error:
            yield _unpaired_flaw(rule, error, (left, right), (left - right - placeholders[1], right - left - placeholders[0]))
            return
    if not isinstance(rule, Repeated) and (late := sorted(axis for axis in own if ".." in form.sizes.get(axis, ""))):
        found = f"{late[0]} counts from another number than 0: {quote(form.sizes[late[0]])}"
        yield Flaw((rule,), found, "an axis of a layout, which counts from 0", "Let it stand in the names of both sides.")
    constants = rule.sizes if isinstance(rule, Rule) else {}
    for axis in sorted((left | right) - known - constants.keys() - own):
        meant = difflib.get_close_matches(axis, known - left - right, n=1, cutoff=0.8)  # "half_head" is not "head"
        if meant:
            expected, hint = "an axis in sizes", f"Did you mean {quote(meant[0])}? If not, add {quote(axis)} to sizes."
            yield Flaw((rule,), f"the axis {quote(axis)} in {quote(str(rule.layout))}", expected, hint)


def axes_without_size(rule: AnyRule, form: Family) -> dict[str, list[str]]:
    """For each direction (``MF``, ``HF``) the axes of a rule whose size nothing gives: neither sizes nor an option nor the shapes."""
    sized = {*form.sizes, *(o.size for o in (*COMMON_OPTIONS, *form.options))}
    found: dict[str, list[str]] = {}
    for to in (MF, HF):
        directed = directed_rule(rule, to)
        if directed.layouts is None or not needs_sizes(directed):
            continue
        constants, same = structural_sizes(rule)
        counted = {p for side in (directed.source, directed.target) for pattern in side for p in pattern.placeholders}
        told = told_axes(directed.layouts[0], {*sized, *constants, *counted}, same)
        if lacking := sorted(axis_names(e for side in directed.layouts for tensor in side for e in tensor) - told):
            found[to] = lacking
    return found


def _flaws_of_sizeless_axes(rule: AnyRule, form: Family) -> Iterator[Flaw]:
    for to, axes in axes_without_size(rule, form).items():
        found = f"no size for {', '.join(axes)} on the way to {SIDE_NAMES[to]}"
        expected = "a size by the family's sizes or the rule's, or by a shape that has it as a whole axis"
        yield Flaw((rule,), f"{found}: {quote(str(getattr(rule, 'layout', '')))}", expected, f"Add {quote(axes[0])} to sizes.")


def _unpaired_flaw(
    rule: Rule | Repeated | Tied, error: MappingError, axes: Sequence[frozenset[str]], odd: Sequence[frozenset[str]]
) -> Flaw:
    """Axes on one side only, by their names; else what the layout itself says."""
    sides = [(axis, side, other) for side, own, other in (("left", odd[0], axes[1]), ("right", odd[1], axes[0])) for axis in sorted(own)]
    if not sides:
        return Flaw((rule,), f"{error.found} in {quote(str(rule.layout))}", str(error.expected))
    found = " and ".join(f"{quote(axis)} stands on the {side} of the arrow only" for axis, side, _ in sides)
    hints = [hint for axis, side, other in sides if side == "right" or not odd[1] if (hint := _hint_near(axis, other))]
    return Flaw((rule,), f"{found}: {quote(str(rule.layout))}", "every axis on both sides", " ".join(hints))


# ---- patterns that overlap ------------------------------------------------------------------------------------------------


def _flaws_of_overlaps(form: Family) -> Iterator[Flaw]:
    for here, to in ((HF, MF), (MF, HF)):
        for (a, first), (b, second) in overlaps(form, to):
            found = f"both match names like {quote(first.text)} on the {SIDE_NAMES[here]} side"
            rules = (a, b) if a.written_at[1] <= b.written_at[1] else (b, a)
            if first.text != second.text:
                found = f"{quote(first.text)} and {quote(second.text)} match the same names on the {SIDE_NAMES[here]} side"
            yield Flaw(rules, found, "one rule for each name", "Remove one of them, or let them stand under different options (when).")


def overlaps(form: Family, to: str) -> list[tuple[tuple[AnyRule, Pattern], tuple[AnyRule, Pattern]]]:
    """Pairs of patterns of the source side that could match the same name, each with its rule."""
    by_template: dict[str, list[tuple[AnyRule, Pattern]]] = {}
    for rule in form.rules:
        for pattern in sides_of(rule, to)[0]:
            by_template.setdefault(pattern.template, []).append((rule, pattern))
    return [pair for group in by_template.values() for pair in _meeting_pairs(group)]


def _meeting_pairs(group: Sequence[tuple[AnyRule, Pattern]]) -> Iterator[tuple[tuple[AnyRule, Pattern], tuple[AnyRule, Pattern]]]:
    """Pairs of one template that can match the same name. Names without placeholders meet only equal ones: some tables have thousands."""
    whole: dict[tuple[Slot, ...], list[tuple[AnyRule, Pattern]]] = {}
    others: list[tuple[AnyRule, Pattern]] = []
    for n, b in enumerate(group):
        if b[1].placeholders:
            yield from ((a, b) for a in group[:n] if _can_meet(a[1], b[1]))
            others.append(b)
        else:
            same = whole.setdefault(b[1].slots, [])
            yield from ((a, b) for a in (*same, *(o for o in others if _can_meet(o[1], b[1]))))
            same.append(b)


def _can_meet(a: Pattern, b: Pattern) -> bool:
    """Whether some name matches both of two patterns of one template: no number in which they must differ."""
    return all(_may_be_equal(x, y) for x, y in zip(a.slots, b.slots, strict=True))


def _may_be_equal(x: Slot, y: Slot) -> bool:
    """Whether two places may hold the same number. A number of the config counts before a placeholder, so those two never compete."""
    if isinstance(x, FromConfig) or isinstance(y, FromConfig):
        return x == y
    return x == y or isinstance(x, str) or isinstance(y, str)
