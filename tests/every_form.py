"""Every family in its forms: with each choice of its options, or with choices enough that each pair of values occurs.

Options of a family are rules side by side: what two of them do to each other shows in some pair of values. Of the families with latent
attention all combinations are 108 forms, 25 have every pair. One test takes all of them: that a toy comes back bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import pytest

import mfconv_nb as mc
from mfconv_nb.mapping.forms import all_forms
from mfconv_nb.mapping.rules import Family


def with_every_pair(family: Family) -> list[Family]:
    """Some forms of a family, the default first; each two values that occur together in one of its forms do so in one of these."""
    left = {label(form): (form, pairs_of(form)) for form in all_forms(family)}
    chosen: list[Family] = []
    while left and (not chosen or any(pairs for _, pairs in left.values())):
        best = next(iter(left)) if not chosen else max(left, key=lambda key: len(left[key][1]))
        form, _ = left.pop(best)
        chosen.append(form)
        left = {key: (other, pairs - pairs_of(form)) for key, (other, pairs) in left.items()}
    return chosen


def pairs_of(form: Family) -> frozenset[tuple[object, object]]:
    """Each two options of a form with their values; of one option alone its value."""
    values = sorted((name, repr(value)) for name, value in form.chosen.items())
    return frozenset(combinations(values, 2)) | frozenset((value, value) for value in values)


def label(form: Family) -> str:
    return " ".join([form.key, *(f"{name}={value}" for name, value in form.chosen.items())])


def by_label(listed: Iterable[Family]) -> dict[str, Family]:
    return {label(form): form for form in listed}


EVERY_FORM = by_label(form for family in mc.known_families() for form in all_forms(family))
FORMS = by_label(form for family in mc.known_families() for form in with_every_pair(family))
every_form = pytest.mark.parametrize("form", EVERY_FORM.values(), ids=EVERY_FORM.keys())
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
