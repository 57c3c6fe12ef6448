"""docs/architecture.md is what the code is: the table of rooms is generated, and every file that the page names is there."""

from __future__ import annotations

import re
from pathlib import Path

from docs.generate import ARCHITECTURE, imports_of_rooms, page, rooms_of_package

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / ARCHITECTURE).read_text(encoding="utf-8")


def test_the_table_of_rooms_is_what_make_docs_writes() -> None:
    assert page(ARCHITECTURE) == PAGE


def test_every_file_and_folder_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", PAGE)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists() and not any((ROOT / "mfconv_nb").rglob(name))] == []


def test_nothing_lies_loose_at_the_top_of_the_package() -> None:
    loose = {p.name for p in (ROOT / "mfconv_nb").iterdir() if p.is_file()}
    assert loose == {"__init__.py", "__init__.pyi", "__main__.py", "py.typed"}


def test_the_floors_that_the_page_speaks_of_are_those_of_the_code() -> None:
    imports = imports_of_rooms()
    assert imports["core"] == frozenset()
    assert imports["formats"] == imports["networks"] == imports["mapping"] == frozenset({"core"})
    assert not any("cli" in others or "panels" in others for others in imports.values())
    assert set(imports) == set(rooms_of_package())
