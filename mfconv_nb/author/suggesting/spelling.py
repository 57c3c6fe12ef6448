"""Write pairings as rules of one family. Every loop gets a name; two axes share a name only if they have the same size.

A size is read from config.json if the config has the number under a usual key. Otherwise the number itself is written in the family.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from mfconv_nb.author.axes import GROUPS, HEAD, HEADS, ROPE, Facts
from mfconv_nb.author.suggesting.answering import TensorPairing
from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.author.suggesting.questions import Question
from mfconv_nb.author.suggesting.variants import Variant
from mfconv_nb.author.suggesting.words import DECODER, ENCODER, LANGUAGE, VISION, read_name
from mfconv_nb.mapping.rules import ANYWHERE, AnyRule, Repeated, Rule, Tied

NAMED_BY = (ENCODER, DECODER, VISION, LANGUAGE)
INNER = "block"  # a loop inside a loop of layers
# by axis: the axes whose config keys may give its size, besides its own
READ_AS: Mapping[str, tuple[str, ...]] = {
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
    """The rules of some pairings, and the sizes of their loops and axes."""

    sizes: dict[str, str] = field(default_factory=dict)
    rules: list[AnyRule] = field(default_factory=list)
    _values: dict[str, int] = field(default_factory=dict)
    _loops: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    _scopes: dict[str, str] = field(default_factory=dict)

    def loop_name(self, group: Group, loop: int) -> str:
        """The name of a loop of a group: the same for all groups under the same words."""
        return self._loops.get((_scope(group, loop), group.counts(loop))) or self._scopes.get(_scope(group, loop)) or "any"


def spell(pairings: Sequence[TensorPairing], facts: Facts) -> Spelled:
    """Write pairings as rules."""
    spelled = Spelled()
    _name_loops(pairings, facts, spelled)
    for pairing in pairings:
        spelled.rules.append(_rule(pairing, facts, spelled))
    if any(pairing.tied for pairing in pairings):
        spelled.sizes["tied"] = "tie_word_embeddings | 1"
    return spelled


# ---- loops -------------------------------------------------------------------------------------------------------------------


def _scope(group: Group, loop: int) -> str:
    return "#".join(group.parts[: loop + 1])


def _shared_loops(pairings: Sequence[TensorPairing]) -> Iterator[tuple[Group, int]]:
    yield from ((pairing.hf[0], loop) for pairing in pairings for loop, _ in pairing.meeting.shared)


def _name_loops(pairings: Sequence[TensorPairing], facts: Facts, spelled: Spelled) -> None:
    counts: dict[str, Counter[tuple[int, ...]]] = {}
    words: dict[str, str] = {}
    for group, loop in _shared_loops(pairings):
        counts.setdefault(_scope(group, loop), Counter())[group.counts(loop)] += 1
        words[_scope(group, loop)] = _loop_word(group, loop)
    taken: set[str] = set()
    for scope in counts:
        is_only = list(words.values()).count(words[scope]) == 1
        name = words[scope] if is_only else _name_by_tower(scope, words[scope])
        spelled._scopes[scope] = name = _take_free_name(name, taken)
        widest = max(counts[scope], key=lambda c: (len(c), c))
        for values in counts[scope]:
            own = name if values == widest else _take_free_name(_range_name(name, values, widest), taken)
            spelled._loops[scope, values] = own
            _size_loop(own, scope, values, pairings, facts, spelled)


def _loop_word(group: Group, loop: int) -> str:
    word = group.word(loop).lower()
    if "expert" in word:
        return "expert"
    return "layer" if loop == 0 or "layer" in word else INNER


def _name_by_tower(scope: str, base: str) -> str:
    """`encoder_layer`: by the word of a tower in the scope, else by its first word."""
    places = read_name(scope + "#.x").places
    known = next((place for place in NAMED_BY if place in places), None)
    first = re.sub(r"[^a-z]+", "_", scope.split(".")[0].lower()).strip("_")
    return f"{known or first}_{base}" if known or first else base


def _take_free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_too"
    taken.add(name)
    return name


def _range_name(name: str, values: tuple[int, ...], widest: tuple[int, ...]) -> str:
    if values != tuple(range(values[0], values[-1] + 1)):
        return f"some_{name}"
    return f"{name}_from_{values[0]}" if values[-1] == widest[-1] else f"{name}_to_{values[-1]}"


def _size_loop(name: str, scope: str, values: tuple[int, ...], pairings: Sequence[TensorPairing], facts: Facts, spelled: Spelled) -> None:
    """Write the limits of a loop, if it counts without a gap and alike for every value of the loops around it."""
    groups = [g for g, loop in _shared_loops(pairings) if _scope(g, loop) == scope and g.counts(loop) == values]
    loop = scope.count("#")
    even = all(len(g.specs) == prod(len(g.counts(n)) for n in range(g.loops)) for g in groups)
    if values == tuple(range(values[0], values[-1] + 1)) and (even or loop == 0):
        kind = "expert" if "expert" in name else "layer"
        last = facts.sentence(values[-1] + 1, kind)
        spelled.sizes[name] = f"{facts.sentence(values[0], 'start')} .. {last}" if values[0] else last


# ---- rules -------------------------------------------------------------------------------------------------------------------


def _rule(pairing: TensorPairing, facts: Facts, spelled: Spelled) -> AnyRule:
    variant = _with_free_axes(pairing.variant, facts, spelled)
    if pairing.meeting.word and pairing.meeting.word not in spelled.sizes:
        spelled.sizes[pairing.meeting.word] = facts.sentence(pairing.meeting.count, pairing.meeting.word)
    if pairing.tied:
        embedding, head = pairing.hf[0].first.name, pairing.mf[0].first.name
        return Tied(head if head.startswith("lm_head") else "lm_head.weight", head, embedding, variant.layout)
    names = [spelled.loop_name(pairing.hf[0], loop) for loop, _ in pairing.meeting.shared]
    rule = Question(pairing.hf, pairing.mf, pairing.meeting).rule(variant, names)
    gaps = any(name not in spelled.sizes and name.startswith("some_") for name in names)
    return replace(rule, optional=ANYWHERE) if gaps and isinstance(rule, Rule | Repeated) else rule


def _with_free_axes(variant: Variant, facts: Facts, spelled: Spelled) -> Variant:
    """The variant, its sizes added to the family. An axis whose name already has another size is renamed."""
    renamed: dict[str, str] = {}
    for axis, value in variant.sizes.items():
        sentence = _sentence(axis, value, facts)
        name = axis
        while spelled._values.get(name, value) != value or spelled.sizes.get(name, sentence) != sentence:
            name += "_too"
        spelled._values[name], spelled.sizes[name] = value, sentence
        if name != axis:
            renamed[axis] = name
    if not renamed:
        return variant
    layout = re.sub(r"[a-z_][a-z0-9_]*", lambda m: renamed.get(m[0], m[0]), variant.layout)
    structural = {renamed.get(a, a): renamed.get(v, v) if isinstance(v, str) else v for a, v in variant.structural.items()}
    return replace(variant, layout=layout, structural=structural)


def _sentence(axis: str, value: int, facts: Facts) -> str:
    """The size of an axis as the family says it: a config key, or the number."""
    bare = axis
    while bare.startswith(("from_", "one_")):
        bare = bare.partition("_")[2]
    kind = "part" if bare.endswith(("_part", "_here")) else bare
    read_as = READ_AS.get(kind, ())
    known = facts.axis(value)
    return facts.sentence(value, bare, *read_as, *([known.axis] if known is not None and kind not in READ_AS else []))
