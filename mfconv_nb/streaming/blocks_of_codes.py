"""Scale and rounding error of every block of a weight that is computed from codes, as it was published: the numbers of a picture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.dtypes import Array, cast_into, itemsize, numpy_dtype
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.rounding import relative_errors
from mfconv_nb.streaming.dequantised import PANEL, CodedMatrix, DequantisedSource, dequantised_sources

MOST_CELLS = 64  # down and across; more blocks are pooled, and a cell holds the largest value of its blocks


@dataclass(frozen=True, slots=True, eq=False)
class BlocksSeen:
    """Of the published weights that a tensor is computed from, laid one under the other: what is known of their blocks.

    Attributes:
        weights: their names.
        block: rows and columns that one scale is for; of the first weight.
        matrices: how many lie one under the other; a published stack counts with all of its own.
        grid: how many blocks there are, down and across.
        pooled: so many blocks share a cell, down and across.
        scales: the largest scale of each cell; NaN where a narrower weight has no block.
        errors: likewise the largest relative error of a number, in the dtype of the tensor: against the product in float32; of fp32
            against the exact product.
    """

    weights: tuple[str, ...]
    dtype: str
    block: tuple[int, int]
    matrices: int
    grid: tuple[int, int]
    pooled: tuple[int, int]
    scales: Array
    errors: Array


def measure_blocks(tensor: LazyTensor, *, on_progress: OnProgress | None = None, stop: threading.Event | None = None) -> BlocksSeen | None:
    """Read all codes and scales that a tensor is computed from, each once. Memory: a panel and the cells.

    Args:
        on_progress: called with the bytes computed so far, in the dtype of the tensor; ``bytes_of_blocks`` gives the total.
        stop: set it, from any thread, to stop within a panel.
    Returns:
        What was seen; None where nothing is computed from codes, or if it was stopped.
    Raises:
        MappingError: MFC321 for a scale that is no positive number.
    """
    sources = dequantised_sources([tensor])
    if not sources:
        return None
    matrices = [source.matrix for source in sources]
    down, across = sum(_rows_of_scales(m) for m in matrices), max(m.grid[1] for m in matrices)
    pooled = (-(-down // MOST_CELLS), -(-across // MOST_CELLS))
    scales, errors = (np.full((-(-down // pooled[0]), -(-across // pooled[1])), np.nan) for _ in range(2))
    above, done = 0, 0
    for source, matrix in zip(sources, matrices, strict=True):
        row = above
        for panel in matrix.scale_panels():
            _keep_largest(scales, (row + np.arange(len(panel))) // pooled[0], panel, pooled[1])
            row += len(panel)
        for rows in _panels_of_rows(matrix):
            if stop is not None and stop.is_set():
                return None
            found = _errors_of_rows(source, rows, tensor.dtype)
            by_block = np.maximum.reduceat(found, np.arange(0, matrix.columns, matrix.block[1]), axis=1)
            _keep_largest(errors, (above + matrix.rows_of_scales(rows)) // pooled[0], by_block, pooled[1])
            done += found.size * itemsize(tensor.dtype)
            if on_progress is not None:
                on_progress(done)
        above = row
    count = sum(_rows_of_scales(m) // m.grid[0] for m in matrices)
    return BlocksSeen(tuple(m.name for m in matrices), tensor.dtype, matrices[0].block, count, (down, across), pooled, scales, errors)


def bytes_of_blocks(tensor: LazyTensor) -> int:
    """What ``measure_blocks`` computes; 0 where nothing is computed from codes."""
    return sum(source.matrix.elements for source in dequantised_sources([tensor])) * itemsize(tensor.dtype)


def _rows_of_scales(matrix: CodedMatrix) -> int:
    """Counted through the stack."""
    return matrix.scales.spec.elements // matrix.grid[1]


def _panels_of_rows(matrix: CodedMatrix) -> Iterator[Array]:
    total, step = matrix.elements // matrix.columns, max(1, PANEL // matrix.columns)
    return (np.arange(first, min(total, first + step)) for first in range(0, total, step))


def _errors_of_rows(source: DequantisedSource, rows: Array, dtype: str) -> Array:
    """The relative error of every number of some rows, one after the other, in ``dtype``."""
    exact = _read_rows(source.exact if dtype == "F32" else source, rows, np.float64 if dtype == "F32" else np.float32)
    rounded = np.empty(exact.shape, numpy_dtype(dtype))
    cast_into(rounded, exact)
    return relative_errors(rounded, exact)


def _read_rows(source: DequantisedSource, rows: Array, dtype: type) -> Array:
    out: Array = np.empty((rows.size, source.matrix.columns), dtype)
    source.read_into(int(rows[0]) * out.strides[0], out.data.cast("B"))
    return out


def _keep_largest(cells: Array, rows: Array, values: Array, pooled: int) -> None:
    """Rows of values, one for each block across, into the cells of these rows."""
    found = np.maximum.reduceat(values, np.arange(0, values.shape[1], pooled), axis=1)
    np.fmax.at(cells[:, : found.shape[1]], rows, found)
