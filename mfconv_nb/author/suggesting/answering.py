"""Answer questions of pairing: do tensors of both sides belong together, and how does one become the other?

If there are numbers, the answer is the variant that makes the bytes of the first layer and of the last equal. Otherwise, and if no variant
does, it is the most usual variant that fits the shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mfconv_nb.author.axes import Facts
from mfconv_nb.author.suggesting.evidence import InstanceNumbers, Numbers, common_dtype, move_alike
from mfconv_nb.author.suggesting.groups import Group, Index
from mfconv_nb.author.suggesting.likeness import SURE
from mfconv_nb.author.suggesting.questions import Groups, Meeting, Question, variants_of
from mfconv_nb.author.suggesting.variants import PLAIN, TRANSPOSED, Variant
from mfconv_nb.author.suggesting.words import read_name
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.mapping.rules import Repeated, Rule

CERTAIN, LIKELY, GUESS = "certain", "likely", "guess"
CLOSE = 0.06  # names do not tell two pairs apart whose scores are nearer than this


@dataclass(frozen=True)
class TensorPairing:
    """Tensors of both sides that belong together, and how one becomes the other.

    Attributes:
        doubts: other variants that names and shapes allow as well.
        equal: bytes were compared and are equal. Such a pairing is not certain if all its numbers are one value.
        tied: the head of the MindFormers side is a copy of ``hf``, which has a partner of its own too.
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
class ShownVariants:
    """What the numbers of one instance show: the variants that make its bytes equal, and whether all of its numbers are one value."""

    equal: tuple[Variant, ...]
    is_constant: bool


@dataclass(frozen=True)
class Answers:
    """Answers questions by the facts of the config, and by the numbers of both sides if there are any."""

    facts: Facts
    numbers: Numbers | None

    def agree(self, question: Question, key: Index | None = None) -> bool:
        """Whether the numbers allow a pair, in the first layer or in the one of ``key``; true if there are no numbers."""
        if self.numbers is None:
            return True
        hf, mf = question.instance(HF, key), question.instance(MF, key)
        copies = question.meeting.hf_extra is not None and len(mf) == 1 and hf[0].shape == mf[0].shape
        return self.numbers.agree(hf[:1] if copies else hf, mf)

    def can_identify(self, side: str, group: Group) -> bool:
        """Whether equal bytes prove that a tensor is this one: not if all of its numbers are one value."""
        return self.numbers is not None and not self.numbers.is_constant(side, group.first)

    def pairing_of(self, question: Question, score: float, margin: float) -> TensorPairing | None:
        """The pairing by the variant that the numbers show, else by the most usual one; None if no variant fits.

        Args:
            score: how well the names go together; ``margin``: by how much this beats the next best pair.
        """
        variants = variants_of(question, self.facts)
        if not variants:
            return None
        same_numbers = self.numbers is not None and self.agree(question)
        by_numbers = self._pairing_by_numbers(question, variants) if same_numbers else None
        if by_numbers is not None:
            return by_numbers
        visible = [v for v in variants if not v.hidden] or variants
        confidence = LIKELY if score >= SURE and margin >= CLOSE and not leaves_choice(visible) else GUESS
        reason = f"{visible[0].words}; {_reason_of(question, score)}"
        if same_numbers:
            confidence, reason = GUESS, f"{reason}; the numbers are the same, in an order that no known variant gives"
        return TensorPairing(question.hf, question.mf, question.meeting, visible[0], confidence, reason, tuple(visible[1:]))

    def _pairing_by_numbers(self, question: Question, variants: Sequence[Variant]) -> TensorPairing | None:
        """The pairing by the variant that makes the bytes of the first layer and of the last equal; None if none does in the first."""
        keys = question.looked_at
        first = last = self._compare(question, keys[0], variants)
        if not first.equal:
            return None
        sides, dtype = (question.hf, question.mf, question.meeting), _dtype_text(question)
        if len(keys) > 1:
            last = self._compare(question, keys[1], first.equal)
            if not last.equal and self.agree(question, keys[1]):  # the first layer may allow more orders than were tried
                last = self._compare(question, keys[1], self._compare(question, keys[0], variants, try_all=True).equal)
            if not last.equal:
                reason = f"{first.equal[0].words}; bytes are equal{dtype}{_layers_text(question, both_equal=False)}"
                return TensorPairing(*sides, first.equal[0], GUESS, reason, equal=True)
        shown = last.equal[0]
        reason = f"{shown.words}; bytes are equal{dtype}{_layers_text(question, both_equal=True)}"
        if first.is_constant and last.is_constant:
            return TensorPairing(*sides, shown, LIKELY, f"{reason}, but all of one value", equal=True)
        rival = next((v for v in last.equal[1:] if not _move_alike(question, shown, v)), None)
        if rival is not None:
            reason = f"{reason}, and would be too with another rule: {rival.words}"
        return TensorPairing(*sides, shown, CERTAIN if rival is None else LIKELY, reason, equal=True)

    def _compare(self, question: Question, key: Index, variants: Sequence[Variant], *, try_all: bool = False) -> ShownVariants:
        """Which variants make the bytes of one instance equal. Its numbers stay in memory only as long as this takes.

        Args:
            try_all: also try the variants that shapes cannot tell from an earlier one. Otherwise this happens only if no variant was
                shown yet, or if rows or columns begin alike.
        """
        assert self.numbers is not None
        pair = self.numbers.read_instance(question.instance(HF, key), question.instance(MF, key)) if self.agree(question, key) else None
        if pair is None:
            return ShownVariants((), is_constant=True)
        first = next((v for v in variants if _shows(question, pair, v)), None)
        if first is None:
            return ShownVariants((), pair.is_constant)
        try_all = try_all or (pair.repeats and not pair.is_constant)
        others = (v for v in variants if v is not first and (try_all or not v.hidden))
        return ShownVariants((first, *(v for v in others if _shows(question, pair, v))), pair.is_constant)


def leaves_choice(visible: Sequence[Variant]) -> bool:
    """Whether shapes leave a choice. That between a square weight and its transpose does not count: weights beside it decide it later."""
    return len(visible) > 1 and {v.words for v in visible} != {PLAIN, TRANSPOSED}


def _shows(question: Question, pair: InstanceNumbers, variant: Variant) -> bool:
    return pair.shows(_rule(question, variant), variant)


def _rule(question: Question, variant: Variant) -> Rule | Repeated:
    """A variant as a rule, before its loops have names."""
    return question.rule(variant, [f"loop_{'abcdefgh'[n]}" for n in range(len(question.meeting.shared))])


def _move_alike(question: Question, one: Variant, other: Variant) -> bool:
    """Whether two variants move every number to the same place, and so differ in words only."""
    return move_alike((_rule(question, one), _rule(question, other)), (one, other), question.instance(HF))


# ---- reasons ----------------------------------------------------------------------------------------------------------------


def _dtype_text(question: Question) -> str:
    """The dtype in which bytes are equal, if the two sides have different ones."""
    dtypes = {g.first.dtype for g in (*question.hf, *question.mf)}
    common = common_dtype(list(dtypes))
    return f" as {short_name(common)}" if len(dtypes) > 1 and common is not None else ""


def _layers_text(question: Question, *, both_equal: bool) -> str:
    """In which layers bytes were compared: `` in layers 0 and 31``."""
    if not question.meeting.shared:
        return ""
    first, last = question.looked_at[0], question.looked_at[-1]
    place = next((n for n, pair in enumerate(zip(first, last, strict=True)) if pair[0] != pair[1]), 0)
    word = question.hf[0].word(question.meeting.shared[place][0])
    if first == last:
        return f" in {word} {first[place]}"
    return f" in {word} {first[place]} and {last[place]}" if both_equal else f" in {word} {first[place]}, but not in {last[place]}"


def _reason_of(question: Question, score: float) -> str:
    """Why a pair was made, by its names."""
    one, other = read_name(question.hf[0].template), read_name(question.mf[0].template)
    if len(question.hf) == len(question.mf) == 1:
        if one.words == other.words:
            return "the same name"
        if one.role and one.role == other.role:
            return f"both names mean {one.role.replace('_', ' ')}"
        return "names are alike" if score >= SURE else "the best of what is left, by shape and place"
    return "its parts are named beside one another" if score >= SURE else "shapes add up"
