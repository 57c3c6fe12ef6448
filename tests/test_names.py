"""Functions of the package are named by what they do, or by what they give: never by a participle or a preposition alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mfconv_nb"
BARE = {"at", "of", "in", "on", "by", "beside", "among", "against", "between", "per", "around", "seen", "where", "what", "which", "how"}
BARE |= {"whose", "so", "one", "also", "only"}
WITH_OBJECT = {"for", "to", "from", "as", "with", "without"}  # with_name, to_json, for_checkpoint: what follows is the object
PARTICIPLE = re.compile(r"(ed|wn|ept|ade|aid|old|und|ken|ought|eft|eant|een|ven|one|ut|lit|ung)$")
VERBS = {"read", "need", "put", "cut", "hold", "fold", "find", "round", "layout", "embed", "about"}
# Names that users know, and two that read as what they give: how_many(3, "tensor") is "3 tensors".
KNOWN = {"expected", "only_adapters", "renamed", "how_many", "how_many_in_short"}


def says_nothing(name: str) -> bool:
    """Whether a name is a participle, or begins with a preposition that has no object."""
    first, *others = name.strip("_").split("_")
    if name in KNOWN:
        return False
    if first in BARE | WITH_OBJECT:
        return first in BARE or not others
    return not others and first not in VERBS and PARTICIPLE.search(first) is not None


def functions() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not any("property" in ast.unparse(d) for d in node.decorator_list):
                yield path.relative_to(PACKAGE).as_posix(), node.name


def test_no_function_is_named_by_a_participle_or_a_preposition_alone() -> None:
    named = list(functions())
    assert len(named) > 2000
    assert [f"{path}: {name}" for path, name in named if says_nothing(name)] == []


def test_the_check_tells_names_apart() -> None:
    bad = ("_told", "_taken", "_meant", "_at", "_by_guess", "_of_a_rank", "_with", "_one_of", "known", "_seen_through")
    good = ("with_name", "to_json", "folded_names", "read", "_round", "detect_family", "layout_of", "without_strategy", "for_indices")
    assert [name for name in (*bad, *good) if says_nothing(name)] == list(bad)
