"""How many rules of the known families `mc.author.suggest` finds, from names and shapes alone, and with the numbers of both sides.

python -m benchmarks.suggest            default forms, and architectures that no family maps
python -m benchmarks.suggest --forms    every other form too

For each family the toy is mapped by the family, and `mc.author.suggest` is shown the two sides. A rule of the family counts as found when
the suggested rules, each applied alone to the toy, make every tensor of that rule with the bytes that the family makes. Everything else is
missed: a rule for other tensors, another order of the same numbers, no rule. By names, rules under an option that no name and no shape
shows are not asked for. The words that `suggest` knows were chosen while these families were looked at, so the share by names flatters;
`unseen.py` was written afterwards, and says what the first run found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mfconv_nb as mc
from benchmarks.unseen import UNSEEN
from mfconv_nb.author.suggesting.suggestion import Suggestion
from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, checkpoint_of
from mfconv_nb.core.folding import fold
from mfconv_nb.core.sizes import read_sizes
from mfconv_nb.mapping.forms import all_forms
from mfconv_nb.mapping.rules import NUMBERS, AnyRule, Drop, Family, Tied, numbered_rules, sides_of

Bytes = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Score:
    """What was found of one form of a family."""

    family: str
    form: str
    values: bool
    found: int
    rules: int
    missed: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.found / self.rules

    def __str__(self) -> str:
        by = "with values" if self.values else "by names"
        missed = f"  missed: {', '.join(self.missed)}" if self.missed else ""
        return f"{self.family:<14} {by:<11} {self.found:>3} of {self.rules:<3} {100 * self.share:5.1f} %{missed}"


def share_of(scores: Iterable[Score]) -> float:
    """The share of rules that were found, over all scores."""
    counted = list(scores)
    return sum(s.found for s in counted) / sum(s.rules for s in counted)


def families_with_toy() -> list[Family]:
    return [family for family in mc.known_families() if family.toy]


def different(families: Iterable[Family]) -> list[Family]:
    """Families whose default rules no earlier one has: Yi is Llama's table under another key."""
    seen: list[Any] = []
    kept = []
    for family in families:
        table = {str((r.pattern,) if isinstance(r, Drop) else (r.hf, r.mf)) for r in all_forms(family)[0].rules}
        if table not in seen:
            seen.append(table)
            kept.append(family)
    return kept


def default_scores(families: Iterable[Family], *, values: bool) -> list[Score]:
    """One score a family, in its default form."""
    return [score_of(family, all_forms(family)[0], values=values) for family in families]


def other_scores(families: Iterable[Family], *, values: bool, forms_of: Callable[[Family], Iterable[Family]] = all_forms) -> list[Score]:
    """One score for every form that ``forms_of`` gives but the first; forms with the same rules and sizes count once."""
    return [score_of(family, form, values=values) for family in families for form in _other_forms(forms_of(family))]


def _other_forms(forms: Iterable[Family]) -> list[Family]:
    seen: list[Any] = []
    kept = []
    for form in forms:
        if (form.rules, form.sizes) not in seen:
            seen.append((form.rules, form.sizes))
            kept.append(form)
    return kept[1:]


def score_of(family: Family, form: Family, *, values: bool) -> Score:
    """Show `mc.author.suggest` both sides of a toy, and compare what its rules make with what the family makes."""
    chosen: dict[str, Any] = dict(form.chosen)
    toy = mc.toy(family, options=chosen)
    hf = checkpoint_of(toy.tensors, side=HF, config=toy.config)
    mapped = mc.map(toy, family, to=MF, **chosen)
    mf = mc.load({t.name: mc.read(mapped, t.name) for t in mapped})
    suggestion = mc.author.suggest(hf, mf) if values else mc.author.suggest(_bare(hf), _bare(mf))
    wanted, made = {t.name: mc.read(mf, t.name).tobytes() for t in mf}, _made(suggestion, hf)
    of_numbers = {option.name for option in family.options if option.side == NUMBERS and not values}
    targets: dict[str, list[str]] = {}
    for row in mapped.report.plan.rows:
        if of_numbers.isdisjoint(row.rule.when):
            targets.setdefault(str(getattr(row.rule, "mf", "")), []).extend(t.name for t in row.targets)
    targets = {rule: names for rule, names in targets.items() if names}
    missed = tuple(rule for rule, names in targets.items() if any(made.get(n) != wanted[n] for n in names))
    label = ", ".join(f"{k}={v}" for k, v in chosen.items())
    return Score(family.key, label, values, len(targets) - len(missed), len(targets), missed)


def _bare(checkpoint: Checkpoint) -> Checkpoint:
    """Names, shapes and the config alone."""
    return checkpoint_of([LazyTensor(t.spec, ()) for t in checkpoint], side=checkpoint.side, config=checkpoint.config)


def _made(suggestion: Suggestion, hf: Checkpoint) -> Bytes:
    """What every suggested rule makes of the toy, applied alone; nothing where it is refused."""
    family = suggestion.family("suggested")
    told = numbered_rules([s.rule for s in suggestion.suggested], read_sizes(hf.config or {}, family.sizes).values_by_axis)
    taken = {t.name for rule, is_numbered in told if is_numbered for t in _taken_by(rule, hf)}  # they count before a placeholder
    made: Bytes = {}
    for rule, is_numbered in told:
        sources = [t for t in _taken_by(rule, hf) if is_numbered or t.name not in taken]
        made |= _made_by(rule, family, checkpoint_of(sources, side=HF, config=hf.config), hf)
    return made


def _taken_by(rule: AnyRule, hf: Checkpoint) -> list[LazyTensor]:
    patterns = sides_of(rule, MF)[0]
    return [
        t
        for t in hf
        for template, numbers in [fold(t.name)]
        if any(p.template == template and p.match(numbers) is not None for p in patterns)
    ]


def _made_by(rule: AnyRule, family: Family, sources: Checkpoint, hf: Checkpoint) -> Bytes:
    if isinstance(rule, Tied):
        return {rule.mf: mc.read(hf, rule.same_as).tobytes()}
    try:
        mapped = mc.map(sources, family.with_rules((rule,)), to=MF)
        return {t.name: mc.read(mapped, t.name).tobytes() for t in mapped}
    except mc.MfconvError:
        return {}


def table(scores: Sequence[Score]) -> str:
    """A line a score, and the share of all."""
    return "\n".join([*map(str, scores), f"{'together':<14} {100 * share_of(scores):21.1f} %"])


def main(forms: bool) -> None:
    families = families_with_toy()
    for values in (False, True):
        print(table(default_scores(families, values=values)))
        print(f"each table counted once: {100 * share_of(default_scores(different(families), values=values)):.1f} %\n")
        print("architectures that no family maps")
        print(table(default_scores(UNSEEN, values=values)), "\n")
        if forms:
            print(f"all other forms, each table once: {100 * share_of(other_scores(different(families), values=values)):.1f} %\n")


if __name__ == "__main__":
    main("--forms" in sys.argv)
