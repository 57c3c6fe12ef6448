"""What doctor says of a checkpoint that could be opened: contents, names, config, what is special, what a conversion needs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, SIDE_NAMES
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import MfconvError, NotListedError, SeveralFitError, as_flags
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import bytes_text, how_many, how_many_in_short
from mfconv_nb.core.sizes import RUN_CONFIG
from mfconv_nb.core.sources import FileSource
from mfconv_nb.families.registry import known_families
from mfconv_nb.families.words.mcore import is_mcore_name
from mfconv_nb.formats.index import MINDSPORE
from mfconv_nb.formats.reading import FOLDER, INDEX, format_of, kind_of
from mfconv_nb.formats.writing import plan_output
from mfconv_nb.mapping.adapters import is_adapter
from mfconv_nb.mapping.claims import describe_claim, find_claimed_tie, find_false_claims
from mfconv_nb.mapping.kinds import WEIGHTS, amounts_by_category, category_of, is_run_state
from mfconv_nb.mapping.plan import LEFT_OUT, TIED
from mfconv_nb.mapping.quantised import without_claims
from mfconv_nb.runs.run import Step, TrainedRun
from mfconv_nb.steps.converting.family_choice import problem_of_pairs
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.steps.converting.twins import HINT_HEAD, differ_at_first
from mfconv_nb.steps.inspecting.diagnosis import DECIDE, FINE, STOP, TOLD, Finding
from mfconv_nb.steps.inspecting.seen import Seen
from mfconv_nb.steps.loading.company import kinds_told

# What a conversion takes beside the interpreter and numpy: see docs/benchmarks.md. Measured: 11 MiB, 1.4 KiB
# for each tensor that is planned, 2 KiB for each slice of a run.
BUFFER_BYTES, BYTES_A_TENSOR = 24 << 20, 2 << 10
SHOWN_STEPS = 6


def _mcore_families() -> list[str]:
    """The keys of the families whose MindFormers side has mcore names."""
    return [f.key for f in known_families() if any(is_mcore_name(t.replace("#", "0")) for t in f.templates(HF))]


# ---- what it is ----------------------------------------------------------------------------------------------------------------


def describe(seen: Seen) -> str:
    """What a path holds, in a clause."""
    if seen.run is not None:
        return f"MindFormers training run: {seen.run.kind}"
    side = SIDE_NAMES.get(seen.side or "", "")
    if seen.adapters and len(seen.adapters) == len(seen.weights):
        return f"LoRA adapters, {side or 'of a side that nothing tells'}: {_form_text(seen)}"
    kind = "quantised checkpoint" if seen.quantised is not None else "checkpoint"
    return f"{side + ' ' if side else ''}{kind}: {_form_text(seen)}"


def _form_text(seen: Seen) -> str:
    count = len(seen.checkpoint.files)
    files = how_many(count, "file")
    kind = kind_of(seen.path)
    index = seen.path / MINDSPORE if kind == FOLDER else seen.path
    if index.name == MINDSPORE and index.is_file():
        return f"merged by mindspore.unified_safetensors, {files}"
    return {FOLDER: f"a folder, {files}", INDEX: f"an index, {files}"}.get(kind, f"one {kind} file" if count == 1 else f"{kind}, {files}")


# ---- what was seen -------------------------------------------------------------------------------------------------------------


def findings_of(seen: Seen) -> Iterator[Finding]:
    """Everything that is worth a line, in the order in which one asks."""
    if seen.run is not None:
        yield from run_findings(seen.run, skipped=seen.skipped_steps)
    yield from _content_findings(seen)
    yield from _name_findings(seen)
    yield from _adapter_findings(seen)
    yield from _config_findings(seen)
    yield from _claim_findings(seen)
    yield from _special_findings(seen)
    yield from _format_findings(seen)
    yield from _need_findings(seen)


def run_findings(run: TrainedRun, *, skipped: Sequence[Step] = ()) -> Iterator[Finding]:
    """Ranks and steps of a run, what is assumed of it, and its notes."""
    steps = sorted({step for had in run.steps.values() for step in had})
    listed = ", ".join(str(s) for s in steps[-SHOWN_STEPS:])
    seen = how_many(len(run.steps), "rank")
    seen += f"; steps {'… ' * (len(steps) > SHOWN_STEPS)}{listed}" if steps else "; no file's name tells a step"
    seen += f"; read: {run.chosen}" if run.chosen is not None else ""
    yield Finding(STOP if run.problems else DECIDE if skipped else FINE, "ranks and steps", seen)
    yield from (Finding(DECIDE, "assumed", a) for a in run.assumed)
    yield from (Finding(TOLD, "note", note) for note in run.notes)


def _content_findings(seen: Seen) -> Iterator[Finding]:
    found = amounts_by_category(seen.checkpoint.specs, kinds_told(seen.checkpoint))
    said = ", ".join(f"{category} {how_many(a.tensors, 'tensor')} ({bytes_text(a.nbytes)})" for category, a in found.items())
    count = sum(s.elements for s in seen.weights)
    yield Finding(TOLD, "contents", f"{said or 'no tensor'}; {how_many_in_short(count, 'parameter')}")
    dtypes = Counter(short_name(s.dtype) for s in seen.weights)
    if dtypes:
        yield Finding(TOLD, "dtypes", ", ".join(f"{dtype} ({how_many(n, 'tensor')})" for dtype, n in dtypes.most_common()))
    left = [c for c in found if c != WEIGHTS and c != "buffers"]
    if left:
        yield Finding(TOLD, "state of the run", f"{', '.join(left)}: left out of a Hugging Face folder")
    yield from (Finding(TOLD, "no tensor", f"{o.name} ({o.kind})") for o in seen.checkpoint.history.others[:4])
    if seen.run is None:
        yield from (Finding(TOLD, "note", note) for note in seen.checkpoint.notes)


def _name_findings(seen: Seen) -> Iterator[Finding]:
    if seen.quantised is not None:
        problem = problem_of_pairs(seen.checkpoint)
        found = f"{seen.quantised}. Take the original weights."
        if problem is not None:
            found = f"{problem.code}, {problem.where}: {problem.found}; expected {problem.expected}. {problem.hint}"
        yield Finding(STOP, "quantised", found)
        return
    if seen.side == MF and (name := _telling_name(seen)) is not None:
        form = "mcore form (Megatron-like)" if is_mcore_name(name) else "legacy form"
        yield Finding(TOLD, "names", f"MindFormers' {form}, such as {name}")
    if seen.mapped is not None:
        report = seen.mapped.report
        chosen = ", ".join(f"{n}={report.options[n]!r} ({how})" for n, how in report.decided.items())
        yield Finding(FINE, "family", report.plan.family.key + (f", {chosen}" if chosen else ""))
        there = f"{how_many(len(seen.mapped), 'tensor')}, {bytes_text(seen.mapped.nbytes)}"
        yield Finding(FINE, "mapping", f"every tensor has its place on the {SIDE_NAMES[seen.mapped.side or HF]} side: {there}")
        yield from (Finding(TOLD, "note", note) for note in report.notes)
        left = [s.name for row in report.plan.rows if row.status == LEFT_OUT for s in row.sources if category_of(s.name) == WEIGHTS]
        left = [name for name in left if not is_run_state(name)]  # a conversion checks what constants of layers hold
        if left:
            yield Finding(DECIDE, "left out", f"{how_many(len(left), 'tensor')}; first {left[0]}")
    elif seen.refused is not None:
        yield from _refusal_findings(seen, seen.refused)


def _telling_name(seen: Seen) -> str | None:
    """A name that tells which of MindFormers' forms it is: one of a layer, where there is one."""
    names = [s.name for s in seen.weights if not is_adapter(s.name)]
    return next((n for n in names if is_mcore_name(n)), next((n for n in names if fold(n)[1]), next(iter(names), None)))


def _refusal_findings(seen: Seen, refused: MfconvError) -> Iterator[Finding]:
    if isinstance(refused, NotListedError):
        fitting = " or ".join(as_flags(choice) for choice in seen.choices)
        said = f"if you know better: {fitting}" if fitting else "and not every tensor would have its place"
        yield Finding(DECIDE if fitting else STOP, "family", f"{refused.found}. Equal names are not equal mathematics; {said}")
        return
    if isinstance(refused, SeveralFitError):
        works = seen.choices
        told = seen.lacks_config and not seen.adapters
        why = "; the config tells" if told else "" if works else ", by their names; with this config none of them"
        listed = " or ".join(as_flags(c) for c in (works if works and not told else refused.choices))
        yield Finding(DECIDE if told or works else STOP, "family", f"several fit{why}: {listed}")
        return
    if isinstance(refused, CoverageError):
        family, problems = refused.plan.family.key, refused.problems
        if seen.lacks_config:
            seen_of = f"{family} by the names; {how_many(len(problems), 'tensor')} of which only the config tells shape or presence"
            yield Finding(DECIDE, "family", f"{seen_of}; first {problems[0].name}")
            return
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in Counter(p.kind for p in problems).most_common())
        first = problems[0]
        yield Finding(
            DECIDE if refused.leave_out else STOP,
            "mapping",
            f"{refused.code}, family {refused.nearest or family}: {kinds}; first {first.name}: {first.found}; expected {first.expected}",
        )
    else:
        head = str(refused).partition("\n")[0]
        yield Finding(STOP, "mapping", f"{head}: {refused.found}" if refused.found is not None else head)
    if seen.unknown_family and not seen.is_near_several:
        of_mcore = seen.side == MF and any(is_mcore_name(s.name) for s in seen.weights)
        meant = f"one with mcore names ({', '.join(_mcore_families())})" if of_mcore else "one of `mfconv families`"
        yield Finding(TOLD, "hint", f"Where {meant} is meant: --model KEY. Else rules can be drafted from both sides.")
    elif refused.hint:
        yield Finding(TOLD, "hint", refused.hint)


def _adapter_findings(seen: Seen) -> Iterator[Finding]:
    if not seen.adapters:
        return
    lora, others = seen.checkpoint.history.lora, len(seen.weights) - len(seen.adapters)
    said = how_many(len(seen.adapters), "adapter tensor") + (
        f" beside {how_many(others, 'other')}: a Hugging Face folder holds one of both" if others else ""
    )
    alpha = f"; alpha {lora.alpha:g} from {lora.origin}" if lora is not None and lora.alpha is not None else ""
    yield Finding(DECIDE if others else TOLD, "LoRA", said + alpha)
    if lora is not None and lora.problem is not None:
        yield Finding(STOP, "LoRA", f"{lora.problem.code}: {lora.problem.found}; expected {lora.problem.expected}")
    elif seen.lacks_alpha:
        yield Finding(DECIDE, "LoRA", "nothing says alpha: --config RUN.yaml (the YAML of the run), or --lora_alpha N")


def _config_findings(seen: Seen) -> Iterator[Finding]:
    config = seen.checkpoint.config
    if config is None:
        where = "the original's Hugging Face folder has one: --config HF_DIR" if seen.wants_config else "it belongs beside the weights"
        yield Finding(DECIDE, "config", f"none: sizes and layers cannot be checked; {where}")
        return
    if RUN_CONFIG in config:
        yield Finding(TOLD, "config", "the YAML of a run: it gives the sizes; config.json and tokenizer files are those of the original")
        return
    yield from _code_findings(seen, config)
    kind = config.get("model_type") or ", ".join(_texts_in(config.get("architectures"))) or "no model_type"
    yield Finding(TOLD, "config", f"{kind}") if seen.mapped is None else Finding(FINE, "config", f"{kind}; shapes and layers agree with it")


def _claim_findings(seen: Seen) -> Iterator[Finding]:
    """Entries of config.json that the headers, or another entry of it, contradict. Sizes and layers are compared by mapping."""
    config = seen.checkpoint.config
    if config is None or RUN_CONFIG in config or seen.side != HF or seen.quantised or len(seen.adapters) == len(seen.weights):
        return
    said = without_claims(config) if seen.checkpoint.history.published is not None else config  # read as numbers, stored as codes
    for claim in find_false_claims(said, seen.weights):
        yield Finding(DECIDE, "config", describe_claim(claim))


def _code_findings(seen: Seen, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Python files that the config names (`auto_map`): no conversion carries them, and from_pretrained needs them."""
    named = config.get("auto_map")
    places = (
        [place for value in named.values() for place in (value if isinstance(value, list) else [value])] if isinstance(named, dict) else []
    )
    modules = dict.fromkeys(p.rpartition("--")[2].partition(".")[0] for p in places if isinstance(p, str) and "." in p)
    folder = seen.path if seen.path.is_dir() else seen.path.parent
    absent = [f"{module}.py" for module in modules if not (folder / f"{module}.py").is_file()]
    if absent:
        where = "is not here" if len(absent) == 1 else "are not here"
        yield Finding(DECIDE, "code", f"config.json names {', '.join(absent[:4])}, which {where}: from_pretrained needs the original's")
    elif modules:
        listed = ", ".join(f"{module}.py" for module in list(modules)[:4])
        yield Finding(TOLD, "code", f"config.json names {listed}: a conversion leaves code behind, and from_pretrained needs it")


def _special_findings(seen: Seen) -> Iterator[Finding]:
    for row in seen.mapped.report.plan.rows if seen.mapped is not None else ():
        if row.status == TIED:
            name = (row.targets or row.sources)[0].name
            said = f"{name} is written, {row.why}" if row.targets else f"{name} is left out: {row.why}"
            yield Finding(TOLD, "tied head", said)
    yield from _head_findings(seen)
    yield from _layer_findings(seen)


def _head_findings(seen: Seen) -> Iterator[Finding]:
    """Heads that the config ties to an embedding of other numbers; the first few MiB are compared."""
    for equality in seen.mapped.history.equalities if seen.mapped is not None and seen.mapped.side == MF else ():
        if (equality.said or equality.hint == HINT_HEAD) and differ_at_first(equality.first, equality.second):
            yield Finding(DECIDE if equality.said else STOP, "tied head", equality.said or f"{equality.why}, but they hold other numbers")
            return
    head, embeddings = find_claimed_tie(seen.checkpoint.config or {}, seen.checkpoint)
    if head is not None and seen.side == HF and all(differ_at_first(head, embedding) for embedding in embeddings):
        said = f"config.json ties {head.name} to {embeddings[0].name}, and they hold different numbers: a reader may use only one"
        yield Finding(DECIDE, "tied head", said)


def targets_of(seen: Seen) -> tuple[str, ...]:
    """The targets of a conversion that come into question, the usual one first."""
    return ("OUT/",) if seen.side == MF else ("OUT.ckpt", "OUT.safetensors")


def why_not_held(seen: Seen, target: str) -> MfconvError | None:
    """Why the format of a target cannot hold the result of a conversion; None where it can."""
    specs, side = (seen.mapped.specs, seen.mapped.side) if seen.mapped is not None else (seen.weights, MF if seen.side != MF else HF)
    try:
        plan_output(specs, Path(target), side)
    except MfconvError as error:
        return error
    return None


def _format_findings(seen: Seen) -> Iterator[Finding]:
    """Tensors that the usual format of the other side cannot hold."""
    if seen.mapped is None:
        return
    refusals = [why_not_held(seen, target) for target in targets_of(seen)]
    if refusals[0] is not None:
        mark = STOP if all(refusals) else TOLD
        yield Finding(mark, "format", f"{refusals[0].code}: {refusals[0].where}: {refusals[0].found}; expected {refusals[0].expected}")


def _layer_findings(seen: Seen) -> Iterator[Finding]:
    """Layers beyond those of the config: that predict further tokens (MTP), or that nobody promised."""
    config = seen.checkpoint.config or {}
    said, extra = config.get("num_hidden_layers"), config.get("num_nextn_predict_layers")
    if not isinstance(said, int) or not said:
        return
    counted = _layer_counts(s.name for s in seen.weights)
    if isinstance(extra, int) and extra and said + extra in counted:
        yield Finding(TOLD, "layers", f"{said}, and {extra} that predict{'s' * (extra == 1)} further tokens (MTP)")
    elif seen.mapped is None and not seen.unknown_family and counted and said not in counted:
        yield Finding(DECIDE, "layers", f"{max(counted)} in the names; the config says {said}")


def _layer_counts(names: Iterable[str]) -> set[int]:
    """How many layers there are under each beginning of names: one more than the largest first index."""
    largest: dict[str, int] = {}
    for name in names:
        template, indices = fold(name)
        if indices:
            start = template.partition("#")[0]
            largest[start] = max(largest.get(start, 0), indices[0] + 1)
    return set(largest.values())


def _need_findings(seen: Seen) -> Iterator[Finding]:
    if seen.mapped is None and not seen.can_be_decided:
        return
    nbytes = seen.mapped.nbytes if seen.mapped is not None else sum(s.nbytes for s in seen.weights)
    folder = next(p for p in (seen.path.absolute().parent, *seen.path.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    merged = "; slices are merged on the way, no merged copy is written" if seen.run is not None else ""
    said = f"{bytes_text(nbytes)} for the result; {bytes_text(free)} free beside it{merged}"
    yield Finding(FINE if free > nbytes else DECIDE, "disk", said)
    opener = next((f for f in (format_of(FileSource(p)) for p in seen.checkpoint.files[:1]) if f.opening_takes), None)
    taken = bytes_text(_memory_needed(seen) + (opener.opening_takes if opener is not None else 0))
    said = f": {opener.opening_said}" if opener is not None else ", however large the tensors are"
    yield Finding(FINE, "memory", f"about {taken}{said}")


def _memory_needed(seen: Seen) -> int:
    slices = sum(len(t.slices) for t in seen.run.tensors.values()) if seen.run is not None else len(seen.checkpoint)
    return BUFFER_BYTES + BYTES_A_TENSOR * slices


def _texts_in(value: Any) -> list[str]:
    """The texts of a list in a config; nothing where it is none."""
    return [str(v) for v in value] if isinstance(value, list) else []
