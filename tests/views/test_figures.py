"""The pictures: small, transparent, readable on light and dark pages, and never drawn where words are better."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from dataclasses import replace

import matplotlib.image
import ml_dtypes
import numpy as np
import pytest

from mfconv_nb.streaming.blocks_of_codes import BlocksSeen
from mfconv_nb.views import figures
from mfconv_nb.views.figures import AFTER, BEFORE, INK, blocks_png, difference_png, heatmap_png, histogram_png
from tests.support import luminance
from tests.toys import compared, measured

RNG = np.random.default_rng(0)
LIMIT = 40_000


@pytest.fixture(autouse=True)
def _no_warnings() -> object:  # a missing glyph, a degenerate axis
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) < LIMIT
    decoded = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert decoded.shape[2] == 4
    corners = decoded[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners[:, 3] == 0).all()
    return decoded


def has_colour(decoded: np.ndarray, colour: str) -> bool:
    """Whether some pixel that is not faint has about this hue."""
    wanted = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    return bool((np.abs(decoded[..., :3] - wanted).max(-1) < 0.06)[decoded[..., 3] > 0.5].any())


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def normal(size: int = 50_000) -> np.ndarray:
    return (RNG.standard_normal(size) * 0.02).astype(np.float32)


def test_text_has_a_contrast_of_4_5_on_the_page_it_is_for() -> None:
    assert contrast(INK[False], "#FFFFFF") >= 4.5
    assert contrast(INK[False], "#F5F5F5") >= 4.5
    assert contrast(INK[True], "#111111") >= 4.5
    assert contrast(INK[True], "#1E1E1E") >= 4.5  # VS Code


def test_text_for_an_unknown_page_is_as_readable_on_both_as_one_grey_can_be() -> None:
    best = max(min(contrast(f"#{n:02X}{n:02X}{n:02X}", page) for page in ("#FFFFFF", "#111111")) for n in range(256))
    assert best < 4.5
    assert min(contrast(INK[None], page) for page in ("#FFFFFF", "#111111")) >= best - 0.1


@pytest.mark.parametrize("colour", [BEFORE, AFTER])
@pytest.mark.parametrize("page", ["#FFFFFF", "#111111"])
def test_the_colours_of_both_sides_stand_out_on_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("dark", [None, False, True])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_histogram_of_two_sides_is_small_transparent_and_as_wide_as_asked(dark: bool | None, scale: int) -> None:
    values = normal(1 << 18)
    values[:40] = np.nan
    values[40:45] = -np.inf
    after = replace(measured(values.astype(ml_dtypes.bfloat16)), sampled=(1 << 18, 1 << 30))
    decoded = pixels(histogram_png(measured(values), after, width=480, dark=dark, scale=scale))
    assert decoded.shape[1] == 480 * scale
    assert has_colour(decoded, AFTER)
    assert has_colour(decoded, BEFORE)
    assert has_colour(decoded, INK[dark])


def test_a_histogram_of_one_side_has_no_second_colour() -> None:
    decoded = pixels(histogram_png(measured(normal())))
    assert decoded.shape[1] == 560
    assert has_colour(decoded, BEFORE)
    assert not has_colour(decoded, AFTER)


def test_the_same_numbers_give_the_same_picture() -> None:
    values = normal()
    assert histogram_png(measured(values)) == histogram_png(measured(values.copy()))


def test_a_bar_for_nan_is_drawn_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    real = figures._draw_special
    monkeypatch.setattr(figures, "_draw_special", lambda axes, special, *rest: (said.append(special), real(axes, special, *rest)))
    values = normal(100)
    histogram_png(measured(values))
    assert said == []
    values[:3], values[3] = np.nan, np.inf
    histogram_png(measured(values), measured(normal(100)))
    assert said == [[("NaN", [3, 0]), ("+inf", [1, 0])]]


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(0, np.float32),
        np.zeros(5, np.float32),
        np.full(3, np.nan, np.float32),
        np.array([5e-324, 0.0, -5e-324]),
        np.array([1.7e308, -1.7e308, 1e300]),
        np.array([1e-45, 1e-40], np.float32),
        np.array([1.0, np.nextafter(1.0, 2)]),
        np.array([7], np.int64),
        np.array([-(2**63), 2**63 - 1], np.int64),
        np.array([True, False, True]),
        RNG.standard_normal(100).astype(ml_dtypes.bfloat16),
    ],
    ids=str,
)
def test_a_histogram_of_any_numbers_can_be_drawn(values: np.ndarray) -> None:
    pixels(histogram_png(measured(values)))
    pixels(histogram_png(measured(values), measured(normal(100))))


def test_a_zero_difference_is_not_drawn() -> None:
    values = normal()
    values[0] = np.nan
    assert difference_png(compared(values, values.copy())) is None


def test_a_difference_shows_zero_in_one_colour_and_the_rest_in_the_other() -> None:
    a = normal()
    b = a.astype(ml_dtypes.bfloat16).astype(np.float32)
    b[::3] = a[::3]
    decoded = pixels(difference_png(replace(compared(a, b), sampled=(a.size, 1 << 33)), dark=True, scale=2) or b"")
    assert decoded.shape[1] == 1120
    assert (decoded[..., 3] > 0.5).any()
    left, right = decoded[:, :560], decoded[:, 560:]
    for half in (left, right):
        assert (half[..., 0] > half[..., 2] + 0.3).any()  # vermilion
        assert (half[..., 2] > half[..., 0] + 0.3).any()  # blue


@pytest.mark.parametrize(
    "a, b",
    [
        (np.zeros(3, np.float32), -np.zeros(3, np.float32)),
        (np.array([np.nan, 1], np.float32), np.array([1, 1], np.float32)),
        (np.array([1.7e308]), np.array([-1.7e308])),
        (np.array([5e-324]), np.array([0.0])),
        (np.arange(9), np.arange(9)[::-1].copy()),
        (np.array([True]), np.array([False])),
        (np.array([np.inf], np.float16), np.array([-np.inf], np.float16)),
    ],
    ids=str,
)
def test_any_difference_can_be_drawn(a: np.ndarray, b: np.ndarray) -> None:
    pixels(difference_png(compared(a, b)) or b"")


def test_a_heat_map_tells_zero_from_small_and_from_nothing() -> None:
    one = pixels(heatmap_png({("0", "q"): 0.0, ("1", "q"): 1e-300, ("1", "k"): 1.0}, width=400))
    zero = pixels(heatmap_png({("0", "q"): 0.0}))
    assert one.shape[1] == 400
    coloured = one[(one[..., 3] > 0.9) & (np.ptp(one[..., :3], axis=-1) > 0.15)]
    assert len(np.unique(coloured, axis=0)) > 10  # the cells and the colour bar
    assert not (np.ptp(zero[..., :3], axis=-1) > 0.15).any()
    assert (zero[..., 3] > 0).any()


def test_a_large_heat_map_is_pooled_and_keeps_the_largest_value() -> None:
    values = {(f"model.layers.{row}", f"{column}"): 0.0 for row in range(1000) for column in range(61)}
    values["model.layers.777", "33"] = 0.5
    rows, columns, grid = figures._grid(values)
    assert (len(rows), len(columns)) == grid.shape
    assert max(grid.shape) <= figures.MAX_CELLS
    assert (grid == 0.5).sum() == 1
    assert rows[0] == "model.layers.0…15"
    pixels(heatmap_png({key: abs(RNG.standard_normal()) for key in values}))


def test_labels_from_strangers_are_shown_as_they_are_or_escaped() -> None:
    names = ["$x_{y$", "\x1b[31m", "权重", "a" * 500, "\\frac", "<b>", "line\nbreak", ""]
    pixels(heatmap_png({(row, column): float(len(row)) for row in names for column in names}))
    assert figures._short_label("a" * 500) == "a" * 10 + "…" + "a" * 17


@pytest.mark.parametrize("values", [{}, {("a", "b"): float("nan")}, {("a", "b"): float("inf"), ("a", "c"): 5e-324}, {("a", "b"): 1e308}])
def test_any_heat_map_can_be_drawn(values: dict[tuple[str, str], float]) -> None:
    pixels(heatmap_png(values))


def blocks(scales: list[list[float]], errors: list[list[float]], pooled: tuple[int, int] = (1, 1)) -> BlocksSeen:
    grid = (len(scales) * pooled[0], len(scales[0]) * pooled[1])
    return BlocksSeen(("w",), "BF16", (128, 128), 1, grid, pooled, np.array(scales), np.array(errors))


def coloured(decoded: np.ndarray) -> np.ndarray:
    """Where there is a colour, no grey."""
    return (decoded[..., 3] > 0.9) & (np.ptp(decoded[..., :3], axis=-1) > 0.15)


@pytest.mark.parametrize("dark", [None, False, True])
def test_scales_and_errors_of_blocks_lie_side_by_side_and_an_error_of_zero_is_grey(dark: bool | None) -> None:
    both = pixels(blocks_png(blocks([[1, 2], [3, 4]], [[0, 0.001], [0.002, 0.003]]), width=400, dark=dark, scale=2))
    exact = pixels(blocks_png(blocks([[1, 2], [3, 4]], [[0, 0], [0, 0]]), width=400, dark=dark, scale=2))
    assert both.shape[1] == exact.shape[1] == 800
    assert coloured(both[:, :400]).any()
    assert coloured(both[:, 430:]).any()
    assert coloured(exact[:, :400]).any()
    assert not coloured(exact[:, 430:]).any()
    assert (exact[:, 430:, 3] > 0).any()


def test_each_cell_has_the_colour_of_its_value_and_a_block_that_is_not_there_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], figures._draw_cells

    def note(axes: object, grid: np.ndarray, low: float, high: float, ink: str) -> object:
        drawn.append((grid.tolist(), low, high))
        return draw(axes, grid, low, high, ink)

    monkeypatch.setattr(figures, "_draw_cells", note)
    blocks_png(blocks([[1, 2], [3, np.nan]], [[0, 0.001], [0.002, np.nan]]))
    assert drawn == [([[1, 2], [3, figures.NONE]], 1, 3), ([[0, 0.001], [0.002, figures.NONE]], 0.001, 0.002)]


def test_the_axes_of_blocks_are_named_and_count_blocks_also_where_cells_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(figures._Canvas, "png", lambda canvas: kept.append(canvas._figure) or b"")
    blocks_png(blocks([[1.0] * 3] * 4, [[0.001] * 3] * 4, pooled=(16, 3)))
    scales, _, errors, _ = kept[0].axes
    assert (scales.get_xlabel(), scales.get_ylabel(), errors.get_xlabel()) == ("column of blocks", "row of blocks", "column of blocks")
    assert [t.get_text() for t in scales.get_yticklabels()] == ["0", "16", "32", "48"]
    assert [t.get_text() for t in errors.get_xticklabels()] == ["0", "3", "6"]
    assert [t.get_text() for t in kept[0].texts] == ["scale", "largest relative error"]


@pytest.mark.parametrize("down, across", [(1, 1), (64, 1), (1, 64), (64, 64)])
@pytest.mark.parametrize("width", [300, 420, 900])
def test_blocks_of_any_number_are_one_small_picture(down: int, across: int, width: int) -> None:
    values = np.abs(RNG.standard_normal((2, down, across))).tolist()
    decoded = pixels(blocks_png(blocks(*values, pooled=(999, 999)), width=width, scale=2))
    assert decoded.shape[1] == 2 * width
    assert decoded.shape[0] <= 2 * (200 + 58)


def test_matplotlib_is_imported_only_when_a_picture_is_drawn_and_never_pyplot() -> None:
    code = (
        "import sys, mfconv_nb.views.figures as f; assert 'matplotlib' not in sys.modules;"
        "f.heatmap_png({('a', 'b'): 1.0}); assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
