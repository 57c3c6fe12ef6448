"""What every export has in common: the form of a family that is meant, files that appear all or not at all, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.errors import MappingError, OutputError, UsageError
from mfconv_nb.core.report import how_many
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.flaws import INDENT
from mfconv_nb.mapping.forms import checked_options, options_of
from mfconv_nb.mapping.rules import Family, default_form
from mfconv_nb.mapping.solve import Directed


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: its files, and what is to be known or done next.

    Attributes:
        family: the family's key.
        files: what was written.
        notes: sentences and lines for the reader, such as the two lines that make MindFormers know the files.
    """

    family: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The files, then the notes."""
        return "\n".join([*(f"✓ {self.family}: {path}" for path in self.files), *self.notes])


@dataclass(frozen=True, slots=True)
class Unsayable:
    """A rule that the other tool has no words for, and what is missing."""

    rule: str
    lacking: str


def form_meant(family: str | Path | Family, options: Mapping[str, object]) -> Family:
    """The one form of a family that is exported: its options as given, else their defaults.

    Raises:
        MappingError: MFC301, MFC305. UsageError: MFC501 for an option that gives a size: exported files read sizes when they run.
    """
    meant = family_meant(family)
    given = checked_options(meant, options)
    sized = [name for name in given if options_of(meant)[name].size]
    if sized:
        hint = "Leave it out."
        raise UsageError("MFC501", sized[0], found="a size", expected="none: the exported files read sizes when they run", hint=hint)
    return default_form(meant, given)


def form_words(form: Family) -> str:
    """The options of a form in words."""
    return ", ".join(f"{name} = {value}" for name, value in form.chosen.items()) or "the only one"


def write_texts(texts: Mapping[Path, str], *, overwrite: bool) -> tuple[Path, ...]:
    """Write files, and the folders they lie in; none where one of them is there already.

    Raises:
        OutputError: MFC401, MFC404.
    """
    there = [path for path in texts if path.exists()]
    if there and not overwrite:
        hint = "Choose another name, or say --force (overwrite=True in Python)."
        raise OutputError("MFC401", there[0], found="a file", expected="no file", hint=hint)
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError("MFC404", path, found=error.strerror, expected="a place that can be written") from None
    return tuple(texts)


def rule_text(directed: Directed) -> str:
    """A rule in one line: the names it reads, and the names it makes."""
    source, target = (", ".join(p.text for p in patterns) for patterns in (directed.source, directed.target))
    return f"{source} -> {target or 'nothing'}"


def cannot_say(where: str, found: str, expected: str) -> MappingError:
    """The refusal of rules that the other tool has no words for."""
    return MappingError("MFC314", where, found=found, expected=expected, hint="Convert it with mfconv itself: mfconv convert.")


def refuse(unsayable: Sequence[Unsayable], key: str, expected: str) -> None:
    """Raises MappingError (MFC314) with every rule that cannot be said; nothing where there is none."""
    if len(unsayable) == 1:
        raise cannot_say(unsayable[0].rule, unsayable[0].lacking, expected)
    if unsayable:
        lines = [f"{how_many(len(unsayable), 'rule')}:", *(f"{u.rule}: {u.lacking}" for u in unsayable)]
        raise cannot_say(f"family {key}", f"\n{INDENT}".join(lines), expected)
