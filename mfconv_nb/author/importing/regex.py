"""Admits a regular expression only if matching it against a name takes few steps: the texts may come from strangers.

Admitted: text, escaped characters, ``.``, ``\\d``, ``\\w``, classes, ``^``, ``$``, groups, look-arounds, alternatives, and ``*``, ``+``,
``?`` behind one character. Refused: a quantifier behind a group, counted quantifiers, back references, and so many repeats together that
a search could take very long.
"""

from __future__ import annotations

import re

MOST_REPEATS = 2  # of "any character": each multiplies the steps by the length of a name
MOST_DIGIT_REPEATS = 4
MOST_CHOICES = {0: 64, 1: 64, 2: 8}  # the product of all alternatives, by the number of repeats
_GROUP = re.compile(r"\((?:\?(?::|=|!|<=|<!))?")
_CLASS = re.compile(r"\[\^?[^\[\]\\]+\]")
_ESCAPED = re.compile(r"\\(?:[dw]|[^A-Za-z0-9])")


def objection_to(pattern: str) -> str:
    """Why a pattern is not admitted; empty where it is."""
    at, depth, repeats, digits = 0, 0, 0, 0
    choices, alternatives = 1, [1]
    last = ""  # kind of the atom before: "" (none), "digit", "any", "group"
    while at < len(pattern):
        character = pattern[at]
        if group := _GROUP.match(pattern, at):
            at, depth, last = group.end(), depth + 1, ""
            alternatives.append(1)
            continue
        if atom := _CLASS.match(pattern, at) or _ESCAPED.match(pattern, at):
            at, last = atom.end(), "digit" if atom[0] == r"\d" else "any"
            continue
        at += 1
        if character == ")":
            if not depth:
                return "a bracket that nothing opens"
            depth, last = depth - 1, "group"
            choices *= alternatives.pop()
        elif character == "|":
            alternatives[-1] += 1
            last = ""
        elif character in "*+?":
            if last in ("", "group"):
                return f"{character!r} behind a group" if last else f"{character!r} behind nothing"
            repeats += last == "any" and character != "?"
            digits += last == "digit" and character != "?"
            choices *= 2 if character == "?" else 1
            last = ""
        elif character in "{}[]\\":
            return f"{character!r}, which is not read"
        else:
            last = "" if character in "^$" else "any"
    if depth:
        return "a bracket that nothing closes"
    choices *= alternatives.pop()
    if repeats > MOST_REPEATS or digits > MOST_DIGIT_REPEATS or choices > MOST_CHOICES[repeats]:
        return "so many repeats and alternatives that a search could take very long"
    return ""


def to_search_pattern(pattern: str) -> str:
    """The expression that transformers searches for: ``*.`` is anything, and a pattern ends where a word ends."""
    text = pattern.replace("*.", r".*\.")
    return text + r"(?!\w)" if re.search(r"[a-zA-Z0-9]$", text) else text


def is_whole(pattern: str) -> bool:
    """Whether a pattern is a whole name with ``(\\d+)`` for its numbers. Such a pattern can be translated without names."""
    return re.fullmatch(r"\^(?:[A-Za-z0-9_-]|\\\.|\(\\d\+\))+\$", pattern) is not None
