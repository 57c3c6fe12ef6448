"""The codes of errors, the places that raise them, and the two pages that explain them keep step."""

import re

import pytest

from mfconv_nb.core.errors import CODES
from tests.docs.support import ROOT, page

PAGES = {"docs/errors.md": ": ", "docs/errors.zh.md": "："}


def sections(name: str) -> dict[str, tuple[str, str, str]]:
    """Of every section: its code, with anchor, title and text."""
    text = page(name)
    found = re.findall(r'^### <a id="(\w+)"></a>(MFC\d{3})(?:: |：)(.*)\n\n((?:(?!#).*\n?)*)', text, flags=re.M)
    assert len(found) == len(re.findall(r"^### ", text, flags=re.M)), "a section without code or anchor"
    return {code: (anchor, title, body) for anchor, code, title, body in found}


def raised_codes() -> set[str]:
    """Every code that stands as a string in the package, outside the table of codes and its explanations in docstrings."""
    files = [p for p in (ROOT / "mfconv_nb").rglob("*.py") if p.name != "errors.py"]
    return {code for p in files for code in re.findall(r'"(MFC\d{3})"', p.read_text(encoding="utf-8"))}


def test_every_code_is_raised_somewhere_and_every_raised_code_is_known() -> None:
    assert raised_codes() == CODES.keys()


@pytest.mark.parametrize("name", PAGES)
def test_every_code_has_its_section_and_no_section_lacks_a_code(name: str) -> None:
    assert list(sections(name)) == list(CODES)


@pytest.mark.parametrize("name", PAGES)
def test_every_section_has_an_anchor_and_says_something(name: str) -> None:
    for code, (anchor, title, body) in sections(name).items():
        assert anchor == code.lower()
        assert title.strip()
        assert len(body.strip()) > 30, code


def test_the_english_titles_are_those_of_the_messages() -> None:
    assert {code: title for code, (_, title, _) in sections("docs/errors.md").items()} == CODES
