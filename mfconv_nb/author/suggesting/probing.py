"""Find what makes a tensor equal to its reference: try every known variant, else show the first element that differs.

Tensors that differ are checked one by one, then together with their neighbours: q, k and v that were cut in another way, gate and up that
changed places. Two sides without a common name are one question: several tensors here, one there.

Refuses names and shapes without numbers (MFC310).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfconv_nb.author.axes import Facts, facts_of
from mfconv_nb.author.suggesting.evidence import Numbers, cast_to, common_dtype
from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.author.suggesting.questions import Meeting, Question, part_names, question_of, variants_of
from mfconv_nb.author.suggesting.variants import PLAIN, Variant, variants_of_several
from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, TensorSpec, checkpoint_of, stored_tensor
from mfconv_nb.core.errors import MappingError, quoted
from mfconv_nb.core.folding import fold
from mfconv_nb.core.report import Column, Result, Table, shape_text
from mfconv_nb.core.sources import ArraySource
from mfconv_nb.mapping.explain import explain_element
from mfconv_nb.steps.converting.mapped_checkpoint import plan_of
from mfconv_nb.streaming.gather import read_tensor

EQUAL, VARIANT, DIFFERS, MISSING = "equal", "a variant", "differs", "missing"
UNKNOWN_ORDER = "; the same numbers, in an order that no known variant gives"
ITEM = "item"  # the name of an axis that counts tensors
MOST_TOGETHER = 3
MOST_PLACES = 3  # of a number that is looked for; more places say nothing


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """The result for one tensor, or for several that belong together.

    Attributes:
        names, reference: the tensors of each side.
        verdict: "equal", "a variant" (another order of the same numbers), "differs", or "missing" on one side.
        layout: the sentence from the tensors to the reference, if a variant makes them equal.
        words: the same in words, or the first element that differs and where it comes from.
    """

    names: tuple[str, ...]
    reference: tuple[str, ...]
    verdict: str
    layout: str
    words: str


@dataclass(frozen=True, repr=False)
class Probe(Result):
    """What makes tensors equal to their reference."""

    findings: tuple[ProbeFinding, ...]

    @property
    def equal(self) -> bool:
        """True when every tensor is equal to its reference as it is."""
        return all(f.verdict == EQUAL for f in self.findings)

    @property
    def explained(self) -> bool:
        """True when every tensor is equal to its reference, as it is or under a known variant."""
        return all(f.verdict in (EQUAL, VARIANT) for f in self.findings)

    @property
    def layout(self) -> str:
        """The sentence of the first variant that was found; empty if there is none."""
        return next((f.layout for f in self.findings if f.verdict == VARIANT), "")

    def table(self) -> Table:
        verdict = "✓ Equal." if self.equal else "≈ Equal in another order." if self.explained else "✗ Not equal."
        unequal = [f for f in self.findings if f.verdict != EQUAL]
        headline = f"{len(self.findings) - len(unequal):,} equal, {len(unequal):,} not as they are"
        if len(unequal) == 1 or len(self.findings) == 1:
            headline = (unequal or self.findings)[0].words
        columns = (
            Column("tensor"),
            Column("verdict", optional=True),
            Column("words"),
            Column("layout"),
            Column("reference", optional=True),
        )
        rows = [(", ".join(f.names), f.verdict, f.words, f.layout, ", ".join(f.reference)) for f in unequal]
        return Table(verdict, headline, columns, rows, row_noun="findings")


def probe_of(found: Checkpoint, reference: Checkpoint, names: Sequence[str] = ()) -> Probe:
    """Compare the tensors of two checkpoints that have names in common, or all of one side with all of the other."""
    for checkpoint in (found, reference):
        bare = next((t for t in checkpoint if not t.pieces and t.spec.elements), None)
        if bare is not None:
            raise MappingError("MFC310", quoted(bare.name), found="a name and a shape only", expected="a tensor with values")
    facts, numbers = facts_of(found.config or reference.config), Numbers(found, reference)
    common = [n for n in found.tensors if n in reference.tensors and (not names or n in names)]
    if not common:
        return Probe(_as_one_question(found, reference, facts, numbers))
    differing = dict.fromkeys(n for n in common if not _are_equal(numbers, n))
    equal = [n for n in common if n not in differing]
    findings = [ProbeFinding((n,), (n,), EQUAL, "", _equal_words([found[n].spec], [reference[n].spec])) for n in equal]
    explained = {f.names: f for f in _explain_by_variants(list(differing), facts, numbers)}
    done = {n for f in explained.values() for n in f.names}
    findings += [*explained.values(), *(_first_difference(n, n, numbers) for n in differing if n not in done)]
    if not names:
        findings += [ProbeFinding((n,), (), MISSING, "", "the reference has no such tensor") for n in found.tensors if n not in reference]
        only_there = [n for n in reference.tensors if n not in found]
        findings += [ProbeFinding((), (n,), MISSING, "", f"{quoted(n)} is in the reference only") for n in only_there]
    return Probe(tuple(findings))


def _as_one_question(found: Checkpoint, reference: Checkpoint, facts: Facts, numbers: Numbers) -> tuple[ProbeFinding, ...]:
    for question in (question_of(_groups(found.specs), _groups(reference.specs)), _question_of_stack(found.specs, reference.specs)):
        finding = _answer(question, facts, numbers)
        if finding is not None:
            return (finding,)
    if len(found) == len(reference) == 1:
        return (_first_difference(next(iter(found.tensors)), next(iter(reference.tensors)), numbers),)
    sides = tuple(found.tensors), tuple(reference.tensors)
    same = numbers.agree(found.specs, reference.specs)
    words = UNKNOWN_ORDER.removeprefix("; ") if same else "other numbers: no order of them is the reference"
    return (ProbeFinding(*sides, DIFFERS, "", words),)


def _groups(specs: Sequence[TensorSpec]) -> tuple[Group, ...]:
    return tuple(Group((s.name,), {(): s}, place) for place, s in enumerate(specs))


def _question_of_stack(found: Sequence[TensorSpec], reference: Sequence[TensorSpec]) -> Question | None:
    """A question on tensors of one shape that their names count, and that may be an axis of the one tensor of the other side."""
    many, one = (found, reference) if len(reference) == 1 else (reference, found)
    folded = [fold(s.name) for s in many]
    indices = [numbers for _, numbers in folded]
    columns = list(zip(*indices, strict=True)) if len({template for template, _ in folded}) == 1 else []
    counting = next((n for n, column in enumerate(columns) if set(column) == set(range(len(many)))), None)
    if len(one) != 1 or len(many) < 2 or counting is None or len({s.shape for s in many}) > 1:
        return None
    first, texts = indices[0], folded[0][0].split("#")
    before = "".join(f"{text}{number}" for text, number in zip(texts[:counting], first[:counting], strict=True)) + texts[counting]
    parts = (before, many[0].name[len(before) + len(str(first[counting])) :])
    group = Group(parts, {(index[counting],): spec for index, spec in zip(indices, many, strict=True)}, 0)
    if any(group.pattern([n]) != spec.name for (n,), spec in group.specs.items()):
        return None  # another number changes too
    count = len(many)
    if many is found:
        return Question((group,), _groups(one), Meeting((), hf_extra=0, count=count, word=ITEM))
    return Question(_groups(one), (group,), Meeting((), mf_extra=0, count=count, word=ITEM))


def _equal_words(found: Sequence[TensorSpec], reference: Sequence[TensorSpec]) -> str:
    """The words for equal bytes, with the dtypes if the two sides have different ones."""
    here, there = (sorted({s.dtype for s in side}) for side in (found, reference))
    if here == there:
        return "bytes are equal"
    common = common_dtype([*here, *there])
    return f"equal as {common}: {', '.join(here)} here, {', '.join(there)} in the reference"


def _answer(question: Question | None, facts: Facts, numbers: Numbers) -> ProbeFinding | None:
    """The finding by the variant that makes both sides equal; None if no variant does."""
    if question is None:
        return None
    hf, mf = question.instance(HF), question.instance(MF)
    if not numbers.agree(hf, mf):
        return None
    sides = tuple(s.name for s in hf), tuple(s.name for s in mf)
    pair = numbers.read_instance(hf, mf)
    for variant in variants_of(question, facts):
        if pair is not None and pair.shows(question.rule(variant, ()), variant):
            plain = variant.words == PLAIN
            words = _equal_words(hf, mf) if plain else variant.words
            return ProbeFinding(*sides, EQUAL if plain else VARIANT, "" if plain else variant.layout, words)
    return None


def _are_equal(numbers: Numbers, name: str) -> bool:
    one, other = numbers.hf.tensors[name].spec, numbers.mf.tensors[name].spec
    return one.shape == other.shape and numbers.same((HF, one), (MF, other))


# ---- tensors that differ ---------------------------------------------------------------------------------------------------


def _explain_by_variants(names: Sequence[str], facts: Facts, numbers: Numbers) -> Iterator[ProbeFinding]:
    """Findings for tensors that a variant explains: alone, in each other's place, or together with their neighbours."""
    left = list(names)
    for name in names:
        finding = _answer(_question_of_names(name, name, numbers), facts, numbers)
        if finding is not None:
            left.remove(name)
            yield finding

    def agree(name: str, other: str) -> bool:
        return numbers.agree([numbers.hf.tensors[name].spec], [numbers.mf.tensors[other].spec])

    for name in left:
        other = next((n for n in left if n != name and agree(name, n)), None)
        finding = _answer(_question_of_names(name, other, numbers), facts, numbers) if other is not None else None
        if finding is not None:
            words = f"it is the reference's {finding.reference[0]}: {finding.words}"
            yield ProbeFinding(finding.names, finding.reference, VARIANT, finding.layout, words)
    yield from _explain_by_cuts([n for n in left if not any(agree(n, other) for other in left)], facts, numbers)


def _question_of_names(name: str, other: str, numbers: Numbers) -> Question | None:
    return question_of(_groups([numbers.hf.tensors[name].spec]), _groups([numbers.mf.tensors[other].spec]))


def _explain_by_cuts(names: Sequence[str], facts: Facts, numbers: Numbers) -> Iterator[ProbeFinding]:
    """Findings for neighbours that together hold the reference's numbers: both sides were cut from one tensor, in different ways."""
    beside: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        beside[parent.rpartition(".")[0], leaf].append(name)
    for members in beside.values():
        specs = [[c.tensors[n].spec for n in members] for c in (numbers.hf, numbers.mf)]
        if not 2 <= len(members) <= MOST_TOGETHER or not numbers.agree(*specs):
            continue
        for one, other, words in (
            (numbers.hf, numbers.mf, "both are cut from one tensor: end to end here, {} in the reference"),
            (numbers.mf, numbers.hf, "both are cut from one tensor: {} here, end to end in the reference"),
        ):
            cut = _find_cut(members, one, other, facts)
            if cut is not None:
                yield ProbeFinding(tuple(members), tuple(members), VARIANT, cut.layout, words.format(cut.words))
                break


def _find_cut(names: Sequence[str], one: Checkpoint, other: Checkpoint, facts: Facts) -> Variant | None:
    """The variant by which the tensors of one side, laid end to end, become those of the other."""
    arrays = [read_tensor(one.tensors[n]) for n in names]
    parts = _groups([other.tensors[n].spec for n in names])
    for axis in range(arrays[0].ndim):
        if len({a.shape[:axis] + a.shape[axis + 1 :] for a in arrays}) > 1:
            continue
        whole = checkpoint_of([_tensor_of("whole", np.concatenate(arrays, axis=axis), one.tensors[names[0]].dtype)])
        question = Question(_groups(whole.specs), parts, Meeting(()))
        pair = Numbers(whole, other).read_instance(question.instance(HF), question.instance(MF))
        for variant in variants_of_several([g.shape for g in parts], question.hf[0].shape, part_names(parts), facts):
            cut = variant.with_sides_exchanged()
            if pair is not None and pair.shows(question.rule(cut, ()), cut):
                return cut
    return None


def _tensor_of(name: str, array: np.ndarray[Any, Any], dtype: str) -> LazyTensor:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return stored_tensor(TensorSpec(name, array.shape, dtype), ArraySource(data, "numpy"), ((0, data.size),))


# ---- the first element that differs ----------------------------------------------------------------------------------------


def _first_difference(name: str, other: str, numbers: Numbers) -> ProbeFinding:
    """How many elements differ, and about the first of them: where it comes from, and where the reference's number is here."""
    here, there = numbers.hf.tensors[name].spec, numbers.mf.tensors[other].spec
    sides = (name,), (other,)
    dtype = common_dtype([here.dtype, there.dtype])
    if here.shape != there.shape or dtype is None:
        words = f"{shape_text(here.shape)} {here.dtype} here, {shape_text(there.shape)} {there.dtype} in the reference"
        same = here.elements == there.elements and dtype is not None and numbers.agree([here], [there])
        return ProbeFinding(*sides, DIFFERS, "", words + (UNKNOWN_ORDER if same else ""))
    a, b = (cast_to(read_tensor(c.tensors[n]), dtype).reshape(-1) for c, n in ((numbers.hf, name), (numbers.mf, other)))
    differ = (a.view(np.uint8).reshape(a.size, -1) != b.view(np.uint8).reshape(b.size, -1)).any(axis=1)
    place = int(np.argmax(differ))
    index = tuple(int(n) for n in np.unravel_index(place, here.shape))
    first = f"the first is {list(index)}: {a[place]!s} here, {b[place]!s} in the reference"
    words = f"{int(differ.sum()):,} of {a.size:,} elements differ; {first}{_origin_words(numbers.hf, name, index)}"
    words += _other_places_words(a, b[place], here.shape) + (UNKNOWN_ORDER if numbers.agree([here], [there]) else "")
    return ProbeFinding(*sides, DIFFERS, "", words)


def _origin_words(found: Checkpoint, name: str, index: tuple[int, ...]) -> str:
    """Where an element of a mapped checkpoint comes from; empty for any other checkpoint."""
    plan = plan_of(found)
    return f"; {explain_element(plan, name, index, 'target').sentence}" if plan is not None else ""


def _other_places_words(flat: np.ndarray[Any, Any], value: Any, shape: tuple[int, ...]) -> str:
    """Where a number of the reference stands here; empty if it does not, or in too many places."""
    bits = np.dtype(f"u{flat.itemsize}")
    places = np.flatnonzero(flat.view(bits) == np.asarray(value, flat.dtype).view(bits))
    if not 0 < places.size <= MOST_PLACES:
        return ""
    return f"; that number stands here at {' and '.join(str([int(n) for n in np.unravel_index(int(p), shape)]) for p in places)}"
