"""Draft the rules of an architecture that nobody mapped, each with its reason and a confidence.

If both sides hold the numbers of the same model, a rule is certain when bytes are equal in the first layer and in the last, and no other
known rule makes them. With names and shapes only, a rule is likely or a guess. Known families are not used, only the names that MindSpore's
cells give to their tensors; and no language model is involved.

Raises nothing: names without a partner are listed as unmatched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.author.axes import facts_of
from mfconv_nb.author.suggesting.aligning import Aligned, align_layers
from mfconv_nb.author.suggesting.answering import CERTAIN, GUESS, LIKELY, Answers
from mfconv_nb.author.suggesting.cells import why_dropped
from mfconv_nb.author.suggesting.drafting import Drafting
from mfconv_nb.author.suggesting.evidence import numbers_of
from mfconv_nb.author.suggesting.groups import Group, groups_of
from mfconv_nb.author.suggesting.questions import notes_on_counting
from mfconv_nb.author.suggesting.spelling import Spelled, spell
from mfconv_nb.author.suggesting.words import BUFFERS
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, Checkpoint
from mfconv_nb.core.folding import folded_names
from mfconv_nb.core.report import Column, Result, Table, how_many
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Repeated, Tied

LEAST_SHARE = 0.5  # of the groups: if the numbers explain fewer, they are of another model and are ignored
OTHER_NUMBERS = "Both sides have numbers, but, as far as they were compared, not those of the same model: they were not asked."
RULE, COPIES, TIED, DROPPED = "rule", "copies", "tied", "dropped"


@dataclass(frozen=True, slots=True)
class Suggested:
    """One suggested rule, its reason, and its confidence: "certain" by equal bytes, "likely", or a "guess"."""

    rule: AnyRule
    reason: str
    confidence: str

    @property
    def status(self) -> str:
        return {Repeated: COPIES, Tied: TIED, Drop: DROPPED}.get(type(self.rule), RULE)

    @property
    def hf(self) -> str:
        """The Hugging Face side of the rule, as text."""
        return self.rule.pattern if isinstance(self.rule, Drop) else _names_text(self.rule.hf)

    @property
    def mf(self) -> str:
        """The MindFormers side of the rule, as text; empty if it has none."""
        return "" if isinstance(self.rule, Drop) else _names_text(self.rule.mf)

    @property
    def layout(self) -> str:
        return "" if isinstance(self.rule, Drop) else self.rule.layout or ""


def _names_text(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


@dataclass(frozen=True, repr=False)
class Suggestion(Result):
    """Drafted rules, and the names that they leave over.

    Attributes:
        suggested: the rules, in the order of the Hugging Face side.
        unmatched_hf, unmatched_mf: names that no rule matches.
        sizes: for every axis and loop the sentence that reads its size from config.json, or its number.
        decided: whether the numbers of both sides were compared.
        notes: sentences that the user should see.
        config: where the sizes are read from.
    """

    suggested: tuple[Suggested, ...]
    unmatched_hf: tuple[str, ...]
    unmatched_mf: tuple[str, ...]
    sizes: Mapping[str, str]
    decided: bool
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None

    def family(self, key: str) -> Family:
        """The rules as a family: ``mc.map(checkpoint, suggestion.family("mine"))``.

        ``map`` reads the sizes from the config of the checkpoint. If ``suggest`` had no config, the sizes are numbers. ``config={}`` makes
        ``map`` use them: a padded vocabulary, a tied head, and a way back into unequal parts need them.
        """
        return Family(
            key=key,
            covers="what mc.author.suggest was shown",
            rules=tuple(s.rule for s in self.suggested),
            sizes=dict(self.sizes),
            toy=dict(self.config or {}),
            source="mc.author.suggest",
        )

    @property
    def counts(self) -> dict[str, int]:
        """Rules by confidence."""
        found = Counter(s.confidence for s in self.suggested)
        return {confidence: found[confidence] for confidence in (CERTAIN, LIKELY, GUESS)}

    def table(self) -> Table:
        left = len(self.unmatched_hf) + len(self.unmatched_mf)
        counts = ", ".join(f"{n:,} {confidence}" for confidence, n in self.counts.items() if n) or "nothing in common"
        verdict = "! Some names are left over." if left else "✓ Every name has a rule."
        by = "decided by the numbers of both sides" if self.decided else "from names and shapes: a guess is to be checked"
        facts = [by, *self.notes]
        for side, names in ((SIDE_NAMES[HF], self.unmatched_hf), (SIDE_NAMES[MF], self.unmatched_mf)):
            facts += [f"unmatched on the {side} side: {text}" for text in folded_names(names)[:12]]
        columns = (
            Column("hf"),
            Column("mf"),
            Column("layout"),
            Column("confidence"),
            Column("reason", optional=True),
            Column("status", optional=True),
        )
        rows = [(s.hf, s.mf, s.layout, s.confidence, s.reason, s.status) for s in self.suggested]
        headline = f"{how_many(len(self.suggested), 'rule')}: {counts}"
        return Table(verdict, headline, columns, rows, tuple(facts), code='mc.map(hf, _.family("mine"))', row_noun="rules")


def suggestion_of(hf: Checkpoint, mf: Checkpoint) -> Suggestion:
    """Draft the rules that carry ``hf`` to the names and shapes of ``mf``."""
    config = hf.config or mf.config
    facts = facts_of(config)
    sides = align_layers(groups_of(hf.specs), groups_of(mf.specs))
    drafting, notes = _pair_sides(hf, mf, sides, Answers(facts, numbers_of(hf, mf)))
    spelled = spell(drafting.pairings, facts)
    rules = [Suggested(rule, p.reason, p.confidence) for p, rule in zip(drafting.pairings, spelled.rules, strict=True)]
    dropped = [g for g in drafting.hf if any(buffer in g.template for buffer in BUFFERS)]
    rules += [_suggest_drop(g, spelled) for g in dropped]
    rules = [replace(each, rule=sides.with_layer_axes(each.rule, spelled.sizes, facts)) for each in rules]
    known = {s.name for p in drafting.pairings for g in (*p.hf, *p.mf) for s in g.specs.values()}
    known_hf = known | {s.name for g in dropped for s in g.specs.values()}
    return Suggestion(
        tuple(rules),
        tuple(s.name for s in hf.specs if s.name not in known_hf),
        tuple(s.name for s in mf.specs if s.name not in known),
        spelled.sizes,
        drafting.answers.numbers is not None,
        notes,
        config,
    )


def _suggest_drop(group: Group, spelled: Spelled) -> Suggested:
    """A rule for a tensor that only the Hugging Face side has: of a layer that is known, or a buffer by its name."""
    pattern = group.pattern([spelled.loop_name(group, n) for n in range(group.loops)])
    why = why_dropped(group)
    if why is None:
        return Suggested(Drop(pattern, "a buffer, by its name"), "a constant that models compute, by its name", GUESS)
    return Suggested(Drop(pattern, why), why, LIKELY)


def _pair_sides(hf: Checkpoint, mf: Checkpoint, sides: Aligned, answers: Answers) -> tuple[Drafting, tuple[str, ...]]:
    """Pair the groups of both sides, with notes; by names and shapes alone if there are numbers and they explain too little."""

    def pair_by(answers: Answers) -> Drafting:
        drafting = Drafting(answers, list(sides.hf), list(sides.mf), (max(1.0, float(len(hf))), max(1.0, float(len(mf)))))
        drafting.pairings = drafting.pair_all()
        return drafting

    drafting = pair_by(answers)
    equal = sum(len(p.mf) for p in drafting.pairings if p.equal or p.confidence == CERTAIN)
    if answers.numbers is None or equal >= LEAST_SHARE * len(sides.mf):
        return drafting, notes_on_counting(drafting.hf, drafting.mf)
    by_names = pair_by(replace(answers, numbers=None))
    notes = notes_on_counting(by_names.hf, by_names.mf)
    return by_names, (OTHER_NUMBERS, *notes) if by_names.pairings else notes
