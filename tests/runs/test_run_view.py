"""The view of a training run, without a browser: every tensor is in one row, and its map, its counts and its numbers are right."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.mapping.kinds import category_of
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.runs.run_view import MOST_RANKS, RunExploration
from mfconv_nb.views.explorer import Explorer
from tests.runs.made import Cut, make_rank_folders, numbered_tensors
from tests.support import text_of

DEVICES = (2, 2)
STATE = {"epoch_num": np.array(1, np.int32), "global_step": np.array(7, np.int32)}


def tensors_of_a_run() -> tuple[dict[str, tuple[int, ...]], dict[str, Cut]]:
    """Four layers over two stages, with optimizer state."""
    shapes: dict[str, tuple[int, ...]] = {}
    cuts: dict[str, Cut] = {}
    for layer in range(4):
        for name, shape, maps in (("wq.weight", (16, 8), (0, -1)), ("wo.weight", (8, 16), (-1, 0)), ("norm.weight", (8,), (-1,))):
            for prefix in ("", "adam_m."):
                whole = f"{prefix}layers.{layer}.{name}"
                shapes[whole], cuts[whole] = shape, Cut(DEVICES, maps, stages=(layer // 2,))
    return shapes, cuts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shapes, cuts = tensors_of_a_run()
    return make_rank_folders(tmp_path / "run", numbered_tensors(shapes), cuts, extra=STATE)


def view_of(run: TrainedRun) -> RunExploration:
    view = run.exploration()  # type: ignore[attr-defined]
    assert isinstance(view, RunExploration)
    return view


def test_every_tensor_is_in_one_row_with_those_cut_alike(folder: Path) -> None:
    run = mc.load(folder).run
    view = view_of(run)
    members = [view.members(row) for row in range(len(view.table.rows))]
    assert sorted(name for names in members for name in names) == sorted(run.tensors)
    assert sum(view.counts.values()) == len(run.tensors)
    assert dict(view.counts) == {"weights": 12, "optimizer": 12, "run state": 2}
    for names, line, status in zip(members, view.table.rows, view.statuses, strict=True):
        assert {category_of(name) for name in names} == {status} == {line[-1]}
        assert {run.tensors[name].shape for name in names} == {run.tensors[names[0]].shape}
    line = next(line for line in view.table.rows if line[0] == "layers.{2‥3}.wq.weight")
    assert line == ("layers.{2‥3}.wq.weight", "16 × 8", "2 of 8 × 8", "4‥7", 1, "weights")
    assert next(line for line in view.table.rows if "{0‥1}.norm" in line[0])[2:4] == ("whole", "0‥3")


def test_a_chosen_tensor_is_drawn_and_its_line_of_python_gives_the_same(folder: Path) -> None:
    run = mc.load(folder).run
    view = view_of(run)
    for row in range(len(view.table.rows)):
        member = view.members(row)[-1]
        shown = view.inspect(row, member)
        assert run.slice_map(member)._repr_html_() in shown
        drawn = eval(view.code(row, member), {"mc": mc})
        assert drawn == run.slice_map(member)


def test_the_line_of_python_opens_the_step_that_is_shown(folder: Path) -> None:
    """A newer step is there by now, of the same names and other numbers of rows."""
    run = mc.load(folder, step="1_1", file_prefix="llama").run
    for path in list(folder.glob("rank_*/*-1_1.safetensors")):
        shutil.copy(path, path.with_name(path.name.replace("-1_1", "-1_2")))
    view = view_of(run)
    assert view.code(0, "layers.3.wq.weight").startswith(f"mc.load({str(folder)!r}, step='1_1', file_prefix='llama').run")
    again = eval(view.code(0, "layers.3.wq.weight").partition(".run")[0], {"mc": mc})
    assert again.run.chosen == run.chosen


def test_ranks_and_steps_stand_above_the_rows_and_stay(folder: Path) -> None:
    view = view_of(mc.load(folder).run)
    widget = Explorer(view)
    head = text_of(widget.head.value)
    assert re.search(r"rank\s+1_1 ←\s+0\s+✓", head)
    assert head.count("✓") == 8
    widget.table.picked = 0
    assert "<svg" in widget.inspector.value
    assert text_of(widget.head.value) == head


def test_the_numbers_of_a_chosen_tensor_are_those_of_the_whole(folder: Path) -> None:
    shapes, _ = tensors_of_a_run()
    whole = numbered_tensors(shapes)["layers.3.wq.weight"]
    view = view_of(mc.load(folder).run)
    assert view.nbytes("layers.3.wq.weight", False) == whole.nbytes
    said = text_of(view.measure("layers.3.wq.weight", False, lambda _: None, threading.Event()))
    assert f"{whole.max():g}" in said
    assert f"{whole.min():g}" in said


def test_a_run_that_is_not_whole_is_shown_with_what_is_wrong(folder: Path) -> None:
    for rank in (1, 3):
        next((folder / f"rank_{rank}").glob("*.safetensors")).unlink()
    run = mc.doctor(folder).run
    assert run is not None
    view = view_of(run)
    assert view.table.verdict == "✗ Not a whole checkpoint."
    for row in range(len(view.table.rows)):
        for member in view.members(row):
            view.inspect(row, member)
            assert view.nbytes(member, False) == 0


def run_with_steps(steps: dict[int, tuple[Step, ...]]) -> TrainedRun:
    return TrainedRun(Path(), "", steps, chosen=Step(None, 2), tensors={})


def test_many_ranks_are_folded_by_the_steps_they_have() -> None:
    first, second = Step(None, 1), Step(None, 2)
    table = run_with_steps({rank: (first,) if rank in (100, 101) else (first, second) for rank in range(256)}).table(MOST_RANKS)
    assert [column.title for column in table.columns] == ["rank", "1", "2 ←"]
    assert table.rows == [("0‥99", "✓", "✓"), ("100‥101", "✓", "–"), ("102‥255", "✓", "✓")]
    assert table.row_noun == "groups of ranks"
    few = run_with_steps(dict.fromkeys(range(MOST_RANKS), (first,))).table(MOST_RANKS)
    assert [row[0] for row in few.rows] == list(range(MOST_RANKS))


def test_more_groups_of_ranks_than_there_are_rows_are_counted() -> None:
    first, second = Step(None, 1), Step(None, 2)
    run = run_with_steps({rank: (first,) if rank % 4 else (first, second) for rank in range(60)})
    above = text_of(RunExploration(run, {}).above())
    assert re.search(r"1‥3\s+✓\s+–", above)
    assert f"{30 - MOST_RANKS} more groups of ranks" in above
