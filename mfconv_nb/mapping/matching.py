"""Matching: find the one rule of every name of the source side.

Names are looked up by template (numbers folded), so that 92,000 names cost a few dozen look-ups of rules. ``making_rows.py`` makes rows
of what is found here, ``missing.py`` says what is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mfconv_nb.core.checkpoint import HF, Original, TensorSpec
from mfconv_nb.core.errors import NearNames
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import Size, Sizes, config_name, hint_of_config
from mfconv_nb.mapping.adapters import why_no_adapter
from mfconv_nb.mapping.kinds import Kind, kind_of
from mfconv_nb.mapping.names import Pattern, parse_pattern
from mfconv_nb.mapping.plan_rows import HINT_OTHER_SIDE, LEFT_OUT, PlacedRow, Problem, Row
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, fill_numbers, numbered_rules, without_numbered
from mfconv_nb.mapping.solve import Directed, directed_rule

HINT_NO_CONFIG = "There is no config.json: give it, or its folder, with --config (config= in Python)."

Key = tuple[int, ...]  # the values of some placeholders
FoldedName = tuple[int, TensorSpec, str, Key]  # place in the source, tensor, template of its name, and its numbers
FIRST_TENSOR: tuple[int, Key] = (0, ())  # in ``Instance.found``, for a rule of one source tensor
Candidates = Mapping[str, Sequence[tuple[int, int, Pattern]]]  # by template: number of a rule, place of a pattern in it, the pattern


@dataclass(frozen=True)
class PlanInputs:
    """Everything a plan is made from, except the names: the rules as they read in one direction, and what is asked of them.

    Attributes:
        family: its rules have the numbers of the config in their names.
        known: the value of each size that the config gives.
        directed: its rules, in the order of the family.
        numbered: places of the rules with a number of the config in a name; they count before the others.
        unnumbered: templates of the rules whose number is not known, as there is no config.
        told: kinds of tensors that are not told by their own names.
        later_layers: by template, names with a number of the config that are not among the first ``layers``.
    """

    family: Family
    to: str
    sizes: Sizes | None
    original: Original | None
    layers: int | None
    leave_out: tuple[str, ...]
    known: Mapping[str, int]
    directed: tuple[Directed, ...]
    numbered: frozenset[int]
    unnumbered: frozenset[str]
    later_layers: Mapping[str, Sequence[Pattern]]
    told: Mapping[str, Kind]

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The placeholders that some sizes depend on."""
        return self.sizes.depends_on if self.sizes is not None else ()

    @property
    def config_file(self) -> str:
        """The name of the file that the sizes are from."""
        return config_name(None) if self.sizes is None else self.sizes.file

    @property
    def config_hint(self) -> str:
        """What to do where the sizes do not fit the tensors."""
        return hint_of_config(None) if self.sizes is None else self.sizes.hint

    def sizes_at(self, indices: Mapping[str, int]) -> Mapping[str, Size]:
        """The sizes in one instance of a rule."""
        return {} if self.sizes is None else self.sizes.for_indices(indices)

    def last_layer(self, axis: str) -> int | None:
        """The limit of a placeholder where only the first layers are asked for; else None."""
        return self.layers if self.layers is not None and axis.endswith("layer") else None


def read_inputs(
    family: Family,
    to: str,
    sizes: Sizes | None,
    original: Original | None = None,
    layers: int | None = None,
    leave_out: Sequence[str] = (),
    told: Mapping[str, Kind] = {},
) -> PlanInputs:
    """Read the rules of ``family`` in the direction ``to``. Arguments as in ``plan_mapping``."""
    known = sizes.values_by_axis if sizes is not None else {}
    rules, later = (family.rules, ()) if layers is None else without_numbered(family.rules, known, layers)
    later_layers: dict[str, list[Pattern]] = {}
    for pattern in (parse_pattern(fill_numbers(name, known)) for name in later):
        later_layers.setdefault(pattern.template, []).append(pattern)
    with_numbers = numbered_rules(rules, known)
    numbered = frozenset(number for number, (_, is_numbered) in enumerate(with_numbers) if is_numbered)
    read = family.with_rules(tuple(rule for rule, _ in with_numbers)) if numbered or len(with_numbers) < len(family.rules) else family
    directed = tuple(directed_rule(rule, to) for rule in read.rules)
    unnumbered = family.templates(to) - read.templates(to)
    return PlanInputs(read, to, sizes, original, layers, tuple(leave_out), known, directed, numbered, unnumbered, later_layers, told)


@dataclass(slots=True)
class Instance:
    """The source tensors of one rule for one value of its loops.

    Attributes:
        first: the place of its first tensor in the source.
        found: its tensors by the place of their pattern in the rule, and the values of the pattern's own placeholders (experts).
    """

    first: int
    found: dict[tuple[int, Key], TensorSpec]


@dataclass(frozen=True)
class Matches:
    """What matching found.

    Attributes:
        instances: by the number of the rule, and the values of its loops. A rule without names may be there or not.
        rows: of what is left out.
    """

    instances: dict[int, dict[Key, Instance]]
    rows: list[PlacedRow]
    problems: list[Problem]

    def found_keys(self, number: int) -> set[Key]:
        """The values of the loops that were found for a rule."""
        return set(self.instances.get(number, ()))

    def specs(self) -> Iterator[TensorSpec]:
        """Every tensor that has a rule."""
        return (spec for found in self.instances.values() for instance in found.values() for spec in instance.found.values())


def match_names(specs: Sequence[TensorSpec], inputs: PlanInputs) -> Matches:
    """Find the one rule of every name."""
    candidates = _candidates_by_template(inputs)
    matches = Matches({}, [], [])
    rest = _match_plain_names(specs, _plain_templates(inputs, candidates), matches)
    unmatched = [name[1].name for name in rest if not _match_name(name, inputs, candidates, matches)]
    if unmatched:
        matches.problems.extend(_unmatched_problems(unmatched, inputs, candidates))
    return matches


def _candidates_by_template(inputs: PlanInputs) -> Candidates:
    found: dict[str, list[tuple[int, int, Pattern]]] = {}
    for number, directed in enumerate(inputs.directed):
        for place, pattern in enumerate(directed.source):
            found.setdefault(pattern.template, []).append((number, place, pattern))
    return found


# ---- the fast path -----------------------------------------------------------------------------------------------------


def _plain_templates(inputs: PlanInputs, candidates: Candidates) -> dict[str, int]:
    """Templates that tell the rule: one rule has them, a plain one, and all numbers in its name are placeholders."""
    if inputs.layers is not None or inputs.leave_out or inputs.depends_on:
        return {}
    single = {template: found[0] for template, found in candidates.items() if len(found) == 1}
    return {
        template: number
        for template, (number, _, pattern) in single.items()
        if inputs.directed[number].is_plain and pattern.slots == inputs.directed[number].loops
    }


def _match_plain_names(specs: Sequence[TensorSpec], plain: Mapping[str, int], matches: Matches) -> list[FoldedName]:
    """Match the names of plain templates, most names of a large checkpoint; return the others with their place, template and numbers.

    Same result as ``_match_name`` in 60 % of the time.
    """
    instances = {template: matches.instances.setdefault(number, {}) for template, number in plain.items()}
    rest = []
    for place, spec in enumerate(specs):
        template, numbers = fold(spec.name)
        found = instances.get(template)
        if found is None:
            rest.append((place, spec, template, numbers))
        else:
            found[numbers] = Instance(place, {FIRST_TENSOR: spec})
    return rest


# ---- all other names ---------------------------------------------------------------------------------------------------


def _match_name(name: FoldedName, inputs: PlanInputs, candidates: Candidates, matches: Matches) -> bool:
    """Add a name to the instance of its rule, to what is left out, or to the problems; False where nothing knows it."""
    place, spec, template, numbers = name
    if inputs.leave_out and (pattern := next((p for p in inputs.leave_out if fnmatchcase(spec.name, p)), None)) is not None:
        matches.rows.append(_left_out(place, spec, Drop(pattern, "left out as asked")))
        return True
    if template in inputs.later_layers and any(p.match(numbers) is not None for p in inputs.later_layers[template]):
        matches.rows.append(_left_out(place, spec, Drop(spec.name, _first_layers_only(inputs))))
        return True
    hits = [
        (number, source, found) for number, source, pattern in candidates.get(template, ()) if (found := pattern.match(numbers)) is not None
    ]
    if not hits:
        state = (inputs.told.get(spec.name) or kind_of(spec.name)).drop if inputs.to == HF else None
        if state is not None:
            matches.rows.append(_left_out(place, spec, state))
        return state is not None
    if len(hits) > 1:
        hits = [hit for hit in hits if hit[0] in inputs.numbered] or hits
    if len(hits) > 1:
        texts = " and ".join(inputs.directed[number].source[source].text for number, source, _ in hits)
        matches.problems.append(Problem("ambiguous", spec.name, f"rules {texts}", "one rule"))
        return True
    number, source, found = hits[0]
    directed = inputs.directed[number]
    if inputs.layers is not None and any(index >= (inputs.last_layer(axis) or index + 1) for axis, index in found.items()):
        matches.rows.append(_left_out(place, spec, directed.rule, _first_layers_only(inputs)))
        return True
    key = tuple([found[p] for p in directed.loops])  # of a list: a generator takes twice as long
    own = tuple([found[p] for p in directed.own[source]])
    instances = matches.instances.setdefault(number, {})
    if key not in instances:
        instances[key] = Instance(place, {})
    instances[key].found[source, own] = spec
    return True


def _first_layers_only(inputs: PlanInputs) -> str:
    return f"layers={inputs.layers} asked for the first ones only"


def _left_out(place: int, spec: TensorSpec, rule: AnyRule, why: str = "") -> PlacedRow:
    return place, Row(LEFT_OUT, rule, (spec,), (), why=why or getattr(rule, "why", ""))


def _unmatched_problems(names: Sequence[str], inputs: PlanInputs, candidates: Candidates) -> Iterator[Problem]:
    """A problem for each name that no rule knows, with the nearest rule as a hint."""
    target_templates = {p.template for directed in inputs.directed for p in directed.target}
    texts = {template: found[0][2].text for template, found in candidates.items()}
    hints: dict[str, str] = {}
    near = NearNames(texts)
    for name in names:
        reason = why_no_adapter(name, inputs.family)
        if reason is not None:
            yield Problem("adapter", name, *reason)
            continue
        template = fold(name)[0]
        if template in inputs.unnumbered:
            yield Problem("unmatched", name, "a number in its rule that the config tells", "a config", HINT_NO_CONFIG)
            continue
        if template not in hints:
            best = near.nearest(template)
            hints[template] = f"nearest rule: {texts[best]}" if best else ""
            if template in target_templates:
                hints[template] = HINT_OTHER_SIDE
        yield Problem("unmatched", name, "no rule", "exactly one rule", hints[template])
