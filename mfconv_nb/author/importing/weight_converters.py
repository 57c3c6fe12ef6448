"""MindFormers' `weight_converters` lists as drafts, one rule for each operation, those of our export among them. MindFormers is not needed.

Such a list does not say how many axes a tensor has. Shapes of the given names say it; without them a bias has one axis, and every other
joined tensor has two. A name that MindFormers' matching gives to another operation than the drafts do is a finding.
Source: mindformers 2.1.0, `checkpoint/converter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mfconv_nb.author.axes import GROUPS, HEADS, Facts, facts_of
from mfconv_nb.author.exporting.converter_ops import (
    CONCAT,
    COPIES,
    EACH_EXPERT,
    EXPERTS,
    EXPERTS_LAYOUTS,
    FIXED_DTYPE,
    LAYOUT,
    NUMPY_DTYPES,
    OF_ONE_LAYER,
    QKV,
    QKV_BIAS,
    QKV_LAYOUTS,
    RENAME,
    SCALE_SPLIT,
    STACK,
    STACKED_LAYOUTS,
    Op,
    concat_layout,
    lost_names,
    split_layout,
    stack_layout,
    takes,
    their_name,
)
from mfconv_nb.author.importing.imported import (
    NEVER_MATCHES,
    NO_WAY_BACK,
    NOT_ANCHORED,
    NOT_UNDERSTOOD,
    OVERLAPS,
    Drafted,
    Drafts,
    Finding,
    Shapes,
    finding_of,
)
from mfconv_nb.author.importing.names import fill_braces, is_plain, placeholder_words
from mfconv_nb.author.importing.operations import OwnSizes, part_names
from mfconv_nb.author.importing.reader_faults import Stored, find_reader_faults
from mfconv_nb.author.importing.rule_texts import Call, Listed, read_elements, texts_of, unreadable
from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.folding import fold
from mfconv_nb.core.layout import parse_layout
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.rules import Rule, sides_of

OPERATIONS: Mapping[str, tuple[str, ...]] = {  # with the arguments behind hf_names, mf_names and mf_config
    RENAME: (),
    CONCAT: ("dim", "split_sizes", "interleaved"),
    STACK: ("dim",),
    QKV: (),
    QKV_BIAS: (),
    EXPERTS: (),
    SCALE_SPLIT: (),
    LAYOUT: ("layout", "sizes"),
    COPIES: (),
    EACH_EXPERT: ("axes",),
    FIXED_DTYPE: ("dtype",),
}
NOTE = "Their names match from the beginning and take anything behind; the drafts match whole names, and numbers for {}."
NOTE_GATED = "Gate and up in turns, as it is written here; a model's config may say otherwise (use_interleaved_weight_layout_mlp)."
NOTE_BIAS = "QKVBiasConvertOp cuts q, k and v in equal parts: it runs only where every head has a group of its own."
MOST_TENSORS = 64  # of one operation
MOST_NAMES = 4_000  # in a list: each is tried against all others


def draft_converters(listed: Listed, file: str, shapes: Shapes, config: Mapping[str, Any] | None, stored: Sequence[Stored] = ()) -> Drafts:
    """The drafts of a list, and what the lint finds in it.

    Args:
        config: the content of a config.json.
        stored: the tensors of a Hugging Face folder: what MindFormers' reader would do wrong with them is told too.
    """
    found, ops = Drafts(), []
    for line, element in read_elements(listed, found):
        op = _read_op(line, element)
        if isinstance(op, Finding):
            found.add(op)
        else:
            ops.append(op)
            found.add(_draft_op(op, shapes, file))
    if sum(len(op.hf) + len(op.mf) for op in ops) > MOST_NAMES:
        raise unreadable(file, "a list of very many names", f"at most {MOST_NAMES:,}")
    found.findings += [*_lint_matching(ops), *_find_unequal_heads(ops, facts_of(config))]
    gated = any(op.name == CONCAT and op.more.get("interleaved", True) and "linear_fc1" in op.mf[0] for op in ops)
    biases = any(op.name == QKV_BIAS for op in ops)
    found.faults = find_reader_faults(ops, stored, config) if stored else ()
    found.notes = (NOTE, *([NOTE_GATED] if gated else []), *([NOTE_BIAS] if biases else []))
    return found


def _read_op(line: int, element: Any) -> Op | Finding:
    if not isinstance(element, Call) or element.name not in OPERATIONS:
        shown = element.name if isinstance(element, Call) else repr(element)[:60]
        return Finding(NOT_UNDERSTOOD, shown, line, f"none of {', '.join(OPERATIONS)}")
    fields = ("hf_names", "mf_names", "mf_config", *OPERATIONS[element.name])
    values = element.arguments(fields)
    names = [texts_of(values.get(key), MOST_TENSORS) for key in ("hf_names", "mf_names")]
    more = {k: v for k, v in values.items() if k not in ("hf_names", "mf_names", "mf_config")}
    odd = [key for key in more if key not in OPERATIONS[element.name]]
    if len(element.positional) > len(fields) or not all(names) or odd:
        why = f"an argument {odd[0]}" if odd else "hf_names and mf_names that are no names"
        return Finding(NOT_UNDERSTOOD, element.name, line, why)
    op = Op(element.name, names[0], names[1], more, line=line)
    why = _wrong_names(op) or _wrong_arguments(op)
    return Finding(NOT_UNDERSTOOD, str(op), line, why) if why else op


def _wrong_names(op: Op) -> str:
    """What is wrong with the names of an operation; empty where they are right."""
    hf = _without_look_ahead(op)
    odd = next((n for n in (*hf, *op.mf) if not is_plain(n)), None)
    if odd is not None:
        return f"{odd!r} has more in it than letters, digits, '_', '-', '/', '.' and {{}}"
    counts = {n.count("{}") for n in hf}, {n.count("{}") for n in op.mf}
    if max(counts[0] | counts[1]) > 6 or len(counts[0]) > 1 or len(counts[1]) > 1:
        return "names of one side with another number of {} each"
    return ""


def _without_look_ahead(op: Op) -> tuple[str, ...]:
    """Its Hugging Face names with the number itself, where our operation for experts looks ahead for one."""
    return tuple(OF_ONE_LAYER.sub(r"\1", name) for name in op.hf) if op.name == EACH_EXPERT else op.hf


def _wrong_arguments(op: Op) -> str:
    """What is wrong with the other arguments of an operation; empty where they are right."""
    dim, cut = op.more.get("dim", 0), op.more.get("split_sizes")
    if type(dim) is not int or not 0 <= dim < 8:
        return f"dim={dim!r}"
    if cut is not None and (not isinstance(cut, list) or len(cut) != len(op.hf) or not all(type(n) is int and n > 0 for n in cut)):
        return f"split_sizes={cut!r}"
    if op.name == EACH_EXPERT and op.more.get("axes", 2) not in (2, 3):
        return f"axes={op.more['axes']!r}"
    if op.name == FIXED_DTYPE and op.more.get("dtype", "float32") not in NUMPY_DTYPES.values():
        return f"dtype={op.more['dtype']!r}"
    return _wrong_layout(op) if op.name == LAYOUT else ""


def _wrong_layout(op: Op) -> str:
    """What is wrong with the layout of an operation of ours; empty where it is a sentence with the right number of tensors, and sizes."""
    layout, sizes = op.more.get("layout"), op.more.get("sizes")
    pairs = sizes if isinstance(sizes, list) else [()]
    if not all(isinstance(pair, list) and [type(each) for each in pair] == [str, int] for pair in pairs):
        return f"sizes={sizes!r}"
    try:
        sentence = parse_layout(layout) if isinstance(layout, str) else None
    except MappingError:
        sentence = None
    fits = sentence is not None and (len(sentence.left), len(sentence.right)) == (len(op.hf), len(op.mf))
    return "" if fits else f"layout={layout!r}"


# ---- one operation as a sentence ------------------------------------------------------------------------------------------------


def _draft_op(op: Op, shapes: Shapes, file: str) -> Drafted | Finding:
    """The rule of an operation; a finding where the operation can never run, or where its names lose an index."""
    if op.name == COPIES:
        return finding_of(NOT_UNDERSTOOD, op, "copies that become one tensor: not drafted")
    own = 1 if op.name in (EXPERTS, EACH_EXPERT) else 0
    names = _without_look_ahead(op)
    there, here = names[0].count("{}"), op.mf[0].count("{}")
    if here > there:
        return finding_of(NEVER_MATCHES, op, "a {} on the MindFormers side has no index on the other: it cannot be filled in")
    if there - here > own:
        return finding_of(NO_WAY_BACK, op, "every index goes to the same name: the last one overwrites the others")
    sentence = _sentence_of(op, shapes)
    if isinstance(sentence, str):
        return finding_of(NEVER_MATCHES, op, sentence)
    words = placeholder_words(names[0])
    if own and "expert" not in words:
        words = (*words[:-1], "expert")
    hf, mf = (tuple(fill_braces(name, words) for name in side) for side in (names, op.mf))
    layout, sizes = sentence
    place = (file, op.line)
    dtype = next(
        (ours for ours, theirs in NUMPY_DTYPES.items() if op.name == FIXED_DTYPE and theirs == op.more.get("dtype", "float32")), None
    )
    return Drafted(
        Rule(hf if len(hf) > 1 else hf[0], mf if len(mf) > 1 else mf[0], layout, sizes=sizes, dtype=dtype, written_at=place), str(op)
    )


def _sentence_of(op: Op, shapes: Shapes) -> tuple[str | None, OwnSizes] | str:
    """The layout sentence of an operation and the rule's own sizes; or why it fails, where it has the wrong number of names."""
    hf, mf, dim = len(op.hf), len(op.mf), op.more.get("dim", 0)
    if op.name == LAYOUT:
        return op.more["layout"], dict(op.more["sizes"])
    if op.name in (RENAME, FIXED_DTYPE):
        return (None, {}) if hf == mf == 1 else "it takes one name on each side"
    if op.name in QKV_LAYOUTS:
        return (QKV_LAYOUTS[op.name], {}) if hf == 3 and mf == 1 else "it joins three tensors into one"
    if op.name in (EXPERTS, EACH_EXPERT):
        if mf != 1 or hf > 2:
            return "it takes one or two names and makes one"
        are_stacked = op.name == EXPERTS and op.hf[0].count("{}") == op.mf[0].count("{}")
        layouts = STACKED_LAYOUTS if op.more.get("axes") == 3 else EXPERTS_LAYOUTS
        return layouts[hf].format(each="expert " if are_stacked else ""), {"up": "gate"} if hf == 2 else {}
    known = next((len(shapes[name]) for name in op.hf if name in shapes), None)
    if op.name == SCALE_SPLIT:
        rows = [f"row_{n}" for n in range(1, mf + 1)]
        return (split_layout(rows, known or 1), dict.fromkeys(rows, 1)) if hf == 1 and mf > 1 else "it splits one tensor into several"
    if mf != 1 or hf < 2:
        return "it joins several tensors into one, and nothing else"
    axes = known or (1 if op.hf[0].endswith("bias") else 2)
    if op.name == STACK:
        rows = [f"part_{n}" for n in range(1, hf + 1)]
        return stack_layout(rows, max(axes, dim, 1), dim), dict.fromkeys(rows, 1)
    parts, interleaved = part_names(op.hf), bool(op.more.get("interleaved", True))
    sizes = dict.fromkeys(parts, 1) if interleaved else _part_sizes(op, parts, shapes, dim)
    return concat_layout(parts, max(axes, dim + 1), dim, interleaved=interleaved), sizes


def _part_sizes(op: Op, parts: Sequence[str], shapes: Shapes, dim: int) -> OwnSizes:
    """The sizes of joined parts: those of split_sizes, else equal ones where shapes agree. For q, k and v a config has them."""
    cut = op.more.get("split_sizes")
    if cut:
        return dict(zip(parts, cut, strict=True))
    known = {shapes[name][dim] for name in op.hf if name in shapes}
    equal = len(known) == 1 or (not known and set(parts) != {"q", "k", "v"})
    return dict.fromkeys(parts[1:], parts[0]) if equal else {}


# ---- their matching -------------------------------------------------------------------------------------------------------------


def _lint_matching(ops: Sequence[Op]) -> Iterator[Finding]:
    """Operations that never run, and names that go to another operation."""
    for op in ops:
        held = next((name for name in op.hf if "qkv" in name), None)
        if held is not None:
            yield finding_of(NEVER_MATCHES, op, f"their template hands {held} on as it is: 'qkv' stands in the name")
    for side in ("hf", "mf"):
        yield from _find_lost_names(ops, side)


def _find_unequal_heads(ops: Sequence[Op], facts: Facts) -> Iterator[Finding]:
    """Operations that fail where the config has fewer key/value heads than heads."""
    heads, groups = facts.values(HEADS)[:1], facts.values(GROUPS)[:1]
    for op in ops if groups and heads != groups else ():
        if op.name == QKV_BIAS:
            few = how_many(groups[0], "group")
            yield finding_of(
                NO_WAY_BACK, op, f"it fails in both directions where heads share keys: {heads[0] if heads else '?'} heads, {few}"
            )


def _find_lost_names(ops: Sequence[Op], side: str) -> Iterator[Finding]:
    """For each operation the first name that MindFormers' matching gives to another one."""
    kind = OVERLAPS if side == "hf" else NO_WAY_BACK
    reported: set[int] = set()
    for op, name, sample, taker in lost_names(ops, side):
        if id(op) not in reported:
            reported.add(id(op))
            is_equal = name in getattr(taker, side)
            at = f"line {taker.line}"
            yield finding_of(
                kind,
                op,
                f"{name} stands in {at} too: the last one counts" if is_equal else f"{sample} goes to the operation of {at}, {taker}",
            )


def accepted_by_others(names: Sequence[str], drafted: Sequence[Drafted]) -> list[Finding]:
    """Names that no draft takes and an operation does, since its pattern has no end."""
    patterns: dict[str, Drafted] = {}
    for d in drafted:
        patterns |= {their_name(pattern): d for pattern in sides_of(d.rule, MF)[0]}
    longest_first = sorted(patterns, key=len, reverse=True)
    accepted: dict[int, tuple[Drafted, list[str]]] = {}
    for name in {fold(name)[0]: name for name in names}.values():
        taker = next((patterns[p] for p in longest_first if takes(p, name)), None)
        if taker is not None:
            accepted.setdefault(id(taker), (taker, []))[1].append(name)
    return [
        finding_of(
            NOT_ANCHORED,
            d,
            f"it also accepts {found[0]}" + (f" and {how_many(len(found) - 1, 'more form')}" if found[1:] else ""),
        )
        for d, found in accepted.values()
    ]
