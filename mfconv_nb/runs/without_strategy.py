"""No strategy file left: how tensors were cut, from the shapes of the slices and of the whole, and from which slices are equal.

A cut is proposed where one axis of the slices is shorter than the whole, by a factor that fits the number of ranks. Which ranks hold
copies is proven where checksums of their slices tell; the order of the parts is never proven: it is that of the ranks, as MindSpore
counts them. Every sentence in ``assumed`` says which of the two holds.

Refuses (MFC114): tensors whose whole shape is not known, two axes that are cut at once, factors that do not fit the ranks, and ranks
that hold equal slices where no device matrix puts copies: then a file lies in the folder of another rank.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.errors import InputError, MfconvError, on_one_line, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import how_many
from mfconv_nb.mapping.adapters import half_of, is_adapter
from mfconv_nb.mapping.kinds import COUNTERS, is_run_state, kind_of, weight_of
from mfconv_nb.runs.rank_tensors import held_whole
from mfconv_nb.runs.run import Slice, SlicedTensor
from mfconv_nb.runs.slices import Box

Digest = Callable[[LazyTensor], object]  # equal for tensors of equal bytes
HINT_GIVE = "Give the strategy files with --strategy, or the model's config with --config, which tells the whole shapes."
HINT_SHAPES = "Give the strategy files with --strategy, or the config.json of the model, which says its class too, with --config."
HINT_STRATEGY = "Give the strategy files with --strategy."
KINDS_COMPARED = 8  # of names, to see whether parts are copies: one alone may be all zeros
RANKS_SHOWN = 8
MAX_COMPARED_BYTES = 64 << 20  # of a slice whose checksum is taken: the smaller ones of a kind prove as much


@dataclass(frozen=True)
class Guess:
    """What was concluded: the tensors with their boxes, what could not be, what is assumed, in sentences; state of the run left out."""

    tensors: Mapping[str, SlicedTensor] = field(default_factory=dict)
    problems: tuple[MfconvError, ...] = ()
    assumed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Cut:
    """An axis that is cut into ``parts``, over these ranks."""

    axis: int
    parts: int
    ranks: tuple[int, ...]

    @property
    def copies(self) -> int:
        return len(self.ranks) // self.parts

    @property
    def kind(self) -> _Kind:
        return self.parts, self.ranks


_Kind = tuple[int, tuple[int, ...]]  # the number of parts, and the ranks they are on
_Parts = tuple[int, ...]  # for every rank the part that it holds


def guess_slicings(
    held: Mapping[str, Mapping[int, LazyTensor]],
    shapes: Mapping[str, Shape],
    where: Path,
    digest: Digest | None = None,
    unknown_since: MfconvError | None = None,
) -> Guess:
    """Propose how every tensor was cut.

    Args:
        held: by name what each rank has of a tensor.
        shapes: of the whole tensors. Optimizer state has the shape of its weight; counters are whole.
        where: the folder, for messages.
        digest: a checksum of a tensor's numbers. It is asked where a tensor is cut into fewer parts than there are ranks, and for a few
            tensors of every cut, to see that the parts are no copies.
        unknown_since: why a config that was given does not tell the shapes.
    """
    cuts: dict[str, _Cut | None] = {}
    problems: list[MfconvError] = []
    if not shapes:
        found = f"{how_many(max(len(r) for r in held.values()), 'rank')} and no strategy file" if held else "no tensor"
        if unknown_since is None:
            return Guess(problems=(InputError("MFC114", where, found=found, expected="how the tensors were cut", hint=HINT_GIVE),))
        found += f", and the config does not tell the whole shapes: {on_one_line(str(unknown_since).partition(chr(10))[0])}"
        hint = f"{HINT_STRATEGY[:-1]}, or the config of this model with --config."
        return Guess(problems=(InputError("MFC114", where, found=found, expected="how the tensors were cut", hint=hint),))
    untold = [n for n in held if _whole_shape(n, held[n], shapes) is None]
    state = [n for n in untold if is_run_state(n)]
    unknown = [n for n in untold if not is_run_state(n)]
    if unknown:
        found = f"{how_many(len(unknown), 'tensor')} whose whole shape is not known; first {quoted(unknown[0])}"
        problems.append(InputError("MFC114", where, found=found, expected="a strategy file, or the shape of each", hint=HINT_SHAPES))
    wholes = {n: shape for n, ranks in held.items() if (shape := _whole_shape(n, ranks, shapes)) is not None}
    for name, whole in wholes.items():
        cut = _cut_of(name, held[name], whole)
        if isinstance(cut, MfconvError):
            problems.append(cut)
        else:
            cuts[name] = cut
    if digest is not None:
        problems += _taken_for_parts(held, cuts, wholes, digest)
    proofs = _proofs(held, cuts, digest)
    kinds = _by_kind(cuts, proofs)
    problems += [_contradiction(n, c) for n, c in cuts.items() if c is not None and n not in proofs and len(kinds.get(c.kind, ())) > 1]
    chosen = {kind: next(iter(copies)) for kind, copies in kinds.items()}
    orders: dict[tuple[_Kind, _Parts | None], _Parts | None] = {}
    tensors: dict[str, SlicedTensor] = {}
    for name, cut in cuts.items():
        if cut is None:
            tensors[name] = held_whole(name, held[name])
            continue
        copies = proofs.get(name) or chosen.get(cut.kind)
        key = cut.kind, copies
        if key not in orders:
            orders[key] = _in_order(cut, copies)
            if orders[key] is None:
                problems.append(_no_order(name, cut, copies))
        parts = orders[key]
        if parts is not None:
            tensors[name] = _sliced(name, held[name], wholes[name], cut, parts)
    return Guess(tensors, tuple(problems), _assumed(cuts, proofs), tuple(state))


def _whole_shape(name: str, ranks: Mapping[int, LazyTensor], shapes: Mapping[str, Shape]) -> Shape | None:
    if name in shapes:
        return tuple(shapes[name])
    held = next(iter(ranks.values())).shape
    if name in COUNTERS or kind_of(weight_of(name) or name).numbers:
        return held
    of_weight = weight_of(name) or name
    if of_weight in shapes:
        whole = tuple(shapes[of_weight])
        is_cut_alike = len(held) == len(whole) and (math.prod(held) > 1 or math.prod(whole) == 1)
        return whole if of_weight == name or is_cut_alike else None  # some optimizers keep rows and columns only
    half = half_of(of_weight)
    weight = shapes.get(half.weight, ()) if half is not None else ()
    if half is None or len(weight) != 2 or len(held) != 2:
        return None
    return (held[0], weight[1]) if half.half == "a" else (weight[0], held[1])  # what is no axis of the weight is the rank


def _cut_of(name: str, ranks: Mapping[int, LazyTensor], whole: Shape) -> _Cut | MfconvError | None:
    """The axis that is cut; None where every rank holds the whole."""

    def refuse(found: str, expected: str, hint: str = HINT_STRATEGY) -> MfconvError:
        return InputError("MFC114", quoted(name), found=found, expected=expected, hint=hint)

    if len({(t.shape, t.dtype) for t in ranks.values()}) > 1:
        shown = ", ".join(sorted({f"{list(t.shape)} of {t.dtype}" for t in ranks.values()})[:4])
        return refuse(f"slices of {shown}", "slices of one shape")
    shape = next(iter(ranks.values())).shape
    if shape == whole:
        return None
    if len(shape) != len(whole) or any(n == 0 or w % n for n, w in zip(shape, whole, strict=True)):
        return refuse(f"slices of {list(shape)}", f"parts of {list(whole)}")
    cut = [axis for axis, (n, w) in enumerate(zip(shape, whole, strict=True)) if n != w]
    if len(cut) > 1:
        return refuse(
            f"slices of {list(shape)} of a tensor of {list(whole)}: {len(cut)} axes are cut", "one axis, where no strategy says more"
        )
    parts = whole[cut[0]] // shape[cut[0]]
    if len(ranks) % parts:
        hint = f"Without strategy files nothing counts the ranks: the folder of rank {max(ranks) + 1} may be missing. {HINT_STRATEGY}"
        return refuse(
            f"{how_many(len(ranks), 'rank')} with a slice of it", f"a multiple of the {parts} parts of {list(shape)} in {list(whole)}", hint
        )
    return _Cut(cut[0], parts, tuple(sorted(ranks)))


# ---- which ranks hold copies ---------------------------------------------------------------------------------------------------


def _proofs(held: Mapping[str, Mapping[int, LazyTensor]], cuts: Mapping[str, _Cut | None], digest: Digest | None) -> dict[str, _Parts]:
    """For tensors in fewer parts than ranks: which part each rank holds, by equal checksums, where they tell all parts apart."""
    proven: dict[str, _Parts] = {}
    if digest is None:
        return proven
    for name, cut in cuts.items():
        if cut is None or cut.copies == 1 or held[name][cut.ranks[0]].spec.nbytes > MAX_COMPARED_BYTES:
            continue
        parts = _numbered([digest(held[name][rank]) for rank in cut.ranks])
        if _is_even(parts, cut.parts):
            proven[name] = parts
    return proven


def _taken_for_parts(
    held: Mapping[str, Mapping[int, LazyTensor]], cuts: Mapping[str, _Cut | None], wholes: Mapping[str, Shape], digest: Digest
) -> list[MfconvError]:
    """MFC114 where the ranks hold fewer different slices than there would be parts.

    Then copies are taken for parts, and the whole shapes are those of a larger model. Compared is the smallest tensor of each of a few
    names, until they tell as many ranks apart as there are parts.
    """
    kinds: dict[_Kind, dict[str, str]] = {}
    for name, cut in sorted(cuts.items(), key=lambda item: held[item[0]][min(held[item[0]])].spec.nbytes):
        if cut is not None and held[name][cut.ranks[0]].spec.nbytes <= MAX_COMPARED_BYTES:
            kinds.setdefault(cut.kind, {}).setdefault(fold(name)[0], name)
    problems: list[MfconvError] = []
    for (parts, ranks), by_template in kinds.items():
        names = sorted(by_template.values(), key=lambda n: len(wholes[n]) < 2)[:KINDS_COMPARED]  # vectors last: they are often constant
        alike: list[tuple[int, ...]] = [ranks]
        for name in names:
            if len(alike) < parts:
                alike = [group for several in alike for group in _equal(several, held[name], digest)]
        if len(alike) < parts:
            name, (one, other, *_) = names[0], max(alike, key=len)
            found = f"ranks {one} and {other} hold equal slices {list(held[name][one].shape)}"
            expected = f"{parts} different parts of {list(wholes[name])}, which the config says"
            hint = f"They look like copies: is it the config of a larger model? {HINT_STRATEGY}"
            problems.append(InputError("MFC114", quoted(name), found=found, expected=expected, hint=hint))
    return problems


def _equal(ranks: Sequence[int], held: Mapping[int, LazyTensor], digest: Digest) -> list[tuple[int, ...]]:
    """Ranks whose slices of a tensor are equal, together."""
    groups: dict[object, list[int]] = {}
    for rank in ranks:
        groups.setdefault(digest(held[rank]), []).append(rank)
    return [tuple(group) for group in groups.values()]


def _by_kind(cuts: Mapping[str, _Cut | None], proofs: Mapping[str, _Parts]) -> dict[_Kind, dict[_Parts, None]]:
    """What was proven for tensors cut into as many parts over the same ranks; one pattern nearly always."""
    kinds: dict[_Kind, dict[_Parts, None]] = {}
    for name, parts in proofs.items():
        cut = cuts[name]
        if cut is not None:
            kinds.setdefault(cut.kind, {})[parts] = None
    return kinds


def _contradiction(name: str, cut: _Cut) -> InputError:
    found = f"{cut.parts} parts over {len(cut.ranks)} ranks; tensors alike have their copies on different ranks"
    return InputError("MFC114", quoted(name), found=found, expected="one pattern, or slices that differ", hint=HINT_STRATEGY)


# ---- which part each rank holds ------------------------------------------------------------------------------------------------


def _in_order(cut: _Cut, copies: _Parts | None) -> _Parts | None:
    """For every rank its part, the parts in the order of the ranks; None where the ranks tell no order, or several.

    Args:
        cut: the axis, and the ranks that have the tensor.
        copies: which ranks hold copies, where that is proven; else the parts are innermost and the copies outermost, as in tensor
            parallelism.
    """
    ranks, parts = cut.ranks, cut.parts
    all_of_a_stage = ranks[0] % len(ranks) == 0 and ranks == tuple(range(ranks[0], ranks[0] + len(ranks)))
    if all_of_a_stage:
        if copies is None:
            return _innermost(parts, len(ranks))
        return copies if _of_a_device_matrix(copies) else None
    found = {order for width in range(1, ranks[-1] + 1) if _is_even(order := tuple(rank // width % parts for rank in ranks), parts)}
    if copies is not None:
        found = {order for order in found if _numbered(order) == copies}
    return found.pop() if len(found) == 1 else None


def _innermost(parts: int, ranks: int) -> _Parts:
    """The parts of tensor parallelism, which MindFormers puts into the innermost axis of the device matrix: 0, 1, 0, 1."""
    return tuple(rank % parts for rank in range(ranks))


def _is_even(parts: _Parts, count: int) -> bool:
    return len(set(parts)) == count and len(set(Counter(parts).values())) == 1


def _numbered(keys: Sequence[object]) -> _Parts:
    """Equal keys get equal numbers, counted in the order in which they come."""
    first: dict[object, int] = {}
    return tuple(first.setdefault(key, len(first)) for key in keys)


def _of_a_device_matrix(parts: _Parts) -> bool:
    """Whether the ranks of a device matrix, of whatever axes, hold these parts: from block to block they repeat, or go on counting."""
    if len(parts) == 1:
        return True
    for blocks in range(2, len(parts) + 1):
        size, rest = divmod(len(parts), blocks)
        first = parts[:size]
        for step in (0, len(set(first))):
            if rest == 0 and parts == tuple(part + block * step for block in range(blocks) for part in first):
                return _of_a_device_matrix(first)
    return False


def _no_order(name: str, cut: _Cut, copies: _Parts | None) -> InputError:
    if copies is None:
        found, expected = f"of {cut.parts} parts only those of {_ranks(cut.ranks)}", "all ranks of a stage: these tell no order"
        hint = f"Fetch the folders of the other ranks. Or: {HINT_STRATEGY}"
    else:
        found, expected = f"equal slices on {_alike(cut.ranks, copies)}", f"copies as a device matrix puts them over {_ranks(cut.ranks)}"
        hint = f"A file may lie in the folder of another rank, or a rank may be missing. {HINT_STRATEGY}"
    return InputError("MFC114", quoted(name), found=found, expected=expected, hint=hint)


def _alike(ranks: Sequence[int], copies: _Parts) -> str:
    """The ranks that hold the same part as the first."""
    return _ranks([rank for rank, part in zip(ranks, copies, strict=True) if part == copies[0]])


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) > RANKS_SHOWN:
        return f"ranks {', '.join(map(str, ranks[:RANKS_SHOWN]))} … {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _sliced(name: str, ranks: Mapping[int, LazyTensor], whole: Shape, cut: _Cut, parts: _Parts) -> SlicedTensor:
    first = next(iter(ranks.values()))
    slices = []
    for rank, part in zip(cut.ranks, parts, strict=True):
        offset = tuple(part * n if axis == cut.axis else 0 for axis, n in enumerate(first.shape))
        slices.append(Slice(rank, Box(offset, first.shape), ranks[rank]))
    return SlicedTensor(name, whole, first.dtype, tuple(slices))


# ---- what is assumed -----------------------------------------------------------------------------------------------------------


def _assumed(cuts: Mapping[str, _Cut | None], proofs: Mapping[str, _Parts]) -> tuple[str, ...]:
    """A sentence for every kind of cut: what the shapes say, what equal slices prove, and what nothing proves."""
    said: list[str] = []
    halves = [n for n in cuts if is_adapter(n)]
    if halves:
        said.append(f"not cut along the rank: {how_many(len(halves), 'adapter tensor')}, such as {quoted(halves[0])}")
    whole = [n for n, cut in cuts.items() if cut is None]
    if whole:
        said.append(f"not cut, whole on each rank that has it: {how_many(len(whole), 'tensor')}; a save compares the copies")
    groups: dict[tuple[int, _Kind], list[str]] = {}
    for name, cut in cuts.items():
        if cut is not None:
            groups.setdefault((cut.axis, cut.kind), []).append(name)
    for (axis, kind), names in groups.items():
        parts, _ = kind
        head = f"cut in {parts} parts along axis {axis}, as the shapes show: {how_many(len(names), 'tensor')}, such as {quoted(names[0])}"
        said.append(f"{head}; {_order(kind, [n for n, c in cuts.items() if c is not None and c.kind == kind], proofs)}")
    return tuple(said)


def _order(kind: _Kind, names: Sequence[str], proofs: Mapping[str, _Parts]) -> str:
    parts, ranks = kind
    assumed = "that the parts lie in the order of the ranks is assumed"
    if len(ranks) == parts:
        return assumed
    proven = [n for n in names if n in proofs]
    copies = next((c for n in names if (c := proofs.get(n)) is not None and c != _innermost(parts, len(ranks))), None)
    if copies is not None:
        same = _alike(ranks, copies)
        assumed += (
            f", and that no file lies in the folder of another rank: equal slices are on {same}, where tensor parallelism has no copies"
        )
    if len(proven) == len(names):
        return f"which ranks hold copies is proven by equal slices; {assumed}"
    if proven:
        some = f"of {len(proven):,} of {len(names):,} tensors"
        return f"which ranks hold copies is proven by equal slices {some}; for the rest it is assumed; {assumed}"
    return f"that ranks {ranks[0]} and {ranks[parts]} hold copies, and so on, is assumed; {assumed}"
