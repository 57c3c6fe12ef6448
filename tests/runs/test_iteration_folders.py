"""Folders of Checkpoint 2.0, written by MindFormers' own code (see ``iterations``): opened as whole tensors, or refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import mfconv_nb as mc
from mfconv_nb.core.checkpoint import Equality
from mfconv_nb.core.errors import InputError, MfconvError, UsageError
from mfconv_nb.runs.iteration_folders import looks_like_iteration_folder, open_iteration_folder
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.iterations import CUTS, RANKS, originals, write_iteration, write_single_card
from tests.support import raw_of, work_of, write_with_a_hole

pytestmark = pytest.mark.real_frameworks
WHOLE = originals()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Iterations 10 and 20 of a run of eight ranks; nobody may change it."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    write_iteration(folder, 10, WHOLE)
    write_iteration(folder, 20, WHOLE, never_saved=("accu_grads.",))
    return folder


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "checkpoint"))


def newest(folder: Path) -> Path:
    return folder / "iteration_00000020"


def assert_whole(opened: TrainedRun, expected: dict[str, np.ndarray] = WHOLE) -> None:
    """Names, shapes, dtypes and every byte."""
    assert [str(p) for p in opened.problems] == []
    assert {name: raw_of(read_tensor(t.whole())) for name, t in opened.tensors.items()} == {n: raw_of(a) for n, a in expected.items()}


def codes(opened: TrainedRun) -> set[str]:
    return {p.code for p in opened.problems}


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    change(content)
    path.unlink()  # MindFormers leaves it read-only
    path.write_text(json.dumps(content))


# ---- what is opened ------------------------------------------------------------------------------------------------------------


def test_eight_ranks_in_two_stages_merge_to_the_bytes_that_were_cut(written: Path) -> None:
    opened = open_iteration_folder(newest(written))
    assert_whole(opened)
    assert opened.chosen == Step(None, 20)
    assert opened.state["global_step"] == 20
    assert sorted(opened.steps) == list(range(RANKS))


def test_every_copy_of_a_slice_is_to_be_compared(written: Path) -> None:
    opened = open_iteration_folder(written)
    pairs = [e for t in opened.tensors.values() for e in t.copies()]
    assert len(opened.tensors["embedding.weight"].slices) == RANKS
    assert sum(e.first.name == "embedding.weight" for e in pairs) == 6  # two slices, of four ranks each
    assert sum(e.first.name == "layers.0.w2.weight" for e in pairs) == 0  # four slices of four ranks
    assert all(same(pair) for pair in pairs)


def test_of_several_iterations_the_newest_is_read_also_from_one_level_above(written: Path) -> None:
    for folder in (written, written.parent):
        assert looks_like_iteration_folder(folder)
        opened = open_iteration_folder(folder)
        assert opened.chosen == Step(None, 20)
        assert opened.steps[3] == (Step(None, 10), Step(None, 20))
        assert not any("names iteration" in n for n in opened.notes)
        assert "20 ←" in str(opened)


@pytest.mark.parametrize("step", [10, Step(None, 10)])
def test_a_step_that_is_asked_for_is_read_and_the_tracker_file_contradicted_in_a_note(written: Path, step: Step | int) -> None:
    opened = open_iteration_folder(written, step=step)
    assert_whole(opened)
    assert opened.chosen == Step(None, 10)
    assert any("'20'" in n and "iteration 10 is read" in n for n in opened.notes)


def test_a_step_that_is_not_there_is_refused_with_those_that_are(written: Path) -> None:
    with pytest.raises(InputError, match="10, 20") as caught:
        open_iteration_folder(written, step=30)
    assert caught.value.code == "MFC112"


def test_optimizer_state_that_the_metadata_list_and_no_file_holds_is_a_note_with_a_count(written: Path, tmp_path: Path) -> None:
    notes = open_iteration_folder(written).notes
    assert any(f"never saved: {len(CUTS)} entries of optimizer state" in n and "accu_grads." in n for n in notes)
    write_iteration(tmp_path, 5, WHOLE, optimizer=False)
    opened = open_iteration_folder(tmp_path)
    assert_whole(opened, {n: WHOLE[n] for n in CUTS})
    assert any(f"never saved: {len(WHOLE) - len(CUTS)} entries of optimizer state" in n for n in opened.notes)


def test_slices_that_one_rank_wrote_for_several_are_found(tmp_path: Path) -> None:
    """`remove_redundancy`: MindFormers' own parser of the keys breaks at names with a comma, so there is none here."""
    arrays = {n: a for n, a in WHOLE.items() if "," not in n}
    folder = write_iteration(tmp_path, 5, arrays, remove_redundancy=True)
    assert_whole(open_iteration_folder(folder), arrays)
    assert not [e for t in open_iteration_folder(folder).tensors.values() for e in t.copies()]


def test_a_prefix_changes_nothing_and_files_that_the_metadata_do_not_name_are_not_read(tmp_path: Path) -> None:
    folder = write_iteration(tmp_path, 5, WHOLE, prefix="my-opt-7b")
    assert_whole(open_iteration_folder(tmp_path))
    save_file({"stale": np.zeros(3, "float32")}, folder / "other-model-0000000-0000008.safetensors")
    opened = open_iteration_folder(tmp_path)
    assert_whole(opened)
    assert any("other-model-0000000-0000008" in n for n in opened.notes)


def test_a_run_on_one_card_has_no_metadata_and_whole_tensors(tmp_path: Path) -> None:
    folder = write_single_card(tmp_path, 5, WHOLE, prefix="llama")
    assert not (folder / "metadata.json").exists()
    opened = open_iteration_folder(tmp_path)
    assert_whole(opened)
    assert opened.assumed


def test_one_copy_of_every_slice_is_enough(tmp_path: Path) -> None:
    names = ("embedding.weight", "layers.0.wo.weight", "layers.1.wq.bias")  # none is cut by dp
    arrays = {n: WHOLE[n] for n in names}
    folder = write_iteration(tmp_path, 5, arrays, optimizer=False)
    for rank in (0, 3, 5, 6):  # one of each data-parallel pair
        (folder / f"model-{rank:07d}-{RANKS:07d}.safetensors").unlink()
    opened = open_iteration_folder(folder)
    assert_whole(opened, arrays)
    assert any("absent" in n and "model-0000003" in n for n in opened.notes)
    assert sorted(opened.steps) == [1, 2, 4, 7]


def test_with_some_ranks_missing_only_tensors_without_copies_are_lost(run: Path) -> None:
    for rank in (0, 1, 6, 7):
        (newest(run) / f"opt-{rank:07d}-{RANKS:07d}.safetensors").unlink()
    opened = open_iteration_folder(newest(run))
    (problem,) = opened.problems
    assert problem.code == "MFC111"
    assert "ranks 0, 1, 6, 7:" in str(problem)
    for name, array in WHOLE.items():
        if all(part not in name for part in ("w1", "w2", "w3", "router")):  # these are cut by dp too, and have no copies
            assert raw_of(read_tensor(opened.tensors[name].whole())) == raw_of(array)


# ---- what is missing, or contradicts itself ------------------------------------------------------------------------------------


def test_a_missing_rank_is_named(run: Path) -> None:
    (newest(run) / f"model-{5:07d}-{RANKS:07d}.safetensors").unlink()
    opened = open_iteration_folder(newest(run))
    (problem,) = opened.problems
    assert problem.code == "MFC111"
    assert "rank 5:" in str(problem)
    assert "model-0000005-0000008.safetensors" in str(problem)


def test_of_several_iterations_an_incomplete_newest_is_passed_over_with_a_note(run: Path) -> None:
    (newest(run) / f"model-{5:07d}-{RANKS:07d}.safetensors").unlink()
    opened = open_iteration_folder(run)
    assert_whole(opened)
    assert opened.chosen == Step(None, 10)
    assert any("iteration 20 is not complete" in n and "MFC111" in n for n in opened.notes)
    assert opened.steps[5] == (Step(None, 10), Step(None, 20))  # its optimizer file is there


@pytest.mark.parametrize("spoil", ["no metadata", "cut metadata", "cut file", "empty"])
def test_a_newest_that_broke_off_otherwise_is_passed_over_too(run: Path, spoil: str) -> None:
    metadata, file = newest(run) / "metadata.json", newest(run) / f"model-{5:07d}-{RANKS:07d}.safetensors"
    victim = metadata if "metadata" in spoil else file
    content = victim.read_bytes()
    victim.unlink()
    if spoil.startswith("cut"):
        victim.write_bytes(content[: len(content) // 2])
    if spoil == "empty":
        shutil.rmtree(newest(run))
        newest(run).mkdir()
    opened = open_iteration_folder(run)
    assert_whole(opened)
    assert opened.chosen == Step(None, 10)
    assert any("iteration 20 is not complete" in n for n in opened.notes)


def test_where_no_iteration_is_complete_the_newest_shows_why(run: Path) -> None:
    for folder in run.glob("iteration_*"):
        (folder / f"model-{5:07d}-{RANKS:07d}.safetensors").unlink()
    opened = open_iteration_folder(run)
    assert opened.chosen == Step(None, 20)
    assert codes(opened) == {"MFC111"}


def numbered(number: int, shape: list[int] | None = None) -> Callable[[dict[str, Any]], None]:
    """Give the last slice of `layers.0.wq.weight` this number, in the storage too."""

    def change(content: dict[str, Any]) -> None:
        chunk = content["state_dict_metadata"]["layers.0.wq.weight"]["chunk"][-1]
        storage = content["storage_data"]
        storage[f"('layers.0.wq.weight', ({number},))"] = storage.pop("('layers.0.wq.weight', (1,))")
        chunk["global_offset"] = [number]
        if shape is not None:
            chunk["local_shape"] = shape

    return change


def without_layout(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def both(content: dict[str, Any]) -> None:
        content["state_dict_metadata"]["layers.0.wq.weight"]["layout"] = None
        change(content)

    return both


def drop_a_chunk(content: dict[str, Any]) -> None:
    content["state_dict_metadata"]["layers.0.wq.weight"]["chunk"].pop()
    del content["storage_data"]["('layers.0.wq.weight', (1,))"]


def set_of(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["state_dict_metadata"]["layers.0.wq.weight"].update(changes)


def offsets_in_elements(*second: int) -> Callable[[dict[str, Any]], None]:
    """Offsets with a number an axis, as another writer could give them."""

    def change(content: dict[str, Any]) -> None:
        chunks = content["state_dict_metadata"]["layers.0.wq.weight"]["chunk"]
        storage = content["storage_data"]
        for number, (chunk, offset) in enumerate(zip(chunks, ((0, 0), second), strict=True)):
            chunk["global_offset"] = list(offset)
            storage[f"('layers.0.wq.weight', {offset})"] = storage.pop(f"('layers.0.wq.weight', ({number},))")

    return change


@pytest.mark.parametrize(
    "change, found",
    [
        (drop_a_chunk, "nothing for [4:8, 0:12]"),
        (without_layout(numbered(2)), "leaves it"),
        (numbered(2), "layout"),
        (without_layout(offsets_in_elements(2, 0)), "overlap"),
        (without_layout(offsets_in_elements(5, 0)), "leaves it"),
        (offsets_in_elements(2, 0), "layout"),
        (numbered(1, [2, 12]), "[4, 12] of F16"),
        (set_of(global_shape=[8, 13]), "layout"),
        (set_of(global_shape=[8, 13], layout=None, axis_fragmentations=None), "leaves it"),
        (set_of(axis_fragmentations=[4, 1]), "axis_fragmentations [4, 1]"),
        (set_of(properties={"dtype": "BFloat16"}), "BF16"),
    ],
)
def test_slices_that_do_not_make_up_the_tensor_are_a_problem_that_says_where(run: Path, change: Any, found: str) -> None:
    edit(newest(run), change)
    opened = open_iteration_folder(newest(run))
    assert codes(opened) == {"MFC113"}
    assert all("layers.0.wq.weight" in str(p) for p in opened.problems)
    assert any(found in str(p) for p in opened.problems)


def test_offsets_in_elements_are_read_as_well(run: Path) -> None:
    edit(newest(run), offsets_in_elements(4, 0))
    assert_whole(open_iteration_folder(newest(run)))


def test_a_layout_that_puts_the_slices_elsewhere_is_noticed(run: Path) -> None:
    def swap(content: dict[str, Any]) -> None:
        content["state_dict_metadata"]["layers.0.w2.weight"]["layout"]["tensor_map"] = [1, 0]

    edit(newest(run), swap)
    opened = open_iteration_folder(newest(run))
    assert codes(opened) == {"MFC113"}
    assert "the layout in metadata.json says" in str(opened.problems[0])


def test_slices_that_are_dealt_out_in_turns_are_refused(run: Path) -> None:
    def deal_out(content: dict[str, Any]) -> None:
        content["state_dict_metadata"]["layers.0.wq.weight"]["layout"]["interleaved_parallel"] = True

    edit(newest(run), deal_out)
    (problem,) = open_iteration_folder(newest(run)).problems
    assert problem.code == "MFC113"
    assert "'layers.0.wq.weight'" in str(problem)
    assert "interleaved_parallel" in str(problem)


def test_a_slice_that_its_file_does_not_hold_is_named(run: Path) -> None:
    path = newest(run) / f"model-{1:07d}-{RANKS:07d}.safetensors"
    held = {name: a for name, a in mc_arrays(path).items() if name != "layers.0.w2.weight"}
    path.unlink()
    save_file(held, path)
    (problem,) = open_iteration_folder(newest(run)).problems
    assert problem.code == "MFC113"
    assert "layers.0.w2.weight" in str(problem)
    assert path.name in str(problem)


def mc_arrays(path: Path) -> dict[str, np.ndarray]:
    checkpoint = mc.load(path)
    return {t.name: read_tensor(t) for t in checkpoint}


def test_a_tensor_that_the_metadata_do_not_describe_is_among_the_tensors(run: Path) -> None:
    def forget(content: dict[str, Any]) -> None:
        del content["state_dict_metadata"]["layers.0.norm.weight"]

    edit(newest(run), forget)
    opened = open_iteration_folder(newest(run))
    assert_whole(opened)
    assert any("does not describe" in n and "layers.0.norm.weight" in n for n in opened.notes)


def test_slices_without_metadata_are_copies_that_are_not_equal_or_refused_for_their_shapes(run: Path) -> None:
    (newest(run) / "metadata.json").unlink()
    opened = open_iteration_folder(newest(run))
    assert any("taken as whole" in a for a in opened.assumed)
    unequal = {e.first.name for t in opened.tensors.values() for e in t.copies() if not same(e)}
    assert {n for n in unequal if n in CUTS} == {n for n in CUTS if "norm" not in n}  # a save compares them and refuses
    path = newest(run) / f"model-{1:07d}-{RANKS:07d}.safetensors"
    held = mc_arrays(path) | {"layers.0.w2.weight": np.zeros((3, 5), "float32")}
    path.unlink()
    save_file(held, path)
    (problem,) = open_iteration_folder(newest(run)).problems
    assert problem.code == "MFC113"
    assert "look like slices" in str(problem)


def same(pair: Equality) -> bool:
    return raw_of(read_tensor(pair.first)) == raw_of(read_tensor(pair.second))


def test_two_checkpoints_in_one_folder_without_metadata_are_refused_with_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "iteration_00000005"
    folder.mkdir()
    for prefix in ("a", "b"):
        save_file({"w": np.zeros(3, "float32")}, folder / f"{prefix}-model-0000000-0000001.safetensors")
    with pytest.raises(InputError, match="a-model-0000000") as caught:
        open_iteration_folder(folder)
    assert caught.value.code == "MFC105"
    assert "--file_prefix a or --file_prefix b" in str(caught.value)


def test_of_two_checkpoints_in_one_folder_the_prefix_says_which(tmp_path: Path) -> None:
    for number in (5, 7):
        folder = tmp_path / f"iteration_{number:08}"
        folder.mkdir()
        for place, prefix in enumerate(("a-", "b-", "")):
            save_file({"w": np.full(3, 10 * number + place, "float32")}, folder / f"{prefix}model-0000000-0000001.safetensors")
    (tmp_path / "iteration_00000007" / "b-model-0000000-0000001.safetensors").unlink()
    for prefix, value, step in (("a", 70, 7), ("b", 51, 5), ("", 72, 7)):
        opened = open_iteration_folder(tmp_path, file_prefix=prefix)
        assert_whole(opened, {"w": np.full(3, value, "float32")})
        assert opened.chosen == Step(None, step)
        assert [p.name for p in opened.files] == [f"{prefix}{'-' * bool(prefix)}model-0000000-0000001.safetensors"]
        assert opened.steps == {0: tuple(Step(None, n) for n in (5, 7) if prefix != "b" or n == 5)}
    with pytest.raises(UsageError, match="MFC501") as caught:
        open_iteration_folder(tmp_path, file_prefix="c")
    assert "'', 'a', 'b'" in str(caught.value)


def test_a_prefix_that_the_metadata_do_not_name_is_read_without_them(tmp_path: Path) -> None:
    folder = write_iteration(tmp_path, 5, WHOLE, prefix="llama")
    save_file({"w": np.arange(3, dtype="float32")}, folder / "other-model-0000000-0000001.safetensors")
    assert_whole(open_iteration_folder(folder, file_prefix="llama"))
    other = open_iteration_folder(folder, file_prefix="other")
    assert_whole(other, {"w": np.arange(3, dtype="float32")})
    assert any("metadata.json does not speak of them" in text for text in other.assumed)


def test_an_epoch_is_not_asked_of_iterations_which_have_none(written: Path) -> None:
    with pytest.raises(UsageError, match="MFC501") as caught:
        open_iteration_folder(written, step=Step(2, 10))
    assert "2_10" in str(caught.value)


def test_weights_beside_the_iterations_are_not_read_and_named(run: Path) -> None:
    save_file({"w": np.zeros(3, "float32")}, run / "merged.safetensors")
    opened = open_iteration_folder(run)
    assert_whole(opened)
    assert any("not read, beside the iterations: 'merged.safetensors'" in note for note in opened.notes)


def test_two_folders_of_one_iteration_are_refused_with_both(run: Path) -> None:
    shutil.copytree(newest(run), run / "iteration_20")
    with pytest.raises(UsageError, match="MFC501") as caught:
        open_iteration_folder(run)
    assert "'iteration_00000020' and 'iteration_20'" in str(caught.value)
    assert_whole(open_iteration_folder(newest(run)))


def test_files_without_a_tensor_that_the_metadata_do_not_name_are_not_worth_a_word(run: Path) -> None:
    save_file({}, newest(run) / "model-0000009-0000010.safetensors")  # a rank whose slices other ranks have written
    assert not any("does not name" in note for note in open_iteration_folder(newest(run)).notes)


def test_what_other_programs_leave_beside_the_files_is_not_read(run: Path, tmp_path: Path) -> None:
    single = tmp_path / "single" / "iteration_00000005"
    single.mkdir(parents=True)
    save_file({"w": np.zeros(3, "float32")}, single / "model-0000000-0000001.safetensors")
    for folder in (newest(run), single):
        for path in list(folder.iterdir()):
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(4092))
    assert_whole(open_iteration_folder(newest(run)))
    assert_whole(open_iteration_folder(single), {"w": np.zeros(3, "float32")})


def test_files_of_many_ranks_without_metadata_ask_for_them(run: Path) -> None:
    (newest(run) / "metadata.json").unlink()
    (assumed,) = open_iteration_folder(newest(run)).assumed
    assert "8 ranks" in assumed
    assert "fetch it" in assumed


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.getuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("closed", ["metadata.json", "model-0000003-0000008.safetensors", "."])
def test_what_cannot_be_read_is_named_and_no_traceback(closed: str, run: Path) -> None:
    for path in (run, *run.parents):
        path.chmod(path.stat().st_mode | 0o755)
    for path in newest(run).iterdir():
        path.chmod(0o644)
    (newest(run) / closed).chmod(0)
    shutil.rmtree(run / "iteration_00000010")
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="MFC101") as caught:
            open_iteration_folder(run)
    finally:
        os.seteuid(0)
    assert "Permission denied" in str(caught.value)
    assert (newest(run) / closed).name in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.getuid() != 0, reason="only root may become somebody else")
def test_counters_that_cannot_be_read_are_no_reason_to_refuse_the_weights(run: Path) -> None:
    for path in (run, *run.parents):
        path.chmod(path.stat().st_mode | 0o755)
    for path in newest(run).iterdir():
        path.chmod(0 if path.name == "common.json" else 0o644)
    tracker = run / "latest_checkpointed_iteration.txt"
    tracker.write_text("20")
    tracker.chmod(0)
    os.seteuid(65534)
    try:
        opened = open_iteration_folder(run)
        assert_whole(opened)
    finally:
        os.seteuid(0)
    assert any("common.json cannot be read" in note for note in opened.notes)


def test_without_metadata_a_file_that_the_names_count_and_that_is_absent_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "iteration_00000005"
    folder.mkdir()
    save_file({"w": np.zeros(3, "float32")}, folder / "model-0000000-0000002.safetensors")
    opened = open_iteration_folder(folder)
    assert codes(opened) == {"MFC111"}
    assert "model-0000001-0000002" in str(opened.problems[0])


def test_a_metadata_json_of_another_program_makes_no_iteration_folder(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, "float32")}, tmp_path / "model.safetensors")
    (tmp_path / "metadata.json").write_text('{"name": "a data set"}')
    assert not looks_like_iteration_folder(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"global_step": {"a": 1}}', '{"ckpt_status": 1}', "[" * 100_000])
def test_run_state_that_cannot_be_used_is_no_reason_to_refuse_the_weights(run: Path, content: str) -> None:
    common = newest(run) / "common.json"
    common.unlink()
    common.write_text(content)
    opened = open_iteration_folder(newest(run))
    assert_whole(opened)
    assert ("unhealthy" in "".join(opened.notes)) == ("ckpt_status" in content)


# ---- strangers' files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "a\0b", "a\\b", "", ".", "..", "\ud800", 7, None, ["a"]]
)
@pytest.mark.parametrize("described", [True, False])
def test_a_file_name_that_leads_elsewhere_is_refused(run: Path, name: Any, described: bool) -> None:
    def change(content: dict[str, Any]) -> None:
        content["storage_data"]["('layers.0.wq.weight', (1,))"][0]["file_name"] = name
        if not described:
            del content["state_dict_metadata"]["layers.0.wq.weight"]

    edit(newest(run), change)
    with pytest.raises(InputError) as caught:
        open_iteration_folder(newest(run))
    assert caught.value.code == "MFC104"
    assert "layers.0.wq.weight" in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats() | st.text(max_size=4) | st.sampled_from(["Float32", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    """Where everything in a JSON value is."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return write_iteration(
        folder, 1, {n: WHOLE[n] for n in ("layers.0.w2.weight", "embedding.weight", "layers.0.wq.bias")}, optimizer=False
    )


@settings(max_examples=400)
@given(data=st.data())
def test_metadata_with_anything_anywhere_are_read_or_refused(small: Path, data: st.DataObject) -> None:
    content = json.loads((small / "metadata.json").read_text())
    places = [p for p in paths_in(content) if p]
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places))
        holder: Any = content
        try:
            for key in way:
                holder = holder[key]
            holder[last] = data.draw(JSON)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed it
    with_folder_of(small, json.dumps(content).encode())


@settings(max_examples=300)
@given(data=st.data())
def test_metadata_with_broken_bytes_are_read_or_refused(small: Path, data: st.DataObject) -> None:
    raw = bytearray((small / "metadata.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with_folder_of(small, bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw))


def with_folder_of(small: Path, metadata: bytes) -> None:
    """Open the folder with other metadata: only our own errors come out, and what is opened without problems can be merged."""
    path = small.parent / "iteration_00000002"
    path.mkdir(exist_ok=True)
    for file in small.glob("*.safetensors"):
        if not (path / file.name).exists():
            (path / file.name).hardlink_to(file)
    (path / "metadata.json").write_bytes(metadata)
    try:
        opened = open_iteration_folder(path)
    except MfconvError:
        return
    assert str(opened)
    if not opened.problems:
        for tensor in opened.tensors.values():
            read_tensor(tensor.whole())


@pytest.mark.parametrize("count", [120, 1000])
def test_slices_that_form_no_grid_are_refused_without_looking_at_every_cell(count: int, small: Path) -> None:
    """Boxes along the diagonal of three axes, and one that holds all the cells which their edges make: 1.7 or a thousand million."""
    content = json.loads((small / "metadata.json").read_text())
    boxes = {(0, n, n, n): (1, 1, 1, 1) for n in range(count)} | {(1, 0, 0, 0): (1, count, count, count)}
    chunks = [{"global_offset": offset, "local_shape": shape} for offset, shape in boxes.items()]
    content["state_dict_metadata"] = {"w": {"global_shape": [2, count, count, count], "chunk": chunks}}
    files = ["small.safetensors"] * count + ["large.safetensors"]
    content["storage_data"] = {
        str(("w", offset)): [{"file_name": file, "storage_rank": n}] for n, (offset, file) in enumerate(zip(boxes, files, strict=True))
    }
    folder = small.parent / f"iteration_{count:08}"
    folder.mkdir()
    for file, shape in (("small", (1, 1, 1, 1)), ("large", (1, count, count, count))):
        write_with_a_hole(folder / f"{file}.safetensors", {"w": shape})
    (folder / "metadata.json").write_text(json.dumps(content))
    found: list[TrainedRun] = []
    assert work_of(lambda: found.append(open_iteration_folder(folder))) < 1_000_000
    (problem,) = found[0].problems
    assert problem.code == "MFC113"
    assert f"{count + 1:,} slices that form no grid" in str(problem)


def test_a_hundred_thousand_slices_take_ten_times_the_work_of_ten_thousand(tmp_path: Path) -> None:
    work, opened = {}, []
    for count in (1250, 12_500):
        folder = write_many_slices(tmp_path / f"iteration_{count:08}", count)
        work[count] = work_of(lambda folder=folder: opened.append(open_iteration_folder(folder)))
    assert [len(run.tensors) for run in opened] == [1250, 12_500]
    assert not any(run.problems for run in opened)
    assert work[12_500] < 11 * work[1250]


def write_many_slices(folder: Path, count: int) -> Path:
    """An iteration of so many tensors in eight slices each."""
    folder.mkdir()
    names = [f"model.layers.{n // 100}.mlp.experts.{n % 100}.weight" for n in range(count)]
    layout = {"device_matrix": [8], "tensor_map": [0, -1], "interleaved_parallel": False, "alias_name": ["tp"], "rank_list": [*range(8)]}
    files = [f"model-{rank:07d}-0000008.safetensors" for rank in range(8)]
    described = {
        name: {
            "properties": {"dtype": "Float32", "replica_id": [0] * 8, "allow_shape_mismatch": False, "allow_to_save": True},
            "global_shape": [8, 2],
            "axis_fragmentations": [8, 1],
            "layout": layout,
            "chunk": [{"global_offset": [rank], "local_shape": [1, 2]} for rank in range(8)],
        }
        for name in names
    }
    storage = {
        str((name, (rank,))): [{"file_name": files[rank], "storage_rank": rank, "rank_group": [rank]}]
        for name in names
        for rank in range(8)
    }
    (folder / "metadata.json").write_text(json.dumps({"state_dict_metadata": described, "storage_data": storage}))
    for file in files:
        save_file({name: np.zeros((1, 2), "float32") for name in names}, folder / file)
    return folder
