"""One view for every result: verdict and chips above, the table on the left, the chosen row on the right, the line of Python below."""

from __future__ import annotations

import html
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import ipywidgets as W

from mfconv_nb.core.errors import MfconvError, nearest, on_one_line, shown
from mfconv_nb.core.progress import QUIET_SECONDS, OnProgress
from mfconv_nb.core.report import box_html, bytes_text, head_html, note_html
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.row_table import RowTable

PAGE = 100  # rows of the table, or tensors in the list of a row, on a page
EVERY = ""  # the status of the chip "all"
ONE_AT_A_TIME = threading.Lock()  # a cancelled picture may still be drawn when the next one begins


class Explorer(W.VBox):
    """The view of an ``Exploration``. Everything that can be clicked also works with Tab and the keyboard."""

    def __init__(self, exploration: Exploration) -> None:
        self.exploration = exploration
        self.names = [exploration.search_text(row) for row in range(len(exploration.table.rows))]
        self.shown: list[int] = list(range(len(self.names)))  # rows that pass the filters, in order
        self.first = 0  # of the page
        self.row, self.member = -1, ""
        self.measuring: threading.Event | None = None
        self.is_measured = False
        self._build()
        self._show_rows()
        self.inspector.value = box_html(exploration.overview() or note_html("Choose a row to see its tensors."))
        self._show_line()

    # ---- what is on the screen ----

    def _build(self) -> None:
        table = self.exploration.table
        self.head = W.HTML(box_html(head_html(table) + self.exploration.above()))
        self.chips = {status: _chip(status, count) for status, count in self._chip_counts()}
        self.search = W.Text(placeholder="search names, * for any", continuous_update=True, layout=W.Layout(width="210px"))
        titles = [{"title": c.title, "numeric": c.numeric, "optional": c.optional} for c in table.columns]
        self.table = RowTable(columns=titles, label=table.row_noun)
        self.earlier, self.later = (W.Button(description=d, layout=W.Layout(width="auto")) for d in ("← earlier", "later →"))
        self.pages = W.HBox([self.earlier, self.later])
        self.inspector = W.HTML()
        self.list = W.Select(rows=6, layout=W.Layout(width="auto", display="none"))
        self.list_earlier, self.list_later = (W.Button(description=d, layout=W.Layout(width="auto")) for d in ("← earlier", "later →"))
        self.list_pages = W.HBox([self.list_earlier, self.list_later], layout=W.Layout(display="none"))
        self.index = W.Text(placeholder=f"index, as {self.exploration.element_hint}", continuous_update=False)
        self.index.layout = W.Layout(width="210px", display="none")
        self.explained = W.HTML()
        self.measure, self.sample = (W.Button(layout=W.Layout(width="auto", display="none")) for _ in range(2))
        self.cancel = W.Button(description="Cancel", layout=W.Layout(width="auto", display="none"))
        self.bar = W.IntProgress(layout=W.Layout(width="150px", display="none"))
        self.values = W.HTML()
        self.line = W.HTML()
        self._listen()
        bar = W.HBox([*self.chips.values(), self.search])
        left = W.VBox([self.table, self.pages])
        measure = W.HBox([self.measure, self.sample, self.bar, self.cancel])
        right = W.VBox([self.list, self.list_pages, self.inspector, self.index, self.explained, measure, self.values])
        body = W.HBox([left, right])
        for box, name in ((bar, "bar"), (body, "body"), (left, "left"), (right, "right"), (measure, "bar"), (self.pages, "bar")):
            box.add_class(f"mfconv-{name}")
        super().__init__([self.head, bar, body, self.line])
        self.add_class("mfconv-view")

    def _chip_counts(self) -> list[tuple[str, int]]:
        counts = self.exploration.counts
        return [(EVERY, sum(counts.values())), *counts.items()]

    def _listen(self) -> None:
        for status, chip in self.chips.items():
            chip.observe(lambda change, status=status: self._choose_chip(status, change["new"]), "value")
        self.search.observe(lambda _: self._show_rows(), "value")
        self.table.observe(lambda _: self._show_rows(), "sort")
        self.table.observe(lambda change: self._choose_row(change["new"]), "picked")
        self.earlier.on_click(lambda _: self._turn(-PAGE))
        self.later.on_click(lambda _: self._turn(PAGE))
        self.list.observe(lambda change: self._choose_member(change["new"]), "value")
        self.list_earlier.on_click(lambda _: self._turn_list(-PAGE))
        self.list_later.on_click(lambda _: self._turn_list(PAGE))
        self.index.observe(lambda change: self._explain(change["new"]), "value")
        self.measure.on_click(lambda _: self._measure(False))
        self.sample.on_click(lambda _: self._measure(True))
        self.cancel.on_click(lambda _: self._stop())

    # ---- the table ----

    def _choose_chip(self, status: str, on: bool) -> None:
        if on:
            for other, chip in self.chips.items():
                if other != status:
                    chip.value = False
            self._show_rows()
        elif not any(chip.value for chip in self.chips.values()):
            self.chips[EVERY].value = True

    def _show_rows(self) -> None:
        """Show the first page of the rows that pass chip and search, sorted."""
        status = next((s for s, chip in self.chips.items() if chip.value), EVERY)
        pattern = _pattern(self.search.value)
        statuses, rows = self.exploration.statuses, self.exploration.table.rows
        self.shown = [
            n for n in range(len(rows)) if (status in (EVERY, statuses[n])) and (pattern is None or pattern.search(self.names[n]))
        ]
        column = self.table.sort["column"]
        if column >= 0:
            keys = self.exploration.sort_keys
            self.shown.sort(key=lambda n: keys[n][column], reverse=self.table.sort["down"])
        self.first = 0
        self._show_page()

    def _turn(self, by: int) -> None:
        self.first += by
        self._show_page()

    def _show_page(self) -> None:
        table, page = self.exploration.table, self.shown[self.first : self.first + PAGE]
        with self.table.hold_sync():
            self.table.picked = page.index(self.row) if self.row in page else -1
            self.table.rows = [[shown(cell) for cell in table.rows[n]] for n in page]
            self.table.note = self._note(page)
        _show(self.pages, len(self.shown) > PAGE)
        self.earlier.disabled, self.later.disabled = self.first == 0, self.first + PAGE >= len(self.shown)

    def _note(self, page: Sequence[int]) -> str:
        noun, total = self.exploration.table.row_noun, len(self.names)
        if total == 1 and page:
            return "1 row"
        if page:
            which = f"{self.first + 1:,} to {self.first + len(page):,} of " if len(self.shown) > PAGE else ""
            return f"{which}{len(self.shown):,} of {total:,} {noun}" if len(self.shown) < total else f"{which}{total:,} {noun}"
        if not total:
            return f"No {noun}."
        close = nearest(self.search.value, {name: None for text in self.names for name in text.split("\n")[:1]})
        return f"No {noun} here." + (f" Nearest name: {close}" if close and self.search.value else "")

    # ---- what is chosen ----

    def _choose_row(self, place: int) -> None:
        if place < 0 or self.first + place >= len(self.shown) or self.shown[self.first + place] == self.row:
            return
        self.row, self.list_first = self.shown[self.first + place], 0
        self._show_list()

    def _turn_list(self, by: int) -> None:
        self.list_first += by
        self._show_list()

    def _show_list(self) -> None:
        members = self.exploration.members(self.row)
        page = [on_one_line(name) for name in members[self.list_first : self.list_first + PAGE]]
        self.list.options = list(zip(page, range(self.list_first, self.list_first + len(page)), strict=True))
        self.list.rows = min(6, max(2, len(page)))
        _show(self.list, len(members) > 1)
        _show(self.list_pages, len(members) > PAGE)
        self.list_earlier.disabled, self.list_later.disabled = self.list_first == 0, self.list_first + PAGE >= len(members)
        self.list.value = None  # so that the next line notifies, even if number and options are the same
        self.list.value = self.list_first

    def _choose_member(self, number: int | None) -> None:
        if number is None:
            return
        self._stop()
        self.member = self.exploration.members(self.row)[number]
        self.inspector.value = box_html(self.exploration.inspect(self.row, self.member))
        self.values.value, self.is_measured = "", False
        _show(self.index, bool(self.exploration.element_hint))
        self._explain(self.index.value)
        self._show_buttons()
        self._show_line()
        if self.exploration.nbytes(self.member, False) and not self.exploration.nbytes(self.member, True):
            self._measure(False)  # no sample needed: reading takes less time than a click

    def _explain(self, text: str) -> None:
        if not text.strip():
            self.explained.value = ""
            return
        numbers = re.findall(r"-?\d+", text)
        try:
            answer = self.exploration.explain(self.row, self.member, tuple(int(n) for n in numbers))
        except MfconvError as error:
            answer = note_html(str(error))
        self.explained.value = box_html(answer)

    def _show_line(self) -> None:
        line = self.exploration.code(self.row, self.member)
        self.line.value = (
            box_html(f"<div class='mfconv-f'><code class='mfconv-copy'>{html.escape(shown(line))}</code></div>") if line else ""
        )

    # ---- values: read in a thread, so that the view answers and Cancel works ----

    def _measure(self, sample: bool) -> None:
        self._stop()
        self.values.value = ""
        stop, begun, nbytes = threading.Event(), time.monotonic(), self.exploration.nbytes(self.member, sample)
        self.measuring = stop
        self.bar.value, self.bar.max = 0, max(1, nbytes)
        self._show_buttons()

        def progress(done: int) -> None:
            if self.measuring is stop and time.monotonic() - begun > QUIET_SECONDS:
                for widget in (self.bar, self.cancel):
                    _show(widget, True)
                if done - self.bar.value >= nbytes // 50:
                    self.bar.value = done

        threading.Thread(target=self._measure_in_thread, args=(self.member, sample, progress, stop), daemon=True).start()

    def _measure_in_thread(self, member: str, sample: bool, progress: OnProgress, stop: threading.Event) -> None:
        try:
            with ONE_AT_A_TIME:
                shown = self.exploration.measure(member, sample, progress, stop)
        except Exception as error:  # in a thread nobody else would show it
            shown = note_html(str(error))
        if self.measuring is stop:  # the user has not chosen something else meanwhile
            self.measuring, self.is_measured = None, not sample
            self.values.value = box_html(shown)
            self._show_buttons()

    def _stop(self) -> None:
        if self.measuring is not None:
            self.measuring.set()
            self.measuring = None
            self.values.value = box_html(note_html("Cancelled."))
            self._show_buttons()

    def _show_buttons(self) -> None:
        """Offer to read all values or a sample, unless they are shown already or being read."""
        for widget in (self.bar, self.cancel):
            _show(widget, False)
        for button, words, sample in ((self.measure, "Show values", False), (self.sample, "Sample them", True)):
            nbytes = self.exploration.nbytes(self.member, sample)
            button.description = f"{words} ({bytes_text(nbytes)})"
            _show(button, nbytes > 0 and self.measuring is None and not self.is_measured)


def _show(widget: Any, visible: bool) -> None:
    widget.layout.display = None if visible else "none"


def _chip(status: str, count: int) -> Any:
    label = f"{count:,} {status}" if status else f"all {count:,}"
    chip = W.ToggleButton(value=status == EVERY, description=label, disabled=status != EVERY and not count)
    chip.add_class("mfconv-chip")
    return chip


def _pattern(text: str) -> re.Pattern[str] | None:
    """A search as a pattern; ``*`` stands for any text within a name."""
    if not text.strip():
        return None
    return re.compile(r"[^\n]*".join(map(re.escape, text.strip().split("*"))), re.IGNORECASE)
