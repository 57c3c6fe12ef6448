"""A chain of transformers' operations (`Concatenate`, `MergeModulelist`, `Chunk`, ...) as one layout sentence. Pure.

The chain is applied to names of axes instead of tensors: each operation moves, joins or splits names, and the result is the right side.
Refuses, with a reason: an operation that decides by shape or asks the model, and what the notation has no words for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mfconv_nb.core.report import how_many

OwnSizes = Mapping[str, int | str]  # the sizes of a rule's own axes: a number, or the axis with the same size
PART_WORDS = {"w1": "gate", "w3": "up", "query": "q", "key": "k", "value": "v", **{word: word for word in ("gate", "up", "q", "k", "v")}}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its class and its arguments."""

    name: str
    more: Mapping[str, Any] = field(hash=False)

    def number(self, key: str, default: int) -> int | None:
        """An argument that counts an axis; None where it is no small number."""
        value = self.more.get(key, default)
        return value if type(value) is int and 0 <= value < 8 else None


@dataclass
class Followed:
    """The state of a chain: the axes that each tensor had at first, and those it has now."""

    first: list[list[str]]
    now: list[list[str]]
    sizes: dict[str, int | str]


class CannotSay(Exception):
    """Why a chain is no sentence. Stays inside the import."""


def sentence_of(
    chain: Sequence[Operation], sources: Sequence[str], targets: Sequence[str], axes: int, own: str | None
) -> tuple[str, OwnSizes]:
    """The sentence of a chain, and the rule's own sizes.

    Args:
        sources, targets: patterns of the two sides; parts get their names from them.
        axes: how many axes a source tensor has.
        own: the placeholder that counts the merged tensors.
    Raises:
        CannotSay: with the reason.
    """
    names = ["out", "hidden"] if axes == 2 else [f"axis_{n}" for n in range(axes)]
    state = Followed([list(names) for _ in sources], [list(names) for _ in sources], {})
    chunked = False
    for place, operation in enumerate(chain):
        before = chain[place - 1].name if place else ""
        if chunked:
            raise CannotSay(f"{operation.name} behind {before}, of some of its parts only")
        if operation.name == "MergeModulelist":
            _merge_tensors(state, operation, own)
        elif operation.name == "Concatenate":
            _join_tensors(state, operation, sources)
        elif operation.name in ("Chunk", "Split"):
            _split_tensor(state, operation, targets, after_turns=before == "Interleave" and not chain[place - 1].more.get("inverse", False))
            chunked = True
        elif operation.name == "Transpose":
            _swap_axes(state, operation)
        elif operation.name == "Interleave":
            _interleave_halves(state, operation)
        elif operation.name == "PermuteForRope":
            _permute_for_rope(state, operation)
        else:
            raise CannotSay(f"{operation.name} has no words in a layout")
    if own is not None and not any(own in tensor for tensor in state.now):
        raise CannotSay("several tensors of a list go to one name, and nothing in the chain merges them")
    if len(state.now) != len(targets):
        raise CannotSay(f"{how_many(len(state.now), 'tensor')} at the end of the chain, {how_many(len(targets), 'name')}")
    left, right = (", ".join(" ".join(tensor) for tensor in side) for side in (state.first, state.now))
    return f"{left} -> {right}", state.sizes


def _axis_at(state: Followed, dim: int | None, tensor: int = 0) -> str:
    if dim is None or dim >= len(state.now[tensor]):
        raise CannotSay("an axis that the tensor does not have")
    return state.now[tensor][dim]


def _replace_axis(state: Followed, tensor: int, name: str, first: str, now: str) -> None:
    """Write an axis as another expression on both sides. It must not have been joined or split before."""
    if name not in state.first[tensor]:
        raise CannotSay("an axis that was joined or split before")
    state.first[tensor] = [first if axis == name else axis for axis in state.first[tensor]]
    state.now[tensor] = [now if axis == name else axis for axis in state.now[tensor]]


def _merge_tensors(state: Followed, operation: Operation, own: str | None) -> None:
    dim = operation.number("dim", 0)
    if own is None or dim is None or dim > len(state.now[0]):
        raise CannotSay("MergeModulelist without a number in the names that counts the tensors")
    for tensor in state.now:
        tensor.insert(dim, own)


def _join_tensors(state: Followed, operation: Operation, sources: Sequence[str]) -> None:
    if operation.more.get("num_shards_attribute") is not None or len(state.now) < 2:
        raise CannotSay("Concatenate of a number of tensors that only the model's config knows")
    dim = operation.number("dim", 0)
    name = _axis_at(state, dim)
    parts = part_names(sources)
    for tensor, part in enumerate(parts):
        _replace_axis(state, tensor, name, part, part)
    assert dim is not None
    joined = [*state.now[0][:dim], f"({' + '.join(parts)})", *state.now[0][dim + 1 :]]
    state.now = [joined]
    if set(parts) != {"q", "k", "v"}:
        state.sizes |= dict.fromkeys(parts[1:], parts[0])


def _split_tensor(state: Followed, operation: Operation, targets: Sequence[str], *, after_turns: bool) -> None:
    if operation.more.get("num_shards_attribute") is not None or len(state.now) != 1 or len(targets) < 2:
        raise CannotSay(f"{operation.name} into a number of tensors that only the model's config knows")
    dim = operation.number("dim", 0)
    name, parts = _axis_at(state, dim), part_names(targets)
    if after_turns and len(parts) == 2 and name == "(pair half)":
        state.first[0] = [f"(half ({' + '.join(parts)}))" if axis == "(half pair)" else axis for axis in state.first[0]]
        state.now = [[f"(half {part})" if axis == name else axis for axis in state.now[0]] for part in parts]
        state.sizes = {**{k: v for k, v in state.sizes.items() if k != "pair"}, **dict.fromkeys(parts, 1)}
        return
    _replace_axis(state, 0, name, f"({' + '.join(parts)})", name)
    state.now = [[part if axis == name else axis for axis in state.now[0]] for part in parts]
    if operation.name == "Chunk":
        state.sizes |= dict.fromkeys(parts[1:], parts[0])


def _swap_axes(state: Followed, operation: Operation) -> None:
    one, other = operation.number("dim0", 0), operation.number("dim1", 1)
    if operation.more.get("check_dims"):
        raise CannotSay("Transpose(check_dims=True) looks at the model's shape: of a square tensor nobody can tell what it did")
    if len(state.now) != 1:
        raise CannotSay("Transpose of several tensors")
    first, second = _axis_at(state, one), _axis_at(state, other)
    swap = {first: second, second: first}
    state.now = [[swap.get(axis, axis) for axis in state.now[0]]]


def _interleave_halves(state: Followed, operation: Operation) -> None:
    if len(state.now) != 1:
        raise CannotSay("Interleave of several tensors")
    name = _axis_at(state, operation.number("dim", 0))
    halves, pairs = "(half pair)", "(pair half)"
    inverse = bool(operation.more.get("inverse", False))
    _replace_axis(state, 0, name, pairs if inverse else halves, halves if inverse else pairs)
    state.sizes["pair"] = 2


def _permute_for_rope(state: Followed, operation: Operation) -> None:
    if operation.more.get("permute_layer_names") is not None or len(state.now) != 1:
        raise CannotSay("PermuteForRope of some of several tensors, by words in their names")
    name, inverse = _axis_at(state, 0), bool(operation.more.get("inverse", False))
    inside = operation.more.get("subconfig_key")
    heads = f"{str(inside).removesuffix('_config')}_heads" if inside else "heads"
    if not heads.isidentifier() or not heads.islower():
        raise CannotSay(f"PermuteForRope with the heads of {inside!r}")
    first, now = f"({heads} half pair)", f"({heads} pair half)"
    _replace_axis(state, 0, name, now if inverse else first, first if inverse else now)
    state.sizes["pair"] = 2


def part_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names for the parts of a tensor: the first word in which their tensors' names differ, else numbers."""
    split = [name.replace("\\", "").replace("*", "").split(".") for name in names]
    for words in zip(*split, strict=False):
        short = [word.removesuffix("_proj").removesuffix("_layer") for word in words]
        known = tuple(PART_WORDS.get(word, "") for word in short)
        if all(known) and len(set(known)) == len(known):
            return known
        if len(set(short)) == len(short) and all(word.isascii() and word.isidentifier() and word.islower() for word in short):
            return tuple(f"{word}_part" for word in short)
    return tuple(f"part_{n}" for n in range(1, len(names) + 1))
