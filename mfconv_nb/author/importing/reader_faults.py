"""What MindFormers' reader of a Hugging Face folder would do wrong with some tensors and a `weight_converters` list. From headers alone.

Its reader finds the scale of codes only as `NAME.scale` in the same file, cuts blocks by division, takes a name by the beginning of a
pattern, and says in its log alone what it leaves out. Numbers are not looked at. Pure; MindFormers is not imported.
Source: mindformers 2.1.0, ``checkpoint/safetensors_utils.py`` (the dynamic graph reads with it), ``reshard.py`` and ``converter``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mfconv_nb.author.exporting.converter_ops import EACH_EXPERT, EXPERTS, LAYOUT, OF_ONE_LAYER, QKV, Op, takes
from mfconv_nb.core.errors import to_one_line
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import how_many

# the kinds of faults
SCALE_ELSEWHERE = "scale in another file"
SCALE_NAME = "scale under a name it does not know"
NO_SCALE = "codes without a scale"
RAGGED = "ragged blocks"
ODD_CODES = "codes it cannot unpack"
ODD_DTYPE = "dtype it cannot read"
UNMATCHED = "no pattern takes it"
NOT_ANCHORED = "taken by the beginning of a pattern"
TWICE = "two patterns take it"
INCOMPLETE = "its partner is missing"
STOPS = "stops the loader"

CODES = ("I8", "F8_E4M3", "F8_E5M2")
READ = (*CODES, "F32", "F16", "BF16", "F8_E8M0", "I64", "I32", "I16", "U8", "BOOL")
SCALES = ("_scale_inv", "_scale")  # behind the name of a weight
DEFAULT_BLOCK = 128  # where no config says another

DEQUANTISE = "Dequantise the folder with the tool that made it, save it as bf16, and load that."
SAME_FILE = f"Write each scale into the file of its weight. Or: {DEQUANTISE}"


Groups = dict[tuple[int, tuple[str, ...]], dict[int, list["Stored"]]]  # (an operation's id, layer) -> its tensors by their place


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as the headers of a folder have it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str


@dataclass(frozen=True, slots=True)
class ReaderFault:
    """What their reader would do wrong with a tensor.

    Attributes:
        kind: one of the words above.
        tensor, file: the first tensor of that kind; the file's name, empty where there is none.
        does: what their reader does.
        hint: the next step.
        count: how many tensors differ from it by their numbers alone, itself among them.
    """

    kind: str
    tensor: str
    file: str
    does: str
    hint: str
    count: int = 1

    def __str__(self) -> str:
        more = f" and {self.count - 1:,} more" if self.count > 1 else ""
        where = f" (in {self.file})" if self.file else ""
        return to_one_line(f"{self.tensor}{more}{where}: {self.kind}: it {self.does}. {self.hint}")


def find_reader_faults(ops: Sequence[Op], stored: Sequence[Stored], config: Mapping[str, Any] | None) -> tuple[ReaderFault, ...]:
    """Every fault, tensors that differ by their numbers alone as one.

    Args:
        ops: the operations of the list, in their order.
        stored: all tensors of the folder.
        config: the content of config.json, for the size of blocks.
    """
    by_name = {tensor.name: tensor for tensor in stored}
    pairs, faults = _pair_scales(by_name)
    used = {scale.name for _, scale in pairs} | {_scale_of(t.name) for t in stored if t.dtype in CODES}
    weights = [tensor for tensor in stored if tensor.name not in used]
    faults += [*_find_ragged(pairs, config), *_find_dtypes(stored), *_find_by_names(ops, weights)]
    return _join_alike(faults)


def _join_alike(faults: Iterable[ReaderFault]) -> tuple[ReaderFault, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], ReaderFault] = {}
    for fault in faults:
        key = (fault.kind, fold(fault.tensor)[0])
        counts[key] += 1
        first.setdefault(key, fault)
    return tuple(replace(fault, count=counts[key]) for key, fault in first.items())


# ---- scales --------------------------------------------------------------------------------------------------------------------


def _scale_of(name: str) -> str:
    """The name under which their reader looks for the scale of a weight."""
    return name.removesuffix(".weight") + ".scale" if name.endswith(".weight") else ""


def _pair_scales(tensors: Mapping[str, Stored]) -> tuple[list[tuple[Stored, Stored]], list[ReaderFault]]:
    """Codes with the scale that their reader finds, and the faults of all others."""
    pairs, faults = [], []
    for weight in tensors.values():
        scale = tensors.get(_scale_of(weight.name))
        if weight.dtype not in CODES or weight.name.endswith((".scale", *SCALES)):
            continue
        if scale is not None and scale.file == weight.file:
            pairs.append((weight, scale))
        elif scale is not None:
            does = f"looks for {scale.name} in {weight.file} only (it is in {scale.file}), and takes the codes for numbers"
            faults.append(ReaderFault(SCALE_ELSEWHERE, weight.name, weight.file, does, SAME_FILE))
        else:
            other = next((weight.name + ending for ending in SCALES if weight.name + ending in tensors), "")
            why = f"does not know {other} for a scale" if other else "finds no scale"
            fault = ReaderFault(SCALE_NAME if other else NO_SCALE, weight.name, weight.file, f"{why}, and takes the codes for numbers", "")
            faults.append(replace(fault, hint=DEQUANTISE if other else "Find the file with its scale, or a folder of bfloat16 weights."))
    return pairs, faults


def _find_ragged(pairs: Sequence[tuple[Stored, Stored]], config: Mapping[str, Any] | None) -> Iterator[ReaderFault]:
    """Blocks that their reader cuts elsewhere than the writer did: it divides the length by the number of scales."""
    said = (config or {}).get("quantization_config")
    blocks = said.get("weight_block_size") if isinstance(said, dict) else None
    is_said = isinstance(blocks, list) and len(blocks) == 2 and all(type(n) is int and n > 0 for n in blocks)
    for weight, scale in pairs:
        if len(weight.shape) != 2 or len(scale.shape) != 2 or 0 in scale.shape:
            does = f"unpacks two axes, and stops: the codes have shape {weight.shape}, the scales {scale.shape}"
            yield ReaderFault(ODD_CODES, weight.name, weight.file, does, DEQUANTISE)
            continue
        packed = 2 if weight.dtype == "I8" else 1
        lengths = (weight.shape[0], weight.shape[1] * packed)
        for axis, (length, count) in enumerate(zip(lengths, scale.shape, strict=True)):
            what = f"{length:,} {'rows' if axis == 0 else 'columns'} in {how_many(count, 'block')}"
            block = blocks[axis] if is_said and packed == 1 and blocks is not None else DEFAULT_BLOCK
            if length % count:
                does = f"takes {what} to be blocks of {length // count}, and stops (cannot reshape)"
                yield ReaderFault(RAGGED, weight.name, weight.file, does, DEQUANTISE)
            elif packed == 1 and 1 < count == math.ceil(length / block) and length % block:
                does = f"takes {what} to be blocks of {length // count}, not of {block}: numbers behind the first block get a wrong scale"
                yield ReaderFault(RAGGED, weight.name, weight.file, does, DEQUANTISE)


def _find_dtypes(stored: Iterable[Stored]) -> Iterator[ReaderFault]:
    for tensor in stored:
        if tensor.dtype not in READ:
            does = f"does not know {tensor.dtype}, and stops"
            yield ReaderFault(ODD_DTYPE, tensor.name, tensor.file, does, "Save the folder again as bf16 or fp32, and load that.")


# ---- names ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Pattern:
    """One Hugging Face name of an operation; ``whole`` matches the names that are meant, which have ``template``."""

    op: Op
    place: int
    text: str
    whole: re.Pattern[str]
    template: str

    @property
    def free(self) -> int:
        """How many numbers it leaves open."""
        return OF_ONE_LAYER.sub("", self.text).count("{}")


def _patterns_of(ops: Sequence[Op]) -> list[_Pattern]:
    found = []
    for op in ops:
        for place, name in enumerate(op.hf):
            plain = OF_ONE_LAYER.sub(r"\1", name)
            whole = re.compile("([0-9]+)".join(map(re.escape, plain.split("{}"))))
            found.append(_Pattern(op, place, name, whole, fold(plain.replace("{}", "0"))[0]))
    return found


def _taker_chooser(patterns: Sequence[_Pattern]) -> Callable[[str], _Pattern | None]:
    """A function that gives the pattern to which their template gives a name: the equal one, else the longest that takes its beginning.

    Names that differ in numbers alone go the same way, unless a pattern has such a number itself.
    """
    longest_first = sorted(patterns, key=lambda p: len(p.text), reverse=True)
    equal = {pattern.text: pattern for pattern in patterns}
    fixed = {int(n) for pattern in patterns for n in re.findall("[0-9]+", pattern.text)}
    known: dict[tuple[object, ...], _Pattern | None] = {}

    def choose(name: str) -> _Pattern | None:
        template, numbers = fold(name)
        key = (template, *(n if n in fixed else None for n in numbers))
        if key not in known:
            known[key] = equal.get(name) or next((p for p in longest_first if takes(p.text, name)), None)
        return known[key]

    return choose


def _find_by_names(ops: Sequence[Op], stored: Sequence[Stored]) -> Iterator[ReaderFault]:
    """Names that no pattern takes, or another one than is meant; and groups that are not complete."""
    patterns = _patterns_of(ops)
    choose_taker = _taker_chooser(patterns)
    by_template: dict[str, list[_Pattern]] = {}
    for pattern in patterns:
        by_template.setdefault(pattern.template, []).append(pattern)
    experts = [pattern for pattern in patterns if _takes_experts(pattern.op)]
    groups: Groups = {}
    for tensor in stored:
        meant = [p for p in by_template.get(fold(tensor.name)[0], ()) if p.whole.fullmatch(tensor.name)]
        taker = choose_taker(tensor.name)
        yield from _find_by_name(tensor, meant, taker)
        if taker is not None and taker in meant:
            yield from _find_in_stacking(tensor, taker, experts)
            match = taker.whole.fullmatch(tensor.name)
            numbers = match.groups() if match else ()
            loops = numbers[:-1] if _takes_experts(taker.op) else numbers
            groups.setdefault((id(taker.op), loops), {}).setdefault(taker.place, []).append(tensor)
    yield from _find_incomplete(ops, groups)
    yield from _find_stops(ops, groups)


def _find_by_name(tensor: Stored, meant: Sequence[_Pattern], taker: _Pattern | None) -> Iterator[ReaderFault]:
    """What is wrong with the way of one name."""
    if taker is None:
        hint = "Add an operation for it, or make sure that the network needs no such tensor."
        yield ReaderFault(UNMATCHED, tensor.name, tensor.file, "leaves it out, with a line in its log at most", hint)
    elif not meant:
        does = f"takes it for {taker.text}, and writes it over what belongs in {', '.join(taker.op.mf)}"
        hint = "Take this tensor out of the folder, or add an operation with its whole name."
        yield ReaderFault(NOT_ANCHORED, tensor.name, tensor.file, does, hint)
    elif len(meant) > 1:
        fewest = min(pattern.free for pattern in meant)
        if [pattern for pattern in meant if pattern.free == fewest] != [taker]:
            others = ", ".join(pattern.text for pattern in meant if pattern is not taker)
            does = f"gives it to {', '.join(taker.op.mf)}, and nothing to the operation for {others}"
            yield ReaderFault(TWICE, tensor.name, tensor.file, does, "Keep one of the two, or put the number of its layer into one.")


def _find_in_stacking(tensor: Stored, taker: _Pattern, experts: Sequence[_Pattern]) -> Iterator[ReaderFault]:
    """An expert that their loader stacks by another operation: there the first in the list counts, wherever it finds its pattern."""
    if _takes_experts(taker.op):
        first = next((pattern for pattern in experts if pattern.whole.search(tensor.name)), taker)
        if first.op is not taker.op:
            does = f"stacks it into {first.op.mf[0]}, by the first operation of the list that fits, not into {taker.op.mf[0]}"
            yield ReaderFault(TWICE, tensor.name, tensor.file, does, "Put the operation that is meant for it first in the list.")


def _find_incomplete(ops: Sequence[Op], groups: Groups) -> Iterator[ReaderFault]:
    """Operations on several tensors that some layers have in part."""
    by_id = {id(op): op for op in ops}
    experts = max((len(tensors) for (op, _), parts in groups.items() if _takes_experts(by_id[op]) for tensors in parts.values()), default=0)
    for (key, loops), parts in groups.items():
        op, here = by_id[key], next(iter(next(iter(parts.values()))))
        for place, name in enumerate(op.hf):
            found = len(parts.get(place, ()))
            numbers = iter(loops)
            missing = re.sub(r"\{\}", lambda m, numbers=numbers: next(numbers, "{}"), OF_ONE_LAYER.sub(r"{}", name))  # type: ignore[misc]
            if _takes_experts(op) and found < experts:
                does = f"finds {found:,} of {experts:,} experts, and never writes {op.mf[0]}"
                yield ReaderFault(INCOMPLETE, missing, here.file, does, "Complete the folder: a file of it may be missing.")
            elif not found:
                does = f"keeps {here.name} until the end, waiting for this one, and stops there (TypeError: 'int' object is not callable)"
                yield ReaderFault(INCOMPLETE, missing, here.file, does, "Complete the folder, or give that layer an operation of its own.")


def _takes_experts(op: Op) -> bool:
    return op.name in (EXPERTS, EACH_EXPERT)


def _find_stops(ops: Sequence[Op], groups: Groups) -> Iterator[ReaderFault]:
    """Names that their loader stacks or joins itself, and for which the list has no operation of the class that it asks for.

    It joins q_proj, k_proj and v_proj, unless the list has a QKVConvertOp for whole tensors, as our LayoutConvertOp is.
    """
    by_id = {id(op): op for op in ops}
    leaves_qkv = any(op.name == LAYOUT for op in ops)
    for (key, _), parts in groups.items():
        op, tensor = by_id[key], next(iter(next(iter(parts.values()))))
        is_joined = any(word in tensor.name for word in ("q_proj", "k_proj", "v_proj")) and not leaves_qkv
        if is_joined and op.name != QKV:
            does = f"asks for a QKVConvertOp that takes it, finds {op.name}, and stops (Can not find the weight name)"
            yield ReaderFault(
                STOPS, tensor.name, tensor.file, does, "mfconv export MODEL TARGET --to weight_converters writes a list that runs."
            )
        elif "experts" in tensor.name and "shared_experts" not in tensor.name and not _takes_experts(op):
            does = f"asks for an ExpertsConvertOp that takes it, finds {op.name}, and stops (Can not find the weight name)"
            yield ReaderFault(
                STOPS, tensor.name, tensor.file, does, "Name it without the word 'experts', or stack it by an ExpertsConvertOp."
            )
