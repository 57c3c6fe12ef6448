"""Histograms and heat maps as small PNG pictures, readable on light and on dark pages. Draws statistics; reads no tensor.

The background is transparent. No grey has a contrast of 4.5 on both white and #111 (the best has 4.35), so text is a grey with 4.3 on
either, unless the caller knows the page: with ``dark`` true or false text has 4.5 or more.
matplotlib is imported when the first picture is drawn. Its global state (pyplot, rcParams) is not touched.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np

from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import escape_controls
from mfconv_nb.core.report import count_text, how_many
from mfconv_nb.core.statistics.bins import BINS, edges_between
from mfconv_nb.core.statistics.one_tensor import Statistics
from mfconv_nb.core.statistics.two_tensors import PairStatistics, ulp_label
from mfconv_nb.streaming.blocks_of_codes import BlocksSeen

BEFORE, AFTER = "#0072B2", "#D55E00"  # Okabe-Ito blue and vermilion: at least 3.6 on white and on #111
INK = {None: "#7A7A7A", False: "#6F6F6F", True: "#8C8C8C"}  # text and axes, by ``dark``
DOTS = 100  # a pixel of the page is 1/100 inch at scale 1
FLOOR = 0.5  # bars on a log scale begin here, so that a count of 1 is visible
MAX_CELLS = 64  # rows or columns of a heat map; more are pooled, and a cell shows their largest value
MAX_LABEL = 28
LEFT = 70  # pixels for "100,000" and the word beside it


def histogram_png(
    before: Statistics, after: Statistics | None = None, *, width: int = 560, dark: bool | None = None, scale: float = 1
) -> bytes:
    """Histogram of one tensor, or of two on one axis: ``before`` as filled bars, ``after`` as a line; counts on a log scale.

    NaN and infinities have bars of their own on the right, with their counts. Range and standard deviation stand above.

    Args:
        width: in pixels of the page.
        dark: whether the page is dark; None if not known.
        scale: pixels of the picture for each pixel of the page; 2 is sharp on high-resolution screens.
    """
    sides = [s for s in (before, after) if s is not None]
    names = ("before", "after") if after is not None else ("",)
    special = _special_counts(sides)
    canvas = _Canvas(width, 190 + 15 * len(sides), dark, scale)
    top, aside = 10 + 15 * len(sides), 54 * len(special) + 12 if special else 0
    axes = canvas.axes(LEFT, 38, width - LEFT - 14 - aside, canvas.height - 38 - top)
    highest = 1.0
    finite = [s for s in sides if s.finite]
    if finite:
        edges = edges_between(min(s.minimum for s in finite), max(s.maximum for s in finite), BINS)
        places, unit = _scale_edges(edges)
        for number, side in enumerate(sides):
            counts = side.counted.histogram(edges).counts
            highest = max(highest, counts.max())
            _draw_counts(axes, counts, places, number)
        axes.set_xlabel(f"value{unit}{_sample_text(sides)}", color=canvas.ink, fontsize=8)
        axes.set_xlim(places[0], places[-1])
    else:
        _write_instead(axes, "no finite numbers" if before.elements else "no numbers", canvas.ink)
    highest = max([highest, *(n for _, counts in special for n in counts)])
    _log_counts(axes, highest, canvas.ink)
    if special:
        _draw_special(canvas.axes(width - aside - 4, 38, aside - 4, canvas.height - 38 - top), special, highest, canvas.ink)
    handles = [(_patch(number), _caption(name, side)) for number, (name, side) in enumerate(zip(names, sides, strict=True))]
    canvas.legend(handles, LEFT)
    return canvas.png()


def difference_png(pair: PairStatistics, *, width: int = 560, dark: bool | None = None, scale: float = 1) -> bytes | None:
    """How two tensors differ: histograms of the differences (second minus first) and of the ULP distance, side by side.

    Zero is blue, everything else vermilion. None if all bytes are equal: callers say that in words.
    """
    if pair.equal_bytes:
        return None
    canvas = _Canvas(width, 220, dark, scale)
    high = canvas.height - 38 - 40
    wide = (width - 14) // 2 - LEFT if pair.ulp is not None else width - LEFT - 14
    left = canvas.axes(LEFT, 38, wide, high)
    _draw_differences(left, pair, canvas.ink)
    if pair.ulp is not None:
        _draw_ulp(canvas.axes(width - 14 - wide, 38, wide, high), pair.ulp, canvas.ink)
    canvas.text(LEFT, canvas.height - 15, f"{pair.differing:,} of {pair.elements:,} differ: {pair.in_words}")
    if pair.sampled is not None:
        canvas.text(LEFT, canvas.height - 29, _sample_text([pair]).strip(" ,"))
    return canvas.png()


def heatmap_png(
    values: Mapping[tuple[str, str], float],
    *,
    width: int = 560,
    dark: bool | None = None,
    scale: float = 1,
    label: str = "largest absolute difference",
) -> bytes:
    """One cell for each (row, column): colours on a log scale, grey for exactly 0, a cross for NaN, empty if there is no value.

    Rows and columns are in the order in which they first occur. More than 64 are pooled: a cell then shows their largest value.

    Args:
        values: from (row label, column label) to a number of at least 0; infinity is drawn as the largest.
        label: what the colours mean.
    """
    rows, columns, grid = _grid(values)
    row_high = max(9, min(20, 600 // max(1, len(rows))))
    longest, right = max(map(len, columns), default=0), 84
    left = max(
        10 + 5.5 * max(map(len, rows), default=0), 5.5 * longest * 0.77 - (width - 150) / (2 * len(columns) or 1) if longest > 3 else 0
    )
    below = 18 + (5.5 * longest * 0.64 if longest > 3 else 0)  # longer column labels are turned by 40 degrees
    canvas = _Canvas(width, round(max(120, row_high * len(rows)) + below + 24), dark, scale)
    axes = canvas.axes(left, below, max(60, width - left - right), canvas.height - below - 24)
    positive = grid[np.isfinite(grid) & (grid > 0)]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (1.0, 1.0)
    mesh = _draw_cells(axes, grid, low, high, canvas.ink)
    _label_cells(axes, rows, columns, row_high, max(60, width - left - right), canvas.ink)
    if positive.size:
        _colour_bar(canvas, mesh, width - right + 14, below, low, high)
    zeros, undefined = int((grid == 0).sum()), bool((grid == -1).any())
    infinite = bool(np.isinf(grid).any())
    caption = (
        label
        + ("; grey: 0" if zeros else "")
        + ("; ×: not a number" if undefined else "")
        + ("; infinity as the largest" if infinite else "")
    )
    canvas.text(6, canvas.height - 15, caption if grid.size else "nothing to show")
    return canvas.png()


def blocks_png(seen: BlocksSeen, *, width: int = 560, dark: bool | None = None, scale: float = 1) -> bytes:
    """Two heat maps side by side, with one cell for each block of a weight: its scale, and the largest relative error of a number.

    Colours are as in ``heatmap_png``; a cell of several blocks shows their largest value. Blocks are counted from 0.
    """
    wide = (width - BLOCKS_LEFT) // 2 - BAR_OF_BLOCKS
    high = round(max(70, min(200, wide * seen.scales.shape[0] / seen.scales.shape[1])))
    canvas = _Canvas(width, high + 34 + 24, dark, scale)
    for number, (title, values) in enumerate((("scale", seen.scales), ("largest relative error", seen.errors))):
        left = BLOCKS_LEFT + number * (wide + BAR_OF_BLOCKS)
        grid = np.where(np.isnan(values), NONE, values)
        positive = grid[grid > 0]
        low, top = (float(positive.min()), float(positive.max())) if positive.size else (1.0, 1.0)
        axes = canvas.axes(left, 34, wide, high)
        mesh = _draw_cells(axes, grid, low, top, canvas.ink)
        _number_blocks(axes, seen, wide, high, canvas.ink)
        if number:
            axes.set_yticks([])  # the rows of both are the same
        else:
            axes.set_ylabel("row of blocks", color=canvas.ink, fontsize=8)
            axes.yaxis.set_label_coords(-34 / wide, 0.5)
        if positive.size:
            _colour_bar(canvas, mesh, left + wide + 8, 34, low, top)
        canvas.text(left, canvas.height - 15, title + ("; grey: 0" if (grid == 0).any() else ""))
    return canvas.png()


# ---- the canvas ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _import_matplotlib() -> Any:
    import matplotlib.backends.backend_agg  # here: heavy, and only pictures need it
    import matplotlib.colors  # here: as above
    import matplotlib.figure  # here: as above
    import matplotlib.patches  # here: as above
    import matplotlib.ticker  # here: as above

    return matplotlib


class _Canvas:
    """A figure measured in pixels of the page, from the lower left."""

    def __init__(self, width: int, height: int, dark: bool | None, scale: float) -> None:
        matplotlib = _import_matplotlib()
        self.width, self.height, self.ink = width, height, INK[dark]
        self._figure: Any = matplotlib.figure.Figure((width / DOTS, height / DOTS), dpi=DOTS * scale, facecolor="none", edgecolor="none")
        self._agg: Any = matplotlib.backends.backend_agg.FigureCanvasAgg(self._figure)

    def axes(self, left: float, bottom: float, width: float, height: float) -> Any:
        """Axes with only the left and the lower line."""
        place = (left / self.width, bottom / self.height, max(1, width) / self.width, max(1, height) / self.height)
        axes = self._figure.add_axes(place, facecolor="none")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(self.ink)
            spine.set_linewidth(0.8)
        axes.grid(False)
        axes.tick_params(which="both", color=self.ink, labelcolor=self.ink, labelsize=8, width=0.8)
        return axes

    def text(self, left: float, bottom: float, text: str) -> None:
        self._figure.text(left / self.width, bottom / self.height, text, color=self.ink, fontsize=8, parse_math=False)

    def legend(self, handles: Sequence[tuple[Any, str]], left: float) -> None:
        self._figure.legend(
            [h for h, _ in handles],
            [text for _, text in handles],
            loc="upper left",
            bbox_to_anchor=((left - 4) / self.width, 1),
            frameon=False,
            fontsize=8,
            labelcolor=self.ink,
            borderpad=0.2,
            borderaxespad=0.1,
            labelspacing=0.3,
            handlelength=1.6,
        )

    def png(self) -> bytes:
        self._agg.draw()
        return _palette_png(np.array(self._agg.buffer_rgba()))


def picture_html(png: bytes, says: str, width: int) -> str:
    """A picture as an element of a page; ``says`` is for those who cannot see it."""
    return f"<img class='mfconv-img' width={width} alt='{says}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _palette_png(pixels: Any) -> bytes:
    """Pixels of red, green, blue, alpha as a PNG with at most 256 colours: a third of the size, without a visible difference."""
    pixels[..., 3] = (np.minimum(pixels[..., 3], 247) + 8) // 17 * 17  # 16 levels of transparency are enough for smooth letters
    pixels[pixels[..., 3] == 0] = 0
    for dropped in range(8):  # drop so many bits of each colour; mostly none
        kept = np.array([0xFF & 0xFF << dropped] * 3 + [0xFF], np.uint8)
        colours, places = np.unique((pixels & kept).view(np.uint32), return_inverse=True)
        if colours.size <= 256:
            break
    palette = colours.view(np.uint8).reshape(-1, 4)
    height, width = pixels.shape[:2]
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with a 0: PNG's mark for no filter
    lines[:, 1:] = places.reshape(height, width)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _patch(number: int) -> Any:
    patch = _import_matplotlib().patches.Patch
    return patch(facecolor=BEFORE) if number == 0 else patch(facecolor="none", edgecolor=AFTER, linewidth=1.3)


def _write_instead(axes: Any, text: str, ink: str) -> None:
    axes.text(0.5, 0.5, text, color=ink, fontsize=9, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])


def _scale_edges(edges: Any) -> tuple[Any, str]:
    """The edges divided by a power of ten that keeps their labels short, and the label of that power. Works for any float64."""
    largest = float(np.abs(edges).max())
    if largest == 0 or 1e-3 <= largest < 1e4:
        return edges, ""
    power = math.floor(math.log10(largest))
    half = power // 2  # divide twice: 10**power itself may overflow
    return edges / 10.0**half / 10.0 ** (power - half), f" (× 1e{power:+d})"


def _sample_text(sides: Sequence[Statistics | PairStatistics]) -> str:
    seen = dict.fromkeys(f"{s.sampled[0]:,} of {s.sampled[1]:,}" if s.sampled else "all" for s in sides)
    return "" if list(seen) == ["all"] else f", from a sample: {' and '.join(seen)} elements"


def _log_counts(axes: Any, highest: float, ink: str) -> None:
    ticker = _import_matplotlib().ticker
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, highest * 4)
    axes.yaxis.set_major_locator(ticker.LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda n, _: count_text(round(n)) if n >= 1 else ""))
    axes.set_ylabel("elements", color=ink, fontsize=8)
    axes.yaxis.set_label_coords(-58 / DOTS / axes.get_position().width / axes.get_figure().get_figwidth(), 0.5)


def _linear_values(axes: Any, ink: str) -> None:
    wide = axes.get_position().width * axes.get_figure().get_figwidth() * DOTS
    most = max(2, min(5, int(wide // 60)))  # 60 pixels: "−0.0025" and a space
    axes.xaxis.set_major_locator(_import_matplotlib().ticker.MaxNLocator(most))
    axes.xaxis.get_offset_text().set(color=ink, fontsize=8)


# ---- histograms ------------------------------------------------------------------------------------------------------


def _caption(name: str, side: Statistics) -> str:
    head = f"{name} ({short_name(side.dtype)})" if name else short_name(side.dtype)
    if not side.finite:
        return f"{head}: {how_many(side.elements, 'element')}, none finite" if side.elements else f"{head}: no elements"
    return f"{head}: σ {side.std:.3g}, {_number(side.minimum)} … {_number(side.maximum)}, mean {side.mean:.2g}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**6 else f"{value:.3g}"


def _draw_counts(axes: Any, counts: Any, places: Any, number: int) -> None:
    drawn = np.maximum(counts, FLOOR)  # an empty bin lies on the axis
    if number == 0:
        axes.stairs(drawn, places, baseline=FLOOR, fill=True, color=BEFORE, linewidth=0)
    else:
        axes.stairs(drawn, places, baseline=FLOOR, color=AFTER, linewidth=1.1)
    _linear_values(axes, axes.xaxis.label.get_color())


def _special_counts(sides: Sequence[Statistics]) -> list[tuple[str, list[int]]]:
    """The counts of NaN and infinities in each tensor, for the kinds that occur."""
    kinds = (("NaN", "nan"), ("-inf", "negative_infinity"), ("+inf", "positive_infinity"))
    counts = [(label, [int(getattr(s, kind)) for s in sides]) for label, kind in kinds]
    return [(label, found) for label, found in counts if any(found)]


def _draw_special(axes: Any, special: Sequence[tuple[str, list[int]]], highest: float, ink: str) -> None:
    for place, (_, counts) in enumerate(special):
        for number, count in enumerate(counts):
            if count:
                _draw_counts(axes, np.array([count]), np.array([place - 0.3, place + 0.3]), number)
        caption = "\n".join(count_text(n) for n in (counts if len(set(counts)) > 1 else counts[:1]))
        axes.text(place, max(counts) * 1.15, caption, color=ink, fontsize=7, ha="center", va="bottom")
    _log_counts(axes, highest, ink)
    axes.set_ylabel("")
    axes.set_yticks([])
    axes.set_xticks(range(len(special)), [label for label, _ in special])
    axes.set_xlim(-0.6, len(special) - 0.4)
    axes.spines["left"].set_visible(False)


def _draw_differences(axes: Any, pair: PairStatistics, ink: str) -> None:
    if pair.max_abs == 0:  # signs of zeros, NaN or infinities
        _write_instead(axes, "no finite number changed its value", ink)
        axes.set_yticks([])
        return
    edges, counts = pair.histogram(BINS + 1)
    places, unit = _scale_edges(edges)
    _bars(axes, counts, places, BINS // 2)
    axes.set_xlabel(f"difference{unit}", color=ink, fontsize=8)
    axes.set_xlim(places[0], places[-1])
    _linear_values(axes, ink)
    _log_counts(axes, counts.max(), ink)


def _draw_ulp(axes: Any, ulp: Sequence[int], ink: str) -> None:
    _bars(axes, np.array(ulp), np.arange(len(ulp) + 1) - 0.5, 0)
    step = -(-len(ulp) // 5)
    axes.set_xticks(range(0, len(ulp), step), [_short_ulp(n) for n in range(0, len(ulp), step)])
    axes.set_xlabel("distance in ULP", color=ink, fontsize=8)
    axes.set_xlim(-0.6, len(ulp) - 0.4)
    _log_counts(axes, max(ulp), ink)
    axes.set_ylabel("")


def _short_ulp(place: int) -> str:
    """``5-8``; above 64 the upper end as a power of two: ``≤2^7``."""
    return ulp_label(place) if place < 8 else f"≤2^{place - 1}"


def _bars(axes: Any, counts: Any, places: Any, zero: int) -> None:
    colours = [BEFORE if n == zero else AFTER for n in range(len(counts))]
    axes.bar(places[:-1], np.maximum(counts, FLOOR) - FLOOR, np.diff(places), FLOOR, align="edge", color=colours, linewidth=0)


# ---- the heat map ----------------------------------------------------------------------------------------------------

BLOCKS_LEFT, BAR_OF_BLOCKS = 48, 84  # pixels for "row of blocks" and numbers; for a colour bar with "0.00015" and a space
NONE, UNDEFINED = -2.0, -1.0  # no value, and NaN; below every value, so that pooling keeps the worse


def _grid(values: Mapping[tuple[str, str], float]) -> tuple[list[str], list[str], Any]:
    """Labels and cells, pooled to at most ``MAX_CELLS`` each way."""
    rows, columns = list(dict.fromkeys(r for r, _ in values)), list(dict.fromkeys(c for _, c in values))
    row_at, column_at = ({name: n for n, name in enumerate(names)} for names in (rows, columns))
    by_row, by_column = (-(-len(names) // MAX_CELLS) or 1 for names in (rows, columns))
    grid = np.full((-(-len(rows) // by_row), -(-len(columns) // by_column)), NONE)
    for (row, column), value in values.items():
        place = row_at[row] // by_row, column_at[column] // by_column
        grid[place] = max(grid[place], UNDEFINED if math.isnan(value) else max(0.0, value))
    return _pooled_labels(rows, by_row), _pooled_labels(columns, by_column), grid


def _pooled_labels(names: Sequence[str], by: int) -> list[str]:
    parts = [names[start : start + by] for start in range(0, len(names), by)]
    return [_short_label(p[0] if len(p) == 1 else f"{p[0]}…{_own_end(p[0], p[-1])}") for p in parts]


def _own_end(first: str, last: str) -> str:
    """The end of ``last`` that differs from ``first``; numbers stay whole."""
    shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return last[len(shared.rstrip("0123456789")) :]


def _short_label(name: str) -> str:
    """A name as a label. Names come from strangers: control characters and those that the font lacks are replaced, long names cut."""
    text = escape_controls(name).replace("\n", " ")
    text = "".join(c if c.isascii() or c in "…‥" else "?" for c in text)
    return text if len(text) <= MAX_LABEL else f"{text[:10]}…{text[11 - MAX_LABEL :]}"


def _draw_cells(axes: Any, grid: Any, low: float, high: float, ink: str) -> Any:
    """The colours; returns what the colour bar needs."""
    matplotlib = _import_matplotlib()
    # viridis without its darkest fifth, which could not be seen on a dark page
    colours = matplotlib.colors.ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.2, 1, 64)))
    height, width = grid.shape
    edges = np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5
    line: dict[str, Any] = {"edgecolors": ink, "linewidth": 0.3} if max(height, width) <= 40 else {}
    exponents = np.log10(np.clip(grid, low, high))  # a linear scale of exponents works for subnormal numbers too
    bottom, top = math.log10(low), math.log10(high)
    if bottom == top:
        bottom, top = bottom - 1, top + 1
    mesh = None
    if grid.size:
        mesh = axes.pcolormesh(*edges, np.ma.masked_where(grid <= 0, exponents), cmap=colours, vmin=bottom, vmax=top, **line)
        grey = matplotlib.colors.ListedColormap([ink])
        axes.pcolormesh(*edges, np.ma.masked_where(grid != 0, np.zeros(grid.shape)), cmap=grey, alpha=0.25, **line)
        y, x = np.nonzero(grid == UNDEFINED)
        axes.plot(x, y, "x", color=ink, markersize=5)
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)
    return mesh


def _label_cells(axes: Any, rows: Sequence[str], columns: Sequence[str], row_high: float, wide: float, ink: str) -> None:
    every = 1 if row_high >= 11 else 2
    style: dict[str, Any] = {"color": ink, "fontsize": 7, "parse_math": False}
    axes.set_yticks(range(0, len(rows), every), rows[::every], **style)
    longest = max(map(len, columns), default=0)
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if longest > 3 else {}
    needed = 12 if turned else 4 + 5.5 * longest  # pixels a label
    step = max(1, math.ceil(needed * len(columns) / wide))
    axes.set_xticks(range(0, len(columns), step), columns[::step], **style, **turned)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _number_blocks(axes: Any, seen: BlocksSeen, wide: float, high: float, ink: str) -> None:
    """The number of the first block of some cells."""
    sides = zip((axes.yaxis, axes.xaxis), seen.scales.shape, seen.pooled, (high / 24, wide / 28), strict=True)
    for axis, cells, pooled, most in sides:
        shown = range(0, cells, max(1, math.ceil(cells / most)))
        axis.set_ticks(shown, [f"{place * pooled}" for place in shown], color=ink, fontsize=7)
    axes.set_xlabel("column of blocks", color=ink, fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour_bar(canvas: _Canvas, mesh: Any, left: float, bottom: float, low: float, high: float) -> None:
    """A bar from the smallest to the largest value above 0; both are labelled exactly."""
    axes = canvas.axes(left, bottom, 12, canvas.height - bottom - 24)
    first, last = mesh.get_clim()
    exponents = np.linspace(first, last, 64)
    axes.pcolormesh([0, 1], np.linspace(first, last, 65), exponents[:, None], cmap=mesh.cmap, vmin=first, vmax=last)
    ends = [math.log10(low)] if low == high else [math.log10(low), math.log10(high)]
    whole = [p for p in range(math.ceil(first), math.floor(last) + 1) if low != high and all(abs(p - e) > (last - first) / 8 for e in ends)]
    whole = whole[:: max(1, -(-len(whole) // 5))]
    marks = sorted([*((e, f"{v:.2g}") for e, v in zip(ends, (low, high), strict=False)), *((p, _power_of_ten(p)) for p in whole)])
    axes.set_yticks([place for place, _ in marks], [text for _, text in marks])
    axes.yaxis.tick_right()
    axes.set_xticks([])
    axes.set_ylim(first, last)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _power_of_ten(power: int) -> str:
    return f"{10.0**power:g}" if -4 < power < 5 else f"1e{power:+03d}"
