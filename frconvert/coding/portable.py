"""Powers and logarithms that come out alike on every machine, for decisions that end up in a file.

numpy's own differ in their last bit with the instructions of the processor. Law: both functions are within
2^-12 of the true value (relative, and absolute).
"""

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HALF, _QUARTER, _EIGHTH = sqrt(2.0), sqrt(sqrt(2.0)), sqrt(sqrt(sqrt(2.0)))
_ROOTS = np.array(
    [
        1.0, _EIGHTH, _QUARTER, _QUARTER * _EIGHTH,
        _HALF, _HALF * _EIGHTH, _HALF * _QUARTER, _HALF * _QUARTER * _EIGHTH,
    ]
)  # fmt: skip


def power_of_two(eighths: NDArray[Any]) -> NDArray[np.float64]:
    """2^(n / 8) of whole numbers n, by square roots, products and shifts of the exponent."""
    whole = np.asarray(eighths).astype(np.int64)
    powers: NDArray[np.float64] = np.ldexp(_ROOTS.take(whole & 7), whole >> 3)
    return powers


def logarithm(values: NDArray[Any]) -> NDArray[np.float64]:
    """log2 of positive values, rounded to 12 fractional bits."""
    rounded: NDArray[np.float64] = np.round(np.log2(values) * 4096) / 4096
    return rounded
