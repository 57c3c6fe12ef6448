"""Parameters of MindFormers' real networks, read in place where a copy of the lists lies beside the project."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

NETWORKS = Path(__file__).parents[3] / "shared" / "networks"
IS_THERE = pytest.mark.skipif(
    not NETWORKS.is_dir(), reason="no shared/networks beside the project: parameters of real networks, not copied here"
)
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "int32": np.dtype(np.int32)}


@dataclass(frozen=True)
class Network:
    """What a network holds, as a file that it saves has it: shapes by name, dtypes by name; the config it was made from; what it trains."""

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    trained: frozenset[str] = frozenset()

    def arrays(self, ones: tuple[str, ...] = ()) -> dict[str, np.ndarray[Any, Any]]:
        """Random numbers for each tensor; ones where a name ends so, as constants of layers are."""
        random = np.random.default_rng(3)
        return {
            name: np.ones(shape, DTYPES[self.dtypes[name]])
            if name.endswith(ones)
            else random.integers(-90, 90, shape).astype(DTYPES[self.dtypes[name]])
            for name, shape in self.shapes.items()
        }


def read_network(name: str, **config: Any) -> Network:
    """The list of this name, its config with the keys that tell the model."""
    if not NETWORKS.is_dir():
        pytest.skip("no shared/networks beside the project")
    content = json.loads((NETWORKS / f"{name}.json").read_text())
    parameters = content["parameters"]
    shapes = {name: tuple(shape) for name, shape, _, _ in parameters}
    trained = frozenset(name for name, _, _, is_trained in parameters if is_trained)
    return Network({**content["config"], **config}, shapes, {name: dtype for name, _, dtype, _ in parameters}, trained)
