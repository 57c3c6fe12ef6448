"""Group names that differ only in their loops: decide which numbers of a name count layers and which are part of the name.

A number counts if it stands alone between dots and if much the same follows for every value, as all layers have about the same tensors.
`layer.0.SelfAttention` and `layer.1.DenseReluDense` contain different tensors, so those numbers are part of the name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from mfconv_nb.core.blocks import Shape
from mfconv_nb.core.checkpoint import TensorSpec

LOOP_WORDS = frozenset({"layers", "layer", "blocks", "block", "h", "experts", "resblocks", "stages", "stage"})
# two values of a loop have a larger share of their tensors in common; DeepSeek's dense and sparse layers three quarters
LEAST_COMMON, LEAST_COMMON_OF_MANY, MANY = 0.5, 0.2, 5

_ALONE = re.compile(r"(?:(?<=[./])|^)(0|[1-9][0-9]{0,8})(?=[./]|$)")
Index = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Names that differ only in their loops.

    Attributes:
        parts: the text before, between and after the loops: one more than there are loops.
        specs: the tensors, by the numbers in their names.
        place: the position of its first tensor in the checkpoint.
    """

    parts: tuple[str, ...]
    specs: Mapping[Index, TensorSpec]
    place: int

    @property
    def loops(self) -> int:
        return len(self.parts) - 1

    @cached_property
    def indices(self) -> frozenset[Index]:
        return frozenset(self.specs)

    @cached_property
    def first(self) -> TensorSpec:
        """The tensor that stands for all of them: the one with the lowest numbers."""
        return self.specs[min(self.specs)]

    @property
    def shape(self) -> Shape:
        return self.first.shape

    @property
    def leaf(self) -> str:
        """The text after the last dot: `weight`."""
        return self.parts[-1].rpartition(".")[2]

    @cached_property
    def template(self) -> str:
        """The name with `#` for every loop."""
        return "#".join(self.parts)

    @cached_property
    def parent(self) -> str:
        """The template without its leaf."""
        return self.template.rpartition(".")[0]

    @cached_property
    def counting(self) -> tuple[Group, tuple[int, ...]]:
        """The group with only those loops that have several values, and which they are. A number that never changes becomes text."""
        kept = tuple(n for n in range(self.loops) if len(self.counts(n)) > 1)
        first, parts = min(self.specs), [self.parts[0]]
        for n, part in enumerate(self.parts[1:]):
            if n in kept:
                parts.append(part)
            else:
                parts[-1] += f"{first[n]}{part}"
        return Group(tuple(parts), {tuple(index[n] for n in kept): spec for index, spec in self.specs.items()}, self.place), kept

    def pattern(self, names: Sequence[str | int]) -> str:
        """The name with a placeholder, or a number, for every loop."""
        filled = (name if isinstance(name, int) else f"{{{name}}}" for name in names)
        return self.parts[0] + "".join(f"{name}{part}" for name, part in zip(filled, self.parts[1:], strict=True))

    def word(self, loop: int) -> str:
        """The word before a loop: `layers`."""
        return re.split(r"[./]", self.parts[loop].rstrip("./"))[-1]

    def counts(self, loop: int) -> tuple[int, ...]:
        """The values of one loop, in ascending order."""
        return tuple(sorted({index[loop] for index in self.specs}))


@dataclass(slots=True)
class _Name:
    """A name that is partly read: the texts before the loops found so far, their numbers, the text since, and the rest."""

    spec: TensorSpec
    place: int
    parts: tuple[str, ...]
    numbers: Index
    text: str
    rest: str


def groups_of(specs: Sequence[TensorSpec]) -> tuple[Group, ...]:
    """The groups of a checkpoint, in the order of their first tensor."""
    done: list[_Name] = []
    readable = [(place, spec) for place, spec in enumerate(specs) if spec.name and not set(spec.name) & set("{}#")]
    open_names = [_Name(spec, place, (), (), "", spec.name) for place, spec in readable]
    while open_names:
        by_prefix: dict[tuple[tuple[str, ...], str], list[_Name]] = defaultdict(list)
        for name in open_names:
            number = _ALONE.search(name.rest)
            if number is None:
                done.append(name)
            else:
                by_prefix[name.parts, name.text + name.rest[: number.start()]].append(name)
        open_names = []
        for (_, text), names in by_prefix.items():
            is_loop = _is_loop(text, names)
            open_names += [_read_past_number(name, text, is_loop) for name in names]
    found: dict[tuple[str, ...], list[_Name]] = defaultdict(list)
    for name in sorted(done, key=lambda n: n.place):
        found[(*name.parts, name.text + name.rest)].append(name)
    return tuple(Group(parts, {n.numbers: n.spec for n in names}, names[0].place) for parts, names in found.items())


def _read_past_number(name: _Name, text: str, is_loop: bool) -> _Name:
    number = _ALONE.search(name.rest)
    assert number is not None
    rest, value = name.rest[number.end() :], number[1]
    if is_loop:
        return _Name(name.spec, name.place, (*name.parts, text), (*name.numbers, int(value)), "", rest)
    return _Name(name.spec, name.place, name.parts, name.numbers, text + value, rest)


def _is_loop(text: str, names: Sequence[_Name]) -> bool:
    """Whether the numbers after ``text`` count, that is, much the same follows each."""
    after: dict[int, dict[str, Shape]] = defaultdict(dict)
    for name in names:
        number = _ALONE.search(name.rest)
        assert number is not None
        after[int(number[1])][_ALONE.sub("#", name.rest[number.end() :])] = name.spec.shape
    known = re.split(r"[./]", text.rstrip("./"))[-1] in LOOP_WORDS
    if len(after) == 1:
        return known
    values = [after[n] for n in sorted(after)]
    common = [len(a.keys() & b.keys()) / min(len(a), len(b)) for a, b in pairwise(values)]
    if sum(common) / len(common) <= (LEAST_COMMON_OF_MANY if len(after) >= MANY else LEAST_COMMON):
        return False
    alike = all(a[leaf] == b[leaf] for a, b in pairwise(values) for leaf in a.keys() & b.keys())
    return alike or (known and max(map(len, values)) > 2)  # a Sequential's layers 0 and 2 have weights of other shapes
