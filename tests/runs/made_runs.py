"""Training runs of a small Llama: rank folders with strategy files, as a run of MindFormers leaves them, and the folder of the original."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mfconv_nb as mc
from mfconv_nb.streaming.gather import read_tensor
from tests.runs.made import Cut, make_rank_folders

DEVICES = (2, 2)  # data parallel 2, tensor parallel 2
ROWS = (".wq.", ".wk.", ".wv.", ".w1.", ".w3.")
COLUMNS = (".wo.", ".w2.")
STATE = {"epoch_num": np.array(1, np.int32), "step_num": np.array(5, np.int32), "scale_sense": np.array(65536, np.float32)}

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def original(folder: Path) -> Path:
    """The Hugging Face folder that a run began with; in float32, as numpy has no bfloat16."""
    mc.toy("llama", folder, dtype="fp32")
    shutil.rmtree(f"{folder}.mfconv")
    return folder


def weights_of(hf: Path) -> Arrays:
    """Its weights under MindFormers' names."""
    return {t.name: read_tensor(t) for t in mc.map(mc.load(hf), "llama")}


def cuts_of(names: Any, devices: tuple[int, ...] = DEVICES) -> dict[str, Cut]:
    """How a run of tensor parallel 2 cuts a Llama: layers by rows or columns, the rest whole."""
    found = {}
    for name in names:
        maps = (0, -1) if any(w in name for w in ROWS) else (-1, 0) if any(w in name for w in COLUMNS) else (-1, -1)
        found[name] = Cut(devices, maps[:1] if "norm" in name else maps)
    return found


def make_run(
    folder: Path, weights: Mapping[str, Any], *, cuts: Mapping[str, Cut] | None = None, optimizer: bool = True, **more: Any
) -> Path:
    """A run of four ranks; see ``make_rank_folders`` for what can be said of it."""
    tensors = dict(weights)
    if optimizer:
        tensors |= {f"adam_m.{n}": 0.5 * a for n, a in weights.items() if ".wq." in n}
    cuts = cuts_of(tensors) if cuts is None else cuts
    return make_rank_folders(folder, tensors, cuts, **{"extra": STATE, **more})
