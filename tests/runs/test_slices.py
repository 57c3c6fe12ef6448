"""Which box of a tensor each device holds, and whether boxes make up the whole: against numpy, which cuts and joins for real."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfconv_nb.runs.slices import Box, Slicing, boxes_of, tiling_of, whole_shape


def cut_by_numpy(array: np.ndarray, slicing: Slicing) -> list[np.ndarray]:
    """What each device holds, by splitting one device dimension after the other."""
    held = np.empty(slicing.devices, object)
    for device in np.ndindex(*slicing.devices):
        part = array
        for axis, cut in enumerate(slicing.cuts):
            for dimension in cut:
                part = np.split(part, slicing.devices[dimension], axis)[device[dimension]]
        held[device] = part
    return list(held.reshape(-1))


@pytest.mark.parametrize(
    "slicing",
    [
        Slicing((2, 4), ((1,), ())),
        Slicing((2, 4), ((), (0,))),
        Slicing((2, 4), ((1,), (0,))),
        Slicing((2, 2, 2), ((0, 2), (1,))),
        Slicing((2, 2, 2), ((2, 0), ())),
        Slicing((8,), ((), ())),
    ],
)
def test_the_boxes_are_what_numpy_cuts(slicing: Slicing) -> None:
    array = np.arange(16 * 8).reshape(16, 8)
    boxes = boxes_of(slicing, array.shape)
    for box, part in zip(boxes, cut_by_numpy(array, slicing), strict=True):
        rows, columns = (slice(o, o + n) for o, n in zip(box.offset, box.shape, strict=True))
        assert np.array_equal(array[rows, columns], part)
        assert whole_shape(slicing, box.shape) == array.shape
    assert tiling_of(array.shape, boxes).is_exact


def test_the_optimizer_cuts_equal_slices_again_along_the_first_axis() -> None:
    boxes = boxes_of(Slicing((2, 4), ((1,), ()), optimizer_shards=2), (16, 3))
    assert [b.offset[0] for b in boxes] == [0, 4, 8, 12, 2, 6, 10, 14]
    assert {b.shape for b in boxes} == {(2, 3)}


def test_an_axis_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError) as caught:
        boxes_of(Slicing((4,), ((), (0,))), (8, 6))
    assert caught.value.args == (1, 6, 4)


def test_a_block_puts_a_slice_where_its_box_is() -> None:
    whole, box = np.zeros(35, int), Box((1, 2), (3, 4))
    block = box.block((5, 7))
    piece = np.arange(12) + 1
    for index in np.ndindex(*block.sizes):
        s = block.source_offset + sum(i * n for i, n in zip(index, block.source_strides, strict=True))
        t = block.target_offset + sum(i * n for i, n in zip(index, block.target_strides, strict=True))
        whole[t] = piece[s]
    assert np.array_equal(whole.reshape(5, 7)[1:4, 2:6], piece.reshape(3, 4))
    assert whole.sum() == piece.sum()


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A tensor cut along every axis at arbitrary places: boxes of all sizes that tile it."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    edges = [sorted({0, n, *draw(st.lists(st.integers(0, n), max_size=3))}) for n in shape]
    boxes = [Box((), ())]
    for axis in edges:
        boxes = [Box((*b.offset, low), (*b.shape, high - low)) for b in boxes for low, high in pairwise(axis)]
    return shape, boxes


@given(grids(), st.data())
def test_what_is_taken_away_leaves_a_gap_and_what_is_moved_overlaps_or_leaves(
    grid: tuple[tuple[int, ...], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = grid
    assert tiling_of(shape, boxes).is_exact
    one = data.draw(st.sampled_from(boxes))
    rest = [b for b in boxes if b != one]
    found = tiling_of(shape, rest)
    assert found.gaps
    assert not found.overlaps
    held = np.zeros(shape, int)
    for box in rest:
        held[tuple(slice(o, o + n) for o, n in zip(box.offset, box.shape, strict=True))] += 1
    for gap in found.gaps:
        assert not held[tuple(slice(o, o + n) for o, n in zip(gap.offset, gap.shape, strict=True))].any()
    axis = data.draw(st.integers(0, len(shape) - 1))
    moved = Box((*one.offset[:axis], one.offset[axis] + 1, *one.offset[axis + 1 :]), one.shape)
    assert not tiling_of(shape, [*rest, moved]).is_exact


def test_a_scalar_and_an_empty_tensor_are_whole() -> None:
    assert boxes_of(Slicing((4,), ()), ()) == (Box((), ()),) * 4
    assert tiling_of((), [Box((), ())]).is_exact
    assert tiling_of((0, 3), [Box((0, 0), (0, 3))]).is_exact
    assert tiling_of((), []).gaps
