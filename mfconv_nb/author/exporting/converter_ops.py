"""MindFormers' conversion operations: the layout sentence of each, the names that each takes, and the one that does what a rule says.

For networks that MindFormers' loader reads from a Hugging Face folder, an operation of `converter_program.py` does what theirs cannot.
Refuses a rule that no operation does, and says what is missing. Pure; MindFormers is not imported.
Source: mindformers 2.1.0, ``checkpoint/converter`` (`convert_op.py`, `template.py`). They read sizes from the model's config when they run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mfconv_nb.core.layout import Axis, Expression, Product, Sum, parse_layout, shape_of
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import Family, Repeated, Rule, is_needed
from mfconv_nb.mapping.solve import Directed, structural_sizes

RENAME, CONCAT, STACK, QKV, QKV_BIAS, EXPERTS, SCALE_SPLIT = (
    "RenameConvertOp",
    "ConcatConvertOp",
    "StackConvertOp",
    "QKVConvertOp",
    "QKVBiasConvertOp",
    "ExpertsConvertOp",
    "ScaleSplitConvertOp",
)
LAYOUT, EACH_EXPERT, COPIES, FIXED_DTYPE = "LayoutConvertOp", "EachExpertConvertOp", "CopiesConvertOp", "FixedDtypeConvertOp"
OWN_CLASSES = (LAYOUT, EACH_EXPERT, COPIES, FIXED_DTYPE)  # of converter_program.py
NUMPY_DTYPES = {"F32": "float32", "F16": "float16", "F64": "float64"}
QKV_LAYOUTS = {
    QKV: "(groups group_q) hidden, (groups group_k) hidden, (groups group_v) hidden -> (groups (group_q + group_k + group_v)) hidden",
    QKV_BIAS: "(groups group_q), (groups group_k), (groups group_v) -> (groups (group_q + group_k + group_v))",
}
EXPERTS_LAYOUTS = {  # by the number of names; "{each}" is "expert " for experts that are stacked already
    1: "{each}hidden ffn -> (expert ffn) hidden",
    2: "{each}gate hidden, {each}up hidden -> (expert hidden) (gate + up)",
}
STACKED_LAYOUTS = {  # three axes, as the dynamic graph has them, by the number of names
    1: "hidden ffn -> expert ffn hidden",
    2: "gate hidden, up hidden -> expert hidden (gate + up)",
}
EQUAL_PARTS = "it cuts into equal parts, unless split_sizes says their sizes (config=... writes them)"
SAMPLES = (0, 3, 12)  # indices for which names are tried
_PLACEHOLDER = re.compile(r"\{[a-z_][a-z0-9_]*\}")
OF_ONE_LAYER = re.compile(r"\(\?=([0-9]+)\.\)\{\}")  # a {} that takes this number alone: their names are regular expressions
_FIRST_NUMBER = re.compile(r"(?<=\.)([0-9]+)(?=\.)")
_QKV_NAMES = ("q_proj", "k_proj", "v_proj")
_PLAIN = re.compile(r"[A-Za-z0-9_.{}/-]*")  # their names become regular expressions, in which only the dot is escaped


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of MindFormers.

    Attributes:
        name: its class.
        hf, mf: its tensor names, with ``{}`` for an index.
        more: its other arguments.
        one_way: why it has no way back; empty where it has one.
        line: where it stands in a text.
        functions: texts of the functions that carry out its layout, towards MindFormers and back.
    """

    name: str
    hf: tuple[str, ...]
    mf: tuple[str, ...]
    more: Mapping[str, Any] = field(default_factory=dict)
    one_way: str = ""
    line: int = 0
    functions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.hf)} -> {', '.join(self.mf)})"


# ---- what they do ----------------------------------------------------------------------------------------------------------


def concat_layout(parts: Sequence[str], axes: int, dim: int, *, interleaved: bool) -> str:
    """Tensors joined along one of their axes, end to end or in turns."""
    others = {1: [], 2: ["hidden" if dim == 0 else "out"]}.get(axes) or [f"axis_{n}" for n in range(axes - 1)]
    each, joined = ("(ffn {})", "(ffn ({}))") if interleaved else ("{}", "({})")
    sources = [" ".join([*others[:dim], each.format(part), *others[dim:]]) for part in parts]
    target = " ".join([*others[:dim], joined.format(" + ".join(parts)), *others[dim:]])
    return f"{', '.join(sources)} -> {target}"


def stack_layout(parts: Sequence[str], axes: int, dim: int) -> str:
    """Tensors stacked along a new axis; each part has one row."""
    names = [f"axis_{n}" for n in range(axes)]
    sources = [" ".join([f"({part} {names[0]})", *names[1:]]) for part in parts]
    target = " ".join([*names[:dim], f"({' + '.join(parts)})", *names[dim:]])
    return f"{', '.join(sources)} -> {target}"


def split_layout(parts: Sequence[str], axes: int) -> str:
    """A tensor cut along its first axis; each part has one row."""
    rest = "".join(f" axis_{n}" for n in range(1, axes))
    return f"({' + '.join(parts)}){rest} -> {', '.join(part + rest for part in parts)}"


# ---- which of them takes a name ----------------------------------------------------------------------------------------------


def their_name(pattern: Pattern) -> str:
    """A pattern as MindFormers writes it, with ``{}`` for each placeholder."""
    return _PLACEHOLDER.sub("{}", pattern.text)


def takes(pattern: str, name: str) -> bool:
    """Whether a pattern takes a name as in MindFormers: ``{}`` is anything, and anything may follow."""
    first, *rest = OF_ONE_LAYER.sub(r"\1", pattern).split("{}")
    if not name.startswith(first):
        return False
    at = len(first)
    for text in rest:
        at = name.find(text, at)
        if at < 0:
            return False
        at += len(text)
    return True


def lost_names(ops: Sequence[Op], side: str, samples: Sequence[int] = SAMPLES) -> Iterator[tuple[Op, str, str, Op]]:
    """Names that MindFormers gives to another operation: the operation, its name, an example, the operation that takes it.

    ``samples`` are the indices of the examples: none of a layer that other operations are for.
    Its template looks for an equal name first, then for the longest pattern; of two equal ones the last counts.
    """
    by_name: dict[str, Op] = {name: op for op in ops for name in getattr(op, side)}
    longest_first = sorted(by_name, key=len, reverse=True)
    for op in ops:
        for name in getattr(op, side):
            plain = OF_ONE_LAYER.sub(r"\1", name)
            for sample in dict.fromkeys(plain.replace("{}", str(index)) for index in samples):
                taker = by_name.get(sample) or next((by_name[p] for p in longest_first if takes(p, sample)), op)
                if taker is not op:
                    yield op, name, sample, taker
                    break


# ---- which of them does what a rule says -------------------------------------------------------------------------------------


def is_loaded_by_template(form: Family) -> bool:
    """Whether MindFormers' own loader could read a network of this form from a Hugging Face folder, with a list of ours."""
    rules = [rule for rule in form.rules if isinstance(rule, Rule | Repeated)]
    return any(name.startswith("decoder.layers.") for rule in rules for name in ((rule.mf,) if isinstance(rule.mf, str) else rule.mf))


def op_of(directed: Directed, sizes: Mapping[str, int], *, with_own: bool = False) -> Op | str:
    """The operation that does what a rule does from Hugging Face to MindFormers, or in words the operation that is missing.

    Args:
        directed: the rule, read towards MindFormers.
        sizes: the sizes of axes, from a config; they decide only about parts of unequal size and the proportions of q, k and v.
        with_own: where theirs lack one, or their loader stops at it, take one of ours.
    """
    rule = directed.rule
    lacking = _why_no_names(directed, with_own)
    if lacking:
        return lacking
    if isinstance(rule, Repeated):
        needed = tuple(their_name(p) for place, p in enumerate(directed.source) if is_needed(rule, place))
        return Op(COPIES if len(needed) > 1 else RENAME, needed, tuple(map(their_name, directed.target)))
    own = {p for names in directed.own for p in names}
    if own:
        return _experts_op(directed, own, with_own)
    op = _op_on_whole(directed, sizes)
    if isinstance(rule, Rule) and rule.dtype:
        is_renamed = isinstance(op, Op) and op.name == RENAME and rule.dtype in NUMPY_DTYPES
        return _op(FIXED_DTYPE, directed, {"dtype": NUMPY_DTYPES[rule.dtype]}) if is_renamed else "a dtype of its own for joined tensors"
    return _op(LAYOUT, directed) if with_own and directed.layouts is not None and _is_not_theirs(op) else op


def _op_on_whole(directed: Directed, sizes: Mapping[str, int]) -> Op | str:
    """Their operation on tensors that are whole on both sides."""
    if len(directed.source) == len(directed.target) == 1:
        if directed.layouts is None or directed.layouts[0] == directed.layouts[1]:
            return _op(RENAME, directed)
        return "an operation that transposes, reorders or reshapes one tensor"
    return _joining_op(directed, sizes) if len(directed.target) == 1 else _split_op(directed)


def _is_not_theirs(op: Op | str) -> bool:
    """Whether MindFormers has no such operation, or its loader does not run it.

    Its loader joins q_proj, k_proj and v_proj by group before the list is asked, in every layer that has a number, and stops at others.
    """
    if isinstance(op, str):
        return True
    by_group = op.name == QKV and "{}" in op.hf[0]
    return not by_group and any(word in name for name in op.hf for word in _QKV_NAMES)


def _op(name: str, directed: Directed, more: Mapping[str, Any] | None = None, one_way: str = "") -> Op:
    hf, mf = (tuple(map(their_name, patterns)) for patterns in (directed.source, directed.target))
    return Op(name, hf, mf, more or {}, one_way)


def _why_no_names(directed: Directed, with_own: bool) -> str:
    """Why their names cannot say a rule; empty where they can."""
    rule = directed.rule
    if isinstance(rule, Repeated) and (not with_own or any(directed.own)):
        return "an operation that keeps one of several equal tensors"
    if isinstance(rule, Rule) and rule.dtype and not with_own:
        return f"a dtype of its own ({rule.dtype}): their operations keep the dtype"
    if any("qkv" in p.text for p in directed.source):
        return "a way for a Hugging Face name with 'qkv' in it: their template hands such a tensor on as it is"
    if not all(_PLAIN.fullmatch(p.text) for p in (*directed.source, *directed.target)):
        return "names of letters, digits, '_', '-' and '.' only: theirs are regular expressions"
    orders = [_ordered_placeholders(p) for p in (*directed.source, *directed.target)]
    shared = tuple(p for p in orders[-1] if p in directed.loops)
    if any(tuple(p for p in each if p in directed.loops) != shared or len(set(each)) != len(each) for each in orders):
        return "placeholders in the same order in every name, each once: their indices are filled in by position"
    if len(directed.source) + len(directed.target) > 2 and len(shared) > 1:
        return "an operation on several tensors whose names have two indices: they collect by the first one"
    return ""


def _ordered_placeholders(pattern: Pattern) -> tuple[str, ...]:
    """The placeholders of a pattern in their order, with repetitions."""
    return tuple(slot for slot in pattern.slots if isinstance(slot, str))


def _bind_axes(layout: str, directed: Directed) -> dict[str, Expression] | None:
    """What each axis of a sentence is in a rule's layouts; None where the rule says something else."""
    bound: dict[str, Expression] = {}

    def binds(e: Expression, theirs: Expression) -> bool:
        if isinstance(e, Axis):
            return bound.setdefault(e.name, theirs) == theirs
        if isinstance(e, Product) and isinstance(theirs, Product):
            return binds_all(e.factors, theirs.factors)
        return isinstance(e, Sum) and isinstance(theirs, Sum) and binds_all(e.parts, theirs.parts)

    def binds_all(ours: Sequence[Expression], theirs: Sequence[Expression]) -> bool:
        return len(ours) == len(theirs) and all(map(binds, ours, theirs))

    assert directed.layouts is not None
    sentence = parse_layout(layout)
    sides = zip((sentence.left, sentence.right), directed.layouts, strict=True)
    return bound if all(len(ours) == len(side) and all(map(binds_all, ours, side)) for ours, side in sides) else None


def _part_names(count: int) -> list[str]:
    return [f"part_{n}" for n in range(1, count + 1)]


def _have_one_row(parts: Sequence[Expression], directed: Directed) -> bool:
    """Whether each part has one row: MindFormers then takes the parts in turns."""
    constants, _ = structural_sizes(directed.rule)
    return all(isinstance(part, Axis) and constants.get(part.name) == 1 for part in parts)


def _joining_op(directed: Directed, sizes: Mapping[str, int]) -> Op | str:
    """The operation that makes one tensor of several."""
    assert directed.layouts is not None
    axes, names = len(directed.layouts[1][0]), _part_names(len(directed.source))
    for dim in range(axes):
        ends = _parts_end_to_end(directed, dim)
        if ends:
            return _end_to_end(directed, dim, ends, sizes)
        bound = _bind_axes(concat_layout(names, axes, dim, interleaved=True), directed)
        if bound is not None and _have_one_row([bound[name] for name in names], directed):
            return _op(CONCAT, directed, {"dim": dim})  # interleaved is their default
    for name, layout in QKV_LAYOUTS.items():
        bound = _bind_axes(layout, directed)
        if bound is not None:
            return _qkv_op(name, directed, bound, sizes)
    return "an operation that joins tensors in this way"


def _parts_end_to_end(directed: Directed, dim: int) -> list[Expression]:
    """The lengths of the tensors that are joined end to end along an axis; none where the rule does something else."""
    assert directed.layouts is not None
    sources, (target,) = directed.layouts
    alike = all(len(s) == len(target) and (*s[:dim], *s[dim + 1 :]) == (*target[:dim], *target[dim + 1 :]) for s in sources)
    is_joined = alike and [p for s in sources for p in _flat_parts(s[dim])] == _flat_parts(target[dim])
    return [s[dim] for s in sources] if is_joined else []


def _flat_parts(e: Expression) -> list[Expression]:
    """The parts of a sum, and of sums in it."""
    return [inner for part in e.parts for inner in _flat_parts(part)] if isinstance(e, Sum) else [e]


def _end_to_end(directed: Directed, dim: int, parts: Sequence[Expression], sizes: Mapping[str, int]) -> Op:
    """Tensors joined end to end. The way back of their operation cuts into equal parts, or into the sizes of split_sizes."""
    more: dict[str, Any] = {"dim": dim, "interleaved": False}
    constants, same = structural_sizes(directed.rule)
    names = [p.name if isinstance(p, Axis) else "" for p in parts]
    if all(names) and len({constants.get(n) or same.get(n, n) for n in names}) == 1:
        return _op(CONCAT, directed, more)
    known = {**sizes, **{axis: sizes[equal] for axis, equal in same.items() if equal in sizes}, **constants}
    lengths = [shape_of((part,), known) for part in parts]
    if not all(lengths):
        return _op(CONCAT, directed, more, EQUAL_PARTS)
    cut = [length[0] for length in lengths if length]
    return _op(CONCAT, directed, {**more, "split_sizes": cut} if len(set(cut)) > 1 else more)


def _qkv_op(name: str, directed: Directed, bound: Mapping[str, Expression], sizes: Mapping[str, int]) -> Op | str:
    """q, k and v of each group together."""
    axes = [bound[axis] for axis in ("groups", "group_q", "group_k", "group_v")]
    count, q, k, v = (sizes.get(e.name, 0) if isinstance(e, Axis) else 0 for e in axes)
    heads = sizes.get("heads", 0)
    if not (count and q and k) or k != v or q % k or (heads and heads * k != count * q):
        return "q, k and v of a group in proportions that num_attention_heads, num_query_groups and kv_channels give"
    if name == QKV and bound["hidden"] != Axis("hidden"):
        return "rows of q, k and v that are hidden_size long"
    if name == QKV_BIAS and q != k:
        return "an operation for biases with fewer key/value heads than heads: QKVBiasConvertOp takes q to be as long as k"
    return _op(name, directed)


def _experts_op(directed: Directed, own: set[str], with_own: bool) -> Op | str:
    """The experts of a layer stacked: one index in the names is an axis of the other side."""
    for axes, layouts in ((2, EXPERTS_LAYOUTS), (3, STACKED_LAYOUTS)) if with_own else ((2, EXPERTS_LAYOUTS),):
        layout = layouts.get(len(directed.source), "").format(each="")
        if own == {"expert"} and layout and directed.layouts and all(_ordered_placeholders(p)[-1] == "expert" for p in directed.source):
            bound = _bind_axes(layout, directed)
            if bound is not None and bound.get("expert", Axis("expert")) == Axis("expert"):
                return _each_expert_op(directed, axes) if with_own else _op(EXPERTS, directed)
    return "experts stacked as ExpertsConvertOp has them: transposed, (expert hidden) (gate + up) or (expert ffn) hidden"


def _each_expert_op(directed: Directed, axes: int) -> Op | str:
    """Our operation for experts. Their loader counts two ``{}`` in a name; a layer with a number of its own gets one for it."""
    op = _op(EACH_EXPERT, directed, {"axes": axes} if axes != 2 else {})
    if all(name.count("{}") == 2 for name in op.hf):
        return op
    numbered = tuple(_FIRST_NUMBER.sub(r"(?=\1.){}", name, count=1) for name in op.hf)
    if not all(name.count("{}") == 2 for name in numbered):
        return "names of experts with a layer and an expert in them, and no third number"
    return replace(op, hf=numbered)


def _split_op(directed: Directed) -> Op | str:
    """Their only split: along the first axis, into parts of one row."""
    names = _part_names(len(directed.target))
    if len(directed.source) == 1 and directed.layouts and directed.layouts[0][0]:
        bound = _bind_axes(split_layout(names, len(directed.layouts[0][0])), directed)
        if bound is not None and _have_one_row([bound[name] for name in names], directed):
            return _op(SCALE_SPLIT, directed)
    return "an operation that splits a tensor, other than row by row"
