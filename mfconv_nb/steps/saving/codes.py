"""What a save does with weights that were published as codes: which dtype they get, and what is known of it before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import MF, Checkpoint, LazyTensor, TensorSpec
from mfconv_nb.core.dtypes import CASTABLE, short_name
from mfconv_nb.core.errors import MappingError, MfconvError, UsageError, did_you_mean, quote, to_one_line
from mfconv_nb.core.progress import NoProgress, Progress
from mfconv_nb.core.report import Column, Table, how_many
from mfconv_nb.core.rounding import Rounding
from mfconv_nb.core.scaled_codes import ROUNDING
from mfconv_nb.steps.converting.codes_back import CodesBack, codes_back, codes_kept
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint
from mfconv_nb.steps.loading.codes import Published, published_entry
from mfconv_nb.steps.loading.load import load
from mfconv_nb.steps.saving.codes_view import CodesExploration
from mfconv_nb.streaming.blocks_of_codes import measure_blocks
from mfconv_nb.streaming.dequantised import Fitness, dequantised_sources, fitness_of, is_dequantised
from mfconv_nb.streaming.fill import SEGMENT_BYTES, tensor_checksums
from mfconv_nb.streaming.recoded import recipe
from mfconv_nb.views.blocks_report import BlocksReport
from mfconv_nb.views.showing import Explorable

EXACT, ROUNDED = "exact", "rounded"


def with_dtype_of_codes(checkpoint: Checkpoint, dtype: str | None) -> Checkpoint:
    """The checkpoint with the dtype that was asked for on what is computed from codes: it is rounded once, to that one."""
    if dtype is None or not any(map(is_dequantised, checkpoint)):
        return checkpoint
    fixed = checkpoint.history.fixed_dtypes
    tensors = {n: _with_dtype(t, dtype) if n not in fixed and is_dequantised(t) else t for n, t in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=tensors)


def _with_dtype(tensor: LazyTensor, dtype: str) -> LazyTensor:
    return LazyTensor(TensorSpec(tensor.name, tensor.shape, dtype), tensor.pieces)


@dataclass(frozen=True)
class AsAsked:
    """A checkpoint as it is written: numbers in the dtype that was asked for, or codes as they were published.

    Attributes:
        codes: where it is written as codes, how these came about.
        published: where the published codes may come back from what is written, how they were published.
        keeps_codes: whether the codes themselves are written, under the names of this side.
    """

    checkpoint: Checkpoint
    codes: CodesBack | None = None
    published: Published | None = None
    keeps_codes: bool = False
    notes: tuple[str, ...] = ()


def choose_form(checkpoint: Checkpoint, dtype: str | None, *, requantise: bool, keep: bool = False) -> AsAsked:
    """What a save writes of weights that were published as codes.

    On the side of Hugging Face these are codes again, where nothing else is asked for and the scales are there. On the other side, and
    where a dtype is asked for, they are numbers.

    Raises:
        UsageError: MFC501 for ``requantise`` where no codes are written.
    """
    history = checkpoint.history
    if requantise:
        _check_requantise(checkpoint, dtype)
    original = history.original if isinstance(checkpoint, MappedCheckpoint) and checkpoint.side == MF else None
    before = original.published if original is not None and isinstance(original.published, Published) else None
    if keep and (checkpoint.side == MF or history.published is None):
        return AsAsked(_keep(checkpoint), published=before, keeps_codes=True, notes=(KEPT,))
    if checkpoint.side != MF and dtype is None and history.published is None and any(map(is_dequantised, checkpoint)) and not requantise:
        try:
            return AsAsked(codes_kept(checkpoint), keeps_codes=True, notes=(KEPT, *_names_note(checkpoint)))
        except MappingError as error:
            return AsAsked(checkpoint, notes=(f"written as numbers: {error.where} has {to_one_line(str(error.found))}",))
    if checkpoint.side == MF or dtype is not None:
        return AsAsked(with_dtype_of_codes(checkpoint, dtype), published=before)
    if history.merged is not None and history.published is not None and not requantise:
        return AsAsked(checkpoint, notes=(MERGED,))
    published = history.published or (_published_in(history.config_folder) if requantise else None)
    back = codes_back(checkpoint, published, requantise=requantise) if isinstance(published, Published) else None
    if back is None or not isinstance(published, Published):
        if requantise:
            raise _no_codes("nothing beside it, or in the folder of the config, says which weights of these shapes were codes")
        return AsAsked(checkpoint, notes=() if published is None else (NOT_AS_PUBLISHED,))
    return AsAsked(back.checkpoint, back, notes=(_codes_text(back, published),))


KEPT = "codes and scales are kept as they are, and laid out like their weights (--dtype bf16, dtype= for numbers)"


def _names_note(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What is not known where codes of MindFormers become those of Hugging Face with nothing beside them."""
    if not isinstance(checkpoint, MappedCheckpoint):
        return ()
    return ("nothing beside the source says how the scales were called when they were published: they are called X.scale",)


def _keep(checkpoint: Checkpoint) -> Checkpoint:
    if not any(map(is_dequantised, checkpoint)):
        hint = "Leave it out to keep every tensor's own dtype."
        raise UsageError("MFC501", "dtype", found="'keep', and no codes with scales", expected="fp8 or fp4 weights", hint=hint)
    return codes_kept(checkpoint)


MERGED = "adapters were merged into weights that were published as codes: all are written as numbers (--requantise, requantise=, for codes)"
NOT_AS_PUBLISHED = "weights have other shapes than those that were published as codes: they are written as numbers"
HINT_REQUANTISE = "Give the folder that was published: --config HF_DIR (config= in Python), on the way to Hugging Face, without --dtype."


def _check_requantise(checkpoint: Checkpoint, dtype: str | None) -> None:
    if checkpoint.side == MF:
        raise _no_codes("an output of MindFormers")
    if dtype is not None:
        raise _no_codes(f"dtype {short_name(dtype)}")


def _no_codes(found: str) -> UsageError:
    return UsageError("MFC501", "requantise", found=found, expected="codes and scales to be written", hint=HINT_REQUANTISE)


def _published_in(folder: Path | None) -> Published | None:
    """How weights were published, by the checkpoint in a folder; None where it holds none, or none of codes."""
    try:
        found = load(folder).history.published if folder is not None else None
    except MfconvError:
        return None
    return found if isinstance(found, Published) else None


def _codes_text(back: CodesBack, published: Published) -> str:
    total, computed = len(published.weights), len(back.recodings)
    if not computed:
        return f"codes and scales are written as they were published: {how_many(total, 'weight')} (--dtype bf16, dtype= for numbers)"
    kinds = {r.matrix.kind: published.in_powers_of_two or r.matrix.scales.dtype in ("F8_E8M0", "U8") for r in back.recodings.values()}
    text = f"codes and scales as they were published are written for {how_many(computed, 'weight')} (--dtype bf16, dtype= for numbers)"
    if not next(iter(back.recodings.values())).requantise:
        return f"{text}; each number is checked to be what its code stands for"
    return f"{text}; {' and '.join(recipe(kind, in_powers_of_two=rounded) for kind, rounded in kinds.items())}"


def tensors_to_keep(asked: AsAsked, numbers: Checkpoint, scales: ScalesSeen) -> dict[str, LazyTensor]:
    """What is kept beside an output so that the published codes come back from it, under their names: scales; of tiny or huge weights,
    whose numbers do not tell codes apart, the codes too; and the scales of activations.

    Args:
        numbers: that are written, or that the codes which are written stand for.
        scales: of these numbers.
    """
    if asked.published is None:
        return {}
    sources = dequantised_sources(numbers)
    written = {s.matrix.name for s in sources}
    unclear = {s.matrix.name for s in sources if not scales.of_sources[id(s)].reversible}
    found: dict[str, LazyTensor] = {}
    for name, weight in asked.published.weights.items():
        if name in written and weight.codes is not None:
            found[weight.scales.name] = weight.scales
            found |= {weight.codes.name: weight.codes} if name in unclear else {}
    return {**found, **asked.published.beside} if found else {}


def published_in_manifest(asked: AsAsked, kept: Mapping[str, LazyTensor], threads: int, progress: Progress) -> dict[str, Any]:
    """How the weights of which numbers were written were published, for the manifest; their codes are read for the checksums."""
    if asked.published is None or not kept:
        return {}
    weights = {n: w for n, w in asked.published.weights.items() if w.scales.name in kept}
    tensors = [t for w in weights.values() for t in (w.codes, w.scales) if t is not None]
    with progress.another(sum(t.spec.nbytes for t in tensors), "taking checksums of codes") as bar:
        checksums = tensor_checksums(tensors, threads, bar)
    return {"published": published_entry(replace(asked.published, weights=weights), kept.keys(), checksums)}


def check_codes(asked: AsAsked, written: Mapping[str, tuple[TensorSpec, str]], whole: Collection[str]) -> CodesSeen:
    """Compare the codes and scales that were written with the checksums of what was published.

    Args:
        written: of every tensor the checksum that was taken while it was written.
        whole: names whose checksum is of the whole tensor, however long it is, as torch files need it.
    Raises:
        MappingError: MFC321 where one is not as it was published, though no number was changed.
    """
    if asked.codes is None:
        return CodesSeen()
    recodings = asked.codes.recodings
    changed = {n for n, r in recodings.items() if r.requantise and not r.is_untouched}
    anew = set(changed)
    names = {t: n for n, r in recodings.items() for t in (r.matrix.codes.name, r.matrix.scales.name)}
    proven = 0
    for name, checksum in asked.codes.checksums.items():
        if names[name] in changed:
            continue
        spec, found = written[name]
        if name in whole and spec.nbytes > SEGMENT_BYTES:
            found = tensor_checksums([asked.checkpoint[name]], 1)[name]
        if found != checksum and recodings[names[name]].requantise:
            changed.add(names[name])  # its scales hold what it was changed to as well, as they hold zeros
            continue
        if found != checksum:
            expected = "the bytes that were published, by the checksum in the manifest beside the source"
            raise MappingError("MFC321", quote(name), found="other bytes", expected=expected, hint=HINT_KEPT)
        proven += 1
    return CodesSeen(proven, len(recodings) - len(changed), tuple(sorted(anew)), tuple(sorted(changed - anew)))


HINT_KEPT = (
    "It was changed since it was read from codes, or what is kept beside the source is damaged. To take the numbers as they are: "
    "--requantise (requantise=True in Python), or --dtype bf16 (dtype=) for numbers instead of codes."
)


@dataclass(frozen=True)
class CodesSeen:
    """What was found of codes while they were written.

    Attributes:
        proven: tensors whose checksum is that of what was published.
        untouched: weights whose numbers are all what their codes stand for.
        changed: weights that were quantised anew.
        other_codes: weights with other codes than were published, and the published scales: these hold what they were changed to as well.
    """

    proven: int = 0
    untouched: int = 0
    changed: tuple[str, ...] = ()
    other_codes: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        said = []
        if self.proven:
            said.append(f"codes and scales have the checksums of what was published: {how_many(self.proven, 'tensor')}")
        if self.changed:
            first = f", first {self.changed[0]}"
            said.append(f"quantised anew: {how_many(len(self.changed), 'weight')}{first}; untouched: {self.untouched:,}")
        if self.other_codes:
            count = how_many(len(self.other_codes), "weight")
            said.append(
                f"changed, and exact with the published scales: {count}, first {self.other_codes[0]}; untouched: {self.untouched:,}"
            )
        return tuple(said)


@dataclass(frozen=True)
class ScalesSeen:
    """What the scales say of each tensor that is computed from codes, by its name, in the dtype that it is written as."""

    fitness: Mapping[str, Fitness]
    of_sources: Mapping[int, Fitness]


def check_scales(checkpoint: Checkpoint, dtypes: Mapping[str, str], progress: Progress | None = None) -> ScalesSeen:
    """Read every scale, before anything is written.

    Raises:
        MappingError: MFC321 for a scale that is no positive number.
    """
    computed = [t for t in checkpoint if is_dequantised(t)]
    sources = dequantised_sources(computed)
    if not computed:
        return ScalesSeen({}, {})
    written_as = {id(s): dtypes[t.name] for t in computed for s in dequantised_sources([t])}
    seen, done = dict[int, Fitness](), 0
    with (progress or NoProgress()).another(sum(s.matrix.scales.spec.nbytes for s in sources), "reading scales") as bar:
        for source in sources:
            seen[id(source)] = fitness_of(source, written_as[id(source)])
            done += source.matrix.scales.spec.nbytes
            bar(done)
    fitness = {}
    for tensor in computed:
        parts = [seen[id(s)] for s in dequantised_sources([tensor])]
        fitness[tensor.name] = Fitness(all(p.exact for p in parts), all(p.reversible for p in parts))
    return ScalesSeen(fitness, seen)


@dataclass(frozen=True, repr=False)
class DequantisedReport(Explorable):
    """Of every tensor that is computed from codes: whether its numbers are exact, and what rounding did to them. Or of codes that were
    quantised anew: what that did to their numbers.

    Attributes:
        dtypes: what each is written as.
        exact: by its scales alone, known before anything is written.
        rounding: what was counted while it was written; empty before.
        tensors: those whose numbers come from codes, to look at.
    """

    dtypes: Mapping[str, str] = field(default_factory=dict)
    exact: Mapping[str, bool] = field(default_factory=dict)
    rounding: Mapping[str, Rounding] = field(default_factory=dict)
    tensors: Mapping[str, LazyTensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.dtypes)

    def is_exact(self, name: str) -> bool:
        return self.rounding[name].is_exact if name in self.rounding else self.exact[name]

    @property
    def total(self) -> Rounding:
        return sum(self.rounding.values(), Rounding())

    @property
    def names_rounded(self) -> list[str]:
        return [name for name in self.dtypes if not self.is_exact(name)]

    def count_quantised_anew(self) -> int:
        """How many weights got new codes; 0 where numbers are written."""
        return 0 if CASTABLE.issuperset(self.dtypes.values()) else len(self.dtypes)

    def sentence(self) -> str:
        """One line for notes and reports."""
        if anew := self.count_quantised_anew():
            return f"quantised anew, {how_many(anew, 'weight')}: {self.total.in_words}"
        dtypes = " and ".join(sorted({short_name(d) for d in self.dtypes.values()}))
        rounded = len(self.names_rounded)
        said = f"from codes to {dtypes}: {how_many(len(self.dtypes), 'tensor')}, {len(self.dtypes) - rounded:,} {EXACT}, {rounded:,} "
        if not rounded:
            return said + ROUNDED
        if not self.rounding:
            return f"{said}{ROUNDED} ({ROUNDING})"
        return f"{said}{ROUNDED}: {self.total.in_words} ({ROUNDING})"

    def about(self, name: str) -> dict[str, Any]:
        """Of one tensor, for the manifest."""
        r = self.rounding.get(name)
        return {} if r is None else {"rounding": {"inexact": r.inexact, "of": r.numbers, "largest": r.largest, "mean": r.mean}}

    def blocks(self, name: str) -> BlocksReport:
        """Scale and largest relative error of every block of the published weights behind a tensor; a picture in a notebook.

        Reads them, without keeping them in memory.

        Raises:
            MappingError: MFC309 where no tensor of this name is computed from codes; MFC321 for a scale that is no positive number.
        """
        seen = measure_blocks(self.tensors[name]) if name in self.tensors else None
        if seen is None:
            expected, hint = "a tensor whose numbers are computed from codes", did_you_mean(name, self.tensors)
            raise MappingError("MFC309", quote(name), found="none such", expected=expected, hint=hint)
        return BlocksReport(seen)

    def exploration(self) -> CodesExploration:
        return CodesExploration(self.table(), self.rounding, self.tensors)

    def table(self) -> Table:
        rows = [
            (name, short_name(dtype), EXACT if self.is_exact(name) else ROUNDED, *_cells(self.rounding.get(name)))
            for name, dtype in self.dtypes.items()
        ]
        columns = (
            Column("tensor"),
            Column("dtype"),
            Column(""),
            Column("inexact", True),
            Column("largest error", True),
            Column("mean", True),
        )
        return Table("", self.sentence(), columns, rows, row_noun="tensors")


def _cells(r: Rounding | None) -> tuple[str, str, str]:
    return ("", "", "") if r is None else (f"{r.inexact:,} of {r.numbers:,}", f"{r.largest:.3g}", f"{r.mean:.3g}")
