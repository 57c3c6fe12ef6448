"""The text of an exported converter: what it needs of `standalone.py`, with the tables of a family in place of the empty ones.

The same for what an exported list needs of `converter_program.py`. Both are read as text and never imported here, since they import torch,
mindspore or mindformers.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from mfconv_nb.author.family_text import Node, lay_out

PROGRAM = Path(__file__).with_name("standalone.py")
CLASSES = Path(__file__).with_name("converter_program.py")
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
    needed = _statements_needed([entry], texts)
    return "\n".join([f'"""{title}"""', *(text for node, text in texts.items() if node in needed), ""])


def classes_text(names: Collection[str], layouts: Node, functions: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """What a list of operations needs of `converter_program.py`.

    Args:
        names: the classes, of the program and of MindFormers.
        layouts: the table that names the functions.
        functions: their texts.
    Returns:
        The names to import, by their module (under an empty name whole modules), and the statements in their order.
    """
    source = CLASSES.read_text(encoding="utf-8")
    body = [node for node in ast.parse(source).body if not isinstance(node, ast.Expr)]
    texts = {node: "\n".join(source.splitlines()[_first_line(node) - 1 : node.end_lineno]) for node in body}
    for node in body:
        if isinstance(node, ast.AnnAssign) and "LAYOUTS" in _names_made(node):
            texts[node] = "\n".join([source.splitlines()[node.lineno - 2], lay_out(layouts, before="LAYOUTS = ")])
    used = {n.id for text in functions for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)} | set(names)
    needed = _statements_needed([name for node in body for name in _names_made(node) if name in used], texts)
    imports: dict[str, list[str]] = {}
    own = [node for node in body if node in needed and not isinstance(node, ast.Import | ast.ImportFrom)]
    wanted = used | {n.id for node in own for n in ast.walk(node) if isinstance(n, ast.Name)}
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            imports[module] = [
                *imports.get(module, ()),
                *(ast.unparse(alias) for alias in node.names if (alias.asname or alias.name) in wanted),
            ]
    return imports, [texts[node] for node in own]


def _first_line(node: ast.stmt) -> int:
    """Where a statement begins, with its decorators."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def _names_made(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of the program defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}


def _statements_needed(entries: Sequence[str], texts: Mapping[ast.stmt, str]) -> set[ast.stmt]:
    """The statements that functions and classes need, their own among them."""
    makers = {name: node for node in texts for name in _names_made(node)}
    needed: set[ast.stmt] = set()
    waiting = [makers[entry] for entry in entries]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            used = {inner.id for inner in ast.walk(ast.parse(texts[node])) if isinstance(inner, ast.Name)}
            waiting += [makers[name] for name in used & makers.keys()]
    return needed
