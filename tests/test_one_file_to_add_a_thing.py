"""A format, a command and a family are added by one file, written into their folder and known everywhere; a step by a file and a line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

import mfconv_nb as mc
from mfconv_nb import formats
from mfconv_nb.cli import commands
from mfconv_nb.cli.main import mfconv
from mfconv_nb.core.errors import InputError, OutputError
from mfconv_nb.formats.known import known_formats
from tests.support import PATIENCE, numbered

Add = Callable[[ModuleType, str, str], None]

# a line of JSON, {name: [dtype, shape]}, then the numbers in its order
FORMAT_FILE = '''
"""plain: a line of JSON, then the numbers."""

import json

from mfconv_nb.core.checkpoint import TensorSpec
from mfconv_nb.core.file_plan import FilePlan, Header, PlacedTensor
from mfconv_nb.formats.fields import TENSOR, Field
from mfconv_nb.formats.format import Format, file_with

MARK = b"PLAIN"


def header_of(source):
    data = source.read(0, source.size)
    at = data.index(b"\\n") + 1
    placed = []
    for name, (dtype, shape) in json.loads(data[len(MARK) : at]).items():
        spec = TensorSpec(name, tuple(shape), dtype)
        placed.append(PlacedTensor(spec, ((at, spec.nbytes),)))
        at += spec.nbytes
    return Header(tuple(placed))


def annotate(source):
    placed = header_of(source).tensors
    yield Field(0, placed[0].extents[0][0], "line of names", "JSON")
    for p in placed:
        yield Field(*p.extents[0], "numbers", p.spec.name, TENSOR, p.spec.name, p.spec.dtype)


def plan_file(name, specs, side):
    line = MARK + json.dumps({s.name: [s.dtype, list(s.shape)] for s in specs}).encode() + b"\\n"
    places, at = {}, len(line)
    for s in specs:
        places[s.name], at = ((at, s.nbytes),), at + s.nbytes
    return FilePlan(name, at, ((0, line),), places)


FORMAT = Format(
    name="plain",
    title="plain text",
    endings=(".plain",),
    order=5,
    looks_like=lambda first, size: first.startswith(MARK),
    open=lambda source: file_with(header_of(source), source, None),
    annotate=annotate,
    plan_file=plan_file,
    in_runs=True,
)
'''

COMMAND_FILE = '''
"""greet: a command."""

import click

SECTION = "Convert"
SUMMARY = "Say hello to somebody."


@click.command("greet")
@click.argument("name")
def greet(name):
    """Say hello."""
    click.echo(f"Hello, {name}.")
'''

FAMILY_FILE = '''
"""One norm."""

from mfconv_nb.mapping.rules import Family, Rule

FAMILY = Family(key="one_norm", covers="a norm", sizes={}, model_types=("one_norm",), rules=(Rule("norm.weight", "norm.gamma"),))
'''


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Puts a module into a package, as a file in its folder would be; afterwards it is gone."""
    added: list[str] = []

    def write(package: ModuleType, name: str, text: str) -> None:
        folder = tmp_path / "added" / package.__name__
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        added.append(f"{package.__name__}.{name}")
        known_formats.cache_clear()

    yield write
    monkeypatch.undo()
    known_formats.cache_clear()
    for name in added:
        sys.modules.pop(name, None)
        package, _, last = name.rpartition(".")
        vars(sys.modules[package]).pop(last, None)


TENSORS = {"a.weight": numbered(3, 5), "b.weight": numbered(4, first=100)}


@pytest.fixture
def plain(add: Add, tmp_path: Path) -> Path:
    """A file of a format that one added file knows."""
    add(formats, "plain", FORMAT_FILE)
    mc.save(mc.load(TENSORS), tmp_path / "x.plain", progress=False)
    return tmp_path / "x.plain"


def test_a_target_with_the_ending_of_an_added_format_is_written_and_read_again(plain: Path) -> None:
    assert plain.read_bytes().startswith(b'PLAIN{"a.weight": ["F32", [3, 5]], "b.weight": ["F32", [4]]}\n')
    again = mc.load(plain)
    assert {name: mc.read(again, name).tolist() for name in again.tensors} == {n: a.tolist() for n, a in TENSORS.items()}


def test_an_added_format_is_told_by_its_first_bytes_and_found_in_a_folder(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "weights.plain").write_bytes(plain.read_bytes())
    assert list(mc.load(folder).tensors) == ["a.weight", "b.weight"]
    (tmp_path / "no_ending").write_bytes(plain.read_bytes())
    assert list(mc.load(tmp_path / "no_ending").tensors) == ["a.weight", "b.weight"]
    assert (tmp_path / "folder" / "weights.plain") in mc.load(folder).files


def test_shards_of_an_added_format_have_an_index(plain: Path, tmp_path: Path) -> None:
    mc.save(mc.load(plain), tmp_path / "s.plain", max_shard_size="60B", progress=False)
    places = json.loads((tmp_path / "s.plain.index.json").read_text())["weight_map"]
    assert places == {"a.weight": "s-00001-of-00002.plain", "b.weight": "s-00002-of-00002.plain"}
    assert mc.diff(plain, tmp_path / "s.plain.index.json", values=True, progress=False).equal


def test_the_anatomy_of_an_added_format_is_shown(plain: Path) -> None:
    shown = str(mc.anatomy(plain))
    assert "plain text" in shown
    assert "line of names" in shown
    assert "2 tensors" in mc.anatomy(plain).summary
    assert any(f.name == "x.plain" and f.format == "plain text" for f in mc.anatomy(plain.parent).files)


def test_the_panel_offers_files_of_an_added_format(plain: Path) -> None:
    assert "*.plain" in mc.panel().chooser.filter_pattern


def test_doctor_names_an_added_format(plain: Path) -> None:
    assert "one plain file" in str(mc.doctor(plain))


def test_messages_list_an_added_format(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.plain"):
        mc.save(mc.load(TENSORS), tmp_path / "x.unknown")
    (tmp_path / "noise").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="plain text"):
        mc.load(tmp_path / "noise")


def test_a_run_may_be_cut_into_files_of_an_added_format_and_opened_again(plain: Path, tmp_path: Path) -> None:
    layout = mc.RankLayout(devices={"tp": 2}, cuts={"b.weight": ("tp",)}, ending=".plain")
    mc.save(mc.load(TENSORS), tmp_path / "run", layout_of_ranks=layout, progress=False)
    assert [p.suffix for p in sorted((tmp_path / "run" / "rank_1").iterdir())] == [".plain"]
    whole = mc.load(tmp_path / "run")
    assert np.array_equal(mc.read(whole, "b.weight"), TENSORS["b.weight"])


def test_a_format_is_gone_with_its_file(tmp_path: Path) -> None:
    assert [f.name for f in known_formats()] == ["safetensors", "torch", "ckpt"]
    with pytest.raises(OutputError, match="MFC407"):
        mc.save(mc.load(TENSORS), tmp_path / "x.plain")


def test_an_added_command_runs_and_stands_in_the_help(add: Add) -> None:
    add(commands, "greet", COMMAND_FILE)
    assert re.search(r"^  greet +Say hello to somebody\.$", CliRunner().invoke(mfconv, ["--help"]).output, re.MULTILINE)
    done = CliRunner().invoke(mfconv, ["greet", "Ada"])
    assert (done.exit_code, done.output) == (0, "Hello, Ada.\n")


IN_A_NEW_PYTHON = """
import numpy as np
import mfconv_nb as mc
from mfconv_nb import families
from mfconv_nb.cli.main import run
families.__path__.append("added")
assert "one_norm" in {f.key for f in mc.known_families()}
source = mc.load({"norm.weight": np.ones(3, np.float32)}, config={"model_type": "one_norm"})
mapped = mc.map(source)
assert (source.side, list(mapped.tensors), mapped.side) == ("hf", ["norm.gamma"], "mf")
run(["families"])
"""


def test_an_added_family_is_known_and_told_by_its_model_type_and_names(tmp_path: Path) -> None:
    """In a Python of its own: what is told by names is remembered for all families at once."""
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "one_norm.py").write_text(FAMILY_FILE)
    code = [sys.executable, "-c", IN_A_NEW_PYTHON]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "one_norm" in done.stdout


STEP_FILE = '''
"""count: how many tensors there are."""

from mfconv_nb.steps.loading.load import Loadable, load


def count(source: Loadable) -> int:
    """How many tensors a checkpoint has."""
    return len(load(source))
'''


def test_a_step_is_added_by_its_file_and_one_line_of_public_names(tmp_path: Path) -> None:
    package = tmp_path / "mfconv_nb"
    shutil.copytree(Path(mc.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "steps" / "inspecting" / "count.py").write_text(STEP_FILE)
    with open(package / "__init__.pyi", "a") as public:
        public.write("from .steps.inspecting.count import count as count\n")
    code = "import numpy as np, mfconv_nb as mc; print(mc.count({'a': np.ones(3)}), 'count' in dir(mc), 'count' in mc.__all__, mc.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "True", "True", str(package / "__init__.py")]
