"""Sources whose numbers are computed where they are read: any bytes of them, in any order, are those of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mfconv_nb as mc
from mfconv_nb.core.blocks import make_block
from mfconv_nb.core.checkpoint import LazyTensor, Piece, TensorSpec
from mfconv_nb.streaming.averaged import averaged_tensor
from mfconv_nb.streaming.gather import read_tensor
from tests.quantised import by_blocks, fp4, fp8

RNG = np.random.default_rng(8)


def tensors(kind: str) -> tuple[LazyTensor, Any]:
    """A weight of codes, and its float32 numbers."""
    if kind == "fp4":
        codes, scales, product = fp4(RNG.standard_normal((7, 96)).astype(np.float32))
        return mc.load({"a.weight": codes.view(np.int8), "a.scale": scales}, config=by_blocks(32))["a.weight"], product
    parts = [fp8(RNG.standard_normal((37, 50)).astype(np.float32), (16, 16)) for _ in range(3 if kind == "stack" else 1)]
    codes, scales, product = (np.stack([p[n] for p in parts]) if kind == "stack" else parts[0][n] for n in range(3))
    return mc.load({"a.weight": codes, "a.weight_scale_inv": scales}, config=by_blocks(16))["a.weight"], product


@pytest.mark.parametrize("kind", ["fp8", "fp4", "stack"])
def test_any_run_of_bytes_is_that_of_the_whole(kind: str) -> None:
    tensor, product = tensors(kind)
    flat, source = np.ascontiguousarray(product).reshape(-1), tensor.pieces[0].source
    for _ in range(200):
        start = int(RNG.integers(0, flat.size))
        count = int(RNG.integers(1, flat.size - start + 1))
        out = np.empty(count, np.float32)
        source.read_into(start * 4, out.view(np.uint8).data)
        np.testing.assert_array_equal(out, flat[start : start + count])


@pytest.mark.parametrize("kind", ["fp8", "fp4", "stack"])
def test_the_same_columns_of_many_rows_are_read_at_once(kind: str) -> None:
    tensor, product = tensors(kind)
    width = product.shape[-1]
    rows, source = product.reshape(-1, width), tensor.pieces[0].source
    for first, last in ((0, 1), (1, 2), (3, 20), (15, 33), (0, width), (width - 1, width)):
        for step in (1, 3):
            offsets = [(row * width + first) * 4 for row in range(0, len(rows), step)]
            out = np.empty((len(offsets), last - first), np.float32)
            source.read_spans(offsets, (last - first) * 4, out.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
            np.testing.assert_array_equal(out, rows[::step, first:last])


def test_averages_in_a_layout_that_scatters_them_widely_are_right() -> None:
    sums = RNG.standard_normal((600, 5000)).astype(np.float32)
    spec = TensorSpec("w", sums.shape, "F32")
    averaged = averaged_tensor(spec, mc.load({"s": sums})["s"], 2.0)
    piece = averaged.pieces[0]
    block = make_block((5000, 600), 0, (1, 5000), 0, (600, 1))
    turned = LazyTensor(TensorSpec("w", (5000, 600), "F32"), (Piece(piece.source, 0, "F32", block),))
    np.testing.assert_array_equal(read_tensor(turned), (sums / np.float32(2)).T)
