"""What is not there, and what is not a bijection: tensors the config promises, tied heads, kept buffers, names that two rows make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from mfconv_nb.core.blocks import whole
from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import is_choice
from mfconv_nb.mapping.expected import expected_indices, is_expected, is_head_of_config, is_promised_head
from mfconv_nb.mapping.making_rows import MOST_MISSING, source_keys, surplus_problems
from mfconv_nb.mapping.matching import Key, Matches, PlanInputs
from mfconv_nb.mapping.plan_rows import LAST, RESTORED, TIED, Part, PlacedRow, Problem, Row
from mfconv_nb.mapping.rules import ALL_OR_NONE, AnyRule, Drop, Repeated, Rule, Tied, is_needed
from mfconv_nb.mapping.solve import Directed

HINT_TIED = "A head may be tied to the embedding; the config says so: give it with --config (config= in Python)."
HINT_UNTIED = (
    "A network of a tied model holds no head: does this config.json, which does not tie it, belong to these weights? "
    "Another one can be given with --config (config= in Python)."
)


# ---- rows without a tensor of their own --------------------------------------------------------------------------------


def tied_rows(inputs: PlanInputs, matches: Matches, rows: Sequence[PlacedRow]) -> Iterator[PlacedRow]:
    """Heads that the Hugging Face side leaves out because they are the embedding."""
    if inputs.to != MF or not inputs.known:
        return
    for number, directed in enumerate(inputs.directed):
        rule = directed.rule
        if not isinstance(rule, Tied) or number in matches.instances or not inputs.known.get(rule.only_if):
            continue
        source = next((s for _, row in rows for s in row.sources if s.name == rule.same_as), None)
        if source is not None:
            target = TensorSpec(rule.mf, source.shape, source.dtype)
            parts = ((Part(source.name, whole(source.elements)),),)
            yield LAST, Row(TIED, rule, (source,), (target,), parts, why=f"a copy of {rule.same_as}")


def restored_rows(inputs: PlanInputs) -> Iterator[PlacedRow]:
    """On the way back: tensors that the folder beside the checkpoint kept."""
    if inputs.original is None or inputs.to != HF:
        return
    for name, tensor in inputs.original.carried.items():
        rule = _rule_of_target(inputs, name)
        if rule is not None:
            yield LAST, Row(RESTORED, rule, (), (tensor.spec,), why="kept beside the checkpoint")


def _rule_of_target(inputs: PlanInputs, name: str) -> AnyRule | None:
    template, numbers = fold(name)
    for directed in inputs.directed:
        for pattern in directed.target:
            if pattern.template == template and pattern.match(numbers) is not None:
                return directed.rule
    return None


# ---- what is missing, or too much --------------------------------------------------------------------------------------


def missing_problems(inputs: PlanInputs, matches: Matches, known: Iterable[Problem]) -> Iterator[Problem]:
    """What the config promises and the checkpoint lacks, and the other way round; without a config, what only some layers have.

    Args:
        known: the problems found before; a name that has one is there.
    """
    promised = list(_missing_by_config(inputs, matches, known)) if inputs.sizes is not None else []
    yield from promised
    if inputs.sizes is not None:
        yield from _surplus_by_config(inputs, matches)
    said = {p.name for p in promised}
    yield from (p for p in _missing_by_comparison(inputs, matches) if p.name not in said)


def _missing_by_config(inputs: PlanInputs, matches: Matches, known: Iterable[Problem]) -> Iterator[Problem]:
    assert inputs.sizes is not None
    present = {s.name for s in matches.specs()} | {s.name for _, row in matches.rows for s in row.sources} | {p.name for p in known}
    enough = len(present) + MOST_MISSING  # so many names cannot all be there
    for directed in inputs.directed:
        rule = directed.rule
        if not (is_promised_head(rule, inputs.known) if is_head_of_config(rule) else is_expected(rule, inputs.known, inputs.to)):
            continue
        for place, pattern in enumerate(directed.source):
            for indices in islice(expected_indices(pattern, inputs.sizes, enough), enough if is_needed(rule, place) else 0):
                name = pattern.fill(indices)
                if name not in present and all(i < (inputs.last_layer(p) or i + 1) for p, i in indices.items()):
                    yield Problem("missing", name, "not in the checkpoint", *_describe_promise(inputs, rule, indices))


def _describe_promise(inputs: PlanInputs, rule: AnyRule, indices: dict[str, int]) -> tuple[str, str]:
    """What the config promises, with its key where the name counts something; and what to do about it."""
    if is_head_of_config(rule):
        return f"there: config.json does not tie it to {rule.same_as}", HINT_UNTIED
    return _describe_count(inputs, indices), inputs.config_hint


def _describe_count(inputs: PlanInputs, indices: dict[str, int]) -> str:
    axis = next(iter(indices), None)
    size = inputs.sizes_at(indices).get(axis) if axis is not None else None
    if size is None:
        return "there"
    limit = size.value if axis is None else min(size.value, inputs.last_layer(axis) or size.value)
    return f"there, by {inputs.config_file} ({size.origin} = {limit})"


def _surplus_by_config(inputs: PlanInputs, matches: Matches) -> Iterator[Problem]:
    """Tensors of layers that the config does not have."""
    for number, instances in matches.instances.items():
        directed = inputs.directed[number]
        if isinstance(directed.rule, Drop) or _is_within_config(inputs, directed.loops, instances):
            continue
        for key, instance in instances.items():
            for spec in instance.found.values():
                yield from surplus_problems(inputs, spec.name, dict(zip(directed.loops, key, strict=True)))


def _is_within_config(inputs: PlanInputs, loops: Sequence[str], keys: Iterable[Key]) -> bool:
    """Whether every value of every loop is one that the config has: a quick look at all, which nearly always is enough."""
    sizes = inputs.sizes_at({})
    if any(axis not in sizes for axis in loops):
        return False
    columns = zip(*keys, strict=True)
    return all(
        set(column) <= set(sizes[axis].only) if sizes[axis].only else sizes[axis].first <= min(column) and max(column) < sizes[axis].value
        for axis, column in zip(loops, columns, strict=False)
    )


def _missing_by_comparison(inputs: PlanInputs, matches: Matches) -> Iterator[Problem]:
    """Where no config says what to expect: rules that match nothing, and what some layers have and others lack."""
    seen: dict[tuple[str, ...], set[Key]] = {}
    left_out = {s.name for _, row in matches.rows for s in row.sources}
    for number, directed in enumerate(inputs.directed):
        if not isinstance(directed.rule, Drop) and (keys := matches.found_keys(number)):
            seen.setdefault(directed.loops, set()).update(keys)
    for number, directed in enumerate(inputs.directed):
        found, loops = matches.found_keys(number), directed.loops
        if not _is_compared(inputs, directed, found):
            continue
        expected, hint = "there, as in the other layers" if loops else "there", ""
        if is_head_of_config(directed.rule):
            expected, hint = f"there, unless config.json ties it to {directed.rule.same_as}", HINT_TIED
        wanted = _layers_up_to_last(inputs, loops, seen.get(loops, set())) if loops else {()}
        for key in sorted(wanted - found):
            for place, axis in source_keys(inputs, matches, number):
                name = directed.source[place].fill({**dict(zip(loops, key, strict=True)), **axis})
                if name not in left_out:
                    yield Problem("missing", name, "not in the checkpoint", expected, hint)


def _is_compared(inputs: PlanInputs, directed: Directed, found: set[Key]) -> bool:
    """Whether the layers of a rule are compared with those of the others: where no config promises them."""
    rule = directed.rule
    if isinstance(rule, Drop):
        return False
    if is_head_of_config(rule):
        return not found and is_promised_head(rule, inputs.known) is None
    is_counted = inputs.sizes is not None and all(p in inputs.known for pattern in directed.source for p in pattern.placeholders)
    if isinstance(rule, Rule | Repeated) and (rule.optional or rule.only_if):
        is_promised = is_counted and is_expected(rule, inputs.known, inputs.to)
        return bool(found) and not is_promised and rule.optional in ("", ALL_OR_NONE)
    return not is_counted


def _layers_up_to_last(inputs: PlanInputs, loops: tuple[str, ...], seen: set[Key]) -> set[Key]:
    """The values that rules of these loops have; of one placeholder all up to the largest, so that a hole is noticed."""
    single = [key[0] for key in seen if len(key) == 1]
    if not single or any(is_choice(each) for axis in loops for each in inputs.family.sizes.get(axis, "").split("|")):
        return seen
    counts_from_zero = not any(".." in inputs.family.sizes.get(axis, "") for axis in loops)
    return {(n,) for n in range(0 if counts_from_zero else min(single), max(single) + 1)} | seen


# ---- names that two rows make ------------------------------------------------------------------------------------------


def collision_problems(rows: Sequence[PlacedRow]) -> Iterator[Problem]:
    """Targets that two rows make: one would silently take the place of the other."""
    makers: dict[str, Row] = {}
    for _, row in rows:
        for target in row.targets:
            first = makers.setdefault(target.name, row)
            if first is not row:
                found = " and ".join(f"made from {', '.join(s.name for s in r.sources) or r.why}" for r in (first, row))
                yield Problem("ambiguous", target.name, found, "made by one rule")
