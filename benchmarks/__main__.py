"""`make bench`, or `python -m benchmarks`: measure, print the table, write results.json and results.md.

Exit code 0 when everything ran, whether or not a target was met: a missed target says "missed". 1 when something did not run.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.bench import Bench, LeftOut
from benchmarks.cases import CASES
from benchmarks.measure import Failed
from benchmarks.results import FAILED, LEFT_OUT, Row
from benchmarks.table import markdown, summary, write_results
from mfconv_nb.formats.writing import parse_bytes

QUICK_BYTES = 200_000_000
BUSY = 1.0  # a load average above it makes figures noisy


@click.command()
@click.option("--size", default="4GB", show_default=True, help="How large the files are.")
@click.option("--documented-size", default="1.9GB", show_default=True, help="The same against the documented algorithm.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Timed runs of each program, after a warm-up.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default="build/bench", show_default=True, help="Where files are made.")
@click.option("--only", multiple=True, type=click.Choice(list(CASES)), help="Measure this case; may be given several times.")
@click.option("--quick", is_flag=True, help="200 MB and one round: to see that everything runs. Its figures mean little.")
def main(size: str, documented_size: str, rounds: int, folder: Path, only: tuple[str, ...], quick: bool) -> None:
    """Measure speed and memory against `cp` and against the documented algorithm."""
    sizes = (QUICK_BYTES, QUICK_BYTES) if quick else (parse_bytes(size), parse_bytes(documented_size))
    bench = Bench((folder / "files").resolve(), *sizes, 1 if quick else rounds, quick, lambda text: click.echo(text, err=True))
    about = _about(bench)
    rows: list[Row] = []
    try:
        for name in only or CASES:
            rows += _measured(name, bench)
            write_results(folder, about, rows)
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)
    click.echo("\n".join(f"{key}: {value}" for key, value in about.items()) + "\n")
    click.echo(markdown(rows))
    if quick:
        click.echo(
            "--quick: everything ran, or says that it did not. The start of a process outweighs so small a copy: read no verdict here."
        )
    click.echo(f"{summary(rows)}. Written to {folder / 'results.json'} and {folder / 'results.md'}.")
    failures = [row for row in rows if row.verdict == FAILED]
    for row in failures:
        click.echo(f"\n{row.case} failed: {row.note}", err=True)
    sys.exit(1 if failures else 0)


def _measured(name: str, bench: Bench) -> list[Row]:
    """The rows of one case; one that cannot run here, or fails, leaves a row that says so."""
    bench.say(name)
    rows: list[Row] = []
    try:
        rows.extend(CASES[name](bench))
    except LeftOut as reason:
        rows.append(Row(name, "", note=str(reason), outcome=LEFT_OUT))
    except (Failed, OSError) as failure:
        rows.append(Row(name, "", note=str(failure), outcome=FAILED))
    return rows


def _about(bench: Bench) -> dict[str, object]:
    """What a reader must know to judge the figures."""
    load = os.getloadavg()[0]
    busy = " (busy: the figures are noisy)" if load > BUSY else ""
    return {
        "taken": datetime.now(UTC).strftime("%Y-%m-%d"),
        "files": f"{bench.size / 1e9:g} GB; against the documented algorithm {bench.documented_size / 1e9:g} GB",
        "rounds": bench.rounds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}; load at the start {load:.1f}{busy}",
        "versions": f"Python {platform.python_version()}, numpy {version('numpy')}, mfconv_nb {version('mfconv-nb')}",
    }


if __name__ == "__main__":
    main()
