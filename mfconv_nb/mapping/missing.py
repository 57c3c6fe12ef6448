"""What is not there, and what is not a bijection: tensors the config promises, tied heads, kept buffers, names that two rows make."""

from __future__ import annotations

from itertools import islice

from mfconv_nb.core.blocks import whole
from mfconv_nb.core.checkpoint import HF, MF, TensorSpec
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import HINT_CONFIG
from mfconv_nb.mapping.expected import expected_indices, is_expected
from mfconv_nb.mapping.matching import LAST, MOST_MISSING, RESTORED, TIED, Matcher, Part, Problem, Row
from mfconv_nb.mapping.rules import ALL_OR_NONE, AnyRule, Drop, Repeated, Rule, Tied, is_needed
from mfconv_nb.mapping.solve import Directed

HINT_TIED = "A head may be tied to the embedding; the config says so: give it with --config (config= in Python)."


def add_tied(matcher: Matcher) -> None:
    """Heads that the Hugging Face side leaves out because they are the embedding."""
    if matcher.to != MF or not matcher.known:
        return
    for number, rule in enumerate(matcher.family.rules):
        if not isinstance(rule, Tied) or number in matcher.instances or not matcher.known.get(rule.only_if):
            continue
        source = next((s for _, row in matcher.rows for s in row.sources if s.name == rule.same_as), None)
        if source is not None:
            target = TensorSpec(rule.mf, source.shape, source.dtype)
            parts = ((Part(source.name, whole(source.elements)),),)
            row = Row(TIED, rule, (source,), (target,), parts, why=f"a copy of {rule.same_as}")
            matcher.rows.append((LAST, row))


def add_restored(matcher: Matcher) -> None:
    """On the way back: tensors that the folder beside the checkpoint kept."""
    if matcher.original is None or matcher.to != HF:
        return
    for name, tensor in matcher.original.carried.items():
        rule = _rule_of_target(matcher, name)
        if rule is not None:
            matcher.rows.append((LAST, Row(RESTORED, rule, (), (tensor.spec,), why="kept beside the checkpoint")))


def _rule_of_target(matcher: Matcher, name: str) -> AnyRule | None:
    template, numbers = fold(name)
    for directed in matcher.directed:
        for pattern in directed.target:
            if pattern.template == template and pattern.match(numbers) is not None:
                return directed.rule
    return None


def add_missing(matcher: Matcher) -> None:
    """What the config promises and the checkpoint lacks; without a config, what some layers have and others lack."""
    if matcher.sizes is not None:
        _add_missing_by_config(matcher)
        _add_surplus(matcher)
    _add_missing_by_comparison(matcher)


def _add_missing_by_config(matcher: Matcher) -> None:
    assert matcher.sizes is not None
    present = {s.name for _, row in matcher.rows for s in row.sources}
    present |= {s.name for i in matcher.instances.values() for x in i.values() for s in x.found.values()}
    present |= {spec.name for singles in matcher.singles.values() for _, spec in singles.values()}
    present |= {p.name for p in matcher.problems}
    enough = len(present) + MOST_MISSING  # so many names cannot all be there
    for directed in matcher.directed:
        if not is_expected(directed.rule, matcher.known, matcher.to):
            continue
        for place, pattern in enumerate(directed.source):
            for indices in islice(expected_indices(pattern, matcher.sizes, enough), enough if is_needed(directed.rule, place) else 0):
                name = pattern.fill(indices)
                if name not in present and all(i < (matcher.last_layer(p) or i + 1) for p, i in indices.items()):
                    matcher.problems.append(Problem("missing", name, "not in the checkpoint", _promise(matcher, indices), HINT_CONFIG))


def _promise(matcher: Matcher, indices: dict[str, int]) -> str:
    """Which key of the config promises a tensor, where its name counts something."""
    axis = next(iter(indices), None)
    size = matcher.sizes_at(indices).get(axis) if axis is not None else None
    if size is None:
        return "there"
    limit = size.value if axis is None else min(size.value, matcher.last_layer(axis) or size.value)
    return f"there, by config.json ({size.origin} = {limit})"


def _add_surplus(matcher: Matcher) -> None:
    for number, instances in matcher.instances.items():
        for instance in instances.values():
            for spec in instance.found.values() if not isinstance(matcher.family.rules[number], Drop) else ():
                matcher.add_surplus_of(spec.name, instance.indices)
    for number, singles in matcher.singles.items():
        loops = matcher.directed[number].loops
        limits = [(matcher.sizes[axis].first, matcher.sizes[axis].value) for axis in loops if matcher.sizes and axis in matcher.sizes]
        if len(limits) < len(loops):
            limits = []
        for key, (_, spec) in singles.items():
            if not limits or any(not first <= index < last for index, (first, last) in zip(key, limits, strict=True)):
                matcher.add_surplus_of(spec.name, dict(zip(loops, key, strict=True)))


def _add_missing_by_comparison(matcher: Matcher) -> None:
    """Where no config says what to expect: rules that match nothing, and what some layers have and others lack."""
    seen: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
    for number, directed in enumerate(matcher.directed):
        if not isinstance(directed.rule, Drop) and (keys := matcher.found_keys(number)):
            seen.setdefault(directed.loops, set()).update(keys)
    for number, directed in enumerate(matcher.directed):
        found, loops = matcher.found_keys(number), directed.loops
        if not _is_compared(matcher, directed, found):
            continue
        expected = "there, as in the other layers" if loops else "there"
        hint = HINT_TIED if isinstance(directed.rule, Tied) else ""
        others = seen.get(loops, set())
        for key in sorted(
            (others | _between(others, counts_from_zero=_counts_from_zero(matcher, loops)) | (set() if loops else {()})) - found
        ):
            for place, axis in matcher.source_keys(number):
                name = directed.source[place].fill({**dict(zip(loops, key, strict=True)), **axis})
                matcher.problems.append(Problem("missing", name, "not in the checkpoint", expected, hint))


def _is_compared(matcher: Matcher, directed: Directed, found: set[tuple[int, ...]]) -> bool:
    """Whether the layers of a rule are compared with those of the others: where no config promises them."""
    rule = directed.rule
    if isinstance(rule, Drop):
        return False
    told = matcher.sizes is not None and all(p in matcher.known for pattern in directed.source for p in pattern.placeholders)
    if isinstance(rule, Rule | Repeated) and (rule.optional or rule.only_if):
        promised = told and is_expected(rule, matcher.known, matcher.to)
        return bool(found) and not promised and rule.optional in ("", ALL_OR_NONE)
    return not told


def _counts_from_zero(matcher: Matcher, loops: tuple[str, ...]) -> bool:
    return not any(".." in matcher.family.sizes.get(axis, "") for axis in loops)


def _between(keys: set[tuple[int, ...]], *, counts_from_zero: bool) -> set[tuple[int, ...]]:
    """For loops of one placeholder: all up to the largest seen, so that a hole is noticed."""
    single = [k[0] for k in keys if len(k) == 1]
    return {(n,) for n in range(0 if counts_from_zero else min(single), max(single) + 1)} if single else set()


def add_collisions(matcher: Matcher) -> None:
    """Targets that two rows make: one would silently take the place of the other."""
    makers: dict[str, Row] = {}
    for _, row in matcher.rows:
        for target in row.targets:
            first = makers.setdefault(target.name, row)
            if first is not row:
                found = " and ".join(f"made from {', '.join(s.name for s in r.sources) or r.why}" for r in (first, row))
                matcher.problems.append(Problem("ambiguous", target.name, found, "made by one rule"))
