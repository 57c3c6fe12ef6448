"""Everything that is measured, by the name that --only takes. A case is a function from a ``Bench`` to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from benchmarks.bench import Bench
from benchmarks.cases import (
    against_documented,
    copying,
    families,
    layouts,
    planning,
    quantised,
    sparse,
    starting,
    suggesting,
    training,
    views,
)
from benchmarks.results import Row

CASES: Mapping[str, Callable[[Bench], Iterable[Row]]] = MappingProxyType(
    {
        "rename": copying.rename,
        "durable": copying.durable,
        "cast": copying.cast,
        "verify": copying.verify,
        "codes": quantised.codes,
        "decoded": quantised.decoded,
        **layouts.CASES,
        **families.CASES,
        **training.CASES,
        "documented": against_documented.documented,
        "sparse20": sparse.sparse20,
        "plan": planning.plan,
        "view": views.view,
        "values": views.values,
        "start": starting.start,
        "suggest": suggesting.suggest,
    }
)
