"""No strategy file left: how tensors were cut, from the shapes of the slices and of the whole, and from which slices are equal.

A cut is proposed where one axis of the slices is shorter than the whole, by a factor that fits the number of ranks. Which ranks hold
copies is proven where checksums of their slices tell; the order of the parts is never proven: it is that of the ranks, as MindSpore
counts them. Every sentence in ``assumed`` says which of the two holds.

Refuses (MFC114): tensors whose whole shape is not known, two axes that are cut at once, factors that do not fit the ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mfconv_nb.blocks import Shape
from mfconv_nb.checkpoint import LazyTensor
from mfconv_nb.errors import InputError, MfconvError, on_one_line, quoted
from mfconv_nb.folding import fold
from mfconv_nb.mapping.adapters import half_of, is_adapter
from mfconv_nb.mapping.run_state import COUNTERS, GRADIENTS, OPTIMIZER
from mfconv_nb.trained.run import Slice, SlicedTensor
from mfconv_nb.trained.slices import Box

Digest = Callable[[LazyTensor], object]  # equal for tensors of equal bytes
HINT_GIVE = "Give the strategy files with --strategy, or the model's config with --config, which tells the whole shapes."
HINT_SHAPES = "Give the strategy files with --strategy, or the config.json of the model, which says its class too, with --config."
HINT_STRATEGY = "Give the strategy files with --strategy."
KINDS_COMPARED = 8  # of names, to see whether parts are copies: one alone may be all zeros
MAX_COMPARED_BYTES = 64 << 20  # of a slice whose checksum is taken: the smaller ones of a kind prove as much


@dataclass(frozen=True)
class Guess:
    """What was concluded: the tensors with their boxes, what could not be, and what is assumed, in sentences."""

    tensors: Mapping[str, SlicedTensor] = field(default_factory=dict)
    problems: tuple[MfconvError, ...] = ()
    assumed: tuple[str, ...] = ()


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
        found = f"{max(len(r) for r in held.values())} ranks and no strategy file" if held else "no tensor"
        if unknown_since is None:
            return Guess(problems=(InputError("MFC114", where, found=found, expected="how the tensors were cut", hint=HINT_GIVE),))
        found += f", and the config does not tell the whole shapes: {on_one_line(str(unknown_since).partition(chr(10))[0])}"
        hint = f"{HINT_STRATEGY[:-1]}, or the config of this model with --config."
        return Guess(problems=(InputError("MFC114", where, found=found, expected="how the tensors were cut", hint=hint),))
    unknown = [n for n in held if _whole_shape(n, held[n], shapes) is None]
    if unknown:
        found = f"{len(unknown):,} tensors whose whole shape is not known; first {quoted(unknown[0])}"
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
    chosen = {kind: next(iter(parts)) for kind, parts in kinds.items()}
    tensors = {n: _sliced(n, held[n], wholes[n], cut, proofs.get(n) or _parts(cut, chosen)) for n, cut in cuts.items()}
    return Guess(tensors, tuple(problems), _assumed(cuts, proofs))


def _whole_shape(name: str, ranks: Mapping[int, LazyTensor], shapes: Mapping[str, Shape]) -> Shape | None:
    if name in shapes:
        return tuple(shapes[name])
    if name in COUNTERS:
        return next(iter(ranks.values())).shape
    prefix = next((p for p in (*OPTIMIZER, *GRADIENTS) if name.startswith(p)), "")
    of_weight = name[len(prefix) :]
    if of_weight in shapes:
        return tuple(shapes[of_weight])
    half, held = half_of(of_weight), next(iter(ranks.values())).shape
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
        return refuse(f"{len(ranks)} ranks that have it", f"a multiple of the {parts} parts of {list(shape)} in {list(whole)}", hint)
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
        sums = [digest(held[name][rank]) for rank in cut.ranks]
        first: dict[object, int] = {}
        parts = tuple(first.setdefault(s, len(first)) for s in sums)  # numbered in the order of the ranks
        if len(first) == cut.parts and set(Counter(parts).values()) == {cut.copies}:
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


def _parts(cut: _Cut | None, chosen: Mapping[_Kind, _Parts]) -> _Parts:
    """As proven for tensors cut alike, else as tensor parallelism counts: the parts innermost, the copies outermost."""
    if cut is None:
        return ()
    return chosen.get(cut.kind) or tuple(n % cut.parts for n in range(len(cut.ranks)))


def _sliced(name: str, ranks: Mapping[int, LazyTensor], whole: Shape, cut: _Cut | None, parts: _Parts) -> SlicedTensor:
    first = next(iter(ranks.values()))
    if cut is None:
        box = Box((0,) * len(whole), whole)
        return SlicedTensor(name, whole, first.dtype, tuple(Slice(r, box, t) for r, t in sorted(ranks.items())))
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
        said.append(f"{len(halves):,} adapter tensors, such as {quoted(halves[0])}, are not cut along their rank")
    whole = [n for n, cut in cuts.items() if cut is None]
    if whole:
        said.append(f"{len(whole):,} tensors have their whole shape on every rank: they are copies, which a save compares")
    groups: dict[tuple[int, _Kind], list[str]] = {}
    for name, cut in cuts.items():
        if cut is not None:
            groups.setdefault((cut.axis, cut.kind), []).append(name)
    for (axis, kind), names in groups.items():
        parts, _ = kind
        head = f"{len(names):,} tensors, such as {quoted(names[0])}, are cut in {parts} parts along axis {axis}, as their shapes show"
        said.append(f"{head}; {_order(kind, [n for n, c in cuts.items() if c is not None and c.kind == kind], proofs)}")
    return tuple(said)


def _order(kind: _Kind, names: Sequence[str], proofs: Mapping[str, _Parts]) -> str:
    parts, ranks = kind
    assumed = "that the parts lie in the order of the ranks is assumed"
    if len(ranks) == parts:
        return assumed
    proven = [n for n in names if n in proofs]
    if len(proven) == len(names):
        return f"which ranks hold copies is proven by equal slices; {assumed}"
    if proven:
        some = f"of {len(proven):,} of {len(names):,} tensors"
        return f"which ranks hold copies is proven by equal slices {some}; for the rest it is assumed; {assumed}"
    return f"that ranks {ranks[0]} and {ranks[parts]} hold copies, and so on, is assumed; {assumed}"
