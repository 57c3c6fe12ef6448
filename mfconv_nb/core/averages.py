"""What PMA, the optimizer of MindFormers that averages weights while it trains, has summed up; and the average that it stands for.

What a checkpoint holds is no average yet, but what was summed since the sum last began anew. Every ``interleave_step`` steps the weights w
are added, at most ``fused_num`` times; then the sum replaces the weights and begins anew at zero.

    sma: sum + w                      after k times the average is sum / k
    ema: (1 - alpha) sum + alpha w    after k times the average is sum / (1 - (1 - alpha)^k): all shares together are that much

Source: mindformers 2.1.0, `core/optim/pma_adamw.py` and `fused_pma_adamw.py`; the fused one counts its steps from -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfconv_nb.core.dtypes import Array, cast_into, numpy_dtype

ROUNDING = "divided in float32, rounded once to the dtype of the weight, to nearest even"
EMA, SMA = "ema", "sma"


@dataclass(frozen=True)
class Averaging:
    """How PMA averages. Defaults are those of the class.

    Attributes:
        algorithm: ``EMA`` or ``SMA``.
    """

    algorithm: str
    interleave_step: int = 1000
    fused_num: int = 10
    ema_alpha: float = 0.2

    def count_at(self, steps: int) -> int:
        """How many times weights were added since the sum last began anew, after ``steps`` steps of training."""
        return steps // self.interleave_step % self.fused_num

    def total_at(self, steps: int) -> float:
        """What the sum has to be divided by; 0 where nothing was added since it began anew."""
        count = self.count_at(steps)
        return float(count) if self.algorithm == SMA else 1 - (1 - self.ema_alpha) ** count

    def begun_at(self, steps: int) -> int:
        """The step at which the sum last began anew."""
        return steps - steps % (self.interleave_step * self.fused_num)


def divide_sums(sums: Array, total: float, dtype: str) -> Array:
    """Sums divided by a number, in ``dtype``."""
    exact = np.dtype(np.float64 if sums.dtype == np.float64 else np.float32)
    out = np.empty(sums.shape, numpy_dtype(dtype))
    with np.errstate(all="ignore"):
        cast_into(out, np.divide(sums.astype(exact), exact.type(total)))
    return out
