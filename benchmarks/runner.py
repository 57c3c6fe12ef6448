"""The process that is measured where the command line has no family for it: one call of the Python API, and nothing else.

python -m benchmarks.runner convert KEY mf|hf SOURCE TARGET     save(map(load(SOURCE), LAYOUTS[KEY])), not flushed
python -m benchmarks.runner plan SOURCE TARGET                  load, map and plan; prints the seconds of each as JSON
python -m benchmarks.runner cut FORM AXIS SOURCE TARGET         a Llama cut for eight ranks, every matrix along its first or its last axis
python -m benchmarks.runner headers FOLDER                      read index and headers with json.loads: the least that any tool does
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path


def convert(key: str, to: str, source: str, target: str) -> None:
    """Convert with one of the families of the benchmark."""
    import mfconv_nb as mc
    from benchmarks.families import LAYOUTS

    mc.save(mc.map(mc.load(source), LAYOUTS[key], to=to), target, durable=False)


def cut(form: str, axis: str, source: str, target: str) -> None:
    """Cut a Llama for the ranks of a run."""
    import mfconv_nb as mc

    mapped = mc.map(mc.load(source), "llama")
    axes = ("tp", None) if axis == "first" else (None, "tp")
    cuts = {spec.name: axes for spec in mapped.specs if len(spec.shape) == 2}
    mc.save(mapped, target, layout_of_ranks=mc.RankLayout({"tp": 8}, cuts, form=form), durable=False)


def plan(source: str, target: str) -> None:
    """Headers, match and plan of a large checkpoint, for a folder of safetensors."""
    begun = time.perf_counter()
    import mfconv_nb as mc
    from benchmarks.families import BIG
    from mfconv_nb.formats.writing import plan_output

    marks = [begun, time.perf_counter()]
    checkpoint = mc.load(source)
    marks.append(time.perf_counter())
    mapped = mc.map(checkpoint, BIG, to="mf")
    marks.append(time.perf_counter())
    planned = plan_output(mapped.specs, Path(target), "mf")
    marks.append(time.perf_counter())
    steps = {name: b - a for name, (a, b) in zip(("import", "load", "map", "plan"), pairwise(marks), strict=True)}
    counts = {"tensors": len(checkpoint), "targets": len(mapped), "bytes": planned.size}
    print(json.dumps({"seconds": steps, "counts": counts}))


def headers(folder: str) -> None:
    """Parse the index and every header; keep nothing."""
    index = json.loads((Path(folder) / "model.safetensors.index.json").read_bytes())
    for name in sorted(set(index["weight_map"].values())):
        with open(Path(folder) / name, "rb") as file:
            json.loads(file.read(int.from_bytes(file.read(8), "little")))


COMMANDS: dict[str, Callable[..., None]] = {"convert": convert, "cut": cut, "plan": plan, "headers": headers}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
