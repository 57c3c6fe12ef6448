"""Prove that a family's rules are sound; a notebook shows every mistake that was made on purpose and what it would have done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mfconv_nb.author.proving.proof import ProofReport, prove_rules
from mfconv_nb.author.proving.proof_view import ProofExploration
from mfconv_nb.mapping.rules import Family
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable


@dataclass(frozen=True, repr=False)
class ExplorableProof(ProofReport, Explorable):
    """A proof that a notebook shows as a view, which draws a mistake when the user chooses it."""

    def exploration(self) -> Exploration:
        return ProofExploration(self)


def prove(family: str | Path | Family) -> ExplorableProof:
    """Prove a family's rules, for every combination of its options. Reads no weight; takes a second or so.

    Args:
        family: a key, a file that defines ``FAMILY``, or a ``Family``; it needs a toy config.
    Returns:
        A report whose ``passed`` is true when every condition holds and no mistake survived. A notebook shows every mistake that was
        made on purpose, what noticed it, and a picture of what it would have done.
    """
    report = prove_rules(family)
    return ExplorableProof(report.family, report.proved, report.caught, report.forms)
