"""Text and HTML of results: bounded, escaped, and the same rows everywhere."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import pytest

from mfconv_nb.core.report import (
    Column,
    Result,
    Table,
    bytes_text,
    count_text,
    difference_text,
    how_many,
    plain_marks,
    seconds_text,
    shape_text,
    table_html,
    table_text,
)

EVIL = "<script>alert('x')</script>\x1b[31m&amp;\u202e{0}"


@dataclass(frozen=True, repr=False)
class Shown(Result):
    content: Table

    def table(self) -> Table:
        return self.content


def table_of(count: int, name: str = "layers.{}.weight") -> Table:
    rows = [(name.format(n), n) for n in range(count)]
    return Table("✓ Equal.", "some words", (Column("name"), Column("tensors", True)), rows, ("a fact",), row_noun="names")


class Seen(HTMLParser):
    """Tags and text of some HTML; a tag that is not closed, or closed out of order, is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") or (value or "").startswith("javascript") for name, value in attrs)
        if tag not in ("br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_the_verdict_stands_first() -> None:
    assert table_text(table_of(2)).startswith("✓ Equal. some words\n  a fact\n")
    assert Seen(table_html(table_of(2))).text.startswith("✓ Equal. some words")


@pytest.mark.parametrize("count, shown", [(3, 3), (40, 40), (41, 40), (5000, 40)])
def test_text_is_bounded_and_says_what_was_cut(count: int, shown: int) -> None:
    text = table_text(table_of(count))
    assert len(re.findall(r"layers\.\d+\.weight", text)) == shown
    assert (f"{how_many(count - shown, 'more', 'more names')}: --all, or .rows() in Python" in text) == (count > shown)
    assert len(re.findall(r"layers\.\d+\.weight", table_text(table_of(count), max_rows=None))) == count


@pytest.mark.parametrize("count", [200, 201, 100_000])
def test_html_is_bounded_and_says_what_was_cut(count: int) -> None:
    page = table_html(table_of(count))
    assert Seen(page).tags.count("tr") == 201
    assert (how_many(count - 200, "more", "more names") in Seen(page).text) == (count > 200)
    assert len(page) < 40_000


def test_a_strange_name_is_shown_and_never_carried_out() -> None:
    table = Table(EVIL, EVIL, (Column(EVIL),), [(EVIL,)], (EVIL,), EVIL, EVIL)
    page = Seen(table_html(table))
    assert "script" not in page.tags
    assert "<script>alert('x')</script>" in page.text
    for text in (page.text, table_text(table)):
        assert "\x1b" not in text.replace(EVIL, "")
        assert "\\x1b" in text
    assert "\x1b" not in table_text(table)
    assert "\u202e" not in table_text(table)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 300])
def test_a_long_name_is_broken_and_never_cut(width: int) -> None:
    name = "model." + "very_long_part_of_a_name." * 8 + "weight"
    columns = (Column("status"), Column("shape", True), Column("name"))
    text = table_text(Table("", "", columns, [("mapped", "4096 × 1024", name)]), width=width)
    assert name in re.sub(r"\s+", "", text)
    assert "4096 × 1024" in text
    assert max(map(len, text.splitlines())) <= max(width, 60)


def test_a_number_that_no_table_has_room_for_leaves_the_name_its_place() -> None:
    columns = (Column("name"), Column("shape", True), Column("bytes", True))
    text = table_text(Table("", "", columns, [("model.norm.weight", " × ".join(["1"] * 30 + ["7", "9"]), "12 B")]), width=80)
    assert all(word in text for word in ("name", "model.norm.weight", "12 B"))
    assert text.split().count("1") == 30
    assert max(map(len, text.splitlines())) <= 80


def test_optional_columns_give_way_in_a_narrow_terminal() -> None:
    columns = (Column("name"), Column("note", optional=True))
    table = Table("", "", columns, [("model.layers.0.self_attn.q_proj.weight", "a note of some length that needs room")])
    assert "some length" in table_text(table, width=120)
    assert "some length" not in table_text(table, width=60)
    assert "q_proj.weight" in table_text(table, width=60)


def test_all_forms_show_the_same_rows() -> None:
    shown = Shown(table_of(3))
    rows = [{"name": f"layers.{n}.weight", "tensors": n} for n in range(3)]
    assert shown.rows() == rows
    assert shown.to_frame().to_dict("records") == rows
    assert json.loads(shown.to_json()) == {"verdict": "✓ Equal.", "headline": "some words", "facts": ["a fact"], "rows": rows}
    assert repr(shown) == table_text(table_of(3))
    assert shown._repr_html_() == table_html(table_of(3))


@pytest.mark.parametrize(
    "function, value, text",
    [
        (bytes_text, 0, "0 B"),
        (bytes_text, 1023, "1023 B"),
        (bytes_text, 1024, "1.00 KiB"),
        (bytes_text, 7_591_000, "7.24 MiB"),
        (bytes_text, 16_060_522_496, "15.0 GiB"),
        (bytes_text, 5000 << 40, "5000 TiB"),
        (count_text, 999_999, "999,999"),
        (count_text, 8_030_261_248, "8.03 B"),
        (count_text, 671_000_000_000, "671 B"),
        (shape_text, (4096, 1024), "4096 × 1024"),
        (shape_text, (), "()"),
        (seconds_text, 0.34, "0.3 s"),
        (seconds_text, 124.9, "2 min 04 s"),
    ],
)
def test_numbers_are_short_and_have_units(function: Any, value: Any, text: str) -> None:
    assert function(value) == text


@pytest.mark.parametrize(
    "asked, text",
    [
        ((0, "tensor"), "0 tensors"),
        ((1, "tensor"), "1 tensor"),
        ((2150, "tensor"), "2,150 tensors"),
        ((1, "copy", "copies"), "1 copy"),
        ((2, "copy", "copies"), "2 copies"),
    ],
)
def test_a_count_and_its_noun_agree(asked: Any, text: str) -> None:
    assert how_many(*asked) == text


def test_one_more_row_is_said_without_a_plural() -> None:
    assert "\n  1 more: --all, or .rows() in Python" in table_text(table_of(41))
    assert "1 more: " in Seen(table_html(table_of(201))).text


def test_a_difference_has_words_for_none_and_counts_ulp() -> None:
    assert difference_text(0.0, 0) == "0"
    assert difference_text(3.05e-5, 1) == "3e-05 (1 ULP)"
    assert difference_text(3.0, None) == "3"
    assert difference_text(0.0, 1_000) == "0 (1,000 ULP)"


# ---- found by looking ------------------------------------------------------------------------------------------------------


def test_a_stream_in_memory_takes_every_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())  # it has no encoding: redirect_stdout, doctest
    assert plain_marks("✓ 2 × 3 → ─") == "✓ 2 × 3 → ─"


def test_a_terminal_without_utf8_gets_plain_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert plain_marks("✓ {0‥3} 2 × 3 → ─ …") == "ok {0..3} 2 x 3 -> - ..."


def test_a_column_without_a_title_has_a_name_in_rows() -> None:
    columns = (Column(""), Column("condition"))
    assert Shown(Table("", "", columns, [("✓", "equal")])).rows() == [{"mark": "✓", "condition": "equal"}]


def test_html_leaves_out_optional_columns_that_are_empty() -> None:
    columns = (Column("name"), Column("note", optional=True), Column("hint", optional=True))
    html = table_html(Table("", "", columns, [("a", "", "look"), ("b", "", "")]))
    assert "note" not in html
    assert "hint" in html


def test_numbers_in_html_are_never_broken_and_names_only_after_dots() -> None:
    html = table_html(Table("", "", (Column("name"), Column("bytes", True)), [("a.{0‥3}.b", "62.1 KiB")]))
    assert "62.1 KiB" in html
    assert "a.<wbr><span class='mfconv-k'>{0‥3}</span>.<wbr>b" in html


def test_an_arrow_in_html_is_never_broken() -> None:
    html = table_html(Table("", "", (Column("layout"),), [("rows columns -> columns rows",)]))
    assert "rows columns <span class='mfconv-k'>-&gt;</span> columns rows" in html


@pytest.mark.parametrize("mark, tone", [("✓", "good"), ("✗", "bad"), ("≈", "mid"), ("!", "mid")])
def test_every_verdict_has_its_colour_and_its_mark(mark: str, tone: str) -> None:
    assert f"<span class='mfconv-v mfconv-{tone}'>{mark} Word.</span>" in table_html(Table(f"{mark} Word.", ""))
