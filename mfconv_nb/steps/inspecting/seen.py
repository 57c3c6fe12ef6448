"""A checkpoint as doctor sees it: what is in it, and what came of mapping it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, TensorSpec
from mfconv_nb.core.errors import MfconvError, SeveralFitError, WrappedNamesError
from mfconv_nb.families.registry import NoFamilyFitsError
from mfconv_nb.mapping.adapters import is_adapter
from mfconv_nb.mapping.kinds import WEIGHTS, category_of
from mfconv_nb.mapping.quantised import quantisation_of
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.steps.converting.map import map_checkpoint
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint
from mfconv_nb.steps.loading.company import kinds_told
from mfconv_nb.steps.loading.sides import has_words_of_mindformers


@dataclass(frozen=True)
class Seen:
    """A checkpoint that could be opened, and what came of mapping it.

    Attributes:
        weights: all that is neither state of a run nor a buffer.
        side: as the file says, else as the names show.
        mapped, refused: one of them.
        step_asked: whether the caller named the step of a run.
    """

    path: Path
    checkpoint: Checkpoint
    run: TrainedRun | None
    weights: tuple[TensorSpec, ...]
    adapters: tuple[TensorSpec, ...]
    quantised: str | None
    side: str | None
    mapped: MappedCheckpoint | None
    refused: MfconvError | None
    step_asked: bool = False

    @property
    def lacks_config(self) -> bool:
        """Whether what was refused is only what a config would tell."""
        if self.checkpoint.config is not None or self.refused is None:
            return False
        if isinstance(self.refused, CoverageError):
            return all(p.kind == "shape" or "--config" in p.hint for p in self.refused.problems)
        return isinstance(self.refused, SeveralFitError)

    @property
    def can_be_decided(self) -> bool:
        """Whether a word of the caller is all that is missing."""
        return self.lacks_config or self.lacks_alpha or isinstance(self.refused, SeveralFitError) or bool(self.leave_out)

    @property
    def leave_out(self) -> tuple[str, ...]:
        """Patterns of a few names without which everything has its place."""
        return self.refused.leave_out if isinstance(self.refused, CoverageError) else ()

    @property
    def unknown_family(self) -> bool:
        return (
            self.refused is not None and self.refused.code == "MFC302" and not isinstance(self.refused, SeveralFitError | WrappedNamesError)
        )

    @property
    def is_near_several(self) -> bool:
        """Whether nearly all names are those of several families, which a config would tell apart."""
        return isinstance(self.refused, NoFamilyFitsError) and bool(self.refused.nearest) and self.checkpoint.config is None

    @property
    def wants_config(self) -> bool:
        """Whether a config has to come from elsewhere: a Hugging Face folder is nothing without it, and sizes may follow from it."""
        return self.side == MF or self.lacks_config or bool(self.adapters)

    @property
    def lacks_alpha(self) -> bool:
        """Whether the scale of adapters is needed and not known: for a PEFT folder, or a merge."""
        return bool(self.adapters) and self.side == MF and not self.has_alpha

    @property
    def has_alpha(self) -> bool:
        return self.checkpoint.history.lora is not None and self.checkpoint.history.lora.alpha is not None

    @property
    def choices(self) -> tuple[Mapping[str, str], ...]:
        """Where several families or forms fit, those with which every tensor has its place."""
        choices = self.refused.choices if isinstance(self.refused, SeveralFitError) else ()
        return tuple(choice for choice in choices if self._works(choice))

    def _works(self, choice: Mapping[str, str]) -> bool:
        options: dict[str, Any] = dict(choice)
        try:
            map_checkpoint(replace(self.checkpoint, side=self.side), options.pop("model", None), options=options)
        except MfconvError:
            return False
        return True

    @property
    def skipped_steps(self) -> tuple[Step, ...]:
        """Steps of a run that are newer than the one that was read, unless the caller chose that step."""
        if self.run is None or self.run.chosen is None or self.step_asked:
            return ()
        chosen = self.run.chosen
        return tuple(sorted({step for had in self.run.steps.values() for step in had if step > chosen}))


def look_at(path: Path, checkpoint: Checkpoint, run: TrainedRun | None, *, step_asked: bool = False) -> Seen:
    """See what a checkpoint holds, and try to map it."""
    told = kinds_told(checkpoint)
    weights = tuple(s for s in checkpoint.specs if category_of(s.name, told) == WEIGHTS)
    names = [s.name for s in weights]
    adapters = tuple(s for s in weights if is_adapter(s.name))
    known_side = checkpoint.side or (MF if has_words_of_mindformers(names) else None)
    quantised = quantisation_of(weights, checkpoint.config, checkpoint.history.quantised_by)
    side, mapped, refused = _try_to_map(checkpoint, known_side) if quantised is None else (known_side, None, None)
    if refused is not None and refused.code == "MFC312":
        quantised, refused = str(refused.found), None
    return Seen(path, checkpoint, run, weights, adapters, quantised, side, mapped, refused, step_asked)


def _try_to_map(checkpoint: Checkpoint, side: str | None) -> tuple[str | None, MappedCheckpoint | None, MfconvError | None]:
    """The side, and the mapped checkpoint or why there is none. Where nothing says the side, both are tried."""
    first: MfconvError | None = None
    for told in dict.fromkeys((side, *((HF, MF) if checkpoint.side is None else ()))):
        try:
            mapped = map_checkpoint(replace(checkpoint, side=told))
            return HF if mapped.side == MF else MF, mapped, None
        except MfconvError as error:
            first = first or error
    return side, None, first
