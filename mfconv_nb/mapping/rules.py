"""What a model family is made of: rules, as data. No code reads a weight or a file here.

The Hugging Face side always stands left (``hf``), the MindFormers side right (``mf``). A rule reads in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mfconv_nb.checkpoint import MF
from mfconv_nb.layout import TensorLayout, parse_layout
from mfconv_nb.mapping.names import Pattern, parse_pattern

Names = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One or several tensors on each side, and the sentence that says where every number goes.

    Attributes:
        hf, mf: name patterns. A placeholder on both sides is a loop; on one side only it is an axis of the other side.
        layout: see ``layout.py``. Without an arrow: the same shape on both sides. None: the same shape, whatever it is.
        sizes: structural constants of the sentence, such as ``{"pair": 2}``; never a model's sizes.
        only_if: a name in the family's sizes; the tensors are expected only where it is not 0.
        dtype: a dtype that the MindFormers side fixes, whatever is asked for.
    """

    hf: Names
    mf: Names
    layout: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    only_if: str | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Tied:
    """An output head that may be the embedding: absent on the Hugging Face side then, always there on the MindFormers side.

    Attributes:
        hf, mf: the head's name on each side.
        same_as: the Hugging Face name of the tensor it is tied to.
        layout: axes of the head, for its expected shape.
        only_if: the size (a flag) that says that head and embedding are tied.
    """

    hf: str
    mf: str
    same_as: str
    layout: str
    only_if: str = "tied"


@dataclass(frozen=True, slots=True)
class Drop:
    """A tensor of one side that the other does not carry. It goes to the side folder and comes back from there.

    Attributes:
        pattern: its name on the side that has it.
        why: a clause for the report: "transformers computes it from rope_theta".
        side: the side that has it.
    """

    pattern: str
    why: str
    side: str = "hf"


AnyRule = Rule | Tied | Drop


@dataclass(frozen=True)
class Family:
    """A model family: its rules, and how to read its sizes from config.json.

    Attributes:
        key: what ``--model`` takes.
        covers: the models, in words.
        sizes: for every axis, loop and flag a sentence over config keys (see ``config.py``).
        model_types: values of ``model_type`` in config.json that mean this family.
        toy: config.json of the small checkpoint that ``mfconv toy`` makes; all axis sizes differ.
        source: where the facts are from.
    """

    key: str
    covers: str
    rules: tuple[AnyRule, ...]
    sizes: Mapping[str, str]
    model_types: tuple[str, ...] = ()
    toy: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def with_rules(self, rules: tuple[AnyRule, ...]) -> Family:
        """The same family with other rules: for experiments and mutations."""
        return replace(self, rules=rules)


def patterns(names: Names) -> tuple[Pattern, ...]:
    """The patterns of one side of a rule."""
    return tuple(parse_pattern(n) for n in ((names,) if isinstance(names, str) else names))


def sides_of(rule: AnyRule, to: str) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """The patterns of a rule on the source and on the target side, in the direction ``to``."""
    if isinstance(rule, Drop):
        own = (parse_pattern(rule.pattern),)
        return (own, ()) if rule.side != to else ((), own)
    hf, mf = patterns(rule.hf), patterns(rule.mf)
    return (hf, mf) if to == MF else (mf, hf)


def layouts_of(rule: Rule | Tied, to: str) -> tuple[tuple[TensorLayout, ...], tuple[TensorLayout, ...]] | None:
    """The tensor layouts of a rule on the source and on the target side; None where there is no sentence."""
    if rule.layout is None:
        return None
    layout = parse_layout(rule.layout)
    return (layout.left, layout.right) if to == MF else (layout.right, layout.left)
