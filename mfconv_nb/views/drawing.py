"""Draw a layout: tensors of both sides as boxes, parts coloured by role, bands for what goes where. SVG without a script, or text.

Roles are also printed, so that the picture works without colours. Text has the colour of the page around it.
Names come from strangers: they are escaped, control characters too, and long ones are cut in the middle.
This module knows no rules and no tensors: it draws data (``DrawnBox``, ``Cell``), which ``explained.py`` makes.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from mfconv_nb.core.errors import one_line
from mfconv_nb.core.report import plain_marks

# Okabe-Ito without its blue #0072B2: black letters have a contrast of only 4.0 on it, of at least 5.4 on these.
ROLE_COLOURS: Mapping[str, str] = {
    "q": "#56B4E9",
    "k": "#E69F00",
    "v": "#009E73",
    "gate": "#CC79A7",
    "up": "#F0E442",
    "expert": "#D55E00",
    "pad": "#C8C8C8",
    "whole": "#B9C7D6",
}
OTHER_COLOURS = ("#8FBBD9", "#B5A6DE", "#9CCBB4", "#E3B58C", "#D9D37A", "#E0A3BE")  # for all other roles


def role_colours(roles: Iterable[str]) -> dict[str, str]:
    """A colour for each role: a fixed one, or one chosen by its name, so that it is the same in every picture.

    Two roles get the same colour only if none is left.
    """
    found = {role: ROLE_COLOURS[role] for role in roles if role in ROLE_COLOURS}
    for role in sorted(set(roles) - found.keys()):
        first = crc32(role.encode()) % len(OTHER_COLOURS)
        ways = [OTHER_COLOURS[(first + n) % len(OTHER_COLOURS)] for n in range(len(OTHER_COLOURS))]
        found[role] = next((c for c in ways if c not in found.values()), ways[0])
    return found


@dataclass(frozen=True, slots=True)
class Cell:
    """A part of a box. A band connects cells of both sides that share a key.

    Attributes:
        role: decides the colour.
        labels: texts to print in it, the longest first; the first that fits is taken.
        title: the full text, shown under the pointer.
        row, column: its place in the grid of its box, counted from 0.
        height, width: how many numbers of the tensor it covers along the two axes.
    """

    keys: tuple[object, ...]
    role: str
    labels: tuple[str, ...]
    title: str
    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A tensor: the texts above and below it, its cells, and what is not drawn (``more``: "… 24 more heads")."""

    name: str
    shape: str
    axes: str
    cells: tuple[Cell, ...]
    more: str = ""


@dataclass(frozen=True)
class Drawing:
    """Source tensors left, target tensors right. A notebook shows it as SVG, a terminal as a few lines.

    Attributes:
        title: one sentence, for screen readers and under the pointer.
        note: printed below, for what boxes cannot show: "⇄ the axes change places".
        more_sources, more_targets: "… 2 more tensors", if not all boxes are drawn.
    """

    title: str
    sources: tuple[DrawnBox, ...]
    targets: tuple[DrawnBox, ...]
    note: str = ""
    more_sources: str = ""
    more_targets: str = ""

    def __repr__(self) -> str:
        lines = [*_side_text("  ", self.sources, self.more_sources), *_side_text("→ ", self.targets, self.more_targets)]
        return plain_marks("\n".join([one_line(self.title), *lines, *([f"  {one_line(self.note)}"] if self.note else [])]))

    def _repr_html_(self) -> str:
        return self.svg()

    def svg(self) -> str:
        """The picture as one SVG element of at most 20 KB. If names are too long for that, less of them shows under the pointer."""
        room = max(48, 2000 // max(1, len(self.sources) + len(self.targets)))
        texts = (self._svg(most) for most in (room, 48, 0))
        return next((t for t in texts if len(t.encode()) <= MAX_BYTES), None) or self._svg(0, NAME_CHARACTERS // 3)

    def _svg(self, room: int, characters: int | None = None) -> str:
        """The picture with names of up to ``room`` characters under the pointer, and up to ``characters`` in print."""
        sides = (_Side(self.sources, LEFT, self.more_sources), _Side(self.targets, RIGHT, self.more_targets))
        colours = role_colours(dict.fromkeys(c.role for s in sides for b in s.boxes for c in b.cells))
        placed = [_place_boxes(side) for side in sides]
        height = max(end for _, end in placed) + (LINE + 4 if self.note else 0)
        body = [*_join_bands(placed[0][0], placed[1][0], colours)]
        for side, (boxes, end) in zip(sides, placed, strict=True):
            body += [part for box in boxes for part in _box_svg(box, colours, room, characters or NAME_CHARACTERS)]
            if side.more:
                body.append(_text(side.edge, end - 4, side.more, is_left=side.edge == LEFT, soft=True))
        if self.note:
            note = escape_text(shorten(self.note, 90))
            body.append(f'<text x="{WIDTH // 2}" y="{height - 5}" text-anchor="middle" opacity=".75">{note}</text>')
        title = escape_text(shorten(self.title, max(room, 60)))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="mfconv-drawing" role="img" aria-label="{title}" viewBox="0 0 {WIDTH} {height}"'
            f' style="{STYLE}"><title>{title}</title><g fill="currentColor" font-size="12">{"".join(body)}</g></svg>'
        )


# ---- geometry: units are pixels at full width ------------------------------------------------------------------------

MAX_BYTES = 20_000
WIDTH, BOX = 720, 150
LEFT, RIGHT = 290, 430  # the edges of the boxes that face each other
LINE, GAP, CELL, TALL = 15, 10, 16, 42
NAME_CHARACTERS = 39  # of 7.3 pixels each: they fit between a facing edge and the side of the picture
STYLE = (
    "display:block;width:100%;max-width:720px;height:auto;font-family:var(--jp-code-font-family,ui-monospace,monospace);"
    "color:var(--jp-content-font-color1,var(--vscode-editor-foreground,currentColor))"
)


@dataclass(frozen=True, slots=True)
class _Side:
    boxes: tuple[DrawnBox, ...]
    edge: int
    more: str


@dataclass(frozen=True, slots=True)
class _PlacedCell:
    cell: Cell
    x: int
    y: int
    width: int
    height: int
    faces: bool  # no other cell stands between it and the other side


@dataclass(frozen=True, slots=True)
class _PlacedBox:
    box: DrawnBox
    edge: int
    y: int  # of the name's line
    top: int
    bottom: int
    cells: tuple[_PlacedCell, ...]
    tells_shape: bool


def _place_boxes(side: _Side) -> tuple[list[_PlacedBox], int]:
    """Place boxes one below the other; also returns where they end. Of boxes with the same shape only the last one prints it."""
    boxes, edge = side.boxes, side.edge
    placed: list[_PlacedBox] = []
    y = 0
    last = {(box.shape, box.axes): number for number, box in enumerate(boxes)}
    for number, box in enumerate(boxes):
        tells_shape = last[box.shape, box.axes] == number
        top = y + LINE + 2
        cells, bottom = _place_cells(box, edge, top, TALL if len(boxes) <= 4 else CELL + 6)
        bottom += CELL + 2 if box.more else 0
        placed.append(_PlacedBox(box, edge, y + 12, top, bottom, cells, tells_shape))
        y = bottom + GAP + ((2 if box.axes else 1) * LINE if tells_shape else 0)
    return placed, y + (LINE if side.more else 0)


def _place_cells(box: DrawnBox, edge: int, top: int, tallest: int) -> tuple[tuple[_PlacedCell, ...], int]:
    heights, widths = _extents((c.row, c.height) for c in box.cells), _extents((c.column, c.width) for c in box.cells)
    extra = max(0, min(tallest, 130 // max(1, len(heights))) - CELL)
    tall = {row: CELL + extra * size // max(heights.values()) for row, size in heights.items()}
    wide = {column: BOX * size // sum(widths.values()) for column, size in widths.items()}
    start = edge - BOX if edge == LEFT else edge
    x_of, last = {}, max(widths, default=0)
    for column, width in sorted(wide.items()):
        x_of[column], start = start, start + width
    wide[last] = (edge if edge == LEFT else edge + BOX) - x_of[last] if x_of else BOX
    y_of = {}
    for row in sorted(tall):
        y_of[row], top = top, top + tall[row]
    facing = last if edge == LEFT else 0
    cells = (_PlacedCell(c, x_of[c.column], y_of[c.row], wide[c.column], tall[c.row], c.column == facing) for c in box.cells)
    return tuple(cells), top


def _extents(sizes: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The largest extent in each row, or column."""
    found: dict[int, int] = {}
    for place, size in sizes:
        found[place] = max(found.get(place, 1), size)
    return found


# ---- SVG -------------------------------------------------------------------------------------------------------------


def _join_bands(left: Sequence[_PlacedBox], right: Sequence[_PlacedBox], colours: Mapping[str, str]) -> Iterator[str]:
    """A band for every pair of cells with one key; a line, if one of them stands behind another cell."""
    there: dict[object, list[_PlacedCell]] = {}
    for cell in (c for p in right for c in p.cells):
        for key in cell.cell.keys:
            there.setdefault(key, []).append(cell)
    for cell in (c for p in left for c in p.cells):
        for partner in (p for key in cell.cell.keys for p in there.get(key, ())):
            colour = colours[cell.cell.role]
            if cell.faces and partner.faces:
                a, b, c, d = cell.y, cell.y + cell.height, partner.y, partner.y + partner.height
                path = f"M{LEFT} {a}C360 {a} 360 {c} {RIGHT} {c}V{d}C360 {d} 360 {b} {LEFT} {b}Z"
                yield f'<path d="{path}" fill="{colour}" fill-opacity=".4"/>'
            else:
                a, c = cell.y + cell.height // 2, partner.y + partner.height // 2
                path = f"M{LEFT} {a}C360 {a} 360 {c} {RIGHT} {c}"
                yield f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="5" stroke-opacity=".3"/>'
                yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="3"/>'


def _box_svg(placed: _PlacedBox, colours: Mapping[str, str], room: int, characters: int) -> Iterator[str]:
    box, is_left = placed.box, placed.edge == LEFT
    yield _text(placed.edge, placed.y, shorten(box.name, characters), is_left=is_left, title=shorten(box.name, room))
    for cell in placed.cells:
        yield from _cell_svg(cell, colours, min(room, 120))
    x = placed.edge - BOX if is_left else placed.edge
    if box.more:
        y = placed.bottom - CELL - 2
        yield (
            f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{BOX - 1}" height="{CELL + 1}" fill="none" stroke="currentColor"'
            f' stroke-opacity=".5" stroke-dasharray="3 3"/>'
        )
        yield f'<text x="{x + BOX // 2}" y="{y + 13}" text-anchor="middle" font-size="11">{escape_text(shorten(box.more, 22))}</text>'
    if placed.tells_shape:
        yield _text(placed.edge, placed.bottom + 13, shorten(box.shape, characters), is_left=is_left, title=shorten(box.shape, room))
        if box.axes:
            yield _text(
                placed.edge,
                placed.bottom + 13 + LINE,
                shorten(box.axes, characters),
                is_left=is_left,
                title=shorten(box.axes, room),
                soft=True,
            )


def _cell_svg(placed: _PlacedCell, colours: Mapping[str, str], room: int) -> Iterator[str]:
    cell = placed.cell
    tip = f"<title>{escape_text(shorten(cell.title, room))}</title>" if room else ""
    yield (
        f'<rect x="{placed.x}" y="{placed.y}" width="{placed.width}" height="{placed.height}" fill="{colours[cell.role]}"'
        f' stroke="#000" stroke-opacity=".35">{tip}</rect>'
    )
    label = next((t for t in cell.labels if 6.7 * len(t) + 4 <= placed.width), "")
    if label:
        x, y = placed.x + placed.width // 2, placed.y + placed.height // 2 + 4
        yield f'<text x="{x}" y="{y}" text-anchor="middle" font-size="11" fill="#000" pointer-events="none">{escape_text(label)}</text>'


def _text(x: int, y: int, text: str, *, is_left: bool, title: str = "", soft: bool = False) -> str:
    anchor = ' text-anchor="end"' if is_left else ""
    tip = f"<title>{escape_text(title)}</title>" if title and one_line(title) != text else ""
    return f'<text x="{x}" y="{y}"{anchor}{" opacity=" + chr(34) + ".75" + chr(34) if soft else ""}>{escape_text(text)}{tip}</text>'


def escape_text(text: str) -> str:
    """A text for SVG: on one line, without anything that could be markup."""
    return html.escape(one_line(text))


def shorten(text: str, most: int) -> str:
    """A text of at most ``most`` characters, cut near its beginning: the end of a name tells more."""
    text = one_line(text)
    head = most // 3
    if most == 0:
        return ""
    return text if len(text) <= most else f"{text[:head]}…{text[head + 1 - most :]}"


# ---- text ------------------------------------------------------------------------------------------------------------

MAX_TEXT_CELLS = 12


def _side_text(mark: str, boxes: Sequence[DrawnBox], more: str) -> Iterator[str]:
    for box in boxes:
        yield "  ".join(part for part in (mark + shorten(box.name, 100), shorten(box.shape, 60), shorten(box.axes, 60)) if part)
        yield f"    {_cells_text(box)}"
    if more:
        yield f"  {one_line(more)}"


def _cells_text(box: DrawnBox) -> str:
    """``| q 0 | k 0 | v 0 | q 1 | … 24 more heads``, with a broken bar between parts side by side."""
    shown = sorted(box.cells, key=lambda c: (c.row, c.column))[:MAX_TEXT_CELLS]
    texts = [("" if n == 0 else " ¦ " if c.column else " | ") + (c.labels[0] if c.labels else c.role) for n, c in enumerate(shown)]
    rest = len(box.cells) - len(shown)
    tail = " | ".join(t for t in ((f"… {rest} more drawn" if rest else ""), box.more) if t)
    return one_line(f"| {''.join(texts)} |" + (f" {tail}" if tail else ""))
