"""Tensors that are one where a model is tied: found under their other name, and compared where both are there.

`safetensors.torch.save_model` keeps one name of a tensor that a model has twice, and its header says which: of a tied Llama only the head.
`from_pretrained` fills in the other; so does this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, Equality, LazyTensor
from mfconv_nb.core.dtypes import itemsize
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import Sizes
from mfconv_nb.mapping.rules import Drop, Family, Rule, Tied, patterns
from mfconv_nb.streaming.gather import Gatherer, panels

COMPARED_BYTES = 16 << 20
HINT_HEAD = "Its MindFormers side computes with the embedding instead. To convert without the head: --leave_out 'lm_head.weight'."


def with_twins(source: Checkpoint, form: Family, sizes: Sizes | None, to: str) -> Checkpoint:
    """The checkpoint with the tensors that it holds under their other name only, on the way to MindFormers.

    What is filled in: what every checkpoint of the family has, and either the header names its twin, or the config ties the two. A head
    that a tied checkpoint does not have beside its embedding is renamed, not doubled.
    """
    missing = {} if to != MF else {name: twin for name, twin in _twins(source, form, sizes) if name not in source and twin in source}
    if not missing:
        return source
    heads = {p.template for rule in form.rules if isinstance(rule, Rule) and (rule.only_if or rule.optional) for p in patterns(rule.hf)}
    tensors: dict[str, LazyTensor] = {}
    for tensor in source:
        names = [name for name, twin in missing.items() if twin == tensor.name]
        tensors |= {name: tensor.renamed(name) for name in names}
        if not names or fold(tensor.name)[0] not in heads:
            tensors[tensor.name] = tensor
    return replace(source, tensors=tensors, history=replace(source.history, twins=missing))


def notes_on_twins(source: Checkpoint, completed: Checkpoint) -> list[str]:
    """A note for each tensor that was found under its other name."""
    return [
        f"{n} is not in the files: they hold it as {twin}"
        for n, twin in completed.history.twins.items()
        if n in completed and n not in source
    ]


def notes_on_absent_heads(source: Checkpoint, form: Family, sizes: Sizes | None, to: str) -> list[str]:
    """A note for each head that a network of a tied model does not hold, on the way to Hugging Face."""
    known = sizes.values_by_axis if sizes is not None else {}
    heads = (rule for rule in form.rules if isinstance(rule, Tied) and to == HF and known.get(rule.only_if))
    return [f"{rule.mf} is not there, and need not be: config.json ties it to {rule.same_as}" for rule in heads if rule.mf not in source]


def _twins(source: Checkpoint, form: Family, sizes: Sizes | None) -> Iterator[tuple[str, str]]:
    """Names that a checkpoint may lack, each with the one that its tensor may have instead."""
    needed = form.needed_templates(MF)
    yield from ((name, twin) for name, twin in source.history.twins.items() if fold(name)[0] in needed)
    yield from ((embedding, head) for head, embedding in tied_names(form, sizes, source.config))


def tied_names(form: Family, sizes: Sizes | None, config: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Heads that the config ties to an embedding, and that embedding: their Hugging Face names."""
    known = sizes.values_by_axis if sizes is not None else {}
    for rule in form.rules:
        if isinstance(rule, Rule | Tied | Drop) and rule.same_as and _is_tied(rule, known, config):
            head = rule.pattern if isinstance(rule, Drop) else rule.hf
            yield str(head), rule.same_as


def differ_at_first(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors differ within their first 16 MiB: enough for two heads that were trained apart, and quick for the largest."""
    elements = min(a.spec.elements, COMPARED_BYTES // itemsize(b.dtype))
    if not elements or not a.pieces or not b.pieces:
        return False
    for start, stop in panels(a, b.dtype, 0, elements):
        x, y = (np.empty((stop - start) * itemsize(b.dtype), np.uint8) for _ in (a, b))
        Gatherer().fill(a, b.dtype, start, stop, x)
        Gatherer().fill(b, b.dtype, start, stop, y)
        if not np.array_equal(x, y):
            return True
    return False


def _is_tied(rule: Rule | Tied | Drop, known: Mapping[str, int], config: Mapping[str, Any] | None) -> bool:
    if isinstance(rule, Tied):
        return bool(known.get(rule.only_if))
    if isinstance(rule, Rule) and rule.only_if:
        return known.get(rule.only_if) == 0
    return config is not None and config.get("tie_word_embeddings", True) is not False  # transformers ties by default where it can


def tied_equalities(source: Checkpoint, form: Family, sizes: Sizes | None, to: str) -> list[Equality]:
    """Heads that are there beside the embedding which the config ties them to. Where MindFormers has no place for one, they must be equal;
    else both are carried, and a note reports a difference."""
    found = []
    dropped = {rule.pattern for rule in form.rules if isinstance(rule, Drop)}
    for head, embedding in tied_names(form, sizes, source.config) if to == MF else ():
        if head not in source or embedding not in source or source[head].shape != source[embedding].shape:
            continue
        wide, narrow = sorted((source[head], source[embedding]), key=lambda t: -itemsize(t.dtype))  # compared in the smaller dtype
        if wide.pieces == narrow.pieces:
            continue
        if head in dropped:
            found.append(Equality(wide, narrow, f"{head} is {embedding} in this family", HINT_HEAD))
        else:
            said = f"config.json ties {head} to {embedding}, and they hold different numbers: both are carried, a reader may use only one"
            found.append(Equality(wide, narrow, f"{head} is tied to {embedding}", said=said))
    return found
