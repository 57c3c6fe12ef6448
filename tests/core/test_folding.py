"""Names that differ only in their numbers, as one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfconv_nb.core.folding import fold, folded_name, index_ranges

NAMES = st.text(alphabet="ab.#_01279{}٣²", max_size=20)


@pytest.mark.parametrize(
    "name, template, numbers",
    [
        ("model.layers.17.mlp.up_proj.weight", "model.layers.#.mlp.up_proj.weight", (17,)),
        ("layers.3.feed_forward.w1.weight", "layers.#.feed_forward.w#.weight", (3, 1)),
        ("norm", "norm", ()),
        ("", "", ()),
        ("layers.007.x", "layers.007.x", ()),
        ("layers.0.x", "layers.#.x", (0,)),
        ("layers.007.w2", "layers.007.w#", (2,)),
        ("id.12345678901", "id.12345678901", ()),
        ("layers.٣.x", "layers.٣.x", ()),  # a digit of another script is no number: layers.3 is another name
    ],
)
def test_numbers_become_marks_and_odd_ones_stay(name: str, template: str, numbers: tuple[int, ...]) -> None:
    assert fold(name) == (template, numbers)


@given(NAMES.filter(lambda name: "#" not in name))
def test_template_and_numbers_are_the_whole_name(name: str) -> None:
    template, numbers = fold(name)
    counted = iter(numbers)
    assert re.sub("#", lambda _: str(next(counted)), template) == name


@given(NAMES, NAMES)
def test_two_names_never_fold_to_the_same(first: str, second: str) -> None:
    assert (fold(first) == fold(second)) == (first == second)


@pytest.mark.parametrize(
    "numbers, text",
    [
        ([0, 1, 2, 3, 5], "0‥3, 5"),
        ([5, 3, 3, 4], "3‥5"),
        ([7], "7"),
        ([0, 2, 4, 6], "0, 2, 4, 6"),
        ([0, 2, 4, 6, 8, 10], "0, 2, 4 and 3 more ranges"),
    ],
)
def test_ranges_are_short_and_say_what_was_cut(numbers: list[int], text: str) -> None:
    assert index_ranges(numbers) == text


@pytest.mark.parametrize(
    "names, text",
    [
        ([f"layers.{n}.w1" for n in range(32)], "layers.{0‥31}.w1"),
        (["layers.0.w1", "layers.2.w1", "layers.3.w1"], "layers.{0, 2‥3}.w1"),
        (["a.0.b.0", "a.1.b.0"], "a.{0‥1}.b.0"),
        (["norm"], "norm"),
        (["od#d.3"], "od#d.3"),
        (["#"], "#"),
    ],
)
def test_a_folded_name_shows_ranges_where_numbers_differ(names: list[str], text: str) -> None:
    assert folded_name(names) == text


def test_a_name_longer_than_any_real_one_is_its_own_template() -> None:
    long = "layers.1." * 200
    assert fold(long) == (long, ())
    assert folded_name([long, long.replace("1", "2")]) != long.replace("1", "{1‥2}")
