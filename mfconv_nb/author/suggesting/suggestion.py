"""suggest: draft the rules of an architecture that nobody mapped, each with its reason and a confidence.

Where both sides hold the numbers of the same model, they decide: bytes that are equal in the first layer and in the last, and that no
other known rule makes, make a rule certain. Where there are names and shapes only, a rule is likely or a guess. Reads no known family,
only how MindSpore's cells call their tensors; and no language model is asked.

Refuses: nothing; what finds no partner is listed as unmatched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.author.axes import Facts, facts_of
from mfconv_nb.author.suggesting.aligning import Aligned, aligned
from mfconv_nb.author.suggesting.cells import why_dropped
from mfconv_nb.author.suggesting.drafting import CERTAIN, GUESS, LIKELY, Drafting
from mfconv_nb.author.suggesting.evidence import Evidence, evidence_of
from mfconv_nb.author.suggesting.groups import Group, groups_of
from mfconv_nb.author.suggesting.questions import counted_otherwise
from mfconv_nb.author.suggesting.spelling import Spelled, spell
from mfconv_nb.author.suggesting.words import BUFFERS
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, Checkpoint
from mfconv_nb.core.folding import folded_names
from mfconv_nb.core.report import Column, Result, Table, how_many
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Repeated, Tied

LEAST_SHARE = 0.5  # of the groups that the numbers must explain, or they are of another model and are not asked
OTHER_NUMBERS = "Both sides have numbers, but, as far as they were compared, not those of the same model: they were not asked."
RULE, COPIES, TIED, DROPPED = "rule", "copies", "tied", "dropped"


@dataclass(frozen=True, slots=True)
class Suggested:
    """One suggested rule, why it was suggested, and how sure that is: "certain" by equal bytes, "likely", or a "guess"."""

    rule: AnyRule
    reason: str
    confidence: str

    @property
    def status(self) -> str:
        return {Repeated: COPIES, Tied: TIED, Drop: DROPPED}.get(type(self.rule), RULE)

    @property
    def hf(self) -> str:
        """The Hugging Face side of the rule, as text."""
        return self.rule.pattern if isinstance(self.rule, Drop) else _text(self.rule.hf)

    @property
    def mf(self) -> str:
        """The MindFormers side of the rule, as text; empty where it has none."""
        return "" if isinstance(self.rule, Drop) else _text(self.rule.mf)

    @property
    def layout(self) -> str:
        return "" if isinstance(self.rule, Drop) else self.rule.layout or ""


def _text(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


@dataclass(frozen=True, repr=False)
class Suggestion(Result):
    """Drafted rules, and what they leave over.

    Attributes:
        suggested: the rules, in the order of the Hugging Face side.
        unmatched_hf, unmatched_mf: names that no rule knows.
        sizes: for every axis and loop the sentence that reads it from config.json, or its number.
        decided: whether numbers were asked.
        notes: sentences a reader should see.
        config: the config the sizes are from.
    """

    suggested: tuple[Suggested, ...]
    unmatched_hf: tuple[str, ...]
    unmatched_mf: tuple[str, ...]
    sizes: Mapping[str, str]
    decided: bool
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None

    def family(self, key: str) -> Family:
        """The rules as a family of its own: ``mc.map(checkpoint, suggestion.family("mine"))``.

        Sizes are read from the config of what is mapped. Where none was there to suggest from, they are the numbers that were seen:
        ``config={}`` makes ``map`` use them, which a padded vocabulary, a tied head and a way back into unequal parts need.
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
        said = ", ".join(f"{n:,} {confidence}" for confidence, n in self.counts.items() if n) or "nothing in common"
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
        headline = f"{how_many(len(self.suggested), 'rule')}: {said}"
        return Table(verdict, headline, columns, rows, tuple(facts), code='mc.map(hf, _.family("mine"))', row_noun="rules")


def suggestion_of(hf: Checkpoint, mf: Checkpoint) -> Suggestion:
    """Draft the rules that carry ``hf`` to the names and shapes of ``mf``."""
    config = hf.config or mf.config
    facts, evidence = facts_of(config), evidence_of(hf, mf)
    sides = aligned(groups_of(hf.specs), groups_of(mf.specs))
    drafting, notes = _drafted(hf, mf, sides, facts, evidence)
    spelled = spell(drafting.drafts, facts)
    rules = [Suggested(rule, d.reason, d.confidence) for d, rule in zip(drafting.drafts, spelled.rules, strict=True)]
    dropped = [g for g in drafting.hf if any(word in g.template for word in BUFFERS)]
    rules += [_dropped(g, _pattern(g, spelled)) for g in dropped]
    rules = [replace(each, rule=sides.named(each.rule, spelled.sizes, facts)) for each in rules]
    known = {s.name for d in drafting.drafts for g in (*d.hf, *d.mf) for s in g.specs.values()}
    known_hf = known | {s.name for g in dropped for s in g.specs.values()}
    return Suggestion(
        tuple(rules),
        tuple(s.name for s in hf.specs if s.name not in known_hf),
        tuple(s.name for s in mf.specs if s.name not in known),
        spelled.sizes,
        drafting.evidence is not None,
        notes,
        config,
    )


def _dropped(group: Group, pattern: str) -> Suggested:
    """A tensor that only one side has: of a layer that is known, or a buffer by its name."""
    why = why_dropped(group)
    if why is None:
        return Suggested(Drop(pattern, "a buffer, by its name"), "a constant that models compute, by its name", GUESS)
    return Suggested(Drop(pattern, why), why, LIKELY)


def _pattern(group: Group, spelled: Spelled) -> str:
    """A dropped group's pattern: a loop that others have keeps its name."""
    return group.pattern([spelled.loop_name(group, n) for n in range(group.loops)])


def _drafted(hf: Checkpoint, mf: Checkpoint, sides: Aligned, facts: Facts, evidence: Evidence | None) -> tuple[Drafting, tuple[str, ...]]:
    """The drafts; where numbers were asked and explain too little, those of names and shapes alone."""
    there, here = sides.hf, sides.mf
    spans = (max(1.0, float(len(hf))), max(1.0, float(len(mf))))
    drafting = Drafting(facts, evidence, list(there), list(here), spans)
    drafting.drafts = drafting.all()
    equal = sum(len(d.mf) for d in drafting.drafts if d.equal or d.confidence == CERTAIN)
    if evidence is None or equal >= LEAST_SHARE * len(here):
        return drafting, counted_otherwise(drafting.hf, drafting.mf)
    again = Drafting(facts, None, list(there), list(here), spans)
    again.drafts = again.all()
    notes = counted_otherwise(again.hf, again.mf)
    return again, (OTHER_NUMBERS, *notes) if again.drafts else notes
