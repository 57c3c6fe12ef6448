"""MindFormers' `weight_converters` lists as drafts. MindFormers is not needed.

One operation is one rule. How many axes a tensor has is not said there: it is taken from the names given, where they come with shapes;
else a bias has one axis, and everything else that is joined has two.

Their matching: an equal name first, else the longest pattern whose text the name begins with, where ``{}`` is anything. What that
gives to another operation than the drafts would is a finding. Source: mindformers 2.1.0, `checkpoint/converter`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfconv_nb.author.axes import GROUPS, HEADS, Facts, facts_of
from mfconv_nb.author.importing.imported import (
    NEVER_MATCHES,
    NO_WAY_BACK,
    NOT_ANCHORED,
    NOT_UNDERSTOOD,
    OVERLAPS,
    Drafted,
    Finding,
)
from mfconv_nb.author.importing.names import filled, is_plain, placeholder_words
from mfconv_nb.author.importing.rule_texts import Call, Listed, Unread, unreadable
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.rules import Place, Rule

OPERATIONS: Mapping[str, tuple[str, ...]] = {  # and what follows hf_names, mf_names and mf_config
    "RenameConvertOp": (),
    "ConcatConvertOp": ("dim", "split_sizes", "interleaved"),
    "StackConvertOp": ("dim",),
    "QKVConvertOp": (),
    "QKVBiasConvertOp": (),
    "ExpertsConvertOp": (),
    "ScaleSplitConvertOp": (),
}
SAMPLES = (0, 3, 12)  # indices for which names are tried
QKV_LAYOUT = "(groups group_q) hidden, (groups group_k) hidden, (groups group_v) hidden -> (groups (group_q + group_k + group_v)) hidden"
QKV_BIAS_LAYOUT = "(groups group_q), (groups group_k), (groups group_v) -> (groups (group_q + group_k + group_v))"
NOTE = "Their names match from the beginning and take anything behind; the drafts match whole names, and numbers for {}."
NOTE_GATED = "Gate and up in turns, as it is written here; a model's config may say otherwise (use_interleaved_weight_layout_mlp)."
NOTE_BIAS = "QKVBiasConvertOp cuts q, k and v in equal parts: it runs only where every head has a group of its own."
MOST_NAMES = 4_000  # of all operations of a list: each is tried against all others
PARTS = {
    ("gate", "up"): ("gate", "up"),
    ("w1", "w3"): ("gate", "up"),
    ("q", "k", "v"): ("q", "k", "v"),
    ("query", "key", "value"): ("q", "k", "v"),
}


@dataclass(frozen=True, slots=True)
class TheirOp:
    """One operation of a list, read."""

    name: str
    hf: tuple[str, ...]
    mf: tuple[str, ...]
    more: Mapping[str, Any]
    line: int

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.hf)} -> {', '.join(self.mf)})"


def drafts_of_converters(
    listed: Listed, file: str, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None
) -> tuple[list[Drafted], list[Finding], tuple[str, ...]]:
    """The drafts of a list, what the lint finds in it, and notes.

    Args:
        shapes: of the names given, as far as they have some, by names with ``{}`` for each number between dots.
        config: the content of a config.json.
    """
    drafted: list[Drafted] = []
    findings: list[Finding] = []
    ops: list[TheirOp] = []
    for line, element in listed.elements:
        op = _read(line, element)
        if isinstance(op, Finding):
            findings.append(op)
            continue
        ops.append(op)
        layout = _layout(op, shapes)
        if isinstance(layout, Finding):
            findings.append(layout)
        else:
            drafted.append(Drafted(_rule(op, layout, (file, op.line)), str(op)))
    if sum(len(op.hf) + len(op.mf) for op in ops) > MOST_NAMES:
        raise unreadable(file, "a list of very many names", f"at most {MOST_NAMES:,}")
    findings += _matching(ops)
    findings += _unequal_heads(ops, facts_of(config))
    gated = any(op.name == "ConcatConvertOp" and op.more.get("interleaved", True) and "linear_fc1" in op.mf[0] for op in ops)
    biases = any(op.name == "QKVBiasConvertOp" for op in ops)
    return drafted, findings, (NOTE, *([NOTE_GATED] if gated else []), *([NOTE_BIAS] if biases else []))


def _read(line: int, element: Any) -> TheirOp | Finding:
    if isinstance(element, Unread):
        return Finding(NOT_UNDERSTOOD, element.text or "this", element.line, element.what)
    if not isinstance(element, Call) or element.name not in OPERATIONS:
        shown = element.name if isinstance(element, Call) else repr(element)[:60]
        return Finding(NOT_UNDERSTOOD, shown, line, f"none of {', '.join(OPERATIONS)}")
    fields = ("hf_names", "mf_names", "mf_config", *OPERATIONS[element.name])
    values = {**dict(zip(fields, element.positional, strict=False)), **element.keywords}
    names = [_names(values.get(key)) for key in ("hf_names", "mf_names")]
    more = {k: v for k, v in values.items() if k not in ("hf_names", "mf_names", "mf_config")}
    odd = [key for key in more if key not in OPERATIONS[element.name]]
    if len(element.positional) > len(fields) or not all(names) or odd:
        why = f"an argument {odd[0]}" if odd else "hf_names and mf_names that are no names"
        return Finding(NOT_UNDERSTOOD, element.name, line, why)
    op = TheirOp(element.name, names[0], names[1], more, line)
    why = _wrong_names(op) or _wrong_arguments(op)
    return Finding(NOT_UNDERSTOOD, str(op), line, why) if why else op


def _names(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names) or len(names) > 64:
        return ()
    return tuple(names)


def _wrong_names(op: TheirOp) -> str:
    odd = next((n for n in (*op.hf, *op.mf) if not is_plain(n)), None)
    if odd is not None:
        return f"{odd!r} has more in it than letters, digits, '_', '-', '/', '.' and {{}}"
    counts = {n.count("{}") for n in op.hf}, {n.count("{}") for n in op.mf}
    if max(counts[0] | counts[1]) > 6 or len(counts[0]) > 1 or len(counts[1]) > 1:
        return "names of one side with another number of {} each"
    return ""


def _wrong_arguments(op: TheirOp) -> str:
    dim, cut = op.more.get("dim", 0), op.more.get("split_sizes")
    if type(dim) is not int or not 0 <= dim < 8:
        return f"dim={dim!r}"
    if cut is not None and (not isinstance(cut, list) or len(cut) != len(op.hf) or not all(type(n) is int and n > 0 for n in cut)):
        return f"split_sizes={cut!r}"
    return ""


# ---- one operation as a sentence ------------------------------------------------------------------------------------------------

Sentence = tuple[str | None, Mapping[str, int | str]]  # a layout, and the rule's own sizes


def _rule(op: TheirOp, sentence: Sentence, place: Place) -> Rule:
    words = placeholder_words(op.hf[0])
    if op.name == "ExpertsConvertOp" and "expert" not in words:
        words = (*words[:-1], "expert")
    hf, mf = (tuple(filled(name, words) for name in names) for names in (op.hf, op.mf))
    return Rule(hf if len(hf) > 1 else hf[0], mf if len(mf) > 1 else mf[0], sentence[0], sizes=sentence[1], written_at=place)


def _layout(op: TheirOp, shapes: Mapping[str, tuple[int, ...]]) -> Sentence | Finding:
    """The sentence of an operation; a finding where it can never run, or where its names lose an index."""
    own = 1 if op.name == "ExpertsConvertOp" else 0
    there, here = op.hf[0].count("{}"), op.mf[0].count("{}")
    if here > there:
        return Finding(NEVER_MATCHES, str(op), op.line, "a {} on the MindFormers side has no index on the other: it cannot be filled in")
    if there - here > own:
        return Finding(NO_WAY_BACK, str(op), op.line, "every index goes to the same name: the last one overwrites the others")
    makers = {
        "RenameConvertOp": _rename,
        "ConcatConvertOp": _concat,
        "StackConvertOp": _stack,
        "QKVConvertOp": _qkv,
        "QKVBiasConvertOp": _qkv,
        "ExpertsConvertOp": _experts,
        "ScaleSplitConvertOp": _split,
    }
    found = makers[op.name](op, shapes)
    return Finding(NEVER_MATCHES, str(op), op.line, found) if isinstance(found, str) else found


def _rename(op: TheirOp, shapes: Mapping[str, tuple[int, ...]]) -> Sentence | str:
    return (None, {}) if len(op.hf) == len(op.mf) == 1 else "it takes one name on each side"


def _axes(op: TheirOp, shapes: Mapping[str, tuple[int, ...]], least: int) -> int:
    known = next((len(shapes[name]) for name in op.hf if name in shapes), None)
    guess = 1 if op.hf[0].rpartition(".")[2].endswith("bias") else 2
    return max(least, guess if known is None else known)


def _around(count: int, dim: int) -> tuple[list[str], list[str]]:
    """The other axes of a tensor, before and behind one of them."""
    names = {1: [], 2: ["hidden" if dim == 0 else "out"]}.get(count) or [f"axis_{n}" for n in range(count - 1)]
    return names[:dim], names[dim:]


def _parts(op: TheirOp) -> tuple[str, ...]:
    """What joined tensors are called: by the word in which their names differ."""
    split = [name.split(".") for name in op.hf]
    differing = [words for words in zip(*split, strict=False) if len(set(words)) == len(words)]
    for words in differing:
        short = tuple(w.removesuffix("_proj").removesuffix("_layer") for w in words)
        if short in PARTS:
            return PARTS[short]
        if len(set(short)) == len(short) and all(w.isascii() and w.isidentifier() and w.islower() for w in short):
            return tuple(f"{w}_part" for w in short)
    return tuple(f"part_{n}" for n in range(1, len(op.hf) + 1))


def _concat(op: TheirOp, shapes: Mapping[str, tuple[int, ...]]) -> Sentence | str:
    if len(op.mf) != 1 or len(op.hf) < 2:
        return "it joins several tensors into one, and nothing else"
    dim, parts = op.more.get("dim", 0), _parts(op)
    before, behind = _around(_axes(op, shapes, dim + 1), dim)
    if op.more.get("interleaved", True):
        sources = [" ".join([*before, f"(ffn {part})", *behind]) for part in parts]
        target = " ".join([*before, f"(ffn ({' + '.join(parts)}))", *behind])
        return f"{', '.join(sources)} -> {target}", dict.fromkeys(parts, 1)
    sources = [" ".join([*before, part, *behind]) for part in parts]
    target = " ".join([*before, f"({' + '.join(parts)})", *behind])
    return f"{', '.join(sources)} -> {target}", _part_sizes(op, parts, shapes, dim)


def _part_sizes(op: TheirOp, parts: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]], dim: int) -> Mapping[str, int | str]:
    """The parts in their way back: sizes that are written there, else equal ones where shapes agree; q, k and v stand in configs."""
    cut = op.more.get("split_sizes")
    if cut:
        return dict(zip(parts, cut, strict=True))
    known = {shapes[name][dim] for name in op.hf if name in shapes}
    equal = len(known) == 1 or (not known and parts != ("q", "k", "v"))
    return dict.fromkeys(parts[1:], parts[0]) if equal else {}


def _stack(op: TheirOp, shapes: Mapping[str, tuple[int, ...]]) -> Sentence | str:
    if len(op.mf) != 1 or len(op.hf) < 2:
        return "it stacks several tensors, and nothing else"
    dim, parts = op.more.get("dim", 0), [f"part_{n}" for n in range(1, len(op.hf) + 1)]
    axes = [f"axis_{n}" for n in range(_axes(op, shapes, max(dim, 1)))]
    sources = [" ".join([f"({part} {axes[0]})", *axes[1:]]) for part in parts]
    target = " ".join([*axes[:dim], f"({' + '.join(parts)})", *axes[dim:]])
    return f"{', '.join(sources)} -> {target}", dict.fromkeys(parts, 1)


def _qkv(op: TheirOp, shapes: Mapping[str, tuple[int, ...]]) -> Sentence | str:
    if len(op.hf) != 3 or len(op.mf) != 1:
        return "it joins three tensors into one"
    return (QKV_BIAS_LAYOUT if op.name == "QKVBiasConvertOp" else QKV_LAYOUT), {}


def _experts(op: TheirOp, shapes: Mapping[str, tuple[int, ...]]) -> Sentence | str:
    if len(op.mf) != 1 or len(op.hf) > 2:
        return "it takes one or two names and makes one"
    each = "" if op.hf[0].count("{}") > op.mf[0].count("{}") else "expert "  # stacked already
    if len(op.hf) == 2:
        return f"{each}gate hidden, {each}up hidden -> (expert hidden) (gate + up)", {"up": "gate"}
    return f"{each}hidden ffn -> (expert ffn) hidden", {}


def _split(op: TheirOp, shapes: Mapping[str, tuple[int, ...]]) -> Sentence | str:
    if len(op.hf) != 1 or len(op.mf) < 2:
        return "it splits one tensor into several"
    parts = [f"row_{n}" for n in range(1, len(op.mf) + 1)]
    known = next((len(shapes[name]) for name in op.hf if name in shapes), 1)
    rest = "".join(f" axis_{n}" for n in range(1, known))
    return f"({' + '.join(parts)}){rest} -> {', '.join(part + rest for part in parts)}", dict.fromkeys(parts, 1)


# ---- their matching -------------------------------------------------------------------------------------------------------------


def takes(pattern: str, name: str) -> bool:
    """Whether a pattern of theirs takes a name: it begins like it, with anything for each ``{}``, and anything may follow."""
    first, *rest = pattern.split("{}")
    if not name.startswith(first):
        return False
    at = len(first)
    for text in rest:
        at = name.find(text, at)
        if at < 0:
            return False
        at += len(text)
    return True


def op_taking(name: str, by_name: Mapping[str, TheirOp], longest_first: Sequence[str]) -> TheirOp | None:
    """The operation that their template takes for a name."""
    if name in by_name:
        return by_name[name]
    return next((by_name[pattern] for pattern in longest_first if takes(pattern, name)), None)


def _matching(ops: Sequence[TheirOp]) -> Iterator[Finding]:
    for op in ops:
        held = next((name for name in op.hf if "qkv" in name), None)
        if held is not None:
            yield Finding(NEVER_MATCHES, str(op), op.line, f"their template hands {held} on as it is: 'qkv' stands in the name")
    for side in ("hf", "mf"):
        yield from _taken(ops, side)


def _unequal_heads(ops: Sequence[TheirOp], facts: Facts) -> Iterator[Finding]:
    heads, groups = facts.values(HEADS)[:1], facts.values(GROUPS)[:1]
    for op in ops if groups and heads != groups else ():
        if op.name == "QKVBiasConvertOp":
            few = how_many(groups[0], "group")
            why = f"it fails in both directions where heads share keys: {heads[0] if heads else '?'} heads, {few}"
            yield Finding(NO_WAY_BACK, str(op), op.line, why)


def _taken(ops: Sequence[TheirOp], side: str) -> Iterator[Finding]:
    """Names of an operation that their matching gives to another one."""
    by_name = {name: op for op in ops for name in getattr(op, side)}  # as theirs: the last one of a name counts
    longest_first = sorted(by_name, key=len, reverse=True)
    kind = OVERLAPS if side == "hf" else NO_WAY_BACK
    for op in ops:
        for name in getattr(op, side):
            if by_name[name] is not op:
                why = f"{name} stands in line {by_name[name].line} too: the last one counts"
                yield Finding(kind, str(op), op.line, why)
                break
            taken = [(s, t) for s in _samples(name) if (t := op_taking(s, by_name, longest_first)) is not None and t is not op]
            if taken:
                sample, taker = taken[0]
                yield Finding(kind, str(op), op.line, f"{sample} goes to the operation of line {taker.line}, {taker}")
                break


def _samples(name: str) -> list[str]:
    return [name.replace("{}", str(index)) for index in SAMPLES] if "{}" in name else [name]


def accepted_by_others(names: Sequence[str], drafted: Sequence[Drafted]) -> list[Finding]:
    """Names that no draft takes, but an operation of theirs does: its pattern has no end."""
    patterns: dict[str, Drafted] = {}
    for d in drafted:
        for name in (d.rule.hf,) if isinstance(d.rule.hf, str) else d.rule.hf:  # type: ignore[union-attr]
            patterns[re.sub(r"\{[a-z_][a-z0-9_]*\}", "{}", name)] = d
    longest_first = sorted(patterns, key=len, reverse=True)
    accepted: dict[int, tuple[Drafted, list[str]]] = {}
    for name in {fold(name)[0]: name for name in names}.values():
        taker = next((patterns[p] for p in longest_first if takes(p, name)), None)
        if taker is not None:
            accepted.setdefault(id(taker), (taker, []))[1].append(name)
    return [
        Finding(
            NOT_ANCHORED,
            d.theirs,
            d.line,
            f"it also accepts {found[0]}" + (f" and {how_many(len(found) - 1, 'more form')}" if found[1:] else ""),
        )
        for d, found in accepted.values()
    ]
