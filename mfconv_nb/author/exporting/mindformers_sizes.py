"""Translates the sentences by which a family reads sizes from config.json into Python expressions. Pure."""

from __future__ import annotations

import ast
import re

from mfconv_nb.core.sizes import UNKNOWN

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_AT = "at_placeholder_"
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Mod: "%", ast.Pow: "**"}


def alternatives_of(sentence: str) -> list[tuple[str, str]]:
    """For every alternative of a sentence its first index and its size, as expressions over ``config`` and ``at``."""
    found = []
    for alternative in (text.strip() for text in sentence.split("|")):
        if alternative == UNKNOWN:
            continue
        first, _, last = alternative.rpartition("..")
        found.append((expression_text(first.strip()) if first.strip() else "0", expression_text(last.strip())))
    return found


def is_always_known(sentence: str) -> bool:
    """Whether every config has this size: one without it is refused."""
    return UNKNOWN not in sentence


def expression_text(sentence: str) -> str:
    """``hidden_size / num_attention_heads`` as ``divide(config["hidden_size"], config["num_attention_heads"])``."""
    return _text(ast.parse(_PLACEHOLDER.sub(lambda m: _AT + m[1], sentence), mode="eval").body)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        return f'at["{node.id.removeprefix(_AT)}"]' if node.id.startswith(_AT) else f'config["{node.id}"]'
    if isinstance(node, ast.Attribute):
        return f'{_text(node.value)}["{node.attr}"]'
    if isinstance(node, ast.Subscript):
        return f"{_text(node.value)}[{_text(node.slice)}]"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return f"divide({_text(node.left)}, {_text(node.right)})"
    if isinstance(node, ast.BinOp):
        return f"({_text(node.left)} {_SIGNS[type(node.op)]} {_text(node.right)})"
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Name):
        return f'int(not config.get("{node.operand.id}"))'
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "count":
        return f'{_text(node.args[0])}.count("{ast.unparse(node.args[1])}")'
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"{node.func.id}({_text(node.args[0])})"
    raise ValueError(f"a size sentence cannot hold {ast.unparse(node)}")
