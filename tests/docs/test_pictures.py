"""The pictures that the pages show: they are there, small, described in words, and each is one that `make screenshots` takes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.support import ROOT, imported_from_docs

PAGES = {"README.md": "README_CN.md", "docs/families.md": "docs/families.zh.md", "docs/training.md": "docs/training.zh.md"}
FOLDER = ROOT / "docs" / "pictures"
MAX_BYTES = 100_000
PNG = b"\x89PNG\r\n\x1a\n"


def pictures(page: str) -> dict[str, str]:
    """The words of every picture that a page shows or links to, by its place."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return {place: words for words, place in re.findall(r"\[([^\]]*)\]\(([^)\s]+\.(?:png|jpe?g|gif|svg))\)", text)}


@pytest.fixture
def screenshots(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that `make screenshots` runs."""
    yield from imported_from_docs("screenshots", monkeypatch)


@pytest.mark.parametrize("page", [*PAGES, *PAGES.values()])
def test_every_picture_of_a_page_is_a_small_png_and_says_in_words_what_it_shows(page: str) -> None:
    assert pictures(page)
    for place, words in pictures(page).items():
        data = (ROOT / page).parent.joinpath(place).read_bytes()
        assert data.startswith(PNG), place
        assert len(data) < MAX_BYTES, place
        assert words.strip(), place


@pytest.mark.parametrize("page", [*PAGES, *PAGES.values()])
def test_a_picture_that_is_shown_has_a_sentence_for_those_who_do_not_see_it(page: str) -> None:
    shown = re.findall(r"!\[([^\]]*)\]\(", (ROOT / page).read_text(encoding="utf-8"))
    assert [words for words in shown if len(words) < 20] == []
    assert len(set(shown)) == len(shown) >= 2


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_show_the_same_pictures(page: str) -> None:
    assert list(pictures(page)) == list(pictures(PAGES[page]))


def test_every_picture_is_one_that_is_taken_and_every_one_that_is_taken_is_there(screenshots: ModuleType) -> None:
    taken = {f"{picture.name}.png" for picture in screenshots.PICTURES}
    assert {path.name for path in FOLDER.iterdir()} == taken
    assert {Path(place).name for page in PAGES for place in pictures(page)} == taken


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.png")), ids=lambda p: p.stem)
def test_a_picture_is_as_wide_as_a_page_and_can_be_read(path: Path) -> None:
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert 600 <= width <= 2000
    assert 200 <= height <= 2000
