"""The rows of a mapping as they are shown: counted by status, and those of one rule with the same shapes together."""

from __future__ import annotations

from typing import Any

from mfconv_nb.mapping.plan import DROPPED, LEFT_OUT, MAPPED, RESTORED, TIED, MappingPlan, Row


def counts_by_status(plan: MappingPlan) -> dict[str, int]:
    """Source tensors by status (target tensors for those that only the target has)."""
    counts = dict.fromkeys((MAPPED, TIED, DROPPED, RESTORED, LEFT_OUT), 0)
    for row in plan.rows:
        counts[row.status] += len(row.sources) or len(row.targets)
    return counts


def groups_of_rows(plan: MappingPlan) -> list[list[Row]]:
    """Rows of one rule with the same shapes: what stands in one line of the table."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in plan.rows:
        specs = row.targets or row.sources
        key = (row.status, id(row.rule), tuple(s.shape for s in specs), specs[0].dtype)
        groups.setdefault(key, []).append(row)
    return list(groups.values())
