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
from mfconv_nb.folding import fold
from mfconv_nb.mapping.rules import Family, sides_of


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
    known = dict(built_in())
    if key not in known:
        from importlib.metadata import entry_points  # 10 ms that only an unknown key costs

        known |= {e.name: e.load() for e in entry_points(group="mfconv_nb.families")}
    if key not in known:
        expected = ", ".join(sorted(known))
        raise MappingError("MFC301", quoted(key), found="an unknown key", expected=expected, hint=did_you_mean(key, known))
    return known[key]


def identify(names: Iterable[str], config: Mapping[str, Any] | None, to: str) -> Family:
    """The one family whose rules know every name; ``model_type`` in the config decides between equals.

    Raises:
        MappingError: MFC302 when none or several fit, with how many names each knows.
    """
    templates = {fold(n)[0] for n in names}
    candidates = known_families()
    unknown = {f.key: len(templates - _templates(f, to)) for f in candidates}
    fitting = [f for f in candidates if not unknown[f.key]]
    model_type = (config or {}).get("model_type")
    by_type = [f for f in candidates if model_type in f.model_types]
    chosen = [f for f in by_type if f in fitting] or by_type or fitting
    if len(chosen) == 1:
        return chosen[0]
    best = sorted(unknown.items(), key=lambda item: item[1])[:3]
    known = "; ".join(f"{key} knows {len(templates) - n} of {len(templates)} name patterns" for key, n in best)
    found = f"{len(chosen)} that fit" if chosen else f"model_type {quoted(str(model_type))}; {known}"
    hint = "Say which: --model KEY (model= in Python); `mfconv families` lists them."
    raise MappingError("MFC302", found=found, expected="one family that knows every name", hint=hint)


def _templates(family: Family, to: str) -> set[str]:
    return {p.template for rule in family.rules for p in sides_of(rule, to)[0]}
