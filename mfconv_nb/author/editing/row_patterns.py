"""Make a pattern for names that no row of a draft matches yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mfconv_nb.core.checkpoint import MF
from mfconv_nb.core.folding import fold
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, sides_of


def pattern_for(names: Sequence[str], rows: Iterable[AnyRule]) -> str:
    """A pattern for names of one template: every number that changes becomes a placeholder, named as in the other rows."""
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
            name = known.get(fold(text)[0]) or _placeholder_name(text)
            while name in taken:
                name += "_"
            taken.add(name)
            text += f"{{{name}}}"
        elif column:
            text += str(column[0])
    return text


def _beginnings(pattern: Pattern) -> Iterator[tuple[str, str]]:
    """For each placeholder of a pattern: the text before it, with numbers and placeholders folded, and its name."""
    pieces = pattern.template.split("#")
    for n, slot in enumerate(pattern.slots):
        if isinstance(slot, str):
            yield "#".join(pieces[: n + 1]), slot


def _is_loop(before: str) -> bool:
    """Whether a number that never changes counts layers all the same: it stands behind two words, as in `model.layers.0`."""
    return before.endswith(".") and before.count(".") > 1


def _placeholder_name(before: str) -> str:
    """A name by the word before the number: `experts.` makes `expert`, a word that is no plural makes `layer`."""
    word = before.rstrip("._/").replace("/", ".").rpartition(".")[2].lower()
    single = word.removesuffix("s")
    return single if single != word and len(single) > 2 and single.isidentifier() and single.islower() else "layer"
