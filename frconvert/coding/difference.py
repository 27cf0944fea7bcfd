"""A tensor as the difference to another one of its shape and dtype, its base.

Quantised or transformed tensors are differences of numbers, in the float type of the transform. Exact values
are differences of words, modulo 2^bits: of integers as they are, of floats with the sign turned to the lowest
bit, so that a small change of a value is a small number whatever its sign.

Law: `add_words(subtract_words(values, base), base)` has the same bytes as values.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.words import turn_left, turn_right
from frconvert.dtypes import ITEM_BYTES, dtype_name, is_float
from frconvert.spectral.dct import working_dtype

RELATIONS = OWN, DIFFERENCE, EQUAL = "own", "difference", "equal"
"""How a stored tensor relates to the base's of the same name; the position is the code in the file."""


def word_dtype(dtype: str) -> str | None:
    """The dtype in which differences of words are stored; None where there are none: bool, complex."""
    return None if dtype == "bool" or dtype.startswith("complex") else f"uint{8 * ITEM_BYTES[dtype]}"


def subtract(values: NDArray[np.generic], base: NDArray[np.generic]) -> NDArray[np.floating]:
    """Differences of real floats; infinite or NaN where either is, or where they are out of range."""
    working = working_dtype(values.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        difference: NDArray[np.floating] = values.astype(working) - base.astype(working)
    return difference


def subtract_words(values: NDArray[np.generic], base: NDArray[np.generic]) -> NDArray[np.unsignedinteger]:
    """Differences of the words of two arrays of equal size, 1-D."""
    difference: NDArray[np.unsignedinteger] = _words(values) - _words(base)
    return difference


def add_words(differences: NDArray[np.generic], base: NDArray[np.generic]) -> NDArray[np.generic]:
    """Inverse of `subtract_words`, in the base's shape and dtype."""
    words = _words(base)
    words = words + differences.astype(words.dtype, copy=False)
    if _is_turned(base):
        words = turn_right(words)
    return words.view(base.dtype).reshape(base.shape)


def _words(values: NDArray[np.generic]) -> NDArray[Any]:
    words: NDArray[Any] = np.ascontiguousarray(values).reshape(-1).view(f"<u{values.itemsize}")
    return turn_left(words) if _is_turned(values) else words


def _is_turned(values: NDArray[np.generic]) -> bool:
    name = dtype_name(values.dtype)
    return name is not None and is_float(name)
