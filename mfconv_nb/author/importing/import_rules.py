"""import_rules: the rules of another tool as drafts, with a lint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.author.exporting.export import is_list_of_names
from mfconv_nb.author.importing.drafts import (
    MAPPING,
    TRANSFORMERS,
    Context,
    check_form,
    rules_in_pairs,
    rules_in_text,
    rules_of_transforms,
)
from mfconv_nb.author.importing.imported import ImportedRules
from mfconv_nb.author.importing.reader_faults import Stored
from mfconv_nb.author.importing.rule_texts import unreadable
from mfconv_nb.author.importing.transformers_rules import read_registered_transforms
from mfconv_nb.author.importing.troubleshooter import MAX_JSON
from mfconv_nb.author.importing.weight_mapping import pairs_from
from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import InputError, UsageError, quote, to_one_line
from mfconv_nb.core.paths import local_path
from mfconv_nb.steps.loading.caller_facts import GivenConfig, read_caller_facts
from mfconv_nb.steps.loading.codes import tensors_as_stored
from mfconv_nb.steps.loading.load import Loadable, load

_MODEL_TYPE = re.compile(r"[A-Za-z0-9_]+")


def import_rules(
    source: str | Path | Sequence[tuple[str, str]],
    *,
    form: str | None = None,
    names: Loadable | Sequence[str] | None = None,
    config: GivenConfig = None,
) -> ImportedRules:
    """Read the rules of another tool as drafts, and say what is wrong with them. Runs no text, and imports nothing that it names.

    - ``"weight_converters"``: the list that a model class of MindFormers declares, in a Python text (its `utils.py`).
    - ``"weight_mapping"``: the pairs of texts of static inference. Their result depends on their order, so ``names`` are needed.
    - ``"transformers"``: a Python text with `WeightRenaming` and `WeightConverter`, or a model type such as ``"mixtral"``, whose mapping
      the installed transformers has. Most of these patterns are parts of names, so ``names`` are needed.
    - ``"troubleshooter"``: TroubleShooter's weight map, a JSON.

    Args:
        source: a file, a text, a model type, or pairs of texts.
        form: one of the above; left out, the content decides. A model type needs ``form="transformers"``.
        names: a checkpoint of the side that the rules read (anything ``load`` takes), or its names. For `weight_converters` the headers
            of a folder also tell what MindFormers' reader would do wrong with it: ``.faults``.
        config: a config.json, its folder, or its content: sizes are read from it. Left out: that of ``names``, if it has one.
    Returns:
        The drafted rules, each with the line it came from, and the findings. ``.family("mine")`` is a family for ``mc.map``.
    Raises:
        MappingError: MFC315 for a text that cannot be read. UsageError: MFC501. InputError: MFC1xx.
    """
    check_form(form)
    given = _read_given(names, config)
    pairs = pairs_from(source)
    if pairs is not None and form in (None, MAPPING):
        return rules_in_pairs(pairs, is_set=isinstance(source, set | frozenset), given=given)
    if not isinstance(source, str | Path):
        expected = "a file, a text, a model type, or pairs of texts"
        hint = "A path or a text can always be read."
        raise UsageError("MFC501", "source", found=f"a {type(source).__name__}", expected=expected, hint=hint)
    if form == TRANSFORMERS and isinstance(source, str) and _MODEL_TYPE.fullmatch(source) and not Path(source).is_file():
        return _import_model_type(source, given)
    text, where = _read_text(source)
    return rules_in_text(text, where, form, given)


def _read_given(names: Any, config: Any) -> Context:
    content = read_caller_facts(config).config
    if names is None:
        return Context((), None, content)
    if is_list_of_names(names):
        return Context(tuple(dict.fromkeys(names)), None, content)
    checkpoint = load(names)
    stored = tuple(Stored(t.name, t.shape, t.dtype, _file_of(t)) for t in tensors_as_stored(checkpoint))
    in_files = stored if all(tensor.file for tensor in stored) else ()  # a live model has no files that their reader could read
    given = Context(tuple(t.name for t in stored), {t.name: t.shape for t in stored}, content, in_files)
    return replace(given, config=checkpoint.config) if content is None else given


def _file_of(tensor: LazyTensor) -> str:
    """The name of the file that a tensor lies in; empty where it lies in none."""
    path = getattr(tensor.pieces[0].source, "path", None) if tensor.pieces else None
    return Path(path).name if path is not None else ""


def _import_model_type(model_type: str, given: Context) -> ImportedRules:
    try:
        mapping = read_registered_transforms(model_type)
    except ImportError as error:
        found, expected = to_one_line(str(error))[:200], "transformers, to look up a model type"
        raise UsageError("MFC501", "form", found=found, expected=expected, hint="pip install transformers") from None
    if mapping is None:
        expected = "a model type that transformers has a conversion mapping for"
        hint = "Models that keep their names have none. A Python text with a list of WeightRenaming can be read too."
        raise UsageError("MFC501", "source", found=quote(model_type), expected=expected, hint=hint)
    transforms, version = mapping
    return rules_of_transforms(transforms, f"transformers {version}, {model_type}", given)


def _read_text(source: str | Path) -> tuple[str, str]:
    """A text, and its name in messages. Anything with a bracket or a line break is the text itself; else it is a file."""
    if isinstance(source, str) and re.search(r"[\n(\[{]", source) and not _is_file(source):
        return source, "the text"
    try:
        path = local_path(source)
        if path.stat().st_size > MAX_JSON:
            raise unreadable(path, f"a file of {path.stat().st_size:,} bytes", f"at most {MAX_JSON:,}")
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError as error:
        raise unreadable(source, f"no text: byte {error.start:,} is not UTF-8", "a Python text or JSON") from None
    except (OSError, ValueError, RuntimeError) as error:  # a name with a null byte; no such user, in `~name`
        found = getattr(error, "strerror", None) or to_one_line(str(error))
        raise InputError("MFC101", source, found=found, expected="a file with rules") from None


def _is_file(source: str) -> bool:
    try:
        return Path(source).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no such user, in `~name`
        return False
