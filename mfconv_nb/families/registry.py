"""The known families: every module of this folder with a `FAMILY`, those that a notebook registered, and those that packages offer.

Another package adds one with an entry point of the group ``mfconv_nb.families`` whose value is a ``Family``. The caller may also name
the file that defines a family; see ``user_families.py``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mfconv_nb import families as folder
from mfconv_nb.core.errors import MappingError, NotListedError, SeveralFitError, UsageError, did_you_mean, quote
from mfconv_nb.core.folding import fold, folded_names
from mfconv_nb.core.report import how_many
from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.families.same_maths import describe_unlisted, is_named_in, listed_types, model_type_of
from mfconv_nb.families.user_families import family_in_file, is_file_name, offered_families
from mfconv_nb.mapping.flaws import check_family
from mfconv_nb.mapping.forms import Distance, distance_of, fitting_forms, templates_of
from mfconv_nb.mapping.rules import Family, Window, sides_of

NO_FAMILIES = ("registry", "user_families", "words")  # modules of this folder
HINT_REMEMBERED = "Register it (mc.register), install the package that offers it, or name its file: --model FILE.py (family= in Python)."

_registered: dict[str, Family] = {}


@lru_cache(maxsize=1)
def built_in() -> Mapping[str, Family]:
    """The families of this package, by key."""
    names = sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if m.name not in NO_FAMILIES)
    modules = [import_module(f"{folder.__name__}.{name}") for name in names]
    return {m.FAMILY.key: m.FAMILY for m in modules if hasattr(m, "FAMILY")}


def known_families() -> list[Family]:
    """The built-in families, by key, then those that were registered."""
    return list({**built_in(), **_registered}.values())


def installed_families() -> list[Family]:
    """The families that packages offer, without broken ones and without keys that are taken. Imports these packages."""
    taken = {name for family in known_families() for name in (family.key, *family.aliases)}
    return list({o.family.key: o.family for o in offered_families() if o.family is not None and not {o.key, o.family.key} & taken}.values())


def register(family: Family, *, replace: bool = False) -> Family:
    """Make a family known by its key for the rest of this Python session, as if it were built in. Names lead to it as well.

    Registering a key again replaces the family: cells of a notebook run again and again.

    Args:
        replace: take the place of a built-in family of this key.
    Returns:
        The family.
    Raises:
        UsageError: MFC501 for something else than a family, and for a built-in key.
        MappingError: MFC311 where its rules cannot all be true, with lines.
    """
    given: object = family
    if not isinstance(given, Family):
        hint = "A file is named where it is used: family='my_model.py'." if is_file_name(given) else "Make one: mc.rules.Family(...)."
        raise UsageError("MFC501", "family", found=f"a {type(given).__name__}", expected="a Family", hint=hint)
    check_family(family)
    taken = {name: f.key for f in built_in().values() for name in (f.key, *f.aliases)}
    mine = [name for name in (family.key, *family.aliases) if name in taken]
    if mine and not replace:
        found = f"{quote(mine[0])}, which is built in" + (f" (as {taken[mine[0]]})" if taken[mine[0]] != mine[0] else "")
        hint = "Choose another key, or say replace=True."
        raise UsageError("MFC501", "key", found=found, expected="a key of its own", hint=hint)
    _registered[family.key] = family
    return family


def family_named(key: str) -> Family:
    """The family of a key. Other packages are looked at only for keys that are neither built in nor registered. No file is run.

    Raises:
        MappingError: MFC301 with the nearest key; MFC313 or MFC311 where a package offers this key, but cannot keep it.
    """
    known = {name: f for families in (built_in(), _registered) for f in families.values() for name in (*f.aliases, f.key)}
    if key in known:
        return known[key]
    offered = offered_families()
    found = next((o for o in offered if key in (o.key, o.family.key if o.family else None)), None)
    if found is None:
        names = [*known, *(o.key for o in offered)]
        raise MappingError("MFC301", quote(key), found="an unknown key", expected=", ".join(sorted(names)), hint=did_you_mean(key, names))
    if found.family is None:
        raise found.refused or MappingError("MFC301", quote(key), found="no family", expected="a Family")
    return found.family


def window_of(config: Mapping[str, Any]) -> Window | None:
    """How the config of a model may limit attention to a window, by its ``model_type``. Any family may say so."""
    model_type = model_type_of(config)
    return next((f.windows[model_type] for f in _families_with_facts() if isinstance(model_type, str) and model_type in f.windows), None)


def run_classes() -> dict[str, RunClass]:
    """What MindFormers' classes take the keys of a run's YAML for, by the name of the class. Any family may say so of its own."""
    return {name: said for family in known_families() for name, said in family.run_classes.items()}


def conv1d_layers(model_type: object) -> tuple[str, ...]:
    """The names of the layers that transformers holds as Conv1D, in x out, in models of this type; none for most."""
    return next((f.conv1d[model_type] for f in _families_with_facts() if isinstance(model_type, str) and model_type in f.conv1d), ())


def _families_with_facts() -> list[Family]:
    """The known families, then all built-in ones: what transformers does stays true of a model whose built-in family was replaced."""
    return [*known_families(), *built_in().values()]


def family_meant(family: str | Path | Family) -> Family:
    """The family that the caller gives: a key, a file (a path, or a text that ends in ``.py``), or the family itself.

    Raises:
        MappingError: as ``family_named`` and ``family_in_file``.
    """
    if isinstance(family, Family):
        return family
    return family_in_file(family) if is_file_name(family) else family_named(str(family))


def family_remembered(key: str, file: str) -> Family:
    """The family that a manifest names. Its file is never run: a stranger may have written the manifest.

    Raises:
        MappingError: MFC301 with what is missing, and the ways to bring it.
    """
    try:
        return family_named(key)
    except MappingError as error:
        if error.code != "MFC301":
            raise
        found = f"a checkpoint that was converted with the family {quote(key)}" + (f", from the file {quote(file)}" if file else "")
        hint = f"Name the file again: --model {file} (family='{file}' in Python)." if _is_plain(file) else HINT_REMEMBERED
        raise MappingError("MFC301", quote(key), found=found, expected="a family of this key", hint=hint) from None


def _is_plain(file: str) -> bool:
    """Whether the name of a file, which a stranger may have written, can stand in a command line as it is."""
    return file.endswith(".py") and file.removesuffix(".py").replace("_", "").replace("-", "").isalnum()


def candidates_of(key: str) -> list[Family]:
    """The family of a key, and those that the key may stand for too: `qwen` is also Qwen2; the names decide."""
    family = family_named(key)
    return [family, *(family_named(other) for other in family.also)] if key == family.key else [family]


class NoFamilyFitsError(MappingError):
    """No family knows every name (MFC302). ``nearest``: those that know nearly all, and are equally near."""

    nearest: tuple[Family, ...] = ()


def identify(names: Iterable[str], config: Mapping[str, Any] | None, to: str) -> Family:
    """The one family whose rules know every name, whose own names are all there, and that lists what the config says of its model.

    If several fit, the class of the model (``architectures``) decides, where it names one of them. If the config has no ``model_type``,
    the names alone decide. A ``told_as`` family, the same model under other names of MindFormers, is a candidate only where no other knows
    every name and all of its own are there; where no family knows every name, if it knows more than the one it is usually taken for.

    Where a family lists the model type, it is given even if some names do not fit: the nearest, if several list it.

    Families of packages are candidates only if no built-in or registered family has the model type, or, without one, knows every name.

    Raises:
        NoFamilyFitsError: MFC302 when none fits, with the nearest.
        SeveralFitError: MFC302 when several fit.
        NotListedError: MFC302 when the names fit, but the config says another model: equal names are not equal mathematics.
    """
    names = list(names)
    templates, said = templates_of(names), config or {}
    model_type = model_type_of(said)
    by_type = [f for f in known_families() if model_type in listed_types(f)]
    if not by_type and model_type is not None:
        by_type = [f for f in installed_families() if model_type in listed_types(f)]
    candidates = _candidates(by_type, templates, to)
    nearest = min(c.distance for c in candidates)
    best = [c.family for c in candidates if c.distance == nearest]
    if len(best) > 1 and (by_type or not nearest.misfits):
        best = [f for f in best if is_named_in(f, said)] or best
    if not nearest.misfits and (otherwise := describe_unlisted(best[0], said, window_of(said))) is not None:
        raise _not_listed(best, otherwise, anybody=bool(by_type), whole=nearest.is_whole)
    if len(best) == 1 and (by_type or not nearest.misfits):
        return best[0]
    raise _none_fits(best, candidates, templates, names, to, model_type) if nearest.misfits else _several_fit(best)


@dataclass(frozen=True)
class Candidate:
    """A family that a checkpoint may be of, and how far the nearest of its forms is."""

    family: Family
    distance: Distance


def _candidates(by_type: Sequence[Family], templates: frozenset[str], to: str) -> list[Candidate]:
    """The families that a checkpoint may be of.

    Args:
        by_type: those that list its model type; empty where nobody does.
    """
    fitting = by_type or known_families()
    found = _measure([f for f in fitting if not f.told_as] or fitting, templates, to)
    least = min(c.distance for c in found)
    if not least.is_whole:  # names that the family they are usually taken for does not have, or not all of its own
        unknown = {c.family.key: c.distance.unknown for c in found}
        others = _measure([f for f in fitting if f.told_as and f.key not in unknown], templates, to)
        found += [c for c in others if c.distance.is_whole or (least.misfits and c.distance.unknown < unknown.get(c.family.told_as, 0))]
    if not by_type and min(c.distance for c in found).misfits:
        found += _measure([f for f in installed_families() if not f.told_as], templates, to)
    return found


def _measure(families: Iterable[Family], templates: frozenset[str], to: str) -> list[Candidate]:
    return [Candidate(f, min(distance_of(c.form, templates, to) for c in fitting_forms(f, templates, to, {}, {}))) for f in families]


def _not_listed(best: Sequence[Family], otherwise: str, *, anybody: bool, whole: bool) -> NotListedError:
    """The names are those of some families, and the config says another model.

    Args:
        otherwise: what it says.
        anybody: whether a family lists its model type.
        whole: whether the families have no name that is not there.
    """
    first, keys = best[0].key, " or ".join(f.key for f in best)
    listed = ", ".join(dict.fromkeys(t for f in best for t in listed_types(f))) or "none"
    names = f"its names fit {keys}" if whole else f"its names are some of those of {keys}"
    error = NotListedError(
        "MFC302",
        found=f"{otherwise}, which {first + ' does not list' if anybody else 'no family lists'}; {names}",
        expected=f"a model that a family lists; {keys}: model_type {listed}",
        hint=f"Equal names are not equal mathematics. If you know that it computes what {keys} computes, say so:"
        f" --model {keys} (family={first!r} in Python).",
    )
    error.choices = tuple({"model": f.key} for f in best)
    return error


HINT_WHICH = "Say which: --model KEY (family= in Python); `mfconv families` lists them."
MOST_NAMES = 4  # that a message shows


def _several_fit(several: Sequence[Family]) -> SeveralFitError:
    found = f"{len(several)} that fit: {', '.join(f.key for f in several)}"
    error = SeveralFitError("MFC302", found=found, expected="one family that knows every name", hint=HINT_WHICH)
    error.choices = tuple({"model": f.key} for f in several)
    return error


def _none_fits(
    best: Sequence[Family], candidates: Sequence[Candidate], templates: frozenset[str], names: Iterable[str], to: str, model_type: Any
) -> NoFamilyFitsError:
    """No family knows every name. Where some are near, which names stand in the way; else how many names the nearest know."""
    count = len(templates)
    told = "no model_type" if model_type is None else f"model_type {quote(str(model_type))}"
    if not _is_near(min(c.distance for c in candidates), count):
        few = sorted((c.distance.unknown, c.family.key) for c in candidates)[:3]
        known = "; ".join(f"{key} knows {count - n} of {how_many(count, 'name pattern')}" for n, key in few)
        return NoFamilyFitsError("MFC302", found=f"{told}; {known}", expected="one family that knows every name", hint=HINT_WHICH)
    found = f"{told}; nearest: {', '.join(f.key for f in best)}; {' and '.join(_misfits_of(best[0], templates, names, to))}"
    error = NoFamilyFitsError("MFC302", found=found, expected="one family that knows every name", hint=_hint_which(best, model_type))
    error.nearest = tuple(best)
    return error


def _hint_which(nearest: Sequence[Family], model_type: Any) -> str:
    """What to say of families that are equally near: the config tells them apart, if it is not there."""
    flags = " or ".join(f"--model {f.key}" for f in nearest)
    asked = f"Say which it is: {flags} (family={nearest[0].key!r} in Python)"
    if model_type is not None:
        return f"If you know better: {asked[0].lower()}{asked[1:]}."
    return f"{asked}, or give its config.json (--config, config= in Python)."


def _is_near(distance: Distance, count: int) -> bool:
    """Whether nearly all of ``count`` name patterns are those of a family: three of four."""
    return 4 * distance.names <= count


def _misfits_of(family: Family, templates: frozenset[str], names: Iterable[str], to: str) -> Iterator[str]:
    """The names that the nearest form of a family does not know, and those it needs and that are not there."""
    form = fitting_forms(family, templates, to, {}, {})[0].form
    unknown, absent = templates - form.templates(to), form.needed_templates(to) - templates
    strange = folded_names(n for n in names if fold(n)[0] in unknown)
    lacking = sorted({p.text for rule in form.rules for p in sides_of(rule, to)[0] if p.template in absent})
    are_absent = f"it needs and that {'is' if len(lacking) == 1 else 'are'} absent"
    for listed, meaning in ((strange, "it does not know"), (lacking, are_absent)):
        if listed:
            more = f" and {len(listed) - MOST_NAMES} more" if len(listed) > MOST_NAMES else ""
            yield f"{how_many(len(listed), 'name')} {meaning} ({', '.join(listed[:MOST_NAMES])}{more})"


def distance_to_nearest(names: Iterable[str], to: str) -> Distance:
    """How far some names are from those of the known family that is nearest."""
    return min(c.distance for c in _candidates((), templates_of(names), to))


def nearest_of(families: Sequence[Family], templates: frozenset[str], to: str) -> Family:
    """The family whose form is nearest to some name templates; the first among equals."""
    return min(_measure(families, templates, to), key=lambda c: (c.distance.misfits, c.distance.names)).family
