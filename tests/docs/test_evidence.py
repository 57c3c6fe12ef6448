"""What is said of the evidence for each family is counted, not written by hand; and the tables of the pages are whole in both languages."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from types import ModuleType

import pytest

from mfconv_nb.families.registry import built_in, family_named, known_families
from mfconv_nb.steps.inspecting.families import Evidence, evidence_of
from tests.docs.support import ROOT, imported_from_docs
from tests.real_repos_table import REPOSITORIES

CASES = ROOT / "tests" / "goldens" / "cases"
ENGLISH_IN_CHINESE = {"consolidated", "large", "pth", "small", "tiny"}  # names, not words


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that `make docs` runs."""
    yield from imported_from_docs("generate", monkeypatch)


def test_the_evidence_that_is_packaged_is_up_to_date(generate: ModuleType) -> None:
    packaged = (files("mfconv_nb.families") / "evidence.json").read_text(encoding="utf-8")
    assert packaged == generate.evidence_text(), "run make docs"
    assert list(json.loads(packaged)) == sorted(family.key for family in known_families())


@pytest.mark.parametrize("name", ["docs/families.md", "docs/families.zh.md", "notebooks/README.md"])
def test_what_pages_say_of_families_is_up_to_date(name: str, generate: ModuleType) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generate.page(name), "run make docs"


def test_every_golden_case_and_every_planned_repository_is_counted_once_for_its_family() -> None:
    keys = {path.stem: json.loads(path.read_text(encoding="utf-8"))["model_key"] for path in CASES.glob("*.json")}
    keys |= {name: name.partition("-")[0] for name in keys if name.startswith(("deepseek2-", "telechat2-", "qwen1_5-"))}
    cases = Counter(family_named(key).key for key in keys.values())
    assert {f.key: evidence_of(f.key).cases for f in known_families()} == {f.key: cases[f.key] for f in known_families()}
    repositories = Counter(family_named(key).key for repository in REPOSITORIES.values() for key in repository.keys)
    assert {f.key: evidence_of(f.key).repositories for f in known_families()} == {f.key: repositories[f.key] for f in known_families()}


def test_a_family_that_is_not_built_in_has_no_evidence() -> None:
    assert evidence_of("mine") == Evidence(0, 0)


def test_a_file_of_data_among_the_families_is_no_family() -> None:
    assert "evidence" not in built_in()
    assert (ROOT / "mfconv_nb" / "families" / "evidence.json").is_file()


def test_the_table_names_the_families_that_nothing_outside_speaks_for(generate: ModuleType) -> None:
    bare = [key for key, found in generate.evidence().items() if not any(found.values())]
    table = generate.family_table(generate.ENGLISH)
    assert re.findall(r"`(\w[\w-]*)`", table.partition("\n\n")[2]) == bare


def test_the_table_says_what_a_family_does_to_its_tensors(generate: ModuleType) -> None:
    def said(key: str) -> str:
        text: str = generate.describe_changes(family_named(key), generate.ENGLISH)
        return text

    assert said("yi") == "as `llama`"
    assert said("llama") == "names only, a tied head written out"
    assert said("mixtral") == "experts stacked, a tied head written out"
    assert said("baichuan2") == "fused matrices split, a tied head written out"
    assert said("t5") == "some matrices transposed, equal copies kept once"
    assert said("whisper") == "an axis of one added"
    assert "numbers reordered" in said("deepseek3")
    assert "zeros filled in" in said("blip")


def test_the_chinese_table_has_no_english_words_in_it(generate: ModuleType) -> None:
    for family in known_families():
        text = re.sub(r"`[^`]*`", "", generate.models(family, generate.CHINESE) + generate.describe_changes(family, generate.CHINESE))
        assert set(re.findall(r"(?<![\w'])[a-z]{3,}\b", text)) <= ENGLISH_IN_CHINESE, f"{family.key}: CHINESE.models in docs/generate.py"
