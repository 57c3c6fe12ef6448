"""assign: the weights of a checkpoint straight into a network, one tensor at a time. Nothing is changed before everything fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfconv_nb.core.checkpoint import MF, SIDE_NAMES, Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import CASTABLE, dtype_after_cast, itemsize, requested_dtype, short_name
from mfconv_nb.core.errors import Lines, MappingError, OutputError, quote
from mfconv_nb.core.folding import fold, folded_name, folded_names
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.progress import OnProgress, progress_for
from mfconv_nb.core.report import Column, Result, Table, bytes_text, how_many, seconds_text, shape_text
from mfconv_nb.core.sources import ByteSource
from mfconv_nb.mapping.kinds import CACHE, LAYER_STATE, kind_of
from mfconv_nb.mapping.names import Pattern, parse_pattern
from mfconv_nb.mapping.rules import Drop
from mfconv_nb.networks.slots import Bytes, Network, Slot, network_of
from mfconv_nb.steps.comparing.diff import shape_hint
from mfconv_nb.steps.converting.mapped_checkpoint import plan_of
from mfconv_nb.steps.converting.mapped_tensors import held_numbers
from mfconv_nb.steps.converting.names_in_memory import with_names_of
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.saving.save import check_equalities
from mfconv_nb.streaming.compare import compare_tensors
from mfconv_nb.streaming.gather import read_whole
from mfconv_nb.streaming.stored_checksums import check_stored_checksums

MISSING, UNEXPECTED, SHAPE, DTYPE = "missing", "unexpected", "shape", "dtype"
MAX_TOLD = 12  # folded lines of one kind in a message; `error.problems` has all of it


@makes_many_objects
def assign(
    checkpoint: Loadable, network: Any, *, strict: bool = True, dtype: str | None = None, progress: bool | OnProgress = True
) -> AssignReport:
    """Put the weights of a checkpoint into a network. Memory: one tensor beside the network's own.

    A torch Module gets new parameters, as `load_state_dict(assign=True)` gives it: one on the meta device becomes real, on the CPU. A
    MindSpore Cell gets them through `Parameter.set_data`. Tensors that the network knows under two names (a tied head) stay one. A
    source that can no longer be read on the way leaves the network with some of the new weights: everything else is checked before.

    Args:
        checkpoint: what ``load`` takes, mapped to the side of the network: ``mc.assign(mc.map(source, "llama"), cell)``.
        network: a torch Module or a MindSpore Cell.
        strict: refuse names that are missing or left over. False: what has a place is put there, and the report lists the rest. What
            networks of MindFormers hold beside their weights (counts of training, caches, constants with their numbers in them) is not
            asked for: it stays as it is, and is listed too.
            Shapes that differ are refused in any case.
        dtype: "fp32", "bf16" or "fp16" for the floating tensors of the network. Left out: the network's own; numbers are cast to it.
        progress: show a bar when it takes longer than half a second; or a function that is called with the bytes done so far.
    Raises:
        AssignError: MFC408 with everything that does not fit, before anything is changed. MappingError: MFC308 for tensors that must be
        equal, MFC310 for a checkpoint without values. InputError: MFC108 when a source changes. FormatError: MFC209 for one that does not
        fit the checksum that it carries.
    """
    begun = time.monotonic()
    source, target = load(checkpoint), network_of(network)
    source = with_names_of(source, target.by_name) if target.renames else source
    matched = match_slots(source, target, requested_dtype(dtype))
    _check_fit(matched, source, target, strict=strict)
    _check_values(matched, source)
    target.finish()  # before the weights: it may refuse
    with progress_for(progress, _bytes_of(matched.puts), "assigning") as bar:
        check_stored_checksums((m.tensor for m in matched.puts), progress=bar)
        done = 0
        for put in matched.puts:
            put.slot.put(put.dtype, _fill_with(put, bar, done))
            done += put.nbytes
    _check_sources(m.tensor for m in matched.puts)
    return AssignReport(matched, source.origin, target.label, time.monotonic() - begun)


@dataclass(frozen=True, slots=True)
class Put:
    """One tensor on its way: from the checkpoint, to the place it has in the network, in the dtype it has there."""

    tensor: LazyTensor
    slot: Slot
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.tensor.spec.elements * itemsize(self.dtype)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a name does not fit. ``kind`` is one of missing, unexpected, shape, dtype."""

    kind: str
    name: str
    found: str
    expected: str
    hint: str = ""


@dataclass(frozen=True)
class Matched:
    """What goes where, what does not fit, and pairs of tensors that go to one place and so must be equal."""

    puts: tuple[Put, ...]
    misfits: tuple[Misfit, ...]
    doubled: tuple[tuple[LazyTensor, LazyTensor], ...]

    def names_of(self, kind: str) -> tuple[str, ...]:
        return tuple(m.name for m in self.misfits if m.kind == kind)


class AssignError(OutputError):
    """The weights do not fit the network (MFC408). ``problems`` holds every name that does not, with what was found and expected."""

    def __init__(self, problems: tuple[Misfit, ...], *, where: str, hint: str) -> None:
        self.problems = problems
        found = Lines("\n            ".join(line for kind in (MISSING, UNEXPECTED, SHAPE, DTYPE) for line in _lines(problems, kind)))
        super().__init__("MFC408", where, found=found, expected="every tensor of the network once, in its shape", hint=hint)


# ---- what goes where ---------------------------------------------------------------------------------------------------


def match_slots(source: Checkpoint, target: Network, dtype: str | None) -> Matched:
    by_name = target.by_name
    puts: list[Put] = []
    misfits = [Misfit(UNEXPECTED, t.name, _spec_text(t.spec), "nothing in the network") for t in _unexpected_tensors(source, by_name)]
    doubled: list[tuple[LazyTensor, LazyTensor]] = []
    for slot in target.slots:
        given = [source.tensors[name] for name in slot.names if name in source.tensors]
        if not given:
            misfits.append(Misfit(MISSING, slot.names[0], "not in the checkpoint", _slot_text(slot)))
            continue
        doubled += [(given[0], other) for other in given[1:] if other.pieces != given[0].pieces]
        asked = slot.dtype if given[0].name in source.history.fixed_dtypes else dtype_after_cast(slot.dtype, dtype)
        misfits += _misfits_of(given, slot, asked)
        puts.append(Put(given[0], slot, asked))
    return Matched(tuple(puts), tuple(misfits), tuple(doubled))


def _unexpected_tensors(source: Checkpoint, by_name: Mapping[str, Slot]) -> list[LazyTensor]:
    """Tensors without a place, except those that are the same numbers of the same source as one that has a place: a tied head."""
    placed = {(t.shape, t.pieces) for t in source if t.name in by_name and t.pieces}
    return [t for t in source if t.name not in by_name and (t.shape, t.pieces) not in placed]


def _misfits_of(given: Iterable[LazyTensor], slot: Slot, dtype: str) -> list[Misfit]:
    found = []
    for tensor in given:
        if tensor.shape != slot.shape:
            shapes = shape_text(tensor.shape), shape_text(slot.shape)
            found.append(Misfit(SHAPE, tensor.name, *shapes, shape_hint(tensor.shape, slot.shape)))
        if tensor.dtype != dtype and not {tensor.dtype, dtype} <= CASTABLE:
            found.append(Misfit(DTYPE, tensor.name, short_name(tensor.dtype), short_name(dtype)))
    return found


def _spec_text(spec: TensorSpec) -> str:
    return f"{shape_text(spec.shape)} {short_name(spec.dtype)}"


def _slot_text(slot: Slot) -> str:
    return f"{shape_text(slot.shape)} {short_name(slot.dtype)}"


# ---- checks before the first change ------------------------------------------------------------------------------------


def _check_fit(matched: Matched, source: Checkpoint, target: Network, *, strict: bool) -> None:
    where = f"{source.origin} into {target.label}"
    if target.unfilled:
        hint = "Make the network on the CPU, or give only its parameters to the meta device."
        found = f"buffers on the meta device that no checkpoint has: {', '.join(folded_names(target.unfilled)[:4])}"
        raise OutputError("MFC408", where, found=found, expected="buffers with values", hint=hint)
    kinds = (SHAPE, DTYPE) if not strict and matched.puts else (MISSING, UNEXPECTED, SHAPE, DTYPE)
    left = _patterns_left_out(source) if target.side == MF and matched.puts else ()
    own = (
        {n for n in matched.names_of(MISSING) if _stays_as_it_is(target.by_name[n], left)} if target.side == MF and matched.puts else set()
    )
    refused = tuple(m for m in matched.misfits if m.kind in kinds and m.name not in own)
    if refused:
        raise AssignError(refused, where=where, hint=_hint(matched, source, target))


def _patterns_left_out(source: Checkpoint) -> tuple[tuple[Pattern, str], ...]:
    """What MindFormers' network holds beside the weights of this family, and which numbers it has to hold."""
    plan = plan_of(source)
    drops = (rule for rule in plan.family.rules if isinstance(rule, Drop) and rule.side == MF) if plan is not None else ()
    return tuple((parse_pattern(rule.pattern), rule.holds) for rule in drops)


def _stays_as_it_is(slot: Slot, left_out: Iterable[tuple[Pattern, str]]) -> bool:
    """Whether a tensor is no weight, so that no checkpoint has to give it: a count, a cache, or a constant that holds its numbers."""
    kind, (template, numbers) = kind_of(slot.names[0]), fold(slot.names[0])
    if kind in (LAYER_STATE, CACHE):
        return True
    of_family = (held for pattern, held in left_out if pattern.template == template and pattern.match(numbers) is not None)
    held = kind.numbers or next(of_family, None)
    if not held or slot.read is None:
        return held == ""
    return bool(np.array_equal(slot.read().reshape(-1), held_numbers(held, math.prod(slot.shape))))


def _hint(matched: Matched, source: Checkpoint, target: Network) -> str:
    """What to do, from what does not fit."""
    if source.side not in (None, target.side):
        return f"The names are those of {SIDE_NAMES[source.side or '']}: mc.assign(mc.map(checkpoint), network) gives the network its own."
    if not matched.puts:
        return "No name of the checkpoint is one of the network's: is it a part of the model, or a wrapper round it?"
    if matched.names_of(SHAPE):
        return "Is the network made from the config.json of these weights? mc.diff(checkpoint, network) shows both sides."
    if matched.names_of(DTYPE):
        return "Only floating numbers are cast. Make the network with the dtype of the weights."
    if target.renames and matched.names_of(MISSING) and matched.names_of(UNEXPECTED):
        return "transformers may join or rename tensors when it opens a folder (experts, say): mc.save to a folder, then from_pretrained."
    return "If that is as it should be: strict=False. mc.diff(checkpoint, network) shows both sides."


def _lines(problems: Iterable[Misfit], kind: str) -> list[str]:
    """The problems of one kind, folded: 32 layers are one line."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for p in problems:
        if p.kind == kind:
            groups.setdefault((fold(p.name)[0], p.found, p.expected, p.hint), []).append(p.name)
    lines = []
    for (_, found, expected, hint), names in list(groups.items())[:MAX_TOLD]:
        many = f" ({len(names):,} tensors)" if len(names) > 1 else ""
        told = {MISSING: expected, UNEXPECTED: found}.get(kind, f"{found}, the network has {expected}")
        lines.append(f"{kind}: {folded_name(names)}{many}: {told}{f' ({hint})' if hint else ''}")
    return [*lines, *([f"{kind}: {how_many(len(groups) - MAX_TOLD, 'more name pattern')}"] if len(groups) > MAX_TOLD else [])]


def _check_values(matched: Matched, source: Checkpoint) -> None:
    """Everything that could go wrong with the numbers, as far as it can be known before one is changed."""
    for put in matched.puts:
        if not put.tensor.pieces and put.tensor.spec.elements:
            raise MappingError("MFC310", quote(put.tensor.name), found="a name and a shape only", expected="a tensor with values")
    _check_sources(put.tensor for put in matched.puts)
    check_equalities(source)
    for (first, second), compared in zip(matched.doubled, compare_tensors(list(matched.doubled), 2), strict=True):
        if not compared.equal_bytes:
            found = f"{compared.differing:,} of {compared.elements:,} numbers differ from {quote(first.name)}"
            hint = "The network ties the two: untie them in its config, or leave one out."
            raise MappingError("MFC308", quote(second.name), found=found, expected="equal bytes: one tensor of the network", hint=hint)


def _check_sources(tensors: Iterable[LazyTensor]) -> None:
    sources: dict[int, ByteSource] = {id(p.source): p.source for t in tensors for p in t.pieces}
    for source in sources.values():
        source.check_unchanged()


def _fill_with(put: Put, bar: Callable[[int], None], done: int) -> Callable[[Bytes], None]:
    return lambda buffer: read_whole(put.tensor, put.dtype, buffer, lambda filled: bar(done + filled))


def _bytes_of(puts: Iterable[Put]) -> int:
    return sum(put.nbytes for put in puts)


# ---- the result --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class AssignReport(Result):
    """What was put into a network, and with ``strict=False`` what was not.

    Attributes:
        origin: where the weights are from; ``network``: what they went into.
    """

    matched: Matched
    origin: str
    network: str
    seconds: float

    @property
    def assigned(self) -> tuple[str, ...]:
        """Every name of the network that has its numbers from the checkpoint now, in the order of the network."""
        return tuple(name for put in self.matched.puts for name in put.slot.names)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the network that the checkpoint does not have: they are as they were."""
        return self.matched.names_of(MISSING)

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Names of the checkpoint that the network has no place for."""
        return self.matched.names_of(UNEXPECTED)

    @property
    def complete(self) -> bool:
        """True when every tensor of the network came from the checkpoint, and none was left over."""
        return not self.missing and not self.unexpected

    @property
    def casts(self) -> dict[tuple[str, str], int]:
        """Tensors by (dtype in the checkpoint, dtype in the network), where the two differ."""
        found: dict[tuple[str, str], int] = {}
        for put in self.matched.puts:
            if put.tensor.dtype != put.dtype:
                found[put.tensor.dtype, put.dtype] = found.get((put.tensor.dtype, put.dtype), 0) + 1
        return found

    def table(self) -> Table:
        size = _bytes_of(self.matched.puts)
        tensors = how_many(len(self.matched.puts), "tensor")
        headline = f"{tensors}, {bytes_text(size)}, {seconds_text(self.seconds)} · {self.origin} → {self.network}"
        facts = [f"cast: {how_many(n, 'tensor')} from {short_name(a)} to {short_name(b)}" for (a, b), n in self.casts.items()]
        facts += [f"one tensor: {' and '.join(put.slot.names)}" for put in self.matched.puts if len(put.slot.names) > 1]
        facts += [line for kind in (MISSING, UNEXPECTED) for line in _lines(self.matched.misfits, kind)]
        columns = (Column("name"), Column("tensors", True), Column("shape", True), Column("dtype"), Column("bytes", True))
        verdict = "✓ Assigned." if self.complete else "! Assigned in part."
        return Table(verdict, headline, columns, self._fold_rows(), tuple(facts), row_noun="name patterns")

    def _fold_rows(self) -> list[tuple[Any, ...]]:
        groups: dict[tuple[str, tuple[int, ...], str], list[Put]] = {}
        for put in self.matched.puts:
            groups.setdefault((fold(put.slot.names[0])[0], put.slot.shape, put.dtype), []).append(put)
        return [
            (folded_name([p.slot.names[0] for p in puts]), len(puts), shape_text(shape), short_name(dtype), bytes_text(_bytes_of(puts)))
            for (_, shape, dtype), puts in groups.items()
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict a tensor of the network, and one for each that did not fit."""
        puts = [
            {"name": name, "status": "assigned", "from": put.tensor.name, "shape": put.slot.shape, "dtype": put.dtype}
            for put in self.matched.puts
            for name in put.slot.names
        ]
        return puts + [{"name": m.name, "status": m.kind, "found": m.found, "expected": m.expected} for m in self.matched.misfits]
