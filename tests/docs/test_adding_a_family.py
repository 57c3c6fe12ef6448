"""A family is added by two files written by hand, its own and the `.py` of its notebook; `make docs` writes the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COPIED = ("mfconv_nb", "docs", "notebooks", "tests", "demo", "README.md", "README_CN.md", "Makefile", "pyproject.toml")

FAMILY = '''"""Moonlit: the Mixtral table."""

from mfconv_nb.families.mixtral import FAMILY as MIXTRAL
from mfconv_nb.mapping.rules import derive_family

FAMILY = derive_family(
    MIXTRAL,
    key="moonlit-2",
    covers="Moonlit 7B, spring edition",
    covers_zh="Moonlit 7B（春季版）",
    model_types=("moonlit",),
    toy={**MIXTRAL.toy, "architectures": ["MoonlitForCausalLM"], "model_type": "moonlit"},
)
'''

NOTEBOOK = """# %% [markdown]
# # Moonlit
#
# A model that exists in this test and nowhere else in the world.

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")
source_path, target_path = Path(scratch.name) / "toy", Path(scratch.name) / "moonlit.ckpt"
mc.toy("moonlit-2", source_path)

# %%
source = mc.load(source_path)
source

# %%
mapped = mc.map(source, "moonlit-2")
mapped

# %%
before = mc.read(source, "model.embed_tokens.weight")
after = mc.read(mapped, "model.tok_embeddings.embedding_weight")
before[7, 5], after[7, 5]

# %%
mc.save(mapped, target_path)

# %%
mc.verify(source_path, target_path)
"""

TESTS = (
    *("test_evidence.py", "test_notebooks.py", "test_architecture.py"),
    *("test_readme.py::test_the_generated_parts_are_up_to_date", "test_readme.py::test_every_family_that_is_known_is_in_the_table"),
    *(
        "test_family_notebooks.py::test_every_known_family_has_its_notebook",
        "test_family_notebooks.py::test_every_notebook_of_a_family_has_a_family",
    ),
    "test_family_notebooks.py::test_the_notebook_of_a_family_proves_what_it_says[moonlit_2]",
    "test_family_notebooks.py::test_the_list_of_notebooks_is_complete_and_calls_each_by_its_title",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with one family more, after `make docs`."""
    copy = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    by_hand = {"mfconv_nb/families/moonlit.py": FAMILY, "notebooks/families/moonlit_2.py": NOTEBOOK}
    assert len(by_hand) == 2
    for place, text in by_hand.items():
        (copy / place).write_text(text, encoding="utf-8")
    run_in(copy, "docs/generate.py")
    return copy


def run_in(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pages_in_both_languages_and_the_list_of_notebooks_have_the_family(copy: Path) -> None:
    english, chinese, notebooks = (
        (copy / name).read_text(encoding="utf-8") for name in ("README.md", "README_CN.md", "notebooks/README.md")
    )
    assert "| `moonlit-2` | Moonlit 7B, spring edition | experts stacked" in english
    assert "| `moonlit-2` | Moonlit 7B（春季版） | 专家堆叠" in chinese
    assert "- [Moonlit](families/moonlit_2.ipynb): experts stacked" in notebooks
    assert '"moonlit-2": {"cases": 0, "repositories": 0}' in (copy / "mfconv_nb" / "families" / "evidence.json").read_text()


def test_writing_them_again_changes_nothing(copy: Path) -> None:
    assert "written" not in run_in(copy, "docs/generate.py")


def test_the_tests_of_the_pages_ask_for_no_further_edit(copy: Path) -> None:
    run_in(copy, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *(f"tests/docs/{each}" for each in TESTS))


def test_what_the_notebook_says_of_a_family_by_hand_stays(copy: Path) -> None:
    page = copy / "notebooks" / "README.md"
    page.write_text(
        page.read_text(encoding="utf-8").replace("moonlit_2.ipynb): experts stacked", "moonlit_2.ipynb): by night"), encoding="utf-8"
    )
    run_in(copy, "docs/generate.py")
    assert "moonlit_2.ipynb): by night" in page.read_text(encoding="utf-8")
