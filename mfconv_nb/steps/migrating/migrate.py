"""migrate: a run of one network of MindFormers as a Checkpoint 2.0 of another, with its optimizer.

Weights go to Hugging Face's form and on to the other form of MindFormers, state of the optimizer by the same rules (``moving``). Lazy, and
written in one pass as every save: a call that was killed goes on when it is made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES, Checkpoint, Equality, LazyTensor
from mfconv_nb.core.errors import MappingError, MfconvError, SeveralFitError, UsageError, quote, to_one_line
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import how_many
from mfconv_nb.families.registry import known_families
from mfconv_nb.families.words.latent import DYNAMIC, INFERENCE
from mfconv_nb.families.words.mcore import CONTIGUOUS_ATTENTION, INTERLEAVED_MLP
from mfconv_nb.mapping.adapters import STYLES, half_of
from mfconv_nb.mapping.forms import configured_options, options_of
from mfconv_nb.mapping.kinds import GRADIENT_SUMS, OPTIMIZER, OPTIMIZER_STATE, RUN_STATE, Kind, kind_of, split_state
from mfconv_nb.mapping.plan import RESTORED
from mfconv_nb.mapping.rules import Family, OptionValue
from mfconv_nb.runs.rank_layout import CHECKPOINT_2, RankLayout, read_rank_layout
from mfconv_nb.steps.converting.map import map_checkpoint
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.steps.converting.mapped_checkpoint import assumptions_of, notes_on_lost
from mfconv_nb.steps.loading.caller_facts import GivenConfig, read_caller_facts
from mfconv_nb.steps.loading.company import kinds_told, saved_numbers
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.migrating.migrate_report import FormChange, MigrateReport
from mfconv_nb.steps.migrating.moving import Origin, State, Trip, move_states
from mfconv_nb.steps.migrating.run_numbers import RunNumbers, numbers_of
from mfconv_nb.steps.saving.ranks_output import ranks_output
from mfconv_nb.steps.saving.save import write_output
from mfconv_nb.streaming.fill import DEFAULT_THREADS

ONE_RANK = RankLayout({"device": 1}, form=CHECKPOINT_2)
WHY_LAYER = "state of layers in training, which the new network makes anew"
WHY_GRADIENTS = "accumulated gradients, which MindFormers does not load"
WHY_PLACEHOLDER = "placeholders of Muon, by the number of a weight; its optimizer makes them anew"
NO_PLACE = "no place in the other form"
WHY_ASKED = "state of the optimizer, left out as asked"
PLACEHOLDER = "placeholder."
# orders of rows of which the dynamic graph knows one alone: mindformers 2.1.0, `pynative/transformers`, attention.py and mlp.py
ONE_ORDER_IN_DYNAMIC = (CONTIGUOUS_ATTENTION, INTERLEAVED_MLP)
OF_DYNAMIC = (
    "adam_m.",
    "adam_v.",
    "muon_m.",
    "main_param.",
    "max_exp_avg_sq.",
)  # AdamW and Muon in `pynative/optimizer` of MindFormers 2.1.0


@dataclass(frozen=True)
class MovedRun:
    """A run in its other form, lazy.

    Attributes:
        checkpoint: weights, state of the optimizer and numbers, under their new names.
        origins: of every weight where it comes from.
        states: of every tensor of state the one that it was.
        left_out: names of the source that are in no file, and why.
    """

    checkpoint: Checkpoint
    trip: Trip
    origins: Mapping[str, Origin]
    states: Mapping[str, LazyTensor]
    numbers: RunNumbers
    left_out: Mapping[str, str]


@makes_many_objects
def migrate(
    run: Loadable,
    target: str | Path,
    family: str | Path | Family | None = None,
    *,
    config: GivenConfig = None,
    to_config: str | Path | None = None,
    form_of_run: Mapping[str, object] = MappingProxyType({}),
    step: int | str | None = None,
    strategy: str | Path | None = None,
    file_prefix: str | None = None,
    iteration: int | None = None,
    weights_only: bool = False,
    adapters: str | None = None,
    layout_of_ranks: RankLayout | str | Path | None = None,
    overwrite: bool = False,
    threads: int = DEFAULT_THREADS,
    durable: bool = True,
    dry_run: bool = False,
    progress: bool | OnProgress = True,
    **form: object,
) -> MigrateReport:
    """Write the run of one network of MindFormers as a Checkpoint 2.0 of another network of the same model, with its optimizer.

    What `form` does not say stays as the run has it: ``mc.migrate("run/", "new/", graph="dynamic")``.

    Args:
        run: anything that ``load`` takes, on the MindFormers side; ``step``, ``strategy``, ``file_prefix`` as for ``load``.
        target: a folder, which gets `iteration_N/`.
        family: as for ``map``.
        config: sizes and switches of the run, as for ``load``: the config of the model, the YAML of the run, or both.
        to_config: the YAML of the run that will go on: its switches say the form, where no option does.
        form_of_run: options of the family that the run has, where neither names nor its YAML tell them.
        iteration: how many steps the run has taken, where nothing in it tells.
        weights_only: leave the optimizer out.
        adapters: how the new network names LoRA adapters, as for ``map``.
        layout_of_ranks: cut every tensor for ranks, as for ``save``. Left out: one file of weights, one of the optimizer, which MindFormers
            cuts for its ranks when it loads them.
        overwrite, threads, durable, dry_run, progress: as for ``save``.
        form: options of the family that the target has: ``graph="dynamic"``.
    Raises:
        MappingError: MFC320 for state of the optimizer that the rules cannot move exactly; as ``map``.
        OutputError, InputError: as ``save``. UsageError: MFC501.
    """
    source = load(run, config=config, step=step, strategy=strategy, file_prefix=file_prefix)
    switches = _read_switches(to_config)
    moved = move_run(
        source, family, form, form_of_run, switches=switches, iteration=iteration, weights_only=weights_only, adapters=adapters
    )
    target = local_path(target)
    layout = _layout_to_write(layout_of_ranks, moved.numbers.iteration)
    out = replace(
        ranks_output(moved.checkpoint, target, None, layout, moved.numbers.common),
        origins=_origins_for_manifest(moved),
        left_out=moved.left_out,
        back=_way_back(moved, source),
    )
    saved = write_output(out, target, overwrite=overwrite, threads=threads, durable=durable, dry_run=dry_run, progress=progress)
    changes = _changes_of_form(moved.trip)
    return MigrateReport(
        saved,
        moved.trip.back.report.family.key,
        changes,
        source,
        moved.checkpoint,
        moved.origins,
        moved.states,
        moved.numbers,
        moved.left_out,
    )


def _read_switches(to_config: str | Path | None) -> Mapping[str, Any]:
    if to_config is None:
        return {}
    switches = read_caller_facts(to_config).switches
    if not switches:
        hint = "Leave it out, and give the options of the family instead: `mfconv migrate --model KEY --help` lists them."
        raise UsageError("MFC501", "to_config", found=quote(to_config), expected="the YAML of a run of MindFormers", hint=hint)
    return switches


def move_run(
    source: Checkpoint,
    family: str | Path | Family | None,
    form: Mapping[str, object],
    form_of_run: Mapping[str, object] = MappingProxyType({}),
    *,
    switches: Mapping[str, Any] = MappingProxyType({}),
    iteration: int | None = None,
    weights_only: bool = False,
    adapters: str | None = None,
) -> MovedRun:
    """A loaded run in its other form. Single numbers are read, no weight. Arguments and errors as ``migrate``."""
    if source.side != MF:
        said = SIDE_NAMES.get(source.side or "", "neither side")
        hint = "For weights of Hugging Face: mfconv convert (mc.map in Python)."
        raise UsageError("MFC501", "run", found=f"names of {said}", expected="a checkpoint of MindFormers", hint=hint)
    trip = _plan_trip(source, family, form, form_of_run, switches, adapters)
    told = {**saved_numbers(source), **kinds_told(source)}
    ruled = {spec.name for spec in trip.weights()}  # what a rule of the family knows is a weight, however it is called
    kinds = {name: told.get(name) or kind_of(name) for name in source.tensors if name not in ruled}
    origins = trip.origins()
    is_moved = trip.there.options != trip.back.options or not trip.back.tensors.keys() <= source.tensors.keys()
    states, kept, left_out = _states_of(source, kinds, ruled, weights_only, is_moved)
    moved = {**move_states(trip, origins, states), **kept}
    numbers = numbers_of(source, {**dict.fromkeys(source.tensors, kind_of("")), **kinds}, iteration, bool(moved))
    used = {*kept, *(s.tensor.name for s in states), *numbers.tensors}
    placed = {*used, *numbers.common, *trip.back.tensors, *left_out}
    left_out |= _left_by_rules(trip, [name for name in kinds if name not in placed])
    weights = _weights_in_order(source, trip, origins)
    tensors = {**weights, **moved, **numbers.tensors}
    if weights_only:
        numbers = replace(numbers, tensors={})
        tensors = weights
        left_out |= {name: WHY_ASKED for name in kinds if kinds[name].category in (OPTIMIZER_STATE, RUN_STATE) and name not in left_out}
    history = replace(
        trip.back.history,
        original=None,
        run=None,
        equalities=_equalities(source, trip, used),
        notes=(*source.notes, *_notes(trip), *_notes_on_optimizers(trip, states), *_notes_on_layouts(trip), *numbers.notes),
    )
    checkpoint = Checkpoint(tensors, f"{source.origin}, migrated", MF, source.config, history)
    return MovedRun(checkpoint, trip, origins, moved, numbers, left_out)


def _plan_trip(
    source: Checkpoint,
    family: str | Path | Family | None,
    form: Mapping[str, object],
    form_of_run: Mapping[str, object],
    switches: Mapping[str, Any],
    adapters: str | None,
) -> Trip:
    sizes = {o.name for known in known_families() for o in options_of(known).values() if o.size}  # of both forms
    try:
        there = map_checkpoint(source, family, to=HF, options={**{n: v for n, v in form.items() if n in sizes}, **form_of_run})
    except SeveralFitError as error:
        if error.choices and all("model" not in choice for choice in error.choices):
            words = " or ".join(" ".join(f"--form_of_run {n}={v}" for n, v in choice.items()) for choice in error.choices)
            error.hint = f"Say which the run has: {words} (form_of_run={{name: value}} in Python), or give its config."
        raise
    except MappingError as error:
        if error.hint is not None and "--leave_out" in error.hint:
            error.hint = "A name that no rule knows cannot be moved. Is it this family? Say which: --model KEY (family='KEY' in Python)."
        if error.hint is not None and "--cut_vocabulary" in error.hint:
            error.hint = "Were rows added to the vocabulary? Give a config.json whose vocab_size counts them: --config (config= in Python)."
        raise
    whole = there.report.family
    asked: dict[str, object] = {**configured_options(whole, switches, MF), **form}
    if asked.get("graph") == DYNAMIC != there.options.get("graph"):
        asked = {**{o.name: o.default for o in whole.options if o in ONE_ORDER_IN_DYNAMIC}, **asked}
    try:
        return Trip(there, map_checkpoint(there, whole, to=MF, adapters=adapters, options=asked))
    except CoverageError as error:
        words = " ".join(f"--{name} {value}" for name, value in asked.items())
        error.hint = f"The run does not fit the form asked for ({words or 'its own'}): ask for another. Names are Hugging Face's here."
        raise


def _states_of(
    source: Checkpoint, kinds: Mapping[str, Kind], weights: set[str], weights_only: bool, is_moved: bool
) -> tuple[list[State], dict[str, LazyTensor], dict[str, str]]:
    """The state of the optimizer that is to be moved, what stays as it is (all, where the form stays), and what is left out."""
    states: list[State] = []
    kept: dict[str, LazyTensor] = {}
    left_out: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind.category == GRADIENT_SUMS:
            left_out[name] = WHY_GRADIENTS
        if kind.category != OPTIMIZER_STATE:
            continue
        prefix, weight = split_state(name, weights)
        if weights_only:
            left_out[name] = WHY_ASKED
        elif not is_moved:
            kept[name] = source.tensors[name]
        elif weight.startswith(PLACEHOLDER):
            left_out[name] = WHY_PLACEHOLDER
        else:
            states.append(State(prefix, weight, source.tensors[name], OPTIMIZER.fits(name)))
    return states, kept, left_out


def _weights_in_order(source: Checkpoint, trip: Trip, origins: Mapping[str, Origin]) -> dict[str, LazyTensor]:
    """The target weights. What is a source as it was is read as it lies, and not expert by expert."""
    found = dict(trip.back.tensors)
    for name, origin in origins.items():
        if origin.in_order and source[origin.sources[0]].dtype == found[name].dtype:
            found[name] = origin.taken_from(found[name].spec, source.tensors)
    return found


def _notes(trip: Trip) -> list[str]:
    """What both mappings note, but for what was assumed and does not matter here, as it is the same in both forms."""
    there, back = trip.there.report, trip.back.report
    numbers = {name: how for name, how in there.decided.items() if there.options[name] == back.options.get(name)}
    idle = {*assumptions_of(there.family, there.plan, numbers), *notes_on_lost(there.plan.family)}
    beside = [spec.name for row in there.plan.rows if row.status == RESTORED for spec in row.targets]
    stay = f"{how_many(len(beside), 'tensor')} of Hugging Face's side alone {'stays' if len(beside) == 1 else 'stay'} beside the old run"
    kept = [f"{stay}; first {beside[0]}"] if beside else []
    return list(dict.fromkeys((*(note for note in (*there.notes, *back.notes) if note not in idle), *kept)))


def _notes_on_optimizers(trip: Trip, states: Sequence[State]) -> list[str]:
    """A note on state that no optimizer of the target has: MindFormers would pass over it without a word."""
    if states and trip.back.options.get("graph") == INFERENCE:
        return ["a network of inference has no optimizer: --weights_only (weights_only=True in Python) leaves it out"]
    others = list(dict.fromkeys(s.prefix for s in states if s.prefix not in OF_DYNAMIC))
    if not others or trip.back.options.get("graph") != DYNAMIC:
        return []
    return [f"no optimizer of the dynamic graph has {', '.join(others)}: MindFormers passes over what its optimizer does not have"]


def _notes_on_layouts(trip: Trip) -> list[str]:
    """A note on each order of rows that the dynamic graph does not know, where the target is for it, or no option says for which graph."""
    chosen = trip.back.options
    may_be_dynamic = chosen.get("graph", DYNAMIC) == DYNAMIC
    odd = [o for o in ONE_ORDER_IN_DYNAMIC if may_be_dynamic and chosen.get(o.name, o.default) != o.default]
    return [f"{o.name}={chosen[o.name]}: the static graph alone has this order of rows; for the dynamic one give {o.default}" for o in odd]


def _left_by_rules(trip: Trip, names: Sequence[str]) -> dict[str, str]:
    """Why the rules have no place for these names."""
    why = {spec.name: row.why for row in trip.there.report.plan.rows if not row.targets for spec in row.sources}
    return {name: WHY_LAYER if kind_of(name).category == RUN_STATE else why.get(name) or NO_PLACE for name in names}


def _equalities(source: Checkpoint, trip: Trip, states: set[str]) -> tuple[Equality, ...]:
    """What must be equal for nothing to be lost: of both mappings, and of the slices of a run that hold state."""
    of_states = (e for e in source.history.equalities if e.first.name in states)
    both = (*trip.there.history.equalities, *trip.back.history.equalities, *of_states)
    distinct = {(id(e.first), id(e.second)): e for e in both if e.first.pieces != e.second.pieces}
    return tuple(distinct.values())


def _layout_to_write(given: RankLayout | str | Path | None, step: int) -> RankLayout:
    layout = ONE_RANK if given is None else given if isinstance(given, RankLayout) else read_rank_layout(local_path(given))
    return replace(layout, form=CHECKPOINT_2, step=step)


def _changes_of_form(trip: Trip) -> tuple[FormChange, ...]:
    before, after = trip.there.options, trip.back.options
    return tuple(FormChange(name, before[name], value) for name, value in after.items() if name in before and before[name] != value)


def _origins_for_manifest(moved: MovedRun) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {name: {"from": list(o.sources), "how": "moved"} for name, o in moved.origins.items()}
    for name in moved.states:
        prefix, weight = split_state(name, moved.origins.keys())
        made[name] = {"from": [prefix + s for s in moved.origins[weight].sources] if weight in moved.origins else [name], "how": "moved"}
    return made


def _way_back(moved: MovedRun, source: Checkpoint) -> str:
    """What going back would lack, planned on what is written; empty where nothing is."""
    family, options = moved.trip.back.report.family, moved.trip.there.options
    choosing = {o.name for o in family.options if o.values}
    before: Mapping[str, OptionValue] = {n: v for n, v in options.items() if n in choosing}
    after = {n: v for n, v in moved.trip.back.options.items() if n in choosing}
    halves = (half_of(name) for name in source.tensors)
    style = next((half.style for half in halves if half is not None and half.style in STYLES), None)
    try:
        back = move_run(moved.checkpoint, family, before, after, iteration=moved.numbers.iteration, adapters=style).checkpoint
    except MfconvError as error:
        return f"refused: {error.code}, {to_one_line(str(error.found))}"
    wanted = {t.name: t.spec for t in source if t.name not in moved.left_out and t.name not in moved.numbers.common}
    lost = [name for name, spec in wanted.items() if name not in back or back[name].shape != spec.shape]
    if lost:
        return f"{how_many(len(lost), 'tensor')} would not come back, such as {lost[0]}"
    return f"exact, but for {how_many(len(moved.left_out), 'tensor')} left out" if moved.left_out else ""
