"""The notebook on training runs does what its text says: the table, the map, four refusals, equal output, and the way back to slices."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mfconv_nb as mc
from demo.page import page_html
from mfconv_nb.cli.main import run
from mfconv_nb.core.errors import CODES
from tests.docs.support import ROOT, code_cells, prose

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.real_frameworks

NOTEBOOK = ROOT / "notebooks" / "from_training_to_hugging_face.ipynb"


def outputs_of(notebook: Any, word: str, kind: str = "text/plain") -> str:
    """What the one cell with this word shows."""
    (cell,) = [c for c in code_cells(notebook) if word in c.source]
    return "\n".join(o.get("data", {}).get(kind, o.get("text", "") if kind == "text/plain" else "") for o in cell.outputs).strip()


def refusal_of(notebook: Any, word: str) -> tuple[str, str, str, str]:
    """Code, what was found, what was expected, and what to do, of the message that a cell prints."""
    shown = outputs_of(notebook, word)
    match = re.fullmatch(r"(MFC\d{3}) .*\n  found     (.*)\n  expected  (.*)\n  hint      (.*)", shown)
    assert match, shown
    assert match[1] in CODES
    return match[1], match[2], match[3], match[4]


@pytest.fixture(scope="module")
def kept(ran: tuple[Any, Path]) -> Iterator[Path]:
    """The folder of the notebook as it is after the cell with the flipped bit."""
    names: dict[str, Any] = {"__name__": "training"}
    for cell in code_cells(ran[0]):
        exec(compile(cell.source, NOTEBOOK.name, "exec"), names)
        if "from_flipped" in cell.source:
            break
    yield names["folder"]
    names["scratch"].cleanup()


def test_every_cell_but_the_imports_shows_something_and_none_complains(ran: tuple[Any, Path]) -> None:
    first, *others = code_cells(ran[0])
    assert first.outputs == []
    for cell in others:
        kinds = {o.output_type for o in cell.outputs}
        assert kinds, cell.source
        assert kinds <= {"execute_result", "display_data", "stream"}
        assert [o for o in cell.outputs if o.get("name") == "stderr"] == [], cell.source


def test_nothing_is_left_behind(ran: tuple[Any, Path]) -> None:
    assert list(ran[1].iterdir()) == []


def test_the_run_is_as_large_as_the_text_says(ran: tuple[Any, Path]) -> None:
    assert outputs_of(ran[0], "mc.toy(") == "8"
    assert "A small Llama on eight ranks" in prose(ran[0])


def test_the_doctor_finds_it_ready_and_shows_ranks_and_steps(ran: tuple[Any, Path]) -> None:
    first, ahead = [c for c in code_cells(ran[0]) if c.source.endswith("mc.doctor(run, config=original)")]
    assert first.outputs[0].data["text/plain"].startswith("✓ Ready.")
    assert "optimizer, run state: left out of a Hugging Face folder" in first.outputs[0].data["text/plain"]
    assert marks(first)[0] == ["rank", "1_100", "1_200 ←"]
    assert marks(first)[1:] == [[str(rank), "✓", "✓"] for rank in range(8)]
    assert marks(ahead)[0] == ["rank", "1_100", "1_200 ←", "1_300"]
    assert marks(ahead)[1:] == [[str(rank), "✓", "✓", "✓" if rank == 3 else "–"] for rank in range(8)]
    assert "step 1_300 is newer but not complete, and not read" in ahead.outputs[0].data["text/plain"]


def marks(cell: Any) -> list[list[str]]:
    """The last table of what a cell shows: its titles and its rows."""
    shown = "".join(o.get("data", {}).get("text/html", "") for o in cell.outputs)
    table = re.findall(r"<table.*?</table>", shown, re.S)[-1]
    rows = re.findall(r"<tr>.*?</tr>", table, re.S)
    return [[html.unescape(re.sub("<[^>]*>", "", each)) for each in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)] for row in rows]


def test_the_map_of_the_text_is_drawn(ran: tuple[Any, Path]) -> None:
    word = 'slice_map("model.layers.3.attention.wo.weight")'
    assert outputs_of(ran[0], word).split("\n")[1:] == ["  [0:96, 0:60]    ranks 4, 6", "  [0:96, 60:120]  ranks 5, 7"]
    assert "Ranks 4 and 6 hold the same half" in prose(ran[0])
    drawn = outputs_of(ran[0], word, "text/html")
    assert drawn.count("<rect") == 1 + 2
    assert "pipeline stage 1" in drawn


def test_a_mixed_folder_is_refused_by_the_counters_inside(ran: tuple[Any, Path]) -> None:
    code, found, _, hint = refusal_of(ran[0], 'mixed = folder / "mixed"')
    assert (code, found) == ("MFC112", "global_step is 200 on rank 0 and 100 on rank 5")
    assert "fetch those of one step" in hint


def test_one_bit_in_a_copy_is_refused_and_no_output_is_left(ran: tuple[Any, Path], kept: Path) -> None:
    code, found, expected, _ = refusal_of(ran[0], "from_flipped")
    assert (code, found) == ("MFC308", "1 of 31,776 numbers differ")
    assert "ranks 4 and 6 hold the same slice" in expected
    assert (kept / "flipped").is_dir()
    assert [path.name for path in kept.iterdir() if "from_flipped" in path.name and path.suffix != ".mfconv"] == []


def test_the_strategy_of_another_run_is_refused_by_the_config(ran: tuple[Any, Path]) -> None:
    code, found, expected, hint = refusal_of(ran[0], 'folder / "other"')
    assert code == "MFC113"
    assert found.startswith("[240, 96]")  # twice what it was
    assert expected == "[120, 96], as the config says"
    assert "another run" in hint


def test_the_output_is_equal_to_the_last_bit_and_both_ways_are_proved(ran: tuple[Any, Path]) -> None:
    assert outputs_of(ran[0], "torch.equal(") == "True"
    assert outputs_of(ran[0], 'mc.save(mc.map(trained), folder / "hf")').startswith("✓ Converted. 39 tensors")
    assert outputs_of(ran[0], 'only="weights"').startswith("✓ Equal. 39 of 39 tensors bitwise equal")
    assert outputs_of(ran[0], 'mc.verify(original, folder / "start")').startswith("✓ Equal. 39 of 39 tensors bitwise equal")
    assert "/start, Checkpoint 2.0, step 0" in outputs_of(ran[0], 'mc.verify(original, folder / "start")')


def test_the_page_holds_the_map_and_needs_no_script(ran: tuple[Any, Path]) -> None:
    page = page_html(ran[0], "From training")
    assert page.count('class="mfconv-drawing"') >= 2
    assert not re.search(r"<script|<iframe|<link|https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page, flags=re.I)


def test_the_commands_of_the_text_work_as_written(
    ran: tuple[Any, Path], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "output").mkdir()
    shutil.copytree(kept / "run", tmp_path / "output" / "checkpoint")
    shutil.copytree(kept / "original", tmp_path / "Llama-3.1-8B")
    (tmp_path / "layout.json").write_text(json.dumps({"devices": {"dp": 2, "tp": 2}, "cuts": {"*.wq.weight": ["tp", None]}}))
    monkeypatch.chdir(tmp_path)
    text = "\n".join(cell.source for cell in ran[0].cells if cell.cell_type == "markdown")
    commands = [line.split()[1:] for line in text.split("\n") if line.startswith("mfconv ")]
    assert [command[0] for command in commands] == ["doctor", "convert", "verify", "convert", "save"]
    for command in commands:
        assert run(command) == 0, capsys.readouterr()
    assert mc.diff("hf", kept / "original", values=True, progress=False).equal
    assert mc.verify("Llama-3.1-8B", "start", progress=False).equal
