"""A family as the text of a file like those in ``families/``: what a notebook makes can be kept, read and edited.

Beginnings that several names share (``model.layers.{layer}.``) become constants above the table. The text reads back as an equal family.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from mfconv_nb.core.errors import OutputError, to_one_line
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.run_yaml import RunClass
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Option, Repeated, Rule, Tied, Window

WIDTH = 140
STEP = 4
ENOUGH = 3  # names with one beginning, for the beginning to get a name of its own
ENDING = ".py"
HINT_ENDING = "Give it the ending .py: the family is a Python file."

# arguments without their keyword; and fields that are not written: they say where the old text stood
POSITIONAL = {Rule: ("hf", "mf", "layout"), Repeated: ("hf", "mf", "layout"), Tied: ("hf", "mf"), Drop: ("pattern", "why")}
UNWRITTEN = {"written_at", "file"}
ORDER = (
    "key",
    "covers",
    "covers_zh",
    "model_types",
    "part_types",
    "aliases",
    "also",
    "told_as",
    "same_maths",
    "windows",
    "conv1d",
    "run_classes",
    "run_keys",
    "mf_words",
    "adapters",
    "sizes",
    "options",
    "rules",
    "toy",
    "source",
    "chosen",
)


def write_family(family: Family, path: str | Path, *, notes: Sequence[str] = (), overwrite: bool = False) -> Path:
    """Write a family as a file that ``--model FILE.py`` takes.

    Args:
        notes: for each rule a comment above it, or nothing.
    Raises:
        OutputError: MFC407 for a name that does not end in ``.py``; MFC401 for a file that exists, without ``overwrite``; MFC404.
    """
    file = local_path(path)
    if file.suffix != ENDING:
        raise OutputError("MFC407", file, found=f"ending '{file.suffix}'", expected=f"a Python file: my_model{ENDING}", hint=HINT_ENDING)
    return write_texts({file: family_text(family, notes=notes)}, overwrite=overwrite)[0]


def write_texts(texts: Mapping[Path, str], *, overwrite: bool, make_folders: bool = False) -> tuple[Path, ...]:
    """Write files; none where one of them exists already.

    Raises:
        OutputError: MFC401, MFC404.
    """
    existing = [file for file in texts if file.exists()]
    if existing and not overwrite:
        hint = "Choose another name, or say --force (overwrite=True in Python)."
        raise OutputError("MFC401", existing[0], found="an existing file", expected="a new name", hint=hint)
    for file, text in texts.items():
        part = file.with_name(f"{file.name}.partial")
        try:
            if make_folders:
                file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(file)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise OutputError("MFC404", file, found=error.strerror or str(error), expected="a folder that can be written to") from None
    return tuple(texts)


def family_text(family: Family, *, notes: Sequence[str] = ()) -> str:
    """The text of a file that defines ``family``."""
    names = _Names(family.rules)
    used = [
        kind.__name__ for kind in (Drop, Family, Option, Repeated, Rule, RunClass, Tied, Window) if kind is Family or _uses(family, kind)
    ]
    head = [_docstring_of(family), f"from mfconv_nb.rules import {', '.join(used)}"]
    constants = "\n".join(f"{name} = {names.expression(beginning, besides=name)}" for beginning, name in names.constants.items())
    return "\n\n".join([*head, *([constants] if constants else []), _family_lines(family, names, notes)]) + "\n"


def _docstring_of(family: Family) -> str:
    parts = [family.covers or family.key, *([f"Source: {family.source}"] if family.source else [])]
    text = "\n\n".join(part if part[-1] in ".!?" else f"{part}." for part in parts)
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}{chr(10) if len(parts) > 1 else ""}"""'


def _uses(family: Family, kind: type) -> bool:
    parts = (*family.rules, *family.options, *family.windows.values(), *family.run_classes.values())
    return any(isinstance(part, kind) for part in parts)


# ---- names that begin alike ------------------------------------------------------------------------------------------------


class _Names:
    """Decides which beginnings of names become constants, and writes names with them."""

    def __init__(self, rules: Iterable[AnyRule]) -> None:
        sides: dict[str, Counter[str]] = {"HF": Counter(), "MF": Counter()}
        for rule in rules:
            for side, name in _names_of(rule):
                sides[side].update(_beginnings_of(name))
        frequent = {side: [b for b, n in found.items() if n >= ENOUGH] for side, found in sides.items()}
        self.constants: dict[str, str] = {}
        for beginning in sorted({b for found in frequent.values() for b in found}, key=lambda b: (b.count("{"), b)):
            own = [side for side, found in frequent.items() if beginning in found]
            self.constants[beginning] = self._free_name(own[0] if len(own) == 1 else "", beginning)

    def _free_name(self, side: str, beginning: str) -> str:
        """A free name: `LAYER`, or `HF_LAYER` where only one side has the beginning; with more of its words where that is taken."""
        words = [w.upper() for w in re.findall(r"[A-Za-z_][A-Za-z0-9_]*", beginning)]
        for count in range(1, len(words) + 1):
            name = "_".join([*([side] if side else []), *words[-count:]])
            if name not in self.constants.values():
                return name
        return f"{side or 'NAME'}_{len(self.constants)}"

    def expression(self, name: str, besides: str = "") -> str:
        """``LAYER + "mlp.up.weight"``, with the longest beginning that is a constant."""
        known = [b for b, constant in self.constants.items() if name.startswith(b) and constant != besides]
        longest = max(known, key=len, default="")
        rest = name[len(longest) :]
        return " + ".join(([self.constants[longest]] if longest else []) + ([atom_text(rest)] if rest or not longest else []))


def _names_of(rule: AnyRule) -> Iterator[tuple[str, str]]:
    if isinstance(rule, Drop):
        yield ("HF" if rule.side == "hf" else "MF"), rule.pattern
        return
    more = (rule.same_as,) if isinstance(rule, Tied) else rule.may_be if isinstance(rule, Repeated) else ()
    for side, names in (("HF", rule.hf), ("HF", more), ("MF", rule.mf)):
        yield from ((side, name) for name in ((names,) if isinstance(names, str) else names))


def _beginnings_of(name: str) -> Iterator[str]:
    """The beginnings of a name that end with a placeholder: ``model.layers.{layer}.``"""
    yield from (name[: found.end()] for found in re.finditer(r"\{[a-z_][a-z0-9_]*\}\.", name) if found.end() < len(name))


# ---- the table -------------------------------------------------------------------------------------------------------------


def _family_lines(family: Family, names: _Names, notes: Sequence[str]) -> str:
    lines = ["FAMILY = Family("]
    for name in ORDER:
        value = getattr(family, name)
        if name == "rules":
            lines += [" " * STEP + "rules=(", *_rule_lines(family.rules, names, notes), " " * STEP + "),"]
        elif value or name in ("key", "covers", "sizes"):
            lines.append(lay_out(node_of(value), STEP, f"{name}=", ","))
    return "\n".join([*lines, ")"])


def _rule_lines(rules: Sequence[AnyRule], names: _Names, notes: Sequence[str]) -> Iterator[str]:
    for n, rule in enumerate(rules):
        if n < len(notes) and notes[n]:
            yield from _comment_lines(notes[n], 2 * STEP)
        yield lay_out(_call(rule, names), 2 * STEP, "", ",")


def _comment_lines(text: str, indent: int) -> Iterator[str]:
    line = ""
    for word in to_one_line(text).split():
        if line and indent + 3 + len(line) + len(word) > WIDTH:
            yield f"{' ' * indent}# {line}"
            line = ""
        line = f"{line} {word}".strip()
    yield f"{' ' * indent}# {line}"


# ---- laid out --------------------------------------------------------------------------------------------------------------

Node = str | tuple[str, list[tuple[str, Any]], str]  # an expression: a text, or brackets around parts with their keywords


class Code(str):
    """A text that stands in an expression as it is, without quotes."""


def _call(part: AnyRule | Option | Window | RunClass, names: _Names | None) -> Node:
    """A rule or a record of a family as the call that makes it, without arguments that have their default."""
    arguments = []
    positional = POSITIONAL.get(type(part), ())
    for field in fields(part):
        value = getattr(part, field.name)
        is_default = value == _default_of(field) and field.name not in positional
        if field.name in UNWRITTEN or is_default or (field.name == "layout" and value is None):
            continue
        is_name = names is not None and field.name in ("hf", "mf", "same_as", "pattern", "may_be")
        node = _name_node(value, names) if is_name and names is not None else node_of(value)
        arguments.append(("" if field.name in positional else f"{field.name}=", node))
    return f"{type(part).__name__}(", arguments, ")"


def _default_of(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING and field.name not in UNWRITTEN else MISSING


def _name_node(value: str | tuple[str, ...], names: _Names) -> Node:
    if isinstance(value, str):
        return names.expression(value)
    return "(", [("", names.expression(name)) for name in value], ")"


def node_of(value: Any) -> Node:
    """A value as the expression that makes it."""
    if isinstance(value, Code):
        return value
    if isinstance(value, Mapping):
        return "{", [(f"{atom_text(key)}: ", node_of(each)) for key, each in value.items()], "}"
    if isinstance(value, tuple | list):
        opening, closing = "()" if isinstance(value, tuple) else "[]"
        return opening, [("", node_of(each)) for each in value], closing
    if isinstance(value, Option | Window | RunClass):
        return _call(value, None)
    return atom_text(value)


def atom_text(value: Any) -> str:
    """``repr`` with the formatter's quotes. A value without a literal, as a config made in Python may hold, is written as its text."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    text = repr(value if value is None or isinstance(value, str | int | float | bytes) else str(value))
    if isinstance(value, str) and text.startswith("'") and '"' not in value:
        return f'"{text[1:-1]}"'
    return text


def lay_out(node: Node, indent: int = 0, before: str = "", after: str = "", *, width: int = WIDTH) -> str:
    """An expression on one line where it fits, else one part a line."""
    flat = f"{' ' * indent}{before}{_flat_text(node)}{after}"
    if len(flat) <= width or isinstance(node, str) or not node[1]:
        return flat
    opening, parts, closing = node
    inner = [lay_out(part, indent + STEP, keyword, ",", width=width) for keyword, part in parts]
    return "\n".join([f"{' ' * indent}{before}{opening}", *inner, f"{' ' * indent}{closing}{after}"])


def _flat_text(node: Node) -> str:
    if isinstance(node, str):
        return node
    opening, parts, closing = node
    inner = ", ".join(f"{keyword}{_flat_text(part)}" for keyword, part in parts)
    return f"{opening}{inner}{',' if opening == '(' and len(parts) == 1 else ''}{closing}"
