"""The child process of ``run_converter``: runs one function of a converter's file, and says in a file how that ended.

Started as a script, never imported by the package; it imports nothing of it, so that a converter finds the modules that it would find
in MindFormers. What stands in the job: see ``steps/foreign_converter.py``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def main(job_file: str, told_file: str, alive: str) -> None:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, args=(int(alive),), daemon=True).start()
    told = _run_job(job)
    sys.stdout.flush()
    Path(told_file).write_text(json.dumps(told), encoding="utf-8")


def _end_with_parent(alive: int) -> None:
    """Wait until the pipe closes, then end: the process that started this one is gone, and nobody would publish what it writes."""
    os.read(alive, 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _run_job(job: dict[str, Any]) -> dict[str, Any]:
    """How it ended: ``{"step": "done"}``, or the step that failed, with what Python says and the line of the converter."""
    sys.argv = [job["file"]]
    sys.path[:0] = job["first"]
    sys.path += job["last"]
    step = "import"
    try:
        function: Any = getattr(importlib.import_module(job["module"]), job["function"])
        step = "signature"
        keywords = dict(job["keywords"])
        problem = _does_not_take(function, {*keywords, *(["dtype"] if job["dtype"] else [])})
        if problem:
            return {"step": step, "line": _line_of(function), **problem}
        step = "run"
        if job["dtype"]:
            keywords["dtype"] = getattr(importlib.import_module(job["dtype"][0]), job["dtype"][1])
        returned = function(**keywords)
    except BaseException as error:
        return {"step": step, **_failure(error, job["folder"])}
    return {"step": "returned False" if returned is False else "done", "line": None}


def _does_not_take(function: Any, given: set[str]) -> dict[str, Any]:
    """Why a call with these keywords would fail: the signature, and by name what it asks for and what it has no place for."""
    if not callable(function):
        return {"said": f"a {type(function).__name__}"}
    try:
        signature = inspect.signature(function)
        signature.bind(**dict.fromkeys(given))
    except TypeError as error:
        rest = {name: each for name, each in signature.parameters.items() if name not in given}
        asks = [name for name, each in rest.items() if each.default is each.empty and each.kind not in VARIADIC]
        said = f"{function.__name__}{signature}: {error}"
        return {"said": said, "asks": asks, "unknown": sorted(given - signature.parameters.keys())}
    except ValueError:  # a function that tells no signature
        return {}
    return {}


def _line_of(function: Callable[..., Any]) -> int | None:
    code = getattr(function, "__code__", None)
    return getattr(code, "co_firstlineno", None)


def _failure(error: BaseException, folder: str) -> dict[str, Any]:
    """What Python says, and the last line in the converter's folder that was reached."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(folder + os.sep)] or frames[-1:]
    text = "".join(traceback.TracebackException.from_exception(error).format_exception_only()).strip()
    trace = [line for entry in traceback.format_exception(error) for line in entry.rstrip().split("\n")]
    told = {"said": text, "trace": trace, "kind": type(error).__name__, "missing": getattr(error, "name", None)}
    if isinstance(error, SyntaxError):
        return {**told, "file": error.filename, "line": error.lineno, "text": error.text}
    return {**told, **({"file": own[-1].filename, "line": own[-1].lineno, "text": own[-1].line} if own else {"line": None})}


if __name__ == "__main__":
    main(*sys.argv[1:])
