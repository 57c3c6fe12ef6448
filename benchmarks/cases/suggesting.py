"""How many rules `mc.author.suggest` finds: of every known family, by names and shapes
and with values; and of architectures nobody mapped."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.results import SHARE, Row, Target
from benchmarks.suggest import Score, default_scores, different, families_with_toy, share_of
from benchmarks.unseen import UNSEEN

BY_NAMES, WITH_VALUES = 90.0, 100.0  # per cent


def suggest(bench: Bench) -> Iterator[Row]:
    """A row a family and kind, and the shares of all of them, which have the targets."""
    families = families_with_toy()
    for values, least in ((False, BY_NAMES), (True, WITH_VALUES)):
        scores = default_scores(families, values=values)
        yield _row("all families", scores, values, Target(least, at_least=True))
        yield _row("each table once", default_scores(different(families), values=values), values)
        yield _row("architectures that no family maps", default_scores(UNSEEN, values=values), values)
        for score in scores:
            if score.missed:
                bench.say(f"  {score}")
                yield _row(score.family, [score], values)


def _row(what: str, scores: list[Score], values: bool, target: Target | None = None) -> Row:
    by = "with values" if values else "by names and shapes"
    note = f"{sum(s.found for s in scores):,} of {sum(s.rules for s in scores):,} rules"
    return Row("suggest", f"{what}, rules found {by}", SHARE, 100 * share_of(scores), target, note=note)
