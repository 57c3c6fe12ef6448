"""Every family in every form: with each choice of its options."""

from __future__ import annotations

import pytest

import mfconv_nb as mc
from mfconv_nb.mapping.forms import all_forms

FORMS = {
    f"{f.key} {' '.join(f'{n}={v}' for n, v in form.chosen.items())}".strip(): form for f in mc.known_families() for form in all_forms(f)
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
