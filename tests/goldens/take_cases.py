"""Make the lean copies of golden cases that lie in `cases/`: what a test needs, and nothing else.

    python -m tests.goldens.take_cases FOLDER_OF_RECORDED_CASES

A recorded case says all about the day it was made. A copy keeps the tensors of the source, the config, and the runs that say what to
do; it leaves out what the reference's own way back gave, the environment, and what was printed. A dtype that is no word of ours ("omit",
"script (always fp16)") is null: none was asked for. Where the recorded case has only a MindFormers side (LoRA), no run is kept.

In a copy, as in a recorded case, tensors are a list of names (its number in `name_lists`) and as many numbers of `blobs`: "0-3 7" is
0, 1, 2, 3, 7. A blob is `[dtype, shape, sha256]`, with `fill` as a fourth where that is not "normal". The tensors of a source lie in its
files in this order: a file says how many it has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
DTYPES = ("fp32", "bf16", "fp16")

Json = Mapping[str, Any]


def lean(case: Json) -> dict[str, Any]:
    """A recorded case, as its copy.

    Raises:
        ValueError: the tensors of the source are not in the order of its files.
    """
    pool = Pool()
    copy = {key: case[key] for key in ("case", "model_key", "family", "seed")}
    if "hf" in case:
        hf = case["hf"]
        if [n for f in hf["files"] for n in f["tensors"]] != [t["name"] for t in hf["tensors"]]:
            raise ValueError(f"{case['case']}: tensors in another order than in the files")
        files = [{**f, "tensors": len(f["tensors"])} for f in hf["files"]]
        copy |= {"hf": {"config": hf["config"], "index": hf["index"], "files": files, "tensors": pool.put(hf["tensors"])}}
    else:
        copy |= {"ms_input": {"tensors": pool.put(case["ms_input"]["tensors"])}}
    copy["runs"] = [_lean_run(number, case, pool) for number in runs_to_match(case)]
    return copy | {"name_lists": pool.name_lists, "blobs": pool.blobs}


def runs_to_match(case: Json) -> list[int]:
    """Numbers of the forward runs that say what to do, not those that record a mistake of the reference.

    Mistakes: "False" as a word, which is true; Qwen-VL squeezed through fp16; DeepSeek-V2 with the dtype applied to the experts only,
    or with another number of experts than 160, which are then lost.
    """
    return [number for number, run in enumerate(case["runs"]) if _says_what_to_do(run) and not _is_mistake(run, case)]


def _says_what_to_do(run: Json) -> bool:
    return bool(run.get("ok") and run.get("tensors") and run.get("direction", "hf2ms") == "hf2ms")


def _is_mistake(run: Json, case: Json) -> bool:
    if any(value in ("True", "False") for value in (run.get("kwargs") or {}).values() if isinstance(value, str)):
        return True
    if case["model_key"] == "qwenvl" and run.get("loader_dtype") == "native":
        return True
    lost = case["case"] == "deepseek2-bf16-8experts"
    return lost or (case["case"].startswith("deepseek2") and run["dtype"] == "fp16")


def _lean_run(number: int, case: Json, pool: Pool) -> dict[str, Any]:
    run = case["runs"][number]
    listed = run["tensors"]
    names = case["name_lists"][listed["names"]]
    tensors = [{"name": n, **case["blobs"][b]} for n, b in zip(names, listed["blobs"], strict=True)]
    dtype = run["dtype"] if run["dtype"] in DTYPES else None
    return {"number": number, "dtype": dtype, "kwargs": run.get("kwargs") or {}, "tensors": pool.put(tensors)}


class Pool:
    """The name lists and blobs of a copy: each is kept once, in the order in which they come."""

    def __init__(self) -> None:
        self.name_lists: list[list[str]] = []
        self.blobs: list[list[Any]] = []
        self._numbers: dict[str, int] = {}

    def put(self, tensors: Sequence[Json]) -> dict[str, Any]:
        names = [t["name"] for t in tensors]
        if names not in self.name_lists:
            self.name_lists.append(names)
        return {"names": self.name_lists.index(names), "blobs": _ranges(self._number(t) for t in tensors)}

    def _number(self, tensor: Json) -> int:
        fill = tensor.get("fill") or "normal"
        blob = [tensor["dtype"], list(tensor["shape"]), tensor["sha256"], *([fill] if fill != "normal" else [])]
        number = self._numbers.setdefault(json.dumps(blob), len(self.blobs))
        if number == len(self.blobs):
            self.blobs.append(blob)
        return number


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers that count up as one range: "0-3 7"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def text_of(copy: Json) -> str:
    """JSON with one file, run, name or blob a line."""
    parts = [f"{json.dumps(key)}: {_text(value)}" for key, value in copy.items()]
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(_lines(value, 1)).lstrip() if value else "[]"
    if isinstance(value, dict):
        return "{\n  " + ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n }"
    return json.dumps(value)


def _lines(values: list[Any], depth: int) -> Iterator[str]:
    """A list with one entry a line; lists of names are such lists themselves."""
    yield " " * depth + "["
    for place, value in enumerate(values, start=1):
        comma = "," if place < len(values) else ""
        nested = isinstance(value, list) and all(isinstance(v, str) for v in value)
        lines = list(_lines(value, depth + 1)) if nested else [" " * (depth + 1) + json.dumps(value)]
        yield from (*lines[:-1], lines[-1] + comma)
    yield " " * depth + "]"


def main(recorded: Path) -> None:
    """Write a copy of every case in a folder."""
    for path in sorted(recorded.glob("*.json")):
        copy = lean(json.loads(path.read_text(encoding="utf-8")))
        (CASES / path.name).write_text(text_of(copy), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
