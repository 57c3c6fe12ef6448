"""What a notebook's view of a mapping shows: per rule its tensors, per tensor the layout, a drawing, and where a number comes from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from html import escape

from mfconv_nb.core.checkpoint import SIDE_NAMES, Checkpoint, LazyTensor
from mfconv_nb.core.dtypes import short_name
from mfconv_nb.core.errors import MappingError
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.report import Table, bytes_text, name_html, prose_html, table_html
from mfconv_nb.core.scaled_codes import ROUNDING
from mfconv_nb.mapping.explain import SOURCE, TARGET, ShownTensor, explain_tensor
from mfconv_nb.mapping.plan import MappingPlan, Row
from mfconv_nb.steps.converting.map_rows import counts_by_status
from mfconv_nb.streaming.dequantised import dequantised_sources, fitness_of
from mfconv_nb.views.explained import drawing_of, make_explain_report
from mfconv_nb.views.exploration import Exploration
from mfconv_nb.views.values import bytes_to_read, values_html

MOST_NAMES = 8  # of one side, in the inspector: a stack of experts has hundreds


class MappingExploration(Exploration):
    """The rules of a mapping. With the checkpoint it belongs to, the values of its tensors can be looked at too."""

    element_hint = "0, 0"

    def __init__(self, plan: MappingPlan, groups: Sequence[list[Row]], table: Table, checkpoint: Checkpoint | None = None) -> None:
        """``table`` has one row for each of the groups of rows of the plan."""
        self.plan, self.groups, self.table, self.checkpoint = plan, groups, table, checkpoint
        self.counts = counts_by_status(plan)
        self.statuses = [rows[0].status for rows in groups]
        self.sort_keys = [_sort_key(line, rows) for line, rows in zip(table.rows, groups, strict=True)]

    @cached_property
    def _rows(self) -> dict[str, Row]:
        return {spec.name: row for row in self.plan.rows for spec in row.targets or row.sources}

    def members(self, row: int) -> Sequence[str]:
        return [spec.name for each in self.groups[row] for spec in each.targets or each.sources]

    def search_text(self, row: int) -> str:
        return "\n".join(spec.name for each in self.groups[row] for spec in (*each.sources, *each.targets))

    def inspect(self, row: int, member: str) -> str:
        here, explanation = self._rows[member], explain_tensor(self.plan, member, self._side(member))
        faces = {side: [f for f in explanation.faces if f.side == side] for side in (SOURCE, TARGET)}
        names = zip(_sides(self.plan.to), faces.values(), strict=True)
        parts = [f"<div class='mfconv-f'>{SIDE_NAMES[side]}</div>{_faces_html(found)}" for side, found in names if found]
        layout = getattr(here.rule, "layout", None) or ""
        if here.parts and layout:
            parts.append(f"<div class='mfconv-f'>layout</div><div><code>{escape(layout)}</code></div>")
        if here.why:
            parts.append(f"<div class='mfconv-f'>{prose_html(here.status)}: {prose_html(here.why)}</div>")
        parts += [f"<div class='mfconv-f'>codes</div><div>{escape(text)}</div>" for t in self._tensors(member) if (text := codes_text(t))]
        if here.sources and here.targets:
            parts.append(drawing_of(explanation)._repr_html_())
        return "".join(parts)

    def explain(self, row: int, member: str, index: tuple[int, ...]) -> str:
        return table_html(make_explain_report(self.plan, member, index, self._side(member)).table())

    def _side(self, member: str) -> str:
        return TARGET if self._rows[member].targets else SOURCE

    def nbytes(self, member: str, sample: bool) -> int:
        return bytes_to_read(self._tensors(member), sample)

    def measure(self, member: str, sample: bool, progress: OnProgress, stop: threading.Event) -> str:
        return values_html(self._tensors(member), sample, progress, stop)

    def _tensors(self, member: str) -> list[LazyTensor]:
        tensor = self.checkpoint.tensors.get(member) if self.checkpoint is not None else None
        return [tensor] if tensor is not None else []

    def code(self, row: int, member: str) -> str:
        return f"mapped.report.explain({member!r})" if member else self.table.code


def codes_text(tensor: LazyTensor) -> str:
    """Of a tensor that is computed from codes, how, and whether its dtype holds every number exactly; empty of others. Reads its scales."""
    sources = dequantised_sources([tensor])
    if not sources:
        return ""
    made = sources[0].computed + (f" and {len(sources) - 1:,} more" if len(sources) > 1 else "")
    try:
        is_exact = all(fitness_of(source, tensor.dtype).exact for source in sources)
    except MappingError as error:
        return f"{made}; {error.where} is {error.found}"
    dtype = short_name(tensor.dtype)
    return (
        f"{made}; exact in {dtype}"
        if is_exact
        else f"{made}; rounded to {dtype} ({ROUNDING}); a save counts how many numbers, and by how much"
    )


def _sides(to: str) -> tuple[str, str]:
    here = "hf" if to == "mf" else "mf"
    return here, to


def _sort_key(line: tuple[object, ...], rows: list[Row]) -> list[object]:
    """The cells; shapes by their elements, bytes by their number."""
    specs = [s for row in rows for s in row.targets or row.sources]
    return [*line[:4], max(s.elements for s in specs), line[5], line[6], sum(s.nbytes for s in specs)]


def _faces_html(faces: Sequence[ShownTensor]) -> str:
    more = f"<div class='mfconv-f'>and {len(faces) - MOST_NAMES:,} more</div>" if len(faces) > MOST_NAMES else ""
    return "".join(map(_face_html, faces[:MOST_NAMES])) + more


def _face_html(face: ShownTensor) -> str:
    """Name, shape by the axes of its rule, and what the axes are called on hover."""
    about = f"<span title='{escape(face.axes_text)}'>{escape(face.shape_text)}</span>"
    about += f" · {short_name(face.spec.dtype)} · {bytes_text(face.spec.nbytes)}"
    return f"<div>{name_html(face.spec.name)} <span class='mfconv-f'>{about}</span></div>"
