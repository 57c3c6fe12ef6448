"""Every family has a notebook that runs on its toy, shows the number that it speaks of, proves itself, and says it in its own words.

Notebooks of families run in this process, cell by cell: thirty kernels would take a minute and get into each other's way. One of them
and all other notebooks run in a kernel.
"""

import ast
import html
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import nbformat
import pytest

from demo.page import run_notebook
from mfconv_nb.families.registry import known_families
from tests.docs.support import code_cells

FOLDER = Path(__file__).parents[2] / "notebooks"
OF_FAMILIES = sorted((FOLDER / "families").glob("*.ipynb"))
OTHERS = sorted(FOLDER.glob("*.ipynb"))
RUN_BY_A_TEST_OF_THEIR_OWN = ("quickstart", "verify_a_round_trip", "adapt_a_new_architecture", "quantised_checkpoints")
TOLD_WITH = {"llama_meta": "llama", "qwen1_5": "qwen2", "swin_hf": "swin"}  # families that share a notebook with a larger one
IN_A_KERNEL_TOO = FOLDER / "families" / "deepseek3.ipynb"
VERDICTS = ("✓ Equal.", "≈ Close.", "✗ Not equal.", "! Incomplete.")


def notebook_of(key: str) -> Path:
    return FOLDER / "families" / f"{TOLD_WITH.get(key, key).replace('-', '_')}.ipynb"


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def sentences(path: Path) -> set[str]:
    """The sentences of a notebook's prose, without headings, of more than six words."""
    paragraphs = [p for cell in cells(path, "markdown") for p in cell.split("\n\n") if not p.startswith("#")]
    split = [" ".join(s.split()) for p in paragraphs for s in re.split(r"(?<=[.!?:;])\s", p)]
    return {s for s in split if len(s.split()) > 6}


def after_a_run(path: Path, folder: Path) -> Any:
    """The notebook after a run that left nothing behind."""
    notebook = run_notebook(path, folder)
    assert list(folder.iterdir()) == []
    return notebook


def shown(cell: Any) -> str:
    """All that a cell shows, as text."""
    data = [o.get("data", {"text/plain": o.get("text", "")}) for o in cell.outputs]
    return html.unescape("\n".join(str(each) for bundle in data for each in bundle.values()))


def shown_by(notebook: Any, start: str) -> str:
    """What the code cells that begin like this show."""
    return "\n".join(shown(c) for c in code_cells(notebook) if c.source.startswith(start))


def results_of(path: Path) -> list[tuple[str, Any]]:
    """What the code cells are and what they end with, run from top to bottom as a kernel would."""
    namespace: dict[str, Any] = {"__name__": path.stem}
    results = []
    for source in cells(path, "code"):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), path.name, "eval"), namespace) if isinstance(last, ast.Expr) else None
        results.append((source, value))
    namespace["scratch"].cleanup()
    return results


@pytest.mark.parametrize("key", [family.key for family in known_families()])
def test_every_known_family_has_its_notebook(key: str) -> None:
    assert f'"{key}"' in "\n".join(cells(notebook_of(key), "code"))


def test_every_notebook_of_a_family_has_a_family() -> None:
    assert {p.name for p in OF_FAMILIES} == {notebook_of(family.key).name for family in known_families()}


@pytest.mark.parametrize("path", OF_FAMILIES, ids=lambda p: p.stem)
def test_the_notebook_of_a_family_proves_what_it_says(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = results_of(path)
    assert list(tmp_path.iterdir()) == []
    assert repr(dict(results)["mc.verify(source_path, target_path)"]).startswith("✓ Equal.")
    assert_numbers_agree([value for _, value in results if isinstance(value, tuple)])
    assert [source for source, value in results[1:] if value is None and "print(" not in source] == []  # each shows something


def assert_numbers_agree(found: list[tuple[Any, ...]]) -> None:
    """A tuple is one number, as it was read on each side."""
    assert found
    for each in found:
        assert len(set(each)) == 1
        assert each[0] != 0


def test_the_notebook_of_a_family_runs_in_a_kernel(tmp_path: Path) -> None:
    notebook = after_a_run(IN_A_KERNEL_TOO, tmp_path)
    assert "✓ Equal." in shown_by(notebook, "mc.verify(source_path, target_path)")


@pytest.mark.parametrize("path", [p for p in OTHERS if p.stem not in RUN_BY_A_TEST_OF_THEIR_OWN], ids=lambda p: p.stem)
def test_every_other_notebook_runs(path: Path, tmp_path: Path) -> None:
    after_a_run(path, tmp_path)


def test_the_notebook_on_verifying_shows_every_verdict_that_its_table_explains(tmp_path: Path) -> None:
    path = FOLDER / "verify_a_round_trip.ipynb"
    seen = shown_by(after_a_run(path, tmp_path), "")
    for words in VERDICTS:
        assert f"`{words}`" in "\n".join(cells(path, "markdown"))
        assert words in seen


def test_the_notebook_on_quantised_checkpoints_shows_what_it_speaks_of(tmp_path: Path) -> None:
    notebook = after_a_run(FOLDER / "quantised_checkpoints.ipynb", tmp_path)
    picture = "alt='scale of each block, and largest relative error in each block'"
    assert shown_by(notebook, "mapped = ").count(picture) == 1
    assert shown_by(notebook, "power = ").count(picture) == 1
    assert "16,896 of 16,896 codes are those that were published" in shown_by(notebook, "numbers = mc.read(source")
    proof = shown_by(notebook, "mc.verify(")
    assert "✓ Equal." in proof
    assert "fp8 bits equal: 166 tensors" in proof
    wrong = shown_by(notebook, "scale_name, ")
    assert wrong.count("MFC321 codes and scales that do not make up weights") == 2
    assert "found     fp8_e4m3 codes without their scale" in wrong
    assert "found     6 × 3 (2 such problems)" in wrong
    assert "2 differ, 115 equal" in shown_by(notebook, "up_name = ")
    assert "config.json said fp8; the weights are not quantised" in shown_by(notebook, "numbers = {")
    assert "quantised anew: 1 weight, first model.layers.0.mlp.down_proj.weight; untouched: 82" in shown_by(notebook, "anew = ")
    assert "1 differ, 116 equal" in code_cells(notebook)[-1].outputs[0]["data"]["text/plain"]


def test_the_chinese_quickstart_runs_the_same_code() -> None:
    chinese, english = (cells(FOLDER / f"{name}.ipynb", "code") for name in ("quickstart_zh", "quickstart"))
    assert [ast.unparse(ast.parse(code)) for code in chinese] == [ast.unparse(ast.parse(code)) for code in english]


def test_no_two_notebooks_of_families_share_a_sentence() -> None:
    where = defaultdict(list)
    for path in OF_FAMILIES:
        for sentence in sentences(path):
            where[sentence].append(path.stem)
    assert {s: names for s, names in where.items() if len(names) > 1} == {}


@pytest.mark.parametrize("path", [*OF_FAMILIES, *OTHERS], ids=lambda p: p.stem)
def test_a_notebook_names_no_place_of_the_machine_it_was_written_on(path: Path) -> None:
    text = "\n".join(cells(path, "code") + cells(path, "markdown"))
    assert re.findall(r"(?<!\w)(?:/(?:home|mnt|root|tmp|usr|Users|work)/|~/|[A-Z]:\\)\S*", text) == []


def test_the_list_of_notebooks_is_complete_and_calls_each_by_its_title() -> None:
    listed = re.findall(r"^- \[([^\]]+)\]\(([^)]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.M)
    titles = {p.relative_to(FOLDER).as_posix(): cells(p, "markdown")[0].split("\n")[0].removeprefix("# ") for p in FOLDER.rglob("*.ipynb")}
    assert {place: title for title, place in listed} == titles
