"""Make rows of the instances that matching found: complete sources, targets with shapes and dtypes, or the problem in the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from mfconv_nb.core.blocks import Shape, whole
from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.dtypes import dtype_after_cast
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.folding import fold
from mfconv_nb.core.layout import Axis, TensorLayout, axis_names, describe_tensor, shape_of
from mfconv_nb.core.sizes import Size
from mfconv_nb.mapping.matching import FIRST_TENSOR, HINT_NO_CONFIG, Instance, Key, Matches, PlanInputs
from mfconv_nb.mapping.plan_rows import DROPPED, MAPPED, TIED, Part, PlacedRow, Problem, Row
from mfconv_nb.mapping.rules import COMMON_OPTIONS, AnyRule, Drop, Repeated, Rule, Tied, is_needed
from mfconv_nb.mapping.solve import ONE_TENSOR, Directed, Solution, SourceKey, solve_rule

VOCABULARY = Axis("vocab")
HINT_PADDED = "Were rows added so that the vocabulary divides? --cut_vocabulary (cut_vocabulary=True in Python) cuts them off."
HINT_CUT = (
    "Were rows added so that the vocabulary divides? Convert with the config of the model alone, and cut them off: "
    "--config HF_DIR --cut_vocabulary (config='HF_DIR', cut_vocabulary=True in Python)."
)
MOST_MISSING = 1000  # names of a rule that are listed: a config.json may promise a billion layers


def make_rows(inputs: PlanInputs, matches: Matches) -> tuple[list[PlacedRow], list[Problem]]:
    """Turn every instance of every rule into a row or into problems, rule by rule."""
    maker = _RowMaker(inputs, matches)
    for number, instances in sorted(matches.instances.items()):
        maker.add_instances(number, instances)
    return maker.rows, maker.problems


class _RowMaker:
    """Rows and problems as they are made, and the solutions that instances of the same shapes share."""

    def __init__(self, inputs: PlanInputs, matches: Matches) -> None:
        self.inputs, self.matches = inputs, matches
        self.rows: list[PlacedRow] = []
        self.problems: list[Problem] = []
        self._solved: dict[object, Solution | MappingError] = {}

    def add_instances(self, number: int, instances: Mapping[Key, Instance]) -> None:
        """Add a row or problems for each instance of one rule."""
        directed = self.inputs.directed[number]
        rule = directed.rule
        if directed.is_plain and isinstance(rule, Rule) and not self.inputs.depends_on:
            self._add_plain_rows(directed, rule, instances)
        elif isinstance(rule, Drop):
            self._add_without_target(DROPPED, rule, instances, rule.why)
        elif isinstance(rule, Tied) and self._was_head_absent(rule):
            self._add_without_target(TIED, rule, instances, f"tied to {rule.same_as}")
        else:
            keys = ONE_TENSOR if directed.is_single else tuple(source_keys(self.inputs, self.matches, number))
            for key, instance in instances.items():
                self._add_row(directed, rule, dict(zip(directed.loops, key, strict=True)), instance, keys)

    def _add_plain_rows(self, directed: Directed, rule: Rule, instances: Mapping[Key, Instance]) -> None:
        """Add the rows of a rule of one source and one target tensor: as ``_add_row`` does, in 40 % of the time."""
        loops, pattern = directed.loops, directed.target[0]
        numbered = pattern.text.format_map({loop: f"{{{n}}}" for n, loop in enumerate(loops)})  # {layer} as {0}: twice as quick to fill
        solutions: dict[Shape, Solution | MappingError] = {}
        for key, instance in instances.items():
            spec = instance.found[FIRST_TENSOR]
            sources = (spec,)
            solution = solutions.get(spec.shape) or solutions.setdefault(spec.shape, self._solve(directed, sources, ONE_TENSOR, {}))
            if isinstance(solution, MappingError):
                self.problems.append(self._shape_problem(directed, sources, ONE_TENSOR, {}, solution))
                continue
            name = numbered.format(*key)
            dtype = spec.dtype if rule.dtype is None else self._fixed_dtype(rule, name, spec.dtype)
            self.rows.append((instance.first, _mapped_row(rule, sources, (TensorSpec(name, solution.targets[0][2], dtype),), solution)))

    def _add_without_target(self, status: str, rule: AnyRule, instances: Mapping[Key, Instance], why: str) -> None:
        for instance in instances.values():
            self.rows.append((instance.first, Row(status, rule, tuple(instance.found.values()), (), why=why)))

    def _was_head_absent(self, rule: Tied) -> bool:
        """Whether the original of what goes to Hugging Face had no head: the manifest says so, else the config."""
        if self.inputs.to != HF:
            return False
        if self.inputs.original is not None:
            return rule.hf not in self.inputs.original.names
        return bool(self.inputs.known.get(rule.only_if))

    def _add_row(
        self, directed: Directed, rule: Rule | Repeated | Tied, indices: Mapping[str, int], instance: Instance, keys: Sequence[SourceKey]
    ) -> None:
        sources = self._complete_sources(directed, indices, instance, keys)
        if sources is None:
            return
        dtype = sources[0].dtype
        if any(s.dtype != dtype for s in sources):
            names = " and ".join(sorted({s.dtype for s in sources}))
            self.problems.append(Problem("dtype", sources[0].name, names, "one dtype for tensors that become one"))
            return
        if len(sources) < len(keys):  # copies that need not be there
            keys = [key for key in keys if (key[0], tuple(key[1].values())) in instance.found]
        solution = self._solve(directed, sources, keys, indices)
        if isinstance(solution, MappingError):
            self.problems.append(self._shape_problem(directed, sources, keys, indices, solution))
            return
        if isinstance(rule, Repeated):
            self.rows.append((instance.first, self._row_of_copies(directed, rule, indices, sources)))
            return
        targets = []
        for pattern, axis, shape in solution.targets:
            name = pattern.fill({**indices, **axis})
            targets.append(TensorSpec(name, shape, self._fixed_dtype(rule, name, dtype) if isinstance(rule, Rule) else dtype))
        self.rows.append((instance.first, _mapped_row(rule, sources, tuple(targets), solution)))

    def _fixed_dtype(self, rule: Rule, name: str, dtype: str) -> str:
        """The dtype of a target whose rule fixes that of floating numbers; on the way back, the one that the manifest remembers."""
        original = self.inputs.original
        asked = rule.dtype if self.inputs.to == MF else original.dtypes.get(name) if original is not None else None
        return dtype if rule.dtype is None else dtype_after_cast(dtype, asked)

    def _row_of_copies(self, directed: Directed, rule: Repeated, indices: Mapping[str, int], sources: tuple[TensorSpec, ...]) -> Row:
        """Make one of equal tensors; or of one as many as the config says, else as the original had, else as there are layers."""
        first, part = sources[0], (Part(sources[0].name, whole(sources[0].elements)),)
        if self.inputs.to == MF:
            target = TensorSpec(directed.target[0].fill(indices), first.shape, first.dtype)
            return Row(MAPPED, rule, sources, (target,), (part,), copies=tuple(s.name for s in sources[1:]))
        remembered = self.inputs.original.names if self.inputs.original is not None else ()
        names = []
        for place, pattern in enumerate(directed.target):
            own = [p for p in pattern.placeholders if p not in indices]
            for index in product(*(self._index_range(axis) for axis in own)):
                name = pattern.fill({**indices, **dict(zip(own, index, strict=True))})
                if is_needed(rule, place) or name in remembered:
                    names.append(name)
        targets = tuple(TensorSpec(name, first.shape, first.dtype) for name in names)
        return Row(MAPPED, rule, sources, targets, (part,) * len(targets))

    def _index_range(self, axis: str) -> range:
        """The values of a placeholder: by the config, else as a manifest remembers, else up to the last one that the names have."""
        inputs = self.inputs
        if axis in inputs.known and inputs.sizes is not None:
            return range(inputs.sizes[axis].first, min(inputs.known[axis], inputs.last_layer(axis) or inputs.known[axis]))
        loops = {number: d.loops.index(axis) for number, d in enumerate(inputs.directed) if axis in d.loops}
        seen = [key[place] for number, place in loops.items() for key in self.matches.found_keys(number)]
        return range(max([*seen, *_remembered_values(inputs, axis)], default=-1) + 1)

    def _complete_sources(
        self, directed: Directed, indices: Mapping[str, int], instance: Instance, keys: Sequence[SourceKey]
    ) -> tuple[TensorSpec, ...] | None:
        """The source tensors in the order of the rule, experts counted up; None (and a problem each) where some are missing or too many."""
        found = [instance.found.get((place, tuple(axis.values()))) for place, axis in keys]
        if isinstance(directed.rule, Repeated) and self.inputs.to == MF:
            keys, found = _without_absent(directed.rule, keys, found)
        partner = next(iter(instance.found.values())).name
        for (place, axis), spec in zip(keys, found, strict=True):
            if spec is None:
                name = directed.source[place].fill({**indices, **axis})
                self.problems.append(Problem("missing", name, "not in the checkpoint", f"beside {partner}"))
        complete = tuple(spec for spec in found if spec is not None)
        if len(complete) < len(instance.found):
            for (place, own), spec in instance.found.items():
                self.problems.extend(surplus_problems(self.inputs, spec.name, dict(zip(directed.own[place], own, strict=True))))
        return complete if len(complete) == len(keys) == len(instance.found) else None

    def _solve(
        self, directed: Directed, sources: tuple[TensorSpec, ...], keys: Sequence[SourceKey], indices: Mapping[str, int]
    ) -> Solution | MappingError:
        inputs = self.inputs
        key = (id(directed), *(s.shape for s in sources), *(indices.get(p) for p in inputs.depends_on))
        if key not in self._solved:
            known = {axis: size.value for axis, size in inputs.sizes_at(indices).items()} if inputs.depends_on else inputs.known
            own = {p for t in directed.target for p in t.placeholders if p not in directed.loops and p not in known}
            known = {**known, **{axis: n for axis in own if (n := len(self._index_range(axis))) > 0}} if own else known
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
        """The first source whose shape is not that of its layout and the config; else what solving says."""
        sizes = self.inputs.sizes_at(indices)
        known = {axis: size.value for axis, size in sizes.items()}
        if directed.layouts is not None:
            for (place, _), spec in zip(keys, sources, strict=True):
                tensor = directed.layouts[0][place]
                expected = shape_of(tensor, known)
                if expected not in (None, spec.shape):
                    padded = expected and _has_more_rows(spec.shape, expected, tensor)
                    hint = f"{HINT_PADDED} {self.inputs.config_hint}" if padded else self.inputs.config_hint
                    return Problem("shape", spec.name, str(spec.shape), _describe_expected(tensor, sizes), hint)
        hint = self.inputs.config_hint if self.inputs.sizes is not None else _hint_without_config(self.inputs, directed)
        return Problem("shape", sources[0].name, f"{sources[0].shape}: {error.found}", str(error.expected), hint)


def _has_more_rows(found: Shape, expected: Shape, tensor: TensorLayout) -> bool:
    """Whether all that is wrong is that there are more rows than the vocabulary has."""
    return tensor[0] == VOCABULARY and found[1:] == expected[1:] and found[0] > expected[0]


def source_keys(inputs: PlanInputs, matches: Matches, number: int) -> Iterator[SourceKey]:
    """Every source tensor that an instance of a rule needs: its place in the sentence, and the index of its own axes (experts)."""
    directed = inputs.directed[number]
    most: dict[str, int] = {}  # experts in the layer that has most of them
    for instance in matches.instances.get(number, {}).values():
        for place, indices in instance.found:
            for axis, index in zip(directed.own[place], indices, strict=True):
                most[axis] = max(most.get(axis, 0), index + 1)
    for place, own in enumerate(directed.own):
        for indices in product(*(_needed_range(inputs, axis, most.get(axis, 1)) for axis in own)):
            yield place, dict(zip(own, indices, strict=True))


def _needed_range(inputs: PlanInputs, axis: str, seen: int) -> range:
    """The indices of an axis that an instance needs: by the config, else as many as were seen."""
    first = inputs.sizes[axis].first if inputs.sizes is not None and axis in inputs.sizes else 0
    last = min(inputs.known.get(axis, seen), inputs.last_layer(axis) or MOST_MISSING + seen)
    return range(first, min(last, seen + MOST_MISSING))


def surplus_problems(inputs: PlanInputs, name: str, indices: Mapping[str, int]) -> Iterator[Problem]:
    """A problem for each index that is not among those of the config."""
    for axis, index in indices.items():
        size = inputs.sizes_at(indices).get(axis)
        if size is not None and not size.first <= index < size.value:
            limits = f"{axis} below {size.value}" if index >= size.value else f"{axis} from {size.first} on"
            yield Problem("surplus", name, f"{axis} {index}", f"{limits}, from {size.origin} in {inputs.config_file}", inputs.config_hint)
        elif size is not None and index not in size.numbers:
            expected = f"{axis} one of {', '.join(map(str, size.only))}, from {size.origin} in {inputs.config_file}"
            yield Problem("surplus", name, f"{axis} {index}", expected, inputs.config_hint)


def _remembered_values(inputs: PlanInputs, axis: str) -> Iterator[int]:
    """The values of a placeholder in the names of the original."""
    by_template = {p.template: p for d in inputs.directed for p in d.target if axis in p.placeholders}
    for name in inputs.original.names if inputs.original is not None else ():
        template, numbers = fold(name)
        if template in by_template and (found := by_template[template].match(numbers)) is not None:
            yield found[axis]


def _without_absent(
    rule: Repeated, keys: Sequence[SourceKey], found: Sequence[TensorSpec | None]
) -> tuple[list[SourceKey], list[TensorSpec | None]]:
    """The keys without those of copies that a checkpoint need not have, and has not."""
    kept = [(key, spec) for key, spec in zip(keys, found, strict=True) if spec is not None or is_needed(rule, key[0])]
    return [key for key, _ in kept], [spec for _, spec in kept]


def _mapped_row(rule: AnyRule, sources: tuple[TensorSpec, ...], targets: tuple[TensorSpec, ...], solution: Solution) -> Row:
    if not solution.parts and not solution.zeros:
        return Row(MAPPED, rule, sources, targets, sizes=solution.sizes)
    parts = tuple(tuple(Part(None if s is None else sources[s].name, b) for s, b in blocks) for blocks in solution.parts)
    zeros = tuple(Part(sources[s].name, b) for s, b in solution.zeros)
    return Row(MAPPED, rule, sources, targets, parts, zeros=zeros, sizes=solution.sizes)


def _hint_without_config(inputs: PlanInputs, directed: Directed) -> str:
    """Where the sizes of a rule could come from: the config, or an option that gives one of them."""
    source, target = directed.layouts or ((), ())
    unknown = axis_names(e for tensor in (*source, *target) for e in tensor) | {p for t in directed.target for p in t.placeholders}
    unknown -= {e.name for tensor in source for e in tensor if isinstance(e, Axis)} | inputs.known.keys()  # a whole axis tells its size
    options = [f"--{o.name}" for o in (*COMMON_OPTIONS, *inputs.family.options) if o.size in unknown]
    return " ".join([HINT_NO_CONFIG, *([f"Or say it with {' and '.join(options)}."] if options else [])])


def _describe_expected(tensor: TensorLayout, sizes: Mapping[str, Size]) -> str:
    """``(1024, 2048): 8 groups x 128 head, from num_key_value_heads and head_dim in config.json``."""
    names = [n for n in sorted(axis_names(tensor)) if n in sizes]
    values = ", ".join(f"{n} {sizes[n].value} from {sizes[n].origin}" for n in names)
    return f"{shape_of(tensor, {n: s.value for n, s in sizes.items()})}: {describe_tensor(tensor)} with {values}"
