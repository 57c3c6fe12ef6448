"""The converter as a form: for those who would rather choose than write the four lines. It does what they do, and shows them."""

from __future__ import annotations

import html
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as W
from ipyfilechooser import FileChooser

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint
from mfconv_nb.core.errors import MfconvError
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import Progress
from mfconv_nb.core.report import Result, box_html, bytes_text, how_many, note_html, seconds_text, table_html
from mfconv_nb.families.registry import candidates_of, family_meant, family_named, installed_families, known_families
from mfconv_nb.families.user_families import is_file_name
from mfconv_nb.formats.known import weight_endings
from mfconv_nb.mapping.rules import Family, Option
from mfconv_nb.runs.part_of import part_of, whole_of
from mfconv_nb.runs.run import TrainedRun
from mfconv_nb.steps.comparing.verify import verify
from mfconv_nb.steps.converting.map import map
from mfconv_nb.steps.inspecting.diagnosis import Diagnosis
from mfconv_nb.steps.inspecting.doctor import doctor
from mfconv_nb.steps.loading.load import load
from mfconv_nb.steps.saving.save import save
from mfconv_nb.views.explorer import Explorer
from mfconv_nb.views.row_table import LOOK

NEWEST = ("the newest that is whole", "")
ONE_OF = ("several lie here: choose one", "/")  # no file name holds a slash, and "" is a prefix too
TOLD = "as told by the checkpoint"
FIELD = W.Layout(width="auto")
LABEL = {"description_width": "140px"}  # "num_routed_experts"
UNDER = W.Layout(width="auto", margin="2px 2px 2px 150px")  # where the fields begin
PROVEN = ("weights", "buffers")  # of a run: its state goes nowhere
BAR_SECONDS = 0.1  # between two words about the progress


class Cancelled(Exception):
    """Raised by the progress function, once Cancel was pressed, to stop what reports to it."""


def panel(source: str | Path = "", target: str | Path = "") -> Panel:
    """A form that converts a checkpoint: choose it, see the plan, press Convert. Runs in a notebook.

    Args:
        source: a checkpoint to begin with; it can be chosen in the form too.
        target: where to write.
    """
    return Panel(str(source), str(target))


class Panel(W.VBox):
    """The form. Its fields are widgets and can be set from Python too: ``form.source.value = "toy/"``."""

    def __init__(self, source: str = "", target: str = "") -> None:
        self.loaded: Checkpoint | None = None
        self.mapped: Checkpoint | None = None
        self.cancelled = threading.Event()
        self.running: threading.Thread | None = None
        self.options: dict[str, Any] = {}
        self.found: Diagnosis | None = None
        self._filling = False
        self._build()
        self._fill_run(None, clear=True)
        look = W.HTML(f"<style>{LOOK}</style>", layout=W.Layout(display="none"))  # before the plan brings it along
        super().__init__([look, self.form, self.actions, self.result, self.line, self.plan])
        self.add_class("mfconv-view")
        self.target.value = target
        self.source.value = source
        if not source:
            self._say(self.summary, "Choose a checkpoint: a folder, an index, or a file. Nothing is read but its headers.")

    # ---- the form ----

    def _build(self) -> None:
        self.source = _text("from", "a folder, an index, or a file")
        shown = [f"*{ending}" for ending in (*weight_endings(), ".json")]
        self.chooser = FileChooser(os.getcwd(), filter_pattern=shown, title="", select_desc="Choose", change_desc="Choose")
        self.chooser.register_callback(lambda chooser: self._chosen(chooser.selected))
        self.chooser.layout = UNDER
        self.chooser.add_class("mfconv-chooser")
        self.summary = W.HTML(layout=UNDER)
        self.file_prefix = W.Dropdown(description="file prefix", options=[ONE_OF], style=LABEL, layout=W.Layout(width="auto"))
        self.step = W.Dropdown(description="step", style=LABEL, layout=W.Layout(width="auto"))
        self.strategy = _text("strategy", "the folder of the strategy files, where they are not beside the ranks")
        self.steps = W.HTML(layout=UNDER)
        self.of_run = W.VBox([self.file_prefix, self.step, self.strategy, self.steps])
        self.family = W.Combobox(
            description="family",
            placeholder=f"{TOLD}; or a key, or a file that defines FAMILY",
            options=_family_keys(),
            ensure_option=False,
            continuous_update=False,
            style=LABEL,
            layout=FIELD,
        )
        self.option_fields = W.VBox([])
        self.target = _text("to", "x.ckpt, x.safetensors, or a folder")
        self.dtype = W.Dropdown(
            description="dtype", options=[("keep", ""), *((name, name) for name in ("fp32", "bf16", "fp16"))], style=LABEL, layout=FIELD
        )
        self.config = _text("config", "config.json or its folder, where it is not beside the checkpoint")
        self.overwrite = W.Checkbox(description="replace what is there", indent=False, layout=UNDER)
        self.proof = W.Checkbox(value=True, description="verify afterwards: map back, compare every byte", indent=False, layout=UNDER)
        of_source = [self.source, self.chooser, self.summary, self.of_run, self.config]
        of_target = [self.family, self.option_fields, self.target, self.dtype, self.overwrite, self.proof]
        self.form = W.VBox([*of_source, *of_target], layout=W.Layout(max_width="760px"))
        self.plan = W.VBox([])
        self.convert = W.Button(description="Convert", button_style="primary", disabled=True, layout=FIELD)
        self.cancel = W.Button(description="Cancel", disabled=True, layout=FIELD)
        self.bar = W.FloatProgress(max=1.0, layout=W.Layout(width="220px"))
        self.status = W.HTML()
        self.actions = W.HBox([self.convert, self.cancel, self.bar, self.status])
        self.actions.add_class("mfconv-bar")
        self.result, self.line = W.HTML(), W.HTML()
        self.source.observe(lambda _: self._read(anew=True), "value")
        for field in (self.config, self.strategy, self.step):
            field.observe(lambda _: self._read(), "value")
        self.file_prefix.observe(lambda _: self._choose_prefix(), "value")
        self.family.observe(lambda _: self._choose_family(), "value")
        self.target.observe(lambda _: self._show_line(), "value")
        self.dtype.observe(lambda _: self._show_line(), "value")
        self.convert.on_click(lambda _: self._begin())
        self.cancel.on_click(lambda _: self._stop())

    def _chosen(self, path: str | None) -> None:
        """A shard, an index and a config stand for their folder, a file of a rank for the run."""
        if path is None:
            return
        chosen = Path(path)
        part = part_of(chosen)
        if part is not None and part.whole is not None:
            self.source.value = str(part.whole)
            return
        whole = whole_of(chosen)[0] if chosen.is_file() else chosen
        self.source.value = str(whole.parent if whole.suffix == ".json" else whole)

    def _choose_prefix(self) -> None:
        """Open another one of the checkpoints in a folder, which has steps of its own."""
        if self._filling:
            return
        self._filling = True
        self.step.options = [NEWEST]
        self._filling = False
        self._read()

    def _read(self, *, anew: bool = False) -> None:
        """Open the checkpoint: headers only. ``anew``: it is another one, so what was said of the last one's run does not count."""
        if self._filling:
            return
        if anew:
            self._fill_run(None, clear=True)
        self.found, self.loaded, self.mapped = None, None, None
        self.result.value = self.status.value = self.summary.value = ""
        if self.source.value.strip():
            self.found = doctor(self.source.value.strip(), **self._of_source())
            self.loaded = self.found.loaded
            self.summary.value = diagnosis_html(self.found)
        self._fill_run(self.found)
        with self.family.hold_trait_notifications():
            self.family.options = _family_keys()
            self.family.value = self.family.value if is_file_name(self._family_chosen()) else ""
        self._choose_family()

    def _of_source(self) -> dict[str, Any]:
        """What is said of the source beside its path, as arguments of ``load``."""
        said = {"config": self.config.value.strip(), "step": self.step.value, "strategy": self.strategy.value.strip()}
        prefix = {} if self.file_prefix.value == ONE_OF[1] else {"file_prefix": self.file_prefix.value}
        return {name: value for name, value in said.items() if value} | prefix

    def _fill_run(self, found: Diagnosis | None, *, clear: bool = False) -> None:
        """The fields of a run: its steps, the one that is read chosen; hidden for anything else."""
        run, steps = (found.run, found.steps_table()) if found is not None else (None, None)
        self._filling = True
        try:
            if clear:
                self.strategy.value = ""
                self.step.options, self.file_prefix.options = [NEWEST], [ONE_OF]
            prefixes = [choice["file_prefix"] for choice in found.choices if "file_prefix" in choice] if found is not None else []
            if prefixes:
                self.file_prefix.options = [ONE_OF, *((prefix or "(none)", prefix) for prefix in prefixes)]
            if run is not None:
                asked, choices = self.step.value, _step_choices(run)
                read = str(run.chosen) if run.chosen is not None else asked or ""
                self.step.options = choices if read in dict(choices).values() else [NEWEST, *choices]
                self.step.value = read
        finally:
            self._filling = False
        self.steps.value = table_html(steps) if steps is not None else ""
        has_prefixes = len(self.file_prefix.options) > 1
        self.file_prefix.layout.display = None if has_prefixes else "none"
        self.step.layout.display = None if run is not None else "none"
        self.of_run.layout.display = None if run is not None or has_prefixes or self.strategy.value.strip() else "none"

    def _family_chosen(self) -> str | None:
        """A key or the path of a file; None where the checkpoint is to tell the family."""
        chosen = self.family.value.strip()
        return None if chosen in ("", TOLD) else chosen

    def _choose_family(self) -> None:
        self.options = {}
        self._plan()
        try:
            families = self._families()
        except MfconvError as error:  # with a checkpoint, the plan says it already
            families = []
            if self.loaded is None:
                self.plan.children = [_refusal(error)]
        self.options = {option.name: _option_field(option) for family in families for option in family.options}
        for field in self.options.values():
            field.observe(lambda _: self._plan(), "value")
        self.option_fields.children = list(self.options.values())

    def _families(self) -> list[Family]:
        """The families whose options the form shows: what is chosen, and what was told of it by the names."""
        chosen = self._family_chosen()
        if is_file_name(chosen):
            return [family_meant(str(chosen))]
        if self.mapped is not None and self.mapped.family:
            return [family_named(self.mapped.family)]
        return candidates_of(chosen) if chosen else []

    def _arguments(self) -> dict[str, Any]:
        chosen = self._family_chosen()
        family = {} if chosen is None else {"family": chosen}
        return {**family, **{name: field.value for name, field in self.options.items() if field.value not in (TOLD, "")}}

    def _plan(self) -> None:
        self.mapped, self.plan.children = None, []
        if self.loaded is not None:
            try:
                self.mapped = map(self.loaded, **self._arguments())
                self.plan.children = [Explorer(self.mapped.report.exploration(self.mapped))]
            except MfconvError as error:
                self.plan.children = [_refusal(error)]
        self._show_line()

    def _show_line(self) -> None:
        self.convert.disabled = self.mapped is None or not self.target.value.strip() or self.running is not None
        if self.mapped is None:
            self.line.value = ""
            return
        source, target = self.source.value.strip(), self.target.value.strip() or "TARGET"
        of_source = "".join(f", {name}={value!r}" for name, value in self._of_source().items())
        arguments = "".join(f", {name}={value!r}" for name, value in self._arguments().items())
        more = f", dtype={self.dtype.value!r}" if self.dtype.value else ""
        line = f"mc.save(mc.map(mc.load({source!r}{of_source}){arguments}), {target!r}{more})"
        self.line.value = box_html(f"<div class='mfconv-f'><code class='mfconv-copy'>{html.escape(line)}</code></div>")

    # ---- the conversion: in a thread, so that the form answers ----

    def _begin(self) -> None:
        self.cancelled.clear()
        self.result.value, self.status.value, self.bar.value = "", "", 0.0
        self.running = threading.Thread(target=self._run, daemon=True)
        self.convert.disabled, self.cancel.disabled = True, False
        self.running.start()

    def _stop(self) -> None:
        self.cancelled.set()
        self.cancel.disabled = True

    def _run(self) -> None:
        mapped, target = self.mapped, self.target.value.strip()
        assert mapped is not None
        assets = _folder_of(self.config.value.strip()) if mapped.side == HF else None
        try:
            saved = save(
                mapped,
                target,
                dtype=self.dtype.value or None,
                overwrite=self.overwrite.value,
                assets=assets,
                progress=_FormBar(self, mapped.nbytes, "written"),
            )
            self._show(saved)
            if self.proof.value:
                proved = verify(self._to_prove(), target, progress=_FormBar(self, mapped.nbytes, "compared"), **self._arguments())
                self._show(proved)
            self._say(self.status, "Done.")
        except Cancelled:
            self._say(self.status, "Cancelled. What is written is kept aside: Convert goes on from there.")
        except Exception as error:  # whatever it is, it belongs before the reader's eyes
            self.result.value += box_html(note_html(str(error)))
            self._say(self.status, "Stopped.")
        finally:
            self.running = None
            self.cancel.disabled, self.convert.disabled = True, False

    def _to_prove(self) -> Checkpoint | None:
        """What the target must hold: of a run the weights, not its state."""
        loaded = self.loaded
        return load(loaded, only=PROVEN) if loaded is not None and loaded.run is not None and loaded.side == MF else loaded

    def show_progress(self, part: float, text: str) -> None:
        """How far the conversion is."""
        self.bar.value = part
        self._say(self.status, text)

    def _show(self, result: Result) -> None:
        self.result.value += table_html(result.table())

    def _say(self, place: Any, text: str) -> None:
        place.value = box_html(note_html(text))


class _FormBar(Progress):
    """Byte-exact progress with rate and time left in the form; raises Cancelled once Cancel was pressed."""

    def __init__(self, form: Panel, total: int, what: str) -> None:
        super().__init__(total, what)
        self._form = form
        self._first = self._last = time.monotonic()

    def another(self, total: int, what: str) -> Progress:
        return _FormBar(self._form, total, "of copies compared" if what == "comparing copies" else what)

    def __call__(self, done: int) -> None:
        if self._form.cancelled.is_set():
            raise Cancelled
        self.done = done
        now, total = time.monotonic(), self.total
        if now - self._last < BAR_SECONDS and done < total:
            return
        self._last = now
        rate = done / max(now - self._first, 1e-3)
        left = f" · {seconds_text((total - done) / rate)} left" if 0 < done < total and now - self._first > 0.5 else ""
        said = f"{bytes_text(done)} of {bytes_text(total)} {self.what} · {bytes_text(int(rate))}/s{left}"
        self._form.show_progress(done / total if total else 1.0, said)


def diagnosis_html(found: Diagnosis) -> str:
    """What a source is; what is to be decided or stands in the way in full, the rest to be opened."""
    table = found.table()
    rows = [row for row in table.rows if row[0] in ("!", "✗")]
    rest = [row for row in table.rows if row not in rows]
    head = replace(table, headline=found.what, facts=(), rows=rows)
    more = table_html(replace(table, verdict="", headline="", facts=(), rows=rest))
    return table_html(head) + box_html(
        f"<details><summary class='mfconv-f'>{how_many(len(rest), 'more thing')} seen</summary>{more}</details>"
    )


def _step_choices(run: TrainedRun) -> list[tuple[str, str]]:
    """Every step, the newest first, with what speaks against it."""
    steps = sorted({step for had in run.steps.values() for step in had}, reverse=True)
    counts = {step: sum(step in had for had in run.steps.values()) for step in steps}
    return [(f"{s}" + (f" (on {counts[s]:,} of {len(run.steps):,} ranks)" if counts[s] < len(run.steps) else ""), str(s)) for s in steps]


def _family_keys() -> list[str]:
    return sorted({family.key for family in (*known_families(), *installed_families())})


def _refusal(error: MfconvError) -> Any:
    """A refusal, with its table where it has one."""
    problems = error.table() if hasattr(error, "table") else None
    shown = table_html(problems, max_rows=40) if problems is not None else ""
    return W.HTML(box_html(note_html(str(error)) + shown))


def _text(label: str, hint: str) -> Any:
    return W.Text(description=label, placeholder=hint, continuous_update=False, style=LABEL, layout=FIELD)


def _option_field(option: Option) -> Any:
    if option.values:
        choices = [(TOLD, TOLD), *((str(value) or "(nothing)", value) for value in option.values)]
        return W.Dropdown(description=option.name, options=choices, style=LABEL, layout=FIELD, tooltip=option.help)
    return W.Text(
        description=option.name, placeholder="from the config", continuous_update=False, style=LABEL, layout=FIELD, tooltip=option.help
    )


def _folder_of(config: str) -> Path | None:
    """The folder whose tokenizer files go along with a Hugging Face checkpoint: that of the config that was given."""
    if not config:
        return None
    path = local_path(config)
    return path if path.is_dir() else path.parent
