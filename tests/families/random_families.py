"""Families by chance, and a second reading of the layout notation, which owes nothing to the package.

Every number of a tensor has an *address*: the index it has on each named axis of its block. A sentence says where each address lies on
either side; so what a rule does is a dictionary, built number by number. Slow, short, and of another kind than the code under test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random

import numpy as np

from mfconv_nb.rules import Family, Rule
from tests.support import NUMPY, Array

Address = frozenset[tuple[str, int]]
ZERO = ("0", 0)

# ---- the notation, read a second time ------------------------------------------------------------------------------------


def cells(text: str, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], list[Address]]:
    """The shape of one tensor of a sentence, and the address of each of its numbers in C order."""
    tokens = re.findall(r"[a-z]\w*|\S", text)
    axes = [[frozenset(address) for address in axis] for axis in _sequence(tokens, sizes)]
    assert not tokens
    return tuple(len(axis) for axis in axes), [frozenset().union(*chosen) for chosen in product(*axes)]


def _sequence(tokens: list[str], sizes: Mapping[str, int]) -> list[list[Address]]:
    """What stands side by side, up to the end or to what ends it; takes it from the tokens."""
    found: list[list[Address]] = []
    while tokens and tokens[0] not in ("+", ")"):
        token = tokens.pop(0)
        if token == "(":
            parts = [_flattened(_sequence(tokens, sizes))]
            while tokens.pop(0) == "+":
                parts.append(_flattened(_sequence(tokens, sizes)))
            found.append([address for part in parts for address in part])
        elif token in "01":
            found.append([frozenset({ZERO} if token == "0" else ())])
        else:
            found.append([frozenset({(token, index)}) for index in range(sizes[token])])
    return found


def _flattened(axes: list[list[Address]]) -> list[Address]:
    return [frozenset().union(*chosen) for chosen in product(*axes)]


# ---- families by chance ----------------------------------------------------------------------------------------------------


@dataclass
class Made:
    """A family, its config, and the same tensors on both sides, as bits."""

    rules: list[Rule] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)  # axes whose size the config gives
    hf: dict[str, Array] = field(default_factory=dict)
    mf: dict[str, Array] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        return Family("by-chance", "nothing that exists", tuple(self.rules), {axis: axis for axis in self.sizes if axis in self.given})

    @property
    def config(self) -> dict[str, int]:
        return {axis: self.sizes[axis] for axis in self.given}


def make_family(chance: Random, dtypes: Sequence[str], *, withheld: bool = False) -> Made:
    """Some rules with tensors of random bits.

    Args:
        withheld: some sizes are given nowhere: such a family may be refused.
    """
    made = Made(sizes={"layer": chance.randint(1, 3)}, given={"layer"})
    for number in range(chance.randint(1, 4)):
        _add_rule(made, number, chance, chance.choice(dtypes), withheld)
    return made


def _add_rule(made: Made, number: int, chance: Random, dtype: str, withheld: bool) -> None:
    shared = [f"r{number}_{name}" for name in "abc"[: chance.randint(1, 3)]]
    parts = [f"r{number}_p{n}" for n in range(chance.choice((0, 1, 2, 2, 3, 4)))]
    counted = chance.choice(shared) if chance.random() < 0.4 else ""  # an axis that names count on one side
    counting = chance.choice(("hf", "mf")) if counted else ""
    layer = ".{layer}" if chance.random() < 0.5 else ""
    ending = "" if dtype.lstrip("B").startswith("F") else ".position_ids"  # a matrix of whole numbers under another name is taken for codes
    names: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    pads: list[str] = []
    for side in ("hf", "mf"):
        axes = [axis for axis in shared if side != counting or axis != counted]
        placeholder = f".{{{counted}}}" if side == counting else ""
        groups = _partition(chance, parts) or [[]]
        names[side] = [f"{side}.r{number}{layer}{placeholder}.t{place}{ending}" for place in range(len(groups))]
        texts[side] = [_tensor(chance, axes, group, pads, f"r{number}_z{side}{place}") for place, group in enumerate(groups)]
    new = {axis: chance.randint(1, 4) for axis in (*shared, *parts, *pads)}
    constants = {axis: size for axis, size in new.items() if axis != counted and chance.random() < 0.15}
    made.sizes |= new
    made.given |= {axis for axis in new if axis not in constants and not (withheld and chance.random() < 0.4)}
    layout = f"{', '.join(texts['hf'])} -> {', '.join(texts['mf'])}"
    made.rules.append(Rule(tuple(names["hf"]), tuple(names["mf"]), layout, constants))
    for index in range(made.sizes["layer"] if layer else 1):
        _fill(made, {"layer": index}, names, texts, chance, dtype)


def _partition(chance: Random, parts: list[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for part in chance.sample(parts, len(parts)):
        if groups and chance.random() < 0.6:
            chance.choice(groups).append(part)
        else:
            groups.append([part])
    return groups


def _tensor(chance: Random, axes: list[str], group: list[str], pads: list[str], pad: str) -> str:
    """A sentence for one tensor: its axes in any order and brackets, its parts laid end to end, perhaps a fill of zeros."""
    within = [axis for axis in axes if len(group) > 1 and chance.random() < 0.3]  # axes inside of each part
    summed = [" ".join(chance.sample([*within, part], len(within) + 1)) for part in group]
    items = [axis for axis in axes if axis not in within]
    if summed:
        items.append(_end_to_end(chance, summed))
    if not items or chance.random() < 0.15:
        items.append("1")
    chance.shuffle(items)
    if chance.random() < 0.2:
        pads.append(pad)
        place = chance.randrange(len(items))
        items[place] = f"({' + '.join(chance.sample([items[place], f'0 {pad}'], 2))})"
    while len(items) > 1 and chance.random() < 0.5:
        place = chance.randrange(len(items) - 1)
        items[place : place + 2] = [f"({items[place]} {items[place + 1]})"]
    return " ".join(items)


def _end_to_end(chance: Random, summed: list[str]) -> str:
    if len(summed) == 1:
        return f"({summed[0]})"
    if len(summed) > 2 and chance.random() < 0.4:
        place = chance.randrange(len(summed) - 1)
        summed = [*summed[:place], f"({' + '.join(summed[place : place + 2])})", *summed[place + 2 :]]
    return f"({' + '.join(summed)})"


def _fill(
    made: Made, loop: Mapping[str, int], names: Mapping[str, list[str]], texts: Mapping[str, list[str]], chance: Random, dtype: str
) -> None:
    """Random bits for the tensors of one instance of a rule, on both sides: the same number at the same address."""
    bits = np.dtype(f"u{np.dtype(NUMPY[dtype]).itemsize}")
    numbers: dict[Address, int] = {}
    for side, arrays in (("hf", made.hf), ("mf", made.mf)):
        for name, text in zip(names[side], texts[side], strict=True):
            for full, index in _instances(name, loop, made.sizes):
                shape, addresses = cells(text, made.sizes)
                values = []
                for address in (a if ZERO in a else a | index for a in addresses):
                    new = chance.getrandbits(1 if dtype == "BOOL" else 8 * bits.itemsize)
                    values.append(0 if ZERO in address else numbers.setdefault(address, new))
                arrays[full] = np.array(values, bits).view(NUMPY[dtype]).reshape(shape)


def _instances(name: str, loop: Mapping[str, int], sizes: Mapping[str, int]) -> Iterator[tuple[str, Address]]:
    own = [p for p in re.findall(r"\{(\w+)\}", name) if p not in loop]
    for index in product(*(range(sizes[p]) for p in own)):
        known = dict(zip(own, index, strict=True))
        yield name.format_map({**loop, **known}), frozenset(known.items())


def rounded(array: Array) -> Array:
    """float32 as bfloat16: to nearest even, by whole numbers; NaN keeps what fits of its bits."""
    bits = array.view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    kept = bits >> 16
    kept[nan & (kept & 0x7F == 0)] |= 0x40
    return np.where(nan, kept, nearest).astype(np.uint16).view(NUMPY["BF16"])
