"""Ask which tensors of two sides may belong together: how their loops meet, and every variant that fits their shapes. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

from mfconv_nb.author.axes import Facts
from mfconv_nb.author.suggesting.groups import Group, Index
from mfconv_nb.author.suggesting.variants import (
    BY_HEADS,
    BY_ROWS,
    COPIES,
    Variant,
    variants_of_one,
    variants_of_several,
    variants_of_several_stacked,
    variants_of_stack,
)
from mfconv_nb.author.suggesting.words import BY_HEAD, BY_ROW, FUSED, HEAD, TOKEN, VISION, read_name
from mfconv_nb.core.checkpoint import HF, TensorSpec
from mfconv_nb.core.folding import index_ranges
from mfconv_nb.mapping.rules import Names, Repeated, Rule

MOST_PARTS = 3
MOST_NOTES = 4
MOST_SIBLINGS = 8  # tensors side by side: every two and three of them are tried

Groups = tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Meeting:
    """How the loops of two groups meet: the shared ones, and one that only one side has. If none is shared, numbers belong to names."""

    shared: tuple[tuple[int, int], ...]
    hf_extra: int | None = None
    mf_extra: int | None = None
    count: int = 1
    word: str = ""


def meeting_of(hf: Group, mf: Group) -> Meeting | None:
    """How the loops of two groups meet; None if they count other things. A loop of one round may be part of the name."""
    found = _meeting(hf, mf)
    (here, of_hf), (there, of_mf) = hf.counting, mf.counting
    if found is not None or (len(of_hf), len(of_mf)) == (hf.loops, mf.loops):
        return found
    found = _meeting(here, there)
    if found is None:
        return None
    extra = [None if n is None else kept[n] for n, kept in ((found.hf_extra, of_hf), (found.mf_extra, of_mf))]
    return replace(found, shared=tuple((of_hf[a], of_mf[b]) for a, b in found.shared), hf_extra=extra[0], mf_extra=extra[1])


def _meeting(hf: Group, mf: Group) -> Meeting | None:
    if hf.loops == mf.loops and hf.indices == mf.indices:
        return Meeting(tuple((n, n) for n in range(hf.loops)))
    if len(hf.specs) == len(mf.specs) == 1:
        return Meeting(())
    if hf.loops == mf.loops + 1:
        return _meeting_with_extra(hf, mf)
    if mf.loops == hf.loops + 1:
        found = _meeting_with_extra(mf, hf)
        return found and Meeting(tuple((b, a) for a, b in found.shared), mf_extra=found.hf_extra, count=found.count, word=found.word)
    return None


def _meeting_with_extra(more: Group, fewer: Group) -> Meeting | None:
    """The meeting if one loop of ``more`` is left out; ``more`` counts as the Hugging Face side."""
    for extra in sorted(range(more.loops), key=lambda n: ("expert" not in more.word(n).lower(), -n)):
        kept = [n for n in range(more.loops) if n != extra]
        projected = Counter(tuple(index[n] for n in kept) for index in more.specs)
        counts = more.counts(extra)
        if projected.keys() == fewer.indices and set(projected.values()) == {len(counts)} and counts == tuple(range(len(counts))):
            word = "expert" if "expert" in more.word(extra).lower() else "shard"
            return Meeting(tuple((n, place) for place, n in enumerate(kept)), hf_extra=extra, count=len(counts), word=word)
    return None


@dataclass(frozen=True)
class Question:
    """Two sets of groups that may belong together."""

    hf: Groups
    mf: Groups
    meeting: Meeting

    def instance(self, side: str, key: Index | None = None) -> list[TensorSpec]:
        """The tensors of one side for one value of the shared loops; without ``key`` for the first value."""
        groups, place = (self.hf, 0) if side == HF else (self.mf, 1)
        extra = self.meeting.hf_extra if side == HF else self.meeting.mf_extra
        if not self.meeting.shared and extra is None:
            return [group.first for group in groups]
        wanted = key if key is not None else min(self.keys)
        loops = [pair[place] for pair in self.meeting.shared]
        return [spec for g in groups for index, spec in g.specs.items() if tuple(index[n] for n in loops) == wanted]

    @property
    def keys(self) -> list[Index]:
        """Every value of the shared loops."""
        return sorted({tuple(index[n] for n, _ in self.meeting.shared) for index in self.hf[0].specs})

    @property
    def looked_at(self) -> tuple[Index, ...]:
        """The values of the shared loops whose numbers are compared: the first, and the last if there are several."""
        keys = self.keys
        return (keys[0], keys[-1]) if len(keys) > 1 else (keys[0],)

    def shapes(self) -> set[tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]]:
        """The different shapes of the groups over all values of the loops."""
        if not self.meeting.shared:
            return {(tuple(g.shape for g in self.hf), tuple(g.shape for g in self.mf))}
        found = set()
        by_key = [[_shapes_by_key(g, [p[n] for p in self.meeting.shared]) for g in side] for n, side in enumerate((self.hf, self.mf))]
        for key in self.keys:
            found.add((tuple(g[key] for g in by_key[0]), tuple(g[key] for g in by_key[1])))
        return found

    def rule(self, variant: Variant, loops: Sequence[str]) -> Rule | Repeated:
        """The rule that a variant makes of this question. ``loops`` names the shared loops; if empty, their numbers stay numbers."""
        hf = _names(self.hf, {a: name for (a, _), name in zip(self.meeting.shared, loops, strict=False)}, self.meeting)
        mf = _names(self.mf, {b: name for (_, b), name in zip(self.meeting.shared, loops, strict=False)}, self.meeting)
        if variant.words == COPIES:
            assert isinstance(mf, str)
            return Repeated(hf, mf, variant.layout)
        return Rule(hf, mf, variant.layout, dict(variant.structural))


def _shapes_by_key(group: Group, loops: Sequence[int]) -> dict[Index, tuple[int, ...]]:
    return {tuple(index[n] for n in loops): spec.shape for index, spec in group.specs.items()}


def _names(groups: Groups, loops: Mapping[int, str], meeting: Meeting) -> Names:
    texts = []
    for group in groups:
        first = min(group.specs)
        slots: list[str | int] = [loops.get(n, meeting.word if len(group.counts(n)) > 1 else first[n]) for n in range(group.loops)]
        texts.append(group.pattern(slots))
    return texts[0] if len(texts) == 1 else tuple(texts)


def question_of(hf: Groups, mf: Groups) -> Question | None:
    """Two sets of groups as a question; None if their loops do not meet."""
    if any(g.indices != side[0].indices for side in (hf, mf) for g in side):
        return None
    meeting = meeting_of(hf[0], mf[0])
    return Question(hf, mf, meeting) if meeting is not None else None


# ---- variants of a question --------------------------------------------------------------------------------------------------


def variants_of(question: Question, facts: Facts) -> list[Variant]:
    """Every variant that fits all shapes, the most usual first."""
    shapes = sorted(question.shapes())
    facts = facts.with_vision_axes(first=VISION in read_name(question.hf[0].template).places)
    if len(shapes) == 1:
        return list(_variants(question, *shapes[0], facts))
    # stages of other widths: no size is the config's
    plain = [{v.layout: v for v in _variants(question, *pair, Facts())} for pair in shapes]
    return [replace(v, sizes={}) for layout, v in plain[0].items() if all(layout in other for other in plain[1:])]


def _variants(question: Question, hf: Sequence[tuple[int, ...]], mf: Sequence[tuple[int, ...]], facts: Facts) -> Iterator[Variant]:
    meeting = question.meeting
    if len(hf) == len(mf) == 1:
        may_pad = bool({read_name(g.template).role for g in (*question.hf, *question.mf)} & {TOKEN, HEAD})
        yield from _single_variants(hf[0], mf[0], replace(meeting, shared=()), may_pad, facts)
    elif len(mf) == 1 and meeting.mf_extra is None:
        names = part_names(question.hf)
        if meeting.hf_extra is not None:
            yield from variants_of_several_stacked(hf, mf[0], names, meeting.count, meeting.word, facts)
        else:
            yield from variants_of_several(hf, mf[0], names, facts, by_turns=_turns_of(question.mf[0]))
    elif len(hf) == 1 and meeting.hf_extra is None and meeting.mf_extra is None:
        names = part_names(question.mf)
        yield from (v.with_sides_exchanged() for v in variants_of_several(mf, hf[0], names, facts, by_turns=_turns_of(question.hf[0])))


@lru_cache(maxsize=4096)  # names with glued numbers give one rule a layer, and some hundred thousand pairs of few shapes
def _single_variants(hf: tuple[int, ...], mf: tuple[int, ...], meeting: Meeting, may_pad: bool, facts: Facts) -> tuple[Variant, ...]:
    """How one tensor, or every one of a loop, may become one other."""
    if meeting.hf_extra is not None:
        return tuple(variants_of_stack(hf, mf, meeting.count, meeting.word, facts))
    if meeting.mf_extra is not None:
        return tuple(v.with_sides_exchanged() for v in variants_of_stack(mf, hf, meeting.count, meeting.word, facts) if v.words != COPIES)
    return tuple(variants_of_one(hf, mf, facts, may_pad=may_pad))


def _turns_of(group: Group) -> str:
    """How parts usually take turns in a fused tensor, by its name; empty if they do not."""
    last = read_name(group.template).last
    return BY_HEADS if last in BY_HEAD else BY_ROWS if last in BY_ROW else ""


def part_names(groups: Groups) -> list[str]:
    """Names for the parts of a fused tensor: their roles if these differ, else letters."""
    roles = [read_name(g.template).role for g in groups]
    good = len(set(roles)) == len(roles) and all(roles)
    return roles if good else [f"part_{letter}" for letter, _ in zip("abcdefgh", groups, strict=False)]


# ---- sets of tensors side by side --------------------------------------------------------------------------------------


def sibling_key(group: Group) -> tuple[str, str]:
    """What q, k and v of one attention have in common: the parent of the tensor's module, and the kind of leaf."""
    has_module = group.leaf in ("weight", "bias", "gamma", "beta")
    return group.parent.rpartition(".")[0] if has_module else group.parent, read_name(group.template).leaf


def sets_of_roles(groups: Sequence[Group]) -> Iterator[Groups]:
    """Sets of tensors side by side that are all the parts of a fused tensor, in the usual order."""
    beside: dict[tuple[str, str], dict[str, Group]] = defaultdict(dict)
    for group in groups:
        beside[sibling_key(group)].setdefault(read_name(group.template).role, group)
    for by_role in beside.values():
        for roles in FUSED.values():
            if all(role in by_role for role in roles):
                yield tuple(by_role[role] for role in roles)


def siblings(groups: Sequence[Group]) -> Iterator[Groups]:
    """Two or three tensors side by side, in the order of the checkpoint, or in the usual order of their roles."""
    beside: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        beside[sibling_key(group)].append(group)
    for members in beside.values():
        for count in range(2, MOST_PARTS + 1) if len(members) <= MOST_SIBLINGS else ():
            for chosen in combinations(members, count):
                yield _sort_by_role(chosen)


def _sort_by_role(groups: Groups) -> Groups:
    """The groups in the order of their roles in a fused tensor; unchanged if they are not exactly its parts."""
    roles = [read_name(g.template).role for g in groups]
    order = next((order for order in FUSED.values() if set(order) == set(roles)), None)
    return groups if order is None else tuple(sorted(groups, key=lambda g: order.index(read_name(g.template).role)))


def notes_on_counting(hf: Sequence[Group], mf: Sequence[Group]) -> tuple[str, ...]:
    """Notes on loops that no placeholder can carry: both sides have as many tensors of one shape, but under other numbers."""
    found: dict[str, None] = {}
    for here in hf:
        for there in mf:
            is_alike = here.loops == there.loops == 1 and here.shape == there.shape and len(here.specs) == len(there.specs) > 1
            if is_alike and here.indices != there.indices:
                sides = " and ".join(f"{g.parts[0]}{{{index_ranges(g.counts(0))}}}" for g in (here, there))
                found.setdefault(f"{sides} count otherwise: a placeholder is one number on both sides, so these need a rule a layer.")
    return tuple(found)[:MOST_NOTES]
