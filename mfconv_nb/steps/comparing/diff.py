"""diff: how two checkpoints differ in names, shapes and dtypes and, when asked, in values."""

from __future__ import annotations

from dataclasses import replace

from mfconv_nb.core.checkpoint import MF, Checkpoint
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.progress import OnProgress, progress_for
from mfconv_nb.steps.comparing.diff_report import DiffReport
from mfconv_nb.steps.comparing.diff_rows import AGREE, DIFFER, DTYPE, EQUAL, MISSING, SHAPE, UNEXPECTED, DiffRow
from mfconv_nb.steps.converting.names_in_memory import with_saved_names
from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.streaming.compare import Comparison, compare_tensors
from mfconv_nb.streaming.stored_checksums import check_stored_checksums


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
        MappingError: MFC310 with ``values``, where one side has names and shapes only. FormatError: MFC209 with ``values``, where a file
            does not fit the checksum that it carries.
    """
    a, b = load(first), load(second)
    x, y = _under_saved_names(a), _under_saved_names(b)
    if (x is None) != (y is None):  # the two sets of names that transformers has for one model
        a, b = x or a, y or b
    return diff_checkpoints(a, b, values=values, threads=threads, progress=progress)


def _under_saved_names(checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint as `save_pretrained` names it; None where its names are not those in memory, or it cannot be told."""
    try:
        saved = None if checkpoint.side == MF else with_saved_names(checkpoint)
    except MappingError:
        return None  # compared as it is
    origin = f"{checkpoint.origin}, names in memory read as saved ones"
    return None if saved is None else replace(saved.checkpoint, origin=origin)


def diff_checkpoints(
    a: Checkpoint, b: Checkpoint, *, values: bool = False, threads: int = 2, progress: bool | OnProgress = True
) -> DiffReport:
    """As ``diff``, for two checkpoints that are loaded: what the steps call among themselves."""
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
