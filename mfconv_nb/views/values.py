"""Show the values of one tensor, or of two: statistics as a table, histograms as pictures. Reads the values when it is called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.dtypes import itemsize, short_name
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Column, Table, note_html, table_html
from mfconv_nb.core.statistics.one_tensor import Statistics
from mfconv_nb.core.statistics.two_tensors import PairStatistics
from mfconv_nb.streaming.blocks_of_codes import bytes_of_blocks, measure_blocks
from mfconv_nb.streaming.dequantised import is_dequantised
from mfconv_nb.streaming.measure import measure, measure_pair, sampled_elements
from mfconv_nb.views.blocks_report import BlocksReport
from mfconv_nb.views.figures import difference_png, heatmap_png, histogram_png, picture_html

SAMPLE = 1 << 20  # elements; a tensor with up to four times as many is read whole, within a second
WIDTH = 420  # of a picture, in pixels of the page: the room of the inspector in a window of 1280


def bytes_to_read(tensors: Sequence[LazyTensor], sample: bool) -> int:
    """The bytes that ``values_html`` reads; 0 for tensors without values, and for a sample of tensors small enough to be read whole."""
    if not tensors or not all(t.pieces for t in tensors) or (sample and tensors[0].spec.elements <= 4 * SAMPLE):
        return 0
    if sample:
        return sum(sampled_elements(t, SAMPLE) * itemsize(t.dtype) for t in _passes(tensors))
    return _bytes_of_values(tensors) + sum(map(bytes_of_blocks, tensors))


def _bytes_of_values(tensors: Sequence[LazyTensor]) -> int:
    return sum(t.spec.nbytes for t in _passes(tensors))


def _passes(tensors: Sequence[LazyTensor]) -> Sequence[LazyTensor]:
    """What is read, in order: of two, each alone, then both together."""
    return [*tensors, tensors[-1]] if len(tensors) == 2 else tensors


def values_html(tensors: Sequence[LazyTensor], sample: bool, progress: OnProgress, stop: threading.Event, *, compared: bool = False) -> str:
    """The values of a tensor; or of two tensors, and how they differ; and the blocks of those that are computed from codes. Empty if it
    was stopped.

    Args:
        compared: the page already says in words how the two differ.
    """
    drawn = _numbers_html(tensors, sample, progress, stop, compared)
    blocks = _blocks_html(tensors, sample, progress, stop) if drawn else None
    return "" if blocks is None else drawn + blocks


def _blocks_html(tensors: Sequence[LazyTensor], sample: bool, progress: OnProgress, stop: threading.Event) -> str | None:
    """The blocks of tensors that are computed from codes. None if it was stopped."""
    computed = [t for t in tensors if is_dequantised(t)]
    if sample:
        return note_html("Scale and error of each block: Show values reads them all.") if computed else ""
    before, parts = _bytes_of_values(tensors), []

    def after_values(done: int) -> None:
        progress(before + done)

    for tensor in computed:
        seen = measure_blocks(tensor, on_progress=after_values, stop=stop)
        if seen is None:
            return None
        parts.append(BlocksReport(seen).picture())
        before += bytes_of_blocks(tensor)
    return "".join(parts)


def _numbers_html(tensors: Sequence[LazyTensor], sample: bool, progress: OnProgress, stop: threading.Event, compared: bool) -> str:
    """Statistics and histograms. Empty if it was stopped."""
    limit = SAMPLE if sample else None
    seen: list[Statistics] = []
    before = 0

    def all_passes(done: int) -> None:
        progress(before + done)

    for tensor in tensors:
        found = measure(tensor, on_progress=all_passes, sample=limit, stop=stop)
        if found is None:
            return ""
        seen.append(found)
        before += sampled_elements(tensor, limit) * itemsize(tensor.dtype)
    if len(tensors) == 1:
        return _statistics_html(seen) + _picture(seen)
    pair = measure_pair(*tensors, on_progress=all_passes, sample=limit, stop=stop)
    if pair is None:
        return ""
    if pair.equal_bytes:
        sentence = f"Bitwise equal{_sample_note(pair)}."
        drawn = _statistics_html(seen[:1]) + _picture(seen[:1])
    else:
        sentence = f"{pair.differing:,} of {pair.elements:,} numbers differ: {pair.in_words}{_sample_note(pair)}."
        drawn = _statistics_html(seen) + _picture(seen) + _difference_picture(pair)
    return drawn if compared else f"<div>{sentence}</div>{drawn}"


def heatmap_html(values: Mapping[tuple[str, str], float]) -> str:
    """The largest differences by (kind of tensor, layer) as a picture."""
    return picture_html(heatmap_png(values, width=WIDTH, scale=2), "largest difference of each layer and kind of tensor", WIDTH)


def _sample_note(found: PairStatistics) -> str:
    return f" in a sample: {found.sampled[0]:,} of {found.sampled[1]:,} numbers" if found.sampled else ""


def _statistics_html(seen: Sequence[Statistics]) -> str:
    """One column for each tensor, one row for each statistic."""
    titles = ("before", "after") if len(seen) > 1 else ("value",)
    columns = (Column("statistic"), *(Column(title, True) for title in titles))
    rows = [(label, *(read(s) for s in seen)) for label, read in STATISTICS]
    return table_html(Table("", "", columns, rows))


STATISTICS: tuple[tuple[str, Callable[[Statistics], str]], ...] = (
    ("elements", lambda s: f"{s.elements:,}" if s.sampled is None else f"{s.sampled[0]:,} of {s.sampled[1]:,}"),
    ("dtype", lambda s: short_name(s.dtype)),
    ("minimum", lambda s: f"{s.minimum:.6g}"),
    ("maximum", lambda s: f"{s.maximum:.6g}"),
    ("mean", lambda s: f"{s.mean:.6g}"),
    ("standard deviation", lambda s: f"{s.std:.6g}"),
    ("zeros", lambda s: f"{s.zeros:,}"),
    ("NaN", lambda s: f"{s.nan:,}"),
    ("infinite", lambda s: f"{s.positive_infinity + s.negative_infinity:,}"),
)


def _picture(seen: Sequence[Statistics]) -> str:
    return picture_html(histogram_png(seen[0], seen[1] if len(seen) > 1 else None, width=WIDTH, scale=2), "histogram of the values", WIDTH)


def _difference_picture(pair: PairStatistics) -> str:
    picture = difference_png(pair, width=WIDTH, scale=2)
    return "" if picture is None else picture_html(picture, "histograms of the difference and of the ULP distance", WIDTH)
