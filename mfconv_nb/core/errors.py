"""One family of exceptions, each with a stable code, and what a reader needs to go on: where, found, expected, hint.

Nothing in the package raises anything else on purpose. `docs/errors.md` explains every code; a test keeps both in step.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

CODES = {
    # 1xx: finding and opening the input
    "MFC101": "no such file or folder",
    "MFC102": "no checkpoint in this folder",
    "MFC103": "not a checkpoint format that is known",
    "MFC104": "the index and the files do not agree",
    "MFC105": "the same tensor name in two files",
    "MFC106": "the config cannot be used",
    "MFC107": "a size is not in the config",
    "MFC108": "the source changed while it was in use",
    "MFC109": "a live object that cannot be loaded",
    "MFC110": "the manifest beside the checkpoint cannot be used",
    "MFC111": "the folder of a training run is not complete",
    "MFC112": "no step that all ranks agree on",
    "MFC113": "the slices do not make up the tensor",
    "MFC114": "how the tensors were cut cannot be told",
    "MFC115": "the files do not make up one checkpoint",
    "MFC116": "the file cannot be read",
    # 2xx: inside one file
    "MFC201": "the header cannot be trusted",
    "MFC202": "the file is cut short",
    "MFC203": "the checkpoint stream is broken",
    "MFC204": "the checkpoint is encrypted",
    "MFC205": "a dtype that cannot be carried",
    "MFC206": "the pickle holds more than tensors",
    "MFC207": "a tensor is larger than its storage",
    "MFC208": "torch is needed for this file",
    "MFC209": "the bytes do not fit the checksum that the file carries",
    # 3xx: families, rules and names
    "MFC301": "no such model family",
    "MFC302": "the model family cannot be told",
    "MFC303": "the mapping does not cover the checkpoint",
    "MFC304": "what was given contradicts the config",
    "MFC305": "an option that this family does not take",
    "MFC306": "the layout sentence cannot be read",
    "MFC307": "the layout does not fit the shapes",
    "MFC308": "tensors that must be equal are not",
    "MFC309": "no such tensor",
    "MFC310": "two checkpoints that cannot be compared",
    "MFC311": "a family that contradicts itself",
    "MFC312": "the weights are quantised",
    "MFC313": "a family file that cannot be used",
    "MFC314": "a rule that cannot be exported",
    "MFC315": "a text of rules that cannot be read",
    "MFC317": "a converter's folder that cannot be used",
    "MFC318": "the converter failed",
    "MFC319": "an adapter that is not fully described",
    "MFC320": "optimizer state that cannot be moved exactly",
    "MFC321": "codes and scales that do not make up weights",
    # 4xx: writing the output
    "MFC401": "the target exists",
    "MFC402": "source and target are the same",
    "MFC403": "not enough space on the disk",
    "MFC404": "the target cannot be written",
    "MFC405": "the target format cannot hold this tensor",
    "MFC406": "another run is writing this target",
    "MFC407": "a file ending that names no format",
    "MFC408": "the weights do not fit the network",
    # 5xx: how a command or a function was called
    "MFC501": "a value that cannot be used",
}

# What to do next, where the place that raises a code knows nothing better: true for all such places.
NEXT_STEPS = {
    "MFC101": "Check how it is spelled, whether it is there, and whether you may read it.",
    "MFC102": "Give the folder in which the files of the weights lie; where they are missing, fetch them.",
    "MFC103": "Give a file of weights; if this should be one, fetch it again.",
    "MFC104": "Fetch it again together with the files of the weights: they have to be of one save.",
    "MFC106": "Put the file that was published with the weights in its place.",
    "MFC109": "Leave it out, or make it an array of such a kind first.",
    "MFC114": "Give the strategy files of this run: --strategy DIR (strategy= in Python).",
    "MFC201": "Fetch the file again, or save it again with what wrote it.",
    "MFC205": "In the framework that wrote it, make it a dense tensor of one of these dtypes, and save again.",
    "MFC301": "`mfconv families` lists the keys that are known (mc.known_families() in Python).",
    "MFC305": "Leave it out; `mfconv families KEY` explains what a family takes.",
    "MFC307": "Compare the layout with the shapes; with a built-in family, check that config.json is of these weights.",
    "MFC309": "`mfconv inspect PATH --all` lists the names of a checkpoint (list(checkpoint.tensors) in Python).",
    "MFC310": "Take a checkpoint that has its numbers: from files, or from a network that is not on the meta device.",
    "MFC311": "Change the rule that is named here.",
    "MFC313": "Mend the file; `mfconv prove FILE.py` checks it.",
    "MFC315": "Give the file in which the rules stand, such as MindFormers' models/qwen3/utils.py, or the one list of it.",
    "MFC317": "Change the converter's file to what is expected, or give another: --converter DIR (mc.run_converter(DIR, ...) in Python).",
    "MFC320": "To leave the optimizer out: --weights_only (weights_only=True in Python).",
    "MFC404": "Choose a folder that is there, and that you may write to.",
    "MFC405": "Leave the tensor out, or give it another name, shape or dtype before it is saved.",
}


class Lines(str):
    """Text whose line breaks were made here. In every other text a line break is a stranger's, and is shown as an escape."""

    def __str__(self) -> str:
        return self  # `str(error.found)` still knows where its line breaks are from


class MfconvError(Exception):
    """The base of every refusal. ``str()`` is the whole message; the parts are attributes.

    Args:
        code: one of ``CODES``; stable across versions.
        where: the file, tensor or option it is about.
        found, expected: what was there, and what would have been right.
        hint: what to do next. Left out: the one that ``NEXT_STEPS`` has for the code, if it has one.
        position: the character of a text that is to blame, where ``found`` shows one.
        choices: where the caller has to choose, the options and values that select each choice.
    """

    choices: tuple[Mapping[str, str], ...] = ()

    def __init__(
        self,
        code: str,
        where: object = None,
        *,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
        position: int | None = None,
    ) -> None:
        self.code, self.where, self.found, self.expected, self.position = code, where, found, expected, position
        self.hint = hint or NEXT_STEPS.get(code)
        super().__init__(code, where)

    def __str__(self) -> str:
        head = f"{self.code} {CODES[self.code]}"
        if self.where is not None:
            head += f": {to_short_line(str(self.where))}"
        parts = (("found", self.found), ("expected", self.expected), ("hint", self.hint))
        return Lines("\n".join([head, *(f"  {label:<9} {safe_text(text)}" for label, text in parts if text is not None)]))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: the frames of this package are noise to a reader."""
        return [f"{type(self).__name__}: {self}"]


class InputError(MfconvError):
    """The input cannot be found, opened or trusted (MFC1xx)."""


class FormatError(MfconvError):
    """One file breaks the rules of its format (MFC2xx)."""


class MappingError(MfconvError):
    """Names, shapes, families or layouts do not fit (MFC3xx)."""


class SeveralFitError(MappingError):
    """Several families or forms fit (MFC302); its ``choices`` tell them apart."""


class NotListedError(SeveralFitError):
    """The names fit, but the config says another model (MFC302). Only the caller can know that both compute the same."""


class WrappedNamesError(MappingError):
    """Names that a family knows, but for what a wrapper put before them or into them (MFC302); the hint says what."""


class OutputError(MfconvError):
    """The target cannot be written as asked (MFC4xx)."""


class UsageError(MfconvError):
    """A call with a value that cannot be used (MFC5xx)."""


def as_flags(choice: Mapping[str, str]) -> str:
    """A choice as it is typed: ``--file_prefix 'other one'``."""
    return " ".join(f"--{name} {as_word(value)}" for name, value in choice.items())


def as_word(text: str) -> str:
    """A value as it is typed in a shell; one that cannot be shown as it is in the form ``$'a\\nb'``, which bash, zsh and ksh read."""
    if text.isprintable():
        return shlex.quote(text)
    raw = os.fsencode(text) if not _is_utf8(text) else text.encode()
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in raw) + "'"


def as_place(path: str | Path) -> str:
    """A path as it is typed in a shell; one that looks like an option begins with ``./``."""
    text = str(path)
    return as_word(f"./{text}" if text.startswith("-") else text)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a file's name that are no UTF-8
        return False
    return True


def escape_controls(text: str) -> str:
    """``text`` with control characters shown as escapes: names come from strangers and end up in terminals."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def to_one_line(text: str) -> str:
    """``text`` with line breaks shown as escapes too."""
    return escape_controls(text).replace("\n", "\\n")


def safe_text(content: object) -> Lines:
    """Anything as it may be shown: no control characters, line breaks only of ``Lines``, no line of more than 4,000 characters."""
    lines = content.split("\n") if isinstance(content, Lines) else [str(content)]
    return Lines("\n".join(to_one_line(_cut(line, 4000)) for line in lines))


def to_short_line(text: str) -> str:
    """``one_line`` for what must not break a line: a path, a name. At most 1,200 characters, cut in the middle."""
    return to_one_line(_cut(text, 1200))


def _cut(text: str, length: int) -> str:
    """At most so many characters, cut in the middle; before they are escaped, as a name may have a hundred million."""
    return text if len(text) <= length else f"{text[: length * 2 // 3]} … {text[-(length // 3 - 10) :]}"


def quote(name: str | Path) -> str:
    """A name as it stands in a message: in quotes, escaped, at most 200 characters, cut in the middle."""
    return f"'{to_one_line(_cut(str(name), 200))}'"


class NearNames:
    """Known words, to be asked which of them looks most like another. Bounded, whatever strangers call their tensors: of the first 20,000
    words those of up to 200 characters are looked at, and after half a million pairs nothing is found any more.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._pool = [word for word in islice(known, 20_000) if len(word) <= LONGEST_NEAR]
        self._pairs_left = 500_000

    def nearest(self, word: str) -> str | None:
        """The known word that looks most like ``word``, or None."""
        if len(word) > LONGEST_NEAR or self._pairs_left < len(self._pool):
            return None
        self._pairs_left -= len(self._pool)
        pool = self._pool
        if len(pool) > FEW:
            from rapidfuzz import fuzz, process  # 10 ms, and most calls look for no name

            pool = [k for k, *_ in process.extract(word, pool, scorer=fuzz.ratio, limit=FEW, score_cutoff=60)]
        return next(iter(difflib.get_close_matches(word, pool, n=1, cutoff=0.6)), None)


LONGEST_NEAR = 200  # characters; the names of real tensors have up to 120
FEW = 8  # words that difflib looks at, which takes up to 7 ms for each


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like ``word``, or None. To ask for many words, make ``NearNames`` once."""
    return NearNames(known).nearest(word)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint with the nearest known word, or None."""
    best = nearest(word, known)
    return None if best is None else f"Did you mean {quote(best)}?"
