"""The table of all rows, as aligned Markdown, which reads in a terminal too; and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results import UNITS, Row

HEADS = ("case", "what", "figure", "target", "", "min..max", "ours / the other; where from")
RIGHT = {2, 5}


def markdown(rows: Sequence[Row]) -> str:
    """The rows, ratios first, then memory, then seconds."""
    ordered = sorted(rows, key=lambda row: UNITS.index(row.unit))
    cells = [HEADS, *(_cells(row) for row in ordered)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(HEADS))]
    rule = "|" + "|".join("-" * (w + 1) + (":" if n in RIGHT else "-") for n, w in enumerate(widths)) + "|"
    head, *body = ("| " + " | ".join(_padded(c, widths[n], n) for n, c in enumerate(line)) + " |" for line in cells)
    return "\n".join([head, rule, *body]) + "\n"


def _padded(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in RIGHT else cell.ljust(width)


def _cells(row: Row) -> tuple[str, ...]:
    figure = "" if row.figure is None else f"{_short(row.figure)} {row.unit}"
    between = "" if row.low is None or row.high is None else f"{_short(row.low)}..{_short(row.high)}"
    note = row.note.split("\n")[0].replace("|", "/")
    return (row.case, row.what, figure, str(row.target or ""), row.verdict, between, note)


def _short(figure: float) -> str:
    return f"{figure:.2f}" if figure < 10 else f"{figure:.1f}" if figure < 100 else f"{figure:.0f}"


def summary(rows: Sequence[Row]) -> str:
    """How many targets were met: one line."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict or "without a target"] = counts.get(row.verdict or "without a target", 0) + 1
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items())


def write_results(folder: Path, about: Mapping[str, object], rows: Sequence[Row]) -> None:
    """`results.json` and `results.md` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "rows": [row.plain() for row in rows]}
    (folder / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    facts = "".join(f"- {key}: {value}\n" for key, value in about.items())
    (folder / "results.md").write_text(f"{facts}\n{markdown(rows)}", encoding="utf-8")
