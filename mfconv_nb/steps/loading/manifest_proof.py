"""Check that a manifest describes the numbers it lies beside. A stale manifest is set aside, and a note says so.

Names, shapes and dtypes are compared when a checkpoint is loaded. Its numbers are compared by the checksums in the manifest, before
anything that it remembers is used: all tensors that an option lays out unseen, or of each pattern the first and the last where they are
large; and of the others a hundredth, with one matrix. Another model, a trained one, one of other options has other numbers in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, TrainingRun, Written
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.folding import fold
from mfconv_nb.families.registry import family_remembered
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import NUMBERS, Family, form_of, sides_of
from mfconv_nb.streaming.fill import tensor_checksums

MOST_BYTES = 64 << 20  # some 30 ms; only what an option lays out may be more


def prove_manifest(checkpoint: Checkpoint, family: Family, to: str) -> tuple[Checkpoint, str]:
    """The checkpoint, if its manifest is of its numbers; else without what that remembers, and a sentence that says so.

    Args:
        family: that it is read as, in the direction ``to``.
    """
    written = checkpoint.history.written
    if written is None:
        return checkpoint, ""
    return _with_proof(checkpoint, written, _sample(written, _unseen_patterns(family, checkpoint.options, to)))


def prove_own_manifest(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """As ``prove_manifest``, by the family that the manifest names: for what is not mapped. Every tensor is read if that is not known."""
    written, history = checkpoint.history.written, checkpoint.history
    if written is None:
        return checkpoint, ""
    try:
        family = family_remembered(history.family, history.family_file) if history.family else None
    except MappingError:
        return _with_proof(checkpoint, written, list(written.parts))
    unseen = _unseen_patterns(family, checkpoint.options, MF if checkpoint.side == HF else HF) if family is not None else {}
    return _with_proof(checkpoint, written, _sample(written, unseen))


def _with_proof(checkpoint: Checkpoint, written: Written, names: Sequence[str]) -> tuple[Checkpoint, str]:
    """Compare the tensors of these names with the manifest; see ``prove_manifest``."""
    history = replace(checkpoint.history, written=None)
    changed = _find_changed(written, names)
    if changed is None:
        return replace(checkpoint, history=history), ""
    note = f"{written.label} is of other numbers than these ({quote(changed)} is not what was written) and is not used"
    lora = None if history.lora is written.lora else history.lora
    history = replace(history, original=None, family=None, family_file="", options={}, lora=lora)
    return replace(checkpoint, config=None if checkpoint.config is written.config else checkpoint.config, history=history), note


def _unseen_patterns(family: Family, remembered: Mapping[str, Any], to: str) -> dict[str, Pattern]:
    """The name patterns, by their text, that options lay out without a trace: with another value the names are the same."""
    choosing = [o for o in family.options if o.values]
    chosen = dict(family.chosen)  # of a form they are decided
    chosen |= {o.name: next((v for v in o.values if v == remembered.get(o.name)), o.default) for o in choosing}
    rules = form_of(family, chosen).rules
    found: dict[str, Pattern] = {}
    for option in (o for o in choosing if o.side not in ((HF,) if to == HF else (MF, NUMBERS))):  # others lay out the target
        for other in (form_of(family, {**chosen, option.name: value}) for value in option.values if value != chosen[option.name]):
            names = {pattern.text for rule in other.rules for pattern in sides_of(rule, to)[0]}
            patterns = (pattern for rule in rules if rule not in other.rules for pattern in sides_of(rule, to)[0])
            found |= {pattern.text: pattern for pattern in patterns if pattern.text in names}
    return found


def _find_changed(written: Written, names: Sequence[str]) -> str | None:
    """The first of these tensors that is not what was written; None where all are."""
    parts = {f"{n} {name}": (name, part, noted) for name in names for n, (part, noted) in enumerate(written.parts[name])}
    found = tensor_checksums([part.renamed(key) for key, (_, part, _) in parts.items()], threads=1)
    return next((name for key, (name, _, noted) in parts.items() if found[key] != noted), None)


def _sample(written: Written, unseen: Mapping[str, Pattern]) -> list[str]:
    """The names of the tensors that are read. Tensors of a pattern count as equally telling: their ends are looked at."""
    grouped: dict[str, list[str]] = {}
    by_pattern: dict[str, list[str]] = {}
    for name in written.parts:
        template, numbers = fold(name)
        grouped.setdefault(template, []).append(name)
        if pattern := next((p for p in unseen.values() if p.template == template and p.match(numbers) is not None), None):
            by_pattern.setdefault(pattern.text, []).append(name)
    laid_out = [name for names in by_pattern.values() for name in names]
    if sum(_nbytes(written, name) for name in laid_out) > MOST_BYTES:
        laid_out = [name for names in by_pattern.values() for name in _ends(names)]
    others = [name for names in grouped.values() for name in _ends(names)]
    others.sort(key=lambda name: _nbytes(written, name))
    left = min(MOST_BYTES, sum(_nbytes(written, name) for name in written.parts) // 100)
    small = [name for name, total in zip(others, accumulate(_nbytes(written, name) for name in others), strict=True) if total <= left]
    matrix = next((name for name in others if len(written.parts[name][0][0].shape) > 1), None)
    return list(dict.fromkeys([*laid_out, *small, *([matrix] if matrix is not None else [])]))


def _ends(names: Sequence[str]) -> tuple[str, ...]:
    """The first and the last."""
    return tuple(dict.fromkeys((names[0], names[-1])))


def _nbytes(written: Written, name: str) -> int:
    return sum(part.spec.nbytes for part, _ in written.parts[name])


def written_parts(
    manifest: Mapping[str, Any], tensors: Mapping[str, LazyTensor], run: TrainingRun | None, folder: Path
) -> dict[str, tuple[tuple[LazyTensor, object], ...]]:
    """Of every tensor what was written of it, whole or in slices, each with the checksum that a manifest notes."""
    if "slices" not in manifest:
        return {t["name"]: ((tensors[t["name"]], t.get("xxh3_128")),) for t in manifest["tensors"]}
    noted = {(s["name"], s["file"]): s["xxh3_128"] for s in manifest["slices"]}
    found: dict[str, list[tuple[LazyTensor, object]]] = {name: [] for name in tensors}
    for name, file, part in run.slices_in(folder) if run is not None else ():
        if name in found:
            found[name].append((part, noted.get((name, file))))
    return {name: tuple(parts) for name, parts in found.items()}
