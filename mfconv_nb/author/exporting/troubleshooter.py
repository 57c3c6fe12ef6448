"""A family as TroubleShooter's weight map, the JSON that its ``convert_weight(weight_map_path=...)`` reads.

The file is a list of two objects: every torch name with its MindSpore name, and special tensors with the function that changes them.
There is one such function: it adds an axis to the weight of a one-dimensional convolution.

Refuses: every rule that needs more than a rename or that axis, all at once (MFC314); names that no rule knows (MFC303).
Source: troubleshooter 1.0.18, ``migrator/weight_migrator.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mfconv_nb.author.exporting.exported import Files, Unsayable, refuse, rule_text
from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import MappingError, UsageError, did_you_mean, quoted
from mfconv_nb.core.folding import fold, folded_names
from mfconv_nb.core.layout import One
from mfconv_nb.core.report import how_many
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.expected import expected_specs
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Rule, Tied
from mfconv_nb.mapping.solve import Directed, directed_rule

CONV1D = "troubleshooter.migrator.mapping_relation.weight_adapter.trans_conv1d_weight_value"  # expand_dims(weight, 2)
EXPECTED = "renames, and the extra axis of a Conv1d weight (out in width -> out in 1 width)"


def weight_map_file(form: Family, file: Path, names: Sequence[str] | None, config: Mapping[str, Any] | None) -> Files:
    """A weight map, which lists every name of a model.

    Args:
        names: the names of the state dict that is to be converted, in its order.
        config: the content of a config.json, for the names that it promises. Without either, those of the family's toy.
    Raises:
        MappingError: MFC314 with every rule that cannot be said, MFC303 with names that no rule knows. UsageError: MFC501 without names.
    """
    origin = "those of the checkpoint"
    if names is None:
        content = config if config is not None else form.toy
        if not content:
            expected = "the names of a checkpoint, or a config: the map lists every name"
            hint = "Give --names PATH or --config PATH (names=, config= in Python)."
            raise UsageError("MFC501", "names", found="none", expected=expected, hint=hint)
        names = [spec.name for spec in expected_specs(form, read_sizes(content, form.sizes), HF)]
        origin = "those that the config promises" if config is not None else "those of the family's toy: names= or config= gives a model's"
    renamed, functions = weight_map(form, names)
    text = json.dumps([renamed, functions], indent=1, ensure_ascii=False) + "\n"
    return {file: text}, (f"{how_many(len(renamed), 'name')}, {origin}.",)


def weight_map(form: Family, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The two objects of a weight map: every name with its new one, and the function for those that get an extra axis.

    Raises:
        MappingError: MFC314, MFC303.
    """
    known: dict[str, list[tuple[Pattern, Directed]]] = {}
    for directed in (directed_rule(rule, MF) for rule in form.rules):
        for pattern in directed.source:
            known.setdefault(pattern.template, []).append((pattern, directed))
    renamed: dict[str, str] = {}
    values: dict[str, str] = {}
    unsayable: dict[AnyRule, Unsayable] = {}
    unknown = []
    for name in names:
        template, numbers = fold(name)
        hits = [(d, at) for pattern, d in known.get(template, ()) if (at := pattern.match(numbers)) is not None]
        if not hits:
            unknown.append(name)
            continue
        directed, at = hits[0]
        if lacking := _lacking(directed):
            unsayable.setdefault(directed.rule, Unsayable(rule_text(directed), lacking))
        else:
            renamed[name] = directed.target[0].fill(at)
            values |= {name: CONV1D} if _is_conv1d(directed) else {}
    refuse(list(unsayable.values()), form.key, EXPECTED)
    if unknown:
        found = "; ".join(folded_names(unknown)[:5])
        hint = did_you_mean(unknown[0], (pattern.text for patterns in known.values() for pattern, _ in patterns))
        hint = hint or "Give names of this family, or export the family that they are of."
        raise MappingError("MFC303", quoted(unknown[0]), found=found, expected=f"names of {form.key}", hint=hint)
    return renamed, values


def _lacking(directed: Directed) -> str:
    """Why the map cannot say a rule; empty where it can."""
    if isinstance(directed.rule, Drop):
        return "a place for a tensor that MindFormers does not have: the map must give every name a new one"
    if not isinstance(directed.rule, Rule | Tied) or len(directed.source) != 1 or len(directed.target) != 1 or any(directed.own):
        return "several tensors on one side: the map has one name for each"
    if set(directed.target[0].placeholders) != set(directed.loops):
        return "several tensors on one side: the map has one name for each"
    if isinstance(directed.rule, Rule) and directed.rule.dtype:
        return f"a dtype of its own ({directed.rule.dtype})"
    if directed.layouts is None or directed.layouts[0] == directed.layouts[1] or _is_conv1d(directed):
        return ""
    return "a tensor whose axes change"


def _is_conv1d(directed: Directed) -> bool:
    if directed.layouts is None:
        return False
    source, target = directed.layouts[0][0], directed.layouts[1][0]
    return len(source) == 3 and target == (*source[:2], One(), *source[2:])
