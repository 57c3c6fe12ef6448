"""doctor: what a path holds, what can be done with it, and the exact next command. Headers only; nothing raises for what is found.

Reads no weight, but for three things about runs (the counters of a step, the first bytes of a few slices, and, without strategy files,
checksums of small slices), some numbers of one layer where only they tell its layout, a few of each matrix (are they zeros?), the first
of a head that should be the embedding; and, up to 256 MiB or when asked, whatever a file carries a checksum of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import InputError, MfconvError, SeveralFitError, as_flags, as_place, as_word, printable
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.run_yaml import ENDINGS as YAML_ENDINGS
from mfconv_nb.mapping.kinds import BUFFERS, WEIGHTS, amounts_by_category
from mfconv_nb.mapping.remedies import leave_out_flags
from mfconv_nb.runs.opening import looks_like_run, open_run
from mfconv_nb.runs.part_of import PartOf, part_of, whole_of
from mfconv_nb.runs.run import TrainedRun
from mfconv_nb.steps.inspecting.damage import damage_findings
from mfconv_nb.steps.inspecting.diagnosis import STOP, TOLD, Diagnosis, Finding
from mfconv_nb.steps.inspecting.doctor_findings import Seen, findings_of, look_at, run_findings, targets_of, what_it_is, why_not_held
from mfconv_nb.steps.loading.load import config_near, load, load_run

Config = str | Path | Mapping[str, Any] | None
MAX_CHOICES = 4
OF_A_PART = ("contents", "dtypes", "state of the run", "names", "quantised")  # what is true of a part too


@makes_many_objects
def doctor(
    path: str | Path,
    *,
    config: Config = None,
    step: int | str | None = None,
    strategy: str | Path | None = None,
    file_prefix: str | None = None,
    checksums: bool = False,
) -> Diagnosis:
    """Say what a path holds: the kind of checkpoint, its family, what is special, what a conversion needs, and what to run next.

    Reads hardly more than headers, imports neither torch nor mindspore (but torch for a torch file), and raises nothing for what it finds.

    Args:
        path: what ``load`` takes as a path.
        config: as for ``load``; without one, what follows from a config cannot be checked.
        step, strategy, file_prefix: of a training run, as for ``load``.
        checksums: compare every byte with the checksums that the files carry, and the blobs of the hub cache with their names; left out,
            that is done where it is 256 MiB at most.
    """
    place = local_path(path)
    asked = _Asked(str(place), config, step, strategy, file_prefix)
    run: TrainedRun | None = None
    whole: PartOf | None = None
    try:
        place, _ = whole_of(place)
        whole = part_of(place)
        run = open_run(place, step=step, strategy=strategy, file_prefix=file_prefix, config=config_near(place, config))
        checkpoint = load_run(run, place, config=config) if run is not None else load(path, config=config)
    except (MfconvError, OSError) as error:
        return _refused(asked, error, run, whole)
    seen = look_at(place, checkpoint, run, step_asked=step is not None)
    if whole is not None:
        findings = (_part_finding(whole), *(f for f in findings_of(seen) if f.topic in OF_A_PART))
        return Diagnosis(str(path), what_it_is(seen), findings, tuple(asked.of_the_whole(whole)), run, checkpoint)
    findings = (*findings_of(seen), *damage_findings(checkpoint, asked=checksums))
    return Diagnosis(str(path), what_it_is(seen), findings, tuple(asked.of_a_checkpoint(seen)), run, checkpoint)


def _runs_in(folder: Path) -> list[Path]:
    """The folders of runs that lie in a folder which is none itself; the first 50 of its folders are looked at."""
    try:
        inner = sorted(p for p in folder.iterdir() if p.is_dir())[:50]
    except OSError:
        return []
    return [p for p in inner if looks_like_run(p)]


def _part_finding(whole: PartOf) -> Finding:
    beside = "" if whole.whole is None else f"; the whole is {whole.whole}"
    return Finding(STOP, "part", f"{whole.said}{beside}")


def _refused(asked: _Asked, error: Exception, run: TrainedRun | None, whole: PartOf | None) -> Diagnosis:
    """What is said of a path that cannot be opened as one checkpoint."""
    what = f"MindFormers training run: {run.kind}" if run is not None else "Not a checkpoint that can be read"
    what = "MindFormers training run that cannot be opened" if run is None and looks_like_run(Path(asked.path)) else what
    if whole is not None and run is None:
        return Diagnosis(asked.path, "A part of a run or a checkpoint", (_part_finding(whole),), tuple(asked.of_the_whole(whole)))
    problems = run.problems if run is not None and run.problems else (error,)
    seen = [*(run_findings(run) if run is not None else ()), *(Finding(STOP, "problem", one_line(p)) for p in problems[:8])]
    seen += [Finding(TOLD, "problems", f"{len(problems) - 8:,} more like these")] if len(problems) > 8 else []
    hints = tuple(dict.fromkeys(hint for p in problems if (hint := getattr(p, "hint", None))))
    seen += [Finding(TOLD, "hint", hint) for hint in hints]
    choices = error.choices if isinstance(error, MfconvError) else ()
    return Diagnosis(asked.path, what, tuple(seen), tuple(asked.after_a_refusal(error)), run, choices=choices)


def one_line(error: Exception) -> str:
    """An error in a line: code, where, found, expected."""
    if not isinstance(error, MfconvError):
        return printable(str(error)).replace("\n", " ")
    found = f": {error.found}" if error.found is not None else ""
    expected = f"; expected {error.expected}" if error.expected is not None else ""
    first = str(error).partition("\n")[0]
    return " ".join(f"{first}{found}{expected}".split())


# ---- what to run next ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What the caller said, and the commands that say it again."""

    path: str
    config: Config
    step: int | str | None
    strategy: str | Path | None
    file_prefix: str | None

    @property
    def source(self) -> str:
        return as_place(self.path)

    @property
    def of_run(self) -> str:
        """Step, strategy and prefix, as they were given."""
        return self.of_run_at(self.step)

    def of_run_at(self, step: int | str | None) -> str:
        """Strategy and prefix, as they were given, and a step."""
        words = (("step", step), ("strategy", self.strategy), ("file_prefix", self.file_prefix))
        return "".join(f" --{name} {as_word(str(value))}" for name, value in words if value is not None)

    @property
    def of_config(self) -> str:
        return f" --config {as_place(str(self.config))}" if isinstance(self.config, str | Path) else ""

    def of_the_whole(self, whole: PartOf) -> Iterator[str]:
        if whole.whole is not None:
            yield f"mfconv doctor {as_place(whole.whole)}{self.of_config}"

    def after_a_refusal(self, error: Exception) -> Iterator[str]:
        """What leads on where a path could not be opened: the config, where the shapes of a run's tensors are not known."""
        if isinstance(error, MfconvError) and error.code == "MFC114" and "--config" in (error.hint or "") and self.config is None:
            yield f"mfconv doctor {self.source}{self.of_run} --config HF_DIR"
        if isinstance(error, MfconvError) and error.code == "MFC102":
            for inner in _runs_in(Path(self.path))[:MAX_CHOICES]:
                yield f"mfconv doctor {as_place(inner)}{self.of_run}{self.of_config}"
        if isinstance(error, InputError):
            for choice in error.choices[:MAX_CHOICES]:
                yield f"mfconv doctor {self.source}{self.of_run} {as_flags(choice)}{self.of_config}"

    def of_a_checkpoint(self, seen: Seen) -> Iterator[str]:
        if seen.quantised is not None or (seen.refused is not None and not seen.can_be_decided and not seen.unknown_family):
            return
        if self._target(seen) is None:
            return
        config = self.of_config or ("" if seen.checkpoint.config is not None or not seen.wants_config else " --config HF_DIR")
        config = config if not seen.lacks_alpha else self._with_alpha()
        run = self.of_run_at(str(seen.run.chosen)) if seen.run is not None and seen.skipped_steps else self.of_run
        told_by_caller = isinstance(seen.refused, SeveralFitError) and (seen.checkpoint.config is not None or bool(seen.adapters))
        choices = [f" {as_flags(choice)}" for choice in seen.choices[:MAX_CHOICES]] if told_by_caller else [""]
        if seen.unknown_family:
            sides = f"{self.source} MF" if seen.side != MF else f"HF_DIR {self.source}"
            yield f"mfconv suggest {sides} --out my_model.py"
        elif seen.adapters and len(seen.adapters) < len(seen.weights):
            yield from self._with_adapters(seen, run, config, choices)
        else:
            left = f" {leave_out_flags(seen.leave_out)}" if seen.leave_out else ""
            yield from (self._convert(seen, f"{run}{config}{choice}{left}") for choice in choices)
            if seen.adapters and seen.side == HF and seen.has_alpha:
                yield f"mfconv merge HF_DIR {self.source} OUT/"
            if not seen.adapters and not told_by_caller:
                yield f"mfconv verify {self.source} {self._target(seen)}{run}{config}{self._only(seen)}"
        if seen.run is not None and not seen.adapters:
            yield f"mfconv save {self.source} OUT.safetensors{run}{self.of_config}{self._only(seen)}"

    def _only(self, seen: Seen) -> str:
        """What the other side can have, where there is more: weights and buffers, without the state of the run."""
        found = amounts_by_category(seen.checkpoint.specs)
        kept = [category for category in (WEIGHTS, BUFFERS) if category in found]
        return f" --only {','.join(kept)}" if len(kept) < len(found) else ""

    def _convert(self, seen: Seen, more: str) -> str:
        back = "--reversed " if seen.side == MF else ""
        return f"mfconv convert {back}{self.source} {self._target(seen)}{more}"

    def _target(self, seen: Seen) -> str | None:
        """A target whose format holds every tensor; None where none does."""
        return next((target for target in targets_of(seen) if why_not_held(seen, target) is None), None)

    def _with_alpha(self) -> str:
        """The YAML of the run says alpha; of other configs none does."""
        return self.of_config if self._is_yaml else " --config RUN.yaml"

    def _with_adapters(self, seen: Seen, run: str, config: str, choices: Sequence[str]) -> Iterator[str]:
        """Weights and adapters in one: merged, or each for itself."""
        yield f"mfconv merge {self.source} {'OUT.ckpt' if seen.side == MF else 'OUT/'}{run}{config}"
        yield from (self._convert(seen, f"{run}{config}{choice} --only_adapters") for choice in choices)
        of_model = self.of_config if self.of_config and not self._is_yaml else " --config HF_DIR"
        yield self._convert(seen, f"{run}{of_model} --leave_out '*lora_*'")

    @property
    def _is_yaml(self) -> bool:
        return isinstance(self.config, str | Path) and Path(self.config).suffix.lower() in YAML_ENDINGS
