"""Merging LoRA adapters into the weights they were trained for: a declared change of values, lazily and in bounded memory.

    merged = w + scale * B A            scale = alpha / rank, or alpha / sqrt(rank) where the config says rsLoRA

alpha is read (from the run's YAML, an `adapter_config.json`, a manifest) or given, never assumed; the rank is that of the tensors.
Every tensor beside the adapters has a use or is refused by its name: what PEFT trained whole (embeddings, heads, `modules_to_save`, biases)
takes the place of the weight of that name; the frozen weights in a run's checkpoint must be those of the base.
Refuses: adapters without their weight or without one half, shapes that do not fit, two alphas, an embedding that is the head too.
Source: PEFT 0.21, `tuners/lora/layer.py` (`merge`), `utils/save_and_load.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, Equality, LazyTensor
from mfconv_nb.core.dtypes import CASTABLE
from mfconv_nb.core.errors import MappingError, nearest, quote
from mfconv_nb.core.folding import fold, folded_name
from mfconv_nb.core.gc_pause import makes_many_objects
from mfconv_nb.core.low_rank import ROUNDING
from mfconv_nb.core.report import Column, Result, Table, how_many, how_many_in_short, shape_text
from mfconv_nb.core.run_yaml import Lora
from mfconv_nb.families.registry import conv1d_layers
from mfconv_nb.formats.peft_folder import HINT_MERGE, HINT_PEFT
from mfconv_nb.mapping.adapters import PEFT, WEIGHT, Adapter, adapters_of, half_of, is_adapter
from mfconv_nb.mapping.kinds import is_run_state
from mfconv_nb.mapping.lora_scale import ScaledAdapter, check_targets, scaled_adapters
from mfconv_nb.mapping.rules import Family
from mfconv_nb.steps.converting.map import map_checkpoint
from mfconv_nb.steps.loading.caller_facts import GivenConfig
from mfconv_nb.steps.loading.company import kinds_told
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.steps.loading.manifest_proof import prove_own_manifest
from mfconv_nb.streaming.merged import merged_tensor

HINT_BASE = "Give the weights that the adapters were trained on; where they are of the other side, --model (family=) says how names map."
HINT_OTHER_SIDE = "Merge it into the base of Hugging Face, and convert the merged model."
HINT_RESIZED = "Where the vocabulary was resized, resize the base first (resize_token_embeddings), as PEFT wants it too."
HINT_FROZEN = "The adapters' checkpoint holds the weights it was trained on: merge it by itself, without a base."
HINT_TIED = "Untie them and merge with PEFT (merge_and_unload), and convert the merged model."
# how modules are called whose weight has a row a word
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared", "output", "tok_embeddings")
ORIGINAL, COPIES = ".original_module.", (".modules_to_save.default.", ".modules_to_save.")
_WRAPPERS = re.compile(r"\.(?:base_layer|original_module|modules_to_save(?:\.default)?)\.")
OF_ADAPTERS = ("lora_", ".token_adapter.")
TRAINING_ONLY = (".lora_velora_embed",)  # VeLoRA's buffer for the backward pass


@dataclass(frozen=True, repr=False)
class MergeReport(Result):
    """Which tensors were changed, with which scale, and where it was read; and which took the place of the base's."""

    adapters: tuple[ScaledAdapter, ...]
    replaced: tuple[str, ...]
    read_from: str
    origin: str

    @property
    def scales(self) -> tuple[float, ...]:
        """Every scale that occurs, each once."""
        return tuple(sorted({scaled.scale for scaled in self.adapters}))

    @property
    def scale(self) -> float:
        """What B A was multiplied by; where adapters differ, the largest."""
        return self.scales[-1]

    @property
    def changed(self) -> str:
        """What is no copy of the base, in a clause."""
        taken = f", {len(self.replaced):,} taken from the adapters' folder" if self.replaced else ""
        return f"{how_many(len(self.adapters), 'weight')} computed (adapters merged){taken}"

    def sentence(self) -> str:
        """One line for notes and reports."""
        alphas, ranks = {s.alpha for s in self.adapters}, {s.adapter.rank for s in self.adapters}
        said = f"alpha {_span(alphas)} from {self.read_from}, rank {_span(ranks)} from the tensors"
        taken = f"; {how_many(len(self.replaced), 'tensor')} trained whole: {folded_name(list(self.replaced))}" if self.replaced else ""
        weights = how_many(len(self.adapters), "weight")
        return f"merged: {weights} changed by {_span(self.scales)} * B A ({said}); computed {ROUNDING}{taken}"

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        first = self.adapters[0]
        said: dict[str, Any] = {"lora_alpha": first.alpha, "rank": first.adapter.rank, "scale": first.scale}
        if len({(s.alpha, s.adapter.rank, s.scale) for s in self.adapters}) > 1:
            said = {"scales": {s.adapter.weight: s.scale for s in self.adapters}}
        replaced = {"replaced": list(self.replaced)} if self.replaced else {}
        return {
            **said,
            "read_from": self.read_from,
            "rounding": ROUNDING,
            "weights": [s.adapter.weight for s in self.adapters],
            **replaced,
        }

    def table(self) -> Table:
        groups: dict[tuple[str, tuple[int, int], float], list[str]] = {}
        for scaled in self.adapters:
            name = scaled.adapter.weight
            groups.setdefault((fold(name)[0], scaled.adapter.shape, scaled.scale), []).append(name)
        rows = [(folded_name(names), len(names), shape_text(shape), f"{scale:g}") for (_, shape, scale), names in groups.items()]
        columns = (Column("weight"), Column("weights", True), Column("out x in", True), Column("scale", True))
        changed = sum(s.adapter.shape[0] * s.adapter.shape[1] for s in self.adapters)
        headline = f"{how_many(len(self.adapters), 'weight')} changed, {how_many_in_short(changed, 'number')} · {self.origin}"
        return Table("", headline, columns, rows, (self.sentence(),), row_noun="weights")


def _span(numbers: Iterable[float]) -> str:
    """``0.5``, or ``0.5 to 2``."""
    low, *more = sorted(set(numbers))
    return f"{low:g} to {more[-1]:g}" if more else f"{low:g}"


@makes_many_objects
def merge_adapters(
    base: Loadable,
    adapters: Loadable | None = None,
    *,
    alpha: float | None = None,
    config: GivenConfig = None,
    family: str | Path | Family | None = None,
) -> Checkpoint:
    """The base with adapters added to its weights. Lazy: the sum is computed while a save, a diff or a read goes through it.

    Args:
        base: the weights; with the adapters among them, where ``adapters`` is left out.
        adapters: a PEFT folder, or what a LoRA run of MindFormers saved. Of the other side than the base: they are mapped to its side.
        alpha: where nothing beside the adapters says it. The scale is alpha / rank.
        config: the YAML of the run, an adapter_config.json, or the model's config.
        family: as for ``map``; for adapters of the other side.
    Returns:
        A checkpoint whose ``history.merged`` says which tensors were changed, by which scale, and where that was read.
    Raises:
        MappingError: MFC319, and those of ``map``.
    """
    weights = load(base, config=None if adapters is not None else config, lora_alpha=None if adapters is not None else alpha)
    weights = unwrap_names(weights) if adapters is None else weights
    trained = weights if adapters is None else _drop_run_state(load(adapters, config=config, lora_alpha=alpha))
    if not adapters_of(trained.specs):  # refuses halves under the names that the caller knows
        raise _no_adapters(trained)
    check_targets(trained.history.lora, trained.tensors if trained.side == MF else ())
    if adapters is not None and weights.side in (HF, MF) and _is_of_the_other_side(trained, weights):
        _check_nothing_whole(trained, HINT_OTHER_SIDE)
        told = family or trained.family or weights.family or None
        trained = map_checkpoint(replace(trained, config=trained.config or weights.config), told, to=weights.side)
    proven, stale = prove_own_manifest(trained)
    lora = proven.history.lora or Lora()
    try:
        found = scaled_adapters(adapters_of(trained.specs), lora, trained.origin)
    except MappingError as error:
        error.hint = f"{stale}. {error.hint or ''}".strip() if stale else error.hint
        raise
    replaced, equalities = ({}, ()) if adapters is None else _whole_tensors(trained, weights, lora)
    equalities += (*_check_tied(weights, found, replaced), *(trained.history.equalities if adapters is not None else ()))
    kept = {name: replaced.get(name, tensor) for name, tensor in weights.tensors.items() if not is_adapter(name)}
    kept |= {s.adapter.weight: _merge_tensor(weights, kept, trained, s, lora) for s in found}
    report = MergeReport(found, tuple(name for name in replaced if name in kept), lora.origin, trained.origin)
    more = tuple(f for f in trained.files if f not in weights.files)
    history = replace(
        weights.history,
        files=weights.files + more,
        notes=(*weights.notes, report.sentence()),
        equalities=weights.history.equalities + equalities,
        lora=None,
        merged=report,
    )
    return replace(weights, tensors=kept, origin=f"{weights.origin} with {how_many(len(found), 'adapter')} merged", history=history)


def _is_of_the_other_side(trained: Checkpoint, weights: Checkpoint) -> bool:
    """Compares the sides; where a side is not known, looks at the names."""
    if trained.side is not None:
        return trained.side != weights.side
    return not any(half.weight in weights for name in trained.tensors if (half := half_of(name)) is not None)


def only_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The adapters of a checkpoint, without its other tensors: what a PEFT folder holds.

    Raises:
        MappingError: MFC319 where it has none, and for tensors that PEFT trained whole: without them the adapters are another model.
    """
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if is_adapter(name)}
    if not tensors:
        raise _no_adapters(checkpoint)
    _check_nothing_whole(checkpoint, HINT_MERGE)
    others = [n for n in checkpoint.tensors if n not in tensors and not is_run_state(n)]
    note = (f"only adapters are taken; left out: {how_many(len(others), 'other tensor')}, first {others[0]}",) if others else ()
    return replace(checkpoint, tensors=tensors, history=replace(checkpoint.history, notes=(*checkpoint.notes, *note)))


def _no_adapters(checkpoint: Checkpoint) -> MappingError:
    expected = "tensors such as ….lora_A.weight, ….mindpet_delta_lora_a"
    hint = "Give the folder that PEFT wrote, or the checkpoint of the run that trained with LoRA."
    return MappingError("MFC319", checkpoint.origin, found="no adapters", expected=expected, hint=hint)


# ---- what lies beside the adapters ---------------------------------------------------------------------------------------------


def place_of(name: str) -> str:
    """The name in the base of a tensor that PEFT wrapped: without its prefix and the words of its wrappers."""
    return _WRAPPERS.sub(".", name.removeprefix(PEFT))


def unwrap_names(checkpoint: Checkpoint) -> Checkpoint:
    """A whole dump of a PEFT model with the names of the model; of what was trained as a copy, the copy.

    Raises:
        MappingError: MFC319 for what an adapter has besides its two halves, and for two tensors of one weight.
    """
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in checkpoint.tensors.items():
        if any(word in name for word in OF_ADAPTERS) and not is_adapter(name) and not is_run_state(name):
            found = "a tensor of an adapter, and neither of its halves"
            raise MappingError("MFC319", quote(name), found=found, expected="pairs of A and B", hint=HINT_PEFT)
        if not name.startswith(PEFT) or is_adapter(name):
            tensors[name] = tensor
        elif not any(name.replace(ORIGINAL, copy) in checkpoint for copy in COPIES if ORIGINAL in name):
            place = place_of(name)
            if place in tensors:
                hint = "Leave one of them out when it is saved."
                raise MappingError("MFC319", quote(name), found=f"a second {quote(place)}", expected="one tensor for a weight", hint=hint)
            tensors[place] = tensor.renamed(place)
    return replace(checkpoint, tensors=tensors)


def _drop_run_state(checkpoint: Checkpoint) -> Checkpoint:
    told = kinds_told(checkpoint)
    tensors = {n: t for n, t in checkpoint.tensors.items() if not (is_run_state(n) or n in told or n.endswith(TRAINING_ONLY))}
    return replace(checkpoint, tensors=tensors)


def _check_nothing_whole(trained: Checkpoint, hint: str) -> None:
    """Raises MappingError (MFC319) for what PEFT trained beside the pairs."""
    others = [n for n in trained.tensors if n.startswith(PEFT) and not is_adapter(n) and not n.endswith(TRAINING_ONLY)]
    if others:
        more = f" and {how_many(len(others) - 1, 'other')}" if len(others) > 1 else ""
        raise MappingError("MFC319", trained.origin, found=f"{quote(others[0])}{more}", expected="pairs of lora_A and lora_B", hint=hint)


def _whole_tensors(trained: Checkpoint, weights: Checkpoint, lora: Lora) -> tuple[dict[str, LazyTensor], tuple[Equality, ...]]:
    """What was trained whole, by its name in the base; and what must be equal, since it was not trained.

    PEFT writes no weight that was not trained, but for embeddings, which are equal then. A run of MindFormers may write all of them.
    """
    replaced: dict[str, LazyTensor] = {}
    equalities = []
    for name, tensor in trained.tensors.items():
        place = place_of(name)
        known = weights.tensors.get(place)
        if is_adapter(name):
            continue
        if known is not None and (
            tensor.shape != known.shape or (tensor.dtype != known.dtype and not {tensor.dtype, known.dtype} <= CASTABLE)
        ):
            found = f"{list(tensor.shape)} {tensor.dtype}"
            expected = f"{list(known.shape)} {known.dtype}, as in {weights.origin}"
            raise MappingError("MFC319", quote(name), found=found, expected=expected, hint=HINT_RESIZED)
        if name.startswith(PEFT):
            replaced[place] = LazyTensor(known.spec if known is not None else tensor.renamed(place).spec, tensor.pieces)
        elif known is None or tensor.dtype != known.dtype:
            found = "no such weight" if known is None else f"{known.dtype} for {tensor.dtype}"
            raise MappingError("MFC319", quote(name), found=f"{found} in {weights.origin}", expected="the same weight", hint=HINT_FROZEN)
        else:
            equalities.append(Equality(tensor, known, f"{trained.origin} has it beside its adapters", HINT_FROZEN))
    _check_saved_modules(lora.content.get("modules_to_save") or [], replaced, trained, weights)
    return replaced, tuple(equalities)


def _check_saved_modules(modules: object, replaced: Mapping[str, LazyTensor], trained: Checkpoint, weights: Checkpoint) -> None:
    """Raises MappingError (MFC319) where a module that the config says was trained whole is not in the folder.

    PEFT names modules that a model may have (for a classifier `classifier` and `score`) and passes over those that it has not.
    """
    named = modules if isinstance(modules, list) else [modules]
    lost = [m for m in named if not isinstance(m, str) or not _is_among(m, replaced)]
    if lost := [m for m in lost if len(lost) == len(named) or not isinstance(m, str) or _is_among(m, weights.tensors)]:
        found = f"modules_to_save names {quote(str(lost[0]))}, of which no tensor is here"
        hint = "Fetch the folder of the adapters again, or save it again with PEFT (save_pretrained)."
        raise MappingError("MFC319", trained.origin, found=found, expected="the tensors of every module that was trained", hint=hint)


def _is_among(module: str, names: Iterable[str]) -> bool:
    return any(f".{module}." in f".{name}" for name in names)


def _check_tied(weights: Checkpoint, adapters: Iterable[ScaledAdapter], replaced: Mapping[str, LazyTensor]) -> tuple[Equality, ...]:
    """Where embedding and head are one tensor, only a change of both is a change of it: both trained whole, and equal.

    Raises:
        MappingError: MFC319 for one of them alone, for an adapter of it, and for a tensor that has no place in the base.
    """
    whole = [name for name, tensor in replaced.items() if _is_of_vocabulary(name, tensor.shape, weights)]
    added = [s.adapter.weight for s in adapters if _is_of_vocabulary(s.adapter.weight, _shape(s.adapter), weights)]
    strangers = [name for name in replaced if name not in weights]
    equalities: tuple[Equality, ...] = ()
    if (whole or added) and weights.side != MF and _ties(weights):
        if added or len(whole) < 2:
            found = f"{quote((added + whole)[0])} was trained; embedding and head are one tensor (tie_word_embeddings)"
            expected = "both trained whole and equal, or none of them"
            raise MappingError("MFC319", weights.origin, found=found, expected=expected, hint=HINT_TIED)
        first, *others = (replaced[name] for name in sorted(whole, key=lambda name: name not in weights))
        equalities = tuple(Equality(other, first, f"it is tied to {first.name}", HINT_TIED) for other in others)
        strangers = [name for name in strangers if name not in whole]
    if strangers:
        raise _no_weight(strangers[0], weights, "a tensor that was trained whole has a place in the base")
    return equalities


def _shape(adapter: Adapter) -> tuple[int, int]:
    return adapter.shape[::-1] if adapter.embedding else adapter.shape


def _is_of_vocabulary(name: str, shape: tuple[int, ...], weights: Checkpoint) -> bool:
    """Whether a matrix is an embedding of words or an output head: by its rows, else by its name."""
    rows = [c.get("vocab_size") for c in _configs(weights)]
    return len(shape) == 2 and (shape[0] in rows or name.removesuffix(WEIGHT).rpartition(".")[2] in EMBEDDINGS)


def _ties(weights: Checkpoint) -> bool:
    """Whether embedding and head are one: as the config says; where it says nothing, unless both are there."""
    told = [c["tie_word_embeddings"] for c in _configs(weights) if c.get("tie_word_embeddings") is not None]
    return any(told) if told else sum(_is_of_vocabulary(t.name, t.shape, weights) for t in weights) < 2


def _configs(weights: Checkpoint) -> list[Mapping[str, Any]]:
    """The config, and that of its text model."""
    config = weights.config or {}
    return [c for c in (config, config.get("text_config")) if isinstance(c, Mapping)]


# ---- adding --------------------------------------------------------------------------------------------------------------------


def _no_weight(name: str, weights: Checkpoint, expected: str) -> MappingError:
    best = nearest(name, weights.tensors)
    found = f"no such tensor in {weights.origin}" + (f"; nearest {quote(best)}" if best else "")
    return MappingError("MFC319", quote(name), found=found, expected=expected, hint=HINT_BASE)


def _merge_tensor(
    weights: Checkpoint, kept: Mapping[str, LazyTensor], trained: Checkpoint, scaled: ScaledAdapter, lora: Lora
) -> LazyTensor:
    adapter = scaled.adapter
    name = adapter.weight
    if name not in kept:
        raise _no_weight(name, weights, "the weight that the adapter was trained for")
    weight = kept[name]
    transposed = adapter.embedding or _is_in_by_out(weights, adapter, lora)
    expected = adapter.shape[::-1] if transposed else adapter.shape
    if weight.shape != expected or weight.dtype not in CASTABLE:
        found = f"{list(weight.shape)} {weight.dtype}"
        raise MappingError("MFC319", quote(name), found=found, expected=f"{list(expected)}, floating, as the adapter is", hint=HINT_BASE)
    a, b = (trained.tensors[spec.name] for spec in (adapter.a, adapter.b))
    return merged_tensor(weight, a, b, scaled.scale, transposed=transposed)


def _is_in_by_out(weights: Checkpoint, adapter: Adapter, lora: Lora) -> bool:
    """Whether a linear layer is held as in x out. By its class, as PEFT does, whatever `fan_in_fan_out` says of it."""
    if weights.side != HF:
        return False
    model_type = (weights.config or {}).get("model_type")
    if model_type is None:
        return bool(lora.content.get("fan_in_fan_out"))
    return adapter.module.rpartition(".")[2] in conv1d_layers(model_type)
