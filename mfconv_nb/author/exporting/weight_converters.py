"""A family as the `weight_converters` list that a model class of MindFormers declares: a text to paste. MindFormers is not needed.

Refuses every rule that their operations cannot do, or whose names their matching would give to another rule, all at once (MFC314).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.author.exporting.converter_ops import EQUAL_PARTS, EXPERTS, QKV_LAYOUTS, Op, lost_names, op_of
from mfconv_nb.author.exporting.exported import Files, Unsayable, form_words, refuse, rule_text
from mfconv_nb.author.family_text import Node, lay_out, node_of
from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.errors import MappingError, one_line
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.expected import is_expected
from mfconv_nb.mapping.rules import Drop, Family, Tied
from mfconv_nb.mapping.solve import directed_rule

WIDTH = 120  # of a line in MindFormers' own files
EXPECTED = "renames, and joins, splits and stacks as MindFormers' operations have them"


def converters_file(form: Family, file: Path, config: Mapping[str, Any] | None) -> Files:
    """The text of a `weight_converters` list.

    Args:
        config: the content of a config.json: rules that it does not promise are left out, and unequal parts get their sizes. Left out:
            every rule of the form, and the proportions of the family's toy.
    Raises:
        MappingError: MFC314 with every rule that cannot be said.
    """
    ops, notes = converters_of(form, config)
    head = f"{how_many(len(ops), 'operation')}. Paste the list into the model class in its utils.py."
    return {file: converters_text(form, ops, notes)}, (head, *notes)


def converters_of(form: Family, config: Mapping[str, Any] | None = None) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """The operations of a form, and notes for the reader.

    Raises:
        MappingError: MFC314 with every rule that cannot be said.
    """
    given = _sizes_of(form, config)
    proportions = given if config is not None else _sizes_of(form, form.toy)
    ops: list[Op] = []
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
            ops.append(op if config is not None else _without_guessed_sizes(op))
    if not unsayable:
        for op, name, _, taker in lost_names(ops, "hf"):
            unsayable.append(Unsayable(f"{', '.join(op.hf)} -> {', '.join(op.mf)}", f"{name} would go to {', '.join(taker.hf)}"))
    refuse(unsayable, form.key, EXPECTED)
    notes += [f"No way back: {op.name} to {op.mf[0]}: {op.one_way}." for op in ops if op.one_way]
    given_away = "their matching gives this name to the operation for"
    notes += [f"No way back: {name}: {given_away} {', '.join(taker.mf)}." for _, name, _, taker in lost_names(ops, "mf")]
    if config is None and any(op.name in QKV_LAYOUTS for op in ops):
        notes.append("q, k and v by group: kv_channels must be the head size, as config.json has it.")
    return tuple(ops), tuple(dict.fromkeys(notes))


def _sizes_of(form: Family, config: Mapping[str, Any] | None) -> dict[str, int]:
    """The sizes in a config; none where it lacks some."""
    if not config:
        return {}
    try:
        return read_sizes(config, form.sizes).values_by_axis
    except MappingError:
        return {}


def _without_guessed_sizes(op: Op) -> Op:
    """An operation without the toy's sizes: unequal parts have other sizes in a model."""
    if "split_sizes" not in op.more:
        return op
    return replace(op, more={k: v for k, v in op.more.items() if k != "split_sizes"}, one_way=EQUAL_PARTS)


# ---- the text ---------------------------------------------------------------------------------------------------------------


def converters_text(form: Family, ops: Sequence[Op], notes: Sequence[str]) -> str:
    """The list as a text that can be pasted into a model class."""
    classes = sorted({op.name for op in ops})
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
    lines = [f"from mindformers.checkpoint.converter.convert_op import {', '.join(classes)}"] if ops else []
    if ops and len(lines[0]) > WIDTH:
        lines = ["from mindformers.checkpoint.converter.convert_op import (", *(f"    {name}," for name in classes), ")"]
    listed: Node = ("[", [("", _op_node(op)) for op in ops], "]")
    return "\n".join([*head, "", *lines, "", lay_out(listed, before="weight_converters = ", width=WIDTH), ""])


def _op_node(op: Op) -> Node:
    names = {f"{side}_names": list(own) if len(own) > 1 else own[0] for side, own in (("hf", op.hf), ("mf", op.mf))}
    return f"{op.name}(", [(f"{keyword}=", node_of(value)) for keyword, value in {**names, **op.more}.items()], ")"
