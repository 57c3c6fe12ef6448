"""doctor: what a path holds, what can be done with it, and the exact next command. Headers only; nothing raises for what is found.

Reads no weight, but for three things about runs (the counters of a step, the first bytes of a few slices, and, without strategy files,
checksums of small slices), some numbers of one layer where only they tell its layout, a few of each matrix (are they zeros?), the first
of a head that should be the embedding; and, up to 256 MiB or when asked, whatever a file carries a checksum of.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mfconv_nb.core.errors import MfconvError, escape_controls
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.runs.opening import looks_like_run, open_run
from mfconv_nb.runs.part_of import PartOf, part_of, whole_of
from mfconv_nb.runs.run import TrainedRun
from mfconv_nb.steps.inspecting.damage import damage_findings
from mfconv_nb.steps.inspecting.diagnosis import STOP, TOLD, Diagnosis, Finding
from mfconv_nb.steps.inspecting.doctor_findings import describe, findings_of, run_findings
from mfconv_nb.steps.inspecting.next_commands import NextCommands
from mfconv_nb.steps.inspecting.seen import look_at
from mfconv_nb.steps.loading.caller_facts import GivenConfig, read_caller_facts
from mfconv_nb.steps.loading.load import load, load_run

TOPICS_OF_A_PART = ("contents", "dtypes", "state of the run", "names", "quantised")  # what is true of a part too


@makes_many_objects
def doctor(
    path: str | Path,
    *,
    config: GivenConfig = None,
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
    commands = NextCommands(str(place), config, step, strategy, file_prefix)
    run: TrainedRun | None = None
    whole: PartOf | None = None
    try:
        place, _ = whole_of(place)
        whole = part_of(place)
        facts = read_caller_facts(config)
        facts = replace(facts, config=facts.config_for(place))
        run = open_run(place, step=step, strategy=strategy, file_prefix=file_prefix, config=facts.config or facts.fallback)
        checkpoint = load_run(run, place, facts) if run is not None else load(path, config=config)
    except (MfconvError, OSError) as error:
        return _refusal_diagnosis(commands, error, run, whole)
    seen = look_at(place, checkpoint, run, step_asked=step is not None)
    if whole is not None:
        findings = (_part_finding(whole), *(f for f in findings_of(seen) if f.topic in TOPICS_OF_A_PART))
        return Diagnosis(str(path), describe(seen), findings, tuple(commands.for_the_whole(whole)), run, checkpoint)
    damage = tuple(damage_findings(checkpoint, asked=checksums))
    is_damaged = any(finding.mark == STOP for finding in damage)  # then every command would refuse
    following = () if is_damaged else tuple(commands.for_checkpoint(seen))
    return Diagnosis(str(path), describe(seen), (*findings_of(seen), *damage), following, run, checkpoint)


def _part_finding(whole: PartOf) -> Finding:
    beside = "" if whole.whole is None else f"; the whole is {whole.whole}"
    return Finding(STOP, "part", f"{whole.said}{beside}")


def _refusal_diagnosis(commands: NextCommands, error: Exception, run: TrainedRun | None, whole: PartOf | None) -> Diagnosis:
    """The diagnosis of a path that cannot be opened as one checkpoint."""
    what = f"MindFormers training run: {run.kind}" if run is not None else "Not a checkpoint that can be read"
    what = "MindFormers training run that cannot be opened" if run is None and looks_like_run(Path(commands.path)) else what
    if whole is not None and run is None:
        return Diagnosis(commands.path, "A part of a run or a checkpoint", (_part_finding(whole),), tuple(commands.for_the_whole(whole)))
    problems = run.problems if run is not None and run.problems else (error,)
    seen = [*(run_findings(run) if run is not None else ()), *(Finding(STOP, "problem", error_line(p)) for p in problems[:8])]
    seen += [Finding(TOLD, "problems", f"{len(problems) - 8:,} more like these")] if len(problems) > 8 else []
    hints = tuple(dict.fromkeys(hint for p in problems if (hint := getattr(p, "hint", None))))
    seen += [Finding(TOLD, "hint", hint) for hint in hints]
    choices = error.choices if isinstance(error, MfconvError) else ()
    return Diagnosis(commands.path, what, tuple(seen), tuple(commands.after_refusal(error)), run, choices=choices)


def error_line(error: Exception) -> str:
    """An error in a line: code, where, found, expected."""
    if not isinstance(error, MfconvError):
        return escape_controls(str(error)).replace("\n", " ")
    found = f": {error.found}" if error.found is not None else ""
    expected = f"; expected {error.expected}" if error.expected is not None else ""
    first = str(error).partition("\n")[0]
    return " ".join(f"{first}{found}{expected}".split())
