"""The sections of ``mfconv --help``, in their order. Every command module in ``commands/`` names its own, and a SUMMARY."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

LOOK, CONVERT, CHECK, RULES = "Look", "Convert", "Check", "Make rules"
SECTIONS = (LOOK, CONVERT, CHECK, RULES)


def read_listing(module: str) -> tuple[str, str]:
    """The section and the summary of a command, read from its source: to import all commands would take half a second."""
    spec = find_spec(module)
    assert spec is not None
    assigned = {
        target.id: node.value
        for node in ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    section, summary = assigned["SECTION"], assigned["SUMMARY"]
    name = globals()[section.id] if isinstance(section, ast.Name) else ast.literal_eval(section)
    return str(name), str(ast.literal_eval(summary))
