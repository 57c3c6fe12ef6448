"""A file as a bar: one piece a part, as wide as its bytes; what would be too thin to see is drawn a little wider.

An inline SVG without script or address. Structure and letters take the colour of the text around them, so that light and dark both read.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mfconv_nb.core.errors import to_one_line
from mfconv_nb.core.report import how_many
from mfconv_nb.formats.fields import HEADER, OTHER, PADDING, TENSOR

MAX_PIECES = 40
WIDTH, THINNEST, TOP, HEIGHT = 720.0, 4.0, 16, 26
BLUES = ("#56B4E9", "#0072B2")  # of Okabe and Ito; neighbours differ, so that they can be told apart
INK = {"#56B4E9": "#000", "#0072B2": "#fff"}
FILL = {HEADER: ("currentColor", 0.6), PADDING: ("currentColor", 0.15), OTHER: ("#E69F00", 1.0)}
LEGEND = ((TENSOR, "numbers of tensors"), (HEADER, "headers"), (PADDING, "padding"), (OTHER, "other"))
NAME = 40  # characters of a name in a title


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes: its kind, the tensor it belongs to, and what it is."""

    offset: int
    length: int
    kind: str
    owner: str
    what: str


def strip_svg(parts: Sequence[Part], label: str) -> str:
    """The bar of a file whose parts are these, in order. Under 15 KB, however many there are."""
    pieces = _limit_parts([p for p in parts if p.length])
    if not pieces:
        return ""
    widths = _widths([p.length for p in pieces])
    drawn, at, colour = [], 0.0, 0
    for piece, width in zip(pieces, widths, strict=True):
        fill, opacity = FILL.get(piece.kind, (BLUES[colour % 2], 1.0))
        colour += piece.kind == TENSOR
        drawn.append(_piece(piece, at, width, fill, opacity))
        at += width
    title = html.escape(label)
    return (
        f"<svg viewBox='0 0 {WIDTH:.0f} 64' style='width:100%;max-width:{WIDTH:.0f}px;height:auto;display:block;margin:6px 0' role='img' "
        f"aria-label='{title}' font-size='10' font-family='sans-serif'><title>{title}</title>"
        f"{_scale(pieces[-1])}{''.join(drawn)}{_legend({p.kind for p in pieces})}</svg>"
    )


def _limit_parts(parts: Sequence[Part]) -> list[Part]:
    """At most ``MAX_PIECES``: neighbours of one kind and tensor as one; in larger files several tensors with what lies between them."""
    runs = groupby(parts, key=lambda p: (p.kind, p.owner if p.kind == TENSOR else ""))
    pieces = [_join_parts(list(run)) for _, run in runs]
    if len(pieces) <= MAX_PIECES:
        return pieces
    first, inner, last = pieces[:2], pieces[2:-1], pieces[-1:]
    size = -(-len(inner) // (MAX_PIECES - 3))
    return [*first, *(_join_parts(inner[n : n + size]) for n in range(0, len(inner), size)), *last]


def _join_parts(run: Sequence[Part]) -> Part:
    """Neighbours as one part. It counts as numbers of tensors where any of them does."""
    tensors = [p for p in run if p.kind == TENSOR]
    first, length, owners = run[0], sum(p.length for p in run), len({p.owner for p in tensors})
    if not tensors:
        what = first.what if len({p.what for p in run}) == 1 else f"{first.what} to {run[-1].what}"
        return Part(first.offset, length, first.kind, "", what)
    name = _short(tensors[0].owner) if owners == 1 else f"{owners:,} tensors: {_short(tensors[0].owner)} to {_short(tensors[-1].owner)}"
    return Part(first.offset, length, TENSOR, name, "numbers")


def _short(name: str) -> str:
    """The end of a name, which tells more than its beginning."""
    return to_one_line(name) if len(name) <= NAME else "…" + to_one_line(name[-NAME:])


def _widths(lengths: Sequence[int]) -> list[float]:
    """To scale, but for parts that would be thinner than ``THINNEST``; the others give way to them."""
    thin = {n for n, size in enumerate(lengths) if size * WIDTH < THINNEST * sum(lengths)}
    while True:
        rest = sum(size for n, size in enumerate(lengths) if n not in thin)
        scale = (WIDTH - THINNEST * len(thin)) / rest if rest else 0.0
        more = {n for n, size in enumerate(lengths) if n not in thin and size * scale < THINNEST}
        if not more:
            return [THINNEST if n in thin else size * scale for n, size in enumerate(lengths)]
        thin |= more


def _piece(piece: Part, at: float, width: float, fill: str, opacity: float) -> str:
    said = piece.owner or piece.what
    title = f"{said}: {how_many(piece.length, 'byte')} from {piece.offset:,}"
    gap = 0.8 if width > 2 * THINNEST else 0.4
    bar = f"<rect x='{at:.1f}' y='{TOP}' width='{width - gap:.1f}' height='{HEIGHT}' fill='{fill}' fill-opacity='{opacity:g}'/>"
    label = said if len(said) * 5.6 < width - 8 else said.rpartition(".")[0].rpartition(".")[2]
    ink = INK.get(fill)
    if ink is None or not label or len(label) * 5.6 > width - 8:
        return f"<g><title>{html.escape(title)}</title>{bar}</g>"
    text = f"<text x='{at + width / 2:.1f}' y='{TOP + 17}' text-anchor='middle' fill='{ink}'>{html.escape(label)}</text>"
    return f"<g><title>{html.escape(title)}</title>{bar}{text}</g>"


def _scale(last: Part) -> str:
    end = last.offset + last.length
    return (
        f"<text x='0' y='{TOP - 5}' fill='currentColor'>byte 0</text>"
        f"<text x='{WIDTH:.0f}' y='{TOP - 5}' text-anchor='end' fill='currentColor'>{end:,}</text>"
    )


def _legend(kinds: set[str]) -> str:
    """What the colours mean; only those that are there."""
    drawn, at = [], 0
    for kind, words in LEGEND:
        if kind not in kinds:
            continue
        fill, opacity = FILL.get(kind, (BLUES[0], 1.0))
        drawn.append(f"<rect x='{at}' y='50' width='9' height='9' fill='{fill}' fill-opacity='{opacity:g}'/>")
        if kind == TENSOR:
            drawn.append(f"<rect x='{at + 10}' y='50' width='9' height='9' fill='{BLUES[1]}'/>")
            at += 10
        drawn.append(f"<text x='{at + 13}' y='58' fill='currentColor'>{words}</text>")
        at += 26 + int(5.4 * len(words))
    return "".join(drawn)
