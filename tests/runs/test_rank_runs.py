"""Folders of ranks that several runs wrote into: the files of one run are read, where something tells which they are, or none."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.runs.rank_folders import open_rank_folders
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.made import Cut, make_rank_folders, numbered_tensors

Arrays = Mapping[str, np.ndarray[Any, Any]]
SHAPES = {"layers.0.w.weight": (8, 4), "layers.0.norm.weight": (4,), "layers.1.w.weight": (8, 4), "layers.1.norm.weight": (4,)}
FIRST, SECOND, THIRD = (numbered_tensors(SHAPES, first=n) for n in (0, 1000, 2000))


def cuts(devices: tuple[int, ...], stages: int = 1) -> dict[str, Cut]:
    """Matrices cut over the last dimension of the devices, norms whole on each; layer 1 is of the last stage."""
    by_axes = {2: (0, -1), 1: (-1,)}
    return {n: Cut(devices, by_axes[len(s)], stages=(int(".1." in n) * (stages - 1),)) for n, s in SHAPES.items()}


APART = cuts((1,), stages=2)  # two stages of one rank: no rank holds a copy of anything
COPIED = cuts((2, 1), stages=2)  # two stages of two ranks that hold the same
TENSOR_PARALLEL = cuts((2,))  # two ranks: halves of the matrices, the norms whole on both


def save(folder: Path, tensors: Arrays, cut: Mapping[str, Cut], numbers: Mapping[int, int], *, step: int = 10, **more: Any) -> Path:
    """What one run leaves; ``numbers``: for each rank how many runs had written into its folder before."""
    for rank, number in numbers.items():
        name = "{prefix}_rank_{rank}" + f"_{number}" * (number > 0) + "-{epoch}_{step}.{ending}"
        make_rank_folders(folder, tensors, cut, ranks=[rank], step=step, strategy="json", name=name, **more)
    return folder


def without_meta(folder: Path) -> Path:
    for path in folder.glob("rank_*/meta.json"):
        path.unlink()
    return folder


def assert_is(run: TrainedRun, tensors: Arrays) -> None:
    assert not run.problems, str(run.problems[0])
    assert {n: read_tensor(t.whole()).tobytes() for n, t in run.tensors.items() if n in SHAPES} == {
        n: a.tobytes() for n, a in tensors.items()
    }


def refusal(run: TrainedRun) -> str:
    assert [p.code for p in run.problems] == ["MFC112"]
    assert not run.tensors
    return str(run.problems[0])


def test_a_rank_with_a_run_more_than_another_is_refused_where_nothing_tells_and_right_once_the_other_run_is_moved_away(
    tmp_path: Path,
) -> None:
    save(tmp_path, FIRST, APART, {0: 0})
    without_meta(save(tmp_path, SECOND, APART, {0: 1, 1: 0}))
    said = refusal(open_rank_folders(tmp_path))
    for name in ("llama_rank_0-1_10", "llama_rank_0_1-1_10", "llama_rank_1-1_10", "Move the files of the other runs out"):
        assert name in said
    (tmp_path / "rank_0" / "llama_rank_0-1_10.safetensors").unlink()
    run = open_rank_folders(tmp_path)
    assert_is(run, SECOND)
    assert "one file of the step on each rank" in " ".join(run.assumed)


def test_no_other_step_is_read_unasked_where_the_runs_of_the_newest_are_not_told_and_the_hint_names_one(tmp_path: Path) -> None:
    save(tmp_path, FIRST, APART, {0: 0, 1: 0}, step=5)
    save(tmp_path, FIRST, APART, {0: 0})
    without_meta(save(tmp_path, SECOND, APART, {0: 1, 1: 0}))
    assert "--step 1_5" in refusal(open_rank_folders(tmp_path))
    assert_is(open_rank_folders(tmp_path, step=Step(1, 5)), FIRST)


def test_copies_tell_the_run(tmp_path: Path) -> None:
    save(tmp_path, FIRST, COPIED, {0: 0})
    without_meta(save(tmp_path, SECOND, COPIED, {0: 1, 1: 0, 2: 0, 3: 0}))
    run = open_rank_folders(tmp_path)
    assert_is(run, SECOND)
    assert "those of ranks with one are taken as of the same run" in " ".join(run.assumed)  # the second stage has no copy of the first


def test_copies_tell_nothing_of_a_stage_that_they_are_not_in(tmp_path: Path) -> None:
    save(tmp_path, FIRST, COPIED, {0: 0, 2: 0, 3: 0})
    without_meta(save(tmp_path, SECOND, COPIED, {0: 1, 1: 0, 2: 1, 3: 1}))
    refusal(open_rank_folders(tmp_path))


def test_copies_that_are_equal_in_both_runs_tell_nothing(tmp_path: Path) -> None:
    frozen = {n: np.ones_like(a) if "norm" in n else a for n, a in FIRST.items()}
    trained = {n: frozen[n] if "norm" in n else a for n, a in SECOND.items()}
    save(tmp_path, frozen, TENSOR_PARALLEL, {0: 0})
    without_meta(save(tmp_path, trained, TENSOR_PARALLEL, {0: 1, 1: 0}))
    refusal(open_rank_folders(tmp_path))


def test_of_copies_those_count_that_were_trained(tmp_path: Path) -> None:
    cut = TENSOR_PARALLEL | {"bias": Cut((2,), (-1,))}
    frozen = {n: np.ones_like(a) for n, a in FIRST.items() if "norm" in n}
    first, second = FIRST | frozen | {"bias": np.arange(4.0)}, SECOND | frozen | {"bias": np.arange(4.0) + 1}
    save(tmp_path, first, cut, {0: 0})
    without_meta(save(tmp_path, second, cut, {0: 1, 1: 0}))
    assert_is(open_rank_folders(tmp_path), {n: second[n] for n in SHAPES})


def test_without_strategy_files_what_every_rank_holds_whole_tells_the_run(tmp_path: Path) -> None:
    """Which ranks hold copies of a slice is not known then: here 0 and 1 do, where tensor parallelism would have 0 and 2."""
    outer = {n: Cut((2, 2), (1, -1) if len(s) == 2 else (-1,)) for n, s in SHAPES.items()}
    save(tmp_path, FIRST, outer, {0: 0})
    without_meta(save(tmp_path, SECOND, outer, {0: 1, 1: 0, 2: 0, 3: 0}))
    shutil.rmtree(tmp_path / "strategy")
    assert_is(open_rank_folders(tmp_path, shapes=SHAPES, digest=lambda t: read_tensor(t).tobytes()), SECOND)


def test_counters_tell_the_run_over_stages(tmp_path: Path) -> None:
    """A run that goes on where another ended counts on; its files begin at step 1 again."""
    save(tmp_path, FIRST, APART, {0: 0}, extra={"step_num": np.array([10], np.int32)})
    without_meta(save(tmp_path, SECOND, APART, {0: 1, 1: 0}, extra={"step_num": np.array([20], np.int32)}))
    run = open_rank_folders(tmp_path)
    assert_is(run, SECOND)
    assert not run.assumed
    assert "of one run, as copies and counters show: llama_rank_0_1-1_10.safetensors, llama_rank_1-1_10.safetensors" in " ".join(run.notes)


def test_the_latest_of_two_runs_is_told_by_copies_whatever_their_numbers_are(tmp_path: Path) -> None:
    save(tmp_path, FIRST, TENSOR_PARALLEL, {0: 0, 1: 2})
    without_meta(save(tmp_path, SECOND, TENSOR_PARALLEL, {0: 2, 1: 3}))
    run = open_rank_folders(tmp_path)
    assert_is(run, SECOND)
    assert not run.assumed


def test_a_run_that_only_one_of_two_copies_has_is_read_from_that_one(tmp_path: Path) -> None:
    copies = cuts((2, 1))
    save(tmp_path, FIRST, copies, {0: 0, 1: 0})
    without_meta(save(tmp_path, SECOND, copies, {0: 1}))
    assert_is(open_rank_folders(tmp_path), SECOND)


def test_whole_copies_of_three_runs_are_refused_where_no_rank_tells_which_is_the_last(tmp_path: Path) -> None:
    copies = cuts((2, 1))
    save(tmp_path, FIRST, copies, {0: 0})
    save(tmp_path, SECOND, copies, {0: 1})
    without_meta(save(tmp_path, THIRD, copies, {1: 0}))
    refusal(open_rank_folders(tmp_path))


def test_what_ranks_count_on_their_own_tells_nothing(tmp_path: Path) -> None:
    name = "layers.0.mlp.router.fi_accu"
    save(tmp_path, FIRST, TENSOR_PARALLEL, {0: 0}, extra={name: np.array([1, 2], np.float32)})
    save(tmp_path, SECOND, TENSOR_PARALLEL, {0: 1}, extra={name: np.array([3, 4], np.float32)})
    without_meta(save(tmp_path, SECOND, TENSOR_PARALLEL, {1: 0}, extra={name: np.array([5, 6], np.float32)}))
    assert_is(open_rank_folders(tmp_path), SECOND)


def test_the_last_file_that_every_rank_names_is_taken_and_said(tmp_path: Path) -> None:
    save(tmp_path, FIRST, APART, {0: 0})
    save(tmp_path, SECOND, APART, {0: 1, 1: 0})
    run = open_rank_folders(tmp_path)
    assert_is(run, SECOND)
    assert "meta.json of each rank" in " ".join(run.assumed)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"last_ckpt_file": 3}', '{"last_ckpt_file": "llama_rank_1_1-1_10.safetensors"}'])
def test_a_rank_that_does_not_name_its_last_file_leaves_it_open(content: str | None, tmp_path: Path) -> None:
    save(tmp_path, FIRST, APART, {0: 0})
    save(tmp_path, SECOND, APART, {0: 1, 1: 0})
    meta = tmp_path / "rank_1" / "meta.json"
    meta.unlink() if content is None else meta.write_text(content)
    refusal(open_rank_folders(tmp_path))


def test_the_last_files_do_not_count_where_copies_contradict_them(tmp_path: Path) -> None:
    save(tmp_path, FIRST, APART, {0: 0})
    save(tmp_path, SECOND, APART, {0: 1, 1: 0}, extra={"global_step": np.array([7], np.int32)})
    make_rank_folders(tmp_path, SECOND, APART, ranks=[1], step=10, strategy="json", extra={"global_step": np.array([8], np.int32)})
    refusal(open_rank_folders(tmp_path))


def test_of_runs_that_all_ranks_count_alike_the_latest_is_taken_and_said(tmp_path: Path) -> None:
    save(tmp_path, FIRST, APART, {0: 0, 1: 0})
    without_meta(save(tmp_path, SECOND, APART, {0: 1, 1: 1}))
    run = open_rank_folders(tmp_path)
    assert_is(run, SECOND)
    assert "under the same numbers; taken is the latest" in " ".join(run.assumed)


def test_runs_that_are_counted_alike_are_refused_where_copies_show_that_they_are_not_the_same(tmp_path: Path) -> None:
    save(tmp_path, FIRST, TENSOR_PARALLEL, {0: 0})
    save(tmp_path, SECOND, TENSOR_PARALLEL, {0: 1, 1: 0})
    without_meta(save(tmp_path, THIRD, TENSOR_PARALLEL, {1: 1}))
    assert_is(open_rank_folders(tmp_path), SECOND)  # the copies show that rank 0 has no file of the third run
    shutil.copy(tmp_path / "rank_1" / "llama_rank_1_1-1_10.safetensors", tmp_path / "rank_1" / "llama_rank_1-1_10.safetensors")
    refusal(open_rank_folders(tmp_path))


def test_a_save_that_broke_off_does_not_count_where_the_rank_has_a_whole_one(tmp_path: Path) -> None:
    save(tmp_path, FIRST, APART, {0: 0, 1: 0})
    without_meta(save(tmp_path, SECOND, APART, {0: 1}))
    path = tmp_path / "rank_0" / "llama_rank_0_1-1_10.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert_is(open_rank_folders(tmp_path), FIRST)


def test_single_files_of_different_runs_are_refused_where_they_hold_other_copies(tmp_path: Path) -> None:
    save(tmp_path, FIRST, TENSOR_PARALLEL, {0: 0})
    without_meta(save(tmp_path, SECOND, TENSOR_PARALLEL, {1: 1}))
    refusal(open_rank_folders(tmp_path))


def test_folders_that_were_used_another_number_of_times_are_said_also_where_the_step_has_one_file_on_each(tmp_path: Path) -> None:
    """Rank 0 lost a file of the second run, rank 1 all of the first: then both have one file under no number, of two runs."""
    save(tmp_path, FIRST, APART, {0: 0})
    save(tmp_path, SECOND, APART, {0: 1, 1: 0}, step=5)
    without_meta(save(tmp_path, FIRST, APART, {1: 0}))
    assert "one file of the step on each rank, taken as of one run" in " ".join(open_rank_folders(tmp_path).assumed)
    assert not open_rank_folders(save(tmp_path / "alike", FIRST, APART, {0: 0, 1: 0})).assumed


def test_of_two_formats_that_of_the_later_run_is_read(tmp_path: Path) -> None:
    save(tmp_path, FIRST, APART, {0: 0, 1: 0})
    save(tmp_path, SECOND, APART, {0: 1, 1: 1})
    for path in sorted(tmp_path.glob("rank_*/llama_rank_?_1-1_10.safetensors")):
        mc.save(mc.load(path), path.with_suffix(".ckpt"))
        path.unlink()
    assert_is(open_rank_folders(tmp_path), SECOND)


def test_files_of_one_step_under_other_names_on_each_rank_are_refused_with_the_names(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, FIRST, APART, ranks=[0], strategy="json")
    make_rank_folders(tmp_path, FIRST, APART, ranks=[1], strategy="json", prefix="qwen")
    said = refusal(open_rank_folders(tmp_path))
    assert "'llama_rank_0-1_1.safetensors', 'qwen_rank_1-1_1.safetensors'" in said
    assert "files of one prefix and ending at step 1_1 on all ranks" in said


def test_a_number_at_the_end_of_a_prefix_is_no_run(tmp_path: Path) -> None:
    for prefix, tensors in (("qwen_1", FIRST), ("qwen_2", SECOND)):
        make_rank_folders(tmp_path, tensors, APART, strategy="json", prefix=prefix)
    assert "--file_prefix qwen_1 or --file_prefix qwen_2" in refusal(open_rank_folders(tmp_path))
    assert_is(open_rank_folders(tmp_path, file_prefix="qwen_1"), FIRST)


@pytest.mark.parametrize("inner, part", [("checkpoint_network", "-network"), ("checkpoint_trainable", "-trainable_params")])
def test_files_of_weights_only_are_counted_as_the_others_are(inner: str, part: str, tmp_path: Path) -> None:
    for tensors, number in ((FIRST, ""), (SECOND, "_1")):
        name = "{prefix}_rank_{rank}" + number + part + "-{epoch}_{step}.{ending}"
        make_rank_folders(tmp_path / inner, tensors, APART, strategy="json", name=name)
    run = open_rank_folders(tmp_path)
    assert_is(run, SECOND)
    assert run.chosen == Step(1, 1)


# ---- saved at an exception -------------------------------------------------------------------------------------------------

BREAKPOINT = "{prefix}_rank_{rank}-{epoch}_{step}_breakpoint.{ending}"


def test_what_was_saved_at_an_exception_is_read_by_its_step_or_where_nothing_else_is_there(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, SECOND, APART, strategy="json", step=17, name=BREAKPOINT)
    alone = open_rank_folders(tmp_path)
    assert_is(alone, SECOND)
    assert alone.chosen == Step(1, 17)
    assert "step 1_17 was saved at an exception" in alone.notes
    save(tmp_path, FIRST, APART, {0: 0, 1: 0})
    earlier = open_rank_folders(tmp_path)
    assert_is(earlier, FIRST)
    assert "step 1_17 is newer, saved at an exception, and not read: --step 1_17" in " ".join(earlier.notes)
    assert_is(open_rank_folders(tmp_path, step=17), SECOND)
    save(tmp_path, THIRD, APART, {0: 0, 1: 0}, step=17)
    make_rank_folders(tmp_path, SECOND, APART, strategy="json", step=17, name=BREAKPOINT.replace("{rank}", "{rank}_2"))
    assert_is(open_rank_folders(tmp_path, step=17), THIRD)  # exceptions are counted apart


def test_exceptions_at_two_steps_are_refused_with_both(tmp_path: Path) -> None:
    for rank, step in ((0, 17), (1, 16)):
        make_rank_folders(tmp_path, FIRST, APART, ranks=[rank], strategy="json", step=step, name=BREAKPOINT)
    said = refusal(open_rank_folders(tmp_path))
    assert "rank 0: 1_17; rank 1: 1_16" in said


def test_a_name_of_many_ranks_says_the_few_that_are_ahead(tmp_path: Path) -> None:
    eight = {n: Cut((8,), c.maps) for n, c in TENSOR_PARALLEL.items()}
    make_rank_folders(tmp_path, FIRST, eight, strategy="json")
    make_rank_folders(tmp_path, SECOND, eight, ranks=[5], step=2, strategy="json")
    assert "only rank 5 of 8 ranks: 7 do not have it" in " ".join(open_rank_folders(tmp_path).notes)
