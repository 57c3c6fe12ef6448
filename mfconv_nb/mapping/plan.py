"""Matching: a family's rules against the names and shapes of one side. Pure; nothing is read and nothing is guessed.

The result says for every tensor of the target which blocks of which source tensors it is made of, and lists every problem:
a name no rule knows, a tensor that is missing, a shape that contradicts config.json. A plan with problems is never carried out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product

from mfconv_nb.blocks import Block, Shape, whole
from mfconv_nb.checkpoint import HF, MF, Original, TensorSpec
from mfconv_nb.config import HINT_CONFIG, Size, Sizes
from mfconv_nb.errors import MappingError, nearest
from mfconv_nb.folding import fold
from mfconv_nb.layout import TensorLayout, axis_names, describe_tensor, shape_of
from mfconv_nb.mapping.expected import expected_names, is_expected
from mfconv_nb.mapping.names import Pattern
from mfconv_nb.mapping.rules import AnyRule, Drop, Family, Rule, Tied
from mfconv_nb.mapping.solve import ONE_TENSOR, Directed, Solution, SourceKey, directed_rule, solve_rule

HINT_TIED = "A head may be tied to the embedding; the config says so: give it with --config (config= in Python)."
HINT_OTHER_SIDE = "a name of the target side already"

MOST_MISSING = 1000  # names of a rule that are listed: a config.json may promise a billion layers

# how a target tensor comes about, or why a source tensor has no target
MAPPED, TIED, DROPPED, RESTORED, LEFT_OUT = "mapped", "tied", "dropped", "restored", "left out"


@dataclass(frozen=True, slots=True)
class Part:
    """One block of a target tensor: which source tensor it comes from."""

    source: str
    block: Block


@dataclass(frozen=True, slots=True)
class Row:
    """One instance of a rule: for layer 3, say. ``parts`` is empty for a plain rename, where the numbers stay as they are."""

    status: str
    rule: AnyRule
    sources: tuple[TensorSpec, ...]
    targets: tuple[TensorSpec, ...]
    parts: tuple[tuple[Part, ...], ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plan cannot be carried out. ``kind`` is one of unmatched, ambiguous, missing, shape, dtype, surplus."""

    kind: str
    name: str
    found: str
    expected: str
    hint: str = ""


@dataclass(frozen=True)
class MappingPlan:
    """What goes where (``rows``, in the order of the source), and what stands in the way (``problems``)."""

    family: Family
    to: str
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]


def plan_mapping(
    specs: Sequence[TensorSpec],
    family: Family,
    to: str,
    *,
    sizes: Sizes | None = None,
    original: Original | None = None,
    layers: int | None = None,
) -> MappingPlan:
    """Match ``specs`` against the rules of ``family``, in the direction ``to``.

    Args:
        sizes: the axis sizes from config.json; None when there is no config. Then shapes alone must determine every axis.
        original: what a manifest remembers of the target side.
        layers: convert only the first N layers; the others are listed as left out.
    """
    matcher = _Matcher(family, to, sizes, original, layers)
    matcher.match(specs)
    matcher.add_rows()
    matcher.add_tied()
    matcher.add_missing()
    matcher.add_collisions()
    return MappingPlan(family, to, tuple(matcher.ordered_rows()), tuple(matcher.problems))


@dataclass(slots=True)
class _Instance:
    """The source tensors of one rule for one value of its loops, as they are found."""

    indices: Mapping[str, int]
    first: int  # place of its first tensor in the source, for the order of the target
    found: dict[tuple[int, tuple[int, ...]], TensorSpec]


class _Matcher:
    def __init__(self, family: Family, to: str, sizes: Sizes | None, original: Original | None, layers: int | None) -> None:
        self.family, self.to, self.sizes, self.original, self.layers = family, to, sizes, original, layers
        self.known = {axis: s.value for axis, s in (sizes or {}).items()}
        self.problems: list[Problem] = []
        self._rows: list[tuple[int, Row]] = []
        self._instances: dict[int, dict[tuple[int, ...], _Instance]] = {}
        self._singles: dict[int, dict[tuple[int, ...], tuple[int, TensorSpec]]] = {}
        self._solved: dict[object, Solution | MappingError] = {}
        self._directed = [directed_rule(rule, to) for rule in family.rules]
        self._by_template: dict[str, list[tuple[int, int, Pattern]]] = {}
        for number, directed in enumerate(self._directed):
            for place, pattern in enumerate(directed.source):
                self._by_template.setdefault(pattern.template, []).append((number, place, pattern))

        self._quick = {} if layers is not None else self._quick_templates()

    def _quick_templates(self) -> dict[str, int]:
        """Templates that only one rule has, a plain one whose numbers are all placeholders: their names need no second look."""
        quick = {}
        for template, candidates in self._by_template.items():
            number, _, pattern = candidates[0]
            if len(candidates) == 1 and self._directed[number].is_plain and pattern.slots == self._directed[number].loops:
                quick[template] = number
                self._singles[number] = {}
        return quick

    # -- names ---------------------------------------------------------------------------------------------------------

    def match(self, specs: Sequence[TensorSpec]) -> None:
        """Find the one rule of every name."""
        unmatched = []
        for place, spec in enumerate(specs):
            template, numbers = fold(spec.name)
            if template in self._quick:
                self._singles[self._quick[template]][numbers] = (place, spec)
                continue
            hits = [
                (number, source, found)
                for number, source, pattern in self._by_template.get(template, ())
                if (found := pattern.match(numbers)) is not None
            ]
            if not hits:
                unmatched.append(spec.name)
            elif len(hits) > 1:
                texts = " and ".join(self._directed[number].source[source].text for number, source, _ in hits)
                self.problems.append(Problem("ambiguous", spec.name, f"rules {texts}", "one rule"))
            else:
                self._add(place, spec, *hits[0])
        self._add_unmatched(unmatched)

    def _add(self, place: int, spec: TensorSpec, number: int, source: int, found: dict[str, int]) -> None:
        if self.layers is not None and found.get("layer", 0) >= self.layers:
            why = f"layers={self.layers} asked for the first {self.layers} layers"
            self._rows.append((place, Row(LEFT_OUT, self.family.rules[number], (spec,), (), why=why)))
            return
        directed = self._directed[number]
        if directed.is_plain:
            self._singles.setdefault(number, {})[tuple(found.values())] = (place, spec)
            return
        key = tuple(found[p] for p in directed.loops)
        axis = tuple(found[p] for p in directed.own[source])
        instances = self._instances.setdefault(number, {})
        if key not in instances:
            instances[key] = _Instance(dict(zip(directed.loops, key, strict=True)), place, {})
        instances[key].found[source, axis] = spec

    def _add_unmatched(self, names: Sequence[str]) -> None:
        if not names:
            return
        target_templates = {p.template for directed in self._directed for p in directed.target}
        texts = {t: patterns[0][2].text for t, patterns in self._by_template.items()}
        hints: dict[str, str] = {}
        for name in names:
            template = fold(name)[0]
            if template not in hints:
                best = nearest(template, texts)
                hints[template] = f"nearest rule: {texts[best]}" if best else ""
                if template in target_templates:
                    hints[template] = HINT_OTHER_SIDE
            self.problems.append(Problem("unmatched", name, "no rule", "exactly one rule", hints[template]))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def add_rows(self) -> None:
        """Turn every instance of every rule into a row, or into problems."""
        for number, instances in self._instances.items():
            directed = self._directed[number]
            rule = directed.rule
            keys = ONE_TENSOR if directed.is_single else tuple(self._source_keys(number))
            for instance in instances.values():
                if isinstance(rule, Drop):
                    specs = tuple(instance.found.values())
                    self._rows.append((instance.first, Row(DROPPED, rule, specs, (), why=rule.why)))
                elif isinstance(rule, Tied) and self._head_was_absent(rule):
                    specs = tuple(instance.found.values())
                    why = f"tied to {rule.same_as}"
                    self._rows.append((instance.first, Row(TIED, rule, specs, (), why=why)))
                else:
                    self._add_row(directed, rule, instance, keys)

        for number, singles in self._singles.items():
            self._add_single_rows(self._directed[number], singles)

    def _add_single_rows(self, directed: Directed, singles: Mapping[tuple[int, ...], tuple[int, TensorSpec]]) -> None:
        """The short way for rules of one source and one target tensor: most names of a large checkpoint."""
        rule, loops, pattern = directed.rule, directed.loops, directed.target[0]
        if not isinstance(rule, Rule):
            return
        fixed = rule.dtype if self.to == MF else None
        numbered = pattern.text.format_map({loop: f"{{{n}}}" for n, loop in enumerate(loops)})  # {layer} as {0}: twice as quick to fill
        solutions: dict[Shape, Solution | MappingError] = {}
        for key, (place, spec) in singles.items():
            sources = (spec,)
            solution = solutions.get(spec.shape) or solutions.setdefault(spec.shape, self._solution(directed, sources, ONE_TENSOR))
            if isinstance(solution, MappingError):
                self.problems.append(self._shape_problem(directed, sources, ONE_TENSOR, solution))
                continue
            target = TensorSpec(numbered.format(*key), solution.targets[0][2], fixed or spec.dtype)
            parts = tuple(tuple(Part(spec.name, b) for _, b in blocks) for blocks in solution.parts) if solution.parts else ()
            self._rows.append((place, Row(MAPPED, rule, sources, (target,), parts)))

    def _head_was_absent(self, rule: Tied) -> bool:
        """On the way to Hugging Face: the head was not in the original; told by the manifest, else by the config."""
        if self.to != HF:
            return False
        if self.original is not None:
            return rule.hf not in self.original.names
        return bool(self.known.get(rule.only_if))

    def _add_row(self, directed: Directed, rule: Rule | Tied, instance: _Instance, keys: Sequence[SourceKey]) -> None:
        sources = self._complete_sources(directed, instance, keys)
        if sources is None:
            return
        dtype = sources[0].dtype
        if any(s.dtype != dtype for s in sources):
            names = " and ".join(sorted({s.dtype for s in sources}))
            self.problems.append(Problem("dtype", sources[0].name, names, "one dtype for tensors that become one"))
            return
        solution = self._solution(directed, sources, keys)
        if isinstance(solution, MappingError):
            self.problems.append(self._shape_problem(directed, sources, keys, solution))
            return
        if isinstance(rule, Rule) and rule.dtype and self.to == MF:
            dtype = rule.dtype
        targets = tuple(TensorSpec(pattern.fill({**instance.indices, **axis}), shape, dtype) for pattern, axis, shape in solution.targets)
        parts = tuple(tuple(Part(sources[s].name, b) for s, b in blocks) for blocks in solution.parts)
        self._rows.append((instance.first, Row(MAPPED, rule, sources, targets, parts)))

    def _complete_sources(self, directed: Directed, instance: _Instance, keys: Sequence[SourceKey]) -> tuple[TensorSpec, ...] | None:
        """The source tensors in the order of the rule, experts counted up; None (and a problem each) where some are missing or too many."""
        found = [instance.found.get((place, tuple(axis.values()))) for place, axis in keys]
        partner = next(iter(instance.found.values())).name
        for (place, axis), spec in zip(keys, found, strict=True):
            if spec is None:
                name = directed.source[place].fill({**instance.indices, **axis})
                self.problems.append(Problem("missing", name, "not in the checkpoint", f"beside {partner}"))
        complete = tuple(spec for spec in found if spec is not None)
        if len(complete) < len(instance.found):
            for (place, indices), spec in instance.found.items():
                self._add_surplus_of(spec.name, zip(directed.own[place], indices, strict=True))
        return complete if len(complete) == len(keys) == len(instance.found) else None

    def _source_keys(self, number: int) -> Iterator[SourceKey]:
        """Every source tensor that an instance of a rule needs: its place in the sentence, and the index of its own axes (experts)."""
        directed = self._directed[number]
        most: dict[str, int] = {}  # experts in the layer that has most of them
        for instance in self._instances.get(number, {}).values():
            for place, indices in instance.found:
                for axis, index in zip(directed.own[place], indices, strict=True):
                    most[axis] = max(most.get(axis, 0), index + 1)
        for place, own in enumerate(directed.own):
            seen = {axis: most.get(axis, 1) for axis in own}
            counts = [min(self.known.get(axis, n), n + MOST_MISSING) for axis, n in seen.items()]
            for indices in product(*map(range, counts)):
                yield place, dict(zip(own, indices, strict=True))

    # -- shapes --------------------------------------------------------------------------------------------------------

    def _solution(self, directed: Directed, sources: tuple[TensorSpec, ...], keys: Sequence[SourceKey]) -> Solution | MappingError:
        key = (id(directed), *(s.shape for s in sources))
        if key not in self._solved:
            try:
                self._solved[key] = solve_rule(directed, [s.shape for s in sources], keys, self.known)
            except MappingError as error:
                self._solved[key] = error
        return self._solved[key]

    def _shape_problem(self, directed: Directed, sources: Sequence[TensorSpec], keys: Sequence[SourceKey], error: MappingError) -> Problem:
        if directed.layouts is not None:
            for (place, _), spec in zip(keys, sources, strict=True):
                tensor = directed.layouts[0][place]
                if shape_of(tensor, self.known) not in (None, spec.shape):
                    return Problem("shape", spec.name, str(spec.shape), self._explain(tensor), HINT_CONFIG)
        return Problem("shape", sources[0].name, f"{sources[0].shape}: {error.found}", str(error.expected), HINT_CONFIG)

    def _explain(self, tensor: TensorLayout) -> str:
        """``(1024, 2048): 8 groups x 128 head, from num_key_value_heads and head_dim in config.json``."""
        names = [n for n in sorted(axis_names(tensor)) if n in (self.sizes or {})]
        sizes: Mapping[str, Size] = self.sizes or {}
        values = ", ".join(f"{n} {sizes[n].value} from {sizes[n].origin}" for n in names)
        return f"{shape_of(tensor, self.known)}: {describe_tensor(tensor)} with {values}"

    # -- what is not a bijection -----------------------------------------------------------------------------------------

    def add_tied(self) -> None:
        """Heads that the Hugging Face side leaves out because they are the embedding."""
        if self.to != MF or not self.known:
            return
        for number, rule in enumerate(self.family.rules):
            if not isinstance(rule, Tied) or number in self._instances or not self.known.get(rule.only_if):
                continue
            source = next((s for _, row in self._rows for s in row.sources if s.name == rule.same_as), None)
            if source is not None:
                target = TensorSpec(rule.mf, source.shape, source.dtype)
                parts = ((Part(source.name, whole(source.elements)),),)
                row = Row(TIED, rule, (source,), (target,), parts, why=f"a copy of {rule.same_as}")
                self._rows.append((1 << 60, row))

    def add_missing(self) -> None:
        """What the config promises and the checkpoint lacks; without a config, what some layers have and others lack."""
        if self.sizes is not None:
            self._add_missing_by_config()
        self._add_missing_by_comparison()
        if self.original is not None and self.to == HF:
            for name, tensor in self.original.carried.items():
                rule = self._rule_of_target(name)
                if rule is not None:
                    row = Row(RESTORED, rule, (), (tensor.spec,), why="kept beside the checkpoint")
                    self._rows.append((1 << 60, row))

    def _rule_of_target(self, name: str) -> AnyRule | None:
        template, numbers = fold(name)
        for directed in self._directed:
            for pattern in directed.target:
                if pattern.template == template and pattern.match(numbers) is not None:
                    return directed.rule
        return None

    def _add_missing_by_config(self) -> None:
        present = {s.name for _, row in self._rows for s in row.sources}
        present |= {s.name for i in self._instances.values() for x in i.values() for s in x.found.values()}
        present |= {spec.name for singles in self._singles.values() for _, spec in singles.values()}
        present |= {p.name for p in self.problems}
        limits = dict(self.known)
        if self.layers is not None:
            limits["layer"] = min(limits.get("layer", self.layers), self.layers)
        enough = len(present) + MOST_MISSING  # so many names cannot all be there
        countable = {axis: min(size, enough) for axis, size in limits.items()}
        for directed in self._directed:
            if not is_expected(directed.rule, self.known, self.to):
                continue
            for name in islice(expected_names(directed.source, countable), enough):
                if name not in present:
                    origin = self.sizes["layer"].origin if self.sizes and "layer" in self.sizes else "config.json"
                    expected = f"there, by config.json ({origin} = {limits.get('layer')})" if "layer" in limits else "there"
                    self.problems.append(Problem("missing", name, "not in the checkpoint", expected, HINT_CONFIG))
        self._add_surplus()

    def _add_surplus(self) -> None:
        for number, instances in self._instances.items():
            for instance in instances.values():
                for spec in instance.found.values() if not isinstance(self.family.rules[number], Drop) else ():
                    self._add_surplus_of(spec.name, instance.indices.items())
        for number, singles in self._singles.items():
            for key, (_, spec) in singles.items():
                self._add_surplus_of(spec.name, zip(self._directed[number].loops, key, strict=True))

    def _add_surplus_of(self, name: str, indices: Iterable[tuple[str, int]]) -> None:
        """A problem where an index is not below what the config says."""
        for axis, index in indices:
            if index >= self.known.get(axis, index + 1):
                expected = f"{axis} below {self.known[axis]}, from {(self.sizes or {})[axis].origin} in config.json"
                self.problems.append(Problem("surplus", name, f"{axis} {index}", expected, HINT_CONFIG))

    def _found_keys(self) -> dict[int, set[tuple[int, ...]]]:
        """For every rule the values of its loops that were found."""
        numbers = {*self._instances, *(n for n, singles in self._singles.items() if singles)}
        return {n: {*self._instances.get(n, ()), *self._singles.get(n, ())} for n in numbers}

    def _add_missing_by_comparison(self) -> None:
        """Where no config says what to expect: rules that match nothing, and what some layers have and others lack."""
        seen: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
        by_rule = self._found_keys()
        for number, keys in by_rule.items():
            if not isinstance(self.family.rules[number], Drop):
                seen.setdefault(self._directed[number].loops, set()).update(keys)
        for number, directed in enumerate(self._directed):
            found, rule, loops = by_rule.get(number, set()), directed.rule, directed.loops
            told = self.sizes is not None and all(p in self.known for pattern in directed.source for p in pattern.placeholders)
            if told or isinstance(rule, Drop) or (not found and isinstance(rule, Rule) and rule.only_if):
                continue
            expected = "there, as in the other layers" if loops else "there"
            hint = HINT_TIED if isinstance(rule, Tied) else ""
            for key in sorted((seen.get(loops, set()) | _all_before(seen.get(loops, set())) | (set() if loops else {()})) - found):
                for place, axis in self._source_keys(number):
                    name = directed.source[place].fill({**dict(zip(loops, key, strict=True)), **axis})
                    self.problems.append(Problem("missing", name, "not in the checkpoint", expected, hint))

    def add_collisions(self) -> None:
        """Targets that two rows make: one would silently take the place of the other."""
        makers: dict[str, Row] = {}
        for _, row in self._rows:
            for target in row.targets:
                first = makers.setdefault(target.name, row)
                if first is not row:
                    found = " and ".join(f"made from {', '.join(s.name for s in r.sources) or r.why}" for r in (first, row))
                    self.problems.append(Problem("ambiguous", target.name, found, "made by one rule"))

    def ordered_rows(self) -> list[Row]:
        """Rows in the order of the source."""
        return [row for _, row in sorted(self._rows, key=lambda r: r[0])]


def _all_before(keys: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """For loops of one placeholder: 0 up to the largest seen, so that a hole is noticed."""
    single = [k[0] for k in keys if len(k) == 1]
    return {(n,) for n in range(max(single) + 1)} if single else set()
