"""The converter in a notebook: it does what one line of Python does, and shows that line."""

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
from mfconv_nb.panels.run_fields import FIELD, LABEL, UNDER, RunFields, text_field
from mfconv_nb.runs.part_of import part_of, whole_of
from mfconv_nb.steps.comparing.verify import verify
from mfconv_nb.steps.converting.map import map
from mfconv_nb.steps.inspecting.diagnosis import Diagnosis
from mfconv_nb.steps.inspecting.doctor import doctor
from mfconv_nb.steps.loading.load import load
from mfconv_nb.steps.saving.save import save
from mfconv_nb.views.explorer import Explorer
from mfconv_nb.views.row_table import LOOK

DETECTED = "as told by the checkpoint"
VERIFIED = ("weights", "buffers")  # of a run; its state is not converted
BAR_SECONDS = 0.1  # between two updates of the progress


class Cancelled(Exception):
    """Raised by the progress function to stop the conversion, once the user pressed Cancel."""


def panel(source: str | Path = "", target: str | Path = "") -> Panel:
    """Convert a checkpoint in a notebook: choose it, see the plan, press Convert.

    Args:
        source: a checkpoint to begin with; the user can choose another one.
        target: the file or folder to write.
    """
    return Panel(str(source), str(target))


class Panel(W.VBox):
    """The converter. Its fields are widgets that Python can set too: ``converter.source.value = "toy/"``."""

    def __init__(self, source: str = "", target: str = "") -> None:
        self.loaded: Checkpoint | None = None
        self.mapped: Checkpoint | None = None
        self.cancelled = threading.Event()
        self.running: threading.Thread | None = None
        self.options: dict[str, Any] = {}
        self.found: Diagnosis | None = None
        self._build_fields()
        self.run_fields.clear()
        look = W.HTML(f"<style>{LOOK}</style>", layout=W.Layout(display="none"))  # the plan, which has it too, comes later
        super().__init__([look, self.fields, self.actions, self.result, self.line, self.plan])
        self.add_class("mfconv-view")
        self.target.value = target
        self.source.value = source
        if not source:
            self._say(self.summary, "Choose a checkpoint: a folder, an index, or a file. Nothing is read but its headers.")

    # ---- the fields ----

    def _build_fields(self) -> None:
        self.source = text_field("from", "a folder, an index, or a file")
        shown = [f"*{ending}" for ending in (*weight_endings(), ".json")]
        self.chooser = FileChooser(os.getcwd(), filter_pattern=shown, title="", select_desc="Choose", change_desc="Choose")
        self.chooser.register_callback(lambda chooser: self._choose_file(chooser.selected))
        self.chooser.layout = UNDER
        self.chooser.add_class("mfconv-chooser")
        self.summary = W.HTML(layout=UNDER)
        self.run_fields = run = RunFields(self._open_source)
        self.file_prefix, self.step, self.strategy, self.steps = run.file_prefix, run.step, run.strategy, run.steps
        self.family = W.Combobox(
            description="family",
            placeholder=f"{DETECTED}; or a key, or a file that defines FAMILY",
            options=_family_keys(),
            ensure_option=False,
            continuous_update=False,
            style=LABEL,
            layout=FIELD,
        )
        self.option_fields = W.VBox([])
        cut = "cut_vocabulary: cut off unused rows behind the vocabulary of the config"
        self.cut_vocabulary = W.Checkbox(description=cut, indent=False, layout=UNDER)
        self.target = text_field("to", "x.ckpt, x.safetensors, or a folder")
        dtypes = [("keep", ""), *((name, name) for name in ("fp32", "bf16", "fp16"))]
        self.dtype = W.Dropdown(description="dtype", options=dtypes, style=LABEL, layout=FIELD)
        self.config = text_field("config", "config.json or its folder, where it is not beside the checkpoint")
        self.overwrite = W.Checkbox(description="replace what is there", indent=False, layout=UNDER)
        self.proof = W.Checkbox(value=True, description="verify afterwards: map back, compare every byte", indent=False, layout=UNDER)
        source_fields = [self.source, self.chooser, self.summary, self.run_fields, self.config]
        target_fields = [self.family, self.option_fields, self.cut_vocabulary, self.target, self.dtype, self.overwrite, self.proof]
        self.fields = W.VBox([*source_fields, *target_fields], layout=W.Layout(max_width="760px"))
        self.plan = W.VBox([])
        self.convert = W.Button(description="Convert", button_style="primary", disabled=True, layout=FIELD)
        self.cancel = W.Button(description="Cancel", disabled=True, layout=FIELD)
        self.bar = W.FloatProgress(max=1.0, layout=W.Layout(width="220px"))
        self.status = W.HTML()
        self.actions = W.HBox([self.convert, self.cancel, self.bar, self.status])
        self.actions.add_class("mfconv-bar")
        self.result, self.line = W.HTML(), W.HTML()
        self.source.observe(lambda _: self._open_source(is_new=True), "value")
        self.config.observe(lambda _: self._open_source(), "value")
        self.family.observe(lambda _: self._choose_family(), "value")
        self.cut_vocabulary.observe(lambda _: self._plan_mapping(), "value")
        self.target.observe(lambda _: self._show_line(), "value")
        self.dtype.observe(lambda _: self._show_line(), "value")
        self.convert.on_click(lambda _: self._start_conversion())
        self.cancel.on_click(lambda _: self._cancel_conversion())

    def _choose_file(self, path: str | None) -> None:
        """Take a file from the chooser. A shard, an index and a config stand for their folder, a file of a rank for its run."""
        if path is None:
            return
        chosen = Path(path)
        part = part_of(chosen)
        if part is not None and part.whole is not None:
            self.source.value = str(part.whole)
            return
        whole = whole_of(chosen)[0] if chosen.is_file() else chosen
        self.source.value = str(whole.parent if whole.suffix == ".json" else whole)

    def _open_source(self, *, is_new: bool = False) -> None:
        """Open the checkpoint: headers only.

        Args:
            is_new: it is another checkpoint than before, so the fields of the last run are cleared.
        """
        if is_new:
            self.run_fields.clear()
            self.cut_vocabulary.value = False
        self.found, self.loaded, self.mapped = None, None, None
        self.result.value = self.status.value = self.summary.value = ""
        if self.source.value.strip():
            self.found = doctor(self.source.value.strip(), **self._source_arguments())
            self.loaded = self.found.loaded
            self.summary.value = diagnosis_html(self.found)
        self.run_fields.fill(self.found)
        with self.family.hold_trait_notifications():
            self.family.options = _family_keys()
            self.family.value = self.family.value if is_file_name(self._family_chosen()) else ""
        self._choose_family()

    def _source_arguments(self) -> dict[str, Any]:
        """The fields of the source besides its path, as arguments of ``load``."""
        config = self.config.value.strip()
        return ({"config": config} if config else {}) | self.run_fields.arguments()

    def _family_chosen(self) -> str | None:
        """A key or the path of a file; None if the family is to be detected from the checkpoint."""
        chosen = self.family.value.strip()
        return None if chosen in ("", DETECTED) else chosen

    def _choose_family(self) -> None:
        self.options = {}
        self._plan_mapping()
        try:
            families = self._families()
        except MfconvError as error:  # if there is a checkpoint, the plan shows it already
            families = []
            if self.loaded is None:
                self.plan.children = [_refusal(error)]
        self.options = {option.name: _option_field(option) for family in families for option in family.options}
        for field in self.options.values():
            field.observe(lambda _: self._plan_mapping(), "value")
        self.option_fields.children = list(self.options.values())

    def _families(self) -> list[Family]:
        """The families whose options are shown: the chosen one, or the one detected from the names."""
        chosen = self._family_chosen()
        if is_file_name(chosen):
            return [family_meant(str(chosen))]
        if self.mapped is not None and self.mapped.family:
            return [family_named(self.mapped.family)]
        return candidates_of(chosen) if chosen else []

    def _map_arguments(self) -> dict[str, Any]:
        """The family, what is cut off, and the options of the family, as arguments of ``map`` and ``verify``."""
        chosen = self._family_chosen()
        asked: dict[str, Any] = {} if chosen is None else {"family": chosen}
        asked |= {"cut_vocabulary": True} if self.cut_vocabulary.value else {}
        return {**asked, **{name: field.value for name, field in self.options.items() if field.value not in (DETECTED, "")}}

    def _plan_mapping(self) -> None:
        self.mapped, self.plan.children = None, []
        if self.loaded is not None:
            try:
                self.mapped = map(self.loaded, **self._map_arguments())
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
        for_load = "".join(f", {name}={value!r}" for name, value in self._source_arguments().items())
        for_map = "".join(f", {name}={value!r}" for name, value in self._map_arguments().items())
        for_save = f", dtype={self.dtype.value!r}" if self.dtype.value else ""
        line = f"mc.save(mc.map(mc.load({source!r}{for_load}){for_map}), {target!r}{for_save})"
        self.line.value = box_html(f"<div class='mfconv-f'><code class='mfconv-copy'>{html.escape(line)}</code></div>")

    # ---- the conversion: in a thread, so that the fields stay responsive ----

    def _start_conversion(self) -> None:
        self.cancelled.clear()
        self.result.value, self.status.value, self.bar.value = "", "", 0.0
        self.running = threading.Thread(target=self._convert_and_verify, daemon=True)
        self.convert.disabled, self.cancel.disabled = True, False
        self.running.start()

    def _cancel_conversion(self) -> None:
        self.cancelled.set()
        self.cancel.disabled = True

    def _convert_and_verify(self) -> None:
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
                progress=_ProgressBar(self, mapped.nbytes, "written"),
            )
            self._add_result(saved)
            if self.proof.value:
                bar = _ProgressBar(self, mapped.nbytes, "compared")
                verified = verify(self._original_of_target(), target, progress=bar, **self._map_arguments())
                self._add_result(verified)
            self._say(self.status, "Done.")
        except Cancelled:
            self._say(self.status, "Cancelled. What is written is kept aside: Convert goes on from there.")
        except Exception as error:  # a thread has no other way to show it
            self.result.value += box_html(note_html(str(error)))
            self._say(self.status, "Stopped.")
        finally:
            self.running = None
            self.cancel.disabled, self.convert.disabled = True, False

    def _original_of_target(self) -> Checkpoint | None:
        """What the target is compared with: the source; of a run its weights, without its state."""
        loaded = self.loaded
        return load(loaded, only=VERIFIED) if loaded is not None and loaded.run is not None and loaded.side == MF else loaded

    def show_progress(self, part: float, text: str) -> None:
        """Show how far the conversion is."""
        self.bar.value = part
        self._say(self.status, text)

    def _add_result(self, result: Result) -> None:
        self.result.value += table_html(result.table())

    def _say(self, place: Any, text: str) -> None:
        place.value = box_html(note_html(text))


class _ProgressBar(Progress):
    """Shows progress in bytes, rate and time left; raises Cancelled once the user pressed Cancel."""

    def __init__(self, panel: Panel, total: int, what: str) -> None:
        super().__init__(total, what)
        self._panel = panel
        self._first = self._last = time.monotonic()

    def another(self, total: int, what: str) -> Progress:
        return _ProgressBar(self._panel, total, "of copies compared" if what == "comparing copies" else what)

    def __call__(self, done: int) -> None:
        if self._panel.cancelled.is_set():
            raise Cancelled
        self.done = done
        now, total = time.monotonic(), self.total
        if now - self._last < BAR_SECONDS and done < total:
            return
        self._last = now
        rate = done / max(now - self._first, 1e-3)
        left = f" · {seconds_text((total - done) / rate)} left" if 0 < done < total and now - self._first > 0.5 else ""
        text = f"{bytes_text(done)} of {bytes_text(total)} {self.what} · {bytes_text(int(rate))}/s{left}"
        self._panel.show_progress(done / total if total else 1.0, text)


def diagnosis_html(found: Diagnosis) -> str:
    """A diagnosis as HTML: findings that need a decision, or that prevent a conversion, in full; the others folded."""
    table = found.table()
    rows = [row for row in table.rows if row[0] in ("!", "✗")]
    rest = [row for row in table.rows if row not in rows]
    head = replace(table, headline=found.what, facts=(), rows=rows)
    more = table_html(replace(table, verdict="", headline="", facts=(), rows=rest))
    return table_html(head) + box_html(
        f"<details><summary class='mfconv-f'>{how_many(len(rest), 'more thing')} seen</summary>{more}</details>"
    )


def _family_keys() -> list[str]:
    return sorted({family.key for family in (*known_families(), *installed_families())})


def _refusal(error: MfconvError) -> Any:
    """An error with its table, if it has one."""
    problems = error.table() if hasattr(error, "table") else None
    shown = table_html(problems, max_rows=40) if problems is not None else ""
    return W.HTML(box_html(note_html(str(error)) + shown))


def _option_field(option: Option) -> Any:
    if option.values:
        choices = [(DETECTED, DETECTED), *((str(value) or "(nothing)", value) for value in option.values)]
        return W.Dropdown(description=option.name, options=choices, style=LABEL, layout=FIELD, tooltip=option.help)
    return W.Text(
        description=option.name, placeholder="from the config", continuous_update=False, style=LABEL, layout=FIELD, tooltip=option.help
    )


def _folder_of(config: str) -> Path | None:
    """The folder of a given config: its tokenizer files are copied along with a Hugging Face checkpoint."""
    if not config:
        return None
    path = local_path(config)
    return path if path.is_dir() else path.parent
