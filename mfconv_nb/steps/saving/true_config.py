"""What config.json says of the weights beside it, made true: dtype, layers, tied head, quantisation. The rest stays as it was given.

What cannot be made true, such as the sizes of another model, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mfconv_nb.core.checkpoint import MF, Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import CASTABLE, DTYPES
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import RUN_CONFIG, read_sizes
from mfconv_nb.formats.folders import NAMED_BY
from mfconv_nb.mapping.claims import DTYPE_KEYS, NEXT_LAYERS, count_next_layers, find_claimed_tie, find_main_dtype
from mfconv_nb.mapping.codes_and_scales import blocks_of
from mfconv_nb.mapping.making_rows import HINT_CUT, HINT_PADDED
from mfconv_nb.mapping.plan import TIED, MappingPlan, plan_mapping
from mfconv_nb.mapping.quantised import claimed_scheme, claims_of, quantisation_of, without_claims
from mfconv_nb.mapping.rules import Tied
from mfconv_nb.steps.converting.first_layers import config_of_first_layers
from mfconv_nb.steps.converting.mapped_checkpoint import plan_of
from mfconv_nb.steps.loading.codes import Published
from mfconv_nb.streaming.compare import compare_tensors

HINT_ASSETS = "Give the folder of the model that these weights are of: --config HF_DIR (assets= in Python)."


def true_config(
    given: Mapping[str, Any], checkpoint: Checkpoint, specs: Iterable[TensorSpec], origin: str = "config.json"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config of Hugging Face with what is true of the tensors that are written, and notes on what was changed and why.

    Args:
        given: the config of the original.
        specs: name, shape and dtype of what is written.
        origin: where the config comes from, as a message calls it.
    Raises:
        MappingError: MFC304 where it has other sizes, or fewer layers, than what is written.
    """
    specs, notes, config = list(specs), [], {key: value for key, value in given.items() if key != NAMED_BY}  # we write other files
    if (claim := claimed_scheme(config)) and quantisation_of(specs, None) is None:
        config = without_claims(config)
        notes.append(f"config.json said {claim}; the weights are not quantised, and what is written says nothing of it")
    elif quantisation_of(specs, None) is not None:
        config, said = _with_scheme(checkpoint, config)
        notes += said
    config = _with_layers_of(checkpoint, config)
    config, said = _with_next_layers(config, specs)
    notes += said
    config = _with_dtypes(config, specs)
    if (ties := _ties(checkpoint, config)) is not None:
        config["tie_word_embeddings"], why = ties
        notes.append(f"config.json gets tie_word_embeddings {str(ties[0]).lower()}: {why}")
    return config, (*notes, *_notes_on_promises(config, checkpoint, specs, origin))


def _with_scheme(checkpoint: Checkpoint, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """With what was published of the codes that are written, where the config says nothing of them, or of other ones."""
    published = checkpoint.history.published
    before = (published.said if isinstance(published, Published) else {}) or claims_of(checkpoint.config)
    if not before or (claimed_scheme(config), blocks_of(config)) == (claimed_scheme(before), blocks_of(before)):
        return config, []
    note = f"config.json said {claimed_scheme(config) or 'nothing'} of codes; it gets {' and '.join(before)} as it was published with them"
    return {**without_claims(config), **before}, [note]


def _with_dtypes(config: dict[str, Any], specs: list[TensorSpec]) -> dict[str, Any]:
    """With the dtype of most numbers, wherever the config states one: from_pretrained casts to it. A part keeps one that occurs."""
    most, occurring = find_main_dtype(specs), {DTYPES[spec.dtype].torch for spec in specs if spec.dtype in CASTABLE}
    if most is None:
        return config
    stated = {key: most for key in DTYPE_KEYS if isinstance(config.get(key), str)}
    parts = {key: _part_with_dtype(part, most, occurring) for key, part in config.items() if isinstance(part, Mapping)}
    return {**config, **stated, **parts}


def _part_with_dtype(part: Mapping[str, Any], most: str, occurring: set[str]) -> dict[str, Any]:
    return {**part, **{key: most for key in DTYPE_KEYS if isinstance(part.get(key), str) and part[key] not in occurring}}


def _with_layers_of(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Any]:
    """With the numbers of layers by which the tensors were mapped, where those are fewer; lists with an entry a layer are cut too."""
    mapped_by, plan = checkpoint.config, plan_of(checkpoint)
    if plan is None or mapped_by is None or RUN_CONFIG in mapped_by:
        return config
    counts = {axis: f"{text} | ?" for axis, text in plan.family.sizes.items() if axis.endswith(("layer", "layers")) and "{" not in text}
    mapped, stated = read_sizes(mapped_by, counts), read_sizes(config, counts)
    fewer = [mapped[axis].value for axis in counts if axis in mapped and axis in stated and mapped[axis].value < stated[axis].value]
    if not fewer:
        return config
    cut = config_of_first_layers(config, stated, max(fewer))
    return cut if read_sizes(cut, counts).values_by_axis == mapped.values_by_axis else config


def _with_next_layers(config: dict[str, Any], specs: list[TensorSpec]) -> tuple[dict[str, Any], list[str]]:
    """With the number of layers that predict further tokens that are there, where the config promises more."""
    claimed, held = config.get(NEXT_LAYERS), count_next_layers(config, (s.name for s in specs))
    if type(claimed) is not int or held is None or held >= claimed:
        return config, []
    return {**config, NEXT_LAYERS: held}, [f"config.json said {NEXT_LAYERS} {claimed}; what is written has {held}, and says so"]


def _ties(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Whether head and embedding are one in what is written, and why, where the config says otherwise."""
    plan = plan_of(checkpoint)
    if plan is None:
        return None
    sizes = read_sizes(config, plan.family.sizes)
    left_out = {row.rule for row in plan.rows if row.status == TIED and not row.targets}
    for rule in (r for r in plan.family.rules if isinstance(r, Tied)):
        said = bool(sizes[rule.only_if].value) if rule.only_if in sizes else False
        head, embedding = (checkpoint.tensors.get(name) for name in (rule.hf, rule.same_as))
        if rule in left_out and not said:
            return True, f"{quote(rule.hf)} is left out, as it was in the original"
        if said and head is not None and embedding is not None and not _are_equal(head, embedding):
            return False, f"the numbers of {quote(rule.hf)} and {quote(rule.same_as)} differ"
    return _find_false_tie(config, checkpoint)


def _find_false_tie(config: Mapping[str, Any], checkpoint: Checkpoint) -> tuple[bool, str] | None:
    """That a head is not tied, of a family without a rule on that."""
    head, embeddings = find_claimed_tie(config, checkpoint)
    if head is None or any(_are_equal(head, embedding) for embedding in embeddings):
        return None
    return False, f"the numbers of {quote(head.name)} and {quote(embeddings[0].name)} differ"


def _are_equal(one: LazyTensor, other: LazyTensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.pieces == other.pieces or compare_tensors([(one, other)])[0].equal_bytes


def _notes_on_promises(config: Mapping[str, Any], checkpoint: Checkpoint, specs: Sequence[TensorSpec], origin: str) -> tuple[str, ...]:
    """A note on tensors that a config promises and that are not written.

    Nothing is compared where the tensors were mapped by the same sizes, and none was left out: the mapping has done it.

    Raises:
        MappingError: MFC304 for shapes that contradict it, or layers beyond its last one.
    """
    plan = plan_of(checkpoint)
    if plan is None or (not plan.leave_out and _is_mapped_by(config, checkpoint, plan)):
        return ()
    problems = plan_mapping(specs, plan.family, MF, sizes=read_sizes(config, plan.family.sizes)).problems
    if wrong := [p for p in problems if p.kind in ("shape", "surplus")]:
        hint = HINT_CUT if all(p.hint.startswith(HINT_PADDED) for p in wrong) else HINT_ASSETS
        raise MappingError("MFC304", origin, found=f"{quote(wrong[0].name)} is {wrong[0].found}", expected=wrong[0].expected, hint=hint)
    missing = [p.name for p in problems if p.kind == "missing"]
    verb = "is" if len(missing) == 1 else "are"
    return (f"config.json promises {how_many(len(missing), 'tensor')} that {verb} not written; first {missing[0]}",) if missing else ()


def _is_mapped_by(config: Mapping[str, Any], checkpoint: Checkpoint, plan: MappingPlan) -> bool:
    """Whether a config gives the sizes by which a checkpoint was mapped."""
    mapped_by, sentences = checkpoint.config, plan.family.sizes
    if mapped_by is None or RUN_CONFIG in mapped_by or any("{" in sentence for sentence in sentences.values()):
        return False
    return read_sizes(config, sentences).values_by_axis == read_sizes(mapped_by, sentences).values_by_axis
