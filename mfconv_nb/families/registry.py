"""The families that are known: every module of this folder that has a `FAMILY`, and those that other packages offer.

Another package adds one with an entry point of the group ``mfconv_nb.families`` whose value is a ``Family``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mfconv_nb.errors import MappingError, did_you_mean, quoted
from mfconv_nb.mapping.forms import fitting_forms, templates_of
from mfconv_nb.mapping.rules import Family


@lru_cache(maxsize=1)
def built_in() -> Mapping[str, Family]:
    """The families of this package, by key."""
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name != "registry")
    modules = [import_module(f"mfconv_nb.families.{name}") for name in names]
    return {m.FAMILY.key: m.FAMILY for m in modules if hasattr(m, "FAMILY")}


def known_families() -> list[Family]:
    """The built-in families, by key."""
    return list(built_in().values())


def family_named(key: str) -> Family:
    """The family that ``--model KEY`` means. Other packages are asked only for keys that are not built in.

    Raises:
        MappingError: MFC301 with the nearest key.
    """
    known = {name: f for f in built_in().values() for name in (*f.aliases, f.key)}
    if key not in known:
        from importlib.metadata import entry_points  # 10 ms that only an unknown key costs

        known |= {e.name: e.load() for e in entry_points(group="mfconv_nb.families")}
    if key not in known:
        expected = ", ".join(sorted(known))
        raise MappingError("MFC301", quoted(key), found="an unknown key", expected=expected, hint=did_you_mean(key, known))
    return known[key]


def candidates_of(key: str) -> list[Family]:
    """The family that a key names, and those that the same key may mean: `qwen` is also Qwen2, told apart by the names."""
    family = family_named(key)
    return [family, *(family_named(other) for other in family.also)] if key == family.key else [family]


def identify(names: Iterable[str], config: Mapping[str, Any] | None, to: str) -> Family:
    """The one family whose rules know every name, and whose own names are all there; first by ``model_type``, where a config has one.

    Raises:
        MappingError: MFC302 when none or several fit, with how many names each knows.
    """
    templates = templates_of(names)
    model_type = (config or {}).get("model_type")
    by_type = [f for f in known_families() if model_type in f.model_types]
    candidates = by_type or [f for f in known_families() if not f.told_as]
    distance = {f.key: min(_distance(c.form, templates, to) for c in fitting_forms(f, templates, to, {}, {})) for f in candidates}
    best = [f for f in candidates if distance[f.key] == min(distance.values())]
    if len(best) == 1 and (by_type or distance[best[0].key][0] == 0):
        return best[0]
    unknown = sorted((distance[f.key][0], f.key) for f in candidates)[:3]
    known = "; ".join(f"{key} knows {len(templates) - n} of {len(templates)} name patterns" for n, key in unknown)
    several = len(best) > 1 and distance[best[0].key][0] == 0
    told = "no model_type" if model_type is None else f"model_type {quoted(str(model_type))}"
    found = f"{len(best)} that fit: {', '.join(f.key for f in best)}" if several else f"{told}; {known}"
    hint = "Say which: --model KEY (model= in Python); `mfconv families` lists them."
    raise MappingError("MFC302", found=found, expected="one family that knows every name", hint=hint)


def _distance(form: Family, templates: frozenset[str], to: str) -> tuple[int, int, int]:
    """How many names a form does not know, how many of its own are not there; among equals, the one that needs most of them is nearest."""
    needed = form.needed_templates(to)
    return len(templates - form.templates(to)), len(needed - templates), -len(needed)
