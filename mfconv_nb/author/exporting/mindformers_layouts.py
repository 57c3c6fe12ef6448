"""Writes a layout sentence as numpy operations: the text of a function that reshapes, splits, transposes and joins arrays. Pure."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.layout import Axis, Expression, One, Product, Sum, TensorLayout, Zero, axis_names

Dims = tuple[Expression, ...]
Blocks = dict[frozenset[str], tuple[str, tuple[str, ...]]]  # axes of a block -> its variable, and the axes in their order there
RESERVED = ("np", "size", "check_zeros")  # names that the functions use


@dataclass(frozen=True, slots=True)
class Sentence:
    """One direction of a rule with a layout.

    Attributes:
        source, target: the tensors. Tensors that names count (one for each expert) are stacked: their first axis is the count.
        constants, same: the structural sizes of the rule.
        from_config: axes whose size every config gives.
        perhaps: axes whose size a config may give; it is read only where shapes do not give it.
    """

    source: tuple[TensorLayout, ...]
    target: tuple[TensorLayout, ...]
    constants: Mapping[str, int]
    same: Mapping[str, str]
    from_config: frozenset[str]
    perhaps: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Writer:
    """Collects the lines of a function."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def assign(self, text: str) -> str:
        """Add a line that sets a new variable; returns its name."""
        self.count += 1
        name = f"step_{self.count}"
        self.lines.append(f"{name} = {text}")
        return name


def function_text(name: str, sentence: Sentence, title: str) -> str:
    """The text of a function ``name(size, source_1, …)`` that returns the target arrays.

    Raises:
        MappingError: MFC314 where neither a shape nor a config gives the size of an axis.
    """
    writer = _Writer()
    variables = [f"source_{n}" for n in range(1, len(sentence.source) + 1)]
    writer.lines += _size_lines(sentence, variables)
    blocks: Blocks = {}
    for variable, tensor in zip(variables, sentence.source, strict=True):
        _take_apart(writer, variable, tensor, False, blocks)
    results = [_put_together(writer, tensor, False, blocks, variables[0]) for tensor in sentence.target]
    body = [f'"""{title}"""', *_without_unused([*writer.lines, f"return [{', '.join(results)}]"])]
    return "\n".join([f"def {name}(size, {', '.join(variables)}):", *(f"    {line}" for line in body)])


def _without_unused(lines: Sequence[str]) -> list[str]:
    """The lines without those whose variable no later line uses."""
    kept: list[str] = []
    for line in reversed(lines):
        variable = re.match(r"(\w+) = ", line)
        if variable is None or any(re.search(rf"\b{variable[1]}\b", later) for later in kept):
            kept.insert(0, line)
    return kept


# ---- sizes ---------------------------------------------------------------------------------------------------------------


def _size_lines(sentence: Sentence, variables: Sequence[str]) -> list[str]:
    """One line for every axis: its size is a constant, the length of an array's axis, a size of config.json, or solved from a length."""
    lines = [f"{variable_of(axis)} = {size}" for axis, size in sentence.constants.items()]
    known = set(sentence.constants)
    places = [(e, f"{v}.shape[{n}]") for v, tensor in zip(variables, sentence.source, strict=True) for n, e in enumerate(tensor)]

    def learn(axis: str, text: str) -> None:
        if axis not in known:
            lines.append(f"{variable_of(axis)} = {text}")
            known.add(axis)
        for one, other in (*sentence.same.items(), *((b, a) for a, b in sentence.same.items())):
            if one == axis and other not in known:
                learn(other, variable_of(axis))

    for e, text in places:
        if isinstance(e, Axis):
            learn(e.name, text)
    wanted = axis_names(e for tensor in (*sentence.source, *sentence.target) for e in tensor)
    for axis in sorted(wanted & sentence.from_config - known):
        learn(axis, f'size("{axis}")')
    while wanted - known:
        found = next((f for e, text in places if (f := _solve_axis(e, text, known, sentence.same))), None)
        asked = sorted(wanted & sentence.perhaps - known)
        if found is None and not asked:
            missing = ", ".join(sorted(wanted - known))
            raise MappingError("MFC314", found=f"no size for {missing}", expected="a size from config.json or a shape")
        learn(*(found or (asked[0], f'size("{asked[0]}")')))
    return lines


def _solve_axis(e: Expression, text: str, known: set[str], same: Mapping[str, str]) -> tuple[str, str] | None:
    """The one unknown axis of an expression, and its size as a text; None where there are none or several."""
    if isinstance(e, Axis):
        return None if e.name in known else (e.name, text)
    if not isinstance(e, Product | Sum):
        return None
    parts = e.factors if isinstance(e, Product) else e.parts
    unknown = [p for p in parts if not axis_names([p]) <= known]
    given = [size_text(p) for p in parts if axis_names([p]) <= known and not isinstance(p, One | Zero)]
    equal = {same.get(p.name, p.name) for p in unknown if isinstance(p, Axis)}
    alike = isinstance(e, Sum) and len(equal) == 1 and all(isinstance(p, Axis) for p in unknown)
    if not unknown or (len(unknown) > 1 and not alike):
        return None
    if isinstance(e, Product):
        rest = f"{text} // ({' * '.join(given)})" if given else text
    else:
        ones = [size_text(p) for p in parts if isinstance(p, One | Zero)]
        rest = " - ".join([text, *given, *ones])
        rest = f"({rest}) // {len(unknown)}" if len(unknown) > 1 else f"({rest})"
    return _solve_axis(unknown[0], rest, known, same)


def variable_of(axis: str) -> str:
    """The variable for an axis; with ``_`` where Python or the function uses the name: ``in_``, ``np_``."""
    taken = keyword.iskeyword(axis) or axis in RESERVED or re.fullmatch(r"(step|source)_[0-9]+", axis)
    return f"{axis}_" if taken else axis


def size_text(e: Expression) -> str:
    """The size of an expression, with its axes as variables."""
    if isinstance(e, Axis):
        return variable_of(e.name)
    if isinstance(e, One | Zero):
        return "1"
    if isinstance(e, Product):
        return " * ".join(size_text(f) for f in e.factors)
    return f"({' + '.join(size_text(p) for p in e.parts)})"


def _shape_text(dims: Iterable[Expression]) -> str:
    sizes = [size_text(e) for e in dims]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


# ---- arrays --------------------------------------------------------------------------------------------------------------


def _flatten(dims: Iterable[Expression]) -> Dims:
    """The axes with products taken apart, without axes of size one."""
    found: list[Expression] = []
    for e in dims:
        if isinstance(e, Product):
            found += _flatten(e.factors)
        elif not isinstance(e, One | Zero):
            found.append(e)
    return tuple(found)


def _has_zeros(dims: Iterable[Expression]) -> bool:
    """Whether a ``0`` among these axes, outside of sums, says that all numbers are zero."""
    return any(isinstance(e, Zero) or (isinstance(e, Product) and _has_zeros(e.factors)) for e in dims)


def _first_sum(dims: Dims) -> int | None:
    return next((n for n, e in enumerate(dims) if isinstance(e, Sum)), None)


def _with_part(dims: Dims, place: int, part: Expression) -> Dims:
    return (*dims[:place], part, *dims[place + 1 :])


def _take_apart(writer: _Writer, variable: str, dims: Dims, zeros: bool, blocks: Blocks) -> None:
    """Add lines that cut a tensor into its blocks, and the blocks to ``blocks``."""
    flat, zeros = _flatten(dims), zeros or _has_zeros(dims)
    if flat != dims:
        variable = writer.assign(f"{variable}.reshape({_shape_text(flat)})")
    place = _first_sum(flat)
    if place is None:
        names = tuple(e.name for e in flat if isinstance(e, Axis))
        if zeros:
            writer.lines.append(f"check_zeros({variable})")
        else:
            blocks[frozenset(names)] = (variable, names)
        return
    e = flat[place]
    assert isinstance(e, Sum)
    cuts = list(accumulate((size_text(p) for p in e.parts), lambda a, b: f"{a} + {b}"))[:-1]
    parts = writer.assign(f"np.split({variable}, [{', '.join(cuts)}], axis={place})")
    for n, part in enumerate(e.parts):
        _take_apart(writer, f"{parts}[{n}]", _with_part(flat, place, part), zeros, blocks)


def _put_together(writer: _Writer, dims: Dims, zeros: bool, blocks: Blocks, like: str) -> str:
    """Add lines that build a tensor of its blocks; returns its variable."""
    flat, zeros = _flatten(dims), zeros or _has_zeros(dims)
    place = _first_sum(flat)
    if place is not None:
        e = flat[place]
        assert isinstance(e, Sum)
        parts = [_put_together(writer, _with_part(flat, place, part), zeros, blocks, like) for part in e.parts]
        variable = writer.assign(f"np.concatenate([{', '.join(parts)}], axis={place})")
    elif zeros:
        return writer.assign(f"np.zeros({_shape_text(dims)}, {like}.dtype)")
    else:
        variable = _arrange_block(writer, [e.name for e in flat if isinstance(e, Axis)], blocks)
    return variable if flat == dims else writer.assign(f"{variable}.reshape({_shape_text(dims)})")


def _arrange_block(writer: _Writer, names: Sequence[str], blocks: Blocks) -> str:
    """The variable of a block with its axes in this order; adds a line that transposes it where needed."""
    if frozenset(names) not in blocks:
        raise MappingError("MFC314", found=f"a block {' '.join(names)} on one side only", expected="the same blocks on both sides")
    variable, order = blocks[frozenset(names)]
    if tuple(names) == order:
        return variable
    return writer.assign(f"{variable}.transpose({', '.join(str(order.index(n)) for n in names)})")
