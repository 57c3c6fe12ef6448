"""Rank folders with strategy files: one checkpoint of whole tensors, or a refusal that names what is missing. Never a mixture."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import InputError, MfconvError, UsageError
from mfconv_nb.runs.rank_folders import looks_like_rank_folders, open_rank_folders
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.runs.without_strategy import guess_slicings
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.made import Cut, make_rank_folders, numbered_tensors, write_strategy_file
from tests.support import write_safetensors

TP = (2, 4)  # data parallel 2, tensor parallel 4
SHAPES = {"wq.weight": (16, 8), "wo.weight": (8, 16), "norm.weight": (8,), "w2.weight": (16, 4), "adam_m.wq.weight": (16, 8)}
CUTS = {
    "wq.weight": Cut(TP, (0, -1)),
    "wo.weight": Cut(TP, (-1, 0)),
    "norm.weight": Cut(TP, (-1,)),
    "w2.weight": Cut(TP, (0, -1), shards=2),
    "adam_m.wq.weight": Cut(TP, (0, -1), shards=2),
}
STATE = {"epoch_num": np.array(1, np.int32), "step_num": np.array(5, np.int32)}
ONLY_COPIES = {n: CUTS[n] for n in ("wq.weight", "wo.weight", "norm.weight")}


def only(names: object) -> dict[str, np.ndarray]:
    return numbered_tensors({n: SHAPES[n] for n in names})  # type: ignore[attr-defined]


def assert_whole(run: TrainedRun, tensors: dict[str, np.ndarray]) -> None:
    assert not run.problems, str(run.problems[0])
    assert set(tensors) <= set(run.tensors)
    for name, array in tensors.items():
        assert run.tensors[name].problem() is None
        whole = read_tensor(run.tensors[name].whole())
        assert whole.shape == array.shape
        assert np.array_equal(whole, array), name


def codes(run: TrainedRun) -> list[str]:
    return [p.code for p in run.problems]


@pytest.mark.parametrize("strategy", ["protobuf", "json", "merged"])
@pytest.mark.parametrize("redundant", [True, False])
def test_slices_become_whole_tensors(tmp_path: Path, strategy: str, redundant: bool) -> None:
    tensors = numbered_tensors(SHAPES)
    make_rank_folders(tmp_path, tensors, CUTS, extra=STATE, strategy=strategy, redundant=redundant)
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert run.chosen == Step(1, 1)
    assert run.state == {"epoch_num": 1, "step_num": 5}
    assert ("saved without redundant slices" in " ".join(run.notes)) is not redundant
    copies = [e.why for t in run.tensors.values() for e in t.copies()]
    assert any("ranks 0 and 4 hold the same slice [0:4, 0:8]" in why for why in copies) is redundant


def test_the_output_folder_of_a_run_is_searched_for_ranks_and_strategy(tmp_path: Path) -> None:
    tensors = only(ONLY_COPIES)
    make_rank_folders(tmp_path / "checkpoint", tensors, ONLY_COPIES)
    (tmp_path / "checkpoint" / "strategy").rename(tmp_path / "strategy")
    assert looks_like_rank_folders(tmp_path)
    assert looks_like_rank_folders(tmp_path / "checkpoint")
    assert not looks_like_rank_folders(tmp_path / "strategy")
    assert_whole(open_rank_folders(tmp_path), tensors)
    assert_whole(open_rank_folders(tmp_path / "checkpoint"), tensors)


def test_one_data_parallel_copy_is_enough(tmp_path: Path) -> None:
    tensors = only(ONLY_COPIES)
    make_rank_folders(tmp_path, tensors, ONLY_COPIES, ranks=[0, 5, 2, 7])
    assert_whole(open_rank_folders(tmp_path), tensors)


def test_a_missing_rank_is_named_with_its_copy(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, only(ONLY_COPIES), ONLY_COPIES, ranks=[0, 1, 2, 4, 5, 6])
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC111"]
    assert "no file of rank 3 (or its copy 7)" in str(run.problems[0])
    assert not run.tensors


def test_without_redundant_slices_a_rank_that_holds_the_only_one_is_missing(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, only(ONLY_COPIES), ONLY_COPIES, redundant=False, ranks=[0, 1, 2, 4, 5, 6, 7])
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC111"]
    assert "no file of rank 3\n" in str(run.problems[0])  # 7 is there, without the slice


def test_optimizer_state_that_is_not_all_there_does_not_hold_up_the_weights(tmp_path: Path) -> None:
    names = [*ONLY_COPIES, "adam_m.wq.weight"]
    tensors = only(names)
    make_rank_folders(tmp_path, tensors, {n: CUTS[n] for n in names}, ranks=range(4))
    run = open_rank_folders(tmp_path)
    assert_whole(run, {n: tensors[n] for n in ONLY_COPIES})
    assert "adam_m.wq.weight" not in run.tensors
    assert any("left out: 1 tensor of the optimizer's state" in n and "4, 5, 6, 7" in n for n in run.notes)


# ---- pipeline stages -----------------------------------------------------------------------------------------------------------

STAGED = {
    "embed.weight": Cut((2, 2), (0, -1), stages=(0, 1)),
    "layers.0.w-1.weight": Cut((2, 2), (0, -1), stages=(0,)),
    "layers.1.w-1.weight": Cut((2, 2), (-1, 0), stages=(1,)),
}
STAGED_SHAPES = {"embed.weight": (8, 4), "layers.0.w-1.weight": (4, 4), "layers.1.w-1.weight": (4, 4)}


@pytest.mark.parametrize("strategy", ["protobuf", "json", "merged"])
def test_a_tensor_of_two_stages_is_there_once_with_all_its_copies(tmp_path: Path, strategy: str) -> None:
    tensors = numbered_tensors(STAGED_SHAPES)
    make_rank_folders(tmp_path, tensors, STAGED, strategy=strategy)
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert [s.rank for s in run.tensors["embed.weight"].slices] == list(range(8))
    assert [s.rank for s in run.tensors["layers.1.w-1.weight"].slices] == [4, 5, 6, 7]


def test_a_stage_without_files_is_missing_and_so_is_one_without_a_strategy(tmp_path: Path) -> None:
    tensors = numbered_tensors(STAGED_SHAPES)
    make_rank_folders(tmp_path / "a", tensors, STAGED, ranks=range(4))
    run = open_rank_folders(tmp_path / "a")
    assert codes(run) == ["MFC111"]
    assert "rank 4 (or its copy 6), rank 5 (or its copy 7)" in str(run.problems[0])
    make_rank_folders(tmp_path / "b", tensors, STAGED, strategy=None)
    for stage in (0, 1):
        (tmp_path / "b" / "strategy").mkdir(exist_ok=True)
        path = write_strategy_file(tmp_path / "b" / "strategy" / "s.ckpt", STAGED, [stage])
        with pytest.raises(InputError) as caught:
            open_rank_folders(tmp_path / "b", strategy=path)
        assert caught.value.code == "MFC111"
        assert "stage" in str(caught.value)


def test_a_strategy_that_does_not_say_its_stage_is_of_the_rank_in_its_name(tmp_path: Path) -> None:
    tensors = numbered_tensors(STAGED_SHAPES)
    make_rank_folders(tmp_path, tensors, STAGED, strategy="json")
    for path in (tmp_path / "strategy").glob("*.json"):
        path.write_text(json.dumps({"parallel_layout_item": json.loads(path.read_text())["parallel_layout_item"]}))
    assert_whole(open_rank_folders(tmp_path), tensors)


def test_stages_that_cut_a_shared_tensor_differently_are_not_mixed(tmp_path: Path) -> None:
    cuts = {"embed.weight": Cut((4,), (0, -1)), "last.weight": Cut((4,), (0, -1), stages=(1,))}
    tensors = numbered_tensors({"embed.weight": (8, 4), "last.weight": (4, 4)})
    make_rank_folders(tmp_path, tensors, cuts, strategy=None)
    other = make_rank_folders(
        tmp_path / "other", tensors, {**cuts, "embed.weight": Cut((4,), (-1, 0), stages=(1,))}, strategy=None, ranks=range(4, 8)
    )
    for rank in range(4, 8):
        next((other / f"rank_{rank}").glob("*.safetensors")).replace(next((tmp_path / f"rank_{rank}").glob("*.safetensors")))
    write_strategy_file(tmp_path / "strategy" / "s0.ckpt", cuts, [0])
    write_strategy_file(tmp_path / "strategy" / "s1.ckpt", {**cuts, "embed.weight": Cut((4,), (-1, 0), stages=(1,))}, [1])
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert [s.rank for s in run.tensors["embed.weight"].slices] == [0, 1, 2, 3]
    assert any("cut differently in two stages" in n for n in run.notes)


# ---- steps ---------------------------------------------------------------------------------------------------------------------

PLAIN = {"wq.weight": Cut((4,), (0, -1))}


def test_a_rank_that_is_one_step_ahead_is_not_mixed_with_the_others(tmp_path: Path) -> None:
    old, new = (numbered_tensors({"wq.weight": (8, 4)}, first=n) for n in (0, 1000))
    make_rank_folders(tmp_path, old, PLAIN, step=1)
    make_rank_folders(tmp_path, new, PLAIN, step=2, ranks=[0])
    run = open_rank_folders(tmp_path)
    assert run.chosen == Step(1, 1)
    assert_whole(run, old)
    assert any("step 1_2 is newer but not complete" in n and "MFC112" in n for n in run.notes)
    asked = open_rank_folders(tmp_path, step=2)
    assert codes(asked) == ["MFC112"]
    assert not asked.tensors
    assert "rank 1 has 1_1" in str(asked.problems[0])


def test_nothing_in_common_is_refused_with_a_table(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN, step=1, ranks=[1, 2, 3])
    make_rank_folders(tmp_path, tensors, PLAIN, step=2, ranks=[0])
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC112"]
    assert run.chosen is None
    assert [tuple(row) for row in run.table().rows[:2]] == [(0, "–", "✓"), (1, "✓", "–")]


def test_steps_are_numbers_and_not_text(tmp_path: Path) -> None:
    made = {(1, 1): 0, (1, 11): 1000, (11, 1): 2000, (2, 9): 3000}
    for (epoch, step), first in made.items():
        make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}, first=first), PLAIN, epoch=epoch, step=step)
    assert open_rank_folders(tmp_path).chosen == Step(11, 1)
    for (epoch, step), first in made.items():
        run = open_rank_folders(tmp_path, step=Step(epoch, step))
        assert_whole(run, numbered_tensors({"wq.weight": (8, 4)}, first=first))
    assert open_rank_folders(tmp_path, step=11).chosen == Step(1, 11)
    for step, expected in ((1, "11_1, 1_1"), (7, "11_1, 2_9, 1_11, 1_1")):
        with pytest.raises(InputError) as caught:
            open_rank_folders(tmp_path, step=step)
        assert caught.value.code == "MFC112"
        assert expected in str(caught.value)


def test_the_same_name_with_other_counters_inside_is_refused(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN, extra={"global_step": np.array([10], np.int32)})
    make_rank_folders(tmp_path, tensors, PLAIN, extra={"global_step": np.array([20], np.int32)}, ranks=[2])
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC112"]
    assert "global_step is 10 on rank 0 and 20 on rank 2" in str(run.problems[0])


@pytest.mark.real_frameworks  # mindspore writes the .ckpt files
def test_a_newest_step_that_was_cut_short_gives_way_to_the_one_before(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN, step=1, ending="ckpt")
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}, first=99), PLAIN, step=2, ending="ckpt")
    path = tmp_path / "rank_3" / "llama_rank_3-1_2.ckpt"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-9])
    run = open_rank_folders(tmp_path)
    assert run.chosen == Step(1, 1)
    assert_whole(run, tensors)
    assert any("step 1_2" in n and "MFC202" in n for n in run.notes)
    with pytest.raises(MfconvError) as caught:
        open_rank_folders(tmp_path, step=2)
    assert caught.value.code == "MFC202"
    assert "rank_3" in str(caught.value)


def test_two_runs_into_one_folder_are_told_apart(tmp_path: Path) -> None:
    first, second = (numbered_tensors({"wq.weight": (8, 4)}, first=n) for n in (0, 1000))
    make_rank_folders(tmp_path, first, PLAIN)
    make_rank_folders(tmp_path, second, PLAIN, name="{prefix}_rank_{rank}_1-{epoch}_{step}.{ending}")
    assert_whole(open_rank_folders(tmp_path), second)
    for rank in range(4):
        (tmp_path / f"rank_{rank}" / f"llama_rank_{rank}_1-1_1.safetensors").unlink()
    assert_whole(open_rank_folders(tmp_path), first)
    make_rank_folders(tmp_path, second, PLAIN, prefix="other")
    both = open_rank_folders(tmp_path)
    assert codes(both) == ["MFC112"]
    assert "--file_prefix llama" in str(both.problems[0])
    for prefix, tensors in (("llama", first), ("other", second)):
        assert_whole(open_rank_folders(tmp_path, file_prefix=prefix), tensors)
    with pytest.raises(UsageError, match="MFC501") as caught:
        open_rank_folders(tmp_path, file_prefix="lama")
    assert "'llama', 'other'" in str(caught.value)
    assert "Did you mean 'llama'" in str(caught.value)


def test_no_older_step_is_read_where_the_newest_is_of_two_checkpoints(tmp_path: Path) -> None:
    first, second = (numbered_tensors({"wq.weight": (8, 4)}, first=n) for n in (0, 1000))
    make_rank_folders(tmp_path, first, PLAIN, step=1)
    make_rank_folders(tmp_path, first, PLAIN, step=2)
    make_rank_folders(tmp_path, second, PLAIN, step=2, prefix="other")
    make_rank_folders(tmp_path, second, PLAIN, step=3, prefix="other", ranks=[0])  # not complete: the step before it counts
    both = open_rank_folders(tmp_path)
    assert codes(both) == ["MFC112"]
    assert both.problems[0].choices == ({"file_prefix": "llama"}, {"file_prefix": "other"})
    assert_whole(open_rank_folders(tmp_path, step=1), first)
    assert_whole(open_rank_folders(tmp_path, file_prefix="other"), second)


def test_a_prefix_that_is_chosen_counts_for_every_step(tmp_path: Path) -> None:
    first, second = (numbered_tensors({"wq.weight": (8, 4)}, first=n) for n in (0, 1000))
    make_rank_folders(tmp_path, first, PLAIN, step=1)
    make_rank_folders(tmp_path, second, PLAIN, step=2, prefix="other")
    assert_whole(open_rank_folders(tmp_path), second)
    chosen = open_rank_folders(tmp_path, file_prefix="llama")
    assert_whole(chosen, first)
    assert set(chosen.steps.values()) == {(Step(1, 1),)}


def test_twelve_ranks_are_in_numeric_order(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (24, 2)})
    make_rank_folders(tmp_path, tensors, {"wq.weight": Cut((12,), (0, -1))})
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert [s.rank for s in run.tensors["wq.weight"].slices] == list(range(12))


def test_a_file_of_another_rank_does_not_count(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN)
    (tmp_path / "rank_2" / "llama_rank_2-1_1.safetensors").rename(tmp_path / "rank_2" / "llama_rank_1-1_1.safetensors")
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC111"]
    assert "rank 2" in str(run.problems[0])
    assert any("by its name is of another rank" in n for n in run.notes)


@pytest.mark.parametrize("form", ["rank_{:02}", "rank_{:04}", "rank{}"])
def test_ranks_may_be_written_with_zeros_or_without_a_line(form: str, tmp_path: Path) -> None:
    """Else a rank's folder would look like a checkpoint of its own, and the run like none."""
    tensors = numbered_tensors({"wq.weight": (24, 2)})
    make_rank_folders(tmp_path, tensors, {"wq.weight": Cut((12,), (0, -1))})
    for rank in range(12):
        (tmp_path / f"rank_{rank}").rename(tmp_path / form.format(rank))
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert sorted(run.steps) == list(range(12))


def test_links_that_lead_nowhere_do_not_hide_the_run(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN)
    for link in ("rank_9", "rank_2/loop.safetensors", "strategy/loop.ckpt"):
        (tmp_path / link).symlink_to(Path(link).name)
    (tmp_path / "rank_8").symlink_to("gone")
    assert looks_like_rank_folders(tmp_path)
    assert_whole(open_rank_folders(tmp_path), tensors)


@pytest.mark.real_frameworks  # mindspore writes the .ckpt files
def test_the_same_step_in_the_other_format_is_not_read_and_named(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN)
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}, first=99), PLAIN, ending="ckpt")
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert any("4 files of the same step" in note and "llama_rank_0-1_1.ckpt" in note for note in run.notes)


def test_two_folders_of_one_rank_are_refused_with_both(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN)
    (tmp_path / "rank_01").mkdir()
    with pytest.raises(InputError, match="MFC112") as caught:
        open_rank_folders(tmp_path)
    assert "'rank_01' and 'rank_1'" in str(caught.value)


def test_what_other_programs_leave_in_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    """A Mac keeps `._NAME` beside every file that it copies to a foreign disk."""
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN)
    for path in list(tmp_path.glob("*/*.safetensors")) + list(tmp_path.glob("strategy/*")):
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(4092))
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert not run.notes


def test_a_whole_checkpoint_beside_the_ranks_is_not_read_and_named(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN)
    write_safetensors(tmp_path / "merged.safetensors", tensors)
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert any("not read" in note and "'merged.safetensors'" in note for note in run.notes)


def test_files_whose_names_tell_no_step(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN, name="{prefix}{rank}.{ending}")
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert run.chosen is None


def test_weights_only_files_and_prefixes_that_look_like_ranks(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (24, 2)})
    for n, name in enumerate(
        (
            "{prefix}_rank_{rank}_network-{epoch}_{step}.{ending}",
            "my_rank_7_run_rank_{rank}-{epoch}_{step}.{ending}",
            "llama-3_1-8b_rank_{rank}_2-{epoch}_{step}.{ending}",
        )
    ):
        make_rank_folders(tmp_path / str(n) / "checkpoint_network", tensors, {"wq.weight": Cut((12,), (0, -1))}, name=name, step=3)
        run = open_rank_folders(tmp_path / str(n))
        assert_whole(run, tensors)
        assert run.chosen == Step(1, 3)
        assert not run.notes


def test_a_copy_that_is_further_than_the_others_is_a_whole_checkpoint(tmp_path: Path) -> None:
    old, new = (numbered_tensors({"wq.weight": (8, 4)}, first=n) for n in (0, 1000))
    make_rank_folders(tmp_path, old, {"wq.weight": Cut((4,), (-1, -1))}, step=1)
    make_rank_folders(tmp_path, new, {"wq.weight": Cut((4,), (-1, -1))}, step=2, ranks=[0])
    run = open_rank_folders(tmp_path)
    assert run.chosen == Step(1, 2)
    assert_whole(run, new)
    assert any("ranks without step 1_2: 1, 2, 3" in n for n in run.notes)


# ---- strategies that do not fit --------------------------------------------------------------------------------------------------


def test_strategies_of_another_run_are_refused(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN, strategy=None)
    cases = {
        "names": ({"other.weight": Cut((4,), (0, -1))}, "MFC114"),
        "fewer devices": ({"wq.weight": Cut((3,), (0, -1))}, "MFC114"),
        "more devices": ({"wq.weight": Cut((8,), (0, -1))}, "MFC111"),
        "axes": ({"wq.weight": Cut((4,), (0, -1, -1))}, "MFC114"),
    }
    for name, (cuts, code) in cases.items():
        path = write_strategy_file(tmp_path / f"{name}.bin", cuts, [0])
        try:
            found = codes(open_rank_folders(tmp_path, strategy=path))
        except InputError as error:
            found = [error.code]
        assert found == [code], name


def test_strategy_files_beside_the_slices_of_each_rank_are_found(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN)
    for rank in range(4):
        name = f"ckpt_strategy_rank_{rank}.ckpt"
        (tmp_path / "strategy" / name).rename(tmp_path / f"rank_{rank}" / name)
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert not run.assumed


def test_strategy_files_that_are_none_are_named(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, PLAIN)
    (tmp_path / "strategy" / "ckpt_strategy_rank_2.ckpt").write_bytes(b"")
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)  # three others say the same
    assert any("strategy/ckpt_strategy_rank_2.ckpt" in note and "no strategy file" in note for note in run.notes)
    for path in (tmp_path / "strategy").iterdir():
        path.write_bytes(b"")
    run = open_rank_folders(tmp_path, shapes={"wq.weight": (8, 4)})
    assert_whole(run, tensors)
    assert any("4 files" in note and "no strategy file" in note for note in run.notes)


def test_optimizer_state_that_no_strategy_names_is_cut_as_its_weight_or_left_out(tmp_path: Path) -> None:
    """It would be taken as whole on every rank: slices, called whole tensors, which nobody notices where they are zeros."""
    shapes = {"wq.weight": (8, 4), "adam_m.wq.weight": (8, 4), "adam_v.wq.weight": (8, 4), "adam_m.norm": (4,), "norm": (4,)}
    tensors = numbered_tensors(shapes) | {"adam_m.wq.weight": np.zeros((8, 4), np.float32)}
    cuts = {n: Cut((4,), (0, -1)) for n in shapes if "wq" in n} | {"adam_v.wq.weight": Cut((4,), (-1, 0)), "norm": Cut((4,), (-1,))}
    make_rank_folders(tmp_path, tensors, cuts)
    named = {n: cut for n, cut in cuts.items() if not n.startswith("adam")}
    for path in (tmp_path / "strategy").iterdir():
        write_strategy_file(path, named, [0])
    run = open_rank_folders(tmp_path)
    left = "adam_v.wq.weight"  # slices of (8, 1), which no word explains
    assert left not in run.tensors
    assert_whole(run, {n: a for n, a in tensors.items() if n != left})
    assert any("left out: 1 tensor of the optimizer's state" in note and left in note for note in run.notes)
    assert any("1 tensor of the optimizer's state" in text and "cut like the weights" in text for text in run.assumed)


def test_a_rank_that_holds_tensors_of_another_stage_is_named(tmp_path: Path) -> None:
    """A file of rank 0 that was copied to rank 3; its copy on rank 2 has all that is needed."""
    cuts = {"first": Cut((2,), (-1, -1)), "last": Cut((2,), (-1, -1), stages=(1,))}
    tensors = numbered_tensors({"first": (4, 4), "last": (4, 4)})
    make_rank_folders(tmp_path, tensors, cuts)
    shutil.copy(tmp_path / "rank_0" / "llama_rank_0-1_1.safetensors", tmp_path / "rank_3" / "llama_rank_3-1_1.safetensors")
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert any("rank 3 holds 1 tensor of" in note and "'first'" in note for note in run.notes)


def test_without_strategy_a_stage_that_may_be_missing_is_said(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"first": (4, 4)}), {"first": Cut((2,), (0, -1))}, strategy=None)
    run = open_rank_folders(tmp_path, shapes={"first": (4, 4), "last": (4, 4)})
    assert any("the config promises 1 tensor that no rank has: 'last'" in note and "stage" in note for note in run.notes)


def test_two_strategy_files_that_disagree_are_both_named(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN)
    write_strategy_file(tmp_path / "strategy" / "left_behind.ckpt", {"wq.weight": Cut((4,), (-1, 0))}, [0])
    with pytest.raises(InputError) as caught:
        open_rank_folders(tmp_path)
    assert caught.value.code == "MFC114"
    assert "left_behind.ckpt" in str(caught.value)
    assert "'wq.weight'" in str(caught.value)


def test_slices_of_two_shapes_are_refused_with_both(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN)
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (16, 4)}), PLAIN, ranks=[3])
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC113"]
    assert "[2, 4] of F32 on rank 0, [4, 4] of F32 on rank 3" in str(run.problems[0])


def test_a_weight_that_no_strategy_names_is_kept_and_said(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4), "router.bias": (4,)})
    make_rank_folders(tmp_path, tensors, PLAIN, extra=STATE)
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert [a for a in run.assumed if "router.bias" in a]
    assert len(list(run.tensors["router.bias"].copies())) == 3
    make_rank_folders(tmp_path, {**tensors, "router.bias": np.zeros(2, np.float32)}, PLAIN, ranks=[1], extra=STATE)
    assert codes(open_rank_folders(tmp_path)) == ["MFC114"]


def test_a_tensor_that_no_strategy_names_of_two_dtypes_is_refused_with_both(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN, extra={"stray": np.zeros(3, np.float32)})
    half = {"stray": np.zeros(3, np.float16)}
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN, extra=half, ranks=[2])
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC114"]
    assert "[3] of F32 on rank 0 and [3] of F16 on rank 2" in str(run.problems[0])


def test_a_slice_that_a_file_should_have_and_has_not_is_no_missing_rank(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4), "wk.weight": (8, 4)})
    cuts = {n: Cut((4,), (0, -1)) for n in tensors}
    make_rank_folders(tmp_path, tensors, cuts)
    make_rank_folders(tmp_path, {"wq.weight": tensors["wq.weight"]}, {"wq.weight": cuts["wq.weight"]}, ranks=[1], strategy=None)
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC113"]
    assert "nothing for [2:4, 0:4]" in str(run.problems[0])


def test_uneven_slices_and_fields_are_refused_by_name(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN, strategy="json")
    path = tmp_path / "strategy" / "ckpt_strategy_rank_0.json"
    for key, value, code in (
        ("field", 2, "MFC114"),
        ("param_split_shape", [1, 3, 2, 2], "MFC114"),
        ("param_split_shape", [5] * 4, "MFC113"),
    ):
        content = json.loads((tmp_path / "strategy" / "ckpt_strategy_rank_1.json").read_text())
        content["parallel_layout_item"]["wq.weight"][key] = value
        path.write_text(json.dumps(content))
        try:
            run = open_rank_folders(tmp_path, strategy=path)
            found, text = run.problems[0].code, str(run.problems[0])
        except InputError as error:
            found, text = error.code, str(error)
        assert found == code
        assert "'wq.weight'" in text


# ---- no strategy -----------------------------------------------------------------------------------------------------------------


def bytes_of(tensor: LazyTensor) -> bytes:
    return read_tensor(tensor).tobytes()


def test_without_strategy_and_shapes_nothing_is_guessed(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, only(ONLY_COPIES), ONLY_COPIES, strategy=None)
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC114"]
    assert "--strategy" in str(run.problems[0])
    assert "--config" in str(run.problems[0])


@pytest.mark.parametrize("inner_copies", [False, True])
def test_equal_slices_prove_which_ranks_hold_copies(tmp_path: Path, inner_copies: bool) -> None:
    at = 1 if inner_copies else 0
    cuts = {"wq.weight": Cut((4, 2) if inner_copies else TP, (at, -1)), "zero.weight": Cut((4, 2) if inner_copies else TP, (at, -1))}
    tensors = {**numbered_tensors({"wq.weight": (16, 8), "norm.weight": (8,)}), "zero.weight": np.zeros((8, 2), np.float32)}
    make_rank_folders(tmp_path, tensors, cuts, strategy=None)
    shapes = {n: a.shape for n, a in tensors.items()}
    run = open_rank_folders(tmp_path, shapes=shapes, digest=bytes_of)
    assert_whole(run, tensors)
    text = " ".join(run.assumed)
    assert "proven by equal slices of 1 of 2 tensors" in text
    assert "the order of the ranks is assumed" in text
    unproven = open_rank_folders(tmp_path, shapes=shapes)
    assert "that ranks 0 and 4 hold copies, and so on, is assumed" in " ".join(unproven.assumed)
    unequal = [e for t in unproven.tensors.values() for e in t.copies() if bytes_of(e.first) != bytes_of(e.second)]
    assert bool(unequal) is inner_copies  # a wrong assumption is caught by the comparison of copies


@pytest.mark.parametrize("first, second, same", [(0, 1, "0 and 3"), (0, 7, "0 and 5")])
def test_files_in_the_folders_of_other_ranks_are_seen_where_no_device_matrix_puts_copies_so(
    first: int, second: int, same: str, tmp_path: Path
) -> None:
    """Without strategy files the order of the ranks is the order of the parts: two files that changed places would mix the model up."""
    shapes = run_with_files_that_changed_places(tmp_path, first, second)
    run = open_rank_folders(tmp_path, shapes=shapes, digest=bytes_of)
    assert set(codes(run)) == {"MFC114"}
    said = str(run.problems[0])
    assert f"equal slices on ranks {same}" in said
    assert "folder of another rank" in said


def test_that_files_may_have_changed_places_is_said_where_copies_are_not_where_tensor_parallelism_has_them(tmp_path: Path) -> None:
    run = open_rank_folders(tmp_path, shapes=run_with_files_that_changed_places(tmp_path, 0, 3), digest=bytes_of)
    assert not run.problems  # a device matrix whose innermost axis is of copies looks the same
    text = " ".join(run.assumed)
    assert "no file lies in the folder of another rank: equal slices are on ranks 0 and 1, where tensor parallelism has no copies" in text


def run_with_files_that_changed_places(folder: Path, first: int, second: int) -> dict[str, tuple[int, ...]]:
    """Two stages of data parallel 2 and tensor parallel 2, without strategy files; the whole shapes."""
    cuts = {f"layers.{stage}.w": Cut((2, 2), (0, -1), stages=(stage,)) for stage in (0, 1)}
    tensors = numbered_tensors(dict.fromkeys(cuts, (8, 4)))
    make_rank_folders(folder, tensors, cuts, strategy=None)
    shapes = {n: a.shape for n, a in tensors.items()}
    assert_whole(open_rank_folders(folder, shapes=shapes, digest=bytes_of), tensors)
    one, other = (folder / f"rank_{rank}" / f"llama_rank_{rank}-1_1.safetensors" for rank in (first, second))
    one.rename(folder / "aside")
    other.rename(one)
    (folder / "aside").rename(other)
    return shapes


@pytest.mark.parametrize("ranks, told", [((2, 3), True), ((0, 3), True), ((1, 3), True), ((0, 2), True), ((1, 2), False)])
def test_of_some_ranks_the_parts_are_put_in_order_only_where_their_numbers_tell_one(ranks: tuple[int, int], told: bool) -> None:
    """As where redundant slices were left out: each tensor is on some ranks only."""
    whole = np.arange(8, dtype=np.float32).reshape(4, 2)
    held = {rank: mc.load({"w": whole[2 * part : 2 * part + 2]})["w"] for part, rank in enumerate(ranks)}
    guess = guess_slicings({"w": held}, {"w": whole.shape}, Path("run"), bytes_of)
    if told:
        assert not guess.problems
        assert np.array_equal(read_tensor(guess.tensors["w"].whole()), whole)
    else:
        assert [p.code for p in guess.problems] == ["MFC114"]
        assert "of 2 parts only those of ranks 1 and 2" in str(guess.problems[0])


@settings(max_examples=60)
@given(st.data())
def test_equal_slices_on_the_ranks_of_any_device_matrix_are_put_in_order(data: st.DataObject) -> None:
    devices = tuple(data.draw(st.lists(st.integers(2, 3), min_size=1, max_size=4)))
    cut = sorted(data.draw(st.sets(st.sampled_from(range(len(devices))), min_size=1)))
    grid = np.arange(math.prod(devices)).reshape(devices)
    of = np.ravel_multi_index([np.indices(devices)[axis] for axis in cut], [devices[axis] for axis in cut])
    parts = of.max() + 1
    whole = np.arange(parts * 2, dtype=np.float32).reshape(parts * 2, 1)
    held = {int(rank): mc.load({"w": whole[2 * part : 2 * part + 2]})["w"] for rank, part in zip(grid.flat, of.flat, strict=True)}
    guess = guess_slicings({"w": held}, {"w": whole.shape}, Path("run"), bytes_of)
    assert not guess.problems
    assert np.array_equal(read_tensor(guess.tensors["w"].whole()), whole)


def test_stages_and_optimizer_state_are_guessed_from_the_shapes_of_the_weights(tmp_path: Path) -> None:
    cuts = {
        "layers.0.w": Cut((2,), (0, -1)),
        "adam_m.layers.0.w": Cut((2,), (0, -1)),
        "layers.1.w": Cut((2,), (-1, 0), stages=(1,)),
    }
    tensors = numbered_tensors(dict.fromkeys(cuts, (4, 4)))
    make_rank_folders(tmp_path, tensors, cuts, strategy=None, extra=STATE)
    run = open_rank_folders(tmp_path, shapes={"layers.0.w": (4, 4), "layers.1.w": (4, 4)})
    assert_whole(run, tensors)
    assert [s.rank for s in run.tensors["layers.1.w"].slices] == [2, 3]
    assert any("along axis 0" in a and "2 tensors" in a for a in run.assumed)
    unknown = open_rank_folders(tmp_path, shapes={"layers.0.w": (4, 4)})
    assert codes(unknown) == ["MFC114"]
    assert "'layers.1.w'" in str(unknown.problems[0])


def test_state_that_is_not_cut_as_the_weights_does_not_hold_them_up(tmp_path: Path) -> None:
    """Came keeps rows and columns, Muon single numbers for what it has no state of, layers what they count."""
    cuts = {"layers.0.w": Cut((2,), (0, -1)), "exp_avg_sq_row_layers.0.w": Cut((2,), (0,))}
    tensors = numbered_tensors({"layers.0.w": (4, 4), "exp_avg_sq_row_layers.0.w": (4,)})
    counted = {"layers.0.mlp.router.fi_accu": np.arange(3, dtype=np.float32), "muon_m.placeholder.1": np.zeros(1, np.float32)}
    counted |= {"exp_avg_sq_layers.0.w": np.zeros(1, np.float32), "layers.0.mlp.expert_mapping": np.arange(3, dtype=np.int32)}
    make_rank_folders(tmp_path, tensors, cuts, strategy=None, extra=counted)
    run = open_rank_folders(tmp_path, shapes={"layers.0.w": (4, 4)})
    assert_whole(run, {"layers.0.w": tensors["layers.0.w"], "layers.0.mlp.expert_mapping": counted["layers.0.mlp.expert_mapping"]})
    assert len(run.tensors) == 2
    assert any("left out: 4 tensors of the run's state" in note for note in run.notes)


def test_what_ranks_count_on_their_own_is_left_out_where_no_strategy_names_it(tmp_path: Path) -> None:
    tensors = numbered_tensors({"w.weight": (8, 4)})
    cuts = {"w.weight": Cut((2,), (0, -1))}
    for rank in (0, 1):
        count = {"layers.0.self_attention.core_attention.max_logits_val": np.zeros(2 + rank, np.float32)}
        make_rank_folders(tmp_path, tensors, cuts, ranks=[rank], extra=count)
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert any("left out: 1 tensor of the run's state" in note for note in run.notes)


@pytest.mark.parametrize("devices", [TP, (4, 4)])
def test_copies_are_not_taken_for_parts_of_a_larger_tensor(devices: tuple[int, ...], tmp_path: Path) -> None:
    """The config of a model twice as wide: each slice would be there twice, and nothing else would tell."""
    cuts = {"wq.weight": Cut(devices, (0, -1)), "wo.weight": Cut(devices, (-1, 0)), "bias": Cut(devices, (0,))}
    tensors = numbered_tensors({"wq.weight": (16, 8), "wo.weight": (8, 16)}) | {"bias": np.zeros(16, np.float32)}
    make_rank_folders(tmp_path, tensors, cuts, strategy=None)
    twice = {"wq.weight": (32, 8), "wo.weight": (8, 32), "bias": (32,)}
    run = open_rank_folders(tmp_path, shapes=twice, digest=bytes_of)
    assert codes(run)[0] == "MFC114"
    assert "ranks 0 and 4 hold equal slices" in str(run.problems[0])
    assert "config" in str(run.problems[0])


def test_parts_of_zeros_are_no_copies(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)}) | {"bias": np.zeros(8, np.float32), "lora_b": np.zeros((8, 2), np.float32)}
    cuts = {"wq.weight": Cut((4,), (0, -1)), "bias": Cut((4,), (0,)), "lora_b": Cut((4,), (0, -1))}
    make_rank_folders(tmp_path, tensors, cuts, strategy=None)
    assert_whole(open_rank_folders(tmp_path, shapes={n: a.shape for n, a in tensors.items()}, digest=bytes_of), tensors)


def test_a_last_rank_that_may_be_missing_is_said_where_no_strategy_counts_them(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), PLAIN, strategy=None, ranks=[0, 1, 2])
    run = open_rank_folders(tmp_path, shapes={"wq.weight": (8, 4)})
    assert codes(run) == ["MFC114"]
    assert "the folder of rank 3 may be missing" in str(run.problems[0])


def test_adapters_are_guessed_from_the_shapes_of_their_weights(tmp_path: Path) -> None:
    lora = "{}.mindpet_delta_lora_{}"
    cuts = {
        "wq.weight": Cut(TP, (0, -1)),
        lora.format("wq", "a"): Cut(TP, (-1, -1)),
        lora.format("wq", "b"): Cut(TP, (0, -1)),
        "wo.weight": Cut(TP, (-1, 0)),
        lora.format("wo", "a"): Cut(TP, (-1, 0)),
        lora.format("wo", "b"): Cut(TP, (-1, -1)),
        "adam_m." + lora.format("wo", "a"): Cut(TP, (-1, 0)),
    }
    shapes = [(16, 8), (4, 8), (16, 4), (8, 16), (4, 16), (8, 4), (4, 16)]
    tensors = numbered_tensors(dict(zip(cuts, shapes, strict=True)))
    make_rank_folders(tmp_path, tensors, cuts, strategy=None)
    run = open_rank_folders(tmp_path, shapes={n: a.shape for n, a in tensors.items() if n.endswith("weight")}, digest=bytes_of)
    assert_whole(run, tensors)
    assert any("4 adapter tensors" in text and "not cut along the rank" in text for text in run.assumed)


def test_two_cut_axes_are_not_guessed(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"wq.weight": (8, 4)}), {"wq.weight": Cut((2, 2), (0, 1))}, strategy=None)
    run = open_rank_folders(tmp_path, shapes={"wq.weight": (8, 4)})
    assert codes(run) == ["MFC114"]
    assert "2 axes are cut" in str(run.problems[0])


def test_one_rank_without_a_strategy_is_whole_and_says_so(tmp_path: Path) -> None:
    tensors = numbered_tensors({"wq.weight": (8, 4)})
    make_rank_folders(tmp_path, tensors, {}, strategy=None)
    run = open_rank_folders(tmp_path)
    assert_whole(run, tensors)
    assert "no strategy file" in run.assumed[0]
    (tmp_path / "rank_0").rename(tmp_path / "rank_3")
    (tmp_path / "rank_3" / "llama_rank_0-1_1.safetensors").rename(tmp_path / "rank_3" / "llama_rank_3-1_1.safetensors")
    run = open_rank_folders(tmp_path)
    assert codes(run) == ["MFC111"]
    assert "rank 0, rank 1, rank 2" in str(run.problems[0])


# ---- damaged files ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_strategy_is_refused_or_gives_tensors_that_can_be_checked(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        cuts = {"wq.weight": Cut((2, 2), (0, -1), shards=2), "wo.weight": Cut((2, 2), ((1, 0), -1))}
        make_rank_folders(folder, numbered_tensors({"wq.weight": (8, 4), "wo.weight": (8, 4)}), cuts)
    content = bytearray((folder / "strategy" / "ckpt_strategy_rank_0.ckpt").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged_strategy.bin"
    path.write_bytes(bytes(content))
    try:
        run = open_rank_folders(folder, strategy=path)
    except MfconvError:
        return
    for tensor in run.tensors.values():
        if tensor.problem() is None:
            assert read_tensor(tensor.whole()).shape == tensor.shape
    str(run.table())
