"""What a migration wrote, or would write: which weights became which, with which state; what was left out; the numbers of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor
from mfconv_nb.core.errors import Lines
from mfconv_nb.core.folding import fold, folded_names
from mfconv_nb.core.report import Column, Result, Table, bytes_text, how_many, seconds_text
from mfconv_nb.mapping.kinds import split_state
from mfconv_nb.mapping.rules import OptionValue
from mfconv_nb.steps.migrating.moving import Origin
from mfconv_nb.steps.migrating.run_numbers import RunNumbers
from mfconv_nb.steps.saving.save_report import SaveReport

SAME, RENAMED, JOINED, SPLIT, MOVED, STAYS, LEFT_OUT = "same", "renamed", "joined", "split", "moved", "number", "left out"


@dataclass(frozen=True)
class FormChange:
    """An option of the family, as the run has it and as the target has it."""

    name: str
    before: OptionValue
    after: OptionValue


@dataclass(frozen=True, repr=False)
class MigrateReport(Result):
    """What was written, or with ``dry_run`` what would be.

    Attributes:
        saved: the files.
        changes: the options of the family in which the two forms differ.
        migrated: what was written, lazy.
        origins: of every weight where it comes from.
        states: the state of the optimizer, by its new name.
        left_out: names of the source that are in no file, and why.
    """

    saved: SaveReport
    family: str
    changes: tuple[FormChange, ...]
    source: Checkpoint
    migrated: Checkpoint
    origins: Mapping[str, Origin]
    states: Mapping[str, LazyTensor]
    numbers: RunNumbers
    left_out: Mapping[str, str]

    @property
    def target(self) -> str:
        return self.saved.target

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with weights and state, and the small ones beside them."""
        return self.saved.files

    @property
    def way_back(self) -> str:
        """What migrating back would give."""
        return self.saved.way_back

    def table(self) -> Table:
        saved = self.saved
        forms = ", ".join(f"{c.name} {c.before} → {c.after}" for c in self.changes) or "in the same form"
        what = f"{how_many(len(self.origins), 'weight')}, {how_many(len(self.states), 'tensor')} of the optimizer"
        size = f"{bytes_text(saved.plan.size)}, {how_many(len(saved.plan.files), 'file')}"
        columns = (Column("how"), Column("from"), Column("to"), Column("tensors", True), Column("state"))
        facts = (*self.migrated.notes, *saved.notes, f"common.json: {_numbers_text(self.numbers.common)}")
        facts += tuple(f"left out, no tensor: {o.name} ({o.kind})" for o in self.source.history.others[:4])
        casts = [f"cast: {how_many(n, 'tensor')} from {a} to {b}" for (a, b), n in saved.casts.items()]
        facts = (*casts, *facts)
        if saved.dry_run:
            headline = f"{self.family}, {forms}: would write {what}, {size} to {saved.target}. Way back: {saved.way_back}."
            return Table("", headline, columns, self._rows, (*facts, "Nothing was written (dry run)."), row_noun="kinds of tensors")
        resumed = ("Resumed: an earlier run had finished part of it.",) if saved.resumed else ()
        headline = f"{self.family}, {forms}: {what}, {size}, {seconds_text(saved.seconds)}. Way back: {saved.way_back}."
        return Table(
            "✓ Migrated.", headline, columns, self._rows, (*resumed, *facts, f"manifest: {saved.manifest}"), row_noun="kinds of tensors"
        )

    @cached_property
    def _rows(self) -> list[tuple[Any, ...]]:
        return [*self._rows_of_weights(), *self._rows_of_numbers(), *self._rows_left_out()]

    def _rows_of_weights(self) -> list[tuple[Any, ...]]:
        targets_of: dict[str, int] = {}
        for origin in self.origins.values():
            for source in origin.sources:
                targets_of[source] = targets_of.get(source, 0) + 1
        state: dict[str, list[str]] = {}
        for name in self.states:
            prefix, weight = split_state(name, self.origins.keys())
            state.setdefault(weight, []).append(prefix)
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name, origin in self.origins.items():
            templates = tuple(dict.fromkeys(fold(source)[0] for source in origin.sources))
            how = _kind_of_move(name, origin, targets_of)
            groups.setdefault((how, templates, fold(name)[0], tuple(state.get(name, ()))), []).append(name)
        return [
            (
                how,
                _fold_to_lines([s for n in names for s in self.origins[n].sources]),
                _fold_to_lines(names),
                len(names),
                " ".join(prefixes),
            )
            for (how, _, _, prefixes), names in groups.items()
        ]

    def _rows_of_numbers(self) -> list[tuple[Any, ...]]:
        return [(STAYS, name, name, 1, "") for name in self.numbers.tensors]

    def _rows_left_out(self) -> list[tuple[Any, ...]]:
        by_reason: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            by_reason.setdefault(why, []).append(name)
        return [(LEFT_OUT, _fold_to_lines(names), f"- ({why})", len(names), "") for why, names in by_reason.items()]


def _kind_of_move(name: str, origin: Origin, targets_of: Mapping[str, int]) -> str:
    if origin.keeps_places:
        return SAME if origin.sources == (name,) else RENAMED
    if len(origin.sources) > 1:
        return JOINED
    return SPLIT if any(targets_of[source] > 1 for source in origin.sources) else MOVED


def _fold_to_lines(names: list[str]) -> str:
    return Lines("\n".join(folded_names(names)))


def _numbers_text(common: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in common.items() if value is not None)
