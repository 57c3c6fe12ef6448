"""Matching: the names of one side against the rules of a family, and the rows that follow from what was found.

Names are looked up by template (numbers folded), so that 92,000 names are a few dozen look-ups of rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product

from mfconv_nb.core.blocks import Block, Shape, whole
from mfconv_nb.core.checkpoint import HF, MF, Original, TensorSpec
from mfconv_nb.core.dtypes import dtype_after_cast
from mfconv_nb.core.errors import MappingError, NearNames
from mfconv_nb.core.folding import fold
from mfconv_nb.core.layout import Axis, TensorLayout, axis_names, describe_tensor, shape_of
from mfconv_nb.core.sizes import HINT_CONFIG, Size, Sizes
from mfconv_nb.mapping.adapters import why_no_adapter
from mfconv_nb.mapping.kinds import kind_of
from mfconv_nb.mapping.names import Pattern, parse_pattern
from mfconv_nb.mapping.rules import (
    COMMON_OPTIONS,
    AnyRule,
    Drop,
    Family,
    Repeated,
    Rule,
    Tied,
    is_needed,
    numbered_rules,
    put_in,
    without_numbered,
)
from mfconv_nb.mapping.solve import ONE_TENSOR, Directed, Solution, SourceKey, directed_rule, solve_rule

HINT_NO_CONFIG = "There is no config.json: give it, or its folder, with --config (config= in Python)."
HINT_OTHER_SIDE = "a name of the target side already"

MOST_MISSING = 1000  # names of a rule that are listed: a config.json may promise a billion layers

# how a target tensor comes about, or why a source tensor has no target
MAPPED, TIED, DROPPED, RESTORED, LEFT_OUT = "mapped", "tied", "dropped", "restored", "left out"
LAST = 1 << 60  # the place of rows that have no source: after all others


@dataclass(frozen=True, slots=True)
class Part:
    """One block of a target tensor: which source tensor it comes from; None for a block of zeros."""

    source: str | None
    block: Block


@dataclass(frozen=True, slots=True)
class Row:
    """One instance of a rule: for layer 3, say. ``parts`` is empty for a plain rename, where the numbers stay as they are.

    Attributes:
        zeros: blocks of source tensors that have no target, and so must hold zeros.
        copies: names of source tensors that have no target, and so must equal the first source.
        sizes: the sizes of the rule's axes here, shared by all rows of the same shapes; empty where there is no sentence.
    """

    status: str
    rule: AnyRule
    sources: tuple[TensorSpec, ...]
    targets: tuple[TensorSpec, ...]
    parts: tuple[tuple[Part, ...], ...] = ()
    why: str = ""
    zeros: tuple[Part, ...] = ()
    copies: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plan cannot be carried out. ``kind`` is one of unmatched, ambiguous, missing, shape, dtype, surplus, adapter."""

    kind: str
    name: str
    found: str
    expected: str
    hint: str = ""


@dataclass(slots=True)
class Instance:
    """The source tensors of one rule for one value of its loops, as they are found."""

    indices: Mapping[str, int]
    first: int  # place of its first tensor in the source, for the order of the target
    found: dict[tuple[int, tuple[int, ...]], TensorSpec]


class Matcher:
    """Everything that is known while a plan is made. ``missing.py`` completes what ``match`` and ``add_rows`` find."""

    def __init__(
        self,
        family: Family,
        to: str,
        sizes: Sizes | None,
        original: Original | None,
        layers: int | None,
        leave_out: Sequence[str] = (),
    ) -> None:
        self.to, self.sizes, self.original, self.layers = to, sizes, original, layers
        self.known = sizes.values_by_axis if sizes is not None else {}
        rules, behind = (family.rules, ()) if layers is None else without_numbered(family.rules, self.known, layers)
        self._behind: dict[str, list[Pattern]] = {}
        for pattern in (parse_pattern(put_in(name, self.known)) for name in behind):
            self._behind.setdefault(pattern.template, []).append(pattern)
        told = numbered_rules(rules, self.known)
        self.family = (
            family.with_rules(tuple(rule for rule, _ in told)) if len(told) < len(family.rules) or any(n for _, n in told) else family
        )
        self.numbered = frozenset(number for number, (_, is_numbered) in enumerate(told) if is_numbered)
        self.leave_out = tuple(leave_out)
        self.problems: list[Problem] = []
        self.rows: list[tuple[int, Row]] = []
        self.instances: dict[int, dict[tuple[int, ...], Instance]] = {}
        self.singles: dict[int, dict[tuple[int, ...], tuple[int, TensorSpec]]] = {}
        self.directed = [directed_rule(rule, to) for rule in self.family.rules]
        self._unnumbered = family.templates(to) - self.family.templates(to)
        self._depends_on = sizes.depends_on if sizes is not None else ()
        self._solved: dict[object, Solution | MappingError] = {}
        self._by_template: dict[str, list[tuple[int, int, Pattern]]] = {}
        for number, directed in enumerate(self.directed):
            for place, pattern in enumerate(directed.source):
                self._by_template.setdefault(pattern.template, []).append((number, place, pattern))
        self._quick = self._quick_templates() if layers is None and not leave_out and not self._depends_on else {}

    def _quick_templates(self) -> dict[str, int]:
        """Templates that only one rule has, a plain one whose numbers are all placeholders: their names need no second look."""
        quick = {}
        for template, candidates in self._by_template.items():
            number, _, pattern = candidates[0]
            if len(candidates) == 1 and self.directed[number].is_plain and pattern.slots == self.directed[number].loops:
                quick[template] = number
                self.singles[number] = {}
        return quick

    def sizes_at(self, indices: Mapping[str, int]) -> Mapping[str, Size]:
        """The sizes in one instance of a rule."""
        return {} if self.sizes is None else self.sizes.at(indices)

    def last_layer(self, axis: str) -> int | None:
        """The limit of a placeholder, where only the first layers were asked for; else None."""
        return self.layers if self.layers is not None and axis.endswith("layer") else None

    # -- names ---------------------------------------------------------------------------------------------------------

    def match(self, specs: Sequence[TensorSpec]) -> None:
        """Find the one rule of every name."""
        unmatched = []
        for place, spec in enumerate(specs):
            template, numbers = fold(spec.name)
            if template in self._quick:
                self.singles[self._quick[template]][numbers] = (place, spec)
                continue
            pattern_left_out = next((p for p in self.leave_out if fnmatchcase(spec.name, p)), None)
            if pattern_left_out is not None:
                self._leave_out(place, spec, Drop(pattern_left_out, "left out as asked"))
                continue
            hits = [
                (number, source, found)
                for number, source, pattern in self._by_template.get(template, ())
                if (found := pattern.match(numbers)) is not None
            ]
            if any(p.match(numbers) is not None for p in self._behind.get(template, ())):
                self._leave_out(place, spec, Drop(spec.name, f"layers={self.layers} asked for the first ones only"))
                continue
            hits = [hit for hit in hits if hit[0] in self.numbered] or hits
            if not hits:
                state = kind_of(spec.name).drop if self.to == HF else None
                if state is None:
                    unmatched.append(spec.name)
                else:
                    self._leave_out(place, spec, state)
            elif len(hits) > 1:
                texts = " and ".join(self.directed[number].source[source].text for number, source, _ in hits)
                self.problems.append(Problem("ambiguous", spec.name, f"rules {texts}", "one rule"))
            else:
                self._add(place, spec, *hits[0])
        self._add_unmatched(unmatched)

    def _leave_out(self, place: int, spec: TensorSpec, rule: AnyRule, why: str = "") -> None:
        self.rows.append((place, Row(LEFT_OUT, rule, (spec,), (), why=why or getattr(rule, "why", ""))))

    def _add(self, place: int, spec: TensorSpec, number: int, source: int, found: dict[str, int]) -> None:
        if any(index >= (self.last_layer(axis) or index + 1) for axis, index in found.items()):
            self._leave_out(place, spec, self.family.rules[number], f"layers={self.layers} asked for the first ones only")
            return
        directed = self.directed[number]
        if directed.is_plain and not self._depends_on:
            self.singles.setdefault(number, {})[tuple(found.values())] = (place, spec)
            return
        key = tuple(found[p] for p in directed.loops)
        axis = tuple(found[p] for p in directed.own[source])
        instances = self.instances.setdefault(number, {})
        if key not in instances:
            instances[key] = Instance(dict(zip(directed.loops, key, strict=True)), place, {})
        instances[key].found[source, axis] = spec

    def _add_unmatched(self, names: Sequence[str]) -> None:
        if not names:
            return
        target_templates = {p.template for directed in self.directed for p in directed.target}
        texts = {t: patterns[0][2].text for t, patterns in self._by_template.items()}
        hints: dict[str, str] = {}
        near = NearNames(texts)
        for name in names:
            reason = why_no_adapter(name, self.family)
            if reason is not None:
                self.problems.append(Problem("adapter", name, *reason))
                continue
            template = fold(name)[0]
            if template in self._unnumbered:
                self.problems.append(Problem("unmatched", name, "a number in its rule that the config tells", "a config", HINT_NO_CONFIG))
                continue
            if template not in hints:
                best = near.nearest(template)
                hints[template] = f"nearest rule: {texts[best]}" if best else ""
                if template in target_templates:
                    hints[template] = HINT_OTHER_SIDE
            self.problems.append(Problem("unmatched", name, "no rule", "exactly one rule", hints[template]))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def add_rows(self) -> None:
        """Turn every instance of every rule into a row, or into problems."""
        for number, instances in self.instances.items():
            directed = self.directed[number]
            rule = directed.rule
            keys = ONE_TENSOR if directed.is_single else tuple(self.source_keys(number))
            for instance in instances.values():
                if isinstance(rule, Drop):
                    specs = tuple(instance.found.values())
                    self.rows.append((instance.first, Row(DROPPED, rule, specs, (), why=rule.why)))
                elif isinstance(rule, Tied) and self._head_was_absent(rule):
                    specs = tuple(instance.found.values())
                    self.rows.append((instance.first, Row(TIED, rule, specs, (), why=f"tied to {rule.same_as}")))
                else:
                    self._add_row(directed, rule, instance, keys)
        for number, singles in self.singles.items():
            self._add_single_rows(self.directed[number], singles)

    def _add_single_rows(self, directed: Directed, singles: Mapping[tuple[int, ...], tuple[int, TensorSpec]]) -> None:
        """The short way for rules of one source and one target tensor: most names of a large checkpoint."""
        rule, loops, pattern = directed.rule, directed.loops, directed.target[0]
        if not isinstance(rule, Rule):
            return
        numbered = pattern.text.format_map({loop: f"{{{n}}}" for n, loop in enumerate(loops)})  # {layer} as {0}: twice as quick to fill
        solutions: dict[Shape, Solution | MappingError] = {}
        for key, (place, spec) in singles.items():
            sources = (spec,)
            solution = solutions.get(spec.shape) or solutions.setdefault(spec.shape, self._solution(directed, sources, ONE_TENSOR, {}))
            if isinstance(solution, MappingError):
                self.problems.append(self._shape_problem(directed, sources, ONE_TENSOR, {}, solution))
                continue
            name = numbered.format(*key)
            dtype = spec.dtype if rule.dtype is None else self._fixed_dtype(rule, name, spec.dtype)
            self.rows.append((place, _row(rule, sources, (TensorSpec(name, solution.targets[0][2], dtype),), solution)))

    def _fixed_dtype(self, rule: Rule, name: str, dtype: str) -> str:
        """The dtype of a target whose rule fixes that of floating numbers: on the way back, what the manifest remembers."""
        asked = rule.dtype if self.to == MF else self.original.dtypes.get(name) if self.original is not None else None
        return dtype if rule.dtype is None else dtype_after_cast(dtype, asked)

    def _head_was_absent(self, rule: Tied) -> bool:
        """On the way to Hugging Face: the head was not in the original; told by the manifest, else by the config."""
        if self.to != HF:
            return False
        if self.original is not None:
            return rule.hf not in self.original.names
        return bool(self.known.get(rule.only_if))

    def _add_row(self, directed: Directed, rule: Rule | Repeated | Tied, instance: Instance, keys: Sequence[SourceKey]) -> None:
        sources = self._complete_sources(directed, instance, keys)
        if sources is None:
            return
        dtype = sources[0].dtype
        if any(s.dtype != dtype for s in sources):
            names = " and ".join(sorted({s.dtype for s in sources}))
            self.problems.append(Problem("dtype", sources[0].name, names, "one dtype for tensors that become one"))
            return
        if len(sources) < len(keys):  # copies that need not be there
            keys = [key for key in keys if (key[0], tuple(key[1].values())) in instance.found]
        solution = self._solution(directed, sources, keys, instance.indices)
        if isinstance(solution, MappingError):
            self.problems.append(self._shape_problem(directed, sources, keys, instance.indices, solution))
            return
        if isinstance(rule, Repeated):
            self.rows.append((instance.first, self._copies(directed, rule, instance, sources)))
            return
        targets = []
        for pattern, axis, shape in solution.targets:
            name = pattern.fill({**instance.indices, **axis})
            targets.append(TensorSpec(name, shape, self._fixed_dtype(rule, name, dtype) if isinstance(rule, Rule) else dtype))
        self.rows.append((instance.first, _row(rule, sources, tuple(targets), solution)))

    def _copies(self, directed: Directed, rule: Repeated, instance: Instance, sources: tuple[TensorSpec, ...]) -> Row:
        """Equal tensors as one, or one as many: as many as the config says, else as the original had, else as there are layers."""
        first, part = sources[0], (Part(sources[0].name, whole(sources[0].elements)),)
        if self.to == MF:
            target = TensorSpec(directed.target[0].fill(instance.indices), first.shape, first.dtype)
            return Row(MAPPED, rule, sources, (target,), (part,), copies=tuple(s.name for s in sources[1:]))
        names = []
        for place, pattern in enumerate(directed.target):
            own = [p for p in pattern.placeholders if p not in instance.indices]
            for index in product(*(self.counted(axis) for axis in own)):
                name = pattern.fill({**instance.indices, **dict(zip(own, index, strict=True))})
                if is_needed(rule, place) or (self.original is not None and name in self.original.names):
                    names.append(name)
        targets = tuple(TensorSpec(name, first.shape, first.dtype) for name in names)
        return Row(MAPPED, rule, sources, targets, (part,) * len(targets))

    def counted(self, axis: str) -> range:
        """Every value of a placeholder: by the config, else as a manifest remembers, else up to the last one that the names have."""
        if axis in self.known and self.sizes is not None:
            return range(self.sizes[axis].first, min(self.known[axis], self.last_layer(axis) or self.known[axis]))
        seen = [key[d.loops.index(axis)] for n, d in enumerate(self.directed) if axis in d.loops for key in self.found_keys(n)]
        return range(max([*seen, *self._remembered(axis)], default=-1) + 1)

    def _remembered(self, axis: str) -> Iterator[int]:
        """The values of a placeholder in the names of the original."""
        by_template = {p.template: p for d in self.directed for p in d.target if axis in p.placeholders}
        for name in self.original.names if self.original is not None else ():
            template, numbers = fold(name)
            if template in by_template and (found := by_template[template].match(numbers)) is not None:
                yield found[axis]

    def found_keys(self, number: int) -> set[tuple[int, ...]]:
        """For one rule the values of its loops that were found."""
        return {*self.instances.get(number, ()), *self.singles.get(number, ())}

    def _complete_sources(self, directed: Directed, instance: Instance, keys: Sequence[SourceKey]) -> tuple[TensorSpec, ...] | None:
        """The source tensors in the order of the rule, experts counted up; None (and a problem each) where some are missing or too many."""
        found = [instance.found.get((place, tuple(axis.values()))) for place, axis in keys]
        if isinstance(directed.rule, Repeated) and self.to == MF:
            keys, found = _without_absent(directed.rule, keys, found)
        partner = next(iter(instance.found.values())).name
        for (place, axis), spec in zip(keys, found, strict=True):
            if spec is None:
                name = directed.source[place].fill({**instance.indices, **axis})
                self.problems.append(Problem("missing", name, "not in the checkpoint", f"beside {partner}"))
        complete = tuple(spec for spec in found if spec is not None)
        if len(complete) < len(instance.found):
            for (place, indices), spec in instance.found.items():
                self.add_surplus_of(spec.name, dict(zip(directed.own[place], indices, strict=True)))
        return complete if len(complete) == len(keys) == len(instance.found) else None

    def source_keys(self, number: int) -> Iterator[SourceKey]:
        """Every source tensor that an instance of a rule needs: its place in the sentence, and the index of its own axes (experts)."""
        directed = self.directed[number]
        most: dict[str, int] = {}  # experts in the layer that has most of them
        for instance in self.instances.get(number, {}).values():
            for place, indices in instance.found:
                for axis, index in zip(directed.own[place], indices, strict=True):
                    most[axis] = max(most.get(axis, 0), index + 1)
        for place, own in enumerate(directed.own):
            for indices in product(*(self._needed(axis, most.get(axis, 1)) for axis in own)):
                yield place, dict(zip(own, indices, strict=True))

    def _needed(self, axis: str, seen: int) -> range:
        first = self.sizes[axis].first if self.sizes is not None and axis in self.sizes else 0
        last = min(self.known.get(axis, seen), self.last_layer(axis) or MOST_MISSING + seen)
        return range(first, min(last, seen + MOST_MISSING))

    # -- shapes --------------------------------------------------------------------------------------------------------

    def _solution(
        self, directed: Directed, sources: tuple[TensorSpec, ...], keys: Sequence[SourceKey], indices: Mapping[str, int]
    ) -> Solution | MappingError:
        key = (id(directed), *(s.shape for s in sources), *(indices.get(p) for p in self._depends_on))
        if key not in self._solved:
            known = {axis: size.value for axis, size in self.sizes_at(indices).items()} if self._depends_on else self.known
            own = {p for t in directed.target for p in t.placeholders if p not in directed.loops and p not in known}
            known = {**known, **{axis: n for axis in own if (n := len(self.counted(axis))) > 0}} if own else known
            try:
                self._solved[key] = solve_rule(directed, [s.shape for s in sources], keys, known)
            except MappingError as error:
                self._solved[key] = error
        return self._solved[key]

    def _shape_problem(
        self,
        directed: Directed,
        sources: Sequence[TensorSpec],
        keys: Sequence[SourceKey],
        indices: Mapping[str, int],
        error: MappingError,
    ) -> Problem:
        sizes = self.sizes_at(indices)
        known = {axis: size.value for axis, size in sizes.items()}
        if directed.layouts is not None:
            for (place, _), spec in zip(keys, sources, strict=True):
                tensor = directed.layouts[0][place]
                if shape_of(tensor, known) not in (None, spec.shape):
                    return Problem("shape", spec.name, str(spec.shape), _explained(tensor, sizes), HINT_CONFIG)
        hint = HINT_CONFIG if self.sizes is not None else self._hint_without_config(directed)
        return Problem("shape", sources[0].name, f"{sources[0].shape}: {error.found}", str(error.expected), hint)

    def _hint_without_config(self, directed: Directed) -> str:
        """Where the sizes of a rule could come from: the config, or an option that gives one of them."""
        source, target = directed.layouts or ((), ())
        unknown = axis_names(e for tensor in (*source, *target) for e in tensor) | {p for t in directed.target for p in t.placeholders}
        unknown -= {e.name for tensor in source for e in tensor if isinstance(e, Axis)} | self.known.keys()  # a whole axis tells its size
        options = [f"--{o.name}" for o in (*COMMON_OPTIONS, *self.family.options) if o.size in unknown]
        return " ".join([HINT_NO_CONFIG, *([f"Or say it with {' and '.join(options)}."] if options else [])])

    # -- too much ------------------------------------------------------------------------------------------------------

    def add_surplus_of(self, name: str, indices: Mapping[str, int]) -> None:
        """A problem where an index is not among those that the config says."""
        for axis, index in indices.items():
            size = self.sizes_at(indices).get(axis)
            if size is not None and not size.first <= index < size.value:
                limits = f"{axis} below {size.value}" if index >= size.value else f"{axis} from {size.first} on"
                expected = f"{limits}, from {size.origin} in config.json"
                self.problems.append(Problem("surplus", name, f"{axis} {index}", expected, HINT_CONFIG))

    def ordered_rows(self) -> Iterable[Row]:
        """Rows in the order of the source."""
        return [row for _, row in sorted(self.rows, key=lambda r: r[0])]


def _without_absent(
    rule: Repeated, keys: Sequence[SourceKey], found: Sequence[TensorSpec | None]
) -> tuple[list[SourceKey], list[TensorSpec | None]]:
    """The keys without those of copies that a checkpoint need not have, and has not."""
    kept = [(key, spec) for key, spec in zip(keys, found, strict=True) if spec is not None or is_needed(rule, key[0])]
    return [key for key, _ in kept], [spec for _, spec in kept]


def _row(rule: AnyRule, sources: tuple[TensorSpec, ...], targets: tuple[TensorSpec, ...], solution: Solution) -> Row:
    if not solution.parts and not solution.zeros:
        return Row(MAPPED, rule, sources, targets, sizes=solution.sizes)
    parts = tuple(tuple(Part(None if s is None else sources[s].name, b) for s, b in blocks) for blocks in solution.parts)
    zeros = tuple(Part(sources[s].name, b) for s, b in solution.zeros)
    return Row(MAPPED, rule, sources, targets, parts, zeros=zeros, sizes=solution.sizes)


def _explained(tensor: TensorLayout, sizes: Mapping[str, Size]) -> str:
    """``(1024, 2048): 8 groups x 128 head, from num_key_value_heads and head_dim in config.json``."""
    names = [n for n in sorted(axis_names(tensor)) if n in sizes]
    values = ", ".join(f"{n} {sizes[n].value} from {sizes[n].origin}" for n in names)
    return f"{shape_of(tensor, {n: s.value for n, s in sizes.items()})}: {describe_tensor(tensor)} with {values}"
