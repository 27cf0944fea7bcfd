"""A tensor as the difference to another one of its shape and dtype, its base.

Quantised or transformed tensors are differences of numbers, in the float type of the transform. Exact values
are differences of words: integers, modulo 2^bits, in an order that puts those of about equal size together.
The smaller a float is, the more units in its last place it moves by, so that order is by the exponent of the
base's element: `_KEY_BITS` bits below the top one, whatever the dtype.

A payload of such integers is a varint, the length of what follows: those of small magnitude, as `integers`
codes them, with `_ESCAPE` in the place of others; then these others, exact uint64.

Laws: `add_words(subtract_words(values, base), base)` has the same bytes as values; decode inverts encode.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import integers, lossless
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.models import MAXIMUM_MAGNITUDE
from frconvert.spectral.dct import working_dtype

RELATIONS = OWN, DIFFERENCE, EQUAL = "own", "difference", "equal"
"""How a stored tensor relates to the base's of the same name; the position is the code in the file."""

_KEY_BITS = 8
_ESCAPE = MAXIMUM_MAGNITUDE


def has_words(dtype: str) -> bool:
    """Whether tensors of a dtype may be differences of words."""
    return dtype != "bool" and not dtype.startswith("complex")


def subtract(values: NDArray[np.generic], base: NDArray[np.generic]) -> NDArray[np.floating]:
    """Differences of real floats; infinite or NaN where either is, or where they are out of range."""
    working = working_dtype(values.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        difference: NDArray[np.floating] = values.astype(working) - base.astype(working)
    return difference


def subtract_words(values: NDArray[np.generic], base: NDArray[np.generic]) -> NDArray[np.int64]:
    """Differences of the words of two arrays of equal size, 1-D, in the order for coding."""
    words = _words(base)
    difference: NDArray[Any] = (_words(values) - words)[_order(words)]
    return difference.view(f"<i{words.itemsize}").astype(np.int64)


def add_words(differences: NDArray[np.generic], base: NDArray[np.generic]) -> NDArray[np.generic]:
    """Inverse of `subtract_words`, in the base's shape and dtype."""
    words = _words(base).copy()
    words[_order(words)] += differences.astype(words.dtype)
    return words.view(base.dtype).reshape(base.shape)


def encode(differences: NDArray[np.int64]) -> bytes:
    """Bytes of a sequence of differences."""
    escaped = (differences >= _ESCAPE) | (differences <= -_ESCAPE)
    packed = integers.encode(np.where(escaped, _ESCAPE, differences).astype(np.int32))
    return varint(len(packed)) + packed + lossless.encode(differences[escaped].view(np.uint64), "uint64")


def decode(payload: bytes | memoryview, count: int) -> NDArray[np.int64]:
    """The `count` differences of a payload.

    Raises:
        DamagedError: the payload does not hold exactly that many.
    """
    reader = ByteReader(payload)
    differences = integers.decode(reader.take(reader.varint()), count).astype(np.int64)
    escaped = np.flatnonzero(differences == _ESCAPE)
    differences[escaped] = lossless.decode(reader.rest(), "uint64", escaped.size).view(np.int64)
    return differences


def _words(values: NDArray[np.generic]) -> NDArray[Any]:
    words: NDArray[Any] = np.ascontiguousarray(values).reshape(-1).view(f"<u{values.itemsize}")
    return words


def _order(words: NDArray[Any]) -> NDArray[np.intp]:
    """The places of a sequence of words in the order for coding."""
    shift = max(0, 8 * words.itemsize - 1 - _KEY_BITS)
    top = words.dtype.type((1 << (8 * words.itemsize - 1)) - 1)
    return np.argsort(((words & top) >> shift).astype(np.uint8), kind="stable")
