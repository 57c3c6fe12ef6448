"""Turn a family into rows of text that an editor shows and changes, and turn rows back into rules. Pure.

Nothing is lost either way: what a row does not show (a dtype, the options it belongs to) stays in ``more`` while the rest is edited. Commas
or line breaks separate names; a single name with a comma after it is a tuple of one, as in Python.

Raises only in ``family_of``. A row that cannot be read is a ``Fault``: the field, and the character where one is to blame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, count, repeat
from typing import Any

from mfconv_nb.author.suggesting.suggestion import COPIES, DROPPED, RULE, TIED, Suggestion
from mfconv_nb.core.errors import Lines, MappingError, quote
from mfconv_nb.core.layout import parse_layout
from mfconv_nb.mapping.flaws import flaws_of
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Names, Place, Repeated, Rule, Tied

KINDS = (RULE, COPIES, TIED, DROPPED)
CLASSES: Mapping[str, type[AnyRule]] = {RULE: Rule, COPIES: Repeated, TIED: Tied, DROPPED: Drop}
# what the rules of each kind have besides names, layout and sizes
MORE: Mapping[str, tuple[str, ...]] = {
    RULE: ("only_if", "optional", "dtype", "when", "same_as"),
    COPIES: ("may_be", "only_if", "optional", "when"),
    TIED: ("same_as", "only_if", "when"),
    DROPPED: ("why", "when", "same_as", "holds"),
}
SCALAR = "scalar"  # in ``more``: a layout without a single axis, which is not the same as no layout
HERE = "row"  # a rule made of a row is written at (HERE, the id of the row): see ``row_id_of``
NO_ID = -1  # of a row that is in no draft yet

_NAME = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^,\n"][^,\n]*|"[^,\n]*)\s*')
_BRACES = re.compile(r"\{=?[a-z_][a-z0-9_]*\}")
_AXIS = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class DraftRow:
    """One rule as text.

    Attributes:
        kind: "rule", "copies", "tied" or "dropped".
        hf, mf: names; of a dropped tensor only the side that has it.
        layout: the sentence; empty for the same shape on both sides.
        sizes: structural constants, ``name = number or axis``, a line each.
        more: what else its rule has: ``only_if``, ``optional``, ``dtype``, ``when``, ``may_be``, ``same_as``, ``why``, ``holds``.
        note: why it was suggested; no part of the rule.
        id: stays the same while the row is edited and moved, so that rules, flaws and judgements find it. ``Draft`` gives it.
    """

    kind: str = RULE
    hf: str = ""
    mf: str = ""
    layout: str = ""
    sizes: str = ""
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    note: str = field(default="", compare=False)
    id: int = field(default=NO_ID, compare=False)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row cannot be read or cannot be true: the field, and the character in its text where one is to blame."""

    field: str
    found: str
    expected: str
    hint: str = ""
    text: str = ""
    position: int | None = None

    @property
    def caret(self) -> str:
        """The line of the text with a caret under the character; empty if no character is to blame."""
        if self.position is None:
            return ""
        first = self.text.rfind("\n", 0, self.position) + 1
        return f"{self.text[first:].partition(chr(10))[0]}\n{' ' * (self.position - first)}^"


@dataclass(frozen=True)
class Draft:
    """A family being edited: its rows and sizes as text, and the family that supplies the rest. No two rows have the same id."""

    rows: tuple[DraftRow, ...]
    sizes: str
    base: Family

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(_with_own_ids(self.rows)))

    def with_row(self, place: int, row: DraftRow) -> Draft:
        """The draft with another row at a place."""
        return replace(self, rows=(*self.rows[:place], row, *self.rows[place + 1 :]))


def _with_own_ids(rows: Sequence[DraftRow]) -> Iterator[DraftRow]:
    """The rows; a new row, and the copy of a row above it, get the next free id."""
    free = count(1 + max((row.id for row in rows), default=NO_ID))
    taken = {NO_ID}
    for row in rows:
        own = replace(row, id=next(free)) if row.id in taken else row
        taken.add(own.id)
        yield own


# ---- from a family --------------------------------------------------------------------------------------------------------


def draft_of(family: Family, notes: Iterable[str] = ()) -> Draft:
    """A family as rows; ``notes`` are those of its rules, in their order."""
    rows = tuple(replace(row_of(rule), note=note) for rule, note in zip(family.rules, chain(notes, repeat("")), strict=False))
    return Draft(rows, "\n".join(f"{axis} = {sentence}" for axis, sentence in family.sizes.items()), family)


def draft_of_suggestion(suggestion: Suggestion, key: str) -> Draft:
    """A suggestion as rows, each with the reason for it as a note."""
    return draft_of(suggestion.family(key), (f"{s.confidence}: {s.reason}" for s in suggestion.suggested))


def row_of(rule: AnyRule) -> DraftRow:
    """A rule as text."""
    kind = next(kind for kind, made in CLASSES.items() if type(rule) is made)
    defaults = {f.name: f.default for f in fields(rule)}
    more = {n: v for n in MORE[kind] if (v := getattr(rule, n)) != defaults[n] and v != {}}
    if isinstance(rule, Drop):
        return DraftRow(kind, *((names_text(rule.pattern), "") if rule.side == "hf" else ("", names_text(rule.pattern))), more=more)
    more |= {SCALAR: True} if rule.layout == "" else {}
    sizes = rule.sizes if isinstance(rule, Rule) else {}
    return DraftRow(kind, names_text(rule.hf), names_text(rule.mf), rule.layout or "", sizes_text(sizes), more)


def sizes_text(sizes: Mapping[str, object]) -> str:
    """Sizes as text: one line ``name = value`` each."""
    return "\n".join(f"{name} = {value}" for name, value in sizes.items())


def names_text(names: Names) -> str:
    """Names as text, one a line. Double quotes enclose a name with a comma, a quote, a line break, or a space at an end."""
    if isinstance(names, str):
        return _quote_if_needed(names)
    return ",\n".join(map(_quote_if_needed, names)) + ("," if len(names) == 1 else "")


def _quote_if_needed(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) if re.search(r'[,\n"]|^\s|\s$', name) else name


# ---- to a family ----------------------------------------------------------------------------------------------------------


def family_of(draft: Draft) -> Family:
    """The family that a draft describes.

    Raises:
        MappingError: MFC311 naming the first row that cannot be read or cannot be true, or the line of the sizes.
    """
    rules, faults = rules_of(draft.rows)
    sizes, wrong = read_lines(draft.sizes, "sizes")
    numbers = {row.id: number for number, row in enumerate(draft.rows, 1)}
    titles = {row.id: f"row {numbers[row.id]}, {row.kind} {quote(_first_line(row.hf or row.mf))}" for row in draft.rows}
    for row_id, fault in faults.items():
        raise _refusal_of(titles[row_id], fault)
    for fault in wrong:
        raise _refusal_of("the sizes of the family", fault)
    family = replace(draft.base, rules=tuple(rules.values()), sizes=sizes, written_at=(HERE, 0))
    for flaw in sorted(flaws_of(family), key=lambda flaw: sorted(numbers[row_id_of(rule)] for rule in flaw.rules)):
        blamed = sorted(map(row_id_of, flaw.rules), key=numbers.__getitem__)
        where = " and ".join(titles[row_id] for row_id in blamed) or "the family"
        raise MappingError("MFC311", where, found=flaw.found, expected=flaw.expected, hint=flaw.hint or None)
    return family


def _first_line(names: str) -> str:
    return names.partition("\n")[0].rstrip(", ")


def _refusal_of(where: str, fault: Fault) -> MappingError:
    caret = fault.caret.replace("\n", f"\n{' ' * 12}")
    found = Lines(f"{fault.found}\n{' ' * 12}{caret}") if caret else fault.found
    return MappingError("MFC311", where, found=found, expected=fault.expected, hint=fault.hint or None, position=fault.position)


def rules_of(rows: Iterable[DraftRow]) -> tuple[dict[int, AnyRule], dict[int, Fault]]:
    """By the ids of their rows, in their order: the rules, and the faults of rows that cannot be read."""
    rules: dict[int, AnyRule] = {}
    faults: dict[int, Fault] = {}
    for row in rows:
        found = read_row(row)
        if isinstance(found, Fault):
            faults[row.id] = found
        else:
            rules[row.id] = found
    return rules, faults


def row_id_of(rule: AnyRule) -> int:
    """The id of the row that a rule was made of; changed copies of the rule keep it."""
    return rule.written_at[1]


def read_row(row: DraftRow) -> AnyRule | Fault:
    """The rule that a row describes, or why it describes none."""
    for fault in _faults_of(row):
        return fault
    written_at: Place = (HERE, row.id)
    more = {name: row.more[name] for name in MORE[row.kind] if name in row.more}
    if row.kind == DROPPED:
        return Drop(_first_name(row.hf or row.mf), side="hf" if row.hf.strip() else "mf", written_at=written_at, **{"why": "", **more})
    if row.kind == TIED:
        return Tied(_first_name(row.hf), _first_name(row.mf), layout=row.layout, written_at=written_at, **more)
    layout = row.layout if row.layout.strip() or SCALAR in row.more else None
    if row.kind == COPIES:
        return Repeated(read_names(row.hf), _first_name(row.mf), layout, written_at=written_at, **more)
    sizes = {axis: int(size) if size.isdigit() else size for axis, size in read_lines(row.sizes, "sizes")[0].items()}
    return Rule(read_names(row.hf), read_names(row.mf), layout, sizes, written_at=written_at, **more)


def read_names(text: str) -> Names:
    """The names in a text: one as a string, several as a tuple."""
    found = tuple(_without_quotes(m[1].strip()) for m in _NAME.finditer(text) if m[1].strip())
    is_one = len(found) == 1 and "," not in _NAME.sub("", text.strip())
    return found[0] if is_one else found


def _without_quotes(name: str) -> str:
    return str(json.loads(name)) if re.fullmatch(r'"(?:[^"\\]|\\.)*"', name) else name


def _first_name(text: str) -> str:
    names = read_names(text)
    return names if isinstance(names, str) else names[0]


def read_lines(text: str, where: str) -> tuple[dict[str, str], list[Fault]]:
    """Lines ``name = value`` as a dict, and the faults of all other lines; ``where`` is the field that they are in."""
    found: dict[str, str] = {}
    wrong: list[Fault] = []
    begun = 0
    for line in text.split("\n"):
        name, equals, value = (part.strip() for part in line.partition("="))
        at = begun + len(line) - len(line.lstrip())
        if line.strip() and not _AXIS.fullmatch(name):
            wrong.append(Fault(where, f"{quote(name)} as a name", "a name of small letters, digits and _", "", text, at))
        elif line.strip() and not (equals and value):
            wrong.append(Fault(where, "a name without a size", f"{name} = ...", "", text, begun + len(line.rstrip())))
        elif name in found:
            wrong.append(Fault(where, f"{quote(name)} for the second time", "each name once", "", text, at))
        elif line.strip():
            found[name] = value
        begun += len(line) + 1
    return found, wrong


# ---- what cannot be read --------------------------------------------------------------------------------------------------


def _faults_of(row: DraftRow) -> Iterator[Fault]:
    yield from _faults_of_names(row)
    if row.kind == TIED and not row.more.get("same_as"):
        yield Fault("same_as", "no name", "the Hugging Face name of the tensor that it is tied to")
    if row.kind == DROPPED:
        return
    try:
        parse_layout(row.layout)
    except MappingError as error:
        found = "a character that no sentence has" if _is_foreign(row.layout, error.position) else "a sentence that cannot be read"
        yield Fault("layout", found, str(error.expected), error.hint or "", row.layout, error.position)
    if row.kind == RULE:
        yield from read_lines(row.sizes, "sizes")[1]


def _is_foreign(text: str, position: int | None) -> bool:
    return position is not None and position < len(text) and not re.match(r"[a-z0-9_()+,]|->", text[position:])


def _faults_of_names(row: DraftRow) -> Iterator[Fault]:
    needed = [side for side in ("hf", "mf") if row.kind != DROPPED or getattr(row, side).strip()]
    if not needed:
        yield Fault("hf", "no name", "the name of the tensor, on the side that has it")
    if row.kind == DROPPED and len(needed) > 1:
        yield Fault("mf", "names on both sides", "a name on one side: a dropped tensor has no partner")
    for side in needed:
        text = getattr(row, side)
        names = read_names(text)
        if not names:
            yield Fault(side, "no name", "a name such as model.layers.{layer}.mlp.up.weight")
        is_several = row.kind == RULE or (row.kind == COPIES and side == "hf")
        if not isinstance(names, str) and len(names) > 1 and not is_several:
            yield Fault(side, f"{len(names)} names", f"one: {row.kind}")
        rest = _BRACES.sub(lambda m: " " * len(m[0]), text)
        if brace := re.search(r"[{}]", rest):
            expected = "placeholders of small letters, digits and _, such as {layer}"
            yield Fault(side, "a brace that belongs to no placeholder", expected, "", text, brace.start())
