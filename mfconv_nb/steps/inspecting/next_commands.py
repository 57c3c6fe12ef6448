"""The exact commands that lead on from what doctor found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import InputError, MfconvError, SeveralFitError, as_flags, as_place, as_word
from mfconv_nb.core.yaml_file import ENDINGS as YAML_ENDINGS
from mfconv_nb.mapping.kinds import BUFFERS, WEIGHTS, amounts_by_category
from mfconv_nb.mapping.remedies import leave_out_flags
from mfconv_nb.runs.opening import looks_like_run
from mfconv_nb.runs.part_of import PartOf
from mfconv_nb.steps.inspecting.doctor_findings import targets_of, why_not_held
from mfconv_nb.steps.inspecting.seen import Seen
from mfconv_nb.steps.loading.caller_facts import GivenConfig
from mfconv_nb.steps.loading.company import kinds_told

MAX_CHOICES = 4


@dataclass(frozen=True)
class NextCommands:
    """What the caller gave, and the commands to run next, with the same words."""

    path: str
    config: GivenConfig
    step: int | str | None
    strategy: str | Path | None
    file_prefix: str | None

    @property
    def _source(self) -> str:
        return as_place(self.path)

    @property
    def _given_run_flags(self) -> str:
        """Step, strategy and prefix, as the caller gave them."""
        return self._run_flags(self.step)

    def _run_flags(self, step: int | str | None) -> str:
        """Step, strategy and prefix as flags; strategy and prefix as the caller gave them."""
        words = (("step", step), ("strategy", self.strategy), ("file_prefix", self.file_prefix))
        return "".join(f" --{name} {as_word(str(value))}" for name, value in words if value is not None)

    @property
    def _config_flag(self) -> str:
        return "".join(f" --config {as_place(str(one))}" for one in self._config_paths)

    @property
    def _config_paths(self) -> list[str | Path]:
        """Where the configs lie that the caller named by a path."""
        given = self.config if isinstance(self.config, Sequence) and not isinstance(self.config, str) else [self.config]
        return [one for one in given if isinstance(one, str | Path)]

    def for_the_whole(self, whole: PartOf) -> Iterator[str]:
        if whole.whole is not None:
            yield f"mfconv doctor {as_place(whole.whole)}{self._config_flag}"

    def after_refusal(self, error: Exception) -> Iterator[str]:
        """What leads on where a path could not be opened: the config, where the shapes of a run's tensors are not known."""
        if isinstance(error, MfconvError) and error.code == "MFC114" and "--config" in (error.hint or "") and self.config is None:
            yield f"mfconv doctor {self._source}{self._given_run_flags} --config HF_DIR"
        if isinstance(error, MfconvError) and error.code == "MFC102":
            for inner in _runs_in(Path(self.path))[:MAX_CHOICES]:
                yield f"mfconv doctor {as_place(inner)}{self._given_run_flags}{self._config_flag}"
        if isinstance(error, InputError):
            for choice in error.choices[:MAX_CHOICES]:
                yield f"mfconv doctor {self._source}{self._given_run_flags} {as_flags(choice)}{self._config_flag}"

    def for_checkpoint(self, seen: Seen) -> Iterator[str]:
        if seen.quantised is not None or (seen.refused is not None and not seen.can_be_decided and not seen.unknown_family):
            return
        if self._target(seen) is None:
            return
        config = self._config_flag or ("" if seen.checkpoint.config is not None or not seen.wants_config else " --config HF_DIR")
        config = config if not seen.lacks_alpha else self._alpha_flag()
        run = self._run_flags(str(seen.run.chosen)) if seen.run is not None and seen.skipped_steps else self._given_run_flags
        told_by_caller = isinstance(seen.refused, SeveralFitError) and (seen.checkpoint.config is not None or bool(seen.adapters))
        choices = [f" {as_flags(choice)}" for choice in seen.choices[:MAX_CHOICES]] if told_by_caller else [""]
        if seen.is_near_several:
            yield f"mfconv doctor {self._source}{run} --config HF_DIR"
        elif seen.unknown_family:
            sides = f"{self._source} MF" if seen.side != MF else f"HF_DIR {self._source}"
            yield f"mfconv suggest {sides} --out my_model.py"
        elif seen.adapters and len(seen.adapters) < len(seen.weights):
            yield from self._adapter_commands(seen, run, config, choices)
        else:
            left = f" {leave_out_flags(seen.leave_out)}" if seen.leave_out else ""
            yield from (self._convert_command(seen, f"{run}{config}{choice}{left}") for choice in choices)
            if seen.adapters and seen.side == HF and seen.has_alpha:
                yield f"mfconv merge HF_DIR {self._source} OUT/"
            if not seen.adapters and not told_by_caller:
                yield f"mfconv verify {self._source} {self._target(seen)}{run}{config}{self._flag_for_only(seen)}"
        if seen.run is not None and not seen.adapters:
            yield f"mfconv save {self._source} OUT.safetensors{run}{self._config_flag}{self._flag_for_only(seen)}"

    def _flag_for_only(self, seen: Seen) -> str:
        """What the other side can have, where there is more: weights and buffers, without the state of the run."""
        found = amounts_by_category(seen.checkpoint.specs, kinds_told(seen.checkpoint))
        kept = [category for category in (WEIGHTS, BUFFERS) if category in found]
        return f" --only {','.join(kept)}" if len(kept) < len(found) else ""

    def _convert_command(self, seen: Seen, more: str) -> str:
        back = "--reversed " if seen.side == MF else ""
        return f"mfconv convert {back}{self._source} {self._target(seen)}{more}"

    def _target(self, seen: Seen) -> str | None:
        """A target whose format holds every tensor; None where none does."""
        return next((target for target in targets_of(seen) if why_not_held(seen, target) is None), None)

    def _alpha_flag(self) -> str:
        """The YAML of the run says alpha; of other configs none does."""
        return self._config_flag if self._is_yaml else " --config RUN.yaml"

    def _adapter_commands(self, seen: Seen, run: str, config: str, choices: Sequence[str]) -> Iterator[str]:
        """Weights and adapters in one: merged, or each for itself."""
        yield f"mfconv merge {self._source} {'OUT.ckpt' if seen.side == MF else 'OUT/'}{run}{config}"
        yield from (self._convert_command(seen, f"{run}{config}{choice} --only_adapters") for choice in choices)
        of_model = self._config_flag if self._config_flag and not self._is_yaml else " --config HF_DIR"
        yield self._convert_command(seen, f"{run}{of_model} --leave_out '*lora_*'")

    @property
    def _is_yaml(self) -> bool:
        return any(Path(one).suffix.lower() in YAML_ENDINGS for one in self._config_paths)


def _runs_in(folder: Path) -> list[Path]:
    """The folders of runs that lie in a folder which is none itself; the first 50 of its folders are looked at."""
    try:
        inner = sorted(p for p in folder.iterdir() if p.is_dir())[:50]
    except OSError:
        return []
    return [p for p in inner if looks_like_run(p)]
