"""The layout notation: every sentence of the design there and back, against numpy and against an oracle that knows no strides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfconv_nb.core.blocks import Block, c_strides, clip_target, compose, make_block, move_block, shift
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.layout import (
    Axis,
    Expression,
    Layout,
    One,
    Product,
    TensorLayout,
    describe_tensor,
    pair_blocks,
    parse_layout,
    shape_of,
    solve_sizes,
)
from tests.support import Array, numbered

# ---- carrying a sentence out -------------------------------------------------------------------------------------------


def carried_out(sentence: str, arrays: Sequence[Array], *, back: bool = False, known: Mapping[str, int]) -> list[Array]:
    """The tensors on the other side of a sentence."""
    layout = parse_layout(sentence)
    source, target = (layout.right, layout.left) if back else (layout.left, layout.right)
    sizes = solve_sizes(source, [a.shape for a in arrays], known)
    made = [np.full(shape_of(t, sizes) or (), -1, arrays[0].dtype) for t in target]
    for pair in pair_blocks(source, target, sizes):
        move_block(made[pair.target].reshape(-1), arrays[pair.source].reshape(-1), pair.block)
    return made


def test_blocks_without_a_partner_are_zeros_where_the_sentence_says_so() -> None:
    layout = parse_layout("(h q) r, (h v) s -> (h (q + v)) (r + s) | 0")
    assert layout.rest_is_zeros
    pairs = pair_blocks(layout.left, layout.right, {"h": 2, "q": 3, "v": 1, "r": 2, "s": 4}, rest_is_zeros=True)
    zeros = {tuple(sorted(p.axes)): p.block.elements for p in pairs if p.source is None}
    assert zeros == {("h", "q", "s"): 24, ("h", "r", "v"): 4}
    back = pair_blocks(layout.right, layout.left, {"h": 2, "q": 3, "v": 1, "r": 2, "s": 4}, rest_is_zeros=True)
    assert {tuple(sorted(p.axes)) for p in back if p.target is None} == set(zeros)
    with pytest.raises(MappingError, match="blocks on one side only"):
        pair_blocks(layout.left, layout.right, {"h": 2, "q": 3, "v": 1, "r": 2, "s": 4})


@pytest.mark.parametrize("sentence", ["a r -> a r |", "a r -> a r | 1", "a r -> a r | 0 b", "a | 0 -> a", "a (r | 0) -> a r"])
def test_zeros_for_the_rest_stand_at_the_end_alone(sentence: str) -> None:
    with pytest.raises(MappingError) as refused:
        parse_layout(sentence)
    assert refused.value.code == "MFC306"


HEADS, Q, K, V, HIDDEN, FFN, HALF, GROUPS = 3, 5, 4, 2, 7, 11, 6, 2  # all that meet in one sentence differ


@dataclass(frozen=True)
class Example:
    """A sentence, its sizes, tensors of its left side, and its right side as numpy says it."""

    name: str
    sentence: str
    left: tuple[Array, ...]
    right: Callable[..., Sequence[Array]]
    known: Mapping[str, int]


def split_rows(x: Array, *sizes: int) -> list[Array]:
    return np.split(x, np.cumsum(sizes)[:-1])


def split_per_head(x: Array, heads: int, *sizes: int) -> list[Array]:
    parts = np.split(x.reshape(heads, sum(sizes), -1), np.cumsum(sizes)[:-1], axis=1)
    return [p.reshape(heads * size, -1) for p, size in zip(parts, sizes, strict=True)]


def interleaved(a: Array, b: Array) -> Array:
    return np.stack([a, b], axis=1).reshape(2 * len(a), -1)


EXAMPLES = (
    Example("transpose", "out in -> in out", (numbered(FFN, HIDDEN),), lambda x: [x.T], {}),
    Example(
        "fused qkv",
        "(q + k + v) hidden -> q hidden, k hidden, v hidden",
        (numbered(Q + K + V, HIDDEN),),
        lambda x: split_rows(x, Q, K, V),
        {"q": Q, "k": K, "v": V},
    ),
    Example(
        "fused qkv of a bias",
        "(q + k + v) -> q, k, v",
        (numbered(Q + K + V),),
        lambda x: split_rows(x, Q, K, V),
        {"q": Q, "k": K},
    ),
    Example(
        "fused qkv a head",
        "(heads (q + k + v)) hidden -> (heads q) hidden, (heads k) hidden, (heads v) hidden",
        (numbered(HEADS * (Q + K + V), HIDDEN),),
        lambda x: split_per_head(x, HEADS, Q, K, V),
        {"heads": HEADS, "q": Q, "k": K},
    ),
    Example(
        "fused qkv a group",
        "(groups (q + k + v)) hidden -> (groups q) hidden, (groups k) hidden, (groups v) hidden",
        (numbered(GROUPS * (HEADS * K + K + K), HIDDEN),),
        lambda x: split_per_head(x, GROUPS, HEADS * K, K, K),
        {"groups": GROUPS, "q": HEADS * K, "k": K, "v": K},
    ),
    Example(
        "gate and up side by side",
        "gate hidden, up hidden -> hidden (gate + up)",
        (numbered(FFN, HIDDEN), numbered(FFN - 3, HIDDEN, first=1000)),
        lambda gate, up: [np.concatenate([gate.T, up.T], axis=1)],
        {"gate": FFN},
    ),
    Example(
        "gate and up row by row",
        "(ffn gate) hidden, (ffn up) hidden -> (ffn (gate + up)) hidden",
        (numbered(FFN, HIDDEN), numbered(FFN, HIDDEN, first=1000)),
        lambda gate, up: [interleaved(gate, up)],
        {"gate": 1, "up": 1},
    ),
    Example(
        "rope halves against pairs",
        "(heads half pair) hidden -> (heads pair half) hidden",
        (numbered(HEADS * HALF * 2, HIDDEN),),
        lambda x: [x.reshape(HEADS, HALF, 2, HIDDEN).transpose(0, 2, 1, 3).reshape(x.shape)],
        {"heads": HEADS, "pair": 2},
    ),
    Example("an extra axis", "out in k -> out in 1 k", (numbered(5, 3, 4),), lambda x: [x[:, :, None, :]], {}),
    Example("an extra axis in front", "d -> 1 d", (numbered(9),), lambda x: [x[None]], {}),
    Example("a scalar", "->", (numbered(),), lambda x: [x], {}),
    Example("the same", "(heads head) hidden", (numbered(6, 5),), lambda x: [x], {"heads": 3}),
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_a_sentence_read_from_left_to_right_is_what_numpy_says(example: Example) -> None:
    expected = example.right(*example.left)
    found = carried_out(example.sentence, example.left, known=example.known)
    assert [f.tolist() for f in found] == [e.tolist() for e in expected]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_a_sentence_read_from_right_to_left_gives_the_left_side_back(example: Example) -> None:
    right = [np.array(r, order="C") for r in example.right(*example.left)]
    found = carried_out(example.sentence, right, back=True, known=example.known)
    assert [f.tolist() for f in found] == [a.tolist() for a in example.left]


@pytest.mark.parametrize(
    "sentence, stacked",
    [
        ("ffn hidden -> expert ffn hidden", lambda experts: np.stack(experts)),
        ("ffn hidden -> expert hidden ffn", lambda experts: np.stack([e.T for e in experts])),
        ("ffn hidden -> (expert ffn) hidden", lambda experts: np.concatenate(experts)),
        ("ffn hidden -> hidden (ffn expert)", lambda experts: np.stack(experts, axis=-1).transpose(1, 0, 2).reshape(HIDDEN, -1)),
    ],
)
def test_a_fixed_index_picks_one_expert_of_a_stacked_tensor(sentence: str, stacked: Callable[[list[Array]], Array]) -> None:
    experts = [numbered(FFN, HIDDEN, first=1000 * n) for n in range(3)]
    expected, layout = stacked(experts), parse_layout(sentence)
    sizes = {"expert": 3, "ffn": FFN, "hidden": HIDDEN}
    made, back = np.full(expected.shape, -1, np.float32), [np.zeros_like(e) for e in experts]
    for number, expert in enumerate(experts):
        (pair,) = pair_blocks(layout.left, layout.right, sizes, {"expert": number})
        move_block(made.reshape(-1), expert.reshape(-1), pair.block)
        move_block(back[number].reshape(-1), np.ascontiguousarray(expected).reshape(-1), pair.block.swap_sides())
    assert made.tolist() == expected.tolist()
    assert [b.tolist() for b in back] == [e.tolist() for e in experts]


def test_gate_and_up_of_every_expert_lie_side_by_side() -> None:
    layout = parse_layout("gate hidden, up hidden -> (expert hidden) (gate + up)")
    sizes = {"expert": 3, "gate": 4, "up": 2, "hidden": HIDDEN}
    gates = [numbered(4, HIDDEN, first=1000 * n) for n in range(3)]
    ups = [numbered(2, HIDDEN, first=1000 * n + 500) for n in range(3)]
    made = np.full((3 * HIDDEN, 6), -1, np.float32)
    for number in range(3):
        for pair in pair_blocks(layout.left, layout.right, sizes, {"expert": number}):
            move_block(made.reshape(-1), (gates, ups)[pair.source][number].reshape(-1), pair.block)
    expected = np.concatenate([np.concatenate([g.T, u.T], axis=1) for g, u in zip(gates, ups, strict=True)])
    assert made.tolist() == expected.tolist()


# ---- random sentences, against an oracle -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sentence:
    """A random sentence and the size of every axis."""

    layout: Layout
    sizes: Mapping[str, int]


def tensors_text(tensors: Sequence[Sequence[str]]) -> str:
    return ", ".join(" ".join(t) for t in tensors)


@st.composite
def tensor_of(draw: st.DrawFn, names: Sequence[str]) -> list[str]:
    """A tensor of these axes: in any order, some flattened together, some ones between them."""
    axes = draw(st.permutations(names))
    written: list[str] = []
    while axes:
        count = draw(st.integers(1, len(axes)))
        group, axes = axes[:count], axes[count:]
        written.append(group[0] if count == 1 else f"({' '.join(group)})")
        written += ["1"] * draw(st.integers(0, 1))
    return written


@st.composite
def sentences(draw: st.DrawFn) -> Sentence:
    """One tensor with named parts on the left; on the right a tensor for each, with the axes in any order."""
    shared = ["a", "b", "c"][: draw(st.integers(0, 3))]
    parts = ["p", "q", "r"][: draw(st.integers(1, 3))]
    inner = {p: draw(st.sampled_from([p, f"{p}{p} {p}", f"{p} {p}{p}"])) for p in parts}
    braces: bool = len(parts) > 1 or draw(st.integers(0, 1)) == 1
    fused = f"({' + '.join(inner[p] for p in parts)})" if braces else inner[parts[0]]
    place = draw(st.integers(0, len(shared)))
    left = [*shared[:place], fused, *shared[place:]]
    if draw(st.booleans()) and shared:
        left = [f"({' '.join(left)})"]
    right = [draw(tensor_of([*shared, *inner[p].split()])) for p in parts]
    text = f"{' '.join(left)} -> {tensors_text(right)}"
    names = sorted({*shared, *(n for p in parts for n in inner[p].split())})
    sizes = {n: draw(st.integers(1, 4)) for n in names}
    return Sentence(parse_layout(text), sizes)


def index_of(e: Expression, sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """What every index along an axis expression means: the index of each named axis, in order. No strides, no offsets."""
    if isinstance(e, One):
        yield {}
    elif isinstance(e, Axis):
        yield from ({e.name: n} for n in range(sizes[e.name]))
    elif isinstance(e, Product):
        found: list[dict[str, int]] = [{}]
        for factor in e.factors:
            found = [{**outer, **one} for outer in found for one in index_of(factor, sizes)]
        yield from found
    else:
        for part in e.parts:
            yield from index_of(part, sizes)


def meanings(tensor: TensorLayout, sizes: Mapping[str, int]) -> list[frozenset[tuple[str, int]]]:
    """For every element of a tensor, in C order, the axes it lies on and its index on each."""
    return [frozenset(m.items()) for m in index_of(Product(tensor), sizes)]


def by_oracle(source: Sequence[TensorLayout], target: Sequence[TensorLayout], sizes: Mapping[str, int]) -> list[list[int]]:
    """For every target tensor, the number of the source element in each place; source elements are counted through all tensors."""
    meaning = [m for tensor in source for m in meanings(tensor, sizes)]
    number = {m: n for n, m in enumerate(meaning)}
    assert len(number) == len(meaning)
    return [[number[m] for m in meanings(tensor, sizes)] for tensor in target]


@settings(max_examples=200)
@given(sentences(), st.booleans())
def test_any_sentence_does_in_both_directions_what_its_axis_names_say(sentence: Sentence, back: bool) -> None:
    layout, sizes = sentence.layout, sentence.sizes
    source, target = (layout.right, layout.left) if back else (layout.left, layout.right)
    shapes = [shape_of(t, sizes) or () for t in source]
    ends = np.cumsum([0, *(math.prod(s) for s in shapes)])
    arrays = [np.arange(ends[n], ends[n + 1]) for n in range(len(shapes))]
    made = [np.full(math.prod(shape_of(t, sizes) or ()), -1) for t in target]
    for pair in pair_blocks(source, target, sizes):
        move_block(made[pair.target], arrays[pair.source], pair.block)
    assert [m.tolist() for m in made] == by_oracle(source, target, sizes)


@settings(max_examples=100)
@given(sentences())
def test_a_sentence_written_out_from_its_parts_reads_the_same(sentence: Sentence) -> None:
    text = " -> ".join(", ".join(map(describe_tensor, side)) for side in (sentence.layout.left, sentence.layout.right))
    again = parse_layout(text)
    assert (again.left, again.right) == (sentence.layout.left, sentence.layout.right)


@settings(max_examples=100)
@given(sentences(), st.data())
def test_shapes_and_all_sizes_but_one_determine_the_last(sentence: Sentence, data: st.DataObject) -> None:
    hidden = data.draw(st.sampled_from(sorted(sentence.sizes)))
    known = {n: size for n, size in sentence.sizes.items() if n != hidden}
    shapes = [shape_of(t, sentence.sizes) or () for t in sentence.layout.right]
    assert solve_sizes(sentence.layout.right, shapes, known) == sentence.sizes
    shape = shape_of(sentence.layout.left[0], sentence.sizes) or ()
    assert solve_sizes(sentence.layout.left, [shape], known) == sentence.sizes


# ---- sizes ---------------------------------------------------------------------------------------------------------------


def test_sizes_found_in_one_tensor_help_with_another() -> None:
    layout = parse_layout("(q + k) hidden, q, hidden")
    assert solve_sizes(layout.left, [(9, 7), (5,), (7,)], {}) == {"q": 5, "k": 4, "hidden": 7}


def test_what_the_shapes_do_not_determine_is_left_open() -> None:
    assert solve_sizes(parse_layout("(q + k + v) hidden").left, [(9, 7)], {"q": 5}) == {"q": 5, "hidden": 7}


@pytest.mark.parametrize(
    "sentence, shape, known, found, expected",
    [
        ("(heads head) hidden", (12, 5, 1), {}, (12, 5, 1), "2 axes: (heads head) hidden"),
        ("(heads head) hidden", (13, 5), {"heads": 4}, 13, "(heads head) with 4 known"),
        ("(q + k) hidden", (3, 5), {"q": 4}, 3, "(q + k) with 4 known"),
        ("hidden hidden2", (4, 5), {"hidden": 3}, 4, "hidden = 3"),
        ("(q + k)", (9,), {"q": 4, "k": 4}, 9, "(q + k) = 8"),
        ("d 1", (4, 2), {}, 2, "1 = 1"),
    ],
)
def test_a_shape_that_contradicts_is_refused_with_both_numbers(
    sentence: str, shape: tuple[int, ...], known: dict[str, int], found: object, expected: str
) -> None:
    with pytest.raises(MappingError) as refused:
        solve_sizes(parse_layout(sentence).left, [shape], known)
    assert (refused.value.code, refused.value.found, refused.value.expected) == ("MFC307", found, expected)


# ---- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, caret, expected",
    [
        ("(q + k hidden", 13, ")"),
        ("q + k", 2, "-> or the end"),
        ("q ) k", 2, "-> or the end"),
        ("(q + ) hidden", 5, "an axis"),
        ("() hidden", 1, "an axis"),
        ("q hidden -> q -> k", 14, "the end"),
        ("q Hidden", 2, "a name, 0, 1, ( ) + , or ->"),
        ("q 12", 2, "a name, 0, 1, ( ) + , or ->"),
        ("q  *  k", 3, "a name, 0, 1, ( ) + , or ->"),
    ],
)
def test_a_sentence_that_cannot_be_read_is_refused_with_a_caret_under_the_place(text: str, caret: int, expected: str) -> None:
    with pytest.raises(MappingError) as refused:
        parse_layout(text)
    message = str(refused.value).splitlines()
    assert refused.value.code == "MFC306"
    assert refused.value.expected == expected
    sentence, pointer = message[1], message[2]
    assert sentence.endswith(text)
    assert pointer.index("^") - sentence.index(text) == caret


@pytest.mark.parametrize(
    "text, sizes, words",
    [
        ("(q + k) hidden -> q hidden", {"q": 2, "k": 3, "hidden": 4}, "blocks on one side only: hidden k"),
        ("q hidden -> q ffn", {"q": 2, "hidden": 4, "ffn": 4}, "blocks on one side only: ffn q; hidden q"),
        ("d -> d d", {"d": 3}, "an axis twice in one block: d d"),
        ("q hidden, q hidden -> q hidden", {"q": 2, "hidden": 4}, "two blocks with the axes q hidden"),
        ("q hidden -> hidden q", {"q": 2}, "no size for hidden"),
    ],
)
def test_blocks_without_exactly_one_partner_are_refused(text: str, sizes: dict[str, int], words: str) -> None:
    layout = parse_layout(text)
    with pytest.raises(MappingError) as refused:
        pair_blocks(layout.left, layout.right, sizes)
    assert (refused.value.code, refused.value.found) == ("MFC307", words)


# ---- cutting and joining blocks --------------------------------------------------------------------------------------------


def places(block: Block) -> list[tuple[int, int]]:
    """Source and target offset of every element of a block."""
    return [
        (
            block.source_offset + sum(i * s for i, s in zip(index, block.source_strides, strict=True)),
            block.target_offset + sum(i * s for i, s in zip(index, block.target_strides, strict=True)),
        )
        for index in np.ndindex(*block.sizes)
    ]


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """One block of a random sentence, in either direction."""
    sentence = draw(sentences())
    pairs = pair_blocks(sentence.layout.left, sentence.layout.right, sentence.sizes)
    block = draw(st.sampled_from(pairs)).block
    return block.swap_sides() if draw(st.booleans()) else block


@settings(max_examples=200)
@given(blocks(), st.integers(0, 80), st.integers(0, 80))
def test_the_clipped_parts_are_the_block_inside_the_range_each_element_once(block: Block, start: int, length: int) -> None:
    stop = start + length
    found = [place for part in clip_target(block, start, stop) for place in places(part)]
    assert sorted(found) == sorted(p for p in places(block) if start <= p[1] < stop)


@settings(max_examples=100)
@given(blocks(), st.integers(1, 40))
def test_the_parts_of_successive_ranges_tile_the_block(block: Block, step: int) -> None:
    end = 1 + max(t for _, t in places(block))
    found = [p for start in range(0, end, step) for part in clip_target(block, start, start + step) for p in places(part)]
    assert sorted(found) == sorted(places(block))


@given(blocks())
def test_a_block_is_a_run_exactly_when_both_sides_count_up_by_one(block: Block) -> None:
    found = sorted(places(block), key=lambda p: p[1])
    steps = {(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(found)}
    assert block.is_contiguous == (steps <= {(1, 1)})


@given(blocks(), st.integers(0, 9), st.integers(0, 9))
def test_moving_and_swapping_a_block_move_and_swap_every_element(block: Block, source: int, target: int) -> None:
    assert sorted(places(shift(block, source=source, target=target))) == sorted((s + source, t + target) for s, t in places(block))
    assert sorted(places(block.swap_sides())) == sorted((t, s) for s, t in places(block))


def split_evenly(total: int, draw: st.DrawFn) -> list[int]:
    """Factors of a number, in random order."""
    factors = []
    while total > 1:
        factor = draw(st.sampled_from([n for n in range(2, total + 1) if total % n == 0]))
        factors.append(factor)
        total //= factor
    return factors


@st.composite
def permuted(draw: st.DrawFn, total: int) -> Block:
    """A random permutation of the axes of a tensor with ``total`` elements."""
    shape = split_evenly(total, draw)
    order = draw(st.permutations(range(len(shape))))
    source = c_strides(shape)
    target_shape = [shape[n] for n in order]
    strides = dict(zip(order, c_strides(target_shape), strict=True))
    return make_block(shape, 0, source, 0, [strides[n] for n in range(len(shape))])


@settings(max_examples=300)
@given(st.data(), st.sampled_from([6, 8, 12, 16, 24, 36]))
def test_seeing_through_a_tensor_in_the_middle_is_doing_both_moves(data: st.DataObject, total: int) -> None:
    inner, outer = data.draw(permuted(total)), data.draw(permuted(total))
    start, stop = sorted(data.draw(st.tuples(st.integers(0, total), st.integers(0, total))))
    for part in clip_target(outer, start, stop):
        seen = compose(part, inner)
        if seen is not None:
            middle = {t: s for s, t in places(inner)}
            expected = sorted((middle[m], t) for m, t in places(part))
            assert sorted(p for b in seen for p in places(b)) == expected


@settings(max_examples=200)
@given(st.data(), st.sampled_from([8, 12, 24]))
def test_a_piece_of_the_middle_gives_its_share_and_no_more(data: st.DataObject, total: int) -> None:
    """The middle lies in several runs, as a tensor does that a file holds in slices."""
    outer = data.draw(permuted(total))
    cut = data.draw(st.integers(0, total))
    runs = [make_block((n,), 100 + at, (1,), at, (1,)) for at, n in ((0, cut), (cut, total - cut)) if n]
    seen = [compose(outer, run) for run in runs]
    assert None not in seen
    found = sorted(p for found in seen for b in found or () for p in places(b))
    assert found == sorted((100 + m, t) for m, t in places(outer))


@pytest.mark.parametrize(
    "first, second",
    [
        ("(q + k) hidden -> q hidden, k hidden", "q hidden -> hidden q"),
        ("a b -> b a", "b a -> a b"),
        ("(heads half pair) hidden -> (heads pair half) hidden", "(heads pair half) hidden -> (heads half pair) hidden"),
        ("(heads (q + k)) hidden -> (heads q) hidden, (heads k) hidden", "(heads q) hidden -> hidden (q heads)"),
    ],
)
def test_the_usual_pairs_of_moves_are_seen_through_as_boxes(first: str, second: str) -> None:
    sizes = {"q": 4, "k": 2, "hidden": 3, "a": 5, "b": 7, "heads": 6, "half": 5, "pair": 2}
    one, two = parse_layout(first), parse_layout(second)
    inner = pair_blocks(one.left, one.right, sizes)[0].block
    outer = pair_blocks(two.left, two.right, sizes)[0].block
    seen = compose(outer, inner)
    assert seen is not None
    middle = {t: s for s, t in places(inner)}
    assert sorted(p for b in seen for p in places(b)) == sorted((middle[m], t) for m, t in places(outer))


def test_a_move_and_its_reverse_are_one_plain_run() -> None:
    layout = parse_layout("(heads half pair) hidden -> (pair heads half) hidden")
    sizes = {"heads": 4, "half": 3, "pair": 2, "hidden": 5}
    block = pair_blocks(layout.left, layout.right, sizes)[0].block
    assert compose(block.swap_sides(), block) == [make_block((120,), 0, (1,), 0, (1,))]


# ---- moving numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (3, 5), (64, 64), (65, 131), (130, 257), (255, 4)])
def test_a_transpose_of_any_width_and_itemsize_moves_every_number(dtype: Any, shape: tuple[int, int]) -> None:
    source = (np.arange(math.prod(shape)) % 251).astype(np.uint8).astype(dtype).reshape(shape)
    target = np.zeros(shape[::-1], dtype)
    layout = parse_layout("out in -> in out")
    (pair,) = pair_blocks(layout.left, layout.right, {"out": shape[0], "in": shape[1]})
    move_block(target.reshape(-1), source.reshape(-1), pair.block)
    assert target.tobytes() == source.T.tobytes()


@pytest.mark.parametrize("from_dtype, to_dtype", [(np.float32, ml_dtypes.bfloat16), (np.float16, np.float32), (np.float64, np.float32)])
def test_a_transpose_with_a_cast_casts_every_number(from_dtype: Any, to_dtype: Any) -> None:
    source = np.linspace(-3, 3, 70 * 133).astype(from_dtype).reshape(70, 133)
    target = np.zeros((133, 70), to_dtype)
    block = make_block((70, 133), 0, (133, 1), 0, (1, 70))
    move_block(target.reshape(-1), source.reshape(-1), block)
    assert target.tobytes() == source.T.astype(to_dtype).tobytes()


@settings(max_examples=50)
@given(st.permutations(range(4)), st.lists(st.integers(1, 70), min_size=4, max_size=4).filter(lambda s: math.prod(s) < 200_000))
def test_any_permutation_of_four_axes_moves_every_number(order: list[int], shape: list[int]) -> None:
    source = (np.arange(math.prod(shape)) % 65521).astype(np.uint16).reshape(shape)
    expected = np.ascontiguousarray(source.transpose(order))
    strides = dict(zip(order, c_strides(expected.shape), strict=True))
    target = np.zeros(source.size, np.uint16)
    move_block(target, source.reshape(-1), make_block(shape, 0, c_strides(shape), 0, [strides[n] for n in range(4)]))
    assert target.tobytes() == expected.tobytes()


def test_a_block_that_leaves_its_array_is_refused_and_nothing_outside_is_touched() -> None:
    guard = np.full(20, 7, np.float32)
    with pytest.raises((ValueError, TypeError)):
        move_block(guard[5:10], numbered(6), make_block((6,), 0, (1,), 0, (1,)))
    assert guard.tolist() == [7] * 20


# ---- zeros, and axes of equal size -----------------------------------------------------------------------------------------


def test_a_block_of_zeros_stands_on_one_side_and_has_its_place() -> None:
    layout = parse_layout("vocab hidden -> (vocab + 0 pad) hidden")
    assert shape_of(layout.right[0], {"vocab": 5, "pad": 3, "hidden": 4}) == (8, 4)
    there = pair_blocks(layout.left, layout.right, {"vocab": 5, "pad": 3, "hidden": 4})
    back = pair_blocks(layout.right, layout.left, {"vocab": 5, "pad": 3, "hidden": 4})
    assert [(p.source, p.target, p.block.elements, p.block.target_offset) for p in there] == [(0, 0, 20, 0), (None, 0, 12, 20)]
    assert [(p.source, p.target, p.block.elements, p.block.source_offset) for p in back] == [(0, 0, 20, 0), (0, None, 12, 20)]


def test_a_whole_tensor_of_zeros_has_no_partner() -> None:
    layout = parse_layout("q, v -> q, (0 k), v")
    assert [len(side) for side in (layout.left, layout.right)] == [2, 3]
    pairs = pair_blocks(layout.left, layout.right, {"q": 4, "k": 4, "v": 4})
    assert [(p.source, p.target) for p in pairs] == [(0, 0), (1, 2), (None, 1)]


def test_a_sentence_with_zeros_is_described_as_it_is_written() -> None:
    assert describe_tensor(parse_layout("vocab hidden -> (vocab + 0 pad) hidden").right[0]) == "(vocab + 0 pad) hidden"


EQUAL = {"k": "q", "v": "q"}


def test_equal_parts_of_a_sum_are_solved_together() -> None:
    (tensor,) = parse_layout("(q + k + v)").left
    assert solve_sizes([tensor], [(12,)], {}, EQUAL) == {"q": 4, "k": 4, "v": 4}
    (tensor,) = parse_layout("(heads (q + k + v)) hidden").left
    assert solve_sizes([tensor], [(24, 5)], {"heads": 2}, EQUAL) == {"heads": 2, "q": 4, "k": 4, "v": 4, "hidden": 5}


def test_an_axis_has_the_size_of_another_that_is_known() -> None:
    (tensor,) = parse_layout("(q + k + v) hidden").left
    sizes = solve_sizes([tensor], [(15, 5)], {}, {"q": "hidden", "k": "hidden", "v": "hidden"})
    assert {sizes[n] for n in ("q", "k", "v", "hidden")} == {5}


@pytest.mark.parametrize(
    "sentence, shape, known, same",
    [
        ("(q + k + v)", (13,), {}, EQUAL),
        ("(q + k + v)", (12,), {"q": 5}, EQUAL),
        ("(q + k) hidden", (8, 5), {}, {"q": "hidden", "k": "hidden"}),
    ],
    ids=["not divisible", "another size", "not square"],
)
def test_parts_that_are_not_equal_are_refused(sentence: str, shape: tuple[int, ...], known: dict[str, int], same: dict[str, str]) -> None:
    with pytest.raises(MappingError) as refused:
        solve_sizes(list(parse_layout(sentence).left), [shape], known, same)
    assert refused.value.code == "MFC307"


def test_parts_that_are_not_said_to_be_equal_stay_unknown() -> None:
    (tensor,) = parse_layout("(q + k + v)").left
    assert solve_sizes([tensor], [(12,)], {}) == {}
