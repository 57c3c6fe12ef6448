"""read: one tensor of a checkpoint as a numpy array."""

from __future__ import annotations

from typing import Any

import numpy as np

from mfconv_nb.steps.loading.load import Loadable, load
from mfconv_nb.streaming.gather import read_tensor


def read(checkpoint: Loadable, name: str) -> np.ndarray[Any, Any]:
    """The numbers of one tensor; bfloat16 and float8 have the dtypes of ``ml_dtypes``. Reads nothing but this tensor.

    Raises:
        MappingError: MFC309 with the nearest name.
    """
    return read_tensor(load(checkpoint)[name])
