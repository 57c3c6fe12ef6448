"""What a diff compares: one row per name, and what follows from the rows. Data; the report and the view are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint, TensorSpec
from mfconv_nb.core.folding import fold
from mfconv_nb.streaming.compare import Comparison

EQUAL, AGREE, DIFFER = "equal", "agree", "differ"  # agree: headers agree and values were not asked for
MISSING, UNEXPECTED, SHAPE, DTYPE = "missing", "unexpected", "shape", "dtype"
ORDER = (DIFFER, MISSING, UNEXPECTED, SHAPE, DTYPE, AGREE, EQUAL)  # failures first


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One name: what stands on each side and how the two compare."""

    name: str
    status: str
    first: TensorSpec | None
    second: TensorSpec | None
    comparison: Comparison | None = None
    hint: str = ""


@dataclass(frozen=True, repr=False)
class Differences:
    """The names of two checkpoints, compared.

    Attributes:
        first: where the one checkpoint came from, in words; ``second`` the other.
        values: whether the numbers were compared too.
        sides: both checkpoints, for a view that looks at their values.
    """

    entries: tuple[DiffRow, ...]
    first: str
    second: str
    values: bool
    sides: tuple[Checkpoint, Checkpoint] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Names by status; every status is there."""
        counts = dict.fromkeys(ORDER, 0)
        for row in self.entries:
            counts[row.status] += 1
        return counts

    @property
    def equal(self) -> bool:
        """True when names, shapes, dtypes and, where they were compared, bytes agree."""
        return all(r.status in (EQUAL, AGREE) for r in self.entries)

    @property
    def max_abs(self) -> float:
        """The largest absolute difference of any tensor."""
        return max((r.comparison.max_abs for r in self.entries if r.comparison), default=0.0)

    @property
    def max_ulp(self) -> int:
        """The largest ULP distance of any tensor."""
        return max((r.comparison.max_ulp or 0 for r in self.entries if r.comparison), default=0)

    @cached_property
    def groups(self) -> list[list[DiffRow]]:
        """Names of one pattern, status and shape: what stands in one line of the table."""
        groups: dict[tuple[Any, ...], list[DiffRow]] = {}
        for row in self.entries:
            key = (ORDER.index(row.status), fold(row.name)[0], row.first and row.first.shape, row.second and row.second.shape)
            groups.setdefault(key, []).append(row)
        return [rows for _, rows in sorted(groups.items(), key=lambda g: (g[0][0], _spoilt(g[1])))]


def _spoilt(rows: list[DiffRow]) -> tuple[bool, bool]:
    """Sorts what holds new NaN first, then new infinities, then the rest."""
    found = [r.comparison for r in rows if r.comparison]
    return not any(c.only_nan[1] for c in found), not any(c.only_inf[1] for c in found)
