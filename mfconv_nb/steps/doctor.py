"""doctor: what a path holds, what can be done with it, and the exact next command. Headers only; nothing raises for what is found."""

from __future__ import annotations

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.checkpoint import HF, MF, Checkpoint
from mfconv_nb.collector import makes_many_objects
from mfconv_nb.dtypes import short_name
from mfconv_nb.errors import MfconvError
from mfconv_nb.folding import fold
from mfconv_nb.formats.reading import FOLDER, INDEX, kind_of
from mfconv_nb.mapping.plan import LEFT_OUT, TIED
from mfconv_nb.mapping.quantised import quantisation_of
from mfconv_nb.report import Column, Result, Table, bytes_text, count_text
from mfconv_nb.steps.load import config_near, load, load_run
from mfconv_nb.steps.map import map
from mfconv_nb.steps.map_report import SIDES
from mfconv_nb.steps.runs import open_run
from mfconv_nb.trained.categories import WEIGHTS, amounts, category_of
from mfconv_nb.trained.run import TrainedRun

FINE, DECIDE, STOP, TOLD = "✓", "!", "✗", ""
BUFFER_BYTES = 24 << 20  # what a conversion takes beside the interpreter, whatever the model's size; see docs/benchmarks.md
MCORE = re.compile(r"(^|\.)decoder\.layers\.\d+\.|\.(linear_qkv|linear_q|linear_fc1|linear_proj|linear_q_down_proj)\.")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was seen: how it stands ("✓", "!" to be decided, "✗" in the way, or nothing), what it is about, and what was seen."""

    mark: str
    topic: str
    seen: str


@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """What a path holds, and what to do with it.

    Attributes:
        path: what was looked at.
        what: what it is, in a clause.
        findings: what was seen.
        commands: what to run next, in order.
        run: the training run, where it is one: its table shows ranks and steps.
    """

    path: str
    what: str
    findings: tuple[Finding, ...]
    commands: tuple[str, ...]
    run: TrainedRun | None = None

    @property
    def ready(self) -> bool:
        """True when nothing stands in the way of a conversion, and nothing has to be decided."""
        return all(f.mark in (FINE, TOLD) for f in self.findings)

    def table(self) -> Table:
        marks = {f.mark for f in self.findings}
        verdict = "✗ Cannot be converted as it is." if STOP in marks else "! Something is to be decided." if DECIDE in marks else "✓ Ready."
        columns = (Column(""), Column("about"), Column("seen"))
        rows = [(f.mark, f.topic, f.seen) for f in self.findings]
        facts = tuple(f"next: {command}" for command in self.commands)
        return Table(verdict, f"{self.what} · {self.path}", columns, rows, facts, row_noun="findings")

    def _repr_html_(self) -> str:
        steps = self.run._repr_html_() if self.run is not None else ""
        return super()._repr_html_() + steps


@makes_many_objects
def doctor(
    path: str | Path,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    step: int | str | None = None,
    strategy: str | Path | None = None,
) -> Diagnosis:
    """Say what a path holds: the kind of checkpoint, its family, what is special, what a conversion needs, and what to run next.

    Reads headers only, imports neither torch nor mindspore, and raises nothing for what it finds.

    Args:
        path: what ``load`` takes as a path.
        config: as for ``load``; without one, what follows from a config cannot be checked.
        step, strategy: of a training run, as for ``load``.
    """
    place = Path(path).expanduser()
    run: TrainedRun | None = None
    try:
        run = open_run(place, step=step, strategy=strategy, config=config_near(place, config))
        checkpoint = load_run(run, place, config=config) if run is not None else load(path, config=config)
    except MfconvError as error:
        what = run.kind if run is not None else "Not a checkpoint that can be read"
        problems = run.problems if run is not None and run.problems else (error,)
        seen = [*(_run_findings(run) if run is not None else ()), *(Finding(STOP, "problem", _one_line(p)) for p in problems)]
        hints = tuple(dict.fromkeys(p.hint for p in problems if p.hint))
        return Diagnosis(str(path), what, (*seen, *(Finding(TOLD, "hint", h) for h in hints)), (), run)
    looked = _Looked(place, checkpoint, run, config)
    return Diagnosis(str(path), looked.what(), tuple(looked.findings()), tuple(looked.commands()), run)


def _one_line(error: MfconvError) -> str:
    found = f": {error.found}" if error.found is not None else ""
    expected = f"; expected {error.expected}" if error.expected is not None else ""
    first = str(error).partition("\n")[0]
    return " ".join(f"{first}{found}{expected}".split())


def _run_findings(run: TrainedRun) -> Iterator[Finding]:
    ranks = f"{len(run.steps):,} rank{'s' * (len(run.steps) != 1)}"
    steps = sorted({step for had in run.steps.values() for step in had})
    everywhere = [step for step in steps if all(step in had for had in run.steps.values())]
    listed = ", ".join(str(s) for s in steps[-6:])
    seen = f"{ranks}; steps {'… ' if len(steps) > 6 else ''}{listed or 'none'}; read: {run.chosen if run.chosen is not None else 'none'}"
    yield Finding(FINE if run.chosen in everywhere and not run.problems else DECIDE, "ranks and steps", seen)
    yield from (Finding(DECIDE, "assumed", a) for a in run.assumed)
    yield from (Finding(TOLD, "note", note) for note in run.notes)


@dataclass
class _Looked:
    """A checkpoint that could be opened, and what is seen of it."""

    path: Path
    checkpoint: Checkpoint
    run: TrainedRun | None
    config: str | Path | Mapping[str, Any] | None

    def __post_init__(self) -> None:
        self.weights = [s for s in self.checkpoint.specs if category_of(s.name) == WEIGHTS]
        self.adapters = [s for s in self.weights if "lora" in s.name.lower()]
        self.quantised = quantisation_of([s.name for s in self.weights], self.checkpoint.config)
        self.side = self.checkpoint.side or _side_of([s.name for s in self.weights])
        self.mapped: Checkpoint | None = None
        self.refused: MfconvError | None = None
        try:
            self.mapped = map(replace(self.checkpoint, side=self.side))
            self.side = HF if self.mapped.side == MF else MF
        except MfconvError as error:
            self.refused = error
            if self.checkpoint.side is None:
                self._try_other_side()

    def _try_other_side(self) -> None:
        """Nothing in the file says which side it is on: the names may be those of the other one."""
        try:
            self.mapped = map(replace(self.checkpoint, side=None), to=self.side)
            self.side, self.refused = (HF if self.mapped.side == MF else MF), None
        except MfconvError:
            pass

    def what(self) -> str:
        if self.run is not None:
            return f"MindFormers training run: {self.run.kind}"
        side = SIDES.get(self.side or "", "")
        kind = kind_of(self.path)
        files = f"{len(self.checkpoint.files):,} file{'s' * (len(self.checkpoint.files) != 1)}"
        form = {FOLDER: f"a folder, {files}", INDEX: f"an index, {files}"}.get(kind, f"one {kind} file")
        if self.adapters and len(self.adapters) == len(self.weights):
            return f"LoRA adapters, {side or 'side not told'}: {form}"
        return f"{side + ' ' if side else ''}checkpoint: {form}"

    def findings(self) -> Iterator[Finding]:
        if self.run is not None:
            yield from _run_findings(self.run)
        yield from self._contents()
        yield from self._names()
        yield from self._config()
        yield from self._special()
        yield from self._needs()

    def _contents(self) -> Iterator[Finding]:
        found = amounts(self.checkpoint.specs)
        said = ", ".join(f"{category} {a.tensors:,} tensors ({bytes_text(a.nbytes)})" for category, a in found.items())
        yield Finding(TOLD, "contents", f"{said}; {count_text(sum(s.elements for s in self.weights))} parameters")
        dtypes = Counter(short_name(s.dtype) for s in self.weights)
        yield Finding(TOLD, "dtypes", ", ".join(f"{dtype} ({n:,} tensors)" for dtype, n in dtypes.most_common()))
        if len(found) > 1:
            yield Finding(TOLD, "state of the run", "optimizer, counters and the like are left out of a Hugging Face folder")
        yield from (Finding(TOLD, "no tensor", f"{o.name} ({o.kind})") for o in self.checkpoint.others[:4])

    def _names(self) -> Iterator[Finding]:
        if self.quantised is not None:
            yield Finding(STOP, "quantised", f"{self.quantised}. Take the original weights.")
            return
        names = [s.name for s in self.weights]
        if self.side == MF and any(MCORE.search(name) for name in names):
            yield Finding(TOLD, "names", "MindFormers' mcore form (Megatron-like), for training with mcore or its dynamic graph")
        if self.adapters and len(self.adapters) < len(self.weights):
            yield Finding(
                DECIDE, "LoRA", f"{len(self.adapters):,} adapter tensors beside {len(self.weights) - len(self.adapters):,} others"
            )
        if self.mapped is not None:
            report = self.mapped.report
            chosen = ", ".join(f"{n}={report.options[n]!r} ({how})" for n, how in report.decided.items())
            yield Finding(FINE, "family", report.plan.family.key + (f", {chosen}" if chosen else ""))
            there = f"{len(self.mapped):,} tensors, {bytes_text(self.mapped.nbytes)}"
            yield Finding(FINE, "mapping", f"every tensor has its place on the {SIDES[self.mapped.side or HF]} side: {there}")
            yield from (Finding(TOLD, "note", note) for note in report.notes)
        elif self.refused is not None:
            yield Finding(STOP, "mapping", _one_line(self.refused))
            if self.refused.hint:
                yield Finding(TOLD, "hint", self.refused.hint)

    def _config(self) -> Iterator[Finding]:
        config = self.checkpoint.config
        if config is None:
            side = "the original's Hugging Face folder has one: --config HF_DIR" if self.side == MF else "it belongs beside the weights"
            yield Finding(DECIDE, "config", f"none: sizes and layers cannot be checked; {side}")
            return
        kind = config.get("model_type") or ", ".join(_texts(config.get("architectures"))) or "no model_type"
        yield Finding(TOLD, "config", kind) if self.mapped is None else Finding(FINE, "config", f"{kind}; shapes and layers agree with it")

    def _special(self) -> Iterator[Finding]:
        config = self.checkpoint.config or {}
        if self.mapped is not None:
            tied = [row for row in self.mapped.report.plan.rows if row.status == TIED]
            if tied:
                yield Finding(TOLD, "tied head", "the output head is the embedding; it is left out on one side and comes back as a copy")
            left = [
                s for row in self.mapped.report.plan.rows if row.status == LEFT_OUT for s in row.sources if category_of(s.name) == WEIGHTS
            ]
            if left:
                yield Finding(DECIDE, "left out", f"{len(left):,} tensors, first {left[0].name}")
        layers, said = _layers(s.name for s in self.weights), config.get("num_hidden_layers")
        if layers and isinstance(said, int) and layers != said:
            extra = config.get("num_nextn_predict_layers")
            why = f" and {extra} that predict further tokens (MTP)" if extra else ""
            yield Finding(
                TOLD if layers == said + (extra or 0) else DECIDE, "layers", f"{layers} in the names; the config says {said}{why}"
            )

    def _needs(self) -> Iterator[Finding]:
        if self.mapped is None:
            return
        nbytes = self.mapped.nbytes
        folder = next(p for p in (self.path.resolve().parent, *self.path.resolve().parents) if p.exists())
        free = shutil.disk_usage(folder).free
        seen = f"{bytes_text(nbytes)} for the result; {bytes_text(free)} free beside it"
        yield Finding(FINE if free > nbytes else DECIDE, "disk", seen)
        yield Finding(FINE, "memory", f"about {bytes_text(BUFFER_BYTES)}, whatever the model's size")

    def commands(self) -> Iterator[str]:
        source = shlex.quote(str(self.path))
        if self.mapped is None:
            if self.refused is not None and self.refused.code == "MFC302":  # no family knows it: one can be drafted
                sides = f"{source} MF" if self.side != MF else f"HF {source}"
                yield f"mfconv suggest {sides} --out my_model.py"
            return
        more = f" --config {shlex.quote(str(self.config))}" if isinstance(self.config, str | Path) else ""
        if self.mapped.side == HF:
            more = more or ("" if self.checkpoint.config is not None else " --config HF_DIR")
            yield f"mfconv convert --reversed {source} OUT/{more}"
            yield f"mfconv verify {source} OUT/"
        else:
            yield f"mfconv convert {source} OUT.ckpt{more}"
            yield f"mfconv verify {source} OUT.ckpt"


def _texts(value: Any) -> list[str]:
    """The texts of a list in a config; nothing where it is none."""
    return [str(v) for v in value] if isinstance(value, list) else []


def _side_of(names: list[str]) -> str | None:
    """MindFormers' names, by words that only they have; None where nothing tells."""
    words = ("embedding_weight", "embedding_table", ".attention.wq.", ".attention_norm.", ".gamma", ".beta", "linear_qkv", "adam_m.")
    return MF if any(word in name for name in names for word in words) else None


def _layers(names: Iterator[str]) -> int:
    """How many layers the names count: one more than the largest first index."""
    indices = [fold(name)[1] for name in names]
    return 1 + max((found[0] for found in indices if found), default=-1)
