"""An editor for the rules of a family: every rule is a row of text fields, and each row is checked while the user types."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as W

from mfconv_nb.author.editing.draft_report import DraftReport, cells_of, head_of, judged_html, sizes_html
from mfconv_nb.author.editing.draft_rows import Draft, DraftRow, draft_of, draft_of_suggestion, family_of, names_text, rules_of
from mfconv_nb.author.editing.judging import BAD, DOUBT, RowJudgement, Sides, judge
from mfconv_nb.author.editing.row_fields import LABEL, RowFields, auto_width, text_field
from mfconv_nb.author.editing.row_patterns import pattern_for
from mfconv_nb.author.family_text import write_family
from mfconv_nb.author.suggesting.suggest import Shapes, side_of
from mfconv_nb.author.suggesting.suggestion import DROPPED, Suggestion
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES
from mfconv_nb.core.errors import MfconvError, on_one_line, shown
from mfconv_nb.core.folding import folded_name
from mfconv_nb.core.progress import in_notebook
from mfconv_nb.core.report import box_html, how_many, name_html, note_html
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.explain import TARGET, explain_tensor
from mfconv_nb.mapping.plan import MappingPlan
from mfconv_nb.mapping.rules import Family
from mfconv_nb.steps.loading.load import Loadable
from mfconv_nb.views.explained import drawing_of
from mfconv_nb.views.row_table import RowTable
from mfconv_nb.views.showing import show_both

PAUSE_SECONDS = 0.15  # after the last keystroke, before the draft is judged
MOST_NAMES = 12  # buttons for unmatched names of one side
MOST_UNDONE = 200
NEW_KEY = "my_model"


def edit(
    draft: Suggestion | Family | str | Path | Any,
    hf: Loadable | Shapes,
    mf: Loadable | Shapes | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
) -> RuleEditor:
    """An editor for the rules of a family, on two real sides. Runs in a notebook.

    Args:
        draft: a suggestion of ``mc.author.suggest``, a family, its key or its file, or anything else with a ``.family(key)``.
        hf: a checkpoint of the Hugging Face side: anything that ``load`` takes, or names with shapes.
        mf: the same for the MindFormers side, or a network. Without it, rows are checked against the Hugging Face side only.
        config: a config.json, its folder, or its content, in place of the checkpoint's own.
    Returns:
        The editor: ``.family`` is the family as it stands, ``.save("my_model.py")`` writes it as a file that ``mc.map`` takes.
    """
    hf_side = side_of(hf, HF, config)
    mf_side = None if mf is None else side_of(mf, MF, None)
    config_used = hf_side.config or (mf_side.config if mf_side is not None else None) or getattr(draft, "config", None)
    return RuleEditor(_draft_from(draft), Sides(hf_side.specs, mf_side.specs if mf_side is not None else None, config_used))


def _draft_from(thing: Any) -> Draft:
    if isinstance(thing, Suggestion):
        return draft_of_suggestion(thing, NEW_KEY)
    family = thing.family(NEW_KEY) if callable(getattr(thing, "family", None)) else family_meant(thing)
    return draft_of(replace(family, file=""))


class RuleEditor(W.VBox):
    """The editor. Its fields are widgets and can be set from Python too: ``editor.layout_field.value = "a b -> b a"``."""

    def __init__(self, draft: Draft, sides: Sides) -> None:
        self.draft, self.sides = draft, sides
        self.place = 0 if draft.rows else -1  # of the chosen row
        self.undone: list[tuple[Draft, int]] = []  # what Undo goes back to
        self.edited: tuple[int | None, str] | None = None  # row id (None: the family) and field being typed into: one step for Undo
        self.is_filling = False  # the values of the fields come from the draft and not from the user
        self.waiting: Any = None
        self.judgement = judge(draft, sides)
        self._build()
        self._listen()
        self._fill()
        self._show()

    # ---- results ----

    @property
    def family(self) -> Family:
        """The family that the rows describe now.

        Raises:
            MappingError: MFC311 naming the row that cannot be read or cannot be true.
        """
        return family_of(self.draft)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the family as a file that ``mc.map(checkpoint, "my_model.py")`` takes; the note of a suggested rule stands above it.

        Raises:
            MappingError: MFC311 as ``family``. OutputError: MFC401, MFC404 or MFC407.
        """
        notes = [row.note for row in self.draft.rows]
        return write_family(replace(self.family, file=""), path, notes=notes, overwrite=overwrite)

    @property
    def report(self) -> DraftReport:
        """The rows with their judgements, as text, HTML or a DataFrame."""
        return DraftReport(self.draft, self.judgement)

    def _ipython_display_(self) -> None:
        if not in_notebook():
            raise NotImplementedError
        show_both(self.report, self)

    # ---- widgets ----

    def _build(self) -> None:
        self.tally, self.judged, self.drawing, self.size_table, self.line, self.saved = (W.HTML() for _ in range(6))
        titles = ("", "row", "hf", "mf", "layout")
        columns = [{"title": title, "numeric": title == "row", "optional": title == "layout"} for title in titles]
        self.table = RowTable(columns=columns, label="rules", is_sorted=False)
        words = ("Add a rule", "Duplicate", "Delete", "Move up", "Move down", "Undo")
        self.add, self.duplicate, self.delete, self.up, self.down, self.undo = (W.Button(description=w, layout=auto_width()) for w in words)
        self.unmatched = W.VBox([])
        self.fields = fields = RowFields(self.draft.base.options, self._change_row)
        self.kind, self.hf, self.mf, self.more, self.options = fields.kind, fields.hf, fields.mf, fields.more, fields.options
        self.layout_field, self.row_sizes = fields.layout_field, fields.sizes  # these names are for users who set fields from Python
        family = self.draft.base
        self.key = text_field("key", "what --model takes", family.key)
        self.covers = text_field("covers", "the models, in words", family.covers)
        self.sizes = W.Textarea(value=self.draft.sizes, rows=min(12, 2 + self.draft.sizes.count("\n")), layout=W.Layout(width="auto"))
        self.sizes.description, self.sizes.style = "sizes", LABEL
        self.sizes.placeholder = "hidden = hidden_size\nlayer = num_hidden_layers"
        self.path = text_field("save as", "my_model.py", f"{family.key.replace('-', '_')}.py")
        self.overwrite = W.Checkbox(description="replace what is there", indent=False, layout=auto_width())
        self.save_button = W.Button(description="Save", button_style="primary", layout=auto_width())
        buttons = W.HBox([self.add, self.duplicate, self.delete, self.up, self.down, self.undo])
        left = W.VBox([self.table])
        right = W.VBox([self.fields, self.judged, self.drawing])
        names = W.VBox([self.unmatched])
        of_family = W.VBox([self.key, self.covers, self.sizes])
        saving = W.HBox([self.path, self.overwrite, self.save_button])
        body, below = W.HBox([left, right]), W.HBox([of_family, self.size_table])
        styled = ((buttons, "bar"), (saving, "bar"), (body, "body"), (below, "body"), (left, "left"), (right, "right"))
        for box, name in (*styled, (of_family, "fields"), (self.sizes, "code")):
            box.add_class(f"mfconv-{name}")
        of_family.layout.flex, self.size_table.layout.flex, of_family.layout.min_width = "3 1 340px", "2 1 260px", "0"
        title = W.HTML(box_html("<div class='mfconv-title'>The family</div>"))
        super().__init__([self.tally, buttons, body, names, title, below, saving, self.saved, self.line])
        self.add_class("mfconv-view")
        self.add_class("mfconv-editor")

    def _listen(self) -> None:
        self.table.observe(lambda change: self.choose(change["new"]), "picked")
        for name in ("sizes", "key", "covers"):
            getattr(self, name).observe(lambda change, name=name: self._change_family(name, change["new"]), "value")
        self.path.observe(lambda _: self._show_line(), "value")
        self.add.on_click(lambda _: self._insert(DraftRow()))
        self.duplicate.on_click(lambda _: self._insert(self.draft.rows[self.place]))
        self.delete.on_click(lambda _: self._delete())
        self.up.on_click(lambda _: self._move(-1))
        self.down.on_click(lambda _: self._move(1))
        self.undo.on_click(lambda _: self._undo())
        self.save_button.on_click(lambda _: self._save())

    # ---- changes ----

    def choose(self, place: int) -> None:
        """Show a row in the fields."""
        if 0 <= place < len(self.draft.rows) and place != self.place:
            self.place, self.edited = place, None
            self._fill()
            self._show_row()

    def _change_row(self, row: DraftRow, field: str) -> None:
        self._change(self.draft.with_row(self.place, row), (row.id, field))

    def _change_family(self, name: str, value: str) -> None:
        if self.is_filling:
            return
        text: dict[str, Any] = {name: value.strip()}
        changed = replace(self.draft, sizes=value) if name == "sizes" else replace(self.draft, base=replace(self.draft.base, **text))
        self._change(changed, (None, name))

    def _change(self, draft: Draft, edited: tuple[int | None, str]) -> None:
        """Take over a draft that the user typed; judge it after a short pause."""
        if edited != self.edited:
            self._remember()
        self.draft, self.edited, self.saved.value = draft, edited, ""
        self._judge_soon()

    def _remember(self) -> None:
        self.undone = [*self.undone[-MOST_UNDONE:], (self.draft, self.place)]

    def _replace_rows(self, rows: tuple[DraftRow, ...], place: int) -> None:
        self._remember()
        self.draft, self.place, self.edited = replace(self.draft, rows=rows), place, None
        self._show_draft()

    def _insert(self, row: DraftRow) -> None:
        """Insert a row below the chosen one and put the cursor into it."""
        rows, at = self.draft.rows, self.place + 1
        self._replace_rows((*rows[:at], row, *rows[at:]), at)
        (self.mf if row.hf and not row.mf else self.hf).focus()

    def _delete(self) -> None:
        rows, at = self.draft.rows, self.place
        if at >= 0:
            self._replace_rows((*rows[:at], *rows[at + 1 :]), min(at, len(rows) - 2))

    def _move(self, by: int) -> None:
        rows, at, to = list(self.draft.rows), self.place, self.place + by
        if at >= 0 and 0 <= to < len(rows):
            rows[at], rows[to] = rows[to], rows[at]
            self._replace_rows(tuple(rows), to)

    def _undo(self) -> None:
        if self.undone:
            (self.draft, self.place), self.undone = self.undone[-1], self.undone[:-1]
            self.edited = None
            self._show_draft()

    def take(self, side: str, names: tuple[str, ...]) -> None:
        """Put unmatched names into the chosen row if it has none of that side yet; else into a new row."""
        text: dict[str, Any] = {side: names_text(pattern_for(names, rules_of(self.draft.rows)[0].values()))}
        row = self.draft.rows[self.place] if self.place >= 0 else None
        if row is not None and row.kind != DROPPED and not getattr(row, side).strip():
            rows = self.draft.with_row(self.place, replace(row, **text)).rows
            self._replace_rows(rows, self.place)
        else:
            self._insert(DraftRow(**text))

    # ---- judging ----

    def _judge_soon(self) -> None:
        """Judge when the user has typed nothing for a moment; at once if no event loop runs that could do it later."""
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        try:
            self.waiting = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._judge)
        except RuntimeError:
            self._judge()

    def _show_draft(self) -> None:
        """Fill the fields and judge at once: the draft was changed by a button."""
        if self.waiting is not None:
            self.waiting.cancel()
        self._fill()
        self._judge()

    def _judge(self) -> None:
        self.waiting = None
        self.judgement = judge(self.draft, self.sides)
        self._show()

    # ---- showing ----

    def _fill(self) -> None:
        """Fill the fields from the chosen row and the family."""
        self.is_filling = True
        try:
            self.fields.show(self.draft.rows[self.place] if self.place >= 0 else None)
            self.sizes.value, self.key.value, self.covers.value = self.draft.sizes, self.draft.base.key, self.draft.base.covers
        finally:
            self.is_filling = False

    def _show(self) -> None:
        rows = [[shown(text) for text in cells] for cells in cells_of(self.draft, self.judgement)]
        with self.table.hold_sync():
            self.table.rows = rows
            self.table.picked = self.place
            left = sum(row.mark in (DOUBT, BAD) for row in self.judgement.rows)
            self.table.note = how_many(len(rows), "row") + (f", {left:,} to look at" if left else "")
        self.tally.value = box_html(head_of(self.judgement))
        self._show_unmatched()
        self.size_table.value = box_html(sizes_html(self.judgement.sizes))
        self._show_row()
        self._show_line()

    def _show_row(self) -> None:
        rows = len(self.draft.rows)
        for button in (self.duplicate, self.delete):
            button.disabled = self.place < 0
        self.up.disabled, self.down.disabled = self.place <= 0, not 0 <= self.place < rows - 1
        self.undo.disabled = not self.undone
        if not 0 <= self.place < len(self.judgement.rows):
            self.judged.value, self.drawing.value = box_html(note_html("Add a rule, or choose an unmatched name.")), ""
            return
        self.table.picked = self.place
        judged = self.judgement.rows[self.place]
        self.fields.fit_heights()
        self.judged.value = box_html(judged_html(self.draft.rows[self.place], judged, self.place))
        self.drawing.value = self._drawing_html(judged)

    def _drawing_html(self, judged: RowJudgement) -> str:
        """The layout of one instance of the rule; empty if there is none."""
        if judged.example is None or not judged.example.targets or judged.fault is not None:
            return ""
        plan = MappingPlan(self.draft.base, MF, (judged.example,), ())
        try:
            return box_html(drawing_of(explain_tensor(plan, judged.example.targets[0].name, TARGET))._repr_html_())
        except MfconvError:
            return ""

    def _show_unmatched(self) -> None:
        parts: list[Any] = []
        for side in (HF, MF):
            groups = self.judgement.unmatched[side]
            if groups:
                parts.append(
                    W.HTML(box_html(f"<div class='mfconv-title'>Unmatched on the {SIDE_NAMES[side]} side: choose one for a row</div>"))
                )
            for names in groups[:MOST_NAMES]:
                count = f"  ({len(names):,})" if len(names) > 1 else ""
                button = W.Button(description=f"+ {folded_name(names)}{count}", tooltip=f"a row for {on_one_line(names[0])}")
                button.add_class("mfconv-name")
                button.on_click(lambda _, side=side, names=names: self.take(side, names))
                parts.append(button)
            if len(groups) > MOST_NAMES:
                parts.append(W.HTML(box_html(note_html(f"and {how_many(len(groups) - MOST_NAMES, 'more kind')} of names"))))
        self.unmatched.children = parts

    def _show_line(self) -> None:
        path = self.path.value.strip() or f"{NEW_KEY}.py"
        config = ", config={}" if self.sides.config is None and self.draft.sizes.strip() else ""
        code = html.escape(f"mc.map(hf, {path!r}{config})")
        self.line.value = box_html(f"<div class='mfconv-f'><code class='mfconv-copy'>{code}</code></div>")

    def _save(self) -> None:
        """Save from the button: the outcome or the refusal is shown below it."""
        if self.waiting is not None:
            self.waiting.cancel()
            self._judge()
        try:
            file = self.save(self.path.value.strip() or f"{NEW_KEY}.py", overwrite=self.overwrite.value)
        except MfconvError as error:
            self.saved.value = box_html(f"<pre class='mfconv-caret' role='alert'>{html.escape(str(error))}</pre>")
            return
        left = "" if self.judgement.is_complete else " The draft is not complete yet."
        self.saved.value = box_html(f"<div role='status'><span class='mfconv-good'>✓</span> Saved as {name_html(str(file))}.{left}</div>")
