"""The page of families lists the networks that were checked: for each there is the test that it speaks of, and each test has its row."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from mfconv_nb.families.registry import family_named, known_families
from tests.docs.support import ROOT, imported_from_docs
from tests.networks_table import NETWORKS, PARAMETERS, Built
from tests.support import PATIENCE


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that `make docs` runs."""
    yield from imported_from_docs("generate", monkeypatch)


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """The tests that there are in the files that the rows name, each as it is made for one network."""
    files = sorted({test.partition("::")[0] for network in NETWORKS for test in network.checks.values()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_every_network_of_the_table_has_the_tests_that_it_names(collected: set[str]) -> None:
    wanted = {f"{test}[{network.name}]" for network in NETWORKS for test in network.checks.values()}
    assert len(wanted) == sum(len(network.checks) for network in NETWORKS)
    assert wanted - collected == set()


def test_every_test_that_a_network_names_is_made_for_the_networks_of_the_table_alone(collected: set[str]) -> None:
    tests = {test for network in NETWORKS for test in network.checks.values()}
    made = {line for line in collected if line.partition("[")[0] in tests}
    assert made == {f"{test}[{network.name}]" for network in NETWORKS for test in network.checks.values()}


def test_every_network_is_one_of_a_family_and_built_ones_are_checked_both_ways() -> None:
    assert all(family_named(network.key).key == network.key for network in NETWORKS)
    assert all(PARAMETERS in network.checks and len(network.checks) >= 2 for network in NETWORKS if isinstance(network, Built))


@pytest.mark.parametrize("name", ["docs/families.md", "docs/families.zh.md"])
def test_the_page_lists_every_family_and_every_network(name: str, generate: ModuleType) -> None:
    words = generate.FAMILY_PAGES[name]
    part = (ROOT / name).read_text(encoding="utf-8").partition("<!-- networks: begin -->")[2].partition("<!-- networks: end -->")[0]
    assert part.strip() == generate.networks_table(words)
    assert set(re.findall(r"^\| `(\w[\w.-]*)` \|", part, flags=re.M)) == {family.key for family in known_families()}
    rows = [line for line in part.strip().splitlines()[2:] if "| – |" not in line]
    assert sum(line.count(words.semicolon) + 1 for line in rows) == len(NETWORKS)
