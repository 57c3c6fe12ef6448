"""The notebook on a new architecture does what its text says: the weights load, the output is wrong, and one rule puts it right."""

import html
import re
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from demo.page import page_html
from mfconv_nb.author.suggesting.answering import GUESS
from mfconv_nb.cli.main import run
from mfconv_nb.families.user_families import family_in_file
from tests.docs.support import ROOT, code_cells, prose

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("mindspore", reason="mindspore is not installed")
pytestmark = pytest.mark.real_frameworks

NOTEBOOK = ROOT / "notebooks" / "adapt_a_new_architecture.ipynb"
FLOAT = r"(\d\.\d+(?:e[+-]\d+)?)"


def shown_by(notebook: Any, ending: str) -> str:
    """The plain text of what the one cell that ends like this shows."""
    (cell,) = [c for c in code_cells(notebook) if c.source.endswith(ending)]
    texts = [o.get("data", {}).get("text/plain", o.get("text", "")) for o in cell.outputs]
    return "\n".join(texts).strip()


def distance(text: str) -> tuple[float, float, int]:
    """The largest difference of the logits, the largest logit, and per cent of the words on which both networks agree."""
    found = re.fullmatch(rf"'largest difference {FLOAT} \(logits reach {FLOAT}\), same word (\d+)%'", text)
    assert found, text
    return float(found[1]), float(found[2]), int(found[3])


def sources(notebook: Any) -> list[str]:
    return [cell.source for cell in code_cells(notebook)]


@pytest.fixture(scope="module")
def kept(ran: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it at the end: the checkpoint of the first cells, and the file of rules as the notebook printed it."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "my_neox.py").write_text(shown_by(ran[0], "print(family_path.read_text())") + "\n", encoding="utf-8")
    names: dict[str, Any] = {"__name__": "adapt"}
    for source in sources(ran[0])[:2]:
        exec(compile(source, NOTEBOOK.name, "exec"), names)
    names["model"].save_pretrained(folder / "neox")
    names["scratch"].cleanup()
    return folder


def test_no_cell_complains_and_only_the_imports_show_nothing(ran: tuple[Any, Path]) -> None:
    first, *others = code_cells(ran[0])
    assert first.outputs == []
    for cell in others:
        kinds = {o.output_type for o in cell.outputs}
        assert kinds == ({"stream"} if "print(" in cell.source else kinds & {"execute_result", "display_data"}), cell.source
        assert kinds, cell.source
        assert [o for o in cell.outputs if o.get("name") == "stderr"] == [], cell.source


def test_nothing_is_left_behind(ran: tuple[Any, Path]) -> None:
    assert list(ran[1].iterdir()) == []


def test_the_draft_has_a_rule_for_everything_and_its_four_guesses_are_those_of_the_text(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "\ndraft")
    assert shown.startswith("✓ Every name has a rule. 16 rules: 12 likely, 4 guess")
    assert "not those of the same model: they were not asked" in shown
    assert shown.count(GUESS) == 2 + 4  # in the headline, in the fact below it, and in the rows
    assert "The four guesses of the draft are the first place to look" in prose(ran[0])
    lines = [line for line in shown.split("\n")[1:] if line.endswith(GUESS)]
    assert [re.findall(r"qkv|w1", line)[0] for line in lines] == ["qkv", "qkv", "w1", "w1"]


def test_headers_agree_and_yet_the_first_logits_differ(ran: tuple[Any, Path]) -> None:
    assert shown_by(ran[0], 'mc.diff(mc.map(source, draft.family("neox")), network)').startswith("✓ Headers agree. 40 of 40 tensors")
    difference, reach, same = distance(shown_by(ran[0], "\nbefore"))
    assert difference > 0.1 * reach  # no rounding: a tenth of the logits themselves
    assert same < 100


def test_probe_names_the_order_that_the_text_explains(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "# what it got, and what it should have got")
    assert shown.startswith("≈ Equal in another order. q, k, v in 6 turns as end to end")
    assert "(turns (q_part + k_part + v_part)) columns" in shown


def test_the_editor_has_a_row_for_every_name_before_and_after(ran: tuple[Any, Path]) -> None:
    before, after = shown_by(ran[0], "\neditor"), shown_by(ran[0], "\neditor.report")
    for shown in (before, after):
        assert shown.startswith("✓ Every name has a row. 16 rows: 40 hf and 40 mf matched, 0 unmatched hf, 0 unmatched mf, 0 ambiguous")
    numbers = [re.search(r"(\d+)   gpt_neox", line) for line in after.split("\n") if "attention.qkv" in line]
    assert [found[1] for found in numbers if found] == ["7", "8"]
    assert "Rows 7 and 8 are to be changed" in prose(ran[0])
    assert "(heads (q + k + v))" in after
    assert "(heads (q + k + v))" not in before


def test_the_proof_passes_and_every_mistake_is_noticed(ran: tuple[Any, Path]) -> None:
    shown = shown_by(ran[0], "\nproof")
    found = re.match(r"✓ Proved\. my_neox: 1 form, (\d+) mistakes noticed: (\d+) by names, (\d+) by numbers", shown)
    assert found
    assert int(found[1]) == int(found[2]) + int(found[3]) > 20
    assert "✗" not in shown
    assert all(f"Noticed: {what}" in shown for what in ("rule dropped", "parts reordered", "wrong head count"))


def test_rules_in_the_order_of_the_checkpoint_could_be_proved_just_as_well(kept: Path, tmp_path: Path) -> None:
    text = (kept / "my_neox.py").read_text(encoding="utf-8")
    wrong = text.replace("(heads (q + k + v))", "(heads q + heads k + heads v)")
    assert wrong != text
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    assert repr(mc.author.prove(family_in_file(tmp_path / "wrong.py"))).startswith("✓ Proved.")


def test_the_last_logits_agree_up_to_rounding(ran: tuple[Any, Path]) -> None:
    difference, reach, same = distance(shown_by(ran[0], "\nafter"))
    assert difference < 1e-5
    assert reach > 0.01
    assert same == 100
    assert distance(shown_by(ran[0], "\nbefore"))[0] > 1000 * difference


def test_the_way_back_is_equal(ran: tuple[Any, Path]) -> None:
    assert shown_by(ran[0], "family_path)").startswith("✓ Equal. 40 of 40 tensors bitwise equal")


def test_the_file_of_rules_and_the_commands_of_the_last_cell_work_as_written(
    ran: tuple[Any, Path], kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(kept)
    text = "\n".join(cell.source for cell in ran[0].cells if cell.cell_type == "markdown")
    commands = [line.split()[1:] for line in text.split("\n") if line.startswith("mfconv ")]
    assert [command[0] for command in commands] == ["prove", "convert", "verify", "convert"]
    for command in commands:
        assert run(command) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert all(verdict in printed for verdict in ("✓ Proved.", "✓ Converted.", "✓ Equal."))
    back = mc.diff("neox", "back", values=True, progress=False)
    assert back.equal
    assert len(back.entries) == 40


def test_the_page_of_the_notebook_needs_no_script_and_no_network(ran: tuple[Any, Path]) -> None:
    page = page_html(ran[0], "Adapt")
    assert all(verdict in html.unescape(page) for verdict in ("✓ Proved.", "✓ Equal.", "✓ Headers agree."))
    assert len(page) < 400_000
    shown = [o["data"].get("text/html", "") for cell in code_cells(ran[0]) for o in cell.outputs if "data" in o]
    for each in shown:
        assert not re.search(r"<script|<iframe|javascript:|@import|url\(", each, flags=re.I)
