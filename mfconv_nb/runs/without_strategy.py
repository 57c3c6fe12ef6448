"""Infer how tensors are cut when no strategy file is left: from the shapes of slices and wholes, and from equal slices.

An axis counts as cut where it is shorter in the slices than in the whole, by a factor that fits the number of ranks. Equal checksums
prove which ranks hold copies. Nothing proves the order of the parts: it is assumed to be the order of the ranks, as MindSpore counts them.
Every sentence in ``assumed`` says what is proven and what is assumed.

Refuses (MFC114): tensors whose whole shape is not known, two axes that are cut at once, factors that do not fit the ranks, and equal
slices on ranks where no device matrix puts copies: then a file lies in the folder of another rank.
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
from mfconv_nb.runs.rank_tensors import whole_on_ranks
from mfconv_nb.runs.run import Slice, SlicedTensor
from mfconv_nb.runs.slices import Box

Digest = Callable[[LazyTensor], object]  # equal for tensors of equal bytes
HINT_GIVE = "Give the strategy files with --strategy, or the model's config with --config, which tells the whole shapes."
HINT_SHAPES = "Give the strategy files with --strategy, or the config.json of the model, which says its class too, with --config."
HINT_STRATEGY = "Give the strategy files with --strategy."
KINDS_COMPARED = 8  # of names, to find copies among parts: one alone may be all zeros
RANKS_SHOWN = 8
MAX_COMPARED_BYTES = 64 << 20  # larger slices are not read for a checksum: the smaller ones of a kind prove as much


@dataclass(frozen=True)
class Guess:
    """The tensors with their boxes; what is wrong; sentences on what is assumed; names of run state that is left out."""

    tensors: Mapping[str, SlicedTensor] = field(default_factory=dict)
    problems: tuple[MfconvError, ...] = ()
    assumed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Cut:
    """An axis that is cut into ``parts``, and the ranks that hold them."""

    axis: int
    parts: int
    ranks: tuple[int, ...]

    @property
    def copies(self) -> int:
        return len(self.ranks) // self.parts

    @property
    def spread(self) -> _Spread:
        return self.parts, self.ranks


_Spread = tuple[int, tuple[int, ...]]  # the number of parts, and the ranks they are on
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
        digest: gives a checksum of a tensor's numbers. It is called where a tensor is cut into fewer parts than there are ranks, and for a
            few tensors of every cut, to check that the parts are no copies.
        unknown_since: why the given config does not give the shapes.
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
    wholes = {n: shape for n, ranks in held.items() if (shape := _whole_shape(n, ranks, shapes)) is not None}
    state = [n for n in held if n not in wholes and is_run_state(n)]
    unknown = [n for n in held if n not in wholes and not is_run_state(n)]
    if unknown:
        found = f"{how_many(len(unknown), 'tensor')} whose whole shape is not known; first {quoted(unknown[0])}"
        problems.append(InputError("MFC114", where, found=found, expected="a strategy file, or the shape of each", hint=HINT_SHAPES))
    for name, whole in wholes.items():
        try:
            cuts[name] = _cut_of(name, held[name], whole)
        except InputError as error:
            problems.append(error)
    if digest is not None:
        problems += _errors_on_equal_parts(held, cuts, wholes, digest)
    proofs = _prove_copies(held, cuts, digest)
    spreads = _group_by_spread(cuts, proofs)
    problems += [
        _contradiction_error(n, c) for n, c in cuts.items() if c is not None and n not in proofs and len(spreads.get(c.spread, ())) > 1
    ]
    chosen = {spread: next(iter(copies)) for spread, copies in spreads.items()}
    orders: dict[tuple[_Spread, _Parts | None], _Parts | None] = {}
    tensors: dict[str, SlicedTensor] = {}
    for name, cut in cuts.items():
        if cut is None:
            tensors[name] = whole_on_ranks(name, held[name])
            continue
        copies = proofs.get(name) or chosen.get(cut.spread)
        key = cut.spread, copies
        if key not in orders:
            orders[key] = _order_parts(cut, copies)
            if orders[key] is None:
                problems.append(_no_order_error(name, cut, copies))
        parts = orders[key]
        if parts is not None:
            tensors[name] = _sliced_tensor(name, held[name], wholes[name], cut, parts)
    return Guess(tensors, tuple(problems), _assumption_sentences(cuts, proofs), tuple(state))


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
        return whole if of_weight == name or is_cut_alike else None  # some optimizers keep one number a row and a column
    half = half_of(of_weight)
    weight = shapes.get(half.weight, ()) if half is not None else ()
    if half is None or len(weight) != 2 or len(held) != 2:
        return None
    return (held[0], weight[1]) if half.half == "a" else (weight[0], held[1])  # the other axis is the adapter's rank


def _cut_of(name: str, ranks: Mapping[int, LazyTensor], whole: Shape) -> _Cut | None:
    """The axis that is cut; None where every rank holds the whole. Raises InputError (MFC114) where no single axis explains the slices."""

    def refuse(found: str, expected: str, hint: str = HINT_STRATEGY) -> InputError:
        return InputError("MFC114", quoted(name), found=found, expected=expected, hint=hint)

    if len({(t.shape, t.dtype) for t in ranks.values()}) > 1:
        shown = ", ".join(sorted({f"{list(t.shape)} of {t.dtype}" for t in ranks.values()})[:4])
        raise refuse(f"slices of {shown}", "slices of one shape")
    shape = next(iter(ranks.values())).shape
    if shape == whole:
        return None
    if len(shape) != len(whole) or any(n == 0 or w % n for n, w in zip(shape, whole, strict=True)):
        raise refuse(f"slices of {list(shape)}", f"parts of {list(whole)}")
    cut = [axis for axis, (n, w) in enumerate(zip(shape, whole, strict=True)) if n != w]
    if len(cut) > 1:
        raise refuse(
            f"slices of {list(shape)} of a tensor of {list(whole)}: {len(cut)} axes are cut", "one axis, where no strategy says more"
        )
    parts = whole[cut[0]] // shape[cut[0]]
    if len(ranks) % parts:
        hint = f"Without strategy files nothing counts the ranks: the folder of rank {max(ranks) + 1} may be missing. {HINT_STRATEGY}"
        raise refuse(
            f"{how_many(len(ranks), 'rank')} with a slice of it", f"a multiple of the {parts} parts of {list(shape)} in {list(whole)}", hint
        )
    return _Cut(cut[0], parts, tuple(sorted(ranks)))


# ---- which ranks hold copies ---------------------------------------------------------------------------------------------------


def _prove_copies(
    held: Mapping[str, Mapping[int, LazyTensor]], cuts: Mapping[str, _Cut | None], digest: Digest | None
) -> dict[str, _Parts]:
    """Which part each rank holds, by equal checksums; for tensors in fewer parts than ranks whose parts all differ."""
    proven: dict[str, _Parts] = {}
    if digest is None:
        return proven
    for name, cut in cuts.items():
        if cut is None or cut.copies == 1 or held[name][cut.ranks[0]].spec.nbytes > MAX_COMPARED_BYTES:
            continue
        parts = _number_equal_keys([digest(held[name][rank]) for rank in cut.ranks])
        if _is_even(parts, cut.parts):
            proven[name] = parts
    return proven


def _errors_on_equal_parts(
    held: Mapping[str, Mapping[int, LazyTensor]], cuts: Mapping[str, _Cut | None], wholes: Mapping[str, Shape], digest: Digest
) -> list[MfconvError]:
    """MFC114 where the ranks hold fewer different slices than there should be parts.

    Then copies were taken for parts, and the whole shapes are those of a larger model. Compares the smallest tensor of each of a few
    names, until as many ranks differ as there are parts.
    """
    spreads: dict[_Spread, dict[str, str]] = {}
    for name, cut in sorted(cuts.items(), key=lambda item: held[item[0]][min(held[item[0]])].spec.nbytes):
        if cut is not None and held[name][cut.ranks[0]].spec.nbytes <= MAX_COMPARED_BYTES:
            spreads.setdefault(cut.spread, {}).setdefault(fold(name)[0], name)
    problems: list[MfconvError] = []
    for (parts, ranks), by_template in spreads.items():
        names = sorted(by_template.values(), key=lambda n: len(wholes[n]) < 2)[:KINDS_COMPARED]  # vectors last: they are often constant
        alike: list[tuple[int, ...]] = [ranks]
        for name in names:
            if len(alike) < parts:
                alike = [group for several in alike for group in _group_equal(several, held[name], digest)]
        if len(alike) < parts:
            name, (one, other, *_) = names[0], max(alike, key=len)
            found = f"ranks {one} and {other} hold equal slices {list(held[name][one].shape)}"
            expected = f"{parts} different parts of {list(wholes[name])}, which the config says"
            hint = f"They look like copies: is it the config of a larger model? {HINT_STRATEGY}"
            problems.append(InputError("MFC114", quoted(name), found=found, expected=expected, hint=hint))
    return problems


def _group_equal(ranks: Sequence[int], held: Mapping[int, LazyTensor], digest: Digest) -> list[tuple[int, ...]]:
    """Group ranks whose slices of a tensor are equal."""
    groups: dict[object, list[int]] = {}
    for rank in ranks:
        groups.setdefault(digest(held[rank]), []).append(rank)
    return [tuple(group) for group in groups.values()]


def _group_by_spread(cuts: Mapping[str, _Cut | None], proofs: Mapping[str, _Parts]) -> dict[_Spread, dict[_Parts, None]]:
    """The proven patterns of copies, for each number of parts and ranks; nearly always one pattern."""
    spreads: dict[_Spread, dict[_Parts, None]] = {}
    for name, parts in proofs.items():
        cut = cuts[name]
        if cut is not None:
            spreads.setdefault(cut.spread, {})[parts] = None
    return spreads


def _contradiction_error(name: str, cut: _Cut) -> InputError:
    found = f"{cut.parts} parts over {len(cut.ranks)} ranks; tensors alike have their copies on different ranks"
    return InputError("MFC114", quoted(name), found=found, expected="one pattern, or slices that differ", hint=HINT_STRATEGY)


# ---- which part each rank holds ------------------------------------------------------------------------------------------------


def _order_parts(cut: _Cut, copies: _Parts | None) -> _Parts | None:
    """For every rank its part, the parts in the order of the ranks; None where the ranks fit no order, or several.

    Args:
        cut: the axis, and the ranks that have the tensor.
        copies: which ranks hold copies, where that is proven; else parts count innermost and copies outermost, as in tensor parallelism.
    """
    ranks, parts = cut.ranks, cut.parts
    all_of_a_stage = ranks[0] % len(ranks) == 0 and ranks == tuple(range(ranks[0], ranks[0] + len(ranks)))
    if all_of_a_stage:
        if copies is None:
            return _innermost_parts(parts, len(ranks))
        return copies if _is_of_device_matrix(copies) else None
    found = {order for width in range(1, ranks[-1] + 1) if _is_even(order := tuple(rank // width % parts for rank in ranks), parts)}
    if copies is not None:
        found = {order for order in found if _number_equal_keys(order) == copies}
    return found.pop() if len(found) == 1 else None


def _innermost_parts(parts: int, ranks: int) -> _Parts:
    """The parts of tensor parallelism, which MindFormers puts into the innermost axis of the device matrix: 0, 1, 0, 1."""
    return tuple(rank % parts for rank in range(ranks))


def _is_even(parts: _Parts, count: int) -> bool:
    return len(set(parts)) == count and len(set(Counter(parts).values())) == 1


def _number_equal_keys(keys: Sequence[object]) -> _Parts:
    """Number the keys in order of appearance; equal keys get equal numbers."""
    first: dict[object, int] = {}
    return tuple(first.setdefault(key, len(first)) for key in keys)


def _is_of_device_matrix(parts: _Parts) -> bool:
    """Whether some device matrix puts the parts on the ranks like this: from block to block they repeat, or go on counting."""
    if len(parts) == 1:
        return True
    for blocks in range(2, len(parts) + 1):
        size, rest = divmod(len(parts), blocks)
        first = parts[:size]
        for step in (0, len(set(first))):
            if rest == 0 and parts == tuple(part + block * step for block in range(blocks) for part in first):
                return _is_of_device_matrix(first)
    return False


def _no_order_error(name: str, cut: _Cut, copies: _Parts | None) -> InputError:
    if copies is None:
        found, expected = f"of {cut.parts} parts only those of {_ranks_text(cut.ranks)}", "all ranks of a stage: these tell no order"
        hint = f"Fetch the folders of the other ranks. Or: {HINT_STRATEGY}"
    else:
        found, expected = (
            f"equal slices on {_alike_text(cut.ranks, copies)}",
            f"copies as a device matrix puts them over {_ranks_text(cut.ranks)}",
        )
        hint = f"A file may lie in the folder of another rank, or a rank may be missing. {HINT_STRATEGY}"
    return InputError("MFC114", quoted(name), found=found, expected=expected, hint=hint)


def _alike_text(ranks: Sequence[int], copies: _Parts) -> str:
    """The ranks that hold the same part as the first, as text."""
    return _ranks_text([rank for rank, part in zip(ranks, copies, strict=True) if part == copies[0]])


def _ranks_text(ranks: Sequence[int]) -> str:
    if len(ranks) > RANKS_SHOWN:
        return f"ranks {', '.join(map(str, ranks[:RANKS_SHOWN]))} … {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _sliced_tensor(name: str, ranks: Mapping[int, LazyTensor], whole: Shape, cut: _Cut, parts: _Parts) -> SlicedTensor:
    first = next(iter(ranks.values()))
    slices = []
    for rank, part in zip(cut.ranks, parts, strict=True):
        offset = tuple(part * n if axis == cut.axis else 0 for axis, n in enumerate(first.shape))
        slices.append(Slice(rank, Box(offset, first.shape), ranks[rank]))
    return SlicedTensor(name, whole, first.dtype, tuple(slices))


# ---- what is assumed -----------------------------------------------------------------------------------------------------------


def _assumption_sentences(cuts: Mapping[str, _Cut | None], proofs: Mapping[str, _Parts]) -> tuple[str, ...]:
    """A sentence for every kind of cut: what the shapes show, what equal slices prove, and what nothing proves."""
    said: list[str] = []
    halves = [n for n in cuts if is_adapter(n)]
    if halves:
        said.append(f"not cut along the rank: {how_many(len(halves), 'adapter tensor')}, such as {quoted(halves[0])}")
    whole = [n for n, cut in cuts.items() if cut is None]
    if whole:
        said.append(f"not cut, whole on each rank that has it: {how_many(len(whole), 'tensor')}; a save compares the copies")
    groups: dict[tuple[int, _Spread], list[str]] = {}
    for name, cut in cuts.items():
        if cut is not None:
            groups.setdefault((cut.axis, cut.spread), []).append(name)
    for (axis, spread), names in groups.items():
        parts, _ = spread
        head = f"cut in {parts} parts along axis {axis}, as the shapes show: {how_many(len(names), 'tensor')}, such as {quoted(names[0])}"
        said.append(f"{head}; {_order_text(spread, [n for n, c in cuts.items() if c is not None and c.spread == spread], proofs)}")
    return tuple(said)


def _order_text(spread: _Spread, names: Sequence[str], proofs: Mapping[str, _Parts]) -> str:
    parts, ranks = spread
    assumed = "that the parts lie in the order of the ranks is assumed"
    if len(ranks) == parts:
        return assumed
    proven = [n for n in names if n in proofs]
    copies = next((c for n in names if (c := proofs.get(n)) is not None and c != _innermost_parts(parts, len(ranks))), None)
    if copies is not None:
        same = _alike_text(ranks, copies)
        assumed += (
            f", and that no file lies in the folder of another rank: equal slices are on {same}, where tensor parallelism has no copies"
        )
    if len(proven) == len(names):
        return f"which ranks hold copies is proven by equal slices; {assumed}"
    if proven:
        some = f"of {len(proven):,} of {len(names):,} tensors"
        return f"which ranks hold copies is proven by equal slices {some}; for the rest it is assumed; {assumed}"
    return f"that ranks {ranks[0]} and {ranks[parts]} hold copies, and so on, is assumed; {assumed}"
