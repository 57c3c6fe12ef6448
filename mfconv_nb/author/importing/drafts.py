"""Rules of other tools as drafts, with a lint: from a text to ``ImportedRules``. One module a form (``import_*.py``); nothing is run.

What the drafts must be is checked here, whatever form they came from: no two of them take or make the same name, and every one can be
true as the rule of a family. A draft that cannot is left away, and that is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.author.importing.imported import NEVER_MATCHES, NO_WAY_BACK, NOT_UNDERSTOOD, OVERLAPS, Drafted, Finding, ImportedRules
from mfconv_nb.author.importing.names import as_seen, by_template, taken_by, told_apart
from mfconv_nb.author.importing.rule_texts import MOST_RULES, Listed, lists_in, parsed, unreadable
from mfconv_nb.author.importing.sizes import sizes_for
from mfconv_nb.author.importing.transformers_rules import KINDS, Transform, drafts_of_transforms, transforms_of
from mfconv_nb.author.importing.troubleshooter import drafts_of_weight_map, is_weight_map
from mfconv_nb.author.importing.weight_converters import OPERATIONS, accepted_by_others, drafts_of_converters
from mfconv_nb.author.importing.weight_mapping import drafts_of_mapping, replaces_of
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import UsageError, did_you_mean, quoted
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.flaws import Flaw, early_flaws_of, flaws_of, overlaps

CONVERTERS, MAPPING, TRANSFORMERS, TROUBLESHOOTER = "weight_converters", "weight_mapping", "transformers", "troubleshooter"
FORMS = (CONVERTERS, MAPPING, TRANSFORMERS, TROUBLESHOOTER)
HINT_NAMES = "Give the names of a checkpoint: --names CHECKPOINT, or names=... in Python (a path, a checkpoint, or a list of names)."
MOST_DRAFTS = 5_000


@dataclass(frozen=True)
class Known:
    """What a caller gave beside the rules: names, the shapes of those that have one, and a config."""

    names: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] | None = None
    config: Mapping[str, Any] | None = None

    @property
    def folded_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by names with ``{}`` for each number between dots."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in (self.shapes or {}).items():
            found.setdefault(".".join("{}" if part.isdigit() else part for part in name.split(".")), shape)
            found.setdefault(name, shape)
        return found


Found = tuple[list[Drafted], list[Finding], tuple[str, ...]]


def rules_in_text(text: str, where: str, form: str | None, known: Known) -> ImportedRules:
    """The rules that a text holds.

    Args:
        where: what the text is called in messages.
        form: one of ``FORMS``; left out, told from the content.
    Raises:
        MappingError: MFC315 for a text that cannot be read, or that holds no such rules.
        UsageError: MFC501 for `weight_mapping` without names.
    """
    check_form(form)
    if form == TROUBLESHOOTER or (form is None and is_weight_map(text)):
        return _checked(TROUBLESHOOTER, where, drafts_of_weight_map(text, where), known)
    tree = parsed(text, where)
    lists = {
        CONVERTERS: lists_in(tree, frozenset({CONVERTERS}), frozenset(OPERATIONS)),
        MAPPING: lists_in(tree, frozenset({MAPPING}), frozenset()),
        TRANSFORMERS: lists_in(tree, frozenset(), KINDS),
    }
    chosen = form or _told(lists, where)
    listed = _the_one(lists[chosen], chosen, where)
    found = _drafted(listed, chosen, where, known)
    others = [other for other in (CONVERTERS, MAPPING) if form is None and other != chosen and _named(lists[other], other)]
    notes = tuple(f"The text holds a {other} too: form={other!r} (--form {other}) reads it." for other in others)
    return _checked(chosen, where, (found[0], found[1], (*found[2], *notes)), known)


def rules_in_pairs(pairs: Sequence[tuple[int, Any]], *, is_set: bool, known: Known) -> ImportedRules:
    """The rules of a list of pairs that a caller holds in Python."""
    listed = Listed(MAPPING, "", 0, is_set, tuple(pairs)[: MOST_RULES + 1])
    return _checked(MAPPING, "the list", _drafted(listed, MAPPING, "the list", known), known)


def rules_of_transforms(transforms: Sequence[Transform], where: str, known: Known) -> ImportedRules:
    """The rules of transforms that were read already."""
    odd = [Finding(NOT_UNDERSTOOD, str(t), t.line, f"a {t.kind}, which is not known") for t in transforms if t.kind not in KINDS]
    drafted, findings, notes = drafts_of_transforms([t for t in transforms if t.kind in KINDS], known.names, known.folded_shapes, where)
    return _checked(TRANSFORMERS, where, (drafted, odd + findings, notes), known)


def check_form(form: str | None) -> None:
    """Raises UsageError (MFC501) for a form that is not known."""
    if form is not None and form not in FORMS:
        hint = did_you_mean(str(form), FORMS) or "Leave --form out (form= in Python): the text says whose rules they are."
        raise UsageError("MFC501", "form", found=quoted(str(form)), expected=f"one of {', '.join(FORMS)}", hint=hint)


# ---- which list -----------------------------------------------------------------------------------------------------------------


def _named(lists: Iterable[Listed], name: str) -> list[Listed]:
    return [listed for listed in lists if listed.name == name]


def _told(lists: Mapping[str, Sequence[Listed]], where: str) -> str:
    """The form of a text: by the name of a list, then by what is called in one, then by pairs that stand alone."""
    for form in (CONVERTERS, MAPPING):
        if _named(lists[form], form):
            return form
    for form, calls in ((CONVERTERS, frozenset(OPERATIONS)), (TRANSFORMERS, KINDS)):
        if any(listed.called & calls for listed in lists[form]):
            return form
    if any(_is_pair(element) for listed in lists[MAPPING] for _, element in listed.elements):
        return MAPPING
    expected = "a weight_converters list, a weight_mapping list, a list of WeightRenaming and WeightConverter, or a weight map"
    raise unreadable(where, "none of these", expected, "A file of a model's rules, such as MindFormers' models/qwen3/utils.py.")


def _is_pair(element: Any) -> bool:
    return isinstance(element, list) and len(element) == 2 and all(isinstance(text, str) for text in element)


def _the_one(lists: Sequence[Listed], form: str, where: str) -> Listed:
    """The list of a form; the one with its name, where there are others."""
    candidates = _named(lists, form) or [listed for listed in lists if listed.elements]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise unreadable(where, f"no {form}", f"a list of {form}")
    told = "; ".join(f"line {each.line}{f' in {each.scope}' if each.scope else ''}" for each in candidates[:5])
    raise unreadable(where, f"{len(candidates)} lists: {told}", "one", "Give the text of one of them.")


def _drafted(listed: Listed, form: str, where: str, known: Known) -> Found:
    if len(listed.elements) > MOST_RULES:
        raise unreadable(where, "a list of very many rules", f"at most {MOST_RULES:,}")
    if form == CONVERTERS:
        return drafts_of_converters(listed, where, known.folded_shapes, known.config)
    if form == TRANSFORMERS:
        transforms, findings = transforms_of(listed)
        drafted, more, notes = drafts_of_transforms(transforms, known.names, known.folded_shapes, where)
        return drafted, [*findings, *more], notes
    replaces, findings = replaces_of(listed)
    if not known.names:
        found = f"{how_many(len(replaces), 'pair')} replaced one after the other"
        raise UsageError("MFC501", "names", found=found, expected="names that they are applied to", hint=HINT_NAMES)
    drafted, more, notes = drafts_of_mapping(replaces, known.names, where, is_set=listed.is_set)
    return drafted, [*findings, *more], notes


# ---- what drafts must be --------------------------------------------------------------------------------------------------------


def _checked(form: str, where: str, found: Found, known: Known) -> ImportedRules:
    drafted, findings, notes = found
    if len(drafted) > MOST_DRAFTS:
        raise unreadable(where, f"{len(drafted):,} rules", f"at most {MOST_DRAFTS:,}")
    config = known.config
    drafted = [replace(d, rule=rule) for d, rule in zip(drafted, told_apart([d.rule for d in drafted]), strict=True)]
    kept, clashes = _without_clashes(drafted, form, where)
    seen = as_seen([d.rule for d in kept], known.names) if known.names else [d.rule for d in kept]
    kept = [replace(d, rule=rule) for d, rule in zip(kept, seen, strict=True)]
    unmatched, more = _against_names(kept, form, known)
    ordered = list(dict.fromkeys([*findings, *clashes, *more]))
    ordered.sort(key=lambda finding: finding.line)
    return ImportedRules(form, where, tuple(kept), tuple(ordered), sizes_for(seen, config), notes, unmatched, config)


def _without_clashes(drafted: Sequence[Drafted], form: str, where: str) -> tuple[list[Drafted], list[Finding]]:
    """Drafts that can stand in one family: of two that take or make one name only the first."""
    sizes = sizes_for([d.rule for d in drafted], None)
    family = ImportedRules(form, where, tuple(drafted), (), sizes).family("draft")
    kept, findings = _without_flaws(list(drafted), early_flaws_of(family))
    for to, kind in ((MF, OVERLAPS), (HF, NO_WAY_BACK)):
        by_rule = {id(d.rule): d for d in kept}
        bad: set[int] = set()
        for (first, one), (second, other) in overlaps(family.with_rules(tuple(d.rule for d in kept)), to):
            if first is second or id(first) in bad or id(second) in bad:
                continue
            bad.add(id(second))
            draft, before = by_rule[id(second)], by_rule[id(first)]
            what = "takes the same names as" if to == MF else "makes the same names as"
            findings.append(Finding(kind, draft.theirs, draft.line, f"{other.text} {what} {one.text} ({_place(before)}); not drafted"))
        kept = [d for d in kept if id(d.rule) not in bad]
    kept, more = _without_flaws(kept, flaws_of(family.with_rules(tuple(d.rule for d in kept))))
    return kept, findings + more


def _without_flaws(drafted: list[Drafted], flaws: Iterable[Flaw]) -> tuple[list[Drafted], list[Finding]]:
    """Drafts without those that a flaw is about; compared by value, for a form of a family has rules of its own."""
    why = {rule: flaw.found for flaw in flaws for rule in flaw.rules}
    findings = [Finding(NOT_UNDERSTOOD, d.theirs, d.line, f"not drafted: {why[d.rule]}") for d in drafted if d.rule in why]
    return [d for d in drafted if d.rule not in why], findings


def _place(draft: Drafted) -> str:
    return f"line {draft.line}" if draft.line else draft.theirs


def _against_names(drafted: Sequence[Drafted], form: str, known: Known) -> tuple[tuple[str, ...], list[Finding]]:
    """Names that no draft takes, and what the names say of theirs: one that matches none, one that takes more than it says."""
    if not known.names:
        return (), []
    names = by_template(known.names)
    findings: list[Finding] = []
    matched: set[str] = set()
    for d in drafted:
        own = {name for name, _ in taken_by(d.rule, names)}
        matched |= own
        if not own and form == CONVERTERS:
            findings.append(Finding(NEVER_MATCHES, d.theirs, d.line, f"none of the names that were given ({len(known.names):,})"))
    unmatched = tuple(name for name in known.names if name not in matched)
    if form == CONVERTERS:
        findings += accepted_by_others(unmatched, drafted)
    return unmatched, findings
