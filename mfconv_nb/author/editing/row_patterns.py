"""A pattern for names that no row of a draft matches yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.folding import fold
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, sides_of


def pattern_for(names: Sequence[str], rows: Iterable[AnyRule]) -> str:
    """A pattern for names of one template: a placeholder in place of every number that changes, called as other rows call it."""
    template, first = fold(names[0])
    if not first:
        return names[0]
    columns = list(zip(*(fold(name)[1] for name in names), strict=True))
    known = {b: p for rule in rows for side in sides_of(rule, MF) for pattern in side for b, p in _beginnings(pattern)}
    text, taken = "", set()
    pieces = template.split("#")
    for piece, column in zip(pieces, [*columns, ()], strict=True):
        text += piece
        if column and (len(set(column)) > 1 or _is_loop(text)):
            name = known.get(fold(text)[0]) or _called(text)
            while name in taken:
                name += "_"
            taken.add(name)
            text += f"{{{name}}}"
        elif column:
            text += str(column[0])
    return text


def _beginnings(pattern: Pattern) -> Iterator[tuple[str, str]]:
    """Everything of a pattern before each placeholder, with numbers and placeholders folded, and the placeholder's name."""
    pieces = pattern.template.split("#")
    for n, slot in enumerate(pattern.slots):
        if isinstance(slot, str):
            yield "#".join(pieces[: n + 1]), slot


def _is_loop(before: str) -> bool:
    """Whether a number that is seen once is one of a row: it stands between two dots."""
    return before.endswith(".") and before.count(".") > 1


def _called(before: str) -> str:
    """What a placeholder is called by the word before it: `experts.` makes `expert`, anything that is no plural `layer`."""
    word = before.rstrip("._/").replace("/", ".").rpartition(".")[2].lower()
    single = word.removesuffix("s")
    return single if single != word and len(single) > 2 and single.isidentifier() and single.islower() else "layer"
