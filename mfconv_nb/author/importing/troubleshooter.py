"""TroubleShooter's weight map as drafts: a JSON list of two objects, every name with its new name, and special tensors with a function.

TroubleShooter imports the function by its dotted name. Nothing is imported here: this module knows the function for the extra axis of a
Conv1d weight, and every other function is a finding. Source: troubleshooter 1.0.18.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from mfconv_nb.author.exporting.troubleshooter import CONV1D
from mfconv_nb.author.importing.imported import NO_WAY_BACK, NOT_UNDERSTOOD, OVERLAPS, Drafts, Finding
from mfconv_nb.author.importing.names import Pair, draft_of, fold_pairs
from mfconv_nb.author.importing.rule_texts import unreadable
from mfconv_nb.core.report import how_many

MAX_JSON = 64 << 20  # characters; 92,000 names are 14 million
MOST_NAMES = 1_000_000
NOTE = "The function names in the map are compared with the one that is known, never imported."
CONV1D_LAYOUT = "out in width -> out in 1 width"
EXPECTED = "a list of two objects: names with their new names, and names with functions"


def is_weight_map(text: str) -> bool:
    """Whether a text begins like a weight map; a list of rules in Python begins differently."""
    return "".join(text[:200].split()).startswith("[{")


def draft_weight_map(text: str, where: str) -> Drafts:
    """The drafts of a weight map, and the findings about it.

    Raises:
        MappingError: MFC315.
    """
    names, values, repeated = _read_content(text, where)
    found = Drafts(notes=(NOTE,))
    for name in repeated[:20]:
        found.add(Finding(OVERLAPS, name, 0, "the name stands in the map twice; the last one counts"))
    for name, function in values.items():
        if function != CONV1D:
            why = f"the function {str(function)[:120]!r} is not run; known is {CONV1D.rpartition('.')[2]}"
            found.add(Finding(NOT_UNDERSTOOD, name, 0, why))
        elif name not in names:
            found.add(Finding(NOT_UNDERSTOOD, name, 0, "a function for a name that the map does not have"))
    pairs = []
    for old, new in names.items():
        if not isinstance(new, str) or not new or not old:
            found.add(Finding(NOT_UNDERSTOOD, old, 0, f"{str(new)[:60]!r} is no name"))
        elif old not in values or values[old] == CONV1D:
            pairs.append(Pair(old, new, old in values))
    makers: dict[str, str] = {}
    for pair in pairs:
        first = makers.setdefault(pair.new, pair.old)
        if first != pair.old:
            found.add(Finding(NO_WAY_BACK, pair.old, 0, f"{first} becomes {pair.new} too"))
    for folded in fold_pairs(pair for pair in pairs if makers[pair.new] == pair.old):
        layout = CONV1D_LAYOUT if folded.about else None
        found.add(draft_of(folded, how_many(len(folded.pairs), "name"), (where, 0), layout))
    return found


def _read_content(text: str, where: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    if len(text) > MAX_JSON:
        raise unreadable(where, f"a text of {len(text):,} characters", f"at most {MAX_JSON:,}")
    repeated: list[str] = []

    def check_names(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(items) > MOST_NAMES:
            raise unreadable(where, f"an object of {len(items):,} names", f"at most {MOST_NAMES:,}")
        content = dict(items)
        if len(content) < len(items):
            repeated.extend(name for name, count in Counter(name for name, _ in items).items() if count > 1)
        return content

    try:
        content = json.loads(text, object_pairs_hook=check_names)
    except (ValueError, RecursionError, MemoryError) as error:
        raise unreadable(where, f"broken JSON: {error}"[:200], EXPECTED) from None
    if not isinstance(content, list) or len(content) != 2 or not isinstance(content[0], dict) or not isinstance(content[1], dict | None):
        raise unreadable(where, f"a JSON {type(content).__name__}", EXPECTED)
    return content[0], content[1] or {}, repeated
