"""Decide the form of a family that a checkpoint has: the value of each option.

What the caller gives and what the manifest records come first. Then: an option of the target side takes its default. An option of the
source side is never guessed: the names decide, else the shapes, else the caller has to. An option that only the numbers show follows
the config (the YAML of a training run), else its default, which ``map`` may compare with the numbers of an original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from mfconv_nb.core.blocks import whole
from mfconv_nb.core.checkpoint import HF
from mfconv_nb.core.errors import MappingError, SeveralFitError, UsageError, did_you_mean, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.mapping.plan import MappingPlan, Part, Row
from mfconv_nb.mapping.rules import COMMON_OPTIONS, NUMBERS, Family, Option, OptionValue, Tied, form_of, sides_of

WORDS: Mapping[str, OptionValue] = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
GIVEN, CONFIGURED = "given", "told from the config"  # how an option was decided
MAX_FORMS = 64


def options_of(family: Family) -> dict[str, Option]:
    """The options of a family by name, with those that every family takes."""
    return {o.name: o for o in (*COMMON_OPTIONS, *family.options)}


def checked_options(family: Family, given: Mapping[str, object]) -> dict[str, OptionValue]:
    """The options that a caller gave, as values of the family. Words are read as values: "False" is false.

    Raises:
        MappingError: MFC305 for an option this family does not take. UsageError: MFC501 for a value it does not know.
    """
    known = options_of(family)
    found = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            where, hint = f"{name} with model {family.key}", did_you_mean(name, known)
            raise MappingError("MFC305", where, found=quote(str(value)), expected=f"one of its options: {takes}", hint=hint)
        found[name] = _read_value(known[name], value)
    return found


def _hint_value(option: Option) -> str:
    """How to give an option, with its first value as the example."""
    value = option.values[0] if option.values else 8
    return f"Give --{option.name} {value} ({option.name}={value!r} in Python), say, or leave it out."


def _read_value(option: Option, value: object) -> OptionValue:
    by_word = {str(v).lower(): v for v in option.values}
    word = str(value).lower()
    if not option.values:
        if word.isdigit() and not isinstance(value, bool):
            return int(word)
        raise UsageError("MFC501", option.name, found=quote(str(value)), expected="a whole number", hint=_hint_value(option))
    meant = by_word.get(word, WORDS.get(word))
    if meant is None or meant not in option.values or isinstance(meant, bool) not in {isinstance(v, bool) for v in option.values}:
        expected = " or ".join(str(v) or "(nothing)" for v in option.values)
        hint = did_you_mean(word, by_word) or _hint_value(option)
        raise UsageError("MFC501", option.name, found=quote(str(value)), expected=expected, hint=hint)
    return meant


@dataclass(frozen=True)
class Choice:
    """A form of a family, and how each option was decided: given, remembered, told from the config, names or shapes, or the default.

    Attributes:
        turn: of forms that all fit, those with the smallest count: the places of their values in options with ``first_counts``.
    """

    form: Family
    decided: Mapping[str, str]
    turn: tuple[int, ...] = ()


def fitting_forms(
    family: Family,
    templates: Iterable[str],
    to: str,
    given: Mapping[str, OptionValue],
    remembered: Mapping[str, OptionValue],
    configured: Mapping[str, OptionValue] = {},
) -> list[Choice]:
    """The forms that know every name template, defaults first; where none does, those that are nearest (see ``Distance``)."""
    wanted = frozenset(templates)
    remembered = {o.name: remembered[o.name] for o in family.options if any(_is_same(remembered.get(o.name), v) for v in o.values)}
    said = {**{n: (v, CONFIGURED) for n, v in configured.items()}, **{n: (v, "remembered") for n, v in remembered.items()}}
    said |= {n: (v, GIVEN) for n, v in given.items()}
    forms = [_choice(family, chosen, to, said) for chosen in _combinations(family, to, said)]
    knowing = [choice for choice in forms if wanted <= choice.form.templates(to)]
    if knowing:
        return knowing
    distances = [distance_of(choice.form, wanted, to).names for choice in forms]
    return [choice for choice, n in zip(forms, distances, strict=True) if n == min(distances)]


@dataclass(frozen=True, order=True, slots=True)
class Distance:
    """How far the name templates of a checkpoint are from those of a form; the least is nearest.

    Attributes:
        misfits: whether the form does not know every name. One that knows all is nearer than any other, as a config may promise less than
            the form needs.
        names: templates that the form does not know, and templates that it needs and that are not there.
        unneeded: among equals, the form that needs most of the names is nearest: the number of those it needs, negative. A head that may
            be tied counts among them where it is there.
        unknown: of ``names`` those that the form does not know.
    """

    misfits: bool
    names: int
    unneeded: int
    unknown: int

    @property
    def is_whole(self) -> bool:
        """Whether the form knows every name, and all that it needs are there."""
        return self.names == 0


def distance_of(form: Family, templates: frozenset[str], to: str) -> Distance:
    """The distance of a form, by name template: however many layers and experts there are, a name counts once."""
    needed, unknown = form.needed_templates(to), len(templates - form.templates(to))
    heads = sum(p.template in templates for r in form.rules if isinstance(r, Tied) for p in sides_of(r, to)[0]) if to == HF else 0
    return Distance(unknown > 0, unknown + len(needed - templates), -len(needed) - heads, unknown)


def all_forms(family: Family) -> list[Family]:
    """Every combination of the options of a family, the default first; of those with the same rules and sizes the first."""
    choosing = [o for o in family.options if o.values]
    forms = (form_of(family, dict(zip((o.name for o in choosing), v, strict=True))) for v in product(*(o.values for o in choosing)))
    found: dict[object, Family] = {}
    for form in forms:
        found.setdefault((form.rules, *form.sizes.items()), form)
    return list(found.values())


def configured_options(family: Family, config: Mapping[str, Any], to: str) -> dict[str, OptionValue]:
    """The options that the YAML of a training run says, under MindFormers' own names: those that only the numbers show, and those of the
    target side. What the source side has, its names show better.
    """
    found: dict[str, OptionValue] = {}
    for option in (o for o in family.options if o.side in (to, NUMBERS)):
        said = config.get(option.yaml_key or (option.name if option.side == NUMBERS else ""))
        meant = next((value for key, value in option.yaml_values.items() if _is_same(said, key)), said)
        fitting = [value for value in option.values if _is_same(meant, value)]
        if fitting:
            found[option.name] = fitting[0]
    return found


def _is_same(value: object, other: OptionValue) -> bool:
    """Whether a value from a file equals a value of an option: 1 is not True."""
    return type(value) is type(other) and value == other


def _combinations(family: Family, to: str, said: Mapping[str, tuple[OptionValue, str]]) -> Iterable[dict[str, OptionValue]]:
    choosing = [o for o in family.options if o.values]
    ways: list[Sequence[OptionValue]] = []
    for option in choosing:
        if option.name in said:
            ways.append((said[option.name][0],))
        else:
            ways.append((option.default,) if option.side in (to, NUMBERS) else option.values)
    names = [o.name for o in choosing]
    return [dict(zip(names, values, strict=True)) for values in islice(product(*ways), MAX_FORMS)]


def _choice(family: Family, chosen: Mapping[str, OptionValue], to: str, said: Mapping[str, tuple[OptionValue, str]]) -> Choice:
    def origin(option: Option) -> str:
        if option.name in said:
            return said[option.name][1]
        return "default" if option.side in (to, NUMBERS) else "told from names"

    turn = tuple(o.values.index(chosen[o.name]) for o in family.options if o.first_counts)
    return Choice(form_of(family, chosen), {o.name: origin(o) for o in family.options if o.values}, turn)


def options_that_matter(family: Family, choice: Choice) -> dict[str, str]:
    """How each option was decided, without options that change no rule and no size of the form, such as `mp` of a TeleChat 7B."""
    chosen, form = choice.form.chosen, choice.form
    found = {}
    for option in family.options if choice.decided else ():
        others = (form_of(family, {**chosen, option.name: value}) for value in option.values if value != chosen[option.name])
        if any((other.rules, other.sizes) != (form.rules, form.sizes) for other in others):
            found[option.name] = choice.decided[option.name]
    return found


def decide_form(choices: Sequence[Choice], plan: Callable[[Family], MappingPlan]) -> tuple[Choice, MappingPlan]:
    """The one form whose plan has no problem. Forms with the same rows count as one.

    Raises:
        MappingError: MFC302 when several forms fit that differ: the caller has to say which.
    """
    plans = [(choice, plan(choice.form)) for choice in choices]
    first = min((choice.turn for choice, made in plans if not made.problems), default=())
    clean = [(choice, made) for choice, made in plans if not made.problems and choice.turn == first]
    if len(clean) > 1 and any(_effect_of(made) != _effect_of(clean[0][1]) for _, made in clean[1:]):
        differing = [n for n in clean[0][0].form.chosen if len({str(c.form.chosen[n]) for c, _ in clean}) > 1]
        words = "; ".join(", ".join(f"--{n} {c.form.chosen[n]}" for n in differing) for c, _ in clean)
        found = f"names and shapes fit each of: {words}"
        hint = "Say which, or give the config.json (--config, config= in Python)."
        error = SeveralFitError("MFC302", clean[0][0].form.key, found=found, expected="one form that fits", hint=hint)
        error.choices = tuple({n: str(c.form.chosen[n]) for n in differing} for c, _ in clean)
        raise error
    chosen, made = min(clean, key=lambda found: _count_unused(found[1])) if clean else min(plans, key=lambda found: _severity_of(found[1]))
    if clean:
        others = [c.form.chosen for c, made in plans if made.problems]
        told = {n: v for n, v in chosen.form.chosen.items() if all(c.form.chosen[n] == v for c, _ in clean)}
        by_shape = {n for n, v in told.items() if any(other[n] != v for other in others)}
        chosen = Choice(chosen.form, {n: "told from shapes" if n in by_shape else origin for n, origin in chosen.decided.items()})
    return chosen, made


def _effect_of(plan: MappingPlan) -> list[object]:
    return [(row.status, row.sources, row.targets, _moved_parts(row), row.zeros, row.copies) for row in plan.rows]


def _moved_parts(row: Row) -> object:
    """The parts of a row; none where one tensor stays as it is, whatever kind of rule it has."""
    is_whole = len(row.sources) == 1 and row.parts == ((Part(row.sources[0].name, whole(row.sources[0].elements)),),)
    return () if is_whole else row.parts


def _severity_of(plan: MappingPlan) -> tuple[int, int]:
    """How much is wrong with a plan: names with all their numbers folded, then tensors. One name in 58 layers is one mistake."""
    return len({(p.kind, fold(p.name)[0]) for p in plan.problems}), len(plan.problems)


def _count_unused(plan: MappingPlan) -> int:
    """How many rules have no tensor: of two forms with the same rows, the one with fewer such rules is chosen."""
    used = {row.rule.written_at for row in plan.rows}
    return sum(rule.written_at not in used for rule in plan.family.rules)


def templates_of(names: Iterable[str]) -> frozenset[str]:
    """The templates of some names: all numbers folded."""
    return frozenset(fold(n)[0] for n in names)
