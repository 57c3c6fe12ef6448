"""A judged draft as a table of rows and counts, and as the HTML that the editor shows beside its fields. No widget here."""

from __future__ import annotations

import html
from dataclasses import dataclass

from mfconv_nb.author.editing.draft_rows import Draft, DraftRow, read_names
from mfconv_nb.author.editing.judging import BAD, DOUBT, GOOD, Judgement, RowJudgement, SizeJudgement
from mfconv_nb.author.suggesting.suggestion import RULE
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import Lines, one_line
from mfconv_nb.core.report import Column, Result, Table, how_many, name_html, note_html, prose_html

TONES = {GOOD: "mfconv-good", DOUBT: "mfconv-mid", BAD: "mfconv-bad"}


@dataclass(frozen=True, repr=False)
class DraftReport(Result):
    """A draft and its judgement as a table: this is what a saved notebook keeps of the editor."""

    draft: Draft
    judgement: Judgement

    def table(self) -> Table:
        columns = (
            Column(""),
            Column("row", numeric=True),
            Column("hf"),
            Column("mf"),
            Column("layout"),
            Column("judgement", optional=True),
        )
        rows = [(*cells, judged.words) for cells, judged in zip(cells_of(self.draft, self.judgement), self.judgement.rows, strict=True)]
        verdict = "✓ Every name has a row." if self.judgement.is_complete else "! Not complete."
        headline = f"{how_many(len(rows), 'row')}: {', '.join(text for text, _ in tallies(self.judgement))}"
        return Table(verdict, headline, columns, rows, row_noun="rows")


def cells_of(draft: Draft, judgement: Judgement) -> list[tuple[str, str, str, str, str]]:
    """Mark, number, names and layout of every row."""
    return [
        (judged.mark, str(number), _names_cell(row.hf), _names_cell(row.mf), _layout_cell(row))
        for number, (row, judged) in enumerate(zip(draft.rows, judgement.rows, strict=True), 1)
    ]


def _names_cell(text: str) -> str:
    names = read_names(text)
    lines = (names,) if isinstance(names, str) else names
    return Lines("\n".join([*map(one_line, lines[:4]), *([f"and {len(lines) - 4} more"] if len(lines) > 4 else [])]))


def _layout_cell(row: DraftRow) -> str:
    return row.layout if row.kind == RULE else f"{row.kind}: {row.layout}" if row.layout else row.kind


def tallies(judgement: Judgement) -> list[tuple[str, str]]:
    """The counts above the table, each with its mark."""
    counts = [
        (f"{judgement.matched[HF]:,} hf and {judgement.matched[MF]:,} mf matched", GOOD),
        (f"{judgement.unmatched_count(HF):,} unmatched hf", DOUBT),
        (f"{judgement.unmatched_count(MF):,} unmatched mf", DOUBT),
        (f"{sum(judgement.ambiguous.values()):,} ambiguous", BAD),
        (how_many(judgement.shape_errors, "shape error"), BAD),
    ]
    unreadable = how_many(judgement.unreadable, "faulty row")
    shown = [*counts, *([(unreadable, BAD)] if judgement.unreadable else [])]
    return [(text, "" if text.startswith("0 ") else mark) for text, mark in shown]


def head_of(judgement: Judgement) -> str:
    """The counts, and what is wrong with the family as a whole, as HTML."""
    spans = [f"<span class='mfconv-tally {TONES.get(mark, '')}'>{html.escape(text)}</span>" for text, mark in tallies(judgement)]
    verdict = "<span class='mfconv-v mfconv-good'>✓ Every name has a row.</span> " if judgement.is_complete else ""
    flaws = [note_html(Lines(f"{flaw.found}; expected {flaw.expected}")) for flaw in judgement.flaws]
    return f"<div role='status'>{verdict}{''.join(spans)}</div>{''.join(flaws)}"


def judged_html(row: DraftRow, judged: RowJudgement, place: int) -> str:
    """The judgement of a row, shown under its fields: a caret under the character to blame, and the tensors that do not fit."""
    tone = TONES.get(judged.mark, "")
    head = f"<div role='status'><span class='{tone}'>{judged.mark}</span> row {place + 1}: {prose_html(judged.words)}</div>"
    parts = [head]
    if judged.fault is not None:
        fault = judged.fault
        title = {"": "", "sizes": "constants"}.get(fault.field, fault.field)
        if fault.caret:
            parts.append(f"<pre class='mfconv-caret'>{html.escape(fault.caret)}</pre>")
        about = f"in {title}: " if title else ""
        parts.append(f"<div>{about}expected {prose_html(fault.expected)}</div>")
        parts += [note_html(fault.hint)] if fault.hint else []
    for shape in judged.shapes:
        cells = [("tensor", name_html(shape.tensor)), ("expected", prose_html(shape.expected)), ("found", prose_html(shape.found))]
        body = "".join(f"<tr><th scope='row'>{title}</th><td>{cell}</td></tr>" for title, cell in cells)
        parts.append(f"<table class='mfconv-t'><tbody>{body}</tbody></table>")
        parts += [note_html(shape.hint)] if shape.hint else []
    if judged.shape_count > len(judged.shapes):
        parts.append(note_html(f"and {how_many(judged.shape_count - len(judged.shapes), 'more tensor')}"))
    if row.more.get("when"):
        words = ", ".join(f"{name}={value!r}" for name, value in row.more["when"].items())
        parts.append(note_html(f"only in the form with {words}"))
    parts += [note_html(f"suggested, {row.note}")] if row.note else []
    return "".join(parts)


def sizes_html(sizes: tuple[SizeJudgement, ...]) -> str:
    """The size of each axis here, as a table; empty if there are no sizes."""
    cells = "".join(
        f"<tr><td>{name_html(s.axis)}</td><td class='{TONES.get(s.mark, '') if s.mark != GOOD else ''}'>{prose_html(s.words)}</td></tr>"
        for s in sizes
    )
    head = "<thead><tr><th scope='col'>axis</th><th scope='col'>size here</th></tr></thead>"
    return f"<table class='mfconv-t'>{head}<tbody>{cells}</tbody></table>" if cells else ""
