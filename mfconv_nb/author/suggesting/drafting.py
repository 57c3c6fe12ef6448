"""Draft pairings: which tensors of one side become which of the other, by names and shapes, and by numbers if there are any.

First come fused tensors whose parts are all named; then one to one, all pairs at once; then several to one by shape. A tensor that is left
over may be a copy, a bias of zeros, or a head that is the embedding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mfconv_nb.author.suggesting.answering import CERTAIN, CLOSE, GUESS, LIKELY, Answers, TensorPairing, leaves_choice
from mfconv_nb.author.suggesting.cells import Leaves, is_joint, leaves_of, match_port
from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.author.suggesting.likeness import LEAST, SURE, assign_pairs, likeness, parents_of
from mfconv_nb.author.suggesting.questions import Groups, Meeting, Question, question_of, sets_of_roles, sibling_key, siblings, variants_of
from mfconv_nb.author.suggesting.variants import COPIES, ONES, PLAIN, TRANSPOSED, Variant
from mfconv_nb.author.suggesting.words import BIAS, CONV1D, FUSED, HEAD, INPUT_FIRST, TOKEN, K, Q, V, read_name
from mfconv_nb.core.checkpoint import HF, MF

PARENT = 0.2  # added to a score if the tensors beside a pair are paired the same way
MOVED = 0.2  # taken from the score of a pair whose shapes differ
DIFFER = "the numbers differ"
BOTH_FUSED = "both are fused: the order inside may differ, which mc.author.probe or the logits tell"


@dataclass
class Drafting:
    """The state of drafting: the groups of each side that have no partner yet, and the pairings so far."""

    answers: Answers
    hf: list[Group]
    mf: list[Group]
    spans: tuple[float, float]  # how many tensors each side has
    pairings: list[TensorPairing] = field(default_factory=list)
    _scores: dict[tuple[int, int], float | None] = field(default_factory=dict)

    def pair_all(self) -> list[TensorPairing]:
        """Make all pairings, in the order of the Hugging Face side."""
        leaves = leaves_of(self.hf), leaves_of(self.mf)
        self.pair_fused_by_words()
        self.pair_one_to_one(SURE)
        self.pair_fused_by_shape()
        self.pair_one_to_one(LEAST)
        self.add_copies()
        self.fill_with_zeros()
        self.tie_heads()
        if self.answers.numbers is not None:
            self.pair_by_names_alone()
        self.settle_squares()
        self.pairings = [_less_sure_of_fused(_with_cells(pairing, *leaves)) for pairing in self.pairings]
        return sorted(self.pairings, key=lambda p: min(g.place for g in p.hf))

    def keep(self, pairing: TensorPairing | None) -> None:
        """Keep a pairing: its groups are no longer free."""
        if pairing is not None:
            self.pairings.append(pairing)
            self.hf = [g for g in self.hf if g not in pairing.hf]
            self.mf = [g for g in self.mf if g not in pairing.mf]

    # -- several to one ----------------------------------------------------------------------------------------------------

    def pair_fused_by_words(self) -> None:
        """Pair q, k and v, or gate and up, if words name the fused tensor on one side and all its parts on the other."""
        found: list[tuple[Groups, Groups]] = []
        for side, others in ((HF, self.mf), (MF, self.hf)):
            sets = list(sets_of_roles(others))
            for whole in self.hf if side == HF else self.mf:
                roles = FUSED.get(read_name(whole.template).role)
                matching = [parts for parts in sets if tuple(read_name(p.template).role for p in parts) == roles]
                found += [((whole,), parts) if side == HF else (parts, (whole,)) for parts in matching]
        self._keep_best(found)

    def pair_fused_by_shape(self) -> None:
        """Pair tensors side by side whose shapes add up to one tensor of the other side."""
        hf_parts, mf_parts = list(siblings(self.hf)), list(siblings(self.mf))
        found = [(parts, (whole,)) for whole in self.mf for parts in hf_parts]
        self._keep_best([*found, *(((whole,), parts) for whole in self.hf for parts in mf_parts)])

    def _keep_best(self, found: Sequence[tuple[Groups, Groups]]) -> None:
        """Keep the pairs that fit, the most alike first."""
        questions = [(q, self._likeness(q)) for hf, mf in found if (q := question_of(hf, mf)) is not None]
        fitting = [(q, score) for q, score in questions if self._has_visible_variant(q) and self.answers.agree(q)]
        for question, score in sorted(fitting, key=lambda f: -f[1]):
            if all(g in self.hf for g in question.hf) and all(g in self.mf for g in question.mf):
                others = [s for q, s in fitting if q is not question and _share_groups(q, question)]
                self.keep(self.answers.pairing_of(question, score, score - max(others, default=-1.0)))

    def _has_visible_variant(self, question: Question) -> bool:
        return any(not v.hidden for v in variants_of(question, self.answers.facts))

    def _likeness(self, question: Question) -> float:
        """How alike a fused tensor and its parts are, on average; 0.25 makes up for the words of the parts' own roles."""
        pairs = [(h, m) for h in question.hf for m in question.mf]
        return 0.25 + sum(likeness(h, m, self.spans) for h, m in pairs) / len(pairs)

    # -- one to one --------------------------------------------------------------------------------------------------------

    def pair_one_to_one(self, least: float) -> None:
        """Make all pairs at once so that the sum of scores is highest; then again, knowing which parents go together.

        Args:
            least: pairs with a lower score are not kept.
        """
        first = assign_pairs(self.hf, self.mf, lambda h, m: self._score(h, m, {}))
        parents = parents_of(first)
        # a parent that was paired by a narrow margin does not make the pairs below it sure
        alone = {(id(h), id(m)): margin for h, m, _, margin in first if parents[h.parent][1] < CLOSE}
        for h, m, score, margin in assign_pairs(self.hf, self.mf, lambda h, m: self._score(h, m, parents)):
            question = question_of((h,), (m,))
            if question is not None and score >= least:
                self.keep(self.answers.pairing_of(question, score, min(margin, alone.get((id(h), id(m)), margin))))

    def _score(self, hf: Group, mf: Group, parents: Mapping[str, tuple[str, float]]) -> float | None:
        pair = (id(hf), id(mf))
        if pair not in self._scores:  # every round needs it again
            self._scores[pair] = self._score_alone(hf, mf)
        score = self._scores[pair]
        if score is None or hf.parent not in parents:
            return score
        return score + (PARENT if parents[hf.parent][0] == mf.parent else -PARENT / 4)

    def _score_alone(self, hf: Group, mf: Group) -> float | None:
        """How well two groups go together, without regard to their neighbours; None if they cannot."""
        question = question_of((hf,), (mf,))
        if question is None or not self._fits(question) or not self.answers.agree(question):
            return None
        score = likeness(hf, mf, self.spans)
        if self.answers.numbers is not None:
            score += 2.0 if self.answers.agree(question, question.looked_at[-1]) else 1.0
        return score - (0.0 if hf.shape == mf.shape or hf.loops != mf.loops else MOVED)

    def _fits(self, question: Question) -> bool:
        """Whether any variant fits. The number of elements, which is quick to compare, rules most pairs out."""
        hf, mf = question.hf[0].first, question.mf[0].first
        count = question.meeting.count
        padded = hf.shape[1:] == mf.shape[1:] and len(hf.shape) == 2
        if hf.elements not in (mf.elements, mf.elements * count) and mf.elements != hf.elements * count and not padded:
            return False
        return bool(variants_of(question, self.answers.facts)) if self.answers.numbers is not None else self._has_visible_variant(question)

    def pair_by_names_alone(self) -> None:
        """Pair what the numbers left over, such as tensors that were trained further: their numbers differ, their names may agree."""
        with_numbers, self.answers = self.answers, replace(self.answers, numbers=None)
        self._scores.clear()
        before = len(self.pairings)
        self.pair_one_to_one(LEAST)
        for n, pairing in enumerate(self.pairings[before:], before):
            self.pairings[n] = replace(pairing, confidence=GUESS, reason=f"{pairing.reason}; {DIFFER}")
        self.answers = with_numbers

    # -- what is left over ---------------------------------------------------------------------------------------------------

    def add_copies(self) -> None:
        """Add tensors that are equal to one that has its partner already: an embedding that a file lists twice."""
        compared = self.answers.numbers is not None
        confidence, proof = (CERTAIN, "bytes are equal") if compared else (GUESS, "their names mean the same")
        for extra in [g for g in self.hf if len(g.specs) == 1]:
            for n, pairing in enumerate(self.pairings):
                if _is_simple(pairing) and self._is_copy(extra, pairing.hf[0]):
                    variant = replace(pairing.variant, words=COPIES)
                    reason = f"copies of one another: {proof}"
                    self.pairings[n] = replace(pairing, hf=(*pairing.hf, extra), variant=variant, confidence=confidence, reason=reason)
                    self.hf.remove(extra)
                    break

    def _is_copy(self, extra: Group, one: Group) -> bool:
        if extra.shape != one.shape:
            return False
        if self.answers.numbers is not None:
            return self.answers.numbers.same((HF, extra.first), (HF, one.first)) and self.answers.can_identify(HF, one)
        roles = {read_name(g.template).role for g in (extra, one)}
        return len(roles) == 1 and roles <= {TOKEN, HEAD}

    def fill_with_zeros(self) -> None:
        """Fill a bias for k that the other side lacks with zeros, in one rule with the biases of q and v."""
        for spare in list(self.mf):
            name = read_name(spare.template)
            around = {read_name(p.mf[0].template).role: p for p in self.pairings if _is_beside(p, spare)}
            if name.role == K and name.leaf == BIAS and around.keys() >= {Q, V} and self._is_zero(spare):
                q, v = around[Q], around[V]
                self.pairings = [p for p in self.pairings if p is not q and p is not v]
                variant = Variant("q, v -> q, (0 k), v", "zeros for k", {"k": "q", "v": "q"}, {"q": spare.shape[0]})
                confidence = CERTAIN if {q.confidence, v.confidence} == {CERTAIN} else GUESS
                reason = f"zeros for k, whose bias the other side lacks; q and v: {q.reason}"
                self.keep(TensorPairing((q.hf[0], v.hf[0]), (q.mf[0], spare, v.mf[0]), q.meeting, variant, confidence, reason))

    def _is_zero(self, group: Group) -> bool:
        ends = (group.specs[min(group.specs)], group.specs[max(group.specs)])
        numbers = self.answers.numbers
        return numbers is None or not any(numbers.flat(MF, s.name, s.dtype).astype(bool).any() for s in ends)

    def tie_heads(self) -> None:
        """Tie a head of the MindFormers side that the other side leaves out because it is the embedding."""
        compared = self.answers.numbers is not None
        confidence, proof = (CERTAIN, "its bytes are those of the embedding") if compared else (LIKELY, "it has the shape of the embedding")
        tokens = [p for p in self.pairings if read_name(p.hf[0].template).role == TOKEN and _is_simple(p)]
        for spare in list(self.mf):
            for embedding in tokens:
                if len(spare.specs) == 1 and spare.shape == embedding.hf[0].shape and self._is_head(spare, embedding.hf[0]):
                    reason = f"a tied head: {proof}"
                    self.keep(TensorPairing(embedding.hf[:1], (spare,), Meeting(()), embedding.variant, confidence, reason, tied=True))
                    break

    def _is_head(self, spare: Group, embedding: Group) -> bool:
        if self.answers.numbers is not None:
            return self.answers.numbers.same((MF, spare.first), (HF, embedding.first)) and self.answers.can_identify(HF, embedding)
        return read_name(spare.template).role == HEAD or "head" in spare.template

    # -- squares -------------------------------------------------------------------------------------------------------------

    def settle_squares(self) -> None:
        """Decide whether square weights are transposed: as weights of the same name that are not square, else as usual."""
        others: dict[str, Counter[bool]] = defaultdict(Counter)  # by word: how many of the other weights are transposed, and how many not
        for p in self.pairings:
            if p.confidence != CERTAIN and not p.doubts and len(p.hf[0].shape) == 2 and len(p.hf) == len(p.mf) == 1:
                for key in (*_square_keys(p), ""):
                    others[key][TRANSPOSED in p.variant.words] += 1
        for n, pairing in enumerate(self.pairings):
            transposed = next((v for v in pairing.doubts if v.words == TRANSPOSED), None)
            if transposed is not None and pairing.variant.words == PLAIN and pairing.confidence != CERTAIN:
                self.pairings[n] = _decide_square(pairing, transposed, others)


def _square_keys(pairing: TensorPairing) -> list[str]:
    """The words by which a weight is compared with others: its MindFormers name, and its name in GPT-2's layers."""
    mf, hf = read_name(pairing.mf[0].template).last, read_name(pairing.hf[0].template).last
    return [f"mf {mf}", *([f"hf {hf}"] if hf in CONV1D else [])]


def _decide_square(pairing: TensorPairing, transposed: Variant, others: Mapping[str, Counter[bool]]) -> TensorPairing:
    """A pairing of a square weight, plain or transposed."""
    last = read_name(pairing.mf[0].template).last
    alike = next((others[key] for key in _square_keys(pairing) if len(others.get(key, ())) == 1), Counter[bool]())
    if alike:
        is_transposed, why = alike[True] > 0, "square: as the weights of that name that are not"
    elif last in INPUT_FIRST:
        is_transposed, why = True, f"square: MindFormers keeps {last} input first"
    else:
        is_transposed, why = False, "square: shapes cannot tell whether it is transposed"
    sure = bool(alike) or not others.get("", Counter())[True]
    variant = transposed if is_transposed else pairing.variant
    reason = f"{variant.words}; {pairing.reason.partition('; ')[2]}; {why}"
    return replace(pairing, variant=variant, confidence=pairing.confidence if sure else GUESS, reason=reason)


def _with_cells(pairing: TensorPairing, hf_leaves: Leaves, mf_leaves: Leaves) -> TensorPairing:
    """A pairing of two tensors, with what is known of MindSpore's cells. If their modules have the same name, it is no guess."""
    if len(pairing.hf) != 1 or len(pairing.mf) != 1 or pairing.tied:
        return pairing
    known = match_port(*pairing.hf, *pairing.mf, hf_leaves, mf_leaves)
    if known is None:
        return pairing
    decided = not leaves_choice((pairing.variant, *pairing.doubts)) or (known.fixed_axes and pairing.variant.words in (PLAIN, ONES))
    likely = pairing.confidence == GUESS and known.same_place and decided and not pairing.equal and DIFFER not in pairing.reason
    reason = f"{pairing.reason}; {known.reason}" if known.reason else pairing.reason
    return replace(pairing, confidence=LIKELY if likely else pairing.confidence, reason=reason)


def _less_sure_of_fused(pairing: TensorPairing) -> TensorPairing:
    """A pairing of two fused tensors is a guess unless bytes are equal: head by head and part by part have the same shape."""
    fused = all(read_name(g.template).role in FUSED for g in (*pairing.hf, *pairing.mf))
    if not fused or pairing.equal or pairing.confidence == CERTAIN or is_joint(pairing.hf[0], pairing.mf[0]):
        return pairing
    return replace(pairing, confidence=GUESS, reason=f"{pairing.reason}; {BOTH_FUSED}")


def _share_groups(one: Question, other: Question) -> bool:
    return any(a is b for a in (*one.hf, *one.mf) for b in (*other.hf, *other.mf))


def _is_simple(pairing: TensorPairing) -> bool:
    """Whether one tensor keeps its shape, outside of any loop."""
    is_loop = pairing.meeting.shared or pairing.meeting.hf_extra is not None
    return len(pairing.mf) == 1 and pairing.variant.words in (PLAIN, COPIES) and not is_loop and not pairing.tied


def _is_beside(pairing: TensorPairing, group: Group) -> bool:
    return len(pairing.hf) == len(pairing.mf) == 1 and sibling_key(pairing.mf[0]) == sibling_key(group)
