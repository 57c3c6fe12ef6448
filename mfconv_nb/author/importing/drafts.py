"""From a text with rules of another tool to ``ImportedRules``: finds the list, lets the module of its format draft it, checks the drafts.

No two drafts may take or make the same name, and each must be valid as a rule of a family. One that is not is left out, with a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.author.importing.imported import (
    NEVER_MATCHES,
    NO_WAY_BACK,
    NOT_UNDERSTOOD,
    OVERLAPS,
    Drafts,
    ImportedRules,
    finding_of,
)
from mfconv_nb.author.importing.names import group_by_template, mark_optional_rules, names_taken_by, with_distinct_loops
from mfconv_nb.author.importing.reader_faults import Stored
from mfconv_nb.author.importing.rule_texts import MOST_RULES, Listed, lists_in, parse_text, unreadable
from mfconv_nb.author.importing.sizes import sizes_for
from mfconv_nb.author.importing.transformers_rules import KINDS, Transform, draft_transforms, transforms_of
from mfconv_nb.author.importing.troubleshooter import draft_weight_map, is_weight_map
from mfconv_nb.author.importing.weight_converters import OPERATIONS, accepted_by_others, draft_converters
from mfconv_nb.author.importing.weight_mapping import draft_mapping, replacements_in
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import UsageError, did_you_mean, quote
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.flaws import Flaw, early_flaws_of, flaws_of, overlaps
from mfconv_nb.mapping.rules import Family, Rule

CONVERTERS, MAPPING, TRANSFORMERS, TROUBLESHOOTER = "weight_converters", "weight_mapping", "transformers", "troubleshooter"
FORMS = (CONVERTERS, MAPPING, TRANSFORMERS, TROUBLESHOOTER)
HINT_NAMES = "Give the names of a checkpoint: --names CHECKPOINT, or names=... in Python (a path, a checkpoint, or a list of names)."
MOST_DRAFTS = 5_000


@dataclass(frozen=True)
class Context:
    """What a caller gave beside the rules: names, their shapes as far as known, a config, and what the files of a folder hold."""

    names: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] | None = None
    config: Mapping[str, Any] | None = None
    stored: tuple[Stored, ...] = ()

    @property
    def folded_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by names with ``{}`` for each number between dots."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in (self.shapes or {}).items():
            found.setdefault(".".join("{}" if part.isdigit() else part for part in name.split(".")), shape)
            found.setdefault(name, shape)
        return found


def rules_in_text(text: str, where: str, form: str | None, given: Context) -> ImportedRules:
    """The rules that a text holds.

    Args:
        where: the name of the text in messages.
        form: one of ``FORMS``; left out, the content decides.
    Raises:
        MappingError: MFC315 for a text that cannot be read, or that holds no such rules.
        UsageError: MFC501 for `weight_mapping` without names.
    """
    check_form(form)
    if form == TROUBLESHOOTER or (form is None and is_weight_map(text)):
        return _imported_rules(TROUBLESHOOTER, where, draft_weight_map(text, where), given)
    tree = parse_text(text, where)
    lists = {
        CONVERTERS: lists_in(tree, frozenset({CONVERTERS}), frozenset(OPERATIONS)),
        MAPPING: lists_in(tree, frozenset({MAPPING}), frozenset()),
        TRANSFORMERS: lists_in(tree, frozenset(), KINDS),
    }
    chosen = form or _recognise_form(lists, where)
    listed = _choose_list(lists[chosen], chosen, where)
    found = _draft_rules(listed, chosen, where, given)
    others = [other for other in (CONVERTERS, MAPPING) if form is None and other != chosen and _lists_named(lists[other], other)]
    found.notes += tuple(f"The text holds a {other} too: form={other!r} (--form {other}) reads it." for other in others)
    return _imported_rules(chosen, where, found, given)


def rules_in_pairs(pairs: Sequence[tuple[int, Any]], *, is_set: bool, given: Context) -> ImportedRules:
    """The rules of a list of pairs that a caller gives in Python."""
    listed = Listed(MAPPING, "", 0, is_set, tuple(pairs)[: MOST_RULES + 1])
    return _imported_rules(MAPPING, "the list", _draft_rules(listed, MAPPING, "the list", given), given)


def rules_of_transforms(transforms: Sequence[Transform], where: str, given: Context) -> ImportedRules:
    """The rules of transforms that were read already."""
    found = Drafts()
    for transform in transforms:
        if transform.kind not in KINDS:
            found.add(finding_of(NOT_UNDERSTOOD, transform, f"a {transform.kind}, which is not known"))
    draft_transforms([t for t in transforms if t.kind in KINDS], given.names, given.folded_shapes, where, found)
    return _imported_rules(TRANSFORMERS, where, found, given)


def check_form(form: str | None) -> None:
    """Raises UsageError (MFC501) for an unknown form."""
    if form is not None and form not in FORMS:
        hint = did_you_mean(str(form), FORMS) or "Leave --form out (form= in Python): the text says whose rules they are."
        raise UsageError("MFC501", "form", found=quote(str(form)), expected=f"one of {', '.join(FORMS)}", hint=hint)


# ---- which list -----------------------------------------------------------------------------------------------------------------


def _lists_named(lists: Iterable[Listed], name: str) -> list[Listed]:
    return [listed for listed in lists if listed.name == name]


def _recognise_form(lists: Mapping[str, Sequence[Listed]], where: str) -> str:
    """The format of a text: from the name of a list, else from the calls in one, else from pairs that stand alone."""
    for form in (CONVERTERS, MAPPING):
        if _lists_named(lists[form], form):
            return form
    for form, calls in ((CONVERTERS, frozenset(OPERATIONS)), (TRANSFORMERS, KINDS)):
        if any(listed.called & calls for listed in lists[form]):
            return form
    elements = [element for listed in lists[MAPPING] for _, element in listed.elements]
    if any(isinstance(each, list) and len(each) == 2 and all(isinstance(text, str) for text in each) for each in elements):
        return MAPPING
    expected = "a weight_converters list, a weight_mapping list, a list of WeightRenaming and WeightConverter, or a weight map"
    raise unreadable(where, "none of these", expected, "A file of a model's rules, such as MindFormers' models/qwen3/utils.py.")


def _choose_list(lists: Sequence[Listed], form: str, where: str) -> Listed:
    """The one list of a format: the list with its name, else the only list with elements."""
    candidates = _lists_named(lists, form) or [listed for listed in lists if listed.elements]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise unreadable(where, f"no {form}", f"a list of {form}")
    places = "; ".join(f"line {each.line}{f' in {each.scope}' if each.scope else ''}" for each in candidates[:5])
    raise unreadable(where, f"{len(candidates)} lists: {places}", "one", "Give the text of one of them.")


def _draft_rules(listed: Listed, form: str, where: str, given: Context) -> Drafts:
    """The drafts of a list, made by the module of its format."""
    if len(listed.elements) > MOST_RULES:
        raise unreadable(where, "a list of very many rules", f"at most {MOST_RULES:,}")
    if form == CONVERTERS:
        return draft_converters(listed, where, given.folded_shapes, given.config, given.stored)
    found = Drafts()
    if form == TRANSFORMERS:
        draft_transforms(transforms_of(listed, found), given.names, given.folded_shapes, where, found)
        return found
    replaces = replacements_in(listed, found)
    if not given.names:
        pairs = f"{how_many(len(replaces), 'pair')} replaced one after the other"
        raise UsageError("MFC501", "names", found=pairs, expected="names that they are applied to", hint=HINT_NAMES)
    draft_mapping(replaces, given.names, where, found, is_set=listed.is_set)
    return found


# ---- what drafts must be --------------------------------------------------------------------------------------------------------


def _imported_rules(form: str, where: str, found: Drafts, given: Context) -> ImportedRules:
    """The result: the drafts that can stand in one family, and all findings in the order of their lines."""
    if len(found.drafted) > MOST_DRAFTS:
        raise unreadable(where, f"{len(found.drafted):,} rules", f"at most {MOST_DRAFTS:,}")
    _change_rules(found, with_distinct_loops)
    sizes = sizes_for([d.rule for d in found.drafted], None)
    _leave_out_clashes(found, ImportedRules(form, where, tuple(found.drafted), (), sizes).family("draft"))
    if given.names:
        _change_rules(found, lambda rules: mark_optional_rules(rules, given.names))
    unmatched = _compare_with_names(found, form, given) if given.names else ()
    findings = sorted(dict.fromkeys(found.findings), key=lambda finding: finding.line)
    sizes = sizes_for([d.rule for d in found.drafted], given.config)
    return ImportedRules(form, where, tuple(found.drafted), tuple(findings), sizes, found.notes, unmatched, given.config, found.faults)


def _change_rules(found: Drafts, change: Callable[[Sequence[Rule]], Sequence[Rule]]) -> None:
    rules = change([d.rule for d in found.drafted])
    found.drafted = [replace(d, rule=rule) for d, rule in zip(found.drafted, rules, strict=True)]


def _leave_out_clashes(found: Drafts, family: Family) -> None:
    """Keep the drafts that can stand in one family. Of two that take or make the same name only the first stays."""
    _leave_out_flaws(found, early_flaws_of(family))
    for to, kind in ((MF, OVERLAPS), (HF, NO_WAY_BACK)):
        by_rule = {id(d.rule): d for d in found.drafted}
        bad: set[int] = set()
        for (first, one), (second, other) in overlaps(family.with_rules(tuple(d.rule for d in found.drafted)), to):
            if first is second or id(first) in bad or id(second) in bad:
                continue
            bad.add(id(second))
            before = by_rule[id(first)]
            what = f"{'takes' if to == MF else 'makes'} the same names as"
            place = f"line {before.line}" if before.line else before.theirs
            found.add(finding_of(kind, by_rule[id(second)], f"{other.text} {what} {one.text} ({place}); not drafted"))
        found.drafted = [d for d in found.drafted if id(d.rule) not in bad]
    _leave_out_flaws(found, flaws_of(family.with_rules(tuple(d.rule for d in found.drafted))))


def _leave_out_flaws(found: Drafts, flaws: Iterable[Flaw]) -> None:
    """Keep the drafts without a flaw. Rules are compared by value: each form of a family has its own copies."""
    why = {rule: flaw.found for flaw in flaws for rule in flaw.rules}
    found.findings += [finding_of(NOT_UNDERSTOOD, d, f"not drafted: {why[d.rule]}") for d in found.drafted if d.rule in why]
    found.drafted = [d for d in found.drafted if d.rule not in why]


def _compare_with_names(found: Drafts, form: str, given: Context) -> tuple[str, ...]:
    """Names that no draft takes. Adds findings about operations that match no name, or more names than their draft."""
    names = group_by_template(given.names)
    matched: set[str] = set()
    for d in found.drafted:
        own = {name for name, _ in names_taken_by(d.rule, names)}
        matched |= own
        if not own and form == CONVERTERS:
            found.add(finding_of(NEVER_MATCHES, d, f"none of the names that were given ({len(given.names):,})"))
    unmatched = tuple(name for name in given.names if name not in matched)
    if form == CONVERTERS:
        found.findings += accepted_by_others(unmatched, found.drafted)
    return unmatched
