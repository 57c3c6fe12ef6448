"""What verify checks: conditions that can fail, each with the sentence, the outcome and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mfconv_nb.core.checkpoint import Checkpoint, Equality
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import MappingError, to_one_line
from mfconv_nb.core.report import bytes_text, how_many
from mfconv_nb.core.scaled_codes import E2M1
from mfconv_nb.steps.comparing.diff import diff_checkpoints
from mfconv_nb.steps.comparing.diff_report import DiffReport
from mfconv_nb.steps.comparing.diff_rows import AGREE, DTYPE
from mfconv_nb.steps.converting.codes_back import codes_back
from mfconv_nb.steps.converting.map_report import CoverageError
from mfconv_nb.steps.loading.codes import Published
from mfconv_nb.streaming.compare import compare_tensors, differences_in_words

PASS, CLOSE, FAIL, UNSURE = "pass", "close", "fail", "unsure"


@dataclass(frozen=True, slots=True)
class Condition:
    """A sentence that was checked, its outcome, and what was seen."""

    sentence: str
    outcome: str
    seen: str


def headers_condition(headers: DiffReport, there: str) -> Condition:
    sentence = f"Every {there} tensor is there, with its shape, and none is left over."
    bad = [r for r in headers.entries if r.status not in (AGREE, DTYPE)]
    if bad:
        first = bad[0]
        return Condition(sentence, FAIL, f"{how_many(len(bad), 'tensor')}; first {first.name}: {first.status}")
    return Condition(sentence, PASS, how_many(len(headers.entries), "tensor"))


def cast_condition(forward: Checkpoint, b: Checkpoint, threads: int) -> Condition:
    """Where dtypes differ: the converted numbers are exactly the original ones, rounded to the new dtype."""
    pairs = sorted({(forward[t.name].dtype, t.dtype) for t in b if forward[t.name].dtype != t.dtype})
    names = ", ".join(f"{short_name(x)} to {short_name(y)}" for x, y in pairs)
    values = diff_checkpoints(forward, b, values=True, threads=threads, progress=True)  # casts the first side to the second's dtype
    wrong = [r for r in values.entries if r.comparison is not None and not r.comparison.equal_bytes]
    sentence = f"Every cast ({names}) is rounded to nearest even."
    if wrong:
        return Condition(sentence, FAIL, f"{how_many(len(wrong), 'tensor')} unlike the rounded original; first {wrong[0].name}")
    return Condition(sentence, PASS, f"{how_many(len(values.entries), 'tensor')} equal to the rounded original")


def copies_condition(equalities: Sequence[Equality], threads: int) -> Condition:
    """What is left out, there or on the way back, because it is a copy or holds what everybody knows: so it must."""
    found = compare_tensors([(e.first, e.second) for e in equalities], threads)
    wrong = [e for e, comparison in zip(equalities, found, strict=True) if not comparison.equal_bytes]
    sentence = "Every tensor that is left out as a copy is one."
    if wrong:
        return Condition(sentence, FAIL, f"{wrong[0].first.name} holds other numbers, but {wrong[0].why}")
    return Condition(sentence, PASS, how_many(len(found), "tensor"))


def codes_condition(back: Checkpoint, original: Checkpoint, threads: int) -> Condition | None:
    """Where the original was published as codes and their scales are kept: they come back too. None where nothing is kept."""
    kept, published = back.history.published, original.history.published
    if not isinstance(kept, Published) or not isinstance(published, Published):
        return None
    sentence = "The codes and scales come back as they were published."
    made = codes_back(back, kept)
    there = {t.name: t for w in published.weights.values() for t in (w.codes, w.scales) if t is not None} | dict(published.beside)
    written = {n for n in published.weights if n in back.tensors}
    pairs = [(made.checkpoint.tensors.get(t.name) if made is not None else None, t) for t in there.values()]
    lost = [t.name for mine, t in pairs if mine is None and (made is None or published.names_of_scales.get(t.name, t.name) in written)]
    if lost:
        return Condition(sentence, FAIL, f"lost on the way: {how_many(len(lost), 'tensor')}; first {lost[0]}")
    both = [(mine, t) for mine, t in pairs if mine is not None]
    try:
        found = compare_tensors(both, threads)
    except MappingError as error:
        return Condition(sentence, FAIL, f"{error.where}: {to_one_line(str(error.found))}")
    wrong = [t.name for (_, t), compared in zip(both, found, strict=True) if not compared.equal_bytes]
    if wrong:
        return Condition(sentence, FAIL, f"{how_many(len(wrong), 'tensor')} changed; first {wrong[0]}")
    kinds = sorted({"fp4" if w.coded.kind == E2M1 else "fp8" for w in published.weights.values()})
    nbytes = bytes_text(sum(t.spec.nbytes for _, t in both))
    return Condition(sentence, PASS, f"{' and '.join(kinds)} bits equal: {how_many(len(both), 'tensor')} ({nbytes} compared)")


def conversion_condition(differences: DiffReport, there: str) -> Condition:
    """The written tensors hold what converting the original gives, after the same casts."""
    sentence = f"Every {there} tensor holds the bytes that the original gives."
    wrong = [r for r in differences.entries if r.comparison is not None and not r.comparison.equal_bytes]
    if wrong:
        return Condition(sentence, FAIL, f"{how_many(len(wrong), 'tensor')} changed; first {wrong[0].name}")
    return Condition(sentence, PASS, how_many(len(differences.entries), "tensor"))


def no_way_condition(error: MappingError, way: str) -> Condition:
    first = error.problems[0] if isinstance(error, CoverageError) else None
    why = f"{first.kind} {first.name}: {first.found}" if first is not None else to_one_line(str(error.found))
    return Condition(BACK.format(way), UNSURE, f"refused: {error.code}, {why}")


BACK = "{} gives back every name, shape and byte."


def back_condition(differences: DiffReport, cast: bool, way: str) -> Condition:
    sentence = BACK.format(way)
    counts, total = differences.counts, len(differences.entries)
    compared = [r for r in differences.entries if r.comparison is not None]
    changed = [r for r in compared if r.comparison is not None and not r.comparison.equal_bytes]
    lost = [r for r in differences.entries if r.comparison is None]
    if lost:
        seen = f"lost on the way: {len(lost):,} of {how_many(total, 'tensor')}; first {lost[0].name}: {lost[0].status}"
        dropped = all(r.status == "unexpected" for r in lost) and not changed
        return Condition(sentence, UNSURE if dropped else FAIL, seen)
    if not changed:
        nbytes = sum(r.second.nbytes for r in compared if r.second)
        rest = f", {counts[DTYPE]:,} of them after casting back" if counts[DTYPE] else ""
        return Condition(sentence, PASS, f"{total:,} of {how_many(total, 'tensor')} bitwise equal{rest} ({bytes_text(nbytes)} compared)")
    endless = [(r.name, r.comparison.inf[0] - r.comparison.inf[1]) for r in changed if r.comparison is not None]
    endless = [(name, n) for name, n in endless if n > 0]
    if endless:
        counted = f"{how_many(sum(n for _, n in endless), 'number')} in {how_many(len(endless), 'tensor')}"
        seen = f"{counted} became infinite, too large for the dtype; first in {endless[0][0]}"
        return Condition(sentence, FAIL, seen)
    far = ", ".join(differences_in_words((r.comparison for r in changed if r.comparison is not None), "at most {}"))
    seen = f"changed: {len(changed):,} of {how_many(total, 'tensor')}, {far}"
    if cast and all(r.status == DTYPE for r in changed):
        return Condition(sentence, CLOSE, f"{seen}: the cast rounded them")
    return Condition(sentence, FAIL, f"{seen}; first {changed[0].name}")
