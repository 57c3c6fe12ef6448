"""What strategy files say of a tensor, checked against the device matrix: a layout that contradicts itself is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfconv_nb.core.errors import InputError
from mfconv_nb.formats.strategy_file import StrategyFile, StrategyLayout
from mfconv_nb.runs.slices import Slicing, boxes_of
from mfconv_nb.runs.strategies import copy_groups, layout_of, needed_groups, slicing_of, stages_of
from tests.toys import refused_with


def refusal(layout: StrategyLayout, axes: int = 2, devices: int = 8) -> str:
    return str(refused_with("MFC114", lambda: slicing_of(layout, axes, devices, "'w'"), InputError))


# Of a (2, 4) matrix the inner dimension cuts axis 0, so copies lie 4 ranks apart; or the outer one, so they lie side by side.
INNER, OUTER = ((0, -1),), ((1, -1),)


@pytest.mark.parametrize("maps, step, size", [(INNER, 4, 2), (OUTER, 1, 4), (OUTER, 1, 2), (INNER, 4, -1)])
def test_optimizer_shards_where_the_copies_lie_are_taken(maps: tuple[tuple[int, ...], ...], step: int, size: int) -> None:
    slicing = slicing_of(StrategyLayout((2, 4), maps, shard_step=step, shard_size=size), 2, 8, "'w'")
    assert slicing.optimizer_shards == (2 if size == -1 else size)


@pytest.mark.parametrize(
    "maps, step, size, expected", [(INNER, 1, 2, 4), (INNER, 2, 2, 4), (INNER, 8, 2, 4), (OUTER, 2, 4, 1), (OUTER, 4, 2, 1)]
)
def test_optimizer_shards_that_contradict_the_device_matrix_are_refused(
    maps: tuple[tuple[int, ...], ...], step: int, size: int, expected: int
) -> None:
    """Taken as they are, slices of other ranks would be put beside each other."""
    said = refusal(StrategyLayout((2, 4), maps, shard_step=step, shard_size=size))
    assert f"optimizer shards {step} rank" in said
    assert f"{expected}, as the device matrix [2, 4] says" in said


@pytest.mark.parametrize("size", [3, 8, 16])
def test_more_or_other_shards_than_there_are_copies_are_refused(size: int) -> None:
    assert f"{size} optimizer shards" in refusal(StrategyLayout((2, 4), OUTER, shard_step=1, shard_size=size))


def test_shards_of_a_tensor_that_nothing_else_cuts_divide_the_stage() -> None:
    uncut = ((-1, -1),)
    assert slicing_of(StrategyLayout((2, 4), uncut, shard_step=1, shard_size=4), 2, 8, "'w'").optimizer_shards == 4
    assert "3 optimizer shards" in refusal(StrategyLayout((2, 4), uncut, shard_step=1, shard_size=3))


def test_shards_are_made_of_the_inner_free_dimensions_or_refused() -> None:
    """Two free dimensions each. 4 of 24 copies are no part of the inner one, which has 6, and no multiple of it."""
    assert slicing_of(StrategyLayout((2, 2, 3), ((0, -1),), shard_step=3, shard_size=2), 2, 12, "'w'").optimizer_shards == 2
    assert slicing_of(StrategyLayout((2, 2, 3), ((0, -1),), shard_step=3, shard_size=4), 2, 12, "'w'").optimizer_shards == 4
    assert "4 optimizer shards" in refusal(StrategyLayout((4, 6, 2), ((0, -1),), shard_step=2, shard_size=4), devices=48)


@pytest.mark.parametrize("step, size", [(0, 0), (0, 1), (0, -1)])
def test_no_shards_are_no_shards(step: int, size: int) -> None:
    assert slicing_of(StrategyLayout((2, 4), INNER, shard_step=step, shard_size=size), 2, 8, "'w'").optimizer_shards == 1


def test_the_rest_of_a_layout_is_checked_too() -> None:
    assert "a device matrix [3]" in refusal(StrategyLayout((3,), ((0, -1),)))
    assert "a tensor map for 3 axes, and slices of 2" in refusal(StrategyLayout((8,), ((0, -1, -1),)))
    assert "a tensor map for 3 axes, and slices of 2" in refusal(StrategyLayout((8,), ((0,), (-1,), (-1,))))
    assert "uneven slices, [3, 5]" in refusal(StrategyLayout((2,), ((0, -1),), split=(3, 5)), devices=2)
    assert "an embedding of 2 fields" in refusal(StrategyLayout((8,), ((0, -1),), field=2))


def test_a_matrix_smaller_than_the_stage_is_repeated_with_copies_outside() -> None:
    slicing = slicing_of(StrategyLayout((4,), ((0, -1),)), 2, 8, "'w'")
    assert slicing == Slicing((2, 4), ((1,), ()))
    assert copy_groups(slicing) == ((0, 4), (1, 5), (2, 6), (3, 7))


@pytest.mark.parametrize(
    "layout",
    [
        StrategyLayout((2, 4), ((0, -1),), shard_step=4, shard_size=2),
        StrategyLayout((2, 2, 2), ((2, 0), (-1,))),
        StrategyLayout((8,), ((-1, -1),)),
    ],
)
def test_what_is_read_of_a_layout_is_written_again(layout: StrategyLayout) -> None:
    assert layout_of(slicing_of(layout, 2, 8, "'w'")) == layout


def test_one_map_of_two_dimensions_for_one_axis_cuts_by_both_the_coarser_first() -> None:
    slicing = slicing_of(StrategyLayout((2, 4), ((1, 0),)), 1, 8, "'w'")
    assert [b.offset for b in boxes_of(slicing, (16,))] == [(2 * n,) for n in range(8)]


# ---- stages ----------------------------------------------------------------------------------------------------------------


def strategy(name: str, **stages: dict[str, StrategyLayout]) -> StrategyFile:
    return StrategyFile(Path(name), {None if s == "unsaid" else int(s[1:]): layouts for s, layouts in stages.items()})


def test_the_ranks_of_a_stage_begin_where_those_of_the_stage_before_end() -> None:
    first, second = {"a": StrategyLayout((2,), ((0,),))}, {"b": StrategyLayout((2, 2), ((1,),))}
    stages = stages_of([strategy("x.ckpt", s0=first), strategy("y.ckpt", s1=second)], range(6))
    assert [(s.number, s.ranks) for s in stages] == [(0, range(2)), (1, range(2, 6))]
    assert needed_groups(stages) == ((0,), (1,), (2, 3), (4, 5))
    assert needed_groups(stages, ["b"]) == ((2, 3), (4, 5))


def test_a_stage_that_no_file_says_is_that_of_the_rank_in_its_name() -> None:
    layouts = {"a": StrategyLayout((4,), ((0,),))}
    stages = stages_of([strategy("ckpt_strategy_rank_5.ckpt", unsaid={"b": layouts["a"]}), strategy("x.ckpt", s0=layouts)], range(8))
    assert [(s.number, list(s.layouts)) for s in stages] == [(0, ["a"]), (1, ["b"])]


def test_two_files_of_one_stage_must_agree_and_no_stage_may_lack() -> None:
    one, other = {"a": StrategyLayout((4,), ((0,),))}, {"a": StrategyLayout((4,), ((-1,),))}
    with pytest.raises(InputError, match="MFC114") as caught:
        stages_of([strategy("x.ckpt", s0=one), strategy("y.ckpt", s0=other)], range(4))
    assert "'x.ckpt' and 'y.ckpt', which differ at 'a'" in str(caught.value)
    with pytest.raises(InputError, match="MFC111") as caught:
        stages_of([strategy("x.ckpt", s0=one), strategy("y.ckpt", s2=one)], range(12))
    assert "none of stage 1" in str(caught.value)
