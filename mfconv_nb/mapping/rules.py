"""What a model family is made of: rules and options, as data. No code here reads a weight or a file.

The Hugging Face side always stands left (``hf``), the MindFormers side right (``mf``). A rule reads in both directions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.layout import TensorLayout, axis_names, parse_layout
from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.mapping.names import Pattern, parse_pattern

Names = str | tuple[str, ...]
OptionValue = str | bool | int
Condition = OptionValue | tuple[OptionValue, ...]  # the value of an option with which a rule counts, or each of several

# Rule.optional: the config does not promise these tensors. Some layers may have them and others not, or all have them or none.
ALL_OR_NONE, ANYWHERE = "all or none", "anywhere"

ZEROS, ONES, COUNTING = "zeros", "ones", "0, 1, 2 ..."  # Drop.holds

NUMBERS = "numbers"  # Option.side: names and shapes are the same with every value, only the numbers differ

Place = tuple[str, int]  # a file and a line in it


def read_place_of_call() -> Place:
    """The file and line of the call that makes a rule, for messages. ``replace`` keeps the place of the first call.

    Looks at the call stack, since nothing else knows the line: rules are plain calls, in files and in cells of a notebook.
    """
    caller = sys._getframe(2)  # frame 0 is this function, 1 the __init__ that dataclass generates
    return caller.f_code.co_filename, caller.f_lineno


@dataclass(frozen=True, slots=True)
class Rule:
    """One or several tensors on each side, and the sentence that says where every number goes.

    Attributes:
        hf, mf: name patterns. A placeholder on both sides is a loop; on one side only it is an axis of the other side. ``{=axis}`` is one
            number, a size of the config; where such a name and one with a placeholder both match, the first counts.
        layout: see ``layout.py``. Without an arrow: the same shape on both sides. None: the same shape, whatever it is.
        sizes: structural constants of the sentence, such as ``{"pair": 2}``, or axes of equal size, such as ``{"k": "q"}``; never a
            model's sizes.
        only_if: a name in the family's sizes; the tensors are expected only where it is not 0.
        dtype: a dtype that the MindFormers side fixes, whatever the caller asks for; on the way back the manifest gives the old one.
        optional: empty, ``ALL_OR_NONE`` or ``ANYWHERE``.
        when: the option values under which this rule counts.
        same_as: for a head that both sides leave out where the config ties it: the Hugging Face name of the embedding.
    """

    hf: Names
    mf: Names
    layout: str | None = None
    sizes: Mapping[str, int | str] = field(default_factory=dict, hash=False)
    only_if: str | None = None
    dtype: str | None = None
    optional: str = ""
    when: Mapping[str, Condition] = field(default_factory=dict, hash=False)
    same_as: str = ""
    written_at: Place = field(default_factory=read_place_of_call, compare=False, repr=False, kw_only=True)  # for messages


@dataclass(frozen=True, slots=True)
class Repeated:
    """Equal copies on the Hugging Face side, one tensor on the MindFormers side. They are checked to be equal, and copied on the way back.

    Attributes:
        hf, mf: as in a rule; a placeholder on the Hugging Face side only counts the copies.
        layout: axes of the tensor, for its expected shape; no arrow.
        may_be: names of further copies that a checkpoint may have; written back where the manifest lists them.
    """

    hf: Names
    mf: str
    layout: str | None = None
    may_be: tuple[str, ...] = ()
    only_if: str | None = None
    optional: str = ""
    when: Mapping[str, Condition] = field(default_factory=dict, hash=False)
    written_at: Place = field(default_factory=read_place_of_call, compare=False, repr=False, kw_only=True)  # for messages


@dataclass(frozen=True, slots=True)
class Tied:
    """An output head that may be the embedding: absent on the Hugging Face side then, written on the MindFormers side.

    A checkpoint of MindFormers' own network of a tied model has no head; then none is expected.

    Attributes:
        hf, mf: the head's name on each side.
        same_as: the Hugging Face name of the tensor it is tied to.
        layout: axes of the head, for its expected shape.
        only_if: the size (a flag) that says that head and embedding are tied.
    """

    hf: str
    mf: str
    same_as: str
    layout: str
    only_if: str = "tied"
    when: Mapping[str, Condition] = field(default_factory=dict, hash=False)
    written_at: Place = field(default_factory=read_place_of_call, compare=False, repr=False, kw_only=True)  # for messages


@dataclass(frozen=True, slots=True)
class Drop:
    """A tensor that only one side has. Its numbers are kept in the folder beside the output and come back from there.

    Attributes:
        pattern: its name on the side that has it.
        why: a clause for the report: "transformers computes it from rope_theta".
        side: the side that has it.
        same_as: where it is a copy (a head that MindFormers always ties): the Hugging Face name of the original.
        holds: ``ZEROS``, ``ONES`` or ``COUNTING`` for a tensor that can be left out only where it holds these numbers, which is checked.
    """

    pattern: str
    why: str
    side: str = "hf"
    when: Mapping[str, Condition] = field(default_factory=dict, hash=False)
    same_as: str = ""
    holds: str = ""
    written_at: Place = field(default_factory=read_place_of_call, compare=False, repr=False, kw_only=True)  # for messages


AnyRule = Rule | Repeated | Tied | Drop


@dataclass(frozen=True)
class Option:
    """A choice that the caller makes for a family: ``--name value`` in the shell, ``name=value`` in Python.

    An option either chooses between forms of names and layouts (``values``), or gives a size that the config may lack (``size``);
    if the config has the size too, both must agree.

    Attributes:
        values: what it may be, the default first. In names, layouts and sizes ``{name}`` stands for the value chosen.
        side: which side shows it: "mf", "hf" or "both"; ``NUMBERS`` where only the numbers do, not names or shapes. Its value is
            the first that is known of:
            1. what the caller gives;
            2. what the manifest remembers;
            3. what names and shapes tell, if the source side shows it;
            4. the YAML of the run (``yaml_key``), where the target side or only the numbers show it; for ``NUMBERS`` then, on the way
               back, the numbers of the original;
            5. the default.
        spelled: for some values, what ``{name}`` stands for in names instead of the value.
        size: the axis or placeholder that it gives the size of.
        yaml_key: the key of a run's YAML that says its value; for ``NUMBERS`` the option's own name, unless another is given.
        yaml_values: for what the YAML says, the value of the option, where they are not the same: ``{True: "joined"}``.
        first_counts: where names and shapes fit several of its values, the first of them counts, and nobody is asked.
        help: one line for ``--help``.
    """

    name: str
    values: tuple[OptionValue, ...] = ()
    side: str = "mf"
    help: str = ""
    spelled: Mapping[OptionValue, str] = field(default_factory=dict)
    size: str = ""
    yaml_key: str = ""
    yaml_values: Mapping[str | bool | int, OptionValue] = field(default_factory=dict)
    first_counts: bool = False

    @property
    def default(self) -> OptionValue:
        return self.values[0]


def size_option(name: str, axis: str) -> Option:
    """An option that gives the size of an axis where no config does."""
    return Option(name, size=axis, help="Checked against config.json; used where there is none.")


# MindFormers' script passes these to every converter: every family takes them
COMMON_OPTIONS = (size_option("n_head", "heads"), size_option("hidden_size", "hidden"))


@dataclass(frozen=True, slots=True)
class Window:
    """How far back attention looks where transformers limits it (``sliding_window``), which MindFormers does not read from a config.

    Source: the configs of Qwen2 and Qwen3 in MindFormers 2.1.0 mark these keys as useless.

    Attributes:
        switch: the config key that switches it on; empty where it is on unless it is null.
        unsaid, positions_unsaid: what transformers takes for window and longest text where the config lacks them.
    """

    switch: str = ""
    unsaid: int | None = 4096
    positions_unsaid: int = 32768


@dataclass(frozen=True)
class Family:
    """A model family: its rules, and how to read its sizes from config.json.

    Attributes:
        key: what ``--model`` takes.
        covers: the models, in words; ``covers_zh`` in Chinese, for words that ``docs/generate.py`` cannot translate.
        sizes: for every axis, loop and flag a sentence over config keys (see ``config.py``).
        model_types: values of ``model_type`` in config.json that stand for this family.
        part_types: for a model of several parts the ``model_type`` that each may have in config.json: ``{"text_config": ("llama",)}``.
        aliases: other keys for it.
        also: further families that ``--model`` with this key may stand for; the names decide.
        told_as: the key of a family with the same names, which they are taken for unless a key or a config says otherwise. Names that
            only this family knows (MindFormers' other layout) still decide for it.
        same_maths: further values of ``model_type``, whose models in transformers have the names of this family and compute what it
            computes. ``tests/real_frameworks/test_lookalikes.py`` compares the logits of both classes.
        windows: for a ``model_type`` that may limit attention to a window, where its config says so.
        adapters: how MindFormers names its LoRA adapters (see ``adapters.py``); empty where the names of its layers tell.
        conv1d: for a ``model_type`` with Conv1D layers, whose weight transformers holds as in x out: the names of these layers.
        run_classes: what MindFormers' classes of this family take their keys for (`type` in the YAML of a run), by name.
        run_keys: what the YAML of a run must say, besides options and sizes, for a network of MindFormers with these tensors.
        mf_words: parts of names that only MindFormers uses; they tell the side where no family knows the names.
        options: what a caller may choose.
        toy: config.json of the small checkpoint that ``mfconv toy`` makes; all axis sizes differ.
        source: where the facts are from.
        chosen: the value of each option, in a form of the family (see ``form_of``).
        file: the name of the file that ``--model FILE.py`` loaded it from; the manifest records it.
    """

    key: str
    covers: str
    rules: tuple[AnyRule, ...]
    sizes: Mapping[str, str]
    model_types: tuple[str, ...] = ()
    part_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    told_as: str = ""
    same_maths: tuple[str, ...] = ()
    windows: Mapping[str, Window] = field(default_factory=dict)
    conv1d: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    run_classes: Mapping[str, RunClass] = field(default_factory=dict)
    run_keys: Mapping[str, OptionValue] = field(default_factory=dict)
    mf_words: tuple[str, ...] = ()
    adapters: str = ""
    options: tuple[Option, ...] = ()
    toy: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    covers_zh: str = ""
    chosen: Mapping[str, OptionValue] = field(default_factory=dict)
    file: str = ""
    written_at: Place = field(default_factory=read_place_of_call, compare=False, repr=False, kw_only=True)

    def with_rules(self, rules: tuple[AnyRule, ...]) -> Family:
        """The same family with other rules: for experiments and for mistakes made on purpose."""
        return replace(self, rules=rules)

    def needed_templates(self, to: str) -> frozenset[str]:
        """The name templates of the source side that every checkpoint of the family has: not those of heads that may be tied."""
        needed = (r for r in self.rules if isinstance(r, Rule | Repeated) and not r.optional and not r.only_if)
        return frozenset(p.template for r in needed for place, p in enumerate(sides_of(r, to)[0]) if to == "hf" or is_needed(r, place))

    def templates(self, to: str) -> frozenset[str]:
        """The name templates that the rules know on the source side."""
        return frozenset(p.template for rule in self.rules for p in sides_of(rule, to)[0])


def derive_family(base: Family, key: str, covers: str, **changes: Any) -> Family:
    """Another family with the table of ``base``. What ``base`` says of its models alone (their types, its other keys) stays behind."""
    own: dict[str, Any] = dict.fromkeys(("model_types", "aliases", "also", "same_maths", "mf_words"), ())
    own |= {name: {} for name in ("part_types", "windows", "conv1d", "run_classes", "run_keys")}
    return replace(base, key=key, covers=covers, **{**own, **changes})


def when(*rules: AnyRule, **options: Condition) -> tuple[AnyRule, ...]:
    """Rules that count only with these option values: ``*when(Rule(...), Rule(...), qkv_concat=False)``. A tuple: with each of them."""
    return tuple(replace(rule, when={**rule.when, **options}) for rule in rules)


def limit_rules(rules: Iterable[AnyRule], **options: Condition) -> tuple[AnyRule, ...]:
    """The rules that count with some of these option values, for a family whose options have no others. One value alone is no condition."""
    kept: list[AnyRule] = []
    for rule in rules:
        asked = {
            name: tuple(v for v in values_of(rule.when[name]) if v in values_of(options[name])) for name in rule.when if name in options
        }
        if all(asked.values()):
            chosen = {name: values for name, values in asked.items() if len(values_of(options[name])) > 1}
            kept.append(replace(rule, when={**{n: v for n, v in rule.when.items() if n not in options}, **chosen}))
    return tuple(kept)


def rename_rules(rules: Iterable[AnyRule], hf: Mapping[str, str] = {}, mf: Mapping[str, str] = {}) -> tuple[AnyRule, ...]:
    """The table of another family under other names: replace each text on the left by the one on the right, in order."""
    return tuple(_with_texts(rule, lambda text: _replace_words(text, hf), lambda text: _replace_words(text, mf)) for rule in rules)


def _replace_words(text: str, words: Mapping[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


_OF_CONFIG = re.compile(r"\{=([a-z_][a-z0-9_]*)\}")


def numbered_rules(rules: Iterable[AnyRule], sizes: Mapping[str, int]) -> list[tuple[AnyRule, bool]]:
    """Put the numbers of a config in place of ``{=axis}``; each rule comes with whether it had one.

    A rule whose number is unknown, as there is no config, is left out.
    """
    found: list[tuple[AnyRule, bool]] = []
    for rule in rules:
        wanted = numbers_of(rule)
        if not wanted:
            found.append((rule, False))
        elif all(axis in sizes for axis in wanted):
            found.append((_with_texts(rule, lambda text: fill_numbers(text, sizes), lambda text: fill_numbers(text, sizes)), True))
    return found


def fill_numbers(name: str, sizes: Mapping[str, int]) -> str:
    """A name with the numbers in place of ``{=axis}``, where they are known."""
    return _OF_CONFIG.sub(lambda m: str(sizes[m[1]]) if m[1] in sizes else m[0], name)


def without_numbered(rules: Iterable[AnyRule], sizes: Mapping[str, int], layers: int) -> tuple[tuple[AnyRule, ...], tuple[str, ...]]:
    """The rules of the first ``layers`` layers, without names whose number of the config is a later layer; and those names."""
    kept: list[AnyRule] = []
    gone: list[str] = []
    for rule in rules:
        if all(sizes.get(axis, layers) < layers for axis in numbers_of(rule)):
            kept.append(rule)
            continue
        names = rule.pattern if isinstance(rule, Drop) else rule.hf
        hf, more = ((names,) if isinstance(names, str) else names), (rule.may_be if isinstance(rule, Repeated) else ())
        gone += [name for name in (*hf, *more) if _OF_CONFIG.search(name)]
        if isinstance(rule, Repeated) and (left := tuple(name for name in hf if not _OF_CONFIG.search(name))):
            kept.append(replace(rule, hf=left, may_be=tuple(name for name in more if not _OF_CONFIG.search(name))))
        elif not isinstance(rule, Drop):
            gone += (rule.mf,) if isinstance(rule.mf, str) else rule.mf
    return tuple(kept), tuple(gone)


def numbers_of(rule: AnyRule) -> set[str]:
    """The sizes that stand as ``{=axis}`` in the names of a rule."""
    return {axis for side in sides_of(rule, MF) for pattern in side for axis in _OF_CONFIG.findall(pattern.text)}


def form_of(family: Family, chosen: Mapping[str, OptionValue]) -> Family:
    """The family with its options decided: the rules that count with these values, and the values in their names and sizes.

    Sizes that none of these rules uses are left out, so that a config need not have them.
    """
    spelled = {o.name: o.spelled.get(chosen[o.name], str(chosen[o.name])) for o in family.options if o.values}
    numbers = {name: text for name, text in spelled.items() if text.isdigit()}
    belonging = (rule for rule in family.rules if all(chosen[name] in values_of(condition) for name, condition in rule.when.items()))
    rules = tuple(_with_texts(rule, lambda t: _fill_options(t, spelled), lambda t: _fill_options(t, spelled)) for rule in belonging)
    spoken_of = {o.size for o in (*COMMON_OPTIONS, *family.options)}.union(*(_axes_of(rule) for rule in rules))
    sizes = {axis: _fill_options(sentence, numbers) for axis, sentence in family.sizes.items() if axis in spoken_of}
    sized = tuple(o for o in family.options if not o.values)
    return replace(family, rules=rules, sizes=sizes, options=sized, chosen=dict(chosen))


def values_of(condition: Condition) -> tuple[OptionValue, ...]:
    """The values of an option with which a rule counts."""
    return condition if isinstance(condition, tuple) else (condition,)


def _axes_of(rule: AnyRule) -> set[str]:
    """Every axis, placeholder and flag that a rule uses."""
    names = {p for side in sides_of(rule, MF) for pattern in side for p in pattern.placeholders} | numbers_of(rule)
    if isinstance(rule, Drop):
        return names
    layout = parse_layout(rule.layout) if rule.layout is not None else None
    axes = axis_names(e for side in (layout.left, layout.right) for tensor in side for e in tensor) if layout is not None else set()
    return names | axes | ({rule.only_if} if rule.only_if else set())


def all_templates(family: Family, to: str) -> frozenset[str]:
    """The name templates of the source side in every form of the family: quicker than making the forms."""
    found: set[str] = set()
    for pattern in (pattern for rule in family.rules for pattern in sides_of(rule, to)[0]):
        options = [o for o in family.options if o.name in pattern.placeholders]
        for values in product(*(o.values for o in options)):
            words = {o.name: o.spelled.get(value, str(value)) for o, value in zip(options, values, strict=True)}
            found.add(parse_pattern(_fill_options(pattern.text, words)).template)
    return frozenset(found)


def default_form(family: Family, chosen: Mapping[str, OptionValue] = {}) -> Family:
    """The family with these options, and the defaults of the others."""
    return form_of(family, {o.name: chosen.get(o.name, o.default) for o in family.options if o.values})


def _fill_options(text: str, words: Mapping[str, str]) -> str:
    """``text`` with ``{option}`` as its value; other placeholders stay."""
    return re.sub(r"\{([a-z_][a-z0-9_]*)\}", lambda m: words.get(m[1], m[0]), text) if words else text


def _with_texts(rule: AnyRule, hf: Any, mf: Any) -> AnyRule:
    """A rule with its names changed by a function for each side."""
    if isinstance(rule, Drop):
        return replace(rule, pattern=hf(rule.pattern) if rule.side == "hf" else mf(rule.pattern), same_as=hf(rule.same_as))
    if isinstance(rule, Tied):
        return replace(rule, hf=hf(rule.hf), same_as=hf(rule.same_as), mf=mf(rule.mf))
    more = {"may_be": _each(rule.may_be, hf)} if isinstance(rule, Repeated) else {"same_as": hf(rule.same_as)}
    return replace(rule, hf=_each(rule.hf, hf), mf=_each(rule.mf, mf), **more)


def _each(names: Any, change: Any) -> Any:
    return change(names) if isinstance(names, str) else tuple(change(n) for n in names)


def patterns(names: Names) -> tuple[Pattern, ...]:
    """The patterns of one side of a rule."""
    return tuple(parse_pattern(n) for n in ((names,) if isinstance(names, str) else names))


def sides_of(rule: AnyRule, to: str) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """The patterns of a rule on the source and on the target side, in the direction ``to``."""
    if isinstance(rule, Drop):
        own = (parse_pattern(rule.pattern),)
        return (own, ()) if rule.side != to else ((), own)
    hf, mf = patterns(rule.hf), patterns(rule.mf)
    if isinstance(rule, Repeated):
        hf += patterns(rule.may_be)
    return (hf, mf) if to == MF else (mf, hf)


def is_needed(rule: AnyRule, place: int) -> bool:
    """Whether the pattern at a place of the Hugging Face side is always there, and not only where a checkpoint has it."""
    return not isinstance(rule, Repeated) or place < len(patterns(rule.hf))


def layouts_of(rule: Rule | Repeated | Tied, to: str) -> tuple[tuple[TensorLayout, ...], tuple[TensorLayout, ...]] | None:
    """The tensor layouts of a rule on the source and on the target side; None where there is no sentence."""
    if rule.layout is None:
        return None
    layout = parse_layout(rule.layout)
    left, right = layout.left, layout.right
    if isinstance(rule, Repeated):
        left = left * len(patterns(rule.hf) + patterns(rule.may_be))
    return (left, right) if to == MF else (right, left)
