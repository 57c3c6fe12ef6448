"""docs/adapters.md and its translation are true: the Python lines give what they show, the shell lines name options that are there."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from mfconv_nb.cli.commands.convert import convert
from mfconv_nb.cli.commands.merge import merge
from tests.docs.support import assert_links_lead_somewhere, blocks, code_lines, sections

PAGES = ("docs/adapters.md", "docs/adapters.zh.md")


@pytest.mark.parametrize("name", PAGES)
def test_the_python_lines_give_what_the_page_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(name, "python")
    test = doctest.DocTestParser().get_doctest(block, {}, name, name, 0)
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
    assert (tmp_path / "peft" / "adapter_config.json").is_file()


@pytest.mark.parametrize("name", PAGES)
def test_the_shell_lines_name_options_that_are_there(name: str) -> None:
    lines = [line for block in blocks(name, "sh") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        command = {"convert": convert, "merge": merge}[line.split()[1]]
        known = {option for param in command.params for option in param.opts}
        assert set(re.findall(r"--\w+", line)) <= known, line


def test_both_pages_show_the_same_lines_and_have_as_many_sections() -> None:
    assert code_lines(PAGES[0], "sh", "python") == code_lines(PAGES[1], "sh", "python")
    assert sections(PAGES[0]) == sections(PAGES[1])


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    assert_links_lead_somewhere(name)
