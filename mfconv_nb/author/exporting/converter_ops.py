"""A rule as one of MindFormers' conversion operations (`ConvertOp` in ``checkpoint/converter/convert_op.py``), where one says the same.

Refuses: what none of them does, with the words for what is missing. Pure; MindFormers is not imported.
Source: mindformers 2.1.0. Its operations know their sizes from the model's config when they run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mfconv_nb.core.layout import Axis, Expression, Product, Sum, TensorLayout
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import Repeated, Rule
from mfconv_nb.mapping.solve import Directed, structural_sizes

RENAME, CONCAT, QKV, QKV_BIAS, EXPERTS, SCALE_SPLIT = (
    "RenameConvertOp",
    "ConcatConvertOp",
    "QKVConvertOp",
    "QKVBiasConvertOp",
    "ExpertsConvertOp",
    "ScaleSplitConvertOp",
)
_PLACEHOLDER = re.compile(r"\{[a-z_][a-z0-9_]*\}")
_PLAIN = re.compile(r"[A-Za-z0-9_.{}/-]*")  # their names become regular expressions, in which only the dot is escaped


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of theirs.

    Attributes:
        name: the class.
        hf, mf: its names, with ``{}`` for an index.
        more: its other arguments, as text.
        one_way: why it has no way back, or nothing.
    """

    name: str
    hf: tuple[str, ...]
    mf: tuple[str, ...]
    more: Mapping[str, str] = field(default_factory=dict)
    one_way: str = ""


def op_of(directed: Directed, sizes: Mapping[str, int]) -> Op | str:
    """The operation that does what a rule does from Hugging Face to MindFormers, or what their operations lack for it.

    Args:
        directed: the rule, read towards MindFormers.
        sizes: the sizes of axes, from a config; only the proportions of q, k and v are judged by them.
    """
    lacking = _names_lacking(directed)
    if lacking:
        return lacking
    own = [p for names in directed.own for p in names]
    if own:
        return _experts(directed, own)
    if len(directed.source) == len(directed.target) == 1:
        if directed.layouts is None or directed.layouts[0] == directed.layouts[1]:
            return _op(RENAME, directed)
        return "an operation that transposes, reorders or reshapes one tensor"
    if len(directed.target) == 1:
        return _joined(directed, sizes)
    return _split(directed)


def _op(name: str, directed: Directed, more: Mapping[str, str] = {}, one_way: str = "") -> Op:
    return Op(name, _their_names(directed.source), _their_names(directed.target), more, one_way)


def _their_names(patterns: tuple[Pattern, ...]) -> tuple[str, ...]:
    return tuple(_PLACEHOLDER.sub("{}", p.text) for p in patterns)


def _names_lacking(directed: Directed) -> str:
    """What their names cannot say of a rule; empty where they can."""
    rule = directed.rule
    if isinstance(rule, Repeated):
        return "an operation that keeps one of several equal tensors"
    if isinstance(rule, Rule) and rule.dtype:
        return f"a dtype of its own ({rule.dtype}): their operations keep the dtype"
    if any("qkv" in p.text for p in directed.source):
        return "a way for a Hugging Face name with 'qkv' in it: their template hands such a tensor on as it is"
    if not all(_PLAIN.fullmatch(p.text) for p in (*directed.source, *directed.target)):
        return "names of letters, digits, '_', '-' and '.' only: theirs are regular expressions"
    loops = [_in_order(p) for p in (*directed.source, *directed.target)]
    shared = tuple(p for p in loops[-1] if p in directed.loops)
    if any(tuple(p for p in each if p in directed.loops) != shared or len(set(each)) != len(each) for each in loops):
        return "placeholders in the same order in every name, each once: their indices are filled in by position"
    if len(directed.source) + len(directed.target) > 2 and len(shared) > 1:
        return "an operation on several tensors whose names have two indices: they collect by the first one"
    return ""


def _in_order(pattern: Pattern) -> tuple[str, ...]:
    return tuple(slot for slot in pattern.slots if isinstance(slot, str))


# ---- several tensors to one ----------------------------------------------------------------------------------------------


def _joined(directed: Directed, sizes: Mapping[str, int]) -> Op | str:
    assert directed.layouts is not None
    sources, target = directed.layouts[0], directed.layouts[1][0]
    if any(len(s) != len(target) for s in sources):
        return "an operation that joins tensors of fewer axes"
    moved = [n for n, e in enumerate(target) if any(s[n] != e for s in sources)]
    if len(moved) != 1:
        return "an operation that joins along one axis and moves others"
    dim = moved[0]
    parts = tuple(s[dim] for s in sources)
    constants, same = structural_sizes(directed.rule)
    if target[dim] == Sum(parts):
        return _concatenated(directed, dim, parts, constants, same, sizes)
    common = _common_factor(parts)
    if common is None or target[dim] != Product((common[0], Sum(common[1]))):
        return "an operation that interleaves in this way"
    if all(isinstance(p, Axis) and constants.get(p.name) == 1 for p in common[1]):
        return _op(CONCAT, directed, {"dim": str(dim)})  # interleaved unless they are told otherwise
    return _grouped(directed, dim, common[0], common[1], target, sizes)


def _concatenated(
    directed: Directed,
    dim: int,
    parts: tuple[Expression, ...],
    constants: Mapping[str, int],
    same: Mapping[str, str],
    sizes: Mapping[str, int],
) -> Op | str:
    """Tensors end to end. The way back of their operation cuts into equal parts, or into sizes that are written down."""
    more = {"dim": str(dim), "interleaved": "False"}
    names = [p.name if isinstance(p, Axis) else "" for p in parts]
    if all(names) and len({constants.get(n) or same.get(n, n) for n in names}) == 1:
        return _op(CONCAT, directed, more)
    known = [{**sizes, **constants}.get(n) or sizes.get(same.get(n, "")) for n in names]
    if all(known):
        written = {} if len(set(known)) == 1 else {"split_sizes": f"[{', '.join(str(n) for n in known)}]"}
        return _op(CONCAT, directed, {**more, **written})
    why = "it cuts into equal parts, unless split_sizes says their sizes (config=... writes them)"
    return _op(CONCAT, directed, more, why)


def _common_factor(parts: tuple[Expression, ...]) -> tuple[Expression, tuple[Expression, ...]] | None:
    """``(groups q), (groups k)`` as groups and (q, k)."""
    if not all(isinstance(p, Product) and len(p.factors) == 2 for p in parts):
        return None
    pairs = [p.factors for p in parts if isinstance(p, Product)]
    return (pairs[0][0], tuple(p[1] for p in pairs)) if len({p[0] for p in pairs}) == 1 else None


def _grouped(
    directed: Directed, dim: int, groups: Expression, parts: tuple[Expression, ...], target: TensorLayout, sizes: Mapping[str, int]
) -> Op | str:
    """q, k and v of a group together, as their operations for q, k and v have them."""
    names = [e.name for e in (groups, *parts) if isinstance(e, Axis)]
    if dim != 0 or len(parts) != 3 or len(names) != 4 or len(target) > 2:
        return "an operation that interleaves in this way"
    known = [sizes.get(n) for n in names]
    count, q, k, v = (n or 0 for n in known)
    heads = sizes.get("heads", 0)
    if not all(known) or k != v or q % max(k, 1) or (heads and heads * k != count * q):
        return "q, k and v of a group in proportions that num_attention_heads, num_query_groups and kv_channels give"
    if len(target) == 2:
        return _op(QKV, directed) if target[1] == Axis("hidden") else "rows of q, k and v that are hidden_size long"
    if q != k:
        return "an operation for biases with fewer key/value heads than heads: QKVBiasConvertOp takes q to be as long as k"
    return _op(QKV_BIAS, directed)


def _experts(directed: Directed, own: list[str]) -> Op | str:
    """One index is an axis of the other side: the experts of a layer, as their operation stacks them."""
    wanted = "experts stacked as ExpertsConvertOp has them: transposed, (expert hidden) (gate + up) or (expert ffn) hidden"
    if set(own) != {"expert"} or len(directed.target) != 1 or any(_in_order(p)[-1] != "expert" for p in directed.source):
        return wanted
    assert directed.layouts is not None
    sources, target = directed.layouts[0], directed.layouts[1][0]
    if len(target) != 2 or any(len(s) != 2 for s in sources) or len(sources) > 2:
        return wanted
    across = {s[1] for s in sources} if len(sources) == 2 else {s[0] for s in sources}
    if len(sources) == 2:
        fits = len(across) == 1 and target == (Product((Axis("expert"), sources[0][1])), Sum((sources[0][0], sources[1][0])))
    else:
        fits = target == (Product((Axis("expert"), sources[0][1])), sources[0][0])
    return _op(EXPERTS, directed) if fits else wanted


# ---- one tensor to several -----------------------------------------------------------------------------------------------


def _split(directed: Directed) -> Op | str:
    """The one split of theirs: along the first axis, in parts of one row."""
    wanted = "an operation that splits a tensor, other than row by row"
    if len(directed.source) != 1 or directed.layouts is None:
        return wanted
    source, targets = directed.layouts[0][0], directed.layouts[1]
    constants, _ = structural_sizes(directed.rule)
    if not source or any(len(t) != len(source) or t[1:] != source[1:] for t in targets) or source[0] != Sum(tuple(t[0] for t in targets)):
        return wanted
    rows = all(isinstance(t[0], Axis) and constants.get(t[0].name) == 1 for t in targets)
    return _op(SCALE_SPLIT, directed) if rows else wanted
