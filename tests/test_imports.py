"""What is imported, and when: moving bytes needs neither framework, and nothing for the eye."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mfconv_nb as mc
from tests.support import PATIENCE

PACKAGE = Path(__file__).parents[1] / "mfconv_nb"
# what may be imported inside a function: it takes long, it need not be installed, or only some systems have it
MAY_BE_LATE = ("torch", "mindspore", "transformers", "pandas", "matplotlib", "rich", "tqdm", "yaml", "rapidfuzz", "scipy")
MAY_BE_LATE += ("fcntl", "resource", "importlib.metadata", "mfconv_nb.views.explorer")
HEAVY = ("torch", "mindspore", "transformers", "pandas", "matplotlib", "ipywidgets", "IPython", "rich", "tqdm", "rapidfuzz", "scipy")


def imported_by(code: str, folder: Path) -> set[str]:
    """The heavy modules that a fresh Python has loaded after some code."""
    script = f"import sys\n{code}\nprint('FOUND', *(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


STEPS = """
import mfconv_nb as mc
src = mc.load('toy')
out = mc.map(src, 'llama')
{}
"""


@pytest.mark.parametrize(
    "code",
    [
        "import mfconv_nb",
        "import mfconv_nb as mc; mc.load; mc.map; mc.diff; mc.save; mc.verify; mc.known_families(); mc.toy; mc.read; mc.expected",
        "import mfconv_nb as mc; mc.assign; mc.register",
        STEPS.format("mc.save(out, 'a/o.ckpt', dtype='fp32')"),
        STEPS.format("mc.save(out, 'b/o.ckpt'); mc.save(mc.map(mc.load('b/o.ckpt')), 'b/back'); mc.verify('toy', 'b/o.ckpt')"),
        STEPS.format("mc.diff(src, mc.map(out), values=True).equal; mc.toy('llama'); mc.read(out, 'lm_head.weight')"),
        "from mfconv_nb.cli.main import run; run(['--help']);  run(['convert', 'toy', 'c/o.ckpt', '--quiet', '--help'])",
    ],
    ids=["the package", "every name", "those for networks", "a conversion", "a round trip", "a comparison", "the command line"],
)
def test_moving_bytes_loads_no_framework_and_nothing_for_the_eye(code: str, toy: Path) -> None:
    assert imported_by(code, toy.parent) == set()


def test_the_check_sees_a_module_that_is_loaded(toy: Path) -> None:
    assert imported_by("import rich", toy.parent) == {"rich"}


def test_every_public_name_is_there_and_explains_itself() -> None:
    rooms = {"author", "rules"}
    assert len(mc.__all__) <= 23
    assert dir(mc) == sorted(mc.__all__)  # what mc.<Tab> shows
    for name in mc.__all__:
        assert (getattr(mc, name).__doc__ or "").strip()
    submodules = {m.name for m in pkgutil.iter_modules(mc.__path__)}
    assert submodules & set(mc.__all__) == rooms  # any other submodule would take the place of the name
    for room in (mc.author, mc.rules):
        assert all((getattr(room, name).__doc__ or "").strip() for name in dir(room))
    with pytest.raises(AttributeError, match="nothing"):
        mc.nothing  # noqa: B018


@pytest.mark.parametrize(
    "name, room",
    [(name, "rules") for name in ("Drop", "Family", "Option", "Repeated", "Rule", "Tied")]
    + [(name, "author") for name in ("edit", "export", "import_rules", "probe", "prove", "suggest")],
)
def test_a_name_of_the_release_before_works_and_says_where_it_is_now(name: str, room: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"mc\.{name} has moved: mc\.{room}\.{name}"):
        assert getattr(mc, name) is getattr(getattr(mc, room), name)


def imports_inside_functions() -> list[tuple[str, str, str]]:
    """File, what is imported, and the comment on that line."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for function in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
            for node in (n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found += [(path.relative_to(PACKAGE).as_posix(), m, lines[node.lineno - 1].partition("#")[2].strip()) for m in modules]
    return sorted(set(found))


def test_an_import_inside_a_function_keeps_something_heavy_out_of_the_start_and_says_why() -> None:
    found = imports_inside_functions()
    assert [f"{path}: {module}" for path, module, reason in found if len(reason) < 4] == []
    assert [f"{path}: {module}" for path, module, _ in found if not module.startswith(MAY_BE_LATE)] == []
    assert len(found) <= 30


def test_what_is_imported_late_is_no_way_around_a_circle() -> None:
    """Of the package itself only the modules that load ipywidgets."""
    own = {module for _, module, _ in imports_inside_functions() if module.startswith("mfconv_nb")}
    assert own <= {"mfconv_nb.views.explorer"}
