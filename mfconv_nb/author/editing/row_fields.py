"""The fields of the editor in which one row of a draft is changed: kind, names, layout, constants, and what else its kind has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import ipywidgets as W

from mfconv_nb.author.editing.draft_rows import KINDS, MORE, DraftRow, names_text, read_names
from mfconv_nb.author.suggesting.suggestion import COPIES, DROPPED, RULE, TIED
from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES
from mfconv_nb.core.dtypes import DTYPES
from mfconv_nb.mapping.rules import ALL_OR_NONE, ANYWHERE, COUNTING, ONES, ZEROS, Option

KIND_WORDS = {
    RULE: "rule: the same numbers on both sides",
    COPIES: "copies: equal tensors, one on the MindFormers side",
    TIED: "tied: an output head that may be the embedding",
    DROPPED: "dropped: on one side only",
}
LABEL = {"description_width": "72px"}
MOST_LINES = 6  # of a field that grows with its text


class RowFields(W.VBox):
    """The fields of one row. ``show`` fills them; when the user types, ``on_change`` gets the changed row and the name of the field."""

    def __init__(self, options: Iterable[Option], on_change: Callable[[DraftRow, str], None]) -> None:
        self.row: DraftRow | None = None
        self.on_change = on_change
        self.is_filling = False  # the values come from ``show`` and not from the user
        self.kind = W.Dropdown(description="kind", options=[(KIND_WORDS[k], k) for k in KINDS], style=LABEL, layout=auto_width())
        self.hf, self.mf = (_text_area(s, f"the {SIDE_NAMES[s]} name, several with commas; {{layer}} for digits") for s in (HF, MF))
        self.layout_field = text_field("layout", "the same shape on both sides; or (q + k) hidden -> q hidden, k hidden")
        self.sizes = _text_area("constants", "only where the layout needs them: pair = 2", 1)
        dtypes = [("as it is", ""), *((name, name) for name in DTYPES)]
        presence = [("no: expected wherever the config says", ""), (ALL_OR_NONE, ALL_OR_NONE), (ANYWHERE, ANYWHERE)]
        held = [("any numbers", ""), *((numbers, numbers) for numbers in (ZEROS, ONES, COUNTING))]
        self.more: dict[str, Any] = {
            "only_if": text_field("only if", "a name in the sizes that is not 0"),
            "optional": W.Dropdown(description="optional", options=presence, style=LABEL, layout=auto_width()),
            "dtype": W.Dropdown(description="mf dtype", options=dtypes, style=LABEL, layout=auto_width()),
            "may_be": _text_area("may be", "further names of copies that need not be there", 1),
            "same_as": text_field("same as", "the Hugging Face name of the embedding"),
            "why": text_field("why", "a clause: the model computes it from rope_theta"),
            "holds": W.Dropdown(description="holds", options=held, style=LABEL, layout=auto_width()),
        }
        self.options = {option.name: _option_field(option) for option in options if option.values}
        self.parts: dict[str, Any] = {"hf": self.hf, "mf": self.mf, "layout": self.layout_field, "sizes": self.sizes}
        super().__init__([self.kind, *self.parts.values(), *self.more.values(), *self.options.values()])
        self.add_class("mfconv-fields")
        for field in (self.layout_field, self.more["only_if"], self.more["same_as"]):
            field.add_class("mfconv-code")
        for name, field in {"kind": self.kind, **self.parts, **self.more}.items():
            field.observe(lambda change, name=name: self._take_value(name, change["new"]), "value")
        for name, field in self.options.items():
            field.observe(lambda change, name=name: self._take_option(name, change["new"]), "value")

    def show(self, row: DraftRow | None) -> None:
        """Fill the fields from a row. Without a row they are empty and disabled."""
        self.row, values = row, row or DraftRow()
        self.is_filling = True
        try:
            self.kind.value = values.kind
            for name, field in self.parts.items():
                field.value = getattr(values, name)
            for name, field in self.more.items():
                value = values.more.get(name, "")
                if isinstance(field, W.Dropdown):
                    _offer(field, str(value), value)
                field.value = names_text(value) if name == "may_be" and value else value or ""
            when = values.more.get("when", {})
            for name, field in self.options.items():
                chosen = (when[name],) if name in when else ()
                _offer(field, f"{name} = {when.get(name)!r}", chosen)
                field.value = chosen
        finally:
            self.is_filling = False
        self._hide_unused(values.kind)
        for field in self.children:
            field.disabled = row is None

    def fit_heights(self) -> None:
        """Make the fields of several lines as high as their text."""
        for field in (self.hf, self.mf, self.sizes):
            field.rows = min(MOST_LINES, 1 + field.value.count("\n"))

    def _take_value(self, name: str, value: Any) -> None:
        if self.is_filling or self.row is None:
            return
        if name in self.more:
            given = read_names(value) if name == "may_be" else value.strip()
            given = (given,) if name == "may_be" and isinstance(given, str) else given
            self._change(_with_more(self.row, name, given), name)
        else:
            self._change(replace(self.row, note="", **{name: value}), name)  # no longer the row that was suggested
        if name == "kind":
            self._hide_unused(value)

    def _take_option(self, name: str, chosen: tuple[Any, ...]) -> None:
        """Take one option's value that the row is for; an empty tuple means every value."""
        if self.is_filling or self.row is None:
            return
        when = {n: v for n, v in self.row.more.get("when", {}).items() if n != name} | ({name: chosen[0]} if chosen else {})
        self._change(_with_more(self.row, "when", when), f"option {name}")

    def _change(self, row: DraftRow, field: str) -> None:
        self.row = row
        self.on_change(row, field)

    def _hide_unused(self, kind: str) -> None:
        for name, field in self.more.items():
            _show(field, name in MORE[kind])
        _show(self.layout_field, kind != DROPPED)
        _show(self.sizes, kind == RULE)


def _with_more(row: DraftRow, name: str, value: Any) -> DraftRow:
    """A row with another value in ``more``; an empty one is left out."""
    rest = {n: v for n, v in row.more.items() if n != name}
    return replace(row, more={**rest, name: value} if value else rest)


def _offer(field: Any, label: str, value: Any) -> None:
    """Add a value to the choices of a field if it is none of them: a family in a file may say anything."""
    if value not in [known for _, known in field.options]:
        field.options = [*field.options, (label, value)]


def auto_width() -> Any:
    return W.Layout(width="auto")  # a new one for each field: fields that share a layout would be hidden together


def text_field(label: str, hint: str, value: str = "") -> Any:
    return W.Text(value=value, description=label, placeholder=hint, continuous_update=True, style=LABEL, layout=auto_width())


def _text_area(label: str, hint: str, rows: int = 2) -> Any:
    return W.Textarea(description=label, placeholder=hint, continuous_update=True, rows=rows, style=LABEL, layout=auto_width())


def _option_field(option: Option) -> Any:
    """A choice of the one value of an option that a row is for, or of every value."""
    choices = [(f"every {option.name}", ()), *((f"{option.name} = {value!r}", (value,)) for value in option.values)]
    return W.Dropdown(description="only for", options=choices, style=LABEL, layout=auto_width())


def _show(widget: Any, visible: bool) -> None:
    widget.layout.display = None if visible else "none"
