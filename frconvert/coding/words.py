"""Unsigned machine words: what is done to whole arrays of them, and how one is written.

Law: every `turn_right(turn_left(words))`, `unfold(fold(words, c), c)` and `unpack_word(pack_word(value))` is
the identity, modulo 2^bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.bits import ByteReader
from frconvert.errors import DamagedError


def ones(dtype: np.dtype[Any], count: int) -> Any:
    """A word whose low bits are set."""
    return dtype.type((1 << count) - 1)


def turn_left(words: NDArray[Any]) -> NDArray[Any]:
    """Moves the top bit, a sign perhaps, below the others."""
    return words << 1 | words >> (8 * words.itemsize - 1)


def turn_right(words: NDArray[Any]) -> NDArray[Any]:
    """Inverse of `turn_left`."""
    return words >> 1 | words << (8 * words.itemsize - 1)


def pack_word(value: int, dtype: np.dtype[Any]) -> bytes:
    """Number of bytes, then the fewest bytes of two's complement that give the value back modulo 2^bits."""
    bits = 8 * dtype.itemsize
    signed = value - (1 << bits) if value >> (bits - 1) else value
    size = (signed + (signed < 0)).bit_length() // 8 + 1 if signed else 0
    return bytes([size]) + signed.to_bytes(size, "little", signed=True)


def unpack_word(reader: ByteReader, dtype: np.dtype[Any]) -> int:
    """Inverse of `pack_word`.

    Raises:
        DamagedError: the number is cut off or has more bytes than a word.
    """
    size = reader.take(1)[0]
    if size > dtype.itemsize:
        raise DamagedError(f"a word of {size} bytes in a piece of {dtype.itemsize}-byte words")
    return int.from_bytes(reader.take(size), "little", signed=True) % (1 << 8 * dtype.itemsize)


def fold(words: NDArray[Any], centre: int) -> NDArray[Any]:
    """0, 1, 2, 3, ... for the centre, the integer below it, the one above it, the second below it, ..."""
    words = words - words.dtype.type(centre)
    return words << 1 ^ -(words >> (8 * words.itemsize - 1))


def unfold(words: NDArray[Any], centre: int) -> NDArray[Any]:
    """Inverse of `fold`."""
    unfolded: NDArray[Any] = words >> 1 ^ -(words & 1)
    unfolded += words.dtype.type(centre)
    return unfolded
