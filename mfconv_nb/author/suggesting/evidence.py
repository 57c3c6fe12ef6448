"""Compare the numbers of two checkpoints. A fingerprint that ignores order finds candidate pairs; comparing bytes then picks the layout.

At most two values of each loop are read: the first layer and the last. If dtypes differ, the wider one is cast to the narrower. Memory
holds one instance of a rule at a time: an embedding, or all experts of a layer if they become one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mfconv_nb.author.suggesting.variants import Variant
from mfconv_nb.core.blocks import Block, move_block
from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, TensorSpec
from mfconv_nb.core.dtypes import cast_into, itemsize, numpy_dtype
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.sizes import Size, Sizes
from mfconv_nb.mapping.plan import Row, plan_mapping
from mfconv_nb.mapping.rules import Family, Repeated, Rule
from mfconv_nb.streaming.gather import read_tensor

Array = np.ndarray[Any, np.dtype[Any]]
AT_ONCE = 1 << 20  # elements hashed or compared at a time: 8 MiB of 64-bit words
PLACES = 64  # of a block, compared before all of it is moved: a wrong order shows in a few numbers
MOST_NUMBERED = 1 << 24  # elements that are numbered to compare two orders
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)  # odd numbers with well mixed bits (splitmix64)


@dataclass(frozen=True)
class Numbers:
    """The numbers of two checkpoints, each tensor read when it is needed."""

    hf: Checkpoint
    mf: Checkpoint
    _prints: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def flat(self, side: str, name: str, dtype: str) -> Array:
        """The numbers of a tensor as one flat array of ``dtype``."""
        tensor = (self.hf if side == HF else self.mf).tensors[name]
        return cast_to(read_tensor(tensor).reshape(-1), dtype)

    def fingerprint(self, side: str, name: str, dtype: str) -> int:
        """A number that depends on the elements of a tensor, but not on their order nor on zeros. The fingerprints of parts add up."""
        key = (side, name, dtype)
        if key not in self._prints:
            self._prints[key] = fingerprint(self.flat(side, name, dtype))
        return self._prints[key]

    def agree(self, hf: Sequence[TensorSpec], mf: Sequence[TensorSpec]) -> bool:
        """Whether some tensors of each side hold the same numbers, in any order."""
        dtype = common_dtype([s.dtype for s in (*hf, *mf)])
        if dtype is None:
            return False
        sums = [sum(self.fingerprint(side, s.name, dtype) for s in specs) for side, specs in ((HF, hf), (MF, mf))]
        return (sums[0] - sums[1]) % (1 << 64) == 0

    def same(self, one: tuple[str, TensorSpec], other: tuple[str, TensorSpec]) -> bool:
        """Whether two tensors, each given with its side, are equal to the byte."""
        dtype = common_dtype([one[1].dtype, other[1].dtype])
        if dtype is None or self.fingerprint(one[0], one[1].name, dtype) != self.fingerprint(other[0], other[1].name, dtype):
            return False
        return equal_bytes(self.flat(one[0], one[1].name, dtype), self.flat(other[0], other[1].name, dtype))

    def is_constant(self, side: str, spec: TensorSpec) -> bool:
        """Whether all numbers of a tensor are equal: equal bytes prove nothing then."""
        return _is_of_one_value(self.flat(side, spec.name, spec.dtype))

    def read_instance(self, hf: Sequence[TensorSpec], mf: Sequence[TensorSpec]) -> InstanceNumbers | None:
        """Read the numbers of one instance of a rule; None if no dtype holds those of both sides."""
        dtype = common_dtype([s.dtype for s in (*hf, *mf)])
        if dtype is None:
            return None
        sources, targets = ({s.name: self.flat(side, s.name, dtype) for s in specs} for side, specs in ((HF, hf), (MF, mf)))
        return InstanceNumbers(tuple(hf), tuple(mf), sources, targets)


@dataclass(frozen=True)
class InstanceNumbers:
    """The tensors of one instance of a rule on both sides, and their numbers as flat arrays of one dtype."""

    hf: tuple[TensorSpec, ...]
    mf: tuple[TensorSpec, ...]
    sources: Mapping[str, Array]
    targets: Mapping[str, Array]

    @property
    def is_constant(self) -> bool:
        """Whether all numbers of each tensor are equal: equal bytes prove nothing then."""
        return all(map(_is_of_one_value, self.sources.values()))

    @property
    def repeats(self) -> bool:
        """Whether two rows or two columns begin alike: another order may give the same bytes then."""
        shaped = [_bits(self.targets[s.name]).reshape(s.shape) for s in self.mf if s.elements > 1]
        return any(_begin_alike(bits.reshape(len(bits), -1)) or _begin_alike(bits.reshape(-1, bits.shape[-1]).T) for bits in shaped)

    def shows(self, rule: Rule | Repeated, variant: Variant) -> bool:
        """Whether a rule makes exactly the bytes of the MindFormers side from the Hugging Face side."""
        row = plan_row(rule, variant, self.hf)
        if row is None or {(t.name, t.shape) for t in row.targets} != {(s.name, s.shape) for s in self.mf}:
            return False
        if not all(equal_bytes(self.sources[copy], self.sources[row.sources[0].name]) for copy in row.copies):
            return False
        placed = ((part, spec.name) for spec, parts in zip(row.targets, row.parts, strict=False) for part in parts)
        if not all(_agree_in_places(self.sources[p.source], self.targets[name], p.block) for p, name in placed if p.source is not None):
            return False
        made = carry_out(row, self.sources)
        return all(equal_bytes(made[name], target) for name, target in self.targets.items())


def _agree_in_places(source: Array, target: Array, block: Block) -> bool:
    """Whether a few numbers of a block, chosen at random, are the same on both sides."""
    if not block.elements:
        return True
    places = np.random.default_rng(0).integers(0, block.sizes, (PLACES, len(block.sizes)))
    here = _bits(source)[block.source_offset + places @ np.array(block.source_strides, np.int64)]
    there = _bits(target)[block.target_offset + places @ np.array(block.target_strides, np.int64)]
    return bool((here == there).all())


def _bits(flat: Array) -> Array:
    return flat.view(np.dtype(f"u{flat.itemsize}"))


def _is_of_one_value(flat: Array) -> bool:
    return flat.size < 2 or equal_bytes(flat[1:], flat[:-1])


def _begin_alike(rows: Array) -> bool:
    """Whether two rows begin with the same eight numbers; eight tell most rows apart."""
    few = np.ascontiguousarray(rows[:, :8])
    return len(np.unique(few, axis=0)) < len(few)


def move_alike(rules: tuple[Rule | Repeated, Rule | Repeated], variants: tuple[Variant, Variant], hf: Sequence[TensorSpec]) -> bool:
    """Whether two rules move every number of an instance to the same place."""
    rows = [plan_row(rule, variant, hf) for rule, variant in zip(rules, variants, strict=True)]
    if rows[0] is None or rows[1] is None or sum(s.elements for s in hf) > MOST_NUMBERED:
        return False
    ends = np.cumsum([0, *(s.elements for s in hf)])
    numbers = {s.name: np.arange(1 + ends[n], 1 + ends[n + 1]) for n, s in enumerate(hf)}
    made = [carry_out(row, numbers) for row in rows if row is not None]
    return made[0].keys() == made[1].keys() and all(np.array_equal(made[0][name], made[1][name]) for name in made[0])


def numbers_of(hf: Checkpoint, mf: Checkpoint) -> Numbers | None:
    """The numbers of both sides; None if one of them has names and shapes only."""
    whole = all(t.pieces or not t.spec.elements for checkpoint in (hf, mf) for t in checkpoint)
    return Numbers(hf, mf) if whole else None


def plan_row(rule: Rule | Repeated, variant: Variant, hf: Sequence[TensorSpec]) -> Row | None:
    """The one row of a rule for one instance; None if the rule does not fit."""
    sizes = Sizes({axis: Size(value, "its shape") for axis, value in variant.sizes.items()})
    same = [TensorSpec(s.name, s.shape, hf[0].dtype) for s in hf]
    try:
        plan = plan_mapping(same, Family(key="draft", covers="", rules=(rule,), sizes={}), MF, sizes=sizes)
    except MappingError:
        return None
    return plan.rows[0] if len(plan.rows) == 1 and not [p for p in plan.problems if p.kind != "missing"] else None


def carry_out(row: Row, sources: Mapping[str, Array]) -> dict[str, Array]:
    """Do what a row says to arrays in memory."""
    made = {}
    for number, spec in enumerate(row.targets):
        if not row.parts:
            made[spec.name] = sources[row.sources[number].name]
            continue
        target = np.zeros(spec.elements, next(iter(sources.values())).dtype)
        for part in row.parts[number]:
            if part.source is not None:
                move_block(target, sources[part.source], part.block)
        made[spec.name] = target
    return made


def common_dtype(dtypes: Sequence[str]) -> str | None:
    """The narrowest of some dtypes; None if there are two of that width: neither can hold the other."""
    least = min(map(itemsize, dtypes))
    narrow = {d for d in dtypes if itemsize(d) == least}
    return narrow.pop() if len(narrow) == 1 else None


def cast_to(flat: Array, dtype: str) -> Array:
    """The same numbers as another dtype."""
    wanted = numpy_dtype(dtype)
    if flat.dtype == wanted:
        return flat
    out = np.empty(flat.shape, wanted)
    cast_into(out, flat)
    return out


def equal_bytes(one: Array, other: Array) -> bool:
    """Whether two flat arrays are equal to the byte; stops at the first stretch that differs."""
    if one.size != other.size or one.dtype != other.dtype:
        return False
    a, b = _bits(one), _bits(other)
    return all(bool((a[n : n + AT_ONCE] == b[n : n + AT_ONCE]).all()) for n in range(0, a.size, AT_ONCE))


def fingerprint(flat: Array) -> int:
    """The sum of a hash of every element, modulo 2**64; zeros count nothing."""
    bits = _bits(flat)
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        for first in range(0, bits.size, AT_ONCE):
            words = bits[first : first + AT_ONCE].astype(np.uint64) * _FIRST
            words ^= words >> np.uint64(29)
            words *= _SECOND
            words ^= words >> np.uint64(32)
            total += words.sum(dtype=np.uint64)
    return int(total)
