"""The draft of a family as rows that can be changed: names, layout and sizes as text, and what is true of each row while one types."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as W

from mfconv_nb.author.editing.draft_report import DraftReport, cells_of, head_of, judged_html, sizes_html
from mfconv_nb.author.editing.draft_rows import (
    KINDS,
    MORE,
    Draft,
    DraftRow,
    draft_of,
    draft_of_suggestion,
    family_of,
    names_text,
    read_names,
    rules_of,
)
from mfconv_nb.author.editing.judging import BAD, DOUBT, RowJudgement, Sides, judge
from mfconv_nb.author.editing.row_patterns import pattern_for
from mfconv_nb.author.family_text import write_family
from mfconv_nb.author.suggesting.suggest import Shapes, side_of
from mfconv_nb.author.suggesting.suggestion import COPIES, DROPPED, RULE, TIED, Suggestion
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES
from mfconv_nb.core.dtypes import DTYPES
from mfconv_nb.core.errors import MfconvError, on_one_line, shown
from mfconv_nb.core.folding import folded_name
from mfconv_nb.core.progress import in_notebook
from mfconv_nb.core.report import box_html, how_many, name_html, note_html
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.explain import TARGET, explain_tensor
from mfconv_nb.mapping.plan import MappingPlan
from mfconv_nb.mapping.rules import ALL_OR_NONE, ANYWHERE, Family, Option
from mfconv_nb.steps.loading.load import Loadable
from mfconv_nb.views.explained import drawing_of
from mfconv_nb.views.row_table import RowTable
from mfconv_nb.views.showing import show_both

PAUSE_SECONDS = 0.15  # without a keystroke, before the draft is judged
MOST_NAMES = 12  # kinds of unmatched names of one side that are buttons
MOST_UNDONE = 200
NEW_KEY = "my_model"
KIND_WORDS = {
    RULE: "rule: the same numbers on both sides",
    COPIES: "copies: equal tensors, one on the MindFormers side",
    TIED: "tied: an output head that may be the embedding",
    DROPPED: "dropped: on one side only",
}
LABEL = {"description_width": "72px"}


def edit(
    draft: Suggestion | Family | str | Path | Any,
    hf: Loadable | Shapes,
    mf: Loadable | Shapes | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
) -> RuleEditor:
    """An editor for the rules of a family, on two real sides. Runs in a notebook.

    Args:
        draft: what ``mc.author.suggest`` drafted, a family, its key or its file, or anything else with a ``.family(key)``.
        hf: a checkpoint of the Hugging Face side: anything that ``load`` takes, or names with shapes.
        mf: the same for the MindFormers side, a network among others. Left out: names and shapes of one side only are looked at.
        config: a config.json, its folder, or its content, instead of the one the checkpoint has.
    Returns:
        The editor: ``.family`` is what it says now, ``.save("my_model.py")`` writes it as a file that ``mc.map`` takes.
    """
    there = side_of(hf, HF, config)
    here = None if mf is None else side_of(mf, MF, None)
    told = there.config or (here.config if here is not None else None) or getattr(draft, "config", None)
    return RuleEditor(_draft(draft), Sides(there.specs, here.specs if here is not None else None, told))


def _draft(thing: Any) -> Draft:
    if isinstance(thing, Suggestion):
        return draft_of_suggestion(thing, NEW_KEY)
    family = thing.family(NEW_KEY) if callable(getattr(thing, "family", None)) else family_meant(thing)
    return draft_of(replace(family, file=""))


class RuleEditor(W.VBox):
    """The editor. Its fields are widgets and can be set from Python too: ``editor.layout_field.value = "a b -> b a"``."""

    def __init__(self, draft: Draft, sides: Sides) -> None:
        self.draft, self.sides = draft, sides
        self.place = 0 if draft.rows else -1
        self.undone: list[tuple[Draft, int]] = []  # what Undo goes back to
        self.edited: tuple[int, str] = (-1, "")  # the field that is being typed into: one step for Undo
        self.is_filling = False  # the fields are being filled, and not typed into
        self.waiting: Any = None
        self.judgement = judge(draft, sides)
        self._build()
        self._listen()
        self._fill()
        self._show()

    # ---- what it gives ----

    @property
    def family(self) -> Family:
        """The family that the rows say now.

        Raises:
            MappingError: MFC311 naming the row that cannot be read or cannot be true.
        """
        return family_of(self.draft)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the family as a file that ``mc.map(checkpoint, "my_model.py")`` takes; why a rule was suggested stands above it.

        Raises:
            MappingError: MFC311 as ``family``. OutputError: MFC401, MFC404 or MFC407.
        """
        notes = [row.note for row in self.draft.rows]
        return write_family(replace(self.family, file=""), path, notes=notes, overwrite=overwrite)

    @property
    def report(self) -> DraftReport:
        """The rows and what is said of them, as text, HTML or a DataFrame."""
        return DraftReport(self.draft, self.judgement)

    def _ipython_display_(self) -> None:
        if not in_notebook():
            raise NotImplementedError
        show_both(self.report, self)

    # ---- what is on the screen ----

    def _build(self) -> None:
        self.tally, self.judged, self.drawing, self.sizes_told, self.line, self.saved = (W.HTML() for _ in range(6))
        columns = [
            {"title": title, "numeric": title == "row", "optional": title == "layout"} for title in ("", "row", "hf", "mf", "layout")
        ]
        self.table = RowTable(columns=columns, label="rules", is_sorted=False)
        words = ("Add a rule", "Duplicate", "Delete", "Move up", "Move down", "Undo")
        self.add, self.duplicate, self.delete, self.up, self.down, self.undo = (W.Button(description=w, layout=_wide()) for w in words)
        self.unmatched = W.VBox([])
        self._build_fields()
        family = self.draft.base
        self.key = _text("key", "what --model takes", family.key)
        self.covers = _text("covers", "the models, in words", family.covers)
        self.sizes = W.Textarea(value=self.draft.sizes, rows=min(12, 2 + self.draft.sizes.count("\n")), layout=W.Layout(width="auto"))
        self.sizes.description, self.sizes.style = "sizes", LABEL
        self.sizes.placeholder = "hidden = hidden_size\nlayer = num_hidden_layers"
        self.path = _text("save as", "my_model.py", f"{family.key.replace('-', '_')}.py")
        self.overwrite = W.Checkbox(description="replace what is there", indent=False, layout=_wide())
        self.save_button = W.Button(description="Save", button_style="primary", layout=_wide())
        buttons = W.HBox([self.add, self.duplicate, self.delete, self.up, self.down, self.undo])
        left = W.VBox([self.table])
        right = W.VBox([self.fields, self.judged, self.drawing])
        names = W.VBox([self.unmatched])
        told = W.VBox([self.key, self.covers, self.sizes])
        saving = W.HBox([self.path, self.overwrite, self.save_button])
        body, below = W.HBox([left, right]), W.HBox([told, self.sizes_told])
        styled = ((buttons, "bar"), (saving, "bar"), (body, "body"), (below, "body"), (left, "left"), (right, "right"))
        for box, name in (*styled, (told, "fields"), (self.fields, "fields"), (self.sizes, "code")):
            box.add_class(f"mfconv-{name}")
        told.layout.flex, self.sizes_told.layout.flex, told.layout.min_width = "3 1 340px", "2 1 260px", "0"
        title = W.HTML(box_html("<div class='mfconv-title'>The family</div>"))
        super().__init__([self.tally, buttons, body, names, title, below, saving, self.saved, self.line])
        self.add_class("mfconv-view")
        self.add_class("mfconv-editor")

    def _build_fields(self) -> None:
        self.kind = W.Dropdown(description="kind", options=[(KIND_WORDS[k], k) for k in KINDS], style=LABEL, layout=_wide())
        self.hf, self.mf = (_area(side, f"the {SIDE_NAMES[side]} name, several with commas; {{layer}} for digits") for side in (HF, MF))
        self.layout_field = _text("layout", "the same shape on both sides; or (q + k) hidden -> q hidden, k hidden")
        self.row_sizes = _area("constants", "only where the layout needs them: pair = 2", 1)
        dtypes = [("as it is", ""), *((name, name) for name in DTYPES)]
        self.more: dict[str, Any] = {
            "only_if": _text("only if", "a name in the sizes that is not 0"),
            "optional": W.Dropdown(
                description="optional",
                options=[("no: expected wherever the config says", ""), (ALL_OR_NONE, ALL_OR_NONE), (ANYWHERE, ANYWHERE)],
                style=LABEL,
                layout=_wide(),
            ),
            "dtype": W.Dropdown(description="mf dtype", options=dtypes, style=LABEL, layout=_wide()),
            "may_be": _area("may be", "further names of copies that need not be there", 1),
            "same_as": _text("same as", "the Hugging Face name of the embedding"),
            "why": _text("why", "a clause: the model computes it from rope_theta"),
        }
        self.forms = {option.name: _form_field(option) for option in self.draft.base.options if option.values}
        self.parts: dict[str, Any] = {"hf": self.hf, "mf": self.mf, "layout": self.layout_field, "sizes": self.row_sizes}
        for field in (self.layout_field, self.more["only_if"], self.more["same_as"]):
            field.add_class("mfconv-code")
        self.fields = W.VBox([self.kind, *self.parts.values(), *self.more.values(), *self.forms.values()])

    def _listen(self) -> None:
        self.table.observe(lambda change: self.choose(change["new"]), "picked")
        self.kind.observe(lambda change: self._typed("kind", change["new"]), "value")
        for name, field in {**self.parts, **self.more}.items():
            field.observe(lambda change, name=name: self._typed(name, change["new"]), "value")
        for name, field in self.forms.items():
            field.observe(lambda change, name=name: self._chosen_form(name, change["new"]), "value")
        self.sizes.observe(lambda change: self._typed_family("sizes", change["new"]), "value")
        self.key.observe(lambda change: self._typed_family("key", change["new"]), "value")
        self.covers.observe(lambda change: self._typed_family("covers", change["new"]), "value")
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
            self.place, self.edited = place, (-1, "")
            self._fill()
            self._show_row()

    def _typed(self, name: str, value: Any) -> None:
        if self.is_filling or self.place < 0:
            return
        row = self.draft.rows[self.place]
        if name in self.more:
            more = {n: v for n, v in row.more.items() if n != name}
            given = read_names(value) if name == "may_be" else value.strip()
            given = (given,) if name == "may_be" and isinstance(given, str) else given
            changed = replace(row, more={**more, name: given} if given else more)
        else:
            changed = replace(row, note="", **{name: value})  # it was suggested as it stood
        self._change(self.draft.with_row(self.place, changed), (self.place, name))
        if name == "kind":
            self._show_fields(changed)

    def _chosen_form(self, name: str, chosen: tuple[Any, ...]) -> None:
        """The form that a row is for, by one option: a value of it, or none for every form."""
        if self.is_filling or self.place < 0:
            return
        row = self.draft.rows[self.place]
        when = {n: v for n, v in row.more.get("when", {}).items() if n != name} | ({name: chosen[0]} if chosen else {})
        more = {n: v for n, v in row.more.items() if n != "when"} | ({"when": when} if when else {})
        self._change(self.draft.with_row(self.place, replace(row, more=more)), (self.place, f"option {name}"))

    def _typed_family(self, name: str, value: str) -> None:
        if self.is_filling:
            return
        said: dict[str, Any] = {name: value.strip()}
        changed = replace(self.draft, sizes=value) if name == "sizes" else replace(self.draft, base=replace(self.draft.base, **said))
        self._change(changed, (-2, name))

    def _change(self, draft: Draft, edited: tuple[int, str]) -> None:
        """Take over a draft that was typed; it is judged after a short pause."""
        if edited != self.edited:
            self._remember()
        self.draft, self.edited, self.saved.value = draft, edited, ""
        self._soon()

    def _remember(self) -> None:
        self.undone = [*self.undone[-MOST_UNDONE:], (self.draft, self.place)]

    def _replace_rows(self, rows: tuple[DraftRow, ...], place: int) -> None:
        self._remember()
        self.draft, self.place, self.edited = replace(self.draft, rows=rows), place, (-1, "")
        self._now()

    def _insert(self, row: DraftRow) -> None:
        """A row under the chosen one, ready to be typed into."""
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
            self.edited = (-1, "")
            self._now()

    def take(self, side: str, names: tuple[str, ...]) -> None:
        """Put unmatched names into the chosen row where it has none of that side yet; else into a new row."""
        said: dict[str, Any] = {side: names_text(pattern_for(names, rules_of(self.draft.rows)[0].values()))}
        row = self.draft.rows[self.place] if self.place >= 0 else None
        if row is not None and row.kind != DROPPED and not getattr(row, side).strip():
            rows = self.draft.with_row(self.place, replace(row, **said)).rows
            self._replace_rows(rows, self.place)
        else:
            self._insert(DraftRow(**said))

    # ---- judged ----

    def _soon(self) -> None:
        """Judge when nothing was typed for a moment; at once where nothing runs that could do it later."""
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        try:
            self.waiting = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._judge)
        except RuntimeError:
            self._judge()

    def _now(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
        self._fill()
        self._judge()

    def _judge(self) -> None:
        self.waiting = None
        self.judgement = judge(self.draft, self.sides)
        self._show()

    # ---- shown ----

    def _fill(self) -> None:
        """The fields, from the chosen row and the family."""
        self.is_filling = True
        try:
            row = self.draft.rows[self.place] if self.place >= 0 else DraftRow()
            self.kind.value = row.kind
            for name, field in self.parts.items():
                field.value = getattr(row, name)
            for name, field in self.more.items():
                value = row.more.get(name, "")
                if isinstance(field, W.Dropdown) and value not in [each for _, each in field.options]:
                    field.options = [*field.options, (str(value), value)]
                field.value = names_text(value) if name == "may_be" and value else value or ""
            for name, field in self.forms.items():
                when = row.more.get("when", {})
                chosen = (when[name],) if name in when else ()
                if chosen not in [each for _, each in field.options]:
                    field.options = [*field.options, (f"{name} = {when[name]!r}", chosen)]
                field.value = chosen
            self.sizes.value, self.key.value, self.covers.value = self.draft.sizes, self.draft.base.key, self.draft.base.covers
            self._show_fields(row)
        finally:
            self.is_filling = False

    def _show_fields(self, row: DraftRow) -> None:
        for name, field in self.more.items():
            _show(field, name in MORE[row.kind])
        _show(self.layout_field, row.kind != DROPPED)
        _show(self.row_sizes, row.kind == RULE)
        for field in (self.kind, *self.parts.values(), *self.more.values(), *self.forms.values()):
            field.disabled = self.place < 0

    def _show(self) -> None:
        rows = [[shown(text) for text in cells] for cells in cells_of(self.draft, self.judgement)]
        with self.table.hold_sync():
            self.table.rows = rows
            self.table.picked = self.place
            left = sum(said.mark in (DOUBT, BAD) for said in self.judgement.rows)
            self.table.note = how_many(len(rows), "row") + (f", {left:,} to look at" if left else "")
        self.tally.value = box_html(head_of(self.judgement))
        self._show_unmatched()
        self.sizes_told.value = box_html(sizes_html(self.judgement.sizes))
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
        row, said = self.draft.rows[self.place], self.judgement.rows[self.place]
        for field in (self.hf, self.mf, self.row_sizes):
            field.rows = min(6, 1 + field.value.count("\n"))
        self.judged.value = box_html(judged_html(row, said, self.place))
        self.drawing.value = self._drawing(said)

    def _drawing(self, said: RowJudgement) -> str:
        if said.example is None or not said.example.targets or said.fault is not None:
            return ""
        plan = MappingPlan(self.draft.base, MF, (said.example,), ())
        try:
            return box_html(drawing_of(explain_tensor(plan, said.example.targets[0].name, TARGET))._repr_html_())
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


def _wide() -> Any:
    return W.Layout(width="auto")  # one each: a layout that several fields share hides them all


def _text(label: str, hint: str, value: str = "") -> Any:
    return W.Text(value=value, description=label, placeholder=hint, continuous_update=True, style=LABEL, layout=_wide())


def _area(label: str, hint: str, rows: int = 2) -> Any:
    return W.Textarea(description=label, placeholder=hint, continuous_update=True, rows=rows, style=LABEL, layout=_wide())


def _form_field(option: Option) -> Any:
    """For which values of an option a row is."""
    choices = [(f"every {option.name}", ()), *((f"{option.name} = {value!r}", (value,)) for value in option.values)]
    return W.Dropdown(description="only for", options=choices, style=LABEL, layout=_wide())


def _show(widget: Any, visible: bool) -> None:
    widget.layout.display = None if visible else "none"
