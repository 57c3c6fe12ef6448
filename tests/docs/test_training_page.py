"""docs/training.md and its translation are true: every line in them is run, in order, in an empty folder."""

from __future__ import annotations

import doctest
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.main import run
from tests.docs.support import assert_links_lead_somewhere, blocks, code_lines, page, sections

PAGES = ("docs/training.md", "docs/training.zh.md")


def commands(block: str) -> list[str]:
    return [line.partition(" #")[0].strip() for line in block.splitlines()]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_python_line_does_what_the_page_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (layout,) = blocks(name, "json")
    Path("layout.json").write_text(layout)
    first, making, *others = blocks(name, "sh")
    for command in [line for block in (making, first, *others) for line in commands(block)]:
        words = shlex.split(command)
        assert words[0] == "mfconv"
        assert run(words[1:]) == 0, command
    assert len(list(Path("run").glob("rank_*"))) == 8
    for target, count in (("OUT", 39), ("OUT-400", 39), ("merged.ckpt", 39), ("all.safetensors", 39)):
        assert len(mc.load(target)) == count
    test = doctest.DocTestParser().get_doctest("\n".join(blocks(name, "python")), {}, name, name, 0)
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


@pytest.mark.parametrize("name", PAGES)
def test_the_table_of_fields_has_every_field_of_a_layout(name: str) -> None:
    section = page(name).split("\n## ")[6].partition("```python")[0]
    named = {word for row in re.findall(r"^\| (`.*?) \|", section, flags=re.M) for word in re.findall(r"`(\w+)`", row)}
    assert named == {f.name for f in fields(mc.RankLayout)}
    assert json.loads(blocks(name, "json")[0]).keys() <= named


def test_both_pages_show_the_same_lines_and_have_as_many_sections() -> None:
    assert code_lines(PAGES[0], "sh", "json", "python") == code_lines(PAGES[1], "sh", "json", "python")
    assert sections(PAGES[0]) == sections(PAGES[1])


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    assert_links_lead_somewhere(name)
