"""Spelling: drafts as rules of one family. Loops get names, axes that mean other numbers in other rules get names of their own.

A size is read from config.json where the config has the number under a usual key; else the number itself stands in the family.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mfconv_nb.author.axes import GROUPS, HEAD, HEADS, ROPE, Facts
from mfconv_nb.author.suggesting.drafting import Draft
from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.author.suggesting.questions import Question
from mfconv_nb.author.suggesting.variants import Variant
from mfconv_nb.author.suggesting.words import DECODER, ENCODER, LANGUAGE, VISION, read_name
from mfconv_nb.mapping.rules import ANYWHERE, AnyRule, Repeated, Rule, Tied

NAMED_BY = (ENCODER, DECODER, VISION, LANGUAGE)
INNER = "block"  # a loop inside a loop of layers
# the axes that a size may be read as, beside one of its own name
MEANT: Mapping[str, tuple[str, ...]] = {
    "pair": (),
    "heads_here": (),
    "turns": (HEADS, GROUPS),
    "part": (HEAD, "group_q", "nope", ROPE, "value", "expert_ffn", "ffn"),
    "q": ("q", "hidden"),
    "k": ("k", "q", "hidden"),
    "v": ("k", "q", "hidden"),
    "gate": ("expert_ffn", "shared_ffn", "ffn"),
    "up": ("expert_ffn", "shared_ffn", "ffn"),
    "part_a": ("kv_rank", "q", "ffn"),
    "part_b": (ROPE, "k", "ffn"),
}


@dataclass
class Spelled:
    """The rules of some drafts, with the sizes and the loops that they speak of."""

    sizes: dict[str, str] = field(default_factory=dict)
    rules: list[AnyRule] = field(default_factory=list)
    _values: dict[str, str] = field(default_factory=dict)
    _loops: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    _scopes: dict[str, str] = field(default_factory=dict)

    def loop_name(self, group: Group, loop: int) -> str:
        """What a loop of a group is called: the same for all groups under the same words."""
        return self._loops.get((_scope(group, loop), group.counts(loop))) or self._scopes.get(_scope(group, loop)) or "any"


def spell(drafts: Sequence[Draft], facts: Facts) -> Spelled:
    """Write drafts as rules."""
    spelled = Spelled()
    _name_loops(drafts, facts, spelled)
    for draft in drafts:
        spelled.rules.append(_rule(draft, facts, spelled))
    if any(draft.tied for draft in drafts):
        spelled.sizes["tied"] = "tie_word_embeddings | 1"
    return spelled


# ---- loops -------------------------------------------------------------------------------------------------------------------


def _scope(group: Group, loop: int) -> str:
    return "#".join(group.parts[: loop + 1])


def _shared(drafts: Sequence[Draft]) -> Iterator[tuple[Group, int]]:
    yield from ((draft.hf[0], loop) for draft in drafts for loop, _ in draft.meeting.shared)


def _name_loops(drafts: Sequence[Draft], facts: Facts, spelled: Spelled) -> None:
    counts: dict[str, Counter[tuple[int, ...]]] = {}
    words: dict[str, str] = {}
    for group, loop in _shared(drafts):
        counts.setdefault(_scope(group, loop), Counter())[group.counts(loop)] += 1
        words[_scope(group, loop)] = _base(group, loop)
    taken: set[str] = set()
    for scope in counts:
        alone = list(words.values()).count(words[scope]) == 1
        name = words[scope] if alone else _told_apart(scope, words[scope])
        spelled._scopes[scope] = name = _free(name, taken)
        widest = max(counts[scope], key=lambda c: (len(c), c))
        for values in counts[scope]:
            own = name if values == widest else _free(_range_name(name, values, widest), taken)
            spelled._loops[scope, values] = own
            _size_loop(own, scope, values, drafts, facts, spelled)


def _base(group: Group, loop: int) -> str:
    word = group.word(loop).lower()
    if "expert" in word:
        return "expert"
    return "layer" if loop == 0 or "layer" in word else INNER


def _told_apart(scope: str, base: str) -> str:
    """`encoder_layer`: by the words that tell towers apart, else by the first word."""
    places = read_name(scope + "#.x").places
    known = next((place for place in NAMED_BY if place in places), None)
    first = re.sub(r"[^a-z]+", "_", scope.split(".")[0].lower()).strip("_")
    return f"{known or first}_{base}" if known or first else base


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_too"
    taken.add(name)
    return name


def _range_name(name: str, values: tuple[int, ...], widest: tuple[int, ...]) -> str:
    if values != tuple(range(values[0], values[-1] + 1)):
        return f"some_{name}"
    return f"{name}_from_{values[0]}" if values[-1] == widest[-1] else f"{name}_to_{values[-1]}"


def _size_loop(name: str, scope: str, values: tuple[int, ...], drafts: Sequence[Draft], facts: Facts, spelled: Spelled) -> None:
    """The limits of a loop, where it counts without a gap, the same for every value of the loops around it."""
    groups = [g for g, loop in _shared(drafts) if _scope(g, loop) == scope and g.counts(loop) == values]
    loop = scope.count("#")
    even = all(len(g.specs) == _product(len(g.counts(n)) for n in range(g.loops)) for g in groups)
    if values == tuple(range(values[0], values[-1] + 1)) and (even or loop == 0):
        kind = "expert" if "expert" in name else "layer"
        last = facts.sentence(values[-1] + 1, kind)
        spelled.sizes[name] = f"{facts.sentence(values[0], 'start')} .. {last}" if values[0] else last


def _product(numbers: Iterator[int]) -> int:
    total = 1
    for n in numbers:
        total *= n
    return total


# ---- rules -------------------------------------------------------------------------------------------------------------------


def _rule(draft: Draft, facts: Facts, spelled: Spelled) -> AnyRule:
    variant = _own_axes(draft.variant, facts, spelled)
    if draft.meeting.word and draft.meeting.word not in spelled.sizes:
        spelled.sizes[draft.meeting.word] = facts.sentence(draft.meeting.count, draft.meeting.word)
    if draft.tied:
        embedding, head = draft.hf[0].first.name, draft.mf[0].first.name
        return Tied(head if head.startswith("lm_head") else "lm_head.weight", head, embedding, variant.layout)
    names = [spelled.loop_name(draft.hf[0], loop) for loop, _ in draft.meeting.shared]
    rule = Question(draft.hf, draft.mf, draft.meeting).rule(variant, names)
    gaps = any(name not in spelled.sizes and name.startswith("some_") for name in names)
    return replace(rule, optional=ANYWHERE) if gaps and isinstance(rule, Rule | Repeated) else rule


def _own_axes(variant: Variant, facts: Facts, spelled: Spelled) -> Variant:
    """The variant with its sizes in the family: an axis that is taken with another size gets another name here."""
    renamed: dict[str, str] = {}
    for axis, value in variant.sizes.items():
        sentence = _sentence(axis, value, facts)
        name = axis
        while spelled._values.get(name, str(value)) != str(value) or spelled.sizes.get(name, sentence) != sentence:
            name += "_too"
        spelled._values[name], spelled.sizes[name] = str(value), sentence
        if name != axis:
            renamed[axis] = name
    if not renamed:
        return variant
    layout = re.sub(r"[a-z_][a-z0-9_]*", lambda m: renamed.get(m[0], m[0]), variant.layout)
    structural = {renamed.get(a, a): renamed.get(v, v) if isinstance(v, str) else v for a, v in variant.structural.items()}
    return replace(variant, layout=layout, structural=structural)


def _sentence(axis: str, value: int, facts: Facts) -> str:
    bare = axis
    while bare.startswith(("from_", "one_")):
        bare = bare.partition("_")[2]
    kind = "part" if bare.endswith(("_part", "_here")) else bare
    meant = MEANT.get(kind, ())
    known = facts.axis(value)
    return facts.sentence(value, bare, *meant, *([known.axis] if known is not None and kind not in MEANT else []))
