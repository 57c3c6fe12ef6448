"""What moves numbers moves whole tiles in the same way, or is told to take tiles apart: checked against every number of small matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mfconv_nb.core.blocks import Block, Tiling, block_of_tiles, make_block, move_block
from tests.support import Array


def moved(block: Block, size: int, target: int) -> Array:
    """Where in the source each number of the target comes from; -1 for those that are not filled."""
    out = np.full(target, -1, np.int64)
    move_block(out, np.arange(size, dtype=np.int64), block)
    return out


def tiles_of(tiling: Tiling, stack: int) -> Array:
    """The tile that each number of a stack of matrices lies in."""
    down, across = tiling.grid
    matrix, row, column = np.indices((stack, tiling.rows, tiling.columns))
    return ((matrix * down + row // tiling.tile[0]) * across + column // tiling.tile[1]).reshape(-1)


def expected_tiles(block: Block, source: Tiling, target: Tiling, stacks: tuple[int, int]) -> Array | None:
    """By every number: the source tile of each target tile; None where a tile is cut, or filled from two."""
    from_ = moved(block, stacks[0] * source.rows * source.columns, stacks[1] * target.rows * target.columns)
    mine, theirs = tiles_of(source, stacks[0]), tiles_of(target, stacks[1])
    found = np.full(int(theirs.max()) + 1, -1, np.int64)
    for tile in range(len(found)):
        inside = from_[theirs == tile]
        if (inside == -1).all():
            continue
        tiles = set(mine[inside[inside >= 0]].tolist())
        if (inside == -1).any() or len(tiles) != 1 or np.count_nonzero(mine == next(iter(tiles))) != inside.size:
            return None
        found[tile] = tiles.pop()
    return found


CASES = {
    "whole": ((6, 8), (6, 8), (2, 4), (1, 1), make_block((48,), 0, (1,), 0, (1,))),
    "whole, cut edges": ((5, 7), (5, 7), (2, 4), (1, 1), make_block((35,), 0, (1,), 0, (1,))),
    "rows into a longer one": ((4, 8), (10, 8), (2, 4), (1, 1), make_block((4, 8), 0, (8, 1), 16, (8, 1))),
    "rows, not at a block": ((4, 8), (10, 8), (2, 4), (1, 1), make_block((4, 8), 0, (8, 1), 24, (8, 1))),
    "rows that end in a block, not last": ((3, 8), (10, 8), (2, 4), (1, 1), make_block((3, 8), 0, (8, 1), 0, (8, 1))),
    "some rows of one": ((10, 8), (4, 8), (2, 4), (1, 1), make_block((4, 8), 32, (8, 1), 0, (8, 1))),
    "some rows, askew": ((10, 8), (4, 8), (2, 4), (1, 1), make_block((4, 8), 24, (8, 1), 0, (8, 1))),
    "side by side": ((4, 8), (4, 16), (2, 4), (1, 1), make_block((4, 8), 0, (8, 1), 8, (16, 1))),
    "side by side, not at a block": ((4, 6), (4, 12), (2, 4), (1, 1), make_block((4, 6), 0, (6, 1), 6, (12, 1))),
    "turned": ((6, 8), (8, 6), (2, 2), (1, 1), make_block((8, 6), 0, (1, 8), 0, (6, 1))),
    "one of a stack": ((6, 8), (6, 8), (2, 4), (1, 3), make_block((48,), 0, (1,), 48, (1,))),
    "a stack whose matrices end in a block": ((5, 7), (5, 7), (2, 4), (1, 3), make_block((35,), 0, (1,), 35, (1,))),
    "two rows exchanged in each block": ((6, 8), (6, 8), (2, 4), (1, 1), make_block((3, 2, 8), 0, (16, 8, 1), 0, (8, 24, 1))),
    "blocks of rows exchanged": ((8, 8), (8, 8), (2, 4), (1, 1), make_block((2, 2, 2, 8), 0, (32, 16, 8, 1), 0, (16, 32, 8, 1))),
    "every second row": ((8, 8), (4, 8), (2, 4), (1, 1), make_block((4, 8), 0, (16, 1), 0, (8, 1))),
    "one column": ((4, 8), (4, 1), (2, 4), (1, 1), make_block((4,), 0, (8,), 0, (1,))),
    "a scale a row": ((4, 8), (4, 16), (1, 8), (1, 1), make_block((4, 8), 0, (8, 1), 8, (16, 1))),
    "bytes of two": ((4, 8), (8, 4), (1, 2), (1, 1), make_block((8, 4), 0, (1, 8), 0, (4, 1))),
    "one row": ((1, 8), (1, 8), (2, 4), (1, 1), make_block((8,), 0, (1,), 0, (1,))),
}


@pytest.mark.parametrize("case", CASES)
def test_tiles_move_as_their_numbers_do_or_are_told_to_be_cut(case: str) -> None:
    (rows, columns), (to_rows, to_columns), tile, stacks, block = CASES[case]
    source = Tiling(rows, columns, (min(tile[0], rows), min(tile[1], columns)))
    target = Tiling(to_rows, to_columns, (min(tile[0], to_rows), min(tile[1], to_columns)))
    expected = expected_tiles(block, source, target, stacks)
    found = block_of_tiles(block, source, target)
    if expected is None:
        assert found is None
        return
    assert found is not None
    tiles = stacks[0] * source.grid[0] * source.grid[1]
    np.testing.assert_array_equal(moved(found, tiles, len(expected)), expected)


def test_random_boxes_never_give_a_wrong_tile() -> None:
    rng = np.random.default_rng(2)
    told = 0
    for rows, columns, turned in itertools.product((4, 6, 7), (4, 8, 9), (False, True)):
        for _ in range(40):
            tile = (int(rng.integers(1, 4)), int(rng.integers(1, 5)))
            source = Tiling(rows, columns, (min(tile[0], rows), min(tile[1], columns)))
            r0, c0 = int(rng.integers(0, rows)), int(rng.integers(0, columns))
            n, m = int(rng.integers(1, rows - r0 + 1)), int(rng.integers(1, columns - c0 + 1))
            shape = (m, n) if turned else (n, m)
            size = tile[::-1] if turned else tile
            target = Tiling(*shape, (min(size[0], shape[0]), min(size[1], shape[1])))
            strides = (1, n) if turned else (m, 1)
            block = make_block((n, m), r0 * columns + c0, (columns, 1), 0, strides)
            found, expected = block_of_tiles(block, source, target), expected_tiles(block, source, target, (1, 1))
            if found is None:
                continue
            told += 1
            assert expected is not None, (source, target, block)
            np.testing.assert_array_equal(moved(found, source.grid[0] * source.grid[1], len(expected)), expected)
    assert told > 50
