"""A quantised checkpoint as numbers: each pair of codes and scales becomes one tensor, computed where it is read. Headers only.

What does not fit together is left as it is stored: ``map`` refuses it, and says what is wrong with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import BY_TORCH, CASTABLE, short_name
from mfconv_nb.core.folding import folded_names
from mfconv_nb.core.report import how_many
from mfconv_nb.core.scaled_codes import ROUNDING
from mfconv_nb.mapping.codes_and_scales import Coded, is_possible, pair_codes
from mfconv_nb.mapping.quantised import CONFIG_KEYS, claims_of
from mfconv_nb.streaming.dequantised import CodedMatrix, dequantised_tensor

USUAL = "BF16"  # of what is computed from codes, where the config says no dtype


@dataclass(frozen=True)
class PublishedWeight:
    """How one weight was published.

    Attributes:
        codes: where they lie; None where only the numbers that were made of them are left.
        checksums: of codes and scales, as ``fill_files`` computes them; empty where they have not been taken.
        codes_are_kept: whether they lie beside the numbers, which alone do not tell them apart.
    """

    coded: Coded
    scales: LazyTensor
    codes: LazyTensor | None = None
    checksums: tuple[str, ...] = ()
    codes_are_kept: bool = False


@dataclass(frozen=True)
class Published:
    """How the weights of a checkpoint of Hugging Face were published as codes, by their names.

    Attributes:
        beside: scales of activations, which are no part of a weight.
        in_powers_of_two: whether scales in a wider dtype are powers of two, as its config says (`scale_fmt`).
        said: what its config says of the scheme, by key.
        notes: what a reader should know where they are read as numbers.
    """

    weights: Mapping[str, PublishedWeight]
    beside: Mapping[str, LazyTensor] = field(default_factory=dict)
    in_powers_of_two: bool = False
    said: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def names_of_scales(self) -> dict[str, str]:
        """The weight of each scale."""
        return {w.scales.name: name for name, w in self.weights.items()}


def read_published(content: Mapping[str, Any], kept: Mapping[str, LazyTensor], config: Mapping[str, Any] | None) -> Published | None:
    """What a manifest says of published weights; None where tensors that it kept are not there, or not as it says.

    Args:
        content: as ``published_entry`` makes it.
        kept: the tensors that lie beside it.
    """
    weights: dict[str, PublishedWeight] = {}
    try:
        for entry in content["weights"]:
            codes, scales = (TensorSpec(s["name"], tuple(s["shape"]), s["dtype"]) for s in (entry["codes"], entry["scales"]))
            weight = TensorSpec(entry["name"], tuple(entry["shape"]), entry["kind"])
            coded = Coded(weight, codes, scales, (entry["block"][0], entry["block"][1]), bool(entry.get("turned")))
            is_kept = bool(entry.get("codes_kept"))
            if (
                not is_possible(coded)
                or weight.name in weights
                or kept[scales.name].spec != scales
                or (is_kept and kept[codes.name].spec != codes)
            ):
                return None
            sums = (str(entry["codes"]["xxh3_128"]), str(entry["scales"]["xxh3_128"]))
            weights[weight.name] = PublishedWeight(coded, kept[scales.name], kept[codes.name] if is_kept else None, sums, is_kept)
        return Published(weights, {name: kept[name] for name in content["beside"]}, has_powers_of_two(config), claims_of(config))
    except (KeyError, TypeError, IndexError, ValueError):
        return None


def published_entry(published: Published, codes_kept: Collection[str], checksums: Mapping[str, str]) -> dict[str, Any]:
    """How weights were published, for a manifest.

    Args:
        codes_kept: the names of codes that are kept beside it too.
        checksums: of all codes and scales, by name.
    """

    def entry_of(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "xxh3_128": checksums[spec.name]}

    weights = [
        {
            "name": name,
            "shape": list(w.coded.weight.shape),
            "kind": w.coded.kind,
            "block": list(w.coded.block),
            "codes": entry_of(w.coded.codes),
            "scales": entry_of(w.coded.scales),
            **({"turned": True} if w.coded.turned else {}),
            **({"codes_kept": True} if w.coded.codes.name in codes_kept else {}),
        }
        for name, w in published.weights.items()
    ]
    return {"weights": weights, "beside": list(published.beside)}


def with_numbers_of_codes(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the numbers of its weights in place of codes and scales; as it is where nothing or not everything fits."""
    pairing = pair_codes(checkpoint.specs, checkpoint.config, checkpoint.history.quantised_by)
    if not pairing.coded or pairing.problems:
        return checkpoint
    dtype = dtype_of_config(checkpoint.config)
    by_codes = {one.codes.name: one for one in pairing.coded.values()}
    gone = {one.scales.name for one in pairing.coded.values()} | set(pairing.of_activations)
    tensors: dict[str, LazyTensor] = {}
    weights: dict[str, PublishedWeight] = {}
    for name, tensor in checkpoint.tensors.items():
        if (coded := by_codes.get(name)) is not None:
            scales = checkpoint.tensors[coded.scales.name]
            spec = TensorSpec(coded.weight.name, coded.weight.shape, dtype)
            tensors[spec.name] = dequantised_tensor(spec, matrix_of(coded, tensor, scales), turned=coded.turned)
            weights[spec.name] = PublishedWeight(coded, scales, tensor)
        elif name not in gone:
            tensors[name] = tensor
    beside = {name: checkpoint.tensors[name] for name in pairing.of_activations}
    published = Published(weights, beside, has_powers_of_two(checkpoint.config), claims_of(checkpoint.config))
    published = replace(published, notes=_notes(published, dtype))
    history = replace(checkpoint.history, published=published, notes=(*checkpoint.history.notes, *published.notes))
    return replace(checkpoint, tensors=tensors, history=history)


def tensors_as_stored(checkpoint: Checkpoint) -> Iterator[LazyTensor]:
    """The tensors that lie in the files: codes and scales where ``with_numbers_of_codes`` has put numbers in their place."""
    published = checkpoint.history.published
    weights = published.weights if isinstance(published, Published) else {}
    for tensor in checkpoint:
        weight = weights.get(tensor.name)
        yield from (tensor,) if weight is None or weight.codes is None else (weight.codes, weight.scales)
    yield from published.beside.values() if isinstance(published, Published) else ()


def matrix_of(coded: Coded, codes: LazyTensor, scales: LazyTensor) -> CodedMatrix:
    """Codes and scales with their geometry."""
    return CodedMatrix(coded.weight.name, codes, scales, coded.kind, coded.rows, coded.columns, coded.block)


def dtype_of_config(config: Mapping[str, Any] | None) -> str:
    """The dtype of a model's numbers, as its config says; bf16 where it says none."""
    said = next((v for key in ("dtype", "torch_dtype") if isinstance(v := (config or {}).get(key), str)), "")
    found = BY_TORCH.get(said.removeprefix("torch."), USUAL)
    return found if found in CASTABLE and found != "F64" else USUAL


def has_powers_of_two(config: Mapping[str, Any] | None) -> bool:
    """Whether the config says that scales are powers of two, in whatever dtype they are stored."""
    settings = [(config or {}).get(key) for key in CONFIG_KEYS]
    return any(isinstance(s, Mapping) and s.get("scale_fmt") == "ue8m0" for s in settings)


def _notes(published: Published, dtype: str) -> tuple[str, ...]:
    counts = Counter(w.coded.scheme for w in published.weights.values())
    schemes = "; ".join(f"{how_many(n, 'weight')} in {scheme}" for scheme, n in counts.items())
    said = f"quantised, read as numbers in {short_name(dtype)} ({ROUNDING}; --dtype, dtype= for another): {schemes}"
    if not published.beside:
        return (said,)
    names = ", ".join(folded_names(published.beside))
    return said, f"scales of activations, which are no part of a weight: {how_many(len(published.beside), 'tensor')}, left out: {names}"
