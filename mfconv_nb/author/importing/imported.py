"""The result of an import: drafted rules, each with the line it was made from, and findings about the other tool's rules. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mfconv_nb.author.importing.reader_faults import ReaderFault
from mfconv_nb.core.errors import to_one_line
from mfconv_nb.core.folding import folded_names
from mfconv_nb.core.report import Column, Result, Table, how_many, json_text
from mfconv_nb.mapping.rules import Family, Rule

# the kinds of findings
OVERLAPS = "overlaps another"
NEVER_MATCHES = "never matches"
SHADOWED = "shadowed by an earlier one"
NO_WAY_BACK = "cannot be inverted"
NOT_ANCHORED = "not anchored"
NOT_IDEMPOTENT = "not idempotent"
NO_ORDER = "has no order"
NOT_UNDERSTOOD = "not understood"
NEEDS_NAMES = "needs names"

Shapes = Mapping[str, tuple[int, ...]]  # shapes of the given names, by names with {} for each number between dots

MOST_TOLD = 40  # findings in the printed result; ``findings`` has all of them


@dataclass(frozen=True, slots=True)
class Finding:
    """What the lint says about one rule of the other tool.

    Attributes:
        kind: one of the words above.
        rule: the rule, as it is written there.
        line: the line it begins in; 0 where there is no text.
        why: what is wrong with it.
    """

    kind: str
    rule: str
    line: int
    why: str

    def __str__(self) -> str:
        where = f"line {self.line}, " if self.line else ""
        return to_one_line(f"{where}{self.rule}: {self.kind}: {self.why}")


class Theirs(Protocol):
    """A rule of the other tool; its ``str`` is how it is written there."""

    @property
    def line(self) -> int: ...


def finding_of(kind: str, theirs: Theirs, why: str) -> Finding:
    """A finding about one rule of the other tool."""
    return Finding(kind, str(theirs), theirs.line, why)


@dataclass(frozen=True, slots=True)
class Drafted:
    """One drafted rule, and the rule of the other tool that it was made from."""

    rule: Rule
    theirs: str

    def __str__(self) -> str:
        return self.theirs

    @property
    def line(self) -> int:
        return self.rule.written_at[1]

    @property
    def hf(self) -> str:
        return _names_text(self.rule.hf)

    @property
    def mf(self) -> str:
        return _names_text(self.rule.mf)

    @property
    def layout(self) -> str:
        return self.rule.layout or ""


def _names_text(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


@dataclass(slots=True)
class Drafts:
    """Drafts and findings while a source is read, and notes about its format."""

    drafted: list[Drafted] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    faults: tuple[ReaderFault, ...] = ()

    def add(self, each: Drafted | Finding) -> None:
        if isinstance(each, Drafted):
            self.drafted.append(each)
        else:
            self.findings.append(each)


@dataclass(frozen=True, repr=False)
class ImportedRules(Result):
    """Rules of another tool as drafts, and what a lint finds in them.

    Attributes:
        form: the format they were in, such as "weight_converters".
        source: the file, the model type, or "the text".
        drafted: the rules, in their order; ``rule.written_at`` is the file and the line.
        findings: what is wrong with the other tool's rules. A rule with a finding may still be drafted: the draft matches whole names.
        sizes: for each axis of a layout where its size stands in config.json.
        notes: sentences about the format.
        unmatched: those of the given names that no drafted rule takes.
        faults: what MindFormers' reader would do wrong with the files that the names are from, by this `weight_converters` list.
    """

    form: str
    source: str
    drafted: tuple[Drafted, ...]
    findings: tuple[Finding, ...]
    sizes: Mapping[str, str]
    notes: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    faults: tuple[ReaderFault, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The drafted rules alone."""
        return tuple(d.rule for d in self.drafted)

    @property
    def clean(self) -> bool:
        """Whether the lint found nothing."""
        return not self.findings and not self.faults

    def family(self, key: str) -> Family:
        """The drafts as a family of its own: ``mc.map(checkpoint, imported.family("mine"))``."""
        return Family(
            key=key,
            covers=f"rules imported from {self.form}",
            rules=self.rules,
            sizes=dict(self.sizes),
            toy=dict(self.config or {}),
            source=to_one_line(Path(self.source).name),  # a file may be given to others: no path of this machine
        )

    def table(self) -> Table:
        by_kind = Counter(f.kind for f in self.findings)
        said = "; ".join(f"{n:,} {kind}" for kind, n in by_kind.items())
        facts = [*self.notes, *(str(f) for f in self.findings[:MOST_TOLD])]
        if len(self.findings) > MOST_TOLD:
            facts.append(f"and {how_many(len(self.findings) - MOST_TOLD, 'more finding')}: .findings")
        facts += [f"MindFormers' reader: {fault}" for fault in self.faults[:MOST_TOLD]]
        if len(self.faults) > MOST_TOLD:
            facts.append(f"and {how_many(len(self.faults) - MOST_TOLD, 'more fault')} of their reader: .faults")
        facts += [f"no rule of theirs takes {text}" for text in folded_names(self.unmatched)[:12]]
        columns = (Column("line", numeric=True), Column("hf"), Column("mf"), Column("layout"), Column("from", optional=True))
        rows = [(d.line or "", d.hf, d.mf, d.layout, d.theirs) for d in self.drafted]
        headline = f"{how_many(len(self.drafted), 'rule')} from {self.form}" + (f"; {said}" if said else "")
        verdict = "✓ Nothing to object to." if self.clean else f"! {', '.join(self._counts())}."
        return Table(verdict, headline, columns, rows, tuple(facts), code='mc.map(hf, _.family("mine"))', row_noun="rules")

    def _counts(self) -> list[str]:
        findings = [how_many(len(self.findings), "finding")] if self.findings else []
        return findings + ([f"{how_many(len(self.faults), 'fault')} of MindFormers' reader"] if self.faults else [])

    def to_json(self) -> str:
        """Headline, rules, findings and faults as JSON."""
        content = json.loads(super().to_json())
        content["findings"] = [{"kind": f.kind, "rule": f.rule, "line": f.line, "why": f.why} for f in self.findings]
        content["faults"] = [
            {"kind": f.kind, "tensor": f.tensor, "count": f.count, "file": f.file, "does": f.does, "hint": f.hint} for f in self.faults
        ]
        return json_text(content)
