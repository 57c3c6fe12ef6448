"""What merging an adapter does to a number. Beside casts and averages (`dtypes.py`, `averages.py`) the only arithmetic on weights here.

    merged = rounded(w + scale * (b[0] * a[0] + b[1] * a[1] + ...))

in float32 (float64 for weights of that dtype), each step rounded, the products summed in the order of the rank, the result rounded once to
the dtype of the weight, to nearest even. The order is fixed and there is no fused multiply-add, so that a number does not depend on which
rows are computed together, on threads, or on the machine: a matrix product of a library gives no such promise.
"""

from __future__ import annotations

import numpy as np

from mfconv_nb.core.dtypes import Array, cast_into

ROUNDING = "in float32, products summed in the order of the rank, rounded once to the dtype of the weight, to nearest even"


def merged_rows(weight: Array, b: Array, a: Array, scale: float) -> Array:
    """Some rows of a weight with an adapter added.

    Args:
        weight: rows x in.
        b: rows x rank, of these rows.
        a: rank x in.
    """
    exact = np.dtype(np.float64 if weight.dtype == np.float64 else np.float32)
    rows, factors = weight.astype(exact), b.astype(exact)
    total: Array = np.zeros(weight.shape, exact)
    product: Array = np.empty(weight.shape, exact)
    with np.errstate(all="ignore"):  # infinities and NaN are carried as arithmetic has them
        for k, line in enumerate(a.astype(exact)):
            np.multiply(factors[:, k, None], line, out=product)
            np.add(total, product, out=total)
        np.multiply(total, exact.type(scale), out=total)
        np.add(rows, total, out=rows)
        out = np.empty(weight.shape, weight.dtype)
        cast_into(out, rows)
    return out
