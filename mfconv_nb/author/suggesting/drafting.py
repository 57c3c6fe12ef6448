"""Drafting: which tensors of the one side become which of the other, and how. From names and shapes; from numbers where there are some.

Fused tensors are paired first, where words name all their parts; then one to one, all pairs at once; then several to one by shape. What
is left over may be a copy, a bias of zeros, or a head that is the embedding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from mfconv_nb.author.axes import Facts
from mfconv_nb.author.suggesting.cells import Leaves, is_joint, leaves_of, ported
from mfconv_nb.author.suggesting.evidence import Evidence, Held, common_dtype, move_alike
from mfconv_nb.author.suggesting.groups import Group, Index
from mfconv_nb.author.suggesting.likeness import LEAST, SURE, assigned, likeness, parents_of
from mfconv_nb.author.suggesting.questions import Groups, Meeting, Question, beside_of, question_of, sets_of_roles, siblings, variants_of
from mfconv_nb.author.suggesting.variants import COPIES, ONES, PLAIN, TRANSPOSED, Variant
from mfconv_nb.author.suggesting.words import BIAS, CONV1D, FUSED, HEAD, INPUT_FIRST, TOKEN, K, Q, V, read_name
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.mapping.rules import Repeated, Rule

CERTAIN, LIKELY, GUESS = "certain", "likely", "guess"
CLOSE = 0.06  # two pairs whose scores are nearer than this are not told apart by their names
PARENT = 0.2  # what it counts that the weights beside a tensor are paired the same way
DIFFER = "the numbers differ"
BOTH_FUSED = "both are fused: the order inside may differ, which mc.author.probe or the logits tell"
MOVED = 0.2  # what it counts against a pair that its shapes are not equal


@dataclass(frozen=True)
class Draft:
    """Tensors of both sides that belong together, and how one becomes the other.

    Attributes:
        doubts: variants that names and shapes allow as well.
        equal: the numbers were asked, and bytes are equal; one that is not certain all the same has numbers that are all equal.
        tied: the head of the MindFormers side is a copy of ``hf``, which goes elsewhere too.
    """

    hf: Groups
    mf: Groups
    meeting: Meeting
    variant: Variant
    confidence: str
    reason: str
    doubts: tuple[Variant, ...] = ()
    tied: bool = False
    equal: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What the numbers of one instance say: the variants that make its bytes equal, and whether all of its numbers are one value."""

    equal: tuple[Variant, ...]
    is_constant: bool


# ---- drafting ----------------------------------------------------------------------------------------------------------------


@dataclass
class Drafting:
    """Everything that is known while rules are drafted: what is free on each side, and the drafts so far."""

    facts: Facts
    evidence: Evidence | None
    hf: list[Group]
    mf: list[Group]
    spans: tuple[float, float]
    drafts: list[Draft] = field(default_factory=list)
    _scores: dict[tuple[int, int], float | None] = field(default_factory=dict)

    def all(self) -> list[Draft]:
        """Draft all rules, in the order of the Hugging Face side."""
        leaves = leaves_of(self.hf), leaves_of(self.mf)
        self.pair_fused_by_words()
        self.pair_one_to_one(SURE)
        self.pair_fused_by_shape()
        self.pair_one_to_one(LEAST)
        self.add_copies()
        self.fill_with_zeros()
        self.tie_heads()
        if self.evidence is not None:
            self.pair_by_names_alone()
        self.settle_squares()
        self.drafts = [_less_sure_of_fused(_with_cells(draft, *leaves)) for draft in self.drafts]
        return sorted(self.drafts, key=lambda d: min(g.place for g in d.hf))

    # -- questions and answers ---------------------------------------------------------------------------------------------

    def agrees(self, question: Question, key: Index | None = None) -> bool:
        """Whether the numbers allow a pair, in the first layer or for the given loops; true where there are none to ask."""
        if self.evidence is None:
            return True
        hf, mf = question.instance(HF, key), question.instance(MF, key)
        copies = question.meeting.hf_extra is not None and len(mf) == 1 and hf[0].shape == mf[0].shape
        return self.evidence.agree(hf[:1] if copies else hf, mf)

    def answered(self, question: Question, score: float, margin: float) -> Draft | None:
        """A question as a draft: the variant that the numbers show, else the most usual one."""
        variants = variants_of(question, self.facts)
        if not variants:
            return None
        certain = self.evidence is not None and self.agrees(question)
        shown = self.shown(question, variants) if certain else None
        if shown is not None:
            return shown
        visible = [v for v in variants if not v.hidden] or variants
        confidence = LIKELY if score >= SURE and margin >= CLOSE and not _open(visible) else GUESS
        reason = f"{visible[0].words}; {_said(question, score)}"
        if certain:
            confidence, reason = GUESS, f"{reason}; the numbers are the same, in an order that no known variant gives"
        return Draft(*_sides(question), visible[0], confidence, reason, tuple(visible[1:]))

    def tells(self, side: str, group: Group) -> bool:
        """Whether the numbers of a tensor can be known again: not where all of them are equal."""
        return self.evidence is not None and not self.evidence.is_constant(side, group.first)

    def shown(self, question: Question, variants: Sequence[Variant]) -> Draft | None:
        """A question as the numbers decide it: by the variant that makes the bytes of the first layer equal, and those of the last."""
        keys = question.looked_at
        found = self._look(question, keys[0], variants)
        if not found.equal:
            return None
        if len(keys) > 1:
            there = self._look(question, keys[1], found.equal)
            if not there.equal and self.agrees(question, keys[1]):  # perhaps an order that the first layer leaves open
                there = self._look(question, keys[1], self._look(question, keys[0], variants, every=True).equal)
            if not there.equal:
                reason = f"{found.equal[0].words}; bytes are equal{_as_dtype(question)}{_where(question, is_all=False)}"
                return Draft(*_sides(question), found.equal[0], GUESS, reason, equal=True)
            found = Look(there.equal, found.is_constant and there.is_constant)
        shown = found.equal[0]
        reason = f"{shown.words}; bytes are equal{_as_dtype(question)}{_where(question, is_all=True)}"
        rival = next((v for v in found.equal[1:] if not _move_alike(question, shown, v)), None)
        if found.is_constant:
            return Draft(*_sides(question), shown, LIKELY, f"{reason}, but all of one value", equal=True)
        if rival is not None:
            reason = f"{reason}, and would be too with another rule: {rival.words}"
        return Draft(*_sides(question), shown, CERTAIN if rival is None else LIKELY, reason, equal=True)

    def _look(self, question: Question, key: Index, variants: Sequence[Variant], *, every: bool = False) -> Look:
        """Which variants make the bytes of one instance equal; its numbers stay in memory no longer than this takes.

        Args:
            every: try all of them; else those that shapes hide behind another one only where none is shown, or rows or columns begin alike.
        """
        assert self.evidence is not None
        held = self.evidence.held(question.instance(HF, key), question.instance(MF, key)) if self.agrees(question, key) else None
        if held is None:
            return Look((), is_constant=True)
        first = next((v for v in variants if _shows(question, held, v)), None)
        if first is None:
            return Look((), held.is_constant)
        every = every or (held.repeats and not held.is_constant)
        others = (v for v in variants if v is not first and (every or not v.hidden))
        return Look((first, *(v for v in others if _shows(question, held, v))), held.is_constant)

    def take(self, draft: Draft | None) -> None:
        """Keep a draft: its groups are no longer free."""
        if draft is not None:
            self.drafts.append(draft)
            self.hf = [g for g in self.hf if g not in draft.hf]
            self.mf = [g for g in self.mf if g not in draft.mf]

    # -- several to one ----------------------------------------------------------------------------------------------------

    def pair_fused_by_words(self) -> None:
        """q, k and v, or gate and up, where words name the fused tensor on one side and all its parts on the other."""
        found = []
        for side, others in ((HF, self.mf), (MF, self.hf)):
            sets = list(sets_of_roles(others))
            for whole in self.hf if side == HF else self.mf:
                for parts in sets if read_name(whole.template).role in FUSED else ():
                    if tuple(read_name(p.template).role for p in parts) == FUSED[read_name(whole.template).role]:
                        found.append((whole, parts) if side == HF else (parts, whole))
        self._take_best(found)

    def pair_fused_by_shape(self) -> None:
        """What is left: tensors side by side whose shapes add up to one of the other side."""
        found: list[tuple[Group | Groups, Group | Groups]] = []
        for whole in self.mf:
            found += [(parts, whole) for parts in siblings(self.hf)]
        for whole in self.hf:
            found += [(whole, parts) for parts in siblings(self.mf)]
        self._take_best(found)

    def _take_best(self, found: Sequence[tuple[Group | Groups, Group | Groups]]) -> None:
        questions = [(q, self._likeness(q)) for a, b in found if (q := question_of(_groups(a), _groups(b))) is not None]
        fitting = [(q, score) for q, score in questions if any(not v.hidden for v in variants_of(q, self.facts)) and self.agrees(q)]
        for question, score in sorted(fitting, key=lambda f: -f[1]):
            if all(g in self.hf for g in question.hf) and all(g in self.mf for g in question.mf):
                others = [s for q, s in fitting if q is not question and set(_ids(q)) & set(_ids(question))]
                self.take(self.answered(question, score, score - max(others, default=-1.0)))

    def _likeness(self, question: Question) -> float:
        """How alike the one is to all the parts; words of the parts' own roles do not count against it."""
        pairs = [(h, m) for h in question.hf for m in question.mf]
        return 0.25 + sum(likeness(h, m, self.spans) for h, m in pairs) / len(pairs)

    # -- one to one --------------------------------------------------------------------------------------------------------

    def pair_one_to_one(self, least: float) -> None:
        """All pairs at once, the best sum of scores; then again, knowing which parents go together. Below ``least`` none is kept."""
        first = assigned(self.hf, self.mf, lambda h, m: self._score(h, m, {}))
        parents = parents_of(first)
        # a parent that was chosen by a hair is no reason to be sure of what stands below it
        alone = {(id(h), id(m)): margin for h, m, _, margin in first if parents[h.parent][1] < CLOSE}
        for h, m, score, margin in assigned(self.hf, self.mf, lambda h, m: self._score(h, m, parents)):
            question = question_of((h,), (m,))
            if question is not None and score >= least:
                self.take(self.answered(question, score, min(margin, alone.get((id(h), id(m)), margin))))

    def _score(self, hf: Group, mf: Group, parents: Mapping[str, tuple[str, float]]) -> float | None:
        pair = (id(hf), id(mf))
        if pair not in self._scores:  # every round asks for it again
            self._scores[pair] = self._score_alone(hf, mf)
        score = self._scores[pair]
        if score is None or hf.parent not in parents:
            return score
        return score + (PARENT if parents[hf.parent][0] == mf.parent else -PARENT / 4)

    def _score_alone(self, hf: Group, mf: Group) -> float | None:
        """How well two groups go together, whatever stands beside them."""
        question = question_of((hf,), (mf,))
        if question is None or not self._fits(question) or not self.agrees(question):
            return None
        score = likeness(hf, mf, self.spans)
        if self.evidence is not None:
            score += 2.0 if self.agrees(question, question.looked_at[-1]) else 1.0
        return score - (0.0 if hf.shape == mf.shape or hf.loops != mf.loops else MOVED)

    def _fits(self, question: Question) -> bool:
        """Whether any variant fits; a quick look at the number of elements first."""
        hf, mf = question.hf[0].first, question.mf[0].first
        count = question.meeting.count
        padded = hf.shape[1:] == mf.shape[1:] and len(hf.shape) == 2
        if hf.elements not in (mf.elements, mf.elements * count) and mf.elements != hf.elements * count and not padded:
            return False
        return any(self.evidence is not None or not v.hidden for v in variants_of(question, self.facts))

    def pair_by_names_alone(self) -> None:
        """What is left where numbers were asked: tensors that were trained on, say. Their numbers differ, their names may agree."""
        asked, self.evidence = self.evidence, None
        self._scores.clear()
        before = len(self.drafts)
        self.pair_one_to_one(LEAST)
        for n, draft in enumerate(self.drafts[before:], before):
            self.drafts[n] = replace(draft, confidence=GUESS, reason=f"{draft.reason}; {DIFFER}")
        self.evidence = asked

    # -- what is left over ---------------------------------------------------------------------------------------------------

    def add_copies(self) -> None:
        """Tensors that are equal to one that has its partner already: an embedding that a file lists twice."""
        asked = self.evidence is not None
        confidence, told = (CERTAIN, "bytes are equal") if asked else (GUESS, "their names mean the same")
        for extra in [g for g in self.hf if len(g.specs) == 1]:
            for n, draft in enumerate(self.drafts):
                if _is_simple(draft) and self._is_copy(extra, draft.hf[0]):
                    variant = replace(draft.variant, words=COPIES)
                    reason = f"copies of one another: {told}"
                    self.drafts[n] = replace(draft, hf=(*draft.hf, extra), variant=variant, confidence=confidence, reason=reason)
                    self.hf.remove(extra)
                    break

    def _is_copy(self, extra: Group, one: Group) -> bool:
        if extra.shape != one.shape:
            return False
        if self.evidence is not None:
            return self.evidence.same((HF, extra.first), (HF, one.first)) and self.tells(HF, one)
        roles = {read_name(g.template).role for g in (extra, one)}
        return len(roles) == 1 and roles <= {TOKEN, HEAD}

    def fill_with_zeros(self) -> None:
        """A bias for k that the other side does not have: zeros, between those of q and v."""
        for spare in list(self.mf):
            said = read_name(spare.template)
            around = {read_name(d.mf[0].template).role: d for d in self.drafts if _beside(d, spare)}
            if said.role == K and said.leaf == BIAS and around.keys() >= {Q, V} and self._is_zero(spare):
                q, v = around[Q], around[V]
                self.drafts = [d for d in self.drafts if d is not q and d is not v]
                variant = Variant("q, v -> q, (0 k), v", "zeros for k", {"k": "q", "v": "q"}, {"q": spare.shape[0]})
                confidence = CERTAIN if {q.confidence, v.confidence} == {CERTAIN} else GUESS
                reason = f"zeros for k, whose bias the other side lacks; q and v: {q.reason}"
                self.take(Draft((q.hf[0], v.hf[0]), (q.mf[0], spare, v.mf[0]), q.meeting, variant, confidence, reason))

    def _is_zero(self, group: Group) -> bool:
        ends = (group.specs[min(group.specs)], group.specs[max(group.specs)])
        return self.evidence is None or not any(self.evidence.flat(MF, s.name, s.dtype).astype(bool).any() for s in ends)

    def tie_heads(self) -> None:
        """A head of the MindFormers side that the other side leaves away, because it is the embedding."""
        asked = self.evidence is not None
        confidence, told = (CERTAIN, "its bytes are those of the embedding") if asked else (LIKELY, "it has the shape of the embedding")
        tokens = [d for d in self.drafts if read_name(d.hf[0].template).role == TOKEN and _is_simple(d)]
        for spare in list(self.mf):
            for draft in tokens:
                if len(spare.specs) == 1 and spare.shape == draft.hf[0].shape and self._is_head(spare, draft.hf[0]):
                    tied = Draft(draft.hf[:1], (spare,), Meeting(()), draft.variant, confidence, f"a tied head: {told}", tied=True)
                    self.take(tied)
                    break

    def _is_head(self, spare: Group, embedding: Group) -> bool:
        if self.evidence is not None:
            return self.evidence.same((MF, spare.first), (HF, embedding.first)) and self.tells(HF, embedding)
        return read_name(spare.template).role == HEAD or "head" in spare.template

    # -- squares -------------------------------------------------------------------------------------------------------------

    def settle_squares(self) -> None:
        """A square weight may be transposed or not: as the weights are that are called the same and are no squares, else as is usual."""
        told: dict[str, Counter[bool]] = defaultdict(Counter)
        for draft in self.drafts:
            if draft.confidence != CERTAIN and not draft.doubts and len(draft.hf[0].shape) == 2 and len(draft.hf) == len(draft.mf) == 1:
                for key in (*_square_keys(draft), ""):
                    told[key][TRANSPOSED in draft.variant.words] += 1
        for n, draft in enumerate(self.drafts):
            turned = next((v for v in draft.doubts if v.words == TRANSPOSED), None)
            if turned is not None and draft.variant.words == PLAIN and draft.confidence != CERTAIN:
                self.drafts[n] = _settled(draft, turned, told)


def _square_keys(draft: Draft) -> list[str]:
    """The words by which a weight is compared with others: what MindFormers calls it, and what GPT-2 calls its layers."""
    mf, hf = read_name(draft.mf[0].template).last, read_name(draft.hf[0].template).last
    return [f"mf {mf}", *([f"hf {hf}"] if hf in CONV1D else [])]


def _settled(draft: Draft, turned: Variant, told: Mapping[str, Counter[bool]]) -> Draft:
    """A draft of a square weight, decided."""
    last = read_name(draft.mf[0].template).last
    alike = next((told[key] for key in _square_keys(draft) if len(told.get(key, ())) == 1), Counter[bool]())
    if alike:
        is_turned, why = alike[True] > 0, "square: as the weights of that name that are not"
    elif last in INPUT_FIRST:
        is_turned, why = True, f"square: MindFormers keeps {last} input first"
    else:
        is_turned, why = False, "square: shapes cannot tell whether it is transposed"
    sure = bool(alike) or not told.get("", Counter())[True]
    variant = turned if is_turned else draft.variant
    reason = f"{variant.words}; {draft.reason.partition('; ')[2]}; {why}"
    return replace(draft, variant=variant, confidence=draft.confidence if sure else GUESS, reason=reason)


def _with_cells(draft: Draft, hf_leaves: Leaves, mf_leaves: Leaves) -> Draft:
    """A draft of one tensor to one, with what is known of MindSpore's cells. Two names that say the same are no guess."""
    if len(draft.hf) != 1 or len(draft.mf) != 1 or draft.tied:
        return draft
    known = ported(*draft.hf, *draft.mf, hf_leaves, mf_leaves)
    if known is None:
        return draft
    decided = not _open((draft.variant, *draft.doubts)) or (known.fixed_axes and draft.variant.words in (PLAIN, ONES))
    likely = draft.confidence == GUESS and known.same_place and decided and not draft.equal and DIFFER not in draft.reason
    reason = f"{draft.reason}; {known.reason}" if known.reason else draft.reason
    return replace(draft, confidence=LIKELY if likely else draft.confidence, reason=reason)


def _less_sure_of_fused(draft: Draft) -> Draft:
    """A fused tensor on both sides is a guess where no numbers were equal: head by head or part by part, the shape is the same."""
    fused = all(read_name(g.template).role in FUSED for g in (*draft.hf, *draft.mf))
    if not fused or draft.equal or draft.confidence == CERTAIN or is_joint(draft.hf[0], draft.mf[0]):
        return draft
    return replace(draft, confidence=GUESS, reason=f"{draft.reason}; {BOTH_FUSED}")


def _open(visible: Sequence[Variant]) -> bool:
    """Whether shapes leave a choice; that between a square weight and its transpose is made later, by the weights beside it."""
    return len(visible) > 1 and {v.words for v in visible} != {PLAIN, TRANSPOSED}


def _sides(question: Question) -> tuple[Groups, Groups, Meeting]:
    return question.hf, question.mf, question.meeting


def _shows(question: Question, held: Held, variant: Variant) -> bool:
    return held.shows(_rule(question, variant), variant)


def _rule(question: Question, variant: Variant) -> Rule | Repeated:
    """A variant as a rule, before loops have their names."""
    return question.rule(variant, [f"loop_{'abcdefgh'[n]}" for n in range(len(question.meeting.shared))])


def _move_alike(question: Question, one: Variant, other: Variant) -> bool:
    """Whether two variants put every number to the same place: they are one then, in other words."""
    rules = _rule(question, one), _rule(question, other)
    return move_alike(rules, (one, other), question.instance(HF))


def _as_dtype(question: Question) -> str:
    """In which dtype bytes are equal, where the two sides have different ones."""
    dtypes = {g.first.dtype for g in (*question.hf, *question.mf)}
    common = common_dtype(list(dtypes))
    return f" as {short_name(common)}" if len(dtypes) > 1 and common is not None else ""


def _where(question: Question, *, is_all: bool) -> str:
    """Which values of the loops were looked at."""
    if not question.meeting.shared:
        return ""
    first, last = question.looked_at[0], question.looked_at[-1]
    place = next((n for n, pair in enumerate(zip(first, last, strict=True)) if pair[0] != pair[1]), 0)
    word = question.hf[0].word(question.meeting.shared[place][0])
    if first == last:
        return f" in {word} {first[place]}"
    return f" in {word} {first[place]} and {last[place]}" if is_all else f" in {word} {first[place]}, but not in {last[place]}"


def _said(question: Question, score: float) -> str:
    """Why a pair was made, from its words."""
    one, other = read_name(question.hf[0].template), read_name(question.mf[0].template)
    if len(question.hf) == len(question.mf) == 1:
        if one.words == other.words:
            return "the same name"
        if one.role and one.role == other.role:
            return f"both names mean {one.role.replace('_', ' ')}"
        return "names are alike" if score >= SURE else "the best of what is left, by shape and place"
    return "its parts are named beside one another" if score >= SURE else "shapes add up"


def _groups(one: Group | Groups) -> Groups:
    return (one,) if isinstance(one, Group) else one


def _ids(question: Question) -> Iterator[int]:
    return (id(g) for g in chain(question.hf, question.mf))


def _is_simple(draft: Draft) -> bool:
    """Whether a draft is of one tensor that keeps its shape."""
    meeting = draft.meeting
    return (
        len(draft.mf) == 1 and draft.variant.words in (PLAIN, COPIES) and not meeting.shared and meeting.hf_extra is None and not draft.tied
    )


def _beside(draft: Draft, group: Group) -> bool:
    return len(draft.hf) == len(draft.mf) == 1 and beside_of(draft.mf[0]) == beside_of(group)
