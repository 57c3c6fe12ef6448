"""The drawn map of slices: areas and places are those of the boxes, every rank is named once, and nothing grows with the run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfconv_nb.core.errors import MappingError
from mfconv_nb.runs.rank_folders import open_rank_folders
from mfconv_nb.runs.slice_map import MAX_BOXES, SliceMap
from mfconv_nb.runs.slices import Box, Slicing, boxes_of
from tests.runs.made import Cut, make_rank_folders, numbered_tensors

SVG = "{http://www.w3.org/2000/svg}"
Place = tuple[float, float, float, float]


def map_of(
    shape: Sequence[int],
    devices: Sequence[int],
    cuts: Sequence[Sequence[int]],
    *,
    shards: int = 1,
    name: str = "w",
    stage: int | None = None,
) -> SliceMap:
    slicing = Slicing(tuple(devices), tuple(map(tuple, cuts)), shards)
    held: dict[Box, list[int]] = {}
    for rank, box in enumerate(boxes_of(slicing, tuple(shape))):
        held.setdefault(box, []).append(rank)
    return SliceMap(name, tuple(shape), "BF16", {box: tuple(ranks) for box, ranks in sorted(held.items())}, stage)


def parsed(drawn: SliceMap) -> ElementTree.Element:
    text = drawn._repr_html_()
    assert len(text.encode()) <= 20_000
    return ElementTree.fromstring(text)


def place_of(rect: ElementTree.Element) -> Place:
    x, y, width, height = (float(rect.get(key) or "") for key in ("x", "y", "width", "height"))
    return x, y, width, height


def drawn_boxes(svg: ElementTree.Element) -> dict[str, Place]:
    """Where each box is drawn, by what is shown under the pointer: ``[0:4, 0:8]: ranks 0, 2``."""
    found = {rect.find(f"{SVG}title"): rect for rect in svg.iter(f"{SVG}rect")}
    return {title.text or "": place_of(rect) for title, rect in found.items() if title is not None}


def outlines(svg: ElementTree.Element) -> list[Place]:
    return [place_of(rect) for rect in svg.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is None]


def printed(svg: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]


def inside(svg: ElementTree.Element) -> list[str]:
    """What is printed in boxes."""
    return [text.text or "" for group in svg.iter(f"{SVG}g") if group.get("fill") == "#000" for text in group]


CASES = {
    "rows": map_of((96, 64), (2, 2), ((1,), ())),
    "columns": map_of((96, 64), (2, 4), ((), (1,))),
    "grid": map_of((64, 96), (2, 2, 4), ((1,), (2,))),
    "shards": map_of((96, 64), (2, 4), ((1,), ()), shards=2),
    "vector": map_of((96,), (2, 4), ((1,),)),
    "whole": map_of((96, 64), (4,), ((), ())),
    "scalar": map_of((), (4,), ()),
    "experts": map_of((8, 32, 48), (4, 2), ((0,), (1,), ())),
    "four axes": map_of((4, 2, 32, 48), (2, 2, 2), ((0,), (1,), (2,), ())),
}


@pytest.mark.parametrize("drawn", CASES.values(), ids=CASES)
def test_an_area_is_the_share_that_a_box_has_of_the_tensor(drawn: SliceMap) -> None:
    svg = parsed(drawn)
    places, panels = drawn_boxes(svg), outlines(svg)
    area = sum(width * height for _, _, width, height in panels)
    assert len(places) == len(drawn.boxes)
    for box in drawn.boxes:
        (place,) = [p for text, p in places.items() if text.startswith(box.text())]
        assert place[2] * place[3] / area == pytest.approx(box.elements / math.prod(drawn.shape), rel=0.01)


@pytest.mark.parametrize("drawn", CASES.values(), ids=CASES)
def test_boxes_stand_in_a_panel_and_never_on_each_other(drawn: SliceMap) -> None:
    svg = parsed(drawn)
    places = list(drawn_boxes(svg).values())
    for n, (x, y, width, height) in enumerate(places):
        assert any(
            px - 0.02 <= x and py - 0.02 <= y and x + width <= px + w + 0.02 and y + height <= py + h + 0.02
            for px, py, w, h in outlines(svg)
        )
        for ox, oy, other_width, other_height in places[n + 1 :]:
            apart = min(x + width, ox + other_width) - max(x, ox) <= 0.02 or min(y + height, oy + other_height) - max(y, oy) <= 0.02
            assert apart


@pytest.mark.parametrize("drawn", CASES.values(), ids=CASES)
def test_every_rank_is_named_once_in_the_box_it_holds(drawn: SliceMap) -> None:
    ranks = sorted(rank for held in drawn.boxes.values() for rank in held)
    assert sorted(named(" ".join(text for text in inside(parsed(drawn)) if "×" not in text), drawn)) == ranks
    lines = repr(drawn).split("\n")[1:]
    assert sorted(rank for line in lines for rank in named(line.partition("rank")[2], drawn)) == ranks


def named(text: str, drawn: SliceMap) -> list[int]:
    """The ranks in a text such as ``ranks 0‥3`` or ``rank 0 96``; the shape of a vector stands there too."""
    text = re.sub(r"\b(\d+)(?:‥|\.\.)(\d+)", lambda m: " ".join(str(n) for n in range(int(m[1]), int(m[2]) + 1)), text)
    shapes = {box.shape[0] for box in drawn.boxes} if len(drawn.shape) == 1 else set()
    return [int(n) for n in re.findall(r"\d+", text) if int(n) not in shapes]


def test_edges_and_axes_are_numbered_where_boxes_begin_and_end() -> None:
    texts = printed(parsed(map_of((64, 96), (2, 2, 4), ((1,), (2,)))))
    for edge in ("0", "24", "48", "72", "96", "32", "64"):
        assert edge in texts
    assert {"[0:2]", "[2:4]", "[4:6]", "[6:8]"} <= set(printed(parsed(CASES["experts"])))


def test_the_lines_below_the_name_say_how_it_is_cut_and_where() -> None:
    drawn = map_of((96, 64), (2, 2), ((1,), ()), stage=1)
    about = ("96 × 64 · bf16 · pipeline stage 1", "2 boxes of 48 × 64, each on 2 ranks")
    assert set(about) <= set(printed(parsed(drawn)))
    assert repr(drawn).split("\n") == [f"w  {' · '.join(about)}", "  [0:48, 0:64]   ranks 0, 2", "  [48:96, 0:64]  ranks 1, 3"]
    assert CASES["whole"].cut_text == "whole on 4 ranks"
    assert map_of((8,), (1,), ((),)).cut_text == "whole on 1 rank"


@pytest.mark.parametrize("devices", [(256,), (4, 64), (16, 16)])
@pytest.mark.parametrize("shape", [(4096, 4096), (4096,), (256, 512, 512)])
def test_hundreds_of_boxes_are_bounded_and_the_others_counted(devices: tuple[int, ...], shape: tuple[int, ...]) -> None:
    cuts = [tuple(range(len(devices))) if axis == 0 else () for axis in range(len(shape))]
    drawn = map_of(shape, devices, cuts)
    svg = parsed(drawn)
    count = len(drawn_boxes(svg))
    assert 8 <= count <= MAX_BOXES
    assert f"… {len(drawn.boxes) - count} more boxes" in printed(svg)
    assert repr(drawn).endswith("… 240 more boxes: .boxes")
    assert len(repr(drawn)) < 2000


def test_a_place_that_nothing_was_found_for_stays_empty() -> None:
    drawn = SliceMap("w", (8, 8), "F32", {Box((0, 0), (4, 4)): (0,), Box((4, 4), (4, 4)): (1,)})
    svg = parsed(drawn)
    (panel,) = outlines(svg)
    covered = sum(width * height for _, _, width, height in drawn_boxes(svg).values())
    assert covered / (panel[2] * panel[3]) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("drawn", [map_of((0, 4), (2,), ((), ())), SliceMap("w", (4, 4), "F32", {})], ids=["empty", "nothing found"])
def test_nothing_is_drawn_as_nothing(drawn: SliceMap) -> None:
    assert all(width * height == 0 for _, _, width, height in drawn_boxes(parsed(drawn)).values())


def test_a_hostile_name_is_shown_and_runs_nothing() -> None:
    name = "</svg><script>alert(1)</script>\x1b[31m\"'&\n" + "x" * 5000
    drawn = map_of((8, 8), (2,), ((0,), ()), name=name)
    text = drawn._repr_html_()
    assert "<script" not in text
    assert "\x1b" not in text + repr(drawn)
    assert len(repr(drawn).split("\n")) == 3
    assert {e.tag.removeprefix(SVG) for e in parsed(drawn).iter()} <= {"svg", "title", "g", "text", "rect", "line"}


@settings(max_examples=120)
@given(st.data())
def test_any_cut_is_drawn_in_place_and_readable(data: st.DataObject) -> None:
    devices = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 8, 16]), min_size=1, max_size=3))
    axes = data.draw(st.integers(0, 4))
    owner = [data.draw(st.integers(-1, axes - 1)) for _ in devices]  # the axis that each dimension cuts
    cuts = [tuple(d for d, axis in enumerate(owner) if axis == at) for at in range(axes)]
    parts = [math.prod(devices[d] for d in cut) for cut in cuts]
    shape = [n * data.draw(st.sampled_from([1, 2, 5, 300])) for n in parts]
    drawn = map_of(shape, devices, cuts)
    svg = parsed(drawn)
    places = drawn_boxes(svg)
    assert 1 <= len(places) <= MAX_BOXES
    area = sum(w * h for _, _, w, h in outlines(svg))
    assert sum(w * h for _, _, w, h in places.values()) <= area * 1.01
    areas = [w * h for _, _, w, h in places.values()]
    assert max(areas) == pytest.approx(min(areas), rel=0.02)  # slices of one size are drawn in one size
    assert len(inside(svg)) >= len(places)  # none without a label


def test_a_run_draws_any_of_its_tensors_and_names_the_nearest(tmp_path: Path) -> None:
    shapes = {"layers.0.wq.weight": (16, 8), "layers.1.wq.weight": (16, 8), "norm.weight": (8,)}
    cuts = {
        "layers.0.wq.weight": Cut((2, 2), (0, -1)),
        "layers.1.wq.weight": Cut((2, 2), (0, -1), stages=(1,)),
        "norm.weight": Cut((2, 2), (-1,), stages=(1,)),
    }
    make_rank_folders(tmp_path, numbered_tensors(shapes), cuts)
    run = open_rank_folders(tmp_path)
    assert run.slice_map("layers.0.wq.weight").boxes == {Box((0, 0), (8, 8)): (0, 2), Box((8, 0), (8, 8)): (1, 3)}
    assert run.slice_map("layers.1.wq.weight").boxes == {Box((0, 0), (8, 8)): (4, 6), Box((8, 0), (8, 8)): (5, 7)}
    assert "pipeline stage 1" in repr(run.slice_map("norm.weight"))
    with pytest.raises(MappingError) as caught:
        run.slice_map("layers.1.wk.weight")
    assert caught.value.code == "MFC309"
    assert caught.value.hint == "Did you mean 'layers.1.wq.weight'?"


def test_a_run_with_one_stage_names_none(tmp_path: Path) -> None:
    make_rank_folders(tmp_path, numbered_tensors({"w": (16, 8)}), {"w": Cut((2, 2), (0, -1))})
    assert "stage" not in repr(open_rank_folders(tmp_path).slice_map("w"))
