"""probe: what makes a tensor equal to its reference. Every known variant is tried; else the first element that differs is shown.

Tensors that differ are looked at one by one, then together with those beside them: q, k and v that were cut in another way, gate and up
that changed places. Two sides without a common name are taken as one question: several tensors here, one there.

Refuses: names and shapes without numbers (MFC310).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfconv_nb.author.axes import Facts, facts_of
from mfconv_nb.author.suggesting.evidence import Evidence, cast_to, common_dtype
from mfconv_nb.author.suggesting.groups import Group
from mfconv_nb.author.suggesting.questions import Meeting, Question, part_names, question_of, variants_of
from mfconv_nb.author.suggesting.variants import PLAIN, Variant, several_to_one
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
ITEM = "item"  # what an axis is called that counts tensors
MOST_TOGETHER = 3
MOST_PLACES = 3  # where a number stands that is looked for; more of them tell nothing


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one tensor, or of several that belong together.

    Attributes:
        names, reference: the tensors of each side.
        verdict: "equal", "a variant" (another order of the same numbers), "differs", or "missing" on one side.
        layout: the sentence from the tensors to the reference, where a variant makes them equal.
        words: the same in words; or the first element that differs, and where it comes from.
    """

    names: tuple[str, ...]
    reference: tuple[str, ...]
    verdict: str
    layout: str
    words: str


@dataclass(frozen=True, repr=False)
class Probe(Result):
    """What makes tensors equal to their reference."""

    findings: tuple[Finding, ...]

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
        """The sentence of the first variant that was found; empty where there is none."""
        return next((f.layout for f in self.findings if f.verdict == VARIANT), "")

    def table(self) -> Table:
        verdict = "✓ Equal." if self.equal else "≈ Equal in another order." if self.explained else "✗ Not equal."
        told = [f for f in self.findings if f.verdict != EQUAL]
        headline = f"{len(self.findings) - len(told):,} equal, {len(told):,} not as they are"
        if len(told) == 1 or len(self.findings) == 1:
            headline = (told or self.findings)[0].words
        columns = (
            Column("tensor"),
            Column("verdict", optional=True),
            Column("words"),
            Column("layout"),
            Column("reference", optional=True),
        )
        rows = [(", ".join(f.names), f.verdict, f.words, f.layout, ", ".join(f.reference)) for f in told]
        return Table(verdict, headline, columns, rows, row_noun="findings")


def probe_of(found: Checkpoint, reference: Checkpoint, names: Sequence[str] = ()) -> Probe:
    """Compare the tensors of two checkpoints that have names in common, or all of one side with all of the other."""
    for checkpoint in (found, reference):
        bare = next((t for t in checkpoint if not t.pieces and t.spec.elements), None)
        if bare is not None:
            raise MappingError("MFC310", quoted(bare.name), found="a name and a shape only", expected="a tensor with values")
    facts, evidence = facts_of(found.config or reference.config), Evidence(found, reference)
    common = [n for n in found.tensors if n in reference.tensors and (not names or n in names)]
    if not common:
        return Probe(_as_one_question(found, reference, facts, evidence))
    differing = [n for n in common if not _equal(evidence, n)]
    told = {f.names: f for f in _explained(differing, facts, evidence)}
    done = {n for f in told.values() for n in f.names}
    told_apart = set(differing)
    equal = [n for n in common if n not in told_apart]
    findings = [Finding((n,), (n,), EQUAL, "", _equal_words([found[n].spec], [reference[n].spec])) for n in equal]
    findings += [*told.values(), *(_first_difference(n, n, evidence) for n in differing if n not in done)]
    if not names:
        findings += [Finding((n,), (), MISSING, "", "the reference has no such tensor") for n in found.tensors if n not in reference]
        findings += [Finding((), (n,), MISSING, "", f"{quoted(n)} is in the reference only") for n in reference.tensors if n not in found]
    return Probe(tuple(findings))


def _as_one_question(found: Checkpoint, reference: Checkpoint, facts: Facts, evidence: Evidence) -> tuple[Finding, ...]:
    for question in (question_of(_groups(found.specs), _groups(reference.specs)), _stacked(found.specs, reference.specs)):
        finding = _answer(question, facts, evidence) if question is not None else None
        if finding is not None:
            return (finding,)
    if len(found) == len(reference) == 1:
        return (_first_difference(next(iter(found.tensors)), next(iter(reference.tensors)), evidence),)
    sides = tuple(found.tensors), tuple(reference.tensors)
    same = evidence.agree(found.specs, reference.specs)
    words = UNKNOWN_ORDER.removeprefix("; ") if same else "other numbers: no order of them is the reference"
    return (Finding(*sides, DIFFERS, "", words),)


def _groups(specs: Sequence[TensorSpec]) -> tuple[Group, ...]:
    return tuple(Group((s.name,), {(): s}, place) for place, s in enumerate(specs))


def _stacked(found: Sequence[TensorSpec], reference: Sequence[TensorSpec]) -> Question | None:
    """Tensors of one shape, counted by their names, as one loop that the other side may have as an axis."""
    many, one = (found, reference) if len(reference) == 1 else (reference, found)
    folded = [fold(s.name) for s in many]
    numbers = [n for _, n in folded]
    columns = list(zip(*numbers, strict=True)) if len({t for t, _ in folded}) == 1 else []
    counted = [n for n, column in enumerate(columns) if set(column) == set(range(len(many)))]
    if len(one) != 1 or len(many) < 2 or not counted or len({s.shape for s in many}) > 1:
        return None
    texts = folded[0][0].split("#")
    fixed = (
        "".join(f"{text}{number}" for text, number in zip(texts[: counted[0]], numbers[0][: counted[0]], strict=True)) + texts[counted[0]]
    )
    parts = (fixed, many[0].name[len(fixed) + len(str(numbers[0][counted[0]])) :])
    group = Group(parts, {(n[counted[0]],): spec for n, spec in zip(numbers, many, strict=True)}, 0)
    if any(group.pattern([n]) != spec.name for (n,), spec in group.specs.items()):
        return None  # another number changes too
    count = len(many)
    if many is found:
        return Question((group,), _groups(one), Meeting((), hf_extra=0, count=count, word=ITEM))
    return Question(_groups(one), (group,), Meeting((), mf_extra=0, count=count, word=ITEM))


def _equal_words(found: Sequence[TensorSpec], reference: Sequence[TensorSpec]) -> str:
    """That bytes are equal, and as what, where the two sides have them in different dtypes."""
    here, there = (sorted({s.dtype for s in side}) for side in (found, reference))
    if here == there:
        return "bytes are equal"
    common = common_dtype([*here, *there])
    return f"equal as {common}: {', '.join(here)} here, {', '.join(there)} in the reference"


def _answer(question: Question, facts: Facts, evidence: Evidence) -> Finding | None:
    """The variant that makes both sides equal, where there is one."""
    hf, mf = question.instance(HF), question.instance(MF)
    if not evidence.agree(hf, mf):
        return None
    sides = tuple(s.name for s in hf), tuple(s.name for s in mf)
    held = evidence.held(hf, mf)
    for variant in variants_of(question, facts):
        if held is not None and held.shows(question.rule(variant, ()), variant):
            plain = variant.words == PLAIN
            words = _equal_words(hf, mf) if plain else variant.words
            return Finding(*sides, EQUAL if plain else VARIANT, "" if plain else variant.layout, words)
    return None


def _equal(evidence: Evidence, name: str) -> bool:
    one, other = evidence.hf.tensors[name].spec, evidence.mf.tensors[name].spec
    return one.shape == other.shape and evidence.same((HF, one), (MF, other))


# ---- tensors that differ ---------------------------------------------------------------------------------------------------


def _explained(names: Sequence[str], facts: Facts, evidence: Evidence) -> Iterator[Finding]:
    """Tensors that a variant explains: alone, in each other's place, or together with those beside them."""
    left = list(names)
    for name in names:
        question = question_of(_one(evidence.hf, name), _one(evidence.mf, name))
        finding = _answer(question, facts, evidence) if question is not None else None
        if finding is not None:
            left.remove(name)
            yield finding
    for name in list(left):
        other = next(
            (n for n in left if n != name and evidence.agree([evidence.hf.tensors[name].spec], [evidence.mf.tensors[n].spec])), None
        )
        question = question_of(_one(evidence.hf, name), _one(evidence.mf, other)) if other is not None else None
        finding = _answer(question, facts, evidence) if question is not None else None
        if finding is not None:
            yield Finding(
                finding.names, finding.reference, VARIANT, finding.layout, f"it is the reference's {finding.reference[0]}: {finding.words}"
            )
    taken = {n for n in left if any(evidence.agree([evidence.hf.tensors[n].spec], [evidence.mf.tensors[o].spec]) for o in left)}
    yield from _cut_otherwise([n for n in left if n not in taken], facts, evidence)


def _one(checkpoint: Checkpoint, name: str) -> tuple[Group, ...]:
    return _groups([checkpoint.tensors[name].spec])


def _cut_otherwise(names: Sequence[str], facts: Facts, evidence: Evidence) -> Iterator[Finding]:
    """Neighbours that hold the reference's numbers together, but shared out in another way: both were cut from one tensor."""
    beside: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        beside[parent.rpartition(".")[0], leaf].append(name)
    for members in beside.values():
        specs = [[c.tensors[n].spec for n in members] for c in (evidence.hf, evidence.mf)]
        if not 2 <= len(members) <= MOST_TOGETHER or not evidence.agree(*specs):
            continue
        for one, other, words in (
            (evidence.hf, evidence.mf, "both are cut from one tensor: end to end here, {} in the reference"),
            (evidence.mf, evidence.hf, "both are cut from one tensor: {} here, end to end in the reference"),
        ):
            found = _recut(members, one, other, facts)
            if found is not None:
                yield Finding(tuple(members), tuple(members), VARIANT, found.layout, words.format(found.words))
                break


def _recut(names: Sequence[str], one: Checkpoint, other: Checkpoint, facts: Facts) -> Variant | None:
    """The variant by which the tensors of one side, laid end to end, become those of the other."""
    arrays = [read_tensor(one.tensors[n]) for n in names]
    parts = _groups([other.tensors[n].spec for n in names])
    for axis in range(arrays[0].ndim):
        if len({a.shape[:axis] + a.shape[axis + 1 :] for a in arrays}) > 1:
            continue
        glued = checkpoint_of([_held("whole", np.concatenate(arrays, axis=axis), one.tensors[names[0]].dtype)])
        question = Question(_groups(glued.specs), parts, Meeting(()))
        held = Evidence(glued, other).held(question.instance(HF), question.instance(MF))
        for variant in several_to_one([g.shape for g in parts], question.hf[0].shape, part_names(parts), facts):
            if held is not None and held.shows(question.rule(variant.turned(), ()), variant.turned()):
                return variant.turned()
    return None


def _held(name: str, array: np.ndarray[Any, Any], dtype: str) -> LazyTensor:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return stored_tensor(TensorSpec(name, array.shape, dtype), ArraySource(data, "numpy"), ((0, data.size),))


# ---- the first element that differs ----------------------------------------------------------------------------------------


def _first_difference(name: str, other: str, evidence: Evidence) -> Finding:
    here, there = evidence.hf.tensors[name].spec, evidence.mf.tensors[other].spec
    sides = (name,), (other,)
    dtype = common_dtype([here.dtype, there.dtype])
    if here.shape != there.shape or dtype is None:
        words = f"{shape_text(here.shape)} {here.dtype} here, {shape_text(there.shape)} {there.dtype} in the reference"
        same = here.elements == there.elements and dtype is not None and evidence.agree([here], [there])
        return Finding(*sides, DIFFERS, "", words + (UNKNOWN_ORDER if same else ""))
    a, b = (cast_to(read_tensor(c.tensors[n]), dtype).reshape(-1) for c, n in ((evidence.hf, name), (evidence.mf, other)))
    differ = (a.view(np.uint8).reshape(a.size, -1) != b.view(np.uint8).reshape(b.size, -1)).any(axis=1)
    place = int(np.argmax(differ))
    index = tuple(int(n) for n in np.unravel_index(place, here.shape))
    first = f"the first is {list(index)}: {a[place]!s} here, {b[place]!s} in the reference"
    words = f"{int(differ.sum()):,} of {a.size:,} elements differ; {first}{_source(evidence.hf, name, index)}"
    words += _elsewhere(a, b[place], here.shape) + (UNKNOWN_ORDER if evidence.agree([here], [there]) else "")
    return Finding(*sides, DIFFERS, "", words)


def _source(found: Checkpoint, name: str, index: tuple[int, ...]) -> str:
    """Where an element comes from, in a checkpoint that was mapped."""
    plan = plan_of(found)
    return f"; {explain_element(plan, name, index, 'target').sentence}" if plan is not None else ""


def _elsewhere(flat: np.ndarray[Any, Any], value: Any, shape: tuple[int, ...]) -> str:
    """Where the bytes of a number of the reference stand here, where they do once or twice."""
    bits = np.dtype(f"u{flat.itemsize}")
    places = np.flatnonzero(flat.view(bits) == np.asarray(value, flat.dtype).view(bits))
    if not 0 < places.size <= MOST_PLACES:
        return ""
    return f"; that number stands here at {' and '.join(str([int(n) for n in np.unravel_index(int(p), shape)]) for p in places)}"
