"""From result rows to text, script-free HTML and DataFrames. Bounded: what is cut off is counted, and the way to all of it is named.

Every result of a step is a ``Result``: it says its rows once, as a ``Table``, and this module shows them. Names come from strangers:
HTML is escaped, control characters are shown as escapes, and so are line breaks but for those of ``Lines``. A spreadsheet sees text.
"""

from __future__ import annotations

import csv
import html
import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfconv_nb.core.errors import Lines, OutputError, UsageError, one_line, printable, quoted, shown
from mfconv_nb.core.paths import local_path

if TYPE_CHECKING:
    import pandas

MARKS = {"✓": "ok", "≈": "~", "✗": "x", "!": "!"}  # and what stands for them where the terminal has no UTF-8
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
MAX_ROWS = 40
MAX_HTML_ROWS = 200
MAX_PAGE_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, whether it holds numbers, and whether a narrow terminal may do without it."""

    title: str
    numeric: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """What a result shows: a verdict, facts, rows, notes, and the call that gives all of it.

    Attributes:
        verdict: a mark and a word, "✓ Equal."; empty where nothing is judged.
        headline: counts and sizes, right of the verdict.
        facts: short lines under it: conditions that were checked, warnings.
        code: a Python line that gives the same data.
    """

    verdict: str
    headline: str
    columns: tuple[Column, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    facts: tuple[str, ...] = ()
    code: str = ""
    row_noun: str = "rows"


class Result:
    """The forms every result has: text in a terminal, HTML in a notebook, rows, a DataFrame, JSON."""

    def table(self) -> Table:
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """The rows as plain dicts, all of them."""
        table = self.table()
        keys = [c.title.replace(" ", "_") or "mark" for c in table.columns]
        return [dict(zip(keys, row, strict=True)) for row in table.rows]

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a pandas DataFrame."""
        import pandas  # 0.3 s, for a table that somebody computes with

        return pandas.DataFrame(self.rows())

    def to_json(self) -> str:
        """Verdict, headline, facts and rows as JSON."""
        table = self.table()
        content = {"verdict": table.verdict, "headline": table.headline, "facts": table.facts, "rows": self.rows()}
        return json_text(content)

    def export(self, path: str | Path) -> Path:
        """Write it to a file: ``.html`` (one page that needs no script and nothing else), ``.csv`` or ``.json`` (all rows).

        Raises:
            UsageError: MFC501 for another ending. OutputError: MFC404 where it cannot be written.
        """
        target = local_path(path)
        makers = {".html": self._page, ".csv": lambda: csv_text(self.rows()), ".json": self.to_json}
        if target.suffix.lower() not in makers:
            hint = "Change the ending of the file."
            raise UsageError("MFC501", target, found=quoted(target.suffix), expected=f"one of {', '.join(makers)}", hint=hint)
        text = makers[target.suffix.lower()]()
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError("MFC404", target, found=error.strerror or str(error), expected="a place that can be written") from error
        return target

    def _page(self) -> str:
        return PAGE.replace("TITLE", html.escape(self.table().verdict or type(self).__name__)).replace("BODY", self._page_body())

    def _page_body(self) -> str:
        return table_html(self.table(), MAX_PAGE_ROWS)

    def __repr__(self) -> str:
        return table_text(self.table())

    def _repr_html_(self) -> str:
        return table_html(self.table())


# ---- numbers ---------------------------------------------------------------------------------------------------------


def bytes_text(n: int) -> str:
    """``7.24 MiB``: three figures, binary units."""
    if n < 1024:
        return f"{n} B"
    size = float(n)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1000 or unit == "TiB":
            break
    return f"{size:.{2 if size < 10 else 1 if size < 100 else 0}f} {unit}"


def count_text(n: int) -> str:
    """``8.03 B`` for parameters; plain with commas below a million."""
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if n >= limit:
            return f"{n / limit:.3g} {unit}" if n / limit < 100 else f"{n / limit:.0f} {unit}"
    return f"{n:,}"


def how_many(n: int, noun: str, plural: str | None = None) -> str:
    """``1 tensor``, ``2,150 tensors``: a count and what is counted; ``plural`` where an s does not make one (``copies``)."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def how_many_in_short(n: int, noun: str) -> str:
    """``1 parameter``, ``8.03 B parameters``."""
    return f"{count_text(n)} {noun if n == 1 else noun + 's'}"


def shape_text(shape: Sequence[int]) -> str:
    """``4096 × 1024``; a scalar is ``()``."""
    return " × ".join(map(str, shape)) or "()"


def seconds_text(seconds: float) -> str:
    """``0.3 s``, ``2 min 04 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02} s"


def difference_text(max_abs: float, max_ulp: int | None) -> str:
    """``3.1e-05 (1 ULP)``; words where there is none."""
    if max_abs == 0 and not max_ulp:
        return "0"
    return f"{max_abs:.2g}" + ("" if max_ulp is None else f" ({max_ulp:,} ULP)")


# ---- data ------------------------------------------------------------------------------------------------------------


def json_text(content: Any, *, ascii_only: bool = False) -> str:
    """JSON in one line. Escapes stand for what cannot be printed: control characters, and lone surrogates, which no file can hold."""
    text = json.dumps(content, default=str, ensure_ascii=ascii_only)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV. No cell is a formula to a spreadsheet, or colours a terminal: such text begins with ``'``; numbers stay numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = dict.fromkeys(key for row in rows for key in row)
    writer.writerow(map(_csv_cell, keys))
    writer.writerows([_csv_cell(row.get(key)) for key in keys] for row in rows)
    return out.getvalue()


def _csv_cell(cell: Any) -> Any:
    """Numbers as they are. A formula begins with = + - @ or one of their full-width forms; a lone dash says that there is nothing."""
    if cell is None or isinstance(cell, Number):
        return cell
    text = printable(cell) if isinstance(cell, Lines) else one_line(str(cell))
    return f"'{text}" if text.lstrip().startswith(FORMULA) and text != "-" else text


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


# ---- text ------------------------------------------------------------------------------------------------------------


def plain_marks(text: str) -> str:
    """The text as the terminal can show it: ASCII marks where stdout is not UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a stream in memory has none, and takes every character
    if not _can_encode(text, encoding):
        for mark, ascii_mark in {**MARKS, "‥": "..", "×": "x", "·": "-", "→": "->", "…": "...", "─": "-"}.items():
            text = text.replace(mark, ascii_mark)
        return text.encode(encoding, "replace").decode(encoding)
    return text


def table_text(table: Table, max_rows: int | None = MAX_ROWS, width: int | None = None) -> str:
    """The table for a terminal: verdict first, rows folded to the width, at most ``max_rows`` of them."""
    lines = [" ".join(shown(part) for part in (table.verdict, table.headline) if part)]
    lines += [f"  {shown(fact)}" for fact in table.facts]
    rows = table.rows if max_rows is None else table.rows[:max_rows]
    if rows:
        lines.append(_grid(table.columns, rows, width or shutil.get_terminal_size((120, 24)).columns))
    if len(rows) < len(table.rows):
        rest = len(table.rows) - len(rows)
        lines.append(f"  {_more_rows(rest, table.row_noun)}: --all, or .rows() in Python")
    return plain_marks("\n".join(lines))


def _more_rows(rest: int, noun: str) -> str:
    """``24 more rules``; of one the plural noun is not said."""
    return how_many(rest, "more", f"more {noun}")


def _grid(columns: Sequence[Column], rows: Sequence[tuple[Any, ...]], width: int) -> str:
    """The rows in columns. Optional columns go first where the width is short; then names are broken after dots."""
    from rich.box import SIMPLE_HEAD  # rich takes 25 ms: only where a table is printed
    from rich.console import Console  # the same
    from rich.table import Table as Grid  # the same
    from rich.text import Text  # the same

    cells = [[shown(cell) for cell in row] for row in rows]
    kept = _fitting_columns(columns, cells, width - 4)
    widths = _column_widths(columns, cells, kept, width - 4)
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place in kept:
        justify: Any = "right" if columns[place].numeric else "left"
        is_whole = columns[place].numeric and not _is_wide(columns[place], widths[place], width)
        grid.add_column(Text(_break_lines(shown(columns[place].title), widths[place])), justify=justify, overflow="fold", no_wrap=is_whole)
    for row in cells:
        grid.add_row(*(Text(_break_lines(row[place], widths[place])) for place in kept))
    console = Console(width=max(60, width - 2), color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(f"  {line}".rstrip() for line in captured.get().rstrip("\n").split("\n"))


def _natural_width(title: str, cells: Sequence[str]) -> int:
    return max(len(line) for text in (title, *cells) for line in text.split("\n"))


def _fitting_columns(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that are shown: without the optional ones, last first, until the rest fits."""
    kept = [n for n, c in enumerate(columns) if any(row[n] for row in cells) or not c.optional]
    natural = [_natural_width(shown(c.title), [row[n] for row in cells]) for n, c in enumerate(columns)]
    for place in reversed([n for n in kept if columns[n].optional]):
        if sum(natural[n] + 3 for n in kept) <= width:
            break
        kept.remove(place)
    return kept


def _column_widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], kept: Sequence[int], width: int) -> dict[int, int]:
    """What each column may take: numbers their natural width, what is wide an equal share of the rest."""
    natural = {n: _natural_width(shown(columns[n].title), [row[n] for row in cells]) for n in kept}
    excess = sum(w + 3 for w in natural.values()) - width
    wide = [n for n in kept if _is_wide(columns[n], natural[n], width)]
    if excess <= 0 or not wide:
        return natural
    share = max(24, (sum(natural[n] for n in wide) - excess) // len(wide))
    return {n: min(natural[n], share) if n in wide else natural[n] for n in kept}


def _is_wide(column: Column, natural: int, width: int) -> bool:
    """Whether a column gives way to the others: a long text; of numbers only what no table has room for, such as a shape of 32 axes."""
    return natural > (width // 3 if column.numeric else 24)


def _break_lines(text: str, width: int) -> str:
    """Lines of at most ``width``: names are broken after a dot or a space, where there is one."""
    lines = []
    for line in text.split("\n"):
        while len(line) > width:
            cut = max(line.rfind(".", 0, width), line.rfind(" ", 0, width)) + 1
            cut = cut if cut > width // 3 else width
            lines.append(line[:cut].rstrip())
            line = ("  " + line[cut:].lstrip()) if cut < len(line) else ""
        lines.append(line)
    return "\n".join(lines)


# ---- HTML ------------------------------------------------------------------------------------------------------------

# Two classes in every selector: JupyterLab's own rules outrank one. Colours come from the host's text colour, so that light and dark
# themes both read; green #009E73 and vermilion #D55E00 are Okabe-Ito, mixed with it: contrast 5.2 on Lab's light stripe, 5.5 on dark grey.
STYLE = """
.mfconv.mfconv-r{--ink:var(--jp-content-font-color1,var(--vscode-editor-foreground,currentColor));
--soft:color-mix(in srgb,var(--ink) 70%,transparent);--line:color-mix(in srgb,var(--ink) 16%,transparent);
color:var(--ink);font-size:13px;line-height:1.5;max-width:100%;overflow-x:auto;overflow-wrap:anywhere;container-type:inline-size}
.mfconv.mfconv-r .mfconv-v{font-weight:600}
.mfconv.mfconv-r .mfconv-good{color:color-mix(in srgb,#009E73 68%,var(--ink))}
.mfconv.mfconv-r .mfconv-bad{color:color-mix(in srgb,#D55E00 68%,var(--ink))}
.mfconv.mfconv-r .mfconv-mid{color:color-mix(in srgb,#B87800 68%,var(--ink))}
.mfconv.mfconv-r .mfconv-f{color:var(--soft);font-size:12px;margin:2px 0}
.mfconv.mfconv-r .mfconv-f code{font-size:12px;background:none;border:0;padding:0;color:inherit}
.mfconv.mfconv-r table.mfconv-t{border-collapse:collapse;margin:4px 0;font-size:12px;line-height:1.45;border:0;width:auto;
table-layout:auto;overflow-wrap:normal}
.mfconv.mfconv-r table.mfconv-t th,.mfconv.mfconv-r table.mfconv-t td{text-align:left;vertical-align:top;padding:2px 13px 2px 0;
background:none;border:0;border-bottom:1px solid var(--line);color:var(--ink);white-space:normal;max-width:none}
.mfconv.mfconv-r table.mfconv-t th{font-weight:500;color:var(--soft);vertical-align:bottom}
.mfconv.mfconv-r table.mfconv-t th:last-child,.mfconv.mfconv-r table.mfconv-t td:last-child{padding-right:2px}
.mfconv.mfconv-r table.mfconv-t .mfconv-n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.mfconv.mfconv-r table.mfconv-t tr:nth-child(even),.mfconv.mfconv-r table.mfconv-t tr:hover{background:none}
.mfconv.mfconv-r .mfconv-k{white-space:nowrap}
@container (max-width:680px){.mfconv.mfconv-r table.mfconv-t .mfconv-o{display:none}
.mfconv.mfconv-r table.mfconv-t th,.mfconv.mfconv-r table.mfconv-t td{padding-right:9px}}
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>TITLE</title>
<style>body{margin:24px auto;max-width:1100px;padding:0 16px;font-family:system-ui,sans-serif}</style></head>
<body>BODY</body></html>
"""
TONES = {"✓": "mfconv-good", "✗": "mfconv-bad", "≈": "mfconv-mid", "!": "mfconv-mid"}


def table_html(table: Table, max_rows: int = MAX_HTML_ROWS) -> str:
    """The table for a notebook: no script, nothing loaded, at most ``max_rows`` rows. Narrow cells leave optional columns out."""
    parts = [head_html(table), grid_html(table, max_rows)]
    if table.code:
        parts.append(f"<div class='mfconv-f'><code>{html.escape(shown(table.code))}</code></div>")
    return f"<style>{STYLE}</style>{box_html(''.join(parts))}"


def grid_html(table: Table, max_rows: int) -> str:
    """The rows, at most ``max_rows`` of them, and how many more there are."""
    rows, rest = table.rows[:max_rows], len(table.rows) - max_rows
    more = f"<div class='mfconv-f'>{_more_rows(rest, table.row_noun)}: <code>.rows()</code></div>" if rest > 0 else ""
    if not rows:
        return more
    kept = [n for n, c in enumerate(table.columns) if not c.optional or any(row[n] for row in rows)]
    heads = "".join(f"<th scope='col'{_class(table.columns[n])}>{prose_html(table.columns[n].title)}</th>" for n in kept)
    body = "".join(f"<tr>{''.join(_td(table.columns[n], row[n]) for n in kept)}</tr>" for row in rows)
    return f"<table class='mfconv-t'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{more}"


def head_html(table: Table) -> str:
    """Verdict, headline and facts."""
    verdict = f"<span class='mfconv-v {TONES.get(table.verdict[:1], '')}'>{prose_html(table.verdict)}</span> " if table.verdict else ""
    return f"<div>{verdict}{prose_html(table.headline)}</div>{''.join(map(note_html, table.facts))}"


def note_html(text: str) -> str:
    """A small line."""
    return f"<div class='mfconv-f'>{prose_html(text)}</div>"


def box_html(content: str) -> str:
    """What every rule of ``STYLE`` is about."""
    return f"<div class='mfconv mfconv-r'>{content}</div>"


def _class(column: Column, tone: str = "") -> str:
    names = [*(["mfconv-n"] if column.numeric else []), *(["mfconv-o"] if column.optional else []), *([tone] if tone else [])]
    return f" class='{' '.join(names)}'" if names else ""


def _td(column: Column, cell: Any) -> str:
    content = prose_html(cell) if column.numeric else name_html(cell)
    return f"<td{_class(column, TONES.get(str(cell), ''))}>{content}</td>"


def prose_html(content: object) -> str:
    """Escaped; the line breaks of ``Lines`` are line breaks."""
    return html.escape(shown(content)).replace("\n", "<br>")


def name_html(content: object) -> str:
    """Escaped; names may break after dots, never inside braces, nor an arrow inside itself."""
    escaped = prose_html(content)
    escaped = escaped.replace("{", "<span class='mfconv-k'>{").replace("}", "}</span>")
    escaped = escaped.replace("-&gt;", "<span class='mfconv-k'>-&gt;</span>")
    return escaped.replace(".", ".<wbr>")
