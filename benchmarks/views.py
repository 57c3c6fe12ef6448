"""The process that is measured for the views of a notebook: what the kernel does, without a browser. Prints seconds as JSON.

python -m benchmarks.views mapping FOLDER     map to MindFormers and back; of each the view, the saved form, and answers to clicks
python -m benchmarks.views values FOLDER      statistics and histogram of FOLDER/small and of FOLDER/large; how soon a stop ends it
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mfconv_nb.core.checkpoint import Checkpoint, LazyTensor
    from mfconv_nb.views.explorer import Explorer

Result = TypeVar("Result")
SEARCHES = {"search": "experts.255.*proj", "search without a hit": "model.layers.58.mlp.experts.2.gate_porj.weight"}
BEFORE_STOP = 0.2  # seconds


def mapping(folder: str) -> None:
    """Both directions: to MindFormers the experts are stacked, and back a row has thousands of tensors."""
    import mfconv_nb as mc
    from benchmarks.families import BIG

    source = mc.load(folder)
    there, to_mf = _timed(lambda: mc.map(source, BIG, to="mf"))
    said = {"there": {"map": to_mf, **_seen(there)}}
    back, to_hf = _timed(lambda: mc.map(there, BIG, to="hf"))
    said["back"] = {"map": to_hf, **_seen(back)}
    print(json.dumps({"seconds": said, "counts": {"there": len(there), "back": len(back), "members": _most_members(back)[1]}}))


def _seen(mapped: Checkpoint) -> dict[str, float]:
    """Seconds until the view stands, and of each answer."""
    explorer, view = _timed(lambda: _explorer(mapped))
    said = {"view": view, "saved form": _timed(lambda: (mapped._repr_html_(), repr(mapped)))[1]}
    for what, text in SEARCHES.items():
        said[what] = _timed(partial(setattr, explorer.search, "value", text))[1]
    explorer.search.value = ""
    said["chip"] = _timed(partial(setattr, explorer.chips["mapped"], "value", True))[1]
    place = explorer.shown.index(_most_members(mapped)[0])
    said["row"] = _timed(partial(setattr, explorer.table, "picked", place))[1]
    return said


def _explorer(mapped: Checkpoint) -> Explorer:
    """The view as ``show_for`` makes it; the first time with the import of the widgets."""
    from mfconv_nb.views.explorer import Explorer

    return Explorer(mapped.report.exploration(mapped))


def _most_members(mapped: Checkpoint) -> tuple[int, int]:
    """The row of the view with the most tensors, and how many it has."""
    counts = [sum(len(row.targets or row.sources) for row in rows) for rows in mapped.report.groups]
    return counts.index(max(counts)), max(counts)


def values(folder: str) -> None:
    """The first picture with the import of matplotlib, as after a fresh start; the second without."""
    import mfconv_nb as mc

    small, large = (mc.load(f"{folder}/{name}")[name] for name in ("small", "large"))
    cold, warm = (_timed(lambda: _picture(small))[1] for _ in range(2))
    calls: list[float] = []
    begun = time.perf_counter()
    _picture(large, lambda _: calls.append(time.perf_counter()))
    marks = [begun, *calls, time.perf_counter()]
    seconds = {
        "cold": cold,
        "warm": warm,
        "large": marks[-1] - begun,
        "gap": max(b - a for a, b in pairwise(marks)),
        "stop": _stopped(large),
    }
    print(json.dumps({"seconds": seconds, "calls": len(calls)}))


def _picture(tensor: LazyTensor, progress: Callable[[int], None] = lambda _: None, stop: threading.Event | None = None) -> str:
    from mfconv_nb.views.values import values_html

    return values_html([tensor], False, progress, stop or threading.Event())


def _stopped(tensor: LazyTensor) -> float:
    """Seconds from setting ``stop`` until the call has returned."""
    stop, returned = threading.Event(), []

    def show() -> None:
        said = _picture(tensor, stop=stop)
        returned.append((time.perf_counter(), said))

    running = threading.Thread(target=show)
    running.start()
    time.sleep(BEFORE_STOP)
    begun = time.perf_counter()
    stop.set()
    running.join()
    at, said = returned[0]
    if said:
        raise SystemExit("the values were there before the stop")
    return at - begun


def _timed(act: Callable[[], Result]) -> tuple[Result, float]:
    begun = time.perf_counter()
    result = act()
    return result, time.perf_counter() - begun


COMMANDS: dict[str, Callable[[str], None]] = {"mapping": mapping, "values": values}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
