"""What a call of ``map`` asks for: direction, sizes, what is left out; and the plan of one form of a family for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, Checkpoint, Original
from mfconv_nb.core.errors import MappingError, UsageError, did_you_mean, quote
from mfconv_nb.core.sizes import Size, Sizes, read_sizes
from mfconv_nb.mapping.adapters import STYLES, half_of
from mfconv_nb.mapping.forms import options_of, templates_of
from mfconv_nb.mapping.kinds import Kind, is_run_state
from mfconv_nb.mapping.plan import MappingPlan, plan_mapping
from mfconv_nb.mapping.rules import Family, OptionValue
from mfconv_nb.steps.converting.padded_vocabulary import with_cut_vocabulary
from mfconv_nb.steps.converting.stacked_adapters import find_stacking
from mfconv_nb.steps.converting.twins import with_twins
from mfconv_nb.steps.loading.company import kinds_told, saved_numbers
from mfconv_nb.steps.loading.sides import side_of_names


@dataclass(frozen=True)
class MapRequest:
    """What a call of ``map`` is about: the source, the direction, what is left out, how adapters are named (None: as for the family)."""

    source: Checkpoint
    to: str
    layers: int | None
    leave_out: tuple[str, ...]
    adapters: str | None
    cut_vocabulary: bool = False
    equal_halves: dict[tuple[str, ...], bool] = field(default_factory=dict, compare=False)  # what was read once, for all forms

    def names(self) -> list[str]:
        """The names that need a rule; of an adapter that of its weight."""
        names = self._kept_names
        names = names if self.to == MF else [n for n in names if not is_run_state(n) and n not in self.told]
        return [*dict.fromkeys(n if (half := half_of(n)) is None else half.weight for n in names)]

    @cached_property
    def _kept_names(self) -> list[str]:
        """Names that the caller did not leave out. Asked for once for each form of a family."""
        return [n for n in self.source.tensors if not any(fnmatchcase(n, p) for p in self.leave_out)]

    def check_some_are_left(self) -> None:
        """Raises UsageError (MFC501) where every tensor is left out: nothing would be converted, and the report would say that it was."""
        if self.leave_out and not self._kept_names:
            found = f"{' and '.join(map(quote, self.leave_out[:3]))}, which every name fits"
            hint = "Name only the tensors that are not to be converted."
            raise UsageError("MFC501", "leave_out", found=found, expected="patterns that leave something to convert", hint=hint)

    @cached_property
    def told(self) -> Mapping[str, Kind]:
        """The kinds of tensors that their own names do not tell, on the way to Hugging Face."""
        return {**saved_numbers(self.source), **kinds_told(self.source)} if self.to == HF else {}

    def plan(self, form: Family, given: Mapping[str, OptionValue]) -> MappingPlan:
        try:
            return self._plan(form, sizes_of(self.source, form, given))
        except MappingError as error:
            plan = self._plan(form, None) if error.code == "MFC107" else None
            if plan is None or not any(p.kind == "unmatched" for p in plan.problems):
                raise
            return plan  # a size is missing since it is another model: the names say so

    def _plan(self, form: Family, sizes: Sizes | None) -> MappingPlan:
        return plan_mapping(
            self.complete_source(form, sizes).specs,
            form,
            self.to,
            sizes=sizes,
            original=self.original_for(form),
            layers=self.layers,
            leave_out=self.leave_out,
            adapters=self.adapters,
            stacking=find_stacking(self.source, form, self.to, self._kept_names, self.equal_halves),
            told=self.told,
        )

    def complete_source(self, form: Family, sizes: Sizes | None) -> Checkpoint:
        """The source with the tensors that it holds under another name, and with its vocabulary cut where that is asked for."""
        completed = with_twins(self.source, form, sizes, self.to)
        return with_cut_vocabulary(completed, form, sizes, self.to) if self.cut_vocabulary else completed

    def original_for(self, form: Family) -> Original | None:
        """What is remembered of the target side, where it was of this form."""
        original = self.source.history.original
        if original is None or original.side != self.to:
            return None
        names = templates_of(original.names)
        is_of_this_form = 2 * len(names & form.templates(HF if self.to == MF else MF)) > len(names)
        return original if is_of_this_form else None


def direction_of(source: Checkpoint, to: str | None, family: str | Path | Family | None) -> str:
    """The given side; else the one that the checkpoint is not on. A user's own family may tell that side by its names."""
    if to is None:
        told = side_of_names(source.tensors, family) if isinstance(family, Family) else None
        return HF if (told or source.side) == MF else MF
    if to not in SIDE_NAMES:
        hint = did_you_mean(to, SIDE_NAMES) or "Leave it out to go to the side that the checkpoint is not on."
        raise UsageError("MFC501", "to", found=quote(to), expected="'hf' or 'mf'", hint=hint)
    return to


def adapter_style_of(source: Checkpoint, given: str | None) -> str | None:
    """How to name MindFormers' adapters: as given, else as the original had them; else None, and the family says it."""
    if given is None:
        original = source.history.original
        before = (half_of(n) for n in original.names) if original is not None and original.side == MF else ()
        return next((half.style for half in before if half is not None and half.style in STYLES), None)
    if given not in STYLES:
        hint = did_you_mean(given, STYLES) or "Leave --adapter_names out (adapters= in Python)."
        raise UsageError("MFC501", "adapters", found=quote(str(given)), expected=" or ".join(quote(s) for s in STYLES), hint=hint)
    return given


def sizes_of(source: Checkpoint, form: Family, given: Mapping[str, OptionValue]) -> Sizes | None:
    """The sizes from the config; what the caller gave is checked against it, or used where there is no config."""
    known = options_of(form)
    told = {known[n].size: Size(int(value), "the call") for n, value in given.items() if n in known and known[n].size}
    if source.config is None:
        return Sizes(told) if told else None
    absent = {n: int(value) for n, value in given.items() if n in known and known[n].size and n not in source.config}
    sizes = read_sizes({**absent, **source.config}, form.sizes)
    for axis, size in told.items():
        if axis in sizes and sizes[axis].value != size.value:
            expected = f"{sizes[axis].value}, from {sizes[axis].origin} in config.json"
            hint = "Leave the option out: the config says it."
            raise MappingError("MFC304", axis, found=size.value, expected=expected, hint=hint)
    return sizes.with_more(told)
