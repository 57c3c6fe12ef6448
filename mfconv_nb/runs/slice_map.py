"""Draw a tensor in slices: the whole as a rectangle, cut into boxes, each with the ranks that hold it.

Within a panel lengths count elements, so an area is a share of the tensor. Of more boxes than a reader can tell apart, only the first
ones are drawn, in the corner where the tensor begins; a line counts the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.folding import index_ranges
from mfconv_nb.core.report import how_many, plain_marks, shape_text
from mfconv_nb.runs.slices import Box
from mfconv_nb.views.drawing import OTHER_COLOURS, escape_text, shorten

MAX_BOXES = 64  # drawn; all of them stand in ``.boxes``
MAX_PANELS = 8
MAX_TEXT_BOXES = 16

# ---- geometry: units are pixels at full width, which is that of an inspector
WIDTH, LEFT, TOP = 420, 50, 60
LINE, LABEL, CHARACTER, SMALL = 14, 13, 6.7, 6.0  # a line of text, one in a box, a character of 11 pixels, one of 10
GAP = 8  # between panels
FLAT, LOW, HIGH = 44.0, 84.0, 288.0  # the height of a vector; of a matrix at least, at most
NARROWEST, SHORTEST = 36.0, 18.0  # a box that still has room for a rank
STYLE = (
    "display:block;width:100%;max-width:420px;height:auto;font-family:var(--jp-code-font-family,ui-monospace,monospace);"
    "color:var(--jp-content-font-color1,var(--vscode-editor-foreground,currentColor))"
)

Span = tuple[int, int]  # along one axis: from, to
Place = tuple[float, float, float, float]  # x, y, width, height


@dataclass(frozen=True)
class SliceMap:
    """Which ranks hold which box of a tensor: a picture in a notebook, a line a box in a terminal.

    Attributes:
        shape: of the whole tensor.
        boxes: every box, with the ranks that hold it, all with the same bytes.
        stage: the pipeline stage that has it; None where the run has one stage only.
    """

    name: str
    shape: Shape
    dtype: str
    boxes: Mapping[Box, tuple[int, ...]]
    stage: int | None = None

    @property
    def tensor_text(self) -> str:
        """``4096 × 1024 · bf16 · pipeline stage 1``"""
        stage = f" · pipeline stage {self.stage}" if self.stage is not None else ""
        return f"{shape_text(self.shape)} · {short_name(self.dtype)}{stage}"

    @property
    def cut_text(self) -> str:
        """``4 boxes of 1024 × 1024, each on 2 ranks``"""
        shapes = {box.shape for box in self.boxes}
        copies = {len(ranks) for ranks in self.boxes.values()}
        of = f" of {shape_text(next(iter(shapes)))}" if len(shapes) == 1 else ""
        cut = "whole" if shapes == {self.shape} else f"{how_many(len(self.boxes), 'box', 'boxes')}{of}"
        times = next(iter(copies)) if len(copies) == 1 else 0
        held = f"{', each' if cut != 'whole' and len(self.boxes) > 1 else ''} on {how_many(times, 'rank')}" if times else ""
        return cut + held

    def __repr__(self) -> str:
        shown = list(self.boxes.items())[:MAX_TEXT_BOXES]
        width = max((len(box.text()) for box, _ in shown), default=0)
        lines = [f"  {box.text():<{width}}  {ranks_text(ranks)}" for box, ranks in shown]
        more = len(self.boxes) - len(shown)
        if more:
            lines.append(f"  {_more_text(more)}: .boxes")
        return plain_marks("\n".join([f"{shorten(self.name, 100)}  {self.tensor_text} · {self.cut_text}", *lines]))

    def _repr_html_(self) -> str:
        return self.svg()

    def svg(self) -> str:
        """The picture as one SVG element."""
        plan = self._plan
        body = [part for panel in plan.panels for part in _panel_svg(panel, plan.pictured)]
        body += _ticks(plan) if self.shape and all(self.shape) else ()
        title = escape_text(f"{shorten(self.name, 100)}: {self.tensor_text}, {self.cut_text}")
        height = plan.bottom + (LINE + 8 if plan.more else 8)
        if plan.more:
            body.append(f'<text x="{LEFT}" y="{height - 5:g}" font-size="11">{_more_text(plan.more)}</text>')
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="mfconv-drawing" role="img" aria-label="{title}"'
            f' viewBox="0 0 {WIDTH} {height:g}" style="{STYLE}"><title>{title}</title><g fill="currentColor" font-size="12">'
            f'<text y="12">{escape_text(shorten(self.name, 57))}</text><g font-size="11" opacity=".75">'
            f'<text y="27">{escape_text(shorten(self.tensor_text, 62))}</text>'
            f'<text y="41">{escape_text(shorten(self.cut_text, 62))}</text></g>'
            f"{''.join(body)}</g></svg>"
        )

    @cached_property
    def _plan(self) -> _Plan:
        return _plan_of(self.shape, self.boxes)


def ranks_text(ranks: Iterable[int]) -> str:
    """``rank 0``, ``ranks 0‥3``, ``ranks 0, 8, 16``; of many with gaps the first, the last and their number."""
    numbers = sorted(set(ranks))
    return f"rank{'s' * (len(numbers) != 1)} {_numbers_text(numbers)}"


def _numbers_text(numbers: Sequence[int]) -> str:
    if numbers and (len(numbers) <= 8 or _is_one_range(numbers)):
        return index_ranges(numbers) if _is_one_range(numbers) else ", ".join(map(str, numbers))
    return f"{numbers[0]} … {numbers[-1]}, {len(numbers):,} of them" if numbers else "none"


def _is_one_range(numbers: Sequence[int]) -> bool:
    return len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1


def _more_text(more: int) -> str:
    return f"… {how_many(more, 'more box', 'more boxes')}"


# ---- what is drawn where -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Panel:
    """A rectangle: the last two axes of a tensor, or its only one. ``lead`` holds the spans of the axes before these."""

    lead: tuple[Span, ...]
    x: float
    boxes: tuple[tuple[Box, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Pictured:
    """The scale of a panel: how many rows and columns are drawn, and how wide and tall they are in pixels."""

    rows: int
    columns: int
    width: float
    height: float
    is_cut: tuple[bool, bool]  # whether there are more rows, more columns than are drawn

    def place(self, box: Box) -> Place:
        """x, y, width and height of a box in its panel."""
        (y, x), (tall, wide) = _last_two(box.offset), _last_two(box.shape, 1)
        across, down = self.width / self.columns, self.height / self.rows
        return x * across, y * down, wide * across, tall * down


@dataclass(frozen=True, slots=True)
class _Plan:
    panels: tuple[_Panel, ...]
    pictured: _Pictured
    edges: tuple[tuple[int, ...], tuple[int, ...]]  # of the rows and columns that are drawn
    bottom: float
    more: int
    is_vector: bool  # or a single number


def _last_two(numbers: Sequence[int], missing: int = 0) -> tuple[int, int]:
    """The last two numbers of an offset or a shape; a vector counts as a matrix of one row."""
    padded = (missing, missing, *numbers)
    return padded[-2], padded[-1]


def _plan_of(shape: Shape, boxes: Mapping[Box, tuple[int, ...]]) -> _Plan:
    leads = sorted({_lead_of(box) for box in boxes}) or [()]
    panel_count = next((n for n in range(min(len(leads), MAX_PANELS), 1, -1) if _have_room(leads[:n])), 1)
    width = _panel_width(panel_count)
    whole = tuple(max(1, n) for n in _last_two(shape, 1))
    height = FLAT if len(shape) < 2 else min(HIGH, max(LOW, width * whole[0] / whole[1]))
    all_edges = [_edges_of(axis, size, boxes) for axis, size in enumerate(whole)]
    columns = _first_spans(all_edges[1], min(MAX_BOXES // panel_count, int(width // NARROWEST)))
    rows = _first_spans(all_edges[0], min(max(2, MAX_BOXES // (panel_count * (len(columns) - 1))), int(HIGH // SHORTEST)))
    if len(shape) >= 2:
        height = min(HIGH, max(height, SHORTEST * (len(rows) - 1)))
    is_cut = (rows[-1] < all_edges[0][-1], columns[-1] < all_edges[1][-1])
    pictured = _Pictured(rows[-1], columns[-1], width, height, is_cut)
    panels, drawn = [], 0
    for number, lead in enumerate(leads[:panel_count]):
        here = [(box, ranks) for box, ranks in sorted(boxes.items()) if _lead_of(box) == lead and _is_pictured(box, pictured)]
        panels.append(_Panel(lead, LEFT + number * (width + GAP), tuple(here[: MAX_BOXES // panel_count])))
        drawn += len(panels[-1].boxes)
    return _Plan(tuple(panels), pictured, (rows, columns), TOP + _top_lines(leads[0]) + height, len(boxes) - drawn, len(shape) < 2)


def _panel_width(count: int) -> float:
    return (WIDTH - LEFT - 4 - GAP * (count - 1)) / count


def _have_room(leads: Sequence[tuple[Span, ...]]) -> bool:
    """Whether the spans of so many panels fit above them."""
    return max(len(_lead_text(lead)) for lead in leads) * SMALL <= _panel_width(len(leads))


def _lead_text(lead: Sequence[Span]) -> str:
    return f"[{', '.join(f'{a}:{b}' for a, b in lead)}]" if lead else ""


def _lead_of(box: Box) -> tuple[Span, ...]:
    pairs = list(zip(box.offset, box.shape, strict=True))[:-2]
    return tuple((first, first + count) for first, count in pairs)


def _edges_of(axis: int, size: int, boxes: Iterable[Box]) -> tuple[int, ...]:
    """Where boxes begin and end along one of the last two axes."""
    found = {0, size}
    for box in boxes:
        first, count = _last_two(box.offset)[axis], _last_two(box.shape, 1)[axis]
        found |= {first, first + count}
    return tuple(sorted(n for n in found if n >= 0))


def _first_spans(edges: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The edges of the first few spans."""
    return edges[: max(1, count) + 1]


def _is_pictured(box: Box, pictured: _Pictured) -> bool:
    (y, x), (tall, wide) = _last_two(box.offset), _last_two(box.shape, 1)
    return y >= 0 and x >= 0 and y + tall <= pictured.rows and x + wide <= pictured.columns


def _top_lines(lead: tuple[Span, ...]) -> int:
    return LINE if lead else 0


# ---- SVG -------------------------------------------------------------------------------------------------------------------


def _panel_svg(panel: _Panel, pictured: _Pictured) -> Iterator[str]:
    top = TOP + _top_lines(panel.lead)
    if panel.lead:
        spans = escape_text(shorten(_lead_text(panel.lead), int(pictured.width / SMALL)))
        yield f'<text x="{panel.x:g}" y="{TOP - 2}" font-size="10" font-weight="bold">{spans}</text>'
    wide, tall = pictured.width, pictured.height
    yield _rect(panel.x, top, wide, tall, ' fill="none" stroke="currentColor" stroke-opacity=".5" stroke-dasharray="3 3"/>')
    places = [(box, ranks, pictured.place(box)) for box, ranks in panel.boxes]
    moved = [(box, ranks, (panel.x + x, top + y, across, down)) for box, ranks, (x, y, across, down) in places]
    yield f'<g stroke="#000" stroke-opacity=".45">{"".join(_box_svg(*each) for each in moved)}</g>'
    labels = "".join(_label_svg(*each) for each in moved)
    yield f'<g text-anchor="middle" font-size="11" fill="#000" pointer-events="none">{labels}</g>'
    rows_go_on, columns_go_on = pictured.is_cut
    if columns_go_on:
        yield _open_side_svg(panel.x + wide, top, panel.x + wide, top + tall)
    if rows_go_on:
        yield _open_side_svg(panel.x, top + tall, panel.x + wide, top + tall)


def _open_side_svg(x: float, y: float, to_x: float, to_y: float) -> str:
    """A dashed side, where the tensor is longer than its picture."""
    line = f'x1="{x:.2f}" y1="{y:.2f}" x2="{to_x:.2f}" y2="{to_y:.2f}"'
    return f'<line {line} stroke="currentColor" stroke-width="3" stroke-dasharray="2 4"/>'


def _box_svg(box: Box, ranks: tuple[int, ...], place: Place) -> str:
    fill = OTHER_COLOURS[min(ranks, default=0) % len(OTHER_COLOURS)]  # a rank has one colour in every map
    tip = escape_text(f"{box.text()}: {ranks_text(ranks)}")
    return _rect(*place, f' fill="{fill}"><title>{tip}</title></rect>')


def _label_svg(box: Box, ranks: tuple[int, ...], place: Place) -> str:
    x, y, wide, tall = place
    lines = _label_lines(box, ranks, wide, tall)
    first = y + tall / 2 + 4 - (len(lines) - 1) * LABEL / 2
    return "".join(f'<text x="{x + wide / 2:.1f}" y="{first + n * LABEL:.1f}">{escape_text(line)}</text>' for n, line in enumerate(lines))


def _rect(x: float, y: float, wide: float, tall: float, rest: str) -> str:
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{tall:.2f}"{rest}'


def _label_lines(box: Box, ranks: tuple[int, ...], wide: float, tall: float) -> list[str]:
    """The text in a box: its ranks, and its shape where there is room; in a narrow box the ranks below each other."""
    most, room = int((wide - 4) / CHARACTER), int((tall - 2) / LABEL)
    ranks = tuple(sorted(set(ranks)))
    word, numbers = f"rank{'s' * (len(ranks) != 1)}", _numbers_text(ranks)
    forms = (
        *([[ranks_text(ranks), shape_text(box.shape)]] if box.shape else []),
        [ranks_text(ranks)],
        [word, numbers],
        [numbers],
        _wrap_parts(numbers.split(", "), most),
        [f"{numbers[: max(1, most - 1)]}…"],
    )
    return next((form for form in forms if len(form) <= room and all(len(line) <= most for line in form)), [])


def _wrap_parts(parts: Sequence[str], most: int) -> list[str]:
    """Join parts with commas, in lines of at most ``most`` characters unless one part is longer."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}, {part}"
        lines[-1:] = [longer] if len(longer) < most else [f"{lines[-1]},", part]
    return lines


def _ticks(plan: _Plan) -> Iterator[str]:
    """The numbers at the edges of boxes: rows at the left of the first panel, columns above every panel."""
    pictured, (rows, columns), first = plan.pictured, plan.edges, plan.panels[0]
    top = TOP + _top_lines(first.lead)
    for edge, y in () if plan.is_vector else _readable_edges(rows, pictured.height / pictured.rows, lambda _: LINE - 3.0):
        yield f'<text x="{LEFT - 4}" y="{top + y + 4:.1f}" text-anchor="end" font-size="10" opacity=".75">{edge}</text>'
    for panel in plan.panels:
        for edge, x in _readable_edges(columns, pictured.width / pictured.columns, lambda n: len(str(n)) * SMALL + 6):
            anchor = "start" if x == 0 else "end" if edge == columns[-1] else "middle"
            place = f'x="{panel.x + x:.1f}" y="{top - 4}" text-anchor="{anchor}"'
            yield f'<text {place} font-size="10" opacity=".75">{edge}</text>'


def _readable_edges(edges: Sequence[int], scale: float, room: Callable[[int], float]) -> Iterator[tuple[int, float]]:
    """The edges whose numbers do not overlap, with their places: the first, the last, and those that fit between."""
    last = edges[-1]
    end = 0.0
    for edge in edges:
        at, half = edge * scale, room(edge) / 2
        begins = at if edge == 0 else at - 2 * half if edge == last else at - half
        ends_before = edge == last or at + half <= last * scale - room(last)
        if edge == 0 or (begins >= end and ends_before):
            yield edge, at
            end = begins + 2 * half
