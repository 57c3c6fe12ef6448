"""The view of a proof in a notebook: conditions and mistakes. For a mistake it shows the rule before and after, what noticed it, and a
picture of what it would have done; all of this is worked out only when the user chooses the mistake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cached_property
from html import escape
from typing import Any

from mfconv_nb.author.proving.consequences import (
    BY_NAMES,
    BY_NUMBERS,
    BY_SENTENCE,
    BY_SHAPES,
    NOTICED,
    SURVIVED,
    Consequence,
    consequence_of,
    consequence_of_config,
)
from mfconv_nb.author.proving.proof import Caught, ProofReport, Proved
from mfconv_nb.author.proving.proof_pictures import maps_html, misplaced_numbers, pictures_of
from mfconv_nb.author.proving.specimen import Mapped
from mfconv_nb.core.checkpoint import HF, LazyTensor, TensorSpec, checkpoint_of
from mfconv_nb.core.errors import MfconvError, printable
from mfconv_nb.core.report import Column, note_html, prose_html, shape_text
from mfconv_nb.mapping.rules import Family, Names
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.views.exploration import Exploration

HOLDS, FAILS = "holds", "fails"
TOKENS = re.compile(r"[\w{}.]+|\s+|[^\w\s]")
HOW = {
    BY_SENTENCE: "Noticed by the sentence: it no longer fits, and the plan is refused before a byte is read.",
    BY_NAMES: "Noticed by the names: the plan does not cover them, and nothing is written.",
    BY_SHAPES: "Noticed by the shapes: the tensors would have other shapes than the other side expects.",
    BY_NUMBERS: "Noticed by the numbers only: names and shapes are right, and no header could tell.",
    SURVIVED: "Not noticed: on this toy the mistake changes nothing that can be seen.",
}


class ProofExploration(Exploration):
    """One row for each condition, and for each kind of mistake and what noticed it. Members are forms, or single mistakes with forms."""

    def __init__(self, report: ProofReport) -> None:
        self.report = report
        self.conditions = _group_by_key([(p.condition,) for p in report.proved], report.proved)
        self.mistakes = _group_by_key([(c.kind, c.by) for c in report.caught], report.caught)
        lines = [_condition_line(found) for found in self.conditions.values()]
        lines += [_mistake_line(found) for found in self.mistakes.values()]
        columns = (Column("status"), Column("condition, or mistake"), Column("times", True), Column("seen", optional=True))
        self.table = replace(report.table(), columns=columns, rows=lines, row_noun="conditions and kinds of mistakes")
        self.statuses = [str(line[0]) for line in lines]
        by, held = Counter(c.by for c in report.caught), Counter(p.holds for p in report.proved)
        self.counts: Mapping[str, int] = {HOLDS: held[True], FAILS: held[False], **{what: by[what] for what in (*NOTICED, SURVIVED)}}
        self.sort_keys = [list(line) for line in lines]

    @cached_property
    def _members(self) -> list[dict[str, Proved | Caught]]:
        """For each row its conditions or mistakes, by member."""
        named: list[dict[str, Proved | Caught]] = [{p.form: p for p in found} for found in self.conditions.values()]
        return named + [_with_unique_names(found) for found in self.mistakes.values()]

    def members(self, row: int) -> Sequence[str]:
        return list(self._members[row])

    def search_text(self, row: int) -> str:
        whole = [each.what for each in self._members[row].values() if isinstance(each, Caught)]
        return "\n".join([str(self.table.rows[row][1]), *self._members[row], *whole])

    def overview(self) -> str:
        return note_html("Choose a mistake to see the rule, what noticed it, and what it would have done.")

    def inspect(self, row: int, member: str) -> str:
        found = self._members[row][member]
        if isinstance(found, Proved):
            mark = "✓" if found.holds else "✗"
            return f"<div>{mark} {prose_html(found.condition)}</div>{note_html(found.form)}<div>{prose_html(found.seen)}</div>"
        return mistake_html(found, self.report.forms[found.form])

    def code(self, row: int, member: str) -> str:
        return "_.rows()"


def _group_by_key(keys: Sequence[tuple[str, ...]], found: Sequence[Any]) -> dict[tuple[str, ...], list[Any]]:
    groups: dict[tuple[str, ...], list[Any]] = {}
    for key, each in zip(keys, found, strict=True):
        groups.setdefault(key, []).append(each)
    return groups


def _with_unique_names(found: Sequence[Caught]) -> dict[str, Proved | Caught]:
    """Mistakes by what they change and in which form; equal names get a number."""
    named: dict[str, Proved | Caught] = {}
    for caught in found:
        short = f"{_short(caught.what)} · {caught.form}"
        name, number = short, 1
        while name in named:
            number += 1
            name = f"{short} ({number})"
        named[name] = caught
    return named


def _short(what: str) -> str:
    """Two names without the beginning that they share: ``…w1.weight and …w3.weight``."""
    first, joined, second = what.partition(" and ")
    a, b = first.split("."), second.split(".")
    shared = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
    return f"…{'.'.join(a[shared:])} and …{'.'.join(b[shared:])}" if joined and shared else what


def _condition_line(found: Sequence[Proved]) -> tuple[str, str, int, str]:
    bad = [p for p in found if not p.holds]
    return FAILS if bad else HOLDS, found[0].condition, len(found), (bad or found)[0].seen


def _mistake_line(found: Sequence[Caught]) -> tuple[str, str, int, str]:
    return found[0].by, found[0].kind, len(found), found[0].what


# ---- one mistake -------------------------------------------------------------------------------------------------------


def mistake_html(caught: Caught, form: Family) -> str:
    """A mistake as HTML: the rule before and after, what noticed it, the message, and the pictures."""
    consequence = _consequence(caught, form)
    return "".join(
        [
            f"<div>{prose_html(caught.kind)} · <span class='mfconv-f'>{prose_html(caught.form)}</span></div>",
            *_rules_html(caught, consequence),
            f"<div>{prose_html(HOW[caught.by])}</div>",
            *_messages_html(consequence),
            *_pictures_html(consequence),
        ]
    )


def _consequence(caught: Caught, form: Family) -> Consequence:
    if caught.mutation is not None:
        return consequence_of(form, caught.mutation)
    assert caught.config is not None
    return consequence_of_config(form, caught.config)


def _rules_html(caught: Caught, consequence: Consequence) -> Iterator[str]:
    """The rules before and after the mistake, with the differences marked."""
    if caught.mutation is None:
        words = caught.what.split()  # "num_attention_heads 6 as 12"
        before, after = " ".join(words[:-2]), f"{' '.join(words[:-3])} {words[-1]}"
        rows = consequence.right_plan.rows if consequence.right_plan is not None else ()
        rules = dict.fromkeys(_rule_text(row.rule) for row in rows if isinstance(row.rule, Mapped))
        yield f"<div class='mfconv-f'>config.json</div><div><code>{escape(before)}</code></div>"
        yield f"<div class='mfconv-f'>with the mistake</div><div><code>{_mark_differences(before, after)[1]}</code></div>"
        yield from (f"<div class='mfconv-f'>the rule</div>{_lines_html(escape(text))}" for text in rules)
        return
    before = "\n".join(map(_rule_text, caught.mutation.before))
    after = "\n".join(map(_rule_text, caught.mutation.after))
    first, second = _mark_differences(before, after) if after else (escape(printable(before)), "<b class='mfconv-bad'>no rule</b>")
    yield f"<div class='mfconv-f'>the rule</div>{_lines_html(first)}"
    yield f"<div class='mfconv-f'>with the mistake</div>{_lines_html(second)}"


def _rule_text(rule: Mapped) -> str:
    layout = getattr(rule, "layout", None)
    return f"{_names_text(rule.hf)} → {_names_text(rule.mf)}" + (f"\n    {layout}" if layout else "")


def _names_text(names: Names) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def _lines_html(marked: str) -> str:
    return f"<div style='white-space:pre-wrap'><code>{marked}</code></div>"


def _mark_differences(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML, with the words that differ marked."""
    a, b = (TOKENS.findall(printable(text)) for text in (before, after))
    left: list[str] = []
    right: list[str] = []
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, tokens in ((left, a[i:j]), (right, b[k:m])):
            text = escape("".join(tokens))
            side.append(text if kind == "equal" or not text.strip() else f"<b class='mfconv-bad'>{text}</b>")
    return "".join(left), "".join(right)


def _messages_html(consequence: Consequence) -> Iterator[str]:
    """The error of a refused plan, and the names and shapes that are wrong."""
    plan, right, wrong = consequence.wrong_plan, consequence.right, consequence.wrong
    error: MfconvError | None = consequence.refused
    if error is None and plan is not None and plan.problems:
        tensors = [LazyTensor(TensorSpec(n, a.shape, "I64"), ()) for n, a in consequence.there.items()]
        error = CoverageError(plan, checkpoint_of(tensors, origin="the specimen", side=HF))
    if error is not None:
        text = re.sub(r"(?<=\S) {2,}", " ", re.sub(r"\n {3,}", "\n    ", printable(str(error))))  # no columns: the place is narrow
        yield f"<div style='white-space:pre-wrap'><code>{escape(text)}</code></div>"
    if wrong is None:
        return
    lost, more = sorted(right.keys() - wrong.keys()), sorted(wrong.keys() - right.keys())
    for what, names in (("missing", lost), ("unexpected", more)):
        if names:
            yield note_html(f"{what}: {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else ""))
    for name in [n for n in right if n in wrong and right[n].shape != wrong[n].shape][:4]:
        found, expected = shape_text(wrong[name].shape), shape_text(right[name].shape)
        yield f"<div>{prose_html(name)}: <b class='mfconv-bad'>{found}</b>, not {expected}</div>"


def _pictures_html(consequence: Consequence) -> Iterator[str]:
    misplaced = misplaced_numbers(consequence)
    if misplaced is not None and misplaced.wrong:
        yield f"<div>{prose_html(misplaced.sentence)}</div>"
    pictures = pictures_of(consequence)
    if pictures.right is not None:
        yield f"<div class='mfconv-f'>as it is</div>{pictures.right._repr_html_()}"
    if pictures.wrong is not None:
        yield f"<div class='mfconv-f'>as it would have been: a colour is what the numbers really are</div>{pictures.wrong._repr_html_()}"
    elif pictures.right is not None:
        yield note_html("Nothing would have been written: there is no second picture.")
    maps = maps_html(misplaced) if misplaced is not None else ""
    if maps:
        yield f"<div class='mfconv-f'>where the wrong numbers would be</div>{maps}"
