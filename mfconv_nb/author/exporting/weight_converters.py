"""A family as the `weight_converters` list that a model class of MindFormers declares: a text to paste. MindFormers is not needed.

For networks that their loader reads from a Hugging Face folder, the text brings operations of ours where theirs lack one
(`converter_program.py`), with functions made of the layout sentences.
Refuses every rule that no operation can do, or whose names their matching would give to another rule, all at once (MFC314); and a list
that holds numbers of a config, without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfconv_nb.author.exporting.converter_ops import (
    EACH_EXPERT,
    EQUAL_PARTS,
    EXPERTS,
    FIXED_DTYPE,
    LAYOUT,
    OWN_CLASSES,
    QKV_LAYOUTS,
    SAMPLES,
    Op,
    is_loaded_by_template,
    lost_names,
    op_of,
)
from mfconv_nb.author.exporting.exported import Files, Unsayable, form_words, refuse, rule_text
from mfconv_nb.author.exporting.mindformers import function_name
from mfconv_nb.author.exporting.mindformers_layouts import Sentence, function_text
from mfconv_nb.author.exporting.program_text import classes_text
from mfconv_nb.author.family_text import Code, Node, lay_out, node_of
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import MappingError, UsageError, to_one_line
from mfconv_nb.core.layout import axis_names, parse_layout
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.expected import is_expected
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Repeated, Tied, numbered_rules, numbers_of
from mfconv_nb.mapping.solve import directed_rule, structural_sizes

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
    with_own = is_loaded_by_template(form)
    ops: list[Op] = []
    unsayable: list[Unsayable] = []
    notes: list[str] = []
    samples = [n for n in SAMPLES if n not in [given.get(axis) for rule in form.rules for axis in numbers_of(rule)]]
    for rule in _numbers_first(form, config) if with_own else form.rules:
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
        if isinstance(rule, Repeated):
            notes += [f"{name} has no operation: a copy that some checkpoints have; MindFormers only logs it." for name in rule.may_be]
        op = op_of(directed, proportions if config is None else given, with_own=with_own)
        if isinstance(op, Op) and op.name == LAYOUT:
            op = _with_functions(op, rule, _needed_sizes(form, config, where), ops)
        if isinstance(op, str):
            unsayable.append(Unsayable(where, op))
        else:
            ops.append(op if config is not None else _without_guessed_sizes(op))
    if not unsayable:
        for op, name, _, taker in lost_names(ops, "hf", samples):
            unsayable.append(Unsayable(f"{', '.join(op.hf)} -> {', '.join(op.mf)}", f"{name} would go to {', '.join(taker.hf)}"))
    refuse(unsayable, form.key, EXPECTED)
    notes += [f"No way back: {op.name} to {op.mf[0]}: {op.one_way}." for op in ops if op.one_way]
    given_away = "their matching gives this name to the operation for"
    notes += [f"No way back: {name}: {given_away} {', '.join(taker.mf)}." for _, name, _, taker in lost_names(ops, "mf", samples)]
    if config is None and any(op.name in QKV_LAYOUTS for op in ops):
        notes.append("q, k and v by group: kv_channels must be the head size, as config.json has it.")
    return tuple(ops), (*dict.fromkeys(notes), *_notes_of_classes(ops))


def _numbers_first(form: Family, config: Mapping[str, Any] | None) -> list[AnyRule]:
    """The rules with the numbers of the config in their names, those that have some first: their loader takes the first that fits."""
    numbered = [rule for rule in form.rules if numbers_of(rule)]
    sizes = _needed_sizes(form, config, "a number of the config in the name of a layer") if numbered else {}
    return [rule for rule, _ in sorted(numbered_rules(form.rules, sizes), key=lambda each: not each[1])]


def _needed_sizes(form: Family, config: Mapping[str, Any] | None, why: str) -> dict[str, int]:
    """The sizes of a config that the list cannot do without.

    Raises:
        UsageError: MFC501 where there is no config. MappingError: MFC107 where it lacks some.
    """
    if config is None:
        hint = "Give the folder of the model, or its config.json: --config HF_DIR (config='HF_DIR' in Python)."
        raise UsageError("MFC501", "config", found="none", expected=f"one: the list of this form holds sizes, for {why}", hint=hint)
    return read_sizes(config, form.sizes).values_by_axis


def _with_functions(op: Op, rule: AnyRule, sizes: Mapping[str, int], ops: Sequence[Op]) -> Op | str:
    """An operation of ours with the functions of its layout, towards MindFormers and back; or what it lacks, in words."""
    constants, same = structural_sizes(rule)
    known = {**sizes, **{axis: sizes[equal] for axis, equal in same.items() if equal in sizes}, **constants}
    layout = str(getattr(rule, "layout", ""))
    sentence = parse_layout(layout)
    axes = axis_names(e for side in (sentence.left, sentence.right) for tensor in side for e in tensor)
    own = {axis: known[axis] for axis in sorted(axes) if axis in known}
    alike = [each.functions for each in ops if each.more.get("layout") == layout]
    taken = [name_in(text) for each in ops for text in each.functions]
    try:
        functions = alike[0] if alike else tuple(_function_texts(rule, own, layout, taken))
    except MappingError as error:
        return f"an operation whose sizes are known: {error.found}"
    return replace(op, more={"layout": layout, "sizes": list(own.items())}, functions=functions)


def _function_texts(rule: AnyRule, sizes: Mapping[str, int], layout: str, taken: list[str]) -> Iterator[str]:
    for to, side in ((MF, "MindFormers"), (HF, "Hugging Face")):
        directed = directed_rule(rule, to)
        assert directed.layouts is not None
        name = function_name(directed, taken)
        taken.append(name)
        yield function_text(name, Sentence(*directed.layouts, {}, {}, frozenset(sizes)), f"{layout}: towards {side}.")


def name_in(function: str) -> str:
    """The name of a function, from its text."""
    return function.removeprefix("def ").partition("(")[0]


def _notes_of_classes(ops: Sequence[Op]) -> list[str]:
    """What a reader should know of operations that are not MindFormers' own."""
    names = {op.name for op in ops}
    own = [name for name in OWN_CLASSES if name in names]
    notes = [f"With operations of this file, for what MindFormers' own cannot do: {', '.join(own)}."] if own else []
    if LAYOUT in names:
        notes.append(f"{LAYOUT} holds the sizes of one config, and takes whole tensors: no tensor parallel, no sharded optimizer.")
    if any(op.name == EACH_EXPERT and "axes" not in op.more for op in ops):
        notes.append("MindFormers' loader makes three axes of stacked experts before the list is asked: same bytes, three axes.")
    if FIXED_DTYPE in names:
        notes.append(f"{FIXED_DTYPE}: on the way back the tensor keeps float32.")
    if names & {EXPERTS, *QKV_LAYOUTS}:
        notes.append("The way back of QKVConvertOp and ExpertsConvertOp outside of a parallel run: set their optimizer_parallel_size to 1.")
    return notes


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
    functions = tuple(dict.fromkeys(text for op in ops for text in op.functions))
    layouts = {op.more["layout"]: tuple(Code(name_in(text)) for text in op.functions) for op in ops if op.functions}
    imports, statements = classes_text({op.name for op in ops}, node_of(layouts), functions)
    imports["mindformers.checkpoint.converter.convert_op"] = sorted(
        {*imports["mindformers.checkpoint.converter.convert_op"], *(op.name for op in ops if op.name not in OWN_CLASSES)}
    )
    head = [
        f"# {to_one_line(form.covers)}: from Hugging Face to MindFormers. Form: {form_words(form)}.",
        f"# Written by `mfconv export {to_one_line(form.key)} --to weight_converters`, for mindformers 2.1.0 (convert_op.py).",
        *(f"# {to_one_line(note)}" for note in notes),
    ]
    if any(op.name == EXPERTS for op in ops):
        head.append("# ExpertsConvertOp expects the experts of a layer stacked, as MindFormers' loading does before it.")
    head += (
        ["# Every operation has a way back, except where a line above says otherwise."] if any("No way back" in n for n in notes) else []
    )
    lines = [line for module, names in imports.items() for line in _import_lines(module, names)]
    blocks = ["\n".join(lines)] if lines else []
    blocks += ["\n\n\n".join(["", *functions, *statements, ""])] if functions or statements else []
    listed: Node = ("[", [("", _op_node(op)) for op in ops], "]")
    return "\n".join([*head, "", *blocks, "", lay_out(listed, before="weight_converters = ", width=WIDTH), ""])


def _import_lines(module: str, names: Sequence[str]) -> list[str]:
    """The lines that import some names of a module, or some modules."""
    if not module or not names:
        return [f"import {name}" for name in names]
    line = f"from {module} import {', '.join(names)}"
    return [line] if len(line) <= WIDTH else [f"from {module} import (", *(f"    {name}," for name in names), ")"]


def _op_node(op: Op) -> Node:
    names = {f"{side}_names": list(own) if len(own) > 1 else own[0] for side, own in (("hf", op.hf), ("mf", op.mf))}
    return f"{op.name}(", [(f"{keyword}=", node_of(value)) for keyword, value in {**names, **op.more}.items()], ")"
