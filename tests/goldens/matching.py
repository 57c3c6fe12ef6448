"""What "matches the golden" means: a list of what does not, empty when all does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np

from tests.goldens.recipe import NUMPY, Case, Recorded, Run
from tests.support import TORCH, Raw, wide

SHORT = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
FLOATS = ("F16", "BF16", "F32", "F64")


def problems_forward(case: Case, run: Run, actual: Mapping[str, Raw]) -> list[str]:
    """A converted checkpoint against a run of the reference.

    Names and shapes are the same, save for names that a run says are not compared. A tensor, cast to the golden's dtype, has the golden's
    bytes; where the dtypes are equal nothing is cast. With a dtype asked for, floating tensors have it, or the one that the golden fixes
    for that tensor; without one, each has a dtype that some tensor of the source has.
    """
    golden = {t.name: t for t in run.tensors}
    actual = {name: raw for name, raw in actual.items() if not any(fnmatchcase(name, p) for p in run.not_compared)}
    found = [f"missing {n}" for n in golden.keys() - actual.keys()] + [f"unexpected {n}" for n in actual.keys() - golden.keys()]
    sources = {TORCH[t.dtype] for t in case.tensors}
    for name in golden.keys() & actual.keys():
        wanted = sources if run.dtype is None else {SHORT[run.dtype], TORCH[golden[name].dtype]}
        found += _problems_of(golden[name], actual[name])
        if actual[name].dtype not in wanted and (run.dtype is None or actual[name].dtype in FLOATS):
            found.append(f"dtype {name}: {actual[name].dtype}, not {sorted(wanted)}")
    return sorted(found)


def _problems_of(golden: Recorded, raw: Raw) -> list[str]:
    if raw.shape != golden.shape:
        return [f"shape {golden.name}: {raw.shape}, golden {golden.shape}"]
    values = raw.array()
    with np.errstate(all="ignore"):
        cast = values if raw.dtype == TORCH[golden.dtype] else values.astype(NUMPY[golden.dtype])
    if hashlib.sha256(cast.tobytes()).hexdigest() == golden.sha256:
        return []
    if TORCH[golden.dtype] in FLOATS and np.isnan(wide(cast)).any():
        return []  # the reference changes NaN payloads: those tensors are compared with special_values.json, bit by bit
    return [f"bytes {golden.name} ({raw.dtype}, golden {TORCH[golden.dtype]})"]


def problems_back(case: Case, actual: Mapping[str, Raw]) -> list[str]:
    """A checkpoint that was converted back, against the original: names, shapes, dtypes and bytes, NaN payloads included."""
    original = {t.name: t for t in case.tensors}
    found = [f"missing {n}" for n in original.keys() - actual.keys()] + [f"unexpected {n}" for n in actual.keys() - original.keys()]
    for name in original.keys() & actual.keys():
        t, raw = original[name], actual[name]
        if (TORCH[t.dtype], t.shape, t.sha256) != (raw.dtype, raw.shape, hashlib.sha256(raw.data).hexdigest()):
            found.append(f"differs {name}: {raw.dtype} {raw.shape}, original {t.dtype} {t.shape}")
    return sorted(found)
