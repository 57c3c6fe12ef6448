"""README.md and README_CN.md are true: what they show is run as typed, in an empty folder, and the output compared.

A line of three dots stands for any lines. Times may vary: every `0.01 s` stands for any number of seconds. Nothing else may.
"""

import doctest
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import mfconv_nb as mc
from mfconv_nb.cli.commands.convert import convert
from mfconv_nb.families.registry import known_families
from tests.docs.support import ROOT, blocks, page
from tests.quantised import as_raws, by_blocks, fp8
from tests.support import PATIENCE, raws_in, write_hf
from tests.toys import arrays_of

PAGES = ("README.md", "README_CN.md")
ENVIRONMENT = {"COLUMNS": "100", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
EXIT_CODES = {"✗ Refused.": 2, "✗ Not equal.": 1, "! Incomplete.": 1}


def commands(block: str) -> list[tuple[str, str]]:
    """Each command with the output that the page shows under it."""
    parts = re.split(r"^\$ ", block, flags=re.M)[1:]
    return [tuple(part.split("\n", 1)) for part in parts]


def pattern_of(shown: str) -> re.Pattern[str]:
    """A regular expression for the output that a page shows."""
    lines = [r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in shown.rstrip("\n").split("\n") if shown.strip()]
    return re.compile(re.sub(r"\d+(?:\\\.\d+)?\\ s\b", r"\\d+(?:\\.\\d+)?\\ s", "".join(lines)))


class AsShown(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return pattern_of(want).fullmatch(got) is not None


def run_console_blocks(name: str, folder: Path) -> None:
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks(name, "console"):
        for command, shown in commands(block):
            done = subprocess.run(
                command, shell=True, cwd=folder, env=environment, stdout=-1, stderr=subprocess.STDOUT, encoding="utf-8", timeout=PATIENCE
            )
            expected_code = next((code for words, code in EXIT_CODES.items() if words in shown), 0)
            assert done.returncode == expected_code, f"{command}\n{done.stdout}"
            assert pattern_of(shown).fullmatch(done.stdout), f"$ {command}\nshown:\n{shown}\nprinted:\n{done.stdout}"


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_python_lines_print_what_the_page_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_console_blocks(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    names: dict[str, object] = {}
    assert blocks(name, "python")
    for number, block in enumerate(blocks(name, "python")):
        test = doctest.DocTestParser().get_doctest(block, names, f"{name}, block {number}", name, 0)
        assert test.examples
        report: list[str] = []
        result = doctest.DocTestRunner(checker=AsShown()).run(test, out=report.append, clear_globs=False)
        names = test.globs
        assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", [*PAGES, "docs/quantised.md", "docs/quantised.zh.md"])
def test_the_two_lines_for_a_published_deepseek_give_its_bytes_again(name: str, tmp_path: Path) -> None:
    made = mc.toy("deepseek3", dtype="bf16")
    stored = arrays_of(made)
    for weight in [n for n in stored if n.endswith("_proj.weight")]:
        stored[weight], stored[f"{weight}_scale_inv"], _ = fp8(stored[weight], (32, 32))
    write_hf(tmp_path / "DeepSeek-V3", as_raws(stored), {**made.config, **by_blocks(32)})
    lines = next(block for block in blocks(name, "sh") if "DeepSeek-V3/" in block)
    assert len(re.findall("^mfconv convert ", lines, flags=re.M)) == 2
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(f"set -e\n{lines}", shell=True, cwd=tmp_path, env=environment, check=True, timeout=PATIENCE)
    assert {tensor.dtype for tensor in mc.load(tmp_path / "v3.ckpt")} == {"BF16", "F32"}
    assert raws_in(tmp_path / "back") == raws_in(tmp_path / "DeepSeek-V3")


def test_a_page_that_shows_something_else_would_be_noticed() -> None:
    printed = "✓ Converted. 39 tensors, 764 KiB, 1 file, 0.03 s. Way back: exact.\n  manifest: x\n"
    assert pattern_of("✓ Converted. 39 tensors, 764 KiB, 1 file, 0.01 s. Way back: exact.\n...\n").fullmatch(printed)
    assert not pattern_of("✓ Converted. 38 tensors, 764 KiB, 1 file, 0.01 s. Way back: exact.\n...\n").fullmatch(printed)
    assert not pattern_of("✓ Converted. 39 tensors, 764 KiB, 1 file, 0.01 s. Way back: exact.\n").fullmatch(printed)


def test_both_languages_show_the_same_commands_and_outputs() -> None:
    def bare(name: str) -> list[list[tuple[str, str]]]:
        return [[(c.partition("#")[0].strip(), out) for c, out in commands(b)] for b in blocks(name, "console")]

    assert bare("README.md") == bare("README_CN.md")


def test_both_languages_have_the_same_sections_in_the_same_order() -> None:
    english, chinese = (re.findall(r"^#+ ", page(name), flags=re.M) for name in PAGES)
    assert english == chinese


@pytest.mark.parametrize("name", PAGES)
def test_the_table_of_flags_names_every_option_of_convert_and_no_other(name: str) -> None:
    rows = re.findall(r"^\| (`--.*?) \|", page(name), flags=re.M)
    named = {flag for row in rows for flag in re.findall(r"--\w+", row)}
    known = {opt for p in convert.params for opt in p.opts if opt.startswith("--") and "-" not in opt[2:]}
    assert named == known | {"--quiet"} & named


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_parts_are_up_to_date(name: str) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate
    finally:
        sys.path.remove(str(ROOT / "docs"))
    assert generate.page(name) == page(name), "run make docs"


@pytest.mark.parametrize("name", PAGES)
def test_every_family_that_is_known_is_in_the_table(name: str) -> None:
    assert re.findall(r"^\| `(\w[\w.-]*)` \|", page(name), flags=re.M) == [f.key for f in known_families()]


@pytest.mark.parametrize("name", [*PAGES, "docs/errors.md", "docs/errors.zh.md"])
def test_every_link_leads_to_a_file_of_the_project(name: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page(name))
    missing = [t for t in targets if not t.startswith("http") and not ((ROOT / name).parent / t).exists()]
    assert targets
    assert missing == []


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_that_the_page_names_exists(name: str) -> None:
    makefile = page("Makefile")
    for target in re.findall(r"\bmake (\w+)\b", page(name)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
