"""A converter's function in a process of its own: started, watched, ended, and what its end means.

What it imports, prints, changes and holds in memory stays there; when this process is gone, so is that one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mfconv_nb.core.checkpoint import HF, MF
from mfconv_nb.core.errors import Lines, MappingError, safe_text, to_one_line
from mfconv_nb.core.report import bytes_text, seconds_text
from mfconv_nb.steps.foreign.folder import Converter

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
MODULES = {MF: "mindspore", HF: "torch"}  # whose dtypes the function takes, as MindFormers' script hands them over

KEPT_LINES = 40  # of what a converter prints, for a message
SAY_SECONDS = 10  # between two lines about the time that passes
GRACE_SECONDS = 3  # between asking a process to end and ending it

HINT_FAILED = "Nothing was published. Mend the converter, or give it other input: some take a folder, others a file in it."
PATHS = {"input_path", "output_path"}

OnLine = Callable[[str], None]


def run_in_child(converter: Converter, keywords: Mapping[str, object], dtype: str | None, work: Path, say: OnLine) -> list[str]:
    """Run the function in a child process; returns the last lines it printed.

    Raises:
        MappingError: MFC317, MFC318.
    """
    job = {
        "file": str(converter.file),
        "folder": str(converter.file.parent),
        "module": converter.module,
        "function": converter.function,
        "first": converter.first,
        "last": converter.last,
        "keywords": keywords,
        "dtype": (MODULES[converter.to], DTYPES[dtype]) if dtype else None,
    }
    try:
        (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    except TypeError as error:
        expected, hint = "texts, numbers and truth values as keywords", "Leave the others out: the converter runs in a process of its own."
        raise MappingError("MFC317", converter.file, found=str(error), expected=expected, hint=hint) from None
    alive, held = os.pipe()  # when this process is gone, however that came, the child ends itself
    program = [sys.executable, "-P", str(Path(__file__).with_name("child.py"))]
    arguments = [str(work / "job.json"), str(work / "told.json"), str(alive)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(alive,),
        start_new_session=True,  # what is typed in the terminal reaches this process, which then ends all of the child's
    )
    os.close(alive)
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        status = _wait_for(child, lines, say, work / "out")
    finally:
        _end(child)
        os.close(held)
    _check_told(converter, _read_told(work / "told.json", say), status, lines)
    return list(lines)


def _wait_for(child: subprocess.Popen[bytes], lines: deque[str], say: OnLine, out: Path) -> int:
    """Wait for the child, showing what it prints and, where it is silent, that time passes."""
    assert child.stdout is not None
    reader = threading.Thread(target=_read_lines, args=(child.stdout, lines, say), daemon=True)
    reader.start()
    begun = said = time.monotonic()
    while True:
        try:
            status = child.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() - said >= SAY_SECONDS:
                said = time.monotonic()
                say(f"converter: {seconds_text(said - begun)}, {bytes_text(_bytes_in(out))} written")
    reader.join(GRACE_SECONDS)  # a process that the child left behind may hold the pipe
    return status


def _read_lines(stream: IO[bytes], lines: deque[str], say: OnLine) -> None:
    for raw in stream:
        line = to_one_line(raw.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2])
        lines.append(line)
        say(f"  | {line}")


def _bytes_in(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size
        except OSError:  # renamed meanwhile
            continue
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and every process it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except (ProcessLookupError, PermissionError):
            break
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        if sign == signal.SIGTERM:
            time.sleep(0.05)  # its own children hear it too
    child.wait()


# ---- how it ended -------------------------------------------------------------------------------------------------------------


def _read_told(file: Path, say: OnLine) -> dict[str, Any]:
    """What the child left in writing, with the way to an exception shown; empty where it did not come to that."""
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    for line in told.get("trace", ()):
        say(f"  | {to_one_line(line)}")
    return told


def _check_told(converter: Converter, told: Mapping[str, Any], status: int, lines: Sequence[str]) -> None:
    if not told:
        raise failure_error(converter, _status_text(status), f"{converter.function} to return", lines)
    step = told["step"]
    if step == "done":
        return
    where = f"{told.get('file') or converter.file}" + (f", line {told['line']}" if told.get("line") else "")
    if step == "returned False":
        look = "MindFormers' converters return False where they could not read the source: see what it printed."
        raise failure_error(converter, f"{converter.function} returned False", "a conversion", lines, hint=look)
    found = Lines(to_one_line(str(told["said"])) + (f"\n            {to_one_line(told['text'].strip())}" if told.get("text") else ""))
    if step == "run":
        raise failure_error(converter, found, f"{converter.function} to return", lines, where=where)
    expected = "a file that can be imported" if step == "import" else _call_text(converter)
    hint = _import_hint(told) if step == "import" else _arguments_hint(told)
    raise MappingError("MFC317", where, found=found, expected=expected, hint=hint)


def _import_hint(told: Mapping[str, Any]) -> str | None:
    missing = told.get("kind") == "ModuleNotFoundError"
    return f"Install {told.get('missing')}, or put the folder that holds it on PYTHONPATH." if missing else None


def _arguments_hint(told: Mapping[str, Any]) -> str | None:
    """What to hand over, or to leave out; nothing where the function has other words for the two paths."""
    asks, unknown = told.get("asks", []), told.get("unknown", [])
    if PATHS & {*asks, *unknown}:
        return None
    if asks:
        flags, words = (separator.join(form.format(name) for name in asks) for separator, form in ((" ", "--{} VALUE"), (", ", "{}=...")))
        return f"The function asks for {' and '.join(asks)}: {flags} ({words} in Python)."
    return f"The function takes no {' and '.join(unknown)}: leave it out." if unknown else None


def _call_text(converter: Converter) -> str:
    return f"{converter.function}(input_path, output_path, dtype=None, **kwargs)"


def _status_text(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"the process was ended by {name}" + (" (out of memory?)" if status == -signal.SIGKILL else "")
    return f"the process ended with status {status} before the function returned"


def failure_error(
    converter: Converter, found: str, expected: str, lines: Sequence[str], *, where: str = "", hint: str | None = None
) -> MappingError:
    """MFC318, with the last lines that the converter printed; nothing was published."""
    printed = "".join(f"\n            | {to_one_line(line)}" for line in list(lines)[-6:])
    found, hint = Lines(safe_text(found) + printed), hint or HINT_FAILED
    return MappingError("MFC318", where or converter.file, found=found, expected=expected, hint=hint)
