"""export_weight_converters: a family as the `weight_converters` list that a model class of MindFormers declares, as a text to paste.

Refuses: every rule that their operations do not do, or that their way of matching names would give to another rule, all at once
(MFC314). Nothing is written then. MindFormers is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mfconv_nb.author.exporting.converter_ops import EXPERTS, Op, op_of
from mfconv_nb.author.exporting.exported import Exported, Unsayable, form_meant, form_words, refuse, rule_text, write_texts
from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.errors import MappingError, one_line
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.expected import is_expected
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Tied
from mfconv_nb.mapping.solve import directed_rule

WIDTH = 120  # of a line in MindFormers' own files
EXPECTED = "renames, and joins, splits and stacks as MindFormers' operations have them"
SAMPLES = (0, 3, 12)  # indices for which names are tried


def export_weight_converters(
    family: str | Path | Family,
    target: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **options: object,
) -> Exported:
    """Write one form of a family as the text of a `weight_converters` list.

    Args:
        family: a key, a file that defines ``FAMILY``, or a ``Family``.
        target: a text file, such as ``weight_converters.py``.
        config: the content of a config.json: rules that it does not promise are left out, and unequal parts get their sizes. Left out:
            every rule of the form, and the proportions of the family's toy.
        overwrite: replace a file of this name.
        options: what the family takes; left out, the defaults.
    Raises:
        MappingError: MFC314 with every rule that cannot be said; MFC301, MFC305. OutputError: MFC401, MFC404.
    """
    form = form_meant(family, options)
    ops, notes = converters_of(form, config)
    files = write_texts({local_path(target): converters_text(form, ops, notes)}, overwrite=overwrite)
    return Exported(form.key, files, (f"{how_many(len(ops), 'operation')}. Paste the list into the model class in its utils.py.", *notes))


def converters_of(form: Family, config: Mapping[str, Any] | None = None) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """The operations of a form, and what a reader must know of them.

    Raises:
        MappingError: MFC314 with every rule that cannot be said.
    """
    given = _sizes_of(form, config)
    proportions = given if config is not None else _sizes_of(form, form.toy)
    ops: dict[AnyRule, Op] = {}
    unsayable: list[Unsayable] = []
    notes: list[str] = []
    for rule in form.rules:
        if isinstance(rule, Drop):
            notes += [f"{rule.pattern} has no operation: {rule.why}."] if rule.side == "hf" else []
            continue
        directed = directed_rule(rule, MF)
        where = rule_text(directed)
        if isinstance(rule, Tied):
            if given.get(rule.only_if):
                unsayable.append(Unsayable(where, "an operation that writes one tensor twice: the config ties the head to the embedding"))
                continue
            notes.append(f"{rule.hf} is not made from {rule.same_as} where a checkpoint ties them: it must be in the checkpoint.")
        elif config is not None and getattr(rule, "only_if", None) and not is_expected(rule, given, MF):
            continue
        op = op_of(directed, proportions if config is None else given)
        if isinstance(op, str):
            unsayable.append(Unsayable(where, op))
        else:
            ops[rule] = _without_guessed_sizes(op) if config is None else op
    unsayable += [] if unsayable else _taken_by_others(ops)
    refuse(unsayable, form.key, EXPECTED)
    found = tuple(ops.values())
    notes += [f"No way back: {op.name} to {op.mf[0]}: {op.one_way}." for op in found if op.one_way]
    notes += [f"No way back: {name}: {why}." for name, why in _lost_on_the_way_back(found)]
    if config is None and any(op.name.startswith("QKV") for op in found):
        notes.append("q, k and v by group: kv_channels must be the head size, as config.json has it.")
    return found, tuple(dict.fromkeys(notes))


def _sizes_of(form: Family, config: Mapping[str, Any] | None) -> dict[str, int]:
    """The sizes that a config tells; none where it lacks some."""
    if not config:
        return {}
    try:
        return read_sizes(config, form.sizes).values_by_axis
    except MappingError:
        return {}


def _without_guessed_sizes(op: Op) -> Op:
    """An operation without the sizes of the toy: parts that are unequal there have other sizes in a model."""
    if "split_sizes" not in op.more:
        return op
    more = {k: v for k, v in op.more.items() if k != "split_sizes"}
    return Op(op.name, op.hf, op.mf, more, "it cuts into equal parts, unless split_sizes says their sizes (config=... writes them)")


# ---- their way of matching ------------------------------------------------------------------------------------------------


def _taken_by_others(ops: Mapping[AnyRule, Op]) -> list[Unsayable]:
    """Rules whose names their matching, which does not look at the end of a name, would give to another one."""
    by_name = {name: op for op in ops.values() for name in op.hf}
    found = []
    for op in ops.values():
        for name in op.hf:
            taker = next((t for sample in _filled(name) if (t := op_for(sample, by_name)) is not op), None)
            if taker is not None:
                found.append(Unsayable(f"{', '.join(op.hf)} -> {', '.join(op.mf)}", f"{name} would go to {', '.join(taker.hf)}"))
                break
    return found


def _lost_on_the_way_back(ops: Sequence[Op]) -> Iterator[tuple[str, str]]:
    by_name = {name: op for op in ops for name in op.mf}
    for op in ops:
        for name in op.mf:
            taker = next((t for sample in _filled(name) if (t := op_for(sample, by_name)) is not op), None)
            if taker is not None:
                yield name, f"their matching gives this name to the operation for {', '.join(taker.mf)}"


def _filled(name: str) -> Iterable[str]:
    return [name.replace("{}", str(index)) for index in SAMPLES]


def op_for(name: str, by_name: Mapping[str, Op]) -> Op | None:
    """The operation that their template takes for a name: an equal name, else the longest pattern that it begins with."""
    if name in by_name:
        return by_name[name]
    for pattern in sorted(by_name, key=len, reverse=True):
        if re.match(pattern.replace(".", r"\.").replace("{}", "(.*)"), name):
            return by_name[pattern]
    return None


# ---- the text ---------------------------------------------------------------------------------------------------------------


def converters_text(form: Family, ops: Sequence[Op], notes: Sequence[str]) -> str:
    """The list as a text that can be pasted into a model class."""
    classes = ", ".join(sorted({op.name for op in ops}))
    head = [
        f"# {one_line(form.covers)}: from Hugging Face to MindFormers. Form: {form_words(form)}.",
        f"# Written by `mfconv export {one_line(form.key)} --to weight_converters`, for mindformers 2.1.0 (convert_op.py).",
        *(f"# {one_line(note)}" for note in notes),
    ]
    if any(op.name == EXPERTS for op in ops):
        head.append("# ExpertsConvertOp expects the experts of a layer stacked, as MindFormers' loading does before it.")
    head += (
        ["# Every operation has a way back, except where a line above says otherwise."] if any("No way back" in n for n in notes) else []
    )
    lines = [f"from mindformers.checkpoint.converter.convert_op import {classes}"] if ops else []
    if ops and len(lines[0]) > WIDTH:
        names = sorted({op.name for op in ops})
        lines = ["from mindformers.checkpoint.converter.convert_op import (", *(f"    {name}," for name in names), ")"]
    return "\n".join([*head, "", *lines, "", "weight_converters = [", *(_op_text(op) for op in ops), "]", ""])


def _op_text(op: Op) -> str:
    arguments = [f"hf_names={_names_text(op.hf)}", f"mf_names={_names_text(op.mf)}", *(f"{k}={v}" for k, v in op.more.items())]
    line = f"    {op.name}({', '.join(arguments)}),"
    if len(line) <= WIDTH and len(op.hf) == len(op.mf) == 1:
        return line
    return "\n".join([f"    {op.name}(", *(f"        {a}," for a in arguments), "    ),"])


def _names_text(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f'"{names[0]}"'
    return "\n".join(["[", *(f'            "{name}",' for name in names), "        ]"])
