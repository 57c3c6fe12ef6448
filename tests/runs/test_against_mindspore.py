"""What mindspore merges and what we read from the same folders, byte for byte; and the folders that mindspore merges into nonsense."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mfconv_nb.core.errors import InputError
from mfconv_nb.formats.strategy_file import StrategyLayout
from mfconv_nb.runs import strategies
from mfconv_nb.runs.rank_folders import open_rank_folders
from mfconv_nb.runs.run import Step
from mfconv_nb.runs.slices import Slicing, boxes_of
from mfconv_nb.runs.strategies import slicing_of
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.made import Cut, make_rank_folders, numbered_tensors, slices_of, write_strategy_file

ms = pytest.importorskip("mindspore")
pytestmark = pytest.mark.real_frameworks


@pytest.fixture(autouse=True)
def _mindspore_does_not_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """unified_safetensors sleeps for as long as more than half of the memory of the machine is in use, by whomever."""
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(percent=1, available=1 << 40))


LAYOUTS: dict[str, tuple[dict[str, Cut], dict[str, tuple[int, ...]]]] = {
    "tensor parallel": (
        {"a": Cut((8,), (0, -1)), "b": Cut((8,), (-1, 0)), "c": Cut((2, 4), (1, 0))},
        {"a": (16, 4), "b": (4, 16), "c": (4, 8)},
    ),
    "data parallel": ({"a": Cut((8,), (-1, -1)), "b": Cut((2, 4), (0,))}, {"a": (3, 5), "b": (8,)}),
    "optimizer parallel": (
        {"a": Cut((2, 4), (0, -1), shards=2), "b": Cut((8,), (-1, -1), shards=8), "c": Cut((2, 2, 2), (-1, 1), shards=2)},
        {"a": (16, 3), "b": (16, 2), "c": (4, 4)},
    ),
    "two maps on one axis": (
        {"a": Cut((2, 2, 2), ((2, 0), -1)), "b": Cut((2, 2, 2), ((0, 1), -1)), "c": Cut((2, 2, 2), (2, (1, 0)))},
        {"a": (8, 3), "b": (8, 2), "c": (4, 8)},
    ),
    "pipeline": (
        {"a": Cut((2, 2), (0, -1)), "b": Cut((4,), (-1, 0), stages=(1,)), "tied": Cut((2, 2), (0, 1), stages=(0, 1))},
        {"a": (4, 4), "b": (2, 8), "tied": (4, 6)},
    ),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_merged_by_mindspore_and_by_us(tmp_path: Path, kind: str) -> None:
    cuts, shapes = LAYOUTS[kind]
    tensors = numbered_tensors(shapes)
    folder = make_rank_folders(tmp_path / "run", tensors, cuts, strategy="merged", with_mindspore=True)
    (folder / "strategy").rename(tmp_path / "strategy")
    strategy = tmp_path / "strategy" / "merged_ckpt_strategy.ckpt"
    ms.parallel.unified_safetensors(str(folder), str(strategy), str(tmp_path / "merged"))
    theirs = {
        n: t.asnumpy() for p in (tmp_path / "merged").glob("part*") for n, t in ms.load_checkpoint(str(p), format="safetensors").items()
    }
    run = open_rank_folders(folder, strategy=strategy)
    assert not run.problems
    assert set(theirs) == set(run.tensors) == set(tensors)
    for name, tensor in run.tensors.items():
        ours = read_tensor(tensor.whole())
        assert ours.shape == theirs[name].shape == tensors[name].shape
        assert ours.tobytes() == theirs[name].tobytes() == tensors[name].tobytes(), name


@pytest.mark.parametrize("kind", [k for k in LAYOUTS if k != "pipeline"])
def test_ckpt_folders_too(tmp_path: Path, kind: str) -> None:
    cuts, shapes = LAYOUTS[kind]
    tensors = numbered_tensors(shapes)
    name = "{prefix}_rank_{rank}-{epoch}_{step}.{ending}"
    folder = make_rank_folders(tmp_path / "run", tensors, cuts, strategy=None, ending="ckpt", name=name)
    strategy = write_strategy_file(tmp_path / "strategy.ckpt", cuts, [0], with_mindspore=True)
    ms.transform_checkpoints(str(folder), str(tmp_path / "merged"), "whole", str(strategy), None)
    theirs = ms.load_checkpoint(str(tmp_path / "merged" / "rank_0" / "whole0.ckpt"))
    run = open_rank_folders(folder, strategy=strategy)
    assert not run.problems
    for name in tensors:
        assert read_tensor(run.tensors[name].whole()).tobytes() == theirs[name].asnumpy().tobytes() == tensors[name].tobytes()


def test_redundancy_that_mindspore_removed(tmp_path: Path) -> None:
    """The metadata that save_checkpoint writes; which rank keeps a slice is ours to find out."""
    cuts, tensors = {"a": Cut((2, 2), (0, -1))}, numbered_tensors({"a": (4, 2)})
    make_rank_folders(tmp_path, tensors, cuts)
    for rank, part in enumerate(slices_of(tensors["a"], cuts["a"])):
        path = tmp_path / f"rank_{rank}" / f"llama_rank_{rank}-1_1.safetensors"
        kept = [{"name": "a", "data": ms.Tensor(part)}] if rank in (1, 2) else [{"name": "epoch_num", "data": ms.Tensor(1)}]
        ms.save_checkpoint(kept, str(path), format="safetensors", remove_redundancy=True)
    run = open_rank_folders(tmp_path)
    assert not run.problems
    assert np.array_equal(read_tensor(run.tensors["a"].whole()), tensors["a"])
    assert "saved without redundant slices: 4 of 4 files" in run.notes


# ---- many layouts --------------------------------------------------------------------------------------------------------------


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Device matrices of up to four dimensions, each axis cut by none, one or several of them, and shards of the optimizer."""
    devices = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4)))
    assume(math.prod(devices) <= 48)
    free = draw(st.permutations(range(len(devices))))
    axes = draw(st.integers(1, 3))
    several = draw(st.booleans()) and axes > 1
    maps: list[tuple[int, ...]] = []
    for _ in range(axes):
        count = min(draw(st.integers(0, 2 if several else 1)), len(free))
        maps.append(tuple(free[:count]) or (-1,))
        free = free[count:]
    whole = Cut(devices, tuple(m if several else m[0] for m in maps))
    shards = draw(st.sampled_from([n for n in range(1, len(whole.group) + 1) if len(whole.group) % n == 0]))
    return Cut(devices, whole.maps, shards)


def layout_of(cut: Cut) -> StrategyLayout:
    several = isinstance(cut.maps[0], tuple)
    maps = tuple(m for m in cut.maps if isinstance(m, tuple)) if several else (tuple(m for m in cut.maps if isinstance(m, int)),)
    return StrategyLayout(
        cut.devices, maps, shard_step=cut.group[1] - cut.group[0] if cut.shards > 1 else 0, shard_size=cut.shards if cut.shards > 1 else 0
    )


def merged_by_mindspore(cut: Cut, layout: StrategyLayout, parts: list[Any]) -> Any:
    from mindspore.parallel._parallel_serialization import _transform_parallel_checkpoint

    maps = [list(m) for m in layout.maps] if isinstance(cut.maps[0], tuple) else list(layout.maps[0])
    strategy = {"w": [list(cut.devices), maps, [], 0, layout.shard_step, layout.shard_size, [0]]}
    ranks = range(len(parts))
    held, kinds = {"w": dict(enumerate(parts))}, {"w": dict.fromkeys(ranks, "Float32")}
    return _transform_parallel_checkpoint(0, held, {"w": dict.fromkeys(ranks, (True, False))}, strategy, None, kinds)[0]["data"].asnumpy()


def is_merged_wrongly_by_mindspore(cut: Cut) -> bool:
    """Where the outermost dimension alone is free for the optimizer, mindspore rebuilds the device matrix from the axes, in their
    order: that is the wrong one where a later axis is cut by an outer dimension."""
    used = [d for c in cut.cuts for d in c]
    free = [d for d, n in enumerate(cut.devices) if n > 1 and d not in used]
    real = [d for d in used if cut.devices[d] > 1]
    return cut.shards > 1 and len(free) == 1 and real != sorted(real)


@settings(max_examples=400, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(cuts())
def test_the_boxes_are_those_that_mindspore_merges(cut: Cut) -> None:
    assume(not is_merged_wrongly_by_mindspore(cut))
    shape = [2 * math.prod(cut.devices[d] for d in dims) for dims in cut.cuts]
    shape[0] *= cut.shards
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    parts, layout = slices_of(array, cut), layout_of(cut)
    try:
        slicing = slicing_of(layout, array.ndim, math.prod(cut.devices), "w")
    except InputError:
        with pytest.raises(ValueError):
            merged_by_mindspore(cut, layout, parts)
        return
    assert slicing_of(strategies.layout_of(slicing), array.ndim, math.prod(cut.devices), "w") == slicing
    for box, part in zip(boxes_of(slicing, array.shape), parts, strict=True):
        assert np.array_equal(array[tuple(slice(o, o + n) for o, n in zip(box.offset, box.shape, strict=True))], part)
    try:
        theirs = merged_by_mindspore(cut, layout, parts)
    except ValueError:
        assert slicing.parts == (1,) * array.ndim  # a dimension of size 1 makes it look for one that fits, where any would do
        return
    assert np.array_equal(theirs, array)


def test_one_axis_that_two_dimensions_cut_is_told_from_two_axes() -> None:
    """A single map of two entries: two axes with one dimension each, or one axis with both."""
    both = Slicing((2, 4), ((1, 0),))
    assert strategies.layout_of(both).maps == ((0, 1),)
    assert slicing_of(strategies.layout_of(both), 1, 8, "w") == both
    assert slicing_of(strategies.layout_of(both), 2, 8, "w") == Slicing((2, 4), ((1,), (0,)))


def test_the_layouts_that_are_left_out_above_are_really_merged_wrongly() -> None:
    """Axis 0 is cut by the inner, axis 1 by the outer of two dimensions; the boxes are those that numpy cuts."""
    cut = Cut((2, 2, 3), (0, 1), shards=2)
    assert is_merged_wrongly_by_mindspore(cut)
    array = np.arange(12 * 4, dtype=np.float32).reshape(12, 4)
    parts, layout = slices_of(array, cut), layout_of(cut)
    theirs = merged_by_mindspore(cut, layout, parts)
    assert theirs.shape == array.shape
    assert not np.array_equal(theirs, array)
    for box, part in zip(boxes_of(slicing_of(layout, 2, 12, "w"), array.shape), parts, strict=True):
        assert np.array_equal(array[tuple(slice(o, o + n) for o, n in zip(box.offset, box.shape, strict=True))], part)


# ---- what mindspore merges without a word ------------------------------------------------------------------------------------------


def unified(folder: Path, strategy: Path, to: Path) -> Any:
    ms.parallel.unified_safetensors(str(folder), str(strategy), str(to))
    return ms.load_checkpoint(str(to / "part0.safetensors"), format="safetensors")["a"].asnumpy()


def test_mixed_steps_are_merged_by_mindspore_and_not_by_us(tmp_path: Path) -> None:
    plain = {"a": Cut((4,), (0, -1))}
    old, new = (numbered_tensors({"a": (8, 4)}, first=n) for n in (0, 1000))
    folder = make_rank_folders(tmp_path / "run", old, plain, step=1, strategy=None)
    make_rank_folders(folder, new, plain, step=2, ranks=[0], strategy=None)
    strategy = write_strategy_file(tmp_path / "s.ckpt", plain, [0], with_mindspore=True)
    mixed = unified(folder, strategy, tmp_path / "merged")
    assert np.array_equal(mixed[:2], new["a"][:2])
    assert np.array_equal(mixed[2:], old["a"][2:])
    run = open_rank_folders(folder, strategy=strategy)
    assert run.chosen == Step(1, 1)
    assert np.array_equal(read_tensor(run.tensors["a"].whole()), old["a"])


def test_a_strategy_with_the_wrong_axis_shows_in_the_shape(tmp_path: Path) -> None:
    tensors = numbered_tensors({"a": (8, 4)})
    folder = make_rank_folders(tmp_path / "run", tensors, {"a": Cut((4,), (0, -1))}, strategy=None)
    strategy = write_strategy_file(tmp_path / "s.ckpt", {"a": Cut((4,), (-1, 0))}, [0], with_mindspore=True)
    assert unified(folder, strategy, tmp_path / "merged").shape == (2, 16)
    run = open_rank_folders(folder, strategy=strategy, shapes={"a": (8, 4)})
    assert [p.code for p in run.problems] == ["MFC113"]
    assert "[2, 16]" in str(run.problems[0])
    assert "[8, 4]" in str(run.problems[0])
