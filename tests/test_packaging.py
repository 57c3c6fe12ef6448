"""Declared (pyproject.toml), pinned (constraints.txt), given to conda (environment.yml), installed: all four agree."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
NAMED_FOR_CONDA = ("jupyterlab", "ipywidgets", "torch", "mindspore", "pandas", "matplotlib")


def is_own(requirement: Requirement) -> bool:
    return canonicalize_name(requirement.name) == PROJECT["name"]


DECLARED = {str(each): each for each in (*CORE, *(r for extra in EXTRAS.values() for r in extra)) if not is_own(each)}


def requirement_lines() -> list[Requirement]:
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned() -> dict[str, Version]:
    """The one version of each constrained package, by its canonical name."""
    return {canonicalize_name(each.name): Version(str(each.specifier).removeprefix("==")) for each in requirement_lines()}


def conda_environment() -> dict[str, list[str | dict[str, list[str]]]]:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def conda_pip_lines() -> list[str]:
    return next(each["pip"] for each in conda_environment()["dependencies"] if isinstance(each, dict))


def conda_pip_requirements() -> dict[str, Requirement]:
    requirements = (Requirement(line) for line in conda_pip_lines() if not line.startswith("-"))
    return {canonicalize_name(each.name): each for each in requirements}


def test_every_constraint_is_one_exact_public_version() -> None:
    for each in requirement_lines():
        assert each.url is None, each
        assert [one.operator for one in each.specifier] == ["=="], each
        assert "*" not in str(each.specifier), each
        assert "+" not in str(each.specifier), each


def test_no_package_is_constrained_twice() -> None:
    assert len(requirement_lines()) == len(pinned())


def test_torch_is_pinned_to_the_version_that_has_a_build_for_the_cpu_alone() -> None:
    assert pinned()["torch"] == Version("2.13.0")


@pytest.mark.parametrize("declared", DECLARED)
def test_every_declared_dependency_has_a_pin_that_satisfies_it(declared: str) -> None:
    requirement = DECLARED[declared]
    assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)], prereleases=True)


@pytest.mark.parametrize("declared", DECLARED)
def test_a_declared_dependency_has_a_lower_bound_and_no_other(declared: str) -> None:
    assert [one.operator for one in DECLARED[declared].specifier] == [">="]


def test_the_test_extra_brings_every_other_extra() -> None:
    brought = {extra for each in EXTRAS["test"] if is_own(each) for extra in each.extras}
    assert brought == EXTRAS.keys() - {"test"}


def test_the_core_needs_neither_framework() -> None:
    assert {"torch", "mindspore", "transformers"}.isdisjoint(canonicalize_name(each.name) for each in CORE)


def test_the_conda_environment_carries_the_name_and_a_python_of_the_project() -> None:
    environment = conda_environment()
    assert environment["name"] == PROJECT["name"]
    python = next(each for each in environment["dependencies"] if isinstance(each, str) and each.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


@pytest.mark.parametrize("name", NAMED_FOR_CONDA)
def test_the_conda_environment_names_each_package_that_its_readers_look_for(name: str) -> None:
    assert name in conda_pip_requirements()


def test_every_pin_of_the_conda_environment_is_that_of_the_constraints() -> None:
    for name, requirement in conda_pip_requirements().items():
        assert str(requirement.specifier) == f"=={pinned()[name]}"


def test_the_conda_environment_installs_the_project_under_the_constraints() -> None:
    assert {"-c constraints.txt", "-e .[test]"} <= set(conda_pip_lines())


@pytest.mark.parametrize("name", sorted({canonicalize_name(each.name) for each in CORE} | {"torch", "mindspore"}))
def test_the_installed_version_is_the_pinned_one(name: str) -> None:
    installed = Version(importlib.metadata.version(name))
    assert Version(installed.public) == pinned()[name]  # 2.13.0+cpu is 2.13.0, built for the CPU


def test_no_pinned_package_asks_for_a_newer_python_than_the_project_does() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    installed = (each for each in importlib.metadata.distributions() if canonicalize_name(each.name) in pinned())
    asked = {each.name: each.metadata["Requires-Python"] or "" for each in installed}
    assert {name: python for name, python in asked.items() if not SpecifierSet(python).contains(oldest)} == {}


def test_the_installed_project_has_the_declared_version() -> None:
    assert importlib.metadata.version(PROJECT["name"]) == PROJECT["version"]


def test_every_folder_with_code_is_a_package_so_that_the_import_contract_sees_it() -> None:
    folders = {path.parent for path in (ROOT / "mfconv_nb").rglob("*.py")}
    assert [str(each.relative_to(ROOT)) for each in sorted(folders) if not (each / "__init__.py").is_file()] == []


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (ROOT / "mfconv_nb" / "py.typed").is_file()
