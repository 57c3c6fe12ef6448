"""What all exports share: the form of a family that is exported, the result, and the refusal of rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.errors import MappingError, UsageError
from mfconv_nb.core.report import how_many
from mfconv_nb.families.registry import family_meant
from mfconv_nb.mapping.flaws import INDENT
from mfconv_nb.mapping.forms import checked_options, options_of
from mfconv_nb.mapping.rules import Family, default_form
from mfconv_nb.mapping.solve import Directed

Files = tuple[dict[Path, str], tuple[str, ...]]  # texts by their files, and notes for the reader


@dataclass(frozen=True, slots=True)
class Exported:
    """The files that an export wrote, and notes for the reader.

    Attributes:
        family: the family's key.
        notes: sentences and lines, such as the two lines that make MindFormers know the files.
    """

    family: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The files, then the notes."""
        return "\n".join([*(f"✓ {self.family}: {path}" for path in self.files), *self.notes])


@dataclass(frozen=True, slots=True)
class Unsayable:
    """A rule that the other tool has no words for, and what it lacks."""

    rule: str
    lacking: str


def resolve_form(family: str | Path | Family, options: Mapping[str, object]) -> Family:
    """The form of a family to export: its options as given, else their defaults.

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


def rule_text(directed: Directed) -> str:
    """A rule in one line: the names it reads, and the names it makes."""
    source, target = (", ".join(p.text for p in patterns) for patterns in (directed.source, directed.target))
    return f"{source} -> {target or 'nothing'}"


def cannot_say(where: str, found: str, expected: str) -> MappingError:
    """The error for rules that the other tool has no words for."""
    return MappingError("MFC314", where, found=found, expected=expected, hint="Convert it with mfconv itself: mfconv convert.")


def refuse(unsayable: Sequence[Unsayable], key: str, expected: str) -> None:
    """Raises MappingError (MFC314) with every rule that cannot be said; nothing where there is none."""
    if len(unsayable) == 1:
        raise cannot_say(unsayable[0].rule, unsayable[0].lacking, expected)
    if unsayable:
        lines = [f"{how_many(len(unsayable), 'rule')}:", *(f"{u.rule}: {u.lacking}" for u in unsayable)]
        raise cannot_say(f"family {key}", f"\n{INDENT}".join(lines), expected)
