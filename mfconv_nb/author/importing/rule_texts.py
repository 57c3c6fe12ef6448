"""Reads the lists in a Python text with rules of another tool. Runs nothing: it parses the text and picks out constants.

Refuses (MFC315): a text of more than 524,288 characters, or 100,000 in a line; brackets that are nested too deep; what Python itself cannot
parse. What is no constant (a call of something else, an f-string, a comprehension) becomes ``Unread`` with its line; the rest is read.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mfconv_nb.author.importing.imported import NOT_UNDERSTOOD, Drafts, Finding
from mfconv_nb.core.errors import MappingError, one_line

MAX_TEXT = 1 << 19  # characters; the largest text of this kind has 120,000
MOST_IN_A_LINE = 100_000  # a sum of 100,000 ones is nested as deep as it is long, and takes Python 0.4 s
MOST_NESTED = 60  # brackets inside each other
MOST_RULES = 2_000  # of one list
MOST_CHARACTERS = 300  # of one name or pattern
MOST_STEPS = 200_000  # nodes that are read of one text: constants may stand for each other


@dataclass(frozen=True, slots=True)
class Call:
    """A call in a text: ``RenameConvertOp(hf_names="a", mf_names="b")``."""

    name: str
    positional: tuple[Any, ...]
    keywords: Mapping[str, Any] = field(hash=False)
    line: int = 0

    def arguments(self, names: Sequence[str]) -> dict[str, Any]:
        """All arguments by name; ``names`` are those of the positional ones."""
        return {**dict(zip(names, self.positional, strict=False)), **self.keywords}


@dataclass(frozen=True, slots=True)
class Unread:
    """An element of a list that is no constant, and what it is instead."""

    line: int
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A list in a text.

    Attributes:
        name: the variable it is assigned to; empty where there is none.
        scope: the class or function around it.
        is_set: whether it is written as a set, which has no order.
        elements: constants, calls and ``Unread``, each with its line.
        called: the names that it calls.
    """

    name: str
    scope: str
    line: int
    is_set: bool
    elements: tuple[tuple[int, Any], ...]
    called: frozenset[str] = frozenset()


def texts_of(value: Any, most: int) -> tuple[str, ...]:
    """One text or a list of texts, at most so many; nothing where it is something else."""
    texts = [value] if isinstance(value, str) else value
    is_read = isinstance(texts, list) and len(texts) <= most and all(isinstance(text, str) and text for text in texts)
    return tuple(texts) if is_read else ()


def read_elements(listed: Listed, found: Drafts) -> Iterator[tuple[int, Any]]:
    """The elements that could be read, with their lines; every other element is a finding."""
    for line, element in listed.elements:
        if isinstance(element, Unread):
            found.add(Finding(NOT_UNDERSTOOD, element.text or "this", element.line, element.what))
        else:
            yield line, element


class _NotConstant(Exception):
    """A part of a text that is no constant. Stays inside this module."""

    def __init__(self, node: ast.AST, what: str) -> None:
        super().__init__(what)
        self.line, self.what = getattr(node, "lineno", 0), what


def parse_text(text: str, where: object) -> ast.Module:
    """The syntax tree of a text.

    Raises:
        MappingError: MFC315.
    """
    if len(text) > MAX_TEXT:
        raise unreadable(where, f"a text of {len(text):,} characters", f"at most {MAX_TEXT:,}")
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MOST_IN_A_LINE:
        raise unreadable(where, f"a line of {longest:,} characters", f"at most {MOST_IN_A_LINE:,}")
    _check_depth(text, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\." in their patterns is a warning of Python's
            return ast.parse(text)
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise unreadable(where, f"{line}{error.msg}", "Python that can be parsed") from None
    except (ValueError, RecursionError, MemoryError) as error:
        found = one_line(str(error)) or type(error).__name__
        raise unreadable(where, found[:200], "Python that can be parsed") from None


def unreadable(where: object, found: str, expected: str, hint: str | None = None) -> MappingError:
    """The error for a text of rules that cannot be read."""
    return MappingError("MFC315", where, found=found, expected=expected, hint=hint)


def _check_depth(text: str, where: object) -> None:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(0, depth - 1)
    if deepest > MOST_NESTED:
        raise unreadable(where, f"brackets {deepest:,} deep", f"at most {MOST_NESTED} inside each other")


def lists_in(tree: ast.Module, names: frozenset[str], calls: frozenset[str]) -> tuple[Listed, ...]:
    """The lists of a text that are assigned to one of ``names``, or that call one of ``calls``.

    A list that stands alone, without an assignment, counts too.
    """
    found: list[Listed] = []
    reader = _ConstantReader({})
    taken: set[int] = set()
    for scope, node in _statements_of(tree):
        target, value = _assignment_in(node)
        if value is None:
            continue
        if target:
            reader.constants[target] = value
        is_alone = isinstance(node, ast.Expr) and isinstance(value, ast.List | ast.Tuple | ast.Set)
        if target in names or is_alone:
            found.append(_read_list(target, scope, value, reader))
            taken |= {id(inner) for inner in ast.walk(value)}
    for scope, node in _statements_of(tree):
        for inner in ast.walk(node):
            if not isinstance(inner, ast.List | ast.Tuple) or id(inner) in taken:
                continue
            if any(_callee_of(each) in calls for each in inner.elts):
                taken |= {id(each) for each in ast.walk(inner)}
                found.append(_read_list("", scope, inner, reader))
    return tuple(found)


def _statements_of(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """The statements of a module and of the classes in it, each with the name of the class."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from ((node.name, inner) for inner in node.body)
        else:
            yield getattr(node, "name", ""), node


def _assignment_in(node: ast.stmt) -> tuple[str, ast.expr | None]:
    """The variable that a statement sets, and its value; no variable for an expression alone, nothing for other statements."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    if isinstance(node, ast.Expr):
        return "", node.value
    return "", None


def _callee_of(node: ast.AST) -> str:
    """The last word of the function in a call: ``convert_op.RenameConvertOp(...)`` gives RenameConvertOp."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _read_list(name: str, scope: str, node: ast.expr, reader: _ConstantReader) -> Listed:
    elements = tuple(islice(reader.elements(node, 0), MOST_RULES + 1))
    called = frozenset(map(_callee_of, getattr(node, "elts", ()))) - {""}
    return Listed(name, scope, node.lineno, isinstance(node, ast.Set), elements, called)


@dataclass
class _ConstantReader:
    """Reads constants, and counts the nodes it visits."""

    constants: dict[str, ast.expr]
    steps: int = 0

    def elements(self, node: ast.expr, depth: int) -> Iterator[tuple[int, Any]]:
        """The elements of a list, of a sum of lists, and of lists behind a star."""
        self.steps += 1
        if depth > MOST_NESTED or self.steps > MOST_STEPS:
            yield node.lineno, Unread(node.lineno, "names that stand for each other", "")
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            for each in node.elts:
                if isinstance(each, ast.Starred):
                    yield from self.elements(each.value, depth + 1)
                else:
                    yield each.lineno, self.read(each)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from self.elements(node.left, depth + 1)
            yield from self.elements(node.right, depth + 1)
        elif isinstance(node, ast.Name) and node.id in self.constants:
            yield from self.elements(self.constants[node.id], depth + 1)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                both = ast.copy_location(ast.Tuple([key, value], ast.Load()), value) if key is not None else None
                yield value.lineno, Unread(value.lineno, "a dict laid out with stars", "") if both is None else self.read(both)
        else:
            yield node.lineno, Unread(node.lineno, _kind_of(node), _source_of(node))

    def read(self, node: ast.expr) -> Any:
        """A constant or a call; ``Unread`` where it is neither."""
        try:
            return self._value(node, 0)
        except _NotConstant as found:
            return Unread(found.line or node.lineno, found.what, _source_of(node))

    def _value(self, node: ast.expr, depth: int) -> Any:
        self.steps += 1
        if depth > MOST_NESTED or self.steps > MOST_STEPS:
            raise _NotConstant(node, "too much inside each other")
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and len(node.value) > MOST_CHARACTERS:
                raise _NotConstant(node, f"a text of more than {MOST_CHARACTERS} characters")
            return node.value
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return [self._value(each, depth + 1) for each in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._value(node.operand, depth + 1)
            if type(number) is int:
                return -number
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._value(node.left, depth + 1), self._value(node.right, depth + 1)
            if isinstance(left, str) and isinstance(right, str) and len(left) + len(right) <= MOST_CHARACTERS:
                return left + right
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self._value(self.constants[node.id], depth + 1)
        if isinstance(node, ast.Call) and _callee_of(node)[:1].isupper():
            return self._call(node, depth)
        raise _NotConstant(node, _kind_of(node))

    def _call(self, node: ast.Call, depth: int) -> Call:
        if any(isinstance(each, ast.Starred) for each in node.args) or any(k.arg is None for k in node.keywords):
            raise _NotConstant(node, "arguments laid out with a star")
        positional = tuple(self._value(each, depth + 1) for each in node.args)
        keywords = {k.arg: self._value(k.value, depth + 1) for k in node.keywords if k.arg is not None}
        return Call(_callee_of(node), positional, keywords, node.lineno)


def _kind_of(node: ast.AST) -> str:
    """What a part of a text is, in the words of a message."""
    if isinstance(node, ast.Call):
        return f"a call of {_callee_of(node) or 'something'}, which is not run"
    words = {
        ast.JoinedStr: "an f-string",
        ast.ListComp: "a comprehension",
        ast.GeneratorExp: "a comprehension",
        ast.SetComp: "a comprehension",
        ast.DictComp: "a comprehension",
        ast.Name: "a name that stands for no constant in this text",
        ast.Attribute: "an attribute",
        ast.Subscript: "a part of something",
        ast.IfExp: "a condition",
        ast.Lambda: "a function",
    }
    return words.get(type(node), f"a {type(node).__name__}")


def _source_of(node: ast.AST) -> str:
    try:
        text = one_line(ast.unparse(node))
    except (RecursionError, ValueError, AttributeError):
        return ""
    return text if len(text) <= 80 else f"{text[:79]}…"
