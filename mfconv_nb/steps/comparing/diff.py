"""diff: how two checkpoints differ in names, shapes and dtypes and, when asked, in values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mfconv_nb.core.checkpoint import Checkpoint, TensorSpec
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import NearNames
from mfconv_nb.core.folding import fold, folded_name
from mfconv_nb.core.progress import OnProgress, progress_for
from mfconv_nb.core.report import Column, Table, how_many, shape_text
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.streaming.compare import Comparison, compare_tensors, differences_in_words
from mfconv_nb.streaming.stored_checksums import check_stored_checksums
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.showing import Explorable

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


def diff(
    first: Loadable,
    second: Loadable,
    *,
    values: bool = False,
    threads: int = 2,
    progress: bool | OnProgress = True,
) -> DiffReport:
    """Compare two checkpoints (or anything that ``load`` takes) over the union of their names.

    Args:
        values: compare the numbers too: equal bytes, largest difference, ULP, NaN and inf. Streams; memory stays bounded.
        progress: show a bar when it takes longer than half a second; or a function that is called with the bytes compared so far.
    Raises:
        MappingError: MFC310 when values are asked for and one side has names and shapes only. FormatError: MFC209 when values are asked for
            and a file does not fit the checksum that it carries.
    """
    a, b = load(first), load(second)
    rows = [_header_row(name, a, b) for name in dict.fromkeys([*a.tensors, *b.tensors])]
    if values:
        names = [r.name for r in rows if r.status in (AGREE, DTYPE)]
        pairs = [(a.tensors[n], b.tensors[n]) for n in names]
        with progress_for(progress, sum(y.spec.nbytes for _, y in pairs), "comparing") as bar:
            check_stored_checksums((*a, *b), threads, bar)
            found = compare_tensors(pairs, threads, bar)
        compared = dict(zip(names, found, strict=True))
        rows = [_with_values(r, compared.get(r.name)) for r in rows]
    return DiffReport(tuple(rows), a.origin, b.origin, values, (a, b))


def _header_row(name: str, a: Checkpoint, b: Checkpoint) -> DiffRow:
    if name not in b.tensors:
        return DiffRow(name, MISSING, a.tensors[name].spec, None)
    if name not in a.tensors:
        return DiffRow(name, UNEXPECTED, None, b.tensors[name].spec)
    x, y = a.tensors[name].spec, b.tensors[name].spec
    if x.shape != y.shape:
        return DiffRow(name, SHAPE, x, y, hint=shape_hint(x.shape, y.shape))
    return DiffRow(name, AGREE if x.dtype == y.dtype else DTYPE, x, y)


def shape_hint(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    """What two shapes that disagree may mean; empty where nothing is plausible."""
    if a == b[::-1]:
        return "transposed?"
    if tuple(n for n in a if n != 1) == tuple(n for n in b if n != 1):
        return "an extra axis of size 1?"
    if len(a) == len(b):
        axes = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        if len(axes) == 1 and min(a[axes[0]], b[axes[0]]) > 0:
            small, large = sorted((a[axes[0]], b[axes[0]]))
            if large % small == 0:
                return f"axis {axes[0]}: {large // small} parts in one?"
            if axes[0] == 0 and large - small < 256 and large > 1000:
                return f"axis 0: a vocabulary padded by {large - small}?"
    return ""


def _with_values(row: DiffRow, comparison: Comparison | None) -> DiffRow:
    if comparison is None:
        return row
    status = row.status if row.status == DTYPE else EQUAL if comparison.equal_bytes else DIFFER
    return DiffRow(row.name, status, row.first, row.second, comparison, row.hint)


@dataclass(frozen=True, repr=False)
class DiffReport(Explorable):
    """The outcome of a diff; ``equal`` is true only when every name, shape, dtype and, if compared, every byte agrees.

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

    def table(self) -> Table:
        counts = self.counts
        if not self.equal:
            verdict = "✗ Not equal."
        else:
            verdict = "✓ Equal." if self.values else "✓ Headers agree." if self.entries else "! Incomplete."
        said = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n) or "nothing to compare"
        facts = () if self.values else ("Names, shapes and dtypes were compared, values were not: values=True, --values.",)
        if self.equal and self.entries:
            what = "bitwise equal" if self.values else "of the same name, shape and dtype"
            said = f"{len(self.entries):,} of {how_many(len(self.entries), 'tensor')} {what}"
        columns = (
            Column("status"),
            Column("name"),
            Column("tensors", True),
            Column("shape", True, optional=self.values),  # how far apart they are was asked for: the last column to go
            Column("dtype", optional=self.values),
            Column("difference", True, optional=not self.values),
            Column("note", optional=True),
        )
        return Table(verdict, f"{said} · {self.first} against {self.second}", columns, self._lines, facts, row_noun="rows")

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict a tensor."""
        return [_plain_row(r) for r in self.entries]

    @cached_property
    def groups(self) -> list[list[DiffRow]]:
        """Names of one pattern, status and shape: what stands in one line of the table."""
        groups: dict[tuple[Any, ...], list[DiffRow]] = {}
        for row in self.entries:
            key = (ORDER.index(row.status), fold(row.name)[0], row.first and row.first.shape, row.second and row.second.shape)
            groups.setdefault(key, []).append(row)
        return [rows for _, rows in sorted(groups.items(), key=lambda g: (g[0][0], _spoilt(g[1])))]

    def exploration(self) -> Exploration:
        """What a notebook's view of the diff shows."""
        from mfconv_nb.steps.comparing.diff_view import DifferenceExploration

        return DifferenceExploration(self)

    @cached_property
    def _lines(self) -> list[tuple[Any, ...]]:
        """The rows of the table: kept, since a notebook shows view, HTML and text (0.4 s each for 92,000 names)."""
        hints = _NearNames(self.entries)
        return [_folded_line(rows, hints) for rows in self.groups]


class _NearNames:
    """For a missing name the most similar unexpected one, and the reverse; by template, so that many names stay quick."""

    def __init__(self, rows: tuple[DiffRow, ...]) -> None:
        self._other = {
            status: {fold(r.name)[0]: r.name for r in rows if r.status == other}
            for status, other in ((MISSING, UNEXPECTED), (UNEXPECTED, MISSING))
        }
        self._near = {status: NearNames(known) for status, known in self._other.items()}

    def hint(self, row: DiffRow) -> str:
        best = self._near[row.status].nearest(fold(row.name)[0]) if row.status in self._near else None
        return f"nearest: {self._other[row.status][best]}" if best else ""


def _both(a: Any, b: Any) -> str:
    return str(a) if a == b or b is None else str(b) if a is None else f"{a} / {b}"


def _folded_line(rows: list[DiffRow], hints: _NearNames) -> tuple[Any, ...]:
    first = rows[0]
    shape = _both(*(s and shape_text(s.shape) for s in (first.first, first.second)))
    dtype = _both(*(s and short_name(s.dtype) for s in (first.first, first.second)))
    worst = [r.comparison for r in rows if r.comparison and not r.comparison.equal_bytes]
    difference, *others = differences_in_words(worst) or [""]
    note = first.hint or hints.hint(first) or ", ".join(part for part in (*others, _special_values(worst)) if part)
    return (first.status, folded_name([r.name for r in rows]), len(rows), shape, dtype, difference, note)


def _spoilt(rows: list[DiffRow]) -> tuple[bool, bool]:
    """Sorts what holds new NaN first, then new infinities, then the rest."""
    found = [r.comparison for r in rows if r.comparison]
    return not any(c.only_nan[1] for c in found), not any(c.only_inf[1] for c in found)


def _special_values(worst: list[Comparison]) -> str:
    nan, inf = (tuple(sum(getattr(c, what)[side] for c in worst) for side in (0, 1)) for what in ("nan", "inf"))
    parts = [f"NaN {nan[0]:,} / {nan[1]:,}" if any(nan) else "", f"inf {inf[0]:,} / {inf[1]:,}" if any(inf) else ""]
    return ", ".join(p for p in parts if p)


def _plain_row(r: DiffRow) -> dict[str, Any]:
    c = r.comparison
    return {
        "name": r.name,
        "status": r.status,
        "shape_first": r.first.shape if r.first else None,
        "shape_second": r.second.shape if r.second else None,
        "dtype_first": r.first.dtype if r.first else None,
        "dtype_second": r.second.dtype if r.second else None,
        "equal_bytes": c.equal_bytes if c else None,
        "differing": c.differing if c else None,
        "max_abs": c.max_abs if c else None,
        "max_ulp": c.max_ulp if c else None,
        "nan_first": c.nan[0] if c else None,
        "nan_second": c.nan[1] if c else None,
        "inf_first": c.inf[0] if c else None,
        "inf_second": c.inf[1] if c else None,
        "first_difference": c.first_difference if c else None,
        "hint": r.hint,
    }
