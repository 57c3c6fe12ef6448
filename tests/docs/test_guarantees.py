"""Every sentence of "What is guaranteed" names a test that is there, in both languages the same ones."""

import ast
import re

import pytest

from tests.docs.support import page

SECTIONS = {"README.md": "What is guaranteed", "README_CN.md": "保证什么"}
TESTS = re.compile(r"[(（](\[(?:test|测试)\]\[\w+\](?:(?:, |、)\[(?:test|测试)\]\[\w+\])*)[)）]")
DEFINITION = re.compile(r'^\[(\w+)\]: (\S+) "(\w+)"$', flags=re.MULTILINE)
HEADING = re.compile(r"^\*\*.*?\*\*")
NOT_PROSE = re.compile(r"`[^`]*`|\[[^\]]*\]\([^)]*\)|\([^()]*\)|（[^（）]*）")
SENTENCE_END = re.compile(r"\.(?=\s|$)|。")


def section(name: str) -> str:
    text = page(name)
    return text.partition(f"\n## {SECTIONS[name]}\n")[2].partition("\n## ")[0]


def guarantees(text: str) -> list[list[tuple[str, list[str]]]]:
    """Of every point its sentences, each with the keys of its tests. What stands behind the last ones is a sentence without any."""
    points = re.findall(r"^- (.*?)(?=^- |^\n|\Z)", text, flags=re.M | re.S)
    found = []
    for point in points:
        parts = TESTS.split(HEADING.sub("", " ".join(point.split())))
        sentences = [part.strip().removeprefix(".").removeprefix("。").strip() for part in parts[::2]]
        keys = [re.findall(r"\]\[(\w+)\]", part) for part in parts[1::2]]
        found.append([(s, k) for s, k in zip(sentences, [*keys, []], strict=True) if s or k])
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_every_sentence_of_what_is_guaranteed_names_its_test(name: str) -> None:
    points = guarantees(section(name))
    assert len(points) == 5
    for sentence, keys in (each for point in points for each in point):
        assert keys, f"no test: {sentence}"
        assert not SENTENCE_END.search(NOT_PROSE.sub("", sentence)), f"two sentences with one test: {sentence}"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_test_that_a_guarantee_names_is_there(name: str) -> None:
    text = section(name)
    defined = {key: (path, test) for key, path, test in DEFINITION.findall(text)}
    assert {key for point in guarantees(text) for _, keys in point for key in keys} == set(defined)
    for path, test in defined.values():
        tree = ast.parse(page(path))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{test}"


def test_both_languages_guarantee_the_same_by_the_same_tests() -> None:
    english, chinese = (section(name) for name in SECTIONS)
    assert [[keys for _, keys in point] for point in guarantees(english)] == [[keys for _, keys in point] for point in guarantees(chinese)]
    assert DEFINITION.findall(english) == DEFINITION.findall(chinese)


def test_a_sentence_without_a_test_would_be_noticed() -> None:
    made = "- **A.** It holds ([test][a]). So does `this. one` (no. 2).\n- **B.** One. Two ([test][b], [test][c]).\n"
    assert guarantees(made) == [[("It holds", ["a"]), ("So does `this. one` (no. 2).", [])], [("One. Two", ["b", "c"])]]
    assert SENTENCE_END.search(NOT_PROSE.sub("", "One. Two"))
    assert not SENTENCE_END.search(NOT_PROSE.sub("", "It says `✓ Equal.`, or so (see there. And there)"))
