"""export: write a family in the form of another tool, as files that run without this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfconv_nb.author.exporting.exported import Exported, resolve_form
from mfconv_nb.author.exporting.mindformers import mindformers_files
from mfconv_nb.author.exporting.troubleshooter import weight_map_file
from mfconv_nb.author.exporting.weight_converters import converters_file
from mfconv_nb.author.family_text import write_texts
from mfconv_nb.core.errors import UsageError, did_you_mean, quote
from mfconv_nb.core.paths import local_path
from mfconv_nb.mapping.rules import Family
from mfconv_nb.steps.loading.caller_facts import GivenConfig, read_caller_facts
from mfconv_nb.steps.loading.load import Loadable, load

HINT_FORM = "Give --to mindformers for files that MindFormers runs (to='mindformers' in Python)."
FORMS = ("mindformers", "weight_converters", "troubleshooter")


def export(
    family: str | Path | Family,
    target: str | Path,
    *,
    to: str,
    names: Loadable | Sequence[str] | None = None,
    config: GivenConfig = None,
    overwrite: bool = False,
    **options: object,
) -> Exported:
    """Write one form of a family in the format of another tool.

    - ``to="mindformers"``: a folder with `convert_weight.py`, `convert_reversed.py` and a README, MindFormers' extension form.
    - ``to="weight_converters"``: a text with the `weight_converters` list of a MindFormers model class.
    - ``to="troubleshooter"``: TroubleShooter's weight map, a JSON that lists every name.

    Args:
        family: a key, a file that defines ``FAMILY``, or a ``Family``.
        target: the folder or the file to write.
        names: for a weight map: the checkpoint to be converted (anything ``load`` takes), or its names.
        config: a config.json, its folder, or its content. A weight map lists the names that it promises. `weight_converters` gets the sizes
            of unequal parts, and leaves out rules that it does not promise.
        overwrite: replace files of these names.
        options: what the family takes, such as ``qkv_concat=False``; left out, the defaults.
    Raises:
        MappingError: MFC314 with every rule that the format cannot say; MFC301, MFC303, MFC305. OutputError: MFC401, MFC404.
        UsageError: MFC501 for another format, or an argument that the format does not take.
    """
    if to not in FORMS:
        hint = did_you_mean(str(to), FORMS) or HINT_FORM
        raise UsageError("MFC501", "to", found=quote(str(to)), expected=f"one of {', '.join(FORMS)}", hint=hint)
    unused = {"names": names if to != "troubleshooter" else None, "config": config if to == "mindformers" else None}
    for argument, value in unused.items():
        if value is not None:
            found, hint = f"given with to={to!r}", "Leave it out."
            raise UsageError("MFC501", argument, found=found, expected="nothing: this form does not depend on it", hint=hint)
    content = read_caller_facts(config).config
    form, path = resolve_form(family, options), local_path(target)
    if to == "mindformers":
        texts, notes = mindformers_files(form, path)
    elif to == "weight_converters":
        texts, notes = converters_file(form, path, content)
    else:
        texts, notes = weight_map_file(form, path, names_in(names), content)
    return Exported(form.key, write_texts(texts, overwrite=overwrite, make_folders=True), notes)


def names_in(thing: Loadable | Sequence[str] | None) -> Sequence[str] | None:
    """The names of a checkpoint, or a list of names as it is. A list of files that exist is a checkpoint."""
    if thing is None:
        return None
    if is_list_of_names(thing):
        return list(thing)
    return [tensor.name for tensor in load(thing)]


def is_list_of_names(thing: Any) -> bool:
    """Whether this is a list of names, not of files."""
    is_list = isinstance(thing, list | tuple | set | frozenset) and bool(thing)
    return is_list and all(isinstance(name, str) and not _is_there(name) for name in thing)


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # longer than a file name may be; a null byte
        return False
