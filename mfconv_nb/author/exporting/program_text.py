"""The text of an exported converter: what it needs of `standalone.py`, with the tables of a family in place of the empty ones.

The program is read as text and never imported here, since it imports torch and mindspore.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from mfconv_nb.author.family_text import Node, lay_out

PROGRAM = Path(__file__).with_name("standalone.py")
NO_FUNCTIONS = "# no layout changes: every tensor keeps its numbers where they are"


def program_text(title: str, entry: str, tables: Mapping[str, Node], functions: Sequence[str]) -> str:
    """The text of a Python file that defines the function ``entry``.

    Args:
        title: its docstring.
        tables: for each table of the program its content.
        functions: texts of the functions that the table ``LAYOUTS`` names; they stand before it.
    """
    source = PROGRAM.read_text(encoding="utf-8")
    lines, body = source.splitlines(), ast.parse(source).body
    texts: dict[ast.stmt, str] = {}
    for before, node in pairwise(body):
        above, own = lines[before.end_lineno : node.lineno - 1], lines[node.lineno - 1 : node.end_lineno]
        if isinstance(node, ast.Import | ast.ImportFrom):
            above = [line for line in above if not line]  # a comment there is for those who check the program
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in tables:
            start = f"{node.target.id}: {ast.unparse(node.annotation)} = "
            own = [lay_out(tables[node.target.id], before=start)]
            if node.target.id == "LAYOUTS":
                above = ["\n\n" + "\n\n\n".join(functions or [NO_FUNCTIONS]), "", *above]
        texts[node] = "\n".join([*above, *own])
    needed = _statements_needed(entry, texts)
    return "\n".join([f'"""{title}"""', *(text for node, text in texts.items() if node in needed), ""])


def _names_made(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of the program defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}


def _statements_needed(entry: str, texts: Mapping[ast.stmt, str]) -> set[ast.stmt]:
    """The statements that a function needs, itself among them."""
    makers = {name: node for node in texts for name in _names_made(node)}
    needed: set[ast.stmt] = set()
    waiting = [makers[entry]]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            used = {inner.id for inner in ast.walk(ast.parse(texts[node])) if isinstance(inner, ast.Name)}
            waiting += [makers[name] for name in used & makers.keys()]
    return needed
